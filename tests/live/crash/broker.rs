//! The broker is killed.

use std::time::Duration;

use super::verdict::verify_everything;
use super::{Kind, Trial};
use crate::daemon::Daemon;
use crate::rabbitmq;

/// How often.
const KILLS: u32 = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_broker_is_killed() {
    let mut node = rabbitmq::private().await;
    let trial = Trial::new(node.control(), Kind::Sqlite).await;
    let load = trial.load(25);
    let mut daemon = trial.site.start().await;
    load.goes_to([&daemon]);
    for kill in 0..KILLS {
        tokio::time::sleep(trial.chance.of(("kill", kill)).millis(500..2_500)).await;
        // Else the node would come back with a queue that has no leader and never will.
        node.sync().await;
        node.kill();
        daemon.until("it misses the broker", Duration::from_secs(30), |status, _| status == 503).await;
        starts_are_accepted(&daemon, kill).await;
        node.start().await;
        daemon.ready().await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut started = load.stop().await;
    for kill in 0..KILLS {
        started.insert(format!("away-{kill}"), None);
    }
    assert!(started.len() > 100, "this was no load: {}", started.len());
    verify_everything(&trial, vec![daemon], &started, 0).await;
}

/// Starts need the database alone.
async fn starts_are_accepted(daemon: &Daemon, kill: u32) {
    let start = serde_json::json!({ "saga": "trial", "input": { "n": format!("away-{kill}") } });
    let (status, body) = daemon.post("/v1/sagas", &start).await;
    assert_eq!(status, 201, "{body}");
}
