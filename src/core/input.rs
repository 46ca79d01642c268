//! Everything that can change a saga.

use serde_json::Value;

use crate::core::answer::RawAnswer;
use crate::core::entry::Resolution;
use crate::core::id::{Action, Spot, StepIx, Ticket};
use crate::core::saga::Reason;

/// One thing that happened to one saga from outside.
#[derive(Clone, Debug)]
pub enum Input {
    /// A participant answered.
    Answer {
        /// The unit.
        spot: Spot,
        /// Which action.
        action: Action,
        /// The attempt it answers.
        attempt: u32,
        /// What it said.
        answer: RawAnswer,
    },
    /// The broker gave a command back.
    Undelivered {
        /// The unit.
        spot: Spot,
        /// Which action.
        action: Action,
        /// The attempt that came back.
        attempt: u32,
        /// Why: `rejected`, `expired`, `delivery_limit`, `max_length` or `unroutable`.
        reason: Reason,
        /// For a person: which queue, which exchange.
        message: String,
        /// A consumer had it before.
        delivered_before: bool,
        /// There may be another copy of it, published twice or in another queue: of one that nobody took follows nothing for the other.
        resent: bool,
    },
    /// Somebody sent a signal.
    Signal {
        /// Its name.
        name: String,
        /// Tells it from others: the same one may come twice.
        id: Option<String>,
        /// What it says.
        payload: Value,
        /// Who sent it, where that is known.
        actor: Option<String>,
    },
    /// Another service published an event that belongs to this saga.
    Event {
        /// The step that it concerns.
        step: StepIx,
        /// What it is to the step.
        bearing: Bearing,
        /// Tells it from others: the same one may come twice.
        id: Option<String>,
        /// Its body.
        body: Value,
        /// Its headers.
        headers: Value,
    },
    /// The lock and the place that the saga was held for are its own, if it is still held.
    Admit,
    /// The saga that runs this one wants it undone; the attempt to answer.
    Undo {
        /// The unit of the saga that runs it: nobody else may ask.
        by: Ticket,
    },
    /// A timer may be due.
    Tick,
    /// An operator's word.
    Operator {
        /// Who.
        actor: String,
        /// What.
        order: Order,
    },
    /// Deciding failed for reasons of sagad's own: the saga waits for an operator.
    Fault {
        /// For a person.
        message: String,
    },
}

/// What an event is to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bearing {
    /// What it waits for.
    Awaited,
    /// Its command, or its undo, was done.
    Success(Action),
    /// Its command, or its undo, failed.
    Failure(Action),
}

/// What operators can ask for.
#[derive(Clone, Debug)]
pub enum Order {
    /// Compensate.
    Cancel {
        /// The operator's words.
        reason: Option<String>,
    },
    /// Send nothing until resumed.
    Suspend {
        /// The operator's words.
        reason: Option<String>,
    },
    /// Go on; failed compensations get fresh attempts.
    Resume {
        /// The operator's words.
        reason: Option<String>,
    },
    /// The failing action of a step again, with fresh attempts.
    Retry {
        /// The step's name.
        step: String,
        /// Only this element of it.
        item: Option<u32>,
        /// The operator's words.
        reason: Option<String>,
    },
    /// What the operator found out by hand.
    Resolve {
        /// The step's name.
        step: String,
        /// Only this element of it.
        item: Option<u32>,
        /// What.
        outcome: Resolution,
        /// The reply of a success.
        reply: Value,
        /// The operator's words.
        reason: String,
    },
}

/// Why an operator's order can't be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// The saga's state forbids it; for a person.
    #[error("{0}")]
    State(String),
    /// The saga has no such step.
    #[error("the saga has no step `{0}`")]
    NoSuchStep(String),
    /// No step of the saga waits for such a signal.
    #[error("no step of the saga waits for a signal `{0}`")]
    NoSuchSignal(String),
}
