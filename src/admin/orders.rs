//! Operators' orders. Each answers with the saga as it is afterwards.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::body::{Json, Members, non_empty, text};
use super::path::{SagaPath, SignalPath, StepPath};
use super::problem::{Answer, Kind, Problem};
use super::sagas::idempotency_key;

use super::{Actor, Api};
use crate::core::entry::Resolution;
use crate::core::id::SagaId;
use crate::core::input::Order;
use crate::store::Store;

/// `POST /v1/sagas/{id}/cancel`
pub(super) async fn cancel<S: Store>(
    api: State<Arc<Api<S>>>,
    actor: Actor,
    SagaPath(id): SagaPath,
    body: Json,
) -> Answer {
    let reason = only_reason(body)?;
    carry_out(&api, actor, id, Order::Cancel { reason }).await
}

/// `POST /v1/sagas/{id}/suspend`
pub(super) async fn suspend<S: Store>(
    api: State<Arc<Api<S>>>,
    actor: Actor,
    SagaPath(id): SagaPath,
    body: Json,
) -> Answer {
    let reason = only_reason(body)?;
    carry_out(&api, actor, id, Order::Suspend { reason }).await
}

/// `POST /v1/sagas/{id}/resume`
pub(super) async fn resume<S: Store>(
    api: State<Arc<Api<S>>>,
    actor: Actor,
    SagaPath(id): SagaPath,
    body: Json,
) -> Answer {
    let reason = only_reason(body)?;
    carry_out(&api, actor, id, Order::Resume { reason }).await
}

/// `POST /v1/sagas/{id}/steps/{step}/retry`
pub(super) async fn retry<S: Store>(
    api: State<Arc<Api<S>>>,
    actor: Actor,
    SagaPath(id): SagaPath,
    StepPath(step): StepPath,
    body: Json,
) -> Answer {
    let mut members = Members::of(body)?;
    let reason = members.optional("reason", text);
    let item = members.optional("item", element);
    members.finish()?;
    carry_out(&api, actor, id, Order::Retry { step, item, reason }).await
}

/// `POST /v1/sagas/{id}/steps/{step}/resolve`
pub(super) async fn resolve<S: Store>(
    api: State<Arc<Api<S>>>,
    actor: Actor,
    SagaPath(id): SagaPath,
    StepPath(step): StepPath,
    body: Json,
) -> Answer {
    let mut members = Members::of(body)?;
    let outcome = members.required("outcome", resolution);
    let reply = members.optional("reply", Ok);
    let reason = members.required("reason", non_empty);
    let item = members.optional("item", element);
    if reply.is_some() && matches!(outcome, Some(Resolution::Failed | Resolution::GivenUp)) {
        members.flaw("reply", "goes with the outcomes succeeded and compensated only".into());
    }
    members.finish()?;
    let (Some(outcome), Some(reason)) = (outcome, reason) else {
        return Err(Problem::new(Kind::InvalidBody, "`outcome` and `reason` are needed"));
    };
    let reply = reply.unwrap_or(Value::Null);
    carry_out(&api, actor, id, Order::Resolve { step, item, outcome, reply, reason }).await
}

/// `POST /v1/sagas/{id}/signals/{name}`: the body is the signal's payload.
pub(super) async fn signal<S: Store>(
    api: State<Arc<Api<S>>>,
    Actor(actor): Actor,
    SagaPath(id): SagaPath,
    SignalPath(name): SignalPath,
    headers: HeaderMap,
    Json(payload): Json,
) -> Answer {
    let key = idempotency_key(&headers)?;
    let payload = payload.unwrap_or_default();
    api.intake.signal(id, name, key.as_deref(), payload, &actor).await.map_err(Problem::refused)?;
    Ok(super::json(StatusCode::OK, &api.saga(id).await?.view()))
}

fn resolution(value: Value) -> Result<Resolution, String> {
    match value.as_str() {
        Some("succeeded") => Ok(Resolution::Succeeded),
        Some("failed") => Ok(Resolution::Failed),
        Some("compensated") => Ok(Resolution::Compensated),
        Some("given_up") => Ok(Resolution::GivenUp),
        _ => Err("must be succeeded, failed, compensated or given_up".into()),
    }
}

/// An element of a `foreach` step.
fn element(value: Value) -> Result<u32, String> {
    let item = value.as_u64().and_then(|item| u32::try_from(item).ok());
    item.ok_or_else(|| "must be the number of an element, from 0".into())
}

fn only_reason(body: Json) -> Result<Option<String>, Problem> {
    let mut members = Members::of(body)?;
    let reason = members.optional("reason", text);
    members.finish()?;
    Ok(reason)
}

async fn carry_out<S: Store>(api: &Api<S>, Actor(actor): Actor, id: SagaId, order: Order) -> Answer {
    api.intake.order(id, &actor, order).await.map_err(Problem::refused)?;
    Ok(super::json(StatusCode::OK, &api.saga(id).await?.view()))
}
