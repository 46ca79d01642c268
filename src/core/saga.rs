//! A saga's state: a fold of its journal.
//!
//! ```text
//!   Saga ─> StepState ─> Unit: one, or one for each element of a `foreach` ─> ActionState: execute, compensate, probe
//! ```

pub mod action;
pub mod elements;
pub mod failure;
pub mod status;
pub mod step;
pub mod tally;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::action::{ActionState, Progress};
pub use self::elements::{Chunk, Elements, MOST_ELEMENTS, Search};
pub use self::failure::{Failure, Reason};
pub use self::status::{Status, StepStatus};
pub use self::step::{StepState, Unit};
pub use self::tally::{Tally, earliest};

use crate::core::definition::Definition;
use crate::core::id::{SagaId, Spot, StepIx};
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
    /// The step that runs it, if it is a child.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
    /// The value of its definition's `lock`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<Arc<str>>,
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
    /// Signals and events that came before their step was reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub letters: Vec<Letter>,
    /// The ids of the latest signals and events that steps have taken: they may come again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taken: Vec<Arc<str>>,
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
        /// When it begins, at the earliest.
        due: Time,
        /// It could begin, but for its lock or the limit of sagas that run at once.
        held: bool,
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
    /// What it can't go on without; `None` where an operator asked for it, or sagad itself could not go on.
    pub spot: Option<Spot>,
}

/// The step of another saga that runs this one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parent {
    /// The other saga.
    pub saga: SagaId,
    /// Its unit.
    pub spot: Spot,
    /// Its step's name.
    pub step: Arc<str>,
    /// The attempt that began this saga: the end of this saga answers it.
    pub attempt: u32,
    /// How many sagas are above this one.
    pub depth: u32,
    /// The latest attempt at having this saga undone: the end of that answers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<u32>,
}

/// A signal or an event that a step will take once it waits for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Letter {
    /// Which steps may take it.
    pub to: Addressee,
    /// Tells it from others, if whoever sent it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Arc<str>>,
    /// What it says.
    pub payload: Arc<Value>,
}

/// Which steps may take a [`Letter`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Addressee {
    /// Those that wait for this signal.
    Signal(Arc<str>),
    /// This one, which waits for an event.
    Step(StepIx),
}

/// Why a saga compensates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SagaError {
    /// The step that failed; `None` for a deadline or a cancellation.
    pub step: Option<StepIx>,
    /// What went wrong.
    pub failure: Failure,
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

    /// A unit of it.
    pub fn unit(&self, spot: Spot) -> Option<&Unit> {
        self.steps.get(spot.step)?.unit(spot.item)
    }

    /// A unit of it, to change it.
    pub fn unit_mut(&mut self, spot: Spot) -> Option<&mut Unit> {
        self.steps.get_mut(spot.step)?.unit_mut(spot.item)
    }

    /// Whether a step that is a point of no return has succeeded: from then on it only goes forward.
    pub fn is_past_pivot(&self, definition: &Definition) -> bool {
        let mut steps = definition.steps.iter().zip(&self.steps);
        steps.any(|(step, state)| {
            step.pivot && state.units().all(|(_, unit)| matches!(unit.execute.progress, Progress::Succeeded { .. }))
        })
    }

    /// Its deadline, as long as that counts: while it goes forward past its point of no return it does not.
    pub fn end(&self, definition: &Definition) -> Option<Time> {
        let forward = self.phase == Phase::Running && self.is_past_pivot(definition);
        self.deadline.filter(|_| !forward)
    }

    /// Notes in the state what can only be told from the elements of its steps, which are stored apart.
    pub fn sum_up(&mut self, definition: &Definition) {
        for (step, state) in definition.steps.iter().zip(&mut self.steps) {
            let status = state.elements.is_some().then(|| state.status(step, definition.on_compensation_failure));
            if let Some(elements) = &mut state.elements {
                elements.status = status;
            }
        }
    }

    /// When it next wants a [`Tick`](crate::core::input::Input::Tick) from the database.
    ///
    /// Time-outs and deadlines are the database's alone and exact. Delays and back-offs of `slack` or more are the
    /// broker's to wake; the database has them `slack` later, in case the broker lost the wake-up.
    pub fn due(&self, definition: &Definition, slack: Duration) -> Option<Time> {
        let Timers { deadline, time_out, wait } = self.timers(definition);
        let wait =
            wait.map(|due| if due.since(self.updated_at) < SHORTEST_BROKER_DELAY { due } else { due.plus(slack) });
        earliest(deadline, earliest(time_out, wait))
    }

    /// What it waits for. A suspended saga waits for an operator, and for answers.
    pub fn timers(&self, definition: &Definition) -> Timers {
        let mut timers = Timers::default();
        let mut is_forward = false;
        for (step, state) in definition.steps.iter().zip(&self.steps) {
            let tally = state.tally(step, definition.on_compensation_failure);
            timers.time_out = earliest(timers.time_out, tally.time_out);
            timers.wait = earliest(timers.wait, tally.wait);
            is_forward |= tally.forward > 0;
        }
        if let Phase::Pending { due, held: false } = self.phase {
            timers.wait = Some(due);
        }
        if self.phase == Phase::Running || self.phase == Phase::Compensating && is_forward {
            timers.deadline = self.end(definition);
        }
        match self.suspended {
            Some(_) => Timers { time_out: timers.time_out, ..Timers::default() },
            None => timers,
        }
    }

    /// Whether what `definition` says fits this state: the same number of steps.
    pub fn fits(&self, definition: &Definition) -> bool {
        self.steps.len() == definition.steps.len()
    }
}

/// When a saga's timers are due, each kind's earliest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timers {
    /// The saga's own deadline.
    pub deadline: Option<Time>,
    /// Of an attempt.
    pub time_out: Option<Time>,
    /// The end of a delay or a back-off.
    pub wait: Option<Time>,
}

/// The first rung of the ladder of delay queues: what is sooner is waited for in memory.
pub const SHORTEST_BROKER_DELAY: Duration = Duration::from_millis(100);
