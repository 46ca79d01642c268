//! What happens in the corridor.

use std::sync::Arc;

use sagad::core::id::Action;
use sagad::core::saga::{Phase, Reason};
use sagad::trial::ledger;
use sagad::trial::stage::To;

use super::state::{Row, World};
use super::table::{Outcome, Table};
use super::{Answer, Delivery, Heard, Manner, Notable, Order, Post, Queued, Said, Step, laws};

impl World {
    /// The state after something, and what was decided, if anything was.
    pub(crate) fn after(&self, step: Step, table: &Table, order: Order) -> (World, Option<Arc<Outcome>>) {
        let mut world = World { just: None, ..self.clone() };
        let outcome = world.happen(step, table, order);
        if world.broken.is_none() {
            world.broken = world.breach(table).map(|breach| breach.law);
        }
        (world, outcome)
    }

    fn happen(&mut self, step: Step, table: &Table, order: Order) -> Option<Arc<Outcome>> {
        match step {
            Step::Publish => self.publish(),
            Step::Take(queued, manner) => self.take(queued, manner),
            Step::Deliver(delivery) => {
                remove(&mut self.ready, delivery);
                self.hand = Some(delivery);
                match order {
                    Order::AckFirst => self.ack(delivery.answer, table),
                    Order::PublishFirst => {
                        let outcome = table.hear(&self.saga, Heard::Answer(delivery.answer));
                        let rows = outcome.rows.iter().map(|post| Queued { post: *post, again: false });
                        rows.for_each(|queued| insert(&mut self.queues, queued));
                    }
                    Order::Shipped | Order::NoOutbox => {}
                }
            }
            Step::Commit => return self.commit_hand(table, order),
            Step::Ack(answer) => {
                remove(&mut self.unacked, answer);
                self.ack(answer, table);
            }
            Step::Repeat(answer) => {
                remove(&mut self.unacked, answer);
                insert(&mut self.ready, Delivery { answer, known: true });
            }
            Step::Time => {
                if self.would_be_late() > 0 {
                    self.just = Some(Notable::Late);
                }
                return Some(self.commit(Heard::Tick, table, order));
            }
            Step::Oversleep => {
                let outcome = table.hear(&self.saga, Heard::Oversleep);
                if let Some(later) = &outcome.after {
                    self.saga = later.clone();
                }
            }
            Step::Deadline => return Some(self.commit(Heard::Deadline, table, order)),
            Step::Cancel => {
                self.just = Some(Notable::Cancelled);
                return Some(self.commit(Heard::Cancel, table, order));
            }
            Step::Admit => return Some(self.commit(Heard::Admit, table, order)),
            Step::Crash => self.crash(order),
        }
        None
    }

    fn publish(&mut self) {
        let Some(row) = self.outbox.iter_mut().find(|row| !row.published) else { return };
        row.published = true;
        let Row { post, resent, .. } = *row;
        match self.to(post) {
            // The broker's confirm is the answer.
            To::Listeners => {
                insert(&mut self.ready, Delivery { answer: Answer { to: post, said: Said::Done }, known: false });
            }
            _ => insert(&mut self.queues, Queued { post, again: resent }),
        }
    }

    fn take(&mut self, queued: Queued, manner: Manner) {
        let Queued { post, again } = queued;
        remove(&mut self.queues, queued);
        if manner == Manner::DoAndAgain {
            insert(&mut self.queues, Queued { post, again: true });
        }
        let said = match manner {
            Manner::Do | Manner::DoAndAgain => self.handle(post),
            Manner::Decline => of(self.ledger.decline(post.key())),
            Manner::Busy => Said::Busy,
            Manner::Back(Reason::Expired) => return self.expire(queued),
            Manner::Back(reason) => {
                let had = reason == Reason::DeliveryLimit;
                if had {
                    self.handle(post);
                }
                Said::Back(reason, had || again)
            }
            Manner::Silence | Manner::Lose => {
                if manner == Manner::Silence {
                    self.handle(post);
                }
                self.unheard.insert(post);
                return;
            }
        };
        insert(&mut self.ready, Delivery { answer: Answer { to: post, said }, known: false });
    }

    /// All copies of a command expire at the same moment, and what has expired is not published again.
    fn expire(&mut self, queued: Queued) {
        let post = queued.post;
        insert(&mut self.queues, queued);
        self.outbox.retain(|row| row.post != post);
        let copies: Vec<Queued> = self.queues.iter().copied().filter(|other| other.post == post).collect();
        self.queues.retain(|other| other.post != post);
        for Queued { again, .. } in copies {
            let answer = Answer { to: post, said: Said::Back(Reason::Expired, again) };
            insert(&mut self.ready, Delivery { answer, known: false });
        }
    }

