//! Lifecycle events: CloudEvents, as far as the definition asks for them.

use serde_json::{Map, Value, json};

use super::document::{Document, Message, Place};
use super::events::{message, send};
use super::payload::Payloads;
use crate::broker::names::Names;
use crate::core::definition::{Definition, Events};

const CLOUD_EVENT: &str = "application/cloudevents+json";

/// The events of a saga, and of its steps.
pub(super) fn of_saga(document: &mut Document, names: &Names, definition: &Definition, payloads: &Payloads) {
    if definition.events == Events::None {
        return;
    }
    document.declares(&names.events_exchange(), "topic");
    let output = definition.output.as_ref().map_or_else(|| json!({ "type": "null" }), |it| payloads.body(it, false));
    let error = || json!({ "error": error() });
    let saga = [
        ("started", json!({})),
        ("completed", json!({ "output": output })),
        ("compensating", error()),
        ("compensated", error()),
        ("failed", error()),
        ("suspended", json!({ "reason": { "type": "string" } })),
        ("resumed", json!({})),
    ];
    for (what, data) in saga {
        add(document, names, definition, what, data);
    }
    if definition.events != Events::Step {
        return;
    }
    for step in &definition.steps {
        let ends = ["succeeded", "failed"].into_iter().chain(step.compensate.as_ref().map(|_| "compensated"));
        for what in ends {
            let mut data = json!({ "step": { "const": &*step.name } });
            if step.foreach.is_some() {
                data["item"] = json!({ "type": "integer", "minimum": 0 });
            }
            if what == "failed" {
                data["error"] = error_of_step();
            }
            add(document, names, definition, &format!("step.{}.{what}", step.name), data);
        }
    }
}

fn add(document: &mut Document, names: &Names, definition: &Definition, what: &str, data: Value) {
    let kind = format!("saga.{}.{what}", definition.name);
    let name = format!("{}.lifecycle.{what}", definition.name);
    let mut properties = Map::from_iter([
        ("id".to_owned(), json!({ "type": "string", "format": "uuid" })),
        ("saga".to_owned(), json!({ "const": &*definition.name })),
        ("revision".to_owned(), json!({ "type": "integer", "minimum": 1 })),
        ("key".to_owned(), json!({ "type": ["string", "null"] })),
    ]);
    properties.extend(data.as_object().cloned().unwrap_or_default());
    let payload = json!({
        "type": "object",
        "required": ["specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data"],
        "properties": {
            "specversion": { "const": "1.0" },
            "id": { "type": "string", "description": "The same in a duplicate" },
            "source": { "const": "/sagad" },
            "type": { "const": kind },
            "subject": { "type": "string", "format": "uuid", "description": "The saga's id" },
            "time": { "type": "string", "format": "date-time" },
            "datacontenttype": { "const": "application/json" },
            "data": { "type": "object", "properties": properties },
        },
    });
    let summary = format!("CloudEvents 1.0, structured: `{kind}`");
    let event = Message {
        content_type: CLOUD_EVENT,
        kind: Some(kind.clone()),
        ..message(name.clone(), kind.clone(), &summary, payload)
    };
    let place = Place::Key { exchange: names.events_exchange(), routing_key: kind };
    document.operate(place, event, send(definition, name, summary));
}

fn error() -> Value {
    json!({ "anyOf": [{ "type": "null" }, error_of_step()] })
}

fn error_of_step() -> Value {
    json!({
        "type": "object",
        "properties": {
            "step": { "type": ["string", "null"] },
            "reason": { "type": "string" },
            "message": { "type": ["string", "null"] },
            "details": {},
        },
    })
}
