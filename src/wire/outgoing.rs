//! What sagad sends: commands, lifecycle events, wake-ups, answers to starts.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::broker::message::{Inbox, Outgoing, Properties};
use crate::broker::names::Names;
use crate::core::decide::{Command, Effect, Event};
use crate::core::definition::{Definition, Events};
use crate::core::entry::{Entry, Resolution};
use crate::core::id::{Action, SagaId, Spot, Ticket};
use crate::core::saga::{Saga, SagaError};
use crate::core::time::Time;
use crate::store::encode;
use crate::wire::signature::Signer;
use crate::wire::{children, header};

const JSON: &str = "application/json";
pub(super) const PERSISTENT: u8 = 2;
const APP: &str = "sagad";

/// The message of a command.
pub fn command(
    names: &Names,
    signer: &Signer,
    definition: &Definition,
    saga: &Saga,
    command: Command,
    now: Time,
) -> Outgoing {
    let ticket = command.ticket;
    let id = signer.sign(ticket);
    let mut headers: Map<String, Value> = command.headers.into_iter().collect();
    let mut set = |name: &str, value: Value| headers.insert(name.to_owned(), value);
    let step = &definition.steps[ticket.spot.step].name;
    set(header::SAGA_ID, saga.id.to_string().into());
    set(header::SAGA_NAME, definition.name.as_ref().into());
    if let Some(key) = &saga.key {
        set(header::SAGA_KEY, key.as_ref().into());
    }
    set(header::SAGA_STEP, step.as_ref().into());
    set(header::SAGA_ACTION, ticket.action.as_str().into());
    set(header::SAGA_ATTEMPT, ticket.attempt.into());
    if let Some(item) = ticket.spot.item {
        set(header::SAGA_ITEM, item.into());
    }
    if command.in_doubt {
        set(header::SAGA_IN_DOUBT, true.into());
    }
    set(header::SAGA_DEADLINE, command.deadline.to_string().into());
    set(header::IDEMPOTENCY_KEY, idempotency_key(saga, step, ticket, command.round).into());
    set(header::TRACEPARENT, traceparent(saga, &signer.span(ticket)).into());
    Outgoing {
        exchange: command.exchange,
        mandatory: true,
        properties: Properties {
            content_type: Some(JSON.into()),
            content_encoding: Some("utf-8".into()),
            delivery_mode: Some(PERSISTENT),
            priority: Some(command.priority),
            correlation_id: Some(id.clone()),
            message_id: Some(id),
            reply_to: Some(names.queue(Inbox::Replies)),
            expiration: command.expires.map(|after| after.as_millis().to_string()),
            timestamp: Some(now),
            kind: Some(command.routing_key.clone()),
            app_id: Some(APP.into()),
            headers,
            ..Properties::default()
        },
        routing_key: command.routing_key,
        body: encode(&command.body),
    }
}

/// The same for all attempts of one action, and another one for each round of it.
fn idempotency_key(saga: &Saga, step: &str, ticket: Ticket, round: u32) -> String {
    let (id, action) = (saga.id, ticket.action.as_str());
    let mut key = match ticket.spot.item {
        None => format!("{id}/{step}/{action}"),
        Some(item) => format!("{id}/{step}/{item}/{action}"),
    };
    if round > 0 {
        key.push_str(&format!("/{}", round + 1));
    }
    key
}

/// The message of whatever a saga sends.
pub fn effect(
    names: &Names,
    signer: &Signer,
    definition: &Definition,
    saga: &Saga,
    effect: Effect,
    now: Time,
) -> Outgoing {
    match effect {
        Effect::Command(it) => command(names, signer, definition, saga, it, now),
        Effect::Event(it) => published(signer, definition, saga, it, now),
        Effect::Child(it) => children::order(names, signer, it, now),
        Effect::Answer(it) => children::answer(names, signer, it, now),
    }
}

