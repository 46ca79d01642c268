//! What begins sagas, what they wait for, and what they publish.

use serde_json::{Map, Value, json};

use super::document::{Document, Message, Operation, Place};
use super::headers;
use super::payload::Payloads;
use crate::broker::names::Names;
use crate::core::definition::{Awaited, Definition, Execute, Step};

const JSON: &str = "application/json";

/// What starts a saga: a message to sagad, and events of others.
pub(super) fn starts(document: &mut Document, names: &Names, definition: &Definition, payloads: &Payloads) {
    let saga = &definition.name;
    document.declares(&names.start_exchange(), "direct");
    let summary = format!("Starts a saga `{saga}`");
    let start = message(format!("{saga}.start"), format!("Start of {saga}"), &summary, payloads.input());
    let start = Message { headers: headers::once().finish(), correlated: true, ..start };
    let answer = Message {
        headers: json!({ "type": "object" }),
        correlated: true,
        ..message(
            format!("{saga}.start.answer"),
            format!("Answer to a start of {saga}"),
            "The saga is stored, or why it is not",
            started(),
        )
    };
    let reply = document.reply(Place::Asker, answer);
    let place = Place::Key { exchange: names.start_exchange(), routing_key: saga.to_string() };
    let operation =
        Operation { reply: Some(reply), ..receive(definition, format!("{saga}.start"), summary, json!({})) };
    document.operate(place, start, operation);
    for (nth, trigger) in definition.starts.iter().enumerate() {
        let name = format!("{saga}.start.event{}", nth + 1);
        let summary = format!("An event that starts a saga `{saga}`");
        let payload = if trigger.input.is_none() { payloads.input() } else { json!({}) };
        let event = Message {
            headers: headers::once().finish(),
            ..message(name.clone(), trigger.routing_key.clone(), &summary, payload)
        };
        let extra = json!({
            "when": trigger.when.as_ref().map(|when| when.source()),
            "input": trigger.input.as_ref().map(|input| input.source()),
        });
        let place = Place::Pattern { exchange: trigger.exchange.clone(), pattern: trigger.routing_key.clone() };
        document.operate(place, event, receive(definition, name, summary, extra));
    }
}

/// What a step that waits waits for, and what one that publishes publishes.
pub(super) fn of_step(
    document: &mut Document,
    names: &Names,
    definition: &Definition,
    step: &Step,
    payloads: &Payloads,
) {
    let saga = &definition.name;
    match &step.execute {
        Execute::Publish(event) => {
            let name = format!("{saga}.{}.publish", step.name);
            let summary = format!("The event that `{}` of `{saga}` publishes", step.name);
            let payload = event.body.as_ref().map_or_else(|| payloads.input(), |body| payloads.body(body, false));
            let published = Message {
                headers: headers::published(definition, step, &event.headers, payloads),
                kind: Some(event.routing_key.clone()),
                ..message(name.clone(), event.routing_key.clone(), &summary, payload)
            };
            let place = Place::Key { exchange: event.exchange.clone(), routing_key: event.routing_key.clone() };
            document.operate(place, published, send(definition, name, summary));
        }
        Execute::Wait(wait) => {
            let name = format!("{saga}.{}.wait", step.name);
            let (place, title, summary, headers, extra) = match &wait.until {
                Awaited::Signal(signal) => {
                    document.declares(&names.signals_exchange(), "topic");
                    let place = Place::Key { exchange: names.signals_exchange(), routing_key: signal.to_string() };
                    let summary = format!("The signal that `{}` of `{saga}` waits for", step.name);
                    (place, signal.to_string(), summary, headers::signal(definition), json!({}))
                }
                Awaited::Event(pattern) => {
                    let place =
                        Place::Pattern { exchange: pattern.exchange.clone(), pattern: pattern.routing_key.clone() };
                    let summary = format!("The event that `{}` of `{saga}` waits for", step.name);
                    let extra = json!({ "match": pattern.matches.source() });
                    (place, pattern.routing_key.clone(), summary, headers::once().finish(), extra)
                }
            };
            let awaited = Message { headers, ..message(name.clone(), title, &summary, json!({})) };
            document.operate(place, awaited, receive(definition, name, summary, extra));
        }
        // Commands are told apart; children are between sagad and itself, and time passes without messages.
        Execute::Command(_) | Execute::Saga(_) | Execute::Sleep(_) => {}
    }
}

pub(super) fn message(name: String, title: String, summary: &str, payload: Value) -> Message {
    let headers = json!({ "type": "object" });
    let summary = summary.to_owned();
    Message { name, title, summary, headers, payload, content_type: JSON, correlated: false, kind: None }
}

fn receive(definition: &Definition, name: String, summary: String, extra: Value) -> Operation {
    let said = extra.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let extra = said.map(|(name, value)| (name.clone(), value.clone())).collect();
    let saga = definition.name.to_string();
    Operation { name, action: "receive", summary, saga, binding: Map::new(), reply: None, extra }
}

pub(super) fn send(definition: &Definition, name: String, summary: String) -> Operation {
    let binding = Map::from_iter([
        ("deliveryMode".to_owned(), 2.into()),
        ("mandatory".to_owned(), false.into()),
        ("timestamp".to_owned(), true.into()),
    ]);
    let saga = definition.name.to_string();
    Operation { name, action: "send", summary, saga, binding, reply: None, extra: Map::new() }
}

/// The answer to a start.
fn started() -> Value {
    json!({
        "type": "object",
        "anyOf": [{ "required": ["saga_id", "status"] }, { "required": ["error"] }],
        "properties": {
            "saga_id": { "type": "string", "format": "uuid" },
            "status": { "type": "string" },
            "error": {},
        },
    })
}
