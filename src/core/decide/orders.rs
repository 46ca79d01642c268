//! What operators ask for, where the saga's state allows it.

use std::sync::Arc;

use super::Transition;
use crate::core::apply::saga_error;
use crate::core::definition::OnCompensationFailure;
use crate::core::entry::{Entry, Resolution};
use crate::core::id::{Action, StepIx};
use crate::core::input::{Forbidden, Order};
use crate::core::saga::{Phase, Progress, Reason};

impl Transition<'_> {
    pub(super) fn take_order(&mut self, actor: String, order: Order) -> Result<(), Forbidden> {
        let status = self.saga.status();
        let forbidden = |why: &str| Forbidden::State(format!("the saga is {}: {why}", status.as_str()));
        if status.is_terminal() {
            return Err(forbidden("it has ended"));
        }
        match order {
            Order::Cancel { reason } => {
                if self.saga.phase == Phase::Compensating {
                    return Err(forbidden("it is already being undone; resume it, or retry or resolve its step"));
                }
                let message = reason.unwrap_or_else(|| format!("cancelled by {actor}"));
                self.turn_round(saga_error(Reason::Cancelled, message), Some(actor));
            }
            Order::Suspend { reason } => {
                if self.saga.suspended.is_some() {
                    return Err(forbidden("it waits for an operator already"));
                }
                let reason = reason.unwrap_or_else(|| format!("suspended by {actor}"));
                self.record(Entry::Suspended { reason, step: None, actor: Some(actor) });
            }
            Order::Resume { reason } => {
                if self.saga.suspended.is_none() {
                    return Err(forbidden("only a suspended one can be resumed"));
                }
                self.record(Entry::Resumed { actor: Some(actor.clone()), reason });
                for step in 0..self.saga.steps.len() {
                    if matches!(self.saga.steps[step].compensate.progress, Progress::Failed { .. })
                        && self.definition.on_compensation_failure == OnCompensationFailure::Suspend
                    {
                        let (action, actor) = (Action::Compensate, actor.clone());
                        self.record(Entry::Retried { step, action, actor, reason: None });
                    }
                }
            }
            Order::Retry { step, reason } => {
                let step = self.step_named(step)?;
                let state = &self.saga.steps[step];
                let action = match (&state.execute.progress, &state.compensate.progress) {
                    (_, Progress::Failed { .. }) => Action::Compensate,
                    (Progress::Failed { .. }, Progress::Idle) if self.saga.phase == Phase::Running => Action::Execute,
                    _ => return Err(forbidden("no action of this step has failed and could be tried again")),
                };
                // What came after an optional step has taken its failure for its end.
                if action == Action::Execute && self.has_gone_on(step) {
                    return Err(forbidden("its step is optional, and the steps after it have begun"));
                }
                self.record(Entry::Retried { step, action, actor: actor.clone(), reason });
                if self.saga.suspended.is_some() {
                    self.record(Entry::Resumed { actor: Some(actor), reason: None });
                }
            }
            Order::Resolve { step, outcome, reply, reason } => {
                let step = self.step_named(step)?;
                let state = &self.saga.steps[step];
                let possible = match outcome {
                    Resolution::Succeeded | Resolution::Failed => {
                        let open =
                            matches!(state.execute.progress, Progress::Failed { .. }) || state.execute.under_way();
                        state.execute.attempt > 0 && open && state.compensate.is_untouched()
                    }
                    Resolution::Compensated | Resolution::GivenUp => {
                        let settled =
                            matches!(state.compensate.progress, Progress::Succeeded { .. } | Progress::GivenUp { .. });
                        let owed = state.needs_undo(&self.definition.steps[step]) || !state.compensate.is_untouched();
                        self.saga.phase == Phase::Compensating && owed && !settled
                    }
                };
                if !possible {
                    let step = self.saga.steps[step].status().as_str();
                    return Err(forbidden(&format!(
                        "its step is {step}, which leaves nothing of this kind to resolve"
                    )));
                }
                let waits_for_it = self.saga.suspended.as_ref().is_some_and(|cause| cause.step == Some(step));
                let reply = Arc::new(reply);
                self.record(Entry::Resolved { step, outcome, reply, reason, actor: actor.clone() });
                if waits_for_it {
                    self.record(Entry::Resumed { actor: Some(actor), reason: None });
                }
            }
        }
        Ok(())
    }

    fn has_gone_on(&self, step: StepIx) -> bool {
        let mut later = self.definition.steps[step].later.iter();
        later.any(|later| self.saga.steps[*later].execute.progress != Progress::Idle)
    }

    fn step_named(&self, name: String) -> Result<StepIx, Forbidden> {
        self.definition.step_named(&name).ok_or(Forbidden::NoSuchStep(name))
    }
}
