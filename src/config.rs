//! The configuration: `config/sagad.toml`, then `--config FILE`, then the environment, validated once.
//!
//! ```text
//!   files, environment ──layers──> one tree of values, each knowing its place ──check──> Config
//! ```

mod check;
mod layers;
mod read;
mod show;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

pub use show::without_password;

/// Everything that can be configured.
#[derive(Clone, Debug, Serialize)]
pub struct Config {
    /// How long SIGTERM waits for what is in hand (10 s).
    #[serde(serialize_with = "show::duration")]
    pub shutdown_grace: Duration,
    /// Where definitions are.
    pub definitions: Definitions,
    /// The database.
    pub store: StoreConfig,
    /// RabbitMQ.
    pub broker: BrokerConfig,
    /// What is declared for participants.
    pub topology: Topology,
    /// Delays.
    pub delay: Delay,
    /// The HTTP listener.
    pub http: Http,
    /// Logs and traces.
    pub telemetry: Telemetry,
}

/// `[definitions]`.
#[derive(Clone, Debug, Serialize)]
pub struct Definitions {
    /// The folder (`sagas`).
    pub path: PathBuf,
    /// Reload when files change (true).
    pub watch: bool,
}

/// `[store]`.
#[derive(Clone, Serialize)]
pub struct StoreConfig {
    /// `sqlite://FILE` or `postgres://user@host/db`.
    #[serde(serialize_with = "show::url")]
    pub url: String,
    /// Run migrations at start (true).
    pub migrate_on_start: bool,
    /// How long ended sagas are kept where their definition does not say it (for ever).
    #[serde(serialize_with = "show::optional_duration", skip_serializing_if = "Option::is_none")]
    pub retention: Option<Duration>,
}

/// `[broker]`.
#[derive(Clone, Serialize)]
pub struct BrokerConfig {
    /// `amqp://` or `amqps://`.
    #[serde(serialize_with = "show::url")]
    pub url: String,
    /// What all of sagad's names start with (`sagad`).
    pub prefix: String,
    /// Of sagad's own queues.
    pub queue_type: QueueType,
    /// Deliveries in hand at the most, for each of sagad's queues (1024).
    pub prefetch: u16,
    /// Largest message that is read, in bytes (1 MiB).
    pub max_message: usize,
}

/// Quorum or classic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueType {
    /// Replicated, poison-safe, the default.
    #[default]
    Quorum,
    /// For priorities.
    Classic,
}

impl QueueType {
    /// As RabbitMQ names it in `x-queue-type`.
    pub fn as_str(self) -> &'static str {
        match self {
            QueueType::Quorum => "quorum",
            QueueType::Classic => "classic",
        }
    }
}

/// `[topology]`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Topology {
    /// What to do with it at start-up.
    pub mode: TopologyMode,
    /// Exchanges for participants.
    pub exchanges: Vec<Exchange>,
    /// Queues for participants.
    pub queues: Vec<Queue>,
}

/// What to do with the topology at start-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TopologyMode {
    /// Declare everything.
    #[default]
    Declare,
    /// Passively: everything must exist.
    Verify,
    /// Believe that it is there.
    Skip,
}

/// `[[topology.exchanges]]`.
#[derive(Clone, Debug, Serialize)]
pub struct Exchange {
    /// Its name.
    pub name: String,
    /// `direct`, `topic`, `fanout`, `headers`, or a plugin's.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where messages go that no binding takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alternate: Option<String>,
    /// Bindings from other exchanges to this one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bind: Vec<Binding>,
    /// Anything else, as RabbitMQ names it.
    #[serde(serialize_with = "show::arguments", skip_serializing_if = "BTreeMap::is_empty")]
    pub arguments: BTreeMap<String, Value>,
}

/// One binding of an exchange or a queue: what it gets from another exchange.
#[derive(Clone, Debug, Serialize)]
pub struct Binding {
    /// The exchange that messages come from.
    pub exchange: String,
    /// The routing key or pattern; empty for fanout and headers.
    pub routing_key: String,
    /// For headers exchanges: `x-match` and the headers.
    #[serde(serialize_with = "show::arguments", skip_serializing_if = "BTreeMap::is_empty")]
    pub arguments: BTreeMap<String, Value>,
}

/// `[[topology.queues]]`.
#[derive(Clone, Debug, Serialize)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// What it receives.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bind: Vec<Binding>,
    /// Quorum or classic.
    #[serde(rename = "type")]
    pub kind: QueueType,
    /// Classic only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_priority: Option<u8>,
    /// To `sagad.dead` (true).
    pub dead_letter: bool,
    /// Quorum only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery_limit: Option<u32>,
    /// How long a message may wait.
    #[serde(serialize_with = "show::optional_duration", skip_serializing_if = "Option::is_none")]
    pub message_ttl: Option<Duration>,
    /// How many messages may wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u64>,
    /// `reject-publish` or `drop-head`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overflow: Option<String>,
    /// Anything else, as RabbitMQ names it.
    #[serde(serialize_with = "show::arguments", skip_serializing_if = "BTreeMap::is_empty")]
    pub arguments: BTreeMap<String, Value>,
}