/// The event of a `publish` step. Its id is that of its attempt: the broker's confirm answers it.
fn published(signer: &Signer, definition: &Definition, saga: &Saga, event: Event, now: Time) -> Outgoing {
    let ticket = event.ticket;
    let step = &definition.steps[ticket.spot.step].name;
    let mut headers: Map<String, Value> = event.headers.into_iter().collect();
    let mut set = |name: &str, value: Value| headers.insert(name.to_owned(), value);
    set(header::SAGA_ID, saga.id.to_string().into());
    set(header::SAGA_NAME, definition.name.as_ref().into());
    if let Some(key) = &saga.key {
        set(header::SAGA_KEY, key.as_ref().into());
    }
    set(header::SAGA_STEP, step.as_ref().into());
    if let Some(item) = ticket.spot.item {
        set(header::SAGA_ITEM, item.into());
    }
    set(header::IDEMPOTENCY_KEY, idempotency_key(saga, step, ticket, 0).into());
    set(header::TRACEPARENT, traceparent(saga, &signer.span(ticket)).into());
    Outgoing {
        exchange: event.exchange,
        // An event may have no listener.
        mandatory: false,
        properties: Properties {
            content_type: Some(JSON.into()),
            content_encoding: Some("utf-8".into()),
            delivery_mode: Some(PERSISTENT),
            priority: Some(event.priority),
            message_id: Some(signer.sign(ticket)),
            timestamp: Some(now),
            kind: Some(event.routing_key.clone()),
            app_id: Some(APP.into()),
            headers,
            ..Properties::default()
        },
        routing_key: event.routing_key,
        body: encode(&event.body),
    }
}

/// W3C Trace Context: carries on the trace of whoever started the saga, or begins one that the saga's id names.
fn traceparent(saga: &Saga, span: &str) -> String {
    match saga.trace.as_deref().and_then(trace_of) {
        Some((trace, flags)) => format!("00-{trace}-{span}-{flags}"),
        None => format!("00-{}-{span}-01", saga.id.0.simple()),
    }
}

