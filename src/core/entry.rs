//! The journal: what happened to a saga, append-only. The state is a fold of it ([`crate::core::apply`]).

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::core::id::{Action, StepIx};
use crate::core::saga::{Failure, SagaError};
use crate::core::time::Time;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// The saga was accepted. Everything that a fold begins with.
    Accepted {
        /// Key, where there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<Arc<str>>,
        /// AMQP priority of its commands.
        priority: u8,
        /// When it begins.
        due: Time,
        /// W3C trace context of the start.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trace: Option<String>,
        /// How many steps its definition has.
        steps: usize,
        /// Who started it: `http`, `amqp` or the name of a token.
        actor: String,
    },
    /// It begins.
    Started {
        /// When it will compensate unless it completed.
        deadline: Option<Time>,
    },
    /// A step's `when` is false.
    Skipped {
        /// The step.
        step: StepIx,
    },
    /// The next attempt waits for a delay or a back-off.
    Scheduled {
        /// The step.
        step: StepIx,
        /// Forward or undo.
        action: Action,
        /// When it is sent.
        due: Time,
    },
    /// A command goes out.
    Sent {
        /// The step.
        step: StepIx,
        /// Forward or undo.
        action: Action,
        /// From 1.
        attempt: u32,
        /// When the attempt times out.
        deadline: Time,
    },
    /// The participant is still at it: the attempt's time-out begins anew.
    Extended {
        /// The step.
        step: StepIx,
        /// Forward or undo.
        action: Action,
        /// The attempt.
        attempt: u32,
        /// When it times out now.
        deadline: Time,
    },
    /// A success decided an action; also one that came late.
    Succeeded {
        /// The step.
        step: StepIx,
        /// Forward or undo.
        action: Action,
        /// The attempt that was answered.
        attempt: u32,
        /// What the participant answered.
        reply: Arc<Value>,
        /// It came after the action had been taken for failed.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        late: bool,
    },
    /// A failure decided an execute.
    Failed {
        /// The step.
        step: StepIx,
        /// The attempt that was answered; 0 where none was ever sent.
        attempt: u32,
        /// Why.
        failure: Failure,
    },
    /// An attempt failed in a way that leaves room for another.
    AttemptFailed {
        /// The step.
        step: StepIx,
        /// Forward or undo.
        action: Action,
        /// The attempt.
        attempt: u32,
        /// Why.
        failure: Failure,
        /// How far the participant may have come.
        handling: Handling,
    },
    /// What was thought of an attempt turned out otherwise: the broker gave it back unhandled.
    NeverRan {
        /// The step.
        step: StepIx,
        /// Forward or undo.
        action: Action,
        /// The attempt.
        attempt: u32,
        /// What the broker said.
        failure: Failure,
    },
    /// There will be no further attempt.
    Exhausted {
        /// The step.
        step: StepIx,
        /// Forward or undo.
        action: Action,
        /// The last failure.
        failure: Failure,
    },
    /// A step that waited for its first attempt is not sent after all.
    Withdrawn {
        /// The step.
        step: StepIx,
    },
    /// A late success came after the compensation was sent: it is sent once more, under a new idempotency key.
    CompensationRenewed {
        /// The step.
        step: StepIx,
    },
    /// The saga turns round.
    Compensating {
        /// Why.
        error: SagaError,
        /// Who, where an operator did it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        actor: Option<String>,
    },
    /// It waits for an operator.
    Suspended {
        /// For a person.
        reason: String,
        /// The step whose compensation failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<StepIx>,
        /// Who, where an operator did it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        actor: Option<String>,
    },
    /// It goes on.
    Resumed {
        /// Who; `None` where what it waited for came by itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        actor: Option<String>,
        /// The operator's words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// An operator gave a failed action fresh attempts.
    Retried {
        /// The step.
        step: StepIx,
        /// Forward or undo.
        action: Action,
        /// Who.
        actor: String,
        /// The operator's words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// An operator found out by hand how a step ended.
    Resolved {
        /// The step.
        step: StepIx,
        /// How.
        outcome: Resolution,
        /// The reply of a success.
        #[serde(default)]
        reply: Arc<Value>,
        /// The operator's words.
        reason: String,
        /// Who.
        actor: String,
    },
    /// Ended: all steps ended well.
    Completed {
        /// The rendered `[output]`.
        output: Arc<Value>,
        /// Why it could not be rendered.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<SagaError>,
    },
    /// Ended: what had to be undone is.
    Compensated {},
    /// Ended: at least one compensation was given up.
    GaveUp {},
}

/// How far a participant may have come with an attempt that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Handling {
    /// It never saw the command.
    Never,
    /// It may have handled it, and did not answer.
    Maybe,
    /// It answered that it could not do it now.
    Answered,
}

/// What an operator found out by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// The execute was done.
    Succeeded,
    /// The execute was not done.
    Failed,
    /// The compensation was done.
    Compensated,
    /// The compensation will never be done.
    GivenUp,
}
