//! The gate: sagas of a definition with `lock` or `max_running` begin only with a lock and a slot of their own.
//!
//! Both are claims. A lock that refuses is claimed by the birth; everything else by the transition that lets a saga in. Who
//! is let in when is up to [`crate::admission`].

use std::sync::Arc;

use serde_json::Value;

use super::round::{Outcome, Round};
use super::work::Work;
use crate::broker::names::Names;
use crate::core::definition::{Definition, Lock, LockMode};
use crate::core::id::SagaId;
use crate::core::input::Input;
use crate::core::saga::{Phase, Saga, Status};
use crate::core::start::lock_of;
use crate::intake::{InputError, Item, Refusal, Request, Start};
use crate::store::{Claim, ClaimKind, Hold, Store, StoreError};
use crate::wire::signature::Signer;

/// What a start claims: the first that somebody else holds decides what becomes of it, so the idempotency key goes first.
///
/// # Errors
/// The lock's key can't be made from the input.
pub(super) fn claims_of(
    definition: &Definition,
    key: Option<&str>,
    start: &Start,
) -> Result<Vec<Claim>, Vec<InputError>> {
    let claim = |kind, token: &str| Claim { definition: definition.name.clone(), kind, token: token.to_owned() };
    let lock = rejecting_lock(definition, &start.input)?.map(|token| claim(ClaimKind::Lock, &token));
    let start = start.idempotency_key.as_deref().map(|token| claim(ClaimKind::Start, token));
    let key = key.map(|token| claim(ClaimKind::Key, token));
    Ok(start.into_iter().chain(key).chain(lock).collect())
}

fn rejecting_lock(definition: &Definition, input: &Arc<Value>) -> Result<Option<Arc<str>>, Vec<InputError>> {
    match &definition.lock {
        Some(Lock { mode: LockMode::Reject, .. }) => lock_of(definition, input),
        _ => Ok(None),
    }
}

/// Whether a start may have what an ended saga holds.
pub(super) fn may_take_over(definition: &Definition, claim: &Claim, holder: Status) -> bool {
    claim.kind == ClaimKind::Key && definition.key_reuse.frees(holder)
}

/// What its row says of whether a saga waits to be let in; `None` where nothing keeps it from beginning.
pub(super) fn hold(definition: &Definition, saga: &Saga) -> Option<Hold> {
    if !definition.is_gated() {
        return None;
    }
    match saga.phase {
        Phase::Pending { held: true, .. } if saga.suspended.is_none() => {
            Some(Hold::On { lock: queued_lock(definition, saga) })
        }
        _ => Some(Hold::Off),
    }
}

/// The lock that a saga claims as it is let in.
fn queued_lock(definition: &Definition, saga: &Saga) -> Option<Arc<str>> {
    match &definition.lock {
        Some(Lock { mode: LockMode::Queue, .. }) => saga.lock.clone(),
        _ => None,
    }
}

fn claims_of_admission(work: &Work, slot: Option<&str>) -> Vec<Claim> {
    let definition = &work.pinned.definition;
    let claim = |kind, token: &str| Claim { definition: definition.name.clone(), kind, token: token.to_owned() };
    let lock = queued_lock(definition, &work.saga).map(|token| claim(ClaimKind::Lock, &token));
    lock.into_iter().chain(slot.map(|token| claim(ClaimKind::Slot, token))).collect()
}

impl Round {
    /// Finds out who holds what the sagas claim that are to be let in; like [`Round::resolve_starts`], only where the commit
    /// found that somebody does.
    pub(super) async fn resolve_admissions<S: Store>(
        &mut self,
        batch: &[Item],
        again: bool,
        store: &S,
    ) -> Result<(), StoreError> {
        let mut claims = Vec::new();
        for item in batch.iter().filter(|_| again) {
            if let Request::Admit { saga, slot } = &item.request
                && let Some(work) = self.sagas.get(saga)
            {
                claims.extend(claims_of_admission(work, slot.as_deref()));
            }
        }
        claims.sort_unstable();
        claims.dedup();
        for holder in store.holders(&claims).await? {
            self.held.insert(holder.claim, (holder.saga, holder.status));
        }
        Ok(())
    }

    /// Lets a saga in, if it is still held and nobody else has its lock or its slot.
    pub(super) fn decide_admission(
        &mut self,
        id: SagaId,
        slot: Option<&str>,
        item: &Item,
        names: &Names,
        signer: &Signer,
    ) -> Outcome {
        let claims = self.sagas.get(&id).map(|work| claims_of_admission(work, slot)).unwrap_or_default();
        if let Some(taken) = claims.iter().find(|claim| self.held.contains_key(*claim)) {
            let result = Err(Refusal::Locked(taken.token.clone()));
            return Outcome::Saga { about: id, result };
        }
        let begun = |round: &Round| round.sagas.get(&id).map_or(0, |work| work.entries.len());
        let before = begun(self);
        let outcome = self.decide_saga(id, &Input::Admit, item, names, signer);
        if begun(self) > before
            && let Some(work) = self.sagas.get_mut(&id)
        {
            for claim in claims {
                self.held.insert(claim.clone(), (id, work.saga.status()));
                work.claims.push((claim, None));
            }
        }
        outcome
    }
}
