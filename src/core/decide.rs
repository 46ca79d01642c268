//! What follows from an input: the rules of the saga.
//!
//! ```text
//!   input ─> take: what happened, as entries ─> advance: what is to be done next, as entries and effects
//! ```
//!
//! `take` settles attempts and actions, `advance` plans from the state alone: it can be called at any time, and whatever the
//! input was, the same state is followed by the same next steps. Every entry is applied before the next is thought of.

mod advance;
mod back;
mod family;
mod letters;
mod orders;
mod scope;
mod send;
mod take;

pub use self::family::end_of;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::core::answer::RawAnswer;
use crate::core::apply::apply;
use crate::core::definition::{Definition, Retry};
use crate::core::entry::Entry;
use crate::core::id::{Action, SagaId, Spot, Ticket};
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
    pub effects: Vec<Effect>,
    /// Why nothing changed, where that is worth counting.
    pub ignored: Option<Ignored>,
}

/// Something to send.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// To a participant, who answers.
    Command(Command),
    /// To whoever listens; the broker's confirm is the answer.
    Event(Event),
    /// To a saga that a step runs; it answers.
    Child(ChildOrder),
    /// To the step that runs this saga.
    Answer(ParentAnswer),
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

/// An event to publish.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Which publishing of which event.
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
}

/// What a step wants of the saga that it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct ChildOrder {
    /// Which asking.
    pub ticket: Ticket,
    /// The child.
    pub child: SagaId,
    /// What.
    pub ask: Ask,
}

/// What a step can want of a child.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// That it begins.
    Start {
        /// Its definition.
        definition: Arc<str>,
        /// Its input.
        input: Value,
        /// The step's name.
        step: Arc<str>,
        /// How many sagas are above the child.
        depth: u32,
        /// AMQP priority of its commands, if its own definition is silent.
        priority: u8,
        /// W3C trace context.
        trace: Option<String>,
    },
    /// That it undoes what it did.
    Undo,
}

/// What a child tells the step that runs it.
#[derive(Clone, Debug, PartialEq)]
pub struct ParentAnswer {
    /// Which asking it answers.
    pub ticket: Ticket,
    /// What.
    pub answer: RawAnswer,
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
    /// It came before.
    Duplicate,
    /// More is waiting in the saga than it keeps.
    Full,
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
            Ignored::Duplicate => "duplicate",
            Ignored::Full => "full",
            Ignored::NotDue => "not_due",
        }
    }
}

/// What decides: [`decide`]; in tests, one with a mistake in it.
pub type Decide = fn(&Definition, &Saga, Input, Time) -> Result<Decision, Forbidden>;

/// Decides what follows from `input`.
///
/// # Errors
/// An operator's order or a signal that the saga's state forbids. No other input can fail.
pub fn decide(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Result<Decision, Forbidden> {
    let mut transition = Transition::new(definition, saga.clone(), now);
    transition.take(input)?;
    transition.advance();
    Ok(transition.into_decision())
}

/// How long an attempt of an action may take, if that is bounded, and how often it is tried.
pub fn terms(definition: &Definition, saga: &Saga, spot: Spot, action: Action) -> (Option<Duration>, Retry) {
    let transition = Transition::new(definition, saga.clone(), saga.updated_at);
    (transition.time_to_answer(spot, action), transition.retry(spot.step, action))
}

/// A saga on its way from one state to the next.
pub(super) struct Transition<'a> {
    definition: &'a Definition,
    saga: Saga,
    now: Time,
    pub(super) entries: Vec<Entry>,
    effects: Vec<Effect>,
    ignored: Option<Ignored>,
}

impl<'a> Transition<'a> {
    pub(super) fn new(definition: &'a Definition, saga: Saga, now: Time) -> Transition<'a> {
        Transition { definition, saga, now, entries: Vec::new(), effects: Vec::new(), ignored: None }
    }

    pub(super) fn into_decision(self) -> Decision {
        Decision { saga: self.saga, entries: self.entries, effects: self.effects, ignored: self.ignored }
    }

    pub(super) fn record(&mut self, entry: Entry) {
        apply(&mut self.saga, &entry, self.now);
        let ends = matches!(entry, Entry::Completed { .. } | Entry::Compensated {} | Entry::GaveUp {});
        self.entries.push(entry);
        if ends {
            self.tell_parent();
        }
    }
}
