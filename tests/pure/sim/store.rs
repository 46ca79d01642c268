//! The store as a daemon sees it: the one that all share, over a line that breaks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt;
use sagad::definitions::Pinned;
use sagad::store::memory::MemoryStore;
use sagad::store::{Batch, Birth, Committed, SagaRow, SagaWrite, Store, StoreError, StoredSaga};

use super::chance::Chance;
use super::mutants::Mutant;
use super::world::World;

/// One daemon's way to the store.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) store: MemoryStore,
    pub(crate) world: World,
    pub(crate) daemon: usize,
    pub(crate) chance: Chance,
    pub(crate) calls: Arc<AtomicU64>,
    pub(crate) decks: Decks,
}

/// Every revision there ever was, for the checks.
pub(crate) type Decks = Arc<std::sync::Mutex<std::collections::BTreeMap<(String, u32), Arc<Pinned>>>>;

impl Line {
    /// Whether the next call gets through, after the time that it takes.
    async fn reach(&self) -> Result<Chance, StoreError> {
        let chance = self.chance.of(self.calls.fetch_add(1, Ordering::Relaxed));
        let (fails, away) = {
            let state = self.world.lock();
            let fails = if state.troubled { state.plan.faults.store_fails } else { 0 };
            (fails, state.store_away)
        };
        if away || chance.of("fails").permille(fails) {
            tokio::time::sleep(chance.of("patience").millis(1..800)).await;
            self.world.lock().checks.seen.insert("store away");
            return Err(StoreError::Unavailable("it is away".to_owned()));
        }
        // Most calls are over before anything else happens; some are overtaken.
        if chance.of("takes time").permille(100) {
            tokio::time::sleep(chance.of("takes").millis(1..30)).await;
        }
        Ok(chance)
    }

    /// Tells the checks what a commit did.
    fn check(&self, batch: &Batch, committed: &Committed) {
        let signer = self.world.lock().signer.clone();
        for write in &batch.sagas {
            if committed.stale.contains(&write.id) {
                continue;
            }
            let stored =
                self.store.load(&[write.id]).now_or_never().and_then(Result::ok).and_then(|mut rows| rows.pop());
            let Some(stored) = stored else {
                self.world.breach("nothing-lost", format!("{} was committed, and is not there", write.id));
                continue;
            };
            let Some(pinned) = self.pinned(&stored) else { continue };
            self.world.trace(|| {
                format!(
                    "daemon {} commits {} {}",
                    self.daemon,
                    &write.id.to_string()[30..],
                    String::from_utf8_lossy(&write.entries)
                )
            });
            let mut state = self.world.lock();
            state.checks.committed(&signer, write, &stored, &pinned);
            if let Some(Birth { key: Some(key), definition, .. }) = &write.birth {
                let plan = state.plan.sagas.iter().find(|plan| plan.name == **definition).cloned();
                let same = state
                    .checks
                    .sagas
                    .values()
                    .filter(|(saga, _)| saga.key.as_ref() == Some(key) && saga.definition == *definition);
                let reuses = plan.as_ref().is_some_and(|plan| plan.reuses_keys());
                // The key of one that was deleted is free.
                let there = |id| {
                    self.store.load(&[id]).now_or_never().and_then(Result::ok).is_some_and(|rows| !rows.is_empty())
                };
                let rivals =
                    same.filter(|(saga, _)| there(saga.id) && (!reuses || !state.checks.has_ended(saga.id))).count();
                if rivals > 1 {
                    state.checks.breach("key", format!("{rivals} sagas of {definition} have the key {key}"));
                }
            }
        }
        if !committed.stale.is_empty() {
            self.world.lock().checks.seen.insert("stale write");
        }
        self.world.lock().checks.commits += 1;
    }

