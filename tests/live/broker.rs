//! The link to RabbitMQ, without the rest of sagad: the test is the engine.

mod consuming;
mod hostile;
mod outages;
mod publishing;
mod rates;
mod topology;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sagad::broker::amqp::{Amqp, BrokerMisconfigured, Stop};
use sagad::broker::listening::{self, Listener};
use sagad::broker::message::{Delivery, Outgoing, Properties, Publication, Published};
use sagad::broker::publisher::{self, Publisher};
use sagad::broker::topology::TopologyPlan;
use sagad::config::{Binding, BrokerConfig, Exchange, Queue, QueueType, Topology};
use sagad::health::{Health, Part};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// Nothing here takes longer, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running link and the engine's ends of it.
struct Link {
    deliveries: mpsc::Receiver<Delivery>,
    publisher: Publisher,
    published: mpsc::Receiver<Vec<Published>>,
    listener: Listener,
    /// Told one by one; the rest of the last batch.
    told: std::collections::VecDeque<Published>,
    health: Health,
    stop: Stop,
    task: JoinHandle<Result<(), BrokerMisconfigured>>,
}

impl Link {
    fn start(broker: BrokerConfig, topology: &Topology) -> Link {
        let plan = TopologyPlan::new(&broker, topology).expect("a right topology");
        let (deliveries_in, deliveries) = mpsc::channel(4096);
        let (published_in, published) = mpsc::channel(64);
        let (publisher, publications) = publisher::channel();
        let (listener, listening) = listening::channel();
        let health = Health::new();
        let stop = Stop::default();
        let amqp = Amqp {
            broker,
            plan,
            listening,
            deliveries: deliveries_in,
            publications,
            published: published_in,
            health: health.clone(),
            clock: sagad::clock::system(),
            stop: stop.clone(),
        };
        let task = tokio::spawn(amqp.run());
        Link { deliveries, publisher, published, listener, told: Default::default(), health, stop, task }
    }

    /// Waits until it is up.
    async fn up(&self) {
        self.health_becomes(|trouble| trouble.is_none()).await;
    }

    /// Waits until it is down, and gives why.
    async fn down(&self) -> String {
        self.health_becomes(|trouble| trouble.is_some_and(|why| why != "starting")).await.unwrap_or_default()
    }

    async fn health_becomes(&self, right: impl Fn(Option<&str>) -> bool) -> Option<String> {
        let waiting = async {
            loop {
                let trouble = self.health.trouble(Part::Broker);
                if right(trouble.as_deref()) {
                    return trouble;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(trouble) => trouble,
            Err(_) => panic!("the link's health stays {:?}", self.health.trouble(Part::Broker)),
        }
    }

    /// Why it does not start.
    async fn misconfigured(self) -> BrokerMisconfigured {
        let ended = tokio::time::timeout(PATIENCE, self.task).await.expect("ends").expect("does not panic");
        ended.expect_err("is misconfigured")
    }

    /// Publishes a message with an outbox row.
    fn publish(&self, message: Outgoing) -> Uuid {
        let outbox = Uuid::now_v7();
        let publication =
            Publication { outbox: Some(outbox), message: Arc::new(message), told: None, handover: Default::default() };
        self.publisher.publish(publication).expect("the link runs");
        outbox
    }

    /// What became of the next message.
    async fn next(&mut self) -> Published {
        while self.told.is_empty() {
            let batch = tokio::time::timeout(PATIENCE, self.published.recv()).await;
            self.told.extend(batch.expect("is told in time").expect("the link runs"));
        }
        self.told.pop_front().expect("not empty")
    }

    async fn delivery(&mut self) -> Delivery {
        tokio::time::timeout(PATIENCE, self.deliveries.recv()).await.expect("comes in time").expect("the link runs")
    }

    /// Stops it as the daemon does.
    async fn stop(self) {
        self.stop.consuming.cancel();
        self.stop.all.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.task).await.expect("ends").expect("does not panic");
        ended.expect("was up");
    }
}

/// A command, numbered.
fn command(exchange: &str, routing_key: &str, number: usize) -> Outgoing {
    Outgoing {
        exchange: exchange.to_owned(),
        routing_key: routing_key.to_owned(),
        mandatory: true,
        properties: Properties {
            message_id: Some(format!("m{number}")),
            delivery_mode: Some(2),
            content_type: Some("application/json".into()),
            ..Properties::default()
        },
        body: Bytes::from(number.to_string()),
    }
}

fn exchange(name: &str, kind: &str) -> Exchange {
    let arguments = Default::default();
    Exchange { name: name.to_owned(), kind: kind.to_owned(), alternate: None, bind: Vec::new(), arguments }
}

fn queue(name: &str, kind: QueueType) -> Queue {
    Queue {
        name: name.to_owned(),
        bind: Vec::new(),
        kind,
        max_priority: None,
        dead_letter: true,
        delivery_limit: None,
        message_ttl: None,
        max_length: None,
        overflow: None,
        arguments: Default::default(),
    }
}

fn binding(exchange: &str, routing_key: &str) -> Binding {
    Binding { exchange: exchange.to_owned(), routing_key: routing_key.to_owned(), arguments: Default::default() }
}
