//! What comes: answers, starts, signals, events, orders to child sagas, dead letters, wake-ups.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::broker::message::{Inbox, Incoming, Outgoing, Properties};
use crate::broker::names::Names;
use crate::core::answer::{Outcome, RawAnswer};
use crate::core::decide::ChildOrder;
use crate::core::id::{SagaId, Ticket};
use crate::core::input::Input;
use crate::core::saga::Reason;
use crate::core::time::Time;
use crate::intake::Start;
use crate::json;
use crate::subscriptions::Event;
use crate::wire::outgoing::trace_of;
use crate::wire::signature::Signer;
use crate::wire::{children, header, put_off};

/// What a message means.
#[derive(Debug)]
pub enum Meaning {
    /// Something happened to a saga.
    Saga(SagaId, Input),
    /// A saga is to begin; its answer goes to this queue, under this correlation id.
    Start(Start, Option<(String, Option<String>)>),
    /// A signal for a saga.
    Signal(Signal),
    /// Another service's event, for whomever it concerns.
    Event(Event),
    /// A saga wants something of its child.
    Order(ChildOrder),
}

/// A signal.
#[derive(Clone, Debug, PartialEq)]
pub struct Signal {
    /// For which saga.
    pub to: Target,
    /// Its name.
    pub name: String,
    /// Tells it from others of its name: the same one may come twice.
    pub id: Option<String>,
    /// What it says.
    pub payload: Value,
}

/// How a signal says for which saga it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// By its id.
    Id(SagaId),
    /// By its definition and its business key.
    Key(String, String),
}

/// Why a message can't be read or placed.
#[derive(Debug, PartialEq, Eq)]
pub struct Unplaceable {
    /// A word for metrics.
    pub class: &'static str,
    /// For a person.
    pub reason: String,
}

pub(super) fn unplaceable<T>(class: &'static str, reason: impl Into<String>) -> Result<T, Unplaceable> {
    Err(Unplaceable { class, reason: reason.into() })
}

/// Reads a message from one of sagad's queues.
///
/// # Errors
/// It is not JSON, too large, belongs to nothing that sagad sent, or is otherwise not what its queue is for.
///
/// `id` is for the saga, should the message start one.
pub fn read(signer: &Signer, message: &Incoming, max_message: usize, id: SagaId) -> Result<Meaning, Unplaceable> {
    match message.queue {
        Inbox::Replies => answer(signer, message, max_message),
        Inbox::Starts => start(message, max_message, id),
        Inbox::Dead => dead(signer, message),
        Inbox::WakeUps => wake_up(message),
        Inbox::Signals => signal(message, max_message),
        Inbox::Events => event(message, max_message),
        Inbox::Children => children::read(signer, message).map(Meaning::Order),
    }
}

/// Whether a message that can't be placed was meant as a start, and who is to be told that it failed.
pub fn asks_for_answer(message: &Incoming) -> Option<(String, Option<String>)> {
    let asked = (message.queue == Inbox::Starts).then(|| reply_address(&message.properties));
    asked.flatten()
}

fn answer(signer: &Signer, message: &Incoming, max_message: usize) -> Result<Meaning, Unplaceable> {
    let properties = &message.properties;
    let Some(id) = &properties.correlation_id else {
        return unplaceable("no_correlation_id", "an answer must echo the command's correlation_id, this has none");
    };
    let Some(Ticket { saga, spot, action, attempt }) = signer.read(id) else {
        return unplaceable("unknown_correlation_id", format!("no command of sagad's has the correlation_id {id:?}"));
    };
    let outcome = match properties.headers.get(header::SAGA_OUTCOME) {
        None => None,
        Some(word) => match word.as_str().and_then(Outcome::parse) {
            Some(outcome) => Some(outcome),
            None => {
                let expected = "success, failure, retry or pending";
                return unplaceable("unknown_outcome", format!("the header saga-outcome is {word}, not {expected}"));
            }
        },
    };
    let body = body(message, max_message)?;
    let answer = RawAnswer { outcome, body, headers: Value::Object(properties.headers.clone()) };
    Ok(Meaning::Saga(saga, Input::Answer { spot, action, attempt, answer }))
}

