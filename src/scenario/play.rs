//! Plays a scenario: the core, a clock that jumps to whatever happens next, participants that do what the script says.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Happening, Occurrence, Reaction, Scenario, Script, What};
use crate::broker::names::Names;
use crate::core::answer::Outcome;
use crate::core::decide::Command;
use crate::core::definition::{Awaited, Definition, Execute, Step};
use crate::core::entry::Entry;
use crate::core::id::{Action, StepIx, Ticket};
use crate::core::input::{Bearing, Forbidden, Input, Order};
use crate::core::saga::{Reason, Saga};
use crate::core::time::Time;
use crate::trial::laws::{self, Breach};
use crate::trial::ledger::{Key, Ledger, key};
use crate::trial::stage::{Decide, START, Sent, Stage, Start, To, Turn, given_back, signal};
use crate::trial::{sample, story};
use crate::wire::{header, outgoing};

/// A saga of which more happens than this never comes to rest.
const MOST_TURNS: usize = 20_000;

/// What happened.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// Why it was not started.
    pub refused: Option<String>,
    /// The saga in the end.
    pub saga: Option<Saga>,
    /// The commands that were sent, and when.
    pub sent: Vec<(Time, Command)>,
    /// The routing keys of the events that steps published.
    pub published: Vec<String>,
    /// The routing keys of the lifecycle events.
    pub events: Vec<String>,
    /// The entries of each transition.
    pub journal: Vec<(Time, Vec<Entry>)>,
    /// The steps whose effects are there.
    pub effects: BTreeSet<StepIx>,
    /// What the script asks for and could not be done.
    pub impossible: Vec<String>,
}

/// Plays a scenario of a saga of this definition.
pub(super) fn play(definition: &Definition, scenario: &Scenario, decide: Decide) -> Record {
    let Scenario { input, priority, delay, .. } = scenario;
    let start = Start { input: input.clone(), priority: *priority, delay: *delay };
    let (stage, first) = match Stage::start(definition, start, decide) {
        Ok(started) => started,
        Err(errors) => {
            let why = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            return Record { refused: Some(why), ..Record::default() };
        }
    };
    let mut play = Play {
        scenario,
        stage,
        names: Names::new("sagad"),
        agenda: BTreeMap::new(),
        count: 0,
        in_the_end: VecDeque::new(),
        ledger: Ledger::default(),
        record: Record::default(),
    };
    for occurrence in &scenario.happens {
        match occurrence.after {
            Some(after) => play.plan(START.plus(after), Next::Occurs(occurrence)),
            None => play.in_the_end.push_back(occurrence),
        }
    }
    play.take(first);
    play.run();
    let Play { stage, ledger, mut record, .. } = play;
    record.effects = ledger.there().iter().map(|spot| spot.step).collect();
    record.saga = Some(stage.saga);
    record
}

struct Play<'s> {
    scenario: &'s Scenario,
    stage: Stage<'s>,
    names: Names,
    /// What will happen, in order; what was planned first happens first.
    agenda: BTreeMap<(Time, u64), Next<'s>>,
    /// How much was planned.
    count: u64,
    /// What happens once nothing else does.
    in_the_end: VecDeque<&'s Occurrence>,
    ledger: Ledger,
    record: Record,
}

enum Next<'s> {
    /// A command is handled and answered, or the broker gives it back.
    Answers(Ticket, Key, What),
    Comes(Input),
    Occurs(&'s Occurrence),
}

impl<'s> Play<'s> {
    fn run(&mut self) {
        for _ in 0..MOST_TURNS {
            let planned = self.agenda.first_key_value().map(|((at, _), _)| *at);
            match (planned, self.stage.due()) {
                // An answer that comes at the very moment of its time-out is in time.
                (Some(at), due) if due.is_none_or(|due| at <= due) => {
                    let Some((_, next)) = self.agenda.pop_first() else { return };
                    self.stage.now = at.max(self.stage.now);
                    self.happen(next);
                }
                (_, Some(due)) => {
                    let before = self.stage.saga.clone();
                    let turn = self.stage.wake(due);
                    self.check(&before, &turn);
                    self.take(turn);
                }
                (_, None) => match self.in_the_end.pop_front() {
                    Some(occurrence) => self.happen(Next::Occurs(occurrence)),
                    None => return,
                },
            }
        }
        self.record.impossible.push(format!("the saga did not come to rest in {MOST_TURNS} transitions"));
    }

    fn plan(&mut self, at: Time, next: Next<'s>) {
        self.agenda.insert((at, self.count), next);
        self.count += 1;
    }

    /// Puts an input in and writes down what followed; a law that does not hold is written down, too.
    fn put(&mut self, input: Input) -> Result<(), Forbidden> {
        let before = self.stage.saga.clone();
        let turn = self.stage.put(input)?;
        self.check(&before, &turn);
        self.take(turn);
        Ok(())
    }

    fn check(&mut self, before: &Saga, turn: &Turn) {
        if let Some(Breach { law, message }) = laws::of_turn(self.stage.definition, before, &self.stage.saga, turn) {
            let at = story::since_start(turn.at);
            self.record.impossible.push(format!("at {at}, sagad breaks its own law `{law}`: {message}"));
        }
    }

