//! The space of all states that a saga and its corridor can be in, for the checker.

use std::sync::Arc;

use sagad::core::id::Action;
use sagad::core::saga::{Reason, Status};
use sagad::trial::stage::Decide;
use serde_json::json;
use stateright::{Model, Property};

use crate::corridor::table::{Clock, Table};
use crate::corridor::{Manner, Notable, Order, Queued, Step, World, laws};
use crate::play::definition;

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Fault {
    /// The daemon is killed.
    Crash,
    /// An answer comes again.
    Repeat,
    /// A command is delivered twice.
    Again,
    /// A time-out passes what is still on its way.
    Late,
    /// A participant does it and never answers.
    Silence,
    /// Nobody does it, and no answer comes.
    Loss,
    /// A participant can't do it now.
    Busy,
    /// An undo is refused.
    Refusal,
    /// A command expires in its queue.
    Expiry,
    /// A participant does it, and falls over before it answers until the broker has enough.
    Death,
    /// An operator cancels.
    Cancel,
    /// A timer is noticed only after other things that came when it was due.
    Oversleep,
}

pub(super) const ALL: &[Fault] = &[
    Fault::Crash,
    Fault::Repeat,
    Fault::Again,
    Fault::Late,
    Fault::Silence,
    Fault::Loss,
    Fault::Busy,
    Fault::Refusal,
    Fault::Expiry,
    Fault::Death,
    Fault::Cancel,
    Fault::Oversleep,
];

/// What can happen to the sagas of a definition.
pub(super) struct Space {
    pub(super) table: Table,
    pub(super) order: Order,
    /// So many faults at the most,
    pub(super) faults: u8,
    /// of these kinds,
    pub(super) of: &'static [Fault],
    /// each of them once at the most.
    pub(super) once: bool,
    /// How the sagas end.
    pub(super) ends: &'static [Status],
    /// What is seen on the way.
    pub(super) seen: &'static [Notable],
}

/// A state, and how it was come by as far as that bounds what may follow.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    world: World,
    /// How many faults have happened.
    faults: u8,
    /// Which, where each may happen only once.
    had: Vec<Fault>,
}

impl Space {
    /// Without any faults.
    pub(super) fn of(toml: &str, decide: Decide, order: Order) -> Space {
        // It lives as long as the tests do, as a checker's model has to.
        let definition = Box::leak(Box::new(definition(toml)));
        let table = Table::new(definition, Arc::new(json!({ "n": 1 })), Clock::Relative, decide);
        Space { table, order, faults: 0, of: ALL, once: false, ends: &[], seen: &[] }
    }

    /// What of a step is a fault, and how many.
    fn cost(world: &World, step: Step) -> Option<(Fault, u8)> {
        let fault = match step {
            Step::Crash => Fault::Crash,
            Step::Repeat(_) => Fault::Repeat,
            Step::Cancel => Fault::Cancel,
            Step::Oversleep => Fault::Oversleep,
            Step::Time => return Some((Fault::Late, world.would_be_late() as u8)).filter(|(_, late)| *late > 0),
            Step::Take(queued, manner) => match manner {
                Manner::Do => return None,
                Manner::Decline if queued.post.action == Action::Execute => return None,
                Manner::Decline => Fault::Refusal,
                Manner::DoAndAgain => Fault::Again,
                Manner::Busy => Fault::Busy,
                Manner::Silence => Fault::Silence,
                Manner::Lose => Fault::Loss,
                Manner::Back(Reason::DeliveryLimit) => Fault::Death,
                Manner::Back(_) => Fault::Expiry,
            },
            _ => return None,
        };
        Some((fault, 1))
    }

    fn possible(&self, world: &World) -> Vec<Step> {
        let mut steps = Vec::new();
        if world.broken.is_some() {
            return steps;
        }
        if world.hand.is_some() {
            // What others do meanwhile is the same before or after.
            return vec![Step::Commit, Step::Crash];
        }
        if world.publishes() {
            steps.push(Step::Publish);
        }
        for answer in each(&world.unacked) {
            steps.extend([Step::Ack(answer), Step::Repeat(answer)]);
        }
        if world.can_crash() {
            steps.push(Step::Crash);
        }
        // The daemon acknowledges before it takes another answer in hand. What participants do makes no difference to its part, so they
        // do it once its part is done.
        if world.unacked.is_empty() {
            steps.extend(each(&world.ready).map(Step::Deliver));
            if !world.publishes() {
                each(&world.queues).for_each(|queued| self.take(world, queued, &mut steps));
            }
            if world.is_timed() {
                steps.push(Step::Time);
            }
            if world.can_oversleep() {
                steps.push(Step::Oversleep);
            }
            if world.can_cancel(&self.table) {
                steps.push(Step::Cancel);
            }
        }
        steps
    }

