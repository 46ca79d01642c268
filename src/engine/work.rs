//! One saga of a round: its state, what is decided about it, what of that is written.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use uuid::Uuid;

use super::gate::hold;
use crate::broker::names::Names;
use crate::clock::Clock;
use crate::core::apply::apply;
use crate::core::decide::Decision;
use crate::core::definition::Definition;
use crate::core::entry::Entry;
use crate::core::id::SagaId;
use crate::core::saga::{Elements, Saga, Status};
use crate::core::time::Time;
use crate::definitions::Pinned;
use crate::store::{
    Birth, Claim, Hold, JournalRow, OutboxRow, SagaRow, SagaWrite, StoredSaga, changed_items, elements_of, encode,
    size_of_elements,
};
use crate::wire::outgoing;
use crate::wire::signature::Signer;

/// One saga of a round.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) saga: Saga,
    pub(super) pinned: Arc<Pinned>,
    /// Bytes of its encoded state; 0 until it is written.
    pub(super) state_size: usize,
    /// Bytes of its encoded input.
    pub(super) input_size: usize,
    /// It was read from the store in this round.
    pub(super) fresh: bool,
    /// The version it had before this round.
    expected: u64,
    birth: Option<Birth>,
    /// The elements of its steps, as they are stored.
    stored_elements: Vec<Option<Elements>>,
    /// What it must be the only one to hold.
    pub(super) claims: Vec<(Claim, Option<SagaId>)>,
    pub(super) entries: Vec<Entry>,
    outbox: Vec<OutboxRow>,
    /// Rows of the outbox whose fate was decided upon.
    settled: Vec<Uuid>,
    /// A timer was asked whether it is due: the next wait needs a wake-up even if nothing changed.
    pub(super) ticked: bool,
}

impl Work {
    /// A saga that there is; `fresh` if it was read from the store in this round.
    pub(super) fn known(saga: Saga, pinned: Arc<Pinned>, input_size: usize, fresh: bool) -> Work {
        Work {
            expected: saga.version,
            stored_elements: elements_of(&saga),
            saga,
            pinned,
            state_size: 0,
            input_size,
            fresh,
            birth: None,
            claims: Vec::new(),
            entries: Vec::new(),
            outbox: Vec::new(),
            settled: Vec::new(),
            ticked: false,
        }
    }

    /// A saga that begins.
    pub(super) fn born(saga: Saga, pinned: Arc<Pinned>, birth: Birth, claims: Vec<(Claim, Option<SagaId>)>) -> Work {
        let known = Work::known(saga, pinned, birth.input.len(), true);
        // It may have a list from the first: nothing of it is stored.
        Work { expected: 0, birth: Some(birth), stored_elements: Vec::new(), claims, ..known }
    }

    /// Whether it claims something that is not committed yet.
    pub(super) fn has_claims(&self) -> bool {
        !self.claims.is_empty()
    }

    /// Takes over what was decided.
    pub(super) fn take(
        &mut self,
        decision: Decision,
        names: &Names,
        signer: &Signer,
        clock: &dyn Clock,
        lease: Time,
        now: Time,
    ) {
        let Decision { saga, entries, effects, .. } = decision;
        let definition = &self.pinned.definition;
        let effects = effects.into_iter().map(|effect| outgoing::effect(names, signer, definition, &saga, effect, now));
        let events = outgoing::events(names, definition, &saga, &entries, now);
        let rows = effects.chain(events).map(|message| OutboxRow {
            id: clock.id(),
            saga: saga.id,
            leased_until: lease,
            handed: u32::from(lease != Time(0)),
            message: Arc::new(message),
        });
        self.outbox.extend(rows);
        self.entries.extend(entries);
        self.saga = saga;
    }

    /// What follows from the fate of a row of the outbox is committed, and the row is gone: together, or a row that is found later is sent,
    /// though its saga has gone on without it.
    pub(super) fn settles(&mut self, row: Uuid) {
        self.settled.push(row);
    }

    /// Counts what was committed.
    pub(super) fn count(&self) {
        let saga = || ("saga", self.saga.definition.to_string());
        if self.expected == 0 {
            metrics::counter!(crate::metrics::SAGAS_STARTED, &[saga()]).increment(1);
        }
        for entry in &self.entries {
            match entry {
                Entry::Completed { .. } | Entry::Compensated {} | Entry::GaveUp {} => {
                    let labels = [saga(), ("status", self.saga.status().as_str().to_owned())];
                    metrics::counter!(crate::metrics::SAGAS_ENDED, &labels).increment(1);
                }
                Entry::Suspended { .. } => metrics::counter!(crate::metrics::SAGAS_SUSPENDED, &[saga()]).increment(1),
                _ => {}
            }
        }
    }

