//! Held sagas, and the locks and slots that they wait for.

use std::collections::BTreeSet;

use sagad::core::saga::Status;
use sagad::store::{Freed, Hold, Store};
use sqlx::{Connection, PgConnection, SqliteConnection};
use uuid::{NoContext, Timestamp};

use super::*;

over_all!(
    the_next_is_the_highest_priority_and_then_the_oldest,
    a_transition_says_whether_a_saga_is_held,
    of_those_with_one_lock_only_the_first_is_next,
    whoever_waits_for_a_freed_lock_gets_a_turn,
    locks_of_crashed_daemons_are_found,
    an_update_takes_claims_or_leaves_nothing,
    a_stale_update_gives_back_its_claims,
    releasing_gives_up_locks_and_slots_alone,
    locks_and_slots_are_not_taken_over,
    of_two_stores_one_gets_each_slot;
    sql: thousands_behind_one_lock_hold_up_nobody,
);

/// A held saga that was accepted `millis` after [`NOW`].
fn held(millis: i64, priority: u8, lock: Option<&str>) -> SagaWrite {
    let at = NOW.0 + millis;
    let when = Timestamp::from_unix(NoContext, (at / 1000).unsigned_abs(), ((at % 1000) * 1_000_000) as u32);
    let mut write = with_status(birth(SagaId(Uuid::new_v7(when)), "order"), Status::Pending);
    write.row.hold = Some(Hold::On { lock: lock.map(Into::into) });
    if let Some(birth) = &mut write.birth {
        birth.priority = priority;
    }
    write
}

/// Lets a saga in that has version `expected`.
fn admit(saga: SagaId, expected: u64, claims: Vec<Claim>) -> SagaWrite {
    let mut write = claiming(change(saga, expected), claims.into_iter().map(|claim| (claim, None)).collect());
    write.row.hold = Some(Hold::Off);
    write
}

fn end(saga: SagaId, expected: u64) -> SagaWrite {
    SagaWrite { releases: true, ..with_status(change(saga, expected), Status::Completed) }
}

fn lock(key: &str) -> Claim {
    claim(ClaimKind::Lock, key)
}

async fn next(store: &impl Store, freed: &[&str], limit: usize) -> Vec<SagaId> {
    let freed: Vec<Arc<str>> = freed.iter().map(|key| (*key).into()).collect();
    store.held("order", Freed::Keys(&freed), limit).await.expect("held sagas")
}

/// Puts these, and gives their ids.
async fn put_held(store: &impl Store, writes: Vec<SagaWrite>) -> Vec<SagaId> {
    let ids = writes.iter().map(|write| write.id).collect();
    put(store, writes).await;
    ids
}

async fn the_next_is_the_highest_priority_and_then_the_oldest(place: &impl Place) {
    let store = place.open().await;
    assert_eq!(store.held_definitions().await.expect("definitions"), [] as [&str; 0]);
    let ids = put_held(&store, vec![held(3, 5, None), held(1, 0, None), held(2, 5, None), held(4, 9, None)]).await;
    let mut other = held(0, 9, None);
    other.birth.as_mut().expect("a birth").definition = "refund".into();
    put(&store, vec![other, birth(id(), "order")]).await;
    assert_eq!(next(&store, &[], 9).await, [ids[3], ids[2], ids[0], ids[1]]);
    assert_eq!(next(&store, &[], 2).await, [ids[3], ids[2]]);
    assert_eq!(store.held_definitions().await.expect("definitions"), ["order", "refund"]);
    assert_eq!(store.held("nothing", Freed::Any, 9).await.expect("held sagas"), []);
}

async fn a_transition_says_whether_a_saga_is_held(place: &impl Place) {
    let store = place.open().await;
    let ids = put_held(&store, vec![held(1, 5, Some("A")), held(2, 5, None)]).await;
    // One that says nothing of it changes nothing, also beside one that does.
    put(&store, vec![with_status(change(ids[0], 1), Status::Pending), admit(ids[1], 1, vec![])]).await;
    assert_eq!(next(&store, &[], 9).await, [ids[0]]);
    let mut suspended = with_status(change(ids[0], 2), Status::Suspended);
    suspended.row.hold = Some(Hold::Off);
    put(&store, vec![suspended]).await;
    assert_eq!(next(&store, &[], 9).await, []);
    assert_eq!(store.held_definitions().await.expect("definitions"), [] as [&str; 0]);
    let mut resumed = with_status(change(ids[0], 3), Status::Pending);
    resumed.row.hold = Some(Hold::On { lock: Some("A".into()) });
    put(&store, vec![resumed]).await;
    assert_eq!(next(&store, &[], 9).await, [ids[0]]);
}

