//! The AsyncAPI document: that it has every message, and that what sagad sends is what it says.

use std::sync::Arc;
use std::time::Duration;

use sagad::broker::message::Outgoing;
use sagad::broker::names::Names;
use sagad::config::{BrokerConfig, QueueType, Topology};
use sagad::core::definition::Definition;
use sagad::core::id::SagaId;
use sagad::core::parse::parse;
use sagad::core::start::{NewSaga, check_input, start};
use sagad::core::time::Time;
use sagad::wire::outgoing;
use sagad::wire::signature::Signer;
use serde_json::{Map, Value, json};
use uuid::Uuid;

const EVERYTHING: &str = include_str!("../live/asyncapi/everything.toml");

fn everything() -> Definition {
    let (definition, warnings) = parse(EVERYTHING, &mut |_| Err("no files".to_owned())).expect("a definition");
    assert!(warnings.is_empty(), "{warnings:?}");
    definition
}

fn document(definition: &Definition) -> Value {
    let broker = BrokerConfig {
        url: "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned(),
        prefix: "shop".to_owned(),
        queue_type: QueueType::Classic,
        prefetch: 1,
        max_message: 1,
    };
    sagad::asyncapi::document([definition], &broker, &Topology::default())
}

#[test]
fn every_message_is_there_once_in_its_direction() {
    let document = document(&everything());
    let operations = document["operations"].as_object().expect("operations");
    let of = |action: &str| -> Vec<&str> {
        let named = operations.iter().filter(|(_, it)| it["action"] == action);
        named.map(|(name, _)| name.as_str()).filter(|name| !name.contains(".lifecycle.")).collect()
    };
    let sent = [
        "everything.reserve.execute",
        "everything.reserve.compensate",
        "everything.charge.execute",
        "everything.charge.compensate",
        "everything.charge.probe",
        "everything.ship.execute",
        "everything.ship.compensate",
        "everything.hooked.execute",
        "everything.tell.publish",
    ];
    assert_eq!(of("send"), sent);
    let received = [
        "everything.start",
        "everything.start.event1",
        "everything.start.event2",
        "everything.reserve.execute.success",
        "everything.reserve.execute.failure",
        "everything.approval.wait",
        "everything.customs.wait",
    ];
    assert_eq!(of("receive"), received);
    // Seven of the saga, two of each step and a third of those that can be undone.
    let lifecycle = operations.keys().filter(|name| name.contains(".lifecycle.")).count();
    assert_eq!(lifecycle, 7 + 8 * 2 + 3);

    assert!(operations["everything.reserve.execute"].get("reply").is_none(), "events answer it");
    let reply = &operations["everything.charge.execute"]["reply"];
    assert_eq!(reply["address"]["location"], "$message.header#/reply_to");
    assert_eq!(document["channels"]["shop.replies"]["bindings"]["amqp"]["queue"]["name"], "shop.replies");
    let correlated = &document["components"]["messages"]["everything.charge.execute"]["correlationId"];
    assert_eq!(correlated["$ref"], "#/components/correlationIds/correlation_id");

    let channel = &document["channels"]["all.events.stock.reserved"];
    let messages: Vec<&String> = channel["messages"].as_object().expect("messages").keys().collect();
    assert_eq!(messages, ["everything.reserve.execute.success", "everything.tell.publish"], "one channel for both");
    assert_eq!(channel["bindings"]["amqp"]["exchange"]["name"], "all.events");
    let pattern = &document["channels"]["all.events.any.imported.all"];
    assert_eq!(pattern["address"], "{word1}.imported.{words2}");
    assert_eq!(document["channels"]["all_odd.what_is_this___"]["address"], Value::Null, "it would be no address");
}

#[test]
fn bodies_have_the_types_of_what_they_are_made_of() {
    let document = document(&everything());
    let payload = |message: &str| &document["components"]["messages"][message]["payload"];
    let of_reserve = &payload("everything.reserve.execute")["properties"];
    assert_eq!(of_reserve["order"], json!({ "type": "string", "minLength": 1 }));
    assert_eq!(of_reserve["mail"], json!({ "type": "string", "format": "email" }));
    assert_eq!((&of_reserve["note"], &of_reserve["urgent"]), (&json!({ "type": "string" }), &json!({ "const": true })));
    let refund = &payload("everything.charge.compensate")["properties"]["payment"];
    assert_eq!(refund, &json!({ "anyOf": [{ "type": "string" }, { "type": "null" }] }), "in doubt there is no reply");
    assert_eq!(payload("everything.ship.execute")["properties"]["payment"], json!({ "type": "string" }));
    assert_eq!(payload("everything.hooked.execute"), &json!({ "$ref": "#/components/schemas/everything.input" }));
    assert_eq!(payload("everything.ship.compensate")["required"], json!(["command", "reply"]));
    let output = &payload("everything.lifecycle.completed")["properties"]["data"]["properties"]["output"];
    assert_eq!(output["properties"]["payment"], json!({ "type": "string" }));
}

/// What is wrong with a value by a schema of the document.
fn wrong(document: &Value, pointer: &str, value: &Value) -> Vec<String> {
    let mut schema = document.as_object().expect("an object").clone();
    schema.insert("$ref".to_owned(), format!("#{pointer}").into());
    let validator = jsonschema::options().offline().build(&Value::Object(schema)).expect("a schema");
    validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

#[test]
fn what_sagad_sends_is_what_the_document_says() {
    let definition = everything();
    let document = document(&definition);
    let (names, signer, now) = (Names::new("shop"), Signer::new(&[7; 32]), Time(1_767_323_045_678));
    let input =
        Arc::new(json!({ "order_id": "A1", "items": [], "customer": { "email": "a@b.example" }, "pair": [1, "abc"] }));
    let key = check_input(&definition, &input).expect("it fits");
    let new = NewSaga {
        id: SagaId(Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_0001)),
        revision: 1,
        input,
        priority: None,
        delay: Duration::ZERO,
        trace: None,
        parent: None,
        actor: "test".to_owned(),
    };
    let begun = start(&definition, new, key, now).expect("it begins");
    let effects = begun.effects.iter().cloned();
    let commands = effects.map(|effect| outgoing::effect(&names, &signer, &definition, &begun.saga, effect, now));
    let mut sent: Vec<(&str, Outgoing)> = commands.map(|command| ("everything.reserve.execute", command)).collect();
    let events = outgoing::events(&names, &definition, &begun.saga, &begun.entries, now);
    sent.extend(events.into_iter().map(|event| ("everything.lifecycle.started", event)));
    assert_eq!(sent.len(), 2, "{sent:?}");
    for (name, message) in sent {
        let at = format!("/components/messages/{name}");
        let headers = Value::Object(message.properties.headers.clone());
        assert_eq!(wrong(&document, &format!("{at}/headers"), &headers), [""; 0], "{name}: {headers}");
        let body: Value = serde_json::from_slice(&message.body).expect("JSON");
        assert_eq!(wrong(&document, &format!("{at}/payload"), &body), [""; 0], "{name}: {body}");
        assert_eq!(document["components"]["messages"][name]["title"], message.routing_key);
        // No header is left unsaid.
        let none = Map::new();
        let said = document.pointer(&format!("{at}/headers/properties")).and_then(Value::as_object).unwrap_or(&none);
        let unsaid: Vec<_> = message.properties.headers.keys().filter(|name| !said.contains_key(*name)).collect();
        assert!(unsaid.is_empty(), "{unsaid:?}");
    }
    let empty = json!({});
    assert!(!wrong(&document, "/components/messages/everything.reserve.execute/headers", &empty).is_empty());
}
