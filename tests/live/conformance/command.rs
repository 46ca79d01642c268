//! The command itself: its exit codes, its JSON, and that it leaves nothing behind.

use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::Place;
use super::wrong::{self, Flaw};
use crate::rabbitmq;

/// What the command said.
pub(super) struct Said {
    pub(super) code: i32,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// Runs `sagad conformance` against whoever works at `place`.
pub(super) async fn conformance(place: &Place, more: &[&str]) -> Said {
    let options = place.options();
    let mut arguments = vec!["--exchange", &options.exchange, "--execute", &options.execute];
    arguments.extend(["--compensate", &options.compensate, "--body", "-", "--timeout", "10s"]);
    arguments.extend(more);
    let config = place.scope.config();
    run(&config.url, &config.prefix, &arguments, &options.body).await
}

async fn run(url: &str, prefix: &str, arguments: &[&str], body: &Value) -> Said {
    let folder = TempDir::new().expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_sagad"));
    command.arg("conformance").args(arguments).current_dir(folder.path()).kill_on_drop(true);
    command.env("SAGAD__BROKER__URL", url).env("SAGAD__BROKER__PREFIX", prefix);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn().expect("sagad starts");
    let mut stdin = running.stdin.take().expect("piped");
    // Whoever finds wrong usage does not read it.
    let _ = stdin.write_all(body.to_string().as_bytes()).await;
    drop(stdin);
    let output = running.wait_with_output().await.expect("it ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Said { code: output.status.code().expect("no signal"), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_tells_machines_and_leaves_nothing_behind() {
    let node = rabbitmq::own().await;
    let url = node.url();
    let place = Place::new(&url).await;
    let _participant = wrong::start(&url, &place.queue, Flaw::UndoNeedsReply).await;
    let said = conformance(&place, &["--json", "--step", "pay"]).await;
    assert_eq!(said.code, 1, "{}", said.stderr);
    let report: Value = serde_json::from_str(&said.stdout).expect("JSON");
    assert_eq!(report["conforms"], false);
    let checks = report["checks"].as_array().expect("checks");
    let find = |id: &str| checks.iter().find(|check| check["check"] == id).expect("such a check");
    let in_doubt = find("in-doubt");
    assert_eq!((&in_doubt["verdict"], &in_doubt["level"]), (&json!("failed"), &json!("required")));
    assert_eq!(in_doubt["why"], "failure \"no such payment\"");
    assert!(in_doubt["help"].is_string());
    let passed = json!({
        "check": "compensation", "level": "required", "verdict": "passed", "what": "an undo of what was done succeeds",
    });
    assert_eq!(find("compensation"), &passed);
    let left: Vec<_> = node.list_queues(&["name", "messages"]).await;
    let ours: Vec<_> = left.iter().filter(|row| row[0].starts_with(place.scope.prefix())).collect();
    assert_eq!(ours, [&[place.queue.clone(), "0".to_owned()]], "the participant's queue alone, and empty");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_can_have_a_body_of_its_own() {
    let url = rabbitmq::shared().await;
    let place = Place::new(url).await;
    let _participant = wrong::start(url, &place.queue, Flaw::UndoNeedsReply).await;
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("undo.json");
    // Never null, whatever is known of the command.
    let body = json!({ "reply": "{{ steps.pay.reply.payment_id or 'of ' ~ saga.id }}", "why": "{{ error.reason }}" });
    std::fs::write(&file, body.to_string()).expect("written");
    let file = file.to_str().expect("UTF-8");
    let said = conformance(&place, &["--step", "pay", "--compensate-body", file]).await;
    assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
    let said = conformance(&place, &["--step", "other", "--compensate-body", file]).await;
    assert_eq!(said.code, 2, "{}", said.stdout);
    assert!(said.stderr.contains("the undo's body"), "{}", said.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_fails_shows_little() {
    let url = rabbitmq::shared().await;
    let place = Place::new(url).await;
    let _participant = wrong::start(url, &place.queue, Flaw::Nothing).await;
    let mut options = place.options();
    // The routing keys the wrong way round: the undo leaves its tombstone, and the command finds it.
    std::mem::swap(&mut options.execute, &mut options.compensate);
    let report = sagad::conformance::run(&place.scope.config(), &options).await.expect("verdicts");
    let second = report.checks.iter().find(|it| it.check == "second-attempt").expect("such a check");
    assert_eq!(second.verdict, sagad::conformance::Status::NotShown, "{report}");
    let compensation = report.checks.iter().find(|it| it.check == "compensation").expect("such a check");
    assert_eq!(compensation.verdict, sagad::conformance::Status::Failed, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_usage_is_told_from_a_broker_that_is_away() {
    let url = rabbitmq::shared().await;
    let place = Place::new(url).await;
    let (exchange, prefix) = (place.exchange.as_str(), place.scope.prefix());
    let nowhere = place.scope.name("nowhere");
    let aside = place.scope.name("aside");
    place
        .client
        .channel
        .exchange_declare(aside.as_str().into(), lapin::ExchangeKind::Direct, Default::default(), Default::default())
        .await
        .expect("declared");
    let keys = ["--execute", "payment.charge", "--compensate", "payment.refund", "--body", "-"];
    let on = |exchange: &str, keys: &[&str]| {
        ["--exchange", exchange].iter().chain(keys).map(|it| (*it).to_owned()).collect::<Vec<_>>()
    };
    for (url, arguments, body, code, words) in [
        ("amqp://127.0.0.1:1/%2f", on(exchange, &keys), json!({}), 3, "can't connect to the broker"),
        (url, on(&nowhere, &keys), json!({}), 2, "NOT_FOUND"),
        (url, on(&aside, &keys), json!({}), 2, "no queue is bound to the exchange"),
        (url, on(exchange, &keys), json!("{{ input.x }}"), 2, "the body: "),
        (url, on(exchange, &keys[..4]), json!({}), 2, "--body"),
        (url, on(exchange, &[&keys[..], &["--timeout", "1ms"]].concat()), json!({}), 2, "between 100ms and 1h"),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let said = run(url, prefix, &arguments, &body).await;
        assert_eq!(said.code, code, "{arguments:?}: {}{}", said.stdout, said.stderr);
        assert!(said.stderr.contains(words), "{arguments:?}: {}", said.stderr);
    }
}
