//! `sagad asyncapi`: what the official parser says of its documents.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::packages;

const EVERYTHING: &str = include_str!("asyncapi/everything.toml");

/// What the command prints about the definitions in a folder.
async fn document(definitions: &Path, names: &[&str]) -> Output {
    let folder = TempDir::new().expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_sagad"));
    command.arg("asyncapi").args(names).current_dir(folder.path()).env("SAGAD__DEFINITIONS__PATH", definitions);
    command.env("SAGAD__BROKER__URL", "amqps://somebody:secret@mq.example/shop");
    command.kill_on_drop(true).output().await.expect("sagad starts")
}

async fn valid_json(definitions: &Path, names: &[&str]) -> Value {
    let Output { status, stdout, stderr } = document(definitions, names).await;
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    serde_json::from_slice(&stdout).expect("JSON")
}

fn shipped() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/sagas"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_parser_finds_nothing_wrong() {
    let folder = TempDir::new().expect("a folder");
    std::fs::write(folder.path().join("everything.toml"), EVERYTHING).expect("written");
    let everything = valid_json(folder.path(), &[]).await;
    let mut broken = everything.clone();
    broken["operations"]["everything.tell.publish"]["channel"] = json!({ "$ref": "#/channels/nowhere" });
    let documents = [valid_json(shipped(), &[]).await, everything, broken];
    let paths = ["shipped.json", "everything.json", "broken.json"].map(|name| folder.path().join(name));
    for (path, document) in paths.iter().zip(&documents) {
        std::fs::write(path, document.to_string()).expect("written");
    }

    let parser = packages::npm(&["@asyncapi/parser@3.6.3"]).await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/live/asyncapi/validate.mjs");
    let mut node = Command::new("node");
    let output = node.arg(script).args(&paths).current_dir(&parser).kill_on_drop(true).output().await.expect("node");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let judged: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    let [shipped, everything, broken] = &judged[..] else { panic!("three verdicts, not {judged:?}") };
    for (verdict, document) in [(shipped, &documents[0]), (everything, &documents[1])] {
        assert_eq!(verdict["errors"], json!([]), "{verdict:#}");
        // It would rather have 3.1; it has nothing else to say.
        let others = verdict["others"].as_array().expect("a list");
        assert!(others.iter().all(|it| it["code"] == "asyncapi-latest-version"), "{verdict:#}");
        let operations = document["operations"].as_object().expect("operations");
        assert_eq!(verdict["operations"], operations.len());
    }
    assert_ne!(broken["errors"], json!([]), "it looks");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_has_the_definitions_that_are_asked_for_and_no_secret() {
    let all = document(shipped(), &[]).await;
    assert!(!String::from_utf8_lossy(&all.stdout).contains("secret"));
    let trade = valid_json(shipped(), &["trade"]).await;
    let operations = trade["operations"].as_object().expect("operations");
    assert!(operations.keys().all(|name| name.starts_with("trade.")), "{operations:?}");
    assert_eq!(trade["servers"]["rabbitmq"]["host"], "mq.example:5671");
    assert_eq!(trade["servers"]["rabbitmq"]["protocol"], "amqps");

    let unknown = document(shipped(), &["trad"]).await;
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("did you mean `trade`?"));
    let folder = TempDir::new().expect("a folder");
    std::fs::write(folder.path().join("x.toml"), "name = 'x'").expect("written");
    let wrong = document(folder.path(), &[]).await;
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("`sagad check`"));
}
