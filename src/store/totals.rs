//! What is checked over a whole store at once: counters, and what leads to sagas that are not there.
//!
//! Both questions go through all there is, so they may take minutes where others have seconds. Each is of one moment, and keeps nobody
//! from writing.

use std::borrow::Cow;
use std::time::Duration;

use super::audit::{Miscount, Stray, StrayRow, Totals};
use super::dialect::Dialect;
use super::page::status;
use super::session::Database;
use super::statement::{Row, Rows, Statement};
use super::{Claim, ClaimKind, StoreError, codes};
use crate::core::id::SagaId;

/// How long one of them may take.
const PATIENCE: Duration = Duration::from_secs(3600);

/// See [`super::audit::Audit::totals`].
pub(super) async fn totals(database: &Database, limit: usize) -> Result<Totals, StoreError> {
    let mut session = database.snapshot().await?;
    if database.dialect() == Dialect::Postgres {
        session = session.tell(&format!("SET LOCAL statement_timeout = '{}s'", PATIENCE.as_secs())).await?;
    }
    let (session, counted) = session.run_within(PATIENCE, &miscounts(database.dialect())).await?;
    let (session, stray) = session.run_within(PATIENCE, &strays(database.dialect(), limit)).await?;
    session.end("COMMIT").await?;
    let miscount = |row: &Row| {
        let (definition, status) = (row.string(0)?, status(row.int(1)?));
        Ok(Miscount { definition, status, counted: row.int(2)?, sagas: row.int(3)? })
    };
    let miscounts = counted.iter().map(miscount).collect::<Result<_, StoreError>>()?;
    let strays = stray.iter().map(read_stray).collect::<Result<_, StoreError>>()?;
    Ok(Totals { strays, miscounts })
}

fn miscounts(dialect: Dialect) -> Statement<'static> {
    let mut statement = Statement::new(dialect);
    statement.push(
        "SELECT definition, CAST(status AS bigint), CAST(sum(counted) AS bigint), CAST(sum(found) AS bigint) FROM (\
         SELECT definition, status, 0 AS counted, count(*) AS found FROM sagas GROUP BY definition, status UNION ALL \
         SELECT definition, status, sum(sagas), 0 FROM counters GROUP BY definition, status) AS sums \
         GROUP BY definition, status HAVING sum(counted) <> sum(found) ORDER BY definition, status",
    );
    statement
}

/// Business keys and messages of sagas that are not there.
fn strays(dialect: Dialect, limit: usize) -> Statement<'static> {
    let mut statement = Statement::new(dialect);
    let limit = statement.limit(limit);
    let gone = |of: &str| format!("NOT EXISTS (SELECT 1 FROM sagas WHERE sagas.id = {of}.saga_id)");
    let lost = |of: &str| {
        format!(
            "CAST(CASE WHEN EXISTS (SELECT 1 FROM journal WHERE journal.saga_id = {of}.saga_id) THEN 1 ELSE 0 END AS bigint)"
        )
    };
    let key = codes::claim_kind(ClaimKind::Key);
    statement.push(&format!(
        "SELECT * FROM (SELECT saga_id, {} AS lost, id AS row_id, CAST(NULL AS text) AS definition, \
         CAST(NULL AS text) AS token FROM outbox WHERE {} LIMIT {limit}) AS messages UNION ALL SELECT * FROM (\
         SELECT saga_id, {}, CAST(NULL AS uuid), definition, token FROM claims WHERE kind = {key} AND {} LIMIT {limit}) AS keys",
        lost("outbox"),
        gone("outbox"),
        lost("claims"),
        gone("claims")
    ));
    statement
}

fn read_stray(row: &Row) -> Result<Stray, StoreError> {
    let what = match row.optional_uuid(2)? {
        Some(message) => StrayRow::Outbox(message),
        None => {
            let (definition, token) = (row.string(3)?.into(), row.string(4)?);
            StrayRow::Claim(Claim { definition, kind: ClaimKind::Key, token })
        }
    };
    Ok(Stray { saga: SagaId(row.uuid(0)?), lost: row.int(1)? != 0, what })
}

/// See [`super::audit::Audit::recount`].
pub(super) async fn recount(database: &Database, short: &[Miscount]) -> Result<(), StoreError> {
    let mut statement = Statement::new(database.dialect());
    let slot = statement.dialect.counter_slot();
    let rows = Rows::new("n")
        .texts("definition", short.iter().map(|short| Cow::Borrowed(&*short.definition)))
        .ints("status", short.iter().map(|short| short.status.map_or_else(|code| code, codes::status)))
        .ints("sagas", short.iter().map(|short| short.sagas - short.counted));
    let rows = statement.rows(rows);
    statement.push(&format!(
        "INSERT INTO counters (definition, status, slot, sagas) SELECT definition, status, {slot}, sagas FROM {rows} \
         WHERE true ORDER BY definition, status \
         ON CONFLICT (definition, status, slot) DO UPDATE SET sagas = counters.sagas + excluded.sagas"
    ));
    database.write(&statement).await.map(drop)
}
