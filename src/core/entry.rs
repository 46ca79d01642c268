//! The journal: what happened to a saga, append-only. The state is a fold of it ([`crate::core::apply`]).

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::core::id::{Action, Spot};
use crate::core::saga::{Addressee, Failure, Parent, SagaError};
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
        /// The step that runs it, if it is a child.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent: Option<Parent>,
        /// The value of its definition's `lock`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lock: Option<Arc<str>>,
        /// How many steps its definition has.
        steps: usize,
        /// Who started it: `http`, `amqp`, `event`, `saga` or the name of a token.
        actor: String,
    },
    /// It could begin, but for its lock or the limit of sagas that run at once.
    Held {},
    /// It begins.
    Started {
        /// When it will compensate unless it completed.
        deadline: Option<Time>,
    },
    /// A step's `when` is false.
    Skipped {
        /// The unit.
        spot: Spot,
    },
    /// A `foreach` step has its list: from now on it is its elements.
    Expanded {
        /// The unit of the step.
        spot: Spot,
        /// The list: an array.
        elements: Arc<Value>,
    },
    /// The next attempt waits for a delay or a back-off.
    Scheduled {
        /// The unit.
        spot: Spot,
        /// Which action.
        action: Action,
        /// When it is sent.
        due: Time,
    },
    /// A command, an event or an order to a child saga goes out.
    Sent {
        /// The unit.
        spot: Spot,
        /// Which action.
        action: Action,
        /// From 1.
        attempt: u32,
        /// When the attempt times out; `None`: it does not.
        deadline: Option<Time>,
        /// What it asks for, where that could not be rendered again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        body: Option<Arc<Value>>,
    },
    /// A step waits for a signal or an event.
    Waiting {
        /// The unit.
        spot: Spot,
        /// Until when.
        deadline: Option<Time>,
    },
    /// A signal or an event came; the steps that wait for it take it when they are reached.
    Received {
        /// Who may take it.
        to: Addressee,
        /// Tells it from others.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<Arc<str>>,
        /// What it says.
        payload: Arc<Value>,
        /// Who sent it, where an operator did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        actor: Option<String>,
    },
    /// A step that waits takes the first signal or event that is there for it, and has succeeded.
    Taken {
        /// The unit.
        spot: Spot,
        /// To whom it came.
        to: Addressee,
    },
    /// The participant is still at it: the attempt's time-out begins anew.
    Extended {
        /// The unit.
        spot: Spot,
        /// Which action.
        action: Action,
        /// The attempt.
        attempt: u32,
        /// When it times out now; `None`: not any more.
        deadline: Option<Time>,
    },
    /// A success decided an action; also one that came late.
    Succeeded {
        /// The unit.
        spot: Spot,
        /// Which action.
        action: Action,
        /// The attempt that was answered.
        attempt: u32,
        /// What the participant answered.
        reply: Arc<Value>,
        /// It came after the action had been taken for failed.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        late: bool,
    },
    /// A failure decided an execute, or the question how it ended.
    Failed {
        /// The unit.
        spot: Spot,
        /// Which action.
        action: Action,
        /// The attempt that was answered; 0 where none was ever sent.
        attempt: u32,
        /// Why.
        failure: Failure,
    },
    /// An attempt failed in a way that leaves room for another.
    AttemptFailed {
        /// The unit.
        spot: Spot,
        /// Which action.
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
        /// The unit.
        spot: Spot,
        /// Which action.
        action: Action,
        /// The attempt.
        attempt: u32,
        /// What the broker said.
        failure: Failure,
    },
    /// There will be no further attempt.
    Exhausted {
        /// The unit.
        spot: Spot,
        /// Which action.
        action: Action,
        /// The last failure.
        failure: Failure,
    },
    /// A step that waited for its first attempt, a signal or an event does not happen after all.
    Withdrawn {
        /// The unit.
        spot: Spot,
    },
    /// What was known of a unit's compensation counts no longer: a late success came after it was sent, and it is sent once more, under a new
    /// idempotency key; or there is nothing to undo after all.
    CompensationRenewed {
        /// The unit.
        spot: Spot,
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
        /// What it can't go on without.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spot: Option<Spot>,
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
    /// What a child left behind is not undone any more: it has given that up itself.
    GivenUp {
        /// The unit.
        spot: Spot,
        /// What the child says.
        failure: Failure,
    },
    /// An operator gave a failed action fresh attempts.
    Retried {
        /// The unit.
        spot: Spot,
        /// Which action.
        action: Action,
        /// By another child than the one that has failed.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        afresh: bool,
        /// Who.
        actor: String,
        /// The operator's words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// An operator found out by hand how a step ended.
    Resolved {
        /// The unit.
        spot: Spot,
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
    /// The saga that runs this one wants it undone.
    UndoAsked {
        /// The attempt: the end of the undoing answers it.
        attempt: u32,
    },
    /// What was stored of the saga was not what its journal says, and was made so again. Of the saga itself this changes nothing.
    Repaired {
        /// The tables and columns: `sagas.state`.
        columns: Vec<String>,
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
    /// It never saw this copy of it; there may be another.
    Resent,
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
