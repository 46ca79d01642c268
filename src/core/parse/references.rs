//! Whether templates read only what is there when they are rendered.

use std::ops::Range;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::graph::Graph;
use super::reader::Reader;
use crate::core::diagnostic::nearest;
use crate::core::id::StepIx;

/// Something that a template of the file reads.
pub(super) struct Use {
    pub(super) site: Site,
    pub(super) path: Vec<String>,
    pub(super) span: Range<usize>,
}

/// Where a template is: what it can read depends on it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Site {
    /// `key` and `priority`: rendered before there is a saga.
    Start,
    /// The forward side of a step.
    Execute(StepIx),
    /// Its undo.
    Compensate(StepIx),
    /// `[output]`.
    Output,
}

/// Keywords of a schema whose properties may be said somewhere else, too.
const ELSEWHERE: [&str; 8] =
    ["$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "patternProperties", "dependentSchemas"];

fn required(schema: &Map<String, Json>, name: &str) -> bool {
    let required = schema.get("required").and_then(Json::as_array);
    required.is_some_and(|names| names.iter().any(|required| required == name))
}

impl Reader<'_> {
    /// Checks every use against the schema of the input and the graph of steps.
    pub(super) fn check_uses(&mut self, schema: Option<&Json>, names: &[Arc<str>], graph: &Graph) {
        for Use { site, path, span } in std::mem::take(&mut self.uses) {
            let root = path.first().map_or("", String::as_str);
            match (root, site) {
                ("input", _) => self.check_input(schema, &path, span),
                ("error", Site::Compensate(_)) => {}
                ("error", _) => {
                    let message = "there is an `error` only in compensations";
                    self.error("out-of-scope", span, message, "use it in a `compensate`, or remove it");
                }
                (_, Site::Start) => {
                    let message = format!("`{root}` is not there yet: this is rendered before the saga begins");
                    self.error("out-of-scope", span, message, "use only `input` here");
                }
                ("steps", _) => self.check_step(site, path.get(1).map_or("", String::as_str), span, names, graph),
                _ => {}
            }
        }
    }

    /// Follows a path through the schema, as far as that says plainly what there is.
    fn check_input(&mut self, schema: Option<&Json>, path: &[String], span: Range<usize>) {
        let mut schema = schema;
        for (at, name) in path.iter().enumerate().skip(1) {
            let Some(here) = schema.and_then(Json::as_object) else { return };
            if ELSEWHERE.iter().any(|keyword| here.contains_key(*keyword)) {
                return;
            }
            let Some(properties) = here.get("properties").and_then(Json::as_object) else {
                // An element of an array; anything else may have any property.
                schema = here.get("items").filter(|_| name.parse::<usize>().is_ok());
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
    }

    fn check_step(&mut self, site: Site, name: &str, span: Range<usize>, names: &[Arc<str>], graph: &Graph) {
        let Some(read) = names.iter().position(|step| **step == *name) else {
            let help = match nearest(name, names.iter().map(|step| &**step)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the steps are {}", names.join(", ")),
            };
            return self.error("unknown-step", span, format!("there is no step `{name}`"), help);
        };
        let (reader, in_compensation) = match site {
            Site::Execute(reader) => (reader, false),
            Site::Compensate(reader) => (reader, true),
            Site::Output | Site::Start => return,
        };
        if read == reader && !in_compensation {
            let message = format!("the step `{name}` reads its own result before it has run");
            return self.error("self-reference", span, message, "read it in a later step or in its `compensate`");
        }
        if read == reader || graph.runs_before(read, reader) {
            return;
        }
        let own = &names[reader];
        let message = format!("the step `{name}` does not run before `{own}`");
        let help = match graph.runs_before(reader, read) {
            true => format!("`{name}` runs after `{own}`: read only steps that run before"),
            false => format!("add \"{name}\" to `after` of `{own}`, so that it runs before"),
        };
        self.error("not-before", span, message, help);
    }
}
