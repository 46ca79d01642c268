//! Commands: what a step sends, forward and to undo.

use std::time::Duration;

use toml::de::DeValue;

use super::answers::Answers;
use super::kind::Kind;
use super::reader::{Field, Reader, Table};
use super::references::Site;
use super::timing::{COMPENSATION_ATTEMPTS, LONGEST_EXPIRY, RETRY, RetryTable, TIMEOUT};
use crate::core::definition::{Command, Compensate, CompensateOn, Execute, Priority, Request, Retry, Undo};
use crate::core::id::StepIx;
use crate::core::template::is_template;

/// `[defaults]`.
#[derive(Default)]
pub(super) struct Defaults {
    exchange: Option<String>,
    timeout: Option<Duration>,
    retry: RetryTable,
    expires: Option<bool>,
}

impl Defaults {
    /// The exchange of what does not say its own.
    pub(super) fn exchange(&self) -> Option<&String> {
        self.exchange.as_ref()
    }

    /// The retry of a forward command that does not say its own.
    pub(super) fn retry(&self) -> Retry {
        self.retry.over(RETRY)
    }
}

/// What a command depends on besides its own keys.
struct Mold<'d> {
    defaults: &'d Defaults,
    site: Site,
    answers: Answers,
    retry: Retry,
    expires: bool,
}

impl<'t> Reader<'t> {
    pub(super) fn defaults(&mut self, field: &Field<'t>) -> Defaults {
        let example = "`[defaults]` with `exchange = \"…\"` below";
        let Some(mut table) = self.table(field, "[defaults]", example) else { return Defaults::default() };
        let exchange = table.take("exchange").and_then(|field| self.exchange_name(&field));
        let timeout = table.take("timeout").and_then(|field| self.duration(&field));
        let retry_field = table.take("retry");
        let retry = retry_field.as_ref().map(|field| self.retry(field)).unwrap_or_default();
        self.merged(retry_field.as_ref(), &retry, RETRY);
        let expires = table.take("expires").and_then(|field| self.boolean(&field));
        self.finish(&table);
        Defaults { exchange, timeout, retry, expires }
    }

    /// The command, the answers and the time-out of the step in `table`; `field` is its `command`.
    pub(super) fn request(
        &mut self,
        table: &mut Table<'t>,
        field: &Field<'t>,
        defaults: &Defaults,
        site: Site,
        many: bool,
    ) -> Option<Request> {
        let routing_key = self.routing_key(field, "\"payment.charge\"");
        let exchange = self.exchange(table, defaults.exchange());
        let answers = if many { Answers::Elements } else { Answers::Step };
        let retry = defaults.retry();
        let expires = table.take("expires").and_then(|field| self.boolean(&field));
        let expires = expires.or(defaults.expires).unwrap_or(true);
        let command = self.sent(table, exchange, routing_key, Mold { defaults, site, answers, retry, expires });
        let on_timeout = self.on_timeout(table, command.as_ref(), defaults, site);
        Some(Request { command: command?, on_timeout: on_timeout? })
    }

    /// A command in a table of its own; `exchange` is the step's.
    pub(super) fn command(
        &mut self,
        table: &mut Table<'t>,
        exchange: Option<&String>,
        defaults: &Defaults,
        site: Site,
        retry: Retry,
    ) -> Option<Command> {
        let routing_key = self.required(table, "command", "\"payment.refund\"");
        let routing_key = routing_key.and_then(|field| self.routing_key(&field, "\"payment.refund\""));
        let exchange = self.exchange(table, exchange.or(defaults.exchange()));
        // An undo or a question must never be lost because nobody took it in time.
        let expires = false;
        self.sent(table, exchange, routing_key, Mold { defaults, site, answers: Answers::Second, retry, expires })
    }

    fn sent(
        &mut self,
        table: &mut Table<'t>,
        exchange: Option<String>,
        routing_key: Option<String>,
        mold: Mold<'_>,
    ) -> Option<Command> {
        let Mold { defaults, site, answers, retry, expires } = mold;
        let timeout_field = table.take("timeout");
        let timeout = timeout_field.as_ref().and_then(|field| self.duration(field)).or(defaults.timeout);
        let timeout = timeout.unwrap_or(TIMEOUT);
        if expires && timeout > LONGEST_EXPIRY {
            let span = timeout_field.map_or(table.span.clone(), |field| field.value.span());
            let message = "a command can't expire after more than 49 days: the broker counts no further";
            self.error("invalid-duration", span, message, "choose a shorter `timeout`, or add `expires = false`");
        }
        let retry = self.own_retry(table, retry);
        let priority = table.take("priority").and_then(|field| self.priority(&field, site));
        let body = table.take("body").and_then(|field| self.body(field.value, site));
        let headers = table.take("headers").map(|field| self.headers(&field, site)).unwrap_or_default();
        let reply = self.reply(table, answers);
        let (exchange, routing_key) = (exchange?, routing_key?);
        Some(Command { exchange, routing_key, body, headers, timeout, retry, priority, expires, reply })
    }

