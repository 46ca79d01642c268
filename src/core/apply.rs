//! The fold: what a journal entry does to a saga. Nothing else changes one.

use std::sync::Arc;

use serde_json::Value;

use crate::core::entry::{Entry, Handling, Resolution};
use crate::core::id::{Action, SagaId, Spot};
use crate::core::saga::{
    ActionState, Elements, Failure, Letter, Phase, Progress, Reason, Saga, SagaError, StepState, Suspension,
};
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
    let Entry::Accepted { key, priority, due, trace, parent, lock, steps, .. } = first else { return None };
    Some(Saga {
        id: origin.id,
        definition: origin.definition,
        revision: origin.revision,
        key: key.clone(),
        priority: *priority,
        parent: parent.clone(),
        lock: lock.clone(),
        input: origin.input,
        trace: trace.clone(),
        created_at: at,
        started_at: None,
        updated_at: at,
        deadline: None,
        phase: Phase::Pending { due: *due, held: false },
        suspended: None,
        error: None,
        steps: vec![StepState::default(); *steps],
        letters: Vec::new(),
        taken: Vec::new(),
        entries: 1,
        version: 1,
    })
}

/// Applies one entry. An entry about a step that the saga does not have changes nothing but the count.
pub fn apply(saga: &mut Saga, entry: &Entry, at: Time) {
    saga.entries += 1;
    saga.updated_at = at;
    match entry {
        Entry::Accepted { .. } | Entry::Repaired { .. } => {}
        // An ended saga waits for nobody, whatever is wrong with its row.
        Entry::Suspended { .. } if saga.ended_at().is_some() => {}
        Entry::Held {} => {
            if let Phase::Pending { held, .. } = &mut saga.phase {
                *held = true;
            }
        }
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
        Entry::Suspended { reason, spot, .. } => {
            saga.suspended = Some(Suspension { reason: reason.clone(), since: at, spot: *spot });
        }
        Entry::Resumed { .. } => saga.suspended = None,
        Entry::Completed { output, error } => {
            saga.phase = Phase::Completed { at, output: output.clone() };
            saga.suspended = None;
            saga.error = error.clone();
        }
        Entry::Compensated {} => saga.phase = Phase::Compensated { at },
        Entry::GaveUp {} => saga.phase = Phase::Failed { at },
        Entry::Skipped { spot } => set(saga, *spot, Action::Execute, Progress::Skipped { at }),
        Entry::Expanded { spot, elements } => {
            if let Some(state) = saga.steps.get_mut(spot.step) {
                state.unit.execute.progress = Progress::Idle;
                state.unit.execute.started_at = Some(at);
                state.elements = Some(Elements::new(elements.clone()));
            }
        }
        Entry::Scheduled { spot, action, due } => set(saga, *spot, *action, Progress::Scheduled { due: *due }),
        Entry::Sent { spot, action, attempt, deadline, body } => {
            if let Some(state) = action_of(saga, *spot, *action) {
                state.attempt = *attempt;
                state.asked = body.clone().or(state.asked.take());
                state.pending = false;
                state.started_at.get_or_insert(at);
                state.progress = Progress::Running { deadline: *deadline };
            }
        }
        Entry::Waiting { spot, deadline } => {
            if let Some(state) = action_of(saga, *spot, Action::Execute) {
                state.started_at.get_or_insert(at);
                state.progress = Progress::Running { deadline: *deadline };
            }
        }
        Entry::Received { to, id, payload, .. } => {
            saga.letters.push(Letter { to: to.clone(), id: id.clone(), payload: payload.clone() });
        }
        Entry::Taken { spot, to } => {
            let first = saga.letters.iter().position(|letter| letter.to == *to);
            if let Some(Letter { id, payload, .. }) = first.map(|first| saga.letters.remove(first)) {
                remember(&mut saga.taken, id);
                set(saga, *spot, Action::Execute, Progress::Succeeded { at, reply: payload });
            }
        }
        Entry::Extended { spot, action, deadline, .. } => {
            if let Some(state) = action_of(saga, *spot, *action) {
                state.pending = true;
                state.progress = Progress::Running { deadline: *deadline };
            }
        }
        Entry::Succeeded { spot, action: Action::Probe, reply, .. } => {
            for action in [Action::Probe, Action::Execute] {
                if let Some(state) = action_of(saga, *spot, action) {
                    state.handled = true;
                    state.unanswered.clear();
                    state.held.clear();
                    state.last_failure = None;
                    state.progress = Progress::Succeeded { at, reply: reply.clone() };
                }
            }
        }
        Entry::Succeeded { spot, action, reply, .. } => {
            if let Some(state) = action_of(saga, *spot, *action) {
                state.handled = true;
                state.unanswered.clear();
                state.held.clear();
                state.last_failure = None;
                state.progress = Progress::Succeeded { at, reply: reply.clone() };
            }
            if *action == Action::Execute {
                stop_asking(saga, *spot);
            }
        }
        Entry::Failed { spot, action, attempt, failure } => {
            if let Some(state) = action_of(saga, *spot, *action) {
                state.handled |= *attempt > 0;
                // Its own doubt is over, also if an operator asks for other attempts.
                state.unanswered.retain(|unanswered| unanswered != attempt);
                state.held.retain(|held| held != attempt);
                let by = (*attempt > 0).then_some(*attempt);
                state.progress = Progress::Failed { at, failure: failure.clone(), by };
            }
            if *action == Action::Execute {
                stop_asking(saga, *spot);
            }
            // The answer to the question: what was in doubt has not been done.
            if *action == Action::Probe
                && let Some(state) = action_of(saga, *spot, Action::Execute)
            {
                state.unanswered.clear();
                state.held.clear();
                state.handled = false;
                state.progress = Progress::Failed { at, failure: failure.clone(), by: None };
            }
        }
        Entry::AttemptFailed { spot, action, attempt, failure, handling } => {
            if let Some(state) = action_of(saga, *spot, *action) {
                if *handling == Handling::Answered {
                    state.handled = true;
                    state.unanswered.retain(|unanswered| unanswered != attempt);
                }
                // What turns out of a copy of it when all is over does not lead to another attempt.
                if !matches!(state.progress, Progress::Failed { .. }) {
                    state.last_failure = Some(failure.clone());
                }
                if matches!(handling, Handling::Maybe | Handling::Resent) {
                    if !state.unanswered.contains(attempt) {
                        if state.unanswered.len() == MOST_UNANSWERED {
                            state.unanswered.remove(1);
                        }
                        state.unanswered.push(*attempt);
                    }
                    let in_hand = *handling == Handling::Maybe && failure.reason.is_of_a_dead_letter();
                    if in_hand && state.held.len() < MOST_UNANSWERED {
                        state.held.push(*attempt);
                    }
                }
            }
        }
        Entry::NeverRan { spot, action, attempt, .. } => {
            let mut open = false;
            if let Some(state) = action_of(saga, *spot, *action) {
                state.unanswered.retain(|unanswered| unanswered != attempt);
                open = state.may_have_been_done();
            }
            // Nothing of it is in doubt any more: there is nothing to ask.
            if *action == Action::Execute && !open {
                stop_asking(saga, *spot);
            }
        }
        Entry::Exhausted { spot, action, failure } => {
            if let Some(state) = action_of(saga, *spot, *action) {
                state.last_failure = None;
                state.progress = Progress::Failed { at, failure: failure.clone(), by: None };
            }
        }
        Entry::Withdrawn { spot } => set(saga, *spot, Action::Execute, Progress::Idle),
        Entry::CompensationRenewed { spot } => {
            if let Some(state) = action_of(saga, *spot, Action::Compensate) {
                *state = ActionState { round: state.round + 1, ..anew(state) };
            }
        }
        Entry::GivenUp { spot, failure } => {
            set(saga, *spot, Action::Compensate, Progress::GivenUp { at, failure: failure.clone() });
        }
        Entry::Retried { spot, action, afresh, .. } => {
            if let Some(state) = action_of(saga, *spot, *action) {
                state.spent = state.attempt;
                if let Progress::Failed { failure, by: Some(done), .. } = &state.progress
                    && failure.reason == Reason::InvalidReply
                    && !state.held.contains(done)
                {
                    state.held.push(*done);
                }
                if *afresh {
                    state.void = state.attempt;
                    state.started_at = None;
                }
                state.last_failure = state.failure().cloned();
                state.progress = Progress::Idle;
            }
            // Another attempt raises the question anew.
            if *action == Action::Execute
                && let Some(probe) = action_of(saga, *spot, Action::Probe)
                && !probe.is_untouched()
            {
                *probe = anew(probe);
            }
        }
        Entry::Resolved { spot, outcome, reply, reason, .. } => {
            let failure = || Failure::new(Reason::Failure, reason.clone());
            let (action, progress) = match outcome {
                Resolution::Succeeded => (Action::Execute, Progress::Succeeded { at, reply: reply.clone() }),
                Resolution::Failed => (Action::Execute, Progress::Failed { at, failure: failure(), by: None }),
                Resolution::Compensated => (Action::Compensate, Progress::Succeeded { at, reply: reply.clone() }),
                Resolution::GivenUp => (Action::Compensate, Progress::GivenUp { at, failure: failure() }),
            };
            if let Some(state) = action_of(saga, *spot, action) {
                state.unanswered.clear();
                state.held.clear();
                state.handled &= *outcome != Resolution::Failed;
            }
            if action == Action::Execute {
                stop_asking(saga, *spot);
            }
            set(saga, *spot, action, progress);
        }
        Entry::UndoAsked { attempt } => {
            if let Some(parent) = &mut saga.parent {
                parent.undo = Some(*attempt);
            }
        }
    }
}

