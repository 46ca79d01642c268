//! The write path: a batch in one transaction, with a number of statements that does not depend on its size.
//!
//! ```text
//!   claims ─> births, updates ─> who was written ─> journal, items, outbox, counters of those, and what they release
//!                                                   confirmed outbox rows, dead letters
//! ```
//! Postgres does everything after the claims in one statement: a round trip costs more than the work. SQLite does the same
//! pieces one after the other, in as few calls as possible: each is a hop to the thread that it runs on.
//!
//! Transactions that meet never wait for each other in a circle: all take claims before sagas before outbox rows, and each of
//! these in the order of their keys.

use std::collections::HashSet;

use uuid::Uuid;

use super::claims::Claims;
use super::dialect::Dialect;
use super::parts::{Changes, count, forget, insert, items, journal, keep, release, send, settle, update};
use super::session::{Database, Session};
use super::statement::Statement;
use super::{Batch, Birth, Committed, SagaWrite, StoreError};
use crate::core::id::SagaId;

/// Writes `batch`.
pub(super) async fn commit(database: &Database, batch: &Batch) -> Result<Committed, StoreError> {
    let mut writes: Vec<&SagaWrite> = batch.sagas.iter().collect();
    writes.sort_unstable_by_key(|write| write.id);
    let mut stale = HashSet::new();
    // A write that lost a claim leaves nothing: what it had got of its other claims is rolled back with everything else, and
    // the rest of the batch is written without it. The engine looks for holders beforehand, so this is a race, and rare.
    loop {
        let (claims, lost) = Claims::of(&writes, batch, &stale);
        let outcome = if lost.is_empty() {
            attempt(database.writer().await?, &writes, &claims, batch).await?
        } else {
            Outcome::Lost(lost)
        };
        match outcome {
            Outcome::Written(written) => {
                stale.extend(writes.iter().map(|write| write.id).filter(|id| !written.contains(&id.0)));
                return Ok(Committed { stale: stale.into_iter().collect() });
            }
            Outcome::Lost(lost) => {
                writes.retain(|write| !lost.contains(&write.id));
                stale.extend(lost);
            }
        }
    }
}

/// What became of one attempt.
enum Outcome {
    /// Committed, with these sagas.
    Written(HashSet<Uuid>),
    /// Rolled back, because these writes lost a claim, or had claims and were stale.
    Lost(HashSet<SagaId>),
}

async fn attempt(
    session: Session,
    writes: &[&SagaWrite],
    claims: &Claims<'_>,
    batch: &Batch,
) -> Result<Outcome, StoreError> {
    match session.dialect() {
        Dialect::Sqlite => piece_by_piece(session, writes, claims, batch).await,
        Dialect::Postgres => all_in_one(session, writes, claims, batch).await,
    }
}

/// SQLite's way.
async fn piece_by_piece(
    mut session: Session,
    writes: &[&SagaWrite],
    claims: &Claims<'_>,
    batch: &Batch,
) -> Result<Outcome, StoreError> {
    let mut script = Statement::new(Dialect::Sqlite);
    script.push("BEGIN IMMEDIATE; ");
    if !claims.is_empty() {
        for part in claims.parts() {
            claims.take(part, &mut script);
            script.push("; ");
        }
        let obtained;
        (session, obtained) = session.run(&script).await?;
        let lost = claims.lost(&obtained)?;
        if !lost.is_empty() {
            return undo(session, lost).await;
        }
        script = Statement::new(Dialect::Sqlite);
    }
    let (births, updates) = split(writes);
    if !births.is_empty() {
        insert(&mut script, &births);
        script.push("; ");
    }
    if !updates.is_empty() {
        update(&mut script, &updates);
        script.push("; ");
    }
    let rows;
    (session, rows) = session.run(&script).await?;
    let written: HashSet<Uuid> = rows.iter().map(|row| row.uuid(0)).collect::<Result<_, _>>()?;
    let unwritten = claims.unwritten(&written);
    if !unwritten.is_empty() {
        return undo(session, unwritten).await;
    }
    let writes: Vec<&SagaWrite> = writes.iter().copied().filter(|write| written.contains(&write.id.0)).collect();

    let changes = Changes::of(&rows)?;
    let mut script = Statement::new(Dialect::Sqlite);
    if !writes.is_empty() {
        journal(&mut script, &writes, "true");
        script.push("; ");
        if !changes.is_empty() {
            let rows = script.rows(changes.rows());
            script.push(&format!("WITH written AS (SELECT * FROM {rows}) "));
            count(&mut script);
            script.push("; ");
        }
    }
    if writes.iter().any(|write| !write.items.is_empty()) {
        items(&mut script, &writes, "true");
        script.push("; ");
    }
    if writes.iter().any(|write| write.releases) {
        release(&mut script, &writes, "true");
        script.push("; ");
    }
    if writes.iter().any(|write| !write.outbox.is_empty()) {
        send(&mut script, &writes, "true");
        script.push("; ");
    }
    if writes.iter().any(|write| !write.settled.is_empty()) {
        settle(&mut script, &writes, "true");
        script.push("; ");
    }
    if !batch.confirmed.is_empty() {
        forget(&mut script, batch);
        script.push("; ");
    }
    if !batch.dead_letters.is_empty() {
        keep(&mut script, batch);
        script.push("; ");
    }
    script.push("COMMIT");
    session.run(&script).await?.0.hand_back();
    Ok(Outcome::Written(written))
}

