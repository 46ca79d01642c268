//! Sagas with their items, as of one moment.
//!
//! A saga's row says whether it has any, so that one without costs no second query. With them, row and items are read once
//! more, by one statement: what was read before may be of an older version.

use std::collections::BTreeMap;

use super::session::Database;
use super::sql::{SAGA, saga};
use super::statement::{Row, Rows, Statement};
use super::{StoreError, StoredItems, StoredSaga};
use crate::core::id::SagaId;

/// The sagas of these ids that exist, with their items.
pub(super) async fn load(database: &Database, ids: &[SagaId]) -> Result<Vec<StoredSaga>, StoreError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut statement = Statement::new(database.dialect());
    let rows = statement.rows(Rows::new("r").uuids("id", ids.iter().map(|id| id.0)));
    statement.push(&format!("SELECT {SAGA}, sagas.itemized FROM {rows} JOIN sagas ON sagas.id = r.id"));
    let (mut sagas, mut itemized) = (Vec::new(), Vec::new());
    for row in database.read(&statement).await? {
        if row.int(ITEMIZED)? == 0 {
            sagas.push(saga(&row)?);
        } else {
            itemized.push(SagaId(row.uuid(0)?));
        }
    }
    if !itemized.is_empty() {
        sagas.extend(load_itemized(database, &itemized).await?);
    }
    Ok(sagas)
}

/// The column after those of [`SAGA`].
const ITEMIZED: usize = 6;

async fn load_itemized(database: &Database, ids: &[SagaId]) -> Result<Vec<StoredSaga>, StoreError> {
    let mut statement = Statement::new(database.dialect());
    let rows = statement.rows(Rows::new("r").uuids("id", ids.iter().map(|id| id.0)));
    // A chunk is a row without a definition: step in the place of the revision, chunk in that of the input.
    statement.push(&format!(
        "WITH wanted AS MATERIALIZED (SELECT id FROM {rows}) \
         SELECT {SAGA}, CAST(NULL AS bigint) AS chunk FROM wanted JOIN sagas ON sagas.id = wanted.id UNION ALL \
         SELECT items.saga_id, items.version, NULL, items.step, items.state, NULL, items.chunk \
         FROM wanted JOIN items ON items.saga_id = wanted.id"
    ));
    let (mut sagas, mut chunks) = (Vec::new(), BTreeMap::<SagaId, Vec<StoredItems>>::new());
    for row in database.read(&statement).await? {
        match row.optional_int(CHUNK)? {
            None => sagas.push(saga(&row)?),
            Some(_) => chunks.entry(SagaId(row.uuid(0)?)).or_default().push(chunk(&row)?),
        }
    }
    for saga in &mut sagas {
        saga.items = chunks.remove(&saga.id).unwrap_or_default();
        saga.items.sort_unstable_by_key(|chunk| (chunk.step, chunk.chunk));
    }
    Ok(sagas)
}

const CHUNK: usize = 6;

fn chunk(row: &Row) -> Result<StoredItems, StoreError> {
    Ok(StoredItems { version: row.count(1)?, step: row.count(3)?, state: row.bytes(4)?, chunk: row.count(CHUNK)? })
}
