//! The way into the engine, for everyone who has something for a saga: HTTP, deliveries, timers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{broadcast, mpsc, oneshot};
use uuid::Uuid;

use crate::broker::message::{Delivery, Incoming, Publication, Receipt, Taken};
use crate::broker::publisher::Publisher;
use crate::core::id::{SagaId, Ticket};
use crate::core::input::{Forbidden, Input, Order};
use crate::core::saga::{Parent, Status};
pub use crate::core::start::InputError;
use crate::store::DeadLetter;
use crate::subscriptions::Event;

/// Something for the engine, and who is to be told once it is committed.
#[derive(Debug)]
pub struct Item {
    /// What.
    pub request: Request,
    /// Who.
    pub settle: Settle,
}

/// What the engine can be asked.
#[derive(Debug)]
pub enum Request {
    /// Begin a saga.
    Start(Start),
    /// Begin one of this definition, which another daemon has and this one has not: it is put off until it comes to one that has.
    Elsewhere(Arc<str>),
    /// Something happened to a saga.
    Saga(SagaId, Input),
    /// Something happened to the saga that has a business key.
    Keyed(Keyed),
    /// Let a held saga in.
    Admit {
        /// The saga.
        saga: SagaId,
        /// The slot that it gets, where there is a limit.
        slot: Option<String>,
    },
    /// Keep a message that nobody can read or place.
    Keep(Box<DeadLetter>),
}

/// Something for the saga that has a business key, whichever that is when it is decided.
#[derive(Clone, Debug)]
pub struct Keyed {
    /// The definition's name.
    pub definition: Arc<str>,
    /// The key.
    pub key: String,
    /// What.
    pub what: ForKey,
    /// If there is no such saga, there may soon be one: what is for it may have overtaken its start.
    pub may_begin: bool,
}

/// What comes by business key.
#[derive(Clone, Debug)]
pub enum ForKey {
    /// A signal, which must be for somebody.
    Signal(Input),
    /// An event of another service, which may well be for nobody.
    Event(Arc<Event>),
}

/// A start, as it was asked for.
#[derive(Clone, Debug)]
pub struct Start {
    /// The id that the saga gets: the same however often a commit whose outcome is unknown is tried again.
    pub id: SagaId,
    /// The definition's name.
    pub definition: String,
    /// The saga's input.
    pub input: Arc<Value>,
    /// Instead of the definition's priority, 0 to 9.
    pub priority: Option<u8>,
    /// Wait so long before it begins.
    pub delay: Duration,
    /// Never start a second saga of this definition for it.
    pub idempotency_key: Option<String>,
    /// W3C trace context of whoever asked.
    pub trace: Option<String>,
    /// Who asked.
    pub actor: String,
    /// The step that runs it, if it is a child.
    pub parent: Option<Parent>,
}

/// Whom to tell once an item is committed.
#[derive(Debug)]
pub enum Settle {
    /// Nobody.
    Nobody,
    /// The broker.
    Delivery(Delivery),
    /// The broker, and whoever waits for `{ saga_id, status }` on a queue of his; first him, then the broker.
    StartDelivery {
        /// The delivery of the start.
        delivery: Delivery,
        /// Where the answer goes, and under which correlation id.
        reply_to: Option<(String, Option<String>)>,
    },
    /// The broker, once all that came of its delivery is committed.
    Share(Share),
    /// The broker; and the saga that gave the order, where it can't be carried out: first it, then the broker.
    Order {
        /// The delivery of the order.
        delivery: Delivery,
        /// What the answer is to.
        ticket: Ticket,
        /// Who was given the order.
        child: SagaId,
    },
    /// The outbox: the row whose message was confirmed or came back is done with.
    Published(Uuid),
    /// A caller of [`Intake::start`].
    Started(oneshot::Sender<Result<Started, Refusal>>),
    /// A caller of [`Intake::order`].
    Ordered(oneshot::Sender<Result<(), Refusal>>),
}

impl Settle {
    /// Tells the broker, and nobody else.
    pub fn acknowledge(self) {
        match self {
            Settle::Delivery(delivery) | Settle::StartDelivery { delivery, .. } | Settle::Order { delivery, .. } => {
                delivery.receipt.ack();
            }
            Settle::Share(share) => share.done(),
            Settle::Nobody | Settle::Published(_) | Settle::Started(_) | Settle::Ordered(_) => {}
        }
    }

    /// Waits until the channel of its delivery is gone; for ever if it has none.
    pub async fn gone(&self) {
        match self {
            Settle::Delivery(delivery) | Settle::StartDelivery { delivery, .. } | Settle::Order { delivery, .. } => {
                delivery.receipt.gone().await;
            }
            Settle::Share(share) => share.gone().await,
            Settle::Nobody | Settle::Published(_) | Settle::Started(_) | Settle::Ordered(_) => {
                std::future::pending().await
            }
        }
    }
}

/// A part in a delivery that several items come from.
#[derive(Debug)]
pub struct Share(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    message: Incoming,
    receipt: Mutex<Option<Receipt>>,
    /// Items that are not committed.
    open: AtomicUsize,
}

impl Share {
    /// As many shares of a delivery as there are items.
    pub fn split(delivery: Delivery, items: usize) -> impl Iterator<Item = Share> {
        let Delivery { message, receipt } = delivery;
        let shared = Shared { message, receipt: Mutex::new(Some(receipt)), open: AtomicUsize::new(items) };
        std::iter::repeat_n(Arc::new(shared), items).map(Share)
    }

