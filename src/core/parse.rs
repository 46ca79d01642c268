//! TOML to [`Definition`]: parse, don't validate. A definition that exists is valid.
//!
//! ```text
//!   text ─ toml ─> reader (values with places) ─> kind (command, answers), timing, body, schema ─> step ─> graph ─> references
//! ```
//!
//! Nothing stops at the first problem: each part reports what it finds to the [`Reader`] and goes on with what it has.

mod answers;
mod body;
mod command;
mod graph;
mod kind;
mod name;
pub mod places;
pub(crate) mod reader;
mod references;
mod schema;
mod shapes;
mod start;
mod step;
mod timing;

use std::sync::Arc;

use toml::de::DeTable;

use self::command::Defaults;
use self::graph::Graph;
use self::reader::{Reader, Table};
use self::references::{Known, Site};
use self::step::Draft;
use crate::core::definition::{Definition, Events, KeyReuse, OnCompensationFailure, Priority, Schema, Step};
use crate::core::diagnostic::{Diagnostic, Severity};

/// What RabbitMQ gives a message that says nothing.
const PRIORITY: Priority = Priority::Fixed(0);
/// More sagas at once are no limit.
const MOST_RUNNING: i64 = 1_000_000;

/// Reads a definition. All that is wrong is found at once; warnings come with the definition.
///
/// `schema_file` yields the text of a JSON Schema file named by `input = { file = … }`, relative to the definition's
/// folder, or why it can't.
///
/// # Errors
/// Every error, and every warning besides.
pub fn parse(
    toml: &str,
    schema_file: &mut dyn FnMut(&str) -> Result<String, String>,
) -> Result<(Definition, Vec<Diagnostic>), Vec<Diagnostic>> {
    let (root, errors) = DeTable::parse_recoverable(toml);
    if !errors.is_empty() {
        return Err(arranged(errors.iter().map(|error| syntax(toml, error)).collect()));
    }
    let mut reader = Reader::new(toml);
    let definition = reader.definition(root.get_ref(), schema_file);
    let diagnostics = arranged(reader.diagnostics);
    match definition.filter(|_| diagnostics.iter().all(|it| it.severity == Severity::Warning)) {
        Some(definition) => Ok((definition, diagnostics)),
        None => Err(diagnostics),
    }
}

/// In the order of the file; what two steps inherit from one place is reported once.
pub(crate) fn arranged(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    diagnostics.sort_by(|a, b| (a.span.start, a.span.end, a.code).cmp(&(b.span.start, b.span.end, b.code)));
    diagnostics.dedup();
    diagnostics
}

pub(crate) fn syntax(toml: &str, error: &toml::de::Error) -> Diagnostic {
    let message = error.message();
    let help = match message {
        "duplicate key" => "each key can be there once: remove or rename one of them",
        _ if message.contains("recur") => "nothing needs to be nested this deep: take some levels out",
        _ if message.contains("must be quoted") => "put the value in quotes: `key = \"value\"`",
        _ => "each line is `key = value`, `[table]` or `[[steps]]`; strings and what is in brackets need their ends",
    };
    Diagnostic {
        severity: Severity::Error,
        code: "syntax",
        span: error.span().unwrap_or(toml.len()..toml.len()),
        message: message.to_owned(),
        help: help.to_owned(),
    }
}

