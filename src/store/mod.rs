//! Where sagas live: a small trait, two databases behind one set of statements, and memory.

pub mod audit;
mod claims;
mod codes;
mod commit;
mod dialect;
mod held;
mod items;
mod lanes;
mod listing;
pub mod memory;
mod mend;
mod open;
mod page;
mod parts;
mod purge;
mod saga;
mod session;
pub mod sql;
mod statement;
mod text;
mod totals;

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use uuid::Uuid;

use crate::broker::message::{Incoming, Outgoing};
use crate::core::id::SagaId;
use crate::core::saga::Status;
use crate::core::time::Time;

pub use open::{OpenError, Opening};
pub use saga::{changed_items, elements_of, read_listed, read_saga, size_of_elements};

/// What the engine and the API need of a database.
pub trait Store: Clone + Send + Sync + 'static {
    /// The sagas of these ids that exist, in any order, each with its items as they were at its version.
    fn load(&self, ids: &[SagaId]) -> impl Future<Output = Result<Vec<StoredSaga>, StoreError>> + Send;

    /// Who holds these claims; claims that nobody holds are left out.
    fn holders(&self, claims: &[Claim]) -> impl Future<Output = Result<Vec<Holder>, StoreError>> + Send;

    /// The slots of a definition that are taken: the tokens of its claims of kind [`ClaimKind::Slot`].
    fn slots(&self, definition: &str) -> impl Future<Output = Result<Vec<String>, StoreError>> + Send;

    /// Writes a batch in one transaction, with a number of statements that does not depend on its size. A write whose saga
    /// changed meanwhile, or one of whose claims is taken, is left out as a whole and named in the result.
    fn commit(&self, batch: &Batch) -> impl Future<Output = Result<Committed, StoreError>> + Send;

    /// Takes up to `limit` sagas whose timer is due for this caller: for `lease` nobody else is given them.
    fn take_due(
        &self,
        now: Time,
        lease: Time,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<SagaId>, StoreError>> + Send;

    /// When the next timer is due.
    fn next_due(&self) -> impl Future<Output = Result<Option<Time>, StoreError>> + Send;

    /// Takes up to `limit` outbox rows whose lease ran out before `now`, oldest first, and leases them to this caller until
    /// `lease`.
    fn take_outbox(
        &self,
        now: Time,
        lease: Time,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<OutboxRow>, StoreError>> + Send;

    /// Keeps those of these rows that nobody has taken since they were handed out so many times, and gives them this lease.
    fn keep_outbox(
        &self,
        rows: &[(Uuid, u32)],
        lease: Time,
    ) -> impl Future<Output = Result<Vec<Uuid>, StoreError>> + Send;

    /// Ends every outbox lease: for the start of the only daemon on a store.
    fn release_outbox(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The held sagas of a definition that may begin as far as their locks are concerned, up to `limit`: the highest priority
    /// first, then the oldest, and no two with the same lock. After a lock was released, whoever waits for it is found only by
    /// a call that names it in `freed`, or by one with [`Freed::Any`].
    fn held(
        &self,
        definition: &str,
        freed: Freed<'_>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<SagaId>, StoreError>> + Send;

    /// The definitions that have held sagas.
    fn held_definitions(&self) -> impl Future<Output = Result<Vec<String>, StoreError>> + Send;

    /// Deletes sagas of a definition that ended before a time, with all that belongs to them but the claims of their starts.
    /// What is still owed stays: a saga with messages in the outbox, or one that its parent may yet have to undo. Looks at up
    /// to `limit` sagas from `after` on, and says where to go on.
    fn purge(
        &self,
        definition: &str,
        ended_before: Time,
        after: Option<SagaId>,
        limit: usize,
    ) -> impl Future<Output = Result<Purged, StoreError>> + Send;

    /// A page of sagas, newest first, without their items.
    fn list(&self, filter: &Filter) -> impl Future<Output = Result<Vec<StoredSaga>, StoreError>> + Send;

    /// How many sagas each definition has in each status.
    fn counts(&self) -> impl Future<Output = Result<Vec<(String, Status, u64)>, StoreError>> + Send;

    /// The journal of a saga from entry `from` on, oldest first.
    fn journal(&self, saga: SagaId, from: u64) -> impl Future<Output = Result<Vec<JournalRow>, StoreError>> + Send;

    /// Keeps a definition's text: the number of its revision, an old one if the same text was kept before.
    fn keep_revision(&self, name: &str, source: &Source) -> impl Future<Output = Result<u32, StoreError>> + Send;

    /// The text of a revision.
    fn revision(&self, name: &str, revision: u32) -> impl Future<Output = Result<Option<Source>, StoreError>> + Send;

    /// Every kept revision of a definition: number and when it was first kept, ascending.
    fn revisions(&self, name: &str) -> impl Future<Output = Result<Vec<(u32, Time)>, StoreError>> + Send;

    /// The revisions of sagas that have not ended. Looks at every one of those.
    fn revisions_in_use(&self) -> impl Future<Output = Result<Vec<(String, u32)>, StoreError>> + Send;

    /// Every kept revision of every definition, ascending.
    fn all_revisions(&self) -> impl Future<Output = Result<Vec<(String, u32)>, StoreError>> + Send;

    /// A page of dead letters, newest first: up to `limit` that are older than `before`.
    fn dead_letters(
        &self,
        before: Option<Uuid>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<DeadLetter>, StoreError>> + Send;

    /// One dead letter.
    fn dead_letter(&self, id: Uuid) -> impl Future<Output = Result<Option<DeadLetter>, StoreError>> + Send;

    /// Forgets a dead letter; false if there was none.
    fn delete_dead_letter(&self, id: Uuid) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// The secret that correlation ids are signed with: made once, the same for every daemon on this store.
    fn secret(&self) -> impl Future<Output = Result<[u8; 32], StoreError>> + Send;

    /// Whether the database answers.
    fn ping(&self) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// A saga's row.
#[derive(Clone, Debug)]
pub struct StoredSaga {
    /// Its id.
    pub id: SagaId,
    /// How many transitions it has been through.
    pub version: u64,
    /// The definition's name.
    pub definition: String,
    /// The revision it is pinned to.
    pub revision: u32,
    /// The encoded [`Saga`](crate::core::saga::Saga), without its input.
    pub state: Bytes,
    /// The encoded input.
    pub input: Bytes,
    /// Its items, in order of step and chunk.
    pub items: Vec<StoredItems>,
}

/// Some of the elements of a foreach step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredItems {
    /// The step's place in its definition.
    pub step: u32,
    /// Which chunk of them; -1: the list of the elements themselves.
    pub chunk: i32,
    /// The version of the saga that wrote it.
    pub version: u64,
    /// Encoded.
    pub state: Bytes,
}

/// Something only one saga may hold: a business key, or the idempotency key of a start.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    /// The definition's name.
    pub definition: Arc<str>,
    /// Which kind.
    pub kind: ClaimKind,
    /// The key.
    pub token: String,
}

/// The kinds of [`Claim`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClaimKind {
    /// A saga's business key.
    Key,
    /// The idempotency key or the message id of a start.
    Start,
    /// The key of a `lock`; held while the saga is under way.
    Lock,
    /// One of the places that `max_running` leaves, from `0` on; held while the saga is under way.
    Slot,
}

/// A claim that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// What is held.
    pub claim: Claim,
    /// By which saga.
    pub saga: SagaId,
    /// Its status now; of one that was purged, its last.
    pub status: Status,
}

/// What a batch of transitions writes.
#[derive(Debug, Default)]
pub struct Batch {
    /// One for each saga that changed or began; no saga twice.
    pub sagas: Vec<SagaWrite>,
    /// Outbox rows that the broker has confirmed.
    pub confirmed: Vec<Uuid>,
    /// Messages nobody could read or place.
    pub dead_letters: Vec<DeadLetter>,
    /// Idempotency keys of starts that were answered with a saga that exists, so that they are answered alike for ever; with its
    /// status, in case it is purged meanwhile.
    pub joined: Vec<(Claim, SagaId, Status)>,
}

/// One saga's transition.
#[derive(Debug)]
pub struct SagaWrite {
    /// Which saga.
    pub id: SagaId,
    /// The version it had before: 0 for one that begins.
    pub expected: u64,
    /// What a row has that can change.
    pub row: SagaRow,
    /// Set for one that begins.
    pub birth: Option<Birth>,
    /// Sequence number of the first of `entries`, from 1.
    pub first_seq: u64,
    /// The encoded journal entries: a JSON array.
    pub entries: Bytes,
    /// The messages that follow from it.
    pub outbox: Vec<OutboxRow>,
    /// Messages of it in the outbox whose fate it follows from: sent again by whoever finds them, they would tell another one.
    pub settled: Vec<Uuid>,
    /// The chunks of its items that changed.
    pub items: Vec<ItemsWrite>,
    /// What it must be the only one to hold from now on; with the ended saga that a claim is taken over from.
    pub claims: Vec<(Claim, Option<SagaId>)>,
    /// Whether it gives up its lock and its slot.
    pub releases: bool,
}

/// A chunk of items, as it is from now on.
#[derive(Debug)]
pub struct ItemsWrite {
    /// The step's place in its definition.
    pub step: u32,
    /// Which chunk; -1: the list of the elements themselves.
    pub chunk: i32,
    /// Encoded.
    pub state: Bytes,
}

/// What of a saga's row can change.
#[derive(Debug)]
pub struct SagaRow {
    /// How many transitions it has been through, this one included.
    pub version: u64,
    /// Its status.
    pub status: Status,
    /// When its next timer is due.
    pub due: Option<Time>,
    /// The encoded state.
    pub state: Bytes,
    /// When it began.
    pub started_at: Option<Time>,
    /// Now.
    pub updated_at: Time,
    /// When it ended.
    pub ended_at: Option<Time>,
    /// Whether it is held from now on; `None`: as before.
    pub hold: Option<Hold>,
}

/// Whether a saga waits to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// It waits, also for this lock if there is one.
    On {
        /// The key of its lock.
        lock: Option<Arc<str>>,
    },
    /// It does not, or no longer.
    Off,
}

