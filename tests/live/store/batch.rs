//! Commits: what is written, and what a stale write leaves.

use bytes::Bytes;
use sagad::broker::message::{Inbox, Incoming, Properties};
use sagad::core::saga::Status;
use sagad::core::time::Time;
use sagad::store::{Batch, DeadLetter, Store};
use uuid::Uuid;

use super::*;

over_all!(
    a_birth_is_read_as_it_was_written,
    a_change_replaces_the_state_and_adds_to_the_journal,
    a_stale_write_leaves_nothing_and_holds_up_nothing,
    a_birth_of_a_saga_that_exists_is_stale,
    an_empty_batch_is_written,
    only_confirmed_rows_go,
    a_settled_row_goes_with_the_write_that_settles_it_or_not_at_all,
    a_row_that_is_there_is_not_written_again,
    a_thousand_sagas_are_one_batch,
    the_largest_and_oddest_values_come_back,
    the_journal_is_read_from_an_entry_on,
);

async fn a_birth_is_read_as_it_was_written(place: &impl Place) {
    let store = place.open().await;
    let (saga, unknown) = (id(), id());
    let mut write = birth(saga, "order");
    write.outbox = vec![message(saga, b"{}"), message(saga, b"[]")];
    let sent: Vec<Uuid> = write.outbox.iter().map(|row| row.id).collect();
    put(&store, vec![write]).await;

    let loaded = store.load(&[unknown, saga]).await.expect("a load");
    let [stored] = loaded.as_slice() else { panic!("{loaded:?}") };
    assert_eq!((stored.id, stored.version, stored.revision), (saga, 1, 1));
    assert_eq!(stored.definition, "order");
    assert_eq!(stored.state, "{\"state\":1}");
    assert_eq!(stored.input, "{\"order\":7}");
    let journal = store.journal(saga, 1).await.expect("a journal");
    let [row] = journal.as_slice() else { panic!("{journal:?}") };
    assert_eq!((row.first_seq, row.version, row.at), (1, 1, NOW));
    assert_eq!(row.entries, "[\"accepted\",\"started\"]");
    let outbox = whole_outbox(&store).await;
    assert_eq!(outbox.iter().map(|row| row.id).collect::<Vec<_>>(), sent);
    assert!(outbox.iter().all(|row| row.saga == saga));
    assert_eq!(store.next_due().await.expect("a time"), Some(NOW));
    assert!(store.load(&[]).await.expect("a load").is_empty());
}

async fn a_change_replaces_the_state_and_adds_to_the_journal(place: &impl Place) {
    let store = place.open().await;
    let saga = id();
    put(&store, vec![birth(saga, "order")]).await;
    put(&store, vec![change(saga, 1)]).await;
    put(&store, vec![with_status(change(saga, 2), Status::Completed)]).await;

    let stored = &store.load(&[saga]).await.expect("a load")[0];
    assert_eq!((stored.version, &*stored.state, &*stored.input), (3, &b"{\"state\":3}"[..], &b"{\"order\":7}"[..]));
    let journal = store.journal(saga, 1).await.expect("a journal");
    let rows: Vec<_> = journal.iter().map(|row| (row.first_seq, row.version)).collect();
    assert_eq!(rows, [(1, 1), (3, 2), (5, 3)]);
    assert_eq!(store.next_due().await.expect("a time"), None);
}

