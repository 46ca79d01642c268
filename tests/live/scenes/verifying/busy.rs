//! A daemon at work is never accused: what is read together is of one moment.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;

use super::{HEAD, LEG, Stage, TRIP, look, open, saga, sites, verify};
use crate::participants::{Participants, Reply};

/// Trips of each store; each has a leg.
const SAGAS: u32 = 120;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_found_while_a_daemon_works() {
    for (site, database) in sites().await {
        site.define("trip", &saga("trip", HEAD, TRIP));
        site.define("leg", &saga("leg", "", LEG));
        let stage = Stage::with(site, database).await;
        let queues = vec![stage.site.name("a"), stage.site.name("b")];
        // Some are undone, and what comes is sometimes late.
        let participants = Participants::start(stage.site.amqp(), queues, |command| {
            let n: u32 = command.saga_key.as_deref().and_then(|key| key.parse().ok()).unwrap_or(1);
            match &*command.step {
                "last" if n.is_multiple_of(3) => Reply::failure("no"),
                _ => Reply::success(json!({})).after(Duration::from_millis(u64::from(n % 40))),
            }
        });
        let starts = (0..SAGAS).map(|n| {
            let input = json!({ "n": n.to_string(), "customer": (n % 40).to_string(), "items": [1, 2, 3] });
            stage.start("trip", input)
        });
        let looks = async {
            let (store, mut looks) = (open(stage.site.store()).await, 0);
            let query = "/v1/sagas?status=pending&status=running&status=compensating&limit=1";
            loop {
                // It would mend what it finds; there is nothing.
                let found = look(&store, looks % 2 == 1).await;
                found.is_well();
                looks += 1;
                let seen = found.summary.sagas;
                let (_, page) = stage.daemon.get(query).await;
                if seen >= 2 * u64::from(SAGAS) && page["items"] == json!([]) {
                    store.close().await;
                    return (looks, seen);
                }
            }
        };
        let (_, (looks, seen)) = tokio::join!(join_all(starts), looks);
        assert!(looks >= 5, "only {looks} looks, the last at {seen} sagas");
        participants.stop().await;
        verify(stage.site.store(), stage.site.folder(), false).await.is_well();
    }
}
