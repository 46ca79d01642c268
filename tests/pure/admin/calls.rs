//! What each call does when it is used as it is meant to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::Method;
use sagad::admin::{Server, starting};
use sagad::broker::message::{Inbox, Incoming, Properties};
use sagad::config::Config;
use sagad::core::entry::{Entry, Handling, Resolution};
use sagad::core::id::Action;
use sagad::core::input::{Forbidden, Input, Order};
use sagad::core::saga::{Failure, Reason, SagaError};
use sagad::core::time::Time;
use sagad::health::{Health, Part};
use sagad::intake::{InputError, Refusal};
use sagad::store::DeadLetter;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Answer, Rig, id, started};

const AT: &str = "2026-01-02T03:04:05.678Z";

fn sent(step: usize, action: Action) -> Entry {
    Entry::Sent { spot: step.into(), action, attempt: 1, deadline: Some(Time(1_767_323_075_678)), body: None }
}

fn succeeded(step: usize, action: Action, reply: Value) -> Entry {
    Entry::Succeeded { spot: step.into(), action, attempt: 1, reply: Arc::new(reply), late: false }
}

fn failed(step: usize) -> Entry {
    let failure = Failure { reason: Reason::Failure, message: "declined".into(), details: json!({ "code": 402 }) };
    Entry::Failed { spot: step.into(), action: Action::Execute, attempt: 1, failure }
}

fn compensating(step: Option<usize>) -> Entry {
    let error = SagaError { step, failure: Failure::new(Reason::Failure, "declined") };
    Entry::Compensating { error, actor: None }
}

fn running() -> Vec<Entry> {
    vec![Entry::Started { deadline: None }, sent(0, Action::Execute)]
}

fn completed() -> Vec<Entry> {
    let output = Arc::new(json!({ "paid": true }));
    let mut entries = running();
    entries.extend([
        succeeded(0, Action::Execute, json!({ "n": 1 })),
        sent(1, Action::Execute),
        succeeded(1, Action::Execute, Value::Null),
        Entry::Completed { output, error: None },
    ]);
    entries
}

