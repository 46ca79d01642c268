//! Due timers and left-over outbox rows: given to one caller at a time.

use std::collections::HashSet;

use sagad::core::time::Time;
use sagad::store::{Batch, Store};
use uuid::Uuid;

use super::*;

over_all!(
    due_sagas_are_leased_in_order,
    timers_are_exact_to_the_millisecond,
    a_lease_does_not_change_the_version,
    two_takers_share_what_is_due,
    outbox_rows_are_leased_oldest_first,
    outbox_leases_can_be_ended,
    outbox_rows_know_how_often_they_were_handed_out,
    two_takers_share_the_outbox,
);

fn due(at: i64) -> SagaWrite {
    let mut write = birth(id(), "order");
    write.row.due = Some(Time(at));
    write
}

async fn due_sagas_are_leased_in_order(place: &impl Place) {
    let store = place.open().await;
    let writes = [due(30_000), due(10_000), due(20_000), due(40_000)];
    let [thirty, ten, twenty, forty] = [0, 1, 2, 3].map(|n| writes[n].id);
    let mut never = birth(id(), "order");
    never.row.due = None;
    put(&store, writes.into_iter().chain([never]).collect()).await;
    assert_eq!(store.next_due().await.expect("a time"), Some(Time(10_000)));
    assert!(store.take_due(Time(9_999), Time(100_000), 10).await.expect("due").is_empty());

    // The two that are due first, not any two.
    let taken = store.take_due(Time(30_000), Time(100_000), 2).await.expect("due");
    assert_eq!(taken.into_iter().collect::<HashSet<_>>(), HashSet::from([ten, twenty]));
    assert_eq!(store.next_due().await.expect("a time"), Some(Time(30_000)));
    assert_eq!(store.take_due(Time(30_000), Time(100_000), 10).await.expect("due"), [thirty]);
    assert_eq!(store.take_due(Time(99_999), Time(200_000), 10).await.expect("due"), [forty]);
    // The leases ended and nothing came of them.
    let taken = store.take_due(Time(100_000), Time(300_000), 10).await.expect("due");
    assert_eq!(taken.into_iter().collect::<HashSet<_>>(), HashSet::from([ten, twenty, thirty]));
}

async fn timers_are_exact_to_the_millisecond(place: &impl Place) {
    let store = place.open().await;
    // Before 1970, too: nothing rounds the wrong way.
    for at in [-1025, -1024, -1023, -1, 0, 1, 1023, 1024, 1025] {
        let write = due(at);
        let saga = write.id;
        put(&store, vec![write]).await;
        assert_eq!(store.next_due().await.expect("a time"), Some(Time(at)));
        assert!(store.take_due(Time(at - 1), Time(100_000), 10).await.expect("due").is_empty(), "{at}");
        assert_eq!(store.take_due(Time(at), Time(100_000), 10).await.expect("due"), [saga], "{at}");
        put(&store, vec![change(saga, 1)]).await;
    }
    put(&store, vec![due(2_000), due(1_999), due(2_001)]).await;
    assert_eq!(store.next_due().await.expect("a time"), Some(Time(1_999)));
}

async fn a_lease_does_not_change_the_version(place: &impl Place) {
    let store = place.open().await;
    let write = due(10);
    let saga = write.id;
    put(&store, vec![write]).await;
    assert_eq!(store.take_due(Time(10), Time(100), 10).await.expect("due"), [saga]);
    put(&store, vec![change(saga, 1)]).await;
    assert_eq!(store.next_due().await.expect("a time"), None);
    assert!(store.take_due(Time(1000), Time(2000), 10).await.expect("due").is_empty());
}

async fn two_takers_share_what_is_due<P: Place>(place: &P) {
    let (one, two) = (place.open().await, place.open().await);
    put(&one, (0..400).map(due).collect()).await;
    let taker = |store: P::Store| async move {
        let mut all = Vec::new();
        loop {
            let taken = store.take_due(Time(1000), Time(100_000), 7).await.expect("due");
            if taken.is_empty() {
                return all;
            }
            all.extend(taken);
        }
    };
    let (first, second) = tokio::join!(tokio::spawn(taker(one)), tokio::spawn(taker(two)));
    let (first, second) = (first.expect("a taker"), second.expect("a taker"));
    let different: HashSet<SagaId> = first.iter().chain(&second).copied().collect();
    assert_eq!((first.len() + second.len(), different.len()), (400, 400));
}

