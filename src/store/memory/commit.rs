//! The write path: a batch, whole or not at all.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::claims::Claims;
use super::indexes::Wait;
use super::tables::{Record, Tables};
use crate::core::id::SagaId;
use crate::store::{Batch, Birth, ClaimKind, Committed, Hold, JournalRow, OutboxRow, SagaWrite, StoreError};

impl Tables {
    /// Writes a batch: see [`Store::commit`](crate::store::Store::commit).
    pub(super) fn commit(&mut self, batch: &Batch) -> Result<Committed, StoreError> {
        let mut writes: Vec<&SagaWrite> = batch.sagas.iter().collect();
        writes.sort_unstable_by_key(|write| write.id);
        let mut stale = BTreeSet::new();
        // A write that loses a claim loses all of them, and so makes room for a joined one: look again without it.
        let claims = loop {
            let (claims, mut lost) = Claims::of(&writes, batch, &stale);
            if lost.is_empty() {
                lost = claims.refused(self);
            }
            if lost.is_empty() {
                let claimants = claims.claimants();
                let late = writes.iter().filter(|write| claimants.contains(&write.id) && !self.is_current(write));
                lost = late.map(|write| write.id).collect();
            }
            if lost.is_empty() {
                break claims;
            }
            writes.retain(|write| !lost.contains(&write.id));
            stale.extend(lost);
        };
        writes.retain(|write| self.is_current(write) || !stale.insert(write.id));
        self.check(&writes)?;

        claims.take(self);
        for write in &writes {
            self.write(write);
        }
        let settled = writes.iter().flat_map(|write| &write.settled);
        settled.chain(&batch.confirmed).for_each(|id| self.forget(id));
        for letter in &batch.dead_letters {
            self.dead_letters.entry(letter.id).or_insert_with(|| letter.clone());
        }
        Ok(Committed { stale: stale.into_iter().collect() })
    }

    /// Whether a saga is as a write takes it to be.
    fn is_current(&self, write: &SagaWrite) -> bool {
        let version = self.sagas.get(&write.id).map(|record| record.version);
        if write.birth.is_some() { version.is_none() } else { version == Some(write.expected) }
    }

    /// That these writes break no unique key: a database would refuse the whole batch.
    fn check(&self, writes: &[&SagaWrite]) -> Result<(), StoreError> {
        let refused = |text: String| Err(StoreError::Refused(format!("unique key violated: {text}")));
        if let Some([one, _]) = writes.array_windows().find(|[one, other]| one.id == other.id) {
            return refused(format!("saga {} is twice in a batch", one.id));
        }
        let mut fresh = BTreeSet::new();
        for write in writes {
            let version = write.row.version;
            if self.sagas.get(&write.id).is_some_and(|record| record.journal.contains_key(&version)) {
                return refused(format!("journal, saga {}, version {version}", write.id));
            }
            let taken = |id: &Uuid| self.outbox.contains_key(id) || !fresh.insert(*id);
            if let Some(id) = write.outbox.iter().map(|row| row.id).find(taken) {
                return refused(format!("outbox, row {id}"));
            }
        }
        Ok(())
    }

    fn write(&mut self, write: &SagaWrite) {
        match &write.birth {
            Some(birth) => {
                let record = born(write, birth);
                self.indexes.moved(write.id, &record, None, Some(&record.place()));
                self.sagas.insert(write.id, record);
            }
            None => self.edit(write.id, |record| {
                let row = &write.row;
                (record.version, record.status) = (row.version, row.status);
                (record.due, record.ended_at) = (row.due, row.ended_at);
                record.state = row.state.clone();
                if let Some(hold) = &row.hold {
                    record.wait = wait(hold);
                }
            }),
        }
        if let Some(record) = self.sagas.get_mut(&write.id) {
            record.tell(write);
        }
        if write.releases {
            self.release(write.id);
        }
        for row in &write.outbox {
            self.leases.insert((row.leased_until, row.id));
            self.outbox.insert(row.id, OutboxRow { saga: write.id, ..row.clone() });
        }
    }

    /// A message is not to be sent any more.
    fn forget(&mut self, id: &Uuid) {
        if let Some(row) = self.outbox.remove(id) {
            self.leases.remove(&(row.leased_until, *id));
        }
    }

    /// A saga gives up its lock and its slot.
    fn release(&mut self, saga: SagaId) {
        for claim in self.claimed_by(saga) {
            if matches!(claim.kind, ClaimKind::Lock | ClaimKind::Slot) {
                self.let_go(&claim);
            }
        }
    }
}

impl Record {
    /// Adds a transition's row of the journal, and the items that it changed.
    fn tell(&mut self, write: &SagaWrite) {
        let (first_seq, version, at) = (write.first_seq, write.row.version, write.row.updated_at);
        self.journal.insert(version, JournalRow { first_seq, version, at, entries: write.entries.clone() });
        for chunk in &write.items {
            self.items.insert((chunk.step, chunk.chunk), (version, chunk.state.clone()));
        }
    }
}

fn born(write: &SagaWrite, birth: &Birth) -> Record {
    let row = &write.row;
    Record {
        version: row.version,
        definition: birth.definition.clone(),
        revision: birth.revision,
        key: birth.key.clone(),
        priority: birth.priority,
        parent: birth.parent,
        status: row.status,
        wait: row.hold.as_ref().and_then(wait),
        due: row.due,
        created_at: birth.created_at,
        ended_at: row.ended_at,
        state: row.state.clone(),
        input: birth.input.clone(),
        journal: BTreeMap::new(),
        items: BTreeMap::new(),
    }
}

fn wait(hold: &Hold) -> Option<Wait> {
    match hold {
        Hold::On { lock } => Some(Wait::Turn { lock: lock.clone() }),
        Hold::Off => None,
    }
}
