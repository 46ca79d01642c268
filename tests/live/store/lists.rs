//! Lists and counts.

use sagad::core::saga::Status;
use sagad::core::time::Time;
use sagad::store::{Filter, Store};
use uuid::{NoContext, Timestamp};

use super::*;

over_all!(lists_are_newest_first_and_filtered, pages_follow_each_other, counts_follow_the_status,);

/// Accepted `seconds` after [`NOW`].
fn accepted(seconds: i64, definition: &str, key: Option<&str>) -> SagaWrite {
    let at = NOW.0 + seconds * 1000;
    let when = Timestamp::from_unix(NoContext, (at / 1000).unsigned_abs(), ((at % 1000) * 1_000_000) as u32);
    let mut write = birth(SagaId(Uuid::new_v7(when)), definition);
    if let Some(birth) = &mut write.birth {
        birth.created_at = Time(at);
        birth.key = key.map(Into::into);
    }
    write
}

async fn list(store: &impl Store, filter: Filter) -> Vec<SagaId> {
    let limit = if filter.limit == 0 { 100 } else { filter.limit };
    store.list(&Filter { limit, ..filter }).await.expect("a list").iter().map(|saga| saga.id).collect()
}

async fn lists_are_newest_first_and_filtered(place: &impl Place) {
    let store = place.open().await;
    let writes = vec![
        accepted(0, "order", Some("A1")),
        with_status(accepted(60, "order", Some("A1")), Status::Failed),
        with_status(accepted(120, "refund", Some("A1")), Status::Failed),
        with_status(accepted(180, "order", Some("A2")), Status::Completed),
        accepted(240, "refund", None),
    ];
    let ids: Vec<SagaId> = writes.iter().map(|write| write.id).collect();
    put(&store, writes).await;
    let of = |definition: &str| Some(definition.to_owned());
    let after = |seconds: i64| Some(Time(NOW.0 + seconds * 1000));
    let any = Filter::default;
    use Status::{Completed, Failed, Running, Suspended};
    let cases = [
        (any(), vec![4, 3, 2, 1, 0]),
        (Filter { limit: 2, ..any() }, vec![4, 3]),
        (Filter { before: Some(ids[3]), ..any() }, vec![2, 1, 0]),
        (Filter { before: Some(ids[3]), limit: 1, ..any() }, vec![2]),
        (Filter { definition: of("order"), ..any() }, vec![3, 1, 0]),
        (Filter { definition: of("order"), limit: 2, ..any() }, vec![3, 1]),
        (Filter { definition: of("or\0der"), ..any() }, vec![]),
        (Filter { statuses: vec![Failed], ..any() }, vec![2, 1]),
        (Filter { statuses: vec![Failed, Failed, Running], ..any() }, vec![4, 2, 1, 0]),
        (Filter { statuses: vec![Suspended], ..any() }, vec![]),
        (Filter { statuses: vec![Failed, Completed], definition: of("order"), ..any() }, vec![3, 1]),
        (Filter { key: of("A1"), ..any() }, vec![2, 1, 0]),
        (Filter { key: of("A1"), definition: of("order"), ..any() }, vec![1, 0]),
        (Filter { key: of("A1"), definition: of("order"), statuses: vec![Running], ..any() }, vec![0]),
        (Filter { key: of("A1"), before: Some(ids[1]), ..any() }, vec![0]),
        (Filter { key: of("A1"), limit: 1, ..any() }, vec![2]),
        (Filter { key: of("A3"), ..any() }, vec![]),
        (Filter { started_after: after(120), ..any() }, vec![4, 3, 2]),
        (Filter { started_before: after(120), ..any() }, vec![1, 0]),
        (Filter { started_after: after(60), started_before: after(180), ..any() }, vec![2, 1]),
        (Filter { started_after: after(60), definition: of("order"), ..any() }, vec![3, 1]),
        (Filter { started_before: after(120), statuses: vec![Failed], ..any() }, vec![1]),
        (Filter { started_after: Some(Time(i64::MAX)), ..any() }, vec![]),
        (Filter { started_before: Some(Time(i64::MIN)), ..any() }, vec![]),
        (
            Filter { started_before: Some(Time(i64::MAX)), started_after: Some(Time(i64::MIN)), limit: 1, ..any() },
            vec![4],
        ),
    ];
    for (filter, expected) in cases {
        let told = format!("{filter:?}");
        let expected: Vec<SagaId> = expected.into_iter().map(|n| ids[n]).collect();
        assert_eq!(list(&store, filter).await, expected, "{told}");
    }
}

async fn pages_follow_each_other(place: &impl Place) {
    let store = place.open().await;
    let statuses = [Status::Running, Status::Completed, Status::Failed];
    let writes: Vec<SagaWrite> =
        (0..50).map(|n| with_status(accepted(n, "order", None), statuses[n as usize % 3])).collect();
    let mut expected: Vec<SagaId> = writes.iter().map(|write| write.id).collect();
    expected.reverse();
    put(&store, writes).await;
    let mut seen = Vec::new();
    loop {
        let filter = Filter {
            definition: Some("order".to_owned()),
            before: seen.last().copied(),
            limit: 7,
            ..Filter::default()
        };
        let page = list(&store, filter).await;
        if page.is_empty() {
            break;
        }
        seen.extend(page);
    }
    assert_eq!(seen, expected);
}

async fn counts_follow_the_status(place: &impl Place) {
    let (store, other) = (place.open().await, place.open().await);
    let count = |definition: &str, status, sagas| (definition.to_owned(), status, sagas);
    assert_eq!(store.counts().await.expect("counts"), []);
    let (one, two, three) = (id(), id(), id());
    let pending = with_status(birth(three, "refund"), Status::Pending);
    put(&store, vec![birth(one, "order"), birth(two, "order"), pending]).await;
    let expected = [count("order", Status::Running, 2), count("refund", Status::Pending, 1)];
    assert_eq!(store.counts().await.expect("counts"), expected);

    // The same status again, by another daemon; then others.
    put(&other, vec![change(one, 1), with_status(change(two, 1), Status::Compensating)]).await;
    put(&store, vec![with_status(change(three, 1), Status::Running), with_status(change(one, 2), Status::Completed)])
        .await;
    put(&other, vec![with_status(change(two, 2), Status::Compensated)]).await;
    // One that had ended goes on.
    put(&store, vec![with_status(change(two, 3), Status::Compensating)]).await;
    let expected = [
        count("order", Status::Compensating, 1),
        count("order", Status::Completed, 1),
        count("refund", Status::Running, 1),
    ];
    assert_eq!(store.counts().await.expect("counts"), expected);
}