/// Which locks were released, as far as a caller of [`Store::held`] knows.
#[derive(Clone, Copy, Debug)]
pub enum Freed<'a> {
    /// These.
    Keys(&'a [Arc<str>]),
    /// The store has to look: a query for each lock that somebody waits for.
    Any,
}

/// What a call of [`Store::purge`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purged {
    /// How many sagas it deleted.
    pub sagas: usize,
    /// Where the next call goes on; `None`: nothing is left to look at.
    pub next: Option<SagaId>,
}

/// What of a saga's row is written once.
#[derive(Debug)]
pub struct Birth {
    /// The definition's name.
    pub definition: Arc<str>,
    /// The revision it is pinned to.
    pub revision: u32,
    /// The business key.
    pub key: Option<Arc<str>>,
    /// 0 to 9.
    pub priority: u8,
    /// The encoded input.
    pub input: Bytes,
    /// When it was accepted.
    pub created_at: Time,
    /// The saga that it is a step of.
    pub parent: Option<SagaId>,
}

/// What became of a batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Sagas that were not written: changed by another daemon meanwhile, or a claim was taken.
    pub stale: Vec<SagaId>,
}

/// A message to send.
#[derive(Clone, Debug)]
pub struct OutboxRow {
    /// UUIDv7: rows sort by age.
    pub id: Uuid,
    /// The saga it comes from.
    pub saga: SagaId,
    /// Until when its writer, or its last taker, is the one to send it; [`Time`] 0 for whoever takes it.
    pub leased_until: Time,
    /// How many times it was handed out to be sent: to its writer if it was leased from the first, and to each taker.
    pub handed: u32,
    /// The message.
    pub message: Arc<Outgoing>,
}

