//! What a step does: exactly one of a few kinds, each with keys of its own.

use super::command::Defaults;
use super::reader::{Field, Reader, Table};
use super::references::Site;
use crate::core::definition::{Awaited, Child, Event, Execute, Wait};
use crate::core::id::StepIx;

/// What a step does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Command,
    Publish,
    Wait,
    Saga,
    Sleep,
}

use Kind::{Command, Publish, Saga, Sleep, Wait as WaitFor};

/// The key that says each kind.
const KINDS: [(&str, Kind); 5] =
    [("command", Command), ("publish", Publish), ("wait", WaitFor), ("saga", Saga), ("sleep", Sleep)];

/// Keys that only some kinds have: for the others, why not.
const MISPLACED: [(&str, &[(Kind, &str)]); 8] = [
    ("exchange", &[(WaitFor, "the exchange of an event is said in `wait` itself"), (Saga, CHILD), (Sleep, SENDS)]),
    ("body", &[(WaitFor, SENDS), (Saga, "what a saga gets is its `input`"), (Sleep, SENDS)]),
    ("headers", &[(WaitFor, SENDS), (Saga, CHILD), (Sleep, SENDS)]),
    (
        "input",
        &[
            (Command, "what it sends is its `body`"),
            (Publish, "what it sends is its `body`"),
            (WaitFor, SENDS),
            (Sleep, SENDS),
        ],
    ),
    ("expires", &[(Publish, NOBODY), (WaitFor, SENDS), (Saga, CHILD), (Sleep, SENDS)]),
    ("on_timeout", &[(Publish, NOBODY), (WaitFor, "a wait in vain is a failure"), (Saga, STOPPED), (Sleep, ENDS)]),
    ("probe", &[(Publish, NOBODY), (WaitFor, SENDS), (Saga, OUTPUT), (Sleep, SENDS)]),
    ("reply", &[(Publish, NOBODY), (WaitFor, "what comes is its reply"), (Saga, OUTPUT), (Sleep, SENDS)]),
];

/// Keys that any step may have, and that change nothing for some kinds: why not.
const IDLE: [(&str, &[(Kind, &str)]); 4] = [
    ("priority", &[(WaitFor, SENDS), (Saga, "the other saga's own definition says its priority"), (Sleep, SENDS)]),
    ("retry", &[(WaitFor, "nothing can be tried again"), (Saga, RETRIED), (Sleep, ENDS)]),
    ("timeout", &[(Sleep, ENDS)]),
    ("optional", &[(Sleep, "it can't fail")]),
];

const SENDS: &str = "it sends nothing";
const CHILD: &str = "sagad itself starts the other saga";
const NOBODY: &str = "nobody answers an event";
const OUTPUT: &str = "its reply is the other saga's output";
const STOPPED: &str = "a saga that takes too long is undone";
const RETRIED: &str = "the other saga retries its own steps, as its definition says";
const ENDS: &str = "it takes the time that it says, and then it is done";

impl Kind {
    /// All keys that depend on the kind.
    pub(super) fn keys() -> impl Iterator<Item = &'static str> {
        let foreach = ["compensate", "foreach", "max_parallel"].into_iter();
        MISPLACED.iter().chain(&IDLE).map(|(key, _)| *key).chain(foreach)
    }

    fn word(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("", |(word, _)| word)
    }
}

