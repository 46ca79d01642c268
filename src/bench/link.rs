//! A plain AMQP link for the bench's own processes: what is waiting is taken as a batch, what follows from it is published and
//! confirmed as a batch, then the first batch is acknowledged. It knows nothing of sagad's own broker code, so that the null
//! orchestrator is a yardstick for that too.

use std::pin::Pin;

use futures_util::stream::{Stream, StreamExt, select_all};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use super::{Result, trouble};

/// Deliveries of one queue in hand at the most; sagad's own default.
const PREFETCH: u16 = 1024;

/// Deliveries of a batch at the most.
const BATCH: usize = 512;

/// A message to publish, persistent and with a confirm.
pub(super) struct Message {
    pub exchange: String,
    pub routing_key: String,
    pub mandatory: bool,
    pub properties: BasicProperties,
    pub body: Vec<u8>,
}

/// Connections to the broker: one to publish, one to consume, as sagad has them.
pub(super) struct Link {
    publisher: Channel,
    consumer: Connection,
}

/// A delivery, or why there are no more, and which queue it is from.
type Arrival = (usize, lapin::Result<Delivery>);

/// What came, from several queues.
pub(super) struct Inbox {
    arrivals: Pin<Box<dyn Stream<Item = Vec<Arrival>> + Send>>,
}

/// Deliveries to be acknowledged together.
pub(super) struct Batch(Vec<(usize, Delivery)>);

impl Link {
    pub(super) async fn open(url: &str, name: &str) -> Result<Link> {
        let connect = || {
            let properties = ConnectionProperties::default().with_connection_name(format!("sagad bench {name}").into());
            Connection::connect(url, properties)
        };
        let connections = async { Ok((connect().await?, connect().await?)) };
        let (publisher, consumer) = connections
            .await
            .map_err(|error: lapin::Error| trouble(format!("{name} can't connect to RabbitMQ: {error}")))?;
        let publisher = publisher.create_channel().await?;
        publisher.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Link { publisher, consumer })
    }

    /// Consumes these queues.
    pub(super) async fn consume(&self, queues: &[String]) -> Result<Inbox> {
        let mut streams = Vec::new();
        for (index, queue) in queues.iter().enumerate() {
            // A channel for each, so that one acknowledgement of many covers nothing of another queue.
            let channel = self.consumer.create_channel().await?;
            channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
            let deliveries = channel
                .basic_consume(queue.as_str().into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
                .await?;
            streams.push(deliveries.map(move |delivery| (index, delivery)));
        }
        Ok(Inbox { arrivals: Box::pin(select_all(streams).ready_chunks(BATCH)) })
    }

    /// Publishes all and waits until the broker has them.
    pub(super) async fn publish(&self, messages: Vec<Message>) -> Result<()> {
        let mut confirms = Vec::with_capacity(messages.len());
        for message in messages {
            let options = BasicPublishOptions { mandatory: message.mandatory, ..BasicPublishOptions::default() };
            let (exchange, routing_key) = (message.exchange.as_str().into(), message.routing_key.as_str().into());
            let body = message.body.as_slice();
            confirms
                .push(self.publisher.basic_publish(exchange, routing_key, options, body, message.properties).await?);
        }
        for confirm in confirms {
            let confirmation = confirm.await?;
            if confirmation.is_nack() || confirmation.take_message().is_some() {
                return Err(trouble("RabbitMQ refused or returned a message"));
            }
        }
        Ok(())
    }
}

impl Inbox {
    /// What is waiting, at least one.
    pub(super) async fn next(&mut self) -> Result<Batch> {
        let Some(batch) = self.arrivals.next().await else { return Err(trouble("RabbitMQ ended a consumer")) };
        let batch = batch.into_iter().map(|(queue, delivery)| Ok((queue, delivery?)));
        Ok(Batch(batch.collect::<Result<_>>()?))
    }
}

impl Batch {
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Delivery)> {
        self.0.iter().map(|(queue, delivery)| (*queue, delivery))
    }

    /// Acknowledges all of it.
    pub(super) async fn ack(self) -> Result<()> {
        let queues = self.0.iter().map(|(queue, _)| queue + 1).max().unwrap_or(0);
        for queue in 0..queues {
            // Each queue's deliveries are in order: its last covers the others.
            if let Some((_, last)) = self.0.iter().rev().find(|(of, _)| *of == queue) {
                last.ack(BasicAckOptions { multiple: true }).await?;
            }
        }
        Ok(())
    }
}

/// A header that is a string.
pub(super) fn header<'a>(delivery: &'a Delivery, name: &str) -> Option<&'a str> {
    match delivery.properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        _ => None,
    }
}

/// A header that is an integer.
pub(super) fn number(delivery: &Delivery, name: &str) -> Option<i64> {
    match delivery.properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongLongInt(number) => Some(*number),
        AMQPValue::LongInt(number) => Some(i64::from(*number)),
        _ => None,
    }
}
