//! `sagad serve`: wires everything together, and takes it apart in order.
//!
//! ```text
//!   HTTP ───────────┐                          ┌──> store
//!   timers ─────────┼──> items ──> engine ─────┤
//!   deliveries ─────┘      ▲                   └──> publisher ──> RabbitMQ
//!      ▲                   └─ published <──────────────┘
//!      └─ RabbitMQ
//! ```
//!
//! A stop goes the same way: first nothing new comes in, then the engine commits what it has, then the publisher publishes
//! what that promised, then the engine deletes what was confirmed.

mod deliveries;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::{Access, Api, BindError, Server, router, starting};
use crate::admission::{Admission, Gate};
use crate::broker::amqp::{Amqp, BrokerMisconfigured, Stop};
use crate::broker::listening;
use crate::broker::names::Names;
use crate::broker::publisher;
use crate::broker::topology::TopologyPlan;
use crate::config::Config;
use crate::daemon::deliveries::Reader;
use crate::definitions::{Definitions, LoadError};
use crate::engine::{Engine, Parts};
use crate::health::{Health, Part};
use crate::intake::Intake;
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::purge;
use crate::store::sql::SqlStore;
use crate::store::{OpenError, Opening, Store, StoreError};
use crate::timers;
use crate::wire::signature::Signer;

/// Items that wait for the engine at the most; who has more has to wait.
const WAITING_ITEMS: usize = 2048;

/// Reports of the publisher that wait for the engine; each is of a whole batch.
const WAITING_REPORTS: usize = 64;

/// Between attempts to open a database that can't be reached.
const OPEN_PAUSE: Duration = Duration::from_secs(1);