fn start(message: &Incoming, max_message: usize, id: SagaId) -> Result<Meaning, Unplaceable> {
    let properties = &message.properties;
    let input = body(message, max_message)?;
    let idempotency_key = idempotency_key(properties)?;
    let start = Start {
        id,
        definition: message.routing_key.clone(),
        input: Arc::new(input),
        priority: None,
        delay: Duration::ZERO,
        idempotency_key,
        trace: trace(properties),
        actor: "amqp".to_owned(),
        parent: None,
    };
    Ok(Meaning::Start(start, reply_address(properties)))
}

fn signal(message: &Incoming, max_message: usize) -> Result<Meaning, Unplaceable> {
    let properties = &message.properties;
    let text = |name: &str| match properties.headers.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        // A key may be a number where it is made, and so it may here.
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(other) => unplaceable("no_target", format!("the header {name} must be a string, it is {other}")),
    };
    let to = match (text(header::SAGA_ID)?, text(header::SAGA_NAME)?, text(header::SAGA_KEY)?) {
        (Some(id), _, _) => match Uuid::try_parse(&id) {
            Ok(id) => Target::Id(SagaId(id)),
            Err(_) => return unplaceable("no_target", format!("the header saga-id is {id:?}, which is no saga's id")),
        },
        (None, Some(name), Some(key)) => Target::Key(name, key),
        (None, ..) => {
            let needs = "a signal needs the header saga-id, or both saga-name and saga-key";
            return unplaceable("no_target", format!("{needs}: nobody can tell which saga this one is for"));
        }
    };
    let (name, id) = (message.routing_key.clone(), idempotency_key(properties)?);
    Ok(Meaning::Signal(Signal { to, name, id, payload: body(message, max_message)? }))
}

fn event(message: &Incoming, max_message: usize) -> Result<Meaning, Unplaceable> {
    let properties = &message.properties;
    let Origin { exchange, routing_key } = origin(message);
    Ok(Meaning::Event(Event {
        exchange: exchange.to_owned(),
        routing_key: routing_key.to_owned(),
        id: idempotency_key(properties)?,
        trace: trace(properties),
        body: Arc::new(body(message, max_message)?),
        headers: Arc::new(Value::Object(properties.headers.clone())),
    }))
}

/// Where a message was published.
pub(super) struct Origin<'a> {
    pub(super) exchange: &'a str,
    pub(super) routing_key: &'a str,
}

/// One that was handed in again came by sagad's own queue.
pub(super) fn origin(message: &Incoming) -> Origin<'_> {
    let header = |name| message.properties.header_str(name);
    if let (Some(exchange), Some(routing_key)) = (header(header::EVENT_EXCHANGE), header(header::EVENT_ROUTING_KEY)) {
        return Origin { exchange, routing_key };
    }
    Origin { exchange: &message.exchange, routing_key: &message.routing_key }
}

/// The message that hands in a dead letter again: where it came from. An event goes to sagad alone: everyone else who listens to
/// its exchange has had it.
pub fn replay(names: &Names, letter: Incoming) -> Outgoing {
    let Origin { exchange, routing_key } = origin(&letter);
    let came_from = [(header::EVENT_EXCHANGE, exchange.into()), (header::EVENT_ROUTING_KEY, routing_key.into())]
        .map(|(name, value): (&str, Value)| (name.to_owned(), value));
    let Incoming { queue, exchange, routing_key, mut properties, body, .. } = letter;
    // The broker closes the channel on a `user_id` that is not the one we are connected as.
    properties.user_id = None;
    put_off::forget(&mut properties.headers);
    let (exchange, routing_key) = match queue {
        Inbox::Events => {
            properties.headers.extend(came_from);
            (String::new(), names.queue(queue))
        }
        _ => (exchange, routing_key),
    };
    Outgoing { exchange, routing_key, mandatory: true, properties, body }
}

fn trace(properties: &Properties) -> Option<String> {
    properties.header_str(header::TRACEPARENT).filter(|text| trace_of(text).is_some()).map(str::to_owned)
}

