//! What a success would lead to. Nobody knows the reply, which templates and conditions may read, so that this goes by the
//! order of the steps alone.

use super::{Case, listed, steps};
use crate::core::id::{Action, Spot, StepIx};
use crate::core::saga::{Phase, Progress};

impl Case<'_> {
    /// What comes once an action has succeeded.
    pub(super) fn ahead(&self, spot: Spot, action: Action) -> String {
        if self.others_of_it(spot, action) {
            return "the other elements of the step go on".to_owned();
        }
        match (action, &self.saga.phase) {
            (Action::Compensate, _) => self.further_back(spot.step),
            (_, Phase::Compensating) => match &self.definition.steps[spot.step].compensate {
                Some(compensate) if compensate.on.success => "it is undone, for the saga compensates".to_owned(),
                _ => "the undoing goes on".to_owned(),
            },
            _ => self.further(spot.step),
        }
    }

    /// Whether other elements of the step are on their way too.
    fn others_of_it(&self, spot: Spot, action: Action) -> bool {
        let tally = self.tally(spot.step);
        spot.item.is_some()
            && match action {
                Action::Compensate => tally.unsettled > 1,
                Action::Execute | Action::Probe => tally.unfinished > 1,
            }
    }

    fn further(&self, step: StepIx) -> String {
        let done = |other: StepIx| other == step || self.tally(other).unfinished == 0;
        let all = 0..self.saga.steps.len();
        let begins = |at: &StepIx| {
            let (state, definition) = (&self.saga.steps[*at], &self.definition.steps[*at]);
            let idle = state.elements.is_none() && state.unit.execute.progress == Progress::Idle;
            idle && definition.after.contains(&step) && definition.after.iter().all(|earlier| done(*earlier))
        };
        let next: Vec<&str> = all.clone().filter(begins).map(|at| self.name(at)).collect();
        if !next.is_empty() {
            return format!("{} {} next", steps(next.len()), listed(&next));
        }
        match all.clone().all(done) {
            true => "the saga completes".to_owned(),
            false => "the other steps go on".to_owned(),
        }
    }

    fn further_back(&self, step: StepIx) -> String {
        let settled = |other: StepIx| other == step || self.tally(other).unsettled == 0;
        let all = 0..self.saga.steps.len();
        let next = |at: &StepIx| {
            self.tally(*at).owed > 0 && self.definition.steps[*at].later.iter().all(|later| settled(*later))
        };
        let next: Vec<&str> = all.clone().filter(next).map(|at| self.name(at)).collect();
        if !next.is_empty() {
            let is = if next.len() == 1 { "is" } else { "are" };
            return format!("{} {} {is} undone next", steps(next.len()), listed(&next));
        }
        if !all.clone().all(settled) {
            return "the other steps go on".to_owned();
        }
        let given_up = all.map(|at| self.tally(at).given_up).sum::<u32>() > 0;
        format!("the saga ends as {}", if given_up { "failed" } else { "compensated" })
    }
}
