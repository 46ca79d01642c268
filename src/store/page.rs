//! Pages of whole sagas: everything that is stored of them, as of one moment, in ranges of their ids.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::audit::{Columns, KeyHolder, Page, Stray, StrayRow, WholeSaga};
use super::session::{Database, Session};
use super::statement::{Row, Rows, Statement};
use super::{Claim, ClaimKind, JournalRow, StoreError, StoredItems, codes, sql};
use crate::core::id::SagaId;
use crate::core::saga::Status;
use crate::core::time::Time;

/// Bytes of a page, more or less: what a saga has beyond that is a page of its own.
const BYTES: u64 = 8 << 20;

/// Sagas that are not there, with something of theirs left, in one page.
const STRAYS: usize = 1000;

/// The ids of a page: above the first, up to the second.
#[derive(Clone, Copy)]
struct Range {
    above: Uuid,
    upto: Uuid,
}

/// Sagas: see [`super::audit::Audit::page`].
pub(super) async fn page(database: &Database, after: Option<SagaId>, limit: usize) -> Result<Page, StoreError> {
    let above = after.map_or(Uuid::nil(), |id| id.0);
    let session = database.snapshot().await?;
    let (session, last) = end_of_page(session, above, limit).await?;
    let mut range = Range { above, upto: last.unwrap_or(Uuid::max()) };
    let mut page = Page { next: last.map(SagaId), ..Page::default() };
    let (session, mut strays) = strays(session, range).await?;
    if strays.len() >= STRAYS
        && let Some(stray) = strays.last()
    {
        // What is left of the last one may be cut off: it is for the next page.
        range.upto = stray.saga.0;
        let whole = strays.iter().filter(|stray| stray.saga.0 < range.upto).count();
        if whole > 0 {
            strays.truncate(whole);
            range.upto = strays.last().map_or(range.upto, |stray| stray.saga.0);
        }
        page.next = Some(SagaId(range.upto));
    }
    page.strays = strays;

    let mut found: BTreeMap<SagaId, WholeSaga> = BTreeMap::new();
    let mut wrong: BTreeMap<SagaId, String> = BTreeMap::new();
    // A row that can't be read is said of its saga, and stops nothing else.
    let mut take = |id: SagaId, read: Result<(), StoreError>| {
        if let Err(error) = read {
            wrong.entry(id).or_insert_with(|| error.to_string());
        }
    };
    let (session, rows) = sagas(session, range).await?;
    for row in &rows {
        let id = SagaId(row.uuid(0)?);
        take(id, whole(row).map(|saga| drop(found.insert(id, saga))));
    }
    let (session, rows) = journal(session, range).await?;
    for row in &rows {
        let id = SagaId(row.uuid(0)?);
        let Some(saga) = found.get_mut(&id) else { continue };
        take(id, journal_row(row).map(|row| saga.journal.push(row)));
    }
    let (session, rows) = items(session, range).await?;
    for row in &rows {
        let id = SagaId(row.uuid(0)?);
        let Some(saga) = found.get_mut(&id) else { continue };
        take(id, chunk(row).map(|chunk| saga.stored.items.push(chunk)));
    }
    let (session, rows) = claims(session, range).await?;
    for row in &rows {
        let id = SagaId(row.uuid(0)?);
        let Some(saga) = found.get_mut(&id) else { continue };
        take(id, claim(row).map(|claim| saga.claims.push(claim)));
    }
    let (session, rows) = keys(session, &found).await?;
    for row in &rows {
        let id = SagaId(row.uuid(0)?);
        let Some(saga) = found.get_mut(&id) else { continue };
        take(id, key_holder(row).map(|holder| saga.key_holder = Some(holder)));
    }
    session.end("COMMIT").await?;

    found.retain(|id, _| !wrong.contains_key(id));
    page.sagas = found.into_values().collect();
    page.unreadable = wrong;
    Ok(page)
}

impl Range {
    /// The condition on a column.
    fn of(self, statement: &mut Statement<'_>, column: &str) -> String {
        let (above, upto) = (statement.uuid(self.above), statement.uuid(self.upto));
        format!("{column} > {above} AND {column} <= {upto}")
    }
}

