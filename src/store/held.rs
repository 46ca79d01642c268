//! Held sagas: who may begin next.
//!
//! ```text
//!   born ──> its turn, by priority and age ──> let in
//!               │            ▲
//!   its lock is │            │ its lock was released, and it is the first of those behind it
//!   taken       └─> behind ──┘
//! ```
//! Thousands that wait for one lock stand behind it, where nobody who looks for the next turn has to step over them: each is
//! moved there once, when it is met. So the next one is found through an index however many wait for whatever. Where a saga
//! stands is no more than a hint, which changes without a new version of the saga: the claims decide.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::session::Database;
use super::statement::{Rows, Statement};
use super::{ClaimKind, Freed, StoreError, codes, text};
use crate::core::id::SagaId;

/// Held sagas that are looked at together at the least: most of them may stand before a lock that is taken.
pub(super) const PAGE: usize = 64;

/// Locks whose first saga gets its turn in one call, where the store has to look for them.
pub(super) const LOCKS: usize = 1000;

/// Held sagas of a definition that may begin: see [`super::Store::held`].
pub(super) async fn held(
    database: &Database,
    definition: &str,
    freed: Freed<'_>,
    limit: usize,
) -> Result<Vec<SagaId>, StoreError> {
    let freed = match freed {
        Freed::Keys(locks) => locks.iter().map(|lock| text::key(lock).into_owned()).collect(),
        Freed::Any => free_locks(database, definition).await?,
    };
    give_turns(database, definition, freed).await?;
    let mut next: BTreeMap<(i64, Uuid), Option<String>> = BTreeMap::new();
    loop {
        let turns = turns(database, definition, limit.max(PAGE)).await?;
        let full = turns.len() == limit.max(PAGE);
        let mut locks: BTreeSet<String> = next.values().flatten().cloned().collect();
        let mut behind = Vec::new();
        for turn in turns {
            let place = (-turn.priority, turn.id);
            match turn.lock {
                _ if next.contains_key(&place) => {}
                Some(lock) if turn.taken || locks.contains(&lock) => behind.push((turn.id, lock)),
                lock => {
                    locks.extend(lock.clone());
                    next.insert(place, lock);
                }
            }
        }
        if behind.is_empty() || next.len() >= limit {
            break;
        }
        stand_behind(database, &behind).await?;
        // One of these locks may have been released just now, by somebody who found nobody behind it.
        let waited_for: BTreeSet<&String> =
            behind.iter().map(|(_, lock)| lock).filter(|lock| !locks.contains(*lock)).collect();
        let freed = free_among(database, definition, waited_for.into_iter()).await?;
        let again = !freed.is_empty();
        give_turns(database, definition, freed).await?;
        if !full && !again {
            break;
        }
    }
    Ok(next.into_keys().take(limit).map(|(_, id)| SagaId(id)).collect())
}

/// A saga whose turn it may be.
struct Turn {
    id: Uuid,
    priority: i64,
    lock: Option<String>,
    /// Whether somebody holds its lock.
    taken: bool,
}

/// The first in the order of their turns.
async fn turns(database: &Database, definition: &str, limit: usize) -> Result<Vec<Turn>, StoreError> {
    let mut statement = Statement::new(database.dialect());
    let (definition, limit) = (statement.string(definition), statement.limit(limit));
    let (leads, taken) = (statement.dialect.leads("definition", &definition), taken(&definition, "turn.lock_key"));
    statement.push(&format!(
        "SELECT turn.id, turn.priority, turn.lock_key, \
         CAST(CASE WHEN claims.token IS NULL THEN 0 ELSE 1 END AS bigint) FROM (\
         SELECT id, priority, lock_key FROM sagas WHERE {leads} AND held = 1 \
         ORDER BY definition, priority DESC, id LIMIT {limit}) AS turn LEFT JOIN claims ON {taken} \
         ORDER BY turn.priority DESC, turn.id"
    ));
    let rows = database.read(&statement).await?;
    let turn = |row: &super::statement::Row| {
        let (id, priority, lock) = (row.uuid(0)?, row.int(1)?, row.optional_string(2)?);
        Ok(Turn { id, priority, lock, taken: row.int(3)? != 0 })
    };
    rows.iter().map(turn).collect()
}

/// Moves sagas behind their locks.
async fn stand_behind(database: &Database, sagas: &[(Uuid, String)]) -> Result<(), StoreError> {
    let mut ids: Vec<Uuid> = sagas.iter().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    let mut statement = Statement::new(database.dialect());
    let skip_locked = statement.dialect.skip_locked();
    let rows = statement.rows(Rows::new("r").uuids("id", ids.into_iter()));
    statement.push(&format!(
        "WITH ready AS MATERIALIZED (SELECT id FROM sagas WHERE id IN (SELECT id FROM {rows}) AND held = 1 \
         ORDER BY id {skip_locked}) UPDATE sagas SET held = 2 FROM ready WHERE sagas.id = ready.id"
    ));
    database.write(&statement).await.map(drop)
}