/// Why sagad does not run, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The store can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What it says once it is open.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// `[topology]` makes no sense.
    #[error("the topology is wrong:\n{}", .0.join("\n"))]
    Topology(Vec<String>),
    /// The definitions have errors; the text has every one of them.
    #[error("the definitions have errors, and none is used until all are mended:\n{0}")]
    Definitions(String),
    /// The broker will never do what is asked.
    #[error("RabbitMQ: {0}")]
    Broker(#[from] BrokerMisconfigured),
    /// The listener can't be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The process can't be prepared.
    #[error("{0}")]
    Process(String),
    /// A part of sagad ended that should not have.
    #[error("{0} ended unexpectedly; that is a bug in sagad, and it stops so that its supervisor starts it again")]
    Died(&'static str),
    /// A second signal came.
    #[error("stopped at once by a second signal; what was in hand is taken up at the next start")]
    Aborted,
}

impl ServeError {
    /// Whether a person has to change something first: starting again will not help.
    pub fn is_misconfiguration(&self) -> bool {
        match self {
            ServeError::Open(_) | ServeError::Topology(_) | ServeError::Definitions(_) => true,
            ServeError::Broker(_) | ServeError::Bind(_) => true,
            ServeError::Store(_) | ServeError::Process(_) | ServeError::Died(_) | ServeError::Aborted => false,
        }
    }
}

/// Runs sagad until a signal stops it.
///
/// # Errors
/// [`ServeError`].
pub async fn serve(config: Config) -> Result<(), ServeError> {
    let signal = |kind| signal(kind).map_err(|error| ServeError::Process(format!("can't listen for signals: {error}")));
    let (terminate, interrupt) = (&mut signal(SignalKind::terminate())?, &mut signal(SignalKind::interrupt())?);
    let plan = TopologyPlan::new(&config.broker, &config.topology).map_err(ServeError::Topology)?;
    let metrics = Metrics::install().map_err(|error| ServeError::Process(error.to_string()))?;
    let server = Server::bind(&config.http).await?;
    let health = Health::new();
    let opened = CancellationToken::new();
    let store = tokio::select! {
        store = open(&config, &health) => store?,
        () = server.preview(starting(health.clone()), opened.clone()) => return Err(ServeError::Died("the HTTP listener")),
        () = stopped(terminate, interrupt) => return Ok(()),
    };
    // Connections of the preview close, so that nobody goes on asking it.
    opened.cancel();
    health.up(Part::Store);
    let signer = Signer::new(&store.secret().await?);
    let (listener, listening) = listening::channel();
    let definitions = Definitions::new(config.definitions.path.clone(), store.clone());
    let definitions = Arc::new(definitions.checked_against(plan.clone()).heard_by(listener));
    load(&definitions).await?;

    let names = Names::new(config.broker.prefix.clone());
    let (publisher, publications) = publisher::channel();
    let (items, waiting_items) = mpsc::channel(WAITING_ITEMS);
    let (published, reports) = mpsc::channel(WAITING_REPORTS);
    let (deliveries, waiting_deliveries) = mpsc::channel(WAITING_ITEMS);
    let (timers, alarms) = timers::channel();
    let (ended, _) = broadcast::channel(WAITING_ITEMS);
    let outbox = Outbox::new(publisher.clone(), alone(&config));
    let gate = Gate::default();
    let intake = Intake::new(items.clone(), publisher, ended.clone());
    let engine = Engine::new(Parts {
        store: store.clone(),
        definitions: Arc::clone(&definitions),
        names: names.clone(),
        signer: signer.clone(),
        outbox: outbox.clone(),
        timers,
        gate: gate.clone(),
        health: health.clone(),
        ended,
        sweep: config.delay.sweep,
    });

    let stopping = CancellationToken::new();
    let abort = CancellationToken::new();
    let stop = Stop::default();
    let api = Arc::new(Api {
        store: store.clone(),
        intake,
        health: health.clone(),
        names: names.clone(),
        definitions: Arc::clone(&definitions),
        metrics: metrics.clone(),
        max_body: config.http.max_body,
        read_timeout: config.http.read_timeout,
        stopping: stopping.clone(),
    });
    let address = server.address();

    let mut tasks = JoinSet::new();
    let amqp = Amqp {
        broker: config.broker.clone(),
        plan,
        listening,
        deliveries,
        publications,
        published: published.clone(),
        health: health.clone(),
        stop: stop.clone(),
    };
    tasks.spawn(async move { ("the link to the broker", amqp.run().await.map_err(ServeError::from)) });
    let (drained, aborted) = (stop.all.clone(), abort.clone());
    tasks.spawn(async move { ("the engine", done(engine.run(waiting_items, reports, drained, aborted)).await) });
    let max_message = config.broker.max_message;
    let deliver = Reader { signer, definitions: Arc::clone(&definitions), max_message };
    let deliver = deliver.run(waiting_deliveries, items.clone(), stopping.clone());
    tasks.spawn(async move { ("the reader of deliveries", done(deliver).await) });
    let admission = Admission {
        gate,
        store: store.clone(),
        definitions: Arc::clone(&definitions),
        items: items.clone(),
        sweep: config.delay.sweep,
    };
    let admit = admission.run(stopping.clone());
    tasks.spawn(async move { ("the admission of held sagas", done(admit).await) });
    let timers = timers::run(store.clone(), items, alarms, stopping.clone());
    tasks.spawn(async move { ("the timers", done(timers).await) });
    let sweep = outbox.sweep(store.clone(), health, published, stopping.clone());
    tasks.spawn(async move { ("the sweep of the outbox", done(sweep).await) });
    let purge = purge::run(store.clone(), Arc::clone(&definitions), config.store.retention, stopping.clone());
    tasks.spawn(async move { ("the purge of ended sagas", done(purge).await) });
    let http = server.serve(router(api, Access::new(&config.http)), stopping.clone());
    tasks.spawn(async move { ("the HTTP listener", done(http).await) });
    let upkeep = stopping.clone();
    tasks.spawn(async move {
        upkeep.run_until_cancelled(metrics.upkeep()).await;
        ("the upkeep of the metrics", Ok(()))
    });
    let reload = watch::run(definitions, config.definitions.watch, stopping.clone());
    tasks.spawn(async move { ("the watcher of definitions", reload.await.map_err(ServeError::Process)) });
    tracing::info!(%address, "sagad is up");

    let outcome = tokio::select! {
        () = stopped(terminate, interrupt) => Ok(()),
        Some(ended) = tasks.join_next() => Err(match ended {
            Ok((_, Err(error))) => error,
            Ok((name, Ok(()))) => ServeError::Died(name),
            Err(panic) => ServeError::Process(format!("a task panicked: {panic}")),
        }),
    };
    tracing::info!("stopping: finishing what is in hand");
    stopping.cancel();
    stop.consuming.cancel();
    let outcome = tokio::select! {
        () = async { while tasks.join_next().await.is_some() {} } => outcome,
        () = stopped(terminate, interrupt) => outcome.and(Err(ServeError::Aborted)),
        () = tokio::time::sleep(config.shutdown_grace) => {
            tracing::warn!("not everything was finished in time; it is taken up at the next start");
            outcome
        }
    };
    abort.cancel();
    tasks.shutdown().await;
    store.close().await;
    outcome
}

async fn done(work: impl Future<Output = ()>) -> Result<(), ServeError> {
    work.await;
    Ok(())
}

async fn stopped(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Whether no other daemon can have its store.
fn alone(config: &Config) -> bool {
    config.store.url.starts_with("sqlite:")
}

/// Opens the store; a database that can't be reached is waited for.
async fn open(config: &Config, health: &Health) -> Result<SqlStore, ServeError> {
    let opening = Opening { migrate: config.store.migrate_on_start, exclusive: true };
    loop {
        let store = match SqlStore::connect(&config.store.url, opening).await {
            Ok(store) => store,
            Err(OpenError::Store(StoreError::Unavailable(why))) => {
                health.down(Part::Store, &why);
                tracing::error!(%why, "the database can't be reached; waiting for it");
                tokio::time::sleep(OPEN_PAUSE).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if alone(config) {
            // Nobody else can be publishing these rows: no lease needs to run out first.
            store.release_outbox().await?;
        }
        return Ok(store);
    }
}

/// Loads the definitions for the first time.
async fn load(definitions: &Definitions<SqlStore>) -> Result<(), ServeError> {
    match definitions.reload().await {
        Ok((changes, folder)) => {
            watch::report(&changes, &folder);
            Ok(())
        }
        Err(LoadError::Files(folder)) => Err(ServeError::Definitions(watch::summary(&folder))),
        Err(LoadError::Unheard(conflicts)) => Err(BrokerMisconfigured::Topology(conflicts).into()),
        Err(LoadError::Store(error)) => Err(error.into()),
    }
}
