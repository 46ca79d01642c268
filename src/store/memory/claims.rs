//! Claims that a commit takes: those of a write all or none, joined ones where they are free.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::tables::{Holding, Tables};
use crate::core::id::SagaId;
use crate::core::saga::Status;
use crate::store::{Batch, Claim, ClaimKind, SagaWrite};

/// The claims of a batch.
pub(super) struct Claims<'a>(BTreeMap<&'a Claim, Want>);

/// Who wants a claim.
#[derive(Clone, Copy)]
struct Want {
    saga: SagaId,
    /// From this ended saga.
    previous: Option<SagaId>,
    /// The status of a saga that only joins; `None` for a write, which does not happen without.
    joins: Option<Status>,
}

impl<'a> Claims<'a> {
    /// The claims of `writes` and the joined ones of `batch`, but for those of `stale` sagas; and the writes that lose one to
    /// another write of the same batch.
    pub(super) fn of(
        writes: &[&'a SagaWrite],
        batch: &'a Batch,
        stale: &BTreeSet<SagaId>,
    ) -> (Claims<'a>, BTreeSet<SagaId>) {
        let (mut wants, mut lost) = (BTreeMap::new(), BTreeSet::new());
        for write in writes {
            for (claim, previous) in &write.claims {
                match wants.entry(claim) {
                    Entry::Vacant(vacant) => {
                        vacant.insert(Want { saga: write.id, previous: *previous, joins: None });
                    }
                    Entry::Occupied(taken) if taken.get().saga == write.id => {}
                    Entry::Occupied(_) => drop(lost.insert(write.id)),
                }
            }
        }
        for (claim, saga, status) in batch.joined.iter().filter(|(_, saga, _)| !stale.contains(saga)) {
            wants.entry(claim).or_insert(Want { saga: *saga, previous: None, joins: Some(*status) });
        }
        (Claims(wants), lost)
    }

    /// The writes that would not get all that they need.
    pub(super) fn refused(&self, tables: &Tables) -> BTreeSet<SagaId> {
        self.needed().filter(|(claim, want)| !is_free(tables, claim, want)).map(|(_, want)| want.saga).collect()
    }

    /// The sagas whose writes need a claim.
    pub(super) fn claimants(&self) -> BTreeSet<SagaId> {
        self.needed().map(|(_, want)| want.saga).collect()
    }

    /// Takes those that are to be had.
    pub(super) fn take(&self, tables: &mut Tables) {
        for (claim, want) in &self.0 {
            if is_free(tables, claim, want) {
                tables.hold(claim, want);
            }
        }
    }

    fn needed(&self) -> impl Iterator<Item = (&Claim, &Want)> {
        self.0.iter().map(|(claim, want)| (*claim, want)).filter(|(_, want)| want.joins.is_none())
    }
}

/// Whether nobody holds a claim, or he whom it is to be taken over from. Locks and slots are not taken over.
fn is_free(tables: &Tables, claim: &Claim, want: &Want) -> bool {
    let lasting = !matches!(claim.kind, ClaimKind::Lock | ClaimKind::Slot);
    tables.claims.get(claim).is_none_or(|held| lasting && Some(held.saga) == want.previous)
}

impl Tables {
    fn hold(&mut self, claim: &Claim, want: &Want) {
        let indexed = claim.kind != ClaimKind::Key;
        match self.claims.entry(claim.clone()) {
            Entry::Vacant(free) => drop(free.insert(Holding { saga: want.saga, status: want.joins })),
            Entry::Occupied(held) => {
                let previous = std::mem::replace(&mut held.into_mut().saga, want.saga);
                if indexed {
                    self.claimed.remove(&(previous, claim.clone()));
                }
            }
        }
        if indexed {
            self.claimed.insert((want.saga, claim.clone()));
        }
    }

    /// The claims of a saga, but for its business key.
    pub(super) fn claimed_by(&self, saga: SagaId) -> Vec<Claim> {
        let first = Claim { definition: "".into(), kind: ClaimKind::Key, token: String::new() };
        let of_saga = self.claimed.range((saga, first)..).take_while(|(holder, _)| *holder == saga);
        of_saga.map(|(_, claim)| claim.clone()).collect()
    }

    /// Nobody holds this claim any more.
    pub(super) fn let_go(&mut self, claim: &Claim) {
        if let Some(held) = self.claims.remove(claim) {
            self.claimed.remove(&(held.saga, claim.clone()));
        }
    }
}