    /// Writes down what followed from something, and plans what comes of the commands.
    fn take(&mut self, turn: Turn) {
        let Turn { at, entries, sent, .. } = turn;
        let events = outgoing::events(&self.names, self.stage.definition, &self.stage.saga, &entries, at);
        self.record.events.extend(events.into_iter().map(|event| event.routing_key));
        if !entries.is_empty() {
            self.record.journal.push((at, entries));
        }
        if self.stage.is_held() {
            self.plan(at.plus(self.scenario.held), Next::Comes(Input::Admit));
        }
        for sent in sent {
            self.react(&sent);
            match (sent.to, sent.command) {
                (To::Listeners, _) => self.record.published.push(sent.routing_key),
                (_, Some(command)) => self.record.sent.push((at, command)),
                _ => {}
            }
        }
    }

    fn react(&mut self, sent: &Sent) {
        let (ticket, now) = (sent.ticket, self.stage.now);
        let key = key(ticket, sent.round);
        let Reaction { what, after, pending, times } = self.reaction(sent);
        // A child says that it has taken its order.
        let taken = (sent.to == To::Child).then_some(Duration::ZERO);
        for after in taken.into_iter().chain(pending) {
            let input = self.stage.answer(ticket, Some(Outcome::Pending), json!({}), Map::new());
            self.plan(now.plus(after), Next::Comes(input));
        }
        // What nobody takes expires when it has to.
        let expires = sent.command.as_ref().and_then(|command| command.expires);
        let own = if let What::Back(Reason::Expired) = what { expires } else { None };
        let at = now.plus(after.or(own).unwrap_or_default());
        match what {
            What::Nothing => {}
            What::Silence => drop(self.ledger.handle(key)),
            what => (0..times).for_each(|_| self.plan(at, Next::Answers(ticket, key, what.clone()))),
        }
    }

    /// What the script says of an attempt; if it is silent, it succeeds.
    fn reaction(&self, sent: &Sent) -> Reaction {
        let (ticket, step) = (sent.ticket, self.stage.step(sent.ticket));
        let script = self.scenario.replies.get(&*step.name);
        let of_item = script.zip(ticket.spot.item).and_then(|(script, item)| script.items.get(&item));
        let scripted = |script: Option<&Script>| script.and_then(|it| it.reaction(ticket.action, ticket.attempt));
        let silent = || {
            // What comes at a time of its own does not come at once as well.
            let comes = |occurrence: &Occurrence| brings(&occurrence.what, step);
            let later = sent.to == To::Nobody && self.scenario.happens.iter().any(comes);
            Reaction::of(if later { What::Nothing } else { What::Success(None) })
        };
        scripted(of_item).or_else(|| scripted(script)).unwrap_or_else(silent)
    }

    fn happen(&mut self, next: Next<'s>) {
        let input = match next {
            Next::Comes(input) => input,
            Next::Answers(ticket, key, what) => self.answers(ticket, key, what),
            Next::Occurs(occurrence) => self.occurs(&occurrence.what),
        };
        if let Err(why) = self.put(input) {
            let at = story::since_start(self.stage.now);
            self.record.impossible.push(format!("at {at}, what happens is refused: {why}"));
        }
    }

    fn answers(&mut self, ticket: Ticket, key: Key, what: What) -> Input {
        let (outcome, body) = match what {
            What::Success(body) => {
                if self.stage.acts(ticket) {
                    self.ledger.handle(key);
                }
                let body = body.unwrap_or_else(|| match ticket.action {
                    Action::Compensate => json!({}),
                    Action::Execute | Action::Probe => sample::reply(self.stage.definition, ticket.spot.step),
                });
                (Some(Outcome::Success), body)
            }
            What::Failure(body) => {
                self.ledger.decline(key);
                (Some(Outcome::Failure), body)
            }
            What::Retry(body) => (Some(Outcome::Retry), body),
            What::Answer { body, headers } => {
                self.ledger.handle(key);
                let outcome = headers.get(header::SAGA_OUTCOME).and_then(Value::as_str).and_then(Outcome::parse);
                return self.stage.answer(ticket, outcome, body, headers);
            }
            What::Back(reason) => {
                // What was delivered too often was in somebody's hands.
                let delivered_before = reason == Reason::DeliveryLimit;
                return given_back(ticket, reason, delivered_before);
            }
            What::Nothing | What::Silence => unreachable!("nothing comes of it"),
        };
        self.stage.answer(ticket, outcome, body, Map::new())
    }

    fn occurs(&self, what: &Happening) -> Input {
        let order = match what.clone() {
            Happening::Cancel { reason } => Order::Cancel { reason },
            Happening::Suspend { reason } => Order::Suspend { reason },
            Happening::Resume { reason } => Order::Resume { reason },
            Happening::Retry { step } => Order::Retry { step, item: None, reason: None },
            Happening::Resolve { step, outcome, reply, reason } => {
                Order::Resolve { step, item: None, outcome, reply, reason }
            }
            Happening::Signal { name, payload } => return signal(&name, payload),
            Happening::Event { step, payload } => {
                let step = self.stage.definition.step_named(&step).unwrap_or_default();
                return self.stage.event(step.into(), Bearing::Awaited, payload);
            }
        };
        Input::Operator { actor: "operator".into(), order }
    }
}

/// Whether it is what the step waits for.
fn brings(what: &Happening, step: &Step) -> bool {
    let Execute::Wait(wait) = &step.execute else { return false };
    match (what, &wait.until) {
        (Happening::Signal { name, .. }, Awaited::Signal(own)) => **own == **name,
        (Happening::Event { step: of, .. }, Awaited::Event(_)) => *step.name == **of,
        _ => false,
    }
}
