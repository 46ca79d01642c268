//! Items of foreach steps: chunks beside the saga's row.

use bytes::Bytes;
use sagad::store::{Filter, ItemsWrite, Store, StoredItems};

use super::*;

over_all!(
    items_are_read_as_they_were_written,
    a_stale_write_leaves_items_alone,
    items_and_row_are_of_one_version,
    a_thousand_chunks_are_one_batch,
);

fn chunk(step: u32, chunk: i32, state: &str) -> ItemsWrite {
    ItemsWrite { step, chunk, state: Bytes::copy_from_slice(state.as_bytes()) }
}

fn stored(step: u32, chunk: i32, version: u64, state: &str) -> StoredItems {
    StoredItems { step, chunk, version, state: Bytes::copy_from_slice(state.as_bytes()) }
}

fn with_items(write: SagaWrite, items: Vec<ItemsWrite>) -> SagaWrite {
    SagaWrite { items, ..write }
}

async fn items(store: &impl Store, saga: SagaId) -> Vec<StoredItems> {
    store.load(&[saga]).await.expect("a load").remove(0).items
}

async fn items_are_read_as_they_were_written(place: &impl Place) {
    let store = place.open().await;
    let (saga, late, plain) = (id(), id(), id());
    let list = chunk(2, -1, "[1,2]");
    put(&store, vec![with_items(birth(saga, "order"), vec![chunk(2, 0, "a"), list]), birth(late, "order")]).await;
    put(&store, vec![birth(plain, "order")]).await;
    assert_eq!(items(&store, saga).await, [stored(2, -1, 1, "[1,2]"), stored(2, 0, 1, "a")]);
    assert_eq!(items(&store, late).await, []);

    // One chunk changes, another is new; the rest stays. A saga may get its first items later.
    let changes = vec![
        with_items(change(saga, 1), vec![chunk(2, 0, "b"), chunk(2, 1, ""), chunk(7, 0, "c")]),
        with_items(change(late, 1), vec![chunk(u32::MAX, i32::MAX, "d")]),
        change(plain, 1),
    ];
    put(&store, changes).await;
    let expected = [stored(2, -1, 1, "[1,2]"), stored(2, 0, 2, "b"), stored(2, 1, 2, ""), stored(7, 0, 2, "c")];
    assert_eq!(items(&store, saga).await, expected);
    // A transition without items, beside one with some.
    put(&store, vec![change(saga, 2), with_items(change(late, 2), vec![chunk(0, 0, "e")])]).await;
    assert_eq!(items(&store, saga).await, expected);
    let mut both = store.load(&[saga, plain, late]).await.expect("a load");
    both.sort_by_key(|saga| saga.id);
    let read: Vec<(SagaId, u64, usize)> = both.iter().map(|saga| (saga.id, saga.version, saga.items.len())).collect();
    assert_eq!(read, [(saga, 3, 4), (late, 3, 2), (plain, 2, 0)]);
    assert_eq!(both[0].state, "{\"state\":3}");
    assert_eq!(both[1].items, [stored(0, 0, 3, "e"), stored(u32::MAX, i32::MAX, 2, "d")]);

    let listed = store.list(&Filter { limit: 9, ..Filter::default() }).await.expect("a list");
    assert!(listed.len() == 3 && listed.iter().all(|saga| saga.items.is_empty()));
}

async fn a_stale_write_leaves_items_alone(place: &impl Place) {
    let store = place.open().await;
    let (saga, other) = (id(), id());
    put(&store, vec![with_items(birth(saga, "order"), vec![chunk(0, 0, "first")]), birth(other, "order")]).await;
    let late = with_items(change(saga, 7), vec![chunk(0, 0, "late"), chunk(0, 1, "late")]);
    let good = with_items(change(other, 1), vec![chunk(0, 0, "good")]);
    let unknown = with_items(change(id(), 1), vec![chunk(0, 0, "of nobody")]);
    let (late_id, unknown_id) = (late.id, unknown.id);
    let mut stale = store.commit(&sagas(vec![late, good, unknown])).await.expect("a commit").stale;
    stale.sort();
    assert_eq!(stale, [late_id, unknown_id]);
    assert_eq!(items(&store, saga).await, [stored(0, 0, 1, "first")]);
    assert_eq!(items(&store, other).await, [stored(0, 0, 2, "good")]);
    // A birth of a saga that exists is stale too.
    let again = with_items(birth(saga, "order"), vec![chunk(0, 0, "again")]);
    assert_eq!(store.commit(&sagas(vec![again])).await.expect("a commit").stale, [saga]);
    assert_eq!(items(&store, saga).await, [stored(0, 0, 1, "first")]);
}

/// A reader beside a writer that changes both chunks each time.
async fn items_and_row_are_of_one_version(place: &impl Place) {
    const CHANGES: u64 = 50;
    let (store, reader) = (place.open().await, place.open().await);
    let saga = id();
    let both = |version: u64| vec![chunk(0, 0, &version.to_string()), chunk(0, 1, &version.to_string())];
    put(&store, vec![with_items(birth(saga, "order"), both(1))]).await;
    let writer = tokio::spawn(async move {
        for version in 1..=CHANGES {
            put(&store, vec![with_items(change(saga, version), both(version + 1))]).await;
        }
    });
    let (mut last, mut finished) = (0, false);
    while !finished {
        finished = writer.is_finished();
        let read = reader.load(&[saga]).await.expect("a load").remove(0);
        let state = read.version.to_string();
        assert_eq!(read.items, [stored(0, 0, read.version, &state), stored(0, 1, read.version, &state)]);
        assert!(read.version >= last, "{} after {last}", read.version);
        last = read.version;
    }
    writer.await.expect("the writer");
    assert_eq!(last, CHANGES + 1);
}

async fn a_thousand_chunks_are_one_batch(place: &impl Place) {
    let store = place.open().await;
    let ids: Vec<SagaId> = (0..100).map(|_| id()).collect();
    let chunks = |saga: &SagaId| (0..10).map(|n| chunk(1, n, &format!("{saga} {n}"))).collect();
    put(&store, ids.iter().map(|saga| with_items(birth(*saga, "order"), chunks(saga))).collect()).await;
    for saga in store.load(&ids).await.expect("a load") {
        let expected: Vec<StoredItems> = (0..10).map(|n| stored(1, n, 1, &format!("{} {n}", saga.id))).collect();
        assert_eq!(saga.items, expected);
    }
}
