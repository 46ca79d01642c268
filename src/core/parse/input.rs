//! What templates read of the input, held against its schema, as far as that says plainly what there is.

use std::ops::Range;

use serde_json::{Map, Value as Json};

use super::reader::Reader;
use super::references::Wanted;
use crate::core::diagnostic::nearest;

/// Keywords of a schema whose properties may be said somewhere else, too.
const ELSEWHERE: [&str; 8] =
    ["$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "patternProperties", "dependentSchemas"];

impl Reader<'_> {
    /// Follows a path through the schema.
    pub(super) fn check_input(&mut self, schema: Option<&Json>, path: &[String], span: Range<usize>, wanted: Wanted) {
        let mut schema = schema;
        for (at, name) in path.iter().enumerate().skip(1) {
            let Some(here) = schema.and_then(Json::as_object) else { return };
            if let Some((message, help)) = nothing_below(here, &path[..at], name) {
                return self.warning("input-type", span, message, help);
            }
            if ELSEWHERE.iter().any(|keyword| here.contains_key(*keyword)) {
                return;
            }
            let Some(properties) = here.get("properties").and_then(Json::as_object) else {
                // An element of an array; anything else may have any property.
                let one_for_all = name.parse::<i64>().is_ok() && !here.contains_key("prefixItems");
                schema = here.get("items").filter(|_| one_for_all);
                continue;
            };
            schema = properties.get(name);
            if schema.is_some() || required(here, name) {
                continue;
            }
            let near = nearest(name, properties.keys().map(String::as_str));
            if near.is_none() && here.get("additionalProperties") != Some(&Json::Bool(false)) {
                return;
            }
            let message = format!("the schema of the input has no `{}`", path[1..=at].join("."));
            let help = match near {
                Some(near) => format!("did you mean `{near}`? Or add `{name}` to its `properties`"),
                None => format!("add `{name}` to its `properties`"),
            };
            return self.warning("unknown-input", span, message, help);
        }
        if let Some((message, help)) = schema.and_then(Json::as_object).and_then(|here| unfit(here, path, wanted)) {
            self.warning("input-type", span, message, help);
        }
    }
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

/// That `name` can't be below a value with this schema, and what to do.
fn nothing_below(schema: &Map<String, Json>, path: &[String], name: &str) -> Option<(String, String)> {
    let types = types(schema)?;
    if types.contains(&"object") {
        return None;
    }
    let above = path.join(".");
    if !types.contains(&"array") {
        let message = format!("by the schema of the input, `{above}` is {}: nothing is below it", said(&types));
        return Some((message, format!("write `{above}`, or mend the schema")));
    }
    if name.parse::<i64>().is_ok() {
        return None;
    }
    let message = format!("by the schema of the input, `{above}` is {}, which has no `{name}`", said(&types));
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
    let message = format!("by the schema of the input, `{}` is {}, {what}", path.join("."), said(&types));
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
