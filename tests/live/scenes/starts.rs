//! Starting over AMQP.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};

use super::{Stage, Taken, saga, site, table};

const STEP: &str = "[[steps]]\nname = \"one\"\ncommand = \"a.one\"\ncompensate = false";

/// Publishes a start and gives the answer to it. A start whose acknowledgement was lost with its daemon is answered again: those
/// answers are passed over.
async fn start(stage: &mut Stage, answers: &str, definition: &str, properties: BasicProperties, body: &[u8]) -> Taken {
    let mine = uuid::Uuid::now_v7().to_string();
    let properties = properties.with_reply_to(answers.into()).with_correlation_id(mine.as_str().into());
    let exchange = format!("{}.start", stage.site.prefix());
    stage.publish(&exchange, definition, properties, body).await;
    loop {
        let answer = stage.take_from(answers).await.drop_it().await;
        if answer.correlation_id() == mine {
            return answer;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_is_answered_and_its_copies_never_start_a_second_saga() {
    let site = site().await;
    site.define("one", &saga("one", "", STEP));
    let mut stage = Stage::open(site).await;
    let answers = stage.own_queue(None, "").await;
    let with_id = || BasicProperties::default().with_message_id("m-1".into());
    let with_header = |key| BasicProperties::default().with_headers(table(&[("idempotency-key", key)]));
    let first = start(&mut stage, &answers, "one", with_id(), b"{\"n\":1}").await.body();
    assert_eq!(first["status"], "running", "{first}");
    let one = stage.take("a").await;
    assert_eq!(json!(one.text("saga-id")), first["saga_id"]);
    assert_eq!(one.body(), json!({ "n": 1 }));
    one.succeed().await;
    let id = first["saga_id"].as_str().expect("an id").to_owned();
    stage.ends(&id, "completed").await;
    for copy in [with_id(), with_header("m-1")] {
        let again = start(&mut stage, &answers, "one", copy, b"{\"n\":2}").await.body();
        assert_eq!(again, json!({ "saga_id": id, "status": "completed" }));
    }

    // For ever: also for a daemon that knows of it from its database only.
    stage.daemon.kill();
    stage.daemon = stage.site.start().await;
    let again = start(&mut stage, &answers, "one", with_id(), b"{\"n\":3}").await.body();
    assert_eq!(again, json!({ "saga_id": id, "status": "completed" }));
    let mut number = FieldTable::default();
    number.insert("idempotency-key".into(), AMQPValue::LongInt(7));
    let mut ids = Vec::new();
    for _ in 0..2 {
        let properties = BasicProperties::default().with_headers(number.clone());
        ids.push(start(&mut stage, &answers, "one", properties, b"{\"n\":4}").await.body()["saga_id"].clone());
    }
    assert_eq!(ids[0], ids[1], "a number is a key too");
    let one = stage.take("a").await;
    assert_eq!(one.body(), json!({ "n": 4 }), "nothing in between");
    one.succeed().await;
    assert!(stage.letters(0).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_makes_no_sense_is_refused_and_kept() {
    let site = site().await;
    let schema = "[input]\ntype = \"object\"\nrequired = [\"n\"]";
    site.define("one", &saga("one", schema, STEP));
    let mut stage = Stage::open(site).await;
    let answers = stage.own_queue(None, "").await;
    let cases: [(&str, &[u8], &str); 4] = [
        ("nobody", b"{}", "unknown_definition"),
        ("one", b"{}", "invalid_input"),
        ("one", b"{\"n\":", "unreadable"),
        ("one", b"\xff\xfe", "unreadable"),
    ];
    for (definition, body, code) in cases {
        let answer = start(&mut stage, &answers, definition, BasicProperties::default(), body).await;
        let error = answer.body()["error"].clone();
        assert_eq!(error["code"], code, "{error}");
        assert!(error["message"].is_string(), "{error}");
    }
    let letters = stage.letters(cases.len()).await;
    assert!(letters.iter().all(|letter| letter["queue"] == "start"), "{letters:?}");
    let (_, page) = stage.daemon.get("/v1/sagas").await;
    assert_eq!(page, json!({ "items": [], "next_cursor": Value::Null }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_goes_on_from_a_start_over_amqp() {
    let site = site().await;
    site.define("one", &saga("one", "", STEP));
    let mut stage = Stage::open(site).await;
    let exchange = format!("{}.start", stage.site.prefix());
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    let properties = BasicProperties::default().with_headers(table(&[("traceparent", trace)]));
    stage.publish(&exchange, "one", properties, b"{}").await;
    let carried = stage.take("a").await.succeed().await.text("traceparent");
    assert!(carried.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && carried.ends_with("-00"), "{carried}");
    let properties = BasicProperties::default().with_headers(table(&[("traceparent", "00-nonsense-01")]));
    stage.publish(&exchange, "one", properties, b"{}").await;
    let own = stage.take("a").await.succeed().await;
    let id = own.text("saga-id").replace('-', "");
    assert!(own.text("traceparent").contains(&id), "a trace of its own");
}
