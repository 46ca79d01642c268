//! Deliveries in, acknowledgements out: one channel and two tasks for each inbox.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::acks::Acks;
use super::connect::{REPLY_TIMEOUT, describe, open_channel};
use super::convert::{incoming, short};
use super::declare::{queue_object, refusal};
use super::{BrokerMisconfigured, End, Link};
use crate::broker::message::{Delivery, Inbox, Incoming, Receipt};
use crate::broker::names::Names;
use crate::broker::topology::Conflict;
use crate::config::TopologyMode;

/// How long finished deliveries wait for an unfinished one before them, so that they can go in bulk.
const GAP: Duration = Duration::from_millis(50);

/// Receipts taken at once.
const BATCH: usize = 4096;

/// The tasks of an epoch. Dropped, they end.
pub(super) struct Consumers {
    /// They end with why they broke, or with nothing when they were told to stop.
    tasks: JoinSet<Option<String>>,
}

/// Begins to consume all inboxes.
///
/// # Errors
/// A queue that is missing or forbidden is a matter of configuration.
pub(super) async fn start(connection: &Connection, link: &Link) -> Result<Consumers, End> {
    let mut tasks = JoinSet::new();
    for inbox in Inbox::ALL {
        let queue = link.names.queue(inbox);
        let channel = open_channel(connection).await?;
        let consumer = subscribe(&channel, &queue, link.prefetch).await?;
        let (acks, receipts) = mpsc::unbounded_channel();
        let forward = Forward {
            inbox,
            names: link.names.clone(),
            deliveries: link.deliveries.clone(),
            acks,
            stop: link.stop.consuming.clone(),
        };
        tasks.spawn(forward.run(consumer, queue));
        tasks.spawn(acknowledge(channel, receipts, link.stop.all.clone()));
    }
    Ok(Consumers { tasks })
}

async fn subscribe(channel: &Channel, queue: &str, prefetch: u16) -> Result<Consumer, End> {
    let name = short("a queue's name", queue).map_err(End::Lost)?;
    let subscribing = async {
        channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        channel.basic_consume(name, "".into(), BasicConsumeOptions::default(), FieldTable::default()).await
    };
    match tokio::time::timeout(REPLY_TIMEOUT, subscribing).await {
        Ok(Ok(consumer)) => Ok(consumer),
        Ok(Err(error)) => Err(match refusal(&error) {
            Some((code, text)) => {
                // Everything has been declared, or should have been: as good as a passive declaration.
                let conflict = Conflict::explain(queue_object(queue), code, &text, TopologyMode::Skip);
                End::Misconfigured(BrokerMisconfigured::Topology(vec![conflict]))
            }
            None => End::Lost(describe(&error)),
        }),
        Err(_) => Err(End::Lost(format!("the broker does not let {queue} be consumed"))),
    }
}

impl Consumers {
    /// Why one of them broke; waits for ever if none does.
    pub(super) async fn broken(&mut self) -> String {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(Some(why))) => return why,
                Some(Ok(None)) => {}
                Some(Err(died)) => return format!("a consumer died: {died}"),
                None => std::future::pending().await,
            }
        }
    }

    /// Waits until all have ended, after they were told to.
    pub(super) async fn finish(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Takes deliveries from the broker to the engine.
struct Forward {
    inbox: Inbox,
    names: Names,
    deliveries: mpsc::Sender<Delivery>,
    acks: mpsc::UnboundedSender<u64>,
    stop: CancellationToken,
}

impl Forward {
    async fn run(self, mut consumer: Consumer, queue: String) -> Option<String> {
        loop {
            let next = tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                next = consumer.next() => next,
            };
            let delivery = match next {
                Some(Ok(delivery)) => delivery,
                Some(Err(error)) => return Some(format!("consuming {queue}: {}", describe(&error))),
                None => return Some(format!("the broker no longer lets {queue} be consumed: was it deleted?")),
            };
            let receipt = Receipt { tag: delivery.delivery_tag, acks: self.acks.clone() };
            let mut message = incoming(self.inbox, delivery);
            self.restore_origin(&mut message);
            tokio::select! {
                biased;
                sent = self.deliveries.send(Delivery { message, receipt }) => if sent.is_err() { return None },
                () = self.stop.cancelled() => return None,
            }
        }
    }

    /// What one of sagad's own queues gave up (a delivery limit, an operator's policy) is no dead letter but what it was before.
    fn restore_origin(&self, message: &mut Incoming) {
        let last = message.properties.headers.get("x-death").and_then(|deaths| deaths.get(0));
        let word = |name: &str| last.and_then(|death| death.get(name)).and_then(|word| word.as_str());
        if message.queue == Inbox::Dead
            && let Some(inbox) = word("queue").and_then(|queue| self.names.inbox(queue))
        {
            let exchange = word("exchange").map(str::to_owned);
            message.queue = inbox;
            message.exchange = exchange.unwrap_or_default();
        }
    }
}

/// Tells the broker which deliveries are finished, until there are no more receipts or all is over.
async fn acknowledge(
    channel: Channel,
    mut receipts: mpsc::UnboundedReceiver<u64>,
    stop: CancellationToken,
) -> Option<String> {
    let mut acks = Acks::default();
    let mut tags = Vec::with_capacity(BATCH);
    loop {
        let more = tokio::select! {
            taken = receipts.recv_many(&mut tags, BATCH) => taken > 0,
            () = tokio::time::sleep(GAP), if acks.has_gaps() => true,
            () = stop.cancelled(), if !receipts.is_closed() => {
                // What was handed in before the end is still taken.
                receipts.close();
                continue;
            }
        };
        let waited = tags.is_empty();
        tags.drain(..).for_each(|tag| acks.finish(tag));
        let bulk = acks.take_bulk().map(|tag| (tag, true));
        let singles = if waited { acks.take_singles() } else { Vec::new() };
        for (tag, multiple) in bulk.into_iter().chain(singles.into_iter().map(|tag| (tag, false))) {
            if let Err(error) = channel.basic_ack(tag, BasicAckOptions { multiple }).await {
                return Some(format!("acknowledging: {}", describe(&error)));
            }
        }
        if !more {
            return None;
        }
    }
}
