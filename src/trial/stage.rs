//! One saga on the core. What there is of the core's interface in scenarios and exploration is in here.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use uuid::Uuid;

use crate::core::answer::{Outcome, RawAnswer};
use crate::core::apply::apply;
use crate::core::decide::{Command, Decision, Effect, decide};
use crate::core::definition::{Awaited, Definition, Execute, OnTimeout, Step, Undo};
use crate::core::entry::Entry;
use crate::core::id::{Action, SagaId, Spot, Ticket};
use crate::core::input::{Bearing, Forbidden, Input};
use crate::core::parse::parse;
use crate::core::saga::{ActionState, Phase, Progress, Reason, Saga, StepState, Unit};
use crate::core::start::{InputError, NewSaga, check_input, start};
use crate::core::time::Time;
use crate::store::Source;

/// When every trial begins: 2026-01-01T00:00:00Z.
pub const START: Time = Time(1_767_225_600_000);

/// The saga of every trial: jitter follows from the id, so that waits are always the same.
const ID: SagaId = SagaId(Uuid::from_u128(0x019b_76da_a800_7000_8000_0000_0000_0001));

pub use crate::core::decide::Decide;

/// The core's own.
pub const SHIPPED: Decide = decide;

/// A saga and its clock.
#[derive(Clone)]
pub struct Stage<'d> {
    /// What it runs.
    pub definition: &'d Definition,
    /// Its state.
    pub saga: Saga,
    /// The time.
    pub now: Time,
    decide: Decide,
}

/// What followed from an input.
#[derive(Clone, Debug)]
pub struct Turn {
    /// When.
    pub at: Time,
    /// What was journaled; empty: nothing changed.
    pub entries: Vec<Entry>,
    /// What was sent, or is waited for.
    pub sent: Vec<Sent>,
}

/// Something that was sent, or is waited for.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Which attempt of which action.
    pub ticket: Ticket,
    /// How often its action began anew.
    pub round: u32,
    /// To whom.
    pub to: To,
    /// The routing key of a command or an event.
    pub routing_key: String,
    /// The command, if it is one.
    pub command: Option<Command>,
}

/// Whom something is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// A participant, who answers.
    Participant,
    /// Whoever listens; the broker confirms it.
    Listeners,
    /// A saga that the step runs; it answers.
    Child,
    /// Nobody: a signal or an event is waited for.
    Nobody,
}

/// Something whose answer is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flight {
    /// Which attempt of which action.
    pub ticket: Ticket,
    /// How often its action began anew.
    pub round: u32,
    /// Who answers.
    pub to: To,
    /// When it times out.
    pub deadline: Option<Time>,
    /// Attempts of the present budget.
    pub tries: u32,
}

/// How a saga is started.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// What with.
    pub input: Arc<Value>,
    /// Instead of the definition's.
    pub priority: Option<u8>,
    /// Wait so long before it begins.
    pub delay: Duration,
}

impl<'d> Stage<'d> {
    /// Starts a saga.
    ///
    /// # Errors
    /// What is wrong with the input.
    pub fn start(
        definition: &'d Definition,
        start_with: Start,
        decide: Decide,
    ) -> Result<(Stage<'d>, Turn), Vec<InputError>> {
        let Start { input, priority, delay } = start_with;
        let key = check_input(definition, &input)?;
        let actor = "trial".to_owned();
        let new = NewSaga { id: ID, revision: 1, input, priority, delay, trace: None, actor, parent: None };
        let Decision { saga, entries, effects, .. } = start(definition, new, key, START)?;
        let mut stage = Stage { definition, saga, now: START, decide };
        let turn = stage.turn(entries, effects);
        Ok((stage, turn))
    }

    /// Puts an input in.
    ///
    /// # Errors
    /// An operator's order or a signal that the saga's state forbids.
    pub fn put(&mut self, input: Input) -> Result<Turn, Forbidden> {
        let decision = (self.decide)(self.definition, &self.saga, input, self.now)?;
        let Decision { mut saga, entries, effects, .. } = decision;
        // The engine's part.
        saga.version += u64::from(!entries.is_empty());
        self.saga = saga;
        Ok(self.turn(entries, effects))
    }

