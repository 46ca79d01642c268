//! A participant that does everything right but for one thing.

use std::collections::HashMap;

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicPublishOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

/// What it does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    Nothing,
    /// Says that it is still at it before each answer, and answers the first attempt with `retry`.
    Hesitates,
    NoCorrelationId,
    OwnCorrelationId,
    OwnReplyQueue,
    RejectsAll,
    NoJson,
    OwnOutcome,
    NotPersistent,
    /// Remembers nothing.
    NotIdempotent,
    /// Passes over a message that it has seen, without a word.
    SilentOnRedelivery,
    /// Takes any header for a command's own.
    StrictHeaders,
    /// Takes only what expires.
    StrictProperties,
    /// An undo that is not there fails.
    UndoMustFind,
    /// An undo that is not there closes its channel.
    UndoMustFindOrDie,
    /// An undo of what is undone fails.
    UndoOnce,
    /// Undoes by the reply.
    UndoNeedsReply,
    /// Forgets what it answered once that is undone.
    ForgetsUndone,
    /// Does what its undo overtook.
    NoTombstone,
    /// Does what its undo overtook, and does not undo it again.
    NoTombstoneNoUndo,
    /// Says nothing to what its undo overtook.
    SilentTombstone,
    /// Answers twice, the second time with a failure.
    ChangesItsMind,
    DiesOfUnreadable,
    RequeuesUnreadable,
    AcceptsUnreadable,
    /// Answers what it can't read with a failure.
    AnswersUnreadable,
}

/// Starts one on `queue`.
pub(super) async fn start(url: &str, queue: &str, flaw: Flaw) -> AbortOnDropHandle<()> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.expect("the broker is up");
    let mut participant = Participant {
        flaw,
        channel: connection.create_channel().await.expect("a channel"),
        answered: HashMap::new(),
        work: HashMap::new(),
        seen: Vec::new(),
        count: 0,
    };
    let queue = queue.to_owned();
    let consumer = participant.consume(&queue).await;
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut consumer = consumer;
        while let Some(delivery) = consumer.next().await {
            match participant.take(delivery.expect("delivered")).await {
                Life::GoesOn => {}
                Life::StartsAnew => {
                    // What it had in hand goes back to the queue.
                    participant.channel.close(200, "OK".into()).await.expect("closed");
                    participant.channel = connection.create_channel().await.expect("a channel");
                    consumer = participant.consume(&queue).await;
                }
                Life::Ends => return,
            }
        }
    }))
}

enum Life {
    GoesOn,
    StartsAnew,
    Ends,
}

struct Participant {
    flaw: Flaw,
    channel: Channel,
    /// By idempotency key.
    answered: HashMap<String, (&'static str, Value)>,
    /// By saga: whether it is undone.
    work: HashMap<String, bool>,
    seen: Vec<String>,
    count: u32,
}

impl Participant {
    async fn consume(&self, queue: &str) -> lapin::Consumer {
        self.channel.basic_qos(10, BasicQosOptions::default()).await.expect("a prefetch");
        let options = BasicConsumeOptions::default();
        self.channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await.expect("consumed")
    }

