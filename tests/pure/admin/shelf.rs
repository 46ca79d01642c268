//! A store that holds what a test puts there, for the API to read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use sagad::core::apply::{Origin, apply, begin};
use sagad::core::entry::Entry;
use sagad::core::id::SagaId;
use sagad::core::saga::{Saga, Status};
use sagad::core::time::Time;
use sagad::store::{
    Batch, Claim, Committed, DeadLetter, Filter, Freed, Holder, JournalRow, OutboxRow, Purged, Source, Store,
    StoreError, StoredSaga, encode,
};
use serde_json::{Value, json};
use uuid::Uuid;

#[derive(Clone, Default)]
pub(crate) struct Shelf(Arc<Mutex<Content>>);

#[derive(Default)]
pub(crate) struct Content {
    pub(crate) sagas: BTreeMap<SagaId, (StoredSaga, Saga)>,
    pub(crate) journals: BTreeMap<SagaId, Vec<JournalRow>>,
    pub(crate) letters: BTreeMap<Uuid, DeadLetter>,
    pub(crate) revisions: Vec<(String, Source)>,
    /// When all of them were first kept.
    pub(crate) kept_at: Option<Time>,
    /// Set: the database is away.
    pub(crate) trouble: Option<String>,
}

impl Shelf {
    pub(crate) fn edit<T>(&self, edit: impl FnOnce(&mut Content) -> T) -> T {
        edit(&mut self.0.lock().unwrap())
    }

    fn read<T>(&self, read: impl FnOnce(&Content) -> T) -> Result<T, StoreError> {
        let content = self.0.lock().unwrap();
        match &content.trouble {
            Some(why) => Err(StoreError::Unavailable(why.clone())),
            None => Ok(read(&content)),
        }
    }

    /// A saga of two steps that did what `entries` say, all at 2026-01-02T03:04:05.678Z.
    pub(crate) fn put(&self, id: SagaId, input: Value, entries: &[Entry]) -> Saga {
        let at = Time(1_767_323_045_678);
        let origin = Origin { id, definition: "order".into(), revision: 1, input: Arc::new(input) };
        let accepted = Entry::Accepted {
            key: Some("A1".into()),
            priority: 5,
            due: at,
            parent: None,
            lock: None,
            trace: None,
            steps: 2,
            actor: "http".into(),
        };
        let mut saga = begin(origin, &accepted, at).unwrap();
        entries.iter().for_each(|entry| apply(&mut saga, entry, at));
        let all: Vec<&Entry> = std::iter::once(&accepted).chain(entries).collect();
        let stored = StoredSaga {
            id,
            version: 1,
            definition: "order".into(),
            revision: 1,
            state: encode(&saga),
            input: encode(&*saga.input),
            items: Vec::new(),
        };
        // Two transitions, so that a history is read across rows.
        let row =
            |first_seq, version, entries: &[&Entry]| JournalRow { first_seq, version, at, entries: encode(&entries) };
        let rows = vec![row(1, 1, &all[..1]), row(2, 2, &all[1..])];
        self.edit(|content| {
            content.sagas.insert(id, (stored, saga.clone()));
            content.journals.insert(id, rows);
        });
        saga
    }

    pub(crate) fn corrupt(&self, id: SagaId) {
        self.edit(|content| content.sagas.get_mut(&id).unwrap().0.state = encode(&json!({ "id": 7 })));
    }
}

