//! What a definition says once all defaults are in place, key by key.

use std::collections::BTreeSet;
use std::time::Duration;

use humantime::format_duration;
use indexmap::IndexMap;
use serde_json::{Value, json};

use super::Message;
use crate::core::definition::{
    Awaited, Command, CompensateOn, Definition, Events, Execute, KeyReuse, LockMode, OnCompensationFailure, OnTimeout,
    Pattern, Priority, Retry, Schema, Step, Undo,
};
use crate::core::id::StepIx;
use crate::core::template::{Body, Expression, Template};

/// By key; what is not said, and has no default, is not there.
pub(super) type Facts = IndexMap<&'static str, Value>;

pub(super) fn facts_of_saga(definition: &Definition) -> Facts {
    let mut facts = Facts::new();
    let mut add = |key, value: Option<Value>| drop(value.map(|value| facts.insert(key, value)));
    add("name", Some(json!(definition.name)));
    add("description", definition.description.as_ref().map(|text| json!(text)));
    add("key", definition.key.as_ref().map(Template::source));
    add(
        "key_reuse",
        Some(json!(match definition.key_reuse {
            KeyReuse::Never => "never",
            KeyReuse::AfterFailure => "after_failure",
            KeyReuse::AfterEnd => "after_end",
        })),
    );
    add("timeout", definition.timeout.map(duration));
    add("priority", Some(priority(&definition.priority)));
    add("max_running", definition.max_running.map(|most| json!(most)));
    add(
        "lock",
        definition.lock.as_ref().map(|lock| {
            let mode = if lock.mode == LockMode::Queue { "queue" } else { "reject" };
            json!({ "key": lock.key.source(), "mode": mode })
        }),
    );
    add("retention", definition.retention.map(duration));
    add(
        "events",
        Some(json!(match definition.events {
            Events::None => "none",
            Events::Saga => "saga",
            Events::Step => "step",
        })),
    );
    add(
        "on_compensation_failure",
        Some(json!(match definition.on_compensation_failure {
            OnCompensationFailure::Suspend => "suspend",
            OnCompensationFailure::Continue => "continue",
        })),
    );
    add("input", definition.input.as_ref().map(|schema| schema.source.clone()));
    let starts = definition.starts.iter().map(|start| {
        let when = start.when.as_ref().map(Expression::source);
        json!({ "exchange": start.exchange, "routing_key": start.routing_key, "when": when, "input": start.input.as_ref().map(Body::source) })
    });
    add("start", (!definition.starts.is_empty()).then(|| starts.collect()));
    add("output", definition.output.as_ref().map(Body::source));
    facts
}

pub(super) fn facts_of_step(definition: &Definition, at: StepIx) -> Facts {
    let step = &definition.steps[at];
    let mut facts = Facts::new();
    let mut add = |key, value: Option<Value>| drop(value.map(|value| facts.insert(key, value)));
    let does = |what: Value| Some(json!({ step.execute.kind(): what }));
    let after: BTreeSet<&str> = step.after.iter().map(|before| &*definition.steps[*before].name).collect();
    add("after", Some(json!(after)));
    add("when", step.when.as_ref().map(|when| json!(when.source())));
    add("delay", (!step.delay.is_zero()).then(|| duration(step.delay)));
    add("optional", step.optional.then_some(json!(true)));
    add("pivot", step.pivot.then_some(json!(true)));
    add("foreach", step.foreach.as_ref().map(|foreach| foreach.elements.source()));
    add("max_parallel", step.foreach.as_ref().map(|foreach| json!(foreach.max_parallel)));
    match &step.execute {
        Execute::Command(request) => {
            add("does", does(json!(request.command.routing_key)));
            command(&mut add, &request.command, &COMMAND);
            let (word, probe) = match &request.on_timeout {
                OnTimeout::Compensate => ("compensate", None),
                OnTimeout::Suspend => ("suspend", None),
                OnTimeout::Probe(probe) => ("probe", Some(probe)),
            };
            add("on_timeout", Some(json!(word)));
            if let Some(probe) = probe {
                add("probe", Some(json!(probe.routing_key)));
                command(&mut add, probe, &PROBE);
            }
        }
        Execute::Publish(event) => {
            add("does", does(json!(event.routing_key)));
            add("exchange", Some(json!(event.exchange)));
            add("body", event.body.as_ref().map(Body::source));
            add("headers", headers(&event.headers));
            add("priority", event.priority.as_ref().map(priority));
        }
        Execute::Wait(wait) => {
            add(
                "does",
                does(match &wait.until {
                    Awaited::Signal(name) => json!({ "signal": name }),
                    Awaited::Event(event) => pattern(event),
                }),
            );
            add("timeout", wait.timeout.map(duration));
        }
        Execute::Saga(child) => {
            add("does", does(json!(child.definition)));
            add("input", child.input.as_ref().map(Body::source));
            add("timeout", child.timeout.map(duration));
        }
        Execute::Sleep(time) => add("does", does(duration(*time))),
    }
    if let Some(compensate) = &step.compensate {
        match &compensate.undo {
            Undo::Command(undo) => {
                add("compensate", Some(json!(undo.routing_key)));
                command(&mut add, undo, &COMPENSATE);
            }
            Undo::Child { timeout, retry: of_child } => {
                add("compensate", Some(json!("the other saga's own steps")));
                add("compensate.timeout", timeout.map(duration));
                add("compensate.retry", Some(retry(of_child)));
            }
        }
        add("compensate.on", Some(outcomes(compensate.on)));
    }
    facts
}

