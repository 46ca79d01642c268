//! A saga among participants that are merely idempotent, and a broker that delivers late, in any order, and twice: when all is
//! over, either everything is done or nothing is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use sagad::core::answer::Answer;
use sagad::core::definition::Execute;
use sagad::core::id::{Action, Spot, Ticket};
use sagad::core::input::{Input, Order};
use sagad::core::saga::{Failure, Phase, Progress, Reason};
use serde_json::json;

use crate::invariants::{check, signal, tick};
use crate::play::{Play, definition, raw};
use crate::shape::Shape;

/// Something that happens; which command or answer it is about is a number that is taken as far as it goes.
#[derive(Clone, Debug)]
enum Event {
    /// A participant takes a command from its queue.
    Take(u16, How),
    /// The broker gives a command back that nobody took.
    GiveBack(u16, Reason),
    /// An answer arrives; it may arrive again later.
    Arrive(u16, bool),
    Timer,
    Pass(u16),
    Cancel,
    Suspend,
    Resume,
    Retry(u8),
    Signal,
}

#[derive(Clone, Copy, Debug)]
enum How {
    /// Does it and answers.
    Do,
    /// Answers that it will not do it.
    Decline,
    /// Answers `retry`.
    Busy,
    /// Answers `pending` and is not done with it.
    Ponder,
    /// Does it and never answers, while the answer is awaited.
    DoSilently,
    /// Does it, falls over before it has answered, and again, until the broker has enough.
    DoAndDie,
    /// Does nothing and rejects it.
    Reject,
}

fn event() -> impl Strategy<Value = Event> {
    let how = prop_oneof![
        8 => Just(How::Do),
        2 => Just(How::Decline),
        2 => Just(How::Busy),
        1 => Just(How::Ponder),
        2 => Just(How::DoSilently),
        1 => Just(How::DoAndDie),
        1 => Just(How::Reject),
    ];
    let reason = prop::sample::select(vec![Reason::Expired, Reason::MaxLength, Reason::Unroutable]);
    prop_oneof![
        30 => (any::<u16>(), how).prop_map(|(which, how)| Event::Take(which, how)),
        4 => (any::<u16>(), reason).prop_map(|(which, reason)| Event::GiveBack(which, reason)),
        25 => (any::<u16>(), prop::bool::weighted(0.2)).prop_map(|(which, again)| Event::Arrive(which, again)),
        25 => Just(Event::Timer),
        4 => (0u16..20_000).prop_map(Event::Pass),
        1 => Just(Event::Cancel),
        1 => Just(Event::Suspend),
        3 => Just(Event::Resume),
        2 => any::<u8>().prop_map(Event::Retry),
        4 => Just(Event::Signal),
    ]
}

/// What a participant knows an action by: the idempotency key.
type Key = (Spot, Action, u32);

struct World {
    play: Play,
    /// Commands that nobody has taken, with their keys.
    queued: Vec<(Ticket, Key)>,
    /// Answers on their way.
    answers: Vec<(Ticket, Answer)>,
    /// What each participant answered, by key: it answers the same again.
    answered: BTreeMap<Key, Answer>,
    /// Whose effects are there.
    done: BTreeSet<Spot>,
    /// How many of the commands sent have reached a queue.
    reached: usize,
}

impl World {
    fn new(play: Play) -> World {
        let done = BTreeSet::new();
        let mut world =
            World { play, queued: Vec::new(), answers: Vec::new(), answered: BTreeMap::new(), done, reached: 0 };
        world.settle();
        world
    }

