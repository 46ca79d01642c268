//! What must exist on the broker before anything is published or consumed, as plain data: the configuration's exchanges, queues and
//! bindings, and sagad's own.
//!
//! ```text
//!   sagad.start (direct) ──alternate──> sagad.start.unknown (fanout) ──> sagad.start
//!   sagad.dead (topic) ──#──> sagad.dead                sagad.events (topic)
//!   sagad.signals (topic) ──#──> sagad.signals          exchanges of other services ──[listening]──> sagad.heard
//!   default exchange ──> sagad.replies, sagad.children, sagad.wakeups, sagad.delay.100 … sagad.delay.13107200
//!   sagad.delay.* ──expired──> default exchange ──> sagad.wakeups
//! ```

mod conflict;
mod routes;

use std::collections::BTreeMap;

use serde_json::{Value, json};

pub use conflict::Conflict;
pub use routes::{topic_takes, topics_meet};

use crate::broker::message::Inbox;
use crate::broker::names::Names;
use crate::config::{self, BrokerConfig, QueueType, Topology, TopologyMode};

/// AMQP's limit for names and routing keys, in bytes.
pub const MAX_NAME: usize = 255;

/// RabbitMQ's limit for a time to live: 2³² - 1 ms, some 49 days.
const MAX_TTL: u128 = u32::MAX as u128;

/// As good as none. RabbitMQ drops what was delivered 20 times from a quorum queue since 4.0 unless told otherwise; its own word for no limit,
/// -1, makes the versions before drop what was delivered once.
const NO_DELIVERY_LIMIT: i32 = i32::MAX;

/// How many exchanges sagad has of its own.
const OWN_EXCHANGES: usize = 5;

/// Arguments of exchanges and queues, and of bindings to headers exchanges, as RabbitMQ names them.
pub type Arguments = BTreeMap<String, Value>;

/// Everything that must exist, in the order it is declared: exchanges, queues, bindings. An exchange may name an alternate that is
/// declared after it.
#[derive(Clone, Debug, PartialEq)]
pub struct TopologyPlan {
    /// What to do with it at start-up.
    pub mode: TopologyMode,
    /// Exchanges, all durable.
    pub exchanges: Vec<ExchangePlan>,
    /// Queues, all durable.
    pub queues: Vec<QueuePlan>,
    /// Bindings.
    pub bindings: Vec<BindingPlan>,
}

/// A durable exchange.
#[derive(Clone, Debug, PartialEq)]
pub struct ExchangePlan {
    /// Its name.
    pub name: String,
    /// `direct`, `topic`, `fanout`, `headers`, or a plugin's.
    pub kind: String,
    /// All its arguments.
    pub arguments: Arguments,
}

/// A durable queue.
#[derive(Clone, Debug, PartialEq)]
pub struct QueuePlan {
    /// Its name.
    pub name: String,
    /// All its arguments.
    pub arguments: Arguments,
}

/// A binding: what `destination` gets from `source`.
#[derive(Clone, Debug, PartialEq)]
pub struct BindingPlan {
    /// The exchange that messages come from.
    pub source: String,
    /// What gets them.
    pub destination: Destination,
    /// Key or pattern.
    pub routing_key: String,
    /// For headers exchanges.
    pub arguments: Arguments,
}

/// What can be bound to an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A queue.
    Queue(String),
    /// Another exchange.
    Exchange(String),
}

impl TopologyPlan {
    /// The plan for a configuration.
    ///
    /// # Errors
    /// Everything that is known to be wrong without asking a broker, one sentence each.
    pub fn new(broker: &BrokerConfig, topology: &Topology) -> Result<TopologyPlan, Vec<String>> {
        let names = Names::new(broker.prefix.clone());
        let mut plan = own(&names, broker.queue_type, topology.mode);
        let mut wrong = plan.wrong_names(&broker.prefix);
        for exchange in &topology.exchanges {
            plan.add_exchange(exchange, &mut wrong);
        }
        for queue in &topology.queues {
            plan.add_queue(queue, &names.dead_exchange(), &mut wrong);
        }
        if wrong.is_empty() { Ok(plan) } else { Err(wrong) }
    }

