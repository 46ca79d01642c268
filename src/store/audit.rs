//! What `sagad verify` needs of a database: all that is stored of every saga, and a way to put it right.
//!
//! Reading never stands in a daemon's way, and what is read together is of one moment. Mending checks the version as every
//! commit does, so a daemon that has the saga in hand loses that race and loads it anew, or wins it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use uuid::Uuid;

use super::sql::SqlStore;
use super::{Claim, ClaimKind, JournalRow, SagaWrite, Store, StoreError, StoredSaga, mend, page, totals};
use crate::core::id::SagaId;
use crate::core::saga::Status;
use crate::core::time::Time;

/// A store that can be looked through and mended.
pub trait Audit: Store {
    /// The next sagas after `after`, oldest id first, with all that is stored of them: up to `limit`, fewer where they are large.
    fn page(&self, after: Option<SagaId>, limit: usize) -> impl Future<Output = Result<Page, StoreError>> + Send;

    /// What no page tells of. Looks at the whole store, and takes its time.
    fn totals(&self, limit: usize) -> impl Future<Output = Result<Totals, StoreError>> + Send;

    /// Puts a saga right: all of it, or nothing; false if it changed meanwhile, or a claim was not to be had. Counters are
    /// left as they are.
    fn mend(&self, mend: &Mend) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Deletes chunks of items and claims whose saga is still not there.
    fn discard(&self, strays: &[Stray]) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Adds to the counters what they are short of. What daemons count at the same time is not lost.
    fn recount(&self, short: &[Miscount]) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// Some sagas, as of one moment.
#[derive(Debug, Default)]
pub struct Page {
    /// In the order of their ids.
    pub sagas: Vec<WholeSaga>,
    /// Rows with a value that there can't be, and what the database says of them.
    pub unreadable: BTreeMap<SagaId, String>,
    /// What is stored in between of sagas that there are not.
    pub strays: Vec<Stray>,
    /// Where the next page begins; `None`: this was the last one.
    pub next: Option<SagaId>,
}

/// All that is stored of a saga.
#[derive(Clone, Debug)]
pub struct WholeSaga {
    /// What a daemon reads of it.
    pub stored: StoredSaga,
    /// The other columns of its row.
    pub columns: Columns,
    /// By version.
    pub journal: Vec<JournalRow>,
    /// Its lock and its slots.
    pub claims: Vec<Claim>,
    /// Who holds the business key that its row has.
    pub key_holder: Option<KeyHolder>,
}

/// Columns of a saga's row that follow from its state.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "they are those of the table")]
pub struct Columns {
    /// The code, if it stands for none.
    pub status: Result<Status, i64>,
    pub previous_status: Option<Result<Status, i64>>,
    pub priority: i64,
    pub held: Option<i64>,
    pub itemized: bool,
    pub due: Option<Time>,
    pub due_slot: Option<i64>,
    pub created_at: Time,
    pub started_at: Option<Time>,
    pub updated_at: Time,
    pub ended_at: Option<Time>,
    pub parent: Option<SagaId>,
    /// As it is stored: see [`stored_key`](super::stored_key).
    pub key: Option<String>,
    /// Likewise.
    pub lock_key: Option<String>,
}

/// The saga that a business key leads to.
#[derive(Clone, Debug)]
pub struct KeyHolder {
    /// Which.
    pub saga: SagaId,
    /// Of its row, if there is one: its own key, and when it was accepted.
    pub row: Option<(Option<String>, Time)>,
}

/// Something that belongs to a saga that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// Which.
    pub saga: SagaId,
    /// Its journal is still there: it was not purged, its row is lost.
    pub lost: bool,
    /// What.
    pub what: StrayRow,
}

/// What of a saga was left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StrayRow {
    /// Rows of its journal: so it was not purged.
    Journal {
        /// How many.
        rows: usize,
    },
    /// Chunks of items.
    Items {
        /// How many.
        rows: usize,
    },
    /// A claim that leads to it.
    Claim(Claim),
    /// A message.
    Outbox(Uuid),
}

/// What is checked over the whole store, as of one moment.
#[derive(Debug, Default)]
pub struct Totals {
    /// Business keys and messages of sagas that there are not.
    pub strays: Vec<Stray>,
    /// Counters that are not what there is.
    pub miscounts: Vec<Miscount>,
}

/// A counter that is not what there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Miscount {
    /// The definition's name.
    pub definition: String,
    /// The status, or its code if it stands for none.
    pub status: Result<Status, i64>,
    /// What is counted.
    pub counted: i64,
    /// What there is.
    pub sagas: i64,
}

/// A saga as it is to be stored.
#[derive(Debug)]
pub struct Mend {
    /// What changes in the course of a saga, with all of its items. Its claims are taken from whom they name; it has no messages and is no birth.
    pub write: SagaWrite,
    /// Its status before.
    pub previous_status: Option<Status>,
    /// The business key.
    pub key: Option<Arc<str>>,
    /// 0 to 9.
    pub priority: u8,
    /// When it was accepted.
    pub created_at: Time,
    /// The saga that it is a step of.
    pub parent: Option<SagaId>,
    /// What it must not hold.
    pub unclaims: Vec<Claim>,
}

impl Stray {
    /// Whether nothing is lost if it goes: nobody else knows of the saga.
    pub fn may_go(&self) -> bool {
        let forgotten = match &self.what {
            StrayRow::Items { .. } => true,
            StrayRow::Claim(claim) => claim.kind != ClaimKind::Start,
            StrayRow::Journal { .. } | StrayRow::Outbox(_) => false,
        };
        forgotten && !self.lost
    }
}

impl Audit for SqlStore {
    async fn page(&self, after: Option<SagaId>, limit: usize) -> Result<Page, StoreError> {
        page::page(&self.0.database, after, limit).await
    }

    async fn totals(&self, limit: usize) -> Result<Totals, StoreError> {
        totals::totals(&self.0.database, limit).await
    }

    async fn mend(&self, mend: &Mend) -> Result<bool, StoreError> {
        mend::mend(&self.0.database, mend).await
    }

    async fn discard(&self, strays: &[Stray]) -> Result<(), StoreError> {
        mend::discard(&self.0.database, strays).await
    }

    async fn recount(&self, short: &[Miscount]) -> Result<(), StoreError> {
        totals::recount(&self.0.database, short).await
    }
}
