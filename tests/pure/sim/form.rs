//! What a command has to look like, whichever saga sends it: said here once more, in the words of the contract.

use std::time::Duration;

use sagad::broker::message::{Outgoing, RESENT};
use sagad::core::definition::{Command, Definition, Priority};
use sagad::core::id::{Action, Ticket};
use sagad::core::saga::Saga;
use sagad::core::time::Time;
use serde_json::{Value, json};

/// What is wrong with the properties or the headers of a command.
pub(crate) fn flaw(saga: &Saga, definition: &Definition, ticket: Ticket, message: &Outgoing) -> Option<String> {
    let step = &definition.steps[ticket.spot.step];
    let command = step.sends(ticket.action);
    let Some(command) = command else { return Some("a step without a command sends one".to_owned()) };
    let properties = &message.properties;
    let headers = json!({
        "saga-id": saga.id.to_string(), "saga-name": *definition.name, "saga-key": saga.key.as_deref(), "saga-step": *step.name,
        "saga-action": ticket.action.as_str(), "saga-attempt": ticket.attempt, "saga-item": ticket.spot.item,
    });
    let headers = headers.as_object().into_iter().flatten();
    let mut said = vec![
        ("exchange", json!(message.exchange), json!(*command.exchange)),
        ("routing key", json!(message.routing_key), json!(*command.routing_key)),
        ("type", json!(properties.kind), json!(*command.routing_key)),
        ("app_id", json!(properties.app_id), json!("sagad")),
        ("reply_to", json!(properties.reply_to), json!("sagad.replies")),
        ("content_type", json!(properties.content_type), json!("application/json")),
        ("delivery_mode", json!(properties.delivery_mode), json!(2)),
        ("correlation_id", json!(properties.correlation_id), json!(properties.message_id)),
        ("priority", json!(properties.priority), priority(saga, ticket.action, command)),
    ];
    said.extend(headers.map(|(name, value)| (name.as_str(), header(message, name), value.clone())));
    let own = command
        .headers
        .iter()
        .map(|(name, _)| (name.as_str(), json!(header(message, name) != Value::Null), json!(true)));
    said.extend(own);
    if let Some((what, is, should_be)) = said.into_iter().find(|(_, is, should_be)| is != should_be) {
        return Some(format!("its {what} is {is}, and should be {should_be}"));
    }
    lifetime(ticket.action, command, message)
}

fn header(message: &Outgoing, name: &str) -> Value {
    message.properties.headers.get(name).cloned().unwrap_or_default()
}

/// The saga's, for a compensation 9, unless the step says something else.
fn priority(saga: &Saga, action: Action, command: &Command) -> Value {
    match (&command.priority, action) {
        (Some(Priority::Fixed(priority)), _) => json!(priority),
        // As this simulation's definitions compute it.
        (Some(Priority::Template(_)), _) => json!(3),
        (None, Action::Compensate) => json!(9),
        (None, _) => json!(saga.priority),
    }
}

/// An execute dies in its queue just before its attempt times out, unless it must not; nothing else dies there.
fn lifetime(action: Action, command: &Command, message: &Outgoing) -> Option<String> {
    let (lifetime, sent) = (message.lifetime(), message.properties.timestamp?);
    let until = Time::parse(header(message, "saga-deadline").as_str()?).ok()?;
    let right = match lifetime {
        None => action != Action::Execute || !command.expires,
        Some(lifetime) => {
            let dies = sent.plus(lifetime);
            // One that goes out a second time dies somewhat earlier: its copy must not outlive it.
            let soon = header(message, RESENT) != Value::Null || until.since(dies) <= Duration::from_millis(500);
            action == Action::Execute && command.expires && dies < until && soon
        }
    };
    (!right).then(|| format!("it is sent at {sent} with {lifetime:?} to live, and times out at {until}"))
}
