//! Holds what happened against what was to happen.

use std::fmt::Write as _;

use serde_json::Value;

use super::play::Record;
use super::{ExpectedCommand, Scenario};
use crate::core::definition::Definition;
use crate::core::id::Action;
use crate::core::number::same_decimal;
use crate::core::saga::{Phase, Saga};
use crate::core::time::Time;
use crate::trial::stage::START;
use crate::trial::story;

/// Everything that is not as it was to be, each with a text of one or more lines; none: all is well.
pub(super) fn differences(definition: &Definition, scenario: &Scenario, record: &Record) -> Vec<String> {
    let mut found = record.impossible.clone();
    let expect = &scenario.expect;
    match (&expect.refused, &record.refused) {
        (None, Some(why)) => found.push(format!("the saga is not started: {why}")),
        (Some(part), None) => found.push(format!("the saga is to be refused ({part:?}), and is started")),
        (Some(part), Some(why)) if !why.contains(part.as_str()) => {
            found.push(differ("refused", &format!("{part:?}, or more"), &format!("{why:?}")));
        }
        _ => {}
    }
    let Some(saga) = &record.saga else { return found };
    if let Some(status) = expect.status
        && status != saga.status()
    {
        found.push(differ("status", status.as_str(), saga.status().as_str()));
    }
    if let Some(commands) = &expect.commands {
        found.extend(in_commands(commands, record));
    }
    if let Some(published) = &expect.published
        && *published != record.published
    {
        found.push(side_by_side("published", "published", published, &record.published));
    }
    for (name, status) in &expect.steps {
        let actual = definition.step_named(name).map_or("", |step| {
            let state = &saga.steps[step];
            state.status(&definition.steps[step], definition.on_compensation_failure).as_str()
        });
        if actual != *status {
            found.push(differ(&format!("steps.{name}"), status, actual));
        }
    }
    if let Some(effects) = &expect.effects {
        let actual: Vec<&str> = record.effects.iter().map(|step| &*definition.steps[*step].name).collect();
        let missing = effects.iter().any(|name| !actual.contains(&name.as_str()));
        if missing || actual.len() != effects.len() {
            found.push(differ("effects", &listed(effects), &listed(&actual)));
        }
    }
    for (name, (execute, compensate)) in &expect.attempts {
        for (action, expected) in [(Action::Execute, execute), (Action::Compensate, compensate)] {
            let of_it = |ticket: &crate::core::id::Ticket| {
                *definition.steps[ticket.spot.step].name == **name && ticket.action == action
            };
            let actual = record.sent.iter().filter(|(_, command)| of_it(&command.ticket)).count();
            if expected.is_some_and(|expected| expected as usize != actual) {
                let place = format!("attempts.{name}.{}", action.as_str());
                found.push(differ(&place, &expected.unwrap_or_default().to_string(), &actual.to_string()));
            }
        }
    }
    if let Some(output) = &expect.output {
        let actual = match &saga.phase {
            Phase::Completed { output, .. } => output,
            _ => &Value::Null,
        };
        found.extend(lacking("output", output, actual));
    }
    found.extend(in_error(definition, scenario, saga));
    if let Some(events) = &expect.events
        && *events != record.events
    {
        found.push(side_by_side("events", "published", events, &record.events));
    }
    if let Some(part) = &expect.suspended {
        match &saga.suspended {
            Some(suspension) if suspension.reason.contains(part.as_str()) => {}
            Some(suspension) => {
                found.push(differ("suspended", &format!("{part:?}, or more"), &format!("{:?}", suspension.reason)));
            }
            None => found.push(differ("suspended", &format!("{part:?}"), "not suspended")),
        }
    }
    if let Some(within) = expect.ended_within {
        let within_words = format!("within {}", humantime::format_duration(within));
        match saga.ended_at() {
            Some(at) if at.since(START) <= within => {}
            Some(at) => {
                found.push(differ("ended_within", &within_words, &format!("ended at {}", story::since_start(at))))
            }
            None => found.push(differ("ended_within", &within_words, "it has not ended")),
        }
    }
    found
}

fn in_error(definition: &Definition, scenario: &Scenario, saga: &Saga) -> Vec<String> {
    let Some(expected) = &scenario.expect.error else { return Vec::new() };
    let Some(error) = &saga.error else { return vec!["error: the saga has none".to_owned()] };
    let mut found = Vec::new();
    let step = error.step.map_or("none", |step| &definition.steps[step].name);
    if let Some(name) = expected.step.as_deref().filter(|name| *name != step) {
        found.push(differ("error.step", name, step));
    }
    if let Some(reason) = expected.reason.filter(|reason| *reason != error.failure.reason) {
        found.push(differ("error.reason", reason.as_str(), error.failure.reason.as_str()));
    }
    if let Some(part) = expected.message.as_deref().filter(|part| !error.failure.message.contains(part)) {
        found.push(differ("error.message", &format!("{part:?}, or more"), &format!("{:?}", error.failure.message)));
    }
    found
}

