//! Claims: one saga holds each.

use sagad::core::saga::Status;
use sagad::store::{Batch, Holder, Store};

use super::*;

over_all!(
    a_birth_holds_its_claims,
    a_birth_that_loses_one_of_two_claims_leaves_nothing,
    an_ended_sagas_claim_is_taken_over_from_it_alone,
    a_lost_birth_gives_back_what_it_took_over,
    of_two_births_of_a_batch_one_gets_the_claim,
    joined_claims_are_kept_where_they_are_free,
    a_claim_joined_to_a_lost_birth_is_not_kept,
    odd_tokens_stay_different,
);

async fn holder(store: &impl Store, claim: &Claim) -> Option<SagaId> {
    let holders = store.holders(std::slice::from_ref(claim)).await.expect("holders");
    assert!(holders.len() < 2 && holders.iter().all(|holder| holder.claim == *claim));
    holders.first().map(|holder| holder.saga)
}

async fn a_birth_holds_its_claims(place: &impl Place) {
    let store = place.open().await;
    let saga = id();
    let (key, start, free) = (claim(ClaimKind::Key, "A1"), claim(ClaimKind::Start, "A1"), claim(ClaimKind::Key, "A2"));
    put(&store, vec![claiming(birth(saga, "order"), vec![(key.clone(), None), (start.clone(), None)])]).await;
    let mut holders = store.holders(&[free, start.clone(), key.clone()]).await.expect("holders");
    holders.sort_by_key(|holder| holder.claim.clone());
    let held = |claim| Holder { claim, saga, status: Status::Running };
    assert_eq!(holders, [held(key.clone()), held(start)]);
    put(&store, vec![with_status(change(saga, 1), Status::Completed)]).await;
    assert_eq!(store.holders(&[key]).await.expect("holders")[0].status, Status::Completed);
    assert!(store.holders(&[]).await.expect("holders").is_empty());
    // Another definition's key is another key.
    let other = Claim { definition: "refund".into(), ..claim(ClaimKind::Key, "A1") };
    assert_eq!(holder(&store, &other).await, None);
}

async fn a_birth_that_loses_one_of_two_claims_leaves_nothing(place: &impl Place) {
    let store = place.open().await;
    let (first, loser, winner, changed) = (id(), id(), id(), id());
    let (key, start) = (claim(ClaimKind::Key, "A1"), claim(ClaimKind::Start, "fresh"));
    put(&store, vec![claiming(birth(first, "order"), vec![(key.clone(), None)]), birth(changed, "order")]).await;

    let mut lost = claiming(birth(loser, "order"), vec![(start.clone(), None), (key.clone(), None)]);
    lost.outbox = vec![message(loser, b"must not be sent")];
    let won = claiming(birth(winner, "order"), vec![(claim(ClaimKind::Key, "A2"), None)]);
    let committed = store.commit(&sagas(vec![lost, won, change(changed, 1)])).await.expect("a commit");
    assert_eq!(committed.stale, [loser]);

    assert_eq!(version(&store, loser).await, None);
    assert!(store.journal(loser, 1).await.expect("a journal").is_empty());
    assert!(whole_outbox(&store).await.is_empty());
    assert_eq!(holder(&store, &start).await, None);
    assert_eq!(holder(&store, &key).await, Some(first));
    assert_eq!(version(&store, winner).await, Some(1));
    assert_eq!(version(&store, changed).await, Some(2));
    // The claim that it had got for a moment is free.
    let next = id();
    put(&store, vec![claiming(birth(next, "order"), vec![(start.clone(), None)])]).await;
    assert_eq!(holder(&store, &start).await, Some(next));
    assert_eq!(store.counts().await.expect("counts"), [("order".to_owned(), Status::Running, 4)]);
}

async fn an_ended_sagas_claim_is_taken_over_from_it_alone(place: &impl Place) {
    let store = place.open().await;
    let (first, second, late) = (id(), id(), id());
    let key = claim(ClaimKind::Key, "A1");
    put(&store, vec![claiming(birth(first, "order"), vec![(key.clone(), None)])]).await;
    put(&store, vec![with_status(change(first, 1), Status::Failed)]).await;
    put(&store, vec![claiming(birth(second, "order"), vec![(key.clone(), Some(first))])]).await;
    assert_eq!(holder(&store, &key).await, Some(second));
    // Who still takes `first` for the holder comes too late.
    let late_birth = claiming(birth(late, "order"), vec![(key.clone(), Some(first))]);
    assert_eq!(store.commit(&sagas(vec![late_birth])).await.expect("a commit").stale, [late]);
    assert_eq!(holder(&store, &key).await, Some(second));
    assert_eq!(version(&store, late).await, None);
}

