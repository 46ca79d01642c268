//! What follows from an input: the rules of the saga.
//!
//! ```text
//!   input ─> take: what happened, as entries ─> advance: what is to be done next, as entries and commands
//! ```
//!
//! `take` settles attempts and actions, `advance` plans from the state alone: it can be called at any time, and whatever the
//! input was, the same state is followed by the same next steps. Every entry is applied before the next is thought of.

mod advance;
mod orders;
mod send;
mod take;

use std::time::Duration;

use serde_json::Value;

use crate::core::apply::apply;
use crate::core::definition::Definition;
use crate::core::entry::Entry;
use crate::core::id::Ticket;
use crate::core::input::{Forbidden, Input};
use crate::core::saga::Saga;
use crate::core::time::Time;

/// What follows from an input.
#[derive(Debug)]
pub struct Decision {
    /// The saga after it.
    pub saga: Saga,
    /// What is to be journaled; empty: nothing changed.
    pub entries: Vec<Entry>,
    /// What is to be sent, once the entries are committed.
    pub commands: Vec<Command>,
    /// Why nothing changed, where that is worth counting.
    pub ignored: Option<Ignored>,
}

/// A command to send.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// Which sending of which command.
    pub ticket: Ticket,
    /// Where to.
    pub exchange: String,
    /// And under which routing key.
    pub routing_key: String,
    /// The body.
    pub body: Value,
    /// The definition's own headers.
    pub headers: Vec<(String, Value)>,
    /// 0 to 9.
    pub priority: u8,
    /// It dies in its queue after so long.
    pub expires: Option<Duration>,
    /// When the attempt times out.
    pub deadline: Time,
    /// How often the action began anew under another idempotency key.
    pub round: u32,
    /// A compensation of a step whose outcome nobody knows.
    pub in_doubt: bool,
}

/// Why an input changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// The saga knows of no such attempt. A participant can't know of one that was not committed, so the state is an old one.
    UnknownAttempt,
    /// The action is decided; this adds nothing.
    Settled,
    /// It is of an attempt that is not the latest.
    Stale,
    /// No timer is due.
    NotDue,
}

impl Ignored {
    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Ignored::UnknownAttempt => "unknown_attempt",
            Ignored::Settled => "settled",
            Ignored::Stale => "stale",
            Ignored::NotDue => "not_due",
        }
    }
}

/// Decides what follows from `input`.
///
/// # Errors
/// An operator's order that the saga's state forbids. No other input can fail.
pub fn decide(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Result<Decision, Forbidden> {
    let mut transition = Transition::new(definition, saga.clone(), now);
    transition.take(input)?;
    transition.advance();
    Ok(transition.into_decision())
}

/// A saga on its way from one state to the next.
pub(super) struct Transition<'a> {
    definition: &'a Definition,
    saga: Saga,
    now: Time,
    pub(super) entries: Vec<Entry>,
    commands: Vec<Command>,
    ignored: Option<Ignored>,
}

impl<'a> Transition<'a> {
    pub(super) fn new(definition: &'a Definition, saga: Saga, now: Time) -> Transition<'a> {
        Transition { definition, saga, now, entries: Vec::new(), commands: Vec::new(), ignored: None }
    }

    pub(super) fn into_decision(self) -> Decision {
        Decision { saga: self.saga, entries: self.entries, commands: self.commands, ignored: self.ignored }
    }

    pub(super) fn record(&mut self, entry: Entry) {
        apply(&mut self.saga, &entry, self.now);
        self.entries.push(entry);
    }
}
