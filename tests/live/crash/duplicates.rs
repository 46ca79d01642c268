//! The same starts, many times at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use serde_json::json;
use tokio::task::JoinSet;

use super::verdict::verify_everything;
use super::{Kind, Trial, listed};
use crate::rabbitmq;

/// Starts in all.
const STARTS: u32 = 1000;

/// Business keys among them.
const KEYS: u32 = 100;

/// As many over HTTP as over AMQP, and every saga once: by its business key, as no two starts have the same idempotency key.
async fn begin_once_for_each_key(kind: Kind) {
    let trial = Trial::new(rabbitmq::own().await.control(), kind).await;
    let daemon = trial.site.start().await;
    let mut over_http = JoinSet::new();
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().expect("a client");
    for nth in 0..STARTS / 2 {
        let (client, url) = (client.clone(), format!("{}/v1/sagas", daemon.url()));
        over_http.spawn(async move {
            let key = format!("k{}", nth % KEYS);
            let start = client.post(url).header("idempotency-key", format!("http-{nth}"));
            let answer =
                start.json(&json!({ "saga": "trial", "input": { "n": key } })).send().await.expect("an answer");
            let status = answer.status().as_u16();
            let body: serde_json::Value = answer.json().await.expect("JSON");
            assert!(status == 200 || status == 201, "{status}: {body}");
            (key, body["id"].as_str().expect("an id").to_owned(), status == 201)
        });
    }
    let connection =
        Connection::connect(trial.site.amqp(), ConnectionProperties::default()).await.expect("a connection");
    let channel = connection.create_channel().await.expect("a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    let exchange = format!("{}.start", trial.site.prefix());
    let mut confirms = Vec::new();
    for nth in 0..STARTS / 2 {
        let body = json!({ "n": format!("k{}", nth % KEYS) }).to_string();
        let properties = BasicProperties::default().with_message_id(format!("amqp-{nth}").into());
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let sent =
            channel.basic_publish(exchange.as_str().into(), "trial".into(), options, body.as_bytes(), properties);
        confirms.push(sent.await.expect("sent"));
    }
    for confirm in confirms {
        assert!(matches!(confirm.await, Ok(lapin::Confirmation::Ack(None))), "a start was not taken");
    }

    let mut started: BTreeMap<String, Option<String>> = BTreeMap::new();
    let mut created = BTreeSet::new();
    while let Some(answer) = over_http.join_next().await {
        let (key, id, new) = answer.expect("a start");
        let known = started.entry(key.clone()).or_insert_with(|| Some(id.clone()));
        assert_eq!(known.as_ref(), Some(&id), "two sagas have the key {key}");
        assert!(!new || created.insert(id), "the saga of {key} was begun twice");
    }
    assert_eq!(started.len(), KEYS as usize);
    assert!(listed(&daemon, "saga=trial").await.len() <= KEYS as usize);
    let verdict = verify_everything(&trial, vec![daemon], &started, 0).await;
    assert_eq!(verdict.completed + verdict.compensated, KEYS as usize, "{verdict:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_starts_with_a_hundred_keys_are_a_hundred_sagas_on_sqlite() {
    begin_once_for_each_key(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_starts_with_a_hundred_keys_are_a_hundred_sagas_on_postgres() {
    begin_once_for_each_key(Kind::Postgres).await;
}
