//! Purging: deleting ended sagas whole, but for what is still owed.

use std::collections::BTreeSet;
use std::ops::Bound;

use uuid::Uuid;

use super::tables::Tables;
use crate::core::id::SagaId;
use crate::core::time::Time;
use crate::store::listing::first_id_after;
use crate::store::purge::OWED;
use crate::store::{Claim, ClaimKind, Purged};

impl Tables {
    /// Deletes sagas: see [`Store::purge`](crate::store::Store::purge).
    pub(super) fn purge(
        &mut self,
        definition: &str,
        ended_before: Time,
        after: Option<SagaId>,
        limit: usize,
    ) -> Purged {
        // By its id, what could have been written by a saga that ended in time.
        let below = first_id_after(ended_before);
        let owing: BTreeSet<SagaId> = self.outbox.range(..below).take(OWED).map(|(_, row)| row.saga).collect();
        let page = self.page(definition, below, after, limit);
        let next = if page.len() < limit { None } else { page.last().copied() };
        if self.outbox.range(..below).take(OWED).count() >= OWED {
            return Purged { sagas: 0, next: None };
        }
        let may_go = |id: &SagaId| {
            let ended_at = self.sagas.get(id).and_then(|record| record.ended_at);
            ended_at.is_some_and(|at| at < ended_before) && !self.parent_goes_on(*id) && !owing.contains(id)
        };
        let doomed: Vec<SagaId> = page.into_iter().filter(may_go).collect();
        for id in &doomed {
            self.delete(*id, definition);
        }
        Purged { sagas: doomed.len(), next }
    }

    /// Ended sagas in the order of their ids.
    fn page(&self, definition: &str, below: Uuid, after: Option<SagaId>, limit: usize) -> Vec<SagaId> {
        let above = after.unwrap_or(SagaId(Uuid::nil()));
        if above >= SagaId(below) {
            return Vec::new();
        }
        let ended = self.indexes.ended.get(definition).into_iter();
        let ended = ended.flat_map(|ended| ended.range((Bound::Excluded(above), Bound::Excluded(SagaId(below)))));
        ended.take(limit).copied().collect()
    }

    /// Whether a saga above it has not ended, or was not purged: it may still have this one undone.
    fn parent_goes_on(&self, id: SagaId) -> bool {
        let parent = self.sagas.get(&id).and_then(|record| record.parent);
        let parent = parent.and_then(|parent| self.sagas.get(&parent));
        parent.is_some_and(|parent| parent.ended_at.is_none() || parent.parent.is_some())
    }

    fn delete(&mut self, id: SagaId, definition: &str) {
        let Some(record) = self.sagas.remove(&id) else { return };
        self.indexes.moved(id, &record, Some(&record.place()), None);
        if let Some(key) = &record.key {
            let claim = Claim { definition: definition.into(), kind: ClaimKind::Key, token: key.to_string() };
            if self.claims.get(&claim).is_some_and(|held| held.saga == id) {
                self.let_go(&claim);
            }
        }
        for claim in self.claimed_by(id).into_iter().filter(|claim| *claim.definition == *definition) {
            if claim.kind != ClaimKind::Start {
                self.let_go(&claim);
            } else if let Some(held) = self.claims.get_mut(&claim) {
                // Starts are answered alike for ever.
                held.status = Some(record.status);
            }
        }
    }
}