#[tokio::test]
async fn a_start_reaches_the_engine_as_it_was_asked_for() {
    let rig = Rig::new().await;
    let shelf = rig.shelf.clone();
    rig.engine.lock().unwrap().answer_start = Some(Box::new(move |start| {
        shelf.put(start.id, (*start.input).clone(), &running());
        started(start.id, true)
    }));
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    // Written by hand: the digits must come through.
    let body = r#"{"saga":"order","input":{"n":18446744073709551616.10},"priority":7,"delay":"1m 5s"}"#;
    let request = rig.request(Method::POST, "/v1/sagas").header("content-type", "application/json; charset=UTF-8");
    let answer = Answer::of(request.header("idempotency-key", "k-1").header("traceparent", trace).body(body)).await;
    assert_eq!(answer.status, 201);
    let start = rig.engine.lock().unwrap().starts[0].clone();
    assert_eq!(answer.headers["location"], format!("/v1/sagas/{}", start.id).as_str());
    assert_eq!(start.definition, "order");
    assert_eq!(start.input.to_string(), r#"{"n":18446744073709551616.10}"#);
    assert_eq!((start.priority, start.delay), (Some(7), Duration::from_secs(65)));
    assert_eq!((start.idempotency_key.as_deref(), start.trace.as_deref()), (Some("k-1"), Some(trace)));
    assert_eq!(start.actor, "http");
    assert!(answer.text.contains(r#""input":{"n":18446744073709551616.10}"#), "{}", answer.text);
    assert_eq!(answer.json()["status"], "running");
    rig.stop().await;
}

#[tokio::test]
async fn a_start_whose_key_is_in_use_answers_200_with_that_saga() {
    let rig = Rig::new().await;
    rig.shelf.put(id(7), json!({}), &running());
    rig.engine.lock().unwrap().answer_start = Some(Box::new(|_| started(id(7), false)));
    let answer = rig.post("/v1/sagas", json!({ "saga": "order", "input": {} })).await;
    assert_eq!((answer.status.as_u16(), answer.json()["id"].as_str()), (200, Some(id(7).to_string().as_str())));
    rig.stop().await;
}

#[tokio::test]
async fn refused_starts_say_why() {
    let rig = Rig::new().await;
    let start = || rig.post("/v1/sagas", json!({ "saga": "nope", "input": {} }));
    assert_eq!(start().await.problem(), (404, "unknown-definition".into()));
    let flaw = InputError { pointer: "/items/0".into(), detail: "is no object".into() };
    let invalid = Refusal::Invalid(vec![flaw]);
    rig.engine.lock().unwrap().answer_start = Some(Box::new(move |_| Err(invalid.clone())));
    let answer = start().await;
    assert_eq!(answer.problem(), (422, "invalid-input".into()));
    assert_eq!(answer.json()["errors"], json!([{ "pointer": "/input/items/0", "detail": "is no object" }]));
    rig.engine.lock().unwrap().answer_start = Some(Box::new(|_| Err(Refusal::Busy("full".into()))));
    let answer = start().await;
    assert_eq!(answer.problem(), (503, "unavailable".into()));
    assert_eq!(answer.headers["retry-after"], "1");
    assert!(answer.json()["saga_id"].is_string());
    rig.stop().await;
}

#[tokio::test]
async fn every_flaw_of_a_start_is_told_at_once() {
    let rig = Rig::new().await;
    let answer = rig.post("/v1/sagas", json!({ "saga": 5, "priority": 10, "delay": "soon", "a/b~c": 1 })).await;
    assert_eq!(answer.problem(), (422, "invalid-body".into()));
    let mut pointers = answer.pointers();
    pointers.sort();
    assert_eq!(pointers, ["/a~1b~0c", "/delay", "/input", "/priority", "/saga"]);
    for (member, wrong) in [
        ("priority", json!(-1)),
        ("priority", json!(1.5)),
        ("priority", json!("3")),
        ("delay", json!(5)),
        ("delay", json!("99999 years")),
        ("saga", json!("")),
    ] {
        let mut body = json!({ "saga": "order", "input": {} });
        body[member] = wrong.clone();
        let answer = rig.post("/v1/sagas", body).await;
        assert_eq!(answer.pointers(), [format!("/{member}")], "{wrong}");
    }
    for body in [json!([]), json!(null), json!("x"), json!(7)] {
        assert_eq!(rig.post("/v1/sagas", body).await.problem(), (422, "invalid-body".into()));
    }
    assert!(rig.engine.lock().unwrap().starts.is_empty(), "nothing of this reaches the engine");
    rig.stop().await;
}

#[tokio::test]
async fn prefer_wait_answers_with_the_end_as_soon_as_it_is_there() {
    let rig = Rig::new().await;
    let shelf = rig.shelf.clone();
    let ended = rig.ended.clone();
    rig.engine.lock().unwrap().answer_start = Some(Box::new(move |start| {
        shelf.put(start.id, json!({}), &running());
        let (shelf, ended, id) = (shelf.clone(), ended.clone(), start.id);
        tokio::spawn(async move {
            shelf.put(id, json!({}), &completed());
            ended.send(super::id(99)).unwrap();
            ended.send(id).unwrap();
        });
        started(start.id, true)
    }));
    let request = rig.request(Method::POST, "/v1/sagas").json(&json!({ "saga": "order", "input": {} }));
    let answer = Answer::of(request.header("prefer", "respond-async, wait=60")).await;
    assert_eq!((answer.status.as_u16(), answer.json()["status"].as_str()), (201, Some("completed")));
    assert_eq!(answer.json()["output"], json!({ "paid": true }));
    assert_eq!(answer.headers["preference-applied"], "wait=60");
    rig.stop().await;
}

#[tokio::test]
async fn prefer_wait_sees_what_another_daemon_did_and_suspensions() {
    let rig = Rig::new().await;
    let shelf = rig.shelf.clone();
    rig.engine.lock().unwrap().answer_start = Some(Box::new(move |start| {
        let mut entries = running();
        entries.push(Entry::Suspended { reason: "look at it".into(), spot: None, actor: None });
        shelf.put(start.id, json!({}), &running());
        let (shelf, id) = (shelf.clone(), start.id);
        // Nobody tells `ended`.
        tokio::spawn(async move { shelf.put(id, json!({}), &entries) });
        started(start.id, true)
    }));
    let request = rig.request(Method::POST, "/v1/sagas").json(&json!({ "saga": "order", "input": {} }));
    let answer = Answer::of(request.header("prefer", "wait=60")).await;
    assert_eq!(answer.json()["suspended"], json!({ "reason": "look at it", "since": AT }));
    rig.stop().await;
}

#[tokio::test]
async fn prefer_wait_ends_when_its_time_is_over_or_sagad_stops() {
    let rig = Rig::new().await;
    let shelf = rig.shelf.clone();
    let stopping = rig.stopping.clone();
    rig.engine.lock().unwrap().answer_start = Some(Box::new(move |start| {
        shelf.put(start.id, json!({}), &running());
        if start.definition == "stop" {
            stopping.cancel();
        }
        started(start.id, true)
    }));
    let start = |saga: &str, wait: &str| {
        let request = rig.request(Method::POST, "/v1/sagas").json(&json!({ "saga": saga, "input": {} }));
        Answer::of(request.header("prefer", wait))
    };
    let began = Instant::now();
    let answer = start("order", "wait=1").await;
    assert_eq!((answer.status.as_u16(), answer.json()["status"].as_str()), (201, Some("running")));
    assert!(began.elapsed() >= Duration::from_secs(1));
    let answer = start("stop", "wait=300").await;
    assert_eq!((answer.status.as_u16(), answer.json()["status"].as_str()), (201, Some("running")));
    assert!(began.elapsed() < Duration::from_secs(60));
    rig.stop().await;
}

#[tokio::test]
async fn a_saga_has_the_shape_of_the_contract() {
    let rig = Rig::new().await;
    let mut entries = running();
    entries.extend([
        succeeded(0, Action::Execute, json!({ "payment_id": 1 })),
        sent(1, Action::Execute),
        failed(1),
        compensating(Some(1)),
        sent(0, Action::Compensate),
    ]);
    rig.shelf.put(id(3), json!({ "order_id": "A1" }), &entries);
    let answer = rig.get(&format!("/v1/sagas/{}", id(3))).await;
    let expected = json!({
        "id": id(3).to_string(), "saga": "order", "revision": 1, "key": "A1", "status": "compensating", "priority": 5,
        "input": { "order_id": "A1" }, "output": null,
        "error": { "step": "#1", "reason": "failure", "message": "declined", "details": null },
        "suspended": null, "parent": null,
        "created_at": AT, "started_at": AT, "updated_at": AT, "ended_at": null, "deadline": null,
        "steps": [
            {
                "name": "#0", "kind": "command", "status": "compensating", "attempts": 1, "started_at": AT, "ended_at": AT,
                "reply": { "payment_id": 1 }, "error": null,
                "compensation": { "status": "running", "attempts": 1, "ended_at": null, "reply": null, "error": null },
            },
            {
                "name": "#1", "kind": "command", "status": "failed", "attempts": 1, "started_at": AT, "ended_at": AT,
                "reply": null,
                "error": { "reason": "failure", "message": "declined", "details": { "code": 402 } },
                "compensation": null,
            },
        ],
    });
    assert_eq!(answer.json(), expected);
    rig.stop().await;
}

#[tokio::test]
async fn a_history_is_numbered_and_readable() {
    let rig = Rig::new().await;
    let mut entries = running();
    entries.extend([
        Entry::AttemptFailed {
            spot: 0.into(),
            action: Action::Execute,
            attempt: 1,
            failure: Failure::new(Reason::Timeout, "no answer"),
            handling: Handling::Maybe,
        },
        compensating(Some(0)),
        Entry::Resolved {
            spot: 0.into(),
            outcome: Resolution::Compensated,
            reply: Arc::new(json!(12345678901234567890123u128)),
            reason: "by hand".into(),
            actor: "alice".into(),
        },
        Entry::Compensated {},
    ]);
    rig.shelf.put(id(3), json!({}), &entries);
    let answer = rig.get(&format!("/v1/sagas/{}/history", id(3))).await;
    let expected = json!([
        { "seq": 1, "at": AT, "type": "accepted", "actor": "http",
          "data": { "key": "A1", "priority": 5, "due": AT, "steps": 2 } },
        { "seq": 2, "at": AT, "type": "started", "data": { "deadline": null } },
        { "seq": 3, "at": AT, "type": "sent", "step": "#0", "action": "execute", "attempt": 1,
          "data": { "deadline": "2026-01-02T03:04:35.678Z" } },
        { "seq": 4, "at": AT, "type": "attempt_failed", "step": "#0", "action": "execute", "attempt": 1,
          "data": { "failure": { "reason": "timeout", "message": "no answer" }, "handling": "maybe" } },
        { "seq": 5, "at": AT, "type": "compensating",
          "data": { "error": { "step": "#0", "reason": "failure", "message": "declined" } } },
        { "seq": 6, "at": AT, "type": "resolved", "step": "#0", "actor": "alice",
          "data": { "outcome": "compensated", "reply": 12345678901234567890123u128, "reason": "by hand" } },
        { "seq": 7, "at": AT, "type": "compensated" },
    ]);
    assert_eq!(answer.json(), json!({ "items": expected, "next_cursor": null }));
    assert!(answer.text.contains("12345678901234567890123"), "{}", answer.text);
    let mut pages = Vec::new();
    let mut path = format!("/v1/sagas/{}/history?limit=3", id(3));
    loop {
        let page = rig.get(&path).await.json();
        pages.extend(page["items"].as_array().unwrap().clone());
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/sagas/{}/history?limit=3&cursor={cursor}", id(3));
    }
    assert_eq!(json!(pages), expected, "pages are the whole");
    assert_eq!(rig.get(&format!("/v1/sagas/{}/history", id(4))).await.problem(), (404, "unknown-saga".into()));
    rig.stop().await;
}

#[tokio::test]
async fn a_list_has_pages_and_filters() {
    let rig = Rig::new().await;
    // More than is read from the store at a time.
    for number in 1..=120 {
        rig.shelf.put(id(number), json!({}), &if number % 2 == 0 { running() } else { completed() });
    }
    let (mut path, mut seen) = ("/v1/sagas?limit=70".to_owned(), Vec::new());
    loop {
        let page = rig.get(&path).await.json();
        seen.extend(page["items"].as_array().unwrap().iter().map(|saga| saga["id"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/sagas?limit=70&cursor={cursor}");
    }
    let all: Vec<String> = (1..=120).rev().map(|number| id(number).to_string()).collect();
    assert_eq!(seen, all, "newest first, each once");
    let count =
        async |query: &str| rig.get(&format!("/v1/sagas?{query}")).await.json()["items"].as_array().unwrap().len();
    assert_eq!(count("").await, 50);
    assert_eq!(count("limit=500&status=completed").await, 60);
    assert_eq!(count("limit=500&status=completed&status=running").await, 120);
    assert_eq!(count("status=failed").await, 0);
    assert_eq!(count("saga=order&key=A1&limit=1").await, 1);
    assert_eq!(count("key=A2").await, 0);
    assert_eq!(count(&format!("started_after={AT}")).await, 50);
    assert_eq!(count(&format!("started_before={AT}")).await, 0);
    for (query, name) in [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=x", "limit"),
        ("limit=1&limit=2", "limit"),
        ("status=done", "status"),
        ("cursor=garbage", "cursor"),
        ("cursor=", "cursor"),
        ("started_after=yesterday", "started_after"),
        ("colour=red", "colour"),
        ("key=%00", "key"),
    ] {
        let answer = rig.get(&format!("/v1/sagas?{query}")).await;
        assert_eq!(answer.problem(), (400, "invalid-parameter".into()), "{query}");
        assert_eq!(answer.pointers(), [name], "{query}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_saga_that_cannot_be_read_hides_none_of_the_others() {
    let rig = Rig::new().await;
    for number in 1..=3 {
        rig.shelf.put(id(number), json!({}), &running());
    }
    rig.shelf.corrupt(id(2));
    let items = rig.get("/v1/sagas").await.json()["items"].clone();
    let statuses: Vec<&Value> = items.as_array().unwrap().iter().map(|saga| &saga["status"]).collect();
    assert_eq!(statuses, [&json!("running"), &Value::Null, &json!("running")]);
    assert_eq!(items[1]["error"]["reason"], "unreadable");
    assert_eq!(rig.get(&format!("/v1/sagas/{}", id(2))).await.problem(), (500, "internal".into()));
    rig.stop().await;
}

#[tokio::test]
async fn orders_reach_the_engine_and_answer_with_the_saga() {
    let rig = Rig::new().await;
    rig.shelf.put(id(1), json!({}), &running());
    let base = format!("/v1/sagas/{}", id(1));
    let bare = Answer::of(rig.request(Method::POST, &format!("{base}/cancel"))).await;
    assert_eq!((bare.status.as_u16(), bare.json()["id"].as_str()), (200, Some(id(1).to_string().as_str())));
    rig.post(&format!("{base}/suspend"), json!({ "reason": "wait" })).await;
    rig.post(&format!("{base}/resume"), json!({ "reason": null })).await;
    rig.post(&format!("{base}/steps/st%C3%A9p/retry"), json!({ "reason": "again" })).await;
    let found = json!({ "outcome": "succeeded", "reply": { "n": 1 }, "reason": "asked them" });
    rig.post(&format!("{base}/steps/pay/resolve"), found).await;
    let asked = std::mem::take(&mut rig.engine.lock().unwrap().orders);
    let orders: Vec<&Order> = asked.iter().map(|(_, _, order)| order).collect();
    assert!(asked.iter().all(|(saga, actor, _)| *saga == id(1) && actor == "http"));
    assert!(matches!(orders[0], Order::Cancel { reason: None }));
    assert!(matches!(orders[1], Order::Suspend { reason: Some(why) } if why == "wait"));
    assert!(matches!(orders[2], Order::Resume { reason: None }));
    assert!(matches!(orders[3], Order::Retry { step, reason: Some(_), .. } if step == "stép"));
    assert!(matches!(orders[4], Order::Resolve { step, outcome: Resolution::Succeeded, reply, reason, .. }
        if step == "pay" && *reply == json!({ "n": 1 }) && reason == "asked them"));
    assert_eq!(orders.len(), 5);
    rig.stop().await;
}

#[tokio::test]
async fn refused_orders_say_why() {
    let rig = Rig::new().await;
    rig.shelf.put(id(1), json!({}), &running());
    let path = format!("/v1/sagas/{}/steps/pay/resolve", id(1));
    for (body, pointers) in [
        (json!({}), vec!["/outcome", "/reason"]),
        (json!({ "outcome": "maybe", "reason": " " }), vec!["/outcome", "/reason"]),
        (json!({ "outcome": "failed", "reason": "x", "reply": 1 }), vec!["/reply"]),
        (json!({ "outcome": "failed", "reason": "x", "step": "pay" }), vec!["/step"]),
    ] {
        let answer = rig.post(&path, body).await;
        assert_eq!(answer.problem(), (422, "invalid-body".into()));
        assert_eq!(answer.pointers(), pointers);
    }
    assert!(rig.engine.lock().unwrap().orders.is_empty());
    for (refusal, problem) in [
        (Refusal::Forbidden(Forbidden::State("it has ended".into())), (409, "state-forbids")),
        (Refusal::Forbidden(Forbidden::NoSuchStep("pay".into())), (404, "unknown-step")),
        (Refusal::UnknownSaga(id(1)), (404, "unknown-saga")),
        (Refusal::Busy("later".into()), (503, "unavailable")),
    ] {
        rig.engine.lock().unwrap().answer_order = Some(Box::new(move || Err(refusal.clone())));
        let answer = Answer::of(rig.request(Method::POST, &format!("/v1/sagas/{}/cancel", id(1)))).await;
        assert_eq!(answer.problem(), (problem.0, problem.1.to_owned()));
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_signal_is_any_json_and_known_by_its_key() {
    let rig = Rig::new().await;
    rig.shelf.put(id(1), json!({}), &running());
    let path = format!("/v1/sagas/{}/signals/approved%20by%2Fall", id(1));
    let keyed = rig.request(Method::POST, &path).header("idempotency-key", "k-1").json(&json!([1, "two"]));
    let answer = Answer::of(keyed).await;
    assert_eq!((answer.status.as_u16(), answer.json()["id"].as_str()), (200, Some(id(1).to_string().as_str())));
    Answer::of(rig.request(Method::POST, &path)).await;
    let sent = std::mem::take(&mut rig.engine.lock().unwrap().signals);
    let expected = [(Some("approved by/all k-1"), json!([1, "two"])), (None, Value::Null)];
    assert_eq!(sent.len(), expected.len());
    for ((saga, input), (key, said)) in sent.iter().zip(&expected) {
        let Input::Signal { name, id: known_by, payload, actor } = input else { panic!("no signal: {input:?}") };
        assert_eq!((*saga, name.as_str(), known_by.as_deref()), (id(1), "approved by/all", *key));
        assert_eq!((payload, actor.as_deref()), (said, Some("http")));
    }

    let request = || rig.request(Method::POST, &path);
    for (request, status, word) in [
        (request().header("idempotency-key", "").json(&json!({})), 400, "invalid-parameter"),
        (request().header("content-type", "application/json").body("{"), 400, "malformed-json"),
        (request().body("plain"), 415, "unsupported-media-type"),
        (rig.request(Method::GET, &path), 405, "method-not-allowed"),
    ] {
        assert_eq!(Answer::of(request).await.problem(), (status, word.to_owned()));
    }
    assert!(rig.engine.lock().unwrap().signals.is_empty());
    let refusal = Refusal::Forbidden(Forbidden::NoSuchSignal("approved".into()));
    rig.engine.lock().unwrap().answer_order = Some(Box::new(move || Err(refusal.clone())));
    let answer = rig.post(&path, json!({})).await;
    assert_eq!(answer.problem(), (409, "state-forbids".into()));
    assert_eq!(answer.json()["detail"], "no step of the saga waits for a signal `approved`");
    rig.stop().await;
}

fn letter(number: u128, body: &'static [u8]) -> DeadLetter {
    let properties = Properties {
        correlation_id: Some("who knows".into()),
        user_id: Some("somebody".into()),
        ..Properties::default()
    };
    let message = Incoming {
        queue: Inbox::Replies,
        exchange: String::new(),
        routing_key: "sagad.replies".into(),
        redelivered: false,
        properties,
        body: Bytes::from_static(body),
    };
    DeadLetter {
        id: Uuid::from_u128(number),
        at: Time(1_767_323_045_678),
        reason: "unknown correlation id".into(),
        message,
    }
}

#[tokio::test]
async fn dead_letters_are_listed_shown_replayed_and_discarded() {
    let rig = Rig::new().await;
    for (number, body) in [(1, &b"{}"[..]), (2, b"\xff\xfe"), (3, b"x")] {
        rig.shelf.edit(|content| content.letters.insert(Uuid::from_u128(number), letter(number, body)));
    }
    let page = rig.get("/v1/dead-letters?limit=2").await.json();
    let ids: Vec<&str> = page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [id(3).to_string(), id(2).to_string()]);
    let rest = rig.get(&format!("/v1/dead-letters?cursor={}", page["next_cursor"].as_str().unwrap())).await.json();
    assert_eq!((rest["items"].as_array().unwrap().len(), &rest["next_cursor"]), (1, &Value::Null));
    assert_eq!(rest["items"][0]["body"], "{}");
    let shown = rig.get(&format!("/v1/dead-letters/{}", id(2))).await.json();
    assert_eq!((&shown["body_is_text"], &shown["body_bytes"]), (&json!(false), &json!(2)));
    assert_eq!(
        (&shown["queue"], &shown["at"], &shown["reason"]),
        (&json!("replies"), &json!(AT), &json!("unknown correlation id"))
    );

    let replay =
        |number: u128| Answer::of(rig.request(Method::POST, &format!("/v1/dead-letters/{}/replay", id(number))));
    assert_eq!(replay(2).await.status, 204);
    {
        let engine = rig.engine.lock().unwrap();
        let message = &engine.published[0];
        assert_eq!((message.exchange.as_str(), message.routing_key.as_str()), ("", "sagad.replies"));
        assert_eq!((message.body.as_ref(), message.mandatory), (&b"\xff\xfe"[..], true));
        assert_eq!(message.properties.correlation_id.as_deref(), Some("who knows"));
        assert_eq!(message.properties.user_id, None, "the broker would close the channel");
    }
    assert_eq!(replay(2).await.problem(), (404, "unknown-dead-letter".into()), "it is gone");

    let discard = |number: u128| Answer::of(rig.request(Method::DELETE, &format!("/v1/dead-letters/{}", id(number))));
    assert_eq!(discard(3).await.status, 204);
    assert_eq!(discard(3).await.problem(), (404, "unknown-dead-letter".into()));

    rig.health.down(Part::Broker, "connection refused");
    let answer = replay(1).await;
    assert_eq!(answer.problem(), (503, "unavailable".into()));
    assert_eq!(rig.engine.lock().unwrap().published.len(), 1, "it is not sent later behind the operator's back");
    rig.health.up(Part::Broker);
    rig.engine.lock().unwrap().broker_refuses = true;
    let answer = replay(1).await;
    assert_eq!(answer.problem(), (503, "unavailable".into()));
    assert!(rig.shelf.edit(|content| content.letters.contains_key(&Uuid::from_u128(1))), "kept");
    rig.stop().await;
}

#[tokio::test]
async fn readiness_says_what_does_not_work_and_why() {
    let rig = Rig::new().await;
    assert_eq!(rig.get("/healthz").await.status, 200);
    let ready = rig.get("/readyz").await;
    assert_eq!((ready.status.as_u16(), ready.json()["checks"]["broker"].clone()), (200, json!({ "up": true })));
    rig.health.down(Part::Broker, "connection refused");
    let answer = rig.get("/readyz").await;
    assert_eq!(answer.problem(), (503, "not-ready".into()));
    let checks = json!({ "database": { "up": true }, "broker": { "up": false, "reason": "connection refused" } });
    assert_eq!(answer.json()["checks"], checks);
    assert_eq!(rig.get("/healthz").await.status, 200, "it lives nevertheless");
    rig.stop().await;
}

#[tokio::test]
async fn a_sagad_without_a_database_yet_says_what_it_waits_for() {
    let config = Config::parse("test", "http.listen = \"127.0.0.1:0\"").unwrap();
    let server = Arc::new(Server::bind(&config.http).await.unwrap());
    let address = server.address();
    let (health, stopping) = (Health::new(), CancellationToken::new());
    let preview = {
        let (server, router, stopping) = (server.clone(), starting(health.clone()), stopping.clone());
        tokio::spawn(async move { server.preview(router, stopping).await })
    };
    let client = reqwest::Client::new();
    let get = |path: &str| Answer::of(client.get(format!("http://{address}{path}")));
    health.down(Part::Store, "connection refused");
    assert_eq!(get("/healthz").await.status, 200);
    assert_eq!(get("/readyz").await.json()["checks"]["database"]["reason"], "connection refused");
    let answer = get("/v1/sagas").await;
    assert_eq!(answer.problem(), (503, "unavailable".into()));
    assert_eq!(answer.headers["retry-after"], "1");
    stopping.cancel();
    preview.await.unwrap();
    // It listens still, and the connection that was kept alive is gone: the next request is served by the next router.
    let next = axum::Router::new().route("/healthz", axum::routing::get(async || "next"));
    let stopping = CancellationToken::new();
    let serving = tokio::spawn(Arc::into_inner(server).unwrap().serve(next, stopping.clone()));
    assert_eq!(client.get(format!("http://{address}/healthz")).send().await.unwrap().text().await.unwrap(), "next");
    stopping.cancel();
    serving.await.unwrap();
}

#[tokio::test]
async fn a_database_that_is_away_is_a_503() {
    let rig = Rig::new().await;
    rig.shelf.edit(|content| content.trouble = Some("connection refused".into()));
    for path in
        ["/v1/sagas", "/v1/dead-letters", &format!("/v1/sagas/{}", id(1)), &format!("/v1/sagas/{}/history", id(1))]
    {
        let answer = rig.get(path).await;
        assert_eq!(answer.problem(), (503, "unavailable".into()), "{path}");
        assert_eq!(answer.headers["retry-after"], "5");
    }
    // The saga was started before the database went away: the answer says where it is.
    rig.engine.lock().unwrap().answer_start = Some(Box::new(|start| started(start.id, true)));
    let answer = rig.post("/v1/sagas", json!({ "saga": "order", "input": {} })).await;
    assert_eq!(answer.status, 503);
    let id = rig.engine.lock().unwrap().starts[0].id;
    assert_eq!(answer.headers["location"], format!("/v1/sagas/{id}").as_str());
    rig.stop().await;
}

#[tokio::test]
async fn a_reload_that_fails_changes_nothing_and_says_where() {
    let rig = Rig::new().await;
    let fine = rig.post("/v1/definitions/reload", json!({})).await;
    assert_eq!((fine.status.as_u16(), &fine.json()["added"]), (200, &json!([])));
    std::fs::write(rig.folder.path().join("broken.toml"), "name = \"broken\"\n[[steps]\n").unwrap();
    let answer = rig.post("/v1/definitions/reload", json!({})).await;
    assert_eq!(answer.problem().1, "invalid-definitions");
    assert_eq!(rig.get("/v1/definitions").await.json(), json!({ "items": [], "next_cursor": null }));
    assert_eq!(rig.get("/v1/definitions/order").await.problem(), (404, "unknown-definition".into()));
    rig.stop().await;
}

#[tokio::test]
async fn a_definition_is_shown_and_names_the_steps() {
    let rig = Rig::new().await;
    let toml = r#"
name = "order"
description = "Pay, then ship"
timeout = "15m"
priority = 5
[defaults]
exchange = "shop.commands"
[input]
properties.n = { type = "number", maximum = 10 }
[[steps]]
name = "pay"
command = "payment.charge"
compensate.command = "payment.refund"
[[steps]]
name = "ship"
command = "shipment.create"
after = ["pay"]
compensate = false
"#;
    std::fs::write(rig.folder.path().join("order.toml"), toml).unwrap();
    let reloaded = rig.post("/v1/definitions/reload", json!({})).await.json();
    assert_eq!((&reloaded["added"], &reloaded["changed"]), (&json!(["order"]), &json!([])), "{reloaded}");
    let shown = rig.get("/v1/definitions/order").await.json();
    assert_eq!((&shown["revision"], &shown["timeout"], &shown["priority"]), (&json!(1), &json!("15m"), &json!(5)));
    assert_eq!(shown["source"], json!({ "toml": toml, "schema": null }));
    assert_eq!(shown["revisions"], json!([{ "revision": 1, "since": "1970-01-01T00:00:00.000Z" }]));
    assert_eq!(shown["input_schema"]["properties"]["n"]["maximum"], 10);
    assert_eq!(shown["steps"][0]["compensate"]["command"], "payment.refund");
    assert_eq!((&shown["steps"][1]["after"], &shown["steps"][1]["compensate"]), (&json!(["pay"]), &Value::Null));
    let drawn = rig.get("/v1/definitions/order/graph.svg").await;
    assert_eq!((drawn.status.as_u16(), &drawn.headers["content-type"]), (200, &"image/svg+xml".parse().unwrap()));
    assert!(drawn.text.starts_with("<svg ") && drawn.text.contains("payment.refund"), "{}", drawn.text);
    assert_eq!(rig.get("/v1/definitions/none/graph.svg").await.problem(), (404, "unknown-definition".into()));
    let listed = rig.get("/v1/definitions").await.json();
    assert_eq!((listed["items"].as_array().unwrap().len(), &listed["items"][0]["source"]), (1, &Value::Null));

    let mut entries = running();
    entries.extend([failed(0), compensating(Some(0))]);
    rig.shelf.put(id(1), json!({}), &entries);
    let saga = rig.get(&format!("/v1/sagas/{}", id(1))).await.json();
    assert_eq!((&saga["error"]["step"], &saga["steps"][1]["name"]), (&json!("pay"), &json!("ship")));
    let history = rig.get(&format!("/v1/sagas/{}/history", id(1))).await.json();
    assert_eq!(
        (&history["items"][2]["step"], &history["items"][4]["data"]["error"]["step"]),
        (&json!("pay"), &json!("pay"))
    );

    std::fs::write(rig.folder.path().join("order.toml"), toml.replace("15m", "20m")).unwrap();
    let reloaded = rig.post("/v1/definitions/reload", json!({})).await.json();
    assert_eq!((&reloaded["changed"], &reloaded["removed"]), (&json!(["order"]), &json!([])));
    assert_eq!(rig.get("/v1/definitions/order").await.json()["revision"], 2);
    std::fs::remove_file(rig.folder.path().join("order.toml")).unwrap();
    let reloaded = rig.post("/v1/definitions/reload", json!({})).await;
    assert_eq!(reloaded.json()["removed"], json!(["order"]), "{}", reloaded.text);
    assert_eq!(rig.get("/v1/definitions/order").await.status, 404);
    let saga = rig.get(&format!("/v1/sagas/{}", id(1))).await.json();
    assert_eq!(saga["steps"][0]["name"], "pay", "sagas under way keep their revision");
    rig.stop().await;
}

#[tokio::test]
async fn the_deepest_value_that_is_read_can_be_shown() {
    let rig = Rig::new().await;
    let text = format!("{}1{}", "[".repeat(64), "]".repeat(64));
    let deepest = sagad::json::read(text.as_bytes()).unwrap();
    let mut entries = running();
    entries.push(succeeded(0, Action::Execute, deepest.clone()));
    entries.push(Entry::Completed { output: Arc::new(json!({ "a": { "b": { "c": deepest } } })), error: None });
    rig.shelf.put(id(1), deepest.clone(), &entries);
    for path in [format!("/v1/sagas/{}", id(1)), format!("/v1/sagas/{}/history", id(1)), "/v1/sagas".to_owned()] {
        let answer = rig.get(&path).await;
        assert!(answer.status == 200 && answer.text.contains(&text), "{path}: {}", answer.text);
    }
    rig.stop().await;
}

#[tokio::test]
async fn metrics_count_requests_by_route() {
    let rig = Rig::new().await;
    rig.get(&format!("/v1/sagas/{}", id(77))).await;
    let answer = rig.get("/metrics").await;
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    assert!(answer.text.contains("route=\"/v1/sagas/{id}\",method=\"GET\",status=\"404\""), "{}", answer.text);
    assert!(!answer.text.contains(&id(77).to_string()), "ids make no time series");
    rig.stop().await;
}
