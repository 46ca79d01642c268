//! The participants: whoever takes a command, does it once for each key, and says what came of it, in time or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sagad::broker::message::{Inbox, Incoming, Outgoing, Properties};
use sagad::core::time::Time;
use serde_json::{Value, json};

use super::chance::Chance;
use super::sagas::Answers;
use super::world::{Happening, State};

/// A command in a participant's queue.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub(super) message: Outgoing,
    /// When it dies in its queue.
    pub(super) dies: Option<Time>,
    /// How often it was delivered.
    pub(super) deliveries: u32,
    /// Whoever takes it loses its connection, and it is delivered to somebody else as well.
    pub(super) slips: bool,
}

/// Merely idempotent services: each does what a key asks for once, and says the same again.
#[derive(Debug, Default)]
pub(crate) struct Participants {
    said: BTreeMap<String, bool>,
    /// Whose effects are there: saga, step, element.
    pub(crate) there: BTreeSet<Unit>,
    /// Where a participant contradicted itself, and nobody can know.
    pub(crate) unclear: BTreeSet<Unit>,
    /// Units whose undo was sent.
    pub(super) undone: BTreeSet<Unit>,
}

/// Saga id, step name, element.
pub(crate) type Unit = (String, String, Option<u64>);

impl Participants {
    /// The operator has talked to whoever declined a step of a saga.
    pub(crate) fn forget_refusals(&mut self, saga: &str, step: &str) {
        let prefix = format!("{saga}/{step}/");
        self.said.retain(|key, done| *done || !key.starts_with(&prefix));
    }
}

impl State {
    pub(super) fn chance_of(&self, command: &Command) -> Chance {
        let id = command.message.properties.message_id.as_deref().unwrap_or_default();
        let copy = self.sent.get(id).copied().unwrap_or_default();
        self.chance.of((id, copy, command.deliveries)).of("participant")
    }

    pub(super) fn take(&mut self, mut command: Command, now: Time) {
        let chance = self.chance_of(&command);
        if command.dies.is_some_and(|dies| dies <= now) {
            return self.bury(&command, "expired", now, chance);
        }
        command.deliveries += 1;
        let faults = if self.troubled { self.plan.faults } else { Default::default() };
        let action = action_of(&command.message).to_owned();
        let unit = unit_of(&command.message);
        #[derive(Clone, Copy, Debug)]
        enum How {
            Do,
            Decline,
            Busy,
            Ponder,
            Late,
            Silent,
            Die,
            Reject,
            Contradict,
            Unreadable,
        }
        let ways = [
            (1000, How::Do),
            (faults.decline, How::Decline),
            (faults.busy, How::Busy),
            (faults.ponder, How::Ponder),
            (faults.late, How::Late),
            (faults.silent, How::Silent),
            (faults.die, How::Die),
            (faults.reject, How::Reject),
            (faults.contradict, How::Contradict),
            (faults.unreadable, How::Unreadable),
        ];
        let how = chance.of("how").weighted(&ways);
        self.note(now, || format!("a participant takes {}: {how:?}", described(&command.message)));
        // An effect that comes when its undo is out already, or its attempt was answered, and of which no word ever comes, nobody can know
        // of; but the broker's word that somebody had it is one. And who has done it does not say that he is too busy to.
        let id = command.message.properties.message_id.as_deref().unwrap_or_default();
        let answered = self.checks.was_answered(id);
        let awaited = !self.participants.undone.contains(&unit) && !self.is_late(&command, now) && !answered;
        let done = self.participants.said.get(&key_of(&command.message)) == Some(&true);
        match how {
            // It is not his any more to give back.
            How::Die | How::Reject if command.slips => _ = self.handle(&command.message),
            How::Silent if action == "execute" && !awaited => self.finish(&command, chance, now),
            How::Die | How::Reject if action == "execute" && answered => self.finish(&command, chance, now),
            How::Do => self.finish(&command, chance, now),
            How::Busy | How::Ponder if done => self.finish(&command, chance, now),
            How::Contradict if action == "execute" => {
                self.participants.unclear.insert(unit);
                self.finish(&command, chance, now);
                self.say(&command.message, "failure", chance.of("contradiction"), now);
            }
            How::Contradict => self.finish(&command, chance, now),
            How::Decline if action == "probe" => self.finish(&command, chance, now),
            How::Decline => {
                let key = key_of(&command.message);
                if action == "execute" {
                    self.participants.said.entry(key.clone()).or_insert(false);
                }
                // An undo can be refused now and done later; what was done was done.
                let done = self.participants.said.get(&key).copied().unwrap_or(false);
                self.answer(&command, done, chance, now);
            }
            How::Unreadable if action == "execute" && self.can_be_misread(&command.message) => {
                let word = if self.handle(&command.message) { "unreadable" } else { "failure" };
                self.say(&command.message, word, chance, now);
            }
            How::Unreadable => self.finish(&command, chance, now),
            How::Busy => self.say(&command.message, "retry", chance, now),
            How::Ponder => {
                self.say(&command.message, "pending", chance.of("pending"), now);
                let at = now.plus(chance.of("ponders").millis(100..15_000));
                self.plan(at, Happening::Finish(Box::new(command)));
            }
            How::Late => {
                let at = now.plus(chance.of("late").millis(500..90_000));
                self.plan(at, Happening::Finish(Box::new(command)));
            }
            How::Silent => _ = self.handle(&command.message),
            How::Die => {
                self.handle(&command.message);
                self.bury(&command, "delivery_limit", now, chance);
            }
            How::Reject => {
                if chance.of("too late").permille(500) {
                    self.handle(&command.message);
                }
                self.bury(&command, "rejected", now, chance);
            }
        }
    }

