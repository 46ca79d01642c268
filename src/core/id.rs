//! What things are called: sagas, steps, actions, attempts.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A saga's id, a UUIDv7: ids sort by the time of their start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SagaId(pub Uuid);

impl fmt::Display for SagaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// A step's place in its definition, from 0.
pub type StepIx = usize;

/// The two directions a step can be asked to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The forward action.
    Execute,
    /// Its undo.
    Compensate,
}

impl Action {
    /// The word in headers and histories.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Execute => "execute",
            Action::Compensate => "compensate",
        }
    }
}

/// Which sending of which command: what an answer, a dead letter or a returned message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// The saga.
    pub saga: SagaId,
    /// The step in the saga's revision of its definition.
    pub step: StepIx,
    /// Forward or undo.
    pub action: Action,
    /// From 1, counted for each action of each step.
    pub attempt: u32,
}
