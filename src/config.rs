//! The configuration: `config/sagad.toml`, then `--config FILE`, then the environment, validated once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

/// Everything that can be configured.
#[derive(Clone, Debug)]
pub struct Config {
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
    /// How long SIGTERM waits for what is in hand (10 s).
    pub shutdown_grace: Duration,
}

/// `[definitions]`.
#[derive(Clone, Debug)]
pub struct Definitions {
    /// The folder (`sagas`).
    pub path: PathBuf,
    /// Reload when files change (true).
    pub watch: bool,
}

/// `[store]`.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// `sqlite://FILE` or `postgres://user@host/db`.
    pub url: String,
    /// Run migrations at start (true).
    pub migrate_on_start: bool,
}

/// `[broker]`.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// `amqp://` or `amqps://`.
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
#[derive(Clone, Debug, Default)]
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
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Its name.
    pub name: String,
    /// `direct`, `topic`, `fanout`, `headers`, or a plugin's.
    pub kind: String,
    /// Where messages go that no binding takes.
    pub alternate: Option<String>,
    /// Bindings from other exchanges to this one.
    pub bind: Vec<Binding>,
    /// Anything else, as RabbitMQ names it.
    pub arguments: BTreeMap<String, Value>,
}

/// One binding of an exchange or a queue: what it gets from another exchange.
#[derive(Clone, Debug)]
pub struct Binding {
    /// The exchange that messages come from.
    pub exchange: String,
    /// The routing key or pattern; empty for fanout and headers.
    pub routing_key: String,
    /// For headers exchanges: `x-match` and the headers.
    pub arguments: BTreeMap<String, Value>,
}

/// `[[topology.queues]]`.
#[derive(Clone, Debug)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// What it receives.
    pub bind: Vec<Binding>,
    /// Quorum or classic.
    pub kind: QueueType,
    /// Classic only.
    pub max_priority: Option<u8>,
    /// To `sagad.dead` (true).
    pub dead_letter: bool,
    /// Quorum only.
    pub delivery_limit: Option<u32>,
    /// How long a message may wait.
    pub message_ttl: Option<Duration>,
    /// How many messages may wait.
    pub max_length: Option<u64>,
    /// `reject-publish` or `drop-head`.
    pub overflow: Option<String>,
    /// Anything else, as RabbitMQ names it.
    pub arguments: BTreeMap<String, Value>,
}

/// `[delay]`.
#[derive(Clone, Debug)]
pub struct Delay {
    /// How late the database wakes what the broker should have woken (5 s).
    pub sweep: Duration,
}

/// `[http]`.
#[derive(Clone, Debug)]
pub struct Http {
    /// Where it listens (`127.0.0.1:7242`).
    pub listen: SocketAddr,
    /// Bearer tokens; none: no authentication, and loopback only.
    pub tokens: Vec<Token>,
    /// Largest body that is read, in bytes (1 MiB).
    pub max_body: usize,
}

/// `[[http.tokens]]`.
#[derive(Clone)]
pub struct Token {
    /// The actor that the history names.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// From `secret` or the variable that `secret_env` names.
    pub secret: String,
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
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// A level or a filter of `tracing-subscriber` (`info`).
    pub log: String,
}
