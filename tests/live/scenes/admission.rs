//! `lock` and `max_running`: who has to wait, and who begins next.

use std::collections::{BTreeMap, BTreeSet};

use lapin::BasicProperties;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, SqliteConnection};

use super::{Stage, Taken, saga, site, sites, table};

const STEP: &str = "[[steps]]\nname = \"one\"\ncommand = \"a.one\"\ncompensate = false";
const LOCK: &str = "lock = { key = \"{{ input.lock }}\" }\n";

/// Starts a saga with a priority, and gives its id.
async fn start(stage: &Stage, definition: &str, input: Value, priority: u8) -> String {
    let body = json!({ "saga": definition, "input": input, "priority": priority });
    let (status, saga) = stage.daemon.post("/v1/sagas", &body).await;
    assert_eq!(status, 201, "{saga}");
    saga["id"].as_str().expect("an id").to_owned()
}

async fn status(stage: &Stage, id: &str) -> String {
    stage.saga(id).await["status"].as_str().expect("a status").to_owned()
}

/// The next command, of which saga it is, and the command itself.
async fn next(stage: &mut Stage) -> (String, Taken) {
    let taken = stage.take("a").await;
    (taken.text("saga-id"), taken)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_at_a_time_for_each_lock_by_priority_and_age() {
    for (site, database) in sites().await {
        site.define("one", &saga("one", LOCK, STEP));
        let mut stage = Stage::with(site, database).await;
        let first = start(&stage, "one", json!({ "lock": "A" }), 0).await;
        let (id, running) = next(&mut stage).await;
        assert_eq!(id, first);
        let low = start(&stage, "one", json!({ "lock": "A" }), 2).await;
        let old = start(&stage, "one", json!({ "lock": "A" }), 7).await;
        let young = start(&stage, "one", json!({ "lock": "A" }), 7).await;
        // A number is a key too.
        let other = start(&stage, "one", json!({ "lock": 7 }), 0).await;
        let (id, of_other) = next(&mut stage).await;
        assert_eq!(id, other, "another lock keeps nobody waiting");
        of_other.succeed().await;
        stage.ends(&other, "completed").await;
        for id in [&low, &old, &young] {
            assert_eq!(status(&stage, id).await, "pending");
        }
        running.succeed().await;
        for expected in [&old, &young] {
            let (id, running) = next(&mut stage).await;
            assert_eq!(id, *expected);
            stage.is_quiet("a");
            running.succeed().await;
        }
        let (id, running) = next(&mut stage).await;
        assert_eq!(id, low);
        // A saga that is undone keeps its lock until it has ended.
        let last = start(&stage, "one", json!({ "lock": "A" }), 9).await;
        assert_eq!(status(&stage, &last).await, "pending");
        running.fail().await;
        stage.ends(&low, "compensated").await;
        assert_eq!(next(&mut stage).await.0, last);
        let history = stage.history(&last).await;
        let types: Vec<&str> = history.iter().filter_map(|entry| entry["type"].as_str()).collect();
        assert_eq!(types[..3], ["accepted", "held", "started"], "{history:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_than_max_running_and_a_suspended_saga_keeps_its_slot() {
    for (site, database) in sites().await {
        site.define("few", &saga("few", "max_running = 2\n", STEP));
        let mut stage = Stage::with(site, database).await;
        let mut ids = Vec::new();
        for _ in 0..6 {
            ids.push(start(&stage, "few", json!({}), 5).await);
        }
        let (mut one, mut two) = (next(&mut stage).await, next(&mut stage).await);
        assert_eq!(BTreeSet::from([&one.0, &two.0]), BTreeSet::from([&ids[0], &ids[1]]));
        if one.0 != ids[0] {
            (one, two) = (two, one);
        }
        let path = |id: &str, order: &str| format!("/v1/sagas/{id}/{order}");
        assert_eq!(stage.daemon.post(&path(&ids[0], "suspend"), &json!({})).await.0, 200);
        one.1.succeed().await;
        // Cancelled while it waits, it ends without having done anything; suspended, it is passed over.
        assert_eq!(stage.daemon.post(&path(&ids[2], "cancel"), &json!({})).await.0, 200);
        assert_eq!(status(&stage, &ids[2]).await, "compensated");
        assert_eq!(stage.daemon.post(&path(&ids[3], "suspend"), &json!({})).await.0, 200);
        two.1.succeed().await;
        let (id, three) = next(&mut stage).await;
        assert_eq!(id, ids[4], "the suspended one has its slot yet");
        stage.is_quiet("a");
        assert_eq!(status(&stage, &ids[5]).await, "pending");
        assert_eq!(stage.daemon.post(&path(&ids[0], "resume"), &json!({})).await.0, 200);
        stage.ends(&ids[0], "completed").await;
        let (id, four) = next(&mut stage).await;
        assert_eq!(id, ids[5]);
        assert_eq!(stage.daemon.post(&path(&ids[3], "resume"), &json!({})).await.0, 200);
        assert_eq!(status(&stage, &ids[3]).await, "pending", "there is no slot for it");
        three.succeed().await;
        let (id, five) = next(&mut stage).await;
        assert_eq!(id, ids[3]);
        four.succeed().await;
        five.succeed().await;
        for id in [&ids[3], &ids[4], &ids[5]] {
            stage.ends(id, "completed").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_saga_takes_neither_lock_nor_slot_before_its_time() {
    let site = site().await;
    site.define("one", &saga("one", &format!("{LOCK}max_running = 1\n"), STEP));
    let mut stage = Stage::open(site).await;
    let body = json!({ "saga": "one", "input": { "lock": "A" }, "priority": 9, "delay": "2s" });
    let late = stage.daemon.post("/v1/sagas", &body).await.1["id"].as_str().expect("an id").to_owned();
    let first = start(&stage, "one", json!({ "lock": "A" }), 0).await;
    let (id, running) = next(&mut stage).await;
    assert_eq!(id, first);
    let held = |history: &Value| {
        history["items"].as_array().is_some_and(|items| items.iter().any(|entry| entry["type"] == "held"))
    };
    stage.look(&format!("/v1/sagas/{late}/history"), "its delay to be over", held).await;
    stage.is_quiet("a");
    running.succeed().await;
    assert_eq!(next(&mut stage).await.0, late);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_may_refuse_and_burns_no_idempotency_key() {
    let lock = "lock = { key = \"{{ input.lock }}\", mode = \"reject\" }\nkey = \"{{ input.key }}\"\n";
    for (site, database) in sites().await {
        site.define("one", &saga("one", lock, STEP));
        let mut stage = Stage::with(site, database).await;
        let input = |key: &str| json!({ "saga": "one", "input": { "lock": "A", "key": key } });
        let first = stage.daemon.post("/v1/sagas", &input("k1")).await.1["id"].as_str().expect("an id").to_owned();
        let (_, running) = next(&mut stage).await;
        let headers = [("idempotency-key", "again")];
        let (status, problem) = stage.daemon.try_post("/v1/sagas", &headers, &input("k2")).await.expect("an answer");
        assert_eq!((status.as_u16(), &problem["type"]), (409, &json!("urn:sagad:problem:locked")), "{problem}");
        // Who has the lock is found by its business key as ever.
        let (status, found) = stage.daemon.post("/v1/sagas", &input("k1")).await;
        assert_eq!((status.as_u16(), &found["id"]), (200, &json!(first)));

        let answers = stage.own_queue(None, "").await;
        let exchange = format!("{}.start", stage.site.prefix());
        let properties = || {
            let properties = BasicProperties::default().with_headers(table(&[("idempotency-key", "again")]));
            properties.with_reply_to(answers.as_str().into())
        };
        let asked = json!({ "lock": "A", "key": "k3" }).to_string();
        stage.publish(&exchange, "one", properties(), asked.as_bytes()).await;
        let refused = stage.take_from(&answers).await.drop_it().await.body();
        assert_eq!(refused["error"]["code"], "locked", "{refused}");
        assert!(stage.letters(0).await.is_empty(), "whoever asked was told");
        // Where nobody is told, the message is kept.
        stage.publish(&exchange, "one", BasicProperties::default(), asked.as_bytes()).await;
        assert!(stage.letters(1).await[0]["reason"].as_str().is_some_and(|reason| reason.contains("lock")));

        running.succeed().await;
        stage.ends(&first, "completed").await;
        stage.publish(&exchange, "one", properties(), asked.as_bytes()).await;
        let begun = stage.take_from(&answers).await.drop_it().await.body();
        let (id, running) = next(&mut stage).await;
        assert_eq!(begun["saga_id"], json!(id), "{begun}");
        let (status, same) = stage.daemon.try_post("/v1/sagas", &headers, &input("k4")).await.expect("an answer");
        assert_eq!((status.as_u16(), &same["id"]), (200, &json!(id)), "{same}");
        running.succeed().await;
        stage.ends(&id, "completed").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_higher_limit_lets_more_in_and_a_lower_one_ends_nobody() {
    // At once, without a sweep.
    let site = site().await.with_setting("SAGAD__DELAY__SWEEP", "10m");
    let limit = |limit: u32| saga("few", &format!("max_running = {limit}\n"), STEP);
    site.define("few", &limit(1));
    let mut stage = Stage::open(site).await;
    for _ in 0..5 {
        start(&stage, "few", json!({}), 5).await;
    }
    let (_, one) = next(&mut stage).await;
    stage.is_quiet("a");
    stage.site.define("few", &limit(3));
    let (two, three) = (next(&mut stage).await.1, next(&mut stage).await.1);
    stage.site.define("few", &limit(1));
    let revision = |definition: &Value| definition["revision"] == 1;
    stage.look("/v1/definitions/few", "the reload", revision).await;
    one.succeed().await;
    two.succeed().await;
    stage
        .look("/v1/sagas?status=running", "the end of two", |page| {
            page["items"].as_array().is_some_and(|i| i.len() == 1)
        })
        .await;
    stage.is_quiet("a");
    three.succeed().await;
    next(&mut stage).await.1.succeed().await;
    next(&mut stage).await.1.succeed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_lets_in_whom_a_crash_forgot() {
    for (site, database) in sites().await {
        let site = site.with_setting("SAGAD__DELAY__SWEEP", "200ms");
        site.define("one", &saga("one", &format!("{LOCK}max_running = 2\n"), STEP));
        let mut stage = Stage::with(site, database).await;
        let first = start(&stage, "one", json!({ "lock": "A" }), 5).await;
        assert_eq!(next(&mut stage).await.0, first);
        let second = start(&stage, "one", json!({ "lock": "A" }), 5).await;
        let third = start(&stage, "one", json!({ "lock": "A" }), 5).await;
        // As if its end had been committed, and nothing after that.
        release(stage.site.store(), &first).await;
        assert_eq!(next(&mut stage).await.0, second);
        stage.daemon.kill();
        release(stage.site.store(), &second).await;
        stage.daemon = stage.site.start().await;
        loop {
            // What was not acknowledged comes again.
            let (id, _) = next(&mut stage).await;
            if id == third {
                break;
            }
        }
    }
}

/// Takes everything from a saga that it would give up at its end.
async fn release(store: &str, saga: &str) {
    let id = uuid::Uuid::parse_str(saga).expect("an id");
    let sql = "DELETE FROM claims WHERE saga_id = $1 AND kind > 2";
    let released = match store.starts_with("sqlite:") {
        true => {
            let mut connection = SqliteConnection::connect(store).await.expect("a connection");
            sqlx::query(sql).bind(id).execute(&mut connection).await.expect("released").rows_affected()
        }
        false => {
            let mut connection = PgConnection::connect(store).await.expect("a connection");
            sqlx::query(sql).bind(id).execute(&mut connection).await.expect("released").rows_affected()
        }
    };
    assert_eq!(released, 2);
}

/// Several daemons on one Postgres: never more than allowed, never two with one lock, and nobody is forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemons_share_slots_and_locks() {
    const SAGAS: usize = 60;
    const LIMIT: usize = 4;
    let [_, (site, database)] = sites().await;
    site.define("one", &saga("one", &format!("{LOCK}max_running = {LIMIT}\n"), STEP));
    let mut stage = Stage::with(site, database).await;
    let mut other = stage.site.start().await;
    let mut locks = BTreeMap::new();
    for n in 0..SAGAS {
        let daemon = if n % 2 == 0 { &stage.daemon } else { &other };
        let lock = n % 7;
        let body = json!({ "saga": "one", "input": { "lock": lock } });
        let (status, saga) = daemon.post("/v1/sagas", &body).await;
        assert_eq!(status, 201, "{saga}");
        locks.insert(saga["id"].as_str().expect("an id").to_owned(), lock);
    }
    let mut out: Vec<(String, Taken)> = Vec::new();
    let mut done = BTreeSet::new();
    while done.len() < SAGAS {
        let wanted = LIMIT.min(SAGAS - done.len());
        // With some locks used up, fewer can be out at once.
        let distinct: BTreeSet<usize> =
            locks.iter().filter(|(id, _)| !done.contains(*id)).map(|(_, lock)| *lock).collect();
        while out.len() < wanted.min(distinct.len()) {
            let taken = next(&mut stage).await;
            assert!(!done.contains(&taken.0) && out.iter().all(|(id, _)| *id != taken.0), "{} twice", taken.0);
            assert!(out.iter().all(|(id, _)| locks[id] != locks[&taken.0]), "one lock twice");
            out.push(taken);
        }
        assert!(out.len() <= LIMIT);
        stage.is_quiet("a");
        if done.len() == SAGAS / 2 {
            other.kill();
            other = stage.site.start().await;
        }
        let (id, taken) = out.remove(0);
        taken.succeed().await;
        done.insert(id);
    }
    for id in locks.keys() {
        stage.ends(id, "completed").await;
    }
}
