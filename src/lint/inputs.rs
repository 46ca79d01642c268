//! Inputs that the schema of the saga that they are for refuses.

use std::ops::Range;

use serde_json::{Map, Value as Json};

use super::warning;
use crate::core::definition::{Definition, Schema};
use crate::core::diagnostic::Diagnostic;
use crate::core::parse::places::{Key, Places};
use crate::core::template::Body;

/// What a definition's own events give it.
pub(super) fn warnings(definition: &Definition, places: &Places<'_>) -> Vec<Diagnostic> {
    let of_start = |at: usize| {
        let input = definition.starts[at].input.as_ref()?;
        let place = places.find(&[Key::Start(at), Key::Name("input")]);
        refused(input, &definition.name, definition.input.as_ref()?, place)
    };
    (0..definition.starts.len()).filter_map(of_start).collect()
}

/// That the saga `name` with this schema refuses whatever `input` yields.
pub(super) fn refused(input: &Body, name: &str, schema: &Schema, place: Range<usize>) -> Option<Diagnostic> {
    let Body::Object(fields) = input else { return None };
    let schema = schema.source.as_object()?;
    if let Some(missing) = required(schema).find(|missing| !fields.contains_key(*missing)) {
        let message = format!("the saga `{name}` requires `{missing}`, and this input does not have it");
        return Some(warning("refused-input", place, message, format!("add `{missing}`, or do not require it there")));
    }
    let extra = fields.keys().find(|field| schema_forbids(schema, field))?;
    let message = format!("the saga `{name}` takes no `{extra}`, and this input has it");
    Some(warning("refused-input", place, message, format!("remove `{extra}`, or add it to the `properties` there")))
}

/// That the saga `name` with this schema refuses the input of `parent`, which is passed on to it.
pub(super) fn refused_from(
    parent: &Definition,
    name: &str,
    schema: &Schema,
    place: Range<usize>,
) -> Option<Diagnostic> {
    let own = parent.input.as_ref()?.source.as_object()?;
    let properties = own.get("properties")?.as_object()?;
    // What is said in parts may be said anywhere.
    if ["$ref", "allOf", "anyOf", "oneOf", "if", "patternProperties"].iter().any(|keyword| own.contains_key(*keyword)) {
        return None;
    }
    let has = |name: &str| properties.contains_key(name) || required(own).any(|required| required == name);
    let missing = required(schema.source.as_object()?).find(|missing| !has(missing))?;
    let message =
        format!("the saga `{name}` requires `{missing}`, and the input that is passed on to it need not have it");
    let help = format!("give the step an `input` with `{missing}`, or add it to the schema of the input");
    Some(warning("refused-input", place, message, help))
}

fn required(schema: &Map<String, Json>) -> impl Iterator<Item = &str> {
    schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str)
}

fn schema_forbids(schema: &Map<String, Json>, field: &str) -> bool {
    let known = schema.get("properties").and_then(Json::as_object).is_some_and(|known| known.contains_key(field));
    !known
        && schema.get("additionalProperties") == Some(&Json::Bool(false))
        && !schema.contains_key("patternProperties")
}
