//! The document in the making: each channel once, whoever uses it.

use indexmap::IndexMap;
use serde_json::{Map, Value, json};
use url::Url;

use crate::config::{BrokerConfig, Topology};

/// Of AsyncAPI's bindings for AMQP 0-9-1.
pub(super) const BINDING: &str = "0.3.0";

/// Kinds of exchanges that the bindings know.
const KINDS: [&str; 4] = ["topic", "direct", "fanout", "headers"];

const DESCRIPTION: &str = "What sagad sends and receives for its sagas. The application described is sagad: a `send` operation is what \
    participants and listeners get, a `receive` operation is what others publish to it. `correlation_id`, `reply_to` and `message_id` \
    are AMQP's basic properties.";

/// Where messages go to or come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// An exchange, under one routing key.
    Key { exchange: String, routing_key: String },
    /// An exchange, under all routing keys of a topic pattern.
    Pattern { exchange: String, pattern: String },
    /// sagad's queue for answers, which commands name.
    Answers { queue: String },
    /// A queue of whoever asks, which he names.
    Asker,
}

/// A message of a channel, by its name.
pub(super) struct Message {
    pub(super) name: String,
    pub(super) title: String,
    pub(super) summary: String,
    pub(super) headers: Value,
    pub(super) payload: Value,
    pub(super) content_type: &'static str,
    /// It has a correlation id.
    pub(super) correlated: bool,
    /// AMQP's `type`.
    pub(super) kind: Option<String>,
}

/// What sagad does with a channel.
pub(super) struct Operation {
    pub(super) name: String,
    pub(super) action: &'static str,
    pub(super) summary: String,
    pub(super) saga: String,
    /// What the bindings say besides.
    pub(super) binding: Map<String, Value>,
    pub(super) reply: Option<Value>,
    /// What AsyncAPI has no word for.
    pub(super) extra: Map<String, Value>,
}

#[derive(Default)]
pub(super) struct Document {
    channels: IndexMap<Place, (String, Map<String, Value>)>,
    operations: Map<String, Value>,
    messages: Map<String, Value>,
    schemas: Map<String, Value>,
    /// The kinds of the exchanges that are declared.
    kinds: IndexMap<String, String>,
}

impl Document {
    pub(super) fn new(topology: &Topology) -> Document {
        let kinds = topology.exchanges.iter().map(|exchange| (exchange.name.clone(), exchange.kind.clone()));
        Document { kinds: kinds.collect(), ..Document::default() }
    }

    /// An exchange of sagad's own.
    pub(super) fn declares(&mut self, exchange: &str, kind: &str) {
        self.kinds.insert(exchange.to_owned(), kind.to_owned());
    }

    /// Adds a schema to refer to.
    pub(super) fn schema(&mut self, name: &str, schema: Value) {
        self.schemas.insert(name.to_owned(), schema);
    }

    /// Adds an operation with one message.
    pub(super) fn operate(&mut self, place: Place, message: Message, operation: Operation) {
        let (channel, message) = self.carry(place, message);
        let Operation { name, action, summary, saga, binding, reply, extra } = operation;
        let mut amqp = binding;
        amqp.insert("bindingVersion".to_owned(), BINDING.into());
        let mut value = Map::from_iter([
            ("action".to_owned(), action.into()),
            ("summary".to_owned(), summary.into()),
            ("channel".to_owned(), channel),
            ("messages".to_owned(), json!([message])),
            ("tags".to_owned(), json!([{ "name": saga }])),
            ("bindings".to_owned(), json!({ "amqp": amqp })),
        ]);
        value.extend(reply.map(|reply| ("reply".to_owned(), reply)));
        if !extra.is_empty() {
            value.insert("x-sagad".to_owned(), extra.into());
        }
        self.operations.insert(name, value.into());
    }

