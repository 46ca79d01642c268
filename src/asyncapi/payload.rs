//! Schemas of bodies, as far as they are known: from the input's schema, from replies' schemas, from what is written.

use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use super::document::Document;
use crate::core::definition::{Definition, Step};
use crate::core::template::{Body, Template, is_template};

/// Keywords with one schema, a list of them, and schemas by name.
const ONE: [&str; 12] = [
    "items",
    "additionalItems",
    "additionalProperties",
    "unevaluatedProperties",
    "unevaluatedItems",
    "contains",
    "propertyNames",
    "not",
    "if",
    "then",
    "else",
    "contentSchema",
];
const LIST: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
const NAMED: [&str; 5] = ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];

/// Schemas of what a definition's templates read.
pub(super) struct Payloads {
    /// With references that are right in the document.
    input: Option<(String, Value)>,
    /// Of success answers, by step.
    replies: IndexMap<String, (String, Value)>,
    /// Steps that may end without a reply and the saga goes on.
    unsure: Vec<String>,
    name: String,
}

impl Payloads {
    /// Adds the definition's schemas to the document.
    pub(super) fn new(definition: &Definition, document: &mut Document) -> Payloads {
        let mut add = |name: String, source: &Value| {
            let schema = rewritten(source, &format!("#/components/schemas/{name}"));
            document.schema(&name, schema.clone());
            (name, schema)
        };
        let input = definition.input.as_ref();
        let input = input.map(|schema| add(format!("{}.input", definition.name), &schema.source));
        let reply = |step: &Step, add: &mut dyn FnMut(String, &Value) -> (String, Value)| {
            let schema = step.command()?.reply.schema.as_ref()?;
            let name = format!("{}.{}.reply", definition.name, step.name);
            Some((step.name.to_string(), add(name, &schema.source)))
        };
        let replies = definition.steps.iter().filter_map(|step| reply(step, &mut add)).collect();
        let unsure = definition.steps.iter().filter(|step| step.when.is_some() || step.optional);
        let unsure = unsure.map(|step| step.name.to_string()).collect();
        Payloads { input, replies, unsure, name: definition.name.to_string() }
    }

    /// The input of the saga.
    pub(super) fn input(&self) -> Value {
        self.input.as_ref().map_or_else(|| json!({}), |(name, _)| reference(name))
    }

    /// What a step's success answer has.
    pub(super) fn reply(&self, step: &Step) -> Value {
        self.replies.get(&*step.name).map_or_else(|| json!({}), |(name, _)| reference(name))
    }

    /// A body with templates in it; `undo`: of a compensation, where replies may be missing.
    pub(super) fn body(&self, body: &Body, undo: bool) -> Value {
        match body {
            Body::Literal(value) => json!({ "const": value }),
            Body::Template(template) => self.template(template, undo),
            Body::Array(items) => {
                let items: Vec<Value> = items.iter().map(|item| self.body(item, undo)).collect();
                json!({ "type": "array", "minItems": items.len(), "maxItems": items.len(), "items": items })
            }
            Body::Object(fields) => {
                let properties: Map<String, Value> =
                    fields.iter().map(|(name, field)| (name.clone(), self.body(field, undo))).collect();
                let required: Vec<&String> = fields.keys().collect();
                json!({ "type": "object", "required": required, "properties": properties })
            }
        }
    }

    pub(super) fn template(&self, template: &Template, undo: bool) -> Value {
        match template.source() {
            Value::String(text) if template.is_whole() => self.expression(&text, undo).unwrap_or_else(|| json!({})),
            Value::String(text) if is_template(&text) => json!({ "type": "string" }),
            value => json!({ "const": value }),
        }
    }