/// The header's, else the message's id. A key that can't be told from others must not be taken for none.
fn idempotency_key(properties: &Properties) -> Result<Option<String>, Unplaceable> {
    let key = match properties.headers.get(header::IDEMPOTENCY_KEY) {
        None | Some(Value::Null) => properties.message_id.clone(),
        Some(Value::String(key)) => Some(key.clone()),
        Some(Value::Number(key)) => Some(key.to_string()),
        Some(other) => {
            return unplaceable("unknown_key", format!("the header idempotency-key must be a string, it is {other}"));
        }
    };
    Ok(key.filter(|key| !key.is_empty()))
}

fn reply_address(properties: &Properties) -> Option<(String, Option<String>)> {
    let reply_to = properties.reply_to.clone().filter(|queue| !queue.is_empty())?;
    // Whoever gave no correlation id knows the answer by the id of his message.
    Some((reply_to, properties.correlation_id.clone().or_else(|| properties.message_id.clone())))
}

fn dead(signer: &Signer, message: &Incoming) -> Result<Meaning, Unplaceable> {
    let properties = &message.properties;
    let death = properties.headers.get(header::X_DEATH).and_then(|deaths| deaths.get(0));
    let word = |name: &str| death.and_then(|death| death.get(name)).and_then(Value::as_str);
    let (queue, cause) = (word("queue").unwrap_or("an unknown queue"), word("reason"));
    let Some(Ticket { saga, spot, action, attempt }) = properties.message_id.as_deref().and_then(|id| signer.read(id))
    else {
        let cause = cause.unwrap_or("no reason");
        return unplaceable(
            "not_a_command",
            format!("dead-lettered from {queue} ({cause}), and no command of sagad's"),
        );
    };
    let reason = match cause {
        Some("rejected") => Reason::Rejected,
        Some("expired") => Reason::Expired,
        Some("delivery_limit") => Reason::DeliveryLimit,
        Some("maxlen") => Reason::MaxLength,
        other => {
            let other = other.unwrap_or("no reason at all");
            return unplaceable(
                "unknown_death",
                format!("dead-lettered from {queue} for a reason unknown to sagad: {other}"),
            );
        }
    };
    let text = match reason {
        Reason::Rejected => format!("rejected by the consumer of queue {queue}"),
        Reason::Expired => format!("nobody took it from queue {queue} in time"),
        Reason::DeliveryLimit => format!("delivered too often from queue {queue}"),
        _ => format!("queue {queue} is full"),
    };
    // RabbitMQ keeps no record of deliveries that outlives the dead-lettering, at least up to 3.10. But a command that nobody ever had
    // does not outlive its attempt: it was in somebody's hands, and was given back.
    let counted = properties.headers.get(header::X_DELIVERY_COUNT).and_then(Value::as_u64).unwrap_or(0) > 0;
    let time = |value: Option<&Value>| value.and_then(Value::as_str).and_then(|text| Time::parse(text).ok());
    let died = time(death.and_then(|death| death.get("time")));
    let deadline = time(properties.headers.get(header::SAGA_DEADLINE));
    let outlived = reason == Reason::Expired && died.zip(deadline).is_some_and(|(died, deadline)| died > deadline);
    let (delivered_before, resent) = (counted || outlived, was_resent(properties));
    Ok(Meaning::Saga(
        saga,
        Input::Undelivered { spot, action, attempt, reason, message: text, delivered_before, resent },
    ))
}

fn wake_up(message: &Incoming) -> Result<Meaning, Unplaceable> {
    #[derive(Deserialize)]
    struct WakeUp {
        saga: SagaId,
    }
    match serde_json::from_slice::<WakeUp>(&message.body) {
        Ok(wake_up) => Ok(Meaning::Saga(wake_up.saga, Input::Tick)),
        Err(error) => unplaceable("not_a_wake_up", format!("this queue is for sagad's own wake-ups: {error}")),
    }
}

