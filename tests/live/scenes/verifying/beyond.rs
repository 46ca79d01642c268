//! Damage that nothing but a backup can mend: it is said, and left as it is.

use serde_json::json;
use uuid::Uuid;

use super::{look, note, on_its_way, open, stages, uuid};
use crate::verify::{Backdoor, command, verify};

/// What is done to a note each, and what is said of it.
const DAMAGE: &[(&str, &str)] = &[
    (
        "DELETE FROM journal WHERE saga_id = $1 AND version = 2",
        "journal.version is 1 in its last row, and should be 2, as in `sagas`. This can't be mended. Nothing was changed, and \
         nothing else of this saga checked: its state can be read, and it goes on by that.",
    ),
    (
        "DELETE FROM journal WHERE saga_id = $1 AND version = 1",
        "journal.version is 2 in its first row, and should be 1. This can't be mended.",
    ),
    ("DELETE FROM journal WHERE saga_id = $1", "journal.version is nowhere, and should be 1 in its first row."),
    (
        "UPDATE journal SET first_seq = 7 WHERE saga_id = $1 AND version = 2",
        "journal.first_seq is 7 in row 2, and should be 4. This can't be mended.",
    ),
    ("ENTRIES", "journal.entries is unreadable in row 2 ("),
    (
        "UPDATE sagas SET revision = 7 WHERE id = $1",
        "sagas.definition is that of revision 7 of `note`, and should be that of revision 1 of `note`",
    ),
    (
        "UPDATE sagas SET definition = 'leg' WHERE id = $1",
        "sagas.definition is that of revision 1 of `leg`, and should be that of revision 1 of `note`",
    ),
    ("INPUT", "sagas.input is unreadable ("),
    ("UPDATE sagas SET version = -1 WHERE id = $1", "sagas.* is something that there can't be ("),
    ("DELETE FROM sagas WHERE id = $1", "journal.saga_id is that of a saga that is not there, in 2 rows"),
];

/// Every row that a repair may write.
async fn rows(backdoor: &mut Backdoor) -> Vec<i64> {
    let mut rows = Vec::new();
    for sql in [
        "SELECT CAST(sum(version * 1000000 + length(state) + status) AS bigint) FROM sagas",
        "SELECT CAST(sum(version * 1000000 + length(entries) * 1000 + first_seq) AS bigint) FROM journal",
        "SELECT count(*) FROM claims",
        "SELECT count(*) FROM items",
    ] {
        rows.push(backdoor.count(sql).await);
    }
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_a_backup_has_is_said_and_left_alone() {
    for stage in stages().await {
        let mut stage = stage;
        let mut notes = Vec::new();
        for n in 0..=DAMAGE.len() as u32 {
            notes.push(note(&stage, n).await);
        }
        stage.daemon.kill();
        let url = stage.site.store().to_owned();
        let (store, mut backdoor) = (open(&url).await, Backdoor::of(&url).await);
        for (note, (sql, _)) in notes.iter().zip(DAMAGE) {
            let note = uuid(note);
            match *sql {
                "ENTRIES" => {
                    let set = "UPDATE journal SET entries = $2 WHERE saga_id = $1 AND version = 2";
                    backdoor.set_bytes(set, note, b"[{\"unheard_of\":{}}]").await;
                }
                "INPUT" => backdoor.set_bytes("UPDATE sagas SET input = $2 WHERE id = $1", note, b"{\"n").await,
                sql => assert!(backdoor.run(sql, note).await > 0, "{sql}"),
            }
        }
        let before = rows(&mut backdoor).await;
        for repair in [false, true] {
            let found = look(&store, repair).await;
            for (note, (sql, words)) in notes.iter().zip(DAMAGE) {
                let said: Vec<&String> = found.words.iter().filter(|said| said.contains(note.as_str())).collect();
                assert!(said.iter().any(|said| said.contains(words)), "{sql}: {said:#?}");
                assert!(said.iter().all(|said| said.contains("This can't be mended.")), "{sql}: {said:#?}");
            }
            let whole = notes.last().expect("a note");
            assert!(!found.words.iter().any(|said| said.contains(whole.as_str())), "{:#?}", found.words);
            let expected = if repair { "counters.sagas done" } else { "counters.sagas possible" };
            assert!(found.lines.iter().any(|line| line == expected), "{:?}", found.lines);
            assert_eq!(rows(&mut backdoor).await, before, "nothing of it was touched");
        }
        store.close().await;
        let output = command(&url, stage.site.folder()).arg("--repair").output().expect("sagad starts");
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.ends_with("checked 10 sagas: 10 findings\n"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saga_without_its_definition_is_told_of_and_goes_on_once_that_is_back() {
    for mut stage in stages().await {
        let (id, last) = on_its_way(&mut stage, 2, "ann").await;
        let trip = uuid(&id);
        stage.daemon.kill();
        let url = stage.site.store().to_owned();
        let mut backdoor = Backdoor::of(&url).await;
        backdoor.run("UPDATE definitions SET name = 'gone' WHERE name = 'trip'", trip).await;
        // The same text under another number: the saga's is not there.
        stage.site.define("trip", &super::saga("trip", super::HEAD, &format!("{}# more\n", super::TRIP)));
        backdoor.run("UPDATE definitions SET revision = 9 WHERE name = 'gone'", trip).await;
        let verdict = verify(&url, stage.site.folder(), true).await;
        let finding = &verdict.report["findings"][0];
        assert_eq!(
            (verdict.code, &finding["table"], &finding["repair"]),
            (1, &json!("definitions"), &json!("impossible"))
        );
        assert!(finding["stored"].as_str().is_some_and(|words| words.contains("revision 1 of `trip`")), "{finding}");

        // A daemon can't go on with it either, says so once, and keeps what comes for it.
        std::fs::remove_file(stage.site.folder().join("sagas/trip.toml")).expect("removed");
        stage.daemon = stage.site.start().await;
        last.say(None, b"{}").await;
        last.say(None, b"{}").await;
        let letters = stage.letters(2).await;
        let told = stage.history(&id).await;
        assert_eq!(told.iter().filter(|entry| entry["type"] == "suspended").count(), 1, "{told:#?}");

        stage.daemon.kill();
        backdoor.run("UPDATE definitions SET name = 'trip', revision = 1 WHERE name = 'gone'", trip).await;
        verify(&url, stage.site.folder(), false).await.found_only("sagas.due");
        verify(&url, stage.site.folder(), true).await;
        stage.daemon = stage.site.start().await;
        let (status, _) = stage.daemon.post(&format!("/v1/sagas/{id}/resume"), &json!({})).await;
        assert_eq!(status, 200);
        let letter = letters[0]["id"].as_str().expect("an id").parse::<Uuid>().expect("an id");
        let (status, _) = stage.daemon.post(&format!("/v1/dead-letters/{letter}/replay"), &json!({})).await;
        assert_eq!(status, 204);
        stage.ends(&id, "completed").await;
        verify(&url, stage.site.folder(), false).await.is_well();
    }
}
