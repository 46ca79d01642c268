//! What every store does: one suite, run over SQLite and Postgres.

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

use bytes::Bytes;
use sagad::broker::message::{Outgoing, Properties};
use sagad::core::id::SagaId;
use sagad::core::saga::Status;
use sagad::core::time::Time;
use sagad::store::sql::SqlStore;
use sagad::store::{Batch, Birth, Claim, ClaimKind, Opening, OutboxRow, SagaRow, SagaWrite, Store, StoreError};
use uuid::Uuid;

use crate::postgres;

/// A place for a store of one test, gone with it.
pub(crate) enum Place {
    Sqlite(tempfile::TempDir),
    Postgres(postgres::Database),
}

impl Place {
    async fn sqlite() -> Place {
        Place::Sqlite(tempfile::tempdir().expect("a folder"))
    }

    async fn postgres() -> Place {
        Place::Postgres(postgres::database().await)
    }

    fn url(&self) -> String {
        match self {
            Place::Sqlite(folder) => format!("sqlite://{}", folder.path().join("store.db").display()),
            Place::Postgres(database) => database.url.clone(),
        }
    }

    /// The store; called again, the same one over connections of its own.
    async fn open(&self) -> SqlStore {
        SqlStore::connect(&self.url(), Opening { migrate: true, exclusive: false }).await.expect("a store")
    }
}

/// Each test over each database.
macro_rules! over_both {
    ($($test:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(&$crate::store::Place::sqlite().await).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(&$crate::store::Place::postgres().await).await;
            })*
        }
    };
}
use over_both;

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
async fn put(store: &SqlStore, writes: Vec<SagaWrite>) {
    let committed = store.commit(&sagas(writes)).await.expect("a commit");
    assert_eq!(committed.stale, []);
}

/// The version of a saga, if it exists.
async fn version(store: &SqlStore, id: SagaId) -> Option<u64> {
    store.load(&[id]).await.expect("a load").first().map(|saga| saga.version)
}

/// The outbox, as if all leases had ended.
async fn whole_outbox(store: &SqlStore) -> Vec<OutboxRow> {
    store.take_outbox(Time(i64::MAX), Time(0), 10_000).await.expect("the outbox")
}
