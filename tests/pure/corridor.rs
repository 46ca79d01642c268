//! One saga in its corridor: the store, the outbox, the daemon and its broker, participants that are merely idempotent; and what can
//! happen to each, one step after the other.
//!
//! ```text
//!   saga (stored) ─ rows ─> outbox ─ publish ─> queues ─ take ─> participants (ledger)
//!        ^                                                           │
//!        └── commit ── hand <─ deliver ── ready <────────────────────┘
//!                       └─ unacked ─ ack, or again: ready
//! ```
//!
//! A crash empties the daemon's hands, at any point: what was not acknowledged comes again, what the outbox has is published again.
//! Everything else is with the store, the broker or the participants.

mod change;
pub(crate) mod laws;
pub(crate) mod state;
pub(crate) mod table;

use std::fmt;

use sagad::core::id::{Action, SagaId, Spot, Ticket};
use sagad::core::saga::Reason;
use sagad::trial::ledger;
use sagad::trial::stage::Flight;

pub(crate) use self::state::World;

/// A message to a participant, or what a step waits for (which has no attempts).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Post {
    pub(crate) spot: Spot,
    pub(crate) action: Action,
    pub(crate) attempt: u32,
    pub(crate) round: u32,
}

/// What a participant, or the broker, says to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Answer {
    pub(crate) to: Post,
    pub(crate) said: Said,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Said {
    Done,
    Declined,
    Busy,
    /// The broker gives it back; whether somebody had it first.
    Back(Reason, bool),
}

/// What the core is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Heard {
    Answer(Answer),
    /// The next timer is due.
    Tick,
    /// The saga's deadline passes, and whatever was due before it was slept through.
    Deadline,
    /// Nothing: the next timer is due, and nobody has noticed yet.
    Oversleep,
    Cancel,
    Admit,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The next row of the outbox is published.
    Publish,
    /// A participant takes a command from its queue.
    Take(Queued, Manner),
    /// The daemon takes an answer in hand.
    Deliver(Delivery),
    /// What follows from it is committed.
    Commit,
    /// An answer whose effect is committed is acknowledged.
    Ack(Answer),
    /// It is not, and comes again.
    Repeat(Answer),
    /// Time passes until the next timer.
    Time,
    /// The daemon was away until the saga's deadline had passed.
    Deadline,
    /// The next timer is due, and something else comes first.
    Oversleep,
    /// An operator cancels.
    Cancel,
    /// A saga that is held gets its turn.
    Admit,
    /// The daemon is killed and another one begins.
    Crash,
}

/// What a participant does with a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Does it, once for each key, and says so.
    Do,
    /// Does it and says so, and is given the same command once more.
    DoAndAgain,
    /// Will not do it.
    Decline,
    /// Can't do it now.
    Busy,
    /// Does it, and no answer ever comes.
    Silence,
    /// Does nothing, and no answer ever comes.
    Lose,
    /// It goes back to the broker; one that was delivered too often was done first.
    Back(Reason),
}

/// An answer in sagad's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Delivery {
    pub(crate) answer: Answer,
    /// What follows from it is committed already.
    pub(crate) known: bool,
}

/// In which order the daemon does things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Commit, publish what was committed, acknowledge.
    Shipped,
    /// A mistake: acknowledge, commit.
    AckFirst,
    /// A mistake: publish, commit.
    PublishFirst,
    /// A mistake: what is to be sent is kept in memory alone.
    NoOutbox,
}

/// A command in its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Queued {
    pub(crate) post: Post,
    /// It says of itself that somebody may have had it before.
    pub(crate) again: bool,
}

/// Something worth noting that has just happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Notable {
    /// An ended saga took up its compensation again.
    TakenUpAgain,
    /// The daemon was killed between a commit and the publishing of what it committed.
    KilledBeforePublishing,
    /// The daemon was killed between publishing and the deletion of the row: the command goes out twice.
    KilledBeforeDeleting,
    /// The daemon was killed between a commit and its acknowledgement.
    KilledBeforeAcking,
    /// An answer came again after the saga had ended.
    RepeatedAfterTheEnd,
    /// A time-out passed something that is still on its way.
    Late,
    /// The saga's own deadline passed.
    DeadlinePassed,
    /// An operator cancelled.
    Cancelled,
}

impl Notable {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Notable::TakenUpAgain => "taken up again",
            Notable::KilledBeforePublishing => "killed before publishing",
            Notable::KilledBeforeDeleting => "killed before deleting",
            Notable::KilledBeforeAcking => "killed before acking",
            Notable::RepeatedAfterTheEnd => "repeated after the end",
            Notable::Late => "late",
            Notable::DeadlinePassed => "deadline passed",
            Notable::Cancelled => "cancelled",
        }
    }
}

impl fmt::Debug for Post {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Post { spot, action, attempt, round } = self;
        write!(f, "{} {spot} attempt {attempt}", action.as_str())?;
        if *round > 0 { write!(f, " round {round}") } else { Ok(()) }
    }
}

impl Post {
    pub(crate) fn ticket(self, saga: SagaId) -> Ticket {
        let Post { spot, action, attempt, .. } = self;
        Ticket { saga, spot, action, attempt }
    }

    pub(crate) fn key(self) -> ledger::Key {
        (self.spot, self.action, self.round)
    }

    pub(crate) fn of(flight: &Flight) -> Post {
        let Ticket { spot, action, attempt, .. } = flight.ticket;
        Post { spot, action, attempt, round: flight.round }
    }
}
