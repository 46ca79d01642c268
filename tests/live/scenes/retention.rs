//! How long ended sagas are kept.

use serde_json::{Value, json};

use super::{Stage, saga, site, sites};

const STEP: &str = "[[steps]]\nname = \"one\"\ncommand = \"a.one\"\ncompensate = false";

/// Starts a saga under an idempotency key: the status and the saga.
async fn start(stage: &Stage, definition: &str, key: &str) -> (u16, Value) {
    let body = json!({ "saga": definition, "input": { "key": key } });
    let headers = [("idempotency-key", key), ("prefer", "wait=0")];
    let (status, saga) = stage.daemon.try_post("/v1/sagas", &headers, &body).await.expect("an answer");
    (status.as_u16(), saga)
}

/// Runs a saga to its end, and gives its id.
async fn run(stage: &mut Stage, definition: &str, key: &str) -> String {
    let (status, saga) = start(stage, definition, key).await;
    assert_eq!(status, 201, "{saga}");
    stage.take("a").await.succeed().await;
    saga["id"].as_str().expect("an id").to_owned()
}

async fn is_gone(stage: &Stage, id: &str) {
    let gone = |problem: &Value| problem["type"] == "urn:sagad:problem:unknown-saga";
    stage.look(&format!("/v1/sagas/{id}"), "the purge", gone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ended_sagas_are_purged_after_their_retention_and_their_starts_answered_for_ever() {
    for (site, database) in sites().await {
        site.define("kept", &saga("kept", "", STEP));
        site.define("short", &saga("short", "retention = \"1s\"\nkey = \"{{ input.key }}\"", STEP));
        let mut stage = Stage::with(site, database).await;
        let kept = run(&mut stage, "kept", "k").await;
        stage.ends(&kept, "completed").await;
        let waiting = start(&stage, "short", "waits").await.1;
        let taken = stage.take("a").await;
        let short = run(&mut stage, "short", "s").await;
        is_gone(&stage, &short).await;

        let (status, again) = start(&stage, "short", "s").await;
        assert_eq!((status, again), (200, json!({ "id": short, "saga": "short", "status": "completed" })));
        for path in ["/history", "/cancel"] {
            let path = format!("/v1/sagas/{short}{path}");
            let (status, problem) = match path.ends_with("history") {
                true => stage.daemon.get(&path).await,
                false => stage.daemon.post(&path, &json!({})).await,
            };
            assert_eq!(status, 404, "{problem}");
        }
        // The business key is free; what has not ended and what is kept for ever is there.
        let (status, other) = start(&stage, "short", "other").await;
        assert_eq!(status, 201, "{other}");
        stage.take("a").await.succeed().await;
        assert_eq!(stage.saga(&kept).await["status"], "completed");
        let waiting = waiting["id"].as_str().expect("an id");
        assert_eq!(stage.saga(waiting).await["status"], "running");
        is_gone(&stage, other["id"].as_str().expect("an id")).await;
        taken.succeed().await;
        is_gone(&stage, waiting).await;

        let (_, metrics) = stage.daemon.get("/metrics").await;
        let metrics = metrics.as_str().expect("text");
        assert!(metrics.contains("sagad_sagas_purged_total{saga=\"short\"} 3"), "{metrics}");
        assert!(stage.daemon.log().contains("purged ended sagas"));
        let (_, page) = stage.daemon.get("/v1/sagas").await;
        assert_eq!(page["items"].as_array().map(Vec::len), Some(1), "{page}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_configuration_says_how_long_where_no_definition_does() {
    let site = site().await.with_setting("SAGAD__STORE__RETENTION", "1s");
    site.define("own", &saga("own", "retention = \"1h\"", STEP));
    site.define("left", &saga("left", "retention = \"1h\"", STEP));
    site.define("none", &saga("none", "", STEP));
    let mut stage = Stage::open(site).await;
    let (own, left) = (run(&mut stage, "own", "o").await, run(&mut stage, "left", "l").await);
    let none = run(&mut stage, "none", "n").await;
    is_gone(&stage, &none).await;
    assert_eq!(stage.saga(&left).await["status"], "completed");
    std::fs::remove_file(stage.site.folder().join("sagas/left.toml")).expect("the definition goes");
    is_gone(&stage, &left).await;
    assert_eq!(stage.saga(&own).await["status"], "completed");
}