    /// What a plain path yields; `None` of anything else.
    fn expression(&self, text: &str, undo: bool) -> Option<Value> {
        let path = text.trim().strip_prefix("{{")?.strip_suffix("}}")?.trim();
        let mut path = path.split('.');
        match path.next()? {
            "input" => match self.input.as_ref() {
                Some((_, schema)) => walk(schema, path),
                None => None,
            },
            "saga" => match path.next()? {
                "id" => Some(json!({ "type": "string", "format": "uuid" })),
                "name" => Some(json!({ "const": self.name })),
                "key" => Some(json!({ "type": ["string", "null"] })),
                "revision" => Some(json!({ "type": "integer", "minimum": 1 })),
                "started_at" => Some(json!({ "type": ["string", "null"], "format": "date-time" })),
                _ => None,
            },
            "error" => path.next().map(|_| json!({ "type": ["string", "null"] })),
            "index" => Some(json!({ "type": "integer", "minimum": 0 })),
            "steps" => {
                let step = path.next()?;
                match path.next()? {
                    "status" => Some(json!({ "type": "string" })),
                    "reply" => {
                        let schema = walk(&self.replies.get(step)?.1, path)?;
                        let missing = undo || self.unsure.iter().any(|unsure| unsure == step);
                        Some(if missing { or_null(schema) } else { schema })
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// A schema's value, or null.
pub(super) fn or_null(schema: Value) -> Value {
    match schema.as_object().is_some_and(Map::is_empty) {
        true => schema,
        false => json!({ "anyOf": [schema, { "type": "null" }] }),
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// The schema of what is below, where it says so.
fn walk<'p>(schema: &Value, path: impl Iterator<Item = &'p str>) -> Option<Value> {
    let mut at = schema;
    for name in path {
        at = at.get("properties")?.get(name)?;
    }
    Some(at.clone())
}

/// A schema of the 2020-12 draft as one that AsyncAPI takes, at `base` in the document.
fn rewritten(schema: &Value, base: &str) -> Value {
    let Value::Object(keywords) = schema else { return schema.clone() };
    let tuple = keywords.contains_key("prefixItems");
    let mut out = Map::new();
    for (keyword, value) in keywords {
        let name = match keyword.as_str() {
            // These would give the schema an address of its own.
            "$schema" | "$id" | "$anchor" | "$dynamicAnchor" | "$vocabulary" => continue,
            "prefixItems" => "items",
            "items" if tuple => "additionalItems",
            "dependentRequired" => "dependencies",
            keyword => keyword,
        };
        let value = match (keyword.as_str(), value) {
            ("$ref", Value::String(to)) => match to.strip_prefix('#') {
                Some(pointer) => Value::from(format!("{base}{pointer}")),
                None => continue,
            },
            (keyword, value) if ONE.contains(&keyword) => rewritten(value, base),
            (keyword, Value::Array(items)) if LIST.contains(&keyword) => {
                items.iter().map(|item| rewritten(item, base)).collect()
            }
            (keyword, Value::Object(named)) if NAMED.contains(&keyword) => {
                Value::Object(named.iter().map(|(name, it)| (name.clone(), rewritten(it, base))).collect())
            }
            (_, value) => value.clone(),
        };
        out.insert(name.to_owned(), value);
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_of_the_newer_draft_are_put_in_older_words() {
        let schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": "https://shop.example/order",
            "$defs": { "sku": { "type": "string" }, "tree": { "items": { "$ref": "#" } } },
            "properties": {
                "$id": { "$ref": "#/$defs/sku" },
                "pair": { "prefixItems": [{ "$ref": "#/$defs/sku" }, true], "items": false },
            },
            "dependentRequired": { "a": ["b"] },
            "enum": [{ "$ref": "#/no/schema" }],
        });
        let expected = json!({
            "$defs": { "sku": { "type": "string" }, "tree": { "items": { "$ref": "#/x" } } },
            "properties": {
                "$id": { "$ref": "#/x/$defs/sku" },
                "pair": { "items": [{ "$ref": "#/x/$defs/sku" }, true], "additionalItems": false },
            },
            "dependencies": { "a": ["b"] },
            "enum": [{ "$ref": "#/no/schema" }],
        });
        assert_eq!(rewritten(&schema, "#/x"), expected);
    }
}