impl<'t> Reader<'t> {
    /// The kind of a step, if it has exactly one.
    pub(super) fn kind(&mut self, table: &mut Table<'t>) -> Option<Kind> {
        let fields = KINDS.iter().filter_map(|&(word, kind)| table.take(word).map(|field| (field, kind)));
        let mut fields: Vec<(Field<'t>, Kind)> = fields.collect();
        fields.sort_by_key(|(field, _)| field.key.start);
        match fields.as_slice() {
            [(_, kind)] => Some(*kind),
            [] => {
                // A misspelt one is reported as such.
                if !table.has_near(&KINDS.map(|(word, _)| word)) {
                    let help = "add one of `command = \"routing.key\"`, `publish = \"routing.key\"`, \
                                `wait = { signal = \"…\" }`, `saga = \"name\"`, `sleep = \"1h\"`";
                    self.error("missing-key", table.span.clone(), "this step says nothing to do", help);
                }
                None
            }
            [(first, _), rest @ ..] => {
                for (other, _) in rest {
                    let message = format!("a step does one thing, and this one has a `{}` already", first.name);
                    let help = format!("make a step of its own of `{}`, or remove it", other.name);
                    self.error("two-kinds", other.key.clone(), message, help);
                }
                None
            }
        }
    }

    /// Reports keys that make no sense for a kind, and those that do nothing for it.
    pub(super) fn misplaced(&mut self, table: &mut Table<'t>, kind: Kind, site: Site) {
        let unfit =
            |reasons: &[(Kind, &'static str)]| reasons.iter().find(|(unfit, _)| *unfit == kind).map(|(_, why)| *why);
        for (key, reasons) in MISPLACED {
            if let Some(why) = unfit(reasons)
                && let Some(field) = table.take(key)
            {
                let message = format!("a `{}` step can't have a `{key}`: {why}", kind.word());
                self.error("misplaced-key", field.key, message, "remove it");
            }
        }
        for (key, reasons) in IDLE {
            let Some(why) = unfit(reasons) else { continue };
            let Some(field) = table.take(key) else { continue };
            let message = format!("`{key}` does nothing for a `{}` step: {why}", kind.word());
            self.warning("no-effect", field.key.clone(), message, "remove it");
            // What is passed over has to be right all the same.
            match key {
                "priority" => drop(self.priority(&field, site)),
                "retry" => drop(self.retry(&field)),
                "timeout" => drop(self.duration(&field)),
                _ => drop(self.boolean(&field)),
            }
        }
    }

    /// What the step in `table` does. `many`: for each element of a list.
    pub(super) fn execute(
        &mut self,
        table: &mut Table<'t>,
        kind: Kind,
        defaults: &Defaults,
        step: StepIx,
        many: bool,
    ) -> Option<Execute> {
        let field = table.take(kind.word())?;
        let site = Site::Execute(step);
        match kind {
            Command => self.request(table, &field, defaults, site, many).map(|it| Execute::Command(Box::new(it))),
            Publish => self.event(table, &field, defaults, site).map(|it| Execute::Publish(Box::new(it))),
            WaitFor => self.wait(table, &field).map(Execute::Wait),
            Saga => self.child(table, &field, site).map(Execute::Saga),
            Sleep => self.duration(&field).map(Execute::Sleep),
        }
    }

    fn event(&mut self, table: &mut Table<'t>, field: &Field<'t>, defaults: &Defaults, site: Site) -> Option<Event> {
        let routing_key = self.routing_key(field, "\"order.placed\"");
        let exchange = self.exchange(table, defaults.exchange());
        let priority = table.take("priority").and_then(|field| self.priority(&field, site));
        let body = table.take("body").and_then(|field| self.body(field.value, site));
        let headers = table.take("headers").map(|field| self.headers(&field, site)).unwrap_or_default();
        // Its own alone: it stays in the outbox for as long as the broker is away.
        let timeout = table.take("timeout").and_then(|field| self.duration(&field));
        let retry = self.own_retry(table, defaults.retry());
        Some(Event { exchange: exchange?, routing_key: routing_key?, body, headers, priority, timeout, retry })
    }

    fn wait(&mut self, table: &mut Table<'t>, field: &Field<'t>) -> Option<Wait> {
        // Its own alone: a person takes longer than an attempt of a command.
        let timeout = table.take("timeout").and_then(|field| self.duration(&field));
        const EXAMPLE: &str = "`wait = { signal = \"approved\" }`, or `wait = { exchange = \"…\", routing_key = \"…\", match = \"body.order_id\" }`";
        let mut wait = self.table(field, "a `wait`", EXAMPLE)?;
        let until = match wait.take("signal") {
            Some(signal) => {
                for key in ["exchange", "routing_key", "match"] {
                    if let Some(extra) = wait.take(key) {
                        let message = format!("a `wait` is for a signal or for an event: `{key}` is of an event");
                        self.error("two-kinds", extra.key, message, "remove it, or `signal`");
                    }
                }
                self.routing_key(&signal, "\"approved\"").map(|name| Awaited::Signal(name.into()))
            }
            None if ["exchange", "routing_key", "match"].iter().any(|key| wait.has(key)) => {
                self.pattern_keys(&mut wait).map(|it| Awaited::Event(Box::new(it)))
            }
            None => {
                let message = "this `wait` does not say for what";
                self.error("missing-key", field.key.clone(), message, format!("write it like this: {EXAMPLE}"));
                for key in ["exchange", "routing_key", "match"] {
                    wait.take(key);
                }
                None
            }
        };
        self.finish(&wait);
        Some(Wait { until: until?, timeout })
    }

    fn child(&mut self, table: &mut Table<'t>, field: &Field<'t>, site: Site) -> Option<Child> {
        let definition = self.identifier(field);
        let timeout = table.take("timeout").and_then(|field| self.duration(&field));
        let input = table.take("input").and_then(|field| self.body(field.value, site));
        Some(Child { definition: definition?.into(), input, timeout })
    }
}
