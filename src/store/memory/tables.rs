//! The tables: what the columns of a database hold, as values.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::indexes::{Indexes, Wait};
use crate::core::id::SagaId;
use crate::core::saga::Status;
use crate::core::time::Time;
use crate::store::{
    Claim, DeadLetter, Filter, Holder, JournalRow, OutboxRow, Source, StoreError, StoredItems, StoredSaga,
};

/// Everything that a store holds.
#[derive(Default)]
pub(super) struct Tables {
    pub(super) sagas: BTreeMap<SagaId, Record>,
    pub(super) indexes: Indexes,
    pub(super) claims: BTreeMap<Claim, Holding>,
    /// The claims of each saga, but for business keys: those are found by the saga's.
    pub(super) claimed: BTreeSet<(SagaId, Claim)>,
    pub(super) outbox: BTreeMap<Uuid, OutboxRow>,
    /// The outbox by the end of its leases.
    pub(super) leases: BTreeSet<(Time, Uuid)>,
    /// The texts of each definition: the first one is revision 1.
    pub(super) revisions: BTreeMap<String, Vec<(Source, Time)>>,
    pub(super) dead_letters: BTreeMap<Uuid, DeadLetter>,
}

/// A saga, with all that belongs to it alone.
pub(super) struct Record {
    pub(super) version: u64,
    pub(super) definition: Arc<str>,
    pub(super) revision: u32,
    pub(super) key: Option<Arc<str>>,
    pub(super) priority: u8,
    pub(super) parent: Option<SagaId>,
    pub(super) status: Status,
    /// Whether and where it waits to be let in.
    pub(super) wait: Option<Wait>,
    pub(super) due: Option<Time>,
    pub(super) created_at: Time,
    pub(super) ended_at: Option<Time>,
    pub(super) state: Bytes,
    pub(super) input: Bytes,
    /// By version.
    pub(super) journal: BTreeMap<u64, JournalRow>,
    /// By step and chunk: the version that wrote it, and what.
    pub(super) items: BTreeMap<(u32, i32), (u64, Bytes)>,
}

/// Who holds a claim.
pub(super) struct Holding {
    pub(super) saga: SagaId,
    /// The last status that is known of a saga that may be gone.
    pub(super) status: Option<Status>,
}

impl Tables {
    /// Changes a saga, if there is one, and moves it in the indexes.
    pub(super) fn edit(&mut self, id: SagaId, change: impl FnOnce(&mut Record)) {
        let Some(record) = self.sagas.get_mut(&id) else { return };
        let before = record.place();
        change(record);
        self.indexes.moved(id, record, Some(&before), Some(&record.place()));
    }

    /// Leases a row of the outbox.
    pub(super) fn lease(&mut self, id: Uuid, until: Time) {
        let Some(row) = self.outbox.get_mut(&id) else { return };
        self.leases.remove(&(row.leased_until, id));
        self.leases.insert((until, id));
        row.leased_until = until;
    }

    /// See [`Store::holders`](crate::store::Store::holders).
    pub(super) fn holders(&self, claims: &[Claim]) -> Result<Vec<Holder>, StoreError> {
        let holder = |claim: &Claim| {
            let Holding { saga, status } = self.claims.get(claim)?;
            let status = self.sagas.get(saga).map(|record| record.status).or(*status);
            let nobody = || StoreError::Corrupt(format!("claims, saga {saga}: there is no such saga, and no status"));
            Some(status.ok_or_else(nobody).map(|status| Holder { claim: claim.clone(), saga: *saga, status }))
        };
        claims.iter().filter_map(holder).collect()
    }
}

impl Record {
    /// As it is read, with these items.
    pub(super) fn stored(&self, id: SagaId, items: Vec<StoredItems>) -> StoredSaga {
        StoredSaga {
            id,
            version: self.version,
            definition: self.definition.to_string(),
            revision: self.revision,
            state: self.state.clone(),
            input: self.input.clone(),
            items,
        }
    }

    /// All its items.
    pub(super) fn chunks(&self) -> Vec<StoredItems> {
        let chunk = |(place, written): (&(u32, i32), &(u64, Bytes))| StoredItems {
            step: place.0,
            chunk: place.1,
            version: written.0,
            state: written.1.clone(),
        };
        self.items.iter().map(chunk).collect()
    }

    /// Whether a list with this filter has it, apart from the range of ids.
    pub(super) fn is_of(&self, filter: &Filter) -> bool {
        filter.definition.as_ref().is_none_or(|definition| **definition == *self.definition)
            && (filter.statuses.is_empty() || filter.statuses.contains(&self.status))
            && (filter.key.is_none() || filter.key.as_deref() == self.key.as_deref())
            && filter.started_after.is_none_or(|after| self.created_at >= after)
            && filter.started_before.is_none_or(|before| self.created_at < before)
    }
}
