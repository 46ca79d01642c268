//! `sagad bench`: how fast sagad is on a machine, and beside it the null orchestrator, which does the same without storing anything.
//!
//! ```text
//!            starts              commands
//!   driver ─────────> sagad, or ─────────> participants
//!      ^              the null    answers      │
//!      │              orchestrator <───────────┤
//!      └──────────── ends, over a pipe ────────┘
//! ```
//!
//! All four are processes of this same binary. Driver, participants, broker, queues and messages are the same for both, only the
//! orchestrator changes, in turn, round after round: so the ratio of the two holds however busy the machine is. Everything that is
//! declared, written or started has names of its own and is removed at the end.

mod database;
pub mod driver;
mod link;
mod machine;
pub mod null;
pub mod participant;
mod pipe;
mod report;
mod rig;
mod round;
mod scenario;

use std::time::Duration;

use crate::config::{Config, QueueType};

pub use database::StoreKind;
pub use report::{Cpu, Report, Run};
pub use scenario::Scenario;

use rig::Rig;
use round::{Measurement, Orchestrator};

/// The variable that tells the bench's own processes where RabbitMQ is, and the daemon too.
const AMQP: &str = "SAGAD__BROKER__URL";

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// On which databases, in turn.
    pub stores: Vec<StoreKind>,
    /// With how many sagas in flight, in turn.
    pub in_flight: Vec<usize>,
    /// Measured time of a round, after a warm-up.
    pub measure: Duration,
    /// How often each orchestrator has its turn.
    pub rounds: usize,
    /// What the sagas do.
    pub scenario: Scenario,
    /// Of all queues.
    pub queue_type: QueueType,
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BenchError(String);

pub(crate) type Result<T> = std::result::Result<T, BenchError>;

fn trouble(why: impl Into<String>) -> BenchError {
    BenchError(why.into())
}

impl From<lapin::Error> for BenchError {
    fn from(error: lapin::Error) -> BenchError {
        BenchError(format!("RabbitMQ: {error}"))
    }
}

impl From<std::io::Error> for BenchError {
    fn from(error: std::io::Error) -> BenchError {
        BenchError(format!("a pipe, a process or a file: {error}"))
    }
}

/// Measures all that `options` ask for, unless `stop` comes first; `tell` gets a line now and then for whoever waits.
///
/// # Errors
/// No broker, no database, no daemon, or it was stopped: nothing was measured to the end. What was set up is removed all the same.
pub async fn run(
    config: &Config,
    options: &Options,
    stop: impl Future<Output = ()>,
    tell: impl Fn(&str),
) -> Result<Report> {
    let mut stop = std::pin::pin!(stop);
    let mut runs = Vec::new();
    for store in &options.stores {
        tell(&format!("setting up: {}, RabbitMQ, {} queues", store.as_str(), options.queue_type.as_str()));
        let mut rig = Rig::build(config, options, *store).await?;
        let measured = tokio::select! {
            measured = measure(&mut rig, options, *store, &tell) => measured,
            () = &mut stop => Err(trouble("stopped before its end; what it had set up is removed")),
        };
        let removed = rig.remove().await;
        runs.extend(measured?);
        removed?;
    }
    Ok(Report { runs })
}

async fn measure(rig: &mut Rig, options: &Options, store: StoreKind, tell: &impl Fn(&str)) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    for in_flight in &options.in_flight {
        let (mut sagad, mut null) = (Vec::<Measurement>::new(), Vec::<Measurement>::new());
        for round in 1..=options.rounds {
            for (orchestrator, results) in [(Orchestrator::Null, &mut null), (Orchestrator::Sagad, &mut sagad)] {
                let result = round::run(rig, options, orchestrator, *in_flight).await?;
                tell(&format!(
                    "{}, {in_flight} in flight, round {round} of {}: {:<17} {:>7.0} sagas/s",
                    store.as_str(),
                    options.rounds,
                    orchestrator.as_str(),
                    result.sagas_per_s(),
                ));
                results.push(result);
            }
        }
        runs.push(Run::new(store, *in_flight, options.scenario, &sagad, &null));
    }
    Ok(runs)
}