    /// Those of the exchanges that the configuration declares, which come after sagad's own.
    pub fn configured_exchanges(&self) -> &[ExchangePlan] {
        self.exchanges.get(OWN_EXCHANGES..).unwrap_or_default()
    }

    /// What is wrong with sagad's own names is the prefix.
    fn wrong_names(&self, prefix: &str) -> Vec<String> {
        let longest = self.queues.iter().map(|queue| queue.name.len()).max().unwrap_or(0);
        if prefix.is_empty() {
            vec!["broker.prefix is empty: sagad's exchanges and queues need one".to_owned()]
        } else if prefix.starts_with("amq.") {
            vec![format!("broker.prefix is `{prefix}`: RabbitMQ keeps names that begin with `amq.` to itself")]
        } else if longest > MAX_NAME {
            vec![format!("broker.prefix is {} bytes too long: names have {MAX_NAME} at most", longest - MAX_NAME)]
        } else {
            Vec::new()
        }
    }

    fn add_exchange(&mut self, exchange: &config::Exchange, wrong: &mut Vec<String>) {
        let object = format!("exchange `{}`", exchange.name);
        check_name(&object, &exchange.name, wrong);
        if self.exchanges.iter().any(|other| other.name == exchange.name) {
            wrong.push(format!("{object} is declared twice, or it is one of sagad's own"));
        }
        if exchange.kind.is_empty() {
            wrong.push(format!("{object} has no type: use direct, topic, fanout, headers, or the name of a plugin's"));
        }
        let mut arguments = exchange.arguments.clone();
        if let Some(alternate) = &exchange.alternate {
            set(&mut arguments, "alternate-exchange", json!(alternate), "alternate", &object, wrong);
        }
        for binding in &exchange.bind {
            self.add_binding(binding, Destination::Exchange(exchange.name.clone()), wrong);
        }
        self.exchanges.push(ExchangePlan { name: exchange.name.clone(), kind: exchange.kind.clone(), arguments });
    }

    fn add_queue(&mut self, queue: &config::Queue, dead_exchange: &str, wrong: &mut Vec<String>) {
        let object = format!("queue `{}`", queue.name);
        check_name(&object, &queue.name, wrong);
        if self.queues.iter().any(|other| other.name == queue.name) {
            wrong.push(format!("{object} is declared twice, or it is one of sagad's own"));
        }
        let arguments = queue_arguments(queue, dead_exchange, &object, wrong);
        for binding in &queue.bind {
            self.add_binding(binding, Destination::Queue(queue.name.clone()), wrong);
        }
        self.queues.push(QueuePlan { name: queue.name.clone(), arguments });
    }

    fn add_binding(&mut self, binding: &config::Binding, destination: Destination, wrong: &mut Vec<String>) {
        let plan = BindingPlan {
            source: binding.exchange.clone(),
            destination,
            routing_key: binding.routing_key.clone(),
            arguments: binding.arguments.clone(),
        };
        if plan.source.is_empty() {
            wrong.push(format!(
                "{}: the default exchange takes no bindings, every queue is bound to it by its name",
                plan.object()
            ));
        }
        if plan.routing_key.len() > MAX_NAME {
            wrong.push(format!("{}: its routing key has more than {MAX_NAME} bytes", plan.object()));
        }
        if self.bindings.contains(&plan) {
            wrong.push(format!("{} is there twice", plan.object()));
        }
        self.bindings.push(plan);
    }
}

impl QueuePlan {
    /// `x-max-priority`: how many priorities it tells apart; `None` if it has none.
    pub fn max_priority(&self) -> Option<u64> {
        self.arguments.get("x-max-priority").and_then(Value::as_u64)
    }
}

impl BindingPlan {
    /// Its name for a person.
    pub fn object(&self) -> String {
        let destination = match &self.destination {
            Destination::Queue(name) => format!("queue `{name}`"),
            Destination::Exchange(name) => format!("exchange `{name}`"),
        };
        format!("the binding of {destination} to exchange `{}` with routing key `{}`", self.source, self.routing_key)
    }
}

