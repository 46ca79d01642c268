//! State, items and columns of a saga's row, beside what they should be.

use std::fmt::Display;
use std::time::Duration;

use super::Findings;
use super::difference::{cut, difference};
use crate::core::definition::Definition;
use crate::core::saga::{Chunk, Saga, Status};
use crate::core::time::Time;
use crate::engine::row_of;
use crate::store::{Hold, ItemsWrite, SagaRow, StoredItems, changed_items, encode, stored_key};

/// A timer that somebody has taken is due anew after the lease; and clocks may differ.
const LEASE: Duration = Duration::from_secs(70);

/// The longest `delay.sweep`: it may have been another when the row was written.
const LONGEST_SWEEP: Duration = Duration::from_secs(3600);

/// Holds the row against the saga that it is of.
pub(super) fn check(
    findings: &mut Findings<'_>,
    saga: &Saga,
    previous_status: Option<Status>,
    definition: &Definition,
    now: Time,
    sweep: Duration,
) {
    let (stored, columns) = (&findings.whole.stored, &findings.whole.columns);
    let row = row_of(saga, definition, sweep);
    state(findings, &row);
    items(findings, saga, definition);

    let mut compare = Compare { findings };
    let word = |status: Result<Status, i64>| status.map_or_else(|code| code.to_string(), |it| it.as_str().to_owned());
    compare.column("version", stored.version, saga.version);
    compare.column("status", word(columns.status), word(Ok(row.status)));
    let (found, expected) = (columns.previous_status.map(word), previous_status.map(Ok).map(word));
    compare.optional("previous_status", found, expected);
    compare.column("priority", columns.priority, saga.priority.into());
    compare.optional("key", columns.key.as_deref(), saga.key.as_deref().map(stored_key).as_deref());
    compare.column("created_at", columns.created_at, saga.created_at);
    compare.optional("started_at", columns.started_at, row.started_at);
    compare.column("updated_at", columns.updated_at, row.updated_at);
    compare.optional("ended_at", columns.ended_at, row.ended_at);
    compare.optional("parent", columns.parent, saga.parent.as_ref().map(|parent| parent.saga));
    compare.column("itemized", columns.itemized, saga.steps.iter().any(|step| step.elements.is_some()));

    let (held, lock) = match &row.hold {
        Some(Hold::On { lock }) => (Some(1), lock.as_deref().map(stored_key)),
        Some(Hold::Off) | None => (None, None),
    };
    // Behind its lock instead of in line: where it waits is up to the store.
    let behind = columns.held == Some(2) && held.is_some() && lock.is_some();
    if !behind {
        compare.optional("held", columns.held, held);
    }
    compare.optional("lock_key", columns.lock_key.as_deref(), lock.as_deref());

    if !is_due(columns.due, saga, definition, now) {
        compare.optional("due", columns.due, row.due);
    }
    compare.optional("due_slot", columns.due_slot, columns.due.map(|due| due.0 >> 10));
}

fn state(findings: &mut Findings<'_>, row: &SagaRow) {
    let state = &findings.whole.stored.state;
    // Byte for byte as it would be written now; else another version may have written the same in other words.
    let same = |state: &[u8]| serde_json::from_slice(state).is_ok_and(|own: Saga| encode(&own) == row.state);
    if *state != row.state && !same(state) {
        let (stored, expected) = match serde_json::from_slice::<Saga>(state) {
            Ok(own) => difference(&encode(&own), &row.state),
            Err(error) => (format!("unreadable ({error})"), "what the journal says".to_owned()),
        };
        findings.mendable(("sagas", "state"), stored, expected);
    }
}

fn items(findings: &mut Findings<'_>, saga: &Saga, definition: &Definition) {
    let found = &findings.whole.stored.items;
    let expected = changed_items(&[], saga);
    let of = |step: u32, chunk: i32| {
        let name = definition.steps.get(step as usize).map_or("?", |step| &step.name);
        match chunk {
            -1 => format!("for the list of step `{name}`"),
            _ => format!("for chunk {chunk} of step `{name}`"),
        }
    };
    for ItemsWrite { step, chunk, state } in &expected {
        let place = of(*step, *chunk);
        match found.iter().find(|found| (found.step, found.chunk) == (*step, *chunk)) {
            None => {
                findings.mendable(("items", "state"), format!("missing {place}"), "what the journal says".to_owned())
            }
            Some(StoredItems { state: found, .. }) if found == state || is_same(found, state, *chunk) => {}
            Some(StoredItems { state: found, .. }) => {
                let (stored, expected) = difference(found, state);
                findings.mendable(("items", "state"), format!("{stored} {place}"), expected);
            }
        }
    }
    for StoredItems { step, chunk, version, .. } in found {
        if !expected.iter().any(|expected| (expected.step, expected.chunk) == (*step, *chunk)) {
            findings.mendable(("items", "chunk"), format!("there {}", of(*step, *chunk)), "nowhere".to_owned());
        } else if *version > saga.version {
            let stored = format!("{version} {}", of(*step, *chunk));
            findings.mendable(("items", "version"), stored, format!("{} at the most", saga.version));
        }
    }
}

/// Whether two chunks say the same in other words.
fn is_same(found: &[u8], expected: &[u8], chunk: i32) -> bool {
    if chunk < 0 {
        // The list is what it was rendered to, to the byte.
        return false;
    }
    serde_json::from_slice(found).is_ok_and(|found: Chunk| encode(&found) == expected)
}

/// Whether a saga is woken in time by what its row says.
fn is_due(due: Option<Time>, saga: &Saga, definition: &Definition, now: Time) -> bool {
    let (earliest, latest) = (saga.due(definition, Duration::ZERO), saga.due(definition, LONGEST_SWEEP));
    match (due, earliest, latest) {
        (None, None, _) => true,
        (Some(due), Some(earliest), Some(latest)) => {
            let taken = earliest <= now.plus(LEASE) && due <= now.plus(LEASE);
            earliest <= due && (due <= latest || taken)
        }
        _ => false,
    }
}

/// Columns of `sagas`.
struct Compare<'a, 'b> {
    findings: &'a mut Findings<'b>,
}

impl Compare<'_, '_> {
    fn column<T: PartialEq + Display>(&mut self, column: &'static str, stored: T, expected: T) {
        self.optional(column, Some(stored), Some(expected));
    }

    fn optional<T: PartialEq + Display>(&mut self, column: &'static str, stored: Option<T>, expected: Option<T>) {
        if stored != expected {
            let word = |value: Option<T>| value.map_or_else(|| "null".to_owned(), |value| cut(&value.to_string()));
            self.findings.mendable(("sagas", column), word(stored), word(expected));
        }
    }
}
