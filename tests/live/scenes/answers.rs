//! What sagad makes of what participants say.

use std::time::Duration;

use lapin::BasicProperties;
use serde_json::{Value, json};

use super::{Stage, saga, site, table};

const STEP: &str = "[[steps]]\nname = \"one\"\ncommand = \"a.one\"\nretry.attempts = 1\ncompensate = false";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_outcome_is_the_headers_word_and_else_that_of_the_body() {
    let site = site().await;
    site.define("one", &saga("one", "", STEP));
    let mut stage = Stage::open(site).await;
    let cases: [(Option<&str>, &str, &str, Value); 10] = [
        (None, "{\"id\":1}", "completed", Value::Null),
        (None, "", "completed", Value::Null),
        (None, "[{\"error\":1}]", "completed", Value::Null),
        (None, "{\"error\":null}", "completed", Value::Null),
        (None, "{\"error\":\"declined\"}", "compensated", json!("declined")),
        (None, "{\"error\":{\"code\":\"E\",\"message\":\"m\",\"details\":[1]}}", "compensated", json!("m")),
        (None, "{\"error\":false}", "compensated", json!("false")),
        (Some("success"), "{\"error\":\"only a word\"}", "completed", Value::Null),
        (Some("failure"), "{\"fine\":true}", "compensated", json!("the participant gave no message")),
        (Some("retry"), "{\"error\":\"busy\"}", "compensated", json!("busy")),
    ];
    for (outcome, body, status, message) in cases {
        let id = stage.start("one", json!({})).await;
        stage.take("a").await.say(outcome, body.as_bytes()).await;
        let ended = stage.until(&id, "the end", |saga| saga["ended_at"].is_string()).await;
        assert_eq!((&ended["status"], &ended["error"]["message"]), (&json!(status), &message), "{outcome:?} {body}");
        if status == "completed" {
            let reply: Value = serde_json::from_str(body).unwrap_or_default();
            assert_eq!(ended["steps"][0]["reply"], reply, "{body}");
        } else {
            assert_eq!(ended["error"]["reason"], "failure", "{ended}");
        }
    }
    stage.is_quiet("a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pending_begins_the_attempts_time_out_anew() {
    let site = site().await;
    site.define("one", &saga("one", "", &format!("{STEP}\ntimeout = \"2s\"")));
    let mut stage = Stage::open(site).await;
    let id = stage.start("one", json!({})).await;
    let one = stage.take("a").await;
    let first = stage.saga(&id).await["updated_at"].clone();
    let begun = tokio::time::Instant::now();
    for _ in 0..3 {
        let before = stage.history(&id).await.len();
        tokio::time::sleep(Duration::from_millis(900)).await;
        one.say(Some("pending"), b"").await;
        let path = format!("/v1/sagas/{id}/history");
        let longer = |page: &Value| page["items"].as_array().is_some_and(|items| items.len() > before);
        stage.look(&path, "the extension", longer).await;
    }
    assert!(begun.elapsed() > Duration::from_secs(2));
    assert_ne!(stage.saga(&id).await["updated_at"], first);
    one.succeed().await;
    assert_eq!(stage.ends(&id, "completed").await["steps"][0]["attempts"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_read_or_placed_is_kept_and_changes_nothing() {
    let site = site().await;
    site.define("one", &saga("one", "", STEP));
    let mut stage = Stage::open(site).await;
    let id = stage.start("one", json!({})).await;
    let one = stage.take("a").await;
    let (prefix, real) = (stage.site.prefix().to_owned(), one.correlation_id());
    let replies = format!("{prefix}.replies");
    let forged = real.replace(".e1.", ".c1.");
    let answer = |id: &str| BasicProperties::default().with_correlation_id(id.into());
    stage.publish("", &replies, BasicProperties::default(), b"{}").await;
    stage.publish("", &replies, answer("nobody's"), b"{}").await;
    stage.publish("", &replies, answer(&forged), b"{}").await;
    stage.publish("", &replies, answer(&real), b"no JSON").await;
    stage.publish("", &replies, answer(&real).with_headers(table(&[("saga-outcome", "maybe")])), b"{}").await;
    stage.publish(&format!("{prefix}.dead"), "x.y", BasicProperties::default(), b"{}").await;
    stage.publish("", &format!("{prefix}.wakeups"), BasicProperties::default(), b"\xff").await;
    let letters = stage.letters(7).await;
    let unread = letters.iter().find(|letter| letter["body"] == "no JSON").expect("it is kept with its body");
    assert_eq!((&unread["queue"], &unread["properties"]["correlation_id"]), (&json!("replies"), &json!(real)));
    assert!(letters.iter().all(|letter| !letter["reason"].as_str().unwrap_or_default().is_empty()));
    assert_eq!(stage.saga(&id).await["status"], "running");
    one.succeed().await;
    stage.ends(&id, "completed").await;
    // What is placed and changes nothing is counted.
    stage.publish("", &replies, answer(&real), b"{}").await;
    let counted = |metrics: &Value| {
        let metrics = metrics.as_str().unwrap_or_default();
        metrics.lines().any(|line| line == "sagad_answers_ignored_total{why=\"settled\"} 1")
    };
    stage.look("/metrics", "the duplicate", counted).await;
    stage.letters(7).await;
}
