//! What is to be done next, by the state alone.

use std::sync::Arc;

use serde_json::Value;

use super::Transition;
use crate::core::apply::saga_error;
use crate::core::definition::{Execute, OnTimeout};
use crate::core::entry::Entry;
use crate::core::id::{Action, Spot, StepIx};
use crate::core::saga::{Failure, MOST_ELEMENTS, Phase, Progress, Reason, SagaError, Search, StepState, Tally, Unit};
use crate::core::template::TemplateError;

impl Transition<'_> {
    /// Does all that the state asks for now. A suspended saga asks for nothing.
    pub(in crate::core) fn advance(&mut self) {
        if self.saga.suspended.is_some() {
            return;
        }
        if let Phase::Pending { due, held: false } = self.saga.phase
            && due <= self.now
        {
            match self.definition.is_gated() {
                true => self.record(Entry::Held {}),
                false => self.begin(),
            }
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

    pub(super) fn begin(&mut self) {
        let deadline = self.definition.timeout.map(|timeout| self.now.plus(timeout));
        self.record(Entry::Started { deadline });
    }

    fn go_forward(&mut self) {
        loop {
            if let Some((spot, failure)) = self.first_failure() {
                return self.fail(spot, failure);
            }
            let before = self.entries.len();
            for step in 0..self.saga.steps.len() {
                self.go_forward_in(step);
            }
            self.deliver();
            // A skipped step may let one before it in the file begin; a template that fails ends the saga.
            if self.entries.len() == before {
                break;
            }
        }
        if self.all_ended_well() {
            self.complete();
        }
    }

    fn go_forward_in(&mut self, step: StepIx) {
        let now = self.now;
        let tally = self.tally(step);
        if self.saga.steps[step].elements.is_none() && tally.idle > 0 && self.is_reached(step) {
            return self.begin_step(step);
        }
        if tally.wait.is_some_and(|due| due <= now) {
            let due = |progress: &Progress| matches!(progress, Progress::Scheduled { due } if *due <= now);
            let worth = |tally: &Tally| tally.wait.is_some_and(|due| due <= now);
            for action in [Action::Execute, Action::Probe] {
                for spot in self.find(step, ALL, worth, |unit| due(&unit.action(action).progress)) {
                    self.carry_on(spot, action);
                }
            }
        }
        if let (Some(_), Some(foreach)) = (&self.saga.steps[step].elements, &self.definition.steps[step].foreach) {
            let room = foreach.max_parallel.saturating_sub(self.tally(step).forward) as usize;
            let idle = |unit: &Unit| unit.execute.progress == Progress::Idle;
            for spot in self.find(step, Search::First(room), |tally| tally.idle > 0, idle) {
                self.send(spot, Action::Execute);
            }
        }
        if tally.probes > 0 {
            let definition = &self.definition.steps[step];
            let asked = |unit: &Unit| unit.may_be_probed(definition) && unit.probe.progress == Progress::Idle;
            for spot in self.find(step, ALL, |tally| tally.probes > 0, asked) {
                self.send(spot, Action::Probe);
            }
        }
    }

    /// The delay or the back-off is over.
    fn carry_on(&mut self, spot: Spot, action: Action) {
        let foreach = self.definition.steps[spot.step].foreach.is_some();
        match foreach && spot.item.is_none() {
            true => self.expand(spot.step),
            false => self.send(spot, action),
        }
    }

    fn begin_step(&mut self, step: StepIx) {
        let definition = &self.definition.steps[step];
        let spot = Spot::from(step);
        // An operator's retry is sent at once: the step's condition held and its delay has passed.
        let own = &self.saga.steps[step].unit.execute;
        let fresh = own.attempt == 0 && own.started_at.is_none();
        if fresh && let Some(when) = &definition.when {
            match when.holds(&self.scope(spot, Action::Execute)) {
                Ok(true) => {}
                Ok(false) => return self.record(Entry::Skipped { spot }),
                Err(error) => return self.fail_template(spot, Action::Execute, "when", &error),
            }
        }
        let delay = match definition.execute {
            Execute::Sleep(sleep) => definition.delay.saturating_add(sleep),
            _ => definition.delay,
        };
        if fresh && !delay.is_zero() {
            let due = self.now.plus(delay);
            return self.record(Entry::Scheduled { spot, action: Action::Execute, due });
        }
        self.carry_on(spot, Action::Execute);
    }

    /// Makes a `foreach` step its elements.
    fn expand(&mut self, step: StepIx) {
        let Some(foreach) = &self.definition.steps[step].foreach else { return };
        let spot = Spot::from(step);
        let list = foreach.elements.render(&self.scope(spot, Action::Execute)).and_then(|list| match &list {
            Value::Array(elements) if elements.len() <= MOST_ELEMENTS => Ok(list),
            Value::Array(elements) => {
                let many = elements.len();
                Err(TemplateError::new(format!("the list has {many} elements, at most {MOST_ELEMENTS} are allowed")))
            }
            other => Err(TemplateError::new(format!("it must yield a list, this is {}", kind_of(other)))),
        });
        match list {
            Ok(list) => self.record(Entry::Expanded { spot, elements: Arc::new(list) }),
            Err(error) => self.fail_template(spot, Action::Execute, "foreach", &error),
        }
    }

    /// The failure that stops the saga: of the unit that failed first, where there are several.
    fn first_failure(&self) -> Option<(Spot, Failure)> {
        let failed = (0..self.saga.steps.len()).filter_map(|step| {
            let (at, item) = self.tally(step).failed?;
            Some((at, Spot { step, item }))
        });
        let (_, spot) = failed.min()?;
        let failure = self.saga.unit(spot)?.execute.failure()?;
        Some((spot, failure.clone()))
    }

    /// What follows from a failure that is not to be passed over: the saga turns round, or waits for an operator.
    fn fail(&mut self, spot: Spot, failure: Failure) {
        let step = &self.definition.steps[spot.step];
        let wants_operator = match &step.execute {
            Execute::Command(request) => matches!(request.on_timeout, OnTimeout::Suspend),
            _ => false,
        };
        let timed_out = self.saga.unit(spot).is_some_and(|unit| unit.execute.timed_out());
        let why = if self.saga.is_past_pivot(self.definition) {
            "failed after the point of no return"
        } else if wants_operator && timed_out {
            "may or may not have been done"
        } else {
            return self.turn_round(SagaError { step: Some(spot.step), failure }, None);
        };
        let (message, reason) = (&failure.message, failure.reason.as_str());
        let reason = format!("{} {why}: {message} ({reason})", self.called(spot));
        self.record(Entry::Suspended { reason, spot: Some(spot), actor: None });
    }

    fn is_reached(&self, step: StepIx) -> bool {
        self.definition.steps[step].after.iter().all(|earlier| self.tally(*earlier).unfinished == 0)
    }

    fn all_ended_well(&self) -> bool {
        (0..self.saga.steps.len()).all(|step| self.tally(step).unfinished == 0)
    }

    fn complete(&mut self) {
        let output = match &self.definition.output {
            None => Ok(Value::Null),
            Some(output) => output.render(&self.scope_of_saga(Action::Execute)),
        };
        // Everything is done and nothing is to be undone for the sake of a template: the saga says what is wrong with it.
        let (output, error) = match output {
            Ok(output) => (output, None),
            Err(error) => (Value::Null, Some(saga_error(Reason::Template, format!("[output]: {error}")))),
        };
        self.record(Entry::Completed { output: Arc::new(output), error });
    }

    /// How a person would call a unit.
    pub(super) fn called(&self, spot: Spot) -> String {
        let name = &self.definition.steps[spot.step].name;
        match spot.item {
            None => format!("step `{name}`"),
            Some(item) => format!("element {item} of step `{name}`"),
        }
    }

    pub(super) fn tally(&self, step: StepIx) -> Tally {
        self.saga.steps[step].tally(&self.definition.steps[step], self.definition.on_compensation_failure)
    }

    pub(super) fn find(
        &self,
        step: StepIx,
        search: Search,
        worth: impl Fn(&Tally) -> bool,
        wanted: impl Fn(&Unit) -> bool,
    ) -> Vec<Spot> {
        let state: &StepState = &self.saga.steps[step];
        let policy = self.definition.on_compensation_failure;
        let items = state.find(&self.definition.steps[step], policy, search, worth, wanted);
        items.into_iter().map(|item| Spot { step, item }).collect()
    }
}

/// Every unit there is.
pub(super) const ALL: Search = Search::First(usize::MAX);

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
