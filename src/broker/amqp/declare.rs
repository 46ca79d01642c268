//! The plan, made true or found to be so, one object after the other, each refusal noted: a broker closes the channel over most, and the
//! connection over some (an unknown type of exchange).

use lapin::options::{ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ErrorKind, ExchangeKind};

use super::connect::{Broker, REPLY_TIMEOUT, describe, open_channel};
use super::convert::{short, table};
use super::{BrokerMisconfigured, End};
use crate::broker::topology::{BindingPlan, Conflict, Destination, ExchangePlan, QueuePlan, TopologyPlan};
use crate::config::TopologyMode;

/// What can be asked of a broker here.
enum Request<'a> {
    Exchange(&'a ExchangePlan),
    Queue(&'a QueuePlan),
    Binding(&'a BindingPlan),
    /// Whether an exchange of this name is there, whatever its type.
    Source(&'a str),
}

/// A refusal, or the end.
enum Trouble {
    Refused { code: u16, text: String },
    Over(End),
}

/// Makes `plan` true, or verifies it, as its mode says.
///
/// # Errors
/// All conflicts, or that the broker was lost over it.
pub(super) async fn prepare(broker: &Broker, connection: &mut Connection, plan: &TopologyPlan) -> Result<(), End> {
    if plan.mode == TopologyMode::Skip {
        return Ok(());
    }
    let passive = plan.mode == TopologyMode::Verify;
    let mut probe = Probe { broker, connection, channel: None, closed: false, passive };
    let mut conflicts = Conflicts { mode: plan.mode, found: Vec::new() };
    for exchange in &plan.exchanges {
        let object = exchange_object(&exchange.name);
        conflicts.note(object, probe.ask(&Request::Exchange(exchange)).await)?;
    }
    for queue in &plan.queues {
        conflicts.note(queue_object(&queue.name), probe.ask(&Request::Queue(queue)).await)?;
    }
    for binding in &plan.bindings {
        let request = match plan.mode {
            // A binding can't be seen, only its source.
            TopologyMode::Verify if plan.exchanges.iter().any(|known| known.name == binding.source) => continue,
            TopologyMode::Verify => Request::Source(&binding.source),
            _ if conflicts.concern(binding) => continue,
            _ => Request::Binding(binding),
        };
        conflicts.note(binding.object(), probe.ask(&request).await)?;
    }
    if let Some(channel) = probe.channel.take() {
        let _ = tokio::time::timeout(REPLY_TIMEOUT, channel.close(200, "OK".into())).await;
    }
    if conflicts.found.is_empty() {
        Ok(())
    } else {
        Err(End::Misconfigured(BrokerMisconfigured::Topology(conflicts.found)))
    }
}

/// A refusal that is a matter of configuration: what does not exist, is not allowed, is different. The rest may pass.
pub(super) fn refusal(error: &lapin::Error) -> Option<(u16, String)> {
    let ErrorKind::ProtocolError(why) = error.kind() else { return None };
    let text = why.get_message().to_string();
    // A queue whose node is down is "not found" too, and will be again.
    let passes =
        ["is down or inaccessible", "timed out", "stopped by supervisor"].iter().any(|part| text.contains(part));
    let lasting = error.is_amqp_soft_error() || matches!(why.get_id(), 503 | 530);
    (lasting && !passes).then(|| (why.get_id(), text))
}

pub(super) fn exchange_object(name: &str) -> String {
    format!("exchange `{name}`")
}

pub(super) fn queue_object(name: &str) -> String {
    format!("queue `{name}`")
}

struct Conflicts {
    mode: TopologyMode,
    found: Vec<Conflict>,
}

impl Conflicts {
    fn note(&mut self, object: String, outcome: Result<(), Trouble>) -> Result<(), End> {
        match outcome {
            Ok(()) => Ok(()),
            Err(Trouble::Refused { code, text }) => {
                self.found.push(Conflict::explain(object, code, &text, self.mode));
                Ok(())
            }
            Err(Trouble::Over(end)) => Err(end),
        }
    }

    /// Whether one of the two that `binding` binds is in conflict itself, which is the thing to be told then.
    fn concern(&self, binding: &BindingPlan) -> bool {
        let source = exchange_object(&binding.source);
        let destination = match &binding.destination {
            Destination::Queue(name) => queue_object(name),
            Destination::Exchange(name) => exchange_object(name),
        };
        self.found.iter().any(|conflict| conflict.object == source || conflict.object == destination)
    }
}

/// Asks the broker on channels, and connections, that it may close over each answer.
struct Probe<'a> {
    broker: &'a Broker,
    connection: &'a mut Connection,
    channel: Option<Channel>,
    /// The broker is closing the connection; it may look connected for a moment yet.
    closed: bool,
    passive: bool,
}

impl Probe<'_> {
    async fn ask(&mut self, request: &Request<'_>) -> Result<(), Trouble> {
        if self.closed || !self.connection.status().connected() {
            *self.connection = self.broker.connect("publish").await.map_err(Trouble::Over)?;
            self.channel = None;
            self.closed = false;
        }
        let channel = match self.channel.take().filter(|channel| channel.status().connected()) {
            Some(channel) => channel,
            None => open_channel(self.connection).await.map_err(Trouble::Over)?,
        };
        let asked = tokio::time::timeout(REPLY_TIMEOUT, send(&channel, request, self.passive));
        match asked.await {
            Ok(Ok(Ok(()))) => {
                self.channel = Some(channel);
                Ok(())
            }
            // What AMQP can't carry is refused before the broker can.
            Ok(Err(text)) => Err(Trouble::Refused { code: 0, text }),
            Ok(Ok(Err(error))) => {
                self.closed = !error.is_amqp_soft_error();
                Err(match refusal(&error) {
                    Some((code, text)) => Trouble::Refused { code, text },
                    None => Trouble::Over(End::Lost(describe(&error))),
                })
            }
            Err(_) => {
                let seconds = REPLY_TIMEOUT.as_secs();
                Err(Trouble::Over(End::Lost(format!("the broker does not answer a declaration within {seconds} s"))))
            }
        }
    }
}

/// Sends one request and waits for its answer. The outer error is ours, the inner the broker's.
async fn send(channel: &Channel, request: &Request<'_>, passive: bool) -> Result<lapin::Result<()>, String> {
    let declare_exchange = ExchangeDeclareOptions { passive, durable: true, ..ExchangeDeclareOptions::default() };
    let declare_queue = QueueDeclareOptions { passive, durable: true, ..QueueDeclareOptions::default() };
    let name = |text: &str| short("a name", text);
    Ok(match request {
        Request::Exchange(exchange) => {
            let kind = kind(&exchange.kind);
            let arguments = table(&exchange.arguments)?;
            channel.exchange_declare(name(&exchange.name)?, kind, declare_exchange, arguments).await
        }
        Request::Source(exchange) => {
            let passive = ExchangeDeclareOptions { passive: true, ..declare_exchange };
            channel.exchange_declare(name(exchange)?, ExchangeKind::Direct, passive, FieldTable::default()).await
        }
        Request::Queue(queue) => {
            channel.queue_declare(name(&queue.name)?, declare_queue, table(&queue.arguments)?).await.map(drop)
        }
        Request::Binding(binding) => {
            let source = name(&binding.source)?;
            let key = name(&binding.routing_key)?;
            let arguments = table(&binding.arguments)?;
            match &binding.destination {
                Destination::Queue(queue) => {
                    channel.queue_bind(name(queue)?, source, key, QueueBindOptions::default(), arguments).await
                }
                Destination::Exchange(exchange) => {
                    let options = ExchangeBindOptions::default();
                    channel.exchange_bind(name(exchange)?, source, key, options, arguments).await
                }
            }
        }
    })
}

fn kind(name: &str) -> ExchangeKind {
    match name {
        "direct" => ExchangeKind::Direct,
        "topic" => ExchangeKind::Topic,
        "fanout" => ExchangeKind::Fanout,
        "headers" => ExchangeKind::Headers,
        other => ExchangeKind::Custom(other.to_owned()),
    }
}