/// What sagad itself needs.
fn own(names: &Names, queue_type: QueueType, mode: TopologyMode) -> TopologyPlan {
    let exchange = |name: String, kind: &str, arguments: &[(&str, Value)]| ExchangePlan {
        name,
        kind: kind.to_owned(),
        arguments: self::arguments(arguments),
    };
    let bind = |queue: Inbox, source: String, routing_key: &str| BindingPlan {
        source,
        destination: Destination::Queue(names.queue(queue)),
        routing_key: routing_key.to_owned(),
        arguments: Arguments::new(),
    };
    // Nothing is bound to the start exchange itself, so that every start, of a definition that exists or not, comes by its alternate.
    let start = [("alternate-exchange", json!(names.unknown_start_exchange()))];
    let inboxes = Inbox::ALL.into_iter().map(|inbox| inbox_queue(names, inbox, queue_type));
    let delays = names.delay_queues().map(|(name, ttl)| QueuePlan {
        name,
        arguments: arguments(&[
            ("x-queue-type", json!(queue_type.as_str())),
            ("x-message-ttl", json!(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))),
            ("x-dead-letter-exchange", json!("")),
            ("x-dead-letter-routing-key", json!(names.queue(Inbox::WakeUps))),
        ]),
    });
    TopologyPlan {
        mode,
        exchanges: vec![
            exchange(names.start_exchange(), "direct", &start),
            exchange(names.unknown_start_exchange(), "fanout", &[]),
            exchange(names.dead_exchange(), "topic", &[]),
            exchange(names.signals_exchange(), "topic", &[]),
            exchange(names.events_exchange(), "topic", &[]),
        ],
        queues: inboxes.chain(delays).collect(),
        bindings: vec![
            bind(Inbox::Starts, names.unknown_start_exchange(), ""),
            bind(Inbox::Dead, names.dead_exchange(), "#"),
            bind(Inbox::Signals, names.signals_exchange(), "#"),
        ],
    }
}

/// A queue that sagad consumes. Nothing may be dropped from it, however often the link breaks before it is dealt with. What it gives up
/// all the same, by an operator's policy, goes to the dead letters, where sagad finds it again.
fn inbox_queue(names: &Names, inbox: Inbox, queue_type: QueueType) -> QueuePlan {
    let mut arguments = arguments(&[("x-queue-type", json!(queue_type.as_str()))]);
    if inbox != Inbox::Dead {
        arguments.insert("x-dead-letter-exchange".to_owned(), json!(names.dead_exchange()));
    }
    if queue_type == QueueType::Quorum {
        arguments.insert("x-delivery-limit".to_owned(), json!(NO_DELIVERY_LIMIT));
    }
    QueuePlan { name: names.queue(inbox), arguments }
}

fn queue_arguments(queue: &config::Queue, dead_exchange: &str, object: &str, wrong: &mut Vec<String>) -> Arguments {
    let mut arguments = queue.arguments.clone();
    // Always said, as a virtual host may have a default type of its own.
    set(&mut arguments, "x-queue-type", json!(queue.kind.as_str()), "type", object, wrong);
    if queue.dead_letter {
        set(
            &mut arguments,
            "x-dead-letter-exchange",
            json!(dead_exchange),
            "dead_letter (true by default)",
            object,
            wrong,
        );
    }
    if let Some(priorities) = queue.max_priority {
        set(&mut arguments, "x-max-priority", json!(priorities), "max_priority", object, wrong);
    }
    if let Some(limit) = queue.delivery_limit {
        set(&mut arguments, "x-delivery-limit", json!(limit), "delivery_limit", object, wrong);
    }
    if let Some(ttl) = queue.message_ttl {
        if ttl.as_millis() > MAX_TTL {
            wrong.push(format!("{object}: message_ttl is longer than RabbitMQ's limit of 49 days"));
        }
        let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        set(&mut arguments, "x-message-ttl", json!(millis), "message_ttl", object, wrong);
    }
    if let Some(length) = queue.max_length {
        set(&mut arguments, "x-max-length", json!(length), "max_length", object, wrong);
    }
    if let Some(overflow) = &queue.overflow {
        set(&mut arguments, "x-overflow", json!(overflow), "overflow", object, wrong);
    }
    check_queue_arguments(&arguments, queue.kind, object, wrong);
    arguments
}