    /// What answers an operation, at the address that its message has in `reply_to`.
    pub(super) fn reply(&mut self, place: Place, message: Message) -> Value {
        let (channel, message) = self.carry(place, message);
        json!({
            "address": {
                "location": "$message.header#/reply_to",
                "description": "The queue named by the AMQP property reply_to, through the default exchange",
            },
            "channel": channel,
            "messages": [message],
        })
    }

    /// Adds a message to a channel; yields references to the channel and to the message in it.
    fn carry(&mut self, place: Place, message: Message) -> (Value, Value) {
        let place = match place {
            // No pattern at all: what others wait for may be what a saga publishes.
            Place::Pattern { exchange, pattern } if !pattern.split('.').any(|word| matches!(word, "*" | "#")) => {
                Place::Key { exchange, routing_key: pattern }
            }
            place => place,
        };
        let Message { name, title, summary, headers, payload, content_type, correlated, kind } = message;
        let mut amqp = Map::from_iter([("contentEncoding".to_owned(), Value::from("utf-8"))]);
        amqp.extend(kind.map(|kind| ("messageType".to_owned(), kind.into())));
        amqp.insert("bindingVersion".to_owned(), BINDING.into());
        let mut value = Map::from_iter([
            ("name".to_owned(), Value::from(name.as_str())),
            ("title".to_owned(), title.into()),
            ("summary".to_owned(), summary.into()),
            ("contentType".to_owned(), content_type.into()),
            ("headers".to_owned(), headers),
            ("payload".to_owned(), payload),
            ("bindings".to_owned(), json!({ "amqp": amqp })),
        ]);
        if correlated {
            let id = json!({ "$ref": "#/components/correlationIds/correlation_id" });
            value.insert("correlationId".to_owned(), id);
        }
        self.messages.insert(name.clone(), value.into());
        if !self.channels.contains_key(&place) {
            let id = self.fresh_id(&place);
            let channel = self.channel(&place);
            self.channels.insert(place.clone(), (id, channel));
        }
        let (id, channel) = &mut self.channels[&place];
        if let Some(messages) = channel.get_mut("messages").and_then(Value::as_object_mut) {
            messages.insert(name.clone(), json!({ "$ref": format!("#/components/messages/{name}") }));
        }
        let channel = format!("#/channels/{id}");
        (json!({ "$ref": channel }), json!({ "$ref": format!("{channel}/messages/{name}") }))
    }

    fn fresh_id(&self, place: &Place) -> String {
        let text = match place {
            Place::Key { exchange, routing_key } => format!("{exchange}.{routing_key}"),
            Place::Pattern { exchange, pattern } => {
                format!("{exchange}.{}", pattern.replace('*', "any").replace('#', "all"))
            }
            Place::Answers { queue } => queue.clone(),
            Place::Asker => "start-answers".to_owned(),
        };
        let harmless = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let base: String = text.chars().map(harmless).collect();
        let taken = |id: &str| self.channels.values().any(|(other, _)| other == id);
        let mut ids = std::iter::once(base.clone()).chain((2u32..).map(|nth| format!("{base}-{nth}")));
        ids.find(|id| !taken(id)).unwrap_or(base)
    }

    fn channel(&self, place: &Place) -> Map<String, Value> {
        let mut channel = Map::new();
        let mut set = |name: &str, value: Value| channel.insert(name.to_owned(), value);
        match place {
            Place::Key { exchange, routing_key } => {
                set("address", address(routing_key));
                set("description", format!("Exchange `{exchange}`, routing key `{routing_key}`").into());
                set("bindings", self.binding(exchange));
            }
            Place::Pattern { exchange, pattern } => {
                let (address, parameters) = pattern_address(pattern);
                set("address", address);
                set("description", format!("Exchange `{exchange}`, routing keys `{pattern}`").into());
                if !parameters.is_empty() {
                    set("parameters", parameters.into());
                }
                set("bindings", self.binding(exchange));
            }
            Place::Answers { queue } => {
                set("address", Value::Null);
                set("description", format!("The queue `{queue}`, through the default exchange").into());
                let queue = json!({ "name": queue, "durable": true, "exclusive": false, "autoDelete": false });
                set("bindings", json!({ "amqp": { "is": "queue", "queue": queue, "bindingVersion": BINDING } }));
            }
            Place::Asker => {
                set("address", Value::Null);
                set("description", "A queue of whoever asks, through the default exchange".into());
            }
        }
        set("messages", Map::new().into());
        channel
    }