    fn take(&self, world: &World, queued: Queued, steps: &mut Vec<Step>) {
        let post = queued.post;
        // Of two copies the first comes first.
        if queued.again && world.queues.contains(&Queued { again: false, ..queued }) {
            return;
        }
        let take = |manner| Step::Take(queued, manner);
        steps.extend([take(Manner::Do), take(Manner::DoAndAgain), take(Manner::Busy)]);
        if world.said(post).is_none() {
            steps.push(take(Manner::Decline));
        }
        // Of an effect that comes after its time-out, and of which no word ever comes, nobody can know.
        if world.awaits(post) {
            steps.extend([take(Manner::Lose), take(Manner::Silence)]);
        }
        // The broker's word that somebody had it is one.
        if world.awaits(post) || post.action == Action::Execute && world.said(post).is_none() {
            steps.push(take(Manner::Back(Reason::DeliveryLimit)));
        }
        // An undo does not expire.
        if post.action == Action::Execute {
            steps.push(take(Manner::Back(Reason::Expired)));
        }
    }
}

/// Each of a sorted bag once.
fn each<T: Copy + PartialEq>(bag: &[T]) -> impl Iterator<Item = T> + '_ {
    bag.iter().enumerate().filter(|(at, one)| *at == 0 || bag[at - 1] != **one).map(|(_, one)| *one)
}

/// `name: law` of what must hold in every state.
macro_rules! always {
    ($($name:literal: $law:expr),* $(,)?) => {
        vec![$(Property::<Space>::always($name, |_, state| state.world.broken != Some($law))),*]
    };
}

impl Model for Space {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State { world: World::start(&self.table).0, faults: 0, had: Vec::new() }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        steps.extend(self.possible(&state.world).into_iter().filter(|step| {
            Space::cost(&state.world, *step).is_none_or(|(fault, count)| {
                state.faults + count <= self.faults && self.of.contains(&fault) && !state.had.contains(&fault)
            })
        }));
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let (world, _) = state.world.after(step, &self.table, self.order);
        let mut after = State { world, ..state.clone() };
        if let Some((fault, count)) = Space::cost(&state.world, step) {
            after.faults += count;
            if self.once {
                after.had.push(fault);
                after.had.sort_unstable();
            }
        }
        Some(after)
    }

    fn properties(&self) -> Vec<Property<Space>> {
        let mut properties = always! {
            "a command is sent only after the state that sends it is committed": laws::COMMITTED_FIRST,
            "an answer is acknowledged only after what it causes is committed": laws::ACKED_LAST,
            "the effect of an answer happens once": laws::COUNTS_ONCE,
            "no saga is lost or stuck": laws::ENDS,
            "commands are sent at least once": laws::AT_LEAST_ONCE,
            "attempts of one action share a key": laws::ONE_KEY,
            "compensation goes in reverse": "reverse",
            "what was never sent is never compensated": "never-sent",
            "what was done or is in doubt is compensated, and nothing else": "right-set",
            "no effect outlives its compensation": "effect",
            "the first answer decides": laws::FIRST_ANSWER,
            "a retry from an old attempt is ignored": laws::OLD_RETRY,
            "once it compensates nothing goes forward": "no-way-forward",
            "past its pivot it does not turn round": "pivot",
            "at the deadline what is in flight is in doubt": laws::DEADLINE,
            "one attempt at a time": "once",
            "the journal tells the state": laws::REPLAY,
        };
        properties.extend(self.ends.iter().map(|status| ends(*status)));
        properties.extend(self.seen.iter().map(|notable| seen(*notable)));
        properties
    }
}

fn ends(status: Status) -> Property<Space> {
    macro_rules! in_the_end {
        ($name:literal, $status:ident) => {
            Property::sometimes($name, |_, state: &State| {
                state.world.is_quiet() && state.world.saga.status() == Status::$status
            })
        };
    }
    match status {
        Status::Completed => in_the_end!("it completes", Completed),
        Status::Compensated => in_the_end!("it is compensated", Compensated),
        _ => in_the_end!("it waits for an operator", Suspended),
    }
}

fn seen(notable: Notable) -> Property<Space> {
    macro_rules! just {
        ($name:literal, $what:ident) => {
            Property::sometimes($name, |_, state: &State| state.world.just == Some(Notable::$what))
        };
    }
    match notable {
        Notable::TakenUpAgain => just!("a late success after the end begins the undo anew", TakenUpAgain),
        Notable::KilledBeforePublishing => just!("a crash between commit and publish", KilledBeforePublishing),
        Notable::KilledBeforeDeleting => just!("a crash after which commands go out twice", KilledBeforeDeleting),
        Notable::KilledBeforeAcking => just!("a crash after which answers come twice", KilledBeforeAcking),
        Notable::RepeatedAfterTheEnd => just!("a duplicate after the end", RepeatedAfterTheEnd),
        Notable::Late => just!("a time-out of what is still on its way", Late),
        Notable::DeadlinePassed => just!("the saga's deadline passes", DeadlinePassed),
        Notable::Cancelled => just!("an operator cancels", Cancelled),
    }
}