    /// What was sent: the effects, and what is waited for without anything being sent.
    fn turn(&mut self, entries: Vec<Entry>, effects: Vec<Effect>) -> Turn {
        let sent = effects.into_iter().filter_map(|effect| {
            let (ticket, to, routing_key, command) = match effect {
                Effect::Command(command) => {
                    (command.ticket, To::Participant, command.routing_key.clone(), Some(command))
                }
                Effect::Event(event) => (event.ticket, To::Listeners, event.routing_key, None),
                Effect::Child(order) => (order.ticket, To::Child, String::new(), None),
                // The saga of a trial has no parent.
                Effect::Answer(_) => return None,
            };
            let round = action_of(&self.saga, ticket).map_or(0, |action| action.round);
            Some(Sent { ticket, round, to, routing_key, command })
        });
        let waits = entries.iter().filter_map(|entry| match *entry {
            Entry::Waiting { spot, .. } => {
                let ticket = Ticket { saga: self.saga.id, spot, action: Action::Execute, attempt: 0 };
                Some(Sent { ticket, round: 0, to: To::Nobody, routing_key: String::new(), command: None })
            }
            _ => None,
        });
        let sent = sent.chain(waits).collect();
        Turn { at: self.now, entries, sent }
    }

    /// Whether an input would change anything.
    pub fn would_change(&self, input: Input) -> bool {
        (self.decide)(self.definition, &self.saga, input, self.now).is_ok_and(|decision| !decision.entries.is_empty())
    }

    /// Lets the time pass until `then`, and wakes the saga.
    pub fn wake(&mut self, then: Time) -> Turn {
        self.now = then.max(self.now);
        match self.put(Input::Tick) {
            Ok(turn) => turn,
            Err(_) => unreachable!("only orders are forbidden"),
        }
    }

    /// When its next timer is due.
    pub fn due(&self) -> Option<Time> {
        self.saga.due(self.definition, Duration::ZERO)
    }

    /// Whether it waits for its lock, or for fewer sagas to run.
    pub fn is_held(&self) -> bool {
        matches!(self.saga.phase, Phase::Pending { held: true, .. })
    }

    /// Whether the answer to this very attempt is awaited, and nobody has said that he is at it.
    pub fn awaits(&self, ticket: Ticket) -> bool {
        let state = action_of(&self.saga, ticket);
        state.is_some_and(|state| state.in_flight() && state.attempt == ticket.attempt && !state.pending)
    }

    /// Everything whose answer is awaited.
    pub fn flights(&self) -> Vec<Flight> {
        let mut flights = Vec::new();
        for (spot, unit) in units(&self.saga) {
            for (action, state) in unit.actions() {
                if let Progress::Running { deadline } = state.progress {
                    let ticket = Ticket { saga: self.saga.id, spot, action, attempt: state.attempt };
                    let to = addressee(&self.definition.steps[spot.step], action);
                    let tries = state.tries();
                    flights.push(Flight { ticket, round: state.round, to, deadline, tries });
                }
            }
        }
        flights
    }

    /// Whom a ticket is for.
    pub fn to(&self, ticket: Ticket) -> To {
        addressee(self.step(ticket), ticket.action)
    }

    /// Whether there is somebody to do what a ticket asks for: nobody does what is waited for, or what an event tells.
    pub fn acts(&self, ticket: Ticket) -> bool {
        matches!(self.to(ticket), To::Participant | To::Child)
    }