/// Whatever was asked about an execute, its own outcome is known now.
fn stop_asking(saga: &mut Saga, spot: Spot) {
    if let Some(probe) = action_of(saga, spot, Action::Probe)
        && probe.under_way()
    {
        *probe = anew(probe);
    }
}

/// How many attempts without an answer are remembered, the first and the last ones: past the point of no return there is no end of
/// them.
const MOST_UNANSWERED: usize = 64;

/// How many ids of signals and events are remembered.
const REMEMBERED: usize = 64;

fn remember(taken: &mut Vec<Arc<str>>, id: Option<Arc<str>>) {
    taken.extend(id);
    if taken.len() > REMEMBERED {
        taken.remove(0);
    }
}

/// The same action from the beginning: what comes of earlier attempts no longer counts.
fn anew(state: &ActionState) -> ActionState {
    ActionState {
        attempt: state.attempt,
        spent: state.attempt,
        void: state.attempt,
        started_at: state.started_at,
        ..ActionState::default()
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

fn action_of(saga: &mut Saga, spot: Spot, action: Action) -> Option<&mut ActionState> {
    saga.unit_mut(spot).map(|unit| unit.action_mut(action))
}

fn set(saga: &mut Saga, spot: Spot, action: Action, progress: Progress) {
    if let Some(state) = action_of(saga, spot, action) {
        state.progress = progress;
    }
}

/// The error of a saga that turns round for a reason of its own.
pub fn saga_error(reason: Reason, message: impl Into<String>) -> SagaError {
    SagaError { step: None, failure: Failure::new(reason, message) }
}
