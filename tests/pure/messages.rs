//! What every message that sagad sends has in common, and what its headers say.

use std::time::Duration;

use sagad::broker::message::{Inbox, Outgoing};
use sagad::broker::names::Names;
use sagad::core::decide::{Command, Effect};
use sagad::core::id::Action;
use sagad::core::saga::Reason;
use sagad::core::time::Time;
use sagad::wire::outgoing;
use sagad::wire::signature::Signer;
use serde_json::{Value, json};

use crate::play::Play;

const ORDER: &str = "\
name = 'order'
key = '{{ input.id }}'
priority = 4
events = 'step'
[defaults]
exchange = 'shop.commands'
timeout = '10s'
retry = { attempts = 2, initial = '1s', factor = 1.0, jitter = 0.0 }
[[steps]]
name = 'pack'
command = 'stock.pack'
foreach = '{{ input.lines }}'
compensate.command = 'stock.unpack'
[[steps]]
name = 'tell'
publish = 'order.packed'
exchange = 'shop.events'
[[steps]]
name = 'pay'
command = 'payment.charge'
compensate.command = 'payment.refund'
";

fn order(input: Value) -> Play {
    Play::with(ORDER, input)
}

fn signer() -> Signer {
    Signer::new(&[7; 32])
}

fn message(play: &Play, command: &Command) -> Outgoing {
    outgoing::command(&Names::new("shop"), &signer(), &play.definition, &play.saga, command.clone(), play.now)
}

/// The message of the command of that name, see [`Play`].
fn named(play: &Play, name: &str) -> Outgoing {
    message(play, play.command(name))
}

fn effects(play: &Play) -> Vec<Outgoing> {
    let made = |effect: &Effect| {
        outgoing::effect(&Names::new("shop"), &signer(), &play.definition, &play.saga, effect.clone(), play.now)
    };
    play.others().iter().map(made).collect()
}

/// Plays an order to its end: everything is done, and the payment is declined, so everything is undone.
fn undone() -> Play {
    let mut play = order(json!({ "id": "A1", "lines": ["x", "y"] }));
    for (_, round) in [("pack", 0), ("pack", 1), ("tell", 0), ("pay", 0), ("unpack", 0), ("unpack", 1)] {
        let open: Vec<_> = play.asked.iter().map(|(ticket, _)| *ticket).collect();
        for ticket in open {
            let state = play.saga.unit(ticket.spot).unwrap().action(ticket.action);
            if !state.in_flight() || state.attempt != ticket.attempt {
                continue;
            }
            let declined = ticket.spot.step == 2;
            let body = if declined { json!({ "error": "declined" }) } else { json!({ "round": round }) };
            let answer = sagad::core::answer::RawAnswer::new(None, body);
            let (spot, action, attempt) = (ticket.spot, ticket.action, ticket.attempt);
            play.put(sagad::core::input::Input::Answer { spot, action, attempt, answer }).unwrap();
        }
    }
    assert_eq!(play.saga.status().as_str(), "compensated", "{:#?}", play.journal);
    play
}

#[test]
fn every_name_begins_with_the_prefix() {
    let names = Names::new("shop");
    let queues = Inbox::ALL.into_iter().map(|inbox| names.queue(inbox));
    let delays = names.delay_queues().map(|(name, _)| name);
    let all: Vec<String> = names.exchanges().into_iter().chain(queues).chain(delays).collect();
    assert!(all.len() > 25, "{all:?}");
    assert!(all.iter().all(|name| name.starts_with("shop.")), "{all:?}");
}

#[test]
fn every_message_is_persistent_json() {
    let play = undone();
    let commands: Vec<Outgoing> = play.sent.iter().map(|command| message(&play, command)).collect();
    let (at, entries) = play.journal.last().unwrap();
    let events = outgoing::events(&Names::new("shop"), &play.definition, &play.saga, entries, *at);
    let published = effects(&play);
    assert_eq!((commands.len(), published.len(), events.len()), (5, 1, 2));
    for command in &commands {
        assert!(command.mandatory, "a command has somebody to take it, or comes back: {command:?}");
        assert_eq!(command.properties.reply_to.as_deref(), Some("shop.replies"));
        assert_eq!(command.properties.correlation_id, command.properties.message_id);
    }
    for event in published.iter().chain(&events) {
        assert!(!event.mandatory, "an event may have no listener: {event:?}");
        assert_eq!(event.properties.reply_to, None);
    }
    for message in commands.iter().chain(&published).chain(&events) {
        let properties = &message.properties;
        assert_eq!((properties.delivery_mode, properties.app_id.as_deref()), (Some(2), Some("sagad")));
        assert_eq!(properties.kind.as_ref(), Some(&message.routing_key));
        assert!(properties.timestamp.is_some() && properties.message_id.is_some());
        let said = (properties.content_type.as_deref(), properties.content_encoding.as_deref());
        let json =
            [(Some("application/json"), Some("utf-8")), (Some("application/cloudevents+json; charset=utf-8"), None)];
        assert!(json.contains(&said), "{said:?}");
        serde_json::from_slice::<Value>(&message.body).unwrap();
    }
    let ids: std::collections::BTreeSet<_> = commands.iter().map(|command| &command.properties.message_id).collect();
    assert_eq!(ids.len(), commands.len(), "each attempt has an id of its own");
}

