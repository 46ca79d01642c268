//! What only one saga may hold, beside what the saga should hold.

use std::time::Duration;

use super::Findings;
use crate::core::definition::{Definition, KeyReuse, Lock, LockMode};
use crate::core::id::SagaId;
use crate::core::saga::Saga;
use crate::store::audit::KeyHolder;
use crate::store::{Claim, ClaimKind, stored_key};

/// Where a business key is.
pub(super) const KEY: (&str, &str) = ("claims", "saga_id");

/// Where a lock is.
pub(super) const LOCK: (&str, &str) = ("claims", "token");

/// How far clocks may differ: of two sagas that ended, the older may have the later time.
const SKEW: Duration = Duration::from_secs(60);

/// How to put them right.
#[derive(Debug, Default)]
pub(super) struct Claims {
    pub(super) take: Vec<(Claim, Option<SagaId>)>,
    pub(super) give_up: Vec<Claim>,
}

/// Holds the claims against the saga; `has_ended`: at any time.
pub(super) fn check(findings: &mut Findings<'_>, saga: &Saga, has_ended: bool, definition: &Definition) -> Claims {
    let mut claims = Claims::default();
    key(findings, saga, has_ended, definition, &mut claims);
    passing(findings, saga, has_ended, definition, &mut claims);
    claims
}

fn key(findings: &mut Findings<'_>, saga: &Saga, has_ended: bool, definition: &Definition, claims: &mut Claims) {
    let Some(key) = &saga.key else { return };
    // By another key nobody was looked for: that is to be mended first.
    if findings.whole.columns.key.as_deref() != Some(&*stored_key(key)) {
        return;
    }
    // One that has ended may have lost it before a late answer had it begin again to undo.
    let again = has_ended && !saga.status().is_terminal() && definition.key_reuse != KeyReuse::Never;
    let (stored, from) = match &findings.whole.key_holder {
        Some(holder) if holder.saga == saga.id => return,
        // Whoever starts another one takes the key over all the same.
        None if again || definition.key_reuse.frees(saga.status()) => return,
        None => (format!("not held for the business key {key:?}"), None),
        Some(KeyHolder { saga: other, row: None }) => {
            (format!("{other}, which is not there, for the business key {key:?}"), Some(*other))
        }
        Some(KeyHolder { saga: other, row: Some((theirs, began)) }) => {
            let same = theirs.as_deref() == Some(&*stored_key(key));
            // The key of an ended saga is taken over by a newer one. One that never ended keeps it.
            if same && has_ended && saga.created_at <= began.plus(SKEW) {
                return;
            }
            let why = if same { "which has no right to it" } else { "which has another" };
            (format!("{other}, {why}, for the business key {key:?}"), Some(*other))
        }
    };
    let expected = if from.is_some() { "this saga" } else { "held by this saga" };
    findings.mendable(KEY, stored, expected.to_owned());
    let claim = Claim { definition: saga.definition.clone(), kind: ClaimKind::Key, token: key.to_string() };
    claims.take.push((claim, from));
}

/// Locks and slots: those of a saga that has begun, and has not ended yet.
fn passing(findings: &mut Findings<'_>, saga: &Saga, has_ended: bool, definition: &Definition, claims: &mut Claims) {
    let let_in = saga.started_at.is_some() && !has_ended;
    let lock = match &definition.lock {
        // Had from its birth on.
        Some(Lock { mode: LockMode::Reject, .. }) if !has_ended => saga.lock.as_deref(),
        Some(Lock { mode: LockMode::Queue, .. }) if let_in => saga.lock.as_deref(),
        _ => None,
    };
    let mut has_lock = false;
    for claim in &findings.whole.claims {
        let own = *claim.definition == *saga.definition;
        let (what, right) = match claim.kind {
            ClaimKind::Lock => ("the lock", own && lock.is_some_and(|lock| stored_key(lock) == claim.token)),
            _ => ("the slot", own && let_in),
        };
        if right {
            has_lock |= claim.kind == ClaimKind::Lock;
            continue;
        }
        let stored = format!("{what} {:?} of `{}`, which the saga holds", claim.token, claim.definition);
        findings.mendable(("claims", "kind"), stored, "nobody's, or another's".to_owned());
        claims.give_up.push(claim.clone());
    }
    if let Some(lock) = lock.filter(|_| !has_lock) {
        findings.mendable(LOCK, format!("not held for the lock {lock:?}"), "held by this saga".to_owned());
        let claim = Claim { definition: saga.definition.clone(), kind: ClaimKind::Lock, token: lock.to_owned() };
        claims.take.push((claim, None));
    }
}
