//! Templates, and JSON with templates in it.

use std::ops::Range;

use indexmap::IndexMap;
use serde_json::{Map, Number, Value as Json};
use toml::de::DeValue;

use super::name::MAX_NAME;
use super::reader::{Field, Reader, Value};
use super::references::{Site, Use, Wanted};
use crate::core::template::{Body, Expression, Reference, Template, TemplateError};

/// sagad's own headers, which a definition can't set.
const RESERVED_HEADERS: [&str; 2] = ["idempotency-key", "traceparent"];
const RESERVED_HEADER_PREFIX: &str = "saga-";

impl<'t> Reader<'t> {
    /// A string that may be a template.
    pub(super) fn template(&mut self, field: &Field<'t>, site: Site) -> Option<Template> {
        let text = self.string(field)?;
        self.template_of(text, field.value.span(), site)
    }

    /// A bare expression.
    pub(super) fn expression(&mut self, field: &Field<'t>, site: Site) -> Option<Expression> {
        let Some(text) = field.value.get_ref().as_str() else {
            let example = format!("write for example `{} = \"input.total > 0\"`", field.name);
            self.wrong_type(field, "an expression in a string", example);
            return None;
        };
        let compiled = Expression::compile(text);
        self.compiled(compiled, Expression::references, text, field.value.span(), site)
    }

    /// Any value as JSON with templates in it.
    pub(super) fn body(&mut self, value: &'t Value<'t>, site: Site) -> Option<Body> {
        match value.get_ref() {
            DeValue::String(text) => self.template_of(text, value.span(), site).map(Body::Template),
            DeValue::Array(items) => {
                let items: Vec<Option<Body>> = items.iter().map(|item| self.body(item, site)).collect();
                items.into_iter().collect::<Option<_>>().map(Body::Array)
            }
            DeValue::Table(fields) => {
                let fields: Vec<Option<(String, Body)>> = fields
                    .iter()
                    .map(|(name, field)| Some((name.get_ref().to_string(), self.body(field, site)?)))
                    .collect();
                fields.into_iter().collect::<Option<IndexMap<_, _>>>().map(Body::Object)
            }
            _ => self.json(value).map(Body::Literal),
        }
    }

    /// Any value as JSON; strings are what they are.
    pub(crate) fn json(&mut self, value: &'t Value<'t>) -> Option<Json> {
        match value.get_ref() {
            DeValue::String(text) => Some(Json::String(text.to_string())),
            DeValue::Boolean(it) => Some(Json::Bool(*it)),
            DeValue::Integer(number) => {
                let number = i128::from_str_radix(number.as_str(), number.radix()).ok().and_then(Number::from_i128);
                if number.is_none() {
                    self.error("invalid-value", value.span(), "the number is too large", "write it as a string");
                }
                number.map(Json::Number)
            }
            DeValue::Float(number) => {
                // TOML allows a sign and infinities that JSON does not; the digits are kept as they are.
                let number = serde_json::from_str(number.as_str().trim_start_matches('+')).ok();
                if number.is_none() {
                    let message = "JSON has no such number";
                    self.error("invalid-value", value.span(), message, "write a finite number, or a string");
                }
                number.map(Json::Number)
            }
            DeValue::Datetime(_) => {
                let help = format!("put it in quotes: \"{}\"", &self.text[value.span()]);
                self.error("invalid-value", value.span(), "JSON has no dates or times", help);
                None
            }
            DeValue::Array(items) => {
                let items: Vec<Option<Json>> = items.iter().map(|item| self.json(item)).collect();
                items.into_iter().collect::<Option<_>>().map(Json::Array)
            }
            DeValue::Table(fields) => {
                let fields: Vec<Option<(String, Json)>> =
                    fields.iter().map(|(name, field)| Some((name.get_ref().to_string(), self.json(field)?))).collect();
                fields.into_iter().collect::<Option<Map<_, _>>>().map(Json::Object)
            }
        }
    }

    /// The headers of a command.
    pub(super) fn headers(&mut self, field: &Field<'t>, site: Site) -> Vec<(String, Template)> {
        let DeValue::Table(entries) = field.value.get_ref() else {
            self.wrong_type(field, "a table", "write it like this: `headers = { tenant = \"{{ input.tenant }}\" }`");
            return Vec::new();
        };
        let headers = entries.iter().filter_map(|(name, value)| {
            let header = self.header(value, site);
            let name_of = name.get_ref();
            if RESERVED_HEADERS.contains(&&**name_of) || name_of.starts_with(RESERVED_HEADER_PREFIX) {
                let help = "choose another name; `saga-…`, `idempotency-key` and `traceparent` are set by sagad";
                self.error("reserved-header", name.span(), format!("the header `{name_of}` is sagad's own"), help);
            } else if name_of.is_empty() || name_of.len() > MAX_NAME {
                let message = "the name of a header has 1 to 255 bytes";
                self.error("invalid-name", name.span(), message, "choose another name");
            }
            Some((name_of.to_string(), header?))
        });
        headers.collect()
    }

    fn header(&mut self, value: &'t Value<'t>, site: Site) -> Option<Template> {
        match value.get_ref() {
            DeValue::String(text) => self.template_of(text, value.span(), site),
            DeValue::Integer(_) | DeValue::Boolean(_) => self.json(value).map(Template::literal),
            other => {
                let message =
                    format!("a header is a string, an integer or a boolean, found {}", super::reader::described(other));
                self.error("wrong-type", value.span(), message, "put it in quotes, or send it in the body");
                None
            }
        }
    }

    fn template_of(&mut self, text: &str, span: Range<usize>, site: Site) -> Option<Template> {
        let compiled = Template::compile(text);
        self.compiled(compiled, Template::references, text, span, site)
    }

    fn compiled<T>(
        &mut self,
        compiled: Result<T, TemplateError>,
        references: impl Fn(&T) -> &[Reference],
        text: &str,
        span: Range<usize>,
        site: Site,
    ) -> Option<T> {
        match compiled {
            Ok(template) => {
                let uses = references(&template).iter().map(|reference| Use {
                    site,
                    path: reference.path.clone(),
                    span: inside(self.text, &span, text, &reference.span),
                    wanted: reference.operator.map_or(Wanted::Any, Wanted::Number),
                    texts: reference
                        .texts
                        .iter()
                        .map(|(it, at)| (it.clone(), inside(self.text, &span, text, at)))
                        .collect(),
                });
                self.uses.extend(uses);
                Some(template)
            }
            Err(TemplateError { message, help, span: at }) => {
                let span = at.map_or(span.clone(), |at| inside(self.text, &span, text, &at));
                self.error("template", span, message, help);
                None
            }
        }
    }
}

/// Where a part of a string is in the file: exactly, unless the string is written with escapes.
fn inside(file: &str, span: &Range<usize>, text: &str, part: &Range<usize>) -> Range<usize> {
    match file[span.clone()].find(text) {
        Some(offset) if !part.is_empty() || part.start > 0 => {
            let start = span.start + offset;
            start + part.start..start + part.end.max(part.start)
        }
        _ => span.clone(),
    }
}
