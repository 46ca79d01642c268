//! Why a saga is where it is. What can be told from the saga alone is in [`crate::explain`]; what only the database or the
//! broker know is added here.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use uuid::Uuid;

use super::Api;
use super::path::SagaPath;
use super::problem::{Answer, Kind, Problem};
use crate::core::definition::Definition;
use crate::core::id::SagaId;
use crate::core::saga::Saga;
use crate::explain::{self, Explanation, Other, explain};
use crate::health::Part;
use crate::store::{Claim, ClaimKind, Store, read_listed};

/// `GET /v1/sagas/{id}/explanation`
pub(super) async fn show<S: Store>(State(api): State<Arc<Api<S>>>, SagaPath(id): SagaPath) -> Answer {
    let shown = api.saga(id).await?;
    let Some(definition) = shown.definition() else {
        let Saga { definition, revision, .. } = &shown.saga;
        let why = format!("revision {revision} of the definition `{definition}` can't be read; the log says why");
        return Err(Problem::new(Kind::Internal, why));
    };
    let mut explanation = explain(definition, &shown.saga, api.clock.now());
    api.add_sagas(&mut explanation).await?;
    api.add_holders(definition, &shown.saga, &mut explanation).await?;
    if let Some(why) = api.health.trouble(Part::Broker).filter(|_| !shown.saga.status().is_terminal()) {
        explanation.notes.insert(0, format!("the broker is away, so that nothing is sent and no answer comes: {why}"));
    }
    Ok(super::json(StatusCode::OK, &explanation))
}

impl<S: Store> Api<S> {
    /// The statuses of the children that it waits for.
    async fn add_sagas(&self, explanation: &mut Explanation) -> Result<(), Problem> {
        let others = || explanation.waits.iter().flat_map(|wait| &wait.sagas);
        let ids: Vec<SagaId> = others().filter_map(|other| Uuid::try_parse(&other.id).ok()).map(SagaId).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let found = self.store.load(&ids).await?;
        let found = found.iter().map(read_listed).collect::<Result<Vec<Saga>, _>>()?;
        for other in explanation.waits.iter_mut().flat_map(|wait| &mut wait.sagas) {
            let saga = found.iter().find(|saga| saga.id.to_string() == other.id);
            other.status = Some(saga.map_or("not there yet", |saga| saga.status().as_str()).to_owned());
        }
        Ok(())
    }

    /// Who keeps it from beginning.
    async fn add_holders(
        &self,
        definition: &Definition,
        saga: &Saga,
        explanation: &mut Explanation,
    ) -> Result<(), Problem> {
        let Some(wait) = explanation.waits.iter_mut().find(|wait| wait.kind == explain::Kind::Turn) else {
            return Ok(());
        };
        if let Some(lock) = &saga.lock {
            let claim = Claim { definition: definition.name.clone(), kind: ClaimKind::Lock, token: lock.to_string() };
            let holders = self.store.holders(&[claim]).await?;
            let other = |holder: crate::store::Holder| Other {
                id: holder.saga.to_string(),
                status: Some(format!("{}, holds the lock", holder.status.as_str())),
            };
            wait.sagas = holders.into_iter().map(other).collect();
        }
        if let Some(most) = definition.max_running {
            let taken = self.store.slots(&definition.name).await?.len();
            explanation.notes.push(format!("{taken} of the {most} places of `max_running` are taken"));
        }
        Ok(())
    }
}
