//! What comes in: bodies as JSON, read with bounds; their members; query parameters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::{HeaderMap, header, request::Parts};
use futures_util::StreamExt;
use serde_json::{Map, Value};

use super::Api;
use super::problem::{Flaw, Kind, Problem};
use crate::json;
use crate::store::Store;

/// A JSON body; `None` if there is none.
#[derive(Debug)]
pub(super) struct Json(pub(super) Option<Value>);

impl<S: Store> FromRequest<Arc<Api<S>>> for Json {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Arc<Api<S>>) -> Result<Json, Problem> {
        let is_json = declares_json(request.headers());
        let bytes = read(request, api.max_body, api.read_timeout).await?;
        if bytes.is_empty() {
            return Ok(Json(None));
        }
        if !is_json {
            let detail = "send the body as JSON, with the header `Content-Type: application/json`";
            return Err(Problem::new(Kind::UnsupportedMediaType, detail));
        }
        match json::read(&bytes) {
            Ok(value) => Ok(Json(Some(value))),
            Err(error) => Err(Problem::new(Kind::MalformedJson, error.to_string())
                .with("line", error.line.into())
                .with("column", error.column.into())),
        }
    }
}

/// Browsers send `text/plain` and forms anywhere without asking, JSON only where they were allowed to.
fn declares_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let mut parts = value.split(';').map(|part| part.trim().to_ascii_lowercase());
    let essence = parts.next().unwrap_or_default();
    let is_json = essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    let charset = parts.find_map(|part| part.strip_prefix("charset=").map(|name| name.trim_matches('"').to_owned()));
    is_json && charset.is_none_or(|charset| charset == "utf-8")
}

async fn read(request: Request, limit: usize, patience: Duration) -> Result<Vec<u8>, Problem> {
    let too_large = || {
        let detail = format!("the body may have {limit} bytes at the most (`http.max_body`)");
        Problem::new(Kind::BodyTooLarge, detail)
    };
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if declared.is_some_and(|length: u64| length > limit as u64) {
        return Err(too_large());
    }
    let mut chunks = request.into_body().into_data_stream();
    let mut bytes = Vec::new();
    let whole = async {
        while let Some(chunk) = chunks.next().await {
            let broken = |error| Problem::new(Kind::MalformedJson, format!("the body did not come whole: {error}"));
            let chunk = chunk.map_err(broken)?;
            if bytes.len() + chunk.len() > limit {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(())
    };
    match tokio::time::timeout(patience, whole).await {
        Ok(outcome) => outcome.map(|()| bytes),
        Err(_) => {
            let detail = format!("the body took longer than {patience:?} (`http.read_timeout`)");
            Err(Problem::new(Kind::SlowRequest, detail))
        }
    }
}

/// The members of a body that is an object. All flaws are found before any is told.
#[derive(Debug)]
pub(super) struct Members {
    left: Map<String, Value>,
    known: Vec<&'static str>,
    flaws: Vec<Flaw>,
}

impl Members {
    /// Of a body; none is an empty object.
    pub(super) fn of(body: Json) -> Result<Members, Problem> {
        match body.0.unwrap_or_else(|| Map::new().into()) {
            Value::Object(left) => Ok(Members { left, known: Vec::new(), flaws: Vec::new() }),
            _ => Err(Problem::new(Kind::InvalidBody, "the body must be an object").with_errors(vec![Flaw {
                pointer: Some(String::new()),
                parameter: None,
                detail: "must be an object".into(),
            }])),
        }
    }

    /// A member that may be missing; null counts as missing.
    pub(super) fn optional<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(Value) -> Result<T, String>,
    ) -> Option<T> {
        self.known.push(name);
        let value = self.left.remove(name).filter(|value| !value.is_null())?;
        read(value).map_err(|detail| self.flaw(name, detail)).ok()
    }

    /// A member that must be there.
    pub(super) fn required<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(Value) -> Result<T, String>,
    ) -> Option<T> {
        self.known.push(name);
        match self.left.remove(name) {
            Some(value) => read(value).map_err(|detail| self.flaw(name, detail)).ok(),
            None => {
                self.flaw(name, "is missing".into());
                None
            }
        }
    }

    /// Notes what is wrong with a member.
    pub(super) fn flaw(&mut self, name: &str, detail: String) {
        // JSON pointer: `~` and `/` are escaped.
        let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
        self.flaws.push(Flaw { pointer: Some(pointer), parameter: None, detail });
    }

    /// Every flaw, unknown members among them.
    pub(super) fn finish(mut self) -> Result<(), Problem> {
        let known = self.known.join(", ");
        for name in std::mem::take(&mut self.left).keys() {
            let detail = match self.known.as_slice() {
                [] => "is unknown: this call takes no members".to_owned(),
                _ => format!("is unknown; known are {known}"),
            };
            self.flaw(name, detail);
        }
        if self.flaws.is_empty() {
            return Ok(());
        }
        let lines = self.flaws.iter().map(|flaw| {
            format!("`{}` {}", flaw.pointer.as_deref().unwrap_or_default().trim_start_matches('/'), flaw.detail)
        });
        let detail = lines.collect::<Vec<_>>().join("; ");
        Err(Problem::new(Kind::InvalidBody, detail).with_errors(self.flaws))
    }
}

/// A string member.
pub(super) fn text(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err("must be a string".into()),
    }
}

/// A string member with something in it.
pub(super) fn non_empty(value: Value) -> Result<String, String> {
    match text(value)? {
        text if text.trim().is_empty() => Err("must not be empty".into()),
        text => Ok(text),
    }
}

/// The query parameters, decoded.
#[derive(Debug)]
pub(super) struct Query(BTreeMap<String, Vec<String>>);

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Query, Problem> {
        Query::parse(parts.uri.query().unwrap_or_default())
    }
}

impl Query {
    fn parse(query: &str) -> Result<Query, Problem> {
        let mut parameters: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            if value.contains('\0') {
                return Err(Problem::parameter(&name, "can't contain the character NUL"));
            }
            parameters.entry(name.into_owned()).or_default().push(value.into_owned());
        }
        Ok(Query(parameters))
    }

    /// Every value of a parameter that may be repeated.
    pub(super) fn all(&mut self, name: &str) -> Vec<String> {
        self.0.remove(name).unwrap_or_default()
    }

    /// A parameter that may be given once.
    pub(super) fn one<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(String) -> Result<T, String>,
    ) -> Result<Option<T>, Problem> {
        let mut values = self.all(name);
        match (values.pop(), values.is_empty()) {
            (None, _) => Ok(None),
            (Some(value), true) => read(value).map(Some).map_err(|detail| Problem::parameter(name, detail)),
            (Some(_), false) => Err(Problem::parameter(name, "can be given once only")),
        }
    }

    /// How many items a page may have.
    pub(super) fn limit(&mut self, default: usize, largest: usize) -> Result<usize, Problem> {
        let read = |value: String| match value.parse() {
            Ok(limit) if (1..=largest).contains(&limit) => Ok(limit),
            _ => Err(format!("must be a whole number from 1 to {largest}")),
        };
        Ok(self.one("limit", read)?.unwrap_or(default))
    }

    /// Parameters that nobody asked for are mistakes.
    pub(super) fn finish(self) -> Result<(), Problem> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(name) => Err(Problem::parameter(&name, "is not a parameter of this call")),
        }
    }
}
