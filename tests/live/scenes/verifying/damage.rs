//! Damage that the journal can mend.

use sagad::core::saga::Saga;
use serde_json::json;
use uuid::Uuid;

use super::{Stage, look, note, on_its_way, open, stages, uuid};
use crate::verify::{Backdoor, command, verify};

/// What is done to the trip `$1`, and what is found then. `OTHER` is a note, older and completed, `NOBODY` a saga that is not there.
const DAMAGE: &[(&str, &[&str])] = &[
    ("UPDATE sagas SET status = 5 WHERE id = $1", &["counters.sagas", "sagas.status"]),
    ("UPDATE sagas SET status = 99 WHERE id = $1", &["counters.sagas", "sagas.status"]),
    ("UPDATE sagas SET previous_status = 7 WHERE id = $1", &["sagas.previous_status"]),
    ("UPDATE sagas SET version = version + 3 WHERE id = $1", &["sagas.version"]),
    ("UPDATE sagas SET version = version - 3 WHERE id = $1", &["sagas.version"]),
    ("UPDATE sagas SET priority = 9 WHERE id = $1", &["sagas.priority"]),
    ("UPDATE sagas SET key = 'other' WHERE id = $1", &["sagas.key"]),
    ("UPDATE sagas SET due = NULL, due_slot = NULL WHERE id = $1", &["sagas.due"]),
    ("UPDATE sagas SET due = due + 9000000, due_slot = (due + 9000000) >> 10 WHERE id = $1", &["sagas.due"]),
    ("UPDATE sagas SET due = 1, due_slot = 0 WHERE id = $1", &["sagas.due"]),
    ("UPDATE sagas SET due_slot = 7 WHERE id = $1", &["sagas.due_slot"]),
    ("UPDATE sagas SET created_at = 1 WHERE id = $1", &["sagas.created_at"]),
    ("UPDATE sagas SET started_at = NULL WHERE id = $1", &["sagas.started_at"]),
    ("UPDATE sagas SET updated_at = 1 WHERE id = $1", &["sagas.updated_at"]),
    ("UPDATE sagas SET ended_at = updated_at WHERE id = $1", &["sagas.ended_at"]),
    ("UPDATE sagas SET parent = id WHERE id = $1", &["sagas.parent"]),
    ("UPDATE sagas SET held = 1 WHERE id = $1", &["sagas.held"]),
    ("UPDATE sagas SET lock_key = 'x' WHERE id = $1", &["sagas.lock_key"]),
    ("UPDATE sagas SET itemized = 0 WHERE id = $1", &["sagas.itemized"]),
    ("DELETE FROM items WHERE saga_id = $1 AND chunk = 0", &["items.state"]),
    ("DELETE FROM items WHERE saga_id = $1 AND chunk = -1", &["items.state"]),
    ("UPDATE items SET version = 9999 WHERE saga_id = $1 AND chunk = 1", &["items.version"]),
    (
        "INSERT INTO items (saga_id, step, chunk, version, state) \
         SELECT saga_id, step, 9, version, state FROM items WHERE saga_id = $1 AND chunk = 0",
        &["items.chunk"],
    ),
    ("DELETE FROM claims WHERE saga_id = $1 AND kind = 1", &["claims.saga_id"]),
    ("UPDATE claims SET saga_id = OTHER WHERE saga_id = $1 AND kind = 1", &["claims.saga_id"]),
    ("UPDATE claims SET saga_id = NOBODY WHERE saga_id = $1 AND kind = 1", &["claims.saga_id"]),
    ("DELETE FROM claims WHERE saga_id = $1 AND kind = 3", &["claims.token"]),
    ("UPDATE claims SET token = 'eve' WHERE saga_id = $1 AND kind = 3", &["claims.kind", "claims.token"]),
    (
        "INSERT INTO claims (definition, kind, token, saga_id, previous) SELECT 'note', 4, '7', OTHER, OTHER \
         FROM sagas WHERE id = $1",
        &["claims.kind"],
    ),
    (
        "INSERT INTO claims (definition, kind, token, saga_id, previous) SELECT 'trip', 4, '7', NOBODY, NOBODY \
         FROM sagas WHERE id = $1",
        &["claims.saga_id"],
    ),
    (
        "INSERT INTO claims (definition, kind, token, saga_id, previous) SELECT 'trip', 1, '7', NOBODY, NOBODY \
         FROM sagas WHERE id = $1",
        &["claims.saga_id"],
    ),
    (
        "INSERT INTO items (saga_id, step, chunk, version, state) \
         SELECT NOBODY, step, chunk, version, state FROM items WHERE saga_id = $1",
        &["items.saga_id"],
    ),
    ("UPDATE counters SET sagas = sagas + 5", &["counters.sagas"]),
    ("DELETE FROM counters", &["counters.sagas"]),
    ("INSERT INTO counters (definition, status, slot, sagas) VALUES ('note', 99, 0, 3)", &["counters.sagas"]),
];

