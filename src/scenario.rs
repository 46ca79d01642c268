//! Scenarios: what a saga does when its participants do this and that. `*.test.toml`, run by `sagad test`.
//!
//! ```text
//!   text ─ read ─> scenarios ─ play (the core, virtual time, scripted participants) ─> record ─ judge ─> differences
//! ```

mod judge;
mod play;
mod read;
mod script;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use serde::Serialize;

use crate::core::definition::Definition;
use crate::core::diagnostic::Diagnostic;
use crate::core::entry::Resolution;
use crate::core::saga::{Reason, Status};
use crate::definitions::{File, Folder};
use crate::report;
use crate::store::Source;
use crate::trial::stage::{self, Decide};

pub use self::read::read;

/// How a scenario went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The definition.
    pub saga: Arc<str>,
    /// What it is called.
    pub scenario: String,
    /// The file.
    pub file: String,
    /// The line in it where the scenario begins.
    pub line: usize,
    /// Whether all is as it was to be.
    pub passed: bool,
    /// What is not, each in one or more lines.
    pub differences: Vec<String>,
    /// What happened, line by line.
    pub history: Vec<String>,
}

/// Plays all scenarios of a file.
///
/// # Errors
/// What is wrong with the file.
pub fn run(file: &File, folder: &Folder, decide: Decide) -> Result<Vec<Outcome>, Vec<Diagnostic>> {
    let names: Vec<&str> = folder.definitions.keys().map(|name| &**name).collect();
    let definition = |name: &str| folder.definitions.get(name).map(|(definition, _)| definition);
    let Scenarios { saga, scenarios } = read(&file.text, definition, &names)?;
    let Some((definition, source)) = folder.definitions.get(&saga) else { return Ok(Vec::new()) };
    let outcomes = scenarios.iter().map(|scenario| {
        let other = scenario.altered(source);
        let definition = other.as_ref().unwrap_or(definition);
        let (line, _) = report::place(&file.text, scenario.span.start);
        outcome(definition, scenario, file.path.to_string_lossy().into_owned(), line, decide)
    });
    Ok(outcomes.collect())
}

/// How the only scenario of a text ends, for whoever writes one.
pub(crate) fn ending(text: &str, source: &Source, decide: Decide) -> Option<Status> {
    let definition = stage::capped(source, u32::MAX)?;
    let Scenarios { scenarios, .. } = read(text, |_| Some(&definition), &[]).ok()?;
    let scenario = scenarios.first()?;
    let other = scenario.altered(source);
    let record = play::play(other.as_ref().unwrap_or(&definition), scenario, decide);
    record.saga.map(|saga| saga.status())
}

fn outcome(definition: &Definition, scenario: &Scenario, file: String, line: usize, decide: Decide) -> Outcome {
    let record = play::play(definition, scenario, decide);
    let differences = judge::differences(definition, scenario, &record);
    let history = judge::history(definition, &record);
    let (saga, scenario) = (definition.name.clone(), scenario.name.clone());
    Outcome { saga, scenario, file, line, passed: differences.is_empty(), differences, history }
}

/// A file of scenarios.
#[derive(Debug)]
pub struct Scenarios {
    /// The definition that they are about.
    pub saga: Arc<str>,
    /// In the order of the file.
    pub scenarios: Vec<Scenario>,
}

/// What happens, and what is to come of it.
#[derive(Debug)]
pub struct Scenario {
    /// What it is about, for a person.
    pub name: String,
    /// Where it is in the file.
    pub span: Range<usize>,
    /// What the saga is started with.
    pub input: Arc<Value>,
    /// Instead of the definition's.
    pub priority: Option<u8>,
    /// Wait so long before it begins.
    pub delay: Duration,
    /// How long it waits for its lock, or for fewer sagas to run.
    pub held: Duration,
    /// Instead of the definition's deadline.
    pub timeout: Option<Duration>,
    /// No action has more attempts than this.
    pub attempts: Option<u32>,
    /// What participants answer, by step.
    pub replies: BTreeMap<String, Script>,
    /// What happens besides.
    pub happens: Vec<Occurrence>,
    /// What is to come of it.
    pub expect: Expect,
}

impl Scenario {
    /// The definition that it is about, if that is not the one in `source` as it is.
    fn altered(&self, source: &Source) -> Option<Definition> {
        if self.attempts.is_none() && self.timeout.is_none() {
            return None;
        }
        let capped = stage::capped(source, self.attempts.unwrap_or(u32::MAX))?;
        Some(Definition { timeout: self.timeout.or(capped.timeout), ..capped })
    }
}

