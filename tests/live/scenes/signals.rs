//! Signals, over HTTP and over AMQP.

use lapin::BasicProperties;
use serde_json::{Value, json};

use super::{Stage, saga, site, table};

/// Waits for a word between two commands.
const WAIT: &str = r#"
[[steps]]
name = "one"
command = "a.one"
compensate = false
[[steps]]
name = "approval"
wait = { signal = "approved" }
[[steps]]
name = "two"
command = "b.two"
body = { by = "{{ steps.approval.reply.by }}" }
compensate = false
"#;

fn named(pairs: &[(&str, &str)]) -> BasicProperties {
    BasicProperties::default().with_headers(table(pairs))
}

async fn signal(stage: &Stage, name: &str, properties: BasicProperties, body: &[u8]) {
    let exchange = format!("{}.signals", stage.site.prefix());
    stage.publish(&exchange, name, properties, body).await;
}

/// How often something of this type is in the saga's history.
async fn count(stage: &Stage, id: &str, kind: &str) -> usize {
    stage.history(id).await.iter().filter(|entry| entry["type"] == kind).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_over_http_goes_to_the_step_that_waits_for_it_and_once_only() {
    let site = site().await;
    site.define("wait", &saga("wait", "", WAIT));
    let mut stage = Stage::open(site).await;
    let id = stage.start("wait", json!({})).await;
    let path = format!("/v1/sagas/{id}/signals/approved");

    stage.take("a").await.succeed().await;
    stage.until(&id, "the wait", |saga| saga["steps"][1]["status"] == "running").await;
    let (status, saga) = stage.daemon.post(&path, &json!({ "by": "ann" })).await;
    assert_eq!((status.as_u16(), &saga["id"]), (200, &json!(id)), "{saga}");
    let two = stage.take("b").await;
    assert_eq!(two.body(), json!({ "by": "ann" }));
    two.succeed().await;
    stage.ends(&id, "completed").await;
    let received = stage.history(&id).await.into_iter().find(|entry| entry["type"] == "received").expect("received");
    assert_eq!(received["actor"], "http", "{received}");

    for (path, status, word) in [
        (path.clone(), 409, "state-forbids"),
        (format!("/v1/sagas/{id}/signals/nobody-waits"), 409, "state-forbids"),
        (format!("/v1/sagas/{}/signals/approved", uuid::Uuid::nil()), 404, "unknown-saga"),
    ] {
        let (answered, problem) = stage.daemon.post(&path, &json!({ "by": "bob" })).await;
        assert_eq!(answered.as_u16(), status, "{problem}");
        assert!(problem["type"].as_str().is_some_and(|kind| kind.ends_with(word)), "{problem}");
    }
    assert!(stage.letters(0).await.is_empty(), "whoever asks over HTTP is told: nothing is kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_may_come_before_its_step_and_twice_and_over_amqp() {
    let site = site().await;
    site.define("wait", &saga("wait", "key = \"{{ input.order }}\"", WAIT));
    let mut stage = Stage::open(site).await;
    let id = stage.start("wait", json!({ "order": "A-1" })).await;
    let other = stage.start("wait", json!({ "order": "A-2" })).await;
    let (first, second) = (stage.take("a").await, stage.take("a").await);

    // By id and by key, each of them twice, long before its step is reached.
    for _ in 0..2 {
        let by_id = named(&[("saga-id", &id)]).with_message_id("m-1".into());
        signal(&stage, "approved", by_id, b"{\"by\":\"ann\"}").await;
        let by_key = named(&[("saga-name", "wait"), ("saga-key", "A-2"), ("idempotency-key", "k-1")]);
        signal(&stage, "approved", by_key, b"{\"by\":\"bob\"}").await;
    }
    for (id, by) in [(&id, "ann"), (&other, "bob")] {
        let received = |saga: &Value| saga["updated_at"] != saga["started_at"];
        stage.until(id, "the signal", received).await;
        assert_eq!(count(&stage, id, "received").await, 1, "for {by}");
    }
    // A daemon that did not see them come.
    stage.daemon.kill();
    stage.daemon = stage.site.start().await;
    first.succeed().await;
    second.succeed().await;
    let mut bodies = Vec::new();
    for _ in 0..2 {
        let two = stage.take("b").await;
        bodies.push((two.text("saga-id"), two.body()["by"].clone()));
        two.succeed().await;
    }
    bodies.sort_by_key(|(_, by)| by.to_string());
    assert_eq!(bodies, [(id.clone(), json!("ann")), (other.clone(), json!("bob"))]);
    for id in [&id, &other] {
        stage.ends(id, "completed").await;
        assert_eq!(count(&stage, id, "received").await, 1);
    }
    stage.is_quiet("b");
    assert!(stage.letters(0).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_for_nobody_is_kept_and_can_be_handed_in_again() {
    let site = site().await;
    site.define("wait", &saga("wait", "key = \"{{ input.order }}\"", WAIT));
    let mut stage = Stage::open(site).await;
    let nobody = uuid::Uuid::now_v7().to_string();
    let cases = [
        (
            vec![("saga-name", "wait"), ("saga-key", "A-1")],
            b"{\"by\":\"ann\"}".as_slice(),
            "there is no saga `wait` with the key \"A-1\"",
        ),
        (vec![("saga-id", nobody.as_str())], b"".as_slice(), "there is no saga"),
        (vec![("saga-id", "A-1")], b"", "which is no saga's id"),
        (vec![("saga-name", "wait")], b"", "both saga-name and saga-key"),
        (vec![("saga-id", nobody.as_str())], b"{", "can't be read as JSON"),
    ];
    for (at, (headers, body, reason)) in cases.into_iter().enumerate() {
        signal(&stage, "approved", named(&headers), body).await;
        let letters = stage.letters(at + 1).await;
        let told = letters[0]["reason"].as_str().expect("a reason");
        assert!(told.contains(reason), "{told}");
        assert_eq!((&letters[0]["queue"], &letters[0]["routing_key"]), (&json!("signals"), &json!("approved")));
    }

    let id = stage.start("wait", json!({ "order": "A-1" })).await;
    let letters = stage.letters(5).await;
    let first = letters.last().and_then(|letter| letter["id"].as_str()).expect("an id");
    let (status, _) = stage.daemon.post(&format!("/v1/dead-letters/{first}/replay"), &json!({})).await;
    assert_eq!(status, 204);
    stage.take("a").await.succeed().await;
    let two = stage.take("b").await;
    assert_eq!(two.body(), json!({ "by": "ann" }));
    two.succeed().await;
    stage.ends(&id, "completed").await;

    // One that comes too late is kept as well: somebody sent it and may want to know.
    signal(&stage, "approved", named(&[("saga-id", &id)]), b"{}").await;
    let letters = stage.letters(5).await;
    assert!(letters[0]["reason"].as_str().is_some_and(|reason| reason.contains("completed")), "{letters:?}");
}
