//! TOML to [`Scenarios`]: everything that is wrong is found at once, with its place.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use toml::de::{DeTable, DeValue};

use super::{Expect, ExpectedCommand, ExpectedError, Happening, Occurrence, Scenario, Scenarios, Script};
use crate::core::definition::Definition;
use crate::core::diagnostic::{Diagnostic, Severity, nearest};
use crate::core::entry::Resolution;
use crate::core::parse::reader::{Field, Reader, Table, Value as Toml};
use crate::core::parse::{arranged, syntax};
use crate::core::saga::{Reason, Status, StepStatus};
use crate::core::start::check_input;

/// More than this are not played.
const MOST_ATTEMPTS: i64 = 1000;

/// Reads a file of scenarios; `definitions` are those that scenarios can be about.
///
/// # Errors
/// Every error of the file.
pub fn read<'a>(
    text: &str,
    definitions: impl Fn(&str) -> Option<&'a Definition>,
    names: &[&str],
) -> Result<Scenarios, Vec<Diagnostic>> {
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(arranged(errors.iter().map(|error| syntax(text, error)).collect()));
    }
    let mut reader = Reader::new(text);
    let scenarios = reader.scenarios(root.get_ref(), definitions, names);
    let diagnostics = arranged(reader.diagnostics);
    match scenarios.filter(|_| diagnostics.iter().all(|it| it.severity == Severity::Warning)) {
        Some(scenarios) => Ok(scenarios),
        None => Err(diagnostics),
    }
}

