//! Sagas and the rows that they are kept in: a state that stays small, and the elements of `foreach` steps in chunks.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{ItemsWrite, StoreError, StoredItems, StoredSaga, encode};
use crate::core::id::StepIx;
use crate::core::saga::{Chunk, Elements, Saga};

/// Where the list of the elements is kept: beside the chunks, which count from 0.
const LIST: i32 = -1;

/// Bytes that an element takes in memory, more or less.
const ELEMENT: usize = 512;

/// Reads a saga from its row.
///
/// # Errors
/// What can't be read: [`StoreError::Corrupt`].
pub fn read_saga(row: &StoredSaga) -> Result<Saga, StoreError> {
    let mut saga = read_listed(row)?;
    for (step, state) in saga.steps.iter_mut().enumerate() {
        if let Some(elements) = &mut state.elements {
            *elements = read_elements(row, step, elements.count)?;
        }
    }
    Ok(saga)
}

/// Reads a saga from its row alone: of the elements of its steps only their number is known.
///
/// # Errors
/// What can't be read: [`StoreError::Corrupt`].
pub fn read_listed(row: &StoredSaga) -> Result<Saga, StoreError> {
    let mut saga: Saga = read(row, "sagas, column state", &row.state)?;
    saga.input = Arc::new(read(row, "sagas, column input", &row.input)?);
    saga.version = row.version;
    Ok(saga)
}

fn read_elements(row: &StoredSaga, step: StepIx, count: u32) -> Result<Elements, StoreError> {
    let mut list = Value::Null;
    let mut chunks = Vec::new();
    for StoredItems { chunk, state, .. } in row.items.iter().filter(|items| items.step as usize == step) {
        match *chunk {
            LIST => list = read(row, "items, the list", state)?,
            _ => chunks.push(read::<Chunk>(row, "items, a chunk", state)?),
        }
    }
    let missing = || StoreError::Corrupt(format!("items, saga {}, step {step}: not all of {count} elements", row.id));
    Elements::restore(count, Arc::new(list), chunks).ok_or_else(missing)
}

fn read<T: DeserializeOwned>(row: &StoredSaga, place: &str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| StoreError::Corrupt(format!("{place}, saga {}: {error}", row.id)))
}

/// What of the elements of `saga` is to be written, `before` being what is stored.
pub fn changed_items(before: &[Option<Elements>], saga: &Saga) -> Vec<ItemsWrite> {
    let mut writes = Vec::new();
    for (step, state) in saga.steps.iter().enumerate() {
        let Some(elements) = &state.elements else { continue };
        let step_number = step as u32;
        let stored = before.get(step).and_then(Option::as_ref);
        if stored.is_none() {
            writes.push(ItemsWrite { step: step_number, chunk: LIST, state: encode(&**elements.list()) });
        }
        for (at, chunk) in elements.chunks().iter().enumerate() {
            // A chunk that changed is another one in memory.
            let same = stored.and_then(|stored| stored.chunks().get(at)).is_some_and(|old| Arc::ptr_eq(old, chunk));
            if !same {
                writes.push(ItemsWrite { step: step_number, chunk: at as i32, state: encode(&**chunk) });
            }
        }
    }
    writes
}

/// The elements of each step, to compare with later; cheap.
pub fn elements_of(saga: &Saga) -> Vec<Option<Elements>> {
    if saga.steps.iter().all(|step| step.elements.is_none()) {
        return Vec::new();
    }
    saga.steps.iter().map(|step| step.elements.clone()).collect()
}

/// Bytes that the elements of a saga take in memory, more or less.
pub fn size_of_elements(saga: &Saga) -> usize {
    saga.steps.iter().filter_map(|step| step.elements.as_ref()).map(|elements| elements.count as usize * ELEMENT).sum()
}
