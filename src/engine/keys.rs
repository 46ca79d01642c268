//! What comes by business key, signals and events of other services, and what comes too early.

use std::sync::Arc;

use super::gate::may_take_over;
use super::round::{Outcome, Round};
use super::work::Work;
use crate::broker::names::Names;
use crate::core::id::SagaId;
use crate::core::input::Input;
use crate::intake::{ForKey, Item, Keyed, Refusal, Request};
use crate::store::{Claim, ClaimKind, Store, StoreError};
use crate::subscriptions::{Event, bearing_on};
use crate::wire::put_off::{Addressee, put_off};
use crate::wire::signature::Signer;

/// How often something is put off that may have overtaken the start of its saga: 7 seconds in all. Other services' events are about orders of
/// others too, so that it must not cost much.
const SOON: u32 = 2;

/// How often something is put off for daemons with other definitions: 8 minutes in all, in which most of them get new ones.
const ROLLOUT: u32 = 4;

impl Round {
    /// Finds out which sagas have the business keys that a batch names.
    pub(super) async fn resolve_keys<S: Store>(&mut self, batch: &[Item], store: &S) -> Result<(), StoreError> {
        let keyed = batch.iter().filter_map(|item| match &item.request {
            Request::Keyed(keyed) => Some(claim_of(keyed)),
            _ => None,
        });
        let mut claims: Vec<Claim> = keyed.filter(|claim| !self.held.contains_key(claim)).collect();
        claims.sort_unstable();
        claims.dedup();
        if !claims.is_empty() {
            for holder in store.holders(&claims).await? {
                self.held.insert(holder.claim, (holder.saga, holder.status));
            }
        }
        Ok(())
    }

    /// The saga that an item is for, if it has to be there for it.
    pub(super) fn saga_of(&self, item: &Item) -> Option<SagaId> {
        match &item.request {
            Request::Saga(saga, _) | Request::Admit { saga, .. } => Some(*saga),
            Request::Keyed(keyed) => self.held.get(&claim_of(keyed)).map(|(saga, _)| *saga),
            Request::Start(_) | Request::Elsewhere(_) | Request::Keep(_) => None,
        }
    }

    /// Decides something for the saga that has a key; one that began in this very round is known as well.
    pub(super) fn decide_keyed(&mut self, keyed: &Keyed, item: &Item, names: &Names, signer: &Signer) -> Outcome {
        let Some(saga) = self.saga_of(item) else {
            return self.nobody(keyed, item, names);
        };
        if !self.sagas.contains_key(&saga) {
            return self.missing(saga, item);
        }
        // One that ended, and has no use for it: it may be for the next that has its key.
        let is_over = |work: &Work| may_take_over(&work.pinned.definition, &claim_of(keyed), work.saga.status());
        match &keyed.what {
            ForKey::Signal(input) => {
                let later = self.sagas.get(&saga).is_some_and(|work| work.fresh && is_over(work));
                match later.then(|| put_off_for(keyed, item, names)).flatten() {
                    Some(later) => later,
                    None => self.decide_saga(saga, input, item, names, signer),
                }
            }
            ForKey::Event(event) => {
                let before = self.entries_of(saga);
                let mut outcome = Outcome::Nobody;
                for input in self.inputs(saga, &keyed.key, event) {
                    outcome = self.decide_saga(saga, &input, item, names, signer);
                    if outcome.is_undecided() {
                        return outcome;
                    }
                }
                match self.sagas.get(&saga).is_some_and(is_over) && self.entries_of(saga) == before {
                    true => put_off_for(keyed, item, names).unwrap_or(outcome),
                    false => outcome,
                }
            }
        }
    }

    fn entries_of(&self, saga: SagaId) -> usize {
        self.sagas.get(&saga).map_or(0, |work| work.entries.len())
    }

    /// Who is not there yet may come: a start takes another way than what follows it.
    fn nobody(&mut self, keyed: &Keyed, item: &Item, names: &Names) -> Outcome {
        if let Some(later) = put_off_for(keyed, item, names) {
            return later;
        }
        match &keyed.what {
            // Other services' events are about orders of others too.
            ForKey::Event(_) => {
                metrics::counter!(crate::metrics::EVENTS_UNCLAIMED).increment(1);
                Outcome::Nobody
            }
            ForKey::Signal(_) => {
                let reason = format!("there is no saga `{}` with the key {:?}", keyed.definition, keyed.key);
                self.keep(item, "unknown_saga", &reason);
                Outcome::Kept { reason }
            }
        }
    }

    /// A start of a definition that only another daemon has: it may come to that one yet.
    pub(super) fn decide_elsewhere(&mut self, definition: &Arc<str>, item: &Item, names: &Names) -> Outcome {
        let to = Addressee { definition: definition.to_string(), key: None };
        if let Some(copy) = item.delivered().and_then(|message| put_off(names, message, &to, ROLLOUT)) {
            return Outcome::PutOff(Box::new(copy));
        }
        let refusal = Refusal::UnknownDefinition(definition.to_string());
        let reason = format!(
            "it begins a saga by a `{definition}` that only another daemon has loaded, and it did not come to that one in time; reload the \
             definitions and hand it in again"
        );
        self.keep(item, refusal.code(), &reason);
        Outcome::Start { about: None, result: Err(refusal) }
    }

    /// What an event is to the steps of a saga, by the revision that it is pinned to.
    fn inputs(&self, saga: SagaId, key: &str, event: &Event) -> Vec<Input> {
        let Some(work) = self.sagas.get(&saga) else { return Vec::new() };
        let definition = &work.pinned.definition;
        let inputs = bearing_on(definition, key, event).map(|(step, bearing)| Input::Event {
            step,
            bearing,
            // Several of its steps may wait for the same one.
            id: event.id.as_ref().map(|id| format!("{} {id}", definition.steps[step].name)),
            body: (*event.body).clone(),
            headers: (*event.headers).clone(),
        });
        inputs.collect()
    }
}

/// Something for a saga that may begin a moment later than it comes.
fn put_off_for(keyed: &Keyed, item: &Item, names: &Names) -> Option<Outcome> {
    let message = item.message().filter(|_| keyed.may_begin)?;
    let to = Addressee { definition: keyed.definition.to_string(), key: Some(keyed.key.clone()) };
    put_off(names, message, &to, SOON).map(|copy| Outcome::PutOff(Box::new(copy)))
}

fn claim_of(keyed: &Keyed) -> Claim {
    Claim { definition: keyed.definition.clone(), kind: ClaimKind::Key, token: keyed.key.clone() }
}
