//! A saga's state: a fold of its journal.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::core::definition::{CompensateOn, Definition, Step};
use crate::core::id::{Action, SagaId, StepIx};
use crate::core::time::Time;

/// One running or ended instance of a definition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Saga {
    /// Its id.
    pub id: SagaId,
    /// The definition's name.
    pub definition: Arc<str>,
    /// The revision it started with and stays with.
    pub revision: u32,
    /// The business key.
    pub key: Option<Arc<str>>,
    /// AMQP priority of its commands, 0 to 9.
    pub priority: u8,
    /// What it was started with. Kept in a column of its own: it never changes.
    #[serde(skip)]
    pub input: Arc<Value>,
    /// W3C trace context of the start; commands carry on with it.
    pub trace: Option<String>,
    /// When it was accepted.
    pub created_at: Time,
    /// When it began.
    pub started_at: Option<Time>,
    /// When it last changed.
    pub updated_at: Time,
    /// When it begins to compensate if it has not completed.
    pub deadline: Option<Time>,
    /// How far it is.
    pub phase: Phase,
    /// Set while it waits for an operator; a suspended saga takes answers but sends nothing.
    pub suspended: Option<Suspension>,
    /// Why it compensates, or what went wrong with its output.
    pub error: Option<SagaError>,
    /// In the order of the definition.
    pub steps: Vec<StepState>,
    /// How many journal entries it has.
    pub entries: u64,
    /// How many transitions it has been through: the version that fences concurrent writers.
    pub version: u64,
}

/// How far a saga is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Accepted; begins at `due`.
    Pending {
        /// When it begins.
        due: Time,
    },
    /// Going forward.
    Running,
    /// Undoing what was done.
    Compensating,
    /// Every step ended well.
    Completed {
        /// When.
        at: Time,
        /// The rendered `[output]`.
        output: Arc<Value>,
    },
    /// Everything that had to be undone is.
    Compensated {
        /// When.
        at: Time,
    },
    /// Ended with at least one compensation given up.
    Failed {
        /// When.
        at: Time,
    },
}

/// Why a saga waits for an operator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Suspension {
    /// For a person.
    pub reason: String,
    /// Since when.
    pub since: Time,
    /// The step whose compensation failed; `None` where an operator asked for it, or sagad itself could not go on.
    pub step: Option<StepIx>,
}

/// Why a saga compensates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SagaError {
    /// The step that failed; `None` for a deadline or a cancellation.
    pub step: Option<StepIx>,
    /// What went wrong.
    pub failure: Failure,
}

/// What went wrong, as a participant, the broker or sagad put it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// Its class.
    pub reason: Reason,
    /// For a person.
    pub message: String,
    /// Whatever the participant added; null where nothing.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub details: Value,
}

impl Failure {
    /// A failure without details.
    pub fn new(reason: Reason, message: impl Into<String>) -> Failure {
        Failure { reason, message: message.into(), details: Value::Null }
    }
}

/// The classes of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The participant said so.
    Failure,
    /// No answer came in time.
    Timeout,
    /// The participant rejected the command without requeue.
    Rejected,
    /// The command died of old age in its queue.
    Expired,
    /// It was delivered too often.
    DeliveryLimit,
    /// Its queue was full.
    MaxLength,
    /// No queue took it.
    Unroutable,
    /// The answer breaks the step's reply rules.
    InvalidReply,
    /// A template or an expression could not be rendered.
    Template,
    /// The saga's own deadline.
    Deadline,
    /// An operator cancelled.
    Cancelled,
    /// A child saga failed.
    Child,
}

impl Reason {
    /// The word in messages and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Failure => "failure",
            Reason::Timeout => "timeout",
            Reason::Rejected => "rejected",
            Reason::Expired => "expired",
            Reason::DeliveryLimit => "delivery_limit",
            Reason::MaxLength => "max_length",
            Reason::Unroutable => "unroutable",
            Reason::InvalidReply => "invalid_reply",
            Reason::Template => "template",
            Reason::Deadline => "deadline",
            Reason::Cancelled => "cancelled",
            Reason::Child => "child",
        }
    }
}

