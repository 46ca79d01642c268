//! A daemon is asked to stop.

use std::time::{Duration, Instant};

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use sagad::broker::message::Inbox;
use sagad::broker::names::Names;

use super::verdict::verify_everything;
use super::{Kind, Trial};
use crate::rabbitmq;

/// `shutdown_grace`.
const GRACE: Duration = Duration::from_secs(10);

async fn stopped_under_load(kind: Kind) {
    let trial = Trial::new(rabbitmq::own().await.control(), kind).await;
    let load = trial.load(40);
    let mut daemon = trial.site.start().await;
    for stop in 0..4 {
        load.goes_to([&daemon]);
        daemon.ready().await;
        tokio::time::sleep(trial.chance.of(("stop", stop)).millis(400..1_500)).await;
        let asked = Instant::now();
        daemon.terminate();
        let status = daemon.wait(GRACE + Duration::from_secs(1)).await;
        assert_eq!(status.code(), Some(0), "after {:?}", asked.elapsed());
        println!("stopped after {:?}", asked.elapsed());
        let log = daemon.log();
        assert!(!log.contains("not everything was finished in time"), "{log}");
        if kind == Kind::Sqlite {
            // Nobody else publishes from this store: what was committed has been published.
            let rows = super::verdict::outbox_rows(trial.site.store()).await;
            assert_eq!(rows, 0, "rows in the outbox of a daemon that stopped in order");
        }
        daemon = trial.site.spawn();
    }
    daemon.ready().await;
    load.goes_to([&daemon]);
    let started = load.stop().await;
    assert!(started.len() > 50, "this was no load: {}", started.len());
    verify_everything(&trial, vec![daemon], &started, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_on_sqlite_stops_in_order_and_the_next_goes_on() {
    stopped_under_load(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_on_postgres_stops_in_order_and_the_next_goes_on() {
    stopped_under_load(Kind::Postgres).await;
}

/// What a daemon that stops has not dealt with is in its queues again, and whatever it has dealt with is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_come_while_nobody_runs_wait() {
    let trial = Trial::new(rabbitmq::own().await.control(), Kind::Sqlite).await;
    let load = trial.load(40);
    let mut daemon = trial.site.start().await;
    load.goes_to([&daemon]);
    while load.accepted() < 40 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    daemon.terminate();
    load.goes_to([]);
    daemon.wait(GRACE + Duration::from_secs(1)).await;

    let connection = Connection::connect(trial.site.amqp(), ConnectionProperties::default()).await.expect("the broker");
    let channel = connection.create_channel().await.expect("a channel");
    let queue = Names::new(trial.site.prefix()).queue(Inbox::Replies);
    let passive = QueueDeclareOptions { passive: true, durable: true, ..QueueDeclareOptions::default() };
    let waiting = channel.queue_declare(queue.into(), passive, FieldTable::default()).await.expect("it exists");
    assert_eq!(waiting.consumer_count(), 0);

    let mut daemon = trial.site.start().await;
    load.goes_to([&daemon]);
    daemon.ready().await;
    let started = load.stop().await;
    verify_everything(&trial, vec![daemon], &started, 0).await;
    connection.close(200, "OK".into()).await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_it_at_once() {
    // What keeps it from ending in order is its database, which another one has locked.
    let trial = Trial::new(rabbitmq::own().await.control(), Kind::Sqlite).await;
    let load = trial.load(40);
    let mut daemon = trial.site.start().await;
    load.goes_to([&daemon]);
    while load.accepted() < 20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let lock = super::disk::Lock::take(&trial).await;
    // Something has to be in hand.
    tokio::time::sleep(Duration::from_millis(300)).await;
    daemon.terminate();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(daemon.exited(), None, "it waits for what is in hand");
    let asked = Instant::now();
    daemon.terminate();
    let status = daemon.wait(Duration::from_secs(3)).await;
    assert!(!status.success(), "{status}");
    println!("ended after {:?}", asked.elapsed());
    lock.release().await;

    let daemon = trial.site.start().await;
    load.goes_to([&daemon]);
    let started = load.stop().await;
    verify_everything(&trial, vec![daemon], &started, 0).await;
}
