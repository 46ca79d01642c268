//! The participants' process: answers every command at once, and knows exactly which ones it should see.
//!
//! Its standard output goes to the driver: a line for each saga whose last answer the broker has, and when its standard input ends, one
//! line of JSON with what it saw.

use std::collections::HashMap;

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable};
use serde::{Deserialize, Serialize};

use super::link::{Link, Message, header, number};
use super::pipe;
use super::scenario::{Command, Outcome, STEPS, Scenario, parse_routing_key};
use super::{AMQP, Result, trouble};

/// What a participants' process is told.
#[derive(Debug, clap::Args)]
pub struct ParticipantArgs {
    /// RabbitMQ; not an argument, which every user of the machine could read
    #[arg(env = AMQP, hide_env_values = true)]
    amqp: String,
    /// What the queues' names start with
    #[arg(long)]
    prefix: String,
    /// What its sagas do
    #[arg(long)]
    scenario: Scenario,
}

/// What the participants saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Sagas all of whose commands came, each once and in order.
    pub whole: usize,
    /// Sagas that did not come to their end.
    pub torn: usize,
    /// Commands that should not have come: twice, out of order, of no saga of this run.
    pub wrong: usize,
}

/// Answers until its standard input ends.
///
/// # Errors
/// RabbitMQ went away.
pub async fn run(args: ParticipantArgs) -> Result<()> {
    let link = Link::open(&args.amqp, "participants").await?;
    let queues: Vec<String> = (0..STEPS).map(|step| queue(&args.prefix, step)).collect();
    let mut inbox = link.consume(&queues).await?;
    let mut ledger = Ledger { scenario: args.scenario, sagas: HashMap::new(), wrong: 0 };
    let mut stdin = pipe::stdin();
    loop {
        let batch = tokio::select! {
            batch = inbox.next() => batch?,
            _ = stdin.recv() => break,
        };
        let mut ended = String::new();
        let mut answers = Vec::new();
        for (_, delivery) in batch.iter() {
            let (answer, last) = ledger.take(delivery)?;
            answers.push(answer);
            if let Some(order) = last {
                ended.push_str(&order);
                ended.push('\n');
            }
        }
        link.publish(answers).await?;
        batch.ack().await?;
        pipe::say(&ended)?;
    }
    let seen = serde_json::to_string(&ledger.seen()).map_err(|error| trouble(error.to_string()))?;
    pipe::say(&format!("{seen}\n"))
}

/// The queue of a step.
pub(super) fn queue(prefix: &str, step: usize) -> String {
    format!("{prefix}-step{step}")
}

/// Which commands came of which saga.
struct Ledger {
    scenario: Scenario,
    /// By order: which of the scenario's commands came, a bit each.
    sagas: HashMap<String, u16>,
    wrong: usize,
}

#[derive(Deserialize)]
struct Body {
    order_id: String,
}

impl Ledger {
    /// Takes a command: its answer, and the order if that was the last of its saga.
    fn take(&mut self, delivery: &Delivery) -> Result<(Message, Option<String>)> {
        let unreadable = || trouble(format!("a command that is none: {:?}", delivery.routing_key));
        let (step, action) = parse_routing_key(delivery.routing_key.as_str()).ok_or_else(unreadable)?;
        let attempt = u32::try_from(number(delivery, "saga-attempt").unwrap_or(0)).unwrap_or(0);
        let command = Command { step, action, attempt };
        let body: Body = serde_json::from_slice(&delivery.data).map_err(|_| unreadable())?;
        let outcome = self.scenario.outcome(command);
        let last = self.note(&body.order_id, command);
        // As a service does that keeps its effects apart by them.
        header(delivery, "idempotency-key").ok_or_else(unreadable)?;
        Ok((answer(delivery, &body.order_id, outcome)?, last.then_some(body.order_id)))
    }

    /// Whether this was the last command of its saga.
    fn note(&mut self, order: &str, command: Command) -> bool {
        let all = (1 << self.scenario.commands().len()) - 1;
        let came = self.sagas.entry(order.to_owned()).or_default();
        let Some(position) = self.scenario.position(command) else {
            self.wrong += 1;
            return false;
        };
        let before = (1 << self.scenario.needs(position)) - 1;
        if *came & (1 << position) != 0 || *came & before != before {
            self.wrong += 1;
        }
        let whole_before = *came == all;
        *came |= 1 << position;
        *came == all && !whole_before
    }

    fn seen(&self) -> Seen {
        let all = (1 << self.scenario.commands().len()) - 1;
        let whole = self.sagas.values().filter(|came| **came == all).count();
        Seen { whole, torn: self.sagas.len() - whole, wrong: self.wrong }
    }
}

fn answer(delivery: &Delivery, order: &str, outcome: Outcome) -> Result<Message> {
    let properties = &delivery.properties;
    let (Some(reply_to), Some(id)) = (properties.reply_to().clone(), properties.correlation_id().clone()) else {
        return Err(trouble("a command without reply_to or correlation_id"));
    };
    let body = match outcome {
        Outcome::Success => format!(r#"{{"reference":"{order}-{}","accepted":true}}"#, delivery.routing_key),
        _ => r#"{"error":{"code":"declined","message":"as the scenario has it"}}"#.to_owned(),
    };
    let mut headers = FieldTable::default();
    headers.insert("saga-outcome".into(), AMQPValue::LongString(outcome.as_str().into()));
    Ok(Message {
        exchange: String::new(),
        routing_key: reply_to.to_string(),
        mandatory: false,
        properties: BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2)
            .with_correlation_id(id)
            .with_headers(headers),
        body: body.into_bytes(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::id::Action;

    fn ledger(scenario: Scenario) -> Ledger {
        Ledger { scenario, sagas: HashMap::new(), wrong: 0 }
    }

    #[test]
    fn every_command_once_in_order_is_a_whole_saga() {
        for scenario in [Scenario::Success, Scenario::Failure, Scenario::Parallel, Scenario::Retry] {
            let mut ledger = ledger(scenario);
            let commands = scenario.commands();
            let last: Vec<bool> = commands.iter().map(|command| ledger.note("1", *command)).collect();
            assert_eq!(last.iter().position(|last| *last), Some(commands.len() - 1), "{scenario:?}");
            assert_eq!(ledger.seen(), Seen { whole: 1, torn: 0, wrong: 0 }, "{scenario:?}");
        }
    }

    #[test]
    fn duplicates_gaps_and_strangers_are_noticed() {
        let mut twice = ledger(Scenario::Success);
        twice.note("1", Command::execute(0));
        twice.note("1", Command::execute(0));
        assert_eq!(twice.seen(), Seen { whole: 0, torn: 1, wrong: 1 });
        let mut gap = ledger(Scenario::Success);
        gap.note("1", Command::execute(1));
        assert_eq!(gap.seen().wrong, 1);
        let mut stranger = ledger(Scenario::Success);
        stranger.note("1", Command { step: 0, action: Action::Compensate, attempt: 1 });
        assert_eq!(stranger.seen().wrong, 1);
    }
}
