//! What templates read of the input and of replies, held against their schemas, as far as those say plainly what there is.

use std::ops::Range;

use serde_json::{Map, Value as Json};

use super::reader::Reader;
use super::references::Wanted;
use crate::core::diagnostic::{Diagnostic, Severity, nearest};

/// Keywords of a schema whose properties may be said somewhere else, too.
const ELSEWHERE: [&str; 8] =
    ["$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "patternProperties", "dependentSchemas"];

/// A document with a schema.
pub(super) struct Document<'s> {
    /// For a person: `the input`.
    pub(super) what: String,
    /// How many words of a path lead to it.
    pub(super) depth: usize,
    pub(super) schema: &'s Json,
    /// The code of a path to what it has not.
    pub(super) unknown: &'static str,
    /// The code of a value that does not do for what is done with it.
    pub(super) unfit: &'static str,
}

impl Reader<'_> {
    /// Follows a path through the schema; true: nothing speaks against it. What can't be rendered, whatever the document has, is an error,
    /// unless `may_do` says of the path to it that its template gets by without it.
    pub(super) fn check_shape(
        &mut self,
        document: &Document<'_>,
        path: &[String],
        span: Range<usize>,
        wanted: Wanted,
        may_do: impl Fn(&[String]) -> bool,
    ) -> bool {
        let what = &document.what;
        let severity = |never: bool, missing: &[String]| match never && !may_do(missing) && !may_do(path) {
            true => Severity::Error,
            false => Severity::Warning,
        };
        let none = Map::new();
        let mut schema = Some(document.schema);
        for (at, name) in path.iter().enumerate().skip(document.depth) {
            let Some(here) = schema.and_then(Json::as_object) else { return true };
            if let Some((message, help)) = nothing_below(here, &path[..at], name) {
                let message = format!("by the schema of {what}, {message}");
                let severity = severity(!allows(here, "array"), &path[..=at]);
                self.diagnostics.push(Diagnostic { severity, code: document.unfit, span, message, help });
                return false;
            }
            if is_said_elsewhere(here) {
                return true;
            }
            let closed = here.get("additionalProperties") == Some(&Json::Bool(false));
            let properties = match here.get("properties").and_then(Json::as_object) {
                Some(properties) => properties,
                None if closed && !is_index(name) => &none,
                None => {
                    schema = element(here, name);
                    continue;
                }
            };
            schema = properties.get(name);
            if schema.is_some() || required(here, name) {
                continue;
            }
            let near = nearest(name, properties.keys().map(String::as_str));
            if near.is_none() && !closed {
                return true;
            }
            let message = format!("the schema of {what} has no `{}`", path[document.depth..=at].join("."));
            let help = match near {
                Some(near) => format!("did you mean `{near}`? Or add `{name}` to its `properties`"),
                None => format!("add `{name}` to its `properties`"),
            };
            // A number may be the place of an element: an array has no properties.
            let severity = severity(closed && !is_index(name), &path[..=at]);
            self.diagnostics.push(Diagnostic { severity, code: document.unknown, span, message, help });
            return false;
        }
        let Some((message, help)) = schema.and_then(Json::as_object).and_then(|here| unfit(here, path, wanted)) else {
            return true;
        };
        self.warning(document.unfit, span, format!("by the schema of {what}, {message}"), help);
        false
    }
}

/// How many words of a path to the input lead to the first thing that may be missing, of what the schema knows: where it says what is
/// required, it says what is not.
pub(super) fn may_be_absent(schema: &Json, path: &[String]) -> Option<usize> {
    let mut schema = schema;
    for (at, name) in path.iter().enumerate().skip(1) {
        let here = schema.as_object()?;
        if is_said_elsewhere(here) {
            return None;
        }
        let Some(properties) = here.get("properties").and_then(Json::as_object) else {
            schema = element(here, name)?;
            continue;
        };
        if properties.contains_key(name) && here.contains_key("required") && !required(here, name) {
            return Some(at + 1);
        }
        schema = properties.get(name)?;
    }
    None
}

fn is_said_elsewhere(schema: &Map<String, Json>) -> bool {
    ELSEWHERE.iter().any(|keyword| schema.contains_key(*keyword))
}

/// The schema of an element of an array.
fn element<'s>(schema: &'s Map<String, Json>, name: &str) -> Option<&'s Json> {
    let one_for_all = is_index(name) && !schema.contains_key("prefixItems");
    schema.get("items").filter(|_| one_for_all)
}

fn is_index(name: &str) -> bool {
    name.parse::<i64>().is_ok()
}

fn required(schema: &Map<String, Json>, name: &str) -> bool {
    let required = schema.get("required").and_then(Json::as_array);
    required.is_some_and(|names| names.iter().any(|required| required == name))
}

/// The types that a schema allows; `None`: it does not say.
fn types(schema: &Map<String, Json>) -> Option<Vec<&str>> {
    match schema.get("type")? {
        Json::String(only) => Some(vec![only]),
        Json::Array(several) => several.iter().map(Json::as_str).collect(),
        _ => None,
    }
}

fn allows(schema: &Map<String, Json>, wanted: &str) -> bool {
    types(schema).is_none_or(|types| types.contains(&wanted))
}

/// That `name` can't be below a value with this schema, and what to do.
fn nothing_below(schema: &Map<String, Json>, path: &[String], name: &str) -> Option<(String, String)> {
    let types = types(schema)?;
    if types.contains(&"object") {
        return None;
    }
    let above = path.join(".");
    if !types.contains(&"array") {
        let message = format!("`{above}` is {}: nothing is below it", said(&types));
        return Some((message, format!("write `{above}`, or mend the schema")));
    }
    if is_index(name) {
        return None;
    }
    let message = format!("`{above}` is {}, which has no `{name}`", said(&types));
    Some((message, format!("an element has it: `{above}[0].{name}`; all of them: `{above} | map(attribute='{name}')`")))
}

/// That a value with this schema does not do for what is done with it, and what to do.
fn unfit(schema: &Map<String, Json>, path: &[String], wanted: Wanted) -> Option<(String, String)> {
    let types = types(schema)?;
    let (fit, what, help): (&[&str], _, _) = match wanted {
        Wanted::Any => return None,
        Wanted::Number(operator) => {
            let help = "use a number; a string that is one becomes one with `| int` or `| float`";
            (&["number", "integer"], format!("and `{operator}` is for numbers here"), help)
        }
        Wanted::List => (&["array"], "no list to go through".to_owned(), "name a list, or mend the schema"),
    };
    if types.iter().any(|it| fit.contains(it)) {
        return None;
    }
    let message = format!("`{}` is {}, {what}", path.join("."), said(&types));
    Some((message, help.to_owned()))
}

/// Types, for a person.
fn said(types: &[&str]) -> String {
    let article = |it: &&str| match *it {
        "null" => "null".to_owned(),
        "array" | "object" | "integer" => format!("an {it}"),
        other => format!("a {other}"),
    };
    types.iter().map(article).collect::<Vec<_>>().join(" or ")
}
