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
use crate::definitions::{Definitions, Elsewhere};
use crate::engine::{dead_letter, keep};
use crate::intake::{ForKey, Item, Keyed, Request, Settle, Share, Start, signal};
use crate::metrics::EVENTS_UNCLAIMED;
use crate::store::{Store, StoreError};
use crate::subscriptions::{Concern, Event};
use crate::wire::incoming::{Meaning, Signal, Target, asks_for_answer, read};
use crate::wire::put_off;
use crate::wire::signature::Signer;

/// Deliveries that are read together at the most: whatever has come, the database is asked once what other daemons have.
const BATCH: usize = 256;

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
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let taken = tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                taken = deliveries.recv_many(&mut batch, BATCH) => taken,
            };
            if taken == 0 {
                // The link to the broker has ended, and says why.
                return stopping.cancelled().await;
            }
            // Asked after all of them have come: what a daemon has that made one of them come is in the answer.
            let mut elsewhere = None;
            for delivery in batch.drain(..) {
                // What is dropped half read is not acknowledged: the broker delivers it again.
                let read = stopping.run_until_cancelled(self.items(delivery, &mut elsewhere)).await;
                let Some(read) = read else { return };
                for item in read {
                    if items.send(item).await.is_err() {
                        return stopping.cancelled().await;
                    }
                }
            }
        }
    }

    /// What comes of a delivery: one item, but for events, of which anything can come.
    async fn items(&self, delivery: Delivery, elsewhere: &mut Option<Arc<Elsewhere>>) -> Vec<Item> {
        let Delivery { message, receipt } = delivery;
        let delivery = Delivery { message: put_off::restored(message), receipt };
        let id = SagaId(self.clock.id());
        let item = match read(&self.signer, &delivery.message, self.max_message, id) {
            Ok(Meaning::Saga(saga, input)) => {
                Item { request: Request::Saga(saga, input), settle: Settle::Delivery(delivery) }
            }
            Ok(Meaning::Start(start, reply_to)) => {
                let request = self.or_elsewhere(start, elsewhere).await;
                Item { request, settle: Settle::StartDelivery { delivery, reply_to } }
            }
            Ok(Meaning::Signal(signal)) => {
                Item { request: self.signalled(signal, elsewhere).await, settle: Settle::Delivery(delivery) }
            }
            Ok(Meaning::Event(event)) => return self.heard(event, delivery, elsewhere).await,
            Ok(Meaning::Order(order)) => self.ordered(order, delivery, elsewhere).await,
            Err(why) => {
                let reply_to = asks_for_answer(&delivery.message);
                keep(&*self.clock, delivery, why.class, why.reason, reply_to)
            }
        };
        vec![item]
    }

    /// One item for each saga that an event starts or may be about.
    async fn heard(&self, event: Event, delivery: Delivery, elsewhere: &mut Option<Arc<Elsewhere>>) -> Vec<Item> {
        let elsewhere = self.elsewhere(elsewhere).await;
        let requests = match put_off::addressee(&delivery.message) {
            None => self.concerns(&event, elsewhere),
            // What came of it for others has come of it already.
            Some(put_off::Addressee { definition, key: Some(key) }) => {
                vec![Concern::Saga { definition: definition.into(), key }]
            }
            Some(put_off::Addressee { definition: only, key: None }) => {
                let mut concerns = self.concerns(&event, elsewhere);
                concerns.retain(|concern| match concern {
                    Concern::Start { definition, .. } | Concern::Elsewhere(definition) => **definition == *only,
                    Concern::Saga { .. } | Concern::Unclear(_) => false,
                });
                concerns
            }
        };
        if requests.is_empty() && put_off::addressee(&delivery.message).is_some() {
            let why = "nobody begins a saga with it any more that was to begin one; hand it in again once its definition is loaded";
            return vec![keep(&*self.clock, delivery, "unclaimed_event", why.to_owned(), None)];
        }
        if requests.is_empty() {
            // Of orders of others, or what nobody wants to hear any more.
            metrics::counter!(EVENTS_UNCLAIMED).increment(1);
            delivery.receipt.ack();
            return Vec::new();
        }
        let event = Arc::new(event);
        let shares = Share::split(delivery, requests.len());
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
                Concern::Elsewhere(definition) => Request::Elsewhere(definition),
                Concern::Saga { definition, key } => {
                    let may_begin = self.may_begin(&definition, elsewhere);
                    Request::Keyed(Keyed { definition, key, what: ForKey::Event(Arc::clone(&event)), may_begin })
                }
                Concern::Unclear(reason) => {
                    Request::Keep(Box::new(dead_letter(&*self.clock, share.message(), "unclear_event", reason)))
                }
            };
            Item { request, settle: Settle::Share(share) }
        };
        requests.into_iter().zip(shares).map(item).collect()
    }

    /// What comes of an event, here and at daemons with other definitions.
    fn concerns(&self, event: &Event, elsewhere: &Elsewhere) -> Vec<Concern> {
        let here = self.definitions.subscriptions().concerns(event);
        let begun = |name: &str| {
            let is = |concern: &Concern| matches!(concern, Concern::Start { definition, .. } if **definition == *name);
            here.iter().any(is)
        };
        let now = self.clock.now();
        let there = elsewhere.subscriptions().concerns(event).into_iter().filter_map(|concern| match concern {
            // The older of two revisions will do.
            Concern::Start { definition, .. } => {
                (!begun(&definition) && elsewhere.begins(&definition, now)).then(|| Concern::Elsewhere(definition))
            }
            Concern::Unclear(_) => here.is_empty().then_some(concern),
            _ => (!here.contains(&concern)).then_some(concern),
        });
        let there: Vec<Concern> = there.collect();
        here.into_iter().chain(there).collect()
    }

    /// Whether there may soon be another saga of this definition.
    fn may_begin(&self, definition: &str, elsewhere: &Elsewhere) -> bool {
        self.definitions.current(definition).is_some() || elsewhere.begins(definition, self.clock.now())
    }

    /// What other daemons have; asked once for a batch.
    async fn elsewhere<'a>(&self, known: &'a mut Option<Arc<Elsewhere>>) -> &'a Elsewhere {
        while known.is_none() {
            match self.definitions.elsewhere().await {
                Ok(elsewhere) => *known = Some(elsewhere),
                // The engine says so too, and nothing else goes on until the database is back.
                Err(StoreError::Unavailable(why)) => {
                    tracing::debug!(%why, "what was delivered waits for the database");
                    tokio::time::sleep(STORE_PAUSE).await;
                }
                // Answers must go on, whatever the definitions of others are.
                Err(error) => {
                    tracing::error!(%error, "what definitions other daemons have can't be read, and is passed over");
                    *known = Some(Arc::default());
                }
            }
        }
        known.get_or_insert_default()
    }

    /// A start, unless only another daemon has its definition.
    async fn or_elsewhere(&self, start: Start, elsewhere: &mut Option<Arc<Elsewhere>>) -> Request {
        let name = start.definition.as_str();
        if self.definitions.current(name).is_none() && self.may_begin(name, self.elsewhere(elsewhere).await) {
            return Request::Elsewhere(name.into());
        }
        Request::Start(start)
    }

    /// A signal for the saga with this id, or for the one with this key.
    async fn signalled(&self, sent: Signal, elsewhere: &mut Option<Arc<Elsewhere>>) -> Request {
        let Signal { to, name, id, payload } = sent;
        let input = signal(name, id.as_deref(), payload, None);
        match to {
            Target::Id(saga) => Request::Saga(saga, input),
            Target::Key(definition, key) => {
                let may_begin = self.may_begin(&definition, self.elsewhere(elsewhere).await);
                Request::Keyed(Keyed { definition: definition.into(), key, what: ForKey::Signal(input), may_begin })
            }
        }
    }

    /// A saga's order to its child.
    async fn ordered(&self, order: ChildOrder, delivery: Delivery, elsewhere: &mut Option<Arc<Elsewhere>>) -> Item {
        let ChildOrder { ticket, child, ask } = order;
        let request = match ask {
            Ask::Start { definition, input, step, depth, priority, trace } => {
                let parent =
                    Parent { saga: ticket.saga, spot: ticket.spot, step, attempt: ticket.attempt, depth, undo: None };
                let start = Start {
                    id: child,
                    definition: definition.to_string(),
                    input: Arc::new(input),
                    priority: Some(priority),
                    delay: Duration::ZERO,
                    idempotency_key: None,
                    trace,
                    actor: "saga".to_owned(),
                    parent: Some(parent),
                };
                self.or_elsewhere(start, elsewhere).await
            }
            Ask::Undo => Request::Saga(child, Input::Undo { by: ticket }),
        };
        Item { request, settle: Settle::Order { delivery, ticket, child } }
    }
}
