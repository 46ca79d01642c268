//! JSON as MiniJinja sees it, and back. Containers stay where they are and are converted as far as they are looked at;
//! numbers are converted exactly or not at all.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind, Value as Dynamic};
use serde_json::{Map, Number, Value};

use super::TemplateError;
use super::find::down;
use super::path::Segment;
use crate::core::number::exact_double;

/// How deep a computed value may be nested: what serde_json reads, too.
const MAX_DEPTH: usize = 128;

/// Names that serde_json uses between its own parts: an object with such a key would be read back as something else.
const RESERVED: &str = "$serde_json::private::";

/// An array or an object inside a shared document.
pub(super) struct Container {
    root: Arc<Value>,
    below: Vec<Segment>,
}

/// `value`, which is what `below` leads to from `root`, for MiniJinja.
pub(super) fn dynamic(root: &Arc<Value>, below: impl FnOnce() -> Vec<Segment>, value: &Value) -> Dynamic {
    match value {
        Value::Null => Dynamic::from(()),
        Value::Bool(it) => Dynamic::from(*it),
        Value::Number(number) => dynamic_number(number),
        Value::String(text) => Dynamic::from(text.as_str()),
        Value::Array(_) | Value::Object(_) => {
            Dynamic::from_object(Container { root: Arc::clone(root), below: below() })
        }
    }
}

/// The replies of the elements of a step. They are looked at one by one: together they may be large.
#[derive(Debug)]
pub(super) struct Replies(pub(super) Arc<[Option<Arc<Value>>]>);

impl Object for Replies {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Dynamic) -> Option<Dynamic> {
        let reply = self.0.get(key.as_usize()?)?;
        Some(reply.as_ref().map_or(Dynamic::from(()), |reply| dynamic(reply, Vec::new, reply)))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }
}

impl Container {
    fn value(&self) -> &Value {
        // The path was found when this was made and the document never changes.
        self.below.iter().fold(&*self.root, |at, segment| down(at, segment).unwrap_or(&Value::Null))
    }

    fn child(&self, segment: Segment) -> Option<Dynamic> {
        let child = down(self.value(), &segment)?;
        let below = || self.below.iter().cloned().chain([segment]).collect();
        Some(dynamic(&self.root, below, child))
    }
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.value(), f)
    }
}

impl Object for Container {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        if self.value().is_array() { ObjectRepr::Seq } else { ObjectRepr::Map }
    }

    fn get_value(self: &Arc<Self>, key: &Dynamic) -> Option<Dynamic> {
        self.child(Segment::of_const(key)?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Dynamic> {
        self.child(Segment::Key(key.to_owned()))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match self.value() {
            Value::Array(items) => Enumerator::Seq(items.len()),
            Value::Object(fields) => Enumerator::Values(fields.keys().map(Dynamic::from).collect()),
            _ => Enumerator::Empty,
        }
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        match self.value() {
            Value::Array(items) => Some(items.len()),
            Value::Object(fields) => Some(fields.len()),
            _ => None,
        }
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.value(), f)
    }
}

/// A number to calculate with; one that can't be represented exactly is an error as soon as it is used.
fn dynamic_number(number: &Number) -> Dynamic {
    if let Some(it) = number.as_i64() {
        return Dynamic::from(it);
    }
    if let Some(it) = number.as_i128() {
        return Dynamic::from(it);
    }
    match exact_double(number) {
        Some(it) => Dynamic::from(it),
        None => {
            let message =
                format!("the number {number} has more digits than a calculation can keep; pass it on as it is");
            Dynamic::from(Error::new(ErrorKind::InvalidOperation, message))
        }
    }
}

/// A result, as JSON.
///
/// # Errors
/// It is undefined, too deep, or nothing that JSON has.
pub(super) fn json(value: &Dynamic) -> Result<Value, TemplateError> {
    json_at(value, 0)
}

fn json_at(value: &Dynamic, depth: usize) -> Result<Value, TemplateError> {
    if let Some(container) = value.downcast_object_ref::<Container>() {
        return Ok(container.value().clone());
    }
    if depth > MAX_DEPTH {
        return Err(TemplateError::new(format!("the result is nested more than {MAX_DEPTH} deep")));
    }
    match value.kind() {
        ValueKind::None => Ok(Value::Null),
        ValueKind::Bool => Ok(Value::Bool(value.is_true())),
        ValueKind::Number => json_number(value).map(Value::Number),
        ValueKind::String => Ok(Value::String(value.as_str().unwrap_or_default().to_owned())),
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter().map_err(TemplateError::from)?;
            items.checked().map(|item| json_at(&item?, depth + 1)).collect::<Result<_, _>>().map(Value::Array)
        }
        ValueKind::Map => {
            let mut fields = Map::new();
            for key in value.try_iter().map_err(TemplateError::from)?.checked() {
                let key = key?;
                let Some(name) = key.as_str() else {
                    return Err(TemplateError::new(format!("the key `{key}` of an object is not a string")));
                };
                if name.starts_with(RESERVED) {
                    return Err(TemplateError::new(format!("`{name}` can't be a key of an object")));
                }
                fields.insert(name.to_owned(), json_at(&value.get_item(&key)?, depth + 1)?);
            }
            Ok(Value::Object(fields))
        }
        ValueKind::Undefined => Err(TemplateError::new("the result is undefined")),
        other => Err(TemplateError::new(format!("the result is a value that JSON does not have ({other})"))),
    }
}