/// The body as JSON; an empty one is null, as an RPC worker without a result sends it.
fn body(message: &Incoming, max_message: usize) -> Result<Value, Unplaceable> {
    let body = &message.body;
    if body.len() > max_message {
        let (size, key) = (body.len(), "broker.max_message");
        return unplaceable("too_large", format!("the body has {size} bytes, {key} allows {max_message}"));
    }
    if let Some(encoding) = message.properties.content_encoding.as_deref()
        && !matches!(encoding.to_ascii_lowercase().as_str(), "" | "utf-8" | "utf8" | "identity")
    {
        return unplaceable("not_json", format!("the body is encoded as {encoding:?}, sagad reads plain UTF-8 JSON"));
    }
    if body.is_empty() {
        return Ok(Value::Null);
    }
    match json::read(body) {
        Ok(value) => Ok(value),
        Err(error) => unplaceable("not_json", format!("the body can't be read as JSON: {error}")),
    }
}

/// What a confirmed message tells its saga: that the event of a `publish` step is out. `None` for all others.
pub fn confirmed(signer: &Signer, message: &Outgoing) -> Option<(SagaId, Input)> {
    // Commands have the ids of their attempts too, but somebody else answers them. Lifecycle events have ids of another form.
    let id = message.properties.message_id.as_deref().filter(|_| !message.mandatory)?;
    let Ticket { saga, spot, action, attempt } = signer.read(id)?;
    let answer = RawAnswer::new(Some(Outcome::Success), Value::Null);
    Some((saga, Input::Answer { spot, action, attempt, answer }))
}

/// Whether the broker may have had it twice: of a copy that nobody took follows nothing for the other.
fn was_resent(properties: &Properties) -> bool {
    properties.headers.get(header::SAGA_RESENT) == Some(&Value::Bool(true))
}

