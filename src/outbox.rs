//! The outbox: messages that a commit promised, until the broker has confirmed them.
//!
//! A row is written with the transition it follows from, published from memory right after, and deleted by a later
//! transaction once the broker has it. Its lease says who publishes it: the daemon that wrote it, until the lease runs out.
//! What a crash, a long outage or a full publisher left behind is found by the sweep.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::broker::message::Publication;
use crate::broker::publisher::Publisher;
use crate::core::time::Time;
use crate::health::{Health, Part};
use crate::store::{OutboxRow, Store};

/// How long a writer has to get its rows confirmed before another daemon, or its own sweep, may take them.
const LEASE: Duration = Duration::from_secs(10);

/// How often the outbox is looked through for rows whose lease ran out.
const SWEEP: Duration = Duration::from_secs(1);

/// Rows that a sweep takes at once.
const SWEEP_ROWS: usize = 1000;

/// What of the outbox is in the publisher's hands; clone it freely.
#[derive(Clone, Debug)]
pub struct Outbox {
    publisher: Publisher,
    in_hand: Arc<Mutex<HashSet<Uuid>>>,
    behind: Arc<Notify>,
}

impl Outbox {
    /// Nothing in hand.
    pub fn new(publisher: Publisher) -> Outbox {
        Outbox { publisher, in_hand: Arc::default(), behind: Arc::default() }
    }

    /// The lease for rows that are written now: none if the publisher has no room, so that a sweep takes them when it has.
    pub fn lease(&self, now: Time) -> Time {
        if self.publisher.has_room() { now.plus(LEASE) } else { Time(0) }
    }

    /// Gives committed rows to the publisher; those without a lease stay for the sweep.
    pub fn publish(&self, rows: Vec<OutboxRow>) {
        let mut in_hand = self.lock();
        for row in rows {
            if row.leased_until == Time(0) || !in_hand.insert(row.id) {
                continue;
            }
            self.hand_over(Publication { outbox: Some(row.id), message: row.message, confirmed: None });
        }
    }

    /// Publishes something that is not kept: a wake-up, which the database has too. Nothing is published while there is no room.
    pub fn publish_unkept(&self, publication: Publication) {
        if self.publisher.has_room() {
            self.hand_over(publication);
        }
    }

    /// The publisher is done with these rows.
    pub fn settled(&self, rows: impl IntoIterator<Item = Uuid>) {
        let mut in_hand = self.lock();
        rows.into_iter().for_each(|id| {
            in_hand.remove(&id);
        });
    }

    /// Looks for left rows until `stop`: at once when the broker is back, then every second.
    pub async fn sweep<S: Store>(self, store: S, health: Health, stop: CancellationToken) {
        loop {
            let full = match self.sweep_once(&store, &health).await {
                Ok(full) => full,
                Err(error) => {
                    tracing::debug!(%error, "the outbox could not be looked through");
                    false
                }
            };
            let pause = if full { Duration::from_millis(10) } else { SWEEP };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.behind.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Looks for left rows now.
    pub fn look(&self) {
        self.behind.notify_one();
    }

    async fn sweep_once<S: Store>(&self, store: &S, health: &Health) -> Result<bool, crate::store::StoreError> {
        if health.trouble(Part::Broker).is_some() || !self.publisher.has_room() {
            return Ok(false);
        }
        let now = Time::from(std::time::SystemTime::now());
        let lease = now.plus(LEASE);
        let rows = store.take_outbox(now, lease, SWEEP_ROWS).await?;
        let full = rows.len() == SWEEP_ROWS;
        if !rows.is_empty() {
            tracing::info!(rows = rows.len(), "publishing what was left in the outbox");
            metrics::counter!(crate::metrics::OUTBOX_RECOVERED).increment(rows.len() as u64);
        }
        self.publish(rows);
        Ok(full)
    }

    fn hand_over(&self, publication: Publication) {
        if self.publisher.publish(publication).is_err() {
            tracing::debug!("the publisher has stopped; what is left in the outbox is published at the next start");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<Uuid>> {
        // Nothing panics while it holds the lock.
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
