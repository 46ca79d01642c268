//! `sagad conformance`

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use sagad::conformance::{self, ConformanceError, Options};
use serde_json::Value;

use super::{Failure, Sources, print};

/// Check a participant, in any language: play sagad to it on the broker and look at its answers
///
/// Sends commands as sagad does, twice, too late, before and after their undos, and once with a body that nobody can read; and undoes
/// what it had done. So the participant must run, in a place where its effects do no harm. The broker is the configured one; sagad itself
/// need not run.
///
/// Ends with 1 if a required check failed.
#[derive(Debug, Args)]
pub(super) struct Conformance {
    #[command(flatten)]
    sources: Sources,
    /// The exchange that its commands are published to
    #[arg(long, value_name = "NAME")]
    exchange: String,
    /// The routing key of the command
    #[arg(long, value_name = "KEY")]
    execute: String,
    /// The routing key of its undo
    #[arg(long, value_name = "KEY")]
    compensate: String,
    /// The command's body: JSON that the participant answers with success; `-` for standard input. Its strings may be templates,
    /// {{ saga.id }} for what must not be the same twice
    #[arg(long, value_name = "FILE")]
    body: PathBuf,
    /// The undo's body; {{ steps.STEP.reply.… }} is what the command was answered [default: { "command": …, "reply": … }, as sagad's]
    #[arg(long, value_name = "FILE")]
    compensate_body: Option<PathBuf>,
    /// The step's name, in the header saga-step and in templates
    #[arg(long, value_name = "NAME", default_value = "conformance")]
    step: String,
    /// How long an answer may take
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = patience)]
    timeout: Duration,
    /// Print JSON: { conforms, checks: [ { check, level, verdict, what, why, help } ] }
    #[arg(long)]
    json: bool,
}

impl Conformance {
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = self.sources.load()?;
        let options = Options {
            body: read(&self.body)?,
            compensate_body: self.compensate_body.as_deref().map(read).transpose()?,
            exchange: self.exchange,
            execute: self.execute,
            compensate: self.compensate,
            step: self.step,
            timeout: self.timeout,
        };
        let report = super::block_on(conformance::run(&config.broker, &options))?;
        let report = report.map_err(|error| match error {
            ConformanceError::Unreachable(_) => Failure::Unreachable(error.to_string()),
            ConformanceError::Usage(_) => Failure::Misconfigured(error.to_string()),
        })?;
        if self.json {
            let json = serde_json::to_string_pretty(&report).map_err(|error| Failure::Failed(error.to_string()))?;
            print(&(json + "\n"))?;
        } else {
            print(&report.to_string())?;
        }
        if report.conforms { Ok(()) } else { Err(Failure::Reported) }
    }
}

/// Long enough to be told from silence, and not so long that nobody waits for it.
fn patience(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match duration.as_millis() {
        100..=3_600_000 => Ok(duration),
        _ => Err("it must be between 100ms and 1h".to_owned()),
    }
}

fn read(path: &Path) -> Result<Value, Failure> {
    let unusable = |why: String| Failure::Misconfigured(format!("the body in {} can't be used: {why}", path.display()));
    let bytes = if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    sagad::json::read(&bytes.map_err(|error| unusable(error.to_string()))?).map_err(|error| unusable(error.to_string()))
}
