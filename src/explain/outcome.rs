//! How far a saga is, in a sentence; how it ended, and what was given up.

use super::{Case, steps};
use crate::core::definition::OnCompensationFailure;
use crate::core::saga::{Failure, Phase, Progress};

/// Compensations that are named one by one.
const NAMED: usize = 10;

impl Case<'_> {
    pub(super) fn summary(&self) -> String {
        if let Some(suspension) = &self.saga.suspended {
            return format!("It waits for an operator: {}.", suspension.reason);
        }
        match &self.saga.phase {
            Phase::Pending { .. } => "It is accepted and has not begun.".to_owned(),
            Phase::Running => {
                let all = self.saga.steps.len();
                let done = (0..all).filter(|step| self.tally(*step).unfinished == 0).count();
                format!("It goes forward: {done} of {all} {} done.", steps(all))
            }
            Phase::Compensating => format!("What was done is being undone{}.", self.cause()),
            Phase::Completed { .. } => match &self.saga.error {
                None => "It completed.".to_owned(),
                Some(error) => format!("It completed, but without its output: {}.", error.failure.message),
            },
            Phase::Compensated { .. } => format!("It ended, and what had to be undone is{}.", self.cause()),
            Phase::Failed { .. } => {
                format!("It ended, and not all that had to be undone is{}.", self.cause())
            }
        }
    }

    fn cause(&self) -> String {
        let Some(error) = &self.saga.error else { return String::new() };
        let failure = in_words(&error.failure);
        match error.step {
            Some(step) => format!(", because step `{}` failed: {failure}", self.name(step)),
            None => format!(", because of this: {failure}"),
        }
    }

    /// The compensations that an operator or the definition gave up.
    pub(super) fn given_up(&self) -> Vec<String> {
        let goes_on = self.definition.on_compensation_failure == OnCompensationFailure::Continue;
        let mut found = Vec::new();
        for (at, state) in self.saga.steps.iter().enumerate() {
            for (item, unit) in state.units() {
                let why = match &unit.compensate.progress {
                    Progress::GivenUp { failure, .. } => failure,
                    Progress::Failed { failure, .. } if goes_on => failure,
                    _ => continue,
                };
                let element = item.map_or(String::new(), |item| format!("element {item} of "));
                let attempts = unit.compensate.attempt;
                let times = if attempts == 1 { "attempt" } else { "attempts" };
                found.push(format!(
                    "given up after {attempts} {times}: the compensation of {element}step `{}`: {}",
                    self.name(at),
                    in_words(why)
                ));
            }
        }
        let more = found.len().saturating_sub(NAMED);
        found.truncate(NAMED);
        if more > 0 {
            found.push(format!("given up as well: {more} more compensations; the saga's steps show them"));
        }
        found
    }
}

/// A failure in a line.
pub(super) fn in_words(failure: &Failure) -> String {
    format!("{} ({})", failure.message, failure.reason.as_str())
}