/// One step of one saga.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepState {
    /// Forward.
    pub execute: ActionState,
    /// Its undo.
    #[serde(default, skip_serializing_if = "ActionState::is_untouched")]
    pub compensate: ActionState,
}

/// One action of one step: the same machine forward and in undo.
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
    /// Whether a participant had its hands on it for certain: it said what came of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub handled: bool,
    /// Whether the participant said of the latest attempt that it is still at it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
    /// Why the last attempt failed, while another may follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Failure>,
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
    /// A command is out.
    Running {
        /// When the attempt times out.
        deadline: Time,
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
        matches!(self.progress, Progress::Failed { by: None, .. }) && !self.unanswered.is_empty()
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

impl StepState {
    /// One of the two directions.
    pub fn action(&self, action: Action) -> &ActionState {
        match action {
            Action::Execute => &self.execute,
            Action::Compensate => &self.compensate,
        }
    }

    /// One of the two directions, to change it.
    pub fn action_mut(&mut self, action: Action) -> &mut ActionState {
        match action {
            Action::Execute => &mut self.execute,
            Action::Compensate => &mut self.compensate,
        }
    }

    /// Whether the outcome of the execute has to be undone.
    pub fn needs_undo(&self, step: &Step) -> bool {
        let Some(compensate) = &step.compensate else { return false };
        let CompensateOn { success, in_doubt, failure } = compensate.on;
        match self.execute.progress {
            Progress::Succeeded { .. } => success,
            Progress::Failed { .. } if self.execute.in_doubt() => in_doubt,
            Progress::Failed { .. } => failure && self.execute.handled,
            _ => false,
        }
    }

    /// Whether nothing of this step is left to undo or to wait for: what was before it may be undone.
    pub fn is_settled(&self, step: &Step, policy: crate::core::definition::OnCompensationFailure) -> bool {
        use crate::core::definition::OnCompensationFailure::Continue;
        match self.compensate.progress {
            Progress::Succeeded { .. } | Progress::GivenUp { .. } => true,
            Progress::Failed { .. } => policy == Continue,
            Progress::Running { .. } | Progress::Scheduled { .. } => false,
            Progress::Idle | Progress::Skipped { .. } => !self.execute.under_way() && !self.needs_undo(step),
        }
    }

    /// The status, as users see it.
    pub fn status(&self) -> StepStatus {
        match self.compensate.progress {
            Progress::Scheduled { .. } | Progress::Running { .. } => return StepStatus::Compensating,
            Progress::Succeeded { .. } => return StepStatus::Compensated,
            Progress::Failed { .. } | Progress::GivenUp { .. } => return StepStatus::CompensationFailed,
            Progress::Idle | Progress::Skipped { .. } => {}
        }
        match self.execute.progress {
            Progress::Idle => StepStatus::Pending,
            Progress::Scheduled { .. } => StepStatus::Scheduled,
            Progress::Running { .. } => StepStatus::Running,
            Progress::Succeeded { .. } => StepStatus::Succeeded,
            Progress::Skipped { .. } => StepStatus::Skipped,
            Progress::Failed { .. } if self.execute.in_doubt() => StepStatus::InDoubt,
            Progress::Failed { .. } | Progress::GivenUp { .. } => StepStatus::Failed,
        }
    }
}

/// A step's status, as users see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words explain themselves")]
pub enum StepStatus {
    Pending,
    Skipped,
    Scheduled,
    Running,
    Succeeded,
    Failed,
    InDoubt,
    Compensating,
    Compensated,
    CompensationFailed,
}

impl StepStatus {
    /// The word in templates and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            StepStatus::Pending => "pending",
            StepStatus::Skipped => "skipped",
            StepStatus::Scheduled => "scheduled",
            StepStatus::Running => "running",
            StepStatus::Succeeded => "succeeded",
            StepStatus::Failed => "failed",
            StepStatus::InDoubt => "in_doubt",
            StepStatus::Compensating => "compensating",
            StepStatus::Compensated => "compensated",
            StepStatus::CompensationFailed => "compensation_failed",
        }
    }
}

