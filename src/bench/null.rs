//! The null orchestrator: takes the same starts and answers as sagad and sends the same commands, and stores nothing. What it does with a
//! machine, a broker and participants is the most that any orchestrator can do with them.
//!
//! All it needs to know of a saga is in the correlation ids that come back. Only for steps in parallel it counts answers, in memory.

use std::collections::HashMap;
use std::time::Duration;

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable};
use serde::Deserialize;
use uuid::Uuid;

use super::link::{Link, Message, header};
use super::pipe;
use super::scenario::{BACKOFF_MS, Command, NOTE, SAGA, STEPS, Scenario, routing_key};
use super::{AMQP, Result, trouble};
use crate::clock::{Clock, SystemClock};
use crate::core::id::Action;
use crate::core::time::Time;

/// What a null orchestrator's process is told.
#[derive(Debug, clap::Args)]
pub struct NullArgs {
    /// RabbitMQ; not an argument, which every user of the machine could read
    #[arg(env = AMQP, hide_env_values = true)]
    amqp: String,
    /// Where commands are published
    #[arg(long)]
    exchange: String,
    /// Where starts come from
    #[arg(long)]
    starts: String,
    /// Where answers come from
    #[arg(long)]
    replies: String,
    /// What its sagas do
    #[arg(long)]
    scenario: Scenario,
}

/// Orchestrates until its standard input ends.
///
/// # Errors
/// RabbitMQ went away.
pub async fn run(args: NullArgs) -> Result<()> {
    let link = Link::open(&args.amqp, "null orchestrator").await?;
    let mut inbox = link.consume(&[args.starts.clone(), args.replies.clone()]).await?;
    let mut answered: HashMap<Uuid, usize> = HashMap::new();
    let (wake, mut woken) = tokio::sync::mpsc::unbounded_channel::<(Saga, Command)>();
    let mut stdin = pipe::stdin();
    loop {
        tokio::select! {
            _ = stdin.recv() => return Ok(()),
            batch = inbox.next() => {
                let batch = batch?;
                let mut messages = Vec::new();
                for (queue, delivery) in batch.iter() {
                    if queue == 0 {
                        let saga = Saga::start(delivery)?;
                        let first = if args.scenario == Scenario::Parallel { STEPS - 1 } else { 1 };
                        messages.extend((0..first).map(|step| saga.command(&args, Command::execute(step))));
                        continue;
                    }
                    let (saga, command) = Saga::of_answer(delivery)?;
                    match next(args.scenario, command, header(delivery, "saga-outcome"), &mut answered, saga.id) {
                        Next::Send(next) => messages.push(saga.command(&args, next)),
                        Next::SendLater(next) => {
                            let wake = wake.clone();
                            tokio::spawn(async move {
                                tokio::time::sleep(Duration::from_millis(BACKOFF_MS)).await;
                                // Nobody listens only when the process ends.
                                let _ = wake.send((saga, next));
                            });
                        }
                        Next::Nothing => {}
                    }
                }
                link.publish(messages).await?;
                batch.ack().await?;
            }
            Some((saga, command)) = woken.recv() => {
                let mut messages = vec![saga.command(&args, command)];
                while let Ok((saga, command)) = woken.try_recv() {
                    messages.push(saga.command(&args, command));
                }
                link.publish(messages).await?;
            }
        }
    }
}

enum Next {
    Send(Command),
    SendLater(Command),
    Nothing,
}

/// What follows from an answer.
fn next(
    scenario: Scenario,
    command: Command,
    outcome: Option<&str>,
    answered: &mut HashMap<Uuid, usize>,
    saga: Uuid,
) -> Next {
    let Command { step, action, attempt } = command;
    let undo = |step: usize| Next::Send(Command { step, action: Action::Compensate, attempt: 1 });
    match (action, outcome) {
        (Action::Execute, Some("retry")) => Next::SendLater(Command { attempt: attempt + 1, ..command }),
        (Action::Execute, Some("failure")) | (Action::Compensate, _) if step > 0 => undo(step - 1),
        (Action::Execute, Some("success")) if step + 1 < STEPS && scenario == Scenario::Parallel => {
            let count = answered.entry(saga).or_default();
            *count += 1;
            if *count < STEPS - 1 {
                return Next::Nothing;
            }
            answered.remove(&saga);
            Next::Send(Command::execute(STEPS - 1))
        }
        (Action::Execute, Some("success")) if step + 1 < STEPS => Next::Send(Command::execute(step + 1)),
        _ => Next::Nothing,
    }
}