    fn pinned(&self, stored: &StoredSaga) -> Option<Arc<Pinned>> {
        let name = (stored.definition.clone(), stored.revision);
        let mut decks = self.decks.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(pinned) = decks.get(&name) {
            return Some(Arc::clone(pinned));
        }
        let source = self.store.revision(&stored.definition, stored.revision).now_or_never()?.ok()??;
        let (definition, _) =
            sagad::core::parse::parse(&source.toml, &mut |name| Err(format!("no {name} here"))).ok()?;
        let pinned = Arc::new(Pinned { revision: stored.revision, definition, source });
        decks.insert(name, Arc::clone(&pinned));
        Some(pinned)
    }

    /// What a mistaken daemon would write.
    fn mistaken(&self, mutant: Mutant, batch: &Batch) -> Batch {
        let sagas = batch.sagas.iter().map(|write| {
            let mut write = copy(write);
            match mutant {
                Mutant::ForgetsTheOutbox => write.outbox.clear(),
                Mutant::KeepsWhatIsSettled => write.settled.clear(),
                Mutant::LosesTimers => write.row.due = None,
                Mutant::SharesKeys => write.claims.clear(),
                Mutant::IgnoresTheVersion if write.birth.is_none() => {
                    let stored = self.store.load(&[write.id]).now_or_never().and_then(Result::ok);
                    if let Some(stored) = stored.and_then(|mut rows| rows.pop()) {
                        write.expected = stored.version;
                        write.row.version = stored.version + 1;
                    }
                }
                _ => {}
            }
            write
        });
        Batch {
            sagas: sagas.collect(),
            confirmed: batch.confirmed.clone(),
            dead_letters: batch.dead_letters.clone(),
            joined: if mutant == Mutant::SharesKeys { Vec::new() } else { batch.joined.clone() },
        }
    }
}

fn copy(write: &SagaWrite) -> SagaWrite {
    let SagaRow { version, status, due, state, started_at, updated_at, ended_at, hold } = &write.row;
    SagaWrite {
        id: write.id,
        expected: write.expected,
        row: SagaRow {
            version: *version,
            status: *status,
            due: *due,
            state: state.clone(),
            started_at: *started_at,
            updated_at: *updated_at,
            ended_at: *ended_at,
            hold: hold.clone(),
        },
        birth: write.birth.as_ref().map(|birth| Birth {
            definition: birth.definition.clone(),
            key: birth.key.clone(),
            input: birth.input.clone(),
            ..*birth
        }),
        first_seq: write.first_seq,
        entries: write.entries.clone(),
        outbox: write.outbox.clone(),
        settled: write.settled.clone(),
        items: write
            .items
            .iter()
            .map(|items| sagad::store::ItemsWrite { state: items.state.clone(), ..*items })
            .collect(),
        claims: write.claims.clone(),
        releases: write.releases,
    }
}

impl Store for Line {
    crate::behind::ask_the_store_behind! { after reach }

    async fn commit(&self, batch: &Batch) -> Result<Committed, StoreError> {
        let chance = self.reach().await?;
        let (faults, troubled) = {
            let state = self.world.lock();
            (state.plan.faults, state.troubled)
        };
        if troubled && chance.of("refuses").permille(faults.store_refuses) {
            self.world.lock().checks.seen.insert("store refuses");
            return Err(StoreError::Refused("it will not have it".to_owned()));
        }
        let mutant = self.world.lock().mutant;
        let mistaken = mutant.map(|mutant| self.mistaken(mutant, batch));
        let batch = mistaken.as_ref().unwrap_or(batch);
        let committed = self.store.commit(batch).await?;
        self.check(batch, &committed);
        if troubled && chance.of("dies").permille(faults.dies_committing) {
            self.world.trace(|| format!("daemon {} dies just after it has committed", self.daemon));
            self.world.lock().checks.seen.insert("dies committing");
            self.world.lock().doomed.insert(self.daemon);
            self.world.touch();
            return std::future::pending().await;
        }
        if troubled && chance.of("unknown").permille(faults.commit_unknown) {
            self.world.trace(|| format!("daemon {} does not learn that its commit took effect", self.daemon));
            self.world.lock().checks.seen.insert("commit unknown");
            return Err(StoreError::Unavailable("the connection broke".to_owned()));
        }
        Ok(committed)
    }
}