/// What RabbitMQ would refuse, in its own words or in the configuration's.
fn check_queue_arguments(arguments: &Arguments, kind: QueueType, object: &str, wrong: &mut Vec<String>) {
    if kind == QueueType::Quorum && arguments.contains_key("x-max-priority") {
        wrong.push(format!(
            "{object}: quorum queues have no max_priority; use type = \"classic\", or a queue for each priority"
        ));
    }
    if kind == QueueType::Classic && arguments.contains_key("x-delivery-limit") {
        wrong.push(format!("{object}: classic queues have no delivery_limit; use type = \"quorum\""));
    }
    if arguments.get("x-max-priority").is_some_and(|value| !(1..=255).contains(&value.as_i64().unwrap_or(0))) {
        wrong.push(format!("{object}: max_priority must be from 1 to 255"));
    }
    let overflows: &[&str] = match kind {
        QueueType::Quorum => &["drop-head", "reject-publish"],
        QueueType::Classic => &["drop-head", "reject-publish", "reject-publish-dlx"],
    };
    match arguments.get("x-overflow") {
        Some(overflow) if !overflow.as_str().is_some_and(|overflow| overflows.contains(&overflow)) => {
            wrong.push(format!(
                "{object}: overflow is {overflow}; a {} queue has {}",
                kind.as_str(),
                overflows.join(", ")
            ));
        }
        _ => {}
    }
}

fn set(arguments: &mut Arguments, argument: &str, value: Value, key: &str, object: &str, wrong: &mut Vec<String>) {
    if arguments.insert(argument.to_owned(), value).is_some() {
        wrong.push(format!(
            "{object} has both {key} and the argument {argument}, which say the same thing: leave one out"
        ));
    }
}

fn check_name(object: &str, name: &str, wrong: &mut Vec<String>) {
    if name.is_empty() {
        wrong.push(format!("{object} has no name"));
    } else if name.starts_with("amq.") {
        wrong.push(format!(
            "{object}: RabbitMQ keeps names that begin with `amq.` to itself; bind to its own exchanges without declaring them"
        ));
    } else if name.len() > MAX_NAME {
        wrong.push(format!("{object}: a name has {MAX_NAME} bytes at most"));
    }
}

