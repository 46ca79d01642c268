//! Everything that can change a saga.

use serde_json::Value;

use crate::core::answer::Answer;
use crate::core::entry::Resolution;
use crate::core::id::{Action, StepIx};
use crate::core::saga::Reason;

/// One thing that happened to one saga from outside.
#[derive(Clone, Debug)]
pub enum Input {
    /// A participant answered.
    Answer {
        /// The step.
        step: StepIx,
        /// Forward or undo.
        action: Action,
        /// The attempt it answers.
        attempt: u32,
        /// What it said.
        answer: Answer,
    },
    /// The broker gave a command back.
    Undelivered {
        /// The step.
        step: StepIx,
        /// Forward or undo.
        action: Action,
        /// The attempt that came back.
        attempt: u32,
        /// Why: `rejected`, `expired`, `delivery_limit`, `max_length` or `unroutable`.
        reason: Reason,
        /// For a person: which queue, which exchange.
        message: String,
        /// A consumer had it before.
        delivered_before: bool,
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
        /// The operator's words.
        reason: Option<String>,
    },
    /// What the operator found out by hand.
    Resolve {
        /// The step's name.
        step: String,
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
}
