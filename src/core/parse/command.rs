//! Commands: what a step sends, forward and to undo.

use std::time::Duration;

use toml::de::DeValue;

use super::body::MAX_NAME;
use super::reader::{Field, Reader, Table};
use super::references::Site;
use super::timing::{COMPENSATION_ATTEMPTS, RETRY, RetryTable, TIMEOUT};
use crate::core::definition::{Command, Compensate, CompensateOn, Priority, Reply, Retry, Undo};
use crate::core::template::is_template;

/// `[defaults]`.
#[derive(Default)]
pub(super) struct Defaults {
    exchange: Option<String>,
    timeout: Option<Duration>,
    retry: RetryTable,
    expires: Option<bool>,
}

impl<'t> Reader<'t> {
    pub(super) fn defaults(&mut self, field: &Field<'t>) -> Defaults {
        let example = "`[defaults]` with `exchange = \"…\"` below";
        let Some(mut table) = self.table(field, "[defaults]", example) else { return Defaults::default() };
        let exchange = table.take("exchange").and_then(|field| self.name(&field));
        let timeout = table.take("timeout").and_then(|field| self.duration(&field));
        let retry_field = table.take("retry");
        let retry = retry_field.as_ref().map(|field| self.retry(field)).unwrap_or_default();
        self.merged(retry_field.as_ref(), &retry, RETRY);
        let expires = table.take("expires").and_then(|field| self.boolean(&field));
        self.finish(&table);
        Defaults { exchange, timeout, retry, expires }
    }

    /// The forward command of the step in `table`.
    pub(super) fn execute(&mut self, table: &mut Table<'t>, defaults: &Defaults, site: Site) -> Option<Command> {
        let routing_key = self.routing_key(table);
        let exchange = self.exchange(table, defaults.exchange.as_ref());
        let timeout = table.take("timeout").and_then(|field| self.duration(&field));
        let default = defaults.retry.over(RETRY);
        let retry = self.own_retry(table, default);
        let priority = table.take("priority").and_then(|field| self.priority(&field, site));
        let expires = table.take("expires").and_then(|field| self.boolean(&field));
        let body = table.take("body").and_then(|field| self.body(field.value, site));
        let headers = table.take("headers").map(|field| self.headers(&field, site)).unwrap_or_default();
        Some(Command {
            exchange: exchange?,
            routing_key: routing_key?,
            body,
            headers,
            timeout: timeout.or(defaults.timeout).unwrap_or(TIMEOUT),
            retry,
            priority,
            expires: expires.or(defaults.expires).unwrap_or(true),
            reply: Reply::default(),
        })
    }

    /// `compensate`: `false`, or the undoing command. `exchange` is the step's.
    pub(super) fn compensate(
        &mut self,
        field: &Field<'t>,
        exchange: Option<&String>,
        defaults: &Defaults,
        site: Site,
    ) -> Option<Compensate> {
        match field.value.get_ref() {
            DeValue::Boolean(false) => return None,
            DeValue::Table(_) => {}
            _ => {
                let example =
                    "write `compensate = { command = \"…\" }`, or `compensate = false` where there is nothing to undo";
                self.wrong_type(field, "a table or false", example);
                return None;
            }
        }
        let mut table = self.table(field, "compensate", "")?;
        let on = table.take("on").map_or_else(CompensateOn::default, |field| self.on(&field));
        let routing_key = self.routing_key(&mut table);
        // Without one, the step's own lack of an exchange has been reported already.
        let exchange = match table.take("exchange") {
            Some(field) => self.name(&field),
            None => exchange.or(defaults.exchange.as_ref()).cloned(),
        };
        let timeout = table.take("timeout").and_then(|field| self.duration(&field));
        let default = Retry { attempts: COMPENSATION_ATTEMPTS, ..defaults.retry.over(RETRY) };
        let retry = self.own_retry(&mut table, default);
        let priority = table.take("priority").and_then(|field| self.priority(&field, site));
        let body = table.take("body").and_then(|field| self.body(field.value, site));
        let headers = table.take("headers").map(|field| self.headers(&field, site)).unwrap_or_default();
        self.finish(&table);
        let command = Command {
            exchange: exchange?,
            routing_key: routing_key?,
            body,
            headers,
            timeout: timeout.or(defaults.timeout).unwrap_or(TIMEOUT),
            retry,
            priority,
            // An undo must never be lost because nobody took it in time.
            expires: false,
            reply: Reply::default(),
        };
        Some(Compensate { undo: Undo::Command(Box::new(command)), on })
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

    fn own_retry(&mut self, table: &mut Table<'t>, default: Retry) -> Retry {
        let field = table.take("retry");
        let own = field.as_ref().map(|field| self.retry(field)).unwrap_or_default();
        self.merged(field.as_ref(), &own, default)
    }

    fn routing_key(&mut self, table: &mut Table<'t>) -> Option<String> {
        let Some(field) = table.take("command") else {
            let help = "add the routing key of the command: `command = \"payment.charge\"`";
            self.error("missing-key", table.span.clone(), "`command` is missing", help);
            return None;
        };
        let name = self.name(&field)?;
        if name.is_empty() {
            self.invalid(&field, "it is empty", "write the routing key of the command: \"payment.charge\"");
            return None;
        }
        Some(name)
    }

    fn exchange(&mut self, table: &mut Table<'t>, default: Option<&String>) -> Option<String> {
        if let Some(field) = table.take("exchange") {
            return self.name(&field);
        }
        if default.is_none() {
            let help = "add `exchange = \"…\"` here, or once for all steps below `[defaults]`";
            self.error("no-exchange", table.span.clone(), "this step has no exchange, and there is no default", help);
        }
        default.cloned()
    }

    /// The name of an exchange or a routing key.
    fn name(&mut self, field: &Field<'t>) -> Option<String> {
        let text = self.string(field)?;
        if is_template(text) {
            let help = "write a fixed name; what depends on the saga goes into `headers` or `body`";
            self.invalid(field, "it can't be a template", help);
            return None;
        }
        if text.len() > MAX_NAME {
            self.invalid(
                field,
                format_args!("it has {} bytes, AMQP allows {MAX_NAME}", text.len()),
                "choose a shorter name",
            );
            return None;
        }
        Some(text.to_owned())
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
