//! What comes by business key: signals, and events of other services.

use super::round::{Outcome, Round};
use crate::broker::names::Names;
use crate::core::id::SagaId;
use crate::core::input::Input;
use crate::intake::{ForKey, Item, Keyed, Request};
use crate::store::{Claim, ClaimKind, Store, StoreError};
use crate::subscriptions::{Event, bearing_on};
use crate::wire::signature::Signer;

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
            Request::Start(_) | Request::Keep(_) => None,
        }
    }

    /// Decides something for the saga that has a key; one that began in this very round is known as well.
    pub(super) fn decide_keyed(&mut self, keyed: &Keyed, item: &Item, names: &Names, signer: &Signer) -> Outcome {
        let Some(saga) = self.saga_of(item) else {
            return self.nobody(keyed, item);
        };
        if !self.sagas.contains_key(&saga) {
            return self.missing(saga, item);
        }
        match &keyed.what {
            ForKey::Signal(input) => self.decide_saga(saga, input, item, names, signer),
            ForKey::Event(event) => {
                let mut outcome = Outcome::Nobody;
                for input in self.inputs(saga, &keyed.key, event) {
                    outcome = self.decide_saga(saga, &input, item, names, signer);
                    if outcome.is_undecided() {
                        break;
                    }
                }
                outcome
            }
        }
    }

    fn nobody(&mut self, keyed: &Keyed, item: &Item) -> Outcome {
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

fn claim_of(keyed: &Keyed) -> Claim {
    Claim { definition: keyed.definition.clone(), kind: ClaimKind::Key, token: keyed.key.clone() }
}
