//! `sagad cancel`, `suspend`, `resume`, `retry`, `resolve` and `signal`

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::client::Daemon;
use super::{Failure, block_on, print};

/// What every order has.
#[derive(Debug, Args)]
struct Target {
    #[command(flatten)]
    daemon: Daemon,
    /// Print the saga as it is then, as JSON
    #[arg(long)]
    json: bool,
    /// The saga's id
    id: Uuid,
}

/// Undo a saga
#[derive(Debug, Args)]
pub(super) struct Cancel {
    #[command(flatten)]
    whole: Whole,
}

/// Let a saga send nothing more until it is resumed
#[derive(Debug, Args)]
pub(super) struct Suspend {
    #[command(flatten)]
    whole: Whole,
}

/// Let a suspended saga go on; what failed gets fresh attempts
#[derive(Debug, Args)]
pub(super) struct Resume {
    #[command(flatten)]
    whole: Whole,
}

#[derive(Debug, Args)]
struct Whole {
    #[command(flatten)]
    target: Target,
    /// Why, for the history
    #[arg(long)]
    reason: Option<String>,
}

/// Try the failed action of a step again, with fresh attempts
#[derive(Debug, Args)]
pub(super) struct Retry {
    #[command(flatten)]
    target: Target,
    /// The step's name
    step: String,
    /// Only this element of a `foreach` step, from 0
    #[arg(long, value_name = "N")]
    item: Option<u32>,
    /// Why, for the history
    #[arg(long)]
    reason: Option<String>,
}

/// Say of a step what you found out by hand
#[derive(Debug, Args)]
pub(super) struct Resolve {
    #[command(flatten)]
    target: Target,
    /// The step's name
    step: String,
    /// How it is
    outcome: Outcome,
    /// Only this element of a `foreach` step, from 0
    #[arg(long, value_name = "N")]
    item: Option<u32>,
    /// What the participant would have answered: steps after it may need it
    #[arg(long, value_name = "JSON", value_parser = json_value)]
    reply: Option<Value>,
    /// How you found out, for the history
    #[arg(long)]
    reason: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Outcome {
    /// The step was done
    Succeeded,
    /// The step was not done
    Failed,
    /// It is undone
    Compensated,
    /// It will never be undone, and that is accepted
    #[value(name = "given_up")]
    GivenUp,
}

/// Send a saga a signal
#[derive(Debug, Args)]
pub(super) struct Signal {
    #[command(flatten)]
    target: Target,
    /// The signal's name
    name: String,
    /// What it says
    #[arg(long, value_name = "JSON", default_value = "null", value_parser = json_value)]
    payload: Value,
}

fn json_value(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))
}

impl Cancel {
    pub(super) fn run(self) -> Result<(), Failure> {
        self.whole.send("cancel")
    }
}

impl Suspend {
    pub(super) fn run(self) -> Result<(), Failure> {
        self.whole.send("suspend")
    }
}

impl Resume {
    pub(super) fn run(self) -> Result<(), Failure> {
        self.whole.send("resume")
    }
}

impl Whole {
    fn send(self, order: &str) -> Result<(), Failure> {
        let body = with([("reason", self.reason.map(Value::from))]);
        self.target.send(order, body)
    }
}

impl Retry {
    pub(super) fn run(self) -> Result<(), Failure> {
        let body = with([("item", self.item.map(Value::from)), ("reason", self.reason.map(Value::from))]);
        self.target.send(&format!("steps/{}/retry", escaped(&self.step)), body)
    }
}

impl Resolve {
    pub(super) fn run(self) -> Result<(), Failure> {
        let outcome = match self.outcome {
            Outcome::Succeeded => "succeeded",
            Outcome::Failed => "failed",
            Outcome::Compensated => "compensated",
            Outcome::GivenUp => "given_up",
        };
        let body = with([
            ("outcome", Some(outcome.into())),
            ("item", self.item.map(Value::from)),
            ("reply", self.reply),
            ("reason", Some(self.reason.into())),
        ]);
        self.target.send(&format!("steps/{}/resolve", escaped(&self.step)), body)
    }
}

impl Signal {
    pub(super) fn run(self) -> Result<(), Failure> {
        self.target.send(&format!("signals/{}", escaped(&self.name)), self.payload)
    }
}

impl Target {
    fn send(self, order: &str, body: Value) -> Result<(), Failure> {
        let client = self.daemon.client()?;
        let saga = block_on(client.post(&format!("/v1/sagas/{}/{order}", self.id), &body))??;
        match self.json {
            true => print(&format!("{saga:#}\n")),
            false => print(&format!("saga {} is {} now\n", self.id, saga["status"].as_str().unwrap_or("changed"))),
        }
    }
}

/// An object of the members that are there.
fn with<const N: usize>(members: [(&str, Option<Value>); N]) -> Value {
    let members = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    json!(members.collect::<Map<String, Value>>())
}

/// As a part of a path.
fn escaped(word: &str) -> String {
    url::form_urlencoded::byte_serialize(word.as_bytes()).collect::<String>().replace('+', "%20")
}
