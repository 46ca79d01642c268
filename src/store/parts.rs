//! The parts of a commit, each written once for both databases.

use std::borrow::Cow;

use uuid::Uuid;

use super::statement::{Row, Rows, Statement};
use super::{Batch, Birth, ClaimKind, Hold, SagaWrite, StoreError, codes, text};

/// Sagas that begin. Returns those that were new.
pub(super) fn insert<'a>(statement: &mut Statement<'a>, births: &[(&'a SagaWrite, &'a Birth)]) {
    let writes = || births.iter().map(|(write, _)| *write);
    let births = || births.iter().map(|(_, birth)| *birth);
    let rows = changing(Rows::new("b"), writes)
        .texts("definition", births().map(|birth| Cow::Borrowed(&*birth.definition)))
        .ints("revision", births().map(|birth| i64::from(birth.revision)))
        .optional_texts("key", births().map(|birth| birth.key.as_deref().map(text::key)))
        .ints("priority", births().map(|birth| i64::from(birth.priority)))
        .ints("created_at", births().map(|birth| birth.created_at.0))
        .bytes("input", births().map(|birth| &*birth.input));
    let (mut rows, rare) = rare(rows, writes);
    let (mut columns, mut values) = (String::new(), String::new());
    if rare.hold {
        columns += ", held, lock_key";
        values += ", nullif(hold, 0), lock_key";
    }
    if rare.items {
        columns += ", itemized";
        values += ", itemized";
    }
    if births().any(|birth| birth.parent.is_some()) {
        rows = rows.optional_uuids("parent", births().map(|birth| birth.parent.map(|parent| parent.0)));
        columns += ", parent";
        values += ", parent";
    }
    let rows = statement.rows(rows);
    statement.push(&format!(
        "INSERT INTO sagas (id, version, status, due, due_slot, started_at, updated_at, ended_at, state, \
         definition, revision, key, priority, created_at, input{columns}) \
         SELECT id, version, status, due, due >> 10, started_at, updated_at, ended_at, state, \
         definition, revision, key, priority, created_at, input{values} FROM {rows} WHERE true \
         ON CONFLICT (id) DO NOTHING RETURNING id, definition, previous_status, status"
    ));
}

/// Sagas that changed. Returns those that had the version that they were expected to have.
pub(super) fn update<'a>(statement: &mut Statement<'a>, updates: &[&'a SagaWrite]) {
    let writes = || updates.iter().copied();
    let rows = changing(Rows::new("u"), writes).ints("expected", writes().map(|write| codes::number(write.expected)));
    let (rows, rare) = rare(rows, writes);
    let mut more = String::new();
    if rare.hold {
        more += ", held = CASE u.hold WHEN 1 THEN 1 WHEN 0 THEN NULL ELSE sagas.held END, \
                 lock_key = CASE WHEN u.hold IS NULL THEN sagas.lock_key ELSE u.lock_key END";
    }
    if rare.items {
        more += ", itemized = CASE u.itemized WHEN 1 THEN 1 ELSE sagas.itemized END";
    }
    let rows = statement.rows(rows);
    statement.push(&format!(
        "UPDATE sagas SET version = u.version, previous_status = sagas.status, status = u.status, due = u.due, due_slot = u.due >> 10, \
         started_at = u.started_at, updated_at = u.updated_at, ended_at = u.ended_at, state = u.state{more} \
         FROM {rows} WHERE sagas.id = u.id AND sagas.version = u.expected \
         RETURNING sagas.id, sagas.definition, sagas.previous_status, sagas.status"
    ));
}

/// The columns that every write has.
fn changing<'a, I: Iterator<Item = &'a SagaWrite>>(rows: Rows<'a>, writes: impl Fn() -> I) -> Rows<'a> {
    rows.uuids("id", writes().map(|write| write.id.0))
        .ints("version", writes().map(|write| codes::number(write.row.version)))
        .ints("status", writes().map(|write| codes::status(write.row.status)))
        .optional_ints("due", writes().map(|write| write.row.due.map(|time| time.0)))
        .optional_ints("started_at", writes().map(|write| write.row.started_at.map(|time| time.0)))
        .ints("updated_at", writes().map(|write| write.row.updated_at.0))
        .optional_ints("ended_at", writes().map(|write| write.row.ended_at.map(|time| time.0)))
        .bytes("state", writes().map(|write| &*write.row.state))
}

/// Columns that few writes need. A statement has those that one of its writes needs: the others cost nothing.
struct Rare {
    hold: bool,
    items: bool,
}

fn rare<'a, I: Iterator<Item = &'a SagaWrite>>(mut rows: Rows<'a>, writes: impl Fn() -> I) -> (Rows<'a>, Rare) {
    let hold = writes().any(|write| write.row.hold.is_some());
    if hold {
        let lock = |write: &'a SagaWrite| match &write.row.hold {
            Some(Hold::On { lock: Some(lock) }) => Some(text::key(lock)),
            _ => None,
        };
        rows = rows
            .optional_ints("hold", writes().map(|write| write.row.hold.as_ref().map(codes::hold)))
            .optional_texts("lock_key", writes().map(lock));
    }
    let items = writes().any(|write| !write.items.is_empty());
    if items {
        rows = rows.ints("itemized", writes().map(|write| i64::from(!write.items.is_empty())));
    }
    (rows, Rare { hold, items })
}