    /// Puts what was sent into the queues.
    fn settle(&mut self) {
        check(&self.play, self.reached);
        for (ticket, round) in &self.play.asked[self.reached..] {
            self.queued.push((*ticket, (ticket.spot, ticket.action, *round)));
        }
        self.reached = self.play.asked.len();
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Take(which, how) if !self.queued.is_empty() => {
                let which = usize::from(which) % self.queued.len();
                self.take(which, how);
            }
            Event::GiveBack(which, reason) if !self.queued.is_empty() => {
                let which = usize::from(which) % self.queued.len();
                // An undo does not expire.
                if reason != Reason::Expired || self.queued[which].0.action == Action::Execute {
                    let (ticket, _) = self.queued.remove(which);
                    self.give_back(ticket, reason, false);
                }
            }
            Event::Arrive(which, again) if !self.answers.is_empty() => {
                let which = usize::from(which) % self.answers.len();
                let (ticket, answer) = self.answers[which].clone();
                if !again {
                    self.answers.remove(which);
                }
                self.answer(ticket, answer);
            }
            Event::Take(..) | Event::GiveBack(..) | Event::Arrive(..) => {}
            Event::Timer => {
                self.play.now = self.play.due().unwrap_or(self.play.now).max(self.play.now);
                tick(&mut self.play);
            }
            Event::Pass(millis) => {
                self.play.now = self.play.now.plus(Duration::from_millis(millis.into()));
                tick(&mut self.play);
            }
            // What the state forbids changes nothing.
            Event::Signal => signal(&mut self.play, None),
            Event::Cancel => drop(self.play.order(Order::Cancel { reason: None })),
            Event::Suspend => drop(self.play.order(Order::Suspend { reason: None })),
            Event::Resume => drop(self.play.order(Order::Resume { reason: None })),
            Event::Retry(step) => {
                let step =
                    self.play.definition.steps[usize::from(step) % self.play.definition.steps.len()].name.to_string();
                drop(self.play.retry_step(&step));
            }
        }
        self.settle();
    }

    fn take(&mut self, which: usize, how: How) {
        let (ticket, key) = self.queued[which];
        let state = self.play.saga.unit(ticket.spot).unwrap().action(ticket.action);
        let awaited = state.in_flight() && state.attempt == ticket.attempt;
        // The broker confirms in the end, and a child answers.
        let how = match self.play.definition.steps[ticket.spot.step].execute {
            Execute::Publish(_) if ticket.action == Action::Execute => How::Do,
            Execute::Saga(_) if !matches!(how, How::Decline | How::Ponder) => How::Do,
            _ => how,
        };
        let no = |message: &str| Failure::new(Reason::Failure, message);
        let answer = match how {
            // It answers later, to this very command.
            How::Ponder => return self.answers.push((ticket, Answer::Pending)),
            // An effect that comes after its time-out, and of which no word ever comes, nobody can know of.
            How::DoSilently | How::DoAndDie if !awaited => return,
            // Whoever is asked what became of it says what he knows.
            How::Decline if key.1 == Action::Probe => self.handle(key),
            How::Do | How::DoSilently | How::DoAndDie => self.handle(key),
            How::Decline if key.1 == Action::Execute => {
                self.answered.entry(key).or_insert_with(|| Answer::Failure(no("declined"))).clone()
            }
            How::Decline => Answer::Failure(no("it can't be undone now")),
            How::Busy => Answer::Retry(no("busy")),
            How::Reject => Answer::Pending,
        };
        self.queued.remove(which);
        match how {
            How::DoSilently => {}
            How::DoAndDie => self.give_back(ticket, Reason::DeliveryLimit, true),
            How::Reject => self.give_back(ticket, Reason::Rejected, false),
            _ => self.answers.push((ticket, answer)),
        }
    }

    /// Does what is asked, once for each key.
    fn handle(&mut self, key: Key) -> Answer {
        if let Some(answer) = self.answered.get(&key) {
            return answer.clone();
        }
        let (spot, action, _) = key;
        let answer = match action {
            Action::Execute => self.done.insert(spot),
            Action::Compensate => self.done.remove(&spot),
            // It says what it knows, and may know more later.
            Action::Probe if self.done.contains(&spot) => return Answer::Success(json!({ "id": spot.step })),
            Action::Probe => return Answer::Failure(Failure::new(Reason::Failure, "it was never done")),
        };
        let answer = Answer::Success(json!({ "id": spot.step, "changed": answer }));
        self.answered.insert(key, answer.clone());
        answer
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        let Ticket { spot, action, attempt, .. } = ticket;
        self.play.put(Input::Answer { spot, action, attempt, answer: raw(answer) }).unwrap();
    }

    fn give_back(&mut self, ticket: Ticket, reason: Reason, delivered_before: bool) {
        let Ticket { spot, action, attempt, .. } = ticket;
        let message = "it came back".to_owned();
        self.play
            .put(Input::Undelivered { spot, action, attempt, reason, message, delivered_before, resent: false })
            .unwrap();
    }

    /// Everything that is under way arrives, is handled and answered, until nothing happens any more.
    fn calm_down(&mut self) {
        for _ in 0..1_000 {
            if !self.queued.is_empty() {
                self.take(0, How::Do);
            } else if !self.answers.is_empty() {
                let (ticket, answer) = self.answers.remove(0);
                self.answer(ticket, answer);
            } else if self.play.saga.suspended.is_some() {
                // The operator has talked to whoever declined.
                self.answered.retain(|_, answer| !matches!(answer, Answer::Failure(_)));
                self.play.resume();
            } else if self.play.saga.status().is_terminal() {
                return;
            } else {
                signal(&mut self.play, None);
                if self.play.due().is_some() {
                    self.play.timer();
                }
            }
            self.settle();
        }
        panic!("it does not come to rest: {:#?}", self.play.saga);
    }

    /// Either all of it is done or none.
    fn judge(&self) {
        let steps = self.play.saga.steps.iter().zip(&self.play.definition.steps).enumerate();
        for (at, (state, step)) in steps {
            for (item, unit) in state.units() {
                let done = self.done.contains(&Spot { step: at, item });
                match self.play.saga.phase {
                    Phase::Completed { .. } => {
                        let succeeded = matches!(unit.execute.progress, Progress::Succeeded { .. });
                        let sent = unit.execute.attempt > 0;
                        assert!(done || !succeeded || !sent, "`{}` is missing", step.name);
                    }
                    _ => {
                        let undoable = step.compensate.is_some();
                        let given_up = matches!(unit.compensate.progress, Progress::Failed { .. });
                        assert!(!done || !undoable || given_up, "`{}` is left behind", step.name);
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2 * ProptestConfig::default().cases, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ends_with_everything_done_or_nothing(shape in Shape::plain(), events in vec(event(), 0..80)) {
        let play = Play::on(definition(&shape.toml()), Shape::input(), Duration::ZERO);
        let mut world = World::new(play);
        for event in &events {
            world.happen(event);
        }
        world.calm_down();
        world.judge();
    }
}
