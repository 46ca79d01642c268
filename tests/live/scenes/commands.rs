//! What a command carries.

use lapin::types::AMQPValue;
use serde_json::json;

use super::{Stage, saga, site};

const ORDER: &str = r#"
[[steps]]
name = "one"
command = "a.one"
headers = { tenant = "{{ input.tenant }}", shard = 5 }
compensate = { command = "a.undo_one" }
[[steps]]
name = "two"
command = "b.two"
body = { id = "{{ input.id }}", n = "{{ steps.one.reply.n }}", text = "n={{ steps.one.reply.n }}" }
expires = false
compensate = { command = "b.undo_two", body = { step = "{{ error.step }}", reason = "{{ error.reason }}", message = "{{ error.message }}" } }
[[steps]]
name = "three"
command = "b.three"
compensate = false
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_has_its_properties_and_headers() {
    let site = site().await;
    site.define("order", &saga("order", "key = \"{{ input.id }}\"\npriority = 4", ORDER));
    let mut stage = Stage::open(site).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let start = json!({ "saga": "order", "input": { "id": "O-1", "tenant": "acme" } });
    let traceparent = format!("00-{trace}-00f067aa0ba902b7-01");
    let (_, begun) =
        stage.daemon.try_post("/v1/sagas", &[("traceparent", &traceparent)], &start).await.expect("an answer");
    let id = begun["id"].as_str().expect("an id").to_owned();

    let one = stage.take("a").await;
    let properties = one.properties().clone();
    let text = |value: &Option<lapin::types::ShortString>| value.as_ref().map(ToString::to_string);
    assert_eq!(text(properties.content_type()).as_deref(), Some("application/json"));
    assert_eq!(text(properties.kind()).as_deref(), Some("a.one"));
    assert_eq!(text(properties.app_id()).as_deref(), Some("sagad"));
    assert_eq!(text(properties.reply_to()), Some(format!("{}.replies", stage.site.prefix())));
    assert_eq!(properties.message_id(), properties.correlation_id());
    assert_eq!((*properties.delivery_mode(), *properties.priority()), (Some(2), Some(4)));
    assert!(properties.timestamp().is_some_and(|seconds| seconds > 1_700_000_000), "{properties:?}");
    let expiration: u64 = text(properties.expiration()).and_then(|text| text.parse().ok()).expect("milliseconds");
    assert!((18_000..20_000).contains(&expiration), "just under the time-out: {expiration}");
    for (header, value) in [
        ("saga-id", id.as_str()),
        ("saga-name", "order"),
        ("saga-key", "O-1"),
        ("saga-step", "one"),
        ("saga-action", "execute"),
        ("tenant", "acme"),
    ] {
        assert_eq!(one.text(header), value, "{header}");
    }
    assert_eq!(one.header("saga-attempt"), Some(AMQPValue::LongLongInt(1)));
    assert_eq!(one.header("shard"), Some(AMQPValue::LongLongInt(5)));
    assert_eq!(one.header("saga-in-doubt"), None);
    let deadline = one.text("saga-deadline");
    assert!(deadline.ends_with('Z') && humantime::parse_rfc3339(&deadline).is_ok(), "{deadline}");
    let (key, carried) = (one.text("idempotency-key"), one.text("traceparent"));
    assert!(carried.starts_with(&format!("00-{trace}-")) && carried.ends_with("-01"), "{carried}");
    assert_ne!(carried, traceparent, "a span of its own");
    assert_eq!(one.body(), json!({ "id": "O-1", "tenant": "acme" }), "the input, where there is no body");

    // Another attempt is another message under the same key.
    one.say(Some("retry"), b"").await;
    let again = stage.take("a").await;
    assert_eq!(again.text("idempotency-key"), key);
    assert_eq!(again.header("saga-attempt"), Some(AMQPValue::LongLongInt(2)));
    assert_ne!(again.properties().message_id(), properties.message_id());
    again.say(None, br#"{"n":123456789012345678901234567890}"#).await;

    let two = stage.take("b").await;
    assert_eq!(two.properties().expiration(), &None, "expires = false");
    let body = r#"{"id":"O-1","n":123456789012345678901234567890,"text":"n=123456789012345678901234567890"}"#;
    assert_eq!(String::from_utf8_lossy(&two.delivery.data), body, "types and digits are kept");
    two.succeed().await;
    stage.take("b").await.answer(json!({ "error": { "code": "E7", "message": "sold out" } })).await;

    let undo = stage.take("b").await;
    assert_eq!(undo.body(), json!({ "step": "three", "reason": "failure", "message": "sold out" }));
    undo.succeed().await;
    let undo = stage.take("a").await;
    assert_eq!((undo.routing_key(), undo.text("saga-action")), ("a.undo_one", "compensate".to_owned()));
    assert_eq!(undo.properties().expiration(), &None, "an undo never expires");
    assert_eq!(*undo.properties().priority(), Some(9));
    assert_eq!(undo.header("saga-attempt"), Some(AMQPValue::LongLongInt(1)), "counted apart from the forward ones");
    assert_eq!(undo.header("saga-in-doubt"), None);
    assert_ne!(undo.text("idempotency-key"), key);
    let sent = r#"{"command":{"id":"O-1","tenant":"acme"},"reply":{"n":123456789012345678901234567890}}"#;
    assert_eq!(String::from_utf8_lossy(&undo.delivery.data), sent);
    undo.succeed().await;
    let ended = stage.ends(&id, "compensated").await;
    assert_eq!(ended["error"]["details"]["code"], "E7", "{ended}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saga_without_a_key_or_a_trace_sends_no_key_and_a_trace_of_its_own() {
    let site = site().await;
    site.define("plain", &saga("plain", "", "[[steps]]\nname = \"one\"\ncommand = \"a.one\"\ncompensate = false"));
    let mut stage = Stage::open(site).await;
    let id = stage.start("plain", json!({})).await;
    let one = stage.take("a").await;
    assert_eq!(one.header("saga-key"), None);
    assert_eq!(*one.properties().priority(), Some(0));
    let traceparent = one.text("traceparent");
    let parts: Vec<&str> = traceparent.split('-').collect();
    assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [2, 32, 16, 2], "{traceparent}");
    one.succeed().await;
    stage.ends(&id, "completed").await;
    stage.is_quiet("a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lifecycle_events_are_those_that_the_definition_asks_for() {
    let site = site().await;
    let steps = "[[steps]]\nname = \"one\"\ncommand = \"a.one\"\ncompensate = { command = \"a.undo\" }\n\
                 [[steps]]\nname = \"two\"\ncommand = \"b.two\"\ncompensate = false";
    for events in ["none", "saga", "step"] {
        site.define(events, &saga(events, &format!("events = \"{events}\""), steps));
    }
    let mut stage = Stage::open(site).await;
    let heard = stage.own_queue(Some(&format!("{}.events", stage.site.prefix())), "saga.#").await;
    for (definition, expected) in [
        ("none", Vec::new()),
        ("saga", vec!["started", "suspended", "resumed", "compensating", "compensated"]),
        (
            "step",
            vec![
                "started",
                "suspended",
                "resumed",
                "step.one.succeeded",
                "step.two.failed",
                "compensating",
                "step.one.compensated",
                "compensated",
            ],
        ),
    ] {
        let id = stage.start(definition, json!({})).await;
        let one = stage.take("a").await;
        stage.daemon.post(&format!("/v1/sagas/{id}/suspend"), &json!({ "reason": "wait" })).await;
        stage.daemon.post(&format!("/v1/sagas/{id}/resume"), &json!({})).await;
        one.succeed().await;
        stage.take("b").await.fail().await;
        stage.take("a").await.succeed().await;
        stage.ends(&id, "compensated").await;
        let mut ids = Vec::new();
        for what in expected {
            let event = stage.take_from(&heard).await;
            assert_eq!(event.routing_key(), format!("saga.{definition}.{what}"));
            let body = event.body();
            assert_eq!((&body["specversion"], &body["subject"]), (&json!("1.0"), &json!(id)), "{body}");
            for member in ["id", "source", "type", "time"] {
                assert!(body[member].is_string(), "{member}: {body}");
            }
            assert_eq!(*event.properties().delivery_mode(), Some(2));
            ids.push(body["id"].to_string());
            event.drop_it().await;
        }
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count, "each event has its own id");
    }
}