/// A saga's status, as users see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the words explain themselves")]
pub enum Status {
    Pending,
    Running,
    Compensating,
    Suspended,
    Completed,
    Compensated,
    Failed,
}

impl Status {
    /// All of them.
    pub const ALL: [Status; 7] = [
        Status::Pending,
        Status::Running,
        Status::Compensating,
        Status::Suspended,
        Status::Completed,
        Status::Compensated,
        Status::Failed,
    ];

    /// The word in columns, filters and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Pending => "pending",
            Status::Running => "running",
            Status::Compensating => "compensating",
            Status::Suspended => "suspended",
            Status::Completed => "completed",
            Status::Compensated => "compensated",
            Status::Failed => "failed",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// Whether a saga of this status has ended.
    pub fn is_terminal(self) -> bool {
        matches!(self, Status::Completed | Status::Compensated | Status::Failed)
    }
}

impl Saga {
    /// Its status.
    pub fn status(&self) -> Status {
        match self.phase {
            Phase::Completed { .. } => Status::Completed,
            Phase::Compensated { .. } => Status::Compensated,
            Phase::Failed { .. } => Status::Failed,
            _ if self.suspended.is_some() => Status::Suspended,
            Phase::Pending { .. } => Status::Pending,
            Phase::Running => Status::Running,
            Phase::Compensating => Status::Compensating,
        }
    }

    /// When it ended.
    pub fn ended_at(&self) -> Option<Time> {
        match self.phase {
            Phase::Completed { at, .. } | Phase::Compensated { at } | Phase::Failed { at } => Some(at),
            _ => None,
        }
    }

    /// When it next wants a [`Tick`](crate::core::input::Input::Tick) from the database.
    ///
    /// Time-outs and deadlines are the database's alone and exact. Delays and back-offs of `slack` or more are the
    /// broker's to wake; the database has them `slack` later, in case the broker lost the wake-up.
    pub fn due(&self, slack: std::time::Duration) -> Option<Time> {
        let wait = |due: Time| if due.since(self.updated_at) < SHORTEST_BROKER_DELAY { due } else { due.plus(slack) };
        let deadline = if self.phase == Phase::Running && self.suspended.is_none() { self.deadline } else { None };
        let time_outs = self.actions().filter_map(|action| match action.progress {
            Progress::Running { deadline } => Some(deadline),
            _ => None,
        });
        time_outs.chain(self.waits().map(wait)).chain(deadline).min()
    }

    /// When its delays and back-offs are over, in no order. A suspended saga waits for an operator alone.
    pub fn waits(&self) -> impl Iterator<Item = Time> + '_ {
        let start = match self.phase {
            Phase::Pending { due } => Some(due),
            _ => None,
        };
        let scheduled = self.actions().filter_map(|action| match action.progress {
            Progress::Scheduled { due } => Some(due),
            _ => None,
        });
        scheduled.chain(start).filter(|_| self.suspended.is_none())
    }

    fn actions(&self) -> impl Iterator<Item = &ActionState> {
        self.steps.iter().flat_map(|step| [&step.execute, &step.compensate])
    }

    /// Whether what `definition` says fits this state: the same number of steps.
    pub fn fits(&self, definition: &Definition) -> bool {
        self.steps.len() == definition.steps.len()
    }
}

/// The first rung of the ladder of delay queues: what is sooner is waited for in memory.
pub const SHORTEST_BROKER_DELAY: std::time::Duration = std::time::Duration::from_millis(100);
