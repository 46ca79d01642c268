//! The core as a table: what follows from something in a state is decided once, stored and read back, held against the laws, and
//! looked up from then on.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex};

use sagad::core::answer::Outcome as Word;
use sagad::core::apply::{Origin, replay};
use sagad::core::definition::Definition;
use sagad::core::entry::Entry;
use sagad::core::id::Ticket;
use sagad::core::input::{Input, Order};
use sagad::core::saga::{Phase, Progress, Saga, Status};
use sagad::core::time::Time;
use sagad::store::{StoredSaga, encode, read_saga};
use sagad::trial::laws::{Breach, of_state};
use sagad::trial::sample;
use sagad::trial::stage::{Decide, Stage, Start, To, Turn, given_back, units};
use serde_json::{Map, Value, json};

use super::laws;
use super::{Answer, Heard, Post, Said};
use crate::play::row_of;

/// How states are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    /// By how far off what is to come is: when something happened makes no difference.
    Relative,
    /// By everything.
    Exact,
}

/// All that was decided for the sagas of one definition and one input.
pub(crate) struct Table {
    pub(crate) definition: &'static Definition,
    clock: Clock,
    decide: Decide,
    start: Start,
    moments: Mutex<HashMap<Vec<u8>, Arc<Moment>>>,
}

/// A saga as it is stored, at a time.
pub(crate) struct Moment {
    pub(crate) stage: Stage<'static>,
    print: Vec<u8>,
    next: Mutex<BTreeMap<Heard, Arc<Outcome>>>,
}

/// What follows from something.
pub(crate) struct Outcome {
    /// The saga after it; `None`: it changes nothing.
    pub(crate) after: Option<Arc<Moment>>,
    /// When.
    pub(crate) at: Time,
    /// What is journaled.
    pub(crate) entries: Vec<Entry>,
    /// What is to be sent.
    pub(crate) rows: Vec<Post>,
    /// The signals and events that the saga begins to wait for.
    pub(crate) awaited: Vec<Post>,
    /// The law that does not hold.
    pub(crate) breach: Option<Breach>,
}

impl PartialEq for Moment {
    fn eq(&self, other: &Moment) -> bool {
        std::ptr::eq(self, other) || self.print == other.print
    }
}

impl Eq for Moment {}

impl Hash for Moment {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.print.hash(state);
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let saga = &self.stage.saga;
        let steps = saga.steps.iter().flat_map(|step| step.units()).map(|(_, unit)| unit.status().as_str());
        write!(f, "{} {:?}", saga.status().as_str(), steps.collect::<Vec<_>>())
    }
}

impl Moment {
    pub(crate) fn saga(&self) -> &Saga {
        &self.stage.saga
    }

    pub(crate) fn status(&self) -> Status {
        self.stage.saga.status()
    }
}

impl Table {
    pub(crate) fn new(definition: &'static Definition, input: Arc<Value>, clock: Clock, decide: Decide) -> Table {
        let start = Start { input, ..Start::default() };
        Table { definition, clock, decide, start, moments: Mutex::default() }
    }

    /// A saga that has just been started.
    pub(crate) fn start(&self) -> Outcome {
        let (stage, turn) = Stage::start(self.definition, self.start.clone(), self.decide).expect("an input that fits");
        let origin = origin(&stage.saga);
        self.outcome(stage, turn, |after| {
            let told = replay(origin.clone(), [(after.turn.at, after.turn.entries.clone())]);
            laws::of_start(after, told.as_ref())
        })
    }

    /// What follows from something that is heard.
    pub(crate) fn hear(&self, moment: &Moment, heard: Heard) -> Arc<Outcome> {
        let mut next = moment.next.lock().unwrap();
        next.entry(heard).or_insert_with(|| Arc::new(self.decide(moment, heard))).clone()
    }

    /// Whether it would change anything.
    pub(crate) fn would_change(&self, moment: &Moment, heard: Heard) -> bool {
        self.hear(moment, heard).after.is_some()
    }

    fn decide(&self, moment: &Moment, heard: Heard) -> Outcome {
        let mut stage = moment.stage.clone();
        let before = stage.saga.clone();
        let input = match heard {
            Heard::Answer(answer) => self.input(&stage, answer),
            Heard::Tick => {
                stage.now = stage.due().unwrap_or(stage.now).max(stage.now);
                Input::Tick
            }
            Heard::Deadline => {
                stage.now = before.deadline.unwrap_or(stage.now).max(stage.now);
                Input::Tick
            }
            Heard::Oversleep => {
                stage.now = stage.due().unwrap_or(stage.now).max(stage.now);
                let row = row_of(&stage.saga);
                return Outcome { after: Some(self.intern(stage.clone(), &row)), ..nothing(&stage) };
            }
            Heard::Cancel => Input::Operator { actor: "operator".into(), order: Order::Cancel { reason: None } },
            Heard::Admit => Input::Admit,
        };
        match stage.put(input) {
            Ok(turn) if !turn.entries.is_empty() => {
                let definition = self.definition;
                self.outcome(stage, turn, |after| laws::of_transition(definition, &before, heard, after))
            }
            // A timer that is heard and does nothing is due for ever.
            Ok(_) if heard == Heard::Tick => {
                Outcome { breach: laws::breach(laws::ENDS, "a timer that does not go away"), ..nothing(&stage) }
            }
            // Nothing follows, or the state forbids it.
            Ok(_) | Err(_) => nothing(&stage),
        }
    }

