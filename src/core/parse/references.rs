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
    /// `key`, `lock` and the saga's `priority`: rendered before there is a saga.
    Start,
    /// Whether a step runs, and for which list: rendered once, before there are elements.
    Before(StepIx),
    /// The forward side of a step, its probe too.
    Execute(StepIx),
    /// Its undo.
    Compensate(StepIx),
    /// `[output]`.
    Output,
    /// A rule about a message, which may be of a saga or begin one.
    Message,
}

/// What the references of a definition are held against.
pub(super) struct Known<'d> {
    /// The schema of the input.
    pub(super) input: Option<&'d Json>,
    /// The names of the steps.
    pub(super) names: &'d [Arc<str>],
    /// Which of them have a `foreach`.
    pub(super) many: &'d [bool],
    /// Their order.
    pub(super) graph: &'d Graph,
}

/// Keywords of a schema whose properties may be said somewhere else, too.
const ELSEWHERE: [&str; 8] =
    ["$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "patternProperties", "dependentSchemas"];

fn required(schema: &Map<String, Json>, name: &str) -> bool {
    let required = schema.get("required").and_then(Json::as_array);
    required.is_some_and(|names| names.iter().any(|required| required == name))
}

impl Reader<'_> {
    /// Checks every use against what there is where it is.
    pub(super) fn check_uses(&mut self, known: &Known<'_>) {
        for Use { site, path, span } in std::mem::take(&mut self.uses) {
            let root = path.first().map_or("", String::as_str);
            if let Some((message, help)) = out_of_scope(root, site, known) {
                self.error("out-of-scope", span, message, help);
                continue;
            }
            match root {
                "input" => self.check_input(known.input, &path, span),
                "steps" => self.check_step(site, &path, span, known),
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

    fn check_step(&mut self, site: Site, path: &[String], span: Range<usize>, known: &Known<'_>) {
        let name = path.get(1).map_or("", String::as_str);
        let Known { names, graph, .. } = *known;
        let Some(read) = names.iter().position(|step| **step == *name) else {
            let help = match nearest(name, names.iter().map(|step| &**step)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the steps are {}", names.join(", ")),
            };
            return self.error("unknown-step", span, format!("there is no step `{name}`"), help);
        };
        let (reader, in_compensation) = match site {
            Site::Before(reader) | Site::Execute(reader) => (Some(reader), false),
            Site::Compensate(reader) => (Some(reader), true),
            Site::Output | Site::Start | Site::Message => (None, false),
        };
        if let Some(reader) = reader.filter(|&reader| reader != read && !graph.runs_before(read, reader)) {
            let own = &names[reader];
            let message = format!("the step `{name}` does not run before `{own}`");
            let help = match graph.runs_before(reader, read) {
                true => format!("`{name}` runs after `{own}`: read only steps that run before"),
                false => format!("add \"{name}\" to `after` of `{own}`, so that it runs before"),
            };
            return self.error("not-before", span, message, help);
        }
        if reader == Some(read) && !in_compensation {
            let message = format!("the step `{name}` reads its own result before it has run");
            return self.error("self-reference", span, message, "read it in a later step or in its `compensate`");
        }
        let wanted = path.get(2).map_or("", String::as_str);
        match (wanted, known.many[read]) {
            // In the undo of an element: its own reply.
            ("reply", true) if reader != Some(read) => {
                let message = format!("`{name}` runs once for each element, so it has no one reply");
                let help = "write `replies`: the list of them, in order, null where there is none";
                self.error("one-or-many", span, message, help);
            }
            ("replies", false) => {
                let message = format!("`{name}` has one reply: it has no `foreach`");
                self.error("one-or-many", span, message, "write `reply`");
            }
            _ => {}
        }
    }
}

/// Why a name is not there at `site`, if it is not, and what to do.
fn out_of_scope(root: &str, site: Site, known: &Known<'_>) -> Option<(String, &'static str)> {
    match (root, site) {
        ("body" | "headers", Site::Message) => None,
        (_, Site::Message) => {
            Some((format!("`{root}` is not there: this rule is about a message"), "use only `body` and `headers` here"))
        }
        ("input", _) | ("error", Site::Compensate(_)) => None,
        ("body" | "headers", _) => {
            let help = "read the reply of a step as `steps.NAME.reply`, what the saga was started with as `input`";
            Some((format!("there is a `{root}` only in rules about messages"), help))
        }
        ("error", _) => {
            let message = "there is an `error` only in compensations".to_owned();
            Some((message, "use it in a `compensate`, or remove it"))
        }
        ("item" | "index", Site::Execute(step) | Site::Compensate(step)) if known.many[step] => None,
        ("item" | "index", Site::Before(step)) if known.many[step] => {
            let help = "leave elements out in `foreach` itself: \"{{ input.items | selectattr('wanted') }}\"";
            Some((format!("`{root}` is not there yet: this is read once, before the list is gone through"), help))
        }
        ("item" | "index", _) => {
            Some((format!("there is an `{root}` only in steps with `foreach`"), "add a `foreach`, or read `input`"))
        }
        (_, Site::Start) => {
            let message = format!("`{root}` is not there yet: this is rendered before the saga begins");
            Some((message, "use only `input` here"))
        }
        _ => None,
    }
}
