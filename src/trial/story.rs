//! A saga's history in words.

use crate::core::definition::{Definition, Execute};
use crate::core::entry::{Entry, Handling, Resolution};
use crate::core::id::{Action, Spot};
use crate::core::saga::{Addressee, Failure, SagaError};
use crate::core::time::Time;
use crate::trial::stage::START;

/// One line for each thing that happened: `+1.500s  payment.charge sent (process_payment, attempt 2)`.
pub fn tell(definition: &Definition, at: Time, entry: &Entry) -> String {
    format!("{:>10}  {}", since_start(at), Teller(definition).words(entry))
}

/// `+1.500s`.
pub fn since_start(at: Time) -> String {
    let millis = at.since(START).as_millis();
    format!("+{}.{:03}s", millis / 1000, millis % 1000)
}

struct Teller<'d>(&'d Definition);

impl Teller<'_> {
    fn words(&self, entry: &Entry) -> String {
        match entry {
            Entry::Accepted { key, .. } => match key {
                Some(key) => format!("accepted, key {key}"),
                None => "accepted".to_owned(),
            },
            Entry::Held {} => "waits for its turn".to_owned(),
            Entry::Started { .. } => "begins".to_owned(),
            Entry::Skipped { spot } => format!("{} is skipped", self.name(*spot)),
            Entry::Scheduled { spot, action, due } => {
                format!("{} waits until {}", self.action(*spot, *action), since_start(*due))
            }
            Entry::Sent { spot, action, attempt, .. } => {
                let what = self.routing_key(*spot, *action).unwrap_or_else(|| self.action(*spot, *action));
                format!("sends {what} ({}, attempt {attempt})", self.name(*spot))
            }
            Entry::Expanded { spot, elements } => {
                let count = elements.as_array().map_or(0, Vec::len);
                format!("{} is to be done for {count} element{}", self.name(*spot), if count == 1 { "" } else { "s" })
            }
            Entry::Waiting { spot, .. } => format!("{} waits", self.name(*spot)),
            Entry::Received { to, .. } => format!("{} comes", self.letter(to)),
            Entry::Taken { spot, to } => format!("{} takes {}", self.name(*spot), self.letter(to)),
            Entry::UndoAsked { .. } => "is to be undone".to_owned(),
            Entry::Extended { spot, action, attempt, .. } => {
                format!("{}: attempt {attempt} is still being worked at", self.action(*spot, *action))
            }
            Entry::Succeeded { spot, attempt: 0, .. } => format!("{} is over", self.name(*spot)),
            Entry::Succeeded { spot, action, attempt, late, .. } => {
                let late = if *late { ", late" } else { "" };
                format!("{}: attempt {attempt} succeeded{late}", self.action(*spot, *action))
            }
            Entry::Failed { spot, action, attempt: 0, failure } => {
                format!("{} failed: {}", self.action(*spot, *action), why(failure))
            }
            Entry::Failed { spot, action, attempt, failure } => {
                format!("{}: attempt {attempt} failed: {}", self.action(*spot, *action), why(failure))
            }
            Entry::AttemptFailed { spot, action, attempt, failure, handling } => {
                let doubt = match handling {
                    Handling::Maybe => "; it may have been handled",
                    Handling::Resent => "; another copy of it may have been handled",
                    Handling::Never | Handling::Answered => "",
                };
                format!("{}: attempt {attempt} came to nothing: {}{doubt}", self.action(*spot, *action), why(failure))
            }
            Entry::NeverRan { spot, action, attempt, failure } => {
                format!("{}: attempt {attempt} never ran: {}", self.action(*spot, *action), why(failure))
            }
            Entry::Exhausted { spot, action, failure } => {
                format!("{}: no further attempt: {}", self.action(*spot, *action), why(failure))
            }
            Entry::Withdrawn { spot } => format!("{} is not sent after all", self.name(*spot)),
            Entry::CompensationRenewed { spot } => {
                format!("what became of the undo of {} counts no longer", self.name(*spot))
            }
            Entry::Compensating { error, .. } => format!("compensates: {}", self.error(error)),
            Entry::Suspended { reason, .. } => format!("waits for an operator: {reason}"),
            Entry::Resumed { .. } => "goes on".to_owned(),
            Entry::Repaired { .. } => "is repaired".to_owned(),
            Entry::GivenUp { spot, failure } => {
                format!("{} could not undo all that it did: {}", self.name(*spot), why(failure))
            }
            Entry::Retried { spot, action, actor, .. } => {
                format!("{actor} has {} tried again", self.action(*spot, *action))
            }
            Entry::Resolved { spot, outcome, actor, reason, .. } => {
                let outcome = match outcome {
                    Resolution::Succeeded => "done",
                    Resolution::Failed => "not done",
                    Resolution::Compensated => "undone",
                    Resolution::GivenUp => "never to be undone",
                };
                format!("{actor} says that {} is {outcome}: {reason}", self.name(*spot))
            }
            Entry::Completed { error: Some(error), .. } => format!("completed, but {}", self.error(error)),
            Entry::Completed { .. } => "completed".to_owned(),
            Entry::Compensated {} => "compensated".to_owned(),
            Entry::GaveUp {} => "failed: not everything could be undone".to_owned(),
        }
    }

    fn name(&self, spot: Spot) -> String {
        let name = self.0.steps.get(spot.step).map_or("?", |step| &step.name);
        match spot.item {
            None => name.to_owned(),
            Some(item) => format!("{name}[{item}]"),
        }
    }

    fn letter(&self, to: &Addressee) -> String {
        match to {
            Addressee::Signal(name) => format!("the signal {name}"),
            Addressee::Step(step) => format!("the event for {}", self.name((*step).into())),
        }
    }

    fn action(&self, spot: Spot, action: Action) -> String {
        match action {
            Action::Execute => self.name(spot),
            Action::Compensate => format!("the undo of {}", self.name(spot)),
            Action::Probe => format!("the question after {}", self.name(spot)),
        }
    }

    fn routing_key(&self, spot: Spot, action: Action) -> Option<String> {
        let step = self.0.steps.get(spot.step)?;
        let command = match (action, &step.execute) {
            (Action::Execute, Execute::Publish(event)) => return Some(event.routing_key.clone()),
            (Action::Execute, _) => step.command(),
            (Action::Compensate, _) => step.undo_command(),
            (Action::Probe, _) => step.probe_command(),
        };
        command.map(|command| command.routing_key.clone())
    }

    fn error(&self, error: &SagaError) -> String {
        match error.step {
            Some(step) => format!("{} failed: {}", self.name(step.into()), why(&error.failure)),
            None => why(&error.failure),
        }
    }
}

fn why(failure: &Failure) -> String {
    format!("{} ({})", failure.message, failure.reason.as_str())
}
