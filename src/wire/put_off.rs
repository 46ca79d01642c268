//! What comes too early: given back to the broker for a while by way of a delay queue, and then read as what it was.
//!
//! ```text
//!   sagad.heard ─> no such saga yet ─> sagad.delay.800 ─> sagad.wakeups ─> the event again ─> sagad.delay.6400 ─> …
//! ```
//!
//! The copy says in its headers where it came from, how often it was put off, and for whom alone it still is: what came of it for others
//! must not come of it twice.

use std::time::Duration;

use serde_json::{Map, Value};

use super::header;
use super::incoming::origin;
use crate::broker::message::{Inbox, Incoming, Outgoing};
use crate::broker::names::Names;

/// The first time; each following is eight times as long. Each is a delay queue's own, so that one queue is enough.
const FIRST: Duration = Duration::from_millis(800);
const FACTOR: u32 = 8;

/// Bytes that its properties may have: half a frame, as RabbitMQ has them.
const MOST_HEADERS: usize = 64 << 10;

/// For whom alone a message is that was put off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addressee {
    /// The definition's name.
    pub definition: String,
    /// The business key of its saga; `None`: it is to start one.
    pub key: Option<String>,
}

/// The message that comes back in a while; `None` once it was put off so many `times`.
pub fn put_off(names: &Names, message: &Incoming, to: &Addressee, times: u32) -> Option<Outgoing> {
    let before = before(&message.properties.headers);
    if before >= times {
        return None;
    }
    let queue = names.delay_queue(FIRST * FACTOR.saturating_pow(before))?;
    let came_from = origin(message);
    let mut properties = message.properties.clone();
    forget_deaths(&mut properties.headers);
    let mut set = |name: &str, value: Value| properties.headers.insert(name.to_owned(), value);
    set(header::EVENT_EXCHANGE, came_from.exchange.into());
    set(header::EVENT_ROUTING_KEY, came_from.routing_key.into());
    set(header::PUT_OFF, (before + 1).into());
    set(header::PUT_OFF_FROM, message.queue.as_str().into());
    set(header::PUT_OFF_FOR, to.definition.as_str().into());
    to.key.iter().for_each(|key| drop(set(header::PUT_OFF_KEY, key.as_str().into())));
    // What does not fit into a frame could never be handed over.
    if crate::store::encode(&properties).len() > MOST_HEADERS {
        return None;
    }
    // The broker closes the channel on a `user_id` that is not the one we are connected as.
    properties.user_id = None;
    properties.expiration = None;
    properties.delivery_mode = Some(super::outgoing::PERSISTENT);
    // Without its queue it must not be lost.
    Some(Outgoing {
        exchange: String::new(),
        routing_key: queue,
        mandatory: true,
        properties,
        body: message.body.clone(),
    })
}

/// A message as it was before it was put off; any other as it is.
pub fn restored(mut message: Incoming) -> Incoming {
    let headers = &mut message.properties.headers;
    let word = |name: &str| headers.get(name).and_then(Value::as_str).map(str::to_owned);
    if message.queue == Inbox::WakeUps
        && let Some(from) = word(header::PUT_OFF_FROM)
        && let Some(queue) = Inbox::ALL.into_iter().find(|inbox| inbox.as_str() == from)
        && let (Some(exchange), Some(routing_key)) = (word(header::EVENT_EXCHANGE), word(header::EVENT_ROUTING_KEY))
    {
        forget_deaths(headers);
        message = Incoming { queue, exchange, routing_key, ..message };
    }
    message
}

/// For whom alone a message is, if it was put off.
pub fn addressee(message: &Incoming) -> Option<Addressee> {
    let word = |name| message.properties.header_str(name).map(str::to_owned);
    Some(Addressee { definition: word(header::PUT_OFF_FOR)?, key: word(header::PUT_OFF_KEY) })
}

/// It may be put off anew, for those whom it is for.
pub(super) fn forget(headers: &mut Map<String, Value>) {
    headers.remove(header::PUT_OFF);
    headers.remove(header::PUT_OFF_FROM);
}

