//! From values to domain types: every rule about the configuration is here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ::config::{Map, Value};

use super::read::{Problems, Table, arguments, boolean, duration, integer, text, word};
use super::{
    Binding, BrokerConfig, Config, ConfigErrors, Definitions, Delay, Exchange, Http, Queue, QueueType, Role,
    StoreConfig, Telemetry, Tls, Token, Topology, TopologyMode,
};

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// RabbitMQ keeps times to live in 32 bits of milliseconds.
const LONGEST_TTL: Duration = Duration::from_millis(u32::MAX as u64);

/// AMQP's bound for names, in bytes.
const LONGEST_NAME: usize = 255;

/// Leaves room for the longest of sagad's own names within AMQP's bound.
const LONGEST_PREFIX: usize = 200;

/// What a body or a message may be at the most: RabbitMQ takes none larger than 512 MiB.
const LARGEST: usize = 512 << 20;

const QUEUE_TYPES: &[(&str, QueueType)] = &[("quorum", QueueType::Quorum), ("classic", QueueType::Classic)];

/// The configuration that `values` mean.
///
/// # Errors
/// Everything that is wrong with them.
pub(super) fn check(
    values: Map<String, Value>,
    environment: &BTreeMap<String, String>,
) -> Result<Config, ConfigErrors> {
    let problems = Problems::default();
    let mut root = Table::new(String::new(), None, values, &problems);
    let broker = broker(root.table("broker"));
    let config = Config {
        shutdown_grace: root.or("shutdown_grace", 10 * SECOND, duration(Duration::ZERO..=3600 * SECOND)),
        definitions: definitions(root.table("definitions")),
        store: store(root.table("store")),
        topology: topology(root.table("topology"), &broker.prefix),
        broker,
        delay: delay(root.table("delay")),
        http: http(root.table("http"), environment),
        telemetry: telemetry(root.table("telemetry")),
    };
    root.finish();
    match problems.0.into_inner() {
        errors if errors.is_empty() => Ok(config),
        errors => Err(ConfigErrors(errors)),
    }
}

fn definitions(mut table: Table<'_>) -> Definitions {
    let path = table.or("path", "sagas".to_owned(), |value| text(value).and_then(non_empty));
    let definitions = Definitions { path: PathBuf::from(path), watch: table.or("watch", true, boolean) };
    table.finish();
    definitions
}

fn store(mut table: Table<'_>) -> StoreConfig {
    let url = table.or("url", "sqlite://sagad.db".to_owned(), |value| text(value).and_then(store_url));
    let store = StoreConfig {
        url,
        migrate_on_start: table.or("migrate_on_start", true, boolean),
        retention: table.optional("retention", duration(SECOND..=LONGEST_RETENTION)),
    };
    table.finish();
    store
}

/// Longer is as good as for ever, which it is without.
const LONGEST_RETENTION: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Messages leave the value out: it may hold a password.
fn store_url(url: String) -> Result<String, String> {
    if let Some(rest) = url.strip_prefix("sqlite://") {
        let file = rest.split('?').next().unwrap_or_default();
        return match file {
            "" => Err("names no file; write sqlite://FILE, as in sqlite://sagad.db".to_owned()),
            ":memory:" => Err("a database in memory would forget every saga; write sqlite://FILE".to_owned()),
            _ => Ok(url),
        };
    }
    server_url(url, &["postgres", "postgresql"], "sqlite://FILE or postgres://USER@HOST/DATABASE")
}

fn server_url(url: String, schemes: &[&str], form: &str) -> Result<String, String> {
    let parsed = url::Url::parse(&url).map_err(|error| format!("is not a URL ({error}); write {form}"))?;
    if !schemes.contains(&parsed.scheme()) {
        return Err(format!("can't be {}://; write {form}", parsed.scheme()));
    }
    if parsed.port() == Some(0) {
        return Err("the port can't be 0".to_owned());
    }
    Ok(url)
}

