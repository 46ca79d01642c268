//! Purging: what goes, what stays.

use sagad::core::saga::Status;
use sagad::store::{Filter, Holder, ItemsWrite, Purged, Store};
use uuid::{NoContext, Timestamp};

use super::*;

over_all!(
    an_ended_saga_goes_whole,
    idempotency_keys_are_answered_for_ever,
    what_is_owed_stays,
    children_wait_for_their_parents,
    batches_are_bounded_and_go_on,
    one_that_goes_on_is_not_looked_at,
    two_daemons_purge_and_a_third_writes,
);

const HOUR: i64 = 3_600_000;

/// A saga of `definition` that began `hours` before [`NOW`] and ended half an hour later.
fn ended(hours: i64, definition: &str, status: Status) -> SagaWrite {
    let at = NOW.0 - hours * HOUR;
    let when = Timestamp::from_unix(NoContext, (at / 1000).unsigned_abs(), ((at % 1000) * 1_000_000) as u32);
    let mut write = birth(SagaId(Uuid::new_v7(when)), definition);
    write.row.updated_at = Time(at + HOUR / 2);
    if let Some(birth) = &mut write.birth {
        birth.created_at = Time(at);
    }
    with_status(write, status)
}

/// Purges what ended more than `hours` before [`NOW`].
async fn purge(store: &impl Store, definition: &str, hours: i64) -> usize {
    let before = Time(NOW.0 - hours * HOUR);
    let purged = store.purge(definition, before, None, 500).await.expect("a purge");
    assert_eq!(purged.next, None);
    purged.sagas
}

async fn all(store: &impl Store) -> Vec<SagaId> {
    let list = store.list(&Filter { limit: 1000, ..Filter::default() }).await.expect("a list");
    list.iter().rev().map(|saga| saga.id).collect()
}

async fn an_ended_saga_goes_whole(place: &impl Place) {
    let store = place.open().await;
    let (key, lock) = (claim(ClaimKind::Key, "A1"), claim(ClaimKind::Lock, "L"));
    let mut old = claiming(ended(5, "order", Status::Completed), vec![(key.clone(), None), (lock.clone(), None)]);
    old.items = vec![ItemsWrite { step: 0, chunk: 0, state: Bytes::from_static(b"[]") }];
    old.birth.as_mut().expect("a birth").key = Some("A1".into());
    let young = ended(2, "order", Status::Completed);
    let other = ended(5, "refund", Status::Failed);
    // It began long ago and goes on; another one ended only now.
    let mut running = ended(9, "order", Status::Running);
    running.row.ended_at = None;
    let mut late = ended(9, "order", Status::Compensated);
    late.row.ended_at = Some(NOW);
    let (old_id, stay) = (old.id, [running.id, late.id, other.id, young.id]);
    put(&store, vec![old, young, other, running, late]).await;

    assert_eq!(purge(&store, "order", 24).await, 0);
    assert_eq!(purge(&store, "order", 3).await, 1);
    assert_eq!(purge(&store, "order", 3).await, 0);
    assert_eq!(purge(&store, "nothing", 3).await, 0);
    let mut left = all(&store).await;
    left.sort();
    let mut expected = stay.to_vec();
    expected.sort();
    assert_eq!(left, expected);
    assert!(store.load(&[old_id]).await.expect("a load").is_empty());
    assert!(store.journal(old_id, 1).await.expect("a journal").is_empty());
    assert!(store.holders(&[key.clone(), lock]).await.expect("holders").is_empty());
    let count = |definition: &str, status| (definition.to_owned(), status, 1);
    let expected = [
        count("order", Status::Running),
        count("order", Status::Completed),
        count("order", Status::Compensated),
        count("refund", Status::Failed),
    ];
    assert_eq!(store.counts().await.expect("counts"), expected);
    // Nothing of it is left: a saga of the same id has no items, and its key is free.
    let mut again = claiming(birth(old_id, "order"), vec![(key, None)]);
    again.items = vec![ItemsWrite { step: 9, chunk: 9, state: Bytes::from_static(b"[]") }];
    put(&store, vec![again]).await;
    assert_eq!(store.load(&[old_id]).await.expect("a load")[0].items.len(), 1);
}