/// Gives the first saga behind each of these locks its turn.
async fn give_turns(database: &Database, definition: &str, locks: Vec<String>) -> Result<(), StoreError> {
    if locks.is_empty() {
        return Ok(());
    }
    let mut statement = Statement::new(database.dialect());
    let definition = statement.string(definition);
    let rows = statement.rows(Rows::new("r").texts("lock_key", locks.iter().map(|lock| Cow::Borrowed(&**lock))));
    let skip_locked = statement.dialect.skip_locked();
    statement.push(&format!(
        "WITH first AS MATERIALIZED (SELECT (SELECT id FROM sagas WHERE definition = {definition} AND lock_key = r.lock_key \
         AND held = 2 ORDER BY priority DESC, id LIMIT 1) AS id FROM {rows}), \
         ready AS MATERIALIZED (SELECT id FROM sagas WHERE id IN (SELECT id FROM first) ORDER BY id {skip_locked}) \
         UPDATE sagas SET held = 1 FROM ready WHERE sagas.id = ready.id AND sagas.held = 2"
    ));
    database.write(&statement).await.map(drop)
}

/// The free ones among the locks that sagas stand behind.
async fn free_locks(database: &Database, definition: &str) -> Result<Vec<String>, StoreError> {
    let mut statement = Statement::new(database.dialect());
    let (definition, limit) = (statement.string(definition), statement.limit(LOCKS));
    let taken = taken(&definition, "behind.lock_key");
    // From one lock to the next, however many stand behind each. Not by `min`: Postgres would begin each step at the first.
    let next = |after: &str| {
        format!(
            "(SELECT lock_key FROM sagas WHERE definition = {definition} AND held = 2{after} ORDER BY lock_key LIMIT 1)"
        )
    };
    statement.push(&format!(
        "WITH RECURSIVE behind(lock_key) AS (SELECT {} UNION ALL \
         SELECT {} FROM behind WHERE behind.lock_key IS NOT NULL) \
         SELECT lock_key FROM behind WHERE lock_key IS NOT NULL AND NOT EXISTS (SELECT 1 FROM claims WHERE {taken}) \
         LIMIT {limit}",
        next(""),
        next(" AND lock_key > behind.lock_key")
    ));
    database.read(&statement).await?.iter().map(|row| row.string(0)).collect()
}

/// Which of these locks nobody holds.
async fn free_among<'a>(
    database: &Database,
    definition: &str,
    locks: impl Iterator<Item = &'a String>,
) -> Result<Vec<String>, StoreError> {
    let mut statement = Statement::new(database.dialect());
    let definition = statement.string(definition);
    let rows = statement.rows(Rows::new("r").texts("lock_key", locks.map(|lock| Cow::Borrowed(&**lock))));
    let taken = taken(&definition, "r.lock_key");
    statement.push(&format!("SELECT lock_key FROM {rows} WHERE NOT EXISTS (SELECT 1 FROM claims WHERE {taken})"));
    database.read(&statement).await?.iter().map(|row| row.string(0)).collect()
}

/// What makes a claim that of a lock.
fn taken(definition: &str, lock: &str) -> String {
    let kind = codes::claim_kind(ClaimKind::Lock);
    format!("claims.definition = {definition} AND claims.kind = {kind} AND claims.token = {lock}")
}

/// The definitions that have held sagas.
pub(super) async fn definitions(database: &Database) -> Result<Vec<String>, StoreError> {
    let next = |held: u8, after: &str| {
        format!("(SELECT definition FROM sagas WHERE held = {held}{after} ORDER BY definition LIMIT 1)")
    };
    let of = |held: u8| {
        let (first, next) = (next(held, ""), next(held, &format!(" AND definition > of{held}.definition")));
        format!("SELECT {first} UNION ALL SELECT {next} FROM of{held} WHERE of{held}.definition IS NOT NULL")
    };
    let mut statement = Statement::new(database.dialect());
    statement.push(&format!(
        "WITH RECURSIVE of1(definition) AS ({}), of2(definition) AS ({}) SELECT definition FROM (\
         SELECT definition FROM of1 UNION SELECT definition FROM of2) AS every WHERE definition IS NOT NULL \
         ORDER BY definition",
        of(1),
        of(2)
    ));
    database.read(&statement).await?.iter().map(|row| row.string(0)).collect()
}
