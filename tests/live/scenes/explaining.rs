//! `sagad explain` and the orders that it proposes, as processes beside a daemon.

use std::process::{Command, Output};

use serde_json::{Value, json};

use super::{Stage, saga, site};

/// Runs `sagad` with these arguments and variables and no others of its own.
fn sagad(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sagad"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SAGAD_")) {
        command.env_remove(name);
    }
    command.args(arguments).envs(variables.iter().copied()).output().expect("sagad runs")
}

/// What it prints, if it ends with 0.
#[track_caller]
fn prints(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// It ends with this code and says this.
#[track_caller]
fn fails(output: &Output, code: i32, with: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(error.contains(with), "{with} is not in: {error}");
    assert!(output.stdout.is_empty());
}

impl Stage {
    fn sagad(&self, arguments: &[&str]) -> Output {
        sagad(arguments, &[("SAGAD_URL", &self.daemon.url())])
    }

    /// `sagad explain`.
    #[track_caller]
    fn explain(&self, id: &str) -> String {
        prints(&self.sagad(&["explain", id]))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saga_is_explained_from_its_first_command_to_its_end() {
    let steps = "[[steps]]\nname = \"one\"\ncommand = \"a.one\"\n\
                 compensate = { command = \"a.undo\", retry = { attempts = 1 } }\n\
                 [[steps]]\nname = \"ok\"\nwait = { signal = \"approved\" }\n\
                 [[steps]]\nname = \"two\"\ncommand = \"a.two\"\ncompensate = false\n";
    let site = site().await;
    site.define("order", &saga("order", "", steps));
    let mut stage = Stage::open(site).await;
    let id = stage.start("order", json!({})).await;
    let one = stage.take("a").await;
    let note = stage.explain(&id);
    assert!(note.contains("- one: the answer to attempt 1 of `a.one` on exchange"), "{note}");
    assert!(note.contains("if it succeeds: step `ok` next") && note.contains(&format!("sagad cancel {id}")), "{note}");

    one.succeed().await;
    stage.until(&id, "it waits for the signal", |saga| saga["steps"][1]["status"] == "running").await;
    let json = prints(&stage.sagad(&["explain", &id, "--json"]));
    let explanation: Value = serde_json::from_str(&json).expect("JSON");
    let wait = &explanation["waits"][0];
    assert_eq!(
        (&wait["kind"], &wait["step"], &wait["what"]),
        (&json!("signal"), &json!("ok"), &json!("the signal `approved`"))
    );
    let said = prints(&stage.sagad(&["signal", &id, "approved", "--payload", "{\"by\":\"ann\"}"]));
    assert_eq!(said, format!("saga {id} is running now\n"));

    stage.take("a").await.fail().await;
    stage.take("a").await.fail().await;
    stage.ends(&id, "suspended").await;
    let note = stage.explain(&id);
    assert!(note.contains("It waits for an operator: the compensation of step `one` failed: no (failure)."), "{note}");
    assert!(note.contains(&format!("sagad retry {id} one")), "{note}");
    fails(&stage.sagad(&["cancel", &id]), 1, "it is already being undone");
    prints(&stage.sagad(&["retry", &id, "one", "--reason", "it works again"]));
    stage.take("a").await.fail().await;
    stage.ends(&id, "suspended").await;
    let resolved = stage.sagad(&["resolve", &id, "one", "given_up", "--reason", "ticket 7", "--json"]);
    let saga: Value = serde_json::from_str(&prints(&resolved)).expect("JSON");
    assert_eq!(saga["status"], "failed");
    let note = stage.explain(&id);
    assert!(note.contains("given up after 2 attempts: the compensation of step `one`: ticket 7"), "{note}");
    assert!(!note.contains("You can"), "{note}");

    fails(&stage.sagad(&["explain", "00000000-0000-0000-0000-000000000007"]), 1, "there is no saga 00000000-");
    fails(&stage.sagad(&["explain", "7"]), 2, "invalid value '7'");
    fails(&stage.sagad(&["resolve", &id, "one", "given_up"]), 2, "--reason");
    stage.daemon.kill();
    fails(&stage.sagad(&["explain", &id]), 3, &format!("no sagad can be reached at {}", stage.daemon.url()));
    fails(&sagad(&["explain", &id, "--url", "ftp://x"], &[]), 2, "must be as in http://");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_a_wrong_and_a_weak_token_are_told_apart() {
    let steps = "[[steps]]\nname = \"ok\"\nwait = { signal = \"approved\" }\n";
    let site = site().await.with_config(
        "[[http.tokens]]\nname = \"ann\"\nrole = \"viewer\"\nsecret = \"anns-secret-0123456789\"\n\
         [[http.tokens]]\nname = \"bob\"\nrole = \"operator\"\nsecret = \"bobs-secret-0123456789\"\n",
    );
    site.define("order", &saga("order", "", steps));
    let stage = Stage::open(site).await;
    let bearer = [("authorization", "Bearer bobs-secret-0123456789")];
    let start = json!({ "saga": "order", "input": {} });
    let (_, started) = stage.daemon.try_post("/v1/sagas", &bearer, &start).await.expect("an answer");
    let id = started["id"].as_str().expect("an id");
    let url = stage.daemon.url();
    let with = |token: &str, command: &str| sagad(&[command, id], &[("SAGAD_URL", &url), ("SAGAD_TOKEN", token)]);
    fails(&with("", "explain"), 2, "wants a token: set SAGAD_TOKEN");
    fails(&with("eves-secret-0123456789", "explain"), 2, "does not know the token in SAGAD_TOKEN");
    fails(&with("anns-secret-0123456789", "cancel"), 2, "refuses");
    assert!(prints(&with("anns-secret-0123456789", "explain")).contains("- ok: the signal `approved`"));
    prints(&with("bobs-secret-0123456789", "cancel"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_holds_a_saga_back_and_how_its_child_is_are_found_out() {
    let site = site().await;
    site.define("child", &saga("child", "", "[[steps]]\nname = \"ok\"\nwait = { signal = \"approved\" }\n"));
    let steps = "[[steps]]\nname = \"kid\"\nsaga = \"child\"\n";
    site.define("order", &saga("order", "max_running = 1\nlock.key = \"{{ input.n }}\"", steps));
    let stage = Stage::open(site).await;
    let first = stage.start("order", json!({ "n": "ann" })).await;
    let path = format!("/v1/sagas/{first}/explanation");
    let waits = |explanation: &Value| explanation["waits"][0]["sagas"][0]["status"] == "running";
    let explanation = stage.look(&path, "the child runs", waits).await;
    let child = explanation["waits"][0]["sagas"][0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(stage.saga(&child).await["parent"]["id"], json!(first));
    assert!(stage.explain(&child).contains(&format!("step `kid` of saga {first} runs this one")));
    let second = stage.start("order", json!({ "n": "ann" })).await;
    let note = stage.explain(&second);
    assert!(note.contains(&format!("saga {first}, running, holds the lock")), "{note}");
    assert!(note.contains("1 of the 1 places of `max_running` are taken"), "{note}");
}
