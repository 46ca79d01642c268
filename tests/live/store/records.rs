//! Definitions, dead letters and the secret.

use bytes::Bytes;
use sagad::broker::message::{Inbox, Incoming, Properties};
use sagad::store::{Batch, DeadLetter, Source, Store};
use uuid::Uuid;

use super::*;

over_all!(
    each_text_of_a_definition_is_one_revision,
    daemons_agree_on_revisions,
    dead_letters_are_kept_as_they_came,
    dead_letters_are_paged_and_forgotten,
    the_secret_is_made_once,
    it_answers,
);

fn source(toml: &str, schema: Option<&str>) -> Source {
    Source { toml: toml.to_owned(), schema: schema.map(str::to_owned) }
}

async fn each_text_of_a_definition_is_one_revision(place: &impl Place) {
    let store = place.open().await;
    let texts = [
        source("a = 1", None),
        source("a = 2", None),
        source("a = 2", Some("{}")),
        source("a = 2", Some("")),
        source("a = 2\u{1}", None),
        source("# \0 ünï", Some("\0")),
    ];
    for (n, text) in (1..).zip(&texts) {
        assert_eq!(store.keep_revision("order", text).await.expect("a revision"), n);
    }
    // An old text again is the old revision; another definition counts by itself.
    assert_eq!(store.keep_revision("order", &texts[1]).await.expect("a revision"), 2);
    assert_eq!(store.keep_revision("refund", &texts[1]).await.expect("a revision"), 1);
    for (n, text) in (1..).zip(&texts) {
        assert_eq!(store.revision("order", n).await.expect("a revision").as_ref(), Some(text));
    }
    assert_eq!(store.revision("order", 7).await.expect("a look-up"), None);
    let revisions = store.revisions("order").await.expect("revisions");
    assert_eq!(revisions.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert!(revisions.is_sorted_by_key(|(_, at)| *at) && revisions[0].1 > NOW);
    let all: Vec<(String, u32)> = (1..=6).map(|n| ("order".to_owned(), n)).chain([("refund".to_owned(), 1)]).collect();
    assert_eq!(store.all_revisions().await.expect("revisions"), all);
    assert!(store.revisions("nothing").await.expect("revisions").is_empty());
}

async fn daemons_agree_on_revisions<P: Place>(place: &P) {
    let (one, two) = (place.open().await, place.open().await);
    let keep = |store: P::Store, mine: &'static str| async move {
        let mut numbers = Vec::new();
        for n in 0..20 {
            let shared = source(&format!("shared {n}"), None);
            let own = source(&format!("{mine} {n}"), None);
            numbers.push(store.keep_revision("order", &shared).await.expect("a revision"));
            store.keep_revision("order", &own).await.expect("a revision");
        }
        numbers
    };
    let (first, second) = tokio::join!(tokio::spawn(keep(one.clone(), "one")), tokio::spawn(keep(two, "two")));
    assert_eq!(first.expect("numbers"), second.expect("numbers"));
    let numbers: Vec<u32> = one.revisions("order").await.expect("revisions").iter().map(|(n, _)| *n).collect();
    assert_eq!(numbers, (1..=60).collect::<Vec<u32>>());
}

fn letter(body: &[u8]) -> DeadLetter {
    let properties = Properties {
        content_type: Some("text/plain".to_owned()),
        message_id: Some("m\0".to_owned()),
        headers: serde_json::from_str(r#"{"x-death":[{"count":9223372036854775807}],"nul":"\u0000","n":1e400}"#)
            .expect("headers"),
        ..Properties::default()
    };
    let message = Incoming {
        queue: Inbox::Dead,
        exchange: "shop\0commands".to_owned(),
        routing_key: "\u{10ffff}".to_owned(),
        redelivered: true,
        properties,
        body: Bytes::copy_from_slice(body),
    };
    DeadLetter { id: Uuid::now_v7(), at: NOW, reason: "not JSON: \0 ünï".to_owned(), message }
}

async fn dead_letters_are_kept_as_they_came(place: &impl Place) {
    let store = place.open().await;
    let mut letters = vec![letter(b""), letter(&(0..=255).collect::<Vec<u8>>()), letter(b"\0")];
    for (letter, queue) in letters.iter_mut().zip([Inbox::Starts, Inbox::Replies, Inbox::WakeUps]) {
        letter.message.queue = queue;
    }
    let batch = Batch { dead_letters: letters.clone(), ..Batch::default() };
    store.commit(&batch).await.expect("a commit");
    // Once more: nothing was known of whether the first commit had taken effect.
    store.commit(&batch).await.expect("a commit");
    for letter in letters {
        let kept = store.dead_letter(letter.id).await.expect("a look-up").expect("a dead letter");
        assert_eq!((kept.id, kept.at, kept.reason), (letter.id, letter.at, letter.reason));
        assert_eq!(kept.message, letter.message);
    }
}

async fn dead_letters_are_paged_and_forgotten(place: &impl Place) {
    let store = place.open().await;
    let letters: Vec<DeadLetter> = (0..5).map(|n| letter(&[n])).collect();
    let mut newest: Vec<Uuid> = letters.iter().map(|letter| letter.id).collect();
    newest.reverse();
    store.commit(&Batch { dead_letters: letters, ..Batch::default() }).await.expect("a commit");
    let page = |before, limit| {
        let store = store.clone();
        async move {
            let page = store.dead_letters(before, limit).await.expect("a page");
            page.iter().map(|letter| letter.id).collect::<Vec<_>>()
        }
    };
    assert_eq!(page(None, 2).await, newest[..2]);
    assert_eq!(page(Some(newest[1]), 2).await, newest[2..4]);
    assert!(page(Some(newest[4]), 2).await.is_empty());
    assert!(store.delete_dead_letter(newest[2]).await.expect("a deletion"));
    assert!(!store.delete_dead_letter(newest[2]).await.expect("a deletion"));
    assert!(store.dead_letter(newest[2]).await.expect("a look-up").is_none());
    assert_eq!(page(None, 9).await, [newest[0], newest[1], newest[3], newest[4]]);
}

async fn the_secret_is_made_once(place: &impl Place) {
    let (one, two) = (place.open().await, place.open().await);
    let (first, second) = tokio::join!(one.secret(), two.secret());
    let secret = first.expect("a secret");
    assert_eq!(secret, second.expect("a secret"));
    assert_eq!(secret, place.open().await.secret().await.expect("a secret"));
    assert!(secret.iter().collect::<std::collections::HashSet<_>>().len() > 8, "{secret:?}");
}

async fn it_answers(place: &impl Place) {
    place.open().await.ping().await.expect("an answer");
}