    fn outcome(&self, mut stage: Stage<'static>, turn: Turn, law: impl Fn(&After<'_>) -> Option<Breach>) -> Outcome {
        // The journal as it is read back.
        let entries: Vec<Entry> = serde_json::from_slice(&encode(&turn.entries)).unwrap();
        let turn = Turn { entries, ..turn };
        let row = row_of(&stage.saga);
        let stored = read_saga(&row).unwrap();
        let same = stored == stage.saga;
        stage.saga = stored;
        let kept = (!same).then(|| laws::breach(laws::REPLAY, "the state is not what was stored")).flatten();
        let after = After { saga: &stage.saga, turn: &turn };
        let breach = kept
            .or_else(|| law(&after))
            .or_else(|| of_state(self.definition, &stage.saga, stage.due().is_some(), false));
        let at = turn.at;
        let (awaited, rows): (Vec<_>, Vec<_>) = turn.sent.iter().partition(|sent| sent.to == To::Nobody);
        let post = |sent: &sagad::trial::stage::Sent| {
            let Ticket { spot, action, attempt, .. } = sent.ticket;
            Post { spot, action, attempt, round: sent.command.as_ref().map_or(sent.round, |command| command.round) }
        };
        let (awaited, rows) = (awaited.into_iter().map(post).collect(), rows.into_iter().map(post).collect());
        Outcome { after: Some(self.intern(stage, &row)), at, entries: turn.entries, rows, awaited, breach }
    }

    fn intern(&self, stage: Stage<'static>, row: &StoredSaga) -> Arc<Moment> {
        let (row, time) = match self.clock {
            Clock::Relative => (&row_of(&canonical(&stage)), Time(0)),
            Clock::Exact => (row, stage.now),
        };
        let mut print = [row.state.as_ref(), &time.0.to_be_bytes()].concat();
        row.items.iter().for_each(|items| print.extend_from_slice(&items.state));
        let mut moments = self.moments.lock().unwrap();
        let new = |print: &Vec<u8>| Arc::new(Moment { stage, print: print.clone(), next: Mutex::default() });
        match moments.get(&print) {
            Some(known) => known.clone(),
            None => {
                let moment = new(&print);
                moments.insert(print, moment.clone());
                moment
            }
        }
    }

    /// An answer as it comes from the broker.
    fn input(&self, stage: &Stage<'_>, Answer { to, said }: Answer) -> Input {
        let ticket = to.ticket(stage.saga.id);
        let (word, body) = match said {
            Said::Done => (Word::Success, sample::reply(self.definition, to.spot.step)),
            Said::Declined => (Word::Failure, json!({ "error": "no" })),
            Said::Busy => (Word::Retry, json!({ "error": "busy" })),
            Said::Back(reason, had) => return given_back(ticket, reason, had),
        };
        stage.answer(ticket, Some(word), body, Map::new())
    }
}

/// What a transition led to.
pub(crate) struct After<'a> {
    pub(crate) saga: &'a Saga,
    pub(crate) turn: &'a Turn,
}

fn nothing(stage: &Stage<'_>) -> Outcome {
    let at = stage.now;
    Outcome { after: None, at, entries: Vec::new(), rows: Vec::new(), awaited: Vec::new(), breach: None }
}

/// What its row says of a saga that its journal does not repeat.
pub(crate) fn origin(saga: &Saga) -> Origin {
    let (definition, input) = (saga.definition.clone(), saga.input.clone());
    Origin { id: saga.id, definition, revision: saga.revision, input }
}

/// A saga without its past: every time is how far off it is.
///
/// How many transitions it has been through stays in it, so that no state comes twice on any way: what is finite ends.
fn canonical(stage: &Stage<'_>) -> Saga {
    let now = stage.now;
    let off = |time: &mut Time| *time = Time(i64::try_from(time.since(now).as_millis()).unwrap_or(i64::MAX));
    let mut saga = stage.saga.clone();
    (saga.created_at, saga.updated_at, saga.started_at) = (Time(0), Time(0), None);
    saga.deadline.iter_mut().for_each(off);
    match &mut saga.phase {
        Phase::Pending { due: at, .. } => off(at),
        Phase::Completed { at, .. } | Phase::Compensated { at } | Phase::Failed { at } => off(at),
        Phase::Running | Phase::Compensating => {}
    }
    if let Some(suspension) = &mut saga.suspended {
        off(&mut suspension.since);
    }
    let spots: Vec<_> = units(&saga).map(|(spot, _)| spot).collect();
    for unit in spots {
        let Some(unit) = saga.unit_mut(unit) else { continue };
        for state in [&mut unit.execute, &mut unit.compensate, &mut unit.probe] {
            state.started_at = None;
            match &mut state.progress {
                Progress::Idle => {}
                Progress::Running { deadline } => deadline.iter_mut().for_each(off),
                Progress::Scheduled { due: at }
                | Progress::Succeeded { at, .. }
                | Progress::Failed { at, .. }
                | Progress::Skipped { at }
                | Progress::GivenUp { at, .. } => off(at),
            }
        }
    }
    saga
}
