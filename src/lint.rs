//! What is allowed in a definition but probably not meant.

use std::ops::Range;
use std::time::Duration;

use crate::core::definition::{Command, Definition, Execute, Step};
use crate::core::diagnostic::{Diagnostic, Severity};
use crate::core::id::StepIx;
use crate::core::parse::places::{Key, Places};

/// Warnings about a definition; `text` is the file that it was read from.
pub fn warnings(definition: &Definition, text: &str) -> Vec<Diagnostic> {
    let places = Places::new(text);
    let of_step = |(at, step): (StepIx, &Step)| {
        let late = definition.timeout.and_then(|deadline| late_retry(step, at, deadline, &places));
        forgotten_undo(definition, at, &places).into_iter().chain(late)
    };
    definition.steps.iter().enumerate().flat_map(of_step).collect()
}

fn warning(code: &'static str, span: Range<usize>, message: String, help: &str) -> Diagnostic {
    Diagnostic { severity: Severity::Warning, code, span, message, help: help.to_owned() }
}

/// A step that stays done when a later one fails, without a word that this is meant.
fn forgotten_undo(definition: &Definition, at: StepIx, places: &Places<'_>) -> Option<Diagnostic> {
    // A child saga is undone without a word, and there is nothing to undo about having waited.
    let stays = matches!(definition.steps[at].execute, Execute::Command(_) | Execute::Publish(_));
    if !stays || places.has(&[Key::Step(at), Key::Name("compensate")]) {
        return None;
    }
    // Whatever does not end before it can fail after it.
    let mut others = definition.steps.iter().enumerate().filter(|(other, _)| *other != at);
    let (_, failing) = others.find(|(_, other)| !other.optional && !other.later.contains(&at))?;
    let message = format!("if `{}` fails, what `{}` did stays done", failing.name, definition.steps[at].name);
    let help = "add a `compensate`; or `compensate = false` if there is nothing to undo";
    Some(warning("no-compensation", places.find(&[Key::Step(at), Key::Name("name")]), message, help))
}

/// Attempts that the saga's deadline comes before.
fn late_retry(step: &Step, at: StepIx, deadline: Duration, places: &Places<'_>) -> Option<Diagnostic> {
    let longest = step.delay.saturating_add(step.command().map_or(Duration::ZERO, budget));
    if longest <= deadline {
        return None;
    }
    let name = &step.name;
    let (longest, deadline) = (shown(longest), shown(deadline));
    let message = format!("all attempts of `{name}` take up to {longest}, but the saga's deadline is after {deadline}");
    let help = "allow fewer attempts or shorter ones, or raise the `timeout` of the saga";
    Some(warning("retry-budget", places.find(&[Key::Step(at), Key::Name("name")]), message, help))
}

/// How long all attempts take if each times out, without jitter.
fn budget(command: &Command) -> Duration {
    let retry = &command.retry;
    let mut total = command.timeout;
    let mut wait = retry.initial;
    for _ in 1..retry.attempts {
        total = total.saturating_add(wait).saturating_add(command.timeout);
        wait = Duration::try_from_secs_f64(wait.as_secs_f64() * retry.factor).unwrap_or(retry.max).min(retry.max);
    }
    total
}

fn shown(duration: Duration) -> humantime::FormattedDuration {
    // Nobody plans by the millisecond.
    humantime::format_duration(Duration::from_secs(duration.as_secs().max(1)))
}