async fn of_those_with_one_lock_only_the_first_is_next(place: &impl Place) {
    let store = place.open().await;
    let writes = vec![held(1, 5, Some("A")), held(2, 5, Some("A")), held(3, 5, Some("B")), held(4, 9, Some("A"))];
    let ids = put_held(&store, writes).await;
    assert_eq!(next(&store, &[], 9).await, [ids[3], ids[2]]);
    // And again: nothing was let in.
    assert_eq!(next(&store, &[], 9).await, [ids[3], ids[2]]);
    // The first gives up: then it is the next one's turn.
    put(&store, vec![SagaWrite { row: SagaRow { hold: Some(Hold::Off), ..end(ids[3], 1).row }, ..end(ids[3], 1) }])
        .await;
    assert_eq!(next(&store, &["A"], 9).await, [ids[0], ids[2]]);
}

async fn whoever_waits_for_a_freed_lock_gets_a_turn(place: &impl Place) {
    let store = place.open().await;
    let long = "k".repeat(5000);
    for key in ["A", "\0", "ünï🦀\u{10ffff}", &long] {
        let ids = put_held(&store, vec![held(1, 5, Some(key)), held(2, 4, Some(key)), held(3, 5, Some(key))]).await;
        assert_eq!(next(&store, &[], 9).await, [ids[0]], "{key:.9}");
        put(&store, vec![admit(ids[0], 1, vec![lock(key)])]).await;
        assert_eq!(next(&store, &[], 9).await, []);
        put(&store, vec![end(ids[0], 2)]).await;
        assert_eq!(next(&store, &[key], 9).await, [ids[2]]);
        // A newcomer of a higher priority goes before it.
        let first = put_held(&store, vec![held(4, 9, Some(key))]).await[0];
        assert_eq!(next(&store, &[], 9).await, [first]);
        put(&store, vec![admit(first, 1, vec![lock(key)])]).await;
        put(&store, vec![end(first, 2)]).await;
        // Then the oldest of the rest, whoever had a turn before.
        assert_eq!(next(&store, &[key], 9).await, [ids[2]]);
        put(&store, vec![admit(ids[2], 1, vec![lock(key)]), admit(ids[1], 1, vec![])]).await;
        assert_eq!(next(&store, &[key], 9).await, []);
    }
}

async fn locks_of_crashed_daemons_are_found(place: &impl Place) {
    let store = place.open().await;
    let keys = ["A", "B", "C", "D"];
    let mut waiting = Vec::new();
    for key in keys {
        let ids = put_held(&store, vec![held(1, 5, Some(key)), held(2, 5, Some(key))]).await;
        put(&store, vec![admit(ids[0], 1, vec![lock(key)])]).await;
        waiting.push(ids);
    }
    assert_eq!(store.held("order", Freed::Any, 9).await.expect("held sagas"), []);
    assert_eq!(store.held_definitions().await.expect("definitions"), ["order"]);
    put(&store, vec![end(waiting[1][0], 2), end(waiting[3][0], 2)]).await;
    // Nobody says which.
    assert_eq!(next(&store, &[], 9).await, []);
    let mut found = store.held("order", Freed::Any, 9).await.expect("held sagas");
    found.sort();
    let mut expected = vec![waiting[1][1], waiting[3][1]];
    expected.sort();
    assert_eq!(found, expected);
}

