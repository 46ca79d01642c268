//! What comes of an item, told: to whoever waits for it, and to the broker that its message is dealt with.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::Engine;
use super::family::refused_order;
use super::round::Outcome;
use crate::broker::message::{Delivery, Outgoing, Taken};
use crate::core::decide::ParentAnswer;
use crate::intake::{Item, Refusal, Settle};
use crate::store::{Store, StoreError};
use crate::wire::children;
use crate::wire::outgoing::start_answer;

/// How long a delivery waits for its answer to be delivered.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

/// Between attempts to give something back to the broker for a while.
const PUT_OFF_AGAIN: Duration = Duration::from_secs(1);

impl<S: Store> Engine<S> {
    /// Tells whoever waits for an item what came of it, and the broker that it is dealt with.
    pub(super) fn tell(&mut self, item: Item, outcome: Outcome) {
        if let Outcome::PutOff(copy) = outcome {
            return self.give_back(item.settle, *copy);
        }
        match (item.settle, outcome) {
            (Settle::Nobody, _) => {}
            (Settle::Published(row), _) => self.delete_later(row),
            (Settle::Delivery(delivery), _) => delivery.receipt.ack(),
            (Settle::Share(share), _) => share.done(),
            (Settle::Order { delivery, ticket, child }, outcome) => match refused_order(child, &outcome) {
                None => delivery.receipt.ack(),
                Some(answer) => {
                    let now = self.clock.now();
                    let answer = children::answer(&self.names, &self.signer, ParentAnswer { ticket, answer }, now);
                    self.answer_first(delivery, answer);
                }
            },
            (Settle::Started(told), Outcome::Start { result, .. }) => drop(told.send(result)),
            (Settle::Ordered(told), Outcome::Saga { result, .. }) => drop(told.send(result)),
            (Settle::StartDelivery { delivery, reply_to }, Outcome::Start { result, .. }) => {
                let body = match result {
                    Ok(started) => json!({ "saga_id": started.saga, "status": started.status.as_str() }),
                    Err(refusal) => json!({ "error": { "code": refusal.code(), "message": refusal.to_string() } }),
                };
                self.answer_start(delivery, reply_to, &body);
            }
            (Settle::StartDelivery { delivery, reply_to }, Outcome::Kept { reason }) => {
                let body = json!({ "error": { "code": "unreadable", "message": reason } });
                self.answer_start(delivery, reply_to, &body);
            }
            (Settle::StartDelivery { delivery, .. }, _) => delivery.receipt.ack(),
            (Settle::Started(_) | Settle::Ordered(_), _) => {}
        }
    }

    fn answer_start(&self, delivery: Delivery, reply_to: Option<(String, Option<String>)>, body: &serde_json::Value) {
        match reply_to {
            None => delivery.receipt.ack(),
            Some((queue, correlation_id)) => self.answer_first(delivery, start_answer(queue, correlation_id, body)),
        }
    }

    /// The answer first, then the acknowledgement: a crash in between starts nothing twice and answers again.
    fn answer_first(&self, delivery: Delivery, answer: Outgoing) {
        let outbox = self.outbox.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                // Taken, or refused for good: an answer that nobody can take must not come back for ever.
                _ = outbox.deliver(Arc::new(answer)) => delivery.receipt.ack(),
                // The delivery comes again, and is answered again.
                () = delivery.receipt.gone() => {}
                // Others wait behind it. Whoever asks again is answered.
                () = tokio::time::sleep(ANSWER_PATIENCE) => {
                    let queue = &delivery.message.properties.reply_to;
                    tracing::warn!(queue, "an answer can't be delivered, and is given up: its queue confirms nothing");
                    delivery.receipt.ack();
                }
            }
        });
    }

    /// The copy that comes back later first, then the acknowledgement, however long that takes: nothing else has the message. Unless its
    /// channel is gone: then it comes again.
    fn give_back(&self, settle: Settle, copy: Outgoing) {
        metrics::counter!(crate::metrics::PUT_OFF).increment(1);
        let (outbox, message) = (self.outbox.clone(), Arc::new(copy));
        tokio::spawn(async move {
            let copied = async {
                while outbox.deliver(Arc::clone(&message)).await == Taken::No {
                    let queue = &message.routing_key;
                    tracing::warn!(queue, "the broker does not take what is put off; it is tried again");
                    tokio::time::sleep(PUT_OFF_AGAIN).await;
                }
            };
            tokio::select! {
                biased;
                () = copied => {}
                () = settle.gone() => return,
            }
            settle.acknowledge();
        });
    }

    /// An item that the database will not take, whatever we do: whoever waits is told, and the broker keeps its message until
    /// somebody has looked at the log.
    pub(super) fn set_aside(&self, item: Item, error: &StoreError) {
        let busy = || Refusal::Busy(error.to_string());
        match item.settle {
            Settle::Started(told) => drop(told.send(Err(busy()))),
            Settle::Ordered(told) => drop(told.send(Err(busy()))),
            // The sweep finds its row, and what came back is published again.
            Settle::Published(row) => self.outbox.settled([row]),
            Settle::Nobody | Settle::Delivery(_) | Settle::Share(_) => {}
            Settle::StartDelivery { .. } | Settle::Order { .. } => {}
        }
    }
}
