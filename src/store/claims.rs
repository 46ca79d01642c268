//! Claims that a commit takes: those of births, which fail with any of theirs, and joined ones, which are taken if free.

use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

use super::statement::{Row, Rows, Statement};
use super::{Batch, Claim, SagaWrite, StoreError, codes, text};
use crate::core::id::SagaId;

/// The claims of a batch, in the order in which every transaction takes them, so that no two wait for each other.
pub(super) struct Claims<'a> {
    wanted: BTreeMap<&'a Claim, Want>,
    /// How many claims each birth needs.
    needed: HashMap<SagaId, usize>,
}

/// Who wants a claim.
struct Want {
    saga: SagaId,
    /// From this ended saga.
    previous: Option<SagaId>,
    /// Whether it is a birth, which does not happen without.
    birth: bool,
}

impl<'a> Claims<'a> {
    /// The claims of the births among `writes` and the joined ones of `batch`, but for those of `stale` births; and the
    /// births that lose one to another birth of the same batch.
    pub(super) fn of(
        writes: &[&'a SagaWrite],
        batch: &'a Batch,
        stale: &HashSet<SagaId>,
    ) -> (Claims<'a>, HashSet<SagaId>) {
        let (mut wanted, mut needed, mut lost) = (BTreeMap::new(), HashMap::new(), HashSet::new());
        for write in writes {
            for (claim, previous) in write.birth.iter().flat_map(|birth| &birth.claims) {
                match wanted.entry(claim) {
                    Entry::Vacant(vacant) => {
                        vacant.insert(Want { saga: write.id, previous: *previous, birth: true });
                        *needed.entry(write.id).or_default() += 1;
                    }
                    Entry::Occupied(taken) if taken.get().saga == write.id => {}
                    Entry::Occupied(_) => {
                        lost.insert(write.id);
                    }
                }
            }
        }
        for (claim, saga) in batch.joined.iter().filter(|(_, saga)| !stale.contains(saga)) {
            wanted.entry(claim).or_insert(Want { saga: *saga, previous: None, birth: false });
        }
        (Claims { wanted, needed }, lost)
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Takes those that are free, or held by whom they are taken over from.
    pub(super) fn take(&self, statement: &mut Statement<'a>) {
        let wants = || self.wanted.values();
        // Nobody is saga zero, so nothing is taken over from it.
        let previous = |want: &Want| want.previous.map_or(Uuid::nil(), |saga| saga.0);
        let rows = columns(Rows::new("c"), || self.wanted.keys().copied())
            .uuids("saga_id", wants().map(|want| want.saga.0))
            .uuids("previous", wants().map(previous));
        let rows = statement.rows(rows);
        statement.push(&format!(
            "INSERT INTO claims (definition, kind, token, saga_id, previous) \
             SELECT definition, kind, token, saga_id, previous FROM {rows} WHERE true \
             ON CONFLICT (definition, kind, token) DO UPDATE SET saga_id = excluded.saga_id, previous = excluded.previous \
             WHERE claims.saga_id = excluded.previous RETURNING saga_id, definition, kind, token"
        ));
    }

    /// The births that did not get all that they need, by what [`take`](Claims::take) returned.
    pub(super) fn lost(&self, obtained: &[Row]) -> Result<HashSet<SagaId>, StoreError> {
        let joined: HashSet<(String, i64, String)> = (self.wanted.iter().filter(|(_, want)| !want.birth))
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

    /// The births among those with claims that were not `written`: there is a saga of that id.
    pub(super) fn unborn(&self, written: &HashSet<Uuid>) -> HashSet<SagaId> {
        self.needed.keys().copied().filter(|saga| !written.contains(&saga.0)).collect()
    }
}

/// The columns that name a claim.
pub(super) fn columns<'a, I: Iterator<Item = &'a Claim>>(rows: Rows<'a>, claims: impl Fn() -> I) -> Rows<'a> {
    rows.texts("definition", claims().map(|claim| Cow::Borrowed(&*claim.definition)))
        .ints("kind", claims().map(|claim| codes::claim_kind(claim.kind)))
        .texts("token", claims().map(|claim| text::key(&claim.token)))
}
