//! Held sagas: who may begin next. Where a saga stands is kept as the databases keep it: one that was met before a lock that
//! is taken stands behind it until somebody says that the lock is free, or looks for such locks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::indexes::{Turn, Wait};
use super::tables::Tables;
use crate::core::id::SagaId;
use crate::store::held::{LOCKS, PAGE};
use crate::store::{Claim, ClaimKind, Freed};

impl Tables {
    /// Held sagas of a definition that may begin: see [`Store::held`](crate::store::Store::held).
    pub(super) fn held(&mut self, definition: &str, freed: Freed<'_>, limit: usize) -> Vec<SagaId> {
        let freed = match freed {
            Freed::Keys(locks) => locks.to_vec(),
            Freed::Any => self.free_locks(definition),
        };
        self.give_turns(definition, &freed);
        let page = limit.max(PAGE);
        let mut next: BTreeMap<Turn, Option<Arc<str>>> = BTreeMap::new();
        loop {
            let turns = self.turns(definition, page);
            let full = turns.len() == page;
            let mut locks: BTreeSet<Arc<str>> = next.values().flatten().cloned().collect();
            let mut behind = Vec::new();
            for (turn, lock) in turns {
                match lock {
                    _ if next.contains_key(&turn) => {}
                    Some(lock) if locks.contains(&lock) || self.is_locked(definition, &lock) => {
                        behind.push((turn.1, lock));
                    }
                    lock => {
                        locks.extend(lock.clone());
                        next.insert(turn, lock);
                    }
                }
            }
            if behind.is_empty() || next.len() >= limit {
                break;
            }
            for (id, lock) in behind {
                self.edit(id, |record| record.wait = Some(Wait::Behind { lock }));
            }
            if !full {
                break;
            }
        }
        next.into_keys().take(limit).map(|(_, id)| id).collect()
    }

    /// The first in the order of their turns, each with the lock that it needs.
    fn turns(&self, definition: &str, limit: usize) -> Vec<(Turn, Option<Arc<str>>)> {
        let turns = self.indexes.waiting.get(definition).into_iter().flat_map(|waiting| &waiting.turns);
        let with_lock = |turn: &Turn| match self.sagas.get(&turn.1).and_then(|record| record.wait.clone()) {
            Some(Wait::Turn { lock }) => (*turn, lock),
            _ => (*turn, None),
        };
        turns.take(limit).map(with_lock).collect()
    }

    /// Gives the first saga behind each of these locks its turn.
    fn give_turns(&mut self, definition: &str, locks: &[Arc<str>]) {
        for lock in locks {
            let behind = self.indexes.waiting.get(definition).and_then(|waiting| waiting.behind.get(lock));
            if let Some((_, id)) = behind.and_then(BTreeSet::first).copied() {
                self.edit(id, |record| record.wait = Some(Wait::Turn { lock: Some(lock.clone()) }));
            }
        }
    }

    /// The free ones among the locks that sagas stand behind.
    fn free_locks(&self, definition: &str) -> Vec<Arc<str>> {
        let locks = self.indexes.waiting.get(definition).into_iter().flat_map(|waiting| waiting.behind.keys());
        locks.filter(|lock| !self.is_locked(definition, lock)).take(LOCKS).cloned().collect()
    }

    /// Whether somebody holds a lock.
    fn is_locked(&self, definition: &str, lock: &str) -> bool {
        let claim = Claim { definition: definition.into(), kind: ClaimKind::Lock, token: lock.to_owned() };
        self.claims.contains_key(&claim)
    }
}