    /// Whether its attempt has timed out.
    fn is_late(&self, command: &Command, now: Time) -> bool {
        let deadline = command.message.properties.header_str("saga-deadline").and_then(|text| Time::parse(text).ok());
        deadline.is_some_and(|deadline| deadline <= now.plus(Duration::from_secs(3)))
    }

    pub(super) fn finish(&mut self, command: &Command, chance: Chance, now: Time) {
        let done = self.handle(&command.message);
        self.answer(command, done, chance, now);
    }

    /// Does what is asked, once for each key.
    fn handle(&mut self, message: &Outgoing) -> bool {
        let (key, unit, action) = (key_of(message), unit_of(message), action_of(message));
        if action == "probe" {
            return self.participants.there.contains(&unit);
        }
        if let Some(said) = self.participants.said.get(&key) {
            return *said;
        }
        match action {
            "execute" => drop(self.participants.there.insert(unit)),
            _ => drop(self.participants.there.remove(&unit)),
        }
        self.participants.said.insert(key, true);
        true
    }

    fn answer(&mut self, command: &Command, done: bool, chance: Chance, now: Time) {
        let message = &command.message;
        let outcome = if done { "success" } else { "failure" };
        let (saga, step, _) = unit_of(message);
        let name = message.properties.header_str("saga-name").unwrap_or_default().to_owned();
        let plan = self.plan.sagas.iter().find(|plan| plan.name == name);
        if action_of(message) == "execute" && plan.is_some_and(|plan| plan.announces(&step)) {
            let key = message.properties.header_str("saga-key").unwrap_or_default();
            let event = Incoming {
                queue: Inbox::Events,
                exchange: "ev".into(),
                routing_key: format!("{name}.{step}.{outcome}"),
                redelivered: false,
                properties: Properties {
                    message_id: Some(format!("{saga} {step} {outcome}")),
                    ..Properties::default()
                },
                body: sagad::store::encode(&json!({ "key": key })),
            };
            return self.deliver(event, chance.of("answer"), now);
        }
        self.say(message, outcome, chance.of("answer"), now);
    }

    fn answers(&self, message: &Outgoing) -> Answers {
        let name = message.properties.header_str("saga-name").unwrap_or_default();
        let plan = self.plan.sagas.iter().find(|plan| plan.name == name);
        plan.map_or(Answers::Word, |plan| plan.answers(&unit_of(message).1))
    }

    /// Whether there is something to be read from an answer of it.
    fn can_be_misread(&self, message: &Outgoing) -> bool {
        matches!(self.answers(message), Answers::Ruled | Answers::Schema)
    }

