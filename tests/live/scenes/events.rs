//! Events of other services: as starts, as answers, as what a step waits for; and events that sagas publish.

use std::time::{Duration, Instant};

use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, ExchangeKind};
use serde_json::{Value, json};

use super::{PATIENCE, Stage, saga, site, sites, table};
use crate::daemon::Site;

const EXCHANGE: &str = r#"
[[topology.exchanges]]
name = "PREFIX-shop"
type = "topic"
"#;

fn with_id(id: &str) -> BasicProperties {
    BasicProperties::default().with_message_id(id.into())
}

async fn shop(definitions: &[(&str, &str, &str)]) -> Stage {
    let site: Site = site().await.with_config(EXCHANGE);
    for (name, head, steps) in definitions {
        site.define(name, &saga(name, head, steps));
    }
    Stage::open(site).await
}

async fn tell(stage: &Stage, routing_key: &str, id: &str, body: Value) {
    let exchange = stage.site.name("shop");
    stage.publish(&exchange, routing_key, with_id(id), body.to_string().as_bytes()).await;
}

async fn sagas(stage: &Stage) -> Vec<Value> {
    stage.daemon.get("/v1/sagas").await.1["items"].as_array().expect("items").clone()
}

const STARTED: &str = r#"
[[start]]
exchange = "PREFIX-shop"
routing_key = "order.placed"
when = "body.total > 0"
input = { order = "{{ body.order }}", total = "{{ body.total }}" }
[input]
required = ["order"]
properties.order.type = "string"
"#;

