//! `[input]`: JSON Schema 2020-12, inline or in a file of its own.

use std::ops::Range;

use jsonschema::Draft;
use serde_json::Value as Json;
use toml::de::DeValue;

use super::reader::{Field, Reader, Value};
use crate::core::definition::Schema;

/// So many problems of one schema are enough to begin with.
const MOST_PROBLEMS: usize = 8;

/// Yields the text of a schema file.
pub(super) type SchemaFile<'f> = &'f mut dyn FnMut(&str) -> Result<String, String>;

impl<'t> Reader<'t> {
    pub(super) fn input(&mut self, field: &Field<'t>, file: SchemaFile<'_>) -> Option<Schema> {
        let DeValue::Table(entries) = field.value.get_ref() else {
            let example = "write it like this: `[input]` with `type = \"object\"` below, or `input = { file = \"order.schema.json\" }`";
            self.wrong_type(field, "a JSON Schema in a table", example);
            return None;
        };
        let Some(named) = entries.get("file") else {
            let source = self.json(field.value)?;
            return self.compile(source, field.key.clone(), Some(field.value));
        };
        let named = Field { name: "file", key: field.key.clone(), value: named };
        if entries.len() > 1 {
            let message = "`input` is either a schema or names the `file` that has it";
            self.error("invalid-value", field.key.clone(), message, "remove `file`, or everything else");
            return None;
        }
        let name = self.string(&named)?;
        let source = match file(name) {
            Ok(text) => serde_json::from_str(&text).map_err(|error| format!("`{name}` is not JSON: {error}")),
            Err(why) => Err(format!("`{name}` can't be read: {why}")),
        };
        match source {
            Ok(source) => self.compile(source, named.value.span(), None),
            Err(message) => {
                let help = "name a JSON Schema file, relative to the folder of this definition";
                self.error("schema-file", named.value.span(), message, help);
                None
            }
        }
    }

    /// A schema written in the definition.
    pub(super) fn schema(&mut self, field: &Field<'t>) -> Option<Schema> {
        if field.value.get_ref().as_table().is_none() {
            let example = "write it like this: `schema = { required = [\"payment_id\"] }`";
            self.wrong_type(field, "a JSON Schema in a table", example);
            return None;
        }
        let source = self.json(field.value)?;
        self.compile(source, field.key.clone(), Some(field.value))
    }

    /// `inline`: where to find parts of the schema in this file.
    fn compile(&mut self, source: Json, span: Range<usize>, inline: Option<&'t Value<'t>>) -> Option<Schema> {
        let help = "see https://json-schema.org/understanding-json-schema for what a schema can say";
        let wrong: Vec<_> = jsonschema::draft202012::meta::validator()
            .iter_errors(&source)
            .take(MOST_PROBLEMS)
            .map(|error| (error.instance_path().to_string(), error.to_string()))
            .collect();
        for (path, message) in &wrong {
            let at = inline.and_then(|inline| find(inline, path)).unwrap_or_else(|| span.clone());
            let place = if path.is_empty() { String::new() } else { format!(" at {path}") };
            self.error("schema", at, format!("this is not a JSON Schema{place}: {message}"), help);
        }
        if !wrong.is_empty() {
            return None;
        }
        match jsonschema::options().with_draft(Draft::Draft202012).offline().build(&source) {
            Ok(validator) => Some(Schema { source, validator }),
            Err(error) => {
                let message = format!("this JSON Schema can't be used: {error}");
                let help = "a `$ref` can only lead to a place in the same schema: `#/$defs/NAME`";
                self.error("schema", span, message, help);
                None
            }
        }
    }
}

/// The place that a JSON Pointer leads to.
fn find(value: &Value<'_>, pointer: &str) -> Option<Range<usize>> {
    let mut at = value;
    let mut span = None;
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        at = match at.get_ref() {
            DeValue::Table(fields) => fields.get(token.as_str())?,
            DeValue::Array(items) => items.get(token.parse::<usize>().ok()?)?,
            _ => return None,
        };
        span = Some(at.span());
    }
    span
}