/// What is known of a saga: what its messages carry.
struct Saga {
    id: Uuid,
    order: String,
}

impl Saga {
    fn start(delivery: &Delivery) -> Result<Saga> {
        #[derive(Deserialize)]
        struct Input {
            order_id: String,
        }
        let input: Input = serde_json::from_slice(&delivery.data).map_err(|error| trouble(error.to_string()))?;
        Ok(Saga { id: SystemClock.id(), order: input.order_id })
    }

    fn of_answer(delivery: &Delivery) -> Result<(Saga, Command)> {
        let id = delivery.properties.correlation_id().as_ref().map(lapin::types::ShortString::as_str);
        let read = |id: &str| {
            let mut parts = id.split('.');
            let saga = Uuid::try_parse(parts.next()?).ok()?;
            let step = parts.next()?.parse().ok()?;
            let (action, attempt) = parts.next()?.split_at_checked(1)?;
            let action = if action == "e" { Action::Execute } else { Action::Compensate };
            let command = Command { step, action, attempt: attempt.parse().ok()? };
            Some((Saga { id: saga, order: parts.next()?.trim_end_matches('_').to_owned() }, command))
        };
        id.and_then(read).ok_or_else(|| trouble(format!("an answer to nothing: correlation id {id:?}")))
    }

    /// A command as sagad sends it: the same properties and headers, values as long.
    fn command(&self, args: &NullArgs, command: Command) -> Message {
        let Command { step, action, attempt } = command;
        let key = routing_key(step, action);
        let letter = &action.as_str()[..1];
        // 32 characters, as many as sagad's keyed hash has here.
        let id = format!("{}.{step}.{letter}{attempt}.{:_<32}", self.id.simple(), self.order);
        let now = SystemClock.now();
        let deadline = now.plus(Duration::from_secs(300)).to_string();
        let saga = self.id.hyphenated().to_string();
        let text = |text: String| AMQPValue::LongString(text.into());
        let mut headers = FieldTable::default();
        for (name, value) in [
            ("saga-id", text(saga.clone())),
            ("saga-name", text(SAGA.to_owned())),
            ("saga-key", text(self.order.clone())),
            ("saga-step", text(format!("step_{step}"))),
            ("saga-action", text(action.as_str().to_owned())),
            ("saga-attempt", AMQPValue::LongLongInt(attempt.into())),
            ("saga-deadline", text(deadline)),
            ("idempotency-key", text(format!("{saga}/step_{step}/{}", action.as_str()))),
            ("traceparent", text(format!("00-{}-{}-01", self.id.simple(), &id[..16]))),
        ] {
            headers.insert(name.into(), value);
        }
        let seconds = now.since(Time(0)).as_secs();
        let mut properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_content_encoding("utf-8".into())
            .with_delivery_mode(2)
            .with_priority(if action == Action::Execute { 5 } else { 9 })
            .with_correlation_id(id.as_str().into())
            .with_message_id(id.as_str().into())
            .with_reply_to(args.replies.as_str().into())
            .with_timestamp(seconds)
            .with_type(key.as_str().into())
            .with_app_id("sagad".into())
            .with_headers(headers);
        if action == Action::Execute {
            properties = properties.with_expiration("299000".into());
        }
        let order = &self.order;
        let body = match action {
            Action::Execute | Action::Probe => {
                format!(r#"{{"order_id":"{order}","customer_id":"customer-{order}","note":"{NOTE}"}}"#)
            }
            Action::Compensate => {
                format!(r#"{{"order_id":"{order}","reference":"{order}-{key}","note":"{NOTE}"}}"#)
            }
        };
        Message {
            exchange: args.exchange.clone(),
            routing_key: key,
            mandatory: true,
            properties,
            body: body.into_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_sends_every_command_of_every_scenario() {
        for scenario in [Scenario::Success, Scenario::Failure, Scenario::Parallel, Scenario::Retry] {
            let mut answered = HashMap::new();
            let first = if scenario == Scenario::Parallel { STEPS - 1 } else { 1 };
            let mut sent: Vec<Command> = (0..first).map(Command::execute).collect();
            let mut at = 0;
            while at < sent.len() {
                let outcome = scenario.outcome(sent[at]).as_str();
                match next(scenario, sent[at], Some(outcome), &mut answered, Uuid::nil()) {
                    Next::Send(next) | Next::SendLater(next) => sent.push(next),
                    Next::Nothing => {}
                }
                at += 1;
            }
            assert_eq!(sent, scenario.commands(), "{scenario:?}");
            assert!(answered.is_empty(), "{scenario:?} leaves something in memory");
        }
    }
}
