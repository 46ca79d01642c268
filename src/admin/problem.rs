//! Every error of the API: a problem document (RFC 9457) whose `type` never changes.
//!
//! `docs/http.md` lists them for those who call.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::core::id::SagaId;
use crate::core::input::Forbidden;
use crate::intake::{InputError, Refusal};
use crate::store::StoreError;

/// The kinds of problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "docs/http.md explains them")]
pub enum Kind {
    MalformedJson,
    InvalidParameter,
    Unauthenticated,
    Forbidden,
    CrossSite,
    UnknownRoute,
    UnknownSaga,
    UnknownStep,
    UnknownDefinition,
    UnknownDeadLetter,
    MethodNotAllowed,
    SlowRequest,
    StateForbids,
    Locked,
    BodyTooLarge,
    UnsupportedMediaType,
    UnknownHost,
    InvalidBody,
    InvalidInput,
    InvalidDefinitions,
    Internal,
    Unavailable,
    NotReady,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 23] = [
        Kind::MalformedJson,
        Kind::InvalidParameter,
        Kind::Unauthenticated,
        Kind::Forbidden,
        Kind::CrossSite,
        Kind::UnknownRoute,
        Kind::UnknownSaga,
        Kind::UnknownStep,
        Kind::UnknownDefinition,
        Kind::UnknownDeadLetter,
        Kind::MethodNotAllowed,
        Kind::SlowRequest,
        Kind::StateForbids,
        Kind::Locked,
        Kind::BodyTooLarge,
        Kind::UnsupportedMediaType,
        Kind::UnknownHost,
        Kind::InvalidBody,
        Kind::InvalidInput,
        Kind::InvalidDefinitions,
        Kind::Internal,
        Kind::Unavailable,
        Kind::NotReady,
    ];

    /// The stable word, the status, and the title: the same for every problem of the kind.
    fn facts(self) -> (&'static str, StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Kind::MalformedJson => ("malformed-json", S::BAD_REQUEST, "The body is no JSON"),
            Kind::InvalidParameter => ("invalid-parameter", S::BAD_REQUEST, "A parameter is wrong"),
            Kind::Unauthenticated => ("unauthenticated", S::UNAUTHORIZED, "A bearer token is needed"),
            Kind::Forbidden => ("forbidden", S::FORBIDDEN, "The token's role does not allow this"),
            Kind::CrossSite => ("cross-site", S::FORBIDDEN, "Pages of other origins can't do this"),
            Kind::UnknownRoute => ("unknown-route", S::NOT_FOUND, "There is nothing at this address"),
            Kind::UnknownSaga => ("unknown-saga", S::NOT_FOUND, "There is no such saga"),
            Kind::UnknownStep => ("unknown-step", S::NOT_FOUND, "The saga has no such step"),
            Kind::UnknownDefinition => ("unknown-definition", S::NOT_FOUND, "There is no such definition"),
            Kind::UnknownDeadLetter => ("unknown-dead-letter", S::NOT_FOUND, "There is no such dead letter"),
            Kind::MethodNotAllowed => ("method-not-allowed", S::METHOD_NOT_ALLOWED, "The address takes other methods"),
            Kind::SlowRequest => ("slow-request", S::REQUEST_TIMEOUT, "The body did not come in time"),
            Kind::StateForbids => ("state-forbids", S::CONFLICT, "The saga's state forbids this"),
            Kind::Locked => ("locked", S::CONFLICT, "Another saga holds the lock"),
            Kind::BodyTooLarge => ("body-too-large", S::PAYLOAD_TOO_LARGE, "The body is too large"),
            Kind::UnsupportedMediaType => {
                ("unsupported-media-type", S::UNSUPPORTED_MEDIA_TYPE, "The body must be JSON")
            }
            Kind::UnknownHost => ("unknown-host", S::MISDIRECTED_REQUEST, "This host is not served here"),
            Kind::InvalidBody => ("invalid-body", S::UNPROCESSABLE_ENTITY, "The body is not what this call takes"),
            Kind::InvalidInput => ("invalid-input", S::UNPROCESSABLE_ENTITY, "The input does not fit the definition"),
            Kind::InvalidDefinitions => ("invalid-definitions", S::UNPROCESSABLE_ENTITY, "The definitions have errors"),
            Kind::Internal => ("internal", S::INTERNAL_SERVER_ERROR, "sagad can't go on with this"),
            Kind::Unavailable => ("unavailable", S::SERVICE_UNAVAILABLE, "Not now"),
            Kind::NotReady => ("not-ready", S::SERVICE_UNAVAILABLE, "Not ready"),
        }
    }
}

/// One flaw of what was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Flaw {
    /// JSON pointer into the body; absent where the flaw is not in the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// The query parameter or header, where the flaw is in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
    /// For a person.
    pub detail: String,
}

