//! `sagad bench`

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use sagad::bench::{self, BenchError, Options, Scenario, StoreKind, driver, null, participant};
use sagad::config::QueueType;
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, Sources, print};

/// Measure sagad on this machine, and beside it a null orchestrator that sends the same messages and stores nothing
///
/// Driver, participants, daemon and null orchestrator are processes of their own. The database is made for the run: beside the
/// configured one if that is of the same kind. RabbitMQ is the configured one. All that is declared has names of its own and is
/// removed at the end.
///
/// Both orchestrators take starts from a queue and have the same queues, participants and messages: one start, and for each step a
/// command and its answer, all persistent and confirmed. A saga counts from the publishing of its start to the broker's confirm of its last
/// answer.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Bench {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    sources: Sources,
    /// Databases, one after the other [default: the configured one]
    #[arg(long, value_delimiter = ',')]
    store: Vec<StoreKind>,
    /// Numbers of sagas in flight, one after the other
    #[arg(long, value_delimiter = ',', default_value = "1,512", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    in_flight: Vec<u32>,
    /// Measured seconds of each round, after a warm-up
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Rounds of each orchestrator, in turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// What the sagas do
    #[arg(long, default_value = "success")]
    scenario: Scenario,
    /// Type of all queues [default: the configured one]
    #[arg(long)]
    queue_type: Option<Queues>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The bench's own processes.
#[derive(Debug, Subcommand)]
enum Role {
    #[command(hide = true)]
    Participant(participant::ParticipantArgs),
    #[command(hide = true)]
    Driver(driver::DriverArgs),
    #[command(hide = true)]
    Null(null::NullArgs),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Queues {
    Quorum,
    Classic,
}

impl Bench {
    pub(super) fn run(self) -> Result<(), Failure> {
        let failed = |error: BenchError| Failure::Failed(error.to_string());
        let runtime = tokio::runtime::Runtime::new().map_err(|error| Failure::Failed(error.to_string()))?;
        match self.role {
            Some(Role::Participant(args)) => runtime.block_on(participant::run(args)).map_err(failed),
            Some(Role::Driver(args)) => runtime.block_on(driver::run(args)).map_err(failed),
            Some(Role::Null(args)) => runtime.block_on(null::run(args)).map_err(failed),
            None => runtime.block_on(self.measure()),
        }
    }

    async fn measure(self) -> Result<(), Failure> {
        let config = self.sources.load()?;
        let configured = StoreKind::of(&config.store.url);
        let options = Options {
            stores: if self.store.is_empty() { vec![configured] } else { self.store },
            in_flight: self.in_flight.iter().map(|number| *number as usize).collect(),
            measure: Duration::from_secs(self.seconds),
            rounds: self.rounds as usize,
            scenario: self.scenario,
            queue_type: match self.queue_type {
                Some(Queues::Quorum) => QueueType::Quorum,
                Some(Queues::Classic) => QueueType::Classic,
                None => config.broker.queue_type,
            },
        };
        let listen = |kind| signal(kind).map_err(|error| Failure::Failed(error.to_string()));
        let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
        let stop = async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        let report = bench::run(&config, &options, stop, |line| eprintln!("{line}"));
        let report = report.await.map_err(|error| Failure::Failed(error.to_string()))?;
        match self.json {
            true => {
                let json = serde_json::to_string_pretty(&report).map_err(|error| Failure::Failed(error.to_string()))?;
                print(&(json + "\n"))?;
            }
            false => print(&report.to_string())?,
        }
        match report.runs.iter().all(|run| run.verified) {
            true => Ok(()),
            false => Err(Failure::Failed("not every saga went as it should".to_owned())),
        }
    }
}
