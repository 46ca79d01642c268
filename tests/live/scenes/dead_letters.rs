//! Dead letters are answers.

use std::time::Duration;

use serde_json::json;

use super::{Stage, saga, site};
use crate::daemon::Site;

const QUEUES: &str = r#"
[[topology.queues]]
name = "PREFIX-limited"
type = "quorum"
delivery_limit = 1
bind = [{ exchange = "PREFIX-commands", routing_key = "limited.*" }]
[[topology.queues]]
name = "PREFIX-newest"
type = "classic"
max_length = 1
bind = [{ exchange = "PREFIX-commands", routing_key = "newest.*" }]
[[topology.queues]]
name = "PREFIX-full"
type = "classic"
max_length = 1
overflow = "reject-publish"
bind = [{ exchange = "PREFIX-commands", routing_key = "full.*" }]
[[topology.queues]]
name = "PREFIX-forgotten"
type = "classic"
bind = [{ exchange = "PREFIX-commands", routing_key = "forgotten.*" }]
"#;

fn step(command: &str, more: &str) -> String {
    format!("[[steps]]\nname = \"one\"\ncommand = \"{command}\"\n{more}\ncompensate = {{ command = \"b.undo\" }}")
}

async fn stage(definitions: &[(&str, String)]) -> Stage {
    let site: Site = site().await.with_config(QUEUES);
    for (name, steps) in definitions {
        site.define(name, &saga(name, "", steps));
    }
    Stage::open(site).await
}

/// The saga failed in its first step for this reason, which nobody had done anything about.
async fn is_known_not_to_have_run(stage: &mut Stage, id: &str, reason: &str) {
    let ended = stage.ends(id, "compensated").await;
    let (step, error) = (&ended["steps"][0], &ended["error"]);
    assert_eq!((&step["status"], &step["error"]["reason"]), (&json!("failed"), &json!(reason)), "{ended}");
    assert_eq!((&error["step"], &error["reason"]), (&json!("one"), &json!(reason)), "{ended}");
    assert_eq!(step["compensation"], json!(null), "{ended}");
    stage.is_quiet("b");
}

/// The next undo, of a step that is in doubt for this reason.
async fn is_in_doubt(stage: &mut Stage, id: &str, reason: &str) {
    let undo = stage.take("b").await;
    assert!(undo.is_in_doubt() && undo.text("saga-id") == id);
    undo.succeed().await;
    assert_eq!(stage.ends(id, "compensated").await["error"]["reason"], reason);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejected_command_is_tried_again_and_then_in_doubt() {
    let mut stage = stage(&[("rejected", step("a.one", ""))]).await;
    let id = stage.start("rejected", json!({})).await;
    stage.take("a").await.reject(false).await;
    stage.take("a").await.reject(false).await;
    is_in_doubt(&mut stage, &id, "rejected").await;
    stage.is_quiet("a");
    assert!(stage.letters(0).await.is_empty(), "what is an answer is not kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_nobody_took_is_known_not_to_have_run() {
    let mut stage = stage(&[("expired", step("forgotten.one", "timeout = \"5s\"\nretry.attempts = 1"))]).await;
    let id = stage.start("expired", json!({})).await;
    // It dies half a second before its attempt does.
    is_known_not_to_have_run(&mut stage, &id, "expired").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_somebody_held_past_its_attempt_stays_in_doubt() {
    let steps = format!(
        "{}\n[[steps]]\nname = \"two\"\ncommand = \"a.two\"\ncompensate = false",
        step("a.one", "optional = true\ntimeout = \"500ms\"\nretry.attempts = 1")
    );
    let mut stage = stage(&[("held", steps)]).await;
    let id = stage.start("held", json!({})).await;
    let held = stage.take("a").await;
    let two = stage.take("a").await;
    assert_eq!(stage.saga(&id).await["steps"][0]["status"], "in_doubt");
    // RabbitMQ says the second in which a message died, not the moment.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    held.reject(true).await;
    // It dies at once, and somebody had it: no other word of the broker's will settle the doubt.
    let history = format!("/v1/sagas/{id}/history");
    stage.look(&history, "the dead letter", |entries| entries.to_string().contains("\"expired\"")).await;
    assert_eq!(stage.saga(&id).await["steps"][0]["status"], "in_doubt");
    two.fail().await;
    is_in_doubt(&mut stage, &id, "failure").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_was_delivered_too_often_is_in_doubt() {
    let mut stage = stage(&[("limited", step("limited.one", "retry.attempts = 1"))]).await;
    let id = stage.start("limited", json!({})).await;
    stage.take("limited").await.reject(true).await;
    stage.take("limited").await.reject(true).await;
    is_in_doubt(&mut stage, &id, "delivery_limit").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_a_full_queue_has_no_room_for_is_known_not_to_have_run() {
    let once = "retry.attempts = 1";
    let mut stage = stage(&[("newest", step("newest.one", once)), ("full", step("full.one", once))]).await;
    // The older one makes room.
    let first = stage.start("newest", json!({})).await;
    let second = stage.start("newest", json!({})).await;
    is_known_not_to_have_run(&mut stage, &first, "max_length").await;
    let kept = stage.take("newest").await;
    assert_eq!(kept.text("saga-id"), second);
    kept.succeed().await;
    stage.ends(&second, "completed").await;
    // The newer one is refused. Two starts go out in the order of their commits.
    let first = stage.start("full", json!({})).await;
    let second = stage.start("full", json!({})).await;
    is_known_not_to_have_run(&mut stage, &second, "max_length").await;
    let kept = stage.take("full").await;
    assert_eq!(kept.text("saga-id"), first);
    kept.succeed().await;
    stage.ends(&first, "completed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_without_a_binding_or_an_exchange_is_known_not_to_have_run() {
    let elsewhere = step("x.one", "exchange = \"PREFIX-missing\"");
    let mut stage = stage(&[("unbound", step("nobody.one", "")), ("elsewhere", elsewhere)]).await;
    for definition in ["unbound", "elsewhere"] {
        let id = stage.start(definition, json!({})).await;
        is_known_not_to_have_run(&mut stage, &id, "unroutable").await;
        assert_eq!(stage.saga(&id).await["steps"][0]["attempts"], 2);
    }
}