fn broker(mut table: Table<'_>) -> BrokerConfig {
    let url = table.or("url", "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned(), |value| {
        text(value)
            .and_then(|url| server_url(url, &["amqp", "amqps"], "amqp://USER:PASSWORD@HOST:PORT/VHOST, or amqps://"))
    });
    let broker = BrokerConfig {
        url,
        prefix: table.or("prefix", "sagad".to_owned(), |value| text(value).and_then(prefix)),
        queue_type: table.or("queue_type", QueueType::Quorum, word(QUEUE_TYPES)),
        prefetch: table.or("prefetch", 1024, integer(1..=u16::MAX)),
        max_message: table.or("max_message", 1 << 20, integer(1..=LARGEST)),
    };
    table.finish();
    broker
}

fn prefix(prefix: String) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    if prefix.is_empty() || prefix.len() > LONGEST_PREFIX || !prefix.chars().all(allowed) {
        return Err(format!("must be 1 to {LONGEST_PREFIX} ASCII letters, digits, `-`, `_`, `.` or `:`"));
    }
    unreserved(prefix)
}

fn unreserved(name: String) -> Result<String, String> {
    match name.starts_with("amq.") {
        true => Err("RabbitMQ keeps names that start with `amq.` for itself".to_owned()),
        false => Ok(name),
    }
}

fn non_empty(text: String) -> Result<String, String> {
    if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text) }
}

fn short(text: String) -> Result<String, String> {
    match text.len() > LONGEST_NAME {
        true => Err(format!("is longer than the {LONGEST_NAME} bytes that AMQP allows")),
        false => Ok(text),
    }
}

fn name(value: &Value) -> Result<String, String> {
    text(value).and_then(non_empty).and_then(short)
}

fn topology(mut table: Table<'_>, prefix: &str) -> Topology {
    let modes = &[("declare", TopologyMode::Declare), ("verify", TopologyMode::Verify), ("skip", TopologyMode::Skip)];
    let mode = table.or("mode", TopologyMode::Declare, word(modes));
    let (mut exchanges_seen, mut queues_seen) = (BTreeSet::new(), BTreeSet::new());
    let exchanges =
        table.tables("exchanges").into_iter().map(|table| exchange(table, prefix, &mut exchanges_seen)).collect();
    let queues = table.tables("queues").into_iter().map(|table| queue(table, prefix, &mut queues_seen)).collect();
    table.finish();
    Topology { mode, exchanges, queues }
}

/// The name of something that is declared for participants.
fn own_name(table: &mut Table<'_>, prefix: &str, seen: &mut BTreeSet<String>) -> String {
    let place = table.place_of("name");
    let name = table.required("name", |value| name(value).and_then(unreserved)).unwrap_or_default();
    if name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.')) {
        table.note("name", place, format!("names that start with `{prefix}.` are sagad's own; choose another"));
    } else if !name.is_empty() && !seen.insert(name.clone()) {
        table.note("name", place, format!("`{name}` is there twice"));
    }
    name
}

fn exchange(mut table: Table<'_>, prefix: &str, seen: &mut BTreeSet<String>) -> Exchange {
    let exchange = Exchange {
        name: own_name(&mut table, prefix, seen),
        kind: table.required("type", name).unwrap_or_default(),
        alternate: table.optional("alternate", name),
        bind: table.tables("bind").into_iter().map(binding).collect(),
        arguments: table
            .or("arguments", BTreeMap::new(), |value| without(value, &[("alternate-exchange", "alternate")])),
    };
    table.finish();
    exchange
}

fn binding(mut table: Table<'_>) -> Binding {
    let binding = Binding {
        exchange: table.required("exchange", name).unwrap_or_default(),
        routing_key: table.or("routing_key", String::new(), |value| text(value).and_then(short)),
        arguments: table.or("arguments", BTreeMap::new(), arguments),
    };
    table.finish();
    binding
}

/// Arguments that have a key of their own here.
const QUEUE_KEYS: &[(&str, &str)] = &[
    ("x-queue-type", "type"),
    ("x-max-priority", "max_priority"),
    ("x-delivery-limit", "delivery_limit"),
    ("x-message-ttl", "message_ttl"),
    ("x-max-length", "max_length"),
    ("x-overflow", "overflow"),
];