/// Trace id and flags of a `traceparent`; `None` if it breaks the W3C's form, which they want treated as if it were not there. Of a
/// version after 00 that is what is known; it may have more.
pub fn trace_of(traceparent: &str) -> Option<(&str, &str)> {
    let mut parts = traceparent.splitn(5, '-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let set = |text: &str| text.bytes().any(|byte| byte != b'0');
    let known = match version {
        "00" => parts.next().is_none(),
        version => hex(version, 2) && version != "ff",
    };
    let valid = known && hex(trace, 32) && set(trace) && hex(parent, 16) && set(parent) && hex(flags, 2);
    (valid && traceparent.len() <= LONGEST_TRACEPARENT).then_some((trace, flags))
}

/// A `traceparent` of version 00 has 55 bytes. It is kept with the saga: nobody's may be as long as he likes.
const LONGEST_TRACEPARENT: usize = 255;

/// The lifecycle events of a transition: its `entries`, the last of which is the saga's last.
pub fn events(names: &Names, definition: &Definition, saga: &Saga, entries: &[Entry], now: Time) -> Vec<Outgoing> {
    if definition.events == Events::None {
        return Vec::new();
    }
    let first = saga.entries + 1 - entries.len() as u64;
    let news = entries.iter().zip(first..).filter_map(|(entry, seq)| Some((news(definition, saga, entry)?, seq)));
    news.map(|(news, seq)| event(names, definition, saga, news, seq, now)).collect()
}

struct News {
    what: String,
    data: Map<String, Value>,
}

fn news(definition: &Definition, saga: &Saga, entry: &Entry) -> Option<News> {
    let of_saga = |what: &str| Some(News { what: what.to_owned(), data: Map::new() });
    let with = |news: Option<News>, name: &str, value: Value| {
        news.map(|mut news| {
            news.data.insert(name.to_owned(), value);
            news
        })
    };
    let of_step = |spot: Spot, what: &str| {
        let name = &definition.steps[spot.step].name;
        let mut data = Map::from_iter([("step".into(), name.as_ref().into())]);
        data.extend(spot.item.map(|item| ("item".into(), item.into())));
        (definition.events == Events::Step).then_some(News { what: format!("step.{name}.{what}"), data })
    };
    let error = |error: &SagaError| {
        let step = error.step.map(|step| definition.steps[step].name.as_ref());
        let failure = &error.failure;
        json!({ "step": step, "reason": failure.reason, "message": failure.message, "details": failure.details })
    };
    let saga_error = || saga.error.as_ref().map_or(Value::Null, error);
    match entry {
        Entry::Started { .. } => of_saga("started"),
        Entry::Completed { output, .. } => with(of_saga("completed"), "output", Value::clone(output)),
        Entry::Compensating { error: cause, .. } => with(of_saga("compensating"), "error", error(cause)),
        Entry::Compensated {} => with(of_saga("compensated"), "error", saga_error()),
        Entry::GaveUp {} => with(of_saga("failed"), "error", saga_error()),
        Entry::Suspended { reason, .. } => with(of_saga("suspended"), "reason", reason.as_str().into()),
        Entry::Resumed { .. } => of_saga("resumed"),
        // Of a probe too: it has found out that the step was done, or was not.
        Entry::Succeeded { spot, action: Action::Compensate, .. }
        | Entry::Resolved { spot, outcome: Resolution::Compensated, .. } => of_step(*spot, "compensated"),
        Entry::Succeeded { spot, .. }
        | Entry::Taken { spot, .. }
        | Entry::Resolved { spot, outcome: Resolution::Succeeded, .. } => of_step(*spot, "succeeded"),
        Entry::Failed { spot, failure, .. } | Entry::Exhausted { spot, action: Action::Execute, failure } => {
            let cause = SagaError { step: Some(spot.step), failure: failure.clone() };
            with(of_step(*spot, "failed"), "error", error(&cause))
        }
        Entry::Resolved { spot, outcome: Resolution::Failed, reason, .. } => {
            with(of_step(*spot, "failed"), "error", json!({ "reason": "failure", "message": reason }))
        }
        _ => None,
    }
}

/// CloudEvents 1.0 in structured JSON mode. The id is derived from the journal, so that a duplicate has the same.
fn event(names: &Names, definition: &Definition, saga: &Saga, news: News, seq: u64, now: Time) -> Outgoing {
    let routing_key = format!("saga.{}.{}", definition.name, news.what);
    let id = format!("{}-{seq}", saga.id);
    let mut data = Map::from_iter([
        ("id".into(), saga.id.to_string().into()),
        ("saga".into(), definition.name.as_ref().into()),
        ("revision".into(), saga.revision.into()),
        ("key".into(), saga.key.as_deref().into()),
    ]);
    data.extend(news.data);
    let body = json!({
        "specversion": "1.0",
        "id": id,
        "source": "/sagad",
        "type": routing_key,
        "subject": saga.id,
        "time": now.to_string(),
        "datacontenttype": JSON,
        "data": data,
    });
    Outgoing {
        exchange: names.events_exchange(),
        // An event may have no listener.
        mandatory: false,
        properties: Properties {
            content_type: Some("application/cloudevents+json; charset=utf-8".into()),
            delivery_mode: Some(PERSISTENT),
            message_id: Some(id),
            timestamp: Some(now),
            kind: Some(routing_key.clone()),
            app_id: Some(APP.into()),
            ..Properties::default()
        },
        routing_key,
        body: encode(&body),
    }
}

/// A wake-up for a saga that waits `wait`, by the longest delay queue that does not overshoot; `None` if all do.
pub fn wake_up(names: &Names, saga: SagaId, wait: Duration) -> Option<Outgoing> {
    let queue = names.delay_queue(wait)?;
    Some(to_queue(queue, None, encode(&json!({ "saga": saga }))))
}

/// The answer to a start that came over AMQP.
pub fn start_answer(reply_to: String, correlation_id: Option<String>, body: &Value) -> Outgoing {
    to_queue(reply_to, correlation_id, encode(body))
}

pub(super) fn to_queue(queue: String, correlation_id: Option<String>, body: Bytes) -> Outgoing {
    Outgoing {
        exchange: String::new(),
        routing_key: queue,
        mandatory: false,
        properties: Properties {
            content_type: Some(JSON.into()),
            delivery_mode: Some(PERSISTENT),
            correlation_id,
            app_id: Some(APP.into()),
            ..Properties::default()
        },
        body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_well_formed_trace_contexts_are_carried_on() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let good = format!("00-{trace}-00f067aa0ba902b7-01");
        let later = good.replacen("00", "cc", 1);
        for good in [&good, &later, &format!("{later}-more-of-it")] {
            assert_eq!(trace_of(good), Some((trace, "01")), "{good}");
        }
        for bad in [
            "",
            "x",
            &format!("{good}-more"),
            &good.replacen("00", "ff", 1),
            &good.to_uppercase(),
            &format!("{later}-{}", "x".repeat(255)),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            assert_eq!(trace_of(bad), None, "{bad}");
        }
    }
}
