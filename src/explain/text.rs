//! An explanation as a note for whoever was woken by the saga.

use std::fmt::Write;

use super::{Choice, Explanation, Items, Kind, Wait};
use crate::core::time::{At, Time};

/// Columns before a line is broken.
const WIDTH: usize = 110;

/// For a person.
pub fn text(explanation: &Explanation) -> String {
    let Explanation { id, saga, key, status, at: At(now), summary, since, waits, notes, choices } = explanation;
    let key = key.as_ref().map_or(String::new(), |key| format!(", key {key}"));
    let since = since.map_or(String::new(), |At(since)| format!(" since {}", moment(since, *now)));
    let mut out = format!("{saga} {id}{key}\n{status}{since}\n\n");
    block(&mut out, "", summary);
    // The summary has said what for.
    let mut waits = waits.iter().filter(|wait| wait.kind != Kind::Operator).peekable();
    if waits.peek().is_some() {
        out.push_str("\nIt waits for\n");
        waits.for_each(|wait| one(&mut out, wait, *now));
    }
    if !notes.is_empty() {
        out.push_str("\nNote\n");
        notes.iter().for_each(|note| block(&mut out, "  - ", note));
    }
    if !choices.is_empty() {
        out.push_str("\nYou can\n");
        choices.iter().for_each(|choice| choice_of(&mut out, choice));
    }
    out
}

fn one(out: &mut String, wait: &Wait, now: Time) {
    let step = wait.step.as_ref().map_or(String::new(), |step| format!("{step}: "));
    block(out, "  - ", &format!("{step}{}{}", wait.what, wait.items.as_ref().map_or(String::new(), elements)));
    let mut facts = Vec::new();
    facts.extend(wait.since.map(|At(since)| format!("since {}", moment(since, now))));
    match (wait.attempt, wait.attempts_left) {
        (None, _) => {}
        (Some(_), Some(0)) => facts.push("no further attempt".to_owned()),
        (Some(_), Some(1)) => facts.push("1 more attempt".to_owned()),
        (Some(_), Some(left)) => facts.push(format!("{left} more attempts")),
        (Some(_), None) => facts.push("tried without end".to_owned()),
    }
    if !facts.is_empty() {
        block(out, "      ", &facts.join(", "));
    }
    if let Some(failure) = &wait.last_failure {
        block(out, "      before: ", failure);
    }
    for other in &wait.sagas {
        let status = other.status.as_ref().map_or(String::new(), |status| format!(", {status}"));
        block(out, "      saga ", &format!("{}{status}", other.id));
    }
    if let (Some(At(until)), false) = (wait.until, wait.next.iter().any(|next| next.at.is_some())) {
        block(out, "      until ", &moment(until, now));
    }
    for next in &wait.next {
        let when = match (next.on.as_str(), next.at, wait.kind) {
            ("failure", ..) => "if it fails: ".to_owned(),
            ("time", Some(At(at)), Kind::Start | Kind::Sleep | Kind::Delay | Kind::Backoff) => {
                format!("at {}: ", moment(at, now))
            }
            ("time", Some(At(at)), _) => format!("if not by {}: ", moment(at, now)),
            (_, _, Kind::Answer | Kind::Child) => "if it succeeds: ".to_owned(),
            _ => "then: ".to_owned(),
        };
        block(out, &format!("      {when}"), &next.what);
    }
}

fn elements(items: &Items) -> String {
    let Items { count, first, of, not_begun } = items;
    let named: Vec<String> = first.iter().map(u32::to_string).collect();
    let more = if *count as usize > first.len() { ", …" } else { "" };
    let rest = if *not_begun > 0 { format!(", {not_begun} not begun") } else { String::new() };
    format!(" [{count} of {of} elements: {}{more}{rest}]", named.join(", "))
}

fn choice_of(out: &mut String, choice: &Choice) {
    let _ = writeln!(out, "  {}", choice.command);
    block(out, "      ", &choice.effect);
}

/// `2026-01-02T03:04:05.678Z (5m ago)`
fn moment(at: Time, now: Time) -> String {
    let (later, apart) = if at > now { (true, at.since(now)) } else { (false, now.since(at)) };
    // Whoever reads this has no use for milliseconds once there are minutes.
    let apart = match apart.as_secs() {
        0 => apart,
        1..600 => std::time::Duration::from_secs(apart.as_secs()),
        secs => std::time::Duration::from_secs(secs / 60 * 60),
    };
    match (later, apart.is_zero()) {
        (_, true) => format!("{at} (now)"),
        (true, _) => format!("{at} (in {})", humantime::format_duration(apart)),
        (false, _) => format!("{at} ({} ago)", humantime::format_duration(apart)),
    }
}

/// Words in lines of at most [`WIDTH`] columns: the first begins with `lead`, the others with as many spaces as it is
/// indented by, and two.
fn block(out: &mut String, lead: &str, words: &str) {
    let indent = lead.len() - lead.trim_start().len() + if lead.trim().is_empty() { 0 } else { 2 };
    let mut line = lead.to_owned();
    let mut is_fresh = true;
    for word in words.split_whitespace() {
        if !is_fresh && unicode_width::UnicodeWidthStr::width(line.as_str()) + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(out, "{}", line.trim_end());
            line = " ".repeat(indent);
            is_fresh = true;
        }
        if !is_fresh {
            line.push(' ');
        }
        line.push_str(word);
        is_fresh = false;
    }
    let _ = writeln!(out, "{}", line.trim_end());
}