const STEP: &str = "[[steps]]\nname = \"one\"\ncommand = \"a.one\"\ncompensate = false";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_starts_a_saga_once_however_often_it_comes() {
    let mut stage = shop(&[("one", STARTED, STEP)]).await;
    for _ in 0..3 {
        tell(&stage, "order.placed", "e-1", json!({ "order": "A-1", "total": 12 })).await;
    }
    let one = stage.take("a").await;
    assert_eq!(one.body(), json!({ "order": "A-1", "total": 12 }));
    let id = one.text("saga-id");
    one.succeed().await;
    stage.ends(&id, "completed").await;
    assert_eq!(stage.history(&id).await[0]["actor"], "event");
    tell(&stage, "order.placed", "e-1", json!({ "order": "A-1", "total": 12 })).await;
    tell(&stage, "order.placed", "e-2", json!({ "order": "A-2", "total": 0 })).await;
    tell(&stage, "order.placed", "e-4", json!({ "order": "A-4", "total": 1 })).await;
    let last = stage.take("a").await;
    assert_eq!(last.body()["order"], "A-4", "nothing in between");
    last.succeed().await;
    assert_eq!(sagas(&stage).await.len(), 2);
    assert!(stage.letters(0).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_starts_nothing_for_a_reason_is_kept_and_goes_to_sagad_alone_when_handed_in_again() {
    let stage = shop(&[("one", STARTED, STEP)]).await;
    let others = stage.own_queue(Some(&stage.site.name("shop")), "#").await;
    let mut stage = stage;
    tell(&stage, "order.placed", "e-1", json!({ "order": 7, "total": 12 })).await;
    tell(&stage, "order.placed", "e-2", json!({ "order": "A-1" })).await;
    let letters = stage.letters(2).await;
    let because = |reason: &str| {
        let of = |letter: &&Value| letter["reason"].as_str().is_some_and(|told| told.contains(reason));
        letters.iter().find(of).unwrap_or_else(|| panic!("none says {reason}: {letters:?}"))
    };
    let wrong = because("the input does not fit the definition: /order");
    because("`one`, start by `order.placed` from exchange");
    assert!(letters.iter().all(|letter| letter["queue"] == "heard"), "{letters:?}");
    for _ in 0..2 {
        stage.take_from(&others).await.drop_it().await;
    }

    // The definition is mended, and the event does its work after all.
    let mended = STARTED.replace("properties.order.type = \"string\"", "");
    stage.site.define("one", &saga("one", &mended, STEP));
    stage.look("/v1/definitions/one", "the new revision", |one| one["revision"] == 2).await;
    let first = wrong["id"].as_str().expect("an id");
    let (status, _) = stage.daemon.post(&format!("/v1/dead-letters/{first}/replay"), &json!({})).await;
    assert_eq!(status, 204);
    let one = stage.take("a").await;
    assert_eq!(one.body()["order"], 7);
    one.succeed().await;
    tell(&stage, "order.paid", "e-3", json!({})).await;
    assert_eq!(stage.take_from(&others).await.drop_it().await.routing_key(), "order.paid", "nobody else had it twice");
}

const ANSWERED: &str = r#"
[[steps]]
name = "reserve"
command = "a.reserve"
reply.success = { exchange = "PREFIX-shop", routing_key = "stock.reserved", match = "body.order" }
reply.failure = { exchange = "PREFIX-shop", routing_key = "stock.refused", match = "body.order", error = "body.why" }
compensate = { command = "a.release", body = { ticket = "{{ steps.reserve.reply.ticket }}" } }
[[steps]]
name = "two"
command = "b.two"
compensate = false
"#;

const KEY: &str = "key = \"{{ input.order }}\"";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_answer_the_commands_of_the_sagas_they_belong_to() {
    let mut stage = shop(&[("stock", KEY, ANSWERED)]).await;
    let good = stage.start("stock", json!({ "order": "A-1" })).await;
    stage.take("a").await.drop_it().await;
    let bad = stage.start("stock", json!({ "order": "A-2" })).await;
    stage.take("a").await.drop_it().await;
    tell(&stage, "stock.reserved", "e-0", json!({ "order": "of somebody else" })).await;
    for _ in 0..2 {
        tell(&stage, "stock.reserved", "e-1", json!({ "order": "A-1", "ticket": 7 })).await;
        tell(&stage, "stock.refused", "e-2", json!({ "order": "A-2", "why": "sold out" })).await;
    }
    let ended = stage.ends(&bad, "compensated").await;
    let error = json!({ "step": "reserve", "reason": "failure", "message": "sold out" });
    for part in ["step", "reason", "message"] {
        assert_eq!(ended["error"][part], error[part], "{ended}");
    }
    stage.take("b").await.fail().await;
    let undo = stage.take("a").await;
    assert_eq!((undo.routing_key(), undo.body()), ("a.release", json!({ "ticket": 7 })));
    undo.succeed().await;
    stage.ends(&good, "compensated").await;
    assert!(stage.letters(0).await.is_empty(), "events of others are no dead letters");

    tell(&stage, "stock.reserved", "e-3", json!({ "id": "A-1" })).await;
    let letters = stage.letters(1).await;
    let reason = letters[0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("`stock`, step `reserve`: `match` can't be evaluated"), "{reason}");
}

const AWAITED: &str = r#"
[[steps]]
name = "one"
command = "a.one"
compensate = false
[[steps]]
name = "paid"
wait = { exchange = "PREFIX-shop", routing_key = "order.paid", match = "body.order" }
[[steps]]
name = "two"
command = "b.two"
body = { amount = "{{ steps.paid.reply.amount }}" }
compensate = false
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_may_come_before_the_step_that_waits_for_it_and_after_its_definition_changed() {
    let mut stage = shop(&[("pay", KEY, AWAITED)]).await;
    let early = stage.start("pay", json!({ "order": "A-1" })).await;
    let one = stage.take("a").await;
    tell(&stage, "order.paid", "e-1", json!({ "order": "A-1", "amount": 7 })).await;
    tell(&stage, "order.paid", "e-1", json!({ "order": "A-1", "amount": 7 })).await;
    stage.until(&early, "the event", |saga| saga["updated_at"] != saga["started_at"]).await;
    one.succeed().await;
    let two = stage.take("b").await;
    assert_eq!(two.body(), json!({ "amount": 7 }));
    two.succeed().await;
    stage.ends(&early, "completed").await;

    // A saga keeps what it listens to, whatever becomes of its definition; also for a daemon that never saw the old one.
    let late = stage.start("pay", json!({ "order": "A-2" })).await;
    stage.take("a").await.succeed().await;
    stage.until(&late, "the wait", |saga| saga["steps"][1]["status"] == "running").await;
    stage.site.define("pay", &saga("pay", KEY, STEP));
    stage.daemon.kill();
    stage.daemon = stage.site.start().await;
    tell(&stage, "order.paid", "e-2", json!({ "order": "A-2", "amount": 8 })).await;
    let two = stage.take("b").await;
    assert_eq!(two.body(), json!({ "amount": 8 }));
    two.succeed().await;
    stage.ends(&late, "completed").await;
    stage.is_quiet("b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_with_older_definitions_loses_no_event_of_the_newer_ones() {
    let [_, (site, database)] = sites().await;
    let site = site.with_config(EXCHANGE).with_setting("SAGAD__DEFINITIONS__WATCH", "false");
    site.define("pay", &saga("pay", KEY, STEP));
    let older = site.start().await;
    site.define("pay", &saga("pay", KEY, AWAITED));
    let mut stage = Stage::with(site, database).await;
    let mut ids = Vec::new();
    for n in 0..8 {
        ids.push(stage.start("pay", json!({ "order": n.to_string() })).await);
        stage.take("a").await.succeed().await;
    }
    // The two share the queue: some come to this one, some to the other.
    for n in 0..8 {
        tell(&stage, "order.paid", &format!("e-{n}"), json!({ "order": n.to_string(), "amount": n })).await;
    }
    for _ in 0..8 {
        stage.take("b").await.succeed().await;
    }
    for id in &ids {
        stage.ends(id, "completed").await;
    }
    assert_eq!(older.get("/v1/definitions/pay").await.1["revision"], 1, "it did not know");
}

/// Messages that wait in the delay queues.
async fn put_off(stage: &Stage) -> u32 {
    let mut count = 0;
    for delay in [800, 6_400] {
        let queue = format!("{}.delay.{delay}", stage.site.prefix());
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declared = stage.channel.queue_declare(queue.as_str().into(), passive, FieldTable::default()).await;
        count += declared.expect("a delay queue").message_count();
    }
    count
}

async fn until_put_off(stage: &Stage, least: u32) {
    let deadline = Instant::now() + PATIENCE;
    while put_off(stage).await < least {
        assert!(Instant::now() < deadline, "nothing was put off");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_overtakes_the_start_of_its_saga_waits_for_it() {
    let signalled = AWAITED.replace(
        "[[steps]]\nname = \"two\"",
        "[[steps]]\nname = \"go\"\nwait = { signal = \"go\" }\n[[steps]]\nname = \"two\"",
    );
    let mut stage = shop(&[("pay", KEY, &signalled)]).await;
    tell(&stage, "order.paid", "e-1", json!({ "order": "A-1", "amount": 7 })).await;
    tell(&stage, "order.paid", "e-2", json!({ "order": "of somebody else", "amount": 8 })).await;
    let to = table(&[("saga-name", "pay"), ("saga-key", "A-1")]);
    let signals = format!("{}.signals", stage.site.prefix());
    stage.publish(&signals, "go", BasicProperties::default().with_headers(to), b"{}").await;
    until_put_off(&stage, 3).await;
    let id = stage.start("pay", json!({ "order": "A-1" })).await;
    stage.take("a").await.succeed().await;
    let two = stage.take("b").await;
    assert_eq!(two.body(), json!({ "amount": 7 }));
    two.succeed().await;
    stage.ends(&id, "completed").await;
    // The other is counted, and that is all.
    let counted = |metrics: &Value| {
        metrics.as_str().unwrap_or_default().lines().any(|line| line == "sagad_events_unclaimed_total 1")
    };
    stage.look("/metrics", "the other", counted).await;
    assert_eq!(put_off(&stage).await, 0);
    assert!(stage.letters(0).await.is_empty());
    stage.is_quiet("b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_for_a_saga_that_ended_may_be_for_the_next_with_its_key() {
    let reused = format!("{KEY}\nkey_reuse = \"after_end\"");
    let mut stage = shop(&[("pay", &reused, AWAITED)]).await;
    for (id, amount) in [("e-1", 1), ("e-2", 2)] {
        tell(&stage, "order.paid", id, json!({ "order": "A-1", "amount": amount })).await;
        until_put_off(&stage, 1).await;
        let id = stage.start("pay", json!({ "order": "A-1" })).await;
        stage.take("a").await.succeed().await;
        let two = stage.take("b").await;
        assert_eq!(two.body(), json!({ "amount": amount }));
        two.succeed().await;
        stage.ends(&id, "completed").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_saga_has_no_room_for_is_kept_and_can_be_handed_in_again() {
    let many = AWAITED.replace("name = \"paid\"", "name = \"paid\"\nforeach = \"{{ [1, 2] }}\"");
    let many = many.replace("{{ steps.paid.reply.amount }}", "{{ steps.paid.replies | length }}");
    let mut stage = shop(&[("pay", KEY, &many)]).await;
    let id = stage.start("pay", json!({ "order": "A-1" })).await;
    let one = stage.take("a").await;
    for event in ["e-1", "e-2"] {
        tell(&stage, "order.paid", event, json!({ "order": "A-1", "text": "x".repeat(200_000) })).await;
    }
    let letters = stage.letters(1).await;
    let reason = letters[0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("too much is waiting for steps of the saga"), "{reason}");
    one.succeed().await;
    stage.until(&id, "the first", |saga| saga["steps"][1]["items"].as_array().is_some_and(|it| it.len() == 2)).await;
    let letter = letters[0]["id"].as_str().expect("an id");
    let (status, _) = stage.daemon.post(&format!("/v1/dead-letters/{letter}/replay"), &json!({})).await;
    assert_eq!(status, 204);
    let two = stage.take("b").await;
    assert_eq!(two.body(), json!({ "amount": 2 }));
    two.succeed().await;
    stage.ends(&id, "completed").await;
}

const CHILD: &str = "[[steps]]\nname = \"sub\"\nsaga = \"sub\"";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_a_newer_daemon_can_begin_comes_to_it() {
    let [_, (site, database)] = sites().await;
    let site = site.with_config(EXCHANGE).with_setting("SAGAD__DEFINITIONS__WATCH", "false");
    site.define("pay", &saga("pay", "", STEP));
    let mut older = site.start().await;
    site.define("pay", &saga("pay", STARTED, CHILD));
    site.define("sub", &saga("sub", "", STEP));
    let mut stage = Stage::with(site, database).await;
    // The two share the queues: of the orders to children, of the events and of the starts some come to this one, some to the other.
    for n in 0..8 {
        stage.start("pay", json!({ "order": format!("http-{n}") })).await;
    }
    until_put_off(&stage, 1).await;
    let starts = format!("{}.start", stage.site.prefix());
    for n in 0..12 {
        tell(&stage, "order.placed", &format!("e-{n}"), json!({ "order": n.to_string(), "total": 1 })).await;
        stage.publish(&starts, "sub", with_id(&format!("s-{n}")), b"{}").await;
    }
    until_put_off(&stage, 1).await;
    older.kill();
    for _ in 0..32 {
        stage.take("a").await.succeed().await;
    }
    let done = |page: &Value| {
        let items = page["items"].as_array().expect("items");
        items.len() == 52 && items.iter().all(|saga| saga["status"] == "completed")
    };
    stage.look("/v1/sagas?limit=100", "all of them", done).await;
    stage.is_quiet("a");
    assert!(stage.letters(0).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_come_to_a_newer_daemon_is_kept() {
    let [_, (site, database)] = sites().await;
    let site = site.with_config(EXCHANGE).with_setting("SAGAD__DEFINITIONS__WATCH", "false");
    site.define("pay", &saga("pay", "", STEP));
    let older = site.start().await;
    site.define("pay", &saga("pay", STARTED, STEP));
    site.start().await.kill();
    let mut stage = Stage::around(site, older, database).await;
    let mut headers = table(&[("saga-put-off-for", "pay")]);
    headers.insert("saga-put-off".into(), AMQPValue::LongLongInt(4));
    let properties = with_id("e-1").with_headers(headers);
    let exchange = stage.site.name("shop");
    stage.publish(&exchange, "order.placed", properties, b"{\"order\":\"A-1\",\"total\":1}").await;
    let letters = stage.letters(1).await;
    let reason = letters[0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("a `pay` that only another daemon has loaded"), "{reason}");
    let (status, changes) = stage.daemon.post("/v1/definitions/reload", &json!({})).await;
    assert_eq!(status, 200, "{changes}");
    let letter = letters[0]["id"].as_str().expect("an id");
    let (status, _) = stage.daemon.post(&format!("/v1/dead-letters/{letter}/replay"), &json!({})).await;
    assert_eq!(status, 204);
    let one = stage.take("a").await;
    assert_eq!(one.body(), json!({ "order": "A-1", "total": 1 }));
    one.succeed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_definition_that_listens_to_a_missing_exchange_is_not_taken() {
    let site = site().await;
    site.define("one", &saga("one", "", STEP));
    let stage = Stage::open(site).await;
    let missing = STARTED.replace("PREFIX-shop", "PREFIX-missing");
    stage.site.define("two", &saga("two", &missing, STEP));
    let (status, problem) = stage.daemon.post("/v1/definitions/reload", &json!({})).await;
    assert_eq!(status, 422, "{problem}");
    let detail = problem["errors"][0]["detail"].as_str().expect("an error");
    let expected = format!("exchange `{}`: it does not exist, and `two` listens to it", stage.site.name("missing"));
    assert!(detail.starts_with(&expected), "{detail}");
    assert_eq!(problem["errors"].as_array().map(Vec::len), Some(1));
    let (status, _) = stage.daemon.get("/v1/definitions/two").await;
    assert_eq!(status, 404, "what was loaded before stays in use");

    let declared = stage.channel.exchange_declare(
        stage.site.name("missing").as_str().into(),
        ExchangeKind::Topic,
        ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() },
        FieldTable::default(),
    );
    declared.await.expect("declared");
    let (status, changes) = stage.daemon.post("/v1/definitions/reload", &json!({})).await;
    assert_eq!((status.as_u16(), &changes["added"]), (200, &json!(["two"])), "{changes}");
}

const PUBLISHES: &str = r#"
[[steps]]
name = "announce"
publish = "order.announced"
exchange = "PREFIX-shop"
body = { order = "{{ input.order }}" }
[[steps]]
name = "two"
command = "b.two"
compensate = false
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saga_publishes_events_and_goes_on_once_the_broker_has_them() {
    let stage = shop(&[("publish", KEY, PUBLISHES)]).await;
    let listener = stage.own_queue(Some(&stage.site.name("shop")), "order.announced").await;
    let mut stage = stage;
    let id = stage.start("publish", json!({ "order": "A-1" })).await;
    let event = stage.take_from(&listener).await.drop_it().await;
    assert_eq!(event.body(), json!({ "order": "A-1" }));
    assert_eq!((event.text("saga-id"), event.properties().reply_to().is_none()), (id.clone(), true));
    stage.take("b").await.succeed().await;
    stage.ends(&id, "completed").await;
}