/// Journal rows, of the sagas that meet the condition `which`.
pub(super) fn journal<'a>(statement: &mut Statement<'a>, writes: &[&'a SagaWrite], which: &str) {
    let writes = || writes.iter().copied();
    let rows = Rows::new("j")
        .uuids("saga_id", writes().map(|write| write.id.0))
        .ints("version", writes().map(|write| codes::number(write.row.version)))
        .ints("first_seq", writes().map(|write| codes::number(write.first_seq)))
        .ints("at", writes().map(|write| write.row.updated_at.0))
        .bytes("entries", writes().map(|write| &*write.entries));
    let rows = statement.rows(rows);
    statement.push(&format!(
        "INSERT INTO journal (saga_id, version, first_seq, at, entries) \
         SELECT saga_id, version, first_seq, at, entries FROM {rows} WHERE {which}"
    ));
}

/// Outbox rows, of the sagas that meet the condition `which`.
pub(super) fn send<'a>(statement: &mut Statement<'a>, writes: &[&'a SagaWrite], which: &str) {
    let messages = || writes.iter().flat_map(|write| write.outbox.iter().map(move |row| (write.id, row)));
    let rows = Rows::new("o")
        .uuids("id", messages().map(|(_, row)| row.id))
        .uuids("saga_id", messages().map(|(saga, _)| saga.0))
        .ints("leased_until", messages().map(|(_, row)| row.leased_until.0))
        .ints("handed", messages().map(|(_, row)| row.handed.into()))
        .texts("exchange", messages().map(|(_, row)| Cow::Borrowed(&*row.message.exchange)))
        .texts("routing_key", messages().map(|(_, row)| Cow::Borrowed(&*row.message.routing_key)))
        .ints("mandatory", messages().map(|(_, row)| i64::from(row.message.mandatory)))
        .texts("properties", messages().map(|(_, row)| Cow::Owned(codes::json(&row.message.properties))))
        .bytes("body", messages().map(|(_, row)| &*row.message.body));
    let rows = statement.rows(rows);
    statement.push(&format!(
        "INSERT INTO outbox (id, saga_id, leased_until, handed, exchange, routing_key, mandatory, properties, body) \
         SELECT id, saga_id, leased_until, handed, exchange, routing_key, mandatory, properties, body FROM {rows} WHERE {which}"
    ));
}

/// Chunks of items, of the sagas that meet the condition `which`.
pub(super) fn items<'a>(statement: &mut Statement<'a>, writes: &[&'a SagaWrite], which: &str) {
    let chunks = || writes.iter().flat_map(|write| write.items.iter().map(move |chunk| (*write, chunk)));
    let rows = Rows::new("i")
        .uuids("saga_id", chunks().map(|(write, _)| write.id.0))
        .ints("step", chunks().map(|(_, chunk)| chunk.step.into()))
        .ints("chunk", chunks().map(|(_, chunk)| chunk.chunk.into()))
        .ints("version", chunks().map(|(write, _)| codes::number(write.row.version)))
        .bytes("state", chunks().map(|(_, chunk)| &*chunk.state));
    let rows = statement.rows(rows);
    statement.push(&format!(
        "INSERT INTO items (saga_id, step, chunk, version, state) \
         SELECT saga_id, step, chunk, version, state FROM {rows} WHERE {which} \
         ON CONFLICT (saga_id, step, chunk) DO UPDATE SET version = excluded.version, state = excluded.state"
    ));
}