/// A saga's id as SQL.
fn literal(store: &str, id: Uuid) -> String {
    match store.starts_with("sqlite:") {
        true => format!("x'{}'", id.simple()),
        false => format!("'{id}'::uuid"),
    }
}

fn with(lines: &[&str], remedy: &str) -> Vec<String> {
    lines.iter().map(|line| format!("{line} {remedy}")).collect()
}

/// How many entries say that a saga was repaired.
async fn repairs(stage: &Stage, id: &str) -> usize {
    stage.history(id).await.iter().filter(|entry| entry["type"] == "repaired").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_found_and_mended_and_the_saga_goes_on() {
    for mut stage in stages().await {
        let other = uuid(&note(&stage, 1).await);
        let (id, last) = on_its_way(&mut stage, 2, "ann").await;
        let trip = uuid(&id);
        stage.daemon.kill();
        let url = stage.site.store().to_owned();
        let (store, mut backdoor) = (open(&url).await, Backdoor::of(&url).await);
        let mut mended = 0;
        for (sql, expected) in DAMAGE {
            let nobody = literal(&url, Uuid::now_v7());
            let sql = sql.replace("OTHER", &literal(&url, other)).replace("NOBODY", &nobody);
            assert!(backdoor.run(&sql, trip).await > 0, "{sql}");
            let found = look(&store, false).await;
            assert_eq!(found.lines, with(expected, "possible"), "{sql}\n{}", found.words.join("\n"));
            assert_eq!((found.summary.repaired, found.summary.left), (0, found.summary.found));
            let found = look(&store, true).await;
            // What is right again once the saga is, is not found any more.
            assert!(found.lines.iter().all(|line| line.ends_with(" done")), "{sql}\n{}", found.words.join("\n"));
            assert!(found.summary.repaired > 0 && found.summary.left == 0, "{sql}");
            mended += usize::from(found.words.iter().any(|words| words.contains(&id)));
        }

        // The state itself: another value, a bit that flipped here and there, and nothing at all.
        let (read, write) = ("SELECT state FROM sagas WHERE id = $1", "UPDATE sagas SET state = $2 WHERE id = $1");
        let text = String::from_utf8(backdoor.bytes(read, trip).await).expect("JSON");
        let value = text.replacen("\"attempt\":1", "\"attempt\":2", 1);
        assert_ne!(value, text);
        let mut flipped: Vec<Vec<u8>> = (1..6)
            .map(|nth| {
                let mut bytes = text.clone().into_bytes();
                let at = bytes.len() * nth / 6;
                bytes[at] ^= 4;
                bytes
            })
            .collect();
        flipped.extend([value.into_bytes(), Vec::new()]);
        for state in flipped {
            backdoor.set_bytes(write, trip, &state).await;
            let found = look(&store, false).await;
            let same = |state: &[u8]| serde_json::from_slice::<Saga>(state).ok();
            if same(&state).is_some_and(|state| Some(state) == same(text.as_bytes())) {
                // The name of a field that is null anyway.
                found.is_well();
                continue;
            }
            let state = String::from_utf8_lossy(&state);
            assert_eq!(found.lines, ["sagas.state possible"], "{state}\n{}", found.words.join("\n"));
            assert_eq!(look(&store, true).await.lines, ["sagas.state done"], "{state}");
            mended += 1;
        }
        let (read, write) = (
            "SELECT state FROM items WHERE saga_id = $1 AND chunk = 0",
            "UPDATE items SET state = $2 WHERE saga_id = $1 AND chunk = 0",
        );
        let chunk = String::from_utf8(backdoor.bytes(read, trip).await).expect("JSON");
        backdoor.set_bytes(write, trip, chunk.replacen("\"attempt\":1", "\"attempt\":3", 1).as_bytes()).await;
        let found = look(&store, false).await;
        let words =
            "items.state is 3 at /0/execute/attempt for chunk 0 of step `pack`, and should be 1. --repair mends it.";
        assert!(found.words[0].ends_with(words), "{:?}", found.words);

        // Many at once, by the command, as a person sees it.
        backdoor.run("UPDATE sagas SET status = 7, due = NULL, due_slot = NULL WHERE id = $1", trip).await;
        let output = command(&url, stage.site.folder()).arg("--repair").output().expect("sagad starts");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{output:?}");
        for words in [
            format!("saga {id} of `trip`: sagas.status is failed, and should be running. Mended.\n"),
            "checked 3 sagas: 3 findings, all repaired\n".to_owned(),
        ] {
            assert!(text.contains(&words), "{words}\n{text}");
        }
        mended += 1;
        look(&store, false).await.is_well();
        store.close().await;

        stage.daemon = stage.site.start().await;
        assert_eq!(repairs(&stage, &id).await, mended);
        last.succeed().await;
        let ended = stage.ends(&id, "completed").await;
        assert_eq!(ended["steps"][0]["items"].as_array().map(Vec::len), Some(20), "{ended}");
        let history = stage.history(&id).await;
        let repaired = history.iter().find(|entry| entry["type"] == "repaired").expect("an entry");
        assert_eq!(
            (&repaired["actor"], &repaired["data"]),
            (&json!("sagad verify"), &json!({ "columns": ["sagas.status"] }))
        );
        verify(&url, stage.site.folder(), false).await.is_well();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_saga_holds_is_not_taken_from_it() {
    for mut stage in stages().await {
        let (ann, _last) = on_its_way(&mut stage, 1, "ann").await;
        let (bob, _last) = on_its_way(&mut stage, 2, "bob").await;
        let url = stage.site.store().to_owned();
        let (store, mut backdoor) = (open(&url).await, Backdoor::of(&url).await);
        let moved =
            format!("UPDATE claims SET saga_id = {} WHERE saga_id = $1 AND kind = 3", literal(&url, uuid(&bob)));
        assert_eq!(backdoor.run(&moved, uuid(&ann)).await, 1);
        let lines = |kind: &str, token: &str| [format!("claims.kind {kind}"), format!("claims.token {token}")];
        let found = look(&store, false).await;
        assert_eq!(found.lines, lines("possible", "impossible"));
        assert!(found.words[0].contains(&ann) && found.words[0].contains(&format!("by {bob}")), "{:?}", found.words);
        // It is free once the other one has lost what is not its own.
        assert_eq!(look(&store, true).await.lines, lines("done", "impossible"));
        assert_eq!(look(&store, true).await.lines, ["claims.token done"]);
        look(&store, false).await.is_well();
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saga_is_mended_under_a_daemon_that_has_it_in_hand() {
    for mut stage in stages().await {
        // Both are in the daemon's memory as they should be.
        let slow = stage.start("slow", json!({})).await;
        let _never_answered = stage.take("b").await;
        let (id, last) = on_its_way(&mut stage, 2, "ann").await;
        let url = stage.site.store().to_owned();
        let mut backdoor = Backdoor::of(&url).await;
        backdoor.run("UPDATE sagas SET due = NULL, due_slot = NULL WHERE id = $1", uuid(&slow)).await;
        backdoor.set_bytes("UPDATE sagas SET state = $2 WHERE id = $1", uuid(&id), b"{}").await;
        let verdict = verify(&url, stage.site.folder(), true).await;
        assert_eq!((verdict.code, &verdict.report["repaired"]), (0, &json!(2)), "{:#}", verdict.report);
        last.succeed().await;
        stage.ends(&id, "completed").await;
        // Without its timer it would wait for ever.
        let ended = stage.ends(&slow, "compensated").await;
        assert_eq!(ended["error"]["reason"], "timeout", "{ended}");
        assert_eq!((repairs(&stage, &id).await, repairs(&stage, &slow).await), (1, 1));
        verify(&url, stage.site.folder(), false).await.is_well();
    }
}
