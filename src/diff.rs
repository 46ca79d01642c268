//! What changed between two texts of a definition, and for whom. Pure.
//!
//! ```text
//!   old ─facts─┐                ┌─> each change: for new sagas or at once, and whether it can break others
//!              ├─> by name ─────┤
//!   new ─facts─┘                └─> messages that are new, or no longer sent: what participants' teams must know
//! ```

mod facts;
mod narrowed;

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;

use self::facts::{Facts, facts_of_saga, facts_of_step, messages};
use crate::core::definition::Definition;

/// Everything that differs.
#[derive(Debug, PartialEq, Serialize)]
pub struct Diff {
    /// The name of the new one.
    pub saga: String,
    /// In the order of the new one; what was removed at the end.
    pub changes: Vec<Change>,
    /// Messages that only the new one sends.
    pub sent: Vec<Message>,
    /// Messages that only the old one sends: sagas under way go on to.
    pub no_longer_sent: Vec<Message>,
}

/// One difference.
#[derive(Debug, PartialEq, Serialize)]
pub struct Change {
    /// The step that it is about; none: the saga.
    pub step: Option<String>,
    /// The key; none: the step as a whole.
    pub key: Option<String>,
    /// What it was; null: not there.
    pub before: Value,
    /// What it is.
    pub after: Value,
    /// For which sagas.
    pub applies: Applies,
    /// Whom it can break, and how.
    pub breaks: Option<String>,
}

/// For which sagas a change holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Applies {
    /// Those that begin from now on: the others keep the revision they began with.
    NewSagas,
    /// Those under way too.
    AtOnce,
}

/// A command or an event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Message {
    /// Where it is published.
    pub exchange: String,
    /// Under which key.
    pub routing_key: String,
}

impl Diff {
    /// Compares two definitions.
    pub fn new(old: &Definition, new: &Definition) -> Diff {
        let mut changes = Vec::new();
        compare(&mut changes, None, &facts_of_saga(old), &facts_of_saga(new));
        for (at, step) in new.steps.iter().enumerate() {
            let name = Some(&*step.name);
            match old.step_named(&step.name) {
                Some(before) => compare(&mut changes, name, &facts_of_step(old, before), &facts_of_step(new, at)),
                None => changes.push(Change::of_step(&step.name, Value::Null, step.execute.kind().into(), None)),
            }
        }
        for step in old.steps.iter().filter(|step| new.step_named(&step.name).is_none()) {
            let why = "whoever reads this step in the API or hears its events, no longer finds it";
            changes.push(Change::of_step(&step.name, step.execute.kind().into(), Value::Null, Some(why)));
        }
        let (before, after) = (messages(old), messages(new));
        let only = |these: &BTreeSet<Message>, those: &BTreeSet<Message>| these.difference(those).cloned().collect();
        Diff { saga: new.name.to_string(), changes, sent: only(&after, &before), no_longer_sent: only(&before, &after) }
    }

    /// Whether there is any difference.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

impl Change {
    fn of_step(name: &str, before: Value, after: Value, breaks: Option<&str>) -> Change {
        let (applies, breaks) = (Applies::NewSagas, breaks.map(str::to_owned));
        Change { step: Some(name.to_owned()), key: None, before, after, applies, breaks }
    }
}

fn compare(changes: &mut Vec<Change>, step: Option<&str>, old: &Facts, new: &Facts) {
    let keys = new.keys().chain(old.keys().filter(|key| !new.contains_key(*key)));
    for key in keys {
        let (before, after) = (old.get(key).unwrap_or(&Value::Null), new.get(key).unwrap_or(&Value::Null));
        if before == after {
            continue;
        }
        changes.push(Change {
            step: step.map(str::to_owned),
            key: Some((*key).to_owned()),
            before: before.clone(),
            after: after.clone(),
            applies: if step.is_none() { applies(key) } else { Applies::NewSagas },
            breaks: breaks(step.is_some(), key, before, after),
        });
    }
}

/// What the engine asks the current revision for, whatever a saga began with.
fn applies(key: &str) -> Applies {
    if matches!(key, "max_running" | "retention" | "start") { Applies::AtOnce } else { Applies::NewSagas }
}

/// Whom a change of a key can break, and how.
fn breaks(of_step: bool, key: &str, before: &Value, after: &Value) -> Option<String> {
    let why = match (of_step, key) {
        (false, "name") => "this is another saga: keys, locks and limits of the old one do not count for it",
        (false, "key") => "a start for what a saga is under way for, or has done, no longer finds that saga",
        (false, "lock") => "sagas under way hold their locks as they were: a new one may run beside them",
        (false, "output") => lost(before, after)?,
        (false, "input") => {
            return narrowed::narrowed(before, after).map(|how| format!("starts may be refused: {how}"));
        }
        (false, "events") if after == "none" || before == "step" => "some lifecycle events are no longer published",
        (false, "start") => return fewer_starts(before, after),
        (true, "does") => "another participant, or the same by other rules, has to take what this step does",
        (true, "exchange" | "compensate.exchange" | "probe.exchange") => {
            "the queue of the participant must be bound to it"
        }
        (true, "body" | "input" | "compensate.body" | "probe.body") => lost_by_participants(before, after)?,
        (true, "headers" | "compensate.headers" | "probe.headers") => lost_by_participants(before, after)?,
        (true, "foreach") if before.is_null() || after.is_null() => {
            "what reads its reply finds `replies`, or the other way round; and each element has its own command"
        }
        (true, "compensate") if after.is_null() => "what it did stays done where the saga is undone",
        (true, "pivot") if after == true => "from here on nothing is undone any more",
        _ => return None,
    };
    Some(why.to_owned())
}

/// Whether something is gone from a value, or is another.
fn is_lost(before: &Value, after: &Value) -> bool {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            before.iter().any(|(name, value)| after.get(name).is_none_or(|now| is_lost(value, now)))
        }
        _ => before != after,
    }
}

fn lost(before: &Value, after: &Value) -> Option<&'static str> {
    is_lost(before, after).then_some("whoever reads the result finds something else, or nothing, in some places")
}

fn lost_by_participants(before: &Value, after: &Value) -> Option<&'static str> {
    is_lost(before, after).then_some("the participant finds something else, or nothing, in some places")
}

fn fewer_starts(before: &Value, after: &Value) -> Option<String> {
    let after = after.as_array().map_or(&[][..], Vec::as_slice);
    let gone = before.as_array()?.iter().any(|start| !after.contains(start));
    gone.then(|| "events that started a saga may no longer do so".to_owned())
}
