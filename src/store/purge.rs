//! Purging: deleting ended sagas whole, without getting in anybody's way.
//!
//! First it reads, without a lock, a page of ended sagas and which of them may go. Then one transaction deletes those that
//! have not changed meanwhile. It takes its locks in the order of every commit: claims, then sagas, each by their keys.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use uuid::Uuid;

use super::dialect::Dialect;
use super::listing::first_id_after;
use super::session::Database;
use super::statement::{Row, Rows, Statement};
use super::{ClaimKind, Purged, StoreError, codes};
use crate::core::id::SagaId;
use crate::core::saga::Status;
use crate::core::time::Time;

/// Messages that the broker has not confirmed, of old: with more of them than that, nothing is purged until they are sent.
pub(super) const OWED: usize = 1000;

/// Deletes sagas: see [`super::Store::purge`].
pub(super) async fn purge(
    database: &Database,
    definition: &str,
    ended_before: Time,
    after: Option<SagaId>,
    limit: usize,
) -> Result<Purged, StoreError> {
    let owing = owing(database, ended_before).await?;
    let page = page(database, definition, ended_before, after, limit).await?;
    let next = if page.len() < limit { None } else { page.last().map(|saga| SagaId(saga.id)) };
    if owing.len() >= OWED {
        return Ok(Purged { sagas: 0, next: None });
    }
    let mut doomed = page;
    doomed.retain(|saga| saga.ended_at < ended_before.0 && !saga.parent_goes_on && !owing.contains(&saga.id));
    while !doomed.is_empty() {
        let claims = claims(database, definition, &doomed).await?;
        let deleted = delete(database, definition, &doomed, &claims).await?;
        if deleted.len() == doomed.len() {
            break;
        }
        // The others changed meanwhile, or another daemon deleted them; so nothing was done at all.
        doomed.retain(|saga| deleted.contains(&saga.id));
    }
    Ok(Purged { sagas: doomed.len(), next })
}

/// An ended saga.
struct Ended {
    id: Uuid,
    version: i64,
    status: i64,
    ended_at: i64,
    key: Option<String>,
    /// A saga above it has not ended, or was not purged: it may still have this one undone.
    parent_goes_on: bool,
}

/// Sagas that have messages in the outbox, as far as they could have ended before a time.
async fn owing(database: &Database, ended_before: Time) -> Result<HashSet<Uuid>, StoreError> {
    let mut statement = Statement::new(database.dialect());
    // A row's id says when it was written: by then at the latest, by a saga that has not changed since it ended.
    let (below, limit) = (statement.uuid(first_id_after(ended_before)), statement.limit(OWED));
    statement.push(&format!("SELECT saga_id FROM outbox WHERE id < {below} ORDER BY id LIMIT {limit}"));
    database.read(&statement).await?.iter().map(|row| row.uuid(0)).collect()
}

/// Ended sagas in the order of their ids, of those that began early enough to have ended before a time.
async fn page(
    database: &Database,
    definition: &str,
    ended_before: Time,
    after: Option<SagaId>,
    limit: usize,
) -> Result<Vec<Ended>, StoreError> {
    let mut statement = Statement::new(database.dialect());
    let (definition, limit) = (statement.string(definition), statement.limit(limit));
    let above = statement.uuid(after.map_or(Uuid::nil(), |id| id.0));
    let below = statement.uuid(first_id_after(ended_before));
    let definition = statement.dialect.leads("definition", &definition);
    let of_status = |status: Status| {
        format!(
            "SELECT id FROM (SELECT id FROM sagas WHERE {definition} AND status = {} AND id > {above} AND id < {below} \
             ORDER BY definition, status, id LIMIT {limit}) AS part",
            codes::status(status)
        )
    };
    let ended = Status::ALL.into_iter().filter(|status| status.is_terminal());
    let ranges: Vec<String> = ended.map(of_status).collect();
    statement.push(&format!(
        "SELECT sagas.id, sagas.version, sagas.status, sagas.ended_at, sagas.key, \
         CAST(CASE WHEN parents.ended_at IS NULL AND parents.id IS NOT NULL OR parents.parent IS NOT NULL THEN 1 ELSE 0 END AS bigint) \
         FROM (SELECT id FROM ({}) AS parts ORDER BY id LIMIT {limit}) AS page JOIN sagas ON sagas.id = page.id \
         LEFT JOIN sagas AS parents ON parents.id = sagas.parent ORDER BY sagas.id",
        ranges.join(" UNION ALL ")
    ));
    let ended = |row: &Row| {
        Ok(Ended {
            id: row.uuid(0)?,
            version: row.int(1)?,
            status: row.int(2)?,
            ended_at: row.optional_int(3)?.unwrap_or(i64::MAX),
            key: row.optional_string(4)?,
            parent_goes_on: row.int(5)? != 0,
        })
    };
    database.read(&statement).await?.iter().map(ended).collect()
}

/// A claim of a saga that goes: its kind, its token and the saga, whose status stays where the claim does.
struct Held {
    kind: i64,
    token: String,
    saga: Uuid,
    status: i64,
}