    fn handle(&mut self, post: Post) -> Said {
        match post.action {
            // Who is asked knows, and may know more later.
            Action::Probe if self.ledger.there().contains(&post.spot) => Said::Done,
            Action::Probe => Said::Declined,
            _ if self.acts(post) => of(self.ledger.handle(post.key())),
            _ => Said::Done,
        }
    }

    fn commit_hand(&mut self, table: &Table, order: Order) -> Option<Arc<Outcome>> {
        let Delivery { answer, known } = self.hand.take()?;
        let ended = self.saga.status().is_terminal();
        let outcome = self.commit(Heard::Answer(answer), table, order);
        if known {
            if outcome.after.is_some() && self.counts(answer) {
                self.broken = Some(laws::COUNTS_ONCE);
            }
            if ended && self.just.is_none() {
                self.just = Some(Notable::RepeatedAfterTheEnd);
            }
        }
        if order != Order::AckFirst {
            insert(&mut self.unacked, answer);
        }
        self.ready.iter_mut().filter(|other| other.answer == answer).for_each(|other| other.known = true);
        self.ready.sort_unstable();
        Some(outcome)
    }

    /// Commits what follows from something.
    fn commit(&mut self, heard: Heard, table: &Table, order: Order) -> Arc<Outcome> {
        let outcome = table.hear(&self.saga, heard);
        // Every commit deletes the rows that the broker has.
        self.outbox.retain(|row| !row.published);
        if let Some(breach) = &outcome.breach {
            self.broken = Some(breach.law);
        }
        if let Some(after) = &outcome.after {
            let ended = self.saga.status().is_terminal();
            self.saga = after.clone();
            if ended && self.saga.saga().phase == Phase::Compensating {
                self.just = Some(Notable::TakenUpAgain);
            }
            if outcome.entries.iter().any(laws::is_deadline) {
                self.just = Some(Notable::DeadlinePassed);
            }
            self.keep(&outcome, order == Order::PublishFirst && matches!(heard, Heard::Answer(_)));
        }
        outcome
    }

    /// Puts what is to be sent into the outbox.
    pub(super) fn keep(&mut self, outcome: &Outcome, published: bool) {
        self.outbox.extend(outcome.rows.iter().map(|post| Row { post: *post, published, resent: false }));
        let awaited = outcome.awaited.iter().map(|post| Queued { post: *post, again: false });
        awaited.for_each(|queued| insert(&mut self.queues, queued));
        // Of what is no longer awaited nobody asks where it is.
        let mut unheard = std::mem::take(&mut self.unheard);
        unheard.retain(|post| self.awaits(*post));
        self.unheard = unheard;
    }

    fn ack(&mut self, answer: Answer, table: &Table) {
        if self.counts(answer) && table.would_change(&self.saga, Heard::Answer(answer)) {
            self.broken = Some(laws::ACKED_LAST);
        }
    }

    fn crash(&mut self, order: Order) {
        let unpublished = self.publishes();
        if let Some(delivery) = self.hand.take()
            && order != Order::AckFirst
        {
            insert(&mut self.ready, delivery);
        }
        let unacked = std::mem::take(&mut self.unacked);
        self.just = if unpublished {
            Some(Notable::KilledBeforePublishing)
        } else if !self.outbox.is_empty() {
            Some(Notable::KilledBeforeDeleting)
        } else if !unacked.is_empty() {
            Some(Notable::KilledBeforeAcking)
        } else {
            None
        };
        unacked.into_iter().for_each(|answer| insert(&mut self.ready, Delivery { answer, known: true }));
        match order {
            Order::NoOutbox => self.outbox.clear(),
            _ => self.outbox.iter_mut().for_each(|row| *row = Row { published: false, resent: true, ..*row }),
        }
    }
}

fn of(said: ledger::Said) -> Said {
    match said {
        ledger::Said::Done => Said::Done,
        ledger::Said::Declined => Said::Declined,
    }
}

/// Bags are sorted: what is the same has one form.
fn insert<T: Ord>(bag: &mut Vec<T>, one: T) {
    let at = bag.partition_point(|other| *other <= one);
    bag.insert(at, one);
}

fn remove<T: PartialEq>(bag: &mut Vec<T>, one: T) {
    if let Some(at) = bag.iter().position(|other| *other == one) {
        bag.remove(at);
    }
}
