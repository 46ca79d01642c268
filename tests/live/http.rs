//! The HTTP API of a real daemon: what only shows with a broker, a database and participants behind it.

use std::time::{Duration, Instant};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use serde_json::{Value, json};

use crate::daemon::{Daemon, Site};
use crate::participants::{Participants, Reply};
use crate::rabbitmq;

const ORDER: &str = r#"
name = "order"
key = "{{ input.n }}"
[defaults]
exchange = "PREFIX-commands"
timeout = "20s"
retry = { attempts = 2, initial = "10ms" }
[[steps]]
name = "one"
command = "a.one"
compensate = { command = "a.undo_one", retry = { attempts = 2, initial = "10ms" } }
[[steps]]
name = "two"
command = "a.two"
compensate = false
"#;

async fn publish(site: &Site, exchange: &str, routing_key: &str, properties: BasicProperties, body: &[u8]) {
    let connection = Connection::connect(site.amqp(), ConnectionProperties::default()).await.expect("a connection");
    let channel = connection.create_channel().await.expect("a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let confirm = channel.basic_publish(exchange.into(), routing_key.into(), options, body, properties).await;
    let confirmation = confirm.expect("published").await.expect("confirmed");
    assert!(confirmation.is_ack(), "{confirmation:?}");
    assert!(confirmation.take_message().is_none(), "no queue took it");
    connection.close(200, "OK".into()).await.expect("closed");
}

/// Looks at `path` until its answer is as `expected`.
async fn until(daemon: &Daemon, path: &str, what: &str, expected: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let (_, answer) = daemon.get(path).await;
        if expected(&answer) {
            return answer;
        }
        assert!(Instant::now() < deadline, "waiting until {what} took too long; {path}: {answer}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn count(page: &Value) -> usize {
    page["items"].as_array().map_or(0, Vec::len)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_of_a_definition_that_comes_later_can_be_replayed() {
    let site = Site::new(rabbitmq::shared().await, None).with_queues(&["a"]);
    let daemon = site.start().await;
    let mut headers = FieldTable::default();
    let mut nested = FieldTable::default();
    nested.insert("$serde_json::private::Number".into(), lapin::types::AMQPValue::LongString("no number".into()));
    headers.insert("odd".into(), lapin::types::AMQPValue::FieldTable(nested));
    // `user_id` must be the connection's own when it is sent, and again when it is sent again.
    let properties =
        BasicProperties::default().with_message_id("m-1".into()).with_user_id("guest".into()).with_headers(headers);
    publish(&site, &format!("{}.start", site.prefix()), "order", properties, br#"{"n":"7"}"#).await;
    let page = until(&daemon, "/v1/dead-letters", "the start is kept", |page| count(page) == 1).await;
    let letter = &page["items"][0];
    assert_eq!(
        (&letter["queue"], &letter["routing_key"], &letter["body"]),
        (&json!("start"), &json!("order"), &json!(r#"{"n":"7"}"#))
    );
    assert_eq!(letter["properties"]["message_id"], "m-1", "{letter}");
    assert!(letter["reason"].as_str().unwrap_or_default().contains("order"), "{letter}");

    site.define("order", ORDER);
    // The watcher may have been faster.
    let (status, reloaded) = daemon.post("/v1/definitions/reload", &json!({})).await;
    assert_eq!(status, 200, "{reloaded}");
    let path = format!("/v1/dead-letters/{}", letter["id"].as_str().unwrap_or_default());
    let (status, answer) = daemon.post(&format!("{path}/replay"), &json!({})).await;
    assert_eq!(status, 204, "{answer}");
    assert_eq!(daemon.get(&path).await.0, 404);
    let page = until(&daemon, "/v1/sagas?saga=order", "the saga is there", |page| count(page) == 1).await;
    assert_eq!(page["items"][0]["key"], "7");
    let history = format!("/v1/sagas/{}/history", page["items"][0]["id"].as_str().unwrap_or_default());
    assert_eq!(daemon.get(&history).await.1["items"][0]["actor"], "amqp");
    assert_eq!(count(&daemon.get("/v1/dead-letters").await.1), 0, "it did not come again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_to_nothing_is_kept_until_it_is_discarded() {
    let site = Site::new(rabbitmq::shared().await, None);
    let daemon = site.start().await;
    let properties = BasicProperties::default().with_correlation_id("nobody's".into());
    publish(&site, "", &format!("{}.replies", site.prefix()), properties, b"\xff\x00").await;
    let page = until(&daemon, "/v1/dead-letters", "it is kept", |page| count(page) == 1).await;
    let first = page["items"][0].clone();
    assert_eq!((&first["body_is_text"], &first["body_bytes"]), (&json!(false), &json!(2)));
    let path = |letter: &Value| format!("/v1/dead-letters/{}", letter["id"].as_str().unwrap_or_default());
    assert_eq!(daemon.post(&format!("{}/replay", path(&first)), &json!({})).await.0, 204);
    // It is as unknown as before, and kept as another.
    let is_another = |page: &Value| count(page) == 1 && page["items"][0]["id"] != first["id"];
    let page = until(&daemon, "/v1/dead-letters", "it is kept again", is_another).await;
    let path = path(&page["items"][0]);
    let delete = || reqwest::Client::new().delete(daemon.url() + &path).send();
    assert_eq!(delete().await.expect("an answer").status(), 204);
    assert_eq!(delete().await.expect("an answer").status(), 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_steers_a_saga_whose_undo_fails() {
    let site = Site::new(rabbitmq::shared().await, None).with_queues(&["a"]);
    site.define("order", ORDER);
    let daemon = site.start().await;
    let participants = Participants::start(site.amqp(), vec![site.name("a")], |command| match &*command.routing_key {
        "a.two" => Reply::failure("no"),
        "a.undo_one" if command.attempt < 3 => Reply::failure("not yet"),
        _ => Reply::success(json!({ "n": 18_446_744_073_709_551_616_u128 })),
    });
    let start = json!({ "saga": "order", "input": { "n": "1" } });
    let (status, saga) = daemon.try_post("/v1/sagas", &[("prefer", "wait=30")], &start).await.expect("an answer");
    assert_eq!((status.as_u16(), &saga["status"]), (201, &json!("suspended")), "{saga}");
    assert!(saga["suspended"]["reason"].as_str().unwrap_or_default().contains("one"), "{saga}");
    assert_eq!((&saga["error"]["step"], &saga["error"]["reason"]), (&json!("two"), &json!("failure")));
    let compensation = &saga["steps"][0]["compensation"];
    assert_eq!((&compensation["status"], &compensation["attempts"]), (&json!("failed"), &json!(2)));
    assert_eq!(compensation["error"]["message"], "not yet");
    assert_eq!(saga["steps"][0]["reply"].to_string(), r#"{"n":18446744073709551616}"#, "every digit");

    let path = format!("/v1/sagas/{}", saga["id"].as_str().unwrap_or_default());
    let (status, problem) = daemon.post(&format!("{path}/steps/two/retry"), &json!({})).await;
    assert_eq!((status.as_u16(), &problem["type"]), (409, &json!("urn:sagad:problem:state-forbids")), "{problem}");
    let (status, problem) = daemon.post(&format!("{path}/steps/three/retry"), &json!({})).await;
    assert_eq!((status.as_u16(), &problem["type"]), (404, &json!("urn:sagad:problem:unknown-step")), "{problem}");
    let (status, saga) = daemon.post(&format!("{path}/steps/one/retry"), &json!({ "reason": "it works again" })).await;
    assert_eq!(status, 200, "{saga}");
    let saga = until(&daemon, &path, "it is compensated", |saga| saga["status"] == "compensated").await;
    assert_eq!(saga["steps"][0]["compensation"]["attempts"], 3);
    let (_, history) = daemon.get(&format!("{path}/history")).await;
    let retried = history["items"].as_array().and_then(|items| items.iter().find(|item| item["type"] == "retried"));
    let retried = retried.unwrap_or_else(|| panic!("nobody retried: {history}"));
    assert_eq!(
        (&retried["actor"], &retried["step"], &retried["action"], &retried["data"]["reason"]),
        (&json!("http"), &json!("one"), &json!("compensate"), &json!("it works again"))
    );
    let (status, problem) = daemon.post(&format!("{path}/cancel"), &json!({})).await;
    assert_eq!((status.as_u16(), &problem["type"]), (409, &json!("urn:sagad:problem:state-forbids")), "it has ended");
    participants.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_found_out_by_hand_ends_a_saga() {
    let site = Site::new(rabbitmq::shared().await, None).with_queues(&["a"]);
    site.define("order", ORDER);
    let daemon = site.start().await;
    let participants = Participants::start(site.amqp(), vec![site.name("a")], |command| match &*command.routing_key {
        "a.one" => Reply::success(json!({})),
        _ => Reply::failure("no"),
    });
    for (key, outcome, status) in [("1", "compensated", "compensated"), ("2", "given_up", "failed")] {
        let start = json!({ "saga": "order", "input": { "n": key } });
        let (_, saga) = daemon.try_post("/v1/sagas", &[("prefer", "wait=30")], &start).await.expect("an answer");
        assert_eq!(saga["status"], "suspended", "{saga}");
        let path = format!("/v1/sagas/{}", saga["id"].as_str().unwrap_or_default());
        let found = json!({ "outcome": outcome, "reason": "looked it up" });
        let (code, saga) = daemon.post(&format!("{path}/steps/one/resolve"), &found).await;
        assert_eq!((code.as_u16(), &saga["status"]), (200, &json!(status)), "{saga}");
        assert!(saga["ended_at"].is_string(), "{saga}");
    }
    participants.stop().await;
}