async fn a_stale_write_leaves_nothing_and_holds_up_nothing(place: &impl Place) {
    let store = place.open().await;
    let (behind, ahead, missing, fresh, new) = (id(), id(), id(), id(), id());
    put(&store, vec![birth(behind, "order"), birth(ahead, "order"), birth(fresh, "order")]).await;
    put(&store, vec![change(behind, 1)]).await;
    let confirmed = message(behind, b"sent before");
    let mut second = change(behind, 2);
    second.outbox = vec![confirmed.clone()];
    put(&store, vec![second]).await;
    let counts = store.counts().await.expect("counts");

    let with_message = |mut write: SagaWrite| {
        write.outbox = vec![message(write.id, b"must not be sent")];
        with_status(write, Status::Failed)
    };
    let mut good = change(fresh, 1);
    good.outbox = vec![message(fresh, b"good")];
    let letter = dead_letter();
    let batch = Batch {
        // One written by somebody else meanwhile, one that is not so far yet, one that does not exist.
        sagas: vec![
            with_message(change(behind, 1)),
            with_message(change(ahead, 4)),
            good,
            with_message(change(missing, 1)),
            birth(new, "order"),
        ],
        confirmed: vec![confirmed.id],
        dead_letters: vec![letter.clone()],
        joined: Vec::new(),
    };
    let mut stale = store.commit(&batch).await.expect("a commit").stale;
    stale.sort();
    let mut expected = vec![behind, ahead, missing];
    expected.sort();
    assert_eq!(stale, expected);

    assert_eq!(version(&store, behind).await, Some(3));
    assert_eq!(version(&store, ahead).await, Some(1));
    assert_eq!(version(&store, missing).await, None);
    assert_eq!(version(&store, fresh).await, Some(2));
    assert_eq!(version(&store, new).await, Some(1));
    for (saga, rows) in [(behind, 3), (ahead, 1), (missing, 0), (fresh, 2), (new, 1)] {
        assert_eq!(store.journal(saga, 1).await.expect("a journal").len(), rows);
    }
    let outbox = whole_outbox(&store).await;
    assert_eq!(outbox.iter().map(|row| &*row.message.body).collect::<Vec<_>>(), [b"good"]);
    assert!(store.dead_letter(letter.id).await.expect("a look-up").is_some());
    let mut one_more = counts;
    one_more[0].2 += 1;
    assert_eq!(store.counts().await.expect("counts"), one_more);
}

async fn a_birth_of_a_saga_that_exists_is_stale(place: &impl Place) {
    let store = place.open().await;
    let (saga, other) = (id(), id());
    put(&store, vec![birth(saga, "order")]).await;
    let mut again = birth(saga, "order");
    again.row.state = Bytes::from_static(b"overwritten");
    again.outbox = vec![message(saga, b"twice")];
    let key = claim(ClaimKind::Key, "A1");
    let again = claiming(again, vec![(key.clone(), None)]);
    let committed = store.commit(&sagas(vec![again, birth(other, "order")])).await.expect("a commit");
    assert_eq!(committed.stale, [saga]);
    assert_eq!(store.load(&[saga]).await.expect("a load")[0].state, "{\"state\":1}");
    assert_eq!(store.journal(saga, 1).await.expect("a journal").len(), 1);
    assert!(whole_outbox(&store).await.is_empty());
    assert!(store.holders(&[key]).await.expect("holders").is_empty());
    assert_eq!(version(&store, other).await, Some(1));
}

async fn an_empty_batch_is_written(place: &impl Place) {
    let store = place.open().await;
    put(&store, Vec::new()).await;
}

async fn only_confirmed_rows_go(place: &impl Place) {
    let store = place.open().await;
    let saga = id();
    let mut write = birth(saga, "order");
    write.outbox = (0..5).map(|n| message(saga, &[n])).collect();
    let ids: Vec<Uuid> = write.outbox.iter().map(|row| row.id).collect();
    put(&store, vec![write]).await;
    let confirmed = vec![ids[3], Uuid::now_v7(), ids[0]];
    store.commit(&Batch { confirmed, ..Batch::default() }).await.expect("a commit");
    let left: Vec<Uuid> = whole_outbox(&store).await.iter().map(|row| row.id).collect();
    assert_eq!(left, [ids[1], ids[2], ids[4]]);
}

