//! Sagas under way, so that a transition needs no read: the version check of the commit says when one is out of date.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core::id::SagaId;
use crate::core::saga::Saga;
use crate::definitions::Pinned;

/// Bytes of encoded state and input that are kept: in memory they take some three times as much.
const CAPACITY: usize = 32 << 20;

/// What a saga costs beside its encoded form.
const OVERHEAD: usize = 1024;

/// A saga and the definition it is pinned to.
#[derive(Clone, Debug)]
pub(super) struct Cached {
    pub(super) saga: Saga,
    pub(super) pinned: Arc<Pinned>,
    /// Bytes of its encoded input.
    pub(super) input_size: usize,
}

/// Bounded; the sagas that were started first go first.
#[derive(Debug, Default)]
pub(super) struct Cache {
    sagas: BTreeMap<SagaId, (Cached, usize)>,
    weight: usize,
}

impl Cache {
    pub(super) fn take(&mut self, id: SagaId) -> Option<Cached> {
        let (cached, weight) = self.sagas.remove(&id)?;
        self.weight -= weight;
        Some(cached)
    }

    /// Keeps a saga whose encoded state takes `state_size` bytes.
    pub(super) fn put(&mut self, cached: Cached, state_size: usize) {
        let weight = state_size + cached.input_size + OVERHEAD;
        self.weight += weight;
        if let Some((_, old)) = self.sagas.insert(cached.saga.id, (cached, weight)) {
            self.weight -= old;
        }
        while self.weight > CAPACITY
            && let Some((_, (_, oldest))) = self.sagas.pop_first()
        {
            self.weight -= oldest;
        }
    }

    pub(super) fn clear(&mut self) {
        self.sagas.clear();
        self.weight = 0;
    }
}
