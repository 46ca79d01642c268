//! The store on SQLite and Postgres.

use std::fs::File;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tracing::error;
use uuid::Uuid;

use super::claims;
use super::session::Database;
use super::statement::{Row, Rows, Statement};
use super::{
    Batch, Claim, ClaimKind, Committed, DeadLetter, Filter, Freed, Holder, JournalRow, OutboxRow, Purged, Source,
    Store, StoreError, StoredSaga, codes, commit, held, items, listing, purge,
};
use crate::broker::message::{Incoming, Outgoing, Properties};
use crate::clock::{Clock, SystemClock};
use crate::core::id::SagaId;
use crate::core::saga::Status;
use crate::core::time::Time;

/// Sagas in a database; clone it freely. See [`SqlStore::connect`].
#[derive(Clone)]
pub struct SqlStore(pub(super) Arc<Inner>);

/// What the clones share.
pub(super) struct Inner {
    pub(super) database: Database,
    /// Held, on SQLite, so that a second daemon keeps off. The system lets go of it whichever way this process ends.
    pub(super) _lock: Option<File>,
}

impl SqlStore {
    /// Closes the connections. What is under way is finished first.
    pub async fn close(&self) {
        self.0.database.close().await;
    }

    fn statement<'a>(&self) -> Statement<'a> {
        Statement::new(self.0.database.dialect())
    }

    async fn read(&self, statement: &Statement<'_>) -> Result<Vec<Row>, StoreError> {
        self.0.database.read(statement).await
    }

    async fn write(&self, statement: &Statement<'_>) -> Result<Vec<Row>, StoreError> {
        self.0.database.write(statement).await
    }
}

impl std::fmt::Debug for SqlStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SqlStore").field(&self.0.database.dialect()).finish()
    }
}

impl Store for SqlStore {
    async fn load(&self, ids: &[SagaId]) -> Result<Vec<StoredSaga>, StoreError> {
        items::load(&self.0.database, ids).await
    }

    async fn holders(&self, claims: &[Claim]) -> Result<Vec<Holder>, StoreError> {
        if claims.is_empty() {
            return Ok(Vec::new());
        }
        let mut statement = self.statement();
        let places = (0..claims.len()).map(|place| codes::number(place as u64));
        let rows = claims::columns(Rows::new("r").ints("place", places), || claims.iter());
        let rows = statement.rows(rows);
        statement.push(&format!(
            "SELECT claims.saga_id, coalesce(sagas.status, claims.status), r.place FROM {rows} \
             JOIN claims ON claims.definition = r.definition AND claims.kind = r.kind AND claims.token = r.token \
             LEFT JOIN sagas ON sagas.id = claims.saga_id"
        ));
        let holder = |row: &Row| {
            let place: usize = row.count(2)?;
            let claim = claims.get(place).cloned().ok_or_else(|| row.corrupt(2, "no such claim"))?;
            Ok(Holder { claim, saga: SagaId(row.uuid(0)?), status: status(row, 1)? })
        };
        self.read(&statement).await?.iter().map(holder).collect()
    }

    async fn slots(&self, definition: &str) -> Result<Vec<String>, StoreError> {
        let mut statement = self.statement();
        let (definition, slot) = (statement.string(definition), codes::claim_kind(ClaimKind::Slot));
        statement.push(&format!("SELECT token FROM claims WHERE definition = {definition} AND kind = {slot}"));
        self.read(&statement).await?.iter().map(|row| row.string(0)).collect()
    }

    async fn commit(&self, batch: &Batch) -> Result<Committed, StoreError> {
        commit::commit(&self.0.database, batch).await
    }

    async fn take_due(&self, now: Time, lease: Time, limit: usize) -> Result<Vec<SagaId>, StoreError> {
        let mut statement = self.statement();
        let (now, lease, limit) = (statement.int(now.0), statement.int(lease.0), statement.limit(limit));
        let skip_locked = statement.dialect.skip_locked();
        statement.push(&format!(
            "WITH ready AS MATERIALIZED (\
             SELECT id FROM sagas WHERE due_slot <= {now} >> 10 AND due <= {now} \
             ORDER BY due_slot LIMIT {limit} {skip_locked}) \
             UPDATE sagas SET due = {lease}, due_slot = {lease} >> 10 FROM ready WHERE sagas.id = ready.id \
             RETURNING sagas.id"
        ));
        self.write(&statement).await?.iter().map(|row| row.uuid(0).map(SagaId)).collect()
    }