    /// Leaves the saga to an operator.
    pub(super) fn suspend(&mut self, reason: String, now: Time) {
        if self.saga.suspended.is_none() && !self.saga.status().is_terminal() {
            let entry = Entry::Suspended { reason, spot: None, actor: None };
            apply(&mut self.saga, &entry, now);
            self.entries.push(entry);
        }
    }

    /// What is written of it.
    pub(super) fn write(&mut self, sweep: Duration) -> SagaWrite {
        let (saga, definition) = (&mut self.saga, &self.pinned.definition);
        saga.version = self.expected + 1;
        saga.sum_up(definition);
        let row = row_of(saga, definition, sweep);
        self.state_size = row.state.len() + size_of_elements(saga);
        SagaWrite {
            id: saga.id,
            expected: self.expected,
            row,
            birth: self.birth.take(),
            first_seq: saga.entries + 1 - self.entries.len() as u64,
            entries: encode(&self.entries),
            outbox: std::mem::take(&mut self.outbox),
            settled: std::mem::take(&mut self.settled),
            items: changed_items(&self.stored_elements, saga),
            claims: std::mem::take(&mut self.claims),
            releases: definition.is_gated() && saga.status().is_terminal(),
        }
    }

    /// When the saga wants to be woken, if that has to be seen to now.
    pub(super) fn waits(&self) -> Option<Time> {
        let wants = self.ticked || self.waits_anew();
        wants.then(|| self.saga.timers(&self.pinned.definition).wait).flatten()
    }

    fn waits_anew(&self) -> bool {
        let waits = |entry: &Entry| match entry {
            Entry::Scheduled { .. } | Entry::Resumed { .. } => true,
            Entry::Accepted { due, .. } => *due > self.saga.created_at,
            _ => false,
        };
        self.entries.iter().any(waits)
    }
}

/// What of a saga's row follows from the saga.
pub(crate) fn row_of(saga: &Saga, definition: &Definition, sweep: Duration) -> SagaRow {
    SagaRow { due: saga.due(definition, sweep), hold: hold(definition, saga), ..row_without_definition(saga) }
}

/// The same where there is no definition to say what it waits for: it does not wait.
fn row_without_definition(saga: &Saga) -> SagaRow {
    SagaRow {
        version: saga.version,
        status: saga.status(),
        due: None,
        state: encode(saga),
        started_at: saga.started_at,
        updated_at: saga.updated_at,
        ended_at: saga.ended_at(),
        // It would be at the head of those that wait for ever.
        hold: Some(Hold::Off),
    }
}

/// A saga that can't be read, or that nobody knows how to go on with.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) row: StoredSaga,
    /// Its state, if that can be read.
    saga: Option<Saga>,
    pub(super) why: String,
    /// The sequence number of its next journal entry.
    next_seq: u64,
    /// The version that its journal leads to.
    journaled: u64,
    /// Its journal already says so.
    told: bool,
}

impl Broken {
    /// `last`: the last row of its journal, which says whether it was found before.
    pub(super) fn new(row: StoredSaga, saga: Option<Saga>, why: String, last: Option<&JournalRow>) -> Broken {
        let entries: Vec<Box<RawValue>> =
            last.and_then(|last| serde_json::from_slice(&last.entries).ok()).unwrap_or_default();
        let next_seq = last.map_or(0, |last| last.first_seq) + entries.len() as u64;
        let said = |entry: &RawValue| match serde_json::from_str(entry.get()) {
            Ok(Entry::Suspended { reason, .. }) => reason == why,
            _ => false,
        };
        let told = entries.last().is_some_and(|entry| said(entry));
        let journaled = last.map_or(0, |last| last.version);
        Broken { row, saga, why, next_seq, journaled, told }
    }

    /// Leaves the saga to an operator; `None` if that was done before. A state that can't be read stays as it is: only its row and its journal
    /// say that it is suspended.
    pub(super) fn quarantine(&self, now: Time) -> Option<SagaWrite> {
        if self.told {
            return None;
        }
        let entry = Entry::Suspended { reason: self.why.clone(), spot: None, actor: None };
        let version = self.row.version.max(self.journaled) + 1;
        let row = match self.saga.clone() {
            Some(mut saga) => {
                apply(&mut saga, &entry, now);
                saga.version = version;
                row_without_definition(&saga)
            }
            None => SagaRow {
                version,
                status: Status::Suspended,
                due: None,
                state: self.row.state.clone(),
                started_at: None,
                updated_at: now,
                ended_at: None,
                hold: Some(Hold::Off),
            },
        };
        Some(SagaWrite {
            id: self.row.id,
            expected: self.row.version,
            row,
            birth: None,
            first_seq: self.next_seq,
            entries: encode(&[entry]),
            outbox: Vec::new(),
            settled: Vec::new(),
            items: Vec::new(),
            claims: Vec::new(),
            releases: false,
        })
    }
}
