//! Signals and events of other services: kept until a step that waits for them is reached.

use std::sync::Arc;

use serde_json::Value;

use super::{Ignored, Transition};
use crate::core::definition::{Awaited, Execute, Step};
use crate::core::entry::Entry;
use crate::core::id::{Spot, StepIx};
use crate::core::input::Forbidden;
use crate::core::saga::{Addressee, Phase, Progress, Search};

/// Bytes of payload, as JSON, that may wait in one saga for steps that are not reached: its state is written at each transition.
const MOST_WAITING: usize = 256 * 1024;

/// Signals and events that may wait in one saga.
const MOST_LETTERS: usize = 1000;

impl Transition<'_> {
    pub(super) fn take_signal(
        &mut self,
        name: &str,
        id: Option<String>,
        payload: Value,
        actor: Option<String>,
    ) -> Result<Option<Ignored>, Forbidden> {
        let to = Addressee::Signal(name.into());
        if !self.definition.steps.iter().any(|step| waits_for(step, None, &to)) {
            return Err(Forbidden::NoSuchSignal(name.to_owned()));
        }
        match self.take_letter(to, id, payload, actor)? {
            Some(Ignored::Full) => {
                let why = "too much is waiting for steps of it that are not reached; send this again once they are";
                Err(Forbidden::State(why.to_owned()))
            }
            ignored => Ok(ignored),
        }
    }

    /// Keeps what came for the steps that may take it; [`Transition::deliver`] gives it to them.
    pub(super) fn take_letter(
        &mut self,
        to: Addressee,
        id: Option<String>,
        payload: Value,
        actor: Option<String>,
    ) -> Result<Option<Ignored>, Forbidden> {
        let known = |id: &String| {
            let kept = self.saga.letters.iter().any(|letter| letter.id.as_deref() == Some(id));
            kept || self.saga.taken.iter().any(|taken| **taken == **id)
        };
        if id.as_ref().is_some_and(known) {
            return Ok(Some(Ignored::Duplicate));
        }
        if !matches!(self.saga.phase, Phase::Pending { .. } | Phase::Running) {
            let status = self.saga.status().as_str();
            return Err(Forbidden::State(format!("the saga is {status}: no step of it waits for anything any more")));
        }
        let waiting = self.saga.letters.iter().filter(|letter| letter.to == to).count();
        if self.open_waits(&to).is_some_and(|open| open <= waiting) {
            return Ok(Some(Ignored::Settled));
        }
        let bytes = |payload: &Value| payload.to_string().len();
        let kept: usize = self.saga.letters.iter().map(|letter| bytes(&letter.payload)).sum();
        if self.saga.letters.len() >= MOST_LETTERS || kept + bytes(&payload) > MOST_WAITING && kept > 0 {
            return Ok(Some(Ignored::Full));
        }
        self.record(Entry::Received { to, id: id.map(Arc::from), payload: Arc::new(payload), actor });
        // Also while an operator has it suspended: what came in time counts.
        if self.saga.phase == Phase::Running {
            self.deliver();
        }
        Ok(None)
    }

    /// How many more letters can be of use; `None` where a list that is not there yet will say.
    fn open_waits(&self, to: &Addressee) -> Option<usize> {
        let mut open = 0;
        for (at, step) in self.definition.steps.iter().enumerate() {
            if !waits_for(step, Some(at), to) {
                continue;
            }
            let state = &self.saga.steps[at];
            let own = &state.unit.execute;
            if step.foreach.is_some() && state.elements.is_none() && own.ended_at().is_none() {
                return None;
            }
            // One that waited in vain may be made to wait again.
            let closed =
                |progress: &Progress| matches!(progress, Progress::Succeeded { .. } | Progress::Skipped { .. });
            open += state.units().filter(|(_, unit)| !closed(&unit.execute.progress)).count();
        }
        Some(open)
    }

    /// Gives what came to the steps that wait for it.
    pub(super) fn deliver(&mut self) {
        let mut nth = 0;
        // Each turn takes a letter out or passes one over.
        while let Some(letter) = self.saga.letters.get(nth) {
            let to = letter.to.clone();
            match self.next_waiting(&to) {
                Some(spot) => self.record(Entry::Taken { spot, to }),
                None => nth += 1,
            }
        }
    }

    fn next_waiting(&self, to: &Addressee) -> Option<Spot> {
        let policy = self.definition.on_compensation_failure;
        let mut steps = self.definition.steps.iter().enumerate();
        steps.find_map(|(at, step)| {
            if !waits_for(step, Some(at), to) {
                return None;
            }
            let waits = |unit: &crate::core::saga::Unit| matches!(unit.execute.progress, Progress::Running { .. });
            let found = self.saga.steps[at].find(step, policy, Search::First(1), |tally| tally.forward > 0, waits);
            found.first().map(|item| Spot { step: at, item: *item })
        })
    }
}

/// Whether a step takes what comes to `to`; `at` is its place, `None` where only the kind of wait counts.
fn waits_for(step: &Step, at: Option<StepIx>, to: &Addressee) -> bool {
    match (&step.execute, to) {
        (Execute::Wait(wait), Addressee::Signal(name)) => matches!(&wait.until, Awaited::Signal(own) if own == name),
        (Execute::Wait(wait), Addressee::Step(place)) => matches!(wait.until, Awaited::Event(_)) && at == Some(*place),
        _ => false,
    }
}
