//! The store in memory: for simulations, and for trying things without a database. It forgets everything with its last clone.
//!
//! It means what [`SqlStore`](super::sql::SqlStore) means, to the letter: the same suite of tests runs over both. Each call is
//! one critical section, in which nothing is waited for; and the same calls have the same results, as nothing in here has a
//! clock or randomness of its own.
//!
//! ```text
//!   calls ─> one lock ─> tables: sagas (each with its journal and its items), claims, outbox, revisions, dead letters
//!                          └──> indexes, moved with each change of a saga: due, ended, its turn or behind a lock, counts
//! ```

mod claims;
mod commit;
mod held;
mod indexes;
mod purge;
mod snapshot;
mod tables;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::{
    Batch, Claim, ClaimKind, Committed, DeadLetter, Filter, Freed, Holder, JournalRow, OutboxRow, Purged, Source,
    Store, StoreError, StoredSaga, listing,
};
use crate::core::id::SagaId;
use crate::core::saga::Status;
use crate::core::time::Time;

pub use snapshot::{SagaAtRest, Snapshot};
use tables::Tables;

/// Sagas in memory; its clones are the same store.
#[derive(Clone)]
pub struct MemoryStore(Arc<Inner>);

/// What the clones share.
struct Inner {
    secret: [u8; 32],
    now: Box<dyn Fn() -> Time + Send + Sync>,
    tables: Mutex<Tables>,
}

impl MemoryStore {
    /// An empty one. `secret` is what correlation ids are signed with, and `now` says when a definition's text is first kept.
    pub fn new(secret: [u8; 32], now: impl Fn() -> Time + Send + Sync + 'static) -> MemoryStore {
        MemoryStore(Arc::new(Inner { secret, now: Box::new(now), tables: Mutex::default() }))
    }

    /// All that it holds of sagas, as of one moment.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::of(&self.tables())
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        // Nothing panics while it holds the lock.
        self.0.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStore").field("sagas", &self.tables().sagas.len()).finish_non_exhaustive()
    }
}

impl Store for MemoryStore {
    async fn load(&self, ids: &[SagaId]) -> Result<Vec<StoredSaga>, StoreError> {
        let tables = self.tables();
        let stored = |id: &SagaId| tables.sagas.get(id).map(|record| record.stored(*id, record.chunks()));
        Ok(ids.iter().filter_map(stored).collect())
    }

    async fn holders(&self, claims: &[Claim]) -> Result<Vec<Holder>, StoreError> {
        self.tables().holders(claims)
    }

    async fn slots(&self, definition: &str) -> Result<Vec<String>, StoreError> {
        let first = Claim { definition: definition.into(), kind: ClaimKind::Slot, token: String::new() };
        let tables = self.tables();
        let slots = tables.claims.range(&first..).map(|(claim, _)| claim);
        let slots = slots.take_while(|claim| (&claim.definition, claim.kind) == (&first.definition, first.kind));
        Ok(slots.map(|claim| claim.token.clone()).collect())
    }

    async fn commit(&self, batch: &Batch) -> Result<Committed, StoreError> {
        self.tables().commit(batch)
    }

    async fn take_due(&self, now: Time, lease: Time, limit: usize) -> Result<Vec<SagaId>, StoreError> {
        let mut tables = self.tables();
        let due = tables.indexes.due.iter().take_while(|(due, _)| *due <= now);
        let taken: Vec<SagaId> = due.take(limit).map(|(_, id)| *id).collect();
        for id in &taken {
            tables.edit(*id, |record| record.due = Some(lease));
        }
        Ok(taken)
    }

    async fn next_due(&self) -> Result<Option<Time>, StoreError> {
        Ok(self.tables().indexes.due.first().map(|(due, _)| *due))
    }

    async fn take_outbox(&self, now: Time, lease: Time, limit: usize) -> Result<Vec<OutboxRow>, StoreError> {
        let mut tables = self.tables();
        let free = tables.leases.iter().take_while(|(until, _)| *until < now);
        let mut taken: Vec<Uuid> = free.take(limit).map(|(_, id)| *id).collect();
        taken.sort_unstable();
        let take = |id: Uuid| {
            tables.lease(id, lease);
            let row = tables.outbox.get_mut(&id)?;
            row.handed += 1;
            Some(row.clone())
        };
        Ok(taken.into_iter().filter_map(take).collect())
    }

    async fn keep_outbox(&self, rows: &[(Uuid, u32)], lease: Time) -> Result<Vec<Uuid>, StoreError> {
        let mut tables = self.tables();
        let mut kept: Vec<Uuid> = (rows.iter())
            .filter(|(id, handed)| tables.outbox.get(id).is_some_and(|row| row.handed == *handed))
            .map(|(id, _)| *id)
            .collect();
        kept.sort_unstable();
        kept.dedup();
        for id in &kept {
            tables.lease(*id, lease);
        }
        Ok(kept)
    }

