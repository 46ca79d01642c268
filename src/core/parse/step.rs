//! Steps.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeValue;

use super::command::Defaults;
use super::graph::After;
use super::reader::{Field, Reader, Table};
use super::references::Site;
use crate::core::definition::{Command, Compensate};
use crate::core::id::StepIx;
use crate::core::template::Expression;

/// More steps than this are a program.
const MOST_STEPS: usize = 1000;
/// Parts of the language that this version does not know yet.
const NOT_YET: [&str; 11] =
    ["publish", "wait", "saga", "sleep", "input", "foreach", "max_parallel", "pivot", "probe", "on_timeout", "reply"];
/// Those of them that say what a step does.
const OTHER_KINDS: [&str; 4] = ["publish", "wait", "saga", "sleep"];

/// A step before its place among the others is known.
pub(super) struct Draft {
    pub(super) name: Arc<str>,
    pub(super) after: After,
    pub(super) when: Option<Expression>,
    pub(super) delay: Duration,
    pub(super) optional: bool,
    pub(super) execute: Option<Command>,
    pub(super) compensate: Option<Compensate>,
}

impl<'t> Reader<'t> {
    pub(super) fn steps(&mut self, field: &Field<'t>, defaults: &Defaults) -> Vec<Draft> {
        let Some(array) = self.array(field, "tables", "`[[steps]]` before each step") else { return Vec::new() };
        if array.is_empty() || array.len() > MOST_STEPS {
            let message = format!("a saga has 1 to {MOST_STEPS} steps, this one has {}", array.len());
            self.error("invalid-value", field.key.clone(), message, "add a `[[steps]]`, or split the saga");
            return Vec::new();
        }
        let mut drafts = Vec::with_capacity(array.len());
        let mut places: Vec<Range<usize>> = Vec::with_capacity(array.len());
        for value in array.iter() {
            let DeValue::Table(entries) = value.get_ref() else {
                let field = Field { value, ..field.clone() };
                self.wrong_type(&field, "a table", "write it like this: `[[steps]]` with `name = \"…\"` below");
                continue;
            };
            let mut table = Table::new("a step", value.span(), entries).not_yet(&NOT_YET);
            let (name, place) = self.step_name(&mut table);
            if let Some(same) = drafts.iter().position(|draft: &Draft| !name.is_empty() && *draft.name == *name) {
                let line = self.text[..places[same].start].matches('\n').count() + 1;
                let message = format!("two steps are called `{name}`, the other one in line {line}");
                self.error("duplicate-name", place.clone(), message, "rename one of them");
            }
            drafts.push(self.step(&mut table, drafts.len(), name, defaults));
            places.push(place);
            self.finish(&table);
        }
        drafts
    }

    fn step(&mut self, table: &mut Table<'t>, step: StepIx, name: Arc<str>, defaults: &Defaults) -> Draft {
        let site = Site::Execute(step);
        let after = table.take("after").map_or(After::Default, |field| self.after(&field));
        let when = table.take("when").and_then(|field| self.expression(&field, site));
        let delay = table.take("delay").and_then(|field| self.duration_or_none(&field)).unwrap_or_default();
        let optional = table.take("optional").and_then(|field| self.boolean(&field)).unwrap_or_default();
        let kind_is_known = !table.has_any(&OTHER_KINDS) || table.has_any(&["command"]);
        let execute = if kind_is_known { self.execute(table, defaults, site) } else { None };
        let exchange = execute.as_ref().map(|execute| &execute.exchange);
        let compensate = table
            .take("compensate")
            .and_then(|field| self.compensate(&field, exchange, defaults, Site::Compensate(step)));
        Draft { name, after, when, delay, optional, execute, compensate }
    }

    /// Its name, empty if it has none that will do, and the place of it.
    fn step_name(&mut self, table: &mut Table<'t>) -> (Arc<str>, Range<usize>) {
        let Some(field) = table.take("name") else {
            self.error("missing-key", table.span.clone(), "this step has no `name`", "add `name = \"…\"`");
            return ("".into(), table.span.clone());
        };
        (self.identifier(&field).unwrap_or_default().into(), field.value.span())
    }

    /// A name of a definition or a step.
    pub(super) fn identifier(&mut self, field: &Field<'t>) -> Option<&'t str> {
        let name = self.string(field)?;
        let first = name.starts_with(|first: char| first.is_ascii_lowercase());
        let rest = name.chars().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '_' || it == '-');
        if first && rest && name.len() <= 64 {
            return Some(name);
        }
        let message = format!("`{name}` can't be a name");
        let help = match suggested(name) {
            Some(better) => {
                format!("write \"{better}\": a small letter, then small letters, digits, `_` and `-`, 64 in all")
            }
            None => "begin with a small letter and go on with small letters, digits, `_` and `-`, 64 in all".to_owned(),
        };
        self.error("invalid-name", field.value.span(), message, help);
        None
    }

    fn after(&mut self, field: &Field<'t>) -> After {
        let Some(array) = self.array(field, "names of steps", "`after = [\"reserve\"]`, or `after = []` for at once")
        else {
            return After::Default;
        };
        let names = array.iter().filter_map(|value| {
            let name = self.string(&Field { value, ..field.clone() })?;
            Some((name.to_owned(), value.span()))
        });
        After::Named(names.collect())
    }
}

/// A name that would do, made from one that will not.
fn suggested(name: &str) -> Option<String> {
    let mut better = String::new();
    for it in name.trim().chars() {
        match it {
            'A'..='Z' => {
                if !better.is_empty() && !better.ends_with(['_', '-']) {
                    better.push('_');
                }
                better.push(it.to_ascii_lowercase());
            }
            'a'..='z' | '0'..='9' | '_' | '-' => better.push(it),
            ' ' | '.' => better.push('_'),
            _ => return None,
        }
    }
    (better.starts_with(|it: char| it.is_ascii_lowercase()) && better.len() <= 64).then_some(better)
}
