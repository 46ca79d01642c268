//! How a saga begins.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::core::apply::{Origin, begin};
use crate::core::decide::{Decision, Transition};
use crate::core::definition::{Definition, Priority, Schema};
use crate::core::entry::Entry;
use crate::core::id::SagaId;
use crate::core::saga::Parent;
use crate::core::template::{Scope, Template};
use crate::core::time::Time;

/// A start, as far as the core is concerned.
#[derive(Clone, Debug)]
pub struct NewSaga {
    /// Its id.
    pub id: SagaId,
    /// The revision of `definition` that it is pinned to.
    pub revision: u32,
    /// What it is started with.
    pub input: Arc<Value>,
    /// Instead of the definition's.
    pub priority: Option<u8>,
    /// Wait so long before it begins.
    pub delay: Duration,
    /// W3C trace context of whoever asked.
    pub trace: Option<String>,
    /// Who asked.
    pub actor: String,
    /// The step that runs it, if it is a child.
    pub parent: Option<Parent>,
}

/// One thing wrong with an input.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct InputError {
    /// JSON pointer into the input.
    pub pointer: String,
    /// For a person.
    pub detail: String,
}

impl std::fmt::Display for InputError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pointer.as_str() {
            "" => f.write_str(&self.detail),
            pointer => write!(f, "{pointer}: {}", self.detail),
        }
    }
}

/// Longest business key, in characters: what fits a header, an index and a person's eye.
pub const LONGEST_KEY: usize = 255;

/// What is wrong with an input, and the business key that follows from it.
///
/// # Errors
/// All that breaks the definition's schema, or why there is no key.
pub fn check_input(definition: &Definition, input: &Arc<Value>) -> Result<Option<Arc<str>>, Vec<InputError>> {
    if let Some(schema) = &definition.input {
        let errors = schema_errors(schema, input);
        if !errors.is_empty() {
            return Err(errors);
        }
    }
    let Some(template) = &definition.key else { return Ok(None) };
    let wrong = |detail: String| vec![InputError { pointer: String::new(), detail }];
    as_key(template, input).map(Some).map_err(|error| wrong(format!("the key {error}")))
}

/// What keeps a saga from running beside others: the value of its definition's `lock`.
///
/// # Errors
/// It can't be made from the input.
pub fn lock_of(definition: &Definition, input: &Arc<Value>) -> Result<Option<Arc<str>>, Vec<InputError>> {
    let wrong = |error: String| vec![InputError { pointer: String::new(), detail: format!("the lock's key {error}") }];
    definition.lock.as_ref().map(|lock| as_key(&lock.key, input)).transpose().map_err(wrong)
}

/// A rendered key; else what is wrong with it.
fn as_key(template: &Template, input: &Arc<Value>) -> Result<Arc<str>, String> {
    let key = match render(template, input).map_err(|error| format!("can't be made: {error}"))? {
        Value::String(key) => key,
        Value::Number(number) => number.to_string(),
        other => return Err(format!("must be a string or a number, it is {other}")),
    };
    match key.chars().count() {
        0 => Err("is empty".into()),
        length if length > LONGEST_KEY => Err(format!("has {length} characters, {LONGEST_KEY} are allowed")),
        _ if key.chars().any(char::is_control) => Err("has control characters in it".into()),
        _ => Ok(key.into()),
    }
}

/// Begins a saga: its first transition. `key` is what [`check_input`] found.
///
/// # Errors
/// The priority can't be made from the input.
pub fn start(
    definition: &Definition,
    new: NewSaga,
    key: Option<Arc<str>>,
    now: Time,
) -> Result<Decision, Vec<InputError>> {
    let priority = match (&definition.priority, new.priority) {
        (_, Some(priority)) => priority,
        (Priority::Fixed(priority), None) => *priority,
        (Priority::Template(template), None) => {
            let rendered = render(template, &new.input).map_err(|error| error.to_string());
            rendered.and_then(|value| as_priority(&value)).map_err(|detail| {
                vec![InputError { pointer: String::new(), detail: format!("the priority can't be made: {detail}") }]
            })?
        }
    };
    let lock = lock_of(definition, &new.input)?;
    let due = now.plus(new.delay);
    let steps = definition.steps.len();
    let (trace, parent) = (new.trace, new.parent);
    let accepted = Entry::Accepted { key, priority, due, trace, parent, lock, steps, actor: new.actor };
    let origin = Origin { id: new.id, definition: definition.name.clone(), revision: new.revision, input: new.input };
    let Some(saga) = begin(origin, &accepted, now) else { unreachable!("an accepted saga begins") };
    let mut transition = Transition::new(definition, saga, now);
    transition.entries.push(accepted);
    transition.greet_parent();
    transition.advance();
    Ok(transition.into_decision())
}

/// Reads a rendered priority.
///
/// # Errors
/// It is no whole number from 0 to 9; for a person.
pub fn as_priority(value: &Value) -> Result<u8, String> {
    let number = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    match number {
        Some(priority @ 0..=9) => Ok(priority as u8),
        _ => Err(format!("a priority is a whole number from 0 to 9, this is {value}")),
    }
}

fn render(template: &Template, input: &Arc<Value>) -> Result<Value, crate::core::template::TemplateError> {
    template.render(&Scope::of_input(input.clone()))
}

/// All that breaks a schema.
pub(super) fn schema_errors(schema: &Schema, input: &Value) -> Vec<InputError> {
    // The common case, an input that fits, takes the validator's quick way.
    if schema.validator.is_valid(input) {
        return Vec::new();
    }
    let errors = schema.validator.iter_errors(input);
    errors.map(|error| InputError { pointer: error.instance_path().to_string(), detail: error.to_string() }).collect()
}
