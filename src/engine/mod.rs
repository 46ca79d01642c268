//! The corridor: everything that changes a saga goes through [`Engine::pass`], from top to bottom.
//!
//! ```text
//!   items ─> load ─> decide ─> commit: one transaction ─> publish, wake, tell, ack
//!              ▲                  │
//!              └── stale sagas ───┘   (another daemon was faster: their items are decided again on the fresh state)
//! ```
//!
//! The engine takes whatever items are waiting and commits them together; it never waits for more. If the database can't be
//! reached it holds what it has, un-acknowledged, and tries again.

mod cache;
mod family;
mod gate;
mod keys;
mod round;
mod tell;
mod work;

pub(crate) use self::work::row_of;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::admission::Gate;
use crate::broker::message::{Delivery, Incoming, Publication, Published};
use crate::broker::names::Names;
use crate::clock::Clock;
use crate::core::decide::Decide;
use crate::core::id::SagaId;
use crate::core::input::Input;
use crate::core::saga::{Phase, Reason};
use crate::core::time::Time;
use crate::definitions::Definitions;
use crate::engine::cache::{Cache, Cached};
use crate::engine::gate::hold;
use crate::engine::round::Round;
use crate::engine::work::Work;
use crate::health::{Health, Part};
use crate::intake::{Item, Request, Settle};
use crate::outbox::Outbox;
use crate::store::{DeadLetter, Hold, Store, StoreError};
use crate::timers::Timers;
use crate::wire::incoming::{confirmed, undelivered};
use crate::wire::outgoing::wake_up;
use crate::wire::signature::Signer;

/// Items that are committed together at the most.
const BATCH: usize = 512;

/// How long a confirmed outbox row may wait for a commit to be deleted with.
const DELETE_WITHIN: Duration = Duration::from_millis(100);

/// Waits between attempts to reach the database.
const STORE_RETRY: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// What the engine works with.
#[derive(Debug)]
pub struct Engine<S: Store> {
    store: S,
    definitions: Arc<Definitions<S>>,
    names: Names,
    signer: Signer,
    outbox: Outbox,
    timers: Timers,
    gate: Gate,
    health: Health,
    ended: broadcast::Sender<SagaId>,
    sweep: Duration,
    clock: Arc<dyn Clock>,
    decide: Decide,
    cache: Cache,
    /// Outbox rows that the broker has, for the next commit to delete.
    confirmed: Vec<Uuid>,
    /// Since when the oldest of them waits.
    confirmed_since: Option<tokio::time::Instant>,
}

/// What an [`Engine`] is made of.
#[derive(Debug)]
#[allow(missing_docs, reason = "each is documented where it is made")]
pub struct Parts<S: Store> {
    pub store: S,
    pub definitions: Arc<Definitions<S>>,
    pub names: Names,
    pub signer: Signer,
    pub outbox: Outbox,
    pub timers: Timers,
    pub gate: Gate,
    pub health: Health,
    pub ended: broadcast::Sender<SagaId>,
    /// `delay.sweep`.
    pub sweep: Duration,
    pub clock: Arc<dyn Clock>,
    /// The core's, except in tests of the tests.
    pub decide: Decide,
}

impl<S: Store> Engine<S> {
    /// An engine with nothing in hand.
    pub fn new(parts: Parts<S>) -> Engine<S> {
        let Parts { store, definitions, names, signer, outbox, timers, gate, health, ended, sweep, clock, decide } =
            parts;
        Engine {
            store,
            definitions,
            names,
            signer,
            outbox,
            timers,
            gate,
            health,
            ended,
            sweep,
            clock,
            decide,
            cache: Cache::default(),
            confirmed: Vec::new(),
            confirmed_since: None,
        }
    }