fn queue(mut table: Table<'_>, prefix: &str, seen: &mut BTreeSet<String>) -> Queue {
    let place = |table: &Table<'_>, key| table.place_of(key);
    let (priority_at, limit_at, dead_at) =
        (place(&table, "max_priority"), place(&table, "delivery_limit"), place(&table, "arguments"));
    let queue = Queue {
        name: own_name(&mut table, prefix, seen),
        bind: table.tables("bind").into_iter().map(binding).collect(),
        kind: table.or("type", QueueType::Quorum, word(QUEUE_TYPES)),
        max_priority: table.optional("max_priority", integer(1..=255)),
        dead_letter: table.or("dead_letter", true, boolean),
        delivery_limit: table.optional("delivery_limit", integer(1..=u32::MAX)),
        message_ttl: table.optional("message_ttl", duration(MILLISECOND..=LONGEST_TTL)),
        max_length: table.optional("max_length", integer(1..=i64::MAX as u64)),
        overflow: table.optional("overflow", word(OVERFLOWS)).map(str::to_owned),
        arguments: table.or("arguments", BTreeMap::new(), |value| without(value, QUEUE_KEYS)),
    };
    if queue.max_priority.is_some() && queue.kind == QueueType::Quorum {
        let message = "quorum queues have no priorities; add type = \"classic\" or leave it out";
        table.note("max_priority", priority_at, message.to_owned());
    }
    if queue.delivery_limit.is_some() && queue.kind == QueueType::Classic {
        let message = "classic queues have no delivery limit; leave it out or use a quorum queue";
        table.note("delivery_limit", limit_at, message.to_owned());
    }
    if queue.dead_letter && queue.arguments.contains_key("x-dead-letter-exchange") {
        let message = "`x-dead-letter-exchange` needs dead_letter = false; then rejected commands are no answers";
        table.note("arguments", dead_at, message.to_owned());
    }
    table.finish();
    queue
}

const OVERFLOWS: &[(&str, &str)] =
    &[("reject-publish", "reject-publish"), ("drop-head", "drop-head"), ("reject-publish-dlx", "reject-publish-dlx")];

fn without(value: &Value, keys: &[(&str, &str)]) -> Result<BTreeMap<String, serde_json::Value>, String> {
    let arguments = arguments(value)?;
    match keys.iter().find(|(argument, _)| arguments.contains_key(*argument)) {
        Some((argument, key)) => Err(format!("write `{key}` instead of `{argument}`")),
        None => Ok(arguments),
    }
}

fn delay(mut table: Table<'_>) -> Delay {
    let delay = Delay { sweep: table.or("sweep", 5 * SECOND, duration(MILLISECOND..=3600 * SECOND)) };
    table.finish();
    delay
}

fn http(mut table: Table<'_>, environment: &BTreeMap<String, String>) -> Http {
    let listen_at = table.place_of("listen");
    let mut tokens: Vec<Token> = Vec::new();
    let listed = table.tables("tokens");
    let open = listed.is_empty();
    for table in listed {
        if let Some(token) = token(table, &tokens, environment) {
            tokens.push(token);
        }
    }
    let http = Http {
        listen: table.or("listen", SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7242), listen),
        tokens,
        max_body: table.or("max_body", 1 << 20, integer(1..=LARGEST)),
        read_timeout: table.or("read_timeout", 15 * SECOND, duration(10 * MILLISECOND..=3600 * SECOND)),
        tls: tls(table.table("tls")),
    };
    if open && !http.listen.ip().is_loopback() {
        let message = "everyone who reaches this address could steer sagas: add at least one [[http.tokens]] \
                       (name, role, secret or secret_env), or listen on 127.0.0.1";
        table.note("listen", listen_at, message.to_owned());
    }
    table.finish();
    http
}

