//! What operators ask for, where the saga's state allows it.

use std::sync::Arc;

use super::Transition;
use super::advance::ALL;
use super::family::child_status;
use crate::core::apply::saga_error;
use crate::core::definition::OnCompensationFailure;
use crate::core::entry::{Entry, Resolution};
use crate::core::id::{Action, Spot, StepIx};
use crate::core::input::{Forbidden, Order};
use crate::core::saga::{Phase, Progress, Reason, StepState, Unit};

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
                if self.saga.is_past_pivot(self.definition) {
                    return Err(forbidden("it is past its point of no return and can only go forward"));
                }
                let message = reason.unwrap_or_else(|| format!("cancelled by {actor}"));
                self.turn_round(saga_error(Reason::Cancelled, message), Some(actor));
            }
            Order::Suspend { reason } => {
                if self.saga.suspended.is_some() {
                    return Err(forbidden("it waits for an operator already"));
                }
                let reason = reason.unwrap_or_else(|| format!("suspended by {actor}"));
                self.record(Entry::Suspended { reason, spot: None, actor: Some(actor) });
            }
            Order::Resume { reason } => {
                let Some(suspension) = self.saga.suspended.clone() else {
                    return Err(forbidden("only a suspended one can be resumed"));
                };
                self.record(Entry::Resumed { actor: Some(actor.clone()), reason });
                // What it could not go on without gets fresh attempts, and so does whatever else failed on the way back.
                let forward = suspension.spot.filter(|_| self.saga.phase == Phase::Running);
                let forward = forward.filter(|spot| self.has_failed(*spot, Action::Execute));
                let back = if self.definition.on_compensation_failure == OnCompensationFailure::Suspend {
                    (0..self.saga.steps.len()).flat_map(|step| self.failed_in(step, Action::Compensate)).collect()
                } else {
                    Vec::new()
                };
                let forward = forward.map(|spot| (spot, Action::Execute));
                for (spot, action) in forward.into_iter().chain(back.into_iter().map(|spot| (spot, Action::Compensate)))
                {
                    self.retry_again(spot, action, actor.clone(), None);
                }
            }
            Order::Retry { step, item, reason } => {
                let step = self.step_named(step)?;
                let execute = if self.saga.phase == Phase::Running { Some(Action::Execute) } else { None };
                let mut failed = Vec::new();
                for action in std::iter::once(Action::Compensate).chain(execute) {
                    let spots = self
                        .failed_in(step, action)
                        .into_iter()
                        .filter(|spot| item.is_none_or(|it| spot.item == Some(it)));
                    failed.extend(spots.map(|spot| (spot, action)));
                    if !failed.is_empty() {
                        break;
                    }
                }
                let Some((_, action)) = failed.first().copied() else {
                    return Err(forbidden("no action of this step has failed and could be tried again"));
                };
                // What came after an optional step has taken its failure for its end.
                if action == Action::Execute && self.has_gone_on(step) {
                    return Err(forbidden("its step is optional, and the steps after it have begun"));
                }
                for (spot, action) in failed {
                    self.retry_again(spot, action, actor.clone(), reason.clone());
                }
                if self.saga.suspended.is_some() {
                    self.record(Entry::Resumed { actor: Some(actor), reason: None });
                }
            }
            Order::Resolve { step, item, outcome, reply, reason } => {
                let step = self.step_named(step)?;
                let possible = |unit: &Unit| self.may_be_resolved(step, unit, outcome);
                let mut spots = self.find(step, ALL, |_| true, possible);
                spots.retain(|spot| item.is_none_or(|item| spot.item == Some(item)));
                if spots.is_empty() {
                    let step = self.tally(step).status().as_str();
                    return Err(forbidden(&format!(
                        "its step is {step}, which leaves nothing of this kind to resolve"
                    )));
                }
                let spot = self.saga.suspended.as_ref().and_then(|cause| cause.spot);
                let waits_for_it = spot.is_some_and(|spot| spots.contains(&spot));
                let reply = Arc::new(reply);
                for spot in spots {
                    let (reply, reason, actor) = (reply.clone(), reason.clone(), actor.clone());
                    self.record(Entry::Resolved { spot, outcome, reply, reason, actor });
                    if outcome == Resolution::Succeeded {
                        self.forget_what_was_left(spot);
                    }
                }
                if waits_for_it {
                    self.record(Entry::Resumed { actor: Some(actor), reason: None });
                }
            }
        }
        Ok(())
    }

    /// Whether an operator may say of a unit how it ended.
    fn may_be_resolved(&self, step: StepIx, unit: &Unit, outcome: Resolution) -> bool {
        let Unit { execute, compensate, .. } = unit;
        match outcome {
            Resolution::Succeeded | Resolution::Failed => {
                let open = match execute.progress {
                    Progress::Failed { .. } | Progress::Running { .. } => true,
                    Progress::Scheduled { .. } => execute.attempt > 0,
                    _ => false,
                };
                open && self.has_no_undo(unit)
            }
            Resolution::Compensated | Resolution::GivenUp => {
                let settled = matches!(compensate.progress, Progress::Succeeded { .. } | Progress::GivenUp { .. });
                let owed = unit.needs_undo(&self.definition.steps[step]) || !compensate.is_untouched();
                self.saga.phase == Phase::Compensating && owed && !settled
            }
        }
    }

    fn retry_again(&mut self, spot: Spot, action: Action, actor: String, reason: Option<String>) {
        let state = self.saga.unit(spot).map(|unit| unit.action(action));
        let ended = |progress: &Progress| match progress {
            Progress::Failed { by: Some(_), failure, .. } => child_status(failure).is_some(),
            _ => false,
        };
        // A child that has ended is not begun again: another one is. Where an order was refused, another may have begun it all the same.
        let afresh = state.is_some_and(|state| ended(&state.progress))
            && action == Action::Execute
            && self.runs_child(spot.step);
        self.record(Entry::Retried { spot, action, afresh, actor, reason });
        if afresh {
            self.forget_what_was_left(spot);
        }
    }

    fn has_failed(&self, spot: Spot, action: Action) -> bool {
        let state = self.saga.unit(spot).map(|unit| unit.action(action));
        state.is_some_and(|state| matches!(state.progress, Progress::Failed { .. }))
    }

    /// The units of which an action has failed. An execute whose undo is on its way is not what failed.
    fn failed_in(&self, step: StepIx, action: Action) -> Vec<Spot> {
        let failed = |unit: &Unit| {
            let forward = action == Action::Compensate || self.has_no_undo(unit);
            forward && matches!(unit.action(action).progress, Progress::Failed { .. })
        };
        self.find(step, ALL, |_| true, failed)
    }

    /// Whether its undo was never asked for. Where the saga only goes forward none ever is, whatever a child of it has left behind.
    fn has_no_undo(&self, unit: &Unit) -> bool {
        let forward = self.saga.phase == Phase::Running && self.saga.is_past_pivot(self.definition);
        unit.compensate.is_untouched() || forward
    }

    /// What a child left behind is not all that there is, once another one is begun, or it has ended well after all.
    pub(super) fn forget_what_was_left(&mut self, spot: Spot) {
        if self.saga.unit(spot).is_some_and(|unit| !unit.compensate.is_fresh()) {
            self.record(Entry::CompensationRenewed { spot });
        }
    }

    fn has_gone_on(&self, step: StepIx) -> bool {
        let mut later = self.definition.steps[step].later.iter();
        later.any(|later| {
            let StepState { unit, elements } = &self.saga.steps[*later];
            elements.is_some() || unit.execute.progress != Progress::Idle
        })
    }

    fn step_named(&self, name: String) -> Result<StepIx, Forbidden> {
        self.definition.step_named(&name).ok_or(Forbidden::NoSuchStep(name))
    }
}