/// The keys of a command, by where it is: exchange, body, headers, time-out, retry, priority, expires, reply.
type Keys = [&'static str; 8];
const COMMAND: Keys = ["exchange", "body", "headers", "timeout", "retry", "priority", "expires", "reply"];
const PROBE: Keys = [
    "probe.exchange",
    "probe.body",
    "probe.headers",
    "probe.timeout",
    "probe.retry",
    "probe.priority",
    "probe.expires",
    "probe.reply",
];
const COMPENSATE: Keys = [
    "compensate.exchange",
    "compensate.body",
    "compensate.headers",
    "compensate.timeout",
    "compensate.retry",
    "compensate.priority",
    "compensate.expires",
    "compensate.reply",
];

fn command(add: &mut impl FnMut(&'static str, Option<Value>), command: &Command, keys: &Keys) {
    let reply = &command.reply;
    let rules = json!({
        "success_when": reply.success_when.as_ref().map(Expression::source),
        "retry_when": reply.retry_when.as_ref().map(Expression::source),
        "schema": reply.schema.as_ref().map(|Schema { source, .. }| source),
        "success": reply.success.as_ref().map(pattern),
        "failure": reply.failure.as_ref().map(pattern),
        "error": reply.error.as_ref().map(Expression::source),
    });
    let said = rules.as_object().is_some_and(|rules| rules.values().any(|rule| !rule.is_null()));
    let values = [
        Some(json!(command.exchange)),
        command.body.as_ref().map(Body::source),
        headers(&command.headers),
        Some(duration(command.timeout)),
        Some(retry(&command.retry)),
        command.priority.as_ref().map(priority),
        Some(json!(command.expires)),
        said.then_some(rules),
    ];
    keys.iter().zip(values).for_each(|(key, value)| add(key, value));
}

/// All that a definition publishes.
pub(super) fn messages(definition: &Definition) -> BTreeSet<Message> {
    let of_step = |step: &Step| {
        let commands = [step.command(), step.undo_command(), step.probe_command()];
        let mut messages: Vec<Message> =
            commands.into_iter().flatten().map(|it| message(&it.exchange, &it.routing_key)).collect();
        if let Execute::Publish(event) = &step.execute {
            messages.push(message(&event.exchange, &event.routing_key));
        }
        messages
    };
    definition.steps.iter().flat_map(of_step).collect()
}

fn message(exchange: &str, routing_key: &str) -> Message {
    Message { exchange: exchange.to_owned(), routing_key: routing_key.to_owned() }
}

fn duration(time: Duration) -> Value {
    json!(format_duration(time).to_string())
}

fn priority(priority: &Priority) -> Value {
    match priority {
        Priority::Fixed(fixed) => json!(fixed),
        Priority::Template(template) => template.source(),
    }
}

fn retry(retry: &Retry) -> Value {
    let Retry { attempts, initial, factor, max, jitter } = *retry;
    json!({ "attempts": attempts, "initial": duration(initial), "factor": factor, "max": duration(max), "jitter": jitter })
}

fn headers(headers: &[(String, Template)]) -> Option<Value> {
    let all = headers.iter().map(|(name, value)| (name.clone(), value.source()));
    (!headers.is_empty()).then(|| Value::Object(all.collect()))
}

fn pattern(pattern: &Pattern) -> Value {
    json!({ "exchange": pattern.exchange, "routing_key": pattern.routing_key, "match": pattern.matches.source() })
}

fn outcomes(on: CompensateOn) -> Value {
    let outcomes = [(on.success, "success"), (on.in_doubt, "in_doubt"), (on.failure, "failure")];
    outcomes.into_iter().filter(|(is, _)| *is).map(|(_, outcome)| outcome).collect()
}