    /// A participant says what came of a command: `success`, `failure`, `retry`, `pending`, or what can't be read.
    fn say(&mut self, message: &Outgoing, word: &'static str, chance: Chance, now: Time) {
        self.checks.said(id_of(message), word);
        let id = key_of(message);
        let of_a_step = action_of(message) == "execute";
        let (header, body) = match (self.answers(message), word) {
            (_, "pending") => (Some(word), Value::Null),
            (Answers::Plain, "success") => (None, json!({ "id": id })),
            (Answers::Plain, "failure") => (None, json!({ "error": "declined" })),
            (Answers::Ruled, "success") if of_a_step => (None, json!({ "id": id, "status": "done" })),
            (Answers::Ruled, "failure") if of_a_step => (None, json!({ "status": "no", "error": null })),
            (Answers::Ruled, "retry") if of_a_step => (None, json!({ "status": "busy" })),
            (Answers::Schema, "unreadable") => (Some("success"), json!({ "status": "done" })),
            (_, "unreadable") => (None, json!({ "id": id })),
            (_, "success") => (Some(word), json!({ "id": id })),
            (_, "retry") => (Some(word), json!({ "error": "busy" })),
            (_, _) => (Some(word), json!({ "error": "declined" })),
        };
        let answer = Incoming {
            queue: Inbox::Replies,
            exchange: String::new(),
            routing_key: self.names.queue(Inbox::Replies),
            redelivered: false,
            properties: Properties {
                correlation_id: message.properties.correlation_id.clone(),
                headers: header.into_iter().map(|word| ("saga-outcome".to_owned(), word.into())).collect(),
                ..Properties::default()
            },
            body: sagad::store::encode(&body),
        };
        self.deliver(answer, chance, now);
    }

    /// A command comes back by the dead-letter exchange.
    pub(super) fn bury(&mut self, command: &Command, reason: &'static str, now: Time, chance: Chance) {
        let mut properties = command.message.properties.clone();
        properties.expiration = None;
        let time = Time(now.0 / 1000 * 1000).to_string();
        properties
            .headers
            .insert("x-death".into(), json!([{ "reason": reason, "queue": "q", "time": time, "count": 1 }]));
        // RabbitMQ says it seldom. Of a command that dies as if nobody had had it, nobody can know then: docs/guarantees.md.
        let counted = command.deliveries > 0 && chance.of("counted").permille(500);
        if counted {
            properties.headers.insert("x-delivery-count".into(), json!(command.deliveries));
        }
        let of_a_step = action_of(&command.message) == "execute";
        let looks_new = command.deliveries > 0 && !counted && matches!(reason, "expired" | "maxlen");
        let letter = Incoming {
            queue: Inbox::Dead,
            exchange: self.names.dead_exchange(),
            routing_key: command.message.routing_key.clone(),
            redelivered: false,
            properties,
            body: command.message.body.clone(),
        };
        self.checks.seen.insert(reason);
        let known = !self.buried.insert(id_of(&command.message).to_owned());
        if of_a_step && (known || looks_new) {
            // The second copy of two can't be told from the same death told twice, docs/guarantees.md.
            self.participants.unclear.insert(unit_of(&command.message));
        }
        self.note(now, || format!("{} is dead: {reason}", described(&command.message)));
        self.deliver(letter, chance.of("dead"), now);
    }
}

pub(super) fn id_of(message: &Outgoing) -> &str {
    message.properties.message_id.as_deref().unwrap_or_default()
}

fn key_of(message: &Outgoing) -> String {
    message.properties.header_str("idempotency-key").unwrap_or_default().to_owned()
}

/// A probe is a command of its own, with its own key, and asks about the execute.
pub(super) fn action_of(message: &Outgoing) -> &str {
    message.properties.header_str("saga-action").unwrap_or_default()
}

pub(crate) fn unit_of(message: &Outgoing) -> Unit {
    let header = |name: &str| message.properties.header_str(name).unwrap_or_default().to_owned();
    let item = message.properties.headers.get("saga-item").and_then(Value::as_u64);
    (header("saga-id"), header("saga-step"), item)
}

fn described(message: &Outgoing) -> String {
    let (saga, step, item) = unit_of(message);
    let attempt = message.properties.headers.get("saga-attempt").and_then(Value::as_u64).unwrap_or_default();
    let item = item.map_or(String::new(), |item| format!("[{item}]"));
    format!("{} {step}{item} {} {attempt}", &saga[saga.len().saturating_sub(6)..], action_of(message))
}