    /// Works until all senders of `items` are gone, says so by cancelling `drained`, then deletes what the broker still
    /// confirms until `published` ends too. `abort` ends it at once; what is in hand stays un-acknowledged.
    pub async fn run(
        mut self,
        mut items: mpsc::Receiver<Item>,
        mut published: mpsc::Receiver<Vec<Published>>,
        drained: CancellationToken,
        abort: CancellationToken,
    ) {
        let mut batch = Vec::with_capacity(BATCH);
        let (mut items_open, mut published_open) = (true, true);
        while items_open || published_open {
            tokio::select! {
                biased;
                () = abort.cancelled() => return,
                reports = published.recv(), if published_open => match reports {
                    Some(reports) => self.take_published(reports, &mut batch),
                    None => published_open = false,
                },
                taken = items.recv_many(&mut batch, BATCH), if items_open => items_open = taken > 0,
                () = sleep_until(self.confirmed_since.map(|since| since + DELETE_WITHIN)) => {}
            }
            while let Ok(reports) = published.try_recv() {
                self.take_published(reports, &mut batch);
            }
            let overdue = self.confirmed_since.is_some_and(|since| since.elapsed() >= DELETE_WITHIN);
            if !batch.is_empty() || overdue || (!published_open && !self.confirmed.is_empty()) {
                tokio::select! {
                    biased;
                    () = abort.cancelled() => return,
                    () = self.settle(&mut batch) => {}
                }
            }
            if !items_open {
                drained.cancel();
            }
        }
    }

    /// What the broker says of published rows: the confirmed are done with, a returned or refused command is an input.
    fn take_published(&mut self, reports: Vec<Published>, batch: &mut Vec<Item>) {
        for report in reports {
            let (row, message, reason, text) = match report {
                Published::Confirmed { outbox: row, message } => {
                    metrics::counter!(crate::metrics::OUTBOX_PUBLISHED).increment(1);
                    match confirmed(&self.signer, &message) {
                        Some((saga, input)) => {
                            batch.push(Item { request: Request::Saga(saga, input), settle: Settle::Published(row) });
                        }
                        None => self.delete_later(row),
                    }
                    continue;
                }
                Published::Returned { outbox, message, text } => {
                    let text =
                        format!("{text}: exchange {:?}, routing key {:?}", message.exchange, message.routing_key);
                    (outbox, message, Reason::Unroutable, text)
                }
                Published::Expired { outbox, message, never_sent: true } => {
                    let text = "the broker could not be reached before its time was over".to_owned();
                    (outbox, message, Reason::Expired, text)
                }
                // The row stays: the sweep finds it when its lease is over.
                Published::Deferred(row) => {
                    self.outbox.settled([row]);
                    continue;
                }
                // If it was handled nevertheless, the answer says so, else the attempt's time-out.
                Published::Expired { outbox, .. } => {
                    self.delete_later(outbox);
                    continue;
                }
                Published::Refused { outbox, message } => {
                    let text = format!(
                        "the broker refused it: a queue bound to {:?} is full or has no leader",
                        message.exchange
                    );
                    (outbox, message, Reason::MaxLength, text)
                }
            };
            metrics::counter!(crate::metrics::OUTBOX_RETURNED).increment(1);
            let is_event = !message.mandatory;
            match undelivered(&self.signer, &message.properties, reason, text) {
                // An event that a full queue refused is published again by the sweep; so is what sagad says to itself, whatever became of it.
                Some(_) if is_event && reason == Reason::MaxLength => self.outbox.settled([row]),
                None if !is_event || reason == Reason::MaxLength => self.outbox.settled([row]),
                Some((saga, input)) => {
                    batch.push(Item { request: Request::Saga(saga, input), settle: Settle::Published(row) });
                }
                // Nobody waits for the fate of a lifecycle event.
                None => self.delete_later(row),
            }
        }
    }

    fn delete_later(&mut self, row: Uuid) {
        self.confirmed.push(row);
        self.confirmed_since.get_or_insert_with(tokio::time::Instant::now);
    }

