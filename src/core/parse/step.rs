//! Steps.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeValue;

use super::command::Defaults;
use super::graph::After;
use super::kind::Kind;
use super::reader::{Field, Reader, Table};
use super::references::{Site, Wanted, is_alone};
use crate::core::definition::{Compensate, Execute, Foreach};
use crate::core::id::StepIx;
use crate::core::template::{Expression, is_template};

/// More steps than this are a program.
const MOST_STEPS: usize = 1000;
/// So many elements of a list are under way at once if nothing else is said.
const PARALLEL: i64 = 100;
/// More than this at once are a flood.
const MOST_PARALLEL: i64 = 1000;

/// A step before its place among the others is known.
pub(super) struct Draft {
    pub(super) name: Arc<str>,
    pub(super) after: After,
    pub(super) when: Option<Expression>,
    pub(super) delay: Duration,
    pub(super) optional: bool,
    pub(super) pivot: bool,
    /// Whether it is for each element of a list, even if nobody can say which.
    pub(super) many: bool,
    pub(super) foreach: Option<Foreach>,
    pub(super) execute: Option<Execute>,
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
            let mut table = Table::new("a step", value.span(), entries);
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
        let before = Site::Before(step);
        let after = table.take("after").map_or(After::Default, |field| self.after(&field));
        let when = table.take("when").and_then(|field| self.expression(&field, before));
        let delay = table.take("delay").and_then(|field| self.duration_or_none(&field)).unwrap_or_default();
        let pivot = table.take("pivot").and_then(|field| self.boolean(&field)).unwrap_or_default();
        let many = table.has("foreach");
        let kind = self.kind(table);
        if let Some(kind) = kind {
            self.misplaced(table, kind, Site::Execute(step));
        }
        let optional = table.take("optional").and_then(|field| self.boolean(&field)).unwrap_or_default();
        let foreach = self.foreach(table, before);
        let execute = kind.and_then(|kind| self.execute(table, kind, defaults, step, many));
        let compensate = kind.and_then(|kind| self.compensate(table, kind, execute.as_ref(), defaults, step));
        if kind.is_none() {
            // Whatever it is meant to do, these may well be right.
            for key in Kind::keys() {
                table.take(key);
            }
        }
        Draft { name, after, when, delay, optional, pivot, many, foreach, execute, compensate }
    }

    fn foreach(&mut self, table: &mut Table<'t>, site: Site) -> Option<Foreach> {
        let field = table.take("foreach");
        let max_parallel = table.take("max_parallel");
        if let (None, Some(max_parallel)) = (&field, &max_parallel) {
            let message = "`max_parallel` does nothing here: this step is done once";
            self.error("misplaced-key", max_parallel.key.clone(), message, "add a `foreach`, or remove it");
        }
        let parallel = max_parallel.and_then(|field| self.integer(&field, 1, MOST_PARALLEL)).unwrap_or(PARALLEL);
        let field = field?;
        let known = self.uses.len();
        let elements = self.template(&field, site)?;
        let text = field.value.get_ref().as_str().unwrap_or_default();
        if let [only] = &mut self.uses[known..]
            && is_alone(self.text, &only.span)
        {
            only.wanted = Wanted::List;
        }
        if !is_template(text) || !elements.is_whole() {
            let help = "write one whole expression that yields a list: `foreach = \"{{ input.items }}\"`";
            self.invalid(&field, "this is text, no list", help);
        }
        Some(Foreach { elements, max_parallel: u32::try_from(parallel).ok()? })
    }

    /// Its name, empty if it has none that will do, and the place of it.
    fn step_name(&mut self, table: &mut Table<'t>) -> (Arc<str>, Range<usize>) {
        let Some(field) = table.take("name") else {
            self.error("missing-key", table.span.clone(), "this step has no `name`", "add `name = \"…\"`");
            return ("".into(), table.span.clone());
        };
        (self.identifier(&field).unwrap_or_default().into(), field.value.span())
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