/// The headers of a message, without those that are looked at elsewhere.
fn headers(message: &Outgoing) -> Value {
    let mut headers = message.properties.headers.clone();
    assert!(headers.remove("traceparent").is_some_and(|trace| trace.is_string()));
    assert!(headers.remove("idempotency-key").is_some_and(|key| key.is_string()));
    Value::Object(headers)
}

#[test]
fn the_headers_of_a_command_say_what_it_is() {
    let mut play = order(json!({ "id": "A1", "lines": ["x", "y"] }));
    let (id, deadline) = (play.saga.id.to_string(), play.now.plus(Duration::from_secs(10)));
    let said = |more: Value| {
        let mut all = json!({
            "saga-id": id, "saga-name": "order", "saga-key": "A1", "saga-step": "pack", "saga-action": "execute",
            "saga-attempt": 1, "saga-deadline": deadline.to_string(),
        });
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    for (item, name) in [(0, "pack[0] 1"), (1, "pack[1] 1")] {
        assert_eq!(headers(&named(&play, name)), said(json!({ "saga-item": item })));
    }
    // Of a step that is done once, without an element; its second attempt, and its undo in doubt.
    let toml = ORDER.replace("foreach = '{{ input.lines }}'\n", "");
    play = Play::with(&toml, json!({ "id": "A1" }));
    play.after(10.0);
    play.after(1.0);
    let deadline = play.now.plus(Duration::from_secs(10));
    let again = json!({ "saga-attempt": 2, "saga-deadline": deadline.to_string() });
    assert_eq!(headers(&named(&play, "pack 2")), said(again));
    play.after(10.0);
    let undo = named(&play, "undo pack 1");
    let until = Time::parse(undo.properties.header_str("saga-deadline").unwrap()).unwrap();
    assert!(until > play.now);
    let in_doubt = json!({ "saga-action": "compensate", "saga-in-doubt": true, "saga-deadline": until.to_string() });
    assert_eq!(headers(&undo), said(in_doubt));
}

#[test]
fn a_saga_without_a_key_says_none() {
    let toml = ORDER.replace("key = '{{ input.id }}'\n", "").replace("foreach = '{{ input.lines }}'\n", "");
    let play = Play::with(&toml, json!({}));
    assert_eq!(named(&play, "pack 1").properties.headers.get("saga-key"), None);
}

#[test]
fn a_command_expires_just_before_its_attempt_does_and_an_undo_never() {
    let (toml, _) = ORDER.split_at(ORDER.find("[[steps]]\nname = 'tell'").unwrap());
    let toml =
        format!("{}[[steps]]\nname = 'nap'\nsleep = '1h'\n", toml.replace("foreach = '{{ input.lines }}'\n", ""));
    let mut play = Play::with(&toml, json!({ "id": "A1" }));
    let pack = named(&play, "pack 1");
    let lifetime = pack.lifetime().expect("an expiration");
    assert!(lifetime < Duration::from_secs(10) && lifetime > Duration::from_secs(8), "{lifetime:?}");
    assert!(pack.expires_at().unwrap() < play.command("pack 1").deadline);
    // It dies unseen: then it is known not to have run, and nothing is to be undone.
    play.comes_back("pack 1", Reason::Expired, false);
    play.after(1.0);
    play.success("pack 2");
    play.cancel();
    let undo = play.sent.iter().find(|command| command.ticket.action == Action::Compensate).expect("an undo");
    assert_eq!(message(&play, undo).properties.expiration, None);
    let kept = Play::with(
        &toml.replace("command = 'stock.pack'", "command = 'stock.pack'\nexpires = false"),
        json!({ "id": "A1" }),
    );
    assert_eq!(named(&kept, "pack 1").properties.expiration, None);
}