async fn thousands_behind_one_lock_hold_up_nobody(place: &Sql) {
    const MANY: i64 = 2000;
    let store = place.open().await;
    let holder = put_held(&store, vec![held(0, 5, Some("A"))]).await[0];
    put(&store, vec![admit(holder, 1, vec![lock("A")])]).await;
    put(&store, (0..MANY).map(|n| held(n, 9, Some("A"))).collect()).await;
    let others = put_held(&store, (0..3).map(|n| held(n, 0, Some(&format!("B{n}")))).collect()).await;
    assert_eq!(next(&store, &[], 2).await.len(), 2);
    assert_eq!(next(&store, &[], 9).await.into_iter().collect::<BTreeSet<_>>(), others.into_iter().collect());
    // Each was met once: whoever looks for the next now meets three.
    let met = "SELECT count(*) FROM sagas WHERE held = 1";
    let met: i64 = match place {
        Sql::Sqlite(_) => {
            let mut connection = SqliteConnection::connect(&place.url()).await.expect("a connection");
            sqlx::query_scalar(met).fetch_one(&mut connection).await.expect("a count")
        }
        Sql::Postgres(_) => {
            let mut connection = PgConnection::connect(&place.url()).await.expect("a connection");
            sqlx::query_scalar(met).fetch_one(&mut connection).await.expect("a count")
        }
    };
    assert_eq!(met, 3);
}

async fn an_update_takes_claims_or_leaves_nothing(place: &impl Place) {
    let store = place.open().await;
    let ids = put_held(&store, vec![held(1, 5, None), held(2, 5, None), held(3, 5, None)]).await;
    let slot = |n: u32| claim(ClaimKind::Slot, &n.to_string());
    assert_eq!(store.slots("order").await.expect("slots"), [] as [&str; 0]);
    put(&store, vec![admit(ids[0], 1, vec![slot(0), lock("A")])]).await;
    let mut loser = admit(ids[1], 1, vec![lock("B"), slot(0)]);
    loser.outbox = vec![message(ids[1], b"must not be sent")];
    let winner = admit(ids[2], 1, vec![lock("C"), slot(1)]);
    assert_eq!(store.commit(&sagas(vec![loser, winner])).await.expect("a commit").stale, [ids[1]]);
    assert_eq!((version(&store, ids[1]).await, version(&store, ids[2]).await), (Some(1), Some(2)));
    assert!(whole_outbox(&store).await.is_empty());
    assert_eq!(store.journal(ids[1], 1).await.expect("a journal").len(), 1);
    let mut slots = store.slots("order").await.expect("slots");
    slots.sort();
    assert_eq!(slots, ["0", "1"]);
    let mut holders = store.holders(&[lock("A"), lock("B"), lock("C"), slot(0)]).await.expect("holders");
    holders.sort_by_key(|holder| holder.claim.clone());
    let holders: Vec<(Claim, SagaId)> = holders.into_iter().map(|holder| (holder.claim, holder.saga)).collect();
    assert_eq!(holders, [(lock("A"), ids[0]), (lock("C"), ids[2]), (slot(0), ids[0])]);
    // Two of one batch want the same one.
    let more = put_held(&store, vec![held(4, 5, None), held(5, 5, None)]).await;
    let both = more.iter().map(|saga| admit(*saga, 1, vec![slot(2)])).collect();
    assert_eq!(store.commit(&sagas(both)).await.expect("a commit").stale.len(), 1);
    assert_eq!(next(&store, &[], 9).await.len(), 2);
}

async fn a_stale_update_gives_back_its_claims(place: &impl Place) {
    let store = place.open().await;
    let ids = put_held(&store, vec![held(1, 5, None), held(2, 5, None)]).await;
    let late = admit(ids[0], 7, vec![lock("A")]);
    let good = admit(ids[1], 1, vec![lock("B")]);
    assert_eq!(store.commit(&sagas(vec![late, good])).await.expect("a commit").stale, [ids[0]]);
    let holders = store.holders(&[lock("A"), lock("B")]).await.expect("holders");
    assert_eq!(holders.iter().map(|holder| holder.saga).collect::<Vec<_>>(), [ids[1]]);
}

