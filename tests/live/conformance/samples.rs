//! The sample participants, each in its own language.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::Place;
use super::command::conformance;
use crate::{packages, rabbitmq};

/// Runs it, checks it, and expects that nothing is wrong with it.
async fn passes(place: &Place, folder: &TempDir, participant: &mut Command) {
    participant.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut running: Child = participant.kill_on_drop(true).spawn().expect("it starts");
    let checked = tokio::select! {
        checked = conformance(place, &[]) => checked,
        ended = running.wait() => panic!("it ended: {ended:?}"),
    };
    assert_eq!(checked.code, 0, "{}{}", checked.stdout, checked.stderr);
    assert!(checked.stdout.contains("19 passed, 0 failed"), "{}", checked.stdout);
    running.kill().await.expect("it ends");
}

/// A copy of a sample that takes its commands from `place`.
fn copy(place: &Place, folder: &TempDir, sample: &str) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(sample);
    let text = std::fs::read_to_string(source).expect("the sample");
    let queue = format!("\"{}\"", place.queue);
    assert!(text.contains("\"payments\""), "the sample names its queue");
    std::fs::write(folder.path().join(sample), text.replace("\"payments\"", &queue)).expect("written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sample_in_python_passes() {
    let url = rabbitmq::shared().await;
    let (place, folder) = (Place::new(url).await, tempfile::tempdir().expect("a folder"));
    let packages = packages::pip(&["pika==1.4.4"]).await;
    copy(&place, &folder, "participant.py");
    let mut python = Command::new("python3");
    python.args(["participant.py", url]).env("PYTHONPATH", packages);
    passes(&place, &folder, &mut python).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sample_in_javascript_passes() {
    let url = rabbitmq::shared().await;
    let (place, folder) = (Place::new(url).await, tempfile::tempdir().expect("a folder"));
    let packages = packages::npm(&["amqplib@2.3.1"]).await;
    copy(&place, &folder, "participant.mjs");
    std::os::unix::fs::symlink(packages.join("node_modules"), folder.path().join("node_modules")).expect("linked");
    let mut node = Command::new(packages::node().await);
    node.args(["participant.mjs", url]);
    passes(&place, &folder, &mut node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sample_in_rust_passes() {
    let url = rabbitmq::shared().await;
    let (place, folder) = (Place::new(url).await, tempfile::tempdir().expect("a folder"));
    let rest = ["orders", "inventory", "shipments", "flights", "hotels", "cars", "travel-payments"];
    for queue in rest.iter().chain(&["risk", "funds", "trades", "settlements"]) {
        place.client.queue(&place.scope.name(queue)).await;
    }
    let prefix = format!("{}.", place.scope.prefix());
    let mut participants = Command::new(built("participants"));
    participants.args(["--amqp", url, "--prefix", &prefix]);
    passes(&place, &folder, &mut participants).await;
}

/// An example. A plain `cargo test` builds all of them; one that names its targets does not.
fn built(example: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_sagad")).with_file_name("examples").join(example);
    assert!(path.exists(), "{} is not there: cargo build --example {example}", path.display());
    path
}
