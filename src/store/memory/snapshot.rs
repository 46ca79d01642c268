//! Everything at once, for those who check what a store is left with.

use std::sync::Arc;

use super::tables::Tables;
use crate::core::id::SagaId;
use crate::core::saga::Status;
use crate::core::time::Time;
use crate::store::{Claim, DeadLetter, OutboxRow};

/// All that a store holds of sagas, as of one moment. The states, journals and items themselves are read as from any store.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Every saga, oldest first.
    pub sagas: Vec<SagaAtRest>,
    /// Every message that the broker has not confirmed, oldest first.
    pub outbox: Vec<OutboxRow>,
    /// Every claim, and who holds it: by definition, kind and token.
    pub claims: Vec<(Claim, SagaId)>,
    /// Every dead letter, oldest first.
    pub dead_letters: Vec<DeadLetter>,
}

/// A saga's row, but for what it holds encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SagaAtRest {
    /// Its id.
    pub id: SagaId,
    /// The definition's name.
    pub definition: Arc<str>,
    /// The revision it is pinned to.
    pub revision: u32,
    /// Its business key.
    pub key: Option<Arc<str>>,
    /// The saga that it is a step of.
    pub parent: Option<SagaId>,
    /// How many transitions it has been through.
    pub version: u64,
    /// Its status.
    pub status: Status,
    /// When its next timer is due.
    pub due: Option<Time>,
    /// When it ended.
    pub ended_at: Option<Time>,
    /// Whether it waits to be let in.
    pub held: bool,
}

impl Snapshot {
    /// Takes it.
    pub(super) fn of(tables: &Tables) -> Snapshot {
        let at_rest = |(id, record): (&SagaId, &super::tables::Record)| SagaAtRest {
            id: *id,
            definition: record.definition.clone(),
            revision: record.revision,
            key: record.key.clone(),
            parent: record.parent,
            version: record.version,
            status: record.status,
            due: record.due,
            ended_at: record.ended_at,
            held: record.wait.is_some(),
        };
        Snapshot {
            sagas: tables.sagas.iter().map(at_rest).collect(),
            outbox: tables.outbox.values().cloned().collect(),
            claims: tables.claims.iter().map(|(claim, held)| (claim.clone(), held.saga)).collect(),
            dead_letters: tables.dead_letters.values().cloned().collect(),
        }
    }
}