/// Postgres' way. The parts of the one statement do not see each other's effects: what depends on the version check reads
/// what that returned.
async fn all_in_one(
    mut session: Session,
    writes: &[&SagaWrite],
    claims: &Claims<'_>,
    batch: &Batch,
) -> Result<Outcome, StoreError> {
    let transaction = !claims.is_empty();
    if transaction {
        (session, _) = session.run(&plain(Dialect::Postgres, "BEGIN")).await?;
        let mut obtained = Vec::new();
        for part in claims.parts() {
            let mut statement = Statement::new(Dialect::Postgres);
            claims.take(part, &mut statement);
            let rows;
            (session, rows) = session.run(&statement).await?;
            obtained.extend(rows);
        }
        let lost = claims.lost(&obtained)?;
        if !lost.is_empty() {
            return undo(session, lost).await;
        }
    }
    let statement = one_statement(writes, batch);
    let mut written = HashSet::new();
    if !statement.is_empty() {
        let rows;
        (session, rows) = session.run(&statement).await?;
        written = rows.iter().map(|row| row.uuid(0)).collect::<Result<_, _>>()?;
    }
    let unwritten = claims.unwritten(&written);
    if !unwritten.is_empty() {
        return undo(session, unwritten).await;
    }
    if transaction {
        (session, _) = session.run(&plain(Dialect::Postgres, "COMMIT")).await?;
    }
    session.hand_back();
    Ok(Outcome::Written(written))
}

fn one_statement<'a>(writes: &[&'a SagaWrite], batch: &'a Batch) -> Statement<'a> {
    // Inside `coalesce` it is a look-up in a hash table; by itself it would be a join, and see `open` for how those are done.
    const OF_WRITTEN: &str = "coalesce(saga_id IN (SELECT id FROM written), false)";
    let mut statement = Statement::new(Dialect::Postgres);
    let mut part = |name: &str, write: &mut dyn FnMut(&mut Statement<'a>)| {
        statement.push(if statement.is_empty() { "WITH " } else { ", " });
        statement.push(name);
        statement.push(" AS (");
        write(&mut statement);
        statement.push(")");
    };
    let (births, updates) = split(writes);
    if !births.is_empty() {
        part("born", &mut |s| insert(s, &births));
    }
    if !updates.is_empty() {
        part("updated", &mut |s| update(s, &updates));
    }
    if !writes.is_empty() {
        part("written", &mut |s| {
            // Births first: see the order of locks above.
            s.push(match (births.is_empty(), updates.is_empty()) {
                (false, false) => "SELECT * FROM born UNION ALL SELECT * FROM updated",
                (false, true) => "SELECT * FROM born",
                _ => "SELECT * FROM updated",
            })
        });
        part("told", &mut |s| journal(s, writes, OF_WRITTEN));
        part("counted", &mut |s| count(s));
    }
    if writes.iter().any(|write| !write.items.is_empty()) {
        part("itemized", &mut |s| items(s, writes, OF_WRITTEN));
    }
    if writes.iter().any(|write| write.releases) {
        part("released", &mut |s| release(s, writes, OF_WRITTEN));
    }
    if writes.iter().any(|write| !write.outbox.is_empty()) {
        part("sent", &mut |s| send(s, writes, OF_WRITTEN));
    }
    if writes.iter().any(|write| !write.settled.is_empty()) {
        part("settled", &mut |s| settle(s, writes, OF_WRITTEN));
    }
    if !batch.confirmed.is_empty() {
        part("forgotten", &mut |s| forget(s, batch));
    }
    if !batch.dead_letters.is_empty() {
        part("kept", &mut |s| keep(s, batch));
    }
    if !statement.is_empty() {
        statement.push(if writes.is_empty() { " SELECT 1 WHERE false" } else { " SELECT id FROM written" });
    }
    statement
}

/// Ends a transaction in which these writes came too late.
async fn undo(session: Session, lost: HashSet<SagaId>) -> Result<Outcome, StoreError> {
    let rollback = plain(session.dialect(), "ROLLBACK");
    session.run(&rollback).await?.0.hand_back();
    Ok(Outcome::Lost(lost))
}

fn plain(dialect: Dialect, text: &str) -> Statement<'static> {
    let mut statement = Statement::new(dialect);
    statement.push(text);
    statement
}

/// Births with their writes, and the other writes.
fn split<'a>(writes: &[&'a SagaWrite]) -> (Vec<(&'a SagaWrite, &'a Birth)>, Vec<&'a SagaWrite>) {
    let births = writes.iter().filter_map(|write| write.birth.as_ref().map(|birth| (*write, birth))).collect();
    (births, writes.iter().copied().filter(|write| write.birth.is_none()).collect())
}
