//! The fold: what a journal entry does to a saga. Nothing else changes one.

use std::sync::Arc;

use serde_json::Value;

use crate::core::entry::{Entry, Handling, Resolution};
use crate::core::id::{Action, SagaId, StepIx};
use crate::core::saga::{ActionState, Failure, Phase, Progress, Reason, Saga, SagaError, StepState, Suspension};
use crate::core::time::Time;

/// What a saga is before its first entry: what its row says that its journal does not repeat.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Its id.
    pub id: SagaId,
    /// The definition's name.
    pub definition: Arc<str>,
    /// The revision it is pinned to.
    pub revision: u32,
    /// What it was started with.
    pub input: Arc<Value>,
}

/// A saga from its origin and its first entry; `None` if that is not [`Entry::Accepted`].
pub fn begin(origin: Origin, first: &Entry, at: Time) -> Option<Saga> {
    let Entry::Accepted { key, priority, due, trace, steps, .. } = first else { return None };
    Some(Saga {
        id: origin.id,
        definition: origin.definition,
        revision: origin.revision,
        key: key.clone(),
        priority: *priority,
        input: origin.input,
        trace: trace.clone(),
        created_at: at,
        started_at: None,
        updated_at: at,
        deadline: None,
        phase: Phase::Pending { due: *due },
        suspended: None,
        error: None,
        steps: vec![StepState::default(); *steps],
        entries: 1,
        version: 1,
    })
}

/// Applies one entry. An entry about a step that the saga does not have changes nothing but the count.
pub fn apply(saga: &mut Saga, entry: &Entry, at: Time) {
    saga.entries += 1;
    saga.updated_at = at;
    match entry {
        Entry::Accepted { .. } => {}
        Entry::Started { deadline } => {
            saga.started_at = Some(at);
            saga.deadline = *deadline;
            saga.phase = Phase::Running;
        }
        Entry::Compensating { error, .. } => {
            saga.phase = Phase::Compensating;
            saga.suspended = None;
            // A saga that ended and takes up its compensation again keeps the error that it began with.
            saga.error.get_or_insert_with(|| error.clone());
        }
        Entry::Suspended { reason, step, .. } => {
            saga.suspended = Some(Suspension { reason: reason.clone(), since: at, step: *step });
        }
        Entry::Resumed { .. } => saga.suspended = None,
        Entry::Completed { output, error } => {
            saga.phase = Phase::Completed { at, output: output.clone() };
            saga.suspended = None;
            saga.error = error.clone();
        }
        Entry::Compensated {} => saga.phase = Phase::Compensated { at },
        Entry::GaveUp {} => saga.phase = Phase::Failed { at },
        Entry::Skipped { step } => set(saga, *step, Action::Execute, Progress::Skipped { at }),
        Entry::Scheduled { step, action, due } => set(saga, *step, *action, Progress::Scheduled { due: *due }),
        Entry::Sent { step, action, attempt, deadline } => {
            if let Some(state) = action_of(saga, *step, *action) {
                state.attempt = *attempt;
                state.pending = false;
                state.started_at.get_or_insert(at);
                state.progress = Progress::Running { deadline: *deadline };
            }
        }
        Entry::Extended { step, action, deadline, .. } => {
            if let Some(state) = action_of(saga, *step, *action) {
                state.pending = true;
                state.progress = Progress::Running { deadline: *deadline };
            }
        }
        Entry::Succeeded { step, action, reply, .. } => {
            if let Some(state) = action_of(saga, *step, *action) {
                state.handled = true;
                state.unanswered.clear();
                state.last_failure = None;
                state.progress = Progress::Succeeded { at, reply: reply.clone() };
            }
        }
        Entry::Failed { step, attempt, failure } => {
            if let Some(state) = action_of(saga, *step, Action::Execute) {
                state.handled |= *attempt > 0;
                let by = (*attempt > 0).then_some(*attempt);
                state.progress = Progress::Failed { at, failure: failure.clone(), by };
            }
        }
        Entry::AttemptFailed { step, action, attempt, failure, handling } => {
            if let Some(state) = action_of(saga, *step, *action) {
                state.handled |= *handling == Handling::Answered;
                state.last_failure = Some(failure.clone());
                if *handling == Handling::Maybe {
                    state.unanswered.push(*attempt);
                }
            }
        }
        Entry::NeverRan { step, action, attempt, .. } => {
            if let Some(state) = action_of(saga, *step, *action) {
                state.unanswered.retain(|unanswered| unanswered != attempt);
            }
        }
        Entry::Exhausted { step, action, failure } => {
            if let Some(state) = action_of(saga, *step, *action) {
                state.last_failure = None;
                state.progress = Progress::Failed { at, failure: failure.clone(), by: None };
            }
        }
        Entry::Withdrawn { step } => set(saga, *step, Action::Execute, Progress::Idle),
        Entry::CompensationRenewed { step } => {
            if let Some(state) = action_of(saga, *step, Action::Compensate) {
                *state = ActionState {
                    attempt: state.attempt,
                    spent: state.attempt,
                    void: state.attempt,
                    round: state.round + 1,
                    started_at: state.started_at,
                    ..ActionState::default()
                };
            }
        }
        Entry::Retried { step, action, .. } => {
            if let Some(state) = action_of(saga, *step, *action) {
                state.spent = state.attempt;
                state.last_failure = state.failure().cloned();
                state.progress = Progress::Idle;
            }
        }
        Entry::Resolved { step, outcome, reply, reason, .. } => {
            let failure = || Failure::new(Reason::Failure, reason.clone());
            let (action, progress) = match outcome {
                Resolution::Succeeded => (Action::Execute, Progress::Succeeded { at, reply: reply.clone() }),
                Resolution::Failed => (Action::Execute, Progress::Failed { at, failure: failure(), by: None }),
                Resolution::Compensated => (Action::Compensate, Progress::Succeeded { at, reply: reply.clone() }),
                Resolution::GivenUp => (Action::Compensate, Progress::GivenUp { at, failure: failure() }),
            };
            if let Some(state) = action_of(saga, *step, action) {
                state.unanswered.clear();
                state.handled &= *outcome != Resolution::Failed;
            }
            set(saga, *step, action, progress);
        }
    }
}

/// Replays a journal. `transitions` are the entries of each transition and its time, oldest first; `None` if there is none or the
/// first is no start.
pub fn replay(origin: Origin, transitions: impl IntoIterator<Item = (Time, Vec<Entry>)>) -> Option<Saga> {
    let mut saga: Option<Saga> = None;
    for (at, entries) in transitions {
        for (nth, entry) in entries.iter().enumerate() {
            match &mut saga {
                None => saga = Some(begin(origin.clone(), entry, at)?),
                Some(saga) => {
                    apply(saga, entry, at);
                    saga.version += u64::from(nth == 0);
                }
            }
        }
    }
    saga
}

fn action_of(saga: &mut Saga, step: StepIx, action: Action) -> Option<&mut ActionState> {
    saga.steps.get_mut(step).map(|step| step.action_mut(action))
}

fn set(saga: &mut Saga, step: StepIx, action: Action, progress: Progress) {
    if let Some(state) = action_of(saga, step, action) {
        state.progress = progress;
    }
}

/// The error of a saga that turns round for a reason of its own.
pub fn saga_error(reason: Reason, message: impl Into<String>) -> SagaError {
    SagaError { step: None, failure: Failure::new(reason, message) }
}