    fn binding(&self, exchange: &str) -> Value {
        let mut about = Map::from_iter([("name".to_owned(), Value::from(exchange))]);
        if let Some(kind) = self.kinds.get(exchange) {
            if KINDS.contains(&kind.as_str()) {
                about.insert("type".to_owned(), kind.as_str().into());
            }
            about.insert("durable".to_owned(), true.into());
            about.insert("autoDelete".to_owned(), false.into());
        }
        json!({ "amqp": { "is": "routingKey", "exchange": about, "bindingVersion": BINDING } })
    }

    pub(super) fn finish(self, broker: &BrokerConfig) -> Value {
        let channels: Map<String, Value> = self.channels.into_values().map(|(id, it)| (id, it.into())).collect();
        json!({
            "asyncapi": "3.0.0",
            "id": format!("urn:sagad:{}", broker.prefix),
            "info": { "title": "Sagas", "version": env!("CARGO_PKG_VERSION"), "description": DESCRIPTION },
            "defaultContentType": "application/json",
            "servers": { "rabbitmq": server(&broker.url) },
            "channels": channels,
            "operations": self.operations,
            "components": {
                "messages": self.messages,
                "schemas": self.schemas,
                "correlationIds": {
                    "correlation_id": {
                        "location": "$message.header#/correlation_id",
                        "description": "The AMQP property correlation_id: an answer echoes the command's",
                    },
                },
            },
        })
    }
}

/// An address can't have what AsyncAPI takes for a parameter, a query or a fragment.
fn address(routing_key: &str) -> Value {
    if routing_key.contains(['{', '}', '?', '#']) { Value::Null } else { routing_key.into() }
}

/// A topic pattern as an address with parameters.
fn pattern_address(pattern: &str) -> (Value, Map<String, Value>) {
    let mut parameters = Map::new();
    let words: Vec<String> = pattern
        .split('.')
        .map(|word| {
            let (name, description) = match word {
                "*" => ("word", "One word"),
                "#" => ("words", "Any number of words with dots between them, or none"),
                _ => return word.to_owned(),
            };
            let name = format!("{name}{}", parameters.len() + 1);
            parameters.insert(name.clone(), json!({ "description": description }));
            format!("{{{name}}}")
        })
        .collect();
    // Checked word by word: the braces are ours.
    let plain = pattern.split('.').filter(|word| !matches!(*word, "*" | "#"));
    match plain.clone().all(|word| !address(word).is_null()) {
        true => (words.join(".").into(), parameters),
        false => (Value::Null, Map::new()),
    }
}

/// Where the broker is; who logs in is nobody's business.
fn server(url: &str) -> Value {
    let url = Url::parse(url).ok();
    let protocol = url.as_ref().map_or("amqp", Url::scheme);
    let host = url.as_ref().and_then(|url| Some((url.host_str()?, url.port())));
    let default_port = if protocol == "amqps" { 5671 } else { 5672 };
    let host = host.map(|(host, port)| format!("{host}:{}", port.unwrap_or(default_port)));
    let pathname = url.as_ref().map_or("", Url::path);
    json!({
        "host": host.unwrap_or_else(|| "localhost:5672".to_owned()),
        "protocol": protocol,
        "protocolVersion": "0.9.1",
        "pathname": if pathname.is_empty() { "/%2f" } else { pathname },
        "description": "RabbitMQ, as sagad reaches it",
    })
}
