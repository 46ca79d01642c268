//! A state of the corridor, and what can happen in it.

use std::collections::BTreeSet;
use std::sync::Arc;

use sagad::core::saga::Phase;
use sagad::trial::ledger::{self, Ledger};
use sagad::trial::stage::{Flight, To};

use super::table::{Moment, Outcome, Table};
use super::{Answer, Delivery, Heard, Notable, Post, Queued};

/// A row of the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    pub(crate) post: Post,
    /// The broker has it: the next commit deletes the row.
    pub(crate) published: bool,
    /// A daemon that was killed may have published it.
    pub(crate) resent: bool,
}

/// A state of all of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    /// What is stored.
    pub(crate) saga: Arc<Moment>,
    pub(crate) outbox: Vec<Row>,
    pub(crate) queues: Vec<Queued>,
    pub(crate) ready: Vec<Delivery>,
    /// What the daemon is about to commit.
    pub(crate) hand: Option<Delivery>,
    pub(crate) unacked: Vec<Answer>,
    pub(crate) ledger: Ledger,
    /// Commands of which no word will come.
    pub(crate) unheard: BTreeSet<Post>,
    /// What has just happened.
    pub(crate) just: Option<Notable>,
    /// The law that does not hold any more.
    pub(crate) broken: Option<&'static str>,
}

impl World {
    /// A saga that has just been started.
    pub(crate) fn start(table: &Table) -> (World, Outcome) {
        let outcome = table.start();
        let saga = outcome.after.clone().expect("a start is a change");
        let mut world = World {
            saga,
            outbox: Vec::new(),
            queues: Vec::new(),
            ready: Vec::new(),
            hand: None,
            unacked: Vec::new(),
            ledger: Ledger::default(),
            unheard: BTreeSet::new(),
            just: None,
            broken: outcome.breach.as_ref().map(|breach| breach.law),
        };
        world.keep(&outcome, false);
        (world, outcome)
    }

    /// Whom it is for.
    pub(crate) fn to(&self, post: Post) -> To {
        self.saga.stage.to(post.ticket(self.saga.saga().id))
    }

    /// Whether somebody does what it asks for.
    pub(crate) fn acts(&self, post: Post) -> bool {
        matches!(self.to(post), To::Participant | To::Child)
    }

    /// Whether its answer is awaited.
    pub(crate) fn awaits(&self, post: Post) -> bool {
        self.saga.stage.awaits(post.ticket(self.saga.saga().id))
    }

    /// What a participant said to the same command before.
    pub(crate) fn said(&self, post: Post) -> Option<ledger::Said> {
        self.ledger.said(post.key())
    }

    /// Whether the outbox has something that the broker does not have.
    pub(crate) fn publishes(&self) -> bool {
        self.outbox.iter().any(|row| !row.published)
    }

    /// Whether a crash would make a difference.
    pub(crate) fn can_crash(&self) -> bool {
        self.hand.is_some() || !self.unacked.is_empty() || !self.outbox.is_empty()
    }

    /// Whether the saga waits for a timer.
    pub(crate) fn is_timed(&self) -> bool {
        self.saga.stage.due().is_some()
    }

    /// Whether its next timer is still to come.
    pub(crate) fn can_oversleep(&self) -> bool {
        self.saga.stage.due().is_some_and(|due| due > self.saga.stage.now)
    }

    /// Whether the saga waits for its turn.
    pub(crate) fn is_held(&self) -> bool {
        self.saga.stage.is_held()
    }

    /// Whether an operator may cancel.
    pub(crate) fn can_cancel(&self, table: &Table) -> bool {
        matches!(self.saga.saga().phase, Phase::Pending { .. } | Phase::Running)
            && table.would_change(&self.saga, Heard::Cancel)
    }

    /// Whether the saga's deadline may pass.
    pub(crate) fn has_deadline(&self, table: &Table) -> bool {
        let saga = self.saga.saga();
        let waits = saga.phase == Phase::Running && saga.suspended.is_none() && saga.deadline.is_some();
        waits && table.would_change(&self.saga, Heard::Deadline)
    }

    /// How many of the attempts that the next timer ends have something on its way.
    pub(crate) fn would_be_late(&self) -> usize {
        let Some(due) = self.saga.stage.due() else { return 0 };
        let over = |flight: &Flight| flight.deadline.is_some_and(|deadline| deadline <= due);
        let flights = self.saga.stage.flights();
        flights.iter().filter(|flight| over(flight) && self.is_on_its_way(Post::of(flight))).count()
    }

    pub(crate) fn is_queued(&self, post: Post) -> bool {
        self.queues.iter().any(|queued| queued.post == post)
    }

    fn is_on_its_way(&self, post: Post) -> bool {
        self.outbox.iter().any(|row| row.post == post && !row.published)
            || self.is_queued(post)
            || self.hand.is_some_and(|delivery| delivery.answer.to == post)
            || self.ready.iter().any(|delivery| delivery.answer.to == post && !delivery.known)
    }

    /// Whether nothing can happen any more, but what is out of order.
    pub(crate) fn is_quiet(&self) -> bool {
        let idle = self.hand.is_none() && self.ready.is_empty() && self.queues.is_empty() && self.unacked.is_empty();
        idle && !self.publishes() && !self.is_timed() && !self.is_held()
    }
}
