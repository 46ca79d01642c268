//! Who may do what: bearer tokens, and what keeps browsers from steering a sagad that has none.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Uri, header, request::Parts};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::problem::{Kind, Problem};
use crate::config::{Http, Role};

/// The actor of everyone while there are no tokens.
const ANYONE: &str = "http";

/// Who asks: what the history names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor(pub Arc<str>);

/// The rules.
#[derive(Debug)]
pub struct Access {
    tokens: Vec<KnownToken>,
}

#[derive(Debug)]
struct KnownToken {
    name: Arc<str>,
    role: Role,
    /// Hashed, so that comparing takes the same time whatever the lengths are.
    hash: [u8; 32],
}

impl Access {
    /// The rules that follow from the configuration.
    pub fn new(config: &Http) -> Access {
        let known = |token: &crate::config::Token| KnownToken {
            name: token.name.as_str().into(),
            role: token.role,
            // No text has a hash of zeros: a token without a secret is nobody's.
            hash: token.secret.as_ref().map_or([0; 32], |secret| Sha256::digest(secret).into()),
        };
        Access { tokens: config.tokens.iter().map(known).collect() }
    }

    /// Who asks, if he may.
    fn admit(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Actor, Problem> {
        let steers = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        if steers {
            refuse_other_origins(uri, headers)?;
        }
        if self.tokens.is_empty() {
            refuse_other_hosts(uri, headers)?;
            return Ok(Actor(ANYONE.into()));
        }
        let token = self.identify(bearer(headers)?)?;
        if steers && token.role != Role::Operator {
            let detail = format!("token `{}` is a viewer's; this call needs an operator's", token.name);
            return Err(Problem::new(Kind::Forbidden, detail));
        }
        Ok(Actor(token.name.clone()))
    }

    /// Compares with every token, whether one fits already or not: the time that it takes tells nothing.
    fn identify(&self, secret: &str) -> Result<&KnownToken, Problem> {
        let hash: [u8; 32] = Sha256::digest(secret).into();
        let mut found = u32::MAX;
        for (at, token) in (0u32..).zip(&self.tokens) {
            let same: Choice = token.hash.ct_eq(&hash);
            found.conditional_assign(&at, same);
        }
        self.tokens.get(found as usize).ok_or_else(|| unauthenticated("this token is not known"))
    }
}

/// Runs before every call but `/healthz` and `/readyz`.
pub(super) async fn admit(State(access): State<Arc<Access>>, mut request: Request, next: Next) -> Response {
    match access.admit(request.method(), request.uri(), request.headers()) {
        Ok(actor) => {
            request.extensions_mut().insert(actor);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

impl<S: Sync> axum::extract::FromRequestParts<S> for Actor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Actor, Problem> {
        // Every route that asks for it is behind `admit`.
        let missing = || Problem::new(Kind::Internal, "nobody was admitted to this call");
        parts.extensions.get().cloned().ok_or_else(missing)
    }
}

fn unauthenticated(detail: &str) -> Problem {
    let challenge = HeaderValue::from_static("Bearer realm=\"sagad\"");
    Problem::new(Kind::Unauthenticated, detail).with_header(header::WWW_AUTHENTICATE, challenge)
}

fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(unauthenticated("this call needs one header `Authorization: Bearer TOKEN`"));
    };
    let credentials = value.to_str().ok().and_then(|value| value.split_once(' '));
    match credentials {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(unauthenticated("the header `Authorization` must be `Bearer TOKEN`")),
    }
}

/// A page of another origin can make a browser send requests here. It can't read the answers, but it could steer. Browsers
/// say where such a request comes from; other clients say nothing.
fn refuse_other_origins(uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    if let Some(site) = headers.get("sec-fetch-site")
        && site != "same-origin"
        && site != "none"
    {
        return Err(Problem::new(
            Kind::CrossSite,
            "the header `Sec-Fetch-Site` says that a page of another origin asks",
        ));
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let asked = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    match (asked, authority(uri, headers)) {
        (Some(asked), Some(ours)) if asked.eq_ignore_ascii_case(ours) => Ok(()),
        _ => Err(Problem::new(Kind::CrossSite, "the header `Origin` names another origin than this one")),
    }
}

/// While anyone may do anything, only loopback is listened on. A page whose own name was made to resolve to 127.0.0.1 would
/// be of the same origin; its name is in the header `Host`.
fn refuse_other_hosts(uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let authority = authority(uri, headers).unwrap_or_default();
    let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    let named = host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost");
    if named || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()) {
        return Ok(());
    }
    let detail = format!(
        "without tokens sagad answers to localhost and loopback addresses only, not to `{host}`; configure [[http.tokens]]"
    );
    Err(Problem::new(Kind::UnknownHost, detail))
}

/// `HOST:PORT` that the client believes to talk to.
fn authority<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => headers.get(header::HOST).and_then(|host| host.to_str().ok()),
    }
}
