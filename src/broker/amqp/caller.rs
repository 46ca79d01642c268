//! A client that sends commands and takes the answers in a queue of its own, for as long as its connection lives: no epochs, no recovery,
//! whoever calls is told at once that the link broke.

use std::pin::Pin;

use futures_util::stream::{Stream, StreamExt, select_all};
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Confirmation, Connection};

use super::connect::{self, Broker, REPLY_TIMEOUT, describe, open_channel};
use super::convert::{Encoded, incoming, outgoing, short};
use super::declare::refusal;
use super::{BrokerMisconfigured, End};
use crate::broker::message::{Inbox, Incoming, Outgoing};
use crate::broker::names::Names;
use crate::clock::{Clock, SystemClock};
use crate::config::BrokerConfig;

/// What comes, and in which way.
type Arrivals = Pin<Box<dyn Stream<Item = (Inbox, lapin::Result<lapin::message::Delivery>)> + Send>>;

/// One that calls participants and hears them.
pub struct Caller {
    connection: Connection,
    publisher: Channel,
    /// Open as long as this is: with it goes its consumer.
    _channels: Vec<Channel>,
    arrivals: Arrivals,
    reply_to: String,
    sees_dead_letters: bool,
}

/// Why nothing can be called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The broker is not there, or no longer.
    #[error("{0}")]
    Unreachable(String),
    /// Something must be changed first.
    #[error("{0}")]
    Misconfigured(String),
}

impl From<End> for CallError {
    fn from(end: End) -> CallError {
        match end {
            End::Misconfigured(what) => CallError::Misconfigured(what.to_string()),
            End::Lost(why) => CallError::Unreachable(why),
            End::Stopped => CallError::Unreachable("stopped".to_owned()),
        }
    }
}

impl Caller {
    /// Connects, for `purpose`, and declares a queue for answers that is gone with the connection. Listens to sagad's exchange of dead
    /// letters too, if there is one.
    ///
    /// # Errors
    /// The broker is not there, or does not let us.
    pub async fn open(config: &BrokerConfig, purpose: &str) -> Result<Caller, CallError> {
        let broker = Broker::parse(config).map_err(|why| End::Misconfigured(BrokerMisconfigured::Url(why)))?;
        let connection = broker.connect(purpose).await?;
        let publisher = open_channel(&connection).await?;
        let confirming = publisher.confirm_select(ConfirmSelectOptions::default());
        in_time("confirm what is published", confirming).await?;

        let channel = open_channel(&connection).await?;
        let reply_to = format!("{}.{purpose}.{}", config.prefix, SystemClock.id());
        declare(&channel, &reply_to).await?;
        let answers = consume(&channel, &reply_to, Inbox::Replies).await?;
        let mut caller = Caller {
            connection,
            publisher,
            _channels: vec![channel],
            arrivals: answers,
            reply_to,
            sees_dead_letters: false,
        };
        caller.listen_to_dead_letters(&Names::new(config.prefix.as_str())).await?;
        Ok(caller)
    }

    /// Binds another queue to the exchange of dead letters. Where there is none, or it is not ours to bind to, none are seen.
    async fn listen_to_dead_letters(&mut self, names: &Names) -> Result<(), CallError> {
        let channel = open_channel(&self.connection).await?;
        let queue = format!("{}.dead", self.reply_to);
        declare(&channel, &queue).await?;
        let exchange = name("the exchange's name", &names.dead_exchange())?;
        let bound = channel.queue_bind(
            name("the queue's name", &queue)?,
            exchange,
            "#".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        match tokio::time::timeout(REPLY_TIMEOUT, bound).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if refusal(&error).is_some() => return Ok(()),
            Ok(Err(error)) => return Err(CallError::Unreachable(describe(&error))),
            Err(_) => return Err(CallError::Unreachable("the broker does not answer".to_owned())),
        }
        let dead = consume(&channel, &queue, Inbox::Dead).await?;
        let answers = std::mem::replace(&mut self.arrivals, Box::pin(futures_util::stream::empty()));
        self.arrivals = Box::pin(select_all([answers, dead]));
        self._channels.push(channel);
        self.sees_dead_letters = true;
        Ok(())
    }

