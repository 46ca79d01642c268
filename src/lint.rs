//! What is allowed in a definition but probably not meant.

mod events;
pub mod family;
mod inputs;
mod times;
mod undo;

use std::ops::Range;
use std::time::Duration;

use crate::core::definition::{Definition, Execute};
use crate::core::diagnostic::{Diagnostic, Severity};
use crate::core::id::StepIx;
use crate::core::parse::places::Places;

/// Warnings about a definition; `text` is the file that it was read from.
pub fn warnings(definition: &Definition, text: &str) -> Vec<Diagnostic> {
    let places = Places::new(text);
    let mut found = undo::warnings(definition, &places);
    found.extend(times::warnings(definition, &places));
    found.extend(events::warnings(definition, &places));
    found.extend(inputs::warnings(definition, &places));
    found
}

fn warning(code: &'static str, span: Range<usize>, message: String, help: impl Into<String>) -> Diagnostic {
    Diagnostic { severity: Severity::Warning, code, span, message, help: help.into() }
}

/// The steps that begin only once a point of no return is behind the saga: nothing is undone then, and there is no deadline. A pivot
/// that may be skipped, or fail without stopping the saga, promises nothing.
fn past_pivots(definition: &Definition) -> Vec<bool> {
    let mut past = vec![false; definition.steps.len()];
    for pivot in definition.steps.iter().filter(|step| step.pivot && step.when.is_none() && !step.optional) {
        pivot.later.iter().for_each(|&later| past[later] = true);
    }
    past
}

/// The first step that can fail when `at` has been done, so that `at` has to be undone.
fn fails_after(definition: &Definition, at: StepIx) -> Option<StepIx> {
    let past = past_pivots(definition);
    if past[at] || definition.steps[at].pivot {
        return None;
    }
    let mut others = definition.steps.iter().enumerate();
    let fails = others.find(|&(other, step)| {
        // Whatever does not end before it can fail after it.
        other != at
            && !step.optional
            && !past[other]
            && step.later.binary_search(&at).is_err()
            && can_fail(definition, &step.execute)
    });
    fails.map(|(other, _)| other)
}

fn can_fail(definition: &Definition, execute: &Execute) -> bool {
    match execute {
        Execute::Command(_) | Execute::Saga(_) => true,
        Execute::Wait(wait) => wait.timeout.or(definition.timeout).is_some(),
        Execute::Publish(_) | Execute::Sleep(_) => false,
    }
}

fn shown(duration: Duration) -> humantime::FormattedDuration {
    // Nobody plans by the millisecond.
    humantime::format_duration(Duration::from_secs(duration.as_secs().max(1)))
}
