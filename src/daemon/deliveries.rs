//! What comes from the broker, read and made into items for the engine.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::broker::message::Delivery;
use crate::clock::Clock;
use crate::core::decide::{Ask, ChildOrder};
use crate::core::id::SagaId;
use crate::core::input::Input;
use crate::core::saga::Parent;
use crate::definitions::Definitions;
use crate::engine::{dead_letter, keep};
use crate::intake::{ForKey, Item, Keyed, Request, Settle, Share, Start, signal};
use crate::metrics::EVENTS_UNCLAIMED;
use crate::store::Store;
use crate::subscriptions::{Concern, Event, Subscriptions};
use crate::wire::incoming::{Meaning, Signal, Target, asks_for_answer, read};
use crate::wire::signature::Signer;

/// Between attempts to ask the database.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// Reads deliveries.
#[derive(Debug)]
pub(super) struct Reader<S> {
    pub(super) signer: Signer,
    pub(super) definitions: Arc<Definitions<S>>,
    /// `broker.max_message`.
    pub(super) max_message: usize,
    pub(super) clock: Arc<dyn Clock>,
}

impl<S: Store> Reader<S> {
    /// Gives what comes to the engine, until it is time to stop.
    pub(super) async fn run(
        self,
        mut deliveries: mpsc::Receiver<Delivery>,
        items: mpsc::Sender<Item>,
        stopping: CancellationToken,
    ) {
        loop {
            let delivery = tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                delivery = deliveries.recv() => match delivery {
                    Some(delivery) => delivery,
                    // The link to the broker has ended, and says why.
                    None => return stopping.cancelled().await,
                },
            };
            // What is dropped half read is not acknowledged: the broker delivers it again.
            let Some(read) = stopping.run_until_cancelled(self.items(delivery)).await else { return };
            for item in read {
                if items.send(item).await.is_err() {
                    return stopping.cancelled().await;
                }
            }
        }
    }

    /// What comes of a delivery: one item, but for events, of which anything can come.
    async fn items(&self, delivery: Delivery) -> Vec<Item> {
        let id = SagaId(self.clock.id());
        let item = match read(&self.signer, &delivery.message, self.max_message, id) {
            Ok(Meaning::Saga(saga, input)) => {
                Item { request: Request::Saga(saga, input), settle: Settle::Delivery(delivery) }
            }
            Ok(Meaning::Start(start, reply_to)) => {
                Item { request: Request::Start(start), settle: Settle::StartDelivery { delivery, reply_to } }
            }
            Ok(Meaning::Signal(signal)) => Item { request: signalled(signal), settle: Settle::Delivery(delivery) },
            Ok(Meaning::Event(event)) => return self.heard(event, delivery).await,
            Ok(Meaning::Order(order)) => self.ordered(order, delivery),
            Err(why) => {
                let reply_to = asks_for_answer(&delivery.message);
                keep(&*self.clock, delivery, why.class, why.reason, reply_to)
            }
        };
        vec![item]
    }

    /// One item for each saga that an event starts or may be about.
    async fn heard(&self, event: Event, delivery: Delivery) -> Vec<Item> {
        let subscriptions = self.definitions.subscriptions();
        let concerns = match subscriptions.want(&event) {
            true => subscriptions.concerns(&event),
            // Bound by a daemon with other definitions; or nobody wants to hear it any more.
            false => self.of_others().await.concerns(&event),
        };
        if concerns.is_empty() {
            // Of orders of others, or what nobody wants to hear any more.
            metrics::counter!(EVENTS_UNCLAIMED).increment(1);
            delivery.receipt.ack();
            return Vec::new();
        }
        let event = Arc::new(event);
        let shares = Share::split(delivery, concerns.len());
        let item = |(concern, share): (Concern, Share)| {
            let request = match concern {
                Concern::Start { definition, input, idempotency_key } => Request::Start(Start {
                    id: SagaId(self.clock.id()),
                    definition: definition.to_string(),
                    input: Arc::new(input),
                    priority: None,
                    delay: Duration::ZERO,
                    idempotency_key,
                    trace: event.trace.clone(),
                    actor: "event".to_owned(),
                    parent: None,
                }),
                Concern::Saga { definition, key } => {
                    Request::Keyed(Keyed { definition, key, what: ForKey::Event(Arc::clone(&event)) })
                }
                Concern::Unclear(reason) => {
                    Request::Keep(Box::new(dead_letter(&*self.clock, share.message(), "unclear_event", reason)))
                }
            };
            Item { request, settle: Settle::Share(share) }
        };
        concerns.into_iter().zip(shares).map(item).collect()
    }

    /// What daemons with other definitions want to hear.
    async fn of_others(&self) -> Arc<Subscriptions> {
        loop {
            match self.definitions.subscriptions_of_others().await {
                Ok(subscriptions) => return subscriptions,
                // The engine says so too, and nothing else goes on until the database is back.
                Err(error) => tracing::debug!(%error, "an event waits for the database"),
            }
            tokio::time::sleep(STORE_PAUSE).await;
        }
    }

    /// A saga's order to its child.
    fn ordered(&self, order: ChildOrder, delivery: Delivery) -> Item {
        let ChildOrder { ticket, child, ask } = order;
        let request = match ask {
            Ask::Start { definition, input, step, depth, priority, trace } => {
                let parent =
                    Parent { saga: ticket.saga, spot: ticket.spot, step, attempt: ticket.attempt, depth, undo: None };
                Request::Start(Start {
                    id: child,
                    definition: definition.to_string(),
                    input: Arc::new(input),
                    priority: Some(priority),
                    delay: Duration::ZERO,
                    idempotency_key: None,
                    trace,
                    actor: "saga".to_owned(),
                    parent: Some(parent),
                })
            }
            Ask::Undo => Request::Saga(child, Input::Undo { by: ticket }),
        };
        Item { request, settle: Settle::Order { delivery, ticket, child } }
    }
}

fn signalled(sent: Signal) -> Request {
    let Signal { to, name, id, payload } = sent;
    let input = signal(name, id.as_deref(), payload, None);
    match to {
        Target::Id(saga) => Request::Saga(saga, input),
        Target::Key(definition, key) => {
            Request::Keyed(Keyed { definition: definition.into(), key, what: ForKey::Signal(input) })
        }
    }
}