impl Store for Shelf {
    async fn load(&self, ids: &[SagaId]) -> Result<Vec<StoredSaga>, StoreError> {
        self.read(|content| ids.iter().filter_map(|id| Some(content.sagas.get(id)?.0.clone())).collect())
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<StoredSaga>, StoreError> {
        self.read(|content| {
            let fits = |(id, (stored, saga)): &(&SagaId, &(StoredSaga, Saga))| {
                filter.definition.as_ref().is_none_or(|name| *name == stored.definition)
                    && (filter.statuses.is_empty() || filter.statuses.contains(&saga.status()))
                    && filter.key.as_deref().is_none_or(|key| saga.key.as_deref() == Some(key))
                    && filter.started_after.is_none_or(|at| saga.created_at >= at)
                    && filter.started_before.is_none_or(|at| saga.created_at < at)
                    && filter.before.is_none_or(|before| **id < before)
            };
            content.sagas.iter().rev().filter(fits).take(filter.limit).map(|(_, (stored, _))| stored.clone()).collect()
        })
    }

    async fn journal(&self, saga: SagaId, from: u64) -> Result<Vec<JournalRow>, StoreError> {
        self.read(|content| {
            let rows = content.journals.get(&saga).cloned().unwrap_or_default();
            // As a database does: every row that has an entry of interest, and such a row whole.
            let last = |row: &JournalRow| {
                row.first_seq + serde_json::from_slice::<Vec<Value>>(&row.entries).unwrap().len() as u64
            };
            rows.into_iter().filter(|row| last(row) > from).collect()
        })
    }

    async fn dead_letters(&self, before: Option<Uuid>, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        self.read(|content| {
            let older = content.letters.values().rev().filter(|letter| before.is_none_or(|before| letter.id < before));
            older.take(limit).cloned().collect()
        })
    }

    async fn dead_letter(&self, id: Uuid) -> Result<Option<DeadLetter>, StoreError> {
        self.read(|content| content.letters.get(&id).cloned())
    }

    async fn delete_dead_letter(&self, id: Uuid) -> Result<bool, StoreError> {
        self.read(|_| ())?;
        Ok(self.edit(|content| content.letters.remove(&id).is_some()))
    }

    async fn keep_revision(&self, name: &str, source: &Source) -> Result<u32, StoreError> {
        self.read(|_| ())?;
        Ok(self.edit(|content| {
            let kept = (name.to_owned(), source.clone());
            if !content.revisions.contains(&kept) {
                content.revisions.push(kept.clone());
            }
            let of_name = content.revisions.iter().filter(|(other, _)| other == name);
            of_name.zip(1..).find(|(old, _)| **old == kept).unwrap().1
        }))
    }

    async fn revision(&self, name: &str, revision: u32) -> Result<Option<Source>, StoreError> {
        self.read(|content| {
            let mut of_name = content.revisions.iter().filter(|(other, _)| other == name);
            of_name.nth(revision as usize - 1).map(|(_, source)| source.clone())
        })
    }

    async fn revisions(&self, name: &str) -> Result<Vec<(u32, Time)>, StoreError> {
        self.read(|content| {
            let of_name = content.revisions.iter().filter(|(other, _)| other == name);
            of_name.zip(1..).map(|(_, revision)| (revision, content.kept_at.unwrap_or(Time(0)))).collect()
        })
    }

    // What the API has no business with.

    async fn holders(&self, _: &[Claim]) -> Result<Vec<Holder>, StoreError> {
        unreachable!("the API asks for no claims")
    }

    async fn slots(&self, _: &str) -> Result<Vec<String>, StoreError> {
        unreachable!("the API lets nobody in")
    }

    async fn held(&self, _: &str, _: Freed<'_>, _: usize) -> Result<Vec<SagaId>, StoreError> {
        unreachable!("the API lets nobody in")
    }

    async fn held_definitions(&self) -> Result<Vec<String>, StoreError> {
        unreachable!("the API lets nobody in")
    }

    async fn purge(&self, _: &str, _: Time, _: Option<SagaId>, _: usize) -> Result<Purged, StoreError> {
        unreachable!("the API purges nothing")
    }

    async fn revisions_in_use(&self) -> Result<Vec<(String, u32)>, StoreError> {
        Ok(Vec::new())
    }

    async fn all_revisions(&self) -> Result<Vec<(String, u32)>, StoreError> {
        self.read(|content| {
            let mut all: Vec<(String, u32)> = Vec::new();
            for (name, _) in &content.revisions {
                let before = all.iter().filter(|(other, _)| other == name).count();
                all.push((name.clone(), before as u32 + 1));
            }
            all.sort();
            all
        })
    }

    async fn commit(&self, _: &Batch) -> Result<Committed, StoreError> {
        unreachable!("the API commits nothing")
    }

    async fn take_due(&self, _: Time, _: Time, _: usize) -> Result<Vec<SagaId>, StoreError> {
        unreachable!("the API has no timers")
    }

    async fn next_due(&self) -> Result<Option<Time>, StoreError> {
        unreachable!("the API has no timers")
    }

    async fn take_outbox(&self, _: Time, _: Time, _: usize) -> Result<Vec<OutboxRow>, StoreError> {
        unreachable!("the API sends nothing from the outbox")
    }

    async fn keep_outbox(&self, _: &[(Uuid, u32)], _: Time) -> Result<Vec<Uuid>, StoreError> {
        unreachable!("the API sends nothing from the outbox")
    }

    async fn release_outbox(&self) -> Result<(), StoreError> {
        unreachable!("the API sends nothing from the outbox")
    }

    async fn counts(&self) -> Result<Vec<(String, Status, u64)>, StoreError> {
        unreachable!("no call counts yet")
    }

    async fn secret(&self) -> Result<[u8; 32], StoreError> {
        unreachable!("the API signs nothing")
    }

    async fn ping(&self) -> Result<(), StoreError> {
        unreachable!("readiness is what Health says")
    }
}
