//! A saga that a daemon could not read and suspended comes back to life.

use serde_json::json;

use super::{note, on_its_way, stages, uuid};
use crate::verify::{Backdoor, verify};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saga_that_could_not_be_read_goes_on_once_it_is_repaired() {
    for mut stage in stages().await {
        let (id, last) = on_its_way(&mut stage, 2, "ann").await;
        let trip = uuid(&id);
        stage.daemon.kill();
        let url = stage.site.store().to_owned();
        let mut backdoor = Backdoor::of(&url).await;
        backdoor.set_bytes("UPDATE sagas SET state = $2 WHERE id = $1", trip, b"{\"id\":7}").await;
        stage.daemon = stage.site.start().await;
        // What comes for it is kept, and that it is suspended is written down once.
        last.say(None, b"{}").await;
        last.say(None, b"{}").await;
        let letters = stage.letters(2).await;
        let reason = letters[0]["reason"].as_str().expect("a reason");
        assert!(reason.contains("its stored state can't be read"), "{reason}");
        assert_eq!(backdoor.count("SELECT count(*) FROM sagas WHERE status = 4 AND due IS NULL").await, 1);

        // Its journal is whole: it tells of the suspension as of everything before.
        let verdict = verify(&url, stage.site.folder(), false).await;
        verdict.found_only("sagas.due sagas.started_at sagas.state");
        let verdict = verify(&url, stage.site.folder(), true).await;
        assert_eq!((verdict.code, &verdict.report["left"]), (0, &json!(0)), "{:#}", verdict.report);

        let saga = stage.saga(&id).await;
        assert_eq!(saga["status"], "suspended", "{saga}");
        let told = stage.history(&id).await;
        assert_eq!(told.iter().filter(|entry| entry["type"] == "suspended").count(), 1, "{told:#?}");
        let seqs: Vec<u64> = told.iter().filter_map(|entry| entry["seq"].as_u64()).collect();
        assert_eq!(seqs, (1..=told.len() as u64).collect::<Vec<_>>());
        assert_eq!(backdoor.count("SELECT count(*) FROM sagas WHERE status = 4 AND due IS NOT NULL").await, 1);
        let (status, _) = stage.daemon.post(&format!("/v1/sagas/{id}/resume"), &json!({})).await;
        assert_eq!(status, 200);
        let letter = letters[0]["id"].as_str().expect("an id");
        assert_eq!(stage.daemon.post(&format!("/v1/dead-letters/{letter}/replay"), &json!({})).await.0, 204);
        stage.ends(&id, "completed").await;
        verify(&url, stage.site.folder(), false).await.is_well();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_saga_that_could_not_be_read_has_still_ended() {
    for stage in stages().await {
        let id = note(&stage, 1).await;
        let url = stage.site.store().to_owned();
        let mut backdoor = Backdoor::of(&url).await;
        backdoor.set_bytes("UPDATE sagas SET state = $2 WHERE id = $1", uuid(&id), b"").await;
        let (status, _) = stage.daemon.post(&format!("/v1/sagas/{id}/cancel"), &json!({})).await;
        assert_eq!(status, 409);
        let verdict = verify(&url, stage.site.folder(), true).await;
        assert_eq!(verdict.code, 0, "{:#}", verdict.report);
        let saga = stage.saga(&id).await;
        assert_eq!((&saga["status"], &saga["suspended"]), (&json!("completed"), &json!(null)), "{saga}");
        verify(&url, stage.site.folder(), false).await.is_well();
    }
}
