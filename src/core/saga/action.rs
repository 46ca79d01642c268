//! One action: how far a command and its attempts are.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::failure::{Failure, Reason};
use crate::core::time::Time;

/// One action of one unit of a saga: the same machine forward, in undo and to ask.
///
/// ```text
///   Idle ──> Scheduled <──> Running ──> Succeeded
///     │          └─────────────┴──────> Failed ──(a late success)──> Succeeded
///     └──> Skipped
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ActionState {
    /// How many attempts were sent, ever: attempt numbers never repeat.
    pub attempt: u32,
    /// Attempts that the present budget does not count: those before an operator's retry or before the present round.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub spent: u32,
    /// Attempts of earlier rounds: their answers no longer count.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub void: u32,
    /// How often a late success began this action anew under another idempotency key.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub round: u32,
    /// Attempts that the participant may have handled without an answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unanswered: Vec<u32>,
    /// Attempts that somebody had in hand for certain: the broker says so, or the participant did, with an answer that nobody could read, and an
    /// operator asked for others. Another copy of one may come back unhandled: that changes nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<u32>,
    /// Whether a participant had its hands on it for certain: it said what came of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub handled: bool,
    /// Whether the participant said of the latest attempt that it is still at it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
    /// Why the last attempt failed, while another may follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Failure>,
    /// What was asked for, where what it was made of may come to be known better: every attempt of a round asks for the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Arc<Value>>,
    /// When the first attempt was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// How far it is.
    pub progress: Progress,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// How far an action is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// Not begun.
    #[default]
    Idle,
    /// Waits for its delay or its back-off.
    Scheduled {
        /// When the next attempt is sent.
        due: Time,
    },
    /// A command is out, or something is waited for.
    Running {
        /// When the attempt times out; `None`: it does not.
        deadline: Option<Time>,
    },
    /// Done.
    Succeeded {
        /// When.
        at: Time,
        /// What the participant answered.
        reply: Arc<Value>,
    },
    /// Not done, or nobody knows.
    Failed {
        /// When.
        at: Time,
        /// Why.
        failure: Failure,
        /// The attempt whose answer decided it; `None` where none did.
        by: Option<u32>,
    },
    /// `when` was false.
    Skipped {
        /// When.
        at: Time,
    },
    /// An operator gave it up.
    GivenUp {
        /// When.
        at: Time,
        /// The operator's reason, or the last failure.
        failure: Failure,
    },
}

impl ActionState {
    /// Whether nothing ever happened to it.
    pub fn is_untouched(&self) -> bool {
        *self == ActionState::default()
    }

    /// Whether nothing has happened to its present round.
    pub fn is_fresh(&self) -> bool {
        self.progress == Progress::Idle && self.attempt == self.void
    }

    /// Whether a command is out and its answer awaited.
    pub fn in_flight(&self) -> bool {
        matches!(self.progress, Progress::Running { .. })
    }

    /// Whether a command is out or will be.
    pub fn under_way(&self) -> bool {
        matches!(self.progress, Progress::Running { .. } | Progress::Scheduled { .. })
    }

    /// Whether it was sent, ended without an answer, and may have been done.
    pub fn in_doubt(&self) -> bool {
        matches!(self.progress, Progress::Failed { by: None, .. }) && self.may_have_been_done()
    }

    /// Whether some attempt of it may have been done, and no answer decided it.
    pub fn may_have_been_done(&self) -> bool {
        !self.unanswered.is_empty() || !self.held.is_empty()
    }

    /// Whether its last attempt, or one before, was not answered in time, and nobody knows how it ended.
    pub fn timed_out(&self) -> bool {
        self.in_doubt() && self.failure().is_some_and(|failure| failure.reason == Reason::Timeout)
    }

    /// Attempts of the present budget.
    pub fn tries(&self) -> u32 {
        self.attempt - self.spent
    }

    /// The reply of a success.
    pub fn reply(&self) -> Option<&Arc<Value>> {
        match &self.progress {
            Progress::Succeeded { reply, .. } => Some(reply),
            _ => None,
        }
    }

    /// What made it, or its last attempt, fail.
    pub fn failure(&self) -> Option<&Failure> {
        match &self.progress {
            Progress::Failed { failure, .. } | Progress::GivenUp { failure, .. } => Some(failure),
            _ => self.last_failure.as_ref(),
        }
    }

    /// When it came to an end.
    pub fn ended_at(&self) -> Option<Time> {
        match self.progress {
            Progress::Succeeded { at, .. }
            | Progress::Failed { at, .. }
            | Progress::Skipped { at }
            | Progress::GivenUp { at, .. } => Some(at),
            Progress::Idle | Progress::Scheduled { .. } | Progress::Running { .. } => None,
        }
    }
}
