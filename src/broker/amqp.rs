//! RabbitMQ, and all of lapin.
//!
//! The link to the broker lives in *epochs*: two connections, a verified topology, consumers, a publisher. Anything that breaks ends the
//! epoch as a whole, and after a pause the next one begins from the start, so there is one way in and no half-recovered state:
//!
//! ```text
//!   connect ─> declare, verify, bind ─> consume ─> publish what the last epoch left unconfirmed ─> publish
//!      ^                                                                                        │
//!      └───────────────────────────── pause <── anything breaks ────────────────────────────────┘
//!
//!   queue ─> deliveries ─> (engine) ─> receipts ─> acknowledged in bulk          one task and channel for each inbox
//!   publications ─> published in batches ─> confirms, returns ─> published       one task, one channel
//! ```
//!
//! lapin's own recovery stays off: with it a consumer can fall silent without an error. Publishing and consuming do not share a
//! connection, as a broker that runs out of memory or disk stops reading from whoever publishes, acknowledgements and all.

mod acks;
pub mod caller;
mod clean;
mod connect;
mod consume;
mod convert;
mod declare;
mod listen;
mod publish;
mod sieve;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::broker::listening::Listening;
use crate::broker::message::{Delivery, Published};
use crate::broker::names::Names;
use crate::broker::publisher::Publications;
use crate::broker::topology::{Conflict, TopologyPlan};
use crate::clock::Clock;
use crate::config::BrokerConfig;
use crate::health::{Health, Part};
use connect::Broker;
use consume::Consumers;
use listen::Ear;
use publish::Outbound;

/// The pause after the first broken epoch; each one after it is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause. An epoch that outlives it was a good one, the next pause is the first again.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long a batch in flight has to settle when the epoch is already over, and acknowledgements have to get out at the end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The link to the broker.
#[derive(Debug)]
pub struct Amqp {
    /// Where it is and how to consume.
    pub broker: BrokerConfig,
    /// What must exist there.
    pub plan: TopologyPlan,
    /// Which events of other services to listen to; may change at any time.
    pub listening: Listening,
    /// Where deliveries go; a full channel slows consuming.
    pub deliveries: mpsc::Sender<Delivery>,
    /// What to publish.
    pub publications: Publications,
    /// What became of publications with an outbox row; a full channel slows publishing.
    pub published: mpsc::Sender<Vec<Published>>,
    /// Told whether the broker can be used, and why not.
    pub health: Health,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// How it ends.
    pub stop: Stop,
}

/// The two steps of a shutdown.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// No further delivery is handed out; publishing and acknowledging go on.
    pub consuming: CancellationToken,
    /// What is waiting is published and acknowledged, if the broker is there; then the link ends.
    pub all: CancellationToken,
}

/// Why there will never be a link to this broker unless someone changes something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokerMisconfigured {
    /// `broker.url` can't be read.
    #[error("broker.url can't be read: {0}")]
    Url(String),
    /// The broker does not let us in.
    #[error("{0}")]
    Refused(String),
    /// It has something else than the plan wants, or lacks it.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Topology(Vec<Conflict>),
}

/// Why an epoch is over.
#[derive(Debug)]
enum End {
    /// It was asked to stop.
    Stopped,
    /// The link broke; for a person.
    Lost(String),
    /// Trying again is no use, unless someone changes something meanwhile.
    Misconfigured(BrokerMisconfigured),
}

impl Amqp {
    /// Keeps up the link until it is told to stop.
    ///
    /// # Errors
    /// What must be changed, if the broker is found to be misconfigured before the link was up for the first time. Later the link waits for
    /// someone to mend it, as the sagas in hand can't be taken elsewhere.
    pub async fn run(self) -> Result<(), BrokerMisconfigured> {
        let Amqp { broker: config, plan, listening, deliveries, publications, published, health, clock, stop } = self;
        let broker = Broker::parse(&config).map_err(BrokerMisconfigured::Url)?;
        let mut link = Link {
            broker,
            names: Names::new(config.prefix),
            prefetch: config.prefetch,
            plan,
            listening,
            deliveries,
            outbound: Outbound::new(publications, published, clock),
            health,
            stop,
            was_up: false,
        };
        let mut pause = FIRST_PAUSE;
        let mut told = String::new();
        loop {
            let began = Instant::now();
            let end = link.epoch().await;
            link.listening.down();
            let why = match end {
                End::Stopped => return Ok(()),
                End::Misconfigured(what) if !link.was_up => return Err(what),
                End::Misconfigured(what) => what.to_string(),
                End::Lost(why) => why,
            };
            link.health.down(Part::Broker, why.as_str());
            if began.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
                told.clear();
            }
            if why != told {
                tracing::warn!(%why, "no link to the broker, trying again");
                told = why;
            }
            tokio::select! {
                () = link.stop.all.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// What epochs have in common.
struct Link {
    broker: Broker,
    names: Names,
    prefetch: u16,
    plan: TopologyPlan,
    listening: Listening,
    deliveries: mpsc::Sender<Delivery>,
    outbound: Outbound,
    health: Health,
    stop: Stop,
    was_up: bool,
}

impl Link {
    async fn epoch(&mut self) -> End {
        let stop = self.stop.all.clone();
        let set_up = self.set_up();
        let (publishing, consuming, consumers, ear) = tokio::select! {
            () = stop.cancelled() => return End::Stopped,
            parts = set_up => match parts {
                Ok(parts) => parts,
                Err(end) => return end,
            },
        };
        let end = self.work(&publishing, &consuming, consumers, ear).await;
        connect::close(publishing).await;
        connect::close(consuming).await;
        end
    }

    /// Connects, sees to the topology and begins to consume.
    async fn set_up(&mut self) -> Result<(lapin::Connection, lapin::Connection, Consumers, Ear), End> {
        let mut publishing = self.broker.connect("publish").await?;
        declare::prepare(&self.broker, &mut publishing, &self.plan).await?;
        let mut ear = Ear::new(&self.names, self.plan.mode);
        ear.open(&publishing, &mut self.listening).await?;
        let consuming = self.broker.connect("consume").await?;
        let consumers = consume::start(&consuming, self).await?;
        Ok((publishing, consuming, consumers, ear))
    }

    /// Publishes and consumes until something breaks or it is over.
    async fn work(
        &mut self,
        publishing: &lapin::Connection,
        consuming: &lapin::Connection,
        mut consumers: Consumers,
        mut ear: Ear,
    ) -> End {
        let (blocked, is_blocked) = watch::channel(false);
        let watching = connect::watch(publishing, &self.health, blocked);
        self.health.up(Part::Broker);
        self.was_up = true;
        tracing::info!(broker = %self.broker.place, "the link to the broker is up");

        let over = CancellationToken::new();
        let end = {
            let publish = self.outbound.run(publishing, is_blocked, &self.stop.all, &over);
            tokio::pin!(publish);
            let why = tokio::select! {
                end = &mut publish => Err(end),
                why = watching => Ok(why),
                why = consumers.broken() => Ok(why),
                // A broker that takes no messages takes bindings yet, on the connection that publishes none.
                why = ear.follow(consuming, &mut self.listening) => Ok(why),
            };
            match why {
                Err(end) => end,
                Ok(why) => {
                    // What was confirmed before it broke need not be published twice: let the batch in flight take note.
                    over.cancel();
                    let _ = tokio::time::timeout(LAST_WORDS, publish).await;
                    End::Lost(why)
                }
            }
        };
        if matches!(end, End::Stopped) {
            self.stop.consuming.cancel();
            let _ = tokio::time::timeout(LAST_WORDS, consumers.finish()).await;
        }
        end
    }
}
