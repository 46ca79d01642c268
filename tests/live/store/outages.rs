//! A Postgres that is killed, stopped, or restarted.

use std::time::{Duration, Instant};

use sagad::store::{OpenError, Store};
use tokio::task::block_in_place;

use super::*;
use crate::postgres::Cluster;

const SERVING: Opening = Opening { migrate: true, exclusive: true };

async fn cluster() -> (Cluster, SqlStore) {
    let cluster = block_in_place(Cluster::start);
    let store = SqlStore::connect(&cluster.url("postgres"), SERVING).await.expect("a store");
    (cluster, store)
}

fn is_unavailable<T: std::fmt::Debug>(outcome: Result<T, StoreError>) {
    assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_outlives_a_kill_and_the_store_comes_back_by_itself() {
    let (mut cluster, store) = cluster().await;
    let saga = id();
    put(&store, vec![birth(saga, "order")]).await;
    // Several connections, all to break.
    let ids = [saga];
    let (a, b, c) = tokio::join!(store.load(&ids), store.counts(), store.ping());
    a.map(drop).and(b.map(drop)).and(c).expect("answers");

    block_in_place(|| cluster.kill());
    is_unavailable(store.commit(&sagas(vec![change(saga, 1)])).await);
    is_unavailable(store.load(&[saga]).await);
    is_unavailable(store.ping().await);
    let error = SqlStore::connect(&cluster.url("postgres"), SERVING).await.map(drop).expect_err("away");
    assert!(matches!(error, OpenError::Store(StoreError::Unavailable(_))), "{error:?}");

    block_in_place(|| cluster.restart());
    assert_eq!(version(&store, saga).await, Some(1), "at once: no broken connection is tried again");
    put(&store, vec![change(saga, 1)]).await;
    assert_eq!(store.journal(saga, 1).await.expect("a journal").len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_failure_tells_of_all_connections_that_broke() {
    let (mut cluster, store) = cluster().await;
    let pings = |n: usize| futures_util::future::join_all((0..n).map(|_| store.ping()));
    pings(8).await.into_iter().collect::<Result<(), _>>().expect("answers");
    block_in_place(|| {
        cluster.kill();
        cluster.restart();
    });
    is_unavailable(store.ping().await);
    pings(8).await.into_iter().collect::<Result<(), _>>().expect("answers again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_unavailable_and_holds_nobody_up() {
    let (mut cluster, store) = cluster().await;
    let saga = id();
    put(&store, vec![birth(saga, "order")]).await;
    block_in_place(|| cluster.freeze());
    let begun = Instant::now();
    // More callers than connections: those without one give up as well.
    let loads = futures_util::future::join_all((0..20).map(|_| store.load(std::slice::from_ref(&saga)))).await;
    loads.into_iter().for_each(is_unavailable);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    block_in_place(|| cluster.thaw());
    assert_eq!(version(&store, saga).await, Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_somebody_locks_for_long_is_unavailable() {
    use sqlx::{Connection, Executor, PgConnection};
    let place = Sql::postgres().await;
    let store = place.open().await;
    let saga = id();
    put(&store, vec![birth(saga, "order")]).await;
    let mut other = PgConnection::connect(&place.url()).await.expect("a server");
    other.execute("BEGIN").await.expect("a transaction");
    other.execute("SELECT id FROM sagas FOR UPDATE").await.expect("a lock");
    is_unavailable(store.commit(&sagas(vec![change(saga, 1)])).await);
    // What is locked is not due for anybody else.
    assert!(store.take_due(Time(i64::MAX), Time(i64::MAX), 9).await.expect("due").is_empty());
    other.execute("ROLLBACK").await.expect("no lock");
    put(&store, vec![change(saga, 1)]).await;
}