    async fn next_due(&self) -> Result<Option<Time>, StoreError> {
        let mut statement = self.statement();
        statement.push(
            "SELECT min(due) FROM sagas WHERE due_slot = (SELECT min(due_slot) FROM sagas WHERE due_slot IS NOT NULL)",
        );
        let rows = self.read(&statement).await?;
        Ok(rows.first().map(|row| row.optional_int(0)).transpose()?.flatten().map(Time))
    }

    async fn take_outbox(&self, now: Time, lease: Time, limit: usize) -> Result<Vec<OutboxRow>, StoreError> {
        let mut statement = self.statement();
        let (now, lease, limit) = (statement.int(now.0), statement.int(lease.0), statement.limit(limit));
        let skip_locked = statement.dialect.skip_locked();
        statement.push(&format!(
            "WITH ready AS MATERIALIZED (\
             SELECT id FROM outbox WHERE leased_until < {now} ORDER BY leased_until, id LIMIT {limit} {skip_locked}) \
             UPDATE outbox SET leased_until = {lease}, handed = handed + 1 FROM ready WHERE outbox.id = ready.id \
             RETURNING outbox.id, saga_id, leased_until, handed, exchange, routing_key, mandatory, properties, body"
        ));
        let rows = self.write(&statement).await?;
        // A row that can't be read must not keep the others from being sent. It stays, and is told of at each sweep.
        let readable = |row: &Row| match outbox_row(row) {
            Ok(row) => Some(row),
            Err(error) => {
                error!(%error, "can't read a row of the outbox; its message is not sent");
                None
            }
        };
        let mut taken: Vec<OutboxRow> = rows.iter().filter_map(readable).collect();
        taken.sort_unstable_by_key(|row| row.id);
        Ok(taken)
    }

    async fn keep_outbox(&self, rows: &[(Uuid, u32)], lease: Time) -> Result<Vec<Uuid>, StoreError> {
        let mut rows = rows.to_vec();
        // In one order, as everybody who locks rows of it.
        rows.sort_unstable();
        let mut statement = self.statement();
        let lease = statement.int(lease.0);
        let held = statement.rows(
            Rows::new("h")
                .uuids("id", rows.iter().map(|(id, _)| *id))
                .ints("handed", rows.iter().map(|(_, handed)| i64::from(*handed))),
        );
        statement.push(&format!(
            "UPDATE outbox SET leased_until = {lease} FROM {held} \
             WHERE outbox.id = h.id AND outbox.handed = h.handed RETURNING outbox.id"
        ));
        self.write(&statement).await?.iter().map(|row| row.uuid(0)).collect()
    }

    async fn release_outbox(&self) -> Result<(), StoreError> {
        let mut statement = self.statement();
        statement.push("UPDATE outbox SET leased_until = 0 WHERE leased_until > 0");
        self.write(&statement).await.map(drop)
    }

    async fn held(&self, definition: &str, freed: Freed<'_>, limit: usize) -> Result<Vec<SagaId>, StoreError> {
        held::held(&self.0.database, definition, freed, limit).await
    }

    async fn held_definitions(&self) -> Result<Vec<String>, StoreError> {
        held::definitions(&self.0.database).await
    }

