//! What paths name. A parameter that can't be read is an unknown thing, not a bad request: nothing has such a name.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use uuid::Uuid;

use super::problem::{Kind, Problem};
use crate::core::id::SagaId;

/// `{id}` of a saga.
pub(super) struct SagaPath(pub(super) SagaId);

/// `{step}`.
pub(super) struct StepPath(pub(super) String);

/// `{name}` of a signal.
pub(super) struct SignalPath(pub(super) String);

/// `{name}` of a definition.
pub(super) struct NamePath(pub(super) String);

/// `{id}` of a dead letter.
pub(super) struct LetterPath(pub(super) Uuid);

impl<S: Send + Sync> FromRequestParts<S> for SagaPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<SagaPath, Problem> {
        let id = parameter("id", parts, state).await.and_then(|id| Uuid::try_parse(&id).ok());
        let unknown = || Problem::new(Kind::UnknownSaga, "there is no saga of this id: ids are UUIDs");
        id.map(|id| SagaPath(SagaId(id))).ok_or_else(unknown)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for StepPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<StepPath, Problem> {
        let unknown = || Problem::new(Kind::UnknownStep, "there is no step of this name");
        parameter("step", parts, state).await.map(StepPath).ok_or_else(unknown)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for SignalPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<SignalPath, Problem> {
        let unknown = || Problem::new(Kind::StateForbids, "no step of the saga waits for a signal of this name");
        parameter("name", parts, state).await.map(SignalPath).ok_or_else(unknown)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for NamePath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<NamePath, Problem> {
        let unknown = || Problem::new(Kind::UnknownDefinition, "there is no definition of this name");
        parameter("name", parts, state).await.map(NamePath).ok_or_else(unknown)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for LetterPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<LetterPath, Problem> {
        let id = parameter("id", parts, state).await.and_then(|id| Uuid::try_parse(&id).ok());
        id.map(LetterPath).ok_or_else(Problem::unknown_dead_letter)
    }
}

/// A parameter of the path, decoded; `None` if it is no UTF-8.
async fn parameter<S: Send + Sync>(name: &str, parts: &mut Parts, state: &S) -> Option<String> {
    let Path(all) = Path::<Vec<(String, String)>>::from_request_parts(parts, state).await.ok()?;
    all.into_iter().find(|(other, _)| other == name).map(|(_, value)| value)
}
