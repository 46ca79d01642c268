//! Schemas of headers.

use serde_json::{Map, Value, json};

use super::payload::Payloads;
use crate::core::definition::{Definition, Step};
use crate::core::id::Action;
use crate::core::template::Template;
use crate::wire::header;

/// Headers in the making: an object whose properties may be required.
#[derive(Default)]
pub(super) struct Headers {
    properties: Map<String, Value>,
    required: Vec<Value>,
}

impl Headers {
    fn must(mut self, name: &str, schema: Value) -> Headers {
        self.required.push(name.into());
        self.may(name, schema)
    }

    pub(super) fn may(mut self, name: &str, schema: Value) -> Headers {
        self.properties.insert(name.to_owned(), schema);
        self
    }

    pub(super) fn finish(self) -> Value {
        match self.required.is_empty() {
            true => json!({ "type": "object", "properties": self.properties }),
            false => json!({ "type": "object", "required": self.required, "properties": self.properties }),
        }
    }
}

/// What every message of a step has.
fn of_step(definition: &Definition, step: &Step) -> Headers {
    let mut headers = Headers::default()
        .must(header::SAGA_ID, json!({ "type": "string", "format": "uuid" }))
        .must(header::SAGA_NAME, json!({ "const": &*definition.name }))
        .must(header::SAGA_STEP, json!({ "const": &*step.name }));
    if definition.key.is_some() {
        headers = headers.must(header::SAGA_KEY, json!({ "type": "string", "description": "The saga's business key" }));
    }
    if step.foreach.is_some() {
        let description = "The place of the element in its list";
        headers =
            headers.must(header::SAGA_ITEM, json!({ "type": "integer", "minimum": 0, "description": description }));
    }
    headers
        .must(
            header::IDEMPOTENCY_KEY,
            json!({ "type": "string", "description": "The same for every attempt and every redelivery of this action" }),
        )
        .must(header::TRACEPARENT, json!({ "type": "string", "description": "W3C trace context" }))
}

fn with_own(headers: Headers, own: &[(String, Template)], payloads: &Payloads, undo: bool) -> Value {
    own.iter().fold(headers, |headers, (name, template)| headers.must(name, payloads.template(template, undo))).finish()
}

/// Of a command.
pub(super) fn command(
    definition: &Definition,
    step: &Step,
    action: Action,
    own: &[(String, Template)],
    payloads: &Payloads,
) -> Value {
    let undo = action == Action::Compensate;
    let mut headers = of_step(definition, step)
        .must(header::SAGA_ACTION, json!({ "const": action.as_str() }))
        .must(header::SAGA_ATTEMPT, json!({ "type": "integer", "minimum": 1 }))
        .must(
            header::SAGA_DEADLINE,
            json!({ "type": "string", "format": "date-time", "description": "When this attempt times out" }),
        );
    if undo {
        let description = "There if nobody knows whether what is to be undone was done";
        headers = headers.may(header::SAGA_IN_DOUBT, json!({ "const": true, "description": description }));
    }
    with_own(headers, own, payloads, undo)
}

/// Of the event that a step publishes.
pub(super) fn published(
    definition: &Definition,
    step: &Step,
    own: &[(String, Template)],
    payloads: &Payloads,
) -> Value {
    with_own(of_step(definition, step), own, payloads, false)
}

/// Of an answer.
pub(super) fn answer() -> Value {
    let description =
        "Left out, the definition's rules decide, else the body: one with an `error` that is not null is a failure";
    let outcome = json!({ "enum": ["success", "failure", "retry", "pending"], "description": description });
    Headers::default().may(header::SAGA_OUTCOME, outcome).finish()
}

/// Of a start, or of an event that starts or is waited for: what makes it happen once.
pub(super) fn once() -> Headers {
    let description = "Makes it happen once; left out, the property message_id does";
    Headers::default().may(header::IDEMPOTENCY_KEY, json!({ "type": "string", "description": description }))
}

/// Of a signal: whom it is for.
pub(super) fn signal(definition: &Definition) -> Value {
    let headers = once()
        .may(header::SAGA_ID, json!({ "type": "string", "format": "uuid" }))
        .may(header::SAGA_NAME, json!({ "type": "string", "examples": [&*definition.name] }))
        .may(header::SAGA_KEY, json!({ "type": "string", "description": "The saga's business key" }));
    let mut schema = headers.finish();
    schema["anyOf"] = json!([{ "required": [header::SAGA_ID] }, { "required": [header::SAGA_NAME, header::SAGA_KEY] }]);
    schema
}