    /// Sees a batch through, however long the database is away.
    async fn settle(&mut self, batch: &mut Vec<Item>) {
        let mut pause = STORE_RETRY[0];
        loop {
            match self.pass(batch).await {
                Ok(()) => {
                    if self.health.trouble(Part::Store).is_some() {
                        tracing::info!("the database is in reach");
                    }
                    return self.health.up(Part::Store);
                }
                Err(StoreError::Unavailable(why)) => {
                    // Nothing is known of what the last commit did: what is stored decides.
                    self.cache.clear();
                    metrics::counter!(crate::metrics::COMMITS_FAILED).increment(1);
                    if self.health.down(Part::Store, &why) {
                        tracing::error!(%why, "the database can't be reached; waiting for it, nothing is lost");
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(STORE_RETRY[1]);
                }
                Err(error) => return self.isolate(batch, &error).await,
            }
        }
    }

    /// The database refused a batch: each item goes alone, so that only the one it can't take is set aside.
    async fn isolate(&mut self, batch: &mut Vec<Item>, error: &StoreError) {
        self.cache.clear();
        if batch.is_empty() {
            // Only rows to delete, and even that was refused: they are published again, which is allowed, but not in a hurry.
            tracing::error!(%error, "the database refused to delete confirmed rows of the outbox");
            return tokio::time::sleep(STORE_RETRY[1]).await;
        }
        if let [item] = batch.as_slice() {
            tracing::error!(%error, ?item, "the database refused this; it is set aside");
            metrics::counter!(crate::metrics::ITEMS_REFUSED).increment(1);
            if let Some(item) = batch.pop() {
                self.set_aside(item, error);
            }
            return;
        }
        for item in std::mem::take(batch) {
            let mut alone = vec![item];
            Box::pin(self.settle(&mut alone)).await;
        }
    }

    /// One pass of the corridor; on success the batch is empty.
    async fn pass(&mut self, batch: &mut Vec<Item>) -> Result<(), StoreError> {
        // Sagas whose cached state was not enough to decide by.
        let mut distrusted = Vec::new();
        loop {
            let now = self.clock.now();
            let mut round = self.decide(batch, &distrusted, now).await?;
            let started = std::time::Instant::now();
            let write = round.batch(&self.confirmed);
            let committed = self.store.commit(&write).await?;
            metrics::histogram!(crate::metrics::COMMIT_SECONDS).record(started.elapsed().as_secs_f64());
            metrics::histogram!(crate::metrics::BATCH_SAGAS).record(write.sagas.len() as f64);
            self.outbox.settled(self.confirmed.drain(..));
            self.confirmed_since = None;

            distrusted = self.finish(batch, round, write, &committed.stale, now);
            if batch.is_empty() {
                return Ok(());
            }
        }
    }

    /// Loads what the cache does not have and decides every item, in the order of their coming.
    async fn decide(&mut self, batch: &[Item], distrusted: &[SagaId], now: Time) -> Result<Round, StoreError> {
        let mut round = Round::new(self.outbox.lease(now), self.sweep, now, Arc::clone(&self.clock), self.decide);
        let again = !distrusted.is_empty();
        round.resolve_starts(batch, again, &self.store, &self.definitions).await?;
        round.resolve_keys(batch, &self.store).await?;

        let mut missing = Vec::new();
        let wanted: Vec<SagaId> = batch.iter().filter_map(|item| round.saga_of(item)).collect();
        for id in wanted {
            if round.knows(id) {
                continue;
            }
            match self.cache.take(id).filter(|_| !distrusted.contains(&id)) {
                Some(Cached { saga, pinned, input_size }) => round.add(saga, pinned, input_size, false),
                None => missing.push(id),
            }
        }
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            for row in self.store.load(&missing).await? {
                round.add_stored(row, &self.store, &self.definitions).await?;
            }
        }

        round.resolve_admissions(batch, again, &self.store).await?;
        for item in batch {
            let outcome = round.decide(item, &self.definitions, &self.names, &self.signer);
            round.outcomes.push(outcome);
        }
        Ok(round)
    }

