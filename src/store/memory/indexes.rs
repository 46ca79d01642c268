//! Where sagas are found by other things than their ids.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::tables::Record;
use crate::core::id::SagaId;
use crate::core::saga::Status;
use crate::core::time::Time;

/// The indexes of all sagas.
#[derive(Default)]
pub(super) struct Indexes {
    /// By their next timer.
    pub(super) due: BTreeSet<(Time, SagaId)>,
    /// Those that ended, by definition.
    pub(super) ended: BTreeMap<Arc<str>, BTreeSet<SagaId>>,
    /// Those that wait to be let in, by definition; no entry where nobody does.
    pub(super) waiting: BTreeMap<Arc<str>, Waiting>,
    /// How many there are of each definition in each status; no entry for none.
    pub(super) counts: BTreeMap<(Arc<str>, Status), u64>,
}

/// The held sagas of one definition.
#[derive(Default)]
pub(super) struct Waiting {
    /// Whose turn it may be.
    pub(super) turns: BTreeSet<Turn>,
    /// Those behind each lock; no entry for none.
    pub(super) behind: BTreeMap<Arc<str>, BTreeSet<Turn>>,
}

/// The highest priority first, then the oldest.
pub(super) type Turn = (Reverse<u8>, SagaId);

/// Where a held saga stands.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Wait {
    /// It may be its turn.
    Turn {
        /// The lock that it needs.
        lock: Option<Arc<str>>,
    },
    /// Behind a lock that was taken.
    Behind {
        /// Which.
        lock: Arc<str>,
    },
}

/// What of a saga the indexes know.
#[derive(Clone)]
pub(super) struct Place {
    due: Option<Time>,
    status: Status,
    wait: Option<Wait>,
}

impl Record {
    /// Its place in the indexes.
    pub(super) fn place(&self) -> Place {
        Place { due: self.due, status: self.status, wait: self.wait.clone() }
    }
}

impl Indexes {
    /// Moves a saga from one place to another; from none if it begins, and to none if it goes.
    pub(super) fn moved(&mut self, id: SagaId, record: &Record, before: Option<&Place>, after: Option<&Place>) {
        let due = |place: Option<&Place>| place.and_then(|place| place.due);
        if due(before) != due(after) {
            due(before).map(|due| self.due.remove(&(due, id)));
            due(after).map(|due| self.due.insert((due, id)));
        }
        let status = |place: Option<&Place>| place.map(|place| place.status);
        if status(before) != status(after) {
            self.change_status(id, &record.definition, status(before), status(after));
        }
        let wait = |place: Option<&Place>| place.and_then(|place| place.wait.clone());
        let (from, to) = (wait(before), wait(after));
        if from != to {
            self.change_wait((Reverse(record.priority), id), &record.definition, from, to);
        }
    }

    fn change_status(&mut self, id: SagaId, definition: &Arc<str>, from: Option<Status>, to: Option<Status>) {
        if let Some(from) = from {
            let count = self.counts.entry((definition.clone(), from)).or_default();
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.counts.remove(&(definition.clone(), from));
            }
        }
        if let Some(to) = to {
            *self.counts.entry((definition.clone(), to)).or_default() += 1;
        }
        let has_ended = |status: Option<Status>| status.is_some_and(Status::is_terminal);
        match (has_ended(from), has_ended(to)) {
            (false, true) => drop(self.ended.entry(definition.clone()).or_default().insert(id)),
            (true, false) => drop(self.ended.get_mut(definition).map(|ended| ended.remove(&id))),
            _ => {}
        }
    }

    fn change_wait(&mut self, turn: Turn, definition: &Arc<str>, from: Option<Wait>, to: Option<Wait>) {
        let waiting = self.waiting.entry(definition.clone()).or_default();
        match from {
            Some(Wait::Turn { .. }) => drop(waiting.turns.remove(&turn)),
            Some(Wait::Behind { lock }) => {
                let behind = waiting.behind.entry(lock.clone()).or_default();
                behind.remove(&turn);
                if behind.is_empty() {
                    waiting.behind.remove(&lock);
                }
            }
            None => {}
        }
        match to {
            Some(Wait::Turn { .. }) => drop(waiting.turns.insert(turn)),
            Some(Wait::Behind { lock }) => drop(waiting.behind.entry(lock).or_default().insert(turn)),
            None => {}
        }
        if waiting.turns.is_empty() && waiting.behind.is_empty() {
            self.waiting.remove(definition);
        }
    }
}
