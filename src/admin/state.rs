//! Whether sagad lives, whether it can work, and its figures.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::Api;
use super::problem::{Answer, Kind, Problem};
use crate::health::{Health, Part};
use crate::store::Store;

/// `GET /healthz`: it answers, so it lives.
pub(super) async fn alive() -> Response {
    super::json(StatusCode::OK, &json!({ "status": "alive" }))
}

/// `GET /readyz`: database and broker in reach, topology in place; each part with the reason why not.
pub(super) async fn ready<S: Store>(State(api): State<Arc<Api<S>>>) -> Answer {
    readiness(&api.health)
}

/// 200 if every part works, else 503 with the reasons.
pub(super) fn readiness(health: &Health) -> Answer {
    let parts = [("database", Part::Store), ("broker", Part::Broker)].map(|(name, part)| (name, health.trouble(part)));
    let check = |trouble: &Option<String>| match trouble {
        None => json!({ "up": true }),
        Some(why) => json!({ "up": false, "reason": why }),
    };
    let checks: Value = parts.iter().map(|(name, trouble)| ((*name).to_owned(), check(trouble))).collect();
    let troubles: Vec<String> =
        parts.iter().filter_map(|(name, trouble)| Some(format!("{name}: {}", trouble.as_ref()?))).collect();
    if troubles.is_empty() {
        return Ok(super::json(StatusCode::OK, &json!({ "status": "ready", "checks": checks })));
    }
    Err(Problem::new(Kind::NotReady, troubles.join("; ")).with("checks", checks))
}

/// `GET /metrics`, for Prometheus.
pub(super) async fn metrics<S: Store>(State(api): State<Arc<Api<S>>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], api.metrics.render()).into_response()
}
