//! What is to be done next, by the state alone.

use std::sync::Arc;

use serde_json::Value;

use super::Transition;
use crate::core::apply::saga_error;
use crate::core::definition::OnCompensationFailure;
use crate::core::entry::Entry;
use crate::core::id::{Action, StepIx};
use crate::core::saga::{Failure, Phase, Progress, Reason, SagaError};

impl Transition<'_> {
    /// Does all that the state asks for now. A suspended saga asks for nothing.
    pub(in crate::core) fn advance(&mut self) {
        if self.saga.suspended.is_some() {
            return;
        }
        if let Phase::Pending { due } = self.saga.phase
            && due <= self.now
        {
            let deadline = self.definition.timeout.map(|timeout| self.now.plus(timeout));
            self.record(Entry::Started { deadline });
        }
        if self.saga.phase == Phase::Running && !self.all_ended_well() {
            // A saga that is resumed, or answered, after its deadline sends nothing more.
            self.keep_deadline();
        }
        if self.saga.phase == Phase::Running {
            self.go_forward();
        }
        if self.saga.phase == Phase::Compensating {
            self.go_back();
        }
        if !self.entries.is_empty() {
            self.ignored = None;
        }
    }

    fn go_forward(&mut self) {
        loop {
            if let Some(error) = self.first_failure() {
                return self.turn_round(error, None);
            }
            let before = self.entries.len();
            for step in 0..self.saga.steps.len() {
                match self.saga.steps[step].execute.progress {
                    Progress::Idle if self.is_reached(step) => self.begin_step(step),
                    Progress::Scheduled { due } if due <= self.now => self.send(step, Action::Execute),
                    _ => {}
                }
            }
            // A skipped step may let one before it in the file begin; a template that fails ends the saga.
            if self.entries.len() == before {
                break;
            }
        }
        if self.all_ended_well() {
            self.complete();
        }
    }

    fn all_ended_well(&self) -> bool {
        (0..self.saga.steps.len()).all(|step| self.ended_well(step))
    }

    /// The failure that turns the saga round: of the step that failed first, where there are several.
    fn first_failure(&self) -> Option<SagaError> {
        let failed = self.saga.steps.iter().enumerate().filter_map(|(step, state)| match &state.execute.progress {
            Progress::Failed { at, failure, .. } if !self.definition.steps[step].optional => Some((*at, step, failure)),
            _ => None,
        });
        let (_, step, failure) = failed.min_by_key(|(at, step, _)| (*at, *step))?;
        Some(SagaError { step: Some(step), failure: failure.clone() })
    }

    fn is_reached(&self, step: StepIx) -> bool {
        self.definition.steps[step].after.iter().all(|earlier| self.ended_well(*earlier))
    }

    fn ended_well(&self, step: StepIx) -> bool {
        match self.saga.steps[step].execute.progress {
            Progress::Succeeded { .. } | Progress::Skipped { .. } => true,
            Progress::Failed { .. } => self.definition.steps[step].optional,
            _ => false,
        }
    }

    fn begin_step(&mut self, step: StepIx) {
        let definition = &self.definition.steps[step];
        // An operator's retry is sent at once: the step's condition held and its delay has passed.
        let fresh = self.saga.steps[step].execute.attempt == 0;
        if fresh && let Some(when) = &definition.when {
            match when.holds(&self.scope(Action::Execute)) {
                Ok(true) => {}
                Ok(false) => return self.record(Entry::Skipped { step }),
                Err(error) => return self.fail_template(step, Action::Execute, "when", &error),
            }
        }
        if fresh && !definition.delay.is_zero() {
            let due = self.now.plus(definition.delay);
            return self.record(Entry::Scheduled { step, action: Action::Execute, due });
        }
        self.send(step, Action::Execute);
    }

    fn complete(&mut self) {
        let output = match &self.definition.output {
            None => Ok(Value::Null),
            Some(output) => output.render(&self.scope(Action::Execute)),
        };
        // Everything is done and nothing is to be undone for the sake of a template: the saga says what is wrong with it.
        let (output, error) = match output {
            Ok(output) => (output, None),
            Err(error) => (Value::Null, Some(saga_error(Reason::Template, format!("[output]: {error}")))),
        };
        self.record(Entry::Completed { output: Arc::new(output), error });
    }

    fn go_back(&mut self) {
        self.withdraw();
        loop {
            let before = self.entries.len();
            let blocked = self.failed_compensation().is_some();
            for step in (0..self.saga.steps.len()).rev() {
                let state = &self.saga.steps[step].compensate;
                match state.progress {
                    // What an operator asked for again goes out, even if another compensation still waits for one.
                    Progress::Idle if (!blocked || state.spent > 0) && self.may_be_undone(step) => {
                        self.send(step, Action::Compensate);
                    }
                    Progress::Scheduled { due } if !blocked && due <= self.now => self.send(step, Action::Compensate),
                    _ => {}
                }
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
            let given_up = |progress: &Progress| matches!(progress, Progress::Failed { .. } | Progress::GivenUp { .. });
            let any_given_up = self.saga.steps.iter().any(|step| given_up(&step.compensate.progress));
            self.record(if any_given_up { Entry::GaveUp {} } else { Entry::Compensated {} });
        }
    }

    /// Calls off what waits for its delay, its back-off or an attempt that an operator asked for.
    fn withdraw(&mut self) {
        for step in 0..self.saga.steps.len() {
            let state = &self.saga.steps[step].execute;
            let waits = match state.progress {
                Progress::Scheduled { .. } => true,
                Progress::Idle => state.attempt > 0,
                _ => false,
            };
            if !waits {
                continue;
            }
            if state.attempt == 0 {
                self.record(Entry::Withdrawn { step });
            } else {
                let failure = state.last_failure.clone().unwrap_or_else(|| {
                    Failure::new(Reason::Cancelled, "no further attempt was made, because the saga compensates")
                });
                self.record(Entry::Exhausted { step, action: Action::Execute, failure });
            }
        }
    }

    /// The suspension for a compensation that has failed for good, unless the others are to go on.
    fn failed_compensation(&self) -> Option<Entry> {
        if self.definition.on_compensation_failure == OnCompensationFailure::Continue {
            return None;
        }
        let (step, failure) =
            self.saga.steps.iter().enumerate().find_map(|(step, state)| match &state.compensate.progress {
                Progress::Failed { failure, .. } => Some((step, failure)),
                _ => None,
            })?;
        let name = &self.definition.steps[step].name;
        let reason =
            format!("the compensation of step `{name}` failed: {} ({})", failure.message, failure.reason.as_str());
        Some(Entry::Suspended { reason, step: Some(step), actor: None })
    }

    /// Strictly in reverse: once everything after it is compensated, failed without effect, or never ran.
    fn may_be_undone(&self, step: StepIx) -> bool {
        let definition = &self.definition.steps[step];
        self.saga.steps[step].needs_undo(definition) && definition.later.iter().all(|later| self.is_settled(*later))
    }

    pub(super) fn is_settled(&self, step: StepIx) -> bool {
        self.saga.steps[step].is_settled(&self.definition.steps[step], self.definition.on_compensation_failure)
    }
}