fn in_commands(expected: &[ExpectedCommand], record: &Record) -> Vec<String> {
    let wanted: Vec<&str> = expected.iter().map(|command| command.command.as_str()).collect();
    let sent: Vec<&str> = record.sent.iter().map(|(_, command)| command.routing_key.as_str()).collect();
    if wanted != sent {
        return vec![side_by_side("commands", "sent", &wanted, &sent)];
    }
    let mut found = Vec::new();
    for (nth, (expected, (at, command))) in expected.iter().zip(&record.sent).enumerate() {
        let place = |what: &str| format!("commands[{nth}] ({}) {what}", expected.command);
        if let Some(body) = &expected.body {
            found.extend(lacking(&place("body"), body, &command.body));
        }
        if let Some(headers) = &expected.headers {
            let actual: Value = command.headers.iter().cloned().collect();
            found.extend(lacking(&place("headers"), headers, &actual));
        }
        let mut number = |what: &str, expected: Option<u32>, actual: u32| {
            if let Some(expected) = expected.filter(|expected| *expected != actual) {
                found.push(differ(&place(what), &expected.to_string(), &actual.to_string()));
            }
        };
        number("priority", expected.priority.map(u32::from), command.priority.into());
        number("attempt", expected.attempt, command.ticket.attempt);
        if let Some(after) = expected.after.filter(|after| START.plus(*after) != *at) {
            found.push(differ(&place("after"), &story::since_start(START.plus(after)), &story::since_start(*at)));
        }
    }
    found
}

fn differ(what: &str, expected: &str, actual: &str) -> String {
    format!("{what}\n    expected  {expected}\n    is        {actual}")
}

fn listed(names: &[impl AsRef<str>]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", "),
    }
}

/// Two lists, line by line, and a mark at the first line in which they differ.
fn side_by_side(what: &str, actually: &str, expected: &[impl AsRef<str>], actual: &[impl AsRef<str>]) -> String {
    let at = |list: &[String], nth: usize| list.get(nth).cloned().unwrap_or_else(|| "-".to_owned());
    let owned = |list: &[&str]| list.iter().map(|it| (*it).to_owned()).collect::<Vec<String>>();
    let expected = owned(&expected.iter().map(AsRef::as_ref).collect::<Vec<_>>());
    let actual = owned(&actual.iter().map(AsRef::as_ref).collect::<Vec<_>>());
    let lines = expected.len().max(actual.len());
    let first = (0..lines).find(|nth| expected.get(*nth) != actual.get(*nth));
    let width = expected.iter().map(|it| it.chars().count()).max().unwrap_or(0).max("expected".len());
    let mut text = format!("{what}\n    {:width$}  {actually}", "expected");
    for nth in 0..lines {
        let mark = if Some(nth) == first { ">" } else { " " };
        let _ = write!(text, "\n  {mark} {:width$}  {}", at(&expected, nth), at(&actual, nth));
    }
    text
}

/// Where `actual` lacks something that `expected` has: an object may have more than is expected.
fn lacking(what: &str, expected: &Value, actual: &Value) -> Option<String> {
    match (expected, actual) {
        (Value::Object(fields), Value::Object(actual)) => fields.iter().find_map(|(name, expected)| {
            lacking(&format!("{what}.{name}"), expected, actual.get(name).unwrap_or(&Value::Null))
        }),
        (Value::Array(items), Value::Array(actual)) if items.len() == actual.len() => {
            let mut pairs = items.iter().zip(actual).enumerate();
            pairs.find_map(|(nth, (expected, actual))| lacking(&format!("{what}[{nth}]"), expected, actual))
        }
        (Value::Number(a), Value::Number(b)) if same_decimal(a.as_str(), b.as_str()) => None,
        _ if expected == actual => None,
        _ => Some(differ(what, &expected.to_string(), &actual.to_string())),
    }
}

/// What happened, one line each.
pub(super) fn history(definition: &Definition, record: &Record) -> Vec<String> {
    let told = |(at, entries): &(Time, Vec<_>)| {
        entries.iter().map(|entry| story::tell(definition, *at, entry)).collect::<Vec<_>>()
    };
    record.journal.iter().flat_map(told).collect()
}