/// The journal entries of one transition.
#[derive(Clone, Debug)]
pub struct JournalRow {
    /// Sequence number of the first entry, from 1.
    pub first_seq: u64,
    /// The version of the saga that these entries lead to.
    pub version: u64,
    /// When.
    pub at: Time,
    /// A JSON array of [`Entry`](crate::core::entry::Entry).
    pub entries: Bytes,
}

/// A message that sagad could not read or place.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// UUIDv7.
    pub id: Uuid,
    /// When it was kept.
    pub at: Time,
    /// Why, for a person.
    pub reason: String,
    /// The message as it came.
    pub message: Incoming,
}

/// A definition's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The TOML file.
    pub toml: String,
    /// The JSON Schema file that it names, if it does.
    pub schema: Option<String>,
}

/// Which sagas.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this definition.
    pub definition: Option<String>,
    /// In one of these; empty: any.
    pub statuses: Vec<Status>,
    /// With this business key.
    pub key: Option<String>,
    /// Accepted at or after.
    pub started_after: Option<Time>,
    /// Accepted before.
    pub started_before: Option<Time>,
    /// With an id below this one: the cursor.
    pub before: Option<SagaId>,
    /// At the most so many.
    pub limit: usize,
}

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It can't be reached, is locked, full or shutting down: asking again later may well help. Nothing is known of whether
    /// a commit took effect.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// Asking again will not help.
    #[error("the database refused: {0}")]
    Refused(String),
    /// What it holds can't be read; says which table, row and column.
    #[error("the database holds something unreadable: {0}")]
    Corrupt(String),
}

/// A business key or the key of a lock as its columns have it: a very long one is cut, with a digest of the whole.
pub fn stored_key(key: &str) -> Cow<'_, str> {
    text::key(key)
}

/// Any JSON as the bytes that are stored and sent.
pub fn encode<T: serde::Serialize>(value: &T) -> Bytes {
    // Serialising to memory fails only for maps with keys that are no strings, which no type here has.
    serde_json::to_vec(value).map(Bytes::from).unwrap_or_default()
}

/// A stored JSON value.
///
/// # Errors
/// What serde says of the bytes.
pub fn decode_value(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(bytes)
}