    async fn purge(
        &self,
        definition: &str,
        ended_before: Time,
        after: Option<SagaId>,
        limit: usize,
    ) -> Result<Purged, StoreError> {
        purge::purge(&self.0.database, definition, ended_before, after, limit).await
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<StoredSaga>, StoreError> {
        let statement = listing::statement(self.0.database.dialect(), filter);
        self.read(&statement).await?.iter().map(saga).collect()
    }

    async fn counts(&self) -> Result<Vec<(String, Status, u64)>, StoreError> {
        let mut statement = self.statement();
        statement.push(
            "SELECT definition, status, CAST(sum(sagas) AS bigint) FROM counters \
             GROUP BY definition, status HAVING sum(sagas) > 0 ORDER BY definition, status",
        );
        let count = |row: &Row| Ok((row.string(0)?, status(row, 1)?, row.count(2)?));
        self.read(&statement).await?.iter().map(count).collect()
    }

    async fn journal(&self, saga: SagaId, from: u64) -> Result<Vec<JournalRow>, StoreError> {
        let mut statement = self.statement();
        let (saga, from) = (statement.uuid(saga.0), statement.int(codes::number(from)));
        // Also the row that entry `from` is in the middle of.
        statement.push(&format!(
            "SELECT first_seq, version, at, entries FROM journal WHERE saga_id = {saga} AND first_seq >= coalesce(\
             (SELECT max(first_seq) FROM journal WHERE saga_id = {saga} AND first_seq <= {from}), 0) ORDER BY version"
        ));
        let journal_row = |row: &Row| {
            let (first_seq, version) = (row.count(0)?, row.count(1)?);
            Ok(JournalRow { first_seq, version, at: Time(row.int(2)?), entries: row.bytes(3)? })
        };
        self.read(&statement).await?.iter().map(journal_row).collect()
    }

    async fn keep_revision(&self, name: &str, source: &Source) -> Result<u32, StoreError> {
        let digest = digest(source);
        let now = SystemClock.now();
        loop {
            let mut statement = self.statement();
            let (key, same) = (statement.string(name), statement.bytes(&digest));
            statement.push(&format!("SELECT revision FROM definitions WHERE name = {key} AND digest = {same}"));
            if let Some(row) = self.read(&statement).await?.first() {
                return row.count(0);
            }
            statement = self.statement();
            let (key, same, now) = (statement.string(name), statement.bytes(&digest), statement.int(now.0));
            let (toml, schema) = (statement.string(&source.toml), statement.optional_string(source.schema.as_deref()));
            statement.push(&format!(
                "INSERT INTO definitions (name, revision, digest, source, schema, created_at) \
                 SELECT CAST({key} AS text), coalesce(max(revision), 0) + 1, {same}, {toml}, {schema}, {now} \
                 FROM definitions WHERE name = {key} ON CONFLICT DO NOTHING RETURNING revision"
            ));
            if let Some(row) = self.write(&statement).await?.first() {
                return row.count(0);
            }
            // Another daemon has just kept this text, or another text as the same revision: look again.
        }
    }

    async fn revision(&self, name: &str, revision: u32) -> Result<Option<Source>, StoreError> {
        let mut statement = self.statement();
        let (name, revision) = (statement.string(name), statement.int(revision.into()));
        statement
            .push(&format!("SELECT source, schema FROM definitions WHERE name = {name} AND revision = {revision}"));
        let source = |row: &Row| Ok(Source { toml: row.string(0)?, schema: row.optional_string(1)? });
        self.read(&statement).await?.first().map(source).transpose()
    }

    async fn revisions(&self, name: &str) -> Result<Vec<(u32, Time)>, StoreError> {
        let mut statement = self.statement();
        let name = statement.string(name);
        statement.push(&format!("SELECT revision, created_at FROM definitions WHERE name = {name} ORDER BY revision"));
        self.read(&statement).await?.iter().map(|row| Ok((row.count(0)?, Time(row.int(1)?)))).collect()
    }

    async fn revisions_in_use(&self) -> Result<Vec<(String, u32)>, StoreError> {
        let mut statement = self.statement();
        let live = Status::ALL.into_iter().filter(|status| !status.is_terminal());
        let live: Vec<String> = live.map(|status| codes::status(status).to_string()).collect();
        let live = live.join(", ");
        statement
            .push(&format!("SELECT DISTINCT definition, revision FROM sagas WHERE status IN ({live}) ORDER BY 1, 2"));
        self.read(&statement).await?.iter().map(|row| Ok((row.string(0)?, row.count(1)?))).collect()
    }

    async fn all_revisions(&self) -> Result<Vec<(String, u32)>, StoreError> {
        let mut statement = self.statement();
        statement.push("SELECT name, revision FROM definitions ORDER BY name, revision");
        self.read(&statement).await?.iter().map(|row| Ok((row.string(0)?, row.count(1)?))).collect()
    }

    async fn dead_letters(&self, before: Option<Uuid>, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        let mut statement = self.statement();
        let (before, limit) = (statement.uuid(before.unwrap_or(Uuid::max())), statement.limit(limit));
        statement.push(&format!(
            "SELECT {DEAD_LETTER} FROM dead_letters WHERE id < {before} ORDER BY id DESC LIMIT {limit}"
        ));
        self.read(&statement).await?.iter().map(dead_letter).collect()
    }

    async fn dead_letter(&self, id: Uuid) -> Result<Option<DeadLetter>, StoreError> {
        let mut statement = self.statement();
        let id = statement.uuid(id);
        statement.push(&format!("SELECT {DEAD_LETTER} FROM dead_letters WHERE id = {id}"));
        self.read(&statement).await?.first().map(dead_letter).transpose()
    }

    async fn delete_dead_letter(&self, id: Uuid) -> Result<bool, StoreError> {
        let mut statement = self.statement();
        let id = statement.uuid(id);
        statement.push(&format!("DELETE FROM dead_letters WHERE id = {id} RETURNING id"));
        Ok(!self.write(&statement).await?.is_empty())
    }

    async fn secret(&self) -> Result<[u8; 32], StoreError> {
        let mut fresh = [0; 32];
        getrandom::fill(&mut fresh)
            .map_err(|error| StoreError::Refused(format!("the system has no randomness for a secret: {error}")))?;
        let mut statement = self.statement();
        let value = statement.bytes(&fresh);
        statement.push(&format!(
            "INSERT INTO secrets (name, value) VALUES ('correlation', {value}) ON CONFLICT (name) DO NOTHING"
        ));
        self.write(&statement).await?;
        statement = self.statement();
        statement.push("SELECT value FROM secrets WHERE name = 'correlation'");
        let rows = self.read(&statement).await?;
        let kept = rows.first().map(|row| row.bytes(0)).transpose()?.unwrap_or_default();
        <[u8; 32]>::try_from(&*kept).map_err(|_| {
            StoreError::Corrupt(format!("table `secrets`, row `correlation`: {} bytes instead of 32", kept.len()))
        })
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let mut statement = self.statement();
        statement.push("SELECT 1");
        self.read(&statement).await.map(drop)
    }
}

/// The columns that [`saga`] reads.
pub(super) const SAGA: &str = "sagas.id, sagas.version, sagas.definition, sagas.revision, sagas.state, sagas.input";

pub(super) fn saga(row: &Row) -> Result<StoredSaga, StoreError> {
    Ok(StoredSaga {
        id: SagaId(row.uuid(0)?),
        version: row.count(1)?,
        definition: row.string(2)?,
        revision: row.count(3)?,
        state: row.bytes(4)?,
        input: row.bytes(5)?,
        items: Vec::new(),
    })
}

fn outbox_row(row: &Row) -> Result<OutboxRow, StoreError> {
    let message = Outgoing {
        exchange: row.string(4)?,
        routing_key: row.string(5)?,
        mandatory: row.int(6)? != 0,
        properties: properties(row, 7)?,
        body: row.bytes(8)?,
    };
    let handed = row.count(3)?;
    let (id, saga, leased_until) = (row.uuid(0)?, SagaId(row.uuid(1)?), Time(row.int(2)?));
    Ok(OutboxRow { id, saga, leased_until, handed, message: Arc::new(message) })
}

/// The columns that [`dead_letter`] reads.
const DEAD_LETTER: &str = "id, at, reason, queue, exchange, routing_key, redelivered, properties, body";

fn dead_letter(row: &Row) -> Result<DeadLetter, StoreError> {
    let queue = row.string(3)?;
    let message = Incoming {
        queue: codes::inbox_of(&queue).ok_or_else(|| row.corrupt(3, format!("no such queue: {queue}")))?,
        exchange: row.string(4)?,
        routing_key: row.string(5)?,
        redelivered: row.int(6)? != 0,
        properties: properties(row, 7)?,
        body: row.bytes(8)?,
    };
    Ok(DeadLetter { id: row.uuid(0)?, at: Time(row.int(1)?), reason: row.string(2)?, message })
}

fn properties(row: &Row, column: usize) -> Result<Properties, StoreError> {
    serde_json::from_str(&row.string(column)?).map_err(|error| row.corrupt(column, error))
}

fn status(row: &Row, column: usize) -> Result<Status, StoreError> {
    let code = row.int(column)?;
    codes::status_of(code).ok_or_else(|| row.corrupt(column, format!("no such status: {code}")))
}

/// What tells texts of a definition apart.
fn digest(source: &Source) -> [u8; 32] {
    // The length says where one text ends and the other begins.
    let mut digest = Sha256::new().chain_update((source.toml.len() as u64).to_be_bytes()).chain_update(&source.toml);
    if let Some(schema) = &source.schema {
        digest.update([1]);
        digest.update(schema);
    }
    digest.finalize().into()
}
