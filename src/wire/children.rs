//! What sagas and their child sagas say to each other, over queues of sagad's own.
//!
//! An order carries the signed ticket of the step that gives it as its correlation id, as every command does: nobody but sagad can give one
//! in a saga's name. The child answers under it, like any participant.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::header;
use super::incoming::{Unplaceable, unplaceable};
use super::outgoing::to_queue;
use super::signature::Signer;
use crate::broker::message::{Inbox, Incoming, Outgoing};
use crate::broker::names::Names;
use crate::core::answer::Outcome;
use crate::core::decide::{Ask, ChildOrder, ParentAnswer};
use crate::core::id::SagaId;
use crate::core::time::Time;
use crate::store::encode;

/// An order in its message.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    child: SagaId,
    ask: WrittenAsk,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum WrittenAsk {
    Start {
        definition: String,
        input: Value,
        step: String,
        depth: u32,
        priority: u8,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trace: Option<String>,
    },
    Undo {},
}

/// The message of an order.
pub fn order(names: &Names, signer: &Signer, order: ChildOrder, now: Time) -> Outgoing {
    let ask = match order.ask {
        Ask::Start { definition, input, step, depth, priority, trace } => WrittenAsk::Start {
            definition: definition.to_string(),
            input,
            step: step.to_string(),
            depth,
            priority,
            trace,
        },
        Ask::Undo => WrittenAsk::Undo {},
    };
    let id = signer.sign(order.ticket);
    let body = encode(&Written { child: order.child, ask });
    let mut message = to_queue(names.queue(Inbox::Children), Some(id.clone()), body);
    message.mandatory = true;
    message.properties.message_id = Some(id);
    message.properties.timestamp = Some(now);
    message.properties.reply_to = Some(names.queue(Inbox::Replies));
    message
}

/// The message of an answer.
pub fn answer(names: &Names, signer: &Signer, answer: ParentAnswer, now: Time) -> Outgoing {
    let ParentAnswer { ticket, answer } = answer;
    let body = encode(&answer.body);
    let mut message = to_queue(names.queue(Inbox::Replies), Some(signer.sign(ticket)), body);
    // Without its queue it must not be lost.
    message.mandatory = true;
    message.properties.timestamp = Some(now);
    let outcome = answer.outcome.map(Outcome::as_str);
    message.properties.headers.extend(outcome.map(|word| (header::SAGA_OUTCOME.to_owned(), word.into())));
    message
}

/// Reads an order.
///
/// # Errors
/// It is none of sagad's.
pub(super) fn read(signer: &Signer, message: &Incoming) -> Result<ChildOrder, Unplaceable> {
    let Some(ticket) = message.properties.correlation_id.as_deref().and_then(|id| signer.read(id)) else {
        return unplaceable("not_an_order", "this queue is for sagad's own orders to child sagas, and this is none");
    };
    let written: Written = match serde_json::from_slice(&message.body) {
        Ok(written) => written,
        Err(error) => return unplaceable("not_an_order", format!("the order to a child saga can't be read: {error}")),
    };
    let ask = match written.ask {
        WrittenAsk::Start { definition, input, step, depth, priority, trace } => {
            Ask::Start { definition: Arc::from(definition), input, step: Arc::from(step), depth, priority, trace }
        }
        WrittenAsk::Undo {} => Ask::Undo,
    };
    Ok(ChildOrder { ticket, child: written.child, ask })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::core::answer::RawAnswer;
    use crate::core::id::{Action, Spot, Ticket};

    fn ticket() -> Ticket {
        let spot = Spot { step: 3, item: Some(17) };
        Ticket { saga: SagaId(Uuid::from_u128(7)), spot, action: Action::Execute, attempt: 2 }
    }

    fn delivered(message: Outgoing) -> Incoming {
        Incoming {
            queue: Inbox::Children,
            exchange: message.exchange,
            routing_key: message.routing_key,
            redelivered: false,
            properties: message.properties,
            body: message.body,
        }
    }

    #[test]
    fn an_order_arrives_as_it_was_given() {
        let (names, signer) = (Names::new("shop"), Signer::new(&[7; 32]));
        let start = Ask::Start {
            definition: "shipment".into(),
            input: json!({ "order": 12345678901234567890123u128.to_string(), "lines": [1.5, null] }),
            step: "ship".into(),
            depth: 3,
            priority: 9,
            trace: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
        };
        for ask in [start, Ask::Undo] {
            let given = ChildOrder { ticket: ticket(), child: SagaId(Uuid::from_u128(9)), ask };
            let message = order(&names, &signer, given.clone(), Time(0));
            assert_eq!((message.exchange.as_str(), message.routing_key.as_str()), ("", "shop.children"));
            assert!(message.mandatory);
            assert_eq!(read(&signer, &delivered(message)).expect("an order"), given);
        }
    }

    #[test]
    fn nobody_else_can_give_one() {
        let (names, signer) = (Names::new("shop"), Signer::new(&[7; 32]));
        let given = ChildOrder { ticket: ticket(), child: SagaId(Uuid::from_u128(9)), ask: Ask::Undo };
        let forged = order(&names, &Signer::new(&[8; 32]), given.clone(), Time(0));
        assert_eq!(read(&signer, &delivered(forged)).expect_err("forged").class, "not_an_order");
        let mut unreadable = order(&names, &signer, given, Time(0));
        unreadable.body = bytes::Bytes::from_static(b"{}");
        assert_eq!(read(&signer, &delivered(unreadable)).expect_err("unreadable").class, "not_an_order");
    }

    #[test]
    fn an_answer_is_one_of_a_participant() {
        let (names, signer) = (Names::new("shop"), Signer::new(&[7; 32]));
        let given = RawAnswer::new(Some(Outcome::Failure), json!({ "error": "no" }));
        let message = answer(&names, &signer, ParentAnswer { ticket: ticket(), answer: given }, Time(0));
        assert_eq!(message.routing_key, "shop.replies");
        assert_eq!(message.properties.header_str(header::SAGA_OUTCOME), Some("failure"));
        assert_eq!(message.properties.correlation_id.as_deref().and_then(|id| signer.read(id)), Some(ticket()));
        assert_eq!(message.properties.message_id, None, "it is no command: one that comes back is not undelivered");
    }
}