    /// The queue that answers go to.
    pub fn reply_to(&self) -> &str {
        &self.reply_to
    }

    /// Whether what is dead-lettered to sagad's own exchange is seen.
    pub fn sees_dead_letters(&self) -> bool {
        self.sees_dead_letters
    }

    /// Publishes a message, mandatory as a command is, and waits until the broker has it.
    ///
    /// # Errors
    /// No queue takes it, there is no such exchange, it is not ours to publish to; or the link broke.
    pub async fn publish(&self, message: &Outgoing) -> Result<(), CallError> {
        let Outgoing { exchange: to, routing_key: key, .. } = message;
        let frame_max = self.connection.configuration().frame_max();
        let Encoded { exchange, routing_key, properties } =
            outgoing(message, frame_max).map_err(CallError::Misconfigured)?;
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let publishing = async {
            self.publisher.basic_publish(exchange, routing_key, options, &message.body, properties).await?.await
        };
        match in_time("confirm a message", publishing).await? {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
                Err(CallError::Misconfigured(format!(
                    "no queue is bound to the exchange `{to}` for the routing key `{key}` ({})",
                    returned.reply_text
                )))
            }
            Confirmation::Nack(None) => Err(CallError::Misconfigured(format!(
                "the broker refuses a message to the exchange `{to}` with the routing key `{key}`: a queue is full"
            ))),
            Confirmation::NotRequested => {
                Err(CallError::Unreachable("the broker does not confirm messages".to_owned()))
            }
        }
    }

    /// The next answer ([`Inbox::Replies`]) or dead letter ([`Inbox::Dead`]); waits for it.
    ///
    /// # Errors
    /// The link broke.
    pub async fn next(&mut self) -> Result<Incoming, CallError> {
        match self.arrivals.next().await {
            Some((inbox, Ok(delivery))) => Ok(incoming(inbox, delivery)),
            Some((_, Err(error))) => Err(CallError::Unreachable(describe(&error))),
            None => Err(CallError::Unreachable("the broker ended the connection".to_owned())),
        }
    }

    /// Says good-bye; the queue for answers goes with the connection.
    pub async fn close(self) {
        connect::close(self.connection).await;
    }
}

async fn declare(channel: &Channel, queue: &str) -> Result<(), CallError> {
    let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let declaring = channel.queue_declare(name("the queue's name", queue)?, options, FieldTable::default());
    in_time("declare a queue for answers", declaring).await.map(drop)
}

async fn consume(channel: &Channel, queue: &str, inbox: Inbox) -> Result<Arrivals, CallError> {
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let queue = name("the queue's name", queue)?;
    let consuming = channel.basic_consume(queue, "".into(), options, FieldTable::default());
    let consumer = in_time("let answers be consumed", consuming).await?;
    Ok(Box::pin(consumer.map(move |delivery| (inbox, delivery))))
}

fn name(what: &str, text: &str) -> Result<ShortString, CallError> {
    short(what, text).map_err(CallError::Misconfigured)
}

/// What the broker says to a request; `what` it was asked to do, should it say nothing.
async fn in_time<T>(what: &str, request: impl Future<Output = lapin::Result<T>>) -> Result<T, CallError> {
    match tokio::time::timeout(REPLY_TIMEOUT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(match refusal(&error) {
            Some((code, text)) => CallError::Misconfigured(format!("the broker says {code} {text}")),
            None => CallError::Unreachable(describe(&error)),
        }),
        Err(_) => {
            Err(CallError::Unreachable(format!("the broker does not {what} within {} s", REPLY_TIMEOUT.as_secs())))
        }
    }
}
