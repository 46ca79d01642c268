//! Claims that a commit takes: those of its writes, which fail with any of theirs, and joined ones, which are taken if free.

use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

use super::statement::{Row, Rows, Statement};
use super::{Batch, Claim, ClaimKind, SagaWrite, StoreError, codes, text};
use crate::core::id::SagaId;
use crate::core::saga::Status;

/// The claims of a batch, in the order in which every transaction takes them, so that no two wait for each other.
pub(super) struct Claims<'a> {
    /// Business keys and idempotency keys: kept once they are had.
    lasting: Wanted<'a>,
    /// Locks and slots.
    passing: Wanted<'a>,
    /// How many claims each write needs.
    needed: HashMap<SagaId, usize>,
}

type Wanted<'a> = BTreeMap<&'a Claim, Want>;

/// Who wants a claim.
struct Want {
    saga: SagaId,
    /// From this ended saga.
    previous: Option<SagaId>,
    /// The status of a saga that only joins; `None` for a write, which does not happen without.
    joins: Option<Status>,
}

/// Claims that one statement takes.
#[derive(Clone, Copy)]
pub(super) enum Part {
    /// See [`Claims`]. What is lost is locked until the end of the transaction.
    Lasting,
    /// What is lost is not locked: else whoever holds it could not release it, while we wait for another claim of his.
    Passing,
}

impl<'a> Claims<'a> {
    /// The claims of `writes` and the joined ones of `batch`, but for those of `stale` sagas; and the writes that lose one to
    /// another write of the same batch.
    pub(super) fn of(
        writes: &[&'a SagaWrite],
        batch: &'a Batch,
        stale: &HashSet<SagaId>,
    ) -> (Claims<'a>, HashSet<SagaId>) {
        let (mut lasting, mut passing) = (BTreeMap::new(), BTreeMap::new());
        let (mut needed, mut lost) = (HashMap::new(), HashSet::new());
        for write in writes {
            for (claim, previous) in &write.claims {
                let wanted = if is_passing(claim) { &mut passing } else { &mut lasting };
                match wanted.entry(claim) {
                    Entry::Vacant(vacant) => {
                        vacant.insert(Want { saga: write.id, previous: *previous, joins: None });
                        *needed.entry(write.id).or_default() += 1;
                    }
                    Entry::Occupied(taken) if taken.get().saga == write.id => {}
                    Entry::Occupied(_) => {
                        lost.insert(write.id);
                    }
                }
            }
        }
        for (claim, saga, status) in batch.joined.iter().filter(|(_, saga, _)| !stale.contains(saga)) {
            lasting.entry(claim).or_insert(Want { saga: *saga, previous: None, joins: Some(*status) });
        }
        (Claims { lasting, passing, needed }, lost)
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.lasting.is_empty() && self.passing.is_empty()
    }

    /// The statements that take them, in order.
    pub(super) fn parts(&self) -> impl Iterator<Item = Part> {
        let lasting = (!self.lasting.is_empty()).then_some(Part::Lasting);
        lasting.into_iter().chain((!self.passing.is_empty()).then_some(Part::Passing))
    }

    /// Takes those that are free, or held by whom they are taken over from.
    pub(super) fn take(&self, part: Part, statement: &mut Statement<'a>) {
        let wanted = match part {
            Part::Lasting => &self.lasting,
            Part::Passing => &self.passing,
        };
        let wants = || wanted.values();
        let status = |want: &Want| want.joins.map(codes::status);
        // Nobody is saga zero, so nothing is taken over from it.
        let previous = |want: &Want| want.previous.map_or(Uuid::nil(), |saga| saga.0);
        let joins = wants().any(|want| want.joins.is_some());
        let mut rows = columns(Rows::new("c"), || wanted.keys().copied())
            .uuids("saga_id", wants().map(|want| want.saga.0))
            .uuids("previous", wants().map(previous));
        if joins {
            rows = rows.optional_ints("status", wants().map(status));
        }
        let rows = statement.rows(rows);
        let status = if joins { ", status" } else { "" };
        let conflict = match part {
            Part::Lasting => {
                "DO UPDATE SET saga_id = excluded.saga_id, previous = excluded.previous \
                 WHERE claims.saga_id = excluded.previous"
            }
            Part::Passing => "DO NOTHING",
        };
        statement.push(&format!(
            "INSERT INTO claims (definition, kind, token, saga_id, previous{status}) \
             SELECT definition, kind, token, saga_id, previous{status} FROM {rows} WHERE true \
             ON CONFLICT (definition, kind, token) {conflict} RETURNING saga_id, definition, kind, token"
        ));
    }

    /// The writes that did not get all that they need, by what [`take`](Claims::take) returned.
    pub(super) fn lost(&self, obtained: &[Row]) -> Result<HashSet<SagaId>, StoreError> {
        let joined: HashSet<(String, i64, String)> = (self.lasting.iter().filter(|(_, want)| want.joins.is_some()))
            .map(|(claim, _)| {
                let (definition, token) = (claim.definition.to_string(), text::key(&claim.token).into_owned());
                (definition, codes::claim_kind(claim.kind), token)
            })
            .collect();
        let mut missing = self.needed.clone();
        for row in obtained {
            if !joined.is_empty() && joined.contains(&(row.string(1)?, row.int(2)?, row.string(3)?)) {
                continue;
            }
            if let Some(count) = missing.get_mut(&SagaId(row.uuid(0)?)) {
                *count -= 1;
            }
        }
        Ok(missing.into_iter().filter(|(_, count)| *count > 0).map(|(saga, _)| saga).collect())
    }

    /// The sagas with claims that were not `written`: changed meanwhile, or there is a saga of that id.
    pub(super) fn unwritten(&self, written: &HashSet<Uuid>) -> HashSet<SagaId> {
        self.needed.keys().copied().filter(|saga| !written.contains(&saga.0)).collect()
    }
}

fn is_passing(claim: &Claim) -> bool {
    matches!(claim.kind, ClaimKind::Lock | ClaimKind::Slot)
}

/// The columns that name a claim.
pub(super) fn columns<'a, I: Iterator<Item = &'a Claim>>(rows: Rows<'a>, claims: impl Fn() -> I) -> Rows<'a> {
    rows.texts("definition", claims().map(|claim| Cow::Borrowed(&*claim.definition)))
        .ints("kind", claims().map(|claim| codes::claim_kind(claim.kind)))
        .texts("token", claims().map(|claim| text::key(&claim.token)))
}