async fn idempotency_keys_are_answered_for_ever(place: &impl Place) {
    let store = place.open().await;
    let (start, joined, key) =
        (claim(ClaimKind::Start, "first"), claim(ClaimKind::Start, "second"), claim(ClaimKind::Key, "A1"));
    let mut old = claiming(ended(5, "order", Status::Failed), vec![(key.clone(), None), (start.clone(), None)]);
    old.birth.as_mut().expect("a birth").key = Some("A1".into());
    let saga = old.id;
    put(&store, vec![old]).await;
    let late = claim(ClaimKind::Start, "third");
    store
        .commit(&Batch { joined: vec![(joined.clone(), saga, Status::Running)], ..Batch::default() })
        .await
        .expect("a commit");
    assert_eq!(purge(&store, "order", 3).await, 1);
    // One whose sender was told of the saga just before it went.
    store
        .commit(&Batch { joined: vec![(late.clone(), saga, Status::Failed)], ..Batch::default() })
        .await
        .expect("a commit");
    let mut holders = store.holders(&[start.clone(), joined.clone(), late.clone(), key]).await.expect("holders");
    holders.sort_by_key(|holder| holder.claim.clone());
    let held = |claim: &Claim| Holder { claim: claim.clone(), saga, status: Status::Failed };
    assert_eq!(holders, [held(&start), held(&joined), held(&late)]);
    let again = claiming(birth(id(), "order"), vec![(start, None)]);
    assert_eq!(store.commit(&sagas(vec![again])).await.expect("a commit").stale.len(), 1);
}

async fn what_is_owed_stays(place: &impl Place) {
    let store = place.open().await;
    let mut owing = ended(5, "order", Status::Completed);
    let when = Timestamp::from_unix(NoContext, ((NOW.0 - 5 * HOUR) / 1000).unsigned_abs(), 0);
    owing.outbox = vec![OutboxRow { id: Uuid::new_v7(when), ..message(owing.id, b"{}") }];
    let (owing_id, row) = (owing.id, owing.outbox[0].id);
    let done = ended(6, "order", Status::Completed);
    put(&store, vec![owing, done]).await;
    assert_eq!(purge(&store, "order", 3).await, 1);
    assert_eq!(all(&store).await, [owing_id]);
    assert_eq!(whole_outbox(&store).await.len(), 1);
    store.commit(&Batch { confirmed: vec![row], ..Batch::default() }).await.expect("a commit");
    assert_eq!(purge(&store, "order", 3).await, 1);
    assert_eq!(all(&store).await, []);
}

async fn children_wait_for_their_parents(place: &impl Place) {
    let store = place.open().await;
    let mut parent = ended(6, "order", Status::Running);
    parent.row.ended_at = None;
    let parent_id = parent.id;
    let mut child = ended(5, "shipment", Status::Completed);
    child.birth.as_mut().expect("a birth").parent = Some(parent_id);
    let mut orphan = ended(5, "shipment", Status::Completed);
    orphan.birth.as_mut().expect("a birth").parent = Some(id());
    let free = ended(5, "shipment", Status::Completed);
    let child_id = child.id;
    put(&store, vec![parent, child, orphan, free]).await;
    assert_eq!(purge(&store, "shipment", 3).await, 2);
    assert_eq!(all(&store).await, [parent_id, child_id]);
    put(&store, vec![with_status(change(parent_id, 1), Status::Compensating)]).await;
    assert_eq!(purge(&store, "shipment", 3).await, 0);
    put(&store, vec![with_status(change(parent_id, 2), Status::Compensated)]).await;
    assert_eq!(purge(&store, "shipment", 3).await, 1);
    assert_eq!(all(&store).await, [parent_id]);
}

async fn batches_are_bounded_and_go_on(place: &impl Place) {
    let store = place.open().await;
    let statuses = [Status::Completed, Status::Compensated, Status::Failed];
    let writes: Vec<SagaWrite> = (0..25).map(|n| ended(40 - n, "order", statuses[n as usize % 3])).collect();
    let ids: Vec<SagaId> = writes.iter().map(|write| write.id).collect();
    put(&store, writes).await;
    // The first page has one that has to stay.
    put(&store, vec![with_status(change(ids[2], 1), Status::Completed)]).await;
    let (before, mut after, mut pages) = (Time(NOW.0 - 16 * HOUR), None, Vec::new());
    loop {
        let Purged { sagas, next } = store.purge("order", before, after, 10).await.expect("a purge");
        pages.push(sagas);
        after = next;
        if next.is_none() {
            break;
        }
    }
    assert_eq!(pages, [9, 10, 4]);
    assert_eq!(all(&store).await, [ids[2], ids[24]]);
    let counts = store.counts().await.expect("counts");
    assert_eq!(counts, [("order".to_owned(), Status::Completed, 2)]);
}