/// `[delay]`.
#[derive(Clone, Debug, Serialize)]
pub struct Delay {
    /// How late the database wakes what the broker should have woken (5 s).
    #[serde(serialize_with = "show::duration")]
    pub sweep: Duration,
}

/// `[http]`.
#[derive(Clone, Debug, Serialize)]
pub struct Http {
    /// Where it listens (`127.0.0.1:7242`).
    pub listen: SocketAddr,
    /// Bearer tokens; none: no authentication, and loopback only.
    pub tokens: Vec<Token>,
    /// Largest body that is read, in bytes (1 MiB).
    pub max_body: usize,
    /// How long the head of a request, and then its body, may take to come (15 s).
    #[serde(serialize_with = "show::duration")]
    pub read_timeout: Duration,
    /// Set to serve HTTPS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// `[http.tls]`.
#[derive(Clone, Debug, Serialize)]
pub struct Tls {
    /// A PEM file: the certificate, then those that signed it.
    pub cert: PathBuf,
    /// A PEM file: its private key.
    pub key: PathBuf,
}

/// `[[http.tokens]]`.
#[derive(Clone, Serialize)]
pub struct Token {
    /// The actor that the history names.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// From `secret` or the variable that `secret_env` names. What is wrong with that variable matters only to a daemon: those who write
    /// definitions have no secrets.
    #[serde(serialize_with = "show::secret")]
    pub secret: Result<String, ConfigError>,
}

// What may be logged has no passwords in it.

impl std::fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreConfig").field("url", &without_password(&self.url)).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for BrokerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let url = without_password(&self.url);
        f.debug_struct("BrokerConfig").field("url", &url).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("name", &self.name).field("role", &self.role).finish_non_exhaustive()
    }
}

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look.
    Viewer,
    /// Look and steer.
    Operator,
}

/// `[telemetry]`.
#[derive(Clone, Debug, Serialize)]
pub struct Telemetry {
    /// A level or a filter of `tracing-subscriber` (`info`).
    pub log: String,
    /// Where traces go: nowhere (empty), which is all that there is so far.
    pub otlp: String,
}

impl Config {
    /// Reads `config/sagad.toml` if the working directory has it, then `explicit`, then the environment.
    ///
    /// # Errors
    /// Everything that is wrong, with its place; nothing in it shows a secret.
    pub fn load(explicit: Option<&Path>) -> Result<Config, ConfigErrors> {
        let environment = environment()?;
        check::check(layers::load(explicit, &environment)?, &environment)
    }

    /// Reads one file's text, without the environment.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(name: &str, text: &str) -> Result<Config, ConfigErrors> {
        let environment = BTreeMap::new();
        let files = [(name.to_owned(), text.to_owned())];
        check::check(layers::merge(&files, &environment, Vec::new())?, &environment)
    }

    /// Whether a daemon can run with it: everything else gets by without the secrets that come from the environment.
    ///
    /// # Errors
    /// Each secret that is not there, or is of no use.
    pub fn can_serve(&self) -> Result<(), ConfigErrors> {
        let wrong = self.http.tokens.iter().filter_map(|token| token.secret.as_ref().err().cloned());
        match wrong.collect::<Vec<_>>() {
            errors if errors.is_empty() => Ok(()),
            errors => Err(ConfigErrors(errors)),
        }
    }

    /// All of it as TOML that can be read back, but for the secrets, which are hidden.
    ///
    /// # Errors
    /// None that are known: everything in a configuration can be written as TOML.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string_pretty(self)
    }
}

/// The environment, but for what can't be configuration because it is not Unicode.
fn environment() -> Result<BTreeMap<String, String>, ConfigErrors> {
    let mut variables = BTreeMap::new();
    let mut errors = Vec::new();
    for (name, value) in std::env::vars_os() {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => drop(variables.insert(name, value)),
            (Ok(name), Err(_)) if name.starts_with(layers::PREFIX) => {
                errors.push(ConfigError::new("", Some(name), "is not valid UTF-8"));
            }
            _ => {}
        }
    }
    if errors.is_empty() { Ok(variables) } else { Err(ConfigErrors(errors)) }
}

/// Everything that is wrong with a configuration, one line each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigErrors(pub Vec<ConfigError>);

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Which key, as `http.tokens[0].secret`; empty where it is about a whole file.
    pub key: String,
    /// `FILE:LINE:COLUMN` or the variable; `None` for what was not written anywhere.
    pub place: Option<String>,
    /// For a person; without the value where that may be a secret.
    pub message: String,
}

impl ConfigError {
    fn new(key: impl Into<String>, place: Option<String>, message: impl Into<String>) -> ConfigError {
        ConfigError { key: key.into(), place, message: message.into() }
    }
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [self.place.as_deref().unwrap_or_default(), &self.key, &self.message];
        let mut parts = parts.into_iter().filter(|part| !part.is_empty());
        f.write_str(parts.next().unwrap_or_default())?;
        parts.try_for_each(|part| write!(f, ": {part}"))
    }
}

#[cfg(test)]
mod tests;