    /// The step that a ticket is of.
    pub fn step(&self, ticket: Ticket) -> &'d Step {
        &self.definition.steps[ticket.spot.step]
    }

    /// An answer to what was sent: as an event of another service, if that is how the participant answers.
    pub fn answer(&self, ticket: Ticket, outcome: Option<Outcome>, body: Value, headers: Map<String, Value>) -> Input {
        let Ticket { spot, action, attempt, .. } = ticket;
        let step = self.step(ticket);
        if let (Execute::Wait(_), Action::Execute) = (&step.execute, action) {
            return self.event(spot, Bearing::Awaited, body);
        }
        let command = step.sends(action);
        let reply = command.map(|command| &command.reply);
        match outcome {
            Some(Outcome::Success) if reply.is_some_and(|reply| reply.success.is_some()) => {
                self.event(spot, Bearing::Success(action), body)
            }
            Some(Outcome::Failure) if reply.is_some_and(|reply| reply.failure.is_some()) => {
                self.event(spot, Bearing::Failure(action), body)
            }
            _ => {
                let answer = RawAnswer { outcome, body, headers: Value::Object(headers) };
                Input::Answer { spot, action, attempt, answer }
            }
        }
    }

    /// What a step waits for: its signal, or its event.
    pub fn event(&self, spot: Spot, bearing: Bearing, body: Value) -> Input {
        if let Execute::Wait(wait) = &self.definition.steps[spot.step].execute
            && let Awaited::Signal(name) = &wait.until
        {
            return signal(name, body);
        }
        Input::Event { step: spot.step, bearing, id: None, body, headers: Value::Object(Map::new()) }
    }
}

fn addressee(step: &Step, action: Action) -> To {
    match (action, &step.execute) {
        (Action::Execute, Execute::Wait(_) | Execute::Sleep(_)) => To::Nobody,
        (Action::Execute, Execute::Publish(_)) => To::Listeners,
        (Action::Execute, Execute::Saga(_)) => To::Child,
        (Action::Compensate, Execute::Saga(_)) if step.undo_command().is_none() => To::Child,
        _ => To::Participant,
    }
}

/// A signal.
pub fn signal(name: &str, payload: Value) -> Input {
    Input::Signal { name: name.to_owned(), id: None, payload, actor: None }
}

/// A command that the broker gives back.
pub fn given_back(ticket: Ticket, reason: Reason, delivered_before: bool) -> Input {
    let Ticket { spot, action, attempt, .. } = ticket;
    let message = format!("the command came back: {}", reason.as_str());
    Input::Undelivered { spot, action, attempt, reason, message, delivered_before, resent: false }
}

/// The saga that the entries of a turn lead to.
pub fn folded(before: &Saga, turn: &Turn) -> Saga {
    let mut saga = before.clone();
    for entry in &turn.entries {
        apply(&mut saga, entry, turn.at);
    }
    saga.version += u64::from(!turn.entries.is_empty());
    saga
}

/// The attempt that an entry says was sent.
pub fn sent(saga: SagaId, entry: &Entry) -> Option<Ticket> {
    match *entry {
        Entry::Sent { spot, action, attempt, .. } => Some(Ticket { saga, spot, action, attempt }),
        _ => None,
    }
}

/// The units of a saga, with their places.
pub fn units(saga: &Saga) -> impl Iterator<Item = (Spot, &Unit)> {
    let of_step =
        |(step, state): (usize, &StepState)| state.units().map(|(item, _)| Spot { step, item }).collect::<Vec<_>>();
    let spots: Vec<Spot> = saga.steps.iter().enumerate().flat_map(of_step).collect();
    spots.into_iter().filter_map(|spot| Some((spot, saga.unit(spot)?)))
}

/// The action that a ticket is of.
pub fn action_of(saga: &Saga, ticket: Ticket) -> Option<&ActionState> {
    saga.unit(ticket.spot).map(|unit| unit.action(ticket.action))
}

/// The definition of `source`, with at most so many attempts of each action; `None` if it can't be read.
pub fn capped(source: &Source, attempts: u32) -> Option<Definition> {
    let missing = || "the schema was not kept with the definition".to_owned();
    let (mut definition, _) = parse(&source.toml, &mut |_| source.schema.clone().ok_or_else(missing)).ok()?;
    let cap = |given: &mut u32| *given = (*given).min(attempts);
    for step in &mut definition.steps {
        if let Execute::Command(request) = &mut step.execute {
            cap(&mut request.command.retry.attempts);
            if let OnTimeout::Probe(probe) = &mut request.on_timeout {
                cap(&mut probe.retry.attempts);
            }
        }
        match step.compensate.as_mut().map(|compensate| &mut compensate.undo) {
            Some(Undo::Command(command)) => cap(&mut command.retry.attempts),
            Some(Undo::Child { retry, .. }) => cap(&mut retry.attempts),
            None => {}
        }
    }
    Some(definition)
}
