//! What would follow from something: the real decision, in words.

use std::collections::BTreeSet;

use super::{Case, listed, sent_as, steps, tally};
use crate::core::decide::{Decision, decide};
use crate::core::definition::Execute;
use crate::core::entry::Entry;
use crate::core::id::{Action, StepIx};
use crate::core::input::Input;
use crate::core::saga::{Phase, Progress, Saga};
use crate::core::time::Time;

/// Consequences that are told; the rest is too far away.
const TOLD: usize = 6;

/// One thing that would follow.
#[derive(Debug)]
struct Deed {
    kind: Kind,
    step: Option<StepIx>,
    /// Of how many elements; 0 for a step's own unit.
    elements: u32,
    /// For what is said in the end.
    words: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Again,
    Ended,
    Begun,
    Undone,
    Saga,
}

impl Case<'_> {
    /// What would follow from `input` at a time; `None` if that is forbidden, or nothing would.
    pub(super) fn sequel(&self, saga: &Saga, input: Input, at: Time) -> Option<String> {
        let decision = decide(self.definition, saga, input, at).ok()?;
        let mut deeds: Vec<Deed> = Vec::new();
        for entry in &decision.entries {
            let Some(deed) = self.deed(&decision, entry, at) else { continue };
            match deeds.iter_mut().find(|known| known.kind == deed.kind && known.step == deed.step && deed.elements > 0)
            {
                Some(known) => known.elements += 1,
                None => deeds.push(deed),
            }
        }
        let more = deeds.len().saturating_sub(TOLD);
        let mut told: Vec<String> = deeds.into_iter().take(TOLD).map(Deed::told).collect();
        if more > 0 {
            told.push(format!("and {more} more of this kind"));
        }
        let turned = decision.entries.iter().any(|entry| matches!(entry, Entry::Compensating { .. }));
        told.extend(turned.then(|| self.rest(&decision.saga)).flatten());
        (!told.is_empty()).then(|| told.join("; "))
    }

    /// What is left to undo once a saga has turned round.
    fn rest(&self, saga: &Saga) -> Option<String> {
        if saga.phase != Phase::Compensating {
            return None;
        }
        let mut in_flight = (0..saga.steps.len()).filter(|step| tally(self.definition, saga, *step).forward > 0);
        let waited_for =
            in_flight.next().map(|step| format!("what is in flight, as in step `{}`, is waited for", self.name(step)));
        let owed = (0..saga.steps.len()).rev().filter(|step| tally(self.definition, saga, *step).owed > 0);
        let owed: Vec<&str> = owed.map(|step| self.name(step)).collect();
        let is = if owed.len() == 1 { "is" } else { "are" };
        let owed = (!owed.is_empty()).then(|| format!("then {} {} {is} undone", steps(owed.len()), listed(&owed)));
        let parts: Vec<String> = waited_for.into_iter().chain(owed).collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    fn deed(&self, decision: &Decision, entry: &Entry, at: Time) -> Option<Deed> {
        let (kind, spot, words) = match entry {
            Entry::Scheduled { spot, action, due } => {
                let attempt = decision.saga.unit(*spot)?.action(*action).attempt;
                let after = humantime::format_duration(due.since(at));
                match (attempt, &self.definition.steps[spot.step].execute) {
                    (0, Execute::Sleep(_)) => (Kind::Begun, spot, format!("sleeps for {after}")),
                    (0, _) => (Kind::Begun, spot, format!("begins after a delay of {after}")),
                    _ => {
                        let what = self.called(spot.step, *action);
                        (Kind::Again, spot, format!("attempt {} of {what} follows {after} later", attempt + 1))
                    }
                }
            }
            Entry::Exhausted { spot, action: Action::Compensate, .. } => {
                (Kind::Ended, spot, "can't be undone".to_owned())
            }
            Entry::Exhausted { spot, .. } | Entry::Failed { spot, .. } => {
                let in_doubt = decision.saga.unit(*spot)?.execute.in_doubt();
                let words = if in_doubt { "is in doubt: it may or may not have been done" } else { "has failed" };
                (Kind::Ended, spot, words.to_owned())
            }
            Entry::Sent { spot, action: Action::Compensate, .. } => {
                let what = self.called(spot.step, Action::Compensate);
                (Kind::Undone, spot, format!("is undone by {what}"))
            }
            Entry::Sent { spot, action: Action::Probe, .. } => {
                let what = self.called(spot.step, Action::Probe);
                (Kind::Begun, spot, format!("is asked about by {what}"))
            }
            Entry::Sent { spot, action: Action::Execute, attempt, .. } => {
                let what = self.called(spot.step, Action::Execute);
                match attempt {
                    1 => (Kind::Begun, spot, format!("begins with {what}")),
                    _ => (Kind::Again, spot, format!("attempt {attempt} of {what} is sent")),
                }
            }
            Entry::Waiting { spot, .. } => (Kind::Begun, spot, "begins to wait".to_owned()),
            Entry::Skipped { spot } => (Kind::Ended, spot, "is skipped".to_owned()),
            Entry::Expanded { spot, elements } => {
                let count = elements.as_array().map_or(0, Vec::len);
                (Kind::Begun, spot, format!("begins for {count} elements"))
            }
            Entry::Compensating { .. } => return Some(Deed::of_saga("the saga compensates".to_owned())),
            Entry::Suspended { reason, .. } => {
                return Some(Deed::of_saga(format!("the saga is suspended for an operator: {reason}")));
            }
            Entry::Started { .. } => return Some(Deed::of_saga("the saga begins".to_owned())),
            Entry::Held {} => return Some(Deed::of_saga("the saga begins once it is let in".to_owned())),
            Entry::Completed { .. } | Entry::Compensated {} | Entry::GaveUp {} => {
                return Some(Deed::of_saga(format!("the saga ends as {}", decision.saga.status().as_str())));
            }
            _ => return None,
        };
        let elements = u32::from(spot.item.is_some());
        Some(Deed { kind, step: Some(spot.step), elements, words: self.of_step(kind, spot.step, words) })
    }

    /// Attempts are told of by what they send, the rest by its step.
    fn of_step(&self, kind: Kind, step: StepIx, words: String) -> String {
        match kind {
            Kind::Again | Kind::Saga => words,
            Kind::Ended | Kind::Begun | Kind::Undone => format!("step `{}` {words}", self.name(step)),
        }
    }

    /// What is sent for an action.
    pub(super) fn called(&self, step: StepIx, action: Action) -> String {
        match sent_as(self.definition, step, action) {
            Some(name) => format!("`{name}`"),
            None => "its child saga".to_owned(),
        }
    }

    /// A saga in which nothing else is due than what `spot` waits for: what follows from that alone.
    pub(super) fn alone(&self, keep: crate::core::id::Spot, until: Time) -> Saga {
        let mut saga = self.saga.clone();
        for (at, state) in self.saga.steps.iter().enumerate() {
            let tally = self.tally(at);
            let due = |time: Option<Time>| time.is_some_and(|time| time <= until);
            if !due(tally.time_out) && !due(tally.wait) {
                continue;
            }
            let items: BTreeSet<Option<u32>> = state.units().map(|(item, _)| item).collect();
            for item in items.into_iter().filter(|item| (at, *item) != (keep.step, keep.item)) {
                let Some(unit) = saga.steps[at].unit_mut(item) else { continue };
                for action in [Action::Execute, Action::Compensate, Action::Probe] {
                    let progress = &mut unit.action_mut(action).progress;
                    match progress {
                        Progress::Running { deadline } => *deadline = None,
                        Progress::Scheduled { due } => *due = Time(i64::MAX),
                        _ => {}
                    }
                }
            }
        }
        saga
    }
}

impl Deed {
    fn of_saga(words: String) -> Deed {
        Deed { kind: Kind::Saga, step: None, elements: 0, words }
    }

    fn told(self) -> String {
        match self.elements {
            0 => self.words,
            1 => format!("{} (one element)", self.words),
            count => format!("{} ({count} elements)", self.words),
        }
    }
}
