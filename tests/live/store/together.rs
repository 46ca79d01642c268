//! Several daemons on one store.

use std::sync::Arc;

use sagad::core::saga::Status;
use sagad::store::{Batch, Store};
use tokio::sync::Barrier;

use super::*;

over_all!(of_several_writers_one_wins_and_none_waits_for_ever);

const ROUNDS: u64 = 60;
const SAGAS: usize = 40;

/// Two pools write the same sagas, claim the same keys and forget the same messages, in opposite orders, at the same time.
async fn of_several_writers_one_wins_and_none_waits_for_ever<P: Place>(place: &P) {
    let (one, two) = (place.open().await, place.open().await);
    let shared: Vec<SagaId> = (0..SAGAS).map(|_| id()).collect();
    let mut births: Vec<SagaWrite> = shared.iter().map(|saga| birth(*saga, "order")).collect();
    let mut messages = Vec::new();
    for write in &mut births {
        write.outbox = (0..ROUNDS).map(|_| message(write.id, b"")).collect();
        messages.extend(write.outbox.iter().map(|row| row.id));
    }
    put(&one, births).await;

    let barrier = Arc::new(Barrier::new(2));
    let writer = |store: P::Store, backwards: bool| {
        let (barrier, shared, messages) = (barrier.clone(), shared.clone(), messages.clone());
        async move {
            let (mut won, mut begun) = (0, 0);
            for round in 1..=ROUNDS {
                let mut sagas: Vec<SagaWrite> = shared.iter().map(|saga| change(*saga, round)).collect();
                let mut keys: Vec<Claim> = (0..10).map(|n| claim(ClaimKind::Key, &format!("{round} {n}"))).collect();
                let from = (round as usize - 1) * SAGAS;
                let mut confirmed = messages[from..from + SAGAS].to_vec();
                let join = |n: usize| (claim(ClaimKind::Start, &format!("{round} {n}")), shared[n], Status::Running);
                let mut joined: Vec<(Claim, SagaId, Status)> = (0..10).map(join).collect();
                if backwards {
                    sagas.reverse();
                    keys.reverse();
                    confirmed.reverse();
                    joined.reverse();
                }
                sagas.extend(keys.into_iter().map(|key| claiming(birth(id(), "order"), vec![(key, None)])));
                let batch = Batch { sagas, confirmed, joined, ..Batch::default() };
                barrier.wait().await;
                let stale = store.commit(&batch).await.expect("a commit").stale;
                let changes = batch.sagas.iter().filter(|write| !stale.contains(&write.id));
                let (births, changes): (Vec<_>, Vec<_>) = changes.partition(|write| write.birth.is_some());
                won += changes.len();
                begun += births.len();
            }
            (won, begun)
        }
    };
    let (first, second) = tokio::join!(tokio::spawn(writer(one.clone(), false)), tokio::spawn(writer(two, true)));
    let ((won, begun), (also_won, also_begun)) = (first.expect("a writer"), second.expect("a writer"));
    assert_eq!(won + also_won, SAGAS * ROUNDS as usize);
    assert_eq!(begun + also_begun, 10 * ROUNDS as usize);
    for saga in shared {
        assert_eq!(version(&one, saga).await, Some(ROUNDS + 1));
        assert_eq!(one.journal(saga, 1).await.expect("a journal").len(), ROUNDS as usize + 1);
    }
    assert!(whole_outbox(&one).await.is_empty());
    let sagas = SAGAS as u64 + 10 * ROUNDS;
    assert_eq!(one.counts().await.expect("counts"), [("order".to_owned(), Status::Running, sagas)]);
}
