//! What sagad guarantees, on both stores.

use serde_json::{Value, json};

use super::{Stage, saga, sites};
use crate::daemon::Site;
use crate::rabbitmq;

const CHAIN: &str = r#"
[[steps]]
name = "one"
command = "a.one"
compensate = { command = "a.undo_one" }
[[steps]]
name = "two"
command = "b.two"
compensate = { command = "b.undo_two" }
[[steps]]
name = "three"
command = "a.three"
compensate = { command = "a.undo_three" }
[[steps]]
name = "four"
command = "b.four"
compensate = { command = "b.undo_four" }
"#;

const HASTY: &str = r#"
[[steps]]
name = "one"
command = "a.one"
timeout = "400ms"
retry.attempts = 1
compensate = { command = "a.undo" }
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compensation_goes_in_reverse_and_never_for_what_was_not_sent() {
    for (site, database) in sites().await {
        site.define("chain", &saga("chain", "", CHAIN));
        let mut stage = Stage::with(site, database).await;
        let id = stage.start("chain", json!({})).await;
        stage.take("a").await.succeed().await;
        stage.take("b").await.succeed().await;
        stage.take("a").await.fail().await;
        let undo = stage.take("b").await;
        assert_eq!(undo.routing_key(), "b.undo_two");
        assert_eq!(stage.saga(&id).await["steps"][0]["status"], "succeeded", "its turn comes after");
        undo.succeed().await;
        let undo = stage.take("a").await;
        assert_eq!(undo.routing_key(), "a.undo_one");
        undo.succeed().await;
        let ended = stage.ends(&id, "compensated").await;
        let statuses: Vec<&Value> = ended["steps"].as_array().expect("steps").iter().map(|s| &s["status"]).collect();
        assert_eq!(statuses, ["compensated", "compensated", "failed", "pending"]);
        assert_eq!((&ended["error"]["step"], &ended["error"]["reason"]), (&json!("three"), &json!("failure")));
        stage.is_quiet("a");
        stage.is_quiet("b");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_success_is_undone_with_its_reply_even_after_the_end() {
    for (site, database) in sites().await {
        site.define("hasty", &saga("hasty", "", HASTY));
        let mut stage = Stage::with(site, database).await;
        let id = stage.start("hasty", json!({})).await;
        let one = stage.take("a").await;
        let undo = stage.take("a").await;
        assert!(undo.is_in_doubt());
        assert_eq!(undo.body(), json!({ "command": {}, "reply": null }));
        let undo = undo.succeed().await;
        let ended = stage.ends(&id, "compensated").await;
        assert_eq!(ended["error"]["reason"], "timeout", "{ended}");

        let one = one.answer(json!({ "did": "it" })).await;
        let again = stage.take("a").await;
        assert_eq!(again.body(), json!({ "command": {}, "reply": { "did": "it" } }));
        assert!(!again.is_in_doubt());
        assert_ne!(again.text("idempotency-key"), undo.text("idempotency-key"));
        assert_eq!(stage.saga(&id).await["status"], "compensating");
        again.succeed().await;
        stage.until(&id, "the end again", |saga| saga["status"] == "compensated").await;
        // A duplicate is nothing new.
        let before = stage.history(&id).await.len();
        one.say(None, b"{\"did\":\"it\"}").await;
        let sentinel = stage.start("hasty", json!({ "n": 2 })).await;
        let last = stage.take("a").await;
        assert_eq!(last.text("saga-id"), sentinel);
        last.succeed().await;
        stage.ends(&sentinel, "completed").await;
        assert_eq!(stage.history(&id).await.len(), before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_word_of_any_attempt_decides() {
    for (site, database) in sites().await {
        site.define("chain", &saga("chain", "", CHAIN));
        let mut stage = Stage::with(site, database).await;
        let id = stage.start("chain", json!({})).await;
        let first = stage.take("a").await;
        first.say(Some("retry"), b"").await;
        let second = stage.take("a").await;
        // A `retry` of what is not the latest attempt, then the first attempt's success.
        first.say(Some("retry"), b"").await;
        let first = first.answer(json!({ "by": 1 })).await;
        stage.take("b").await.fail().await;
        // The success of the other attempt comes while the step is being undone.
        let undo = stage.take("a").await;
        assert_eq!(undo.body()["reply"], json!({ "by": 1 }));
        second.answer(json!({ "by": 2 })).await;
        first.say(None, b"{\"error\":\"changed my mind\"}").await;
        undo.succeed().await;
        let ended = stage.ends(&id, "compensated").await;
        let one = &ended["steps"][0];
        assert_eq!((&one["attempts"], &one["reply"]), (&json!(2), &json!({ "by": 1 })), "{ended}");
        assert_eq!(one["compensation"]["attempts"], 1, "{ended}");
        stage.is_quiet("a");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_flight_when_a_saga_turns_round_is_waited_for() {
    let graph = r#"
[[steps]]
name = "left"
command = "a.left"
after = []
compensate = { command = "a.undo_left" }
[[steps]]
name = "right"
command = "b.right"
after = []
compensate = { command = "b.undo_right" }
[[steps]]
name = "last"
command = "a.last"
after = ["left", "right"]
compensate = false
"#;
    for (site, database) in sites().await {
        site.define("graph", &saga("graph", "", graph));
        let mut stage = Stage::with(site, database).await;
        let id = stage.start("graph", json!({})).await;
        let (left, right) = (stage.take("a").await, stage.take("b").await);
        left.fail().await;
        let turned = stage.ends(&id, "compensating").await;
        assert_eq!(turned["steps"][1]["status"], "running", "{turned}");
        right.answer(json!({ "seat": 7 })).await;
        let undo = stage.take("b").await;
        assert_eq!((undo.routing_key(), &undo.body()["reply"]), ("b.undo_right", &json!({ "seat": 7 })));
        undo.succeed().await;
        stage.ends(&id, "compensated").await;
        stage.is_quiet("a");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_sagas_deadline_what_is_in_flight_is_in_doubt_at_once() {
    for (site, database) in sites().await {
        let step = HASTY.replace("400ms", "20s");
        site.define("late", &saga("late", "timeout = \"600ms\"", &step));
        let mut stage = Stage::with(site, database).await;
        let id = stage.start("late", json!({})).await;
        let one = stage.take("a").await.drop_it().await;
        let expiration = one.properties().expiration().as_ref().map(ToString::to_string).expect("an expiration");
        assert!(expiration.parse::<u64>().is_ok_and(|millis| millis < 600), "{expiration}");
        let undo = stage.take("a").await;
        assert!(undo.is_in_doubt() && undo.text("saga-action") == "compensate");
        undo.succeed().await;
        let ended = stage.ends(&id, "compensated").await;
        assert_eq!((&ended["error"]["reason"], &ended["error"]["step"]), (&json!("deadline"), &Value::Null), "{ended}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_continue_a_failing_undo_holds_up_no_other_and_the_saga_fails() {
    for (site, database) in sites().await {
        let steps = CHAIN.replace("\"b.undo_two\"", "\"b.undo_two\", retry = { attempts = 2, initial = \"10ms\" }");
        site.define("chain", &saga("chain", "on_compensation_failure = \"continue\"", &steps));
        let mut stage = Stage::with(site, database).await;
        let id = stage.start("chain", json!({})).await;
        stage.take("a").await.succeed().await;
        stage.take("b").await.succeed().await;
        stage.take("a").await.fail().await;
        for attempt in 1..=2 {
            let undo = stage.take("b").await.fail().await;
            assert_eq!(undo.header("saga-attempt"), Some(lapin::types::AMQPValue::LongLongInt(attempt)));
        }
        stage.take("a").await.succeed().await;
        let ended = stage.ends(&id, "failed").await;
        assert_eq!(ended["steps"][1]["status"], "compensation_failed", "{ended}");
        assert_eq!(ended["steps"][0]["status"], "compensated", "{ended}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_are_accepted_while_the_broker_is_away() {
    let mut node = rabbitmq::private().await;
    let site = Site::new(&node.url(), None).with_queues(&["a", "b"]);
    site.define("chain", &saga("chain", "", CHAIN));
    let mut daemon = site.start().await;
    node.kill();
    daemon.until("it misses the broker", super::PATIENCE, |status, _| status != 200).await;
    let (status, saga) = daemon.post("/v1/sagas", &json!({ "saga": "chain", "input": {} })).await;
    assert_eq!((status.as_u16(), &saga["status"]), (201, &json!("running")), "{saga}");
    node.start().await;
    daemon.ready().await;
    let mut stage = Stage::around(site, daemon, None).await;
    let one = stage.take("a").await;
    assert_eq!(json!(one.text("saga-id")), saga["id"]);
}
