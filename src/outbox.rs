//! The outbox: messages that a commit promised, until the broker has confirmed them.
//!
//! A row is written with the transition it follows from, published from memory right after, and deleted by a later
//! transaction once the broker has it. Its lease says who publishes it: the daemon that wrote it, until the lease runs out.
//! What a crash, a long outage or a full publisher left behind is found by the sweep.
//!
//! A command whose time is over before anyone sent it is not sent at all, and counts as never handled. That takes proof: it waits here since
//! it was written, and the store says that nobody else has taken it. Of any other nothing is known; its attempt times out.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::broker::handover::Handover;
use crate::broker::message::{Outgoing, Publication, Published, Taken};
use crate::broker::publisher::Publisher;
use crate::clock::Clock;
use crate::core::time::Time;
use crate::health::{Health, Part};
use crate::store::{OutboxRow, Store, StoreError};

/// How long a writer has to get its rows confirmed before another daemon, or its own sweep, may take them.
const LEASE: Duration = Duration::from_secs(10);

/// How often the outbox is looked through for rows whose lease ran out.
const SWEEP: Duration = Duration::from_secs(1);

/// What must be left of a row's lease to be sure that nobody else has taken it: clocks differ.
const SKEW: Duration = Duration::from_secs(5);

/// How often rows in hand are looked at while the broker is away. A command's time is over a tenth of a second before its attempt is.
const LOOK: Duration = Duration::from_millis(50);

/// Until something is published again that is not kept and that the broker could not take.
const AGAIN: Duration = Duration::from_secs(1);

/// Rows that a sweep takes at once.
const SWEEP_ROWS: usize = 1000;

/// What of the outbox is in the publisher's hands; clone it freely.
#[derive(Clone, Debug)]
pub struct Outbox {
    publisher: Publisher,
    in_hand: Arc<Mutex<BTreeMap<Uuid, InHand>>>,
    behind: Arc<Notify>,
    alone: bool,
    clock: Arc<dyn Clock>,
}

/// A row in the publisher's hands.
#[derive(Debug)]
struct InHand {
    message: Arc<Outgoing>,
    expires_at: Option<Time>,
    /// How many times it was handed out, when it was handed to us.
    handed: u32,
    /// Nobody but us has had it.
    sole: bool,
    handover: Arc<Handover>,
}

/// A row that will not be sent any more.
#[derive(Debug)]
struct CalledOff {
    id: Uuid,
    message: Arc<Outgoing>,
    handed: u32,
    sole: bool,
}

impl Outbox {
    /// Nothing in hand. `alone`: no other daemon can have this store.
    pub fn new(publisher: Publisher, alone: bool, clock: Arc<dyn Clock>) -> Outbox {
        Outbox { publisher, in_hand: Arc::default(), behind: Arc::default(), alone, clock }
    }

    /// The lease for rows that are written now: none if the publisher has no room, so that a sweep takes them when it has.
    pub fn lease(&self, now: Time) -> Time {
        if self.publisher.has_room() { now.plus(LEASE) } else { Time(0) }
    }

    /// Gives committed rows to the publisher; those without a lease stay for the sweep.
    pub fn publish(&self, rows: Vec<OutboxRow>) {
        let mut in_hand = self.lock();
        for row in rows.into_iter().filter(|row| row.leased_until != Time(0)) {
            match in_hand.entry(row.id) {
                Entry::Vacant(place) => {
                    let sole = row.handed == 1;
                    let sole_until = match () {
                        () if !sole => Time(0),
                        () if self.alone => Time(i64::MAX),
                        () => Time(0).plus(row.leased_until.since(Time(0)).saturating_sub(SKEW)),
                    };
                    let handover = Arc::new(Handover::new(sole_until));
                    let publication = Publication {
                        outbox: Some(row.id),
                        message: Arc::clone(&row.message),
                        told: None,
                        handover: Arc::clone(&handover),
                    };
                    let expires_at = row.message.expires_at();
                    place.insert(InHand { message: row.message, expires_at, handed: row.handed, sole, handover });
                    self.hand_over(publication);
                }
                // Swept while it waits here. It is still ours alone if nobody took it in between.
                Entry::Occupied(mut known) => {
                    let known = known.get_mut();
                    known.sole &= row.handed == known.handed + 1;
                    known.handed = row.handed;
                }
            }
        }
    }