    async fn take(&mut self, delivery: Delivery) -> Life {
        let requeue =
            BasicNackOptions { requeue: self.flaw == Flaw::RequeuesUnreadable, ..BasicNackOptions::default() };
        let Ok(body) = serde_json::from_slice::<Value>(&delivery.data) else {
            match self.flaw {
                Flaw::DiesOfUnreadable => return Life::Ends,
                Flaw::AcceptsUnreadable => self.answer(&delivery, "success", b"{}").await,
                Flaw::AnswersUnreadable => self.answer(&delivery, "failure", br#"{"error":"no JSON"}"#).await,
                _ => return reject(&delivery, requeue).await,
            }
            return ack(&delivery).await;
        };
        let undo = delivery.routing_key.as_str() == "payment.refund";
        let (saga, key) = (header(&delivery, "saga-id"), header(&delivery, "idempotency-key"));
        let id = delivery.properties.message_id().as_ref().expect("an id").to_string();
        let known = delivery.properties.headers().as_ref().expect("headers").inner().keys().all(|name| {
            ["saga-", "idempotency-key", "traceparent"].iter().any(|known| name.as_str().starts_with(known))
        });
        let refused = match self.flaw {
            Flaw::RejectsAll => true,
            Flaw::StrictHeaders => !known,
            Flaw::StrictProperties => delivery.properties.expiration().is_none(),
            _ => false,
        };
        if refused {
            return reject(&delivery, requeue).await;
        }
        if self.flaw == Flaw::SilentOnRedelivery && self.seen.contains(&id) {
            return ack(&delivery).await;
        }
        if self.flaw == Flaw::UndoMustFindOrDie && undo && !self.work.contains_key(&saga) {
            return Life::StartsAnew;
        }
        if self.flaw == Flaw::SilentTombstone && !undo && self.work.get(&saga) == Some(&true) {
            return ack(&delivery).await;
        }
        if self.flaw == Flaw::Hesitates {
            self.answer(&delivery, "pending", b"").await;
            if !self.seen.iter().any(|seen| seen.starts_with(&key)) {
                self.seen.push(key);
                self.answer(&delivery, "retry", br#"{"error":"busy"}"#).await;
                return ack(&delivery).await;
            }
        }
        self.seen.push(id);
        let (outcome, reply) = match self.answered.get(&key) {
            Some(answered) if self.flaw != Flaw::NotIdempotent => answered.clone(),
            _ => {
                let answer = if undo { self.undo(&saga, &body) } else { self.execute(&saga) };
                self.answered.insert(key, answer.clone());
                answer
            }
        };
        if undo && self.flaw == Flaw::ForgetsUndone {
            self.answered.retain(|key, _| !key.starts_with(&saga));
            self.work.remove(&saga);
        }
        let body = if self.flaw == Flaw::NoJson { "done".to_owned() } else { reply.to_string() };
        self.answer(&delivery, outcome, body.as_bytes()).await;
        if self.flaw == Flaw::ChangesItsMind && !undo {
            self.answer(&delivery, "failure", br#"{"error":"rather not"}"#).await;
        }
        ack(&delivery).await
    }

    fn execute(&mut self, saga: &str) -> (&'static str, Value) {
        let tombstone = self.work.get(saga) == Some(&true);
        if tombstone && !matches!(self.flaw, Flaw::NoTombstone | Flaw::NoTombstoneNoUndo | Flaw::NotIdempotent) {
            return ("failure", json!({ "error": "undone" }));
        }
        self.work.insert(saga.to_owned(), false);
        self.count += 1;
        ("success", json!({ "payment_id": self.count }))
    }

    fn undo(&mut self, saga: &str, body: &Value) -> (&'static str, Value) {
        let before = self.work.insert(saga.to_owned(), true);
        let refuses = match self.flaw {
            Flaw::UndoMustFind => before.is_none(),
            Flaw::UndoOnce => before == Some(true),
            Flaw::UndoNeedsReply => body["reply"].is_null(),
            // It remembers to have undone this saga, and not that it has done it since.
            Flaw::NoTombstoneNoUndo => before == Some(false) && !body["reply"].is_null() && self.seen_undone(saga),
            _ => false,
        };
        if refuses { ("failure", json!({ "error": "no such payment" })) } else { ("success", json!({})) }
    }

    fn seen_undone(&self, saga: &str) -> bool {
        self.answered.keys().any(|key| key.starts_with(saga) && key.contains("/compensate"))
    }

    async fn answer(&self, command: &Delivery, outcome: &str, body: &[u8]) {
        let outcome = if self.flaw == Flaw::OwnOutcome { "ok" } else { outcome };
        let mut headers = FieldTable::default();
        headers.insert("saga-outcome".into(), AMQPValue::LongString(outcome.into()));
        let mut properties = BasicProperties::default().with_headers(headers);
        properties = match self.flaw {
            Flaw::NoCorrelationId => properties,
            Flaw::OwnCorrelationId => properties.with_correlation_id("payment-1".into()),
            _ => properties.with_correlation_id(command.properties.correlation_id().clone().expect("one")),
        };
        if self.flaw != Flaw::NotPersistent {
            properties = properties.with_delivery_mode(2);
        }
        let reply_to = match self.flaw {
            Flaw::OwnReplyQueue => "payments.replies".into(),
            _ => command.properties.reply_to().clone().expect("an address"),
        };
        let published =
            self.channel.basic_publish("".into(), reply_to, BasicPublishOptions::default(), body, properties);
        published.await.expect("sent");
    }
}

async fn ack(delivery: &Delivery) -> Life {
    delivery.acker.ack(BasicAckOptions::default()).await.expect("acknowledged");
    Life::GoesOn
}

async fn reject(delivery: &Delivery, options: BasicNackOptions) -> Life {
    delivery.acker.nack(options).await.expect("rejected");
    Life::GoesOn
}

fn header(delivery: &Delivery, name: &str) -> String {
    match delivery.properties.headers().as_ref().and_then(|headers| headers.inner().get(name)) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        other => panic!("{name} is {other:?}"),
    }
}