impl<'t> Reader<'t> {
    fn scenarios<'a>(
        &mut self,
        root: &'t DeTable<'t>,
        definitions: impl Fn(&str) -> Option<&'a Definition>,
        names: &[&str],
    ) -> Option<Scenarios> {
        let mut table = Table::new("a file of scenarios", 0..0, root);
        let Some(field) = table.take("saga") else {
            self.error("missing-key", 0..0, "these scenarios are about no `saga`", "add `saga = \"…\"` at the top");
            return None;
        };
        let name = self.string(&field)?;
        let Some(definition) = definitions(name) else {
            let help = match nearest(name, names.iter().copied()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None if names.is_empty() => "there is no definition beside this file".to_owned(),
                None => format!("there are {}", names.join(", ")),
            };
            self.error("unknown-saga", field.value.span(), format!("there is no definition `{name}`"), help);
            return None;
        };
        let mut of_file = OfFile { definition, input: None, replies: BTreeMap::new() };
        of_file.input = table.take("input").and_then(|field| self.json(field.value));
        of_file.replies = table.take("replies").map(|field| self.replies(&field, definition)).unwrap_or_default();
        let Some(field) = table.take("scenario") else {
            self.finish(&table);
            self.error("missing-key", 0..0, "there is no scenario in this file", "add a `[[scenario]]`");
            return None;
        };
        let scenarios = self.each_table(&field, "a scenario", |reader, table| reader.scenario(table, &of_file));
        self.finish(&table);
        Some(Scenarios { saga: Arc::from(name), scenarios })
    }

    fn scenario(&mut self, table: &mut Table<'t>, of_file: &OfFile<'_>) -> Option<Scenario> {
        let definition = of_file.definition;
        let span = table.span.clone();
        let name = table.take("name").and_then(|field| Some((self.string(&field)?, field.value.span())));
        if name.is_none() {
            self.error(
                "missing-key",
                span.clone(),
                "this scenario has no `name`",
                "add `name = \"…\"`: what it is about",
            );
        }
        let input_at = table.take("input");
        let input = match &input_at {
            Some(field) => self.json(field.value).unwrap_or_default(),
            None => of_file.input.clone().unwrap_or_else(|| Value::Object(serde_json::Map::new())),
        };
        let input = Arc::new(input);
        let priority = table.take("priority").and_then(|field| self.integer(&field, 0, 9));
        let delay = table.take("delay").and_then(|field| self.duration_or_none(&field)).unwrap_or_default();
        let held = table.take("held").and_then(|field| self.duration_or_none(&field)).unwrap_or_default();
        let timeout = table.take("timeout").and_then(|field| self.duration(&field));
        let attempts = table.take("attempts").and_then(|field| self.integer(&field, 1, MOST_ATTEMPTS));
        let mut replies = of_file.replies.clone();
        if let Some(field) = table.take("replies") {
            replies.extend(self.replies(&field, definition));
        }
        let happens = match table.take("happens") {
            Some(field) => {
                self.each_table(&field, "what happens", |reader, table| reader.occurrence(table, definition))
            }
            None => Vec::new(),
        };
        let expect = match table.take("expect") {
            Some(field) => self.expect(&field, definition),
            None => {
                let help = "add for example `expect.status = \"completed\"`";
                self.error("missing-key", span.clone(), "this scenario expects nothing", help);
                None
            }
        };
        self.finish(table);
        let expect = expect?;
        // Else a misspelt input would pass for a saga that is refused.
        if expect.refused.is_none()
            && let Err(errors) = check_input(definition, &input)
        {
            let span = input_at.map_or_else(|| span.clone(), |field| field.value.span());
            let wrong = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            let help = "mend the input; or expect it: `expect.refused = \"…\"`, a part of the words";
            self.error("input", span, format!("`{}` refuses this input: {wrong}", definition.name), help);
        }
        let (name, span) = name?;
        let (priority, attempts) = (priority.map(|it| it as u8), attempts.map(|it| it as u32));
        Some(Scenario {
            name: name.to_owned(),
            span,
            input,
            priority,
            delay,
            held,
            timeout,
            attempts,
            replies,
            happens,
            expect,
        })
    }

    // ---- what happens besides -----------------------------------------------------------------------------------

    fn occurrence(&mut self, table: &mut Table<'t>, definition: &Definition) -> Option<Occurrence> {
        let after = table.take("after").and_then(|field| self.duration_or_none(&field));
        let payload = table.take("payload").and_then(|field| self.json(field.value)).unwrap_or_default();
        let words = ["cancel", "suspend", "resume", "retry", "resolve", "signal", "event"].map(|word| table.take(word));
        let mut said: Vec<&Field<'t>> = words.iter().flatten().collect();
        let (Some(field), true) = (said.pop(), said.is_empty()) else {
            let message = "something that happens is one of `cancel`, `suspend`, `resume`, `retry`, `resolve`, `signal` and `event`";
            self.error(
                "invalid-value",
                table.span.clone(),
                message,
                "write for example `{ after = \"5s\", cancel = true }`",
            );
            self.finish(table);
            return None;
        };
        let what = match field.name {
            "retry" => self.step_of(field, definition).map(|step| Happening::Retry { step }),
            "resolve" => self.resolve(field, definition),
            "signal" => self.string(field).map(|name| Happening::Signal { name: name.to_owned(), payload }),
            "event" => self.step_of(field, definition).map(|step| Happening::Event { step, payload }),
            order => self.order_reason(field).map(|reason| match order {
                "cancel" => Happening::Cancel { reason },
                "suspend" => Happening::Suspend { reason },
                _ => Happening::Resume { reason },
            }),
        };
        self.finish(table);
        Some(Occurrence { after, what: what? })
    }

    /// `true`, or the operator's reason.
    fn order_reason(&mut self, field: &Field<'t>) -> Option<Option<String>> {
        match field.value.get_ref() {
            DeValue::Boolean(true) => Some(None),
            DeValue::String(reason) => Some(Some(reason.to_string())),
            _ => {
                let example = format!("write `{0} = true` or `{0} = \"the reason\"`", field.name);
                self.wrong_type(field, "true or a reason", example);
                None
            }
        }
    }

    fn resolve(&mut self, field: &Field<'t>, definition: &Definition) -> Option<Happening> {
        let example = "`resolve = { step = \"pay\", outcome = \"compensated\" }`";
        let mut table = self.table(field, "`resolve`", example)?;
        let step = self.required(&mut table, "step", "\"pay\"").and_then(|field| self.step_of(&field, definition));
        let outcome =
            self.required(&mut table, "outcome", "\"compensated\"").and_then(|field| self.word(&field, &OUTCOMES));
        let reply = table.take("reply").and_then(|field| self.json(field.value)).unwrap_or_default();
        let reason =
            table.take("reason").and_then(|field| self.string(&field)).unwrap_or("found out by hand").to_owned();
        self.finish(&table);
        Some(Happening::Resolve { step: step?, outcome: outcome?, reply, reason })
    }

    // ---- what is to come of it ----------------------------------------------------------------------------------

    fn expect(&mut self, field: &Field<'t>, definition: &Definition) -> Option<Expect> {
        let mut table = self.table(field, "`expect`", "`expect.status = \"completed\"`")?;
        let statuses = Status::ALL.map(|status| (status.as_str(), status));
        let step_statuses = StepStatus::ALL.map(|status| (status.as_str(), status.as_str()));
        let expect = Expect {
            status: table.take("status").and_then(|field| self.word(&field, &statuses)),
            commands: table.take("commands").map(|field| self.commands(&field)),
            steps: self.by_step(&mut table, "steps", definition, |reader, field| reader.word(field, &step_statuses)),
            published: table.take("published").map(|field| self.strings(&field)),
            effects: table.take("effects").map(|field| self.names(&field, definition)),
            attempts: self.by_step(&mut table, "attempts", definition, Reader::attempts),
            output: table.take("output").and_then(|field| self.json(field.value)),
            error: table.take("error").and_then(|field| self.expected_error(&field, definition)),
            events: table.take("events").map(|field| self.strings(&field)),
            suspended: table.take("suspended").and_then(|field| self.string(&field)).map(str::to_owned),
            refused: table.take("refused").and_then(|field| self.string(&field)).map(str::to_owned),
            ended_within: table.take("ended_within").and_then(|field| self.duration_or_none(&field)),
        };
        self.finish(&table);
        if table.is_empty() {
            let help = "add for example `expect.status = \"completed\"`";
            self.error("invalid-value", field.key.clone(), "this scenario expects nothing", help);
        }
        Some(expect)
    }

    fn commands(&mut self, field: &Field<'t>) -> Vec<ExpectedCommand> {
        let example = "`commands = [\"order.create\", { command = \"payment.charge\", body = { amount = 5 } }]`";
        let Some(array) = self.array(field, "commands", example) else { return Vec::new() };
        let command = |value| self.command_at(&Field { value, ..field.clone() });
        array.iter().filter_map(command).collect()
    }

    fn command_at(&mut self, field: &Field<'t>) -> Option<ExpectedCommand> {
        if let DeValue::String(command) = field.value.get_ref() {
            return Some(ExpectedCommand { command: command.to_string(), ..ExpectedCommand::default() });
        }
        let DeValue::Table(entries) = field.value.get_ref() else {
            self.wrong_type(
                field,
                "a routing key or a table",
                "write \"order.create\" or { command = \"order.create\" }",
            );
            return None;
        };
        let mut table = Table::new("a command", field.value.span(), entries);
        let command = self
            .required(&mut table, "command", "\"order.create\"")
            .and_then(|field| self.string(&field))
            .map(str::to_owned);
        let command = ExpectedCommand {
            command: command.unwrap_or_default(),
            body: table.take("body").and_then(|field| self.json(field.value)),
            headers: table.take("headers").and_then(|field| self.json(field.value)),
            priority: table.take("priority").and_then(|field| self.integer(&field, 0, 9)).map(|it| it as u8),
            attempt: table.take("attempt").and_then(|field| self.integer(&field, 1, MOST_ATTEMPTS)).map(|it| it as u32),
            after: table.take("after").and_then(|field| self.duration_or_none(&field)),
        };
        self.finish(&table);
        Some(command)
    }

    fn expected_error(&mut self, field: &Field<'t>, definition: &Definition) -> Option<ExpectedError> {
        let mut table = self.table(field, "`error`", "`error = { step = \"pay\", reason = \"failure\" }`")?;
        let reasons = Reason::ALL.map(|reason| (reason.as_str(), reason));
        let error = ExpectedError {
            step: table.take("step").and_then(|field| self.step_of(&field, definition)),
            reason: table.take("reason").and_then(|field| self.word(&field, &reasons)),
            message: table.take("message").and_then(|field| self.string(&field)).map(str::to_owned),
        };
        self.finish(&table);
        Some(error)
    }

    /// Attempts of a step: `3`, or `{ execute = 3, compensate = 2 }`.
    fn attempts(&mut self, field: &Field<'t>) -> Option<(Option<u32>, Option<u32>)> {
        let DeValue::Table(_) = field.value.get_ref() else {
            return self.integer(field, 0, MOST_ATTEMPTS).map(|attempts| (Some(attempts as u32), None));
        };
        let mut table = self.table(field, "the attempts of a step", "`{ execute = 3, compensate = 2 }`")?;
        let mut of = |action| {
            table.take(action).and_then(|field| self.integer(&field, 0, MOST_ATTEMPTS)).map(|attempts| attempts as u32)
        };
        let attempts = (of("execute"), of("compensate"));
        self.finish(&table);
        Some(attempts)
    }

    // ---- shared ---------------------------------------------------------------------------------------------------

    /// The tables of an array of tables.
    fn each_table<T>(
        &mut self,
        field: &Field<'t>,
        what: &'static str,
        mut each: impl FnMut(&mut Self, &mut Table<'t>) -> Option<T>,
    ) -> Vec<T> {
        let Some(array) = self.array(field, "tables", &format!("`[[{}]]` before each", field.name)) else {
            return Vec::new();
        };
        let mut all = Vec::with_capacity(array.len());
        for value in array.iter() {
            match value.get_ref() {
                DeValue::Table(entries) => all.extend(each(self, &mut Table::new(what, value.span(), entries))),
                _ => self.wrong_type(&Field { value, ..field.clone() }, "a table", "write it in braces: `{ … }`"),
            }
        }
        all
    }

    /// A table with the names of steps for its keys.
    fn by_step<T>(
        &mut self,
        table: &mut Table<'t>,
        name: &'static str,
        definition: &Definition,
        mut each: impl FnMut(&mut Self, &Field<'t>) -> Option<T>,
    ) -> BTreeMap<String, T> {
        let Some(field) = table.take(name) else { return BTreeMap::new() };
        let steps = self.step_fields(&field, definition);
        steps.into_iter().filter_map(|field| Some((field.name.to_owned(), each(self, &field)?))).collect()
    }

    /// The entries of a table with the names of steps for its keys.
    pub(super) fn step_fields(&mut self, field: &Field<'t>, definition: &Definition) -> Vec<Field<'t>> {
        let DeValue::Table(entries) = field.value.get_ref() else {
            let example = format!("write for example `{}.{} = …`", field.name, definition.steps[0].name);
            self.wrong_type(field, "a table with the names of steps", example);
            return Vec::new();
        };
        let mut fields = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let field = Field { name: key.get_ref(), key: key.span(), value };
            if self.known_step(field.name, field.key.clone(), definition) {
                fields.push(field);
            }
        }
        fields
    }

    /// The name of a step.
    fn step_of(&mut self, field: &Field<'t>, definition: &Definition) -> Option<String> {
        let name = self.string(field)?;
        self.known_step(name, field.value.span(), definition).then(|| name.to_owned())
    }

    fn known_step(&mut self, name: &str, span: std::ops::Range<usize>, definition: &Definition) -> bool {
        if definition.step_named(name).is_some() {
            return true;
        }
        let names: Vec<&str> = definition.steps.iter().map(|step| &*step.name).collect();
        let help = match nearest(name, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("it has {}", names.join(", ")),
        };
        self.error("unknown-step", span, format!("`{}` has no step `{name}`", definition.name), help);
        false
    }

    fn names(&mut self, field: &Field<'t>, definition: &Definition) -> Vec<String> {
        let Some(array) = self.array(field, "names of steps", "`effects = [\"pay\"]`") else { return Vec::new() };
        let name = |value: &'t Toml<'t>| self.step_of(&Field { value, ..field.clone() }, definition);
        array.iter().filter_map(name).collect()
    }

    fn strings(&mut self, field: &Field<'t>) -> Vec<String> {
        let example = format!("`{} = [\"saga.order.started\"]`", field.name);
        let Some(array) = self.array(field, "strings", &example) else { return Vec::new() };
        let text = |value| self.string(&Field { value, ..field.clone() }).map(str::to_owned);
        array.iter().filter_map(text).collect()
    }

    fn replies(&mut self, field: &Field<'t>, definition: &Definition) -> BTreeMap<String, Script> {
        let steps = self.step_fields(field, definition);
        steps.into_iter().map(|field| (field.name.to_owned(), self.script(&field))).collect()
    }
}

/// What the scenarios of a file share.
struct OfFile<'d> {
    definition: &'d Definition,
    input: Option<Value>,
    replies: BTreeMap<String, Script>,
}

const OUTCOMES: [(&str, Resolution); 4] = [
    ("succeeded", Resolution::Succeeded),
    ("failed", Resolution::Failed),
    ("compensated", Resolution::Compensated),
    ("given_up", Resolution::GivenUp),
];
