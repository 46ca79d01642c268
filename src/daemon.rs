//! `sagad serve`: puts RabbitMQ, HTTP and the store to the [`corridor`], and takes it all apart in order.
//!
//! A stop goes the same way: first nothing new comes in, then the engine commits what it has, then the publisher publishes
//! what that promised, then the engine deletes what was confirmed.

pub mod corridor;
mod deliveries;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::{Access, Api, BindError, Server, router, starting};
use crate::broker::amqp::{Amqp, BrokerMisconfigured, Stop};
use crate::broker::listening::{self, Listener};
use crate::broker::names::Names;
use crate::broker::topology::TopologyPlan;
use crate::clock;
use crate::config::Config;
use crate::core::decide::decide;
use crate::daemon::corridor::Closing;
use crate::definitions::{Definitions, LoadError};
use crate::health::{Health, Part};
use crate::metrics::Metrics;
use crate::store::sql::SqlStore;
use crate::store::{OpenError, Opening, Store, StoreError};
use crate::wire::signature::Signer;

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
    // From the start: until somebody listens for it, it ends the process.
    let hangup = signal(SignalKind::hangup())?;
    let plan = TopologyPlan::new(&config.broker, &config.topology).map_err(ServeError::Topology)?;
    let metrics = Metrics::install().map_err(|error| ServeError::Process(error.to_string()))?;
    let server = Server::bind(&config.http).await?;
    let health = Health::new();
    let opened = CancellationToken::new();
    let (listener, listening) = listening::channel();
    let Ground { store, signer, definitions } = tokio::select! {
        ground = prepare(&config, &plan, listener, &health) => ground?,
        () = server.preview(starting(health.clone()), opened.clone()) => return Err(ServeError::Died("the HTTP listener")),
        () = stopped(terminate, interrupt) => return Ok(()),
    };
    // Connections of the preview close, so that nobody goes on asking it.
    opened.cancel();
    health.up(Part::Store);

    let names = Names::new(config.broker.prefix.clone());
    let stop = Stop::default();
    let closing = Closing { drained: stop.all.clone(), ..Closing::default() };
    let (stopping, clock) = (closing.stopping.clone(), clock::system());
    let corridor = corridor::Plan {
        store: store.clone(),
        alone: alone(&config),
        definitions: Arc::clone(&definitions),
        names: names.clone(),
        signer,
        health: health.clone(),
        clock: Arc::clone(&clock),
        sweep: config.delay.sweep,
        retention: config.store.retention,
        max_message: config.broker.max_message,
        decide,
    };
    let (ends, parts) = corridor::lay(corridor, &closing);
    let api = Arc::new(Api {
        store: store.clone(),
        intake: ends.intake,
        health: health.clone(),
        names,
        definitions: Arc::clone(&definitions),
        clock: Arc::clone(&clock),
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
        deliveries: ends.deliveries,
        publications: ends.publications,
        published: ends.published,
        health,
        clock,
        stop: stop.clone(),
    };
    tasks.spawn(async move { ("the link to the broker", amqp.run().await.map_err(ServeError::from)) });
    for (name, part) in parts {
        tasks.spawn(async move { (name, done(part).await) });
    }
    let http = server.serve(router(api, Access::new(&config.http)), stopping.clone());
    tasks.spawn(async move { ("the HTTP listener", done(http).await) });
    let upkeep = stopping.clone();
    tasks.spawn(async move {
        upkeep.run_until_cancelled(metrics.upkeep()).await;
        ("the upkeep of the metrics", Ok(()))
    });
    let reload = watch::run(definitions, config.definitions.watch, hangup, stopping.clone());
    tasks.spawn(async move { ("the watcher of definitions", done(reload).await) });
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
    closing.abort.cancel();
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

/// What there has to be before anything runs.
struct Ground {
    store: SqlStore,
    signer: Signer,
    definitions: Arc<Definitions<SqlStore>>,
}

/// Opens the store and loads the definitions; a database that is away, or goes away in between, is waited for.
async fn prepare(
    config: &Config,
    plan: &TopologyPlan,
    listener: Listener,
    health: &Health,
) -> Result<Ground, ServeError> {
    let opening = Opening { migrate: config.store.migrate_on_start, exclusive: true };
    let store = patiently(health, async || Ok(SqlStore::connect(&config.store.url, opening).await?)).await?;
    if alone(config) {
        // Nobody else can be publishing these rows: no lease needs to run out first.
        patiently(health, async || Ok(store.release_outbox().await?)).await?;
    }
    let signer = Signer::new(&patiently(health, async || Ok(store.secret().await?)).await?);
    let definitions = Definitions::new(config.definitions.path.clone(), store.clone());
    let definitions = definitions.checked_against(plan.clone()).heard_by(listener).alone(alone(config));
    patiently(health, async || load(&definitions).await).await?;
    Ok(Ground { store, signer, definitions: Arc::new(definitions) })
}

/// Does what needs the database, again while that is not available.
async fn patiently<T>(health: &Health, work: impl AsyncFn() -> Result<T, ServeError>) -> Result<T, ServeError> {
    loop {
        let why = match work().await {
            Err(ServeError::Open(OpenError::Store(StoreError::Unavailable(why)))) => why,
            Err(ServeError::Store(StoreError::Unavailable(why))) => why,
            outcome => return outcome,
        };
        health.down(Part::Store, &why);
        tracing::error!(%why, "the database is not available; waiting for it");
        tokio::time::sleep(OPEN_PAUSE).await;
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_database_that_is_not_available_is_waited_for() {
        let (health, tries) = (Health::new(), Cell::new(0));
        let away = || StoreError::Unavailable("gone fishing".to_owned());
        let third = patiently(&health, async || {
            tries.set(tries.get() + 1);
            match tries.get() {
                1 => Err(ServeError::Open(OpenError::Store(away()))),
                2 => Err(ServeError::Store(away())),
                nth => Ok(nth),
            }
        });
        assert_eq!(third.await.ok(), Some(3));
        let refused = patiently(&health, async || {
            tries.set(tries.get() + 1);
            Err::<(), _>(ServeError::Store(StoreError::Refused("no".to_owned())))
        });
        assert!(matches!(refused.await, Err(ServeError::Store(StoreError::Refused(_)))));
        assert_eq!(tries.get(), 4);
    }
}
