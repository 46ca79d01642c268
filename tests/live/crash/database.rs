//! Postgres is killed and frozen.

use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection};

use super::Trial;
use super::verdict::verify_everything;
use crate::daemon::Site;
use crate::postgres::Cluster;
use crate::rabbitmq;

/// How often it is killed.
const KILLS: u32 = 4;

/// Longer than a statement is waited for.
const FROZEN: Duration = Duration::from_secs(14);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_postgres_is_killed_or_frozen() {
    let mut cluster = Cluster::start();
    let node = rabbitmq::own().await.control();
    let trial = Trial::at(node.clone(), Site::new(&node.url(), Some(&cluster.url("postgres"))), None);
    let load = trial.load(25);
    let mut daemon = trial.site.start().await;
    load.goes_to([&daemon]);
    for kill in 0..KILLS {
        tokio::time::sleep(trial.chance.of(("kill", kill)).millis(300..2_000)).await;
        cluster.kill();
        daemon.until("it misses the database", Duration::from_secs(30), |status, _| status == 503).await;
        tokio::time::sleep(trial.chance.of(("away", kill)).millis(0..2_500)).await;
        cluster.restart();
        daemon.ready().await;
    }
    tokio::time::sleep(trial.chance.of("freeze").millis(300..1_000)).await;
    cluster.freeze();
    tokio::time::sleep(FROZEN).await;
    let (_, answer) = daemon.get("/readyz").await;
    assert_eq!(answer["checks"]["database"]["up"], false, "{answer}");
    cluster.thaw();
    daemon.ready().await;
    tokio::time::sleep(Duration::from_millis(500)).await;

    let started = load.stop().await;
    assert!(started.len() > 100, "this was no load: {}", started.len());
    verify_everything(&trial, vec![daemon], &started, 0).await;
}

/// A daemon that is started without its database waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_waits_for_its_database_at_the_start() {
    let mut cluster = Cluster::start();
    cluster.kill();
    let node = rabbitmq::own().await.control();
    let trial = Trial::at(node.clone(), Site::new(&node.url(), Some(&cluster.url("postgres"))), None);
    let mut daemon = trial.site.spawn();
    let waits = |body: &serde_json::Value| body["checks"]["database"]["up"] == false;
    let answer = daemon.until("it waits", Duration::from_secs(20), |status, body| status == 503 && waits(body)).await;
    assert_eq!(daemon.get("/healthz").await.0, 200);
    assert!(answer["checks"]["database"]["reason"].is_string(), "{answer}");
    // There is nothing to reload yet.
    daemon.signal("HUP");
    cluster.restart();
    daemon.ready().await;
    let load = trial.load(20);
    load.goes_to([&daemon]);
    while load.accepted() < 5 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let started = load.stop().await;
    verify_everything(&trial, vec![daemon], &started, 0).await;
}

/// So does one whose database goes away when it is half way up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_waits_for_a_database_that_goes_away_during_the_start() {
    let mut cluster = Cluster::start();
    let node = rabbitmq::own().await.control();
    let trial = Trial::at(node.clone(), Site::new(&node.url(), Some(&cluster.url("postgres"))), None);
    drop(trial.site.start().await);
    // It gets in, and no further than this.
    let mut other = PgConnection::connect(trial.site.store()).await.expect("the database");
    other.execute("BEGIN; LOCK TABLE secrets IN ACCESS EXCLUSIVE MODE").await.expect("a lock");
    let mut daemon = trial.site.spawn();
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut other).await.expect("a count") == 0 {
        assert_eq!(daemon.exited(), None, "it waits for the lock");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cluster.kill();
    let waits = |body: &serde_json::Value| body["checks"]["database"]["reason"].is_string();
    daemon.until("it waits", Duration::from_secs(20), |status, body| status == 503 && waits(body)).await;
    daemon.signal("HUP");
    cluster.restart();
    daemon.ready().await;
}