/// What the participants of one step answer.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// To its command.
    pub execute: Reactions,
    /// To its undo.
    pub compensate: Reactions,
    /// To the question what became of it.
    pub probe: Reactions,
    /// Of single elements of a `foreach`.
    pub items: BTreeMap<u32, Script>,
}

/// What comes of the attempts of an action.
#[derive(Clone, Debug)]
pub enum Reactions {
    /// The same of each.
    Each(Reaction),
    /// Of the first, of the second …; those after the last succeed.
    InTurn(Vec<Reaction>),
}

impl Default for Reactions {
    fn default() -> Reactions {
        Reactions::InTurn(Vec::new())
    }
}

/// What comes of an attempt.
#[derive(Clone, Debug)]
pub struct Reaction {
    /// What.
    pub what: What,
    /// How long after the sending; `None`: at once, or as the broker has it.
    pub after: Option<Duration>,
    /// When, after the sending, the participant says that it is still at it.
    pub pending: Vec<Duration>,
    /// How often the answer comes.
    pub times: u32,
}

/// What a participant, or the broker, does with a command.
#[derive(Clone, Debug)]
pub enum What {
    /// Does it and says so; with what is read of the reply, if nothing else is said.
    Success(Option<Value>),
    /// Does not do it, for a reason of its own.
    Failure(Value),
    /// Can't do it now.
    Retry(Value),
    /// Does it and answers in its own words, which the step's reply rules judge.
    Answer {
        /// The body.
        body: Value,
        /// The headers.
        headers: Map<String, Value>,
    },
    /// Nobody takes it, nobody answers.
    Nothing,
    /// Does it and never answers.
    Silence,
    /// It comes back.
    Back(Reason),
}

/// Something that happens besides.
#[derive(Clone, Debug)]
pub struct Occurrence {
    /// How long after the start; `None`: once nothing else happens any more.
    pub after: Option<Duration>,
    /// What.
    pub what: Happening,
}

/// What can happen besides.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "docs/testing.md lists them")]
pub enum Happening {
    Cancel { reason: Option<String> },
    Suspend { reason: Option<String> },
    Resume { reason: Option<String> },
    Retry { step: String },
    Resolve { step: String, outcome: Resolution, reply: Value, reason: String },
    Signal { name: String, payload: Value },
    Event { step: String, payload: Value },
}

/// What is to come of a scenario. What is not said is not asked for.
#[derive(Debug, Default)]
pub struct Expect {
    /// The status in the end.
    pub status: Option<Status>,
    /// The commands that were sent, in order.
    pub commands: Option<Vec<ExpectedCommand>>,
    /// The routing keys of the events that `publish` steps published, in order.
    pub published: Option<Vec<String>>,
    /// Steps' statuses in the end.
    pub steps: BTreeMap<String, &'static str>,
    /// The steps whose effects are there in the end.
    pub effects: Option<Vec<String>>,
    /// Attempts that were made, by step: of the execute, of the undo.
    pub attempts: BTreeMap<String, (Option<u32>, Option<u32>)>,
    /// The output; an object may have more than this.
    pub output: Option<Value>,
    /// Why it turned round.
    pub error: Option<ExpectedError>,
    /// The lifecycle events that were published, in order.
    pub events: Option<Vec<String>>,
    /// A part of the reason why it is suspended.
    pub suspended: Option<String>,
    /// A part of the reason why it is not started.
    pub refused: Option<String>,
    /// It ends so long after its start, or sooner.
    pub ended_within: Option<Duration>,
}

/// A command that is to be sent.
#[derive(Debug, Default)]
pub struct ExpectedCommand {
    /// Its routing key.
    pub command: String,
    /// Its body; an object may have more than this.
    pub body: Option<Value>,
    /// Headers of the definition's own.
    pub headers: Option<Value>,
    /// Its priority.
    pub priority: Option<u8>,
    /// Which attempt it is.
    pub attempt: Option<u32>,
    /// How long after the start it is sent.
    pub after: Option<Duration>,
}

/// Why a saga is to turn round.
#[derive(Debug, Default)]
pub struct ExpectedError {
    /// The step that failed.
    pub step: Option<String>,
    /// The class of the failure.
    pub reason: Option<Reason>,
    /// A part of the message.
    pub message: Option<String>,
}
