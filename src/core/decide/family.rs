//! Sagas that run sagas. A child is a participant: it takes an order, says `pending`, and answers when it has ended.
//!
//! ```text
//!   parent: step ── start ──> child begins ── pending ──> the step waits without a time-out of its own
//!                             child ends ──── success or failure ──> the step has ended
//!           undo ── undo ───> child turns round, or takes back what it completed ── pending, then success or failure
//! ```

use serde_json::{Value, json};

use super::{Effect, Ignored, ParentAnswer, Transition};
use crate::core::answer::{Outcome, RawAnswer};
use crate::core::apply::saga_error;
use crate::core::definition::Definition;
use crate::core::entry::Entry;
use crate::core::id::{Action, Ticket};
use crate::core::saga::{Failure, Parent, Phase, Reason, Saga, Status};

/// Sagas below sagas: a definition that runs itself has to end somewhere.
pub(super) const DEEPEST: u32 = 8;

/// How a saga that has ended answers the step that asks it to begin once more; `None` while it is under way: it will answer.
pub fn end_of(definition: &Definition, saga: &Saga) -> Option<RawAnswer> {
    let mut saga = saga.clone();
    // Whatever became of its undo, it is not that which is asked for.
    saga.parent.as_mut()?.undo = None;
    let at = saga.updated_at;
    let mut transition = Transition::new(definition, saga, at);
    transition.tell_parent();
    match transition.effects.pop() {
        Some(Effect::Answer(ParentAnswer { answer, .. })) => Some(answer),
        _ => None,
    }
}

/// How a child has ended, if it is itself that says it failed, and not whoever refused its order.
pub(super) fn child_status(failure: &Failure) -> Option<&str> {
    failure.details.pointer("/details/status").and_then(Value::as_str)
}

/// Whether a child says that it gave up some of its undos.
pub(super) fn left_something(failure: &Failure) -> bool {
    child_status(failure) == Some(Status::Failed.as_str())
}

impl Transition<'_> {
    /// The saga that runs this one wants it undone.
    pub(super) fn take_undo(&mut self, by: Ticket) -> Option<Ignored> {
        let Some(parent) = &self.saga.parent else { return Some(Ignored::UnknownAttempt) };
        if (parent.saga, parent.spot) != (by.saga, by.spot) {
            return Some(Ignored::UnknownAttempt);
        }
        if parent.undo.is_some_and(|attempt| attempt >= by.attempt) {
            return Some(Ignored::Duplicate);
        }
        self.record(Entry::UndoAsked { attempt: by.attempt });
        match self.saga.phase {
            Phase::Compensated { .. } | Phase::Failed { .. } => self.tell_parent(),
            Phase::Compensating => self.answer_parent(Action::Compensate, by.attempt, Outcome::Pending, Value::Null),
            Phase::Pending { .. } | Phase::Running | Phase::Completed { .. } => {
                if self.saga.is_past_pivot(self.definition) {
                    let error = "it is past its point of no return and can't be undone";
                    self.answer_parent(Action::Compensate, by.attempt, Outcome::Failure, json!({ "error": error }));
                    return None;
                }
                self.answer_parent(Action::Compensate, by.attempt, Outcome::Pending, Value::Null);
                let message = format!("undone with the saga {} that runs it", by.saga);
                self.turn_round(saga_error(Reason::Cancelled, message), None);
            }
        }
        None
    }

    /// Tells the step that runs this saga that it has taken the order.
    pub(in crate::core) fn greet_parent(&mut self) {
        if let Some(Parent { attempt, .. }) = self.saga.parent {
            let body = json!({ "saga_id": self.saga.id.to_string() });
            self.answer_parent(Action::Execute, attempt, Outcome::Pending, body);
        }
    }

    /// Tells the step that runs this saga how it ended.
    pub(super) fn tell_parent(&mut self) {
        let Some(Parent { attempt, undo, .. }) = self.saga.parent else { return };
        let error = self.saga.error.as_ref().map(|error| {
            let step = error.step.and_then(|step| self.definition.steps.get(step)).map(|step| &*step.name);
            let saga = self.saga.id.to_string();
            let message = match step {
                Some(step) => {
                    format!("step `{step}` of the child `{}`: {}", self.saga.definition, error.failure.message)
                }
                None => format!("the child `{}`: {}", self.saga.definition, error.failure.message),
            };
            let status = self.saga.status().as_str();
            let details =
                json!({ "saga_id": saga, "status": status, "step": step, "reason": error.failure.reason.as_str() });
            json!({ "error": { "message": message, "details": details } })
        });
        let (action, attempt, outcome, body) = match (&self.saga.phase, undo) {
            (Phase::Completed { output, .. }, _) => (Action::Execute, attempt, Outcome::Success, Value::clone(output)),
            (Phase::Compensated { .. }, Some(undo)) => (Action::Compensate, undo, Outcome::Success, Value::Null),
            (Phase::Failed { .. }, Some(undo)) => {
                (Action::Compensate, undo, Outcome::Failure, error.unwrap_or_default())
            }
            (Phase::Compensated { .. } | Phase::Failed { .. }, None) => {
                (Action::Execute, attempt, Outcome::Failure, error.unwrap_or_default())
            }
            (Phase::Pending { .. } | Phase::Running | Phase::Compensating, _) => return,
        };
        self.answer_parent(action, attempt, outcome, body);
    }

    fn answer_parent(&mut self, action: Action, attempt: u32, outcome: Outcome, body: Value) {
        if let Some(Parent { saga, spot, .. }) = self.saga.parent {
            let ticket = Ticket { saga, spot, action, attempt };
            self.effects.push(Effect::Answer(ParentAnswer { ticket, answer: RawAnswer::new(Some(outcome), body) }));
        }
    }
}
