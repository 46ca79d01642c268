//! What every store does: one suite, run over SQLite, Postgres and memory.

mod alike;
mod audit;
mod batch;
mod claims;
mod held;
mod items;
mod lists;
mod opening;
mod outages;
mod purge;
mod records;
mod timers;
mod together;

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use sagad::broker::message::{Outgoing, Properties};
use sagad::core::id::SagaId;
use sagad::core::saga::Status;
use sagad::core::time::Time;
use sagad::store::memory::MemoryStore;
use sagad::store::sql::SqlStore;
use sagad::store::{Batch, Birth, Claim, ClaimKind, Opening, OutboxRow, SagaRow, SagaWrite, Store, StoreError};
use uuid::Uuid;

use crate::postgres;

/// A place for a store of one test, gone with it.
pub(crate) trait Place {
    /// The kind of store.
    type Store: Store;

    /// The store; called again, the same one, over connections of its own if it has any.
    async fn open(&self) -> Self::Store;
}

/// A database.
pub(crate) enum Sql {
    Sqlite(tempfile::TempDir),
    Postgres(postgres::Database),
}

impl Sql {
    async fn sqlite() -> Sql {
        Sql::Sqlite(tempfile::tempdir().expect("a folder"))
    }

    async fn postgres() -> Sql {
        Sql::Postgres(postgres::database().await)
    }

    fn url(&self) -> String {
        match self {
            Sql::Sqlite(folder) => format!("sqlite://{}", folder.path().join("store.db").display()),
            Sql::Postgres(database) => database.url.clone(),
        }
    }
}

impl Place for Sql {
    type Store = SqlStore;

    async fn open(&self) -> SqlStore {
        SqlStore::connect(&self.url(), Opening { migrate: true, exclusive: false }).await.expect("a store")
    }
}

/// This process.
struct Memory(MemoryStore);

impl Memory {
    fn new() -> Memory {
        let mut secret = [0; 32];
        for (half, id) in secret.chunks_mut(16).zip([Uuid::now_v7(), Uuid::now_v7()]) {
            half.copy_from_slice(id.as_bytes());
        }
        Memory(MemoryStore::new(secret, || Time::from(SystemTime::now())))
    }
}

impl Place for Memory {
    type Store = MemoryStore;

    async fn open(&self) -> MemoryStore {
        self.0.clone()
    }
}

/// Each test over each database.
macro_rules! over_both {
    ($($test:ident),* $(,)?) => {
        $crate::store::over_all!(; sql: $($test),*);
    };
}
use over_both;

/// Each test over each store; and those about SQL over each database alone.
macro_rules! over_all {
    ($($test:ident),* $(,)? $(; sql: $($sql:ident),* $(,)?)?) => {
        mod sqlite {
            $crate::store::tests_over!($crate::store::Sql::sqlite().await; $($test,)* $($($sql,)*)?);
        }
        mod postgres {
            $crate::store::tests_over!($crate::store::Sql::postgres().await; $($test,)* $($($sql,)*)?);
        }
        mod memory {
            $crate::store::tests_over!($crate::store::Memory::new(); $($test,)*);
        }
    };
}
use over_all;

/// Each test over one store.
macro_rules! tests_over {
    ($place:expr; $($test:ident,)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            super::$test(&$place).await;
        })*
    };
}
use tests_over;

const NOW: Time = Time(1_767_323_045_678);

fn id() -> SagaId {
    SagaId(Uuid::now_v7())
}

/// A saga that begins.
fn birth(id: SagaId, definition: &str) -> SagaWrite {
    SagaWrite {
        id,
        expected: 0,
        row: SagaRow {
            version: 1,
            status: Status::Running,
            due: Some(NOW),
            state: Bytes::from_static(b"{\"state\":1}"),
            started_at: Some(NOW),
            updated_at: NOW,
            ended_at: None,
            hold: None,
        },
        birth: Some(Birth {
            definition: definition.into(),
            revision: 1,
            key: None,
            priority: 5,
            input: Bytes::from_static(b"{\"order\":7}"),
            created_at: NOW,
            parent: None,
        }),
        first_seq: 1,
        entries: Bytes::from_static(b"[\"accepted\",\"started\"]"),
        outbox: Vec::new(),
        settled: Vec::new(),
        items: Vec::new(),
        claims: Vec::new(),
        releases: false,
    }
}

/// Its next transition but `expected - 1`.
fn change(id: SagaId, expected: u64) -> SagaWrite {
    SagaWrite {
        id,
        expected,
        row: SagaRow {
            version: expected + 1,
            status: Status::Running,
            due: None,
            state: Bytes::from(format!("{{\"state\":{}}}", expected + 1)),
            started_at: Some(NOW),
            updated_at: Time(NOW.0 + 1),
            ended_at: None,
            hold: None,
        },
        birth: None,
        first_seq: expected * 2 + 1,
        entries: Bytes::from_static(b"[\"answered\",\"sent\"]"),
        outbox: Vec::new(),
        settled: Vec::new(),
        items: Vec::new(),
        claims: Vec::new(),
        releases: false,
    }
}

/// The transition with this status.
fn with_status(mut write: SagaWrite, status: Status) -> SagaWrite {
    write.row.status = status;
    write.row.ended_at = status.is_terminal().then_some(write.row.updated_at);
    write
}

/// The transition with these claims.
fn claiming(write: SagaWrite, claims: Vec<(Claim, Option<SagaId>)>) -> SagaWrite {
    SagaWrite { claims, ..write }
}

fn claim(kind: ClaimKind, token: &str) -> Claim {
    Claim { definition: "order".into(), kind, token: token.to_owned() }
}

fn message(saga: SagaId, body: &[u8]) -> OutboxRow {
    let message = Outgoing {
        exchange: "shop.commands".to_owned(),
        routing_key: "order.create".to_owned(),
        mandatory: true,
        properties: Properties::default(),
        body: Bytes::copy_from_slice(body),
    };
    OutboxRow { id: Uuid::now_v7(), saga, leased_until: Time(0), handed: 0, message: Arc::new(message) }
}

fn sagas(sagas: Vec<SagaWrite>) -> Batch {
    Batch { sagas, ..Batch::default() }
}

/// Commits what nothing speaks against.
async fn put(store: &impl Store, writes: Vec<SagaWrite>) {
    let committed = store.commit(&sagas(writes)).await.expect("a commit");
    assert_eq!(committed.stale, []);
}

/// The version of a saga, if it exists.
async fn version(store: &impl Store, id: SagaId) -> Option<u64> {
    store.load(&[id]).await.expect("a load").first().map(|saga| saga.version)
}

/// The outbox, as if all leases had ended.
async fn whole_outbox(store: &impl Store) -> Vec<OutboxRow> {
    store.take_outbox(Time(i64::MAX), Time(0), 10_000).await.expect("the outbox")
}