async fn one_that_goes_on_is_not_looked_at(place: &impl Place) {
    let store = place.open().await;
    let [first, second] = [9, 8].map(|hours| ended(hours, "order", Status::Failed));
    let (first_id, second_id) = (first.id, second.id);
    put(&store, vec![first, second]).await;
    put(&store, vec![with_status(change(first_id, 1), Status::Compensating)]).await;
    let purged = store.purge("order", NOW, None, 1).await.expect("a purge");
    assert_eq!(purged, Purged { sagas: 1, next: Some(second_id) });
    assert_eq!(all(&store).await, [first_id]);
}

async fn two_daemons_purge_and_a_third_writes<P: Place>(place: &P) {
    const SAGAS: i64 = 300;
    let (one, two, engine) = (place.open().await, place.open().await, place.open().await);
    let key = |n: i64| claim(ClaimKind::Key, &n.to_string());
    let start = |n: i64| claim(ClaimKind::Start, &n.to_string());
    let writes: Vec<SagaWrite> = (0..SAGAS)
        .map(|n| {
            let mut write = claiming(ended(5, "order", Status::Failed), vec![(key(n), None), (start(n), None)]);
            write.birth.as_mut().expect("a birth").key = Some(n.to_string().into());
            write
        })
        .collect();
    let ids: Vec<SagaId> = writes.iter().map(|write| write.id).collect();
    put(&one, writes).await;
    let purger = |store: P::Store| async move {
        let (mut sagas, mut after) = (0, None);
        loop {
            let purged = store.purge("order", NOW, after, 20).await.expect("a purge");
            sagas += purged.sagas;
            after = purged.next;
            if after.is_none() {
                return sagas;
            }
        }
    };
    // It takes over keys, asks again for starts, and takes some of the sagas up again, all backwards.
    let backwards = ids.clone();
    let writer = async move {
        let mut taken_up = 0;
        for page in (0..SAGAS).collect::<Vec<_>>().chunks(15).rev() {
            let mut writes = Vec::new();
            for n in page {
                let old = backwards[*n as usize];
                match n % 3 {
                    0 => writes.push(claiming(birth(id(), "order"), vec![(key(*n), Some(old))])),
                    1 => writes.push(claiming(birth(id(), "order"), vec![(start(*n), None)])),
                    _ => writes.push(with_status(change(old, 1), Status::Compensating)),
                }
            }
            let up: Vec<SagaId> = writes.iter().filter(|write| write.birth.is_none()).map(|write| write.id).collect();
            let stale = engine.commit(&sagas(writes)).await.expect("a commit").stale;
            taken_up += up.iter().filter(|saga| !stale.contains(saga)).count();
        }
        taken_up
    };
    let (first, second, taken_up) =
        tokio::join!(tokio::spawn(purger(one.clone())), tokio::spawn(purger(two)), tokio::spawn(writer));
    let (first, second, taken_up) = (first.expect("a purger"), second.expect("a purger"), taken_up.expect("a writer"));
    // What two of them wanted at once one of them left to the other, and a later pass finds what was changed back.
    let left = one.load(&ids).await.expect("a load").len();
    assert_eq!(first + second + left, SAGAS as usize);
    assert!(left >= taken_up, "{left} left, {taken_up} taken up");
    let rest = purge(&one, "order", 0).await;
    assert_eq!(rest, left - taken_up);
    let counts = one.counts().await.expect("counts");
    let of = |status| counts.iter().find(|(_, of, _)| *of == status).map_or(0, |(_, _, sagas)| *sagas);
    assert_eq!((of(Status::Failed), of(Status::Compensating)), (0, taken_up as u64), "{counts:?}");
    for n in (1..SAGAS).step_by(3) {
        let holders = one.holders(&[start(n)]).await.expect("holders");
        let [holder] = holders.as_slice() else { panic!("{holders:?}") };
        assert_eq!((holder.saga, holder.status), (ids[n as usize], Status::Failed));
    }
}