fn json_number(value: &Dynamic) -> Result<Number, TemplateError> {
    if value.is_integer() {
        let number = i128::try_from(value.clone()).ok().and_then(Number::from_i128);
        let number = number.or_else(|| u128::try_from(value.clone()).ok().and_then(Number::from_u128));
        return number.ok_or_else(|| TemplateError::new(format!("the number {value} is too large")));
    }
    let number = f64::try_from(value.clone()).ok().and_then(Number::from_f64);
    number.ok_or_else(|| TemplateError::new("the result is not a number: something was divided by zero or overflowed"))
}

/// A value in the midst of text: a string as it is, anything else as JSON.
pub(super) fn text(value: &Value) -> std::borrow::Cow<'_, str> {
    match value {
        Value::String(text) => text.as_str().into(),
        other => other.to_string().into(),
    }
}

/// What a value costs: about its size in bytes; counting ends beyond `limit`.
pub(super) fn cost(value: &Dynamic, limit: u64) -> u64 {
    let mut total = 0;
    cost_at(value, limit, 0, &mut total);
    total
}

/// What even the smallest value costs.
const CELL: u64 = 16;

fn cost_at(value: &Dynamic, limit: u64, depth: usize, total: &mut u64) {
    *total = total.saturating_add(CELL);
    if depth > MAX_DEPTH {
        // Whoever nests this deep is up to no good.
        *total = u64::MAX;
    }
    if *total > limit {
        return;
    }
    if let Some(container) = value.downcast_object_ref::<Container>() {
        return json_cost(container.value(), total);
    }
    if let Some(text) = value.as_str() {
        *total += text.len() as u64;
        return;
    }
    let is_map = value.kind() == ValueKind::Map;
    if !is_map && !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        return;
    }
    let Ok(items) = value.try_iter() else { return };
    for item in items {
        cost_at(&item, limit, depth + 1, total);
        if let (true, Ok(under)) = (is_map, value.get_item(&item)) {
            cost_at(&under, limit, depth + 1, total);
        }
        if *total > limit {
            return;
        }
    }
}

/// Adds what JSON costs.
pub(super) fn json_cost(value: &Value, total: &mut u64) {
    *total += CELL;
    match value {
        Value::String(text) => *total += text.len() as u64,
        Value::Array(items) => items.iter().for_each(|item| json_cost(item, total)),
        Value::Object(fields) => fields.iter().for_each(|(key, field)| {
            *total += key.len() as u64;
            json_cost(field, total);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So deep a list of lists.
    fn nested(depth: usize) -> Dynamic {
        (0..depth).fold(Dynamic::from(1), |inner, _| Dynamic::from(vec![inner]))
    }

    #[test]
    fn a_value_costs_its_text_and_something_for_each_of_its_parts() {
        let document = Arc::new(serde_json::json!({ "key": ["abc", null] }));
        for (value, expected) in [
            (Dynamic::from(1), 16),
            (Dynamic::from("abc"), 19),
            (Dynamic::from(vec![1, 2]), 48),
            (Dynamic::from_pairs([("ab", Dynamic::from("c"))]), 16 + 18 + 17),
            (dynamic(&document, Vec::new, &document), 16 + 16 + 3 + 16 + 19 + 16),
        ] {
            assert_eq!(cost(&value, 1_000), expected, "{value}");
        }
    }

    #[test]
    fn what_costs_more_than_is_left_is_not_counted_to_its_end() {
        assert_eq!((cost(&Dynamic::from("abc"), 16), cost(&Dynamic::from("abc"), 15)), (19, 16));
        let ones = Dynamic::from(vec![1; 1_000]);
        assert_eq!((cost(&ones, 32), cost(&ones, 31), cost(&ones, 15)), (48, 32, 16));
    }

    #[test]
    fn what_is_nested_too_deep_costs_more_than_there_is() {
        let maps = |depth| (0..depth).fold(Dynamic::from(1), |inner, _| Dynamic::from_pairs([("", inner)]));
        assert_eq!(cost(&nested(MAX_DEPTH), u64::MAX - 1), 16 * 129);
        assert_eq!(cost(&maps(MAX_DEPTH), u64::MAX - 1), 16 * (1 + 2 * 128));
        assert_eq!(cost(&nested(MAX_DEPTH + 1), u64::MAX - 1), u64::MAX);
        assert_eq!(cost(&maps(MAX_DEPTH + 1), u64::MAX - 1), u64::MAX);
    }
}
