//! Timers: sleeps until the next saga is due and wakes it.
//!
//! Every timer is in the database, in the `due` column of its saga. The earliest one known is slept for; what is sooner than
//! the broker's shortest delay is kept in memory besides.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::core::id::SagaId;
use crate::core::input::Input;
use crate::core::time::Time;
use crate::intake::{Item, Request, Settle};
use crate::store::{Store, StoreError};

/// How long a taken timer is this daemon's: if it dies, another one takes it after that.
const LEASE: Duration = Duration::from_secs(10);

/// Sagas woken at once.
const TAKEN: usize = 500;

/// The longest sleep: what another daemon wrote is seen after that at the latest.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// After each look, so that many timers close together are taken together.
const SHORTEST_SLEEP: Duration = Duration::from_millis(2);

/// Tells the timers what is due when; clone it freely.
#[derive(Clone, Debug)]
pub struct Timers {
    alarms: mpsc::UnboundedSender<Alarm>,
    /// When the database is looked at next, in milliseconds: only what is due before is worth an alarm.
    planned: Arc<AtomicI64>,
}

#[derive(Debug)]
enum Alarm {
    /// The database has a timer for then.
    Stored(Time),
    /// This saga is due then, whatever the database says.
    Soon(Time, SagaId),
}

/// The end that [`run`] reads.
#[derive(Debug)]
pub struct Alarms {
    alarms: mpsc::UnboundedReceiver<Alarm>,
    planned: Arc<AtomicI64>,
}

/// A way to the timers, and its end.
pub fn channel() -> (Timers, Alarms) {
    let (alarms, end) = mpsc::unbounded_channel();
    let planned = Arc::new(AtomicI64::new(0));
    (Timers { alarms, planned: Arc::clone(&planned) }, Alarms { alarms: end, planned })
}

impl Timers {
    /// The database has a timer for `due`.
    pub fn stored(&self, due: Time) {
        if due.0 < self.planned.load(Ordering::Relaxed) {
            // Without timers there is no daemon any more.
            let _ = self.alarms.send(Alarm::Stored(due));
        }
    }

    /// Wakes `saga` at `due`, too soon for the broker.
    pub fn soon(&self, due: Time, saga: SagaId) {
        let _ = self.alarms.send(Alarm::Soon(due, saga));
    }
}

/// Wakes sagas until `stop`.
pub async fn run<S: Store>(
    store: S,
    items: mpsc::Sender<Item>,
    mut alarms: Alarms,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) {
    let mut soon: BTreeSet<(Time, SagaId)> = BTreeSet::new();
    let mut stored = Time(0);
    loop {
        let now = clock.now();
        while let Some((due, saga)) = soon.first().copied()
            && due <= now
        {
            soon.pop_first();
            if wake(&items, saga).await.is_err() {
                return;
            }
        }
        if stored <= now {
            stored = match take(&store, &items, now).await {
                Ok(Some(next)) => next.max(now.plus(SHORTEST_SLEEP)),
                Ok(None) => return,
                // The engine says what is wrong with the database; here it is enough to ask again.
                Err(_) => now.plus(LONGEST_SLEEP),
            };
        }
        alarms.planned.store(stored.0, Ordering::Relaxed);
        let next = soon.first().map_or(stored, |(due, _)| stored.min(*due));
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(next.since(clock.now())) => {}
            alarm = alarms.alarms.recv() => match alarm {
                Some(Alarm::Stored(due)) => stored = stored.min(due.max(now.plus(SHORTEST_SLEEP))),
                Some(Alarm::Soon(due, saga)) => {
                    soon.insert((due, saga));
                }
                None => return,
            },
        }
    }
}

/// Wakes what is due and says when to look again; `None` once the engine has stopped.
async fn take<S: Store>(store: &S, items: &mpsc::Sender<Item>, now: Time) -> Result<Option<Time>, StoreError> {
    let longest = now.plus(LONGEST_SLEEP);
    match store.next_due().await? {
        Some(next) if next <= now => {}
        next => return Ok(Some(next.map_or(longest, |next| next.min(longest)))),
    }
    for saga in store.take_due(now, now.plus(LEASE), TAKEN).await? {
        if wake(items, saga).await.is_err() {
            return Ok(None);
        }
    }
    // More may be due, and what was taken has timers anew.
    Ok(Some(now))
}

async fn wake(items: &mpsc::Sender<Item>, saga: SagaId) -> Result<(), mpsc::error::SendError<Item>> {
    items.send(Item { request: Request::Saga(saga, Input::Tick), settle: Settle::Nobody }).await
}
