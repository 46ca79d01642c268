//! The corridor as a whole: everything between the broker and the store, for whoever has the two ends.
//!
//! ```text
//!   intake ─────────┐                          ┌──> store
//!   timers ─────────┼──> items ──> engine ─────┤
//!   deliveries ─────┘      ▲                   └──> publications
//!                          └─ published
//! ```
//!
//! The daemon has RabbitMQ and HTTP at the ends, a simulation has what it likes there. No part of it knows.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use super::deliveries::Reader;
use crate::admission::{Admission, Gate};
use crate::broker::message::{Delivery, Published};
use crate::broker::names::Names;
use crate::broker::publisher::{self, Publications};
use crate::clock::Clock;
use crate::core::decide::Decide;
use crate::definitions::Definitions;
use crate::engine::{Engine, Parts};
use crate::health::Health;
use crate::intake::Intake;
use crate::outbox::Outbox;
use crate::store::Store;
use crate::wire::signature::Signer;
use crate::{purge, timers};

/// Items that wait for the engine at the most; who has more has to wait.
const WAITING_ITEMS: usize = 2048;

/// Reports of the publisher that wait for the engine; each is of a whole batch.
const WAITING_REPORTS: usize = 64;

/// What a corridor is made of.
#[derive(Debug)]
pub struct Plan<S: Store> {
    /// Where sagas live.
    pub store: S,
    /// No other daemon can have that store.
    pub alone: bool,
    /// What sagas can be.
    pub definitions: Arc<Definitions<S>>,
    /// What sagad's exchanges and queues are called.
    pub names: Names,
    /// Signs what is sent.
    pub signer: Signer,
    /// Told what works.
    pub health: Health,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// `delay.sweep`.
    pub sweep: Duration,
    /// `store.retention`.
    pub retention: Option<Duration>,
    /// `broker.max_message`.
    pub max_message: usize,
    /// What decides: [`decide`](crate::core::decide::decide).
    pub decide: Decide,
}

/// The open ends.
#[derive(Debug)]
pub struct Ends {
    /// For whoever has something for a saga.
    pub intake: Intake,
    /// For whoever consumes from the broker.
    pub deliveries: mpsc::Sender<Delivery>,
    /// For whoever publishes to it,
    pub publications: Publications,
    /// and says what became of that.
    pub published: mpsc::Sender<Vec<Published>>,
}

/// How a corridor ends.
#[derive(Clone, Debug, Default)]
pub struct Closing {
    /// Nothing new is let in.
    pub stopping: CancellationToken,
    /// Cancelled by the engine, once it has committed all that came in.
    pub drained: CancellationToken,
    /// The engine stops at once; what is in hand stays un-acknowledged.
    pub abort: CancellationToken,
}

/// A part at work. It ends when the corridor is closed, and not before.
pub type Part = (&'static str, Pin<Box<dyn Future<Output = ()> + Send>>);

/// Lays a corridor: its ends, and its parts, which work as long as they are polled.
pub fn lay<S: Store>(plan: Plan<S>, closing: &Closing) -> (Ends, Vec<Part>) {
    let Plan { store, alone, definitions, names, signer, health, clock, sweep, retention, max_message, decide } = plan;
    let (publisher, publications) = publisher::channel();
    let (items, waiting_items) = mpsc::channel(WAITING_ITEMS);
    let (published, reports) = mpsc::channel(WAITING_REPORTS);
    let (deliveries, waiting_deliveries) = mpsc::channel(WAITING_ITEMS);
    let (timers, alarms) = timers::channel();
    let (ended, _) = broadcast::channel(WAITING_ITEMS);
    let outbox = Outbox::new(publisher.clone(), alone, Arc::clone(&clock));
    let gate = Gate::default();
    let intake = Intake::new(items.clone(), publisher, ended.clone());
    let engine = Engine::new(Parts {
        store: store.clone(),
        definitions: Arc::clone(&definitions),
        names,
        signer: signer.clone(),
        outbox: outbox.clone(),
        timers,
        gate: gate.clone(),
        health: health.clone(),
        ended,
        sweep,
        clock: Arc::clone(&clock),
        decide,
    });
    let engine = engine.run(waiting_items, reports, closing.drained.clone(), closing.abort.clone());
    let stopping = || closing.stopping.clone();
    let reader = Reader { signer, definitions: Arc::clone(&definitions), max_message, clock: Arc::clone(&clock) };
    let reader = reader.run(waiting_deliveries, items.clone(), stopping());
    let (store_of, definitions_of) = (store.clone(), Arc::clone(&definitions));
    let admission = Admission { gate, store: store_of, definitions: definitions_of, items: items.clone(), sweep };
    let timers = timers::run(store.clone(), items, alarms, Arc::clone(&clock), stopping());
    let sweep = outbox.sweep(store.clone(), health, published.clone(), stopping());
    let purge = purge::run(store, definitions, retention, clock, stopping());
    let parts: Vec<Part> = vec![
        ("the engine", Box::pin(engine)),
        ("the reader of deliveries", Box::pin(reader)),
        ("the admission of held sagas", Box::pin(admission.run(stopping()))),
        ("the timers", Box::pin(timers)),
        ("the sweep of the outbox", Box::pin(sweep)),
        ("the purge of ended sagas", Box::pin(purge)),
    ];
    (Ends { intake, deliveries, publications, published }, parts)
}
