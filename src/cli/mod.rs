//! What `sagad` can be told on the command line; one file for each group of commands.

mod asyncapi;
mod bench;
mod check;
mod client;
mod config;
mod conformance;
mod diff;
mod explain;
mod explore;
mod graph;
mod orders;
mod schema;
mod serve;
mod test;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use sagad::config::{Config, ConfigErrors};
use sagad::store::{OpenError, StoreError};

/// Runs sagas over RabbitMQ: what several services do together either happens as a whole or is undone.
///
/// Sagas are declared in TOML files, their steps are commands to services in any language, and RabbitMQ carries them.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 it failed, 2 wrong usage or configuration, 3 the daemon, the broker or the database can't be reached.";

#[derive(Debug, Subcommand)]
enum Command {
    #[command(name = "asyncapi")]
    AsyncApi(asyncapi::AsyncApi),
    Bench(bench::Bench),
    Cancel(orders::Cancel),
    Check(check::Check),
    Config(config::Show),
    Conformance(conformance::Conformance),
    Diff(diff::Compare),
    Explain(explain::Explain),
    Explore(explore::Explore),
    Graph(graph::Graph),
    Migrate(serve::Migrate),
    Resolve(orders::Resolve),
    Resume(orders::Resume),
    Retry(orders::Retry),
    Schema(schema::Schema),
    Serve(serve::Serve),
    Signal(orders::Signal),
    Suspend(orders::Suspend),
    Test(test::Test),
    Verify(verify::Verify),
}

/// Where the configuration comes from.
#[derive(Debug, Args)]
pub(crate) struct Sources {
    /// A configuration file to lay over config/sagad.toml; the environment (SAGAD__STORE__URL) goes over both
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Sources {
    fn load(&self) -> Result<Config, Failure> {
        Ok(Config::load(self.config.as_deref())?)
    }
}

/// Why a command ends with something other than 0.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The configuration is wrong.
    #[error("the configuration is wrong:\n{0}")]
    Config(#[from] ConfigErrors),
    /// What the configuration says can't be done.
    #[error("{0}")]
    Misconfigured(String),
    /// It did not work.
    #[error("{0}")]
    Failed(String),
    /// What it needs is not there.
    #[error("{0}")]
    Unreachable(String),
    /// It did not work, and has said so.
    #[error("it failed")]
    Reported,
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Failure {
        match error {
            OpenError::Store(StoreError::Unavailable(_)) => Failure::Unreachable(error.to_string()),
            _ => Failure::Misconfigured(error.to_string()),
        }
    }
}

impl Failure {
    fn code(&self) -> ExitCode {
        match self {
            Failure::Failed(_) | Failure::Reported => ExitCode::from(1),
            Failure::Config(_) | Failure::Misconfigured(_) => ExitCode::from(2),
            Failure::Unreachable(_) => ExitCode::from(3),
        }
    }
}

impl Cli {
    /// Does what was asked; complaints go to standard error.
    pub(crate) fn run(self) -> ExitCode {
        let outcome = match self.command {
            Command::AsyncApi(asyncapi) => asyncapi.run(),
            Command::Bench(bench) => bench.run(),
            Command::Cancel(cancel) => cancel.run(),
            Command::Check(check) => check.run(),
            Command::Config(show) => show.run(),
            Command::Conformance(conformance) => conformance.run(),
            Command::Diff(compare) => compare.run(),
            Command::Explain(explain) => explain.run(),
            Command::Explore(explore) => explore.run(),
            Command::Graph(graph) => graph.run(),
            Command::Migrate(migrate) => migrate.run(),
            Command::Resolve(resolve) => resolve.run(),
            Command::Resume(resume) => resume.run(),
            Command::Retry(retry) => retry.run(),
            Command::Schema(schema) => schema.run(),
            Command::Serve(serve) => serve.run(),
            Command::Signal(signal) => signal.run(),
            Command::Suspend(suspend) => suspend.run(),
            Command::Test(test) => test.run(),
            Command::Verify(verify) => verify.run(),
        };
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                if !matches!(failure, Failure::Reported) {
                    eprintln!("sagad: {failure}");
                }
                failure.code()
            }
        }
    }
}

/// Prints to standard output. A reader that went away, as in `| head`, is no failure.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Failed(format!("can't write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Whether to print in colours: https://no-color.org
fn colours() -> bool {
    use std::io::IsTerminal;
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn plural(count: usize, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

/// Runs asynchronous work to its end, on all cores.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Failed(format!("no threads can be started: {error}")))?;
    Ok(runtime.block_on(work))
}