    /// What was delivered.
    pub fn message(&self) -> &Incoming {
        &self.0.message
    }

    async fn gone(&self) {
        let acks = {
            let receipt = self.0.receipt.lock().unwrap_or_else(PoisonError::into_inner);
            receipt.as_ref().map(|receipt| receipt.acks.clone())
        };
        match acks {
            Some(acks) => acks.closed().await,
            None => std::future::pending().await,
        }
    }

    /// This item is committed: the last one acknowledges the delivery. One that is dropped instead has the broker deliver it again.
    pub fn done(self) {
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            let receipt = self.0.receipt.lock().unwrap_or_else(PoisonError::into_inner).take();
            receipt.into_iter().for_each(Receipt::ack);
        }
    }
}

/// A start's outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// The saga.
    pub saga: SagaId,
    /// Its status.
    pub status: Status,
    /// False: its key or idempotency key was in use, this is the saga that has it.
    pub created: bool,
}

/// Why the engine does not do what it is asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such definition.
    #[error("there is no definition `{0}`")]
    UnknownDefinition(String),
    /// There is no such saga.
    #[error("there is no saga {0}")]
    UnknownSaga(SagaId),
    /// The input is wrong.
    #[error("the input does not fit the definition: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<InputError>),
    /// The saga's state forbids it.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// Another saga holds the lock, or the slot.
    #[error("another saga holds its lock, {0:?}")]
    Locked(String),
    /// More is waiting than sagad takes, or the database is away: later.
    #[error("sagad can't take this now: {0}")]
    Busy(String),
}

impl Refusal {
    /// A stable word for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::UnknownDefinition(_) => "unknown_definition",
            Refusal::UnknownSaga(_) => "unknown_saga",
            Refusal::Invalid(_) => "invalid_input",
            Refusal::Forbidden(_) => "forbidden",
            Refusal::Locked(_) => "locked",
            Refusal::Busy(_) => "busy",
        }
    }
}

/// A signal as an input.
pub fn signal(name: String, id: Option<&str>, payload: Value, actor: Option<String>) -> Input {
    // Whoever sends it may have one id for signals of several names.
    let id = id.map(|id| format!("{name} {id}"));
    Input::Signal { name, id, payload, actor }
}

/// How long a caller waits for a place in the queue, and then for the commit.
const PATIENCE: Duration = Duration::from_secs(10);

/// The way in; clone it freely.
#[derive(Clone, Debug)]
pub struct Intake {
    items: mpsc::Sender<Item>,
    publisher: Publisher,
    ended: broadcast::Sender<SagaId>,
}

impl Intake {
    /// A way into the engine that reads the other end of `items`.
    pub fn new(items: mpsc::Sender<Item>, publisher: Publisher, ended: broadcast::Sender<SagaId>) -> Intake {
        Intake { items, publisher, ended }
    }

    /// Begins a saga, or finds the one that has its key.
    ///
    /// # Errors
    /// [`Refusal`]; `Busy` says nothing of whether the saga was started after all.
    pub async fn start(&self, start: Start) -> Result<Started, Refusal> {
        let (told, outcome) = oneshot::channel();
        self.ask(Item { request: Request::Start(start), settle: Settle::Started(told) }, outcome).await
    }

    /// Carries out an operator's order.
    ///
    /// # Errors
    /// [`Refusal`]; `Busy` says nothing of whether the order was carried out after all.
    pub async fn order(&self, saga: SagaId, actor: &str, order: Order) -> Result<(), Refusal> {
        let (told, outcome) = oneshot::channel();
        let input = Input::Operator { actor: actor.to_owned(), order };
        self.ask(Item { request: Request::Saga(saga, input), settle: Settle::Ordered(told) }, outcome).await
    }

    /// Gives a signal to a saga. `id` tells it from others of its name: with one, it may be sent as often as one likes.
    ///
    /// # Errors
    /// [`Refusal`]; `Busy` says nothing of whether the saga got it after all.
    pub async fn signal(
        &self,
        saga: SagaId,
        name: String,
        id: Option<&str>,
        payload: Value,
        actor: &str,
    ) -> Result<(), Refusal> {
        let (told, outcome) = oneshot::channel();
        let input = signal(name, id, payload, Some(actor.to_owned()));
        self.ask(Item { request: Request::Saga(saga, input), settle: Settle::Ordered(told) }, outcome).await
    }

    /// Publishes a message again, as it was; true once the broker has it.
    pub async fn publish(&self, message: crate::broker::message::Outgoing) -> bool {
        let (told, taken) = oneshot::channel();
        let publication =
            Publication { outbox: None, message: Arc::new(message), told: Some(told), handover: Default::default() };
        if self.publisher.publish(publication).is_err() {
            return false;
        }
        matches!(tokio::time::timeout(PATIENCE, taken).await, Ok(Ok(Taken::Yes)))
    }

    /// The ids of sagas that end from now on, of this daemon.
    pub fn ended(&self) -> broadcast::Receiver<SagaId> {
        self.ended.subscribe()
    }

    async fn ask<T>(&self, item: Item, outcome: oneshot::Receiver<Result<T, Refusal>>) -> Result<T, Refusal> {
        let busy = |why: &str| Refusal::Busy(why.to_owned());
        match tokio::time::timeout(PATIENCE, async {
            self.items.send(item).await.map_err(|_| busy("it is shutting down"))?;
            outcome.await.map_err(|_| busy("it is shutting down"))?
        })
        .await
        {
            Ok(outcome) => outcome,
            Err(_) => Err(busy("the database does not keep up")),
        }
    }
}