fn before(headers: &Map<String, Value>) -> u32 {
    let times = headers.get(header::PUT_OFF).and_then(Value::as_u64).unwrap_or(0);
    u32::try_from(times).unwrap_or(u32::MAX)
}

/// That it waited in a delay queue is nobody's business, and what RabbitMQ remembers it adds up.
fn forget_deaths(headers: &mut Map<String, Value>) {
    let of_death = |name: &str| ["x-death", "x-first-death-", "x-last-death-"].iter().any(|it| name.starts_with(it));
    headers.retain(|name, _| !of_death(name) && name != header::X_DELIVERY_COUNT);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::broker::message::Properties;
    use crate::wire::incoming::replay;

    fn event() -> Incoming {
        let headers = json!({ "tenant": "t-1", "x-death": [{ "queue": "upstream" }] });
        Incoming {
            queue: Inbox::Events,
            exchange: "shop".into(),
            routing_key: "order.paid".into(),
            redelivered: true,
            properties: Properties {
                message_id: Some("e-1".into()),
                user_id: Some("shop".into()),
                expiration: Some("5".into()),
                headers: headers.as_object().expect("an object").clone(),
                ..Properties::default()
            },
            body: bytes::Bytes::from_static(b"{}"),
        }
    }

    fn delivered(message: Outgoing) -> Incoming {
        let mut properties = message.properties;
        properties.headers.insert("x-death".into(), json!([{ "queue": message.routing_key, "reason": "expired" }]));
        Incoming {
            queue: Inbox::WakeUps,
            exchange: String::new(),
            routing_key: "sagad.wakeups".into(),
            redelivered: false,
            properties,
            body: message.body,
        }
    }

    #[test]
    fn what_is_put_off_comes_back_as_what_it_was_and_so_often_only() {
        let names = Names::new("sagad");
        let to = Addressee { definition: "pay".into(), key: Some("A-1".into()) };
        let mut message = event();
        for queue in ["sagad.delay.800", "sagad.delay.6400"] {
            let copy = put_off(&names, &message, &to, 2).expect("again");
            assert_eq!((copy.exchange.as_str(), copy.routing_key.as_str(), copy.mandatory), ("", queue, true));
            assert_eq!((&copy.properties.user_id, &copy.properties.expiration), (&None, &None));
            message = restored(delivered(copy));
            assert_eq!((message.queue, message.exchange.as_str()), (Inbox::Events, "shop"));
            assert_eq!((message.routing_key.as_str(), &message.body), ("order.paid", &event().body));
            assert_eq!(message.properties.message_id.as_deref(), Some("e-1"));
            assert_eq!(message.properties.headers.get("tenant"), Some(&json!("t-1")));
            assert_eq!(message.properties.headers.get("x-death"), None);
            assert_eq!(addressee(&message).as_ref(), Some(&to));
        }
        assert_eq!(put_off(&names, &message, &to, 2), None);
        assert!(put_off(&names, &message, &to, 4).is_some_and(|copy| copy.routing_key == "sagad.delay.51200"));
        // Handed in by a person, it is as patient as at first, and still for the same saga alone.
        let again = Incoming { queue: Inbox::Events, ..delivered(replay(&names, message)) };
        assert_eq!(addressee(&again), Some(to.clone()));
        let copy = put_off(&names, &again, &to, 2).expect("again");
        assert_eq!(copy.routing_key, "sagad.delay.800");
        assert_eq!(copy.properties.headers.get(header::EVENT_EXCHANGE), Some(&json!("shop")));
    }

    #[test]
    fn wake_ups_and_what_others_write_in_headers_are_as_they_are() {
        let mut wake_up = Incoming { queue: Inbox::WakeUps, ..event() };
        assert_eq!(restored(wake_up.clone()), wake_up);
        wake_up.properties.headers.insert(header::PUT_OFF_FROM.into(), json!("nowhere"));
        assert_eq!(restored(wake_up.clone()), wake_up);
        let mut event = event();
        event.properties.headers.insert(header::PUT_OFF_FROM.into(), json!("signals"));
        assert_eq!(restored(event.clone()), event, "it did not come back to us");
    }
}