/// The last saga of the page; `None` if that is the last one there is.
async fn end_of_page(session: Session, above: Uuid, limit: usize) -> Result<(Session, Option<Uuid>), StoreError> {
    let mut statement = Statement::new(session.dialect());
    let (above, rows) = (statement.uuid(above), statement.limit(limit));
    statement.push(&format!(
        "SELECT sagas.id, CAST(length(sagas.state) + length(sagas.input) + \
         coalesce((SELECT sum(length(entries)) FROM journal WHERE journal.saga_id = sagas.id), 0) + \
         CASE WHEN sagas.itemized = 0 THEN 0 ELSE \
         coalesce((SELECT sum(length(items.state)) FROM items WHERE items.saga_id = sagas.id), 0) END AS bigint) \
         FROM sagas WHERE sagas.id > {above} ORDER BY sagas.id LIMIT {rows}"
    ));
    let (session, rows) = session.run(&statement).await?;
    let mut bytes: u64 = 0;
    let mut last = None;
    for (nth, row) in rows.iter().enumerate() {
        bytes += row.count::<u64>(1)?;
        if nth > 0 && bytes > BYTES {
            return Ok((session, last));
        }
        last = Some(row.uuid(0)?);
    }
    Ok((session, last.filter(|_| rows.len() >= limit)))
}

/// What is there of sagas that are not, by saga.
async fn strays(session: Session, range: Range) -> Result<(Session, Vec<Stray>), StoreError> {
    let mut statement = Statement::new(session.dialect());
    let (journal, items, claims) = (
        range.of(&mut statement, "journal.saga_id"),
        range.of(&mut statement, "items.saga_id"),
        range.of(&mut statement, "claims.saga_id"),
    );
    let limit = statement.limit(STRAYS);
    let gone = |of: &str| format!("NOT EXISTS (SELECT 1 FROM sagas WHERE sagas.id = {of}.saga_id)");
    let counted = |table: &str, range: &str| {
        format!(
            "SELECT saga_id, CAST(NULL AS bigint) AS kind, count(*) AS found, CAST(NULL AS text) AS definition, \
             CAST(NULL AS text) AS token, '{table}' AS place FROM {table} WHERE {range} AND {} \
             GROUP BY saga_id ORDER BY saga_id LIMIT {limit}",
            gone(table)
        )
    };
    // The claim of a start outlives its saga, and says how that ended.
    let start = codes::claim_kind(ClaimKind::Start);
    statement.push(&format!(
        "SELECT * FROM (SELECT * FROM ({}) AS journals UNION ALL SELECT * FROM ({}) AS chunks UNION ALL SELECT * FROM (\
         SELECT saga_id, CAST(kind AS bigint), CAST(0 AS bigint), definition, token, 'claims' FROM claims \
         WHERE {claims} AND kind <> 1 AND (kind <> {start} OR status IS NULL) AND {} ORDER BY saga_id LIMIT {limit}\
         ) AS held) AS every ORDER BY saga_id LIMIT {limit}",
        counted("journal", &journal),
        counted("items", &items),
        gone("claims")
    ));
    let (session, rows) = session.run(&statement).await?;
    let mut strays = Vec::with_capacity(rows.len());
    for row in &rows {
        let what = match row.optional_int(1)? {
            Some(_) => {
                StrayRow::Claim(Claim { definition: row.string(3)?.into(), kind: kind(row, 1)?, token: row.string(4)? })
            }
            None if row.string(5)? == "journal" => StrayRow::Journal { rows: row.count(2)? },
            None => StrayRow::Items { rows: row.count(2)? },
        };
        strays.push(Stray { saga: SagaId(row.uuid(0)?), lost: false, what });
    }
    let journals = strays.iter().filter(|stray| matches!(stray.what, StrayRow::Journal { .. }));
    let lost: BTreeSet<SagaId> = journals.map(|stray| stray.saga).collect();
    for stray in &mut strays {
        stray.lost = lost.contains(&stray.saga);
    }
    Ok((session, strays))
}

async fn sagas(session: Session, range: Range) -> Result<(Session, Vec<Row>), StoreError> {
    let mut statement = Statement::new(session.dialect());
    let range = range.of(&mut statement, "sagas.id");
    statement.push(&format!(
        "SELECT {}, status, previous_status, priority, held, itemized, due, due_slot, created_at, started_at, updated_at, \
         ended_at, parent, key, lock_key FROM sagas WHERE {range} ORDER BY id",
        sql::SAGA
    ));
    session.run(&statement).await
}

fn whole(row: &Row) -> Result<WholeSaga, StoreError> {
    let time = |column| row.int(column).map(Time);
    let optional_time = |column| Ok::<_, StoreError>(row.optional_int(column)?.map(Time));
    let columns = Columns {
        status: status(row.int(6)?),
        previous_status: row.optional_int(7)?.map(status),
        priority: row.int(8)?,
        held: row.optional_int(9)?,
        itemized: row.int(10)? != 0,
        due: optional_time(11)?,
        due_slot: row.optional_int(12)?,
        created_at: time(13)?,
        started_at: optional_time(14)?,
        updated_at: time(15)?,
        ended_at: optional_time(16)?,
        parent: row.optional_uuid(17)?.map(SagaId),
        key: row.optional_string(18)?,
        lock_key: row.optional_string(19)?,
    };
    Ok(WholeSaga { stored: sql::saga(row)?, columns, journal: Vec::new(), claims: Vec::new(), key_holder: None })
}

