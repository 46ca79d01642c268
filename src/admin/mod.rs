//! The HTTP API: what operators and their tools talk to.
//!
//! ```text
//!   connection ─server─> observe ─access─> route ─┬─ reads ──────────────> Store
//!                                                 ├─ starts and orders ──> Intake, then Store for the answer
//!                                                 └─ replays ────────────> Intake's publisher
//! ```
//!
//! Nothing in here changes a saga: what steers goes through [`Intake`] like every other input. Every error is a
//! [`problem`] document, but for what is not even HTTP: hyper answers that with a bare status.

mod access;
mod body;
mod dead_letters;
mod definitions;
mod explanation;
mod orders;
mod path;
pub mod problem;
mod sagas;
mod server;
mod state;
mod tls;
pub mod view;
mod wait;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

pub use access::{Access, Actor};
pub use server::{BindError, Server};
pub use tls::TlsError;

use crate::broker::names::Names;
use crate::clock::Clock;
use crate::definitions::Definitions;
use crate::health::Health;
use crate::intake::Intake;
use crate::metrics::{HTTP_SECONDS, Metrics};
use crate::store::Store;
use problem::{Kind, Problem};

/// What the API works with.
#[derive(Debug)]
pub struct Api<S> {
    /// For reading.
    pub store: S,
    /// For steering.
    pub intake: Intake,
    /// What works.
    pub health: Health,
    /// The names of sagad's own queues.
    pub names: Names,
    /// What can be started, and the names of steps.
    pub definitions: Arc<Definitions<S>>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// What was counted.
    pub metrics: Metrics,
    /// The largest body, in bytes.
    pub max_body: usize,
    /// How long a body may take to come.
    pub read_timeout: Duration,
    /// Cancelled when sagad stops: whoever waits is answered at once.
    pub stopping: CancellationToken,
}

/// All routes.
pub fn router<S: Store>(api: Arc<Api<S>>, access: Access) -> Router {
    let guarded = Router::new()
        .route("/v1/sagas", get(sagas::list).post(sagas::start))
        .route("/v1/sagas/{id}", get(sagas::show))
        .route("/v1/sagas/{id}/history", get(sagas::history))
        .route("/v1/sagas/{id}/explanation", get(explanation::show))
        .route("/v1/sagas/{id}/cancel", post(orders::cancel))
        .route("/v1/sagas/{id}/suspend", post(orders::suspend))
        .route("/v1/sagas/{id}/resume", post(orders::resume))
        .route("/v1/sagas/{id}/steps/{step}/retry", post(orders::retry))
        .route("/v1/sagas/{id}/steps/{step}/resolve", post(orders::resolve))
        .route("/v1/sagas/{id}/signals/{name}", post(orders::signal))
        .route("/v1/definitions", get(definitions::list))
        .route("/v1/definitions/reload", post(definitions::reload))
        .route("/v1/definitions/{name}", get(definitions::show))
        .route("/v1/definitions/{name}/graph.svg", get(definitions::graph))
        .route("/v1/dead-letters", get(dead_letters::list))
        .route("/v1/dead-letters/{id}", get(dead_letters::show).merge(delete(dead_letters::discard)))
        .route("/v1/dead-letters/{id}/replay", post(dead_letters::replay))
        .route("/metrics", get(state::metrics))
        .fallback(unknown_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(Arc::new(access), access::admit));
    let open = Router::new()
        .route("/healthz", get(state::alive))
        .route("/readyz", get(state::ready))
        .route("/schema.json", get(definitions::schema))
        .method_not_allowed_fallback(method_not_allowed);
    let caught = |_| Problem::new(Kind::Internal, "a bug in sagad; the log says more").into_response();
    guarded.merge(open).with_state(api).layer(CatchPanicLayer::custom(caught)).layer(from_fn(observe))
}

/// The routes of a sagad that has no database yet: it says that it lives, and what it waits for.
pub fn starting(health: Health) -> Router {
    let not_yet = async || Problem::unavailable("sagad is starting: /readyz says what it waits for", 1);
    let routes = Router::new()
        .route("/healthz", get(state::alive))
        .route("/readyz", get(move || async move { state::readiness(&health) }))
        .fallback(not_yet)
        .method_not_allowed_fallback(method_not_allowed);
    routes.layer(from_fn(observe))
}

/// Measures every request, and says what browsers and proxies must know of every answer.
async fn observe(request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = request.method().clone();
    // The pattern, not the path: as many time series as there are routes.
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let mut response = next.run(request).await;
    let status = response.status().as_u16().to_string();
    // Methods are the client's to choose.
    let label =
        if method.is_safe() || matches!(method, Method::POST | Method::DELETE) { method.as_str() } else { "other" };
    metrics::histogram!(HTTP_SECONDS, "route" => route, "method" => label.to_owned(), "status" => status)
        .record(began.elapsed().as_secs_f64());
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn unknown_route(request: Request) -> Problem {
    Problem::new(Kind::UnknownRoute, format!("there is nothing at {}", request.uri().path()))
}

async fn method_not_allowed(request: Request) -> Problem {
    let (method, path) = (request.method(), request.uri().path());
    Problem::new(Kind::MethodNotAllowed, format!("{path} does not take {method}"))
}

/// A JSON answer.
fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let content_type = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (status, content_type, crate::store::encode(value)).into_response()
}

/// A page of something.
#[derive(Serialize)]
struct Page<T> {
    items: Vec<T>,
    next_cursor: Option<String>,
}
