//! Binding sagad's queue to the exchanges of other services.

use std::collections::BTreeSet;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ExchangeKind};

use super::connect::{REPLY_TIMEOUT, describe, open_channel};
use super::convert::short;
use super::declare::{exchange_object, refusal};
use super::{BrokerMisconfigured, End};
use crate::broker::listening::{Heard, Listening};
use crate::broker::message::Inbox;
use crate::broker::names::Names;
use crate::broker::topology::{Arguments, BindingPlan, Conflict, Destination};
use crate::config::TopologyMode;

/// What is bound in this epoch.
pub(super) struct Ear {
    queue: String,
    mode: TopologyMode,
    bound: BTreeSet<(String, String)>,
}

impl Ear {
    pub(super) fn new(names: &Names, mode: TopologyMode) -> Ear {
        Ear { queue: names.queue(Inbox::Events), mode, bound: BTreeSet::new() }
    }

    /// Binds what is wanted as an epoch begins.
    ///
    /// # Errors
    /// Every exchange that is not there, every binding that is not allowed; or that the broker was lost over it.
    pub(super) async fn open(&mut self, connection: &Connection, listening: &mut Listening) -> Result<(), End> {
        match self.bind(connection, &listening.wanted()).await? {
            refused if refused.is_empty() => Ok(()),
            refused => Err(End::Misconfigured(BrokerMisconfigured::Topology(refused))),
        }
    }

    /// Binds whatever is wanted from now on; ends with why it could not.
    pub(super) async fn follow(&mut self, connection: &Connection, listening: &mut Listening) -> String {
        loop {
            let wanted = listening.wanted();
            match self.bind(connection, &wanted).await {
                Ok(refused) => {
                    // Whoever wanted it while the link came up was told nothing.
                    refused.iter().for_each(|conflict| tracing::warn!(%conflict, "not everything can be heard"));
                    listening.bound(wanted, refused);
                }
                Err(End::Lost(why)) => return why,
                Err(_) => return "the broker does not let anything be bound".to_owned(),
            }
            listening.changed().await;
        }
    }

    /// Binds what of `heard` is not bound yet, or, where sagad declares nothing, looks whether its exchanges are there.
    async fn bind(&mut self, connection: &Connection, heard: &Heard) -> Result<Vec<Conflict>, End> {
        let mut refused = Vec::new();
        if self.mode == TopologyMode::Skip {
            return Ok(refused);
        }
        // A missing exchange is one conflict, however much of it is wanted.
        let mut missing = BTreeSet::new();
        for (source, definitions) in heard {
            let (exchange, routing_key) = source;
            if self.bound.contains(source) || missing.contains(exchange) {
                continue;
            }
            if let Some((code, text)) = self.ask(connection, Request::Look(exchange)).await? {
                missing.insert(exchange);
                refused.push(unheard(exchange, definitions, code, &text, self.mode));
                continue;
            }
            if self.mode == TopologyMode::Declare
                && let Some((code, text)) = self.ask(connection, Request::Bind(exchange, routing_key)).await?
            {
                let binding = BindingPlan {
                    source: exchange.clone(),
                    destination: Destination::Queue(self.queue.clone()),
                    routing_key: routing_key.clone(),
                    arguments: Arguments::new(),
                };
                refused.push(Conflict::explain(binding.object(), code, &text, self.mode));
                continue;
            }
            self.bound.insert(source.clone());
        }
        Ok(refused)
    }

    /// On a channel of its own, as the broker closes it over a refusal: its code and its words.
    async fn ask(&self, connection: &Connection, request: Request<'_>) -> Result<Option<(u16, String)>, End> {
        let channel = open_channel(connection).await?;
        match tokio::time::timeout(REPLY_TIMEOUT, self.send(&channel, request)).await {
            Ok(Ok(Ok(()))) => {
                let _ = tokio::time::timeout(REPLY_TIMEOUT, channel.close(200, "OK".into())).await;
                Ok(None)
            }
            // What AMQP can't carry is refused before the broker can.
            Ok(Err(text)) => Ok(Some((0, text))),
            Ok(Ok(Err(error))) => match refusal(&error) {
                Some(refused) => Ok(Some(refused)),
                None => Err(End::Lost(describe(&error))),
            },
            Err(_) => {
                let seconds = REPLY_TIMEOUT.as_secs();
                Err(End::Lost(format!("the broker does not answer a binding within {seconds} s")))
            }
        }
    }

    /// The outer error is ours, the inner the broker's.
    async fn send(&self, channel: &Channel, request: Request<'_>) -> Result<lapin::Result<()>, String> {
        let arguments = FieldTable::default();
        Ok(match request {
            Request::Look(exchange) => {
                let exchange = short("an exchange's name", exchange)?;
                let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
                // Its type is not looked at.
                channel.exchange_declare(exchange, ExchangeKind::Topic, passive, arguments).await
            }
            Request::Bind(exchange, routing_key) => {
                let exchange = short("an exchange's name", exchange)?;
                let routing_key = short("a routing key", routing_key)?;
                let queue = short("a queue's name", &self.queue)?;
                channel.queue_bind(queue, exchange, routing_key, QueueBindOptions::default(), arguments).await
            }
        })
    }
}

enum Request<'a> {
    /// Whether the exchange is there.
    Look(&'a str),
    /// Exchange and routing key.
    Bind(&'a str, &'a str),
}

fn unheard(exchange: &str, definitions: &BTreeSet<String>, code: u16, text: &str, mode: TopologyMode) -> Conflict {
    let object = exchange_object(exchange);
    if code != 404 {
        return Conflict::explain(object, code, text, mode);
    }
    let names: Vec<String> = definitions.iter().map(|name| format!("`{name}`")).collect();
    let why = format!(
        "it does not exist, and {} listens to it; have the service that publishes there declare it first, or declare it \
         yourself in [[topology.exchanges]]",
        names.join(", ")
    );
    Conflict { object, why }
}
