//! Times that do not fit together.

use std::cmp::Reverse;
use std::time::Duration;

use super::{past_pivots, shown, warning};
use crate::core::definition::{Command, Definition, Execute, Step};
use crate::core::diagnostic::Diagnostic;
use crate::core::id::StepIx;
use crate::core::parse::places::{Key, Places};

pub(super) fn warnings(definition: &Definition, places: &Places<'_>) -> Vec<Diagnostic> {
    let Some(deadline) = definition.timeout else { return Vec::new() };
    let past = past_pivots(definition);
    let too_late = too_late(definition, &past, deadline, places);
    let of_step = |(at, step): (StepIx, &Step)| {
        if past[at] {
            return None;
        }
        late_retry(step, at, deadline, places).or_else(|| long_wait(step, at, deadline, places))
    };
    definition.steps.iter().enumerate().filter_map(of_step).chain(too_late).collect()
}

/// Attempts that the saga's deadline comes before.
fn late_retry(step: &Step, at: StepIx, deadline: Duration, places: &Places<'_>) -> Option<Diagnostic> {
    let longest = step.delay.saturating_add(budget(step.command()?));
    // A delay that is too long by itself is another mistake.
    if longest <= deadline || step.delay > deadline {
        return None;
    }
    let name = &step.name;
    let (longest, deadline) = (shown(longest), shown(deadline));
    let message = format!("all attempts of `{name}` take up to {longest}, but the saga's deadline is after {deadline}");
    let help = "allow fewer attempts or shorter ones, or raise the `timeout` of the saga";
    Some(warning("retry-budget", places.find(&[Key::Step(at), Key::Name("name")]), message, help))
}

/// A wait or a child that may take longer than the saga.
fn long_wait(step: &Step, at: StepIx, deadline: Duration, places: &Places<'_>) -> Option<Diagnostic> {
    let timeout = match &step.execute {
        Execute::Wait(wait) => wait.timeout,
        Execute::Saga(child) => child.timeout,
        Execute::Command(_) | Execute::Publish(_) | Execute::Sleep(_) => None,
    };
    let timeout = timeout.filter(|&timeout| timeout > deadline)?;
    let (name, timeout, deadline) = (&step.name, shown(timeout), shown(deadline));
    let message = format!("`{name}` may take {timeout}, but the saga's deadline is after {deadline}");
    let help = "raise the `timeout` of the saga, or lower this one";
    Some(warning("beyond-deadline", places.find(&[Key::Step(at), Key::Name("timeout")]), message, help))
}

/// The first step that has to wait until the deadline is over, whatever the participants do.
fn too_late(definition: &Definition, past: &[bool], deadline: Duration, places: &Places<'_>) -> Option<Diagnostic> {
    let steps = &definition.steps;
    let mut ends = vec![Duration::ZERO; steps.len()];
    let mut order: Vec<StepIx> = (0..steps.len()).collect();
    // What comes after a step has fewer steps after it than that one.
    order.sort_by_key(|&at| Reverse(steps[at].later.len()));
    for at in order {
        let step = &steps[at];
        let begins = step.after.iter().map(|&earlier| ends[earlier]).max().unwrap_or_default();
        let (own, key) = match step.execute {
            _ if step.when.is_some() => (Duration::ZERO, "delay"),
            Execute::Sleep(sleep) => (step.delay.saturating_add(sleep), "sleep"),
            _ => (step.delay, "delay"),
        };
        ends[at] = begins.saturating_add(own);
        if ends[at] > deadline && !past[at] && !own.is_zero() {
            let name = &step.name;
            let (waited, deadline) = (shown(ends[at]), shown(deadline));
            let what = if key == "sleep" { "has slept" } else { "begins" };
            let message =
                format!("`{name}` {what} after {waited} at the earliest, but the saga's deadline is after {deadline}");
            let help = "raise the `timeout` of the saga, or wait less, here or before";
            return Some(warning("beyond-deadline", places.find(&[Key::Step(at), Key::Name(key)]), message, help));
        }
    }
    None
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
