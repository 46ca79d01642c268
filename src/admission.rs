//! Admission: lets held sagas in when their lock and a slot are free, the highest priority first, then the oldest.
//!
//! ```text
//!   commits ──> gate: a saga is held, a lock or a slot was released ──┐
//!   sweep: whatever a crash, a reload or another daemon left ─────────┴─> store: who is next ──> engine: takes the claims
//! ```
//! Nobody counts what runs: locks and slots are claims, which the database gives to one saga only, whichever daemon asks for
//! it. Who loses such a race stays held, and is looked at again.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::definitions::Definitions;
use crate::intake::{Item, Refusal, Request, Settle};
use crate::store::{Freed, Store, StoreError};

/// Sagas of one definition that are let in together at the most.
const BATCH: usize = 256;

/// Where the engine says what may let a saga in; clone it freely.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    knocks: Arc<Mutex<Knocks>>,
    knocked: Arc<Notify>,
}

/// What happened since the last look, by definition.
type Knocks = BTreeMap<Arc<str>, Knock>;

#[derive(Debug, Default)]
struct Knock {
    /// Locks that were released.
    freed: BTreeSet<Arc<str>>,
    /// Others may have been.
    sweep: bool,
}

impl Gate {
    /// A saga of `definition` is held, or one gave up its slot and, if it had one, its lock.
    pub fn knock(&self, definition: &Arc<str>, freed: Option<Arc<str>>) {
        self.lock().entry(definition.clone()).or_default().freed.extend(freed);
        self.knocked.notify_one();
    }

    fn take(&self) -> Knocks {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Knocks> {
        // Nothing panics while it holds the lock.
        self.knocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets sagas in.
#[derive(Debug)]
pub struct Admission<S: Store> {
    /// What the engine says.
    pub gate: Gate,
    /// Where sagas are held.
    pub store: S,
    /// How many of a definition may run.
    pub definitions: Arc<Definitions<S>>,
    /// The way into the engine.
    pub items: mpsc::Sender<Item>,
    /// How often to look for what nobody said.
    pub sweep: Duration,
}

/// The engine has stopped.
struct Stopped;

impl<S: Store> Admission<S> {
    /// Until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let work = async {
            let mut sweep = Instant::now();
            loop {
                let look = match sweep <= Instant::now() {
                    true => {
                        sweep = Instant::now() + self.sweep;
                        self.sweep().await
                    }
                    false => Ok(()),
                };
                let look = match look {
                    Ok(()) => self.look().await,
                    Err(error) => Err(error),
                };
                match look {
                    Ok(Ok(())) => {}
                    Ok(Err(Stopped)) => return,
                    // The engine says what is wrong with the database; the next sweep finds what was to be done.
                    Err(error) => tracing::debug!(%error, "held sagas could not be looked at"),
                }
                tokio::select! {
                    biased;
                    () = self.gate.knocked.notified() => {}
                    // More may run than before.
                    () = self.definitions.reloaded() => sweep = Instant::now(),
                    () = tokio::time::sleep_until(sweep) => {}
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// Has every definition looked at that has held sagas.
    async fn sweep(&self) -> Result<(), StoreError> {
        for name in self.store.held_definitions().await? {
            self.gate.lock().entry(name.into()).or_default().sweep = true;
        }
        Ok(())
    }

    /// Lets in whoever may.
    async fn look(&self) -> Result<Result<(), Stopped>, StoreError> {
        let mut asked = Vec::new();
        for (name, knock) in self.gate.take() {
            let room = self.room(&name).await?;
            let freed: Vec<Arc<str>> = knock.freed.into_iter().collect();
            let freed = if knock.sweep { Freed::Any } else { Freed::Keys(&freed) };
            let held = self.store.held(&name, freed, room.len()).await?;
            if held.len() == BATCH {
                self.gate.knock(&name, None);
            }
            for (saga, slot) in held.into_iter().zip(room) {
                let (told, outcome) = oneshot::channel();
                let item = Item { request: Request::Admit { saga, slot }, settle: Settle::Ordered(told) };
                if self.items.send(item).await.is_err() {
                    return Ok(Err(Stopped));
                }
                asked.push((name.clone(), saga, outcome));
            }
        }
        for (name, saga, outcome) in asked {
            if let Ok(Err(refusal @ Refusal::Locked(_))) = outcome.await {
                tracing::debug!(%saga, %refusal, "it stays held");
                self.gate.knock(&name, None);
            }
        }
        Ok(Ok(()))
    }

    /// A place for each saga of a definition that may be let in, up to a bound: its slot, if there is a limit.
    async fn room(&self, name: &str) -> Result<Vec<Option<String>>, StoreError> {
        let Some(limit) = self.limit(name).await? else { return Ok(vec![None; BATCH]) };
        let taken: HashSet<String> = self.store.slots(name).await?.into_iter().collect();
        // After the limit was lowered, more than it allows may run.
        let free = (limit as usize).saturating_sub(taken.len()).min(BATCH);
        let slots = (0..limit).map(|slot| slot.to_string()).filter(|slot| !taken.contains(slot));
        Ok(slots.take(free).map(Some).collect())
    }

    /// `max_running` as it is now; of a definition that is no longer in the folder, its last.
    async fn limit(&self, name: &str) -> Result<Option<u32>, StoreError> {
        if let Some(current) = self.definitions.current(name) {
            return Ok(current.definition.max_running);
        }
        let Some((revision, _)) = self.store.revisions(name).await?.pop() else { return Ok(None) };
        let last = self.definitions.pinned(name, revision).await?;
        Ok(last.and_then(|last| last.definition.max_running))
    }
}
