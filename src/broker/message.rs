//! Messages as data: no AMQP library's types, so that everything but [`super::amqp`] can be read and tested without one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::broker::handover::Handover;
use crate::core::time::Time;

/// The header of a message that the broker may have had before: what becomes of it says nothing of the other copy.
pub const RESENT: &str = "saga-resent";

/// A message to publish.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    /// Empty for the default exchange.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
    /// Whether the broker gives it back when no queue takes it.
    pub mandatory: bool,
    /// Its properties.
    pub properties: Properties,
    /// Its body.
    pub body: Bytes,
}

impl Outgoing {
    /// How long it may wait in its queue.
    pub fn lifetime(&self) -> Option<Duration> {
        self.properties.expiration.as_ref()?.parse().ok().map(Duration::from_millis)
    }

    /// When it has waited long enough, by the clock of whoever wrote it.
    pub fn expires_at(&self) -> Option<Time> {
        Some(self.properties.timestamp?.plus(self.lifetime()?))
    }
}

/// The AMQP 0-9-1 basic properties that sagad reads or writes. All are optional.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "AMQP's own names")]
pub struct Properties {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery_mode: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// Milliseconds, as RabbitMQ wants it: a decimal string.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiration: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// AMQP carries whole seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Time>,
    /// AMQP's `type`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_id: Option<String>,
    /// The headers table as JSON. Outgoing: strings, integers (long-long), booleans, null, and arrays and tables of them. Incoming: any
    /// AMQP value; byte arrays that are no UTF-8 become lossy strings, timestamps RFC 3339.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub headers: Map<String, Value>,
}

impl Properties {
    /// A header that is a string.
    pub fn header_str(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(Value::as_str)
    }
}

/// A message that came: from which of sagad's queues, and all that it carried.
#[derive(Clone, Debug, PartialEq)]
pub struct Incoming {
    /// Which of sagad's queues it came from.
    pub queue: Inbox,
    /// The exchange it was published to.
    pub exchange: String,
    /// Its routing key.
    pub routing_key: String,
    /// The broker's redelivered flag.
    pub redelivered: bool,
    /// Its properties.
    pub properties: Properties,
    /// Its body.
    pub body: Bytes,
}

/// The queues that sagad consumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inbox {
    /// Participants' answers.
    Replies,
    /// Starts over AMQP.
    Starts,
    /// Commands that were dead-lettered, and whatever else ends in `sagad.dead`.
    Dead,
    /// Wake-ups from the delay queues.
    WakeUps,
    /// Signals for sagas.
    Signals,
    /// Events of other services, heard on their exchanges.
    Events,
    /// Orders of sagas to their child sagas.
    Children,
}

impl Inbox {
    /// All of them.
    pub const ALL: [Inbox; 7] =
        [Inbox::Replies, Inbox::Starts, Inbox::Dead, Inbox::WakeUps, Inbox::Signals, Inbox::Events, Inbox::Children];

    /// The word in names, columns and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Inbox::Replies => "replies",
            Inbox::Starts => "start",
            Inbox::Dead => "dead",
            Inbox::WakeUps => "wakeups",
            Inbox::Signals => "signals",
            // `sagad.events` is the exchange of sagad's own events.
            Inbox::Events => "heard",
            Inbox::Children => "children",
        }
    }
}

/// A delivery that awaits its acknowledgement.
#[derive(Debug)]
pub struct Delivery {
    /// What came.
    pub message: Incoming,
    /// To acknowledge it with.
    pub receipt: Receipt,
}

/// What acknowledges one delivery; dropped without, the broker delivers it again once the channel is gone.
#[derive(Debug)]
pub struct Receipt {
    /// AMQP's delivery tag.
    pub tag: u64,
    /// The channel's acknowledger. A receipt of an older epoch goes nowhere: its channel is gone.
    pub acks: tokio::sync::mpsc::UnboundedSender<u64>,
}

impl Receipt {
    /// Tells the broker that the message is dealt with.
    pub fn ack(self) {
        // A closed acknowledger means that the channel is gone: the broker delivers the message again.
        let _ = self.acks.send(self.tag);
    }

    /// Waits until its channel is gone.
    pub async fn gone(&self) {
        self.acks.closed().await;
    }
}

/// Something handed to the publisher.
#[derive(Debug)]
pub struct Publication {
    /// The outbox row it comes from; `None` for what is not kept in the outbox (wake-ups, answers to starts).
    pub outbox: Option<Uuid>,
    /// The message.
    pub message: Arc<Outgoing>,
    /// Told what became of it; dropped without if it is not known, or not now: then it may be tried again.
    pub told: Option<tokio::sync::oneshot::Sender<Taken>>,
    /// How far its outbox row is.
    pub handover: Arc<Handover>,
}

/// Whether the broker took a message that somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It has it.
    Yes,
    /// It refused it, or no queue takes it.
    No,
}

/// What the broker said of a [`Publication`] with an outbox row.
#[derive(Debug)]
pub enum Published {
    /// It has it.
    Confirmed {
        /// The outbox row.
        outbox: Uuid,
        /// The message.
        message: std::sync::Arc<Outgoing>,
    },
    /// No queue took it, it is here again.
    Returned {
        /// The outbox row.
        outbox: Uuid,
        /// The message.
        message: Arc<Outgoing>,
        /// What the broker said: `NO_ROUTE`, or that the exchange does not exist.
        text: String,
    },
    /// Where it goes nothing is confirmed for now: it is not known to be there, and is to be sent again later.
    Deferred(Uuid),
    /// Its time was over before it was sent, this time.
    Expired {
        /// The outbox row.
        outbox: Uuid,
        /// The message.
        message: Arc<Outgoing>,
        /// The broker never had it, and never will.
        never_sent: bool,
    },
    /// It refused it: a queue with `overflow = reject-publish` is full.
    Refused {
        /// The outbox row.
        outbox: Uuid,
        /// The message.
        message: Arc<Outgoing>,
    },
}