/// What a returned or refused command tells its saga; `None` for messages that are no commands.
pub fn undelivered(
    signer: &Signer,
    properties: &Properties,
    reason: Reason,
    message: String,
) -> Option<(SagaId, Input)> {
    let Ticket { saga, spot, action, attempt } = signer.read(properties.message_id.as_deref()?)?;
    let resent = was_resent(properties);
    Some((saga, Input::Undelivered { spot, action, attempt, reason, message, delivered_before: false, resent }))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::core::id::Action;

    fn incoming(queue: Inbox, headers: Value) -> Incoming {
        let Value::Object(headers) = headers else { panic!("headers are a table") };
        Incoming {
            queue,
            exchange: String::new(),
            routing_key: "order".into(),
            redelivered: false,
            properties: Properties { message_id: Some("m-1".into()), headers, ..Properties::default() },
            body: Bytes::from_static(b"{}"),
        }
    }

    fn key_of(header: Value) -> Result<Option<String>, &'static str> {
        let message = incoming(Inbox::Starts, json!({ "idempotency-key": header }));
        match read(&Signer::new(&[7; 32]), &message, 100, SagaId(Uuid::nil())) {
            Ok(Meaning::Start(start, _)) => Ok(start.idempotency_key),
            Ok(other) => panic!("not a start: {other:?}"),
            Err(unplaceable) => Err(unplaceable.class),
        }
    }

    #[test]
    fn a_start_is_known_by_its_header_or_its_message_id() {
        assert_eq!(key_of(json!("k")), Ok(Some("k".into())));
        assert_eq!(key_of(json!(7)), Ok(Some("7".into())), "a number is a key as well");
        assert_eq!(key_of(Value::Null), Ok(Some("m-1".into())));
        assert_eq!(key_of(json!(["k"])), Err("unknown_key"), "rather none than a second saga");
    }

    #[test]
    fn a_signal_says_for_which_saga_it_is() {
        let target = |headers: Value| match read(
            &Signer::new(&[7; 32]),
            &incoming(Inbox::Signals, headers),
            100,
            SagaId(Uuid::nil()),
        ) {
            Ok(Meaning::Signal(signal)) => {
                assert_eq!((signal.name.as_str(), signal.id.as_deref()), ("order", Some("m-1")));
                Ok(signal.to)
            }
            Ok(other) => panic!("not a signal: {other:?}"),
            Err(unplaceable) => Err(unplaceable.class),
        };
        let id = Uuid::from_u128(7);
        let key = |key: &str| Ok(Target::Key("pay".into(), key.into()));
        assert_eq!(target(json!({ "saga-id": id.to_string() })), Ok(Target::Id(SagaId(id))));
        assert_eq!(target(json!({ "saga-name": "pay", "saga-key": "A-1" })), key("A-1"));
        assert_eq!(target(json!({ "saga-name": "pay", "saga-key": 7 })), key("7"));
        for nobody in [
            json!({}),
            json!({ "saga-key": "A-1" }),
            json!({ "saga-id": "A-1", "saga-name": "pay", "saga-key": "A-1" }),
            json!({ "saga-id": [id.to_string()] }),
        ] {
            assert_eq!(target(nobody.clone()), Err("no_target"), "{nobody}");
        }
    }

    #[test]
    fn an_event_handed_in_again_comes_to_sagad_alone_and_is_the_same_event() {
        let event_of = |message: &Incoming| match read(&Signer::new(&[7; 32]), message, 100, SagaId(Uuid::nil())) {
            Ok(Meaning::Event(event)) => (event.exchange, event.routing_key, event.id),
            other => panic!("not an event: {other:?}"),
        };
        let mut message = incoming(Inbox::Events, json!({}));
        message.exchange = "shop".into();
        let first = event_of(&message);
        assert_eq!(first, ("shop".into(), "order".into(), Some("m-1".into())));
        for _ in 0..2 {
            let again = replay(&Names::new("sagad"), message);
            assert_eq!((again.exchange.as_str(), again.routing_key.as_str()), ("", "sagad.heard"));
            message = incoming(Inbox::Events, json!({}));
            (message.exchange, message.routing_key, message.properties) =
                (again.exchange, again.routing_key, again.properties);
            assert_eq!(event_of(&message), first);
        }
        let start = replay(
            &Names::new("sagad"),
            Incoming { exchange: "sagad.start".into(), ..incoming(Inbox::Starts, json!({})) },
        );
        assert_eq!((start.exchange.as_str(), start.routing_key.as_str()), ("sagad.start", "order"));
    }

    #[test]
    fn only_the_confirm_of_a_publish_step_is_an_answer() {
        let signer = Signer::new(&[7; 32]);
        let ticket = Ticket { saga: SagaId(Uuid::nil()), spot: 3.into(), action: Action::Execute, attempt: 1 };
        let message = |id: String, mandatory| Outgoing {
            exchange: String::new(),
            routing_key: String::new(),
            mandatory,
            properties: Properties { message_id: Some(id), ..Properties::default() },
            body: Bytes::new(),
        };
        let told = confirmed(&signer, &message(signer.sign(ticket), false));
        assert!(matches!(told, Some((_, Input::Answer { attempt: 1, .. }))), "{told:?}");
        assert!(confirmed(&signer, &message(signer.sign(ticket), true)).is_none(), "a command is answered by others");
        assert!(
            confirmed(&signer, &message(format!("{}-3", ticket.saga), false)).is_none(),
            "a lifecycle event by nobody"
        );
    }

    #[test]
    fn what_dies_after_its_attempt_was_in_somebodys_hands() {
        let signer = Signer::new(&[7; 32]);
        let ticket = Ticket { saga: SagaId(Uuid::nil()), spot: 0.into(), action: Action::Execute, attempt: 1 };
        let had = |reason: &str, time: &str, resent: Value| {
            let death = json!([{ "reason": reason, "queue": "q", "time": time }]);
            let headers =
                json!({ "x-death": death, "saga-deadline": "2026-01-02T03:04:05.678Z", "saga-resent": resent });
            let mut message = incoming(Inbox::Dead, headers);
            message.properties.message_id = Some(signer.sign(ticket));
            match read(&signer, &message, 100, SagaId(Uuid::nil())) {
                Ok(Meaning::Saga(_, Input::Undelivered { delivered_before, resent, .. })) => delivered_before || resent,
                other => panic!("not a dead command: {other:?}"),
            }
        };
        // RabbitMQ tells whole seconds.
        assert!(!had("expired", "2026-01-02T03:04:05.000Z", Value::Null));
        assert!(had("expired", "2026-01-02T03:04:06.000Z", Value::Null));
        assert!(!had("maxlen", "2026-01-02T03:04:06.000Z", Value::Null));
        // And what was sent twice may have been in somebody's hands the other time.
        assert!(had("expired", "2026-01-02T03:04:05.000Z", json!(true)));
        assert!(had("maxlen", "2026-01-02T03:04:05.000Z", json!(true)));
    }
}
