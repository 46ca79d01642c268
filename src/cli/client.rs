//! The HTTP API of a daemon, as commands use it.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, Request, StatusCode};
use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Http;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use url::Url;

use super::Failure;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);

/// The largest answer, in bytes.
const LARGEST: usize = 64 << 20;

/// Which daemon.
#[derive(Debug, Args)]
pub(super) struct Daemon {
    /// The daemon's HTTP API; the token to show it is taken from SAGAD_TOKEN
    #[arg(long, env = "SAGAD_URL", default_value = "http://127.0.0.1:7242", value_name = "URL")]
    url: Url,
}

/// A daemon that can be asked.
pub(super) struct Client {
    /// Without a `/` at the end.
    url: String,
    token: Option<HeaderValue>,
    http: Http<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Daemon {
    /// Makes no connection yet.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        let wrong = |why: &str| Failure::Misconfigured(format!("--url or SAGAD_URL: `{}` {why}", self.url));
        if !matches!(self.url.scheme(), "http" | "https") || self.url.query().is_some() || self.url.fragment().is_some()
        {
            return Err(wrong("must be as in http://127.0.0.1:7242 or https://sagad.example.com"));
        }
        if !self.url.username().is_empty() || self.url.password().is_some() {
            return Err(Failure::Misconfigured("--url or SAGAD_URL: a token belongs into SAGAD_TOKEN".to_owned()));
        }
        let token = std::env::var_os("SAGAD_TOKEN").filter(|token| !token.is_empty());
        let header = |token: std::ffi::OsString| {
            let mut header = token.to_str().and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok())?;
            header.set_sensitive(true);
            Some(header)
        };
        let token = match token.map(header) {
            Some(None) => {
                return Err(Failure::Misconfigured("SAGAD_TOKEN has characters that no token has".to_owned()));
            }
            token => token.flatten(),
        };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT));
        let tls = HttpsConnectorBuilder::new().with_tls_config(self.tls()?).https_or_http().enable_http1();
        let http = Http::builder(TokioExecutor::new()).build(tls.wrap_connector(tcp));
        Ok(Client { url: self.url.as_str().trim_end_matches('/').to_owned(), token, http })
    }

    fn tls(&self) -> Result<ClientConfig, Failure> {
        let unusable = |error: &dyn std::fmt::Display| Failure::Failed(format!("TLS can't be used: {error}"));
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(&error))?;
        // The system's certificates are many, and of no use to plain HTTP.
        let config = match self.url.scheme() {
            "https" => config.with_native_roots().map_err(|error| unusable(&error))?,
            _ => config.with_root_certificates(RootCertStore::empty()),
        };
        Ok(config.with_no_client_auth())
    }
}

impl Client {
    /// GET; the answer's JSON.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.call(Method::GET, path, None).await
    }

    /// POST; the answer's JSON.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.call(Method::POST, path, Some(body)).await
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let request = request.body(Full::new(body)).map_err(|error| Failure::Misconfigured(error.to_string()))?;
        let called = tokio::time::timeout(PATIENCE, async {
            let response = self.http.request(request).await.map_err(|error| chain(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LARGEST).collect().await;
            Ok::<_, String>((status, body.map_err(|error| error.to_string())?.to_bytes()))
        });
        let (status, body) = match called.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(why)) => return Err(self.unreachable(&why)),
            Err(_) => return Err(self.unreachable(&format!("no answer within {PATIENCE:?}"))),
        };
        match serde_json::from_slice::<Value>(&body) {
            Ok(answer) if status.is_success() => Ok(answer),
            Ok(problem) if problem["detail"].is_string() => Err(self.refused(status, &problem)),
            _ => Err(Failure::Failed(format!("what answers at {} is no sagad: {status}", self.url))),
        }
    }

    fn unreachable(&self, why: &str) -> Failure {
        let hint = match why.contains("certificate") {
            true => "SSL_CERT_FILE names a file with certificates to trust instead of the system's",
            false => "is `sagad serve` running? --url or SAGAD_URL say where",
        };
        Failure::Unreachable(format!("no sagad can be reached at {}: {why}; {hint}", self.url))
    }

    fn refused(&self, status: StatusCode, problem: &Value) -> Failure {
        let detail = problem["detail"].as_str().unwrap_or_default();
        match (status, &self.token) {
            (StatusCode::UNAUTHORIZED, None) => Failure::Misconfigured(format!(
                "{} wants a token: set SAGAD_TOKEN to the secret of one of its [[http.tokens]]",
                self.url
            )),
            (StatusCode::UNAUTHORIZED, Some(_)) => Failure::Misconfigured(format!(
                "{} does not know the token in SAGAD_TOKEN: it is none of its [[http.tokens]]",
                self.url
            )),
            (StatusCode::FORBIDDEN, _) => Failure::Misconfigured(format!("{} refuses: {detail}", self.url)),
            _ => {
                let flaw = |flaw: &Value| {
                    let place = flaw["pointer"].as_str().or(flaw["parameter"].as_str()).unwrap_or_default();
                    Some(format!("\n  {place}: {}", flaw["detail"].as_str()?))
                };
                let flaws = problem["errors"].as_array().into_iter().flatten().filter_map(flaw);
                Failure::Failed(format!("{detail}{}", flaws.collect::<String>()))
            }
        }
    }
}

/// An error and what caused it. That the client could not connect goes without saying.
fn chain(error: &dyn Error) -> String {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if causes.last().is_none_or(|last: &String| !last.contains(&text)) {
            causes.push(text);
        }
        next = cause.source();
    }
    if causes.is_empty() { error.to_string() } else { causes.join(": ") }
}