    /// After the commit: what was promised is published, and whoever waits is told. What has to be decided again stays in
    /// `batch`; returned are the sagas whose cached state must not be used for it.
    fn finish(
        &mut self,
        batch: &mut Vec<Item>,
        mut round: Round,
        write: crate::store::Batch,
        stale: &[SagaId],
        now: Time,
    ) -> Vec<SagaId> {
        let mut rows = Vec::new();
        let mut gone = Vec::new();
        for saga in write.sagas {
            if stale.contains(&saga.id) {
                continue;
            }
            rows.extend(saga.outbox);
            gone.extend(saga.settled);
            if let Some(due) = saga.row.due {
                self.timers.stored(due);
            }
            if saga.row.ended_at.is_some() {
                // Nobody may be listening.
                let _ = self.ended.send(saga.id);
            }
        }
        self.outbox.publish(rows);
        self.outbox.settled(gone.iter().copied());

        let mut distrusted = Vec::new();
        let outcomes = std::mem::take(&mut round.outcomes);
        let items = std::mem::take(batch);
        for (item, outcome) in items.into_iter().zip(outcomes) {
            match outcome.about() {
                Some(saga) if stale.contains(&saga) || outcome.is_undecided() => {
                    distrusted.push(saga);
                    batch.push(item);
                }
                _ if matches!(item.settle, Settle::Published(row) if gone.contains(&row)) => {}
                _ => self.tell(item, outcome),
            }
        }
        for (saga, waits) in round.into_sagas() {
            if stale.contains(&saga.saga.id) {
                continue;
            }
            saga.count();
            self.knock(&saga);
            if let Some(due) = waits {
                self.wake_at(saga.saga.id, due, now);
            }
            // One that something has yet to be decided for is read again.
            if !saga.saga.status().is_terminal() && !distrusted.contains(&saga.saga.id) {
                let Work { saga, pinned, state_size, input_size, .. } = saga;
                self.cache.put(Cached { saga, pinned, input_size }, state_size);
            }
        }
        metrics::counter!(crate::metrics::STALE_WRITES).increment(stale.len() as u64);
        distrusted
    }

    /// Says what a transition means for those that wait to be let in.
    fn knock(&self, work: &Work) {
        let (saga, definition) = (&work.saga, &work.pinned.definition);
        if work.entries.is_empty() {
            return;
        }
        match hold(definition, saga) {
            Some(Hold::On { .. }) => self.gate.knock(&definition.name, None),
            // It ended, or stepped aside: whoever waited behind it may be next.
            Some(Hold::Off) if saga.status().is_terminal() || matches!(saga.phase, Phase::Pending { .. }) => {
                self.gate.knock(&definition.name, saga.lock.clone());
            }
            _ => {}
        }
    }

    /// A wake-up by the broker, or by our own clock if even the shortest delay queue would be late.
    fn wake_at(&self, saga: SagaId, due: Time, now: Time) {
        match wake_up(&self.names, saga, due.since(now)) {
            Some(message) => {
                let publication =
                    Publication { outbox: None, message: Arc::new(message), told: None, handover: Default::default() };
                self.outbox.publish_unkept(publication);
            }
            None => self.timers.soon(due, saga),
        }
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// An item that keeps a message that can't be read or placed. A start's sender is told.
pub fn keep(
    clock: &dyn Clock,
    delivery: Delivery,
    class: &'static str,
    reason: String,
    reply_to: Option<(String, Option<String>)>,
) -> Item {
    let letter = dead_letter(clock, &delivery.message, class, reason);
    let settle = match reply_to {
        None => Settle::Delivery(delivery),
        Some(_) => Settle::StartDelivery { delivery, reply_to },
    };
    Item { request: Request::Keep(Box::new(letter)), settle }
}

/// A message that can't be read or placed, to be kept.
pub fn dead_letter(clock: &dyn Clock, message: &Incoming, class: &'static str, reason: String) -> DeadLetter {
    metrics::counter!(crate::metrics::DEAD_LETTERS, "why" => class).increment(1);
    tracing::warn!(queue = message.queue.as_str(), %reason, "a message is kept as a dead letter");
    DeadLetter { id: clock.id(), at: clock.now(), reason, message: message.clone() }
}

impl Item {
    /// The message it came with. An order of a saga's to its child is answered instead of kept.
    fn message(&self) -> Option<&Incoming> {
        match &self.settle {
            Settle::Delivery(delivery) | Settle::StartDelivery { delivery, .. } => Some(&delivery.message),
            Settle::Share(share) => Some(share.message()),
            _ => None,
        }
    }

    /// The message it came with, whatever becomes of it.
    fn delivered(&self) -> Option<&Incoming> {
        match &self.settle {
            Settle::Order { delivery, .. } => Some(&delivery.message),
            _ => self.message(),
        }
    }

    /// Whether somebody is told what came of it.
    fn is_answered(&self) -> bool {
        matches!(self.settle, Settle::Started(_) | Settle::StartDelivery { reply_to: Some(_), .. })
    }

    /// Whether it only asks whether something is due.
    fn is_tick(&self) -> bool {
        matches!(self.request, Request::Saga(_, Input::Tick))
    }
}