/// Messages of one saga with these leases, oldest first.
async fn outbox(store: &impl Store, leases: &[i64]) -> Vec<Uuid> {
    let mut write = birth(id(), "order");
    write.outbox =
        leases.iter().map(|lease| OutboxRow { leased_until: Time(*lease), ..message(write.id, b"") }).collect();
    let ids = write.outbox.iter().map(|row| row.id).collect();
    put(store, vec![write]).await;
    ids
}

async fn take(store: &impl Store, now: i64, lease: i64, limit: usize) -> Vec<Uuid> {
    let rows = store.take_outbox(Time(now), Time(lease), limit).await.expect("the outbox");
    assert!(rows.iter().all(|row| row.leased_until == Time(lease)));
    rows.iter().map(|row| row.id).collect()
}

async fn outbox_rows_are_leased_oldest_first(place: &impl Place) {
    let store = place.open().await;
    let ids = outbox(&store, &[0, 50, 0, 0]).await;
    assert_eq!(take(&store, 10, 100, 2).await, [ids[0], ids[2]]);
    assert_eq!(take(&store, 10, 100, 2).await, [ids[3]]);
    assert!(take(&store, 50, 100, 2).await.is_empty(), "leased until 50 is leased at 50");
    assert_eq!(take(&store, 51, 100, 2).await, [ids[1]]);
    store.commit(&Batch { confirmed: vec![ids[2]], ..Batch::default() }).await.expect("a commit");
    assert_eq!(take(&store, 101, 200, 10).await, [ids[0], ids[1], ids[3]]);
}

async fn outbox_leases_can_be_ended(place: &impl Place) {
    let store = place.open().await;
    let ids = outbox(&store, &[i64::MAX, 7, 0]).await;
    store.release_outbox().await.expect("a release");
    assert_eq!(take(&store, 1, 100, 10).await, ids);
}

async fn outbox_rows_know_how_often_they_were_handed_out(place: &impl Place) {
    let store = place.open().await;
    let ids = outbox(&store, &[0, 0]).await;
    let handed = async |now| {
        let rows = store.take_outbox(Time(now), Time(now + 10), 10).await.expect("the outbox");
        rows.iter().map(|row| row.handed).collect::<Vec<_>>()
    };
    assert_eq!(handed(10).await, [1, 1], "its first taker is the first to have it");
    let kept = store.keep_outbox(&[(ids[0], 1), (ids[1], 2), (Uuid::now_v7(), 1)], Time(50)).await;
    assert_eq!(kept.expect("kept"), [ids[0]]);
    assert_eq!(handed(40).await, [2], "what is kept is leased");
    assert!(store.keep_outbox(&[(ids[1], 1)], Time(90)).await.expect("kept").is_empty());
    assert_eq!(handed(60).await, [2, 3]);
}

async fn two_takers_share_the_outbox<P: Place>(place: &P) {
    let (one, two) = (place.open().await, place.open().await);
    let ids: HashSet<Uuid> = outbox(&one, &[0; 300]).await.into_iter().collect();
    let taker = |store: P::Store| async move {
        let mut all = Vec::new();
        loop {
            let taken = take(&store, 10, 100_000, 7).await;
            if taken.is_empty() {
                return all;
            }
            all.extend(taken);
        }
    };
    let (first, second) = tokio::join!(tokio::spawn(taker(one)), tokio::spawn(taker(two)));
    let taken: Vec<Uuid> = first.expect("a taker").into_iter().chain(second.expect("a taker")).collect();
    assert_eq!(taken.len(), 300);
    assert_eq!(taken.into_iter().collect::<HashSet<_>>(), ids);
}
