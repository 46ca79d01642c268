//! `sagad bench`: what it promises of its figures, and that it leaves nothing behind.

use std::os::unix::fs::PermissionsExt;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::rabbitmq::{self, Node};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_scenario_is_verified_on_both_stores_and_leaves_nothing_behind() {
    let node = rabbitmq::private().await;
    let run = async |store: &'static str, scenario: &'static str, in_flight: &[usize]| {
        let folder = Folder::new();
        let mut command = folder.bench(&node);
        command.args([
            "--store",
            store,
            "--scenario",
            scenario,
            "--in-flight",
            &list(in_flight),
            "--seconds",
            "1",
            "--rounds",
            "1",
        ]);
        let Output { status, stdout, stderr } = command.arg("--json").output().await.expect("sagad starts");
        assert!(status.success(), "{store} {scenario}: {}", String::from_utf8_lossy(&stderr));
        let report: Value = serde_json::from_slice(&stdout).expect("JSON");
        let runs = report["runs"].as_array().expect("runs");
        assert_eq!(runs.len(), in_flight.len());
        for (run, in_flight) in runs.iter().zip(in_flight) {
            assert_eq!(
                (&run["store"], &run["scenario"], &run["in_flight"]),
                (&store.into(), &scenario.into(), &(*in_flight).into())
            );
            assert_eq!(run["verified"], true, "{run}");
            let figure = |name: &str| {
                run[name].as_f64().filter(|figure| *figure > 0.0).unwrap_or_else(|| panic!("{name} of {run}"))
            };
            assert!((figure("ratio") - figure("sagas_per_s") / figure("null_sagas_per_s")).abs() < 0.01, "{run}");
            assert!(figure("p50_ms") <= figure("p99_ms"), "{run}");
            for part in ["daemon", "broker", "participants", "database"] {
                let micros = run["cpu_us_per_saga"][part].as_f64().unwrap_or_else(|| panic!("{part} of {run}"));
                assert!(
                    micros > 0.0 || (part == "database" && store == "sqlite") || *in_flight == 1,
                    "{part} of {run}"
                );
            }
        }
        folder.is_empty();
    };
    tokio::join!(
        run("sqlite", "success", &[1, 8]),
        run("postgres", "failure", &[8]),
        run("sqlite", "parallel", &[8]),
        run("postgres", "retry", &[8]),
    );
    assert_eq!(leftovers(&node).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_in_the_middle_it_removes_what_it_made() {
    let node = rabbitmq::private().await;
    let folder = Folder::new();
    let mut command = folder.bench(&node);
    command.args(["--store", "postgres", "--in-flight", "8", "--seconds", "600"]);
    let bench = command.stderr(Stdio::piped()).spawn().expect("sagad starts");
    let measuring = async {
        while !leftovers(&node).await.iter().any(|queue| queue.ends_with("-null.replies")) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), measuring).await.expect("it sets its queues up");
    let pid = bench.id().expect("it runs").to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.expect("kill").success());
    let output = tokio::time::timeout(Duration::from_secs(30), bench.wait_with_output())
        .await
        .expect("it ends")
        .expect("its end");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("stopped before its end"), "{output:?}");
    folder.is_empty();
    assert_eq!(leftovers(&node).await, Vec::<String>::new());
}

fn list(numbers: &[usize]) -> String {
    numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

/// Its queues and exchanges.
async fn leftovers(node: &Node) -> Vec<String> {
    let exchanges = node.ctl(&["list_exchanges", "--quiet", "--no-table-headers", "name"]).await;
    let queues = node.list_queues(&["name"]).await.into_iter().filter_map(|row| row.into_iter().next());
    let all = queues.chain(exchanges.lines().map(str::to_owned));
    all.filter(|name| name.starts_with("sagad-bench-")).collect()
}

/// Where a bench keeps its files.
struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        let folder = tempfile::tempdir().expect("a folder");
        // Postgres has a user of its own where the tests are root's.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
        Folder(folder)
    }

    fn bench(&self, node: &Node) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sagad"));
        command.arg("bench").current_dir(self.0.path()).env("TMPDIR", self.0.path()).kill_on_drop(true);
        command.env("SAGAD__BROKER__URL", node.url()).env_remove("SAGAD__STORE__URL");
        command
    }

    fn is_empty(&self) {
        let files: Vec<_> =
            std::fs::read_dir(self.0.path()).expect("readable").flatten().map(|file| file.path()).collect();
        assert!(files.is_empty(), "it left {files:?}");
    }
}