async fn a_lost_birth_gives_back_what_it_took_over(place: &impl Place) {
    let store = place.open().await;
    let (ended, holding, loser) = (id(), id(), id());
    let (key, start) = (claim(ClaimKind::Key, "A1"), claim(ClaimKind::Start, "taken"));
    let births = vec![
        claiming(birth(ended, "order"), vec![(key.clone(), None)]),
        claiming(birth(holding, "order"), vec![(start.clone(), None)]),
    ];
    put(&store, births).await;
    let lost = claiming(birth(loser, "order"), vec![(key.clone(), Some(ended)), (start.clone(), None)]);
    assert_eq!(store.commit(&sagas(vec![lost])).await.expect("a commit").stale, [loser]);
    assert_eq!(holder(&store, &key).await, Some(ended));
    assert_eq!(holder(&store, &start).await, Some(holding));
}

async fn of_two_births_of_a_batch_one_gets_the_claim(place: &impl Place) {
    let store = place.open().await;
    let (one, two) = (id(), id());
    let key = claim(ClaimKind::Key, "A1");
    let births = [one, two].map(|saga| claiming(birth(saga, "order"), vec![(key.clone(), None)]));
    let stale = store.commit(&sagas(births.into())).await.expect("a commit").stale;
    let [loser] = stale[..] else { panic!("{stale:?}") };
    let winner = if loser == one { two } else { one };
    assert_eq!(holder(&store, &key).await, Some(winner));
    assert_eq!((version(&store, winner).await, version(&store, loser).await), (Some(1), None));
}

async fn joined_claims_are_kept_where_they_are_free(place: &impl Place) {
    let store = place.open().await;
    let (first, second, born) = (id(), id(), id());
    let (taken, free) = (claim(ClaimKind::Start, "taken"), claim(ClaimKind::Start, "free"));
    put(&store, vec![claiming(birth(first, "order"), vec![(taken.clone(), None)]), birth(second, "order")]).await;
    let fresh = claim(ClaimKind::Start, "fresh");
    let batch = Batch {
        // Also one of a saga that begins in the same batch, and one twice.
        sagas: vec![claiming(birth(born, "order"), vec![(claim(ClaimKind::Key, "A9"), None)])],
        joined: vec![
            (taken.clone(), second, Status::Running),
            (free.clone(), second, Status::Running),
            (fresh.clone(), born, Status::Running),
            (fresh.clone(), born, Status::Running),
        ],
        ..Batch::default()
    };
    assert_eq!(store.commit(&batch).await.expect("a commit").stale, []);
    assert_eq!(holder(&store, &taken).await, Some(first));
    assert_eq!(holder(&store, &free).await, Some(second));
    assert_eq!(holder(&store, &fresh).await, Some(born));
    let alone = (claim(ClaimKind::Start, "alone"), first, Status::Running);
    let only_joined = Batch { joined: vec![alone], ..Batch::default() };
    store.commit(&only_joined).await.expect("a commit");
    assert_eq!(holder(&store, &claim(ClaimKind::Start, "alone")).await, Some(first));
}

async fn a_claim_joined_to_a_lost_birth_is_not_kept(place: &impl Place) {
    let store = place.open().await;
    let (holding, loser) = (id(), id());
    let (key, start) = (claim(ClaimKind::Key, "A1"), claim(ClaimKind::Start, "second try"));
    put(&store, vec![claiming(birth(holding, "order"), vec![(key.clone(), None)])]).await;
    let batch = Batch {
        sagas: vec![claiming(birth(loser, "order"), vec![(key.clone(), None)])],
        joined: vec![(start.clone(), loser, Status::Running)],
        ..Batch::default()
    };
    assert_eq!(store.commit(&batch).await.expect("a commit").stale, [loser]);
    put(&store, vec![claiming(birth(id(), "order"), vec![(start, None)])]).await;
}

async fn odd_tokens_stay_different(place: &impl Place) {
    let store = place.open().await;
    let long = "k".repeat(100_000);
    let longer = format!("{long}k");
    let tokens = ["", "\0", "\0\0", "a\0b", "ab", "AB", "ünï🦀", "\u{10ffff}0", &long, &longer, &"\0".repeat(500)];
    let mut held = Vec::new();
    for token in tokens {
        let (saga, key) = (id(), claim(ClaimKind::Key, token));
        put(&store, vec![claiming(birth(saga, "order"), vec![(key.clone(), None)])]).await;
        held.push((key, saga));
    }
    for (key, saga) in held {
        assert_eq!(holder(&store, &key).await, Some(saga), "{:.20}", key.token);
        let again = claiming(birth(id(), "order"), vec![(key, None)]);
        assert_eq!(store.commit(&sagas(vec![again])).await.expect("a commit").stale.len(), 1);
    }
}