async fn a_settled_row_goes_with_the_write_that_settles_it_or_not_at_all(place: &impl Place) {
    let store = place.open().await;
    let (saga, other) = (id(), id());
    let mut born = birth(saga, "order");
    born.outbox = vec![message(saga, b"1"), message(saga, b"2")];
    let ids: Vec<Uuid> = born.outbox.iter().map(|row| row.id).collect();
    put(&store, vec![born, birth(other, "order")]).await;

    let stale = SagaWrite { settled: vec![ids[0]], ..change(saga, 7) };
    let batch = Batch { sagas: vec![stale, change(other, 1)], ..Batch::default() };
    assert_eq!(store.commit(&batch).await.expect("a commit").stale, [saga]);
    assert_eq!(whole_outbox(&store).await.len(), 2, "what was not written settles nothing");

    let mut write = SagaWrite { settled: vec![ids[0], Uuid::now_v7()], ..change(saga, 1) };
    write.outbox = vec![message(saga, b"3")];
    let sent = write.outbox[0].id;
    put(&store, vec![write]).await;
    let left: Vec<Uuid> = whole_outbox(&store).await.iter().map(|row| row.id).collect();
    assert_eq!(left, [ids[1], sent]);
}

async fn a_row_that_is_there_is_not_written_again(place: &impl Place) {
    let store = place.open().await;
    let (saga, other) = (id(), id());
    let row = message(saga, b"first");
    let mut write = birth(saga, "order");
    write.outbox = vec![row.clone()];
    put(&store, vec![write]).await;
    let mut again = change(saga, 1);
    again.outbox = vec![OutboxRow { message: message(saga, b"second").message, ..row }];
    let mut told_already = change(saga, 1);
    told_already.row.version = 1;
    for refused in [again, told_already] {
        let error = store.commit(&sagas(vec![refused, birth(other, "order")])).await.expect_err("a key is taken");
        assert!(matches!(error, StoreError::Refused(_)), "{error:?}");
    }
    // Of all that nothing is left.
    assert_eq!((version(&store, saga).await, version(&store, other).await), (Some(1), None));
    let outbox = whole_outbox(&store).await;
    assert_eq!(outbox.iter().map(|row| &*row.message.body).collect::<Vec<_>>(), [b"first"]);
    put(&store, vec![change(saga, 1)]).await;
}

async fn a_thousand_sagas_are_one_batch(place: &impl Place) {
    let store = place.open().await;
    let old: Vec<SagaId> = (0..500).map(|_| id()).collect();
    put(&store, old.iter().map(|saga| birth(*saga, "order")).collect()).await;
    let mut writes: Vec<SagaWrite> = old.iter().map(|saga| change(*saga, 1)).collect();
    writes.extend((0..500).map(|n| {
        let key = claim(ClaimKind::Key, &n.to_string());
        claiming(birth(id(), "order"), vec![(key, None)])
    }));
    for write in &mut writes {
        write.outbox = vec![message(write.id, write.id.0.as_bytes())];
    }
    let ids: Vec<SagaId> = writes.iter().map(|write| write.id).collect();
    put(&store, writes).await;
    let loaded = store.load(&ids).await.expect("a load");
    assert_eq!(loaded.len(), 1000);
    let outbox = whole_outbox(&store).await;
    assert_eq!(outbox.len(), 1000);
    assert!(outbox.iter().all(|row| row.message.body == row.saga.0.as_bytes()[..]), "each has its own message");
}