    /// Publishes something that is not kept: a wake-up, which the database has too. Nothing is published while there is no room.
    pub fn publish_unkept(&self, publication: Publication) {
        if self.publisher.has_room() {
            self.hand_over(publication);
        }
    }

    /// Publishes something that is not kept, and waits until the broker has said whether it takes it: as often as that takes.
    pub async fn deliver(&self, message: Arc<Outgoing>) -> Taken {
        loop {
            let (told, taken) = oneshot::channel();
            let (message, handover) = (Arc::clone(&message), Arc::default());
            self.publish_unkept(Publication { outbox: None, message, told: Some(told), handover });
            match taken.await {
                Ok(taken) => return taken,
                // It could not be published, or is not known to be there.
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    /// The publisher is done with these rows.
    pub fn settled(&self, rows: impl IntoIterator<Item = Uuid>) {
        let mut in_hand = self.lock();
        rows.into_iter().for_each(|id| {
            in_hand.remove(&id);
        });
    }

    /// Looks for left rows until `stop`: at once when the broker is back, then every second. Those whose time is over go to `published`.
    pub async fn sweep<S: Store>(
        self,
        store: S,
        health: Health,
        published: mpsc::Sender<Vec<Published>>,
        stop: CancellationToken,
    ) {
        let mut called_off = Vec::new();
        loop {
            let expired = match self.expire(&store, &mut called_off).await {
                Ok(expired) => expired,
                Err(error) => {
                    tracing::debug!(%error, "the outbox can't be asked whose the expired rows are");
                    Vec::new()
                }
            };
            if !expired.is_empty() && published.send(expired).await.is_err() {
                return stop.cancelled().await;
            }
            let full = match self.sweep_once(&store, &health).await {
                Ok(full) => full,
                Err(error) => {
                    tracing::debug!(%error, "the outbox could not be looked through");
                    false
                }
            };
            let pause = match () {
                () if full => Duration::from_millis(10),
                () if health.trouble(Part::Broker).is_some() => LOOK,
                () => SWEEP,
            };
            tokio::select! {
                biased;
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

    /// Calls off what waits in vain, and finds out what is known of it. What could not be found out stays in `called_off`.
    async fn expire<S: Store>(&self, store: &S, called_off: &mut Vec<CalledOff>) -> Result<Vec<Published>, StoreError> {
        let now = self.clock.now();
        for (id, row) in self.lock().iter() {
            if row.expires_at.is_some_and(|at| at <= now) && row.handover.call_off() {
                let (message, handed, sole) = (Arc::clone(&row.message), row.handed, row.sole);
                called_off.push(CalledOff { id: *id, message, handed, sole });
            }
        }
        let asked: Vec<(Uuid, u32)> =
            called_off.iter().filter(|row| row.sole).map(|row| (row.id, row.handed)).collect();
        // Nobody else may take them while what follows from it is committed.
        let ours = if asked.is_empty() { Vec::new() } else { store.keep_outbox(&asked, now.plus(LEASE)).await? };
        let mut expired = Vec::new();
        for CalledOff { id, message, sole, .. } in called_off.drain(..) {
            let never_sent = sole && ours.contains(&id);
            if sole && !never_sent {
                // It is another daemon's now.
                self.settled([id]);
            } else {
                expired.push(Published::Expired { outbox: id, message, never_sent });
            }
        }
        Ok(expired)
    }

    async fn sweep_once<S: Store>(&self, store: &S, health: &Health) -> Result<bool, StoreError> {
        if health.trouble(Part::Broker).is_some() || !self.publisher.has_room() {
            return Ok(false);
        }
        let now = self.clock.now();
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

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Uuid, InHand>> {
        // Nothing panics while it holds the lock.
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