fn arguments(pairs: &[(&str, Value)]) -> Arguments {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Binding, Exchange, Queue};

    fn broker(queue_type: QueueType) -> BrokerConfig {
        BrokerConfig { url: String::new(), prefix: "shop".into(), queue_type, prefetch: 1, max_message: 1 }
    }

    fn exchange(name: &str) -> Exchange {
        Exchange { name: name.into(), kind: "topic".into(), alternate: None, bind: vec![], arguments: Arguments::new() }
    }

    fn queue(name: &str) -> Queue {
        Queue {
            name: name.into(),
            bind: vec![],
            kind: QueueType::Quorum,
            max_priority: None,
            dead_letter: true,
            delivery_limit: None,
            message_ttl: None,
            max_length: None,
            overflow: None,
            arguments: Arguments::new(),
        }
    }

    fn plan(exchanges: Vec<Exchange>, queues: Vec<Queue>) -> Result<TopologyPlan, Vec<String>> {
        TopologyPlan::new(&broker(QueueType::Quorum), &Topology { mode: TopologyMode::Declare, exchanges, queues })
    }

    fn find<'a>(plan: &'a TopologyPlan, name: &str) -> &'a QueuePlan {
        plan.queues.iter().find(|queue| queue.name == name).expect("planned")
    }

    #[test]
    fn sagads_own_starts_reach_it_whatever_they_name() {
        let plan = plan(vec![], vec![]).expect("right");
        let starts = plan.receivers("shop.start", "no-such-definition").expect("known");
        assert_eq!(starts.iter().map(|queue| queue.name.as_str()).collect::<Vec<_>>(), ["shop.start"]);
        let dead = plan.receivers("shop.dead", "any.key.at.all").expect("known");
        assert_eq!(dead.iter().map(|queue| queue.name.as_str()).collect::<Vec<_>>(), ["shop.dead"]);
    }

    #[test]
    fn delay_queues_wake_the_wake_up_queue() {
        let plan = plan(vec![], vec![]).expect("right");
        let rung = find(&plan, "shop.delay.400");
        assert_eq!(
            rung.arguments,
            arguments(&[
                ("x-queue-type", json!("quorum")),
                ("x-message-ttl", json!(400)),
                ("x-dead-letter-exchange", json!("")),
                ("x-dead-letter-routing-key", json!("shop.wakeups")),
            ])
        );
    }

    #[test]
    fn nothing_is_dropped_from_sagads_own_queues() {
        let quorum = plan(vec![], vec![]).expect("right");
        assert_eq!(find(&quorum, "shop.replies").arguments.get("x-delivery-limit"), Some(&json!(i32::MAX)));
        assert_eq!(find(&quorum, "shop.replies").arguments.get("x-dead-letter-exchange"), Some(&json!("shop.dead")));
        assert_eq!(find(&quorum, "shop.dead").arguments.get("x-dead-letter-exchange"), None, "it would go round");
        let classic = TopologyPlan::new(&broker(QueueType::Classic), &Topology::default()).expect("right");
        assert_eq!(find(&classic, "shop.replies").arguments.get("x-delivery-limit"), None, "classic queues have none");
    }

    #[test]
    fn every_key_of_a_queue_becomes_its_argument() {
        let full = Queue {
            kind: QueueType::Classic,
            max_priority: Some(9),
            message_ttl: Some(Duration::from_secs(600)),
            max_length: Some(100_000),
            overflow: Some("reject-publish".into()),
            arguments: arguments(&[("x-single-active-consumer", json!(true))]),
            bind: vec![Binding {
                exchange: "shop.commands".into(),
                routing_key: "pay.*".into(),
                arguments: Arguments::new(),
            }],
            ..queue("payments")
        };
        let plan = plan(vec![exchange("shop.commands")], vec![full]).expect("right");
        assert_eq!(
            find(&plan, "payments").arguments,
            arguments(&[
                ("x-queue-type", json!("classic")),
                ("x-dead-letter-exchange", json!("shop.dead")),
                ("x-max-priority", json!(9)),
                ("x-message-ttl", json!(600_000)),
                ("x-max-length", json!(100_000)),
                ("x-overflow", json!("reject-publish")),
                ("x-single-active-consumer", json!(true)),
            ])
        );
        assert_eq!(find(&plan, "payments").max_priority(), Some(9));
        let receivers = plan.receivers("shop.commands", "pay.now").expect("known");
        assert_eq!(receivers[0].name, "payments");
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let wrong = plan(
            vec![exchange(""), exchange("amq.mine"), exchange("twice"), exchange("twice"), exchange("shop.dead")],
            vec![
                Queue { max_priority: Some(9), ..queue("prio") },
                Queue { kind: QueueType::Classic, delivery_limit: Some(3), ..queue("limited") },
                Queue { overflow: Some("explode".into()), ..queue("full") },
                Queue { arguments: arguments(&[("x-dead-letter-exchange", json!("mine"))]), ..queue("own-dead") },
                Queue { message_ttl: Some(Duration::from_secs(60 * 86_400)), ..queue("slow") },
                Queue {
                    bind: vec![Binding {
                        exchange: String::new(),
                        routing_key: "x".into(),
                        arguments: Arguments::new(),
                    }],
                    ..queue("default")
                },
                queue("shop.replies"),
            ],
        )
        .expect_err("wrong");
        for part in [
            "exchange `` has no name",
            "exchange `amq.mine`: RabbitMQ keeps",
            "exchange `twice` is declared twice",
            "exchange `shop.dead` is declared twice, or it is one of sagad's own",
            "queue `prio`: quorum queues have no max_priority",
            "queue `limited`: classic queues have no delivery_limit",
            "queue `full`: overflow is \"explode\"; a quorum queue has drop-head, reject-publish",
            "queue `own-dead` has both dead_letter (true by default) and the argument x-dead-letter-exchange",
            "queue `slow`: message_ttl is longer",
            "the binding of queue `default` to exchange `` with routing key `x`: the default exchange takes no bindings",
            "queue `shop.replies` is declared twice, or it is one of sagad's own",
        ] {
            assert!(wrong.iter().any(|told| told.starts_with(part)), "{part} is missing in {wrong:#?}");
        }
        assert_eq!(wrong.len(), 11, "{wrong:#?}");
    }
}