fn listen(value: &Value) -> Result<SocketAddr, String> {
    let written = text(value)?;
    let numeric = written.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    numeric.as_ref().unwrap_or(&written).parse().map_err(|_| {
        "must be an IP address and a port from 0 to 65535, as in \"127.0.0.1:7242\" or \"[::1]:7242\"".to_owned()
    })
}

fn tls(mut table: Table<'_>) -> Option<Tls> {
    let places = (table.place_of("cert"), table.place_of("key"));
    let cert = table.optional("cert", |value| text(value).and_then(non_empty));
    let key = table.optional("key", |value| text(value).and_then(non_empty));
    match (&cert, &key) {
        (Some(_), None) => table.note("key", places.0, "is missing: TLS needs both cert and key".to_owned()),
        (None, Some(_)) => table.note("cert", places.1, "is missing: TLS needs both cert and key".to_owned()),
        _ => {}
    }
    table.finish();
    Some(Tls { cert: PathBuf::from(cert?), key: PathBuf::from(key?) })
}

/// Messages leave secrets out.
fn token(mut table: Table<'_>, others: &[Token], environment: &BTreeMap<String, String>) -> Option<Token> {
    let (name_at, secret_at, variable_at) =
        (table.place_of("name"), table.place_of("secret"), table.place_of("secret_env"));
    let name = table.required("name", |value| text(value).and_then(actor));
    if let Some(name) = name.as_ref().filter(|name| others.iter().any(|other| other.name == **name)) {
        table.note("name", name_at, format!("`{name}` is there twice; the history could not tell them apart"));
    }
    let role = table.required("role", word(&[("viewer", Role::Viewer), ("operator", Role::Operator)]));
    let literal = table.optional("secret", text);
    let variable = table.optional("secret_env", |value| text(value).and_then(non_empty));
    let secret = match (literal, variable) {
        (Some(secret), None) => match usable(secret, others) {
            Ok(secret) => Some(Ok(secret)),
            Err(message) => {
                table.note("secret", secret_at, message);
                None
            }
        },
        (None, Some(variable)) => Some(match environment.get(&variable) {
            Some(secret) => {
                usable(secret.clone(), others).map_err(|message| table.problem("secret", variable_at, message))
            }
            None => {
                let message = format!("the environment has no variable `{variable}`");
                Err(table.problem("secret_env", variable_at, message))
            }
        }),
        (Some(_), Some(_)) => {
            table.note("secret", secret_at, "give either secret or secret_env, not both".to_owned());
            None
        }
        (None, None) => {
            table.note("secret", table.place_of("secret"), "is missing: give secret or secret_env".to_owned());
            None
        }
    };
    table.finish();
    Some(Token { name: name?, role: role?, secret: secret? })
}

/// What a header can carry, and nobody else has.
fn usable(secret: String, others: &[Token]) -> Result<String, String> {
    if secret.is_empty() || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("must be printable ASCII characters without spaces, at least one".to_owned());
    }
    match others.iter().any(|other| other.secret.as_ref() == Ok(&secret)) {
        true => Err("another token has the same secret".to_owned()),
        false => Ok(secret),
    }
}

fn actor(name: String) -> Result<String, String> {
    match name.is_empty() || name.chars().any(char::is_control) {
        true => Err("must be a name without control characters".to_owned()),
        false => Ok(name),
    }
}

fn telemetry(mut table: Table<'_>) -> Telemetry {
    let log = table.or("log", "info".to_owned(), |value| {
        let filter = text(value)?;
        let check = tracing_subscriber::EnvFilter::builder().parse(&filter);
        check
            .map(|_| filter)
            .map_err(|error| format!("must be a level or a filter, as in \"info\" or \"info,sqlx=warn\": {error}"))
    });
    let otlp = table.or("otlp", String::new(), |value| match text(value)? {
        // An endpoint that nothing reaches would be found out when the traces are needed.
        endpoint if !endpoint.trim().is_empty() => Err("this sagad does not export traces: leave it empty".to_owned()),
        empty => Ok(empty),
    });
    table.finish();
    Telemetry { log, otlp }
}