/// The claims of these sagas, in the order in which every transaction takes them.
async fn claims(database: &Database, definition: &str, doomed: &[Ended]) -> Result<Vec<Held>, StoreError> {
    let mut statement = Statement::new(database.dialect());
    let all = statement.rows(Rows::new("r").uuids("id", doomed.iter().map(|saga| saga.id)));
    let keyed = || doomed.iter().filter_map(|saga| saga.key.as_deref().map(|key| (saga.id, key)));
    let kind = codes::claim_kind(ClaimKind::Key);
    let keys = Rows::new("k")
        .uuids("id", keyed().map(|(id, _)| id))
        .texts("definition", keyed().map(|_| Cow::Borrowed(definition)))
        .ints("kind", keyed().map(|_| kind))
        .texts("token", keyed().map(|(_, key)| Cow::Borrowed(key)));
    let keys = statement.rows(keys);
    // The whole key of an index comes from the rows, here and below: else SQLite begins with all claims of the definition.
    statement.push(&format!(
        "SELECT claims.saga_id, claims.kind, claims.token FROM {all} \
         JOIN claims ON claims.saga_id = r.id AND claims.kind <> 1 UNION ALL \
         SELECT claims.saga_id, claims.kind, claims.token FROM {keys} \
         JOIN claims ON claims.definition = k.definition AND claims.kind = k.kind AND claims.token = k.token \
         WHERE claims.saga_id = k.id"
    ));
    let status: BTreeMap<Uuid, i64> = doomed.iter().map(|saga| (saga.id, saga.status)).collect();
    let held = |row: &Row| {
        let saga = row.uuid(0)?;
        let status = status.get(&saga).copied().unwrap_or_default();
        Ok(Held { kind: row.int(1)?, token: row.string(2)?, saga, status })
    };
    let mut held: Vec<Held> = database.read(&statement).await?.iter().map(held).collect::<Result<_, _>>()?;
    held.sort_unstable_by(|one, other| (one.kind, &one.token).cmp(&(other.kind, &other.token)));
    Ok(held)
}

/// Deletes sagas, all of them or none; returned are those that could be.
async fn delete(
    database: &Database,
    definition: &str,
    doomed: &[Ended],
    claims: &[Held],
) -> Result<HashSet<Uuid>, StoreError> {
    let mut session = database.writer().await?;
    let dialect = session.dialect();
    let mut run = Vec::new();
    let mut begin = Statement::new(dialect);
    begin.push(match dialect {
        Dialect::Sqlite => "BEGIN IMMEDIATE",
        Dialect::Postgres => "BEGIN",
    });
    run.push(begin);
    let start = codes::claim_kind(ClaimKind::Start);
    let part = |kept: bool| {
        let part = || claims.iter().filter(move |claim| (claim.kind == start) == kept);
        Rows::new("c")
            .texts("definition", part().map(|_| Cow::Borrowed(definition)))
            .ints("kind", part().map(|claim| claim.kind))
            .texts("token", part().map(|claim| Cow::Borrowed(&*claim.token)))
            .uuids("saga_id", part().map(|claim| claim.saga))
            .ints("status", part().map(|claim| claim.status))
    };
    if claims.iter().any(|claim| claim.kind != start) {
        let mut statement = Statement::new(dialect);
        let gone = statement.rows(part(false));
        statement.push(&format!(
            "DELETE FROM claims WHERE (definition, kind, token, saga_id) IN (\
             SELECT definition, kind, token, saga_id FROM {gone})"
        ));
        run.push(statement);
    }
    if claims.iter().any(|claim| claim.kind == start) {
        let mut statement = Statement::new(dialect);
        let kept = statement.rows(part(true));
        statement.push(&format!(
            "UPDATE claims SET status = c.status FROM {kept} WHERE claims.definition = c.definition \
             AND claims.kind = c.kind AND claims.token = c.token AND claims.saga_id = c.saga_id"
        ));
        run.push(statement);
    }
    let mut sagas = Statement::new(dialect);
    let rows_of_sagas = Rows::new("s")
        .uuids("id", doomed.iter().map(|saga| saga.id))
        .ints("version", doomed.iter().map(|saga| saga.version));
    let listed = sagas.rows(rows_of_sagas);
    sagas.push(&format!("DELETE FROM sagas WHERE (id, version) IN (SELECT id, version FROM {listed}) RETURNING id"));
    for statement in &run {
        (session, _) = session.run(statement).await?;
    }
    let rows;
    (session, rows) = session.run(&sagas).await?;
    let deleted: HashSet<Uuid> = rows.iter().map(|row| row.uuid(0)).collect::<Result<_, _>>()?;

    run.clear();
    if deleted.len() == doomed.len() {
        for table in ["journal", "items"] {
            let mut statement = Statement::new(dialect);
            let listed = statement.rows(Rows::new("s").uuids("id", doomed.iter().map(|saga| saga.id)));
            statement.push(&format!("DELETE FROM {table} WHERE saga_id IN (SELECT id FROM {listed})"));
            run.push(statement);
        }
        run.push(uncount(dialect, definition, doomed));
    }
    let mut end = Statement::new(dialect);
    end.push(if deleted.len() == doomed.len() { "COMMIT" } else { "ROLLBACK" });
    run.push(end);
    for statement in &run {
        (session, _) = session.run(statement).await?;
    }
    session.hand_back();
    Ok(deleted)
}

/// Takes sagas out of the counts.
fn uncount<'a>(dialect: Dialect, definition: &'a str, doomed: &[Ended]) -> Statement<'a> {
    let mut counts: BTreeMap<i64, i64> = BTreeMap::new();
    for saga in doomed {
        *counts.entry(saga.status).or_default() -= 1;
    }
    let mut statement = Statement::new(dialect);
    let definition = statement.string(definition);
    let rows = Rows::new("n").ints("status", counts.keys().copied()).ints("sagas", counts.values().copied());
    let (slot, rows) = (dialect.counter_slot(), statement.rows(rows));
    statement.push(&format!(
        "INSERT INTO counters (definition, status, slot, sagas) SELECT {definition}, status, {slot}, sagas FROM {rows} \
         WHERE true ON CONFLICT (definition, status, slot) DO UPDATE SET sagas = counters.sagas + excluded.sagas"
    ));
    statement
}
