//! Definitions that change, tokens, lists, and what stops a start.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::{PATIENCE, Stage, saga, site};
use crate::daemon::Site;
use crate::rabbitmq;

fn two(one: &str) -> String {
    format!(
        "[[steps]]\nname = \"one\"\ncommand = \"{one}\"\ncompensate = {{ command = \"a.undo\" }}\n\
         [[steps]]\nname = \"two\"\ncommand = \"b.two\"\ncompensate = false"
    )
}

fn names(page: &Value) -> Vec<&str> {
    page["items"].as_array().into_iter().flatten().filter_map(|item| item["name"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saga_stays_with_its_revision_whatever_becomes_of_the_file() {
    let site = site().await.with_setting("SAGAD__DEFINITIONS__WATCH", "false");
    site.define("order", &saga("order", "", &two("a.one")));
    let mut stage = Stage::open(site).await;
    let old = stage.start("order", json!({})).await;
    let one = stage.take("a").await;

    stage.site.define("order", &saga("order", "", &two("a.other")));
    stage.site.define("broken", "name = \"broken\"\nfoo = 1");
    let (status, problem) = stage.daemon.post("/v1/definitions/reload", &json!({})).await;
    assert_eq!(status, 422, "{problem}");
    assert!(problem["errors"].to_string().contains("broken.toml:2:1"), "{problem}");
    assert_eq!(stage.daemon.get("/v1/definitions/order").await.1["revision"], 1, "errors change nothing");

    let folder = stage.site.folder().join("sagas");
    std::fs::remove_file(folder.join("broken.toml")).expect("removed");
    let (status, changes) = stage.daemon.post("/v1/definitions/reload", &json!({})).await;
    assert_eq!((status.as_u16(), &changes["changed"]), (200, &json!(["order"])), "{changes}");
    let new = stage.start("order", json!({})).await;
    let other = stage.take("a").await;
    assert_eq!(other.routing_key(), "a.other");
    other.succeed().await;
    assert_eq!(stage.saga(&new).await["revision"], 2);

    std::fs::remove_file(folder.join("order.toml")).expect("removed");
    stage.daemon.signal("HUP");
    stage.look("/v1/definitions", "its removal", |page| names(page).is_empty()).await;
    let (status, _) = stage.daemon.post("/v1/sagas", &json!({ "saga": "order", "input": {} })).await;
    assert_eq!(status, 404);
    stage.daemon.kill();
    stage.daemon = stage.site.start().await;
    one.succeed().await;
    for _ in 0..2 {
        stage.take("b").await.fail().await;
        stage.take("a").await.succeed().await;
    }
    assert_eq!(stage.ends(&old, "compensated").await["revision"], 1);
    assert_eq!(stage.ends(&new, "compensated").await["revision"], 2);

    stage.site.define("order", &saga("order", "", &two("a.one")));
    stage.daemon.signal("HUP");
    let back = stage.look("/v1/definitions/order", "the definition", |answer| answer["revision"].is_u64()).await;
    assert_eq!(back["revision"], 1, "a revision is its content");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_files_are_noticed_and_broken_ones_leave_the_old_in_use() {
    let site = site().await;
    site.define("one", &saga("one", "", &two("a.one")));
    let stage = Stage::open(site).await;
    stage.site.define("two", &saga("two", "", &two("a.one")));
    stage.look("/v1/definitions", "the second", |page| names(page) == ["one", "two"]).await;
    stage.site.define("two", "name = 7");
    let deadline = std::time::Instant::now() + PATIENCE;
    while !stage.daemon.log().contains("the old ones stay in use") {
        assert!(std::time::Instant::now() < deadline, "{}", stage.daemon.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(names(&stage.daemon.get("/v1/definitions").await.1), ["one", "two"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_say_who_may_do_what_and_the_history_who_did_it() {
    let tokens = "[[http.tokens]]\nname = \"eve\"\nrole = \"viewer\"\nsecret = \"eves-secret-0123456789\"\n\
                  [[http.tokens]]\nname = \"bob\"\nrole = \"operator\"\nsecret_env = \"BOBS_TOKEN\"\n";
    let site = site().await.with_config(tokens).with_setting("BOBS_TOKEN", "bobs-secret-0123456789");
    site.define("one", &saga("one", "", &two("a.one")));
    let stage = Stage::open(site).await;
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let get = |path: &str, secret: &str| client.get(stage.daemon.url() + path).bearer_auth(secret).send();
    let (eve, bob) = ("eves-secret-0123456789", "bobs-secret-0123456789");
    for (path, secret, status) in [
        ("/v1/sagas", "", 401),
        ("/v1/sagas", "nobodys-secret", 401),
        ("/metrics", "", 401),
        ("/healthz", "", 200),
        ("/readyz", "", 200),
        ("/v1/sagas", eve, 200),
        ("/metrics", eve, 200),
        ("/v1/sagas", bob, 200),
    ] {
        assert_eq!(get(path, secret).await.expect("an answer").status(), status, "{path} {secret}");
    }
    let start = json!({ "saga": "one", "input": {} });
    let post = |path: &str, secret: &str, body: &Value| {
        client.post(stage.daemon.url() + path).bearer_auth(secret).json(body).send()
    };
    assert_eq!(post("/v1/sagas", eve, &start).await.expect("an answer").status(), 403);
    let saga: Value = post("/v1/sagas", bob, &start).await.expect("an answer").json().await.expect("JSON");
    let id = saga["id"].as_str().expect("an id");
    assert_eq!(post(&format!("/v1/sagas/{id}/cancel"), eve, &json!({})).await.expect("an answer").status(), 403);
    assert_eq!(post(&format!("/v1/sagas/{id}/suspend"), bob, &json!({})).await.expect("an answer").status(), 200);
    let history = get(&format!("/v1/sagas/{id}/history"), eve).await.expect("an answer");
    let history: Value = history.json().await.expect("JSON");
    let actors: Vec<&str> =
        history["items"].as_array().into_iter().flatten().filter_map(|entry| entry["actor"].as_str()).collect();
    assert_eq!(actors, ["bob", "bob"], "{history}");
    let metrics = get("/metrics", bob).await.expect("an answer").text().await.expect("text");
    assert!(metrics.contains("sagad_sagas_started_total{saga=\"one\"} 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_goes_from_page_to_page_newest_first() {
    let site = site().await;
    site.define("one", &saga("one", "key = \"{{ input.k }}\"", &two("a.one")));
    let stage = Stage::open(site).await;
    let mut ids = Vec::new();
    for k in 0..61 {
        ids.push(stage.start("one", json!({ "k": format!("k{k}") })).await);
    }
    ids.reverse();
    let (_, again) = stage.daemon.post("/v1/sagas", &json!({ "saga": "one", "input": { "k": "k0" } })).await;
    assert_eq!(again["id"], json!(ids[60]), "a key in use leads to its saga");
    let mut found = Vec::new();
    let mut path = "/v1/sagas?saga=one&status=running&status=pending&limit=20".to_owned();
    let first = path.clone();
    loop {
        let (_, page) = stage.daemon.get(&path).await;
        found.extend(
            page["items"].as_array().expect("items").iter().map(|item| item["id"].as_str().expect("it").to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("{first}&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(found, ids);
    let (_, page) = stage.daemon.get("/v1/sagas?key=k7").await;
    assert_eq!((&page["items"][0]["key"], &page["items"][1]), (&json!("k7"), &Value::Null));
    let (_, page) = stage.daemon.get("/v1/sagas?started_before=2020-01-01T00:00:00Z").await;
    assert_eq!(page["items"], json!([]));
    assert_eq!(stage.daemon.get("/v1/sagas?status=done").await.0, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_work_stops_the_start_with_the_reason() {
    let amqp = rabbitmq::shared().await;
    let site = Site::new(amqp, None).with_queues(&["a"]);
    let daemon = site.start().await;
    let serve = |variables: &[(&str, &str)]| {
        let common = [
            ("SAGAD__STORE__URL", site.store()),
            ("SAGAD__BROKER__URL", amqp),
            ("SAGAD__BROKER__PREFIX", site.prefix()),
        ];
        let mut command = Command::new(env!("CARGO_BIN_EXE_sagad"));
        command.arg("serve").current_dir(site.folder()).envs(common).env("SAGAD__HTTP__LISTEN", "127.0.0.1:0");
        let output = command.envs(variables.iter().copied()).output().expect("sagad starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (variables, word) in [
        (&[][..], "is in use"),
        (&[("SAGAD__HTTP__LISTEN", "0.0.0.0:7999")][..], "http.tokens"),
        (&[("SAGAD__STORE__URI", "sqlite://x.db")][..], "unknown key"),
        (&[("SAGAD__STORE__URL", "sqlite://other.db"), ("SAGAD__BROKER__QUEUE_TYPE", "quorum")][..], "x-queue-type"),
    ] {
        let (code, said) = tokio::task::block_in_place(|| serve(variables));
        assert_eq!(code, Some(2), "{variables:?}: {said}");
        assert!(said.contains(word), "{variables:?}: {said}");
    }
    let mut daemon = daemon;
    daemon.terminate();
    assert_eq!(daemon.wait(PATIENCE).await.code(), Some(0));
}