    async fn release_outbox(&self) -> Result<(), StoreError> {
        let mut tables = self.tables();
        let leased = tables.leases.iter().rev().take_while(|(until, _)| *until > Time(0));
        for id in leased.map(|(_, id)| *id).collect::<Vec<_>>() {
            tables.lease(id, Time(0));
        }
        Ok(())
    }

    async fn held(&self, definition: &str, freed: Freed<'_>, limit: usize) -> Result<Vec<SagaId>, StoreError> {
        Ok(self.tables().held(definition, freed, limit))
    }

    async fn held_definitions(&self) -> Result<Vec<String>, StoreError> {
        Ok(self.tables().indexes.waiting.keys().map(|definition| definition.to_string()).collect())
    }

    async fn purge(
        &self,
        definition: &str,
        ended_before: Time,
        after: Option<SagaId>,
        limit: usize,
    ) -> Result<Purged, StoreError> {
        Ok(self.tables().purge(definition, ended_before, after, limit))
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<StoredSaga>, StoreError> {
        let ids = listing::ids(filter);
        let tables = self.tables();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let of_range = tables.sagas.range(SagaId(ids.start)..SagaId(ids.end)).rev();
        let page = of_range.filter(|(_, record)| record.is_of(filter)).take(filter.limit);
        Ok(page.map(|(id, record)| record.stored(*id, Vec::new())).collect())
    }

    async fn counts(&self) -> Result<Vec<(String, Status, u64)>, StoreError> {
        let tables = self.tables();
        let counted = tables.indexes.counts.iter();
        Ok(counted.map(|((definition, status), sagas)| (definition.to_string(), *status, *sagas)).collect())
    }

    async fn journal(&self, saga: SagaId, from: u64) -> Result<Vec<JournalRow>, StoreError> {
        let tables = self.tables();
        let Some(record) = tables.sagas.get(&saga) else { return Ok(Vec::new()) };
        let rows = || record.journal.values();
        // Also the row that entry `from` is in the middle of.
        let first = rows().map(|row| row.first_seq).filter(|first_seq| *first_seq <= from).max().unwrap_or(0);
        Ok(rows().filter(|row| row.first_seq >= first).cloned().collect())
    }

    async fn keep_revision(&self, name: &str, source: &Source) -> Result<u32, StoreError> {
        let now = (self.0.now)();
        let mut tables = self.tables();
        let texts = tables.revisions.entry(name.to_owned()).or_default();
        let place = texts.iter().position(|(text, _)| text == source).unwrap_or_else(|| {
            texts.push((source.clone(), now));
            texts.len() - 1
        });
        // Memory would end long before the numbers do.
        Ok(u32::try_from(place + 1).unwrap_or(u32::MAX))
    }

    async fn revision(&self, name: &str, revision: u32) -> Result<Option<Source>, StoreError> {
        let Some(place) = (revision as usize).checked_sub(1) else { return Ok(None) };
        let tables = self.tables();
        let text = tables.revisions.get(name).and_then(|texts| texts.get(place));
        Ok(text.map(|(text, _)| text.clone()))
    }

    async fn revisions(&self, name: &str) -> Result<Vec<(u32, Time)>, StoreError> {
        let tables = self.tables();
        let texts = tables.revisions.get(name).into_iter().flatten();
        Ok((1..).zip(texts).map(|(revision, (_, at))| (revision, *at)).collect())
    }

    async fn revisions_in_use(&self) -> Result<Vec<(String, u32)>, StoreError> {
        let tables = self.tables();
        let live = tables.sagas.values().filter(|record| !record.status.is_terminal());
        let mut used: Vec<(String, u32)> =
            live.map(|record| (record.definition.to_string(), record.revision)).collect();
        used.sort_unstable();
        used.dedup();
        Ok(used)
    }

    async fn all_revisions(&self) -> Result<Vec<(String, u32)>, StoreError> {
        let tables = self.tables();
        let of = |(name, texts): (&String, &Vec<_>)| {
            (1..).zip(texts).map(|(revision, _)| (name.clone(), revision)).collect::<Vec<_>>()
        };
        Ok(tables.revisions.iter().flat_map(of).collect())
    }

    async fn dead_letters(&self, before: Option<Uuid>, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        let tables = self.tables();
        let older = tables.dead_letters.range(..before.unwrap_or(Uuid::max())).rev();
        Ok(older.take(limit).map(|(_, letter)| letter.clone()).collect())
    }

    async fn dead_letter(&self, id: Uuid) -> Result<Option<DeadLetter>, StoreError> {
        Ok(self.tables().dead_letters.get(&id).cloned())
    }

    async fn delete_dead_letter(&self, id: Uuid) -> Result<bool, StoreError> {
        Ok(self.tables().dead_letters.remove(&id).is_some())
    }

    async fn secret(&self) -> Result<[u8; 32], StoreError> {
        Ok(self.0.secret)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
