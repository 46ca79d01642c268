//! Commands, and how they are answered.

use serde_json::{Map, Value, json};

use super::document::{Document, Message, Operation, Place};
use super::headers;
use super::payload::{Payloads, or_null};
use crate::broker::message::Inbox;
use crate::broker::names::Names;
use crate::core::definition::{Command, Definition, Pattern, Priority, Step};
use crate::core::id::Action;

const JSON: &str = "application/json";

/// The commands of a step: its own, its undo, the question what became of it.
pub(super) fn of_step(
    document: &mut Document,
    names: &Names,
    definition: &Definition,
    step: &Step,
    payloads: &Payloads,
) {
    let commands = [
        (Action::Execute, step.command()),
        (Action::Compensate, step.undo_command()),
        (Action::Probe, step.probe_command()),
    ];
    for (action, command) in commands {
        let Some(command) = command else { continue };
        let name = format!("{}.{}.{}", definition.name, step.name, action.as_str());
        let does = match action {
            Action::Execute => "does",
            Action::Compensate => "undoes",
            Action::Probe => "asks what became of",
        };
        let summary = format!("The command that {does} `{}` of `{}`", step.name, definition.name);
        let message = Message {
            name: name.clone(),
            title: command.routing_key.clone(),
            summary: summary.clone(),
            headers: headers::command(definition, step, action, &command.headers, payloads),
            payload: body(step, action, command, payloads),
            content_type: JSON,
            correlated: true,
            kind: Some(command.routing_key.clone()),
        };
        let place = Place::Key { exchange: command.exchange.clone(), routing_key: command.routing_key.clone() };
        let by_events = command.reply.success.is_some() || command.reply.failure.is_some();
        let reply = (!by_events).then(|| {
            let answers = Place::Answers { queue: names.queue(Inbox::Replies) };
            document.reply(answers, answer(step, action, command, &name, payloads))
        });
        let operation = Operation {
            name: name.clone(),
            action: "send",
            summary,
            saga: definition.name.to_string(),
            binding: binding(command),
            reply,
            extra: extra(definition, step, action, command),
        };
        document.operate(place, message, operation);
        for (outcome, pattern) in [("success", &command.reply.success), ("failure", &command.reply.failure)] {
            if let Some(pattern) = pattern {
                told(document, definition, step, command, payloads, &name, outcome, pattern);
            }
        }
    }
}

fn body(step: &Step, action: Action, command: &Command, payloads: &Payloads) -> Value {
    let execute = || step.command().and_then(|command| command.body.as_ref());
    match (&command.body, action) {
        (Some(body), action) => payloads.body(body, action == Action::Compensate),
        (None, Action::Compensate) => {
            let sent = execute().map_or_else(|| payloads.input(), |body| payloads.body(body, false));
            let reply = or_null(payloads.reply(step));
            json!({ "type": "object", "required": ["command", "reply"], "properties": { "command": sent, "reply": reply } })
        }
        (None, _) => payloads.input(),
    }
}

fn answer(step: &Step, action: Action, command: &Command, name: &str, payloads: &Payloads) -> Message {
    let success = match action {
        Action::Compensate => json!({}),
        _ => payloads.reply(step),
    };
    let rule = |word: &str, rule: Option<&str>| rule.map(|rule| format!("{word} where `{rule}`"));
    let reply = &command.reply;
    let rules = [
        rule("retried", reply.retry_when.as_ref().map(|rule| rule.source())),
        rule("a success", reply.success_when.as_ref().map(|rule| rule.source())),
    ];
    let rules: Vec<String> = rules.into_iter().flatten().collect();
    let rules = if rules.is_empty() { String::new() } else { format!("; {}", rules.join(", ")) };
    Message {
        name: format!("{name}.answer"),
        title: format!("Answer to {}", command.routing_key),
        summary: format!("What the participant says to `{}`{rules}", command.routing_key),
        headers: headers::answer(),
        payload: json!({ "anyOf": [success, failure()] }),
        content_type: JSON,
        correlated: true,
        kind: None,
    }
}

/// The body of an answer that is a failure, or asks to be tried again.
fn failure() -> Value {
    let details = json!({ "code": { "type": ["string", "number"] }, "message": { "type": "string" }, "details": {} });
    json!({
        "type": "object",
        "required": ["error"],
        "properties": { "error": { "anyOf": [{ "type": "string" }, { "type": "object", "properties": details }] } },
    })
}

/// An event that is the answer.
#[allow(clippy::too_many_arguments, reason = "all of it is what the event is about")]
fn told(
    document: &mut Document,
    definition: &Definition,
    step: &Step,
    command: &Command,
    payloads: &Payloads,
    name: &str,
    outcome: &str,
    pattern: &Pattern,
) {
    let Pattern { exchange, routing_key, matches } = pattern;
    let summary = format!("The event that is the {outcome} of `{}`", command.routing_key);
    let message = Message {
        name: format!("{name}.{outcome}"),
        title: routing_key.clone(),
        summary: summary.clone(),
        headers: headers::once().finish(),
        payload: if outcome == "success" { payloads.reply(step) } else { json!({}) },
        content_type: JSON,
        correlated: false,
        kind: None,
    };
    let extra = json!({ "saga": &*definition.name, "step": &*step.name, "match": matches.source() });
    let operation = Operation {
        name: format!("{name}.{outcome}"),
        action: "receive",
        summary,
        saga: definition.name.to_string(),
        binding: Map::new(),
        reply: None,
        extra: extra.as_object().cloned().unwrap_or_default(),
    };
    let place = Place::Pattern { exchange: exchange.clone(), pattern: routing_key.clone() };
    document.operate(place, message, operation);
}

fn binding(command: &Command) -> Map<String, Value> {
    let mut binding = Map::from_iter([
        ("deliveryMode".to_owned(), 2.into()),
        ("mandatory".to_owned(), true.into()),
        ("timestamp".to_owned(), true.into()),
    ]);
    if let Some(Priority::Fixed(priority)) = command.priority {
        binding.insert("priority".to_owned(), priority.into());
    }
    binding
}

/// How long it is waited for, and how often it is tried.
fn extra(definition: &Definition, step: &Step, action: Action, command: &Command) -> Map<String, Value> {
    Map::from_iter([
        ("saga".to_owned(), definition.name.as_ref().into()),
        ("step".to_owned(), step.name.as_ref().into()),
        ("action".to_owned(), action.as_str().into()),
        ("timeout".to_owned(), humantime::format_duration(command.timeout).to_string().into()),
        ("attempts".to_owned(), command.retry.attempts.into()),
    ])
}
