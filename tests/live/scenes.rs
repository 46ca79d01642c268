//! Each sentence of the contract as a scene: a real daemon, and participants whose every word the test says itself.

mod admission;
mod answers;
mod children;
mod commands;
mod dead_letters;
mod events;
mod explaining;
mod guarantees;
mod operations;
mod outages;
mod retention;
mod signals;
mod starts;
mod timing;
mod verifying;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicRejectOptions, ConfirmSelectOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};
use serde_json::{Value, json};

use crate::daemon::{Daemon, Site};
use crate::postgres::{self, Database};
use crate::{rabbitmq, verify};

/// How long anything that must come may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon on a site, and a client of the broker that plays everyone else.
struct Stage {
    // The daemon goes before the site that it runs on.
    daemon: Daemon,
    site: Site,
    channel: Channel,
    _connection: Connection,
    consumers: HashMap<String, Consumer>,
    _database: Option<Database>,
}

/// A site with SQLite and the queues `a` and `b`.
async fn site() -> Site {
    Site::new(rabbitmq::shared().await, None).with_queues(&["a", "b"])
}

/// A site for each store, both with the queues `a` and `b`.
async fn sites() -> [(Site, Option<Database>); 2] {
    let database = postgres::database().await;
    let on_postgres = Site::new(rabbitmq::shared().await, Some(&database.url)).with_queues(&["a", "b"]);
    [(site().await, None), (on_postgres, Some(database))]
}

/// A definition: what stands before the steps, and the steps. Its attempts are patient and tried twice, unless it says otherwise.
fn saga(name: &str, head: &str, steps: &str) -> String {
    format!(
        "name = \"{name}\"\n{head}\n[defaults]\nexchange = \"PREFIX-commands\"\ntimeout = \"20s\"\n\
         retry = {{ attempts = 2, initial = \"10ms\", jitter = 0.0 }}\n{steps}\n"
    )
}

impl Stage {
    async fn open(site: Site) -> Stage {
        Stage::with(site, None).await
    }

    async fn with(site: Site, database: Option<Database>) -> Stage {
        let daemon = site.start().await;
        Stage::around(site, daemon, database).await
    }

    /// With a daemon that runs already.
    async fn around(site: Site, daemon: Daemon, database: Option<Database>) -> Stage {
        let connection = Connection::connect(site.amqp(), ConnectionProperties::default()).await.expect("a connection");
        let channel = connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        Stage { daemon, site, channel, _connection: connection, consumers: HashMap::new(), _database: database }
    }

    /// Starts a saga and gives its id.
    async fn start(&self, definition: &str, input: Value) -> String {
        let (status, saga) = self.daemon.post("/v1/sagas", &json!({ "saga": definition, "input": input })).await;
        assert_eq!(status, 201, "{saga}");
        saga["id"].as_str().expect("an id").to_owned()
    }

    async fn saga(&self, id: &str) -> Value {
        self.daemon.get(&format!("/v1/sagas/{id}")).await.1
    }

    /// Waits until a saga is as expected.
    async fn until(&self, id: &str, what: &str, expected: impl Fn(&Value) -> bool) -> Value {
        self.look(&format!("/v1/sagas/{id}"), what, expected).await
    }

    /// Waits until the saga has this status; then all that is stored is what the journals tell.
    async fn ends(&self, id: &str, status: &str) -> Value {
        let saga = self.until(id, status, |saga| saga["status"] == status).await;
        let store = verify::open(self.site.store()).await;
        verify::look(&store, false).await.is_well();
        store.close().await;
        saga
    }