impl<'t> Reader<'t> {
    /// The definition, unless so much is wrong that there is none.
    fn definition(
        &mut self,
        root: &'t DeTable<'t>,
        schema_file: &mut dyn FnMut(&str) -> Result<String, String>,
    ) -> Option<Definition> {
        let mut table = Table::new("a definition", 0..0, root);
        let name = match table.take("name") {
            Some(field) => self.identifier(&field),
            None => {
                let message = "this definition has no `name`";
                self.error("missing-key", 0..0, message, "add `name = \"…\"` at the top of the file");
                None
            }
        };
        let description = table.take("description").and_then(|field| self.string(&field)).map(str::to_owned);
        let key = table.take("key").and_then(|field| self.template(&field, Site::Start));
        let key_reuse = table.take("key_reuse").and_then(|field| self.word(&field, &KEY_REUSE)).unwrap_or_default();
        let timeout = table.take("timeout").and_then(|field| self.duration(&field));
        let priority = table.take("priority").and_then(|field| self.priority(&field, Site::Start)).unwrap_or(PRIORITY);
        let max_running = table.take("max_running").and_then(|field| self.integer(&field, 1, MOST_RUNNING));
        let lock = table.take("lock").and_then(|field| self.lock(&field));
        let retention = table.take("retention").and_then(|field| self.duration(&field));
        let events = table.take("events").and_then(|field| self.word(&field, &EVENTS)).unwrap_or_default();
        let on_compensation_failure = table.take("on_compensation_failure");
        let on_compensation_failure =
            on_compensation_failure.and_then(|field| self.word(&field, &ON_COMPENSATION_FAILURE)).unwrap_or_default();
        let input = table.take("input").and_then(|field| self.input(&field, schema_file));
        let starts = table.take("start").map(|field| self.starts(&field)).unwrap_or_default();
        let defaults = table.take("defaults").map_or_else(Defaults::default, |field| self.defaults(&field));
        let drafts = match table.take("steps") {
            Some(field) => self.steps(&field, &defaults),
            None => {
                let help = "add a `[[steps]]` with a `name` and a `command`";
                self.error("missing-key", 0..0, "this definition has no steps", help);
                Vec::new()
            }
        };
        let output = table.take("output").and_then(|field| self.body(field.value, Site::Output));
        self.finish(&table);
        if !table.has("key") {
            for span in std::mem::take(&mut self.matches) {
                let message = "events are matched with the saga's key, and this definition has none";
                self.error(
                    "no-key",
                    span,
                    message,
                    "add `key = \"{{ input.order_id }}\"`, or whatever the events name",
                );
            }
        }
        let steps = self.arranged(drafts, input.as_ref());
        Some(Definition {
            name: name?.into(),
            description,
            key,
            key_reuse,
            timeout,
            priority,
            max_running: max_running.and_then(|it| u32::try_from(it).ok()),
            lock,
            retention,
            events,
            on_compensation_failure,
            input,
            starts,
            steps: steps?,
            output,
        })
    }

    /// Puts the steps in their places and checks what their templates read.
    fn arranged(&mut self, drafts: Vec<Draft>, input: Option<&Schema>) -> Option<Vec<Step>> {
        let names: Vec<Arc<str>> = drafts.iter().map(|draft| Arc::clone(&draft.name)).collect();
        let mut graph = Graph::new(self, &names, drafts.iter().map(|draft| &draft.after));
        let input = input.map(|schema| &schema.source);
        self.check_uses(&Known { input, steps: &drafts, graph: &graph });
        let steps = drafts.into_iter().enumerate().map(|(at, draft)| {
            let Draft { name, when, delay, optional, pivot, foreach, execute, compensate, many: _, after: _ } = draft;
            let (after, later) = (graph.take_after(at), graph.take_later(at));
            Some(Step { name, after, later, when, delay, optional, pivot, foreach, execute: execute?, compensate })
        });
        steps.collect()
    }
}

const KEY_REUSE: [(&str, KeyReuse); 3] =
    [("never", KeyReuse::Never), ("after_failure", KeyReuse::AfterFailure), ("after_end", KeyReuse::AfterEnd)];

const EVENTS: [(&str, Events); 3] = [("none", Events::None), ("saga", Events::Saga), ("step", Events::Step)];

const ON_COMPENSATION_FAILURE: [(&str, OnCompensationFailure); 2] =
    [("suspend", OnCompensationFailure::Suspend), ("continue", OnCompensationFailure::Continue)];
