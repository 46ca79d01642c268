//! What is stored, held against the journals: all is well with what daemons write, and damage is found and mended.

mod beyond;
mod busy;
mod damage;
mod quarantine;

use std::time::{Duration, Instant};

use serde_json::json;
use uuid::Uuid;

use super::{PATIENCE, Stage, Taken, saga, sites};
use crate::verify::{Backdoor, command, look, open, verify};

/// One for each customer at a time, with a list, a child, and a step that takes long.
const TRIP: &str = r#"
[[steps]]
name = "pack"
foreach = "{{ input.items }}"
command = "a.pack"
compensate = { command = "a.unpack" }
[[steps]]
name = "leg"
saga = "leg"
input = { n = "{{ input.n }}" }
[[steps]]
name = "last"
command = "b.last"
timeout = "10m"
compensate = false
"#;

const HEAD: &str =
    "key = \"{{ input.n }}\"\nlock = { key = \"{{ input.customer }}\", mode = \"queue\" }\nmax_running = 50";

const LEG: &str = r#"
[[steps]]
name = "walk"
command = "a.walk"
compensate = { command = "a.back" }
"#;

const NOTE: &str = "[[steps]]\nname = \"take\"\npublish = \"note.taken\"\n";

const SLOW: &str =
    "[[steps]]\nname = \"wait\"\ncommand = \"b.slow\"\ncompensate = false\ntimeout = \"2s\"\nretry.attempts = 1\n";

async fn stages() -> Vec<Stage> {
    let mut stages = Vec::new();
    for (site, database) in sites().await {
        site.define("trip", &saga("trip", HEAD, TRIP));
        site.define("leg", &saga("leg", "", LEG));
        site.define("note", &saga("note", "key = \"{{ input.n }}\"", NOTE));
        site.define("slow", &saga("slow", "", SLOW));
        stages.push(Stage::with(site, database).await);
    }
    stages
}

fn uuid(id: &str) -> Uuid {
    id.parse().expect("an id")
}

/// Starts a trip; the items are packed by what comes of `a.pack`.
async fn trip(stage: &Stage, n: u32, customer: &str) -> String {
    let items: Vec<u32> = (0..20).collect();
    stage.start("trip", json!({ "n": n.to_string(), "customer": customer, "items": items })).await
}

/// Brings a trip to its last step, whose command is not answered yet.
async fn on_its_way(stage: &mut Stage, n: u32, customer: &str) -> (String, Taken) {
    let id = trip(stage, n, customer).await;
    for _ in 0..21 {
        stage.take("a").await.succeed().await;
    }
    let last = stage.take("b").await;
    assert_eq!(last.text("saga-id"), id);
    // Nothing is left to be sent once more.
    let mut backdoor = Backdoor::of(stage.site.store()).await;
    let deadline = Instant::now() + PATIENCE;
    while backdoor.count("SELECT count(*) FROM outbox").await > 0 {
        assert!(Instant::now() < deadline, "the outbox is not emptied");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    (id, last)
}

async fn note(stage: &Stage, n: u32) -> String {
    let id = stage.start("note", json!({ "n": n.to_string() })).await;
    stage.ends(&id, "completed").await;
    id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_is_well_with_what_a_daemon_writes() {
    for mut stage in stages().await {
        note(&stage, 1).await;
        let later = json!({ "saga": "note", "input": { "n": "2" }, "delay": "1h" });
        assert_eq!(stage.daemon.post("/v1/sagas", &later).await.0, 201);
        // One is undone, children and all; the next of the same customer is let in, and one more waits for that.
        let (undone, last) = on_its_way(&mut stage, 3, "ann").await;
        let next = trip(&stage, 4, "ann").await;
        stage.until(&next, "its turn", |saga| saga["status"] == "pending").await;
        last.fail().await;
        for _ in 0..21 {
            stage.take("a").await.succeed().await;
        }
        stage.ends(&undone, "compensated").await;
        let pack = stage.take("a").await;
        assert_eq!(pack.text("saga-id"), next);
        trip(&stage, 5, "ann").await;
        let (suspended, _last) = on_its_way_beside(&mut stage, 6, "bob").await;
        let (status, _) = stage.daemon.post(&format!("/v1/sagas/{suspended}/suspend"), &json!({})).await;
        assert_eq!(status, 200);

        for running in [true, false] {
            if !running {
                stage.daemon.kill();
            }
            let verdict = verify(stage.site.store(), stage.site.folder(), running).await;
            verdict.is_well();
            assert_eq!(verdict.report, json!({ "findings": [], "sagas": 8, "found": 0, "repaired": 0, "left": 0 }));
        }
        let output = command(stage.site.store(), stage.site.folder()).output().expect("sagad starts");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "checked 8 sagas: all is well\n");
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
}

/// As [`on_its_way`], while commands of others are there too.
async fn on_its_way_beside(stage: &mut Stage, n: u32, customer: &str) -> (String, Taken) {
    let id = trip(stage, n, customer).await;
    let mut own = 0;
    while own < 21 {
        let taken = stage.take("a").await;
        if taken.text("saga-id") == id || taken.routing_key() == "a.walk" {
            taken.succeed().await;
            own += 1;
        }
    }
    (id, stage.take("b").await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_not_there_is_said_to_be_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = format!("sqlite://{}", folder.path().join("nothing.db").display());
    for (store, code, word) in [
        (missing.as_str(), 3, "nothing.db"),
        ("postgres://nobody@127.0.0.1:1/nothing", 3, "not available"),
        ("mysql://x", 2, "store.url"),
    ] {
        let output = command(store, folder.path()).output().expect("sagad starts");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{store}: {complaint}");
        assert!(complaint.contains(word), "{complaint}");
    }
    assert!(!folder.path().join("nothing.db").exists(), "it makes nothing");
}