async fn the_largest_and_oddest_values_come_back(place: &impl Place) {
    let store = place.open().await;
    let all_bytes: Vec<u8> = (0..=255).collect();
    let large = vec![0xa5; 3_000_000];
    let texts = ["", "\0", "a\0b", "\u{10ffff}0", "ünï🦀'\"\\;--", "$1 ?1 {}"];
    for (n, (body, text)) in [&b""[..], &all_bytes, &large, b"\0", b"\xff\xfe", b"'"].into_iter().zip(texts).enumerate()
    {
        let saga = id();
        let mut write = birth(saga, "order");
        write.row.version = i64::MAX as u64;
        write.row.state = Bytes::copy_from_slice(body);
        write.row.due = Some(Time(i64::MAX));
        write.row.updated_at = Time(i64::MIN);
        write.first_seq = i64::MAX as u64;
        write.entries = Bytes::copy_from_slice(body);
        let born = write.birth.as_mut().expect("a birth");
        born.revision = u32::MAX;
        born.priority = 9;
        born.input = Bytes::copy_from_slice(body);
        born.created_at = Time(i64::MIN);
        born.key = Some(text.into());
        let headers = [
            ("largest", serde_json::json!(i64::MAX)),
            ("least", serde_json::json!(i64::MIN)),
            ("beyond", serde_json::from_str("123456789012345678901234567890").expect("a number")),
            (text, serde_json::json!([text, null, true, { "deep": text }])),
        ];
        let message = Outgoing {
            exchange: text.to_owned(),
            routing_key: text.to_owned(),
            mandatory: n % 2 == 0,
            properties: Properties {
                delivery_mode: Some(2),
                timestamp: Some(Time(i64::MAX)),
                correlation_id: Some(text.to_owned()),
                headers: headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
                ..Properties::default()
            },
            body: Bytes::copy_from_slice(body),
        };
        let row =
            OutboxRow { id: Uuid::now_v7(), saga, leased_until: Time(i64::MIN), handed: 0, message: Arc::new(message) };
        write.outbox = vec![row.clone()];
        put(&store, vec![write]).await;

        let stored = &store.load(&[saga]).await.expect("a load")[0];
        assert_eq!((stored.version, stored.revision), (i64::MAX as u64, u32::MAX));
        assert!(stored.state == body && stored.input == body, "{n}");
        let journal = &store.journal(saga, 1).await.expect("a journal")[0];
        assert_eq!(
            (journal.first_seq, journal.version, journal.at),
            (i64::MAX as u64, i64::MAX as u64, Time(i64::MIN))
        );
        assert!(journal.entries == body, "{n}");
        let outbox = whole_outbox(&store).await;
        assert_eq!(*outbox[0].message, *row.message);
        store.commit(&Batch { confirmed: vec![row.id], ..Batch::default() }).await.expect("a commit");
        let filter = sagad::store::Filter { key: Some(text.to_owned()), limit: 9, ..Default::default() };
        let found: Vec<SagaId> = store.list(&filter).await.expect("a list").iter().map(|saga| saga.id).collect();
        assert_eq!(found, [saga], "{text:?}");
    }
    assert_eq!(store.next_due().await.expect("a time"), Some(Time(i64::MAX)));
}

async fn the_journal_is_read_from_an_entry_on(place: &impl Place) {
    let store = place.open().await;
    let (saga, other) = (id(), id());
    put(&store, vec![birth(saga, "order"), birth(other, "order")]).await;
    put(&store, vec![change(saga, 1)]).await;
    put(&store, vec![change(saga, 2)]).await;
    // Two entries in each row: 1 and 2, 3 and 4, 5 and 6.
    for (from, rows) in [(0, &[1, 3, 5][..]), (1, &[1, 3, 5]), (2, &[1, 3, 5]), (3, &[3, 5]), (4, &[3, 5]), (5, &[5])] {
        let journal = store.journal(saga, from).await.expect("a journal");
        assert_eq!(journal.iter().map(|row| row.first_seq).collect::<Vec<_>>(), rows, "from {from}");
    }
    assert!(store.journal(id(), 1).await.expect("a journal").is_empty());
}

fn dead_letter() -> DeadLetter {
    DeadLetter {
        id: Uuid::now_v7(),
        at: NOW,
        reason: "no JSON".to_owned(),
        message: Incoming {
            queue: Inbox::Replies,
            exchange: String::new(),
            routing_key: "sagad.replies".to_owned(),
            redelivered: false,
            properties: Properties::default(),
            body: Bytes::from_static(b"?"),
        },
    }
}
