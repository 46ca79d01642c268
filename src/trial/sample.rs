//! Made-up inputs and replies, for where nobody said what they are.

use serde_json::{Map, Value, json};

use crate::core::definition::{self, Definition, Execute, OnTimeout, Priority, Step, Undo};
use crate::core::id::StepIx;
use crate::core::template::{Body, Reference, Template};

/// A reply with everything in it that the definition reads of it: `{ "payment_id": "pay.payment_id" }`.
pub fn reply(definition: &Definition, step: StepIx) -> Value {
    let name = &*definition.steps[step].name;
    let schema = definition.steps[step].command().and_then(|command| command.reply.schema.as_ref());
    let mut reply = schema.map_or_else(|| json!({}), |schema| fitting(&schema.source, false));
    for path in references(definition).into_iter().map(|reference| &reference.path) {
        if let [root, of, reply_of, below @ ..] = path.as_slice()
            && (root.as_str(), of.as_str(), reply_of.as_str()) == ("steps", name, "reply")
        {
            put(&mut reply, below, &format!("{name}.{}", below.join(".")));
        }
    }
    reply
}

/// Makes sure that there is something at a path.
fn put(value: &mut Value, path: &[String], text: &str) {
    let Some((first, rest)) = path.split_first() else { return };
    let slot = match (value, first.parse::<usize>()) {
        (Value::Object(fields), _) => fields.entry(first.clone()).or_insert(Value::Null),
        (value @ Value::Null, Ok(_)) => {
            *value = json!([null]);
            return put(value, path, text);
        }
        (value @ Value::Null, Err(_)) => {
            *value = json!({});
            return put(value, path, text);
        }
        (Value::Array(items), Ok(index)) if index < 100 => {
            items.resize(items.len().max(index + 1), Value::Null);
            &mut items[index]
        }
        _ => return,
    };
    if rest.is_empty() {
        if slot.is_null() {
            *slot = text.into();
        }
    } else {
        put(slot, rest, text);
    }
}

/// All that the templates of a definition read.
fn references(definition: &Definition) -> Vec<&Reference> {
    let steps = definition.steps.iter().flat_map(of_step);
    steps.chain(definition.output.iter().flat_map(Body::references)).collect()
}

fn of_step(step: &Step) -> Vec<&Reference> {
    let mut all: Vec<&Reference> = step.when.iter().flat_map(|when| when.references()).collect();
    all.extend(step.foreach.iter().flat_map(|foreach| foreach.elements.references()));
    match &step.execute {
        Execute::Command(request) => {
            all.extend(of_command(&request.command));
            if let OnTimeout::Probe(probe) = &request.on_timeout {
                all.extend(of_command(probe));
            }
        }
        Execute::Publish(event) => all.extend(of_message(event.body.as_ref(), &event.headers, event.priority.as_ref())),
        Execute::Saga(child) => all.extend(child.input.iter().flat_map(Body::references)),
        Execute::Wait(_) | Execute::Sleep(_) => {}
    }
    if let Some(Undo::Command(command)) = step.compensate.as_ref().map(|compensate| &compensate.undo) {
        all.extend(of_command(command));
    }
    all
}

fn of_command(command: &definition::Command) -> Vec<&Reference> {
    of_message(command.body.as_ref(), &command.headers, command.priority.as_ref())
}

fn of_message<'a>(
    body: Option<&'a Body>,
    headers: &'a [(String, Template)],
    priority: Option<&'a Priority>,
) -> Vec<&'a Reference> {
    let priority = match priority {
        Some(Priority::Template(template)) => template.references(),
        _ => &[],
    };
    let headers = headers.iter().flat_map(|(_, template)| template.references());
    body.into_iter().flat_map(Body::references).chain(headers).chain(priority).collect()
}

/// How deep a schema is followed.
const DEEPEST: usize = 16;

/// A value that fits a JSON Schema, as far as its plain words go; whether it does is for the validator to say. Objects have the
/// properties that are required, or `all`.
pub fn fitting(schema: &Value, all: bool) -> Value {
    of_schema(schema, schema, all, 0)
}

fn of_schema(root: &Value, schema: &Value, all: bool, depth: usize) -> Value {
    let first = |name: &str| schema.get(name).and_then(Value::as_array).and_then(|all| all.first());
    if let Some(value) = schema.get("const").or(schema.get("default")).or(first("examples")).or(first("enum")) {
        return value.clone();
    }
    if depth > DEEPEST {
        return Value::Null;
    }
    let other = schema.get("$ref").and_then(Value::as_str).and_then(|it| root.pointer(it.strip_prefix('#')?));
    if let Some(other) = other.or(first("anyOf")).or(first("oneOf")).or(first("allOf")) {
        return of_schema(root, other, all, depth + 1);
    }
    let number = |name: &str| schema.get(name).and_then(Value::as_f64);
    let kind = schema.get("type").and_then(|kind| kind.as_str().or_else(|| kind.get(0)?.as_str()));
    match kind {
        Some("string") => {
            let least = schema.get("minLength").and_then(Value::as_u64).unwrap_or(1).clamp(1, 1000);
            "a".repeat(usize::try_from(least).unwrap_or(1)).into()
        }
        Some(kind @ ("integer" | "number")) => {
            let least = number("minimum").or(number("exclusiveMinimum").map(|above| above + 1.0));
            let most = number("maximum").or(number("exclusiveMaximum").map(|below| below - 1.0));
            let chosen = least.unwrap_or(1.0).min(most.unwrap_or(f64::INFINITY));
            if kind == "integer" || chosen.fract() == 0.0 { json!(chosen.ceil() as i64) } else { json!(chosen) }
        }
        Some("boolean") => true.into(),
        Some("null") => Value::Null,
        Some("array") => {
            let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(1).clamp(1, 100);
            let item =
                schema.get("items").map_or_else(|| "item".into(), |items| of_schema(root, items, all, depth + 1));
            (0..least).map(|_| item.clone()).collect()
        }
        _ => {
            let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
            let properties = schema.get("properties");
            let field = |name: &str| {
                let schema = properties.and_then(|properties| properties.get(name));
                (name.to_owned(), schema.map_or_else(|| name.into(), |schema| of_schema(root, schema, all, depth + 1)))
            };
            let mentioned = properties.and_then(Value::as_object).filter(|_| all).into_iter().flat_map(Map::keys);
            let names = required.filter_map(Value::as_str).chain(mentioned.map(String::as_str));
            Value::Object(names.map(field).collect::<Map<_, _>>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_fit_their_schema() {
        let schema = json!({
            "type": "object",
            "required": ["id", "side", "items", "total", "note", "deep"],
            "properties": {
                "id": { "type": "string", "minLength": 3 },
                "side": { "enum": ["buy", "sell"] },
                "items": { "type": "array", "items": { "$ref": "#/$defs/item" } },
                "total": { "type": "number", "exclusiveMinimum": 0 },
                "deep": { "type": ["object", "null"], "required": ["on"], "properties": { "on": { "type": "boolean" } } },
            },
            "$defs": { "item": { "type": "integer", "minimum": 7 } },
        });
        let input =
            json!({ "id": "aaa", "side": "buy", "items": [7], "total": 1, "note": "note", "deep": { "on": true } });
        assert_eq!(fitting(&schema, false), input);
    }

    #[test]
    fn paths_are_made_as_they_are_read() {
        let mut value = json!({ "a": 1 });
        put(&mut value, &["b".into(), "1".into(), "c".into()], "x");
        put(&mut value, &["a".into()], "y");
        assert_eq!(value, json!({ "a": 1, "b": [null, { "c": "x" }] }));
    }
}