async fn releasing_gives_up_locks_and_slots_alone(place: &impl Place) {
    let store = place.open().await;
    let (one, two, three) = (id(), id(), id());
    let (key, start, slot) = (claim(ClaimKind::Key, "A1"), claim(ClaimKind::Start, "s"), claim(ClaimKind::Slot, "0"));
    let all = [key.clone(), start.clone(), lock("A"), slot.clone()];
    put(&store, vec![claiming(birth(one, "order"), all.iter().map(|claim| (claim.clone(), None)).collect())]).await;
    put(&store, vec![claiming(birth(two, "order"), vec![(lock("B"), None)]), birth(three, "order")]).await;
    // A stale one releases nothing; one that has nothing has nothing to release.
    let stale = store.commit(&sagas(vec![end(two, 7), end(three, 1)])).await.expect("a commit").stale;
    assert_eq!(stale, [two]);
    put(&store, vec![end(one, 1)]).await;
    let mut holders = store.holders(&[&all[..], &[lock("B")]].concat()).await.expect("holders");
    holders.sort_by_key(|holder| holder.claim.clone());
    let claims: Vec<Claim> = holders.into_iter().map(|holder| holder.claim).collect();
    assert_eq!(claims, [key, start, lock("B")]);
    put(&store, vec![claiming(birth(id(), "order"), vec![(lock("A"), None), (slot, None)])]).await;
}

async fn locks_and_slots_are_not_taken_over(place: &impl Place) {
    let store = place.open().await;
    for claim in [lock("A"), claim(ClaimKind::Slot, "0")] {
        let (holder, next) = (id(), id());
        put(&store, vec![claiming(birth(holder, "order"), vec![(claim.clone(), None)])]).await;
        put(&store, vec![with_status(change(holder, 1), Status::Completed)]).await;
        // It has ended, and has not given it up.
        let taking = claiming(birth(next, "order"), vec![(claim.clone(), Some(holder))]);
        assert_eq!(store.commit(&sagas(vec![taking])).await.expect("a commit").stale, [next]);
        let holders = store.holders(&[claim]).await.expect("holders");
        assert_eq!(holders.iter().map(|held| held.saga).collect::<Vec<_>>(), [holder]);
    }
}

/// Two daemons let sagas in as fast as they can; each slot is held by one saga at a time, and nobody waits for ever.
async fn of_two_stores_one_gets_each_slot<P: Place>(place: &P) {
    const SLOTS: usize = 3;
    const SAGAS: i64 = 120;
    let (one, two) = (place.open().await, place.open().await);
    let ids = put_held(&one, (0..SAGAS).map(|n| held(n, 5, Some(&format!("{}", n % 7)))).collect()).await;
    let daemon = |store: P::Store| async move {
        let mut let_in = Vec::new();
        loop {
            let taken = store.slots("order").await.expect("slots");
            assert!(taken.len() <= SLOTS, "{taken:?}");
            let held = store.held("order", Freed::Any, SLOTS).await.expect("held sagas");
            if held.is_empty() && store.held_definitions().await.expect("definitions").is_empty() {
                return let_in;
            }
            let free = (0..SLOTS).map(|n| n.to_string()).filter(|slot| !taken.contains(slot));
            let writes: Vec<SagaWrite> = (held.iter().zip(free))
                .map(|(saga, slot)| {
                    let lock = ids_lock(*saga);
                    admit(*saga, 1, vec![claim(ClaimKind::Slot, &slot), claim(ClaimKind::Lock, &lock)])
                })
                .collect();
            let tried: Vec<SagaId> = writes.iter().map(|write| write.id).collect();
            let stale = store.commit(&sagas(writes)).await.expect("a commit").stale;
            let won: Vec<SagaId> = tried.into_iter().filter(|saga| !stale.contains(saga)).collect();
            put(&store, won.iter().map(|saga| end(*saga, 2)).collect()).await;
            let_in.extend(won);
        }
    };
    // The first to fail ends the test: the other one would wait for its slots for ever.
    let (first, second) = tokio::try_join!(tokio::spawn(daemon(one.clone())), tokio::spawn(daemon(two))).expect("both");
    let mut all = [first, second].concat();
    all.sort();
    let mut expected = ids;
    expected.sort();
    assert_eq!(all, expected, "each was let in once");
    assert_eq!(one.slots("order").await.expect("slots"), [] as [&str; 0]);
}

/// The lock of a saga, by the time in its id.
fn ids_lock(saga: SagaId) -> String {
    let (seconds, nanos) = saga.0.get_timestamp().expect("a time").to_unix();
    let millis = seconds as i64 * 1000 + i64::from(nanos) / 1_000_000;
    ((millis - NOW.0) % 7).to_string()
}
