//! Putting right what is stored of a saga.
//!
//! One transaction, which takes its locks in the order of every commit: claims, then the saga.

use std::borrow::Cow;
use std::collections::HashSet;
use std::iter::once;

use super::audit::{Mend, Stray, StrayRow};
use super::claims::Claims;
use super::parts::{items, journal};
use super::session::Database;
use super::statement::{Rows, Statement};
use super::{Batch, Claim, Hold, StoreError, codes, text};

/// See [`super::audit::Audit::mend`].
pub(super) async fn mend(database: &Database, mend: &Mend) -> Result<bool, StoreError> {
    let write = &mend.write;
    let mut session = database.transaction().await?;
    let statement = || Statement::new(database.dialect());
    if !mend.unclaims.is_empty() {
        let mut given_up = statement();
        let id = given_up.uuid(write.id.0);
        let rows = given_up.rows(as_read(mend.unclaims.iter()));
        given_up.push(&format!(
            "DELETE FROM claims WHERE saga_id = {id} AND kind <> 1 AND (definition, kind, token) IN (\
             SELECT definition, kind, token FROM {rows})"
        ));
        (session, _) = session.run(&given_up).await?;
    }
    let (batch, nobody) = (Batch::default(), HashSet::new());
    let (wanted, _) = Claims::of(&[write], &batch, &nobody);
    let mut obtained = Vec::new();
    for part in wanted.parts() {
        let mut taken = statement();
        wanted.take(part, &mut taken);
        let rows;
        (session, rows) = session.run(&taken).await?;
        obtained.extend(rows);
    }
    let mut row = statement();
    update(&mut row, mend);
    let written;
    (session, written) = session.run(&row).await?;
    if written.is_empty() || !wanted.lost(&obtained)?.is_empty() {
        session.end("ROLLBACK").await?;
        return Ok(false);
    }
    let mut chunks = statement();
    let id = chunks.uuid(write.id.0);
    chunks.push(&format!("DELETE FROM items WHERE saga_id = {id}"));
    (session, _) = session.run(&chunks).await?;
    if !write.items.is_empty() {
        let mut chunks = statement();
        items(&mut chunks, &[write], "true");
        (session, _) = session.run(&chunks).await?;
    }
    let mut told = statement();
    journal(&mut told, &[write], "true");
    (session, _) = session.run(&told).await?;
    session.end("COMMIT").await?;
    Ok(true)
}

/// The row, if it still has the version that it had.
fn update<'a>(statement: &mut Statement<'a>, mend: &'a Mend) {
    let row = &mend.write.row;
    let lock = match &row.hold {
        Some(Hold::On { lock }) => lock.as_deref().map(text::key),
        _ => None,
    };
    let held = matches!(row.hold, Some(Hold::On { .. })).then_some(1);
    let rows = Rows::new("m")
        .uuids("id", once(mend.write.id.0))
        .ints("expected", once(codes::number(mend.write.expected)))
        .ints("version", once(codes::number(row.version)))
        .ints("status", once(codes::status(row.status)))
        .optional_ints("previous_status", once(mend.previous_status.map(codes::status)))
        .ints("priority", once(mend.priority.into()))
        .optional_ints("held", once(held))
        .ints("itemized", once(i64::from(!mend.write.items.is_empty())))
        .optional_ints("due", once(row.due.map(|time| time.0)))
        .ints("created_at", once(mend.created_at.0))
        .optional_ints("started_at", once(row.started_at.map(|time| time.0)))
        .ints("updated_at", once(row.updated_at.0))
        .optional_ints("ended_at", once(row.ended_at.map(|time| time.0)))
        .optional_uuids("parent", once(mend.parent.map(|parent| parent.0)))
        .optional_texts("key", once(mend.key.as_deref().map(text::key)))
        .optional_texts("lock_key", once(lock))
        .bytes("state", once(&*row.state));
    let rows = statement.rows(rows);
    statement.push(&format!(
        "UPDATE sagas SET version = m.version, status = m.status, previous_status = m.previous_status, \
         priority = m.priority, held = m.held, itemized = m.itemized, due = m.due, due_slot = m.due >> 10, \
         created_at = m.created_at, started_at = m.started_at, updated_at = m.updated_at, ended_at = m.ended_at, \
         parent = m.parent, key = m.key, lock_key = m.lock_key, state = m.state \
         FROM {rows} WHERE sagas.id = m.id AND sagas.version = m.expected RETURNING sagas.id"
    ));
}

/// Claims that were read from their table: a long key is cut already.
fn as_read<'a>(claims: impl Iterator<Item = &'a Claim> + Clone) -> Rows<'a> {
    Rows::new("c")
        .texts("definition", claims.clone().map(|claim| Cow::Borrowed(&*claim.definition)))
        .ints("kind", claims.clone().map(|claim| codes::claim_kind(claim.kind)))
        .texts("token", claims.map(|claim| Cow::Borrowed(&*claim.token)))
}

/// See [`super::audit::Audit::discard`].
pub(super) async fn discard(database: &Database, strays: &[Stray]) -> Result<(), StoreError> {
    let held: Vec<(&Stray, &Claim)> = (strays.iter())
        .filter_map(|stray| match &stray.what {
            StrayRow::Claim(claim) => Some((stray, claim)),
            _ => None,
        })
        .collect();
    let chunks = || strays.iter().filter(|stray| matches!(stray.what, StrayRow::Items { .. }));
    let gone = |of: &str| format!("NOT EXISTS (SELECT 1 FROM sagas WHERE sagas.id = {of}.saga_id)");
    if !held.is_empty() {
        let mut statement = Statement::new(database.dialect());
        let rows = as_read(held.iter().map(|(_, claim)| *claim));
        let rows = statement.rows(rows.uuids("saga_id", held.iter().map(|(stray, _)| stray.saga.0)));
        statement.push(&format!(
            "DELETE FROM claims WHERE (definition, kind, token, saga_id) IN (\
             SELECT definition, kind, token, saga_id FROM {rows}) AND {}",
            gone("claims")
        ));
        database.write(&statement).await?;
    }
    if chunks().next().is_some() {
        let mut statement = Statement::new(database.dialect());
        let rows = statement.rows(Rows::new("i").uuids("id", chunks().map(|stray| stray.saga.0)));
        statement.push(&format!("DELETE FROM items WHERE saga_id IN (SELECT id FROM {rows}) AND {}", gone("items")));
        database.write(&statement).await?;
    }
    Ok(())
}