    /// How the step in `table`, which does `execute`, is undone.
    pub(super) fn compensate(
        &mut self,
        table: &mut Table<'t>,
        kind: Kind,
        execute: Option<&Execute>,
        defaults: &Defaults,
        step: StepIx,
    ) -> Option<Compensate> {
        let retry = Retry { attempts: COMPENSATION_ATTEMPTS, ..defaults.retry() };
        let Some(field) = table.take("compensate") else {
            // Whatever the other saga did, it knows itself how to undo it.
            let undo = Undo::Child { timeout: None, retry };
            return (kind == Kind::Saga).then(|| Compensate { undo, on: CompensateOn::default() });
        };
        match (field.value.get_ref(), kind) {
            (DeValue::Boolean(false), _) => return None,
            (_, Kind::Sleep) => {
                let message = "a `sleep` step can't have a `compensate`: there is nothing to undo";
                self.error("misplaced-key", field.key, message, "remove it");
                return None;
            }
            (DeValue::Table(_), _) => {}
            _ => {
                let example =
                    "write `compensate = { command = \"…\" }`, or `compensate = false` where there is nothing to undo";
                self.wrong_type(&field, "a table or false", example);
                return None;
            }
        }
        let mut table = self.table(&field, "`compensate`", "")?;
        let on = table.take("on").map_or_else(CompensateOn::default, |field| self.on(&field));
        let undo = match (kind, execute) {
            (Kind::Saga, _) => {
                for key in ["command", "exchange", "body", "headers", "reply", "priority"] {
                    if let Some(field) = table.take(key) {
                        let message = format!("`{key}` does nothing here: the other saga undoes its own steps");
                        self.error("misplaced-key", field.key, message, "remove it");
                    }
                }
                let timeout = table.take("timeout").and_then(|field| self.duration(&field));
                Some(Undo::Child { timeout, retry: self.own_retry(&mut table, retry) })
            }
            // Something is wrong with the step already: if it lacks an exchange, that is said once.
            (Kind::Command, None) => {
                self.command(&mut table, Some(&String::new()), defaults, Site::Compensate(step), retry);
                None
            }
            (_, execute) => {
                let exchange = execute.and_then(|execute| match execute {
                    Execute::Command(request) => Some(&request.command.exchange),
                    _ => None,
                });
                let command = self.command(&mut table, exchange, defaults, Site::Compensate(step), retry);
                command.map(|command| Undo::Command(Box::new(command)))
            }
        };
        self.finish(&table);
        Some(Compensate { undo: undo?, on })
    }

    /// A priority: 0 to 9, or a template.
    pub(super) fn priority(&mut self, field: &Field<'t>, site: Site) -> Option<Priority> {
        match field.value.get_ref() {
            DeValue::String(text) if is_template(text) => self.template(field, site).map(Priority::Template),
            DeValue::Integer(_) => self.integer(field, 0, 9).and_then(|it| u8::try_from(it).ok()).map(Priority::Fixed),
            _ => {
                let example = "write `priority = 5` or `priority = \"{{ input.priority }}\"`";
                self.wrong_type(field, "a number from 0 to 9 or a template", example);
                None
            }
        }
    }

    pub(super) fn own_retry(&mut self, table: &mut Table<'t>, default: Retry) -> Retry {
        let field = table.take("retry");
        let own = field.as_ref().map(|field| self.retry(field)).unwrap_or_default();
        self.merged(field.as_ref(), &own, default)
    }

    fn on(&mut self, field: &Field<'t>) -> CompensateOn {
        const WORDS: [(&str, usize); 3] = [("success", 0), ("in_doubt", 1), ("failure", 2)];
        let mut on = [false; 3];
        let single = std::slice::from_ref(field.value);
        let words = match field.value.get_ref() {
            DeValue::Array(words) => words.as_ref(),
            _ => single,
        };
        let mut complete = true;
        for value in words {
            match self.word(&Field { value, ..field.clone() }, &WORDS) {
                Some(word) => on[word] = true,
                None => complete = false,
            }
        }
        if complete && on == [false; 3] {
            self.invalid(field, "it names no outcome", "for nothing to undo, write `compensate = false`");
        }
        CompensateOn { success: on[0], in_doubt: on[1], failure: on[2] }
    }
}
