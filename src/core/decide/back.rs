//! The way back: what was done is undone, in reverse.

use super::Transition;
use super::advance::ALL;
use crate::core::definition::{Execute, OnCompensationFailure, Step};
use crate::core::entry::{Entry, Handling};
use crate::core::id::{Action, Spot, StepIx};
use crate::core::saga::{Failure, Phase, Progress, Reason, SagaError, Search, Tally, Unit};

impl Transition<'_> {
    /// The saga turns round: what waits is called off; what is in flight is waited for, except children, which are told.
    pub(super) fn turn_round(&mut self, error: SagaError, actor: Option<String>) {
        let failure = error.failure.clone();
        self.record(Entry::Compensating { error, actor });
        self.withdraw();
        let is_told = |step: &Step| matches!(step.execute, Execute::Saga(_)) && step.compensate.is_some();
        self.wait_no_longer(&failure, |step| is_told(step) || failure.reason == Reason::Deadline);
    }

    /// What is in flight forward, in such steps, is in doubt from now on, and so is what is being asked about.
    pub(super) fn wait_no_longer(&mut self, failure: &Failure, of: impl Fn(&Step) -> bool) {
        for step in 0..self.saga.steps.len() {
            if !of(&self.definition.steps[step]) {
                continue;
            }
            for action in [Action::Execute, Action::Probe] {
                for spot in self.find(step, ALL, |tally| tally.forward > 0, |unit| unit.action(action).in_flight()) {
                    self.fail_attempt(spot, action, failure.clone(), Handling::Maybe);
                }
            }
        }
    }

    /// Calls off what waits for its delay, its back-off, a signal, an event, or an attempt that an operator asked for.
    fn withdraw(&mut self) {
        for step in 0..self.saga.steps.len() {
            let waits = matches!(self.definition.steps[step].execute, Execute::Wait(_));
            let called_off = |unit: &Unit| match unit.execute.progress {
                Progress::Scheduled { .. } => true,
                Progress::Running { .. } => waits,
                Progress::Idle => unit.execute.attempt > 0,
                _ => false,
            };
            let scheduled = |unit: &Unit| matches!(unit.probe.progress, Progress::Scheduled { .. });
            for spot in self.find(step, ALL, |_| true, |unit| called_off(unit) || scheduled(unit)) {
                let Some(unit) = self.saga.unit(spot).filter(|unit| called_off(unit)) else {
                    self.exhaust(spot, Action::Probe);
                    continue;
                };
                match unit.execute.attempt {
                    0 => self.record(Entry::Withdrawn { spot }),
                    _ => self.exhaust(spot, Action::Execute),
                }
            }
        }
    }

    fn exhaust(&mut self, spot: Spot, action: Action) {
        let failure = self.saga.unit(spot).and_then(|unit| unit.action(action).last_failure.clone());
        let failure = failure.unwrap_or_else(|| {
            Failure::new(Reason::Cancelled, "no further attempt was made, because the saga compensates")
        });
        self.record(Entry::Exhausted { spot, action, failure });
    }

    pub(super) fn go_back(&mut self) {
        loop {
            let before = self.entries.len();
            let blocked = self.failed_compensation().is_some();
            for step in (0..self.saga.steps.len()).rev() {
                self.go_back_in(step, blocked);
            }
            // A compensation that can't be rendered fails without having been sent, and others may follow it.
            if self.entries.len() == before {
                break;
            }
        }
        if let Some(suspended) = self.failed_compensation() {
            return self.record(suspended);
        }
        if (0..self.saga.steps.len()).all(|step| self.is_settled(step)) {
            let any_given_up = (0..self.saga.steps.len()).any(|step| self.tally(step).given_up > 0);
            self.record(if any_given_up { Entry::GaveUp {} } else { Entry::Compensated {} });
        }
    }

    fn go_back_in(&mut self, step: StepIx, blocked: bool) {
        let now = self.now;
        let definition = &self.definition.steps[step];
        let tally = self.tally(step);
        if !blocked && tally.wait.is_some_and(|due| due <= now) {
            let worth = |tally: &Tally| tally.wait.is_some_and(|due| due <= now);
            let due = |unit: &Unit| matches!(unit.compensate.progress, Progress::Scheduled { due } if due <= now);
            for spot in self.find(step, ALL, worth, due) {
                self.send(spot, Action::Compensate);
            }
        }
        if tally.owed == 0 || !self.may_be_undone(step) {
            return;
        }
        let at_once = definition.foreach.as_ref().map_or(1, |foreach| foreach.max_parallel);
        let room = at_once.saturating_sub(self.tally(step).undoing) as usize;
        // What an operator asked for again goes out, even if another compensation still waits for one.
        let owed = |unit: &Unit| unit.owes_undo(definition) && (!blocked || unit.compensate.spent > 0);
        for spot in self.find(step, Search::Last(room), |tally| tally.owed > 0, owed) {
            self.send(spot, Action::Compensate);
        }
    }

    /// The suspension for a compensation that has failed for good, unless the others are to go on.
    fn failed_compensation(&self) -> Option<Entry> {
        if self.definition.on_compensation_failure == OnCompensationFailure::Continue {
            return None;
        }
        let failed = |unit: &Unit| matches!(unit.compensate.progress, Progress::Failed { .. });
        let first = |step| self.find(step, Search::First(1), |tally| tally.undo_failed > 0, failed).pop();
        let spot = (0..self.saga.steps.len()).find_map(first)?;
        let failure = self.saga.unit(spot)?.compensate.failure()?;
        let (message, reason) = (&failure.message, failure.reason.as_str());
        let reason = format!("the compensation of {} failed: {message} ({reason})", self.called(spot));
        Some(Entry::Suspended { reason, spot: Some(spot), actor: None })
    }

    /// Strictly in reverse: once everything after it is compensated, failed without effect, or never ran.
    fn may_be_undone(&self, step: StepIx) -> bool {
        self.definition.steps[step].later.iter().all(|later| self.is_settled(*later))
    }

    pub(super) fn is_settled(&self, step: StepIx) -> bool {
        self.tally(step).unsettled == 0
    }

    /// A saga that has ended as undone may have something to undo after all, or may not be as undone as it says.
    pub(super) fn take_up_again(&mut self, spot: Spot) {
        let left = matches!(self.saga.phase, Phase::Compensated { .. }) && self.tally(spot.step).given_up > 0;
        let owed = left || !self.is_settled(spot.step);
        if owed && matches!(self.saga.phase, Phase::Compensated { .. } | Phase::Failed { .. }) {
            let message = "an answer came after the saga had ended";
            let error = crate::core::apply::saga_error(Reason::Timeout, message);
            self.record(Entry::Compensating { error, actor: None });
        }
    }
}
