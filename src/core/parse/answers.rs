//! How the answers to a command are read, and what follows when none comes.

use super::command::Defaults;
use super::reader::{Field, Reader, Table};
use super::references::Site;
use crate::core::definition::{Command, OnTimeout, Pattern, Reply};
use crate::core::template::Expression;

/// Whose answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Answers {
    /// A step's, done once.
    Step,
    /// Those of the elements of a `foreach`.
    Elements,
    /// An undo's or a probe's.
    Second,
}

/// The words of `on_timeout`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Compensate,
    Probe,
    Suspend,
}

const ON_TIMEOUT: [(&str, Word); 3] =
    [("compensate", Word::Compensate), ("probe", Word::Probe), ("suspend", Word::Suspend)];

impl<'t> Reader<'t> {
    /// `reply`, if it is there.
    pub(super) fn reply(&mut self, table: &mut Table<'t>, of: Answers) -> Reply {
        let Some(field) = table.take("reply") else { return Reply::default() };
        let example = "`reply.success_when = \"body.status == 'ok'\"`";
        let Some(mut table) = self.table(&field, "a `reply`", example) else { return Reply::default() };
        let success_when = table.take("success_when");
        let retry_when = table.take("retry_when");
        let schema = table.take("schema").and_then(|field| self.schema(&field));
        let (success, failure) = (table.take("success"), table.take("failure"));
        for event in [&success, &failure].into_iter().flatten() {
            self.check_event_answer(event, of);
        }
        if let (None, Some(failure)) = (&success, &failure) {
            let message = "there is an event for a failure and none for a success";
            let help = "add `reply.success = { exchange = \"…\", routing_key = \"…\", match = \"…\" }`";
            self.error("missing-key", failure.key.clone(), message, help);
        }
        for rule in [&success_when, &retry_when].into_iter().flatten().filter(|_| success.is_some()) {
            let message = format!("`{}` judges an answer, but here events say how it went", rule.name);
            let help = "remove it; or remove `success` and `failure`, where the participant answers";
            self.error("misplaced-key", rule.key.clone(), message, help);
        }
        let (failure, error) = failure.map_or((None, None), |field| self.failure(&field));
        let reply = Reply {
            success_when: success_when.and_then(|field| self.expression(&field, Site::Message)),
            retry_when: retry_when.and_then(|field| self.expression(&field, Site::Message)),
            schema,
            success: success.and_then(|field| self.pattern(&field)),
            failure,
            error,
        };
        self.finish(&table);
        reply
    }

    fn check_event_answer(&mut self, event: &Field<'t>, of: Answers) {
        let (message, help) = match of {
            Answers::Step => return,
            Answers::Elements => (
                "an event can't answer one element of a `foreach`: it names the saga's key alone",
                "let the participant answer, or give each element a saga of its own: `saga = \"…\"`",
            ),
            Answers::Second => {
                ("an event answers only the command of a step itself", "let the participant answer this command")
            }
        };
        self.error("misplaced-key", event.key.clone(), message, help);
    }

    fn failure(&mut self, field: &Field<'t>) -> (Option<Pattern>, Option<Expression>) {
        let Some(mut table) = self.table(field, "an event", EVENT) else { return (None, None) };
        let error = table.take("error").and_then(|field| self.expression(&field, Site::Message));
        let pattern = self.pattern_keys(&mut table);
        self.finish(&table);
        (pattern, error)
    }

    fn pattern(&mut self, field: &Field<'t>) -> Option<Pattern> {
        let mut table = self.table(field, "an event", EVENT)?;
        let pattern = self.pattern_keys(&mut table);
        self.finish(&table);
        pattern
    }

    /// The keys that say which events are meant.
    pub(super) fn pattern_keys(&mut self, table: &mut Table<'t>) -> Option<Pattern> {
        let exchange = self.required(table, "exchange", "\"stock.events\"");
        let exchange = exchange.and_then(|field| self.exchange_name(&field));
        let routing_key = self.required(table, "routing_key", "\"stock.reserved\"");
        let routing_key = routing_key.and_then(|field| self.routing_key(&field, "\"stock.reserved\""));
        let matches = self.required(table, "match", "\"body.order_id\"");
        self.matches.extend(matches.as_ref().map(|field| field.key.clone()));
        let matches = matches.and_then(|field| self.expression(&field, Site::Message));
        Some(Pattern { exchange: exchange?, routing_key: routing_key?, matches: matches? })
    }

    /// `on_timeout` and `probe` of a step with `command`.
    pub(super) fn on_timeout(
        &mut self,
        table: &mut Table<'t>,
        command: Option<&Command>,
        defaults: &Defaults,
        site: Site,
    ) -> Option<OnTimeout> {
        let field = table.take("on_timeout");
        let word = field.as_ref().map_or(Some(Word::Compensate), |field| self.word(field, &ON_TIMEOUT));
        let probe = table.take("probe");
        match (&probe, word) {
            (Some(probe), Some(Word::Compensate | Word::Suspend)) => {
                let message = "this probe is never sent: `on_timeout` does not ask for it";
                self.error("misplaced-key", probe.key.clone(), message, "write `on_timeout = \"probe\"`");
            }
            (None, Some(Word::Probe)) => {
                let span = field.map_or(0..0, |field| field.key);
                let help = "add `probe = { command = \"payment.status\" }`: its answer decides";
                self.error("missing-key", span, "there is no `probe` to send", help);
            }
            _ => {}
        }
        let probe = probe.and_then(|field| self.probe(&field, command, defaults, site));
        match word? {
            Word::Compensate => Some(OnTimeout::Compensate),
            Word::Probe => Some(OnTimeout::Probe(Box::new(probe?))),
            Word::Suspend => Some(OnTimeout::Suspend),
        }
    }

    fn probe(&mut self, field: &Field<'t>, of: Option<&Command>, defaults: &Defaults, site: Site) -> Option<Command> {
        let mut table = self.table(field, "a `probe`", "`probe = { command = \"payment.status\" }`")?;
        let exchange = of.map(|command| &command.exchange);
        let probe = self.command(&mut table, exchange, defaults, site, defaults.retry());
        self.finish(&table);
        probe
    }
}

const EVENT: &str = "`{ exchange = \"stock.events\", routing_key = \"stock.reserved\", match = \"body.order_id\" }`";