    /// Waits until what the API says at `path` is as expected.
    async fn look(&self, path: &str, what: &str, expected: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (_, answer) = self.daemon.get(path).await;
            if expected(&answer) {
                return answer;
            }
            assert!(Instant::now() < deadline, "waiting for {what} took too long; {path}: {answer}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until so many dead letters are kept, and gives them.
    async fn letters(&self, count: usize) -> Vec<Value> {
        let enough = |page: &Value| page["items"].as_array().is_some_and(|items| items.len() >= count);
        let page = self.look("/v1/dead-letters?limit=100", "dead letters", enough).await;
        let letters = page["items"].as_array().expect("items").clone();
        assert_eq!(letters.len(), count, "{page}");
        letters
    }

    /// The next message of a queue; it is not acknowledged before it is answered.
    async fn take(&mut self, queue: &str) -> Taken {
        let name = self.site.name(queue);
        self.take_from(&name).await
    }

    async fn take_from(&mut self, name: &str) -> Taken {
        if !self.consumers.contains_key(name) {
            let options = BasicConsumeOptions::default();
            let consumer = self.channel.basic_consume(name.into(), "".into(), options, FieldTable::default()).await;
            self.consumers.insert(name.to_owned(), consumer.expect("the queue is there"));
        }
        let consumer = self.consumers.get_mut(name).expect("just put there");
        match tokio::time::timeout(PATIENCE, consumer.next()).await {
            Ok(Some(Ok(delivery))) => Taken { delivery, channel: self.channel.clone() },
            Ok(other) => panic!("the consumer of {name} ended: {other:?}"),
            Err(_) => panic!("nothing came to {name}"),
        }
    }

    /// Nothing more is in a queue that was taken from: to be asked once nothing more can be on its way.
    fn is_quiet(&mut self, queue: &str) {
        let name = self.site.name(queue);
        if let Some(next) = self.consumers.get_mut(&name).and_then(|consumer| consumer.next().now_or_never()) {
            panic!("{name} has something more: {next:?}");
        }
    }

    /// A queue of the test's own, which is gone with its connection.
    async fn own_queue(&self, exchange: Option<&str>, routing_key: &str) -> String {
        let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let declared = self.channel.queue_declare("".into(), options, FieldTable::default()).await.expect("declared");
        let name = declared.name().to_string();
        if let Some(exchange) = exchange {
            let bound = self.channel.queue_bind(
                name.as_str().into(),
                exchange.into(),
                routing_key.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            bound.await.expect("bound");
        }
        name
    }

    async fn publish(&self, exchange: &str, routing_key: &str, properties: BasicProperties, body: &[u8]) {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let confirm = self.channel.basic_publish(exchange.into(), routing_key.into(), options, body, properties).await;
        let confirmation = confirm.expect("sent").await.expect("confirmed");
        assert!(
            confirmation.is_ack() && confirmation.take_message().is_none(),
            "{exchange} {routing_key} takes nothing"
        );
    }

    /// Every message of the saga's journal, by its type.
    async fn history(&self, id: &str) -> Vec<Value> {
        let (_, page) = self.daemon.get(&format!("/v1/sagas/{id}/history")).await;
        page["items"].as_array().expect("items").clone()
    }
}

/// A message that was taken.
struct Taken {
    delivery: Delivery,
    channel: Channel,
}

impl Taken {
    fn properties(&self) -> &BasicProperties {
        &self.delivery.properties
    }

    fn header(&self, name: &str) -> Option<AMQPValue> {
        self.properties().headers().as_ref().and_then(|headers| headers.inner().get(name).cloned())
    }

    fn text(&self, name: &str) -> String {
        match self.header(name) {
            Some(AMQPValue::LongString(text)) => text.to_string(),
            other => panic!("the header {name} is no string: {other:?}"),
        }
    }

    fn is_in_doubt(&self) -> bool {
        self.header("saga-in-doubt").is_some_and(|value| value == AMQPValue::Boolean(true))
    }

    fn routing_key(&self) -> &str {
        self.delivery.routing_key.as_str()
    }

    fn body(&self) -> Value {
        serde_json::from_slice(&self.delivery.data).expect("JSON")
    }

    fn correlation_id(&self) -> String {
        self.properties().correlation_id().as_ref().expect("a correlation id").to_string()
    }

    /// Says something to sagad and keeps the command.
    async fn say(&self, outcome: Option<&str>, body: &[u8]) {
        let reply_to = self.properties().reply_to().as_ref().expect("a reply_to").to_string();
        let mut properties = BasicProperties::default().with_correlation_id(self.correlation_id().as_str().into());
        if let Some(outcome) = outcome {
            properties = properties.with_headers(table(&[("saga-outcome", outcome)]));
        }
        let options = BasicPublishOptions::default();
        let confirm = self.channel.basic_publish("".into(), reply_to.as_str().into(), options, body, properties).await;
        assert!(confirm.expect("sent").await.expect("confirmed").is_ack());
    }

    /// Answers, and only then acknowledges.
    async fn answer(self, body: Value) -> Taken {
        self.say(None, body.to_string().as_bytes()).await;
        self.delivery.acker.ack(BasicAckOptions::default()).await.expect("acked");
        self
    }

    async fn succeed(self) -> Taken {
        self.answer(json!({})).await
    }

    async fn fail(self) -> Taken {
        self.answer(json!({ "error": "no" })).await
    }

    async fn drop_it(self) -> Taken {
        self.delivery.acker.ack(BasicAckOptions::default()).await.expect("acked");
        self
    }

    async fn reject(self, requeue: bool) {
        self.delivery.acker.reject(BasicRejectOptions { requeue }).await.expect("rejected");
    }
}

/// Headers that are strings.
fn table(pairs: &[(&str, &str)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        table.insert((*name).into(), AMQPValue::LongString((*value).into()));
    }
    table
}