/// The locks and slots of those that give them up, of the sagas that meet the condition `which`.
pub(super) fn release<'a>(statement: &mut Statement<'a>, writes: &[&'a SagaWrite], which: &str) {
    let releasing = writes.iter().filter(|write| write.releases);
    let rows = statement.rows(Rows::new("l").uuids("id", releasing.map(|write| write.id.0)));
    let (lock, slot) = (codes::claim_kind(ClaimKind::Lock), codes::claim_kind(ClaimKind::Slot));
    // `kind <> 1` is what the index says of itself.
    statement.push(&format!(
        "DELETE FROM claims WHERE saga_id IN (SELECT id FROM {rows}) AND kind <> 1 AND kind IN ({lock}, {slot}) AND {which}"
    ));
}

/// Outbox rows whose fate they follow from, of the sagas that meet the condition `which`.
pub(super) fn settle<'a>(statement: &mut Statement<'a>, writes: &[&'a SagaWrite], which: &str) {
    // In the order of their keys, as everything is locked.
    let mut settled: Vec<Uuid> = writes.iter().flat_map(|write| write.settled.iter().copied()).collect();
    settled.sort_unstable();
    let rows = Rows::new("f").uuids("id", settled.into_iter());
    let rows = statement.rows(rows);
    statement.push(&format!("DELETE FROM outbox WHERE id IN (SELECT id FROM {rows}) AND {which}"));
}

/// Outbox rows that the broker has confirmed.
pub(super) fn forget<'a>(statement: &mut Statement<'a>, batch: &'a Batch) {
    let mut confirmed = batch.confirmed.clone();
    confirmed.sort_unstable();
    let rows = statement.rows(Rows::new("c").uuids("id", confirmed.into_iter()));
    statement.push(&format!("DELETE FROM outbox WHERE id IN (SELECT id FROM {rows})"));
}

/// Dead letters.
pub(super) fn keep<'a>(statement: &mut Statement<'a>, batch: &'a Batch) {
    let letters = || batch.dead_letters.iter();
    let rows = Rows::new("d")
        .uuids("id", letters().map(|letter| letter.id))
        .ints("at", letters().map(|letter| letter.at.0))
        .texts("reason", letters().map(|letter| Cow::Borrowed(&*letter.reason)))
        .texts("queue", letters().map(|letter| Cow::Borrowed(letter.message.queue.as_str())))
        .texts("exchange", letters().map(|letter| Cow::Borrowed(&*letter.message.exchange)))
        .texts("routing_key", letters().map(|letter| Cow::Borrowed(&*letter.message.routing_key)))
        .ints("redelivered", letters().map(|letter| i64::from(letter.message.redelivered)))
        .texts("properties", letters().map(|letter| Cow::Owned(codes::json(&letter.message.properties))))
        .bytes("body", letters().map(|letter| &*letter.message.body));
    let rows = statement.rows(rows);
    statement.push(&format!(
        "INSERT INTO dead_letters (id, at, reason, queue, exchange, routing_key, redelivered, properties, body) \
         SELECT id, at, reason, queue, exchange, routing_key, redelivered, properties, body FROM {rows} WHERE true \
         ON CONFLICT (id) DO NOTHING"
    ));
}

/// Counts the sagas of `written` in their new status instead of the previous one.
pub(super) fn count(statement: &mut Statement<'_>) {
    let slot = statement.dialect.counter_slot();
    statement.push(&format!(
        "INSERT INTO counters (definition, status, slot, sagas) SELECT definition, status, {slot}, sum(change) FROM (\
         SELECT definition, status, 1 AS change FROM written WHERE previous_status IS DISTINCT FROM status UNION ALL \
         SELECT definition, previous_status, -1 FROM written WHERE previous_status <> status) AS changes \
         GROUP BY definition, status ORDER BY definition, status \
         ON CONFLICT (definition, status, slot) DO UPDATE SET sagas = counters.sagas + excluded.sagas"
    ));
}

/// The sagas that changed their status, from the rows of [`insert`] and [`update`].
pub(super) struct Changes(Vec<(String, Option<i64>, i64)>);

impl Changes {
    /// Picks them.
    pub(super) fn of(rows: &[Row]) -> Result<Changes, StoreError> {
        let mut changes = Vec::new();
        for row in rows {
            let (previous, status) = (row.optional_int(2)?, row.int(3)?);
            if previous != Some(status) {
                changes.push((row.string(1)?, previous, status));
            }
        }
        Ok(Changes(changes))
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As an argument.
    pub(super) fn rows(&self) -> Rows<'_> {
        Rows::new("w")
            .texts("definition", self.0.iter().map(|(definition, _, _)| Cow::Borrowed(&**definition)))
            .optional_ints("previous_status", self.0.iter().map(|(_, previous, _)| *previous))
            .ints("status", self.0.iter().map(|(_, _, status)| *status))
    }
}