async fn journal(session: Session, range: Range) -> Result<(Session, Vec<Row>), StoreError> {
    let mut statement = Statement::new(session.dialect());
    let range = range.of(&mut statement, "sagas.id");
    statement.push(&format!(
        "SELECT journal.saga_id, journal.first_seq, journal.version, journal.at, journal.entries \
         FROM sagas JOIN journal ON journal.saga_id = sagas.id WHERE {range} ORDER BY sagas.id, journal.version"
    ));
    session.run(&statement).await
}

fn journal_row(row: &Row) -> Result<JournalRow, StoreError> {
    let (first_seq, version) = (row.count(1)?, row.count(2)?);
    Ok(JournalRow { first_seq, version, at: Time(row.int(3)?), entries: row.bytes(4)? })
}

async fn items(session: Session, range: Range) -> Result<(Session, Vec<Row>), StoreError> {
    let mut statement = Statement::new(session.dialect());
    let (chunks, sagas) = (range.of(&mut statement, "items.saga_id"), "sagas.id = items.saga_id");
    statement.push(&format!(
        "SELECT items.saga_id, items.version, items.step, items.chunk, items.state \
         FROM items JOIN sagas ON {sagas} WHERE {chunks} ORDER BY items.saga_id, items.step, items.chunk"
    ));
    session.run(&statement).await
}

fn chunk(row: &Row) -> Result<StoredItems, StoreError> {
    Ok(StoredItems { version: row.count(1)?, step: row.count(2)?, chunk: row.count(3)?, state: row.bytes(4)? })
}

async fn claims(session: Session, range: Range) -> Result<(Session, Vec<Row>), StoreError> {
    let mut statement = Statement::new(session.dialect());
    let range = range.of(&mut statement, "saga_id");
    let (lock, slot) = (codes::claim_kind(ClaimKind::Lock), codes::claim_kind(ClaimKind::Slot));
    statement.push(&format!(
        "SELECT saga_id, definition, CAST(kind AS bigint), token FROM claims \
         WHERE {range} AND kind <> 1 AND kind IN ({lock}, {slot}) ORDER BY saga_id"
    ));
    session.run(&statement).await
}

fn claim(row: &Row) -> Result<Claim, StoreError> {
    Ok(Claim { definition: row.string(1)?.into(), kind: kind(row, 2)?, token: row.string(3)? })
}

/// Who holds the keys that the sagas have.
async fn keys(session: Session, found: &BTreeMap<SagaId, WholeSaga>) -> Result<(Session, Vec<Row>), StoreError> {
    let mut statement = Statement::new(session.dialect());
    let keyed = || found.values().filter_map(|saga| Some((&saga.stored, saga.columns.key.as_deref()?)));
    let kind = codes::claim_kind(ClaimKind::Key);
    // The whole key of the index comes from the rows: else Postgres begins with all claims of the definition. As they are stored, so a
    // long one is cut already.
    let rows = Rows::new("k")
        .uuids("id", keyed().map(|(saga, _)| saga.id.0))
        .texts("definition", keyed().map(|(saga, _)| Cow::Borrowed(&*saga.definition)))
        .ints("kind", keyed().map(|_| kind))
        .texts("token", keyed().map(|(_, key)| Cow::Borrowed(key)));
    let rows = statement.rows(rows);
    statement.push(&format!(
        "SELECT k.id, claims.saga_id, holders.key, holders.created_at FROM {rows} \
         JOIN claims ON claims.definition = k.definition AND claims.kind = k.kind AND claims.token = k.token \
         LEFT JOIN sagas AS holders ON holders.id = claims.saga_id"
    ));
    session.run(&statement).await
}

fn key_holder(row: &Row) -> Result<KeyHolder, StoreError> {
    let key = row.optional_string(2)?;
    Ok(KeyHolder { saga: SagaId(row.uuid(1)?), row: row.optional_int(3)?.map(|at| (key, Time(at))) })
}

fn kind(row: &Row, column: usize) -> Result<ClaimKind, StoreError> {
    let code = row.int(column)?;
    codes::claim_kind_of(code).ok_or_else(|| row.corrupt(column, format!("no such kind: {code}")))
}

/// The status, or the code that stands for none.
pub(super) fn status(code: i64) -> Result<Status, i64> {
    codes::status_of(code).ok_or(code)
}
