//! `sagad conformance`: whether a live participant, in any language, keeps to its contract. Plays the orchestrator to it and looks at the
//! answers.
//!
//! ```text
//!   check ─> stage ── commands, as sagad makes them [script] ──> exchange ─> queue ─> participant
//!     ^        ^ ^                                                                       │  │
//!     │        │ └──────────── answers, in a queue of our own <─────────────────────────┘  │
//!  verdict     └────────────── what it rejected, from sagad's exchange of dead letters <────┘
//! ```
//!
//! Each check is about sagas of its own. What was done for a check is undone after it.

mod check;
mod delivery;
mod report;
mod script;
mod stage;
mod undo;
mod unreadable;

use std::time::Duration;

use serde_json::Value;

use crate::broker::amqp::caller::{CallError, Caller};
use crate::config::BrokerConfig;

pub use report::{Finding, Level, Report, Status};

use check::Check;
use script::Script;
use stage::Stage;

/// The participant, and how to talk to it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The exchange its commands are published to.
    pub exchange: String,
    /// The routing key of the command.
    pub execute: String,
    /// The routing key of its undo.
    pub compensate: String,
    /// The command's body, one that the participant answers with success. Its strings may be templates.
    pub body: Value,
    /// The undo's body, likewise; `None`: the default one.
    pub compensate_body: Option<Value>,
    /// The name of the step.
    pub step: String,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// Why there are no verdicts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConformanceError {
    /// The broker is not there, or no longer.
    #[error("{0}")]
    Unreachable(String),
    /// What was asked for can't be done.
    #[error("{0}")]
    Usage(String),
}

impl From<CallError> for ConformanceError {
    fn from(error: CallError) -> ConformanceError {
        match error {
            CallError::Unreachable(why) => ConformanceError::Unreachable(why),
            CallError::Misconfigured(what) => ConformanceError::Usage(what),
        }
    }
}

/// Checks a participant.
///
/// # Errors
/// The options make no commands, no queue takes them, or the broker can't be used.
pub async fn run(broker: &BrokerConfig, options: &Options) -> Result<Report, ConformanceError> {
    let script = Script::new(broker, options).map_err(ConformanceError::Usage)?;
    let caller = Caller::open(broker, "conformance").await?;
    let mut stage = Stage::new(caller, script, options.timeout, broker.max_message);
    let mut findings = Vec::new();
    // What stands in the way of the checks that follow.
    let mut obstacle = None;
    for check in Check::ALL {
        let verdict = match &obstacle {
            None => check.play(&mut stage).await?,
            Some(obstacle) => report::Verdict::not_shown(format!("it takes {obstacle}")),
        };
        if check.is_basic() && verdict.status == Status::Failed {
            obstacle = obstacle.or(Some(format!("what `{}` checks", check.id())));
        }
        findings.push(verdict.of(check));
    }
    stage.clean_up().await?;
    stage.close().await;
    Ok(Report::new(findings))
}
