//! Delays, and wake-ups that get lost.

use std::time::{Duration, Instant};

use lapin::options::QueuePurgeOptions;
use serde_json::json;

use super::{Stage, saga, site};

const LATER: &str = "[[steps]]\nname = \"one\"\ncommand = \"a.one\"\ndelay = \"700ms\"\ncompensate = false";
const NOW: &str = "[[steps]]\nname = \"one\"\ncommand = \"a.one\"\ncompensate = false";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delay_is_waited_for_and_a_cancelled_saga_sends_nothing() {
    let site = site().await;
    site.define("later", &saga("later", "", LATER));
    site.define("now", &saga("now", "", NOW));
    let mut stage = Stage::open(site).await;
    // Cancelled while they wait, one for its start and one for its step: their wake-ups come before that of the third.
    let body = json!({ "saga": "now", "input": {}, "delay": "300ms" });
    let (_, pending) = stage.daemon.post("/v1/sagas", &body).await;
    assert_eq!((&pending["status"], &pending["started_at"]), (&json!("pending"), &json!(null)), "{pending}");
    let scheduled = stage.start("later", json!({})).await;
    assert_eq!(stage.saga(&scheduled).await["steps"][0]["status"], "scheduled");
    for id in [pending["id"].as_str().expect("an id"), scheduled.as_str()] {
        let (_, cancelled) = stage.daemon.post(&format!("/v1/sagas/{id}/cancel"), &json!({ "reason": "no" })).await;
        assert_eq!((&cancelled["status"], &cancelled["error"]["reason"]), (&json!("compensated"), &json!("cancelled")));
        assert_eq!(cancelled["error"]["message"], "no");
    }
    let begun = Instant::now();
    let (_, third) = stage.daemon.post("/v1/sagas", &json!({ "saga": "later", "input": {}, "delay": "200ms" })).await;
    let one = stage.take("a").await;
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    assert_eq!(json!(one.text("saga-id")), third["id"], "nothing of the cancelled ones");
    one.succeed().await;
    stage.ends(third["id"].as_str().expect("an id"), "completed").await;
    stage.is_quiet("a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_wake_up_is_a_sweep_late_at_the_most() {
    let site = site().await.with_setting("SAGAD__DELAY__SWEEP", "1s");
    site.define("later", &saga("later", "", LATER));
    let mut stage = Stage::open(site).await;
    let begun = Instant::now();
    let id = stage.start("later", json!({})).await;
    while begun.elapsed() < Duration::from_millis(750) {
        for rung in 0..4 {
            let queue = format!("{}.delay.{}", stage.site.prefix(), 100 << rung);
            stage.channel.queue_purge(queue.as_str().into(), QueuePurgeOptions::default()).await.expect("purged");
        }
    }
    stage.take("a").await.succeed().await;
    stage.ends(&id, "completed").await;
    let sent = stage.history(&id).await.into_iter().find(|entry| entry["type"] == "sent").expect("it was sent");
    let at = humantime::parse_rfc3339(sent["at"].as_str().expect("a time")).expect("a time");
    let accepted = humantime::parse_rfc3339(stage.saga(&id).await["created_at"].as_str().expect("a time")).expect("it");
    let waited = at.duration_since(accepted).expect("later");
    assert!(waited >= Duration::from_millis(700), "{waited:?}");
    assert!(waited < Duration::from_secs(10), "{waited:?}");
}