/// A problem document. Boxed: it is the error of most functions in here, and rare.
#[derive(Clone, Debug)]
pub struct Problem(Box<Document>);

#[derive(Clone, Debug)]
struct Document {
    kind: Kind,
    detail: String,
    errors: Vec<Flaw>,
    more: serde_json::Map<String, serde_json::Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// What every handler answers.
pub type Answer = Result<Response, Problem>;

impl Problem {
    /// A problem; `detail` is for a person and about this very case.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Problem {
        let (detail, more) = (detail.into(), serde_json::Map::new());
        Problem(Box::new(Document { kind, detail, errors: Vec::new(), more, headers: Vec::new() }))
    }

    /// With what is wrong, piece by piece.
    pub fn with_errors(mut self, errors: Vec<Flaw>) -> Problem {
        self.0.errors = errors;
        self
    }

    /// With a member of its own.
    pub fn with(mut self, member: &str, value: serde_json::Value) -> Problem {
        self.0.more.insert(member.to_owned(), value);
        self
    }

    /// With a header.
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Problem {
        self.0.headers.push((name, value));
        self
    }

    /// A wrong query parameter or header.
    pub fn parameter(name: &str, detail: impl Into<String>) -> Problem {
        let detail = detail.into();
        let flaw = Flaw { pointer: None, parameter: Some(name.to_owned()), detail: detail.clone() };
        Problem::new(Kind::InvalidParameter, format!("`{name}` {detail}")).with_errors(vec![flaw])
    }

    /// There is no such saga; `id` as it was asked for.
    pub fn unknown_saga(id: impl std::fmt::Display) -> Problem {
        Problem::new(Kind::UnknownSaga, format!("there is no saga {id}"))
    }

    /// Whether it is of this kind.
    pub fn is(&self, kind: Kind) -> bool {
        self.0.kind == kind
    }

    /// There is no such dead letter.
    pub fn unknown_dead_letter() -> Problem {
        Problem::new(Kind::UnknownDeadLetter, "there is no dead letter of this id")
    }

    /// Later, in so many seconds.
    pub fn unavailable(detail: impl Into<String>, retry_after: u32) -> Problem {
        Problem::new(Kind::Unavailable, detail).with_header(header::RETRY_AFTER, HeaderValue::from(retry_after))
    }

    /// An order that was refused.
    pub fn refused(refusal: Refusal) -> Problem {
        let detail = refusal.to_string();
        match refusal {
            Refusal::UnknownDefinition(_) => Problem::new(Kind::UnknownDefinition, detail),
            Refusal::UnknownSaga(SagaId(_)) => Problem::new(Kind::UnknownSaga, detail),
            Refusal::Invalid(errors) => {
                // Pointers are into the input, which is a member of the body.
                let flaw = |InputError { pointer, detail }| Flaw {
                    pointer: Some(format!("/input{pointer}")),
                    parameter: None,
                    detail,
                };
                Problem::new(Kind::InvalidInput, detail).with_errors(errors.into_iter().map(flaw).collect())
            }
            Refusal::Forbidden(Forbidden::State(_) | Forbidden::NoSuchSignal(_)) => {
                Problem::new(Kind::StateForbids, detail)
            }
            Refusal::Forbidden(Forbidden::NoSuchStep(_)) => Problem::new(Kind::UnknownStep, detail),
            Refusal::Locked(_) => Problem::new(Kind::Locked, detail),
            Refusal::Busy(_) => Problem::unavailable(detail, 1),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        match error {
            StoreError::Unavailable(_) => Problem::unavailable(error.to_string(), 5),
            StoreError::Refused(_) | StoreError::Corrupt(_) => {
                tracing::error!(%error, "a request could not be answered");
                Problem::new(Kind::Internal, error.to_string())
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Document { kind, detail, errors, more, headers } = *self.0;
        let (word, status, title) = kind.facts();
        let mut document = serde_json::json!({
            "type": format!("urn:sagad:problem:{word}"),
            "title": title,
            "status": status.as_u16(),
            "detail": detail,
            "errors": errors,
        });
        if let serde_json::Value::Object(members) = &mut document {
            members.extend(more);
        }
        let content_type = (header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        let mut response = (status, [content_type], document.to_string()).into_response();
        response.headers_mut().extend(headers.into_iter().map(|(name, value)| (Some(name), value)));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_lists_every_kind_with_its_status() {
        let documented = include_str!("../../docs/http.md");
        for kind in Kind::ALL {
            let (word, status, _) = kind.facts();
            let row = documented.lines().find(|line| line.starts_with("| ") && line.contains(&format!("`{word}`")));
            assert!(row.is_some_and(|row| row.contains(&format!("| {} |", status.as_u16()))), "{word}: {row:?}");
        }
    }
}
