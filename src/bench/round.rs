//! One round: one orchestrator, fresh participants, a fresh driver.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::driver::Measured;
use super::rig::{Rig, Times, this_binary};
use super::{AMQP, Options, Result, machine, trouble};
use crate::clock::{Clock, SystemClock};

/// The longest time before the measured one: connections, caches, and the pile of sagas that all began together.
const LONGEST_WARM_UP: Duration = Duration::from_secs(2);

/// Beyond the measured time, until a round must be over: the driver itself gives the last sagas a minute.
const PATIENCE: Duration = Duration::from_secs(150);

/// Who orchestrates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Orchestrator {
    Sagad,
    Null,
}

impl Orchestrator {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Orchestrator::Sagad => "sagad",
            Orchestrator::Null => "null orchestrator",
        }
    }
}

/// What a round found out.
pub(super) struct Measurement {
    pub(super) measured: Measured,
    /// CPU time in the measured time, microseconds: orchestrator, broker, participants, database.
    pub(super) cpu: [Option<u64>; 4],
    pub(super) verified: bool,
}

impl Measurement {
    pub(super) fn sagas_per_s(&self) -> f64 {
        self.measured.micros.len() as f64 / self.measured.seconds
    }
}

pub(super) async fn run(rig: &mut Rig, options: &Options, who: Orchestrator, in_flight: usize) -> Result<Measurement> {
    let limit = warm_up(options) + options.measure + PATIENCE;
    let over = || trouble(format!("a round with {} did not end within {} s", who.as_str(), limit.as_secs()));
    tokio::time::timeout(limit, measure(rig, options, who, in_flight)).await.map_err(|_| over())?
}

async fn measure(rig: &mut Rig, options: &Options, who: Orchestrator, in_flight: usize) -> Result<Measurement> {
    let scenario = options.scenario.as_str();
    // It lives as long as the round, and dies with it.
    let null = match who {
        Orchestrator::Sagad => None,
        Orchestrator::Null => Some(
            role("null", rig)?
                .args(["--exchange", &rig.commands(), "--starts", &rig.null_starts(), "--replies", &rig.null_replies()])
                .args(["--scenario", scenario])
                .stdin(Stdio::piped())
                .spawn()?,
        ),
    };
    let mut participants = role("participant", rig)?
        .args(["--prefix", &rig.prefix, "--scenario", scenario])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let Some(ends) = participants.stdout.take() else { return Err(trouble("participants without an output")) };
    let ends: Stdio = ends.try_into()?;
    let exchange = if null.is_some() { rig.null_starts() } else { rig.starts() };
    let mut driver = role("driver", rig)?
        .args(["--exchange", &exchange, "--tag", &SystemClock.id().simple().to_string()[20..]])
        .args(["--in-flight", &in_flight.to_string(), "--warm-up-ms", &warm_up(options).as_millis().to_string()])
        .args(["--measure-ms", &options.measure.as_millis().to_string()])
        .stdin(ends)
        .stdout(Stdio::piped())
        .spawn()?;
    let Some(output) = driver.stdout.take() else { return Err(trouble("a driver without an output")) };
    let mut said = BufReader::new(output).lines();

    hear(&mut said, "begin").await?;
    let before = sample(rig, null.as_ref(), &participants);
    hear(&mut said, "end").await?;
    let after = sample(rig, null.as_ref(), &participants);
    hear(&mut said, "drained").await?;
    // sagad still has the last answers in hand, and whatever it sends wrongly then is to be seen too.
    let all_ended = null.is_some() || rig.all_ended(options.scenario.end()).await?;
    drop(participants.stdin.take());
    let last = said.next_line().await?.unwrap_or_default();
    let measured: Measured =
        serde_json::from_str(&last).map_err(|_| trouble(format!("the driver's last words are {last:?}")))?;
    participants.wait().await?;
    driver.wait().await?;

    let seen = measured.seen;
    let as_expected = seen.whole == measured.started && seen.torn == 0 && seen.wrong == 0;
    let verified = measured.drained && as_expected && all_ended;
    let cpu = std::array::from_fn(|part| Some(after[part]?.saturating_sub(before[part]?)));
    Ok(Measurement { measured, cpu, verified })
}

fn warm_up(options: &Options) -> Duration {
    LONGEST_WARM_UP.min(options.measure)
}

fn role(name: &str, rig: &Rig) -> Result<Command> {
    let mut command = this_binary()?;
    command.args(["bench", name]).env(AMQP, &rig.amqp);
    Ok(command)
}

async fn hear(said: &mut Lines<BufReader<ChildStdout>>, word: &str) -> Result<()> {
    match said.next_line().await? {
        Some(line) if line == word => Ok(()),
        other => Err(trouble(format!("the driver said {other:?} instead of {word:?}"))),
    }
}

fn sample(rig: &Rig, null: Option<&Child>, participants: &Child) -> [Option<u64>; 4] {
    let Times { daemon, broker, database } = rig.times();
    let of = |process: &Child| process.id().and_then(machine::cpu_micros);
    [null.map_or(daemon, of), broker, of(participants), database]
}
