//! Purging: ended sagas are deleted once they have been kept for as long as they should be.
//!
//! Each daemon goes through the definitions again and again, in small batches with pauses between them, so that whoever else
//! writes to the database hardly notices. Several daemons do no harm to each other.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::core::time::Time;
use crate::definitions::Definitions;
use crate::store::{Store, StoreError};

/// Sagas that are looked at, and deleted, together.
const BATCH: usize = 200;

/// Between two batches: others want to write too.
const BREATH: Duration = Duration::from_millis(20);

/// Between two passes: a tenth of the shortest retention, within these bounds.
const PAUSE: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(60)];

/// Deletes what has been kept for long enough, until `stop`. `retention` goes for definitions that do not say it themselves,
/// and for those that are no longer in the folder; `None`: for ever.
pub async fn run<S: Store>(
    store: S,
    definitions: Arc<Definitions<S>>,
    retention: Option<Duration>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) {
    let purge = async {
        loop {
            let pause = match pass(&store, &definitions, retention, &*clock).await {
                Ok(shortest) => shortest.map_or(PAUSE[1], |shortest| (shortest / 10).clamp(PAUSE[0], PAUSE[1])),
                Err(error) => {
                    tracing::debug!(%error, "ended sagas could not be purged; they are at the next pass");
                    PAUSE[1]
                }
            };
            tokio::time::sleep(pause).await;
        }
    };
    stop.run_until_cancelled(purge).await;
}

/// Goes through all definitions once; the shortest retention of any.
async fn pass<S: Store>(
    store: &S,
    definitions: &Definitions<S>,
    retention: Option<Duration>,
    clock: &dyn Clock,
) -> Result<Option<Duration>, StoreError> {
    let mut shortest = None;
    let ended = store.counts().await?.into_iter().filter(|(_, status, _)| status.is_terminal());
    let mut names: BTreeSet<String> = ended.map(|(name, _, _)| name).collect();
    // What has not ended yet will have by a later pass.
    names.extend(definitions.all().iter().map(|pinned| pinned.definition.name.to_string()));
    for name in names {
        let own = definitions.current(&name).and_then(|pinned| pinned.definition.retention);
        if let Some(retention) = own.or(retention) {
            shortest = Some(shortest.map_or(retention, |shortest: Duration| shortest.min(retention)));
            purge(store, &name, retention, clock.now()).await?;
        }
    }
    Ok(shortest)
}

/// Deletes what of one definition ended longer ago than `retention`.
async fn purge<S: Store>(store: &S, name: &str, retention: Duration, now: Time) -> Result<(), StoreError> {
    let ended_before = Time(now.0.saturating_sub(i64::try_from(retention.as_millis()).unwrap_or(i64::MAX)));
    let (mut after, mut sagas) = (None, 0);
    loop {
        let purged = store.purge(name, ended_before, after, BATCH).await?;
        metrics::counter!(crate::metrics::SAGAS_PURGED, "saga" => name.to_owned()).increment(purged.sagas as u64);
        sagas += purged.sagas;
        after = purged.next;
        if after.is_none() {
            break;
        }
        tokio::time::sleep(BREATH).await;
    }
    if sagas > 0 {
        tracing::info!(saga = name, sagas, "purged ended sagas");
    }
    Ok(())
}
