//! Everything around the daemons: the broker's queues, the participants, the clock on the wall, and what is on its way.
//!
//! ```text
//!   daemon ── publish ──> broker ──> participants: take, do, answer ──┐
//!     ▲                     └──> wake-ups, orders to children ────────┤
//!     └────────────── deliver ── inbox <──────────────────────────────┘
//! ```
//!
//! What happens when is in one list, by time. What goes wrong is asked of [`Chance`], each question under a label of its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use sagad::broker::message::{Delivery, Inbox, Incoming, Outgoing, Properties, Receipt};
use sagad::broker::names::Names;
use sagad::clock::Clock;
use sagad::core::time::Time;
use sagad::wire::signature::Signer;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

use super::chance::Chance;
use super::checks::Checks;
use super::mutants::Mutant;
use super::plan::Plan;
use super::sagas::Answers;

/// When every run begins: 2026-01-01T00:00:00Z.
pub(crate) const START: Time = Time(1_767_225_600_000);

/// The secret of every run's store.
pub(crate) const SECRET: [u8; 32] = [7; 32];

/// Where whoever starts a saga over AMQP waits for the answer.
pub(crate) const STARTER: &str = "starter";

/// Deliveries that a daemon has in hand at the most.
const PREFETCH: usize = 30;

/// How long the broker waits for a sign of life of a connection.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(20);

/// Shared by all that is in a run.
#[derive(Clone, Debug)]
pub(crate) struct World(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    began: tokio::time::Instant,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) plan: Plan,
    pub(crate) chance: Chance,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) names: Names,
    pub(crate) signer: Signer,
    /// Things go wrong.
    pub(crate) troubled: bool,
    pub(crate) store_away: bool,
    pub(crate) broker_away: bool,
    /// Which daemon has been started without which definition.
    pub(crate) lacking: Vec<(usize, usize)>,
    happenings: BTreeMap<(Time, u64), Happening>,
    counter: u64,
    /// Messages for sagad that nobody has taken.
    ready: VecDeque<Queued>,
    links: Vec<Option<Link>>,
    /// Daemons that are to be killed, as soon as anybody looks.
    pub(crate) doomed: BTreeSet<usize>,
    pub(crate) participants: Participants,
    pub(crate) checks: Checks,
    /// Commands that a full queue dropped.
    dropped: BTreeSet<String>,
    /// Commands of which a copy came back.
    buried: BTreeSet<String>,
    /// Messages by id, to tell a second sending from the first.
    sent: BTreeMap<String, u32>,
    pub(crate) trace: Option<Vec<String>>,
    /// A hash of all that was traced.
    pub(crate) mark: u64,
}

/// Something that is going to happen.
#[derive(Debug)]
pub(crate) enum Happening {
    /// A message reaches one of sagad's queues.
    Reach(Box<Incoming>),
    /// A participant may take a command.
    Take(Box<Command>),
    /// A participant is done with one.
    Finish(Box<Command>),
    Start(usize),
    Order(usize),
    Mishap(usize),
    /// The mishap is over.
    Over(usize),
    /// The broker hears nothing of a daemon, and closes its connections.
    Silence(usize),
    /// From now on all is well.
    Calm,
    /// An operator looks at what is stuck, and whether all is over.
    Look,
}

/// A command in a participant's queue.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    message: Outgoing,
    /// When it dies in its queue.
    dies: Option<Time>,
    /// How often it was delivered.
    deliveries: u32,
    /// Whoever takes it loses its connection, and it is delivered to somebody else as well.
    slips: bool,
}

#[derive(Debug)]
struct Queued {
    message: Incoming,
    number: u64,
}

#[derive(Debug)]
struct Link {
    epoch: u64,
    deliveries: mpsc::Sender<Delivery>,
    acks: mpsc::UnboundedSender<u64>,
    unacked: BTreeMap<u64, Queued>,
}

/// What became of a publish.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fate {
    Confirmed,
    Refused,
    Returned,
    Deferred,
    /// The link is broken, and nobody knows whether the broker has it.
    Broken,
}

/// Merely idempotent services: each does what a key asks for once, and says the same again.
#[derive(Debug, Default)]
pub(crate) struct Participants {
    said: BTreeMap<String, bool>,
    /// Whose effects are there: saga, step, element.
    pub(crate) there: BTreeSet<Unit>,
    /// Where a participant contradicted itself, and nobody can know.
    pub(crate) unclear: BTreeSet<Unit>,
    /// Units whose undo was sent.
    undone: BTreeSet<Unit>,
}

/// Saga id, step name, element.
pub(crate) type Unit = (String, String, Option<u64>);

impl Participants {
    /// The operator has talked to whoever declined a step of a saga.
    pub(crate) fn forget_refusals(&mut self, saga: &str, step: &str) {
        let prefix = format!("{saga}/{step}/");
        self.said.retain(|key, done| *done || !key.starts_with(&prefix));
    }
}

impl World {
    pub(crate) fn new(plan: Plan, mutant: Option<Mutant>, traced: bool) -> World {
        let state = State {
            chance: Chance::new(plan.seed).of("world"),
            mutant,
            names: Names::new("sagad"),
            signer: Signer::new(&SECRET),
            troubled: true,
            store_away: false,
            broker_away: false,
            lacking: Vec::new(),
            happenings: BTreeMap::new(),
            counter: 0,
            ready: VecDeque::new(),
            links: (0..plan.daemons).map(|_| None).collect(),
            doomed: BTreeSet::new(),
            participants: Participants::default(),
            checks: Checks::default(),
            dropped: BTreeSet::new(),
            buried: BTreeSet::new(),
            sent: BTreeMap::new(),
            trace: traced.then(Vec::new),
            mark: 0,
            plan,
        };
        World(Arc::new(Inner { began: tokio::time::Instant::now(), state: Mutex::new(state), changed: Notify::new() }))
    }

    pub(crate) fn now(&self) -> Time {
        START.plus(self.0.began.elapsed())
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Something is to be looked at.
    pub(crate) fn touch(&self) {
        self.0.changed.notify_one();
    }

    pub(crate) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    pub(crate) fn trace(&self, line: impl FnOnce() -> String) {
        let now = self.now();
        self.lock().note(now, line);
    }

    /// A law does not hold.
    pub(crate) fn breach(&self, law: &'static str, message: String) {
        self.trace(|| format!("BREACH of {law}: {message}"));
        self.lock().checks.breach(law, message);
        self.touch();
    }

    pub(crate) fn plan(&self, after: Duration, what: Happening) {
        let at = self.now().plus(after);
        self.lock().plan(at, what);
        self.touch();
    }

    /// When the next thing happens.
    pub(crate) fn next(&self) -> Option<Time> {
        self.lock().happenings.first_key_value().map(|((at, _), _)| *at)
    }

    /// What happens now.
    pub(crate) fn due(&self) -> Option<Happening> {
        let now = self.now();
        let mut state = self.lock();
        let ((at, _), _) = state.happenings.first_key_value()?;
        if *at > now {
            return None;
        }
        state.happenings.pop_first().map(|(_, what)| what)
    }

    // ---- the broker ----------------------------------------------------------------------------------------------

    /// A daemon's connections are up.
    pub(crate) fn connect(
        &self,
        daemon: usize,
        deliveries: mpsc::Sender<Delivery>,
        acks: mpsc::UnboundedSender<u64>,
    ) -> u64 {
        let mut state = self.lock();
        state.counter += 1;
        let epoch = state.counter;
        state.links[daemon] = Some(Link { epoch, deliveries, acks, unacked: BTreeMap::new() });
        state.pump();
        epoch
    }

    /// They are gone: what was not acknowledged comes again.
    pub(crate) fn disconnect(&self, daemon: usize) {
        let now = self.now();
        let mut state = self.lock();
        let Some(link) = state.links[daemon].take() else { return };
        state.note(now, || format!("the connections of daemon {daemon} are gone"));
        for (_, mut queued) in link.unacked.into_iter().rev() {
            queued.message.redelivered = true;
            state.ready.push_front(queued);
        }
        state.pump();
    }

    pub(crate) fn is_connected(&self, daemon: usize, epoch: u64) -> bool {
        self.lock().links[daemon].as_ref().is_some_and(|link| link.epoch == epoch)
    }

    pub(crate) fn ack(&self, daemon: usize, epoch: u64, tag: u64) {
        let now = self.now();
        let mut state = self.lock();
        let state = &mut *state;
        let Some(link) = state.links[daemon].as_mut().filter(|link| link.epoch == epoch) else { return };
        let Some(queued) = link.unacked.remove(&tag) else {
            state.checks.breach("acknowledged-once", format!("delivery {tag} is acknowledged, and is not there"));
            return;
        };
        state.note(now, || format!("daemon {daemon} acknowledges {}", short(&queued.message)));
        if let Some((law, message)) = state.checks.acknowledged(&state.signer, &queued.message) {
            state.checks.breach(law, message);
        }
        state.pump();
    }

    /// What daemon `daemon` publishes reaches the broker, or not.
    pub(crate) fn publish(&self, daemon: usize, message: &Outgoing) -> Fate {
        let fate = self.lock().publish(daemon, message, self.now());
        self.touch();
        fate
    }

    /// A message of somebody else's for one of sagad's queues.
    pub(crate) fn send(&self, message: Incoming, label: &'static str, nth: usize) {
        let now = self.now();
        let mut state = self.lock();
        let chance = state.chance.of((label, nth)).of("send");
        state.deliver(message, chance, now);
        drop(state);
        self.touch();
    }

    pub(crate) fn reach(&self, message: Incoming) {
        let now = self.now();
        let mut state = self.lock();
        state.note(now, || format!("for sagad: {}", short(&message)));
        state.counter += 1;
        let number = state.counter;
        state.ready.push_back(Queued { message, number });
        state.pump();
    }

    // ---- the participants ----------------------------------------------------------------------------------------

    pub(crate) fn take(&self, command: Command) {
        let now = self.now();
        let mut state = self.lock();
        state.take(command, now);
        drop(state);
        self.touch();
    }

    pub(crate) fn finish(&self, command: &Command) {
        let now = self.now();
        let mut state = self.lock();
        let chance = state.chance_of(command).of("finish");
        state.finish(command, chance, now);
        drop(state);
        self.touch();
    }
}

impl State {
    pub(crate) fn note(&mut self, now: Time, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let line = line();
            for byte in line.bytes() {
                self.mark = (self.mark ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
            trace.push(format!("{:>9.3} {line}", now.since(START).as_secs_f64()));
        }
    }

    pub(crate) fn plan(&mut self, at: Time, what: Happening) {
        self.counter += 1;
        self.happenings.insert((at, self.counter), what);
    }

    /// What is on its way or in somebody's hands, for whoever waits for the end of it.
    pub(crate) fn under_way(&self) -> Option<String> {
        let moving = self.happenings.iter().find(|(_, what)| {
            matches!(what, Happening::Reach(_) | Happening::Take(_) | Happening::Finish(_) | Happening::Start(_))
        });
        if let Some(((at, _), what)) = moving {
            return Some(format!("at {at}: {what:?}"));
        }
        if let Some(queued) = self.ready.front() {
            return Some(format!("nobody takes {}", short(&queued.message)));
        }
        let unacked = self.links.iter().flatten().find_map(|link| link.unacked.values().next())?;
        Some(format!("not acknowledged: {}", short(&unacked.message)))
    }

    /// Gives what is ready to whoever has room.
    fn pump(&mut self) {
        while !self.ready.is_empty() {
            let has_room = |link: &Option<Link>| link.as_ref().is_some_and(|link| link.unacked.len() < PREFETCH);
            let open: Vec<usize> = (0..self.links.len()).filter(|at| has_room(&self.links[*at])).collect();
            if open.is_empty() {
                return;
            }
            let Some(queued) = self.ready.pop_front() else { return };
            let to = self.chance.of(("who", queued.number)).pick(&open);
            let Some(link) = &mut self.links[to] else { return };
            self.counter += 1;
            let tag = self.counter;
            let receipt = Receipt { tag, acks: link.acks.clone() };
            if self.mutant == Some(Mutant::AcknowledgesBeforeCommit) {
                // The receipt that the daemon gets acknowledges nothing more.
                let (nowhere, _) = mpsc::unbounded_channel();
                let delivery = Delivery { message: queued.message.clone(), receipt: Receipt { tag, acks: nowhere } };
                link.unacked.insert(tag, queued);
                receipt.ack();
                let _ = link.deliveries.try_send(delivery);
                continue;
            }
            match link.deliveries.try_send(Delivery { message: queued.message.clone(), receipt }) {
                Ok(()) => drop(link.unacked.insert(tag, queued)),
                // It is going down.
                Err(_) => {
                    self.ready.push_front(queued);
                    return;
                }
            }
        }
    }

    fn publish(&mut self, daemon: usize, message: &Outgoing, now: Time) -> Fate {
        let id = message.properties.message_id.clone().unwrap_or_else(|| {
            format!("{} {}", message.routing_key, message.properties.correlation_id.as_deref().unwrap_or_default())
        });
        let times = self.sent.entry(id.clone()).or_default();
        *times += 1;
        let chance = self.chance.of((id.as_str(), *times)).of("publish");
        let faults = if self.troubled { self.plan.faults } else { Default::default() };
        let goes_wrong = |what: &'static str, permille: u32| chance.of(what).permille(permille);
        if self.broker_away || goes_wrong("unsent", faults.unsent) {
            self.checks.seen.insert("unsent");
            self.note(now, || format!("daemon {daemon}: the link breaks before {id} is out"));
            return Fate::Broken;
        }
        let to_a_child = message.routing_key == self.names.queue(Inbox::Children);
        let is_command = message.mandatory && (message.exchange == "e" || to_a_child);
        if is_command && goes_wrong("returned", faults.returned) {
            self.checks.seen.insert("returned");
            self.note(now, || format!("the broker returns {id}"));
            return Fate::Returned;
        }
        // Whoever started a saga, and can't be told of it, has to ask.
        let is_told = message.exchange.is_empty() && message.routing_key == STARTER;
        if !is_told && goes_wrong("refused", faults.refused) {
            self.checks.seen.insert("refused");
            self.note(now, || format!("the broker refuses {id}"));
            return Fate::Refused;
        }
        if goes_wrong("deferred", faults.deferred) {
            if chance.of("there").permille(500) {
                self.route(message, chance, now);
            }
            self.checks.seen.insert("deferred");
            self.note(now, || format!("{id} is not confirmed"));
            return Fate::Deferred;
        }
        self.route(message, chance, now);
        if goes_wrong("unconfirmed", faults.unconfirmed) {
            self.checks.seen.insert("unconfirmed");
            self.note(now, || format!("daemon {daemon}: the link breaks before {id} is confirmed"));
            return Fate::Broken;
        }
        Fate::Confirmed
    }

    fn route(&mut self, message: &Outgoing, chance: Chance, now: Time) {
        if let Some((law, why)) = self.checks.published(&self.signer, message) {
            self.checks.breach(law, why);
        }
        self.note(now, || {
            let id = message.properties.message_id.as_deref().unwrap_or_default();
            let key = message.properties.header_str("idempotency-key").unwrap_or_default();
            format!("out: {} {} {id} {key}", message.exchange, message.routing_key)
        });
        let incoming = |queue| Incoming {
            queue,
            exchange: message.exchange.clone(),
            routing_key: message.routing_key.clone(),
            redelivered: false,
            properties: message.properties.clone(),
            body: message.body.clone(),
        };
        if message.exchange == "e" {
            match (message.mandatory, &message.properties.message_id) {
                (true, _) => self.enqueue(message, chance, now),
                // Its confirm is its answer.
                (false, Some(id)) => self.checks.said(id, "success"),
                (false, None) => {}
            }
        } else if message.exchange.is_empty() {
            if let Some(inbox) = self.names.inbox(&message.routing_key) {
                self.deliver(incoming(inbox), chance, now);
            } else if let Some(millis) = message.routing_key.strip_prefix("sagad.delay.").and_then(|ms| ms.parse().ok())
            {
                // A wake-up is in the database as well; what is put off is nowhere else, and the broker keeps it.
                let only_there = self.checks.put_off(message);
                let lost = self.troubled && !only_there && chance.of("lost").permille(self.plan.faults.lost_wake_up);
                if lost {
                    self.checks.seen.insert("lost wake-up");
                } else {
                    let at = now.plus(Duration::from_millis(millis));
                    self.plan(at, Happening::Reach(Box::new(incoming(Inbox::WakeUps))));
                }
            } else {
                self.checks.answered_start(message);
            }
        } else if message.exchange == self.names.events_exchange() {
            self.checks.told(message);
        } else {
            self.checks.breach("known-exchanges", format!("something is published to {:?}", message.exchange));
        }
    }

    /// On its way to sagad, perhaps twice.
    fn deliver(&mut self, message: Incoming, chance: Chance, now: Time) {
        let slow = if self.troubled { self.plan.faults.slow } else { 20 };
        // Most are fast, whatever the slowest are.
        let delay = |chance: Chance| {
            let most = if chance.of("fast").permille(700) { slow.min(30) } else { slow };
            chance.of("delay").millis(1..u64::from(most) + 2)
        };
        if self.troubled && chance.of("twice").permille(self.plan.faults.twice) {
            self.checks.seen.insert("twice");
            let at = now.plus(delay(chance.of("second")));
            self.plan(at, Happening::Reach(Box::new(message.clone())));
        }
        let at = now.plus(delay(chance));
        self.plan(at, Happening::Reach(Box::new(message)));
    }

    /// Into a participant's queue.
    fn enqueue(&mut self, message: &Outgoing, chance: Chance, now: Time) {
        let unit = unit_of(message);
        if message.properties.header_str("saga-action") == Some("compensate") {
            self.participants.undone.insert(unit);
        }
        let dies = message.lifetime().map(|lifetime| now.plus(lifetime));
        let faults = if self.troubled { self.plan.faults } else { Default::default() };
        let command = Command {
            message: message.clone(),
            dies,
            deliveries: 0,
            slips: chance.of("handled twice").permille(faults.handled_twice),
        };
        // Of two copies in a queue that drops its head, the death of the first says nothing of the second, and nobody can tell: docs/guarantees.md.
        let twice =
            chance.of("unconfirmed").permille(faults.unconfirmed) || chance.of("deferred").permille(faults.deferred);
        if self.dropped.contains(id_of(message)) {
            self.participants.unclear.insert(unit_of(message));
        }
        if !twice && chance.of("full").permille(faults.absent / 2) {
            self.dropped.insert(id_of(message).to_owned());
            self.bury(&command, "maxlen", now, chance);
            return;
        }
        // Of two copies the first is taken first: both wait alike.
        let queue = self.chance.of(("queue", id_of(message)));
        let wait = match queue.of("absent").permille(faults.absent) {
            true => queue.of("wait").millis(1_000..40_000),
            false => queue.of("wait").millis(1..15),
        };
        if command.slips {
            let again = now.plus(wait).plus(chance.of("again").millis(1..8_000));
            self.plan(again, Happening::Take(Box::new(Command { deliveries: 1, slips: false, ..command.clone() })));
        }
        self.plan(now.plus(wait), Happening::Take(Box::new(command)));
    }

    fn chance_of(&self, command: &Command) -> Chance {
        let id = command.message.properties.message_id.as_deref().unwrap_or_default();
        let copy = self.sent.get(id).copied().unwrap_or_default();
        self.chance.of((id, copy, command.deliveries)).of("participant")
    }

    fn take(&mut self, mut command: Command, now: Time) {
        let chance = self.chance_of(&command);
        if command.dies.is_some_and(|dies| dies <= now) {
            return self.bury(&command, "expired", now, chance);
        }
        command.deliveries += 1;
        let faults = if self.troubled { self.plan.faults } else { Default::default() };
        let action = action_of(&command.message).to_owned();
        let unit = unit_of(&command.message);
        #[derive(Clone, Copy, Debug)]
        enum How {
            Do,
            Decline,
            Busy,
            Ponder,
            Late,
            Silent,
            Die,
            Reject,
            Contradict,
            Unreadable,
        }
        let ways = [
            (1000, How::Do),
            (faults.decline, How::Decline),
            (faults.busy, How::Busy),
            (faults.ponder, How::Ponder),
            (faults.late, How::Late),
            (faults.silent, How::Silent),
            (faults.die, How::Die),
            (faults.reject, How::Reject),
            (faults.contradict, How::Contradict),
            (faults.unreadable, How::Unreadable),
        ];
        let how = chance.of("how").weighted(&ways);
        self.note(now, || format!("a participant takes {}: {how:?}", described(&command.message)));
        // An effect that comes when its undo is out already, or its attempt was answered, and of which no word ever comes, nobody can know
        // of; but the broker's word that somebody had it is one. And who has done it does not say that he is too busy to.
        let id = command.message.properties.message_id.as_deref().unwrap_or_default();
        let answered = self.checks.was_answered(id);
        let awaited = !self.participants.undone.contains(&unit) && !self.is_late(&command, now) && !answered;
        let done = self.participants.said.get(&key_of(&command.message)) == Some(&true);
        match how {
            // It is not his any more to give back.
            How::Die | How::Reject if command.slips => _ = self.handle(&command.message),
            How::Silent if action == "execute" && !awaited => self.finish(&command, chance, now),
            How::Die | How::Reject if action == "execute" && answered => self.finish(&command, chance, now),
            How::Do => self.finish(&command, chance, now),
            How::Busy | How::Ponder if done => self.finish(&command, chance, now),
            How::Contradict if action == "execute" => {
                self.participants.unclear.insert(unit);
                self.finish(&command, chance, now);
                self.say(&command.message, "failure", chance.of("contradiction"), now);
            }
            How::Contradict => self.finish(&command, chance, now),
            How::Decline if action == "probe" => self.finish(&command, chance, now),
            How::Decline => {
                let key = key_of(&command.message);
                if action == "execute" {
                    self.participants.said.entry(key.clone()).or_insert(false);
                }
                // An undo can be refused now and done later; what was done was done.
                let done = self.participants.said.get(&key).copied().unwrap_or(false);
                self.answer(&command, done, chance, now);
            }
            How::Unreadable if action == "execute" && self.can_be_misread(&command.message) => {
                let word = if self.handle(&command.message) { "unreadable" } else { "failure" };
                self.say(&command.message, word, chance, now);
            }
            How::Unreadable => self.finish(&command, chance, now),
            How::Busy => self.say(&command.message, "retry", chance, now),
            How::Ponder => {
                self.say(&command.message, "pending", chance.of("pending"), now);
                let at = now.plus(chance.of("ponders").millis(100..15_000));
                self.plan(at, Happening::Finish(Box::new(command)));
            }
            How::Late => {
                let at = now.plus(chance.of("late").millis(500..90_000));
                self.plan(at, Happening::Finish(Box::new(command)));
            }
            How::Silent => _ = self.handle(&command.message),
            How::Die => {
                self.handle(&command.message);
                self.bury(&command, "delivery_limit", now, chance);
            }
            How::Reject => {
                if chance.of("too late").permille(500) {
                    self.handle(&command.message);
                }
                self.bury(&command, "rejected", now, chance);
            }
        }
    }

    /// Whether its attempt has timed out.
    fn is_late(&self, command: &Command, now: Time) -> bool {
        let deadline = command.message.properties.header_str("saga-deadline").and_then(|text| Time::parse(text).ok());
        deadline.is_some_and(|deadline| deadline <= now.plus(Duration::from_secs(3)))
    }

    fn finish(&mut self, command: &Command, chance: Chance, now: Time) {
        let done = self.handle(&command.message);
        self.answer(command, done, chance, now);
    }

    /// Does what is asked, once for each key.
    fn handle(&mut self, message: &Outgoing) -> bool {
        let (key, unit, action) = (key_of(message), unit_of(message), action_of(message));
        if action == "probe" {
            return self.participants.there.contains(&unit);
        }
        if let Some(said) = self.participants.said.get(&key) {
            return *said;
        }
        match action {
            "execute" => drop(self.participants.there.insert(unit)),
            _ => drop(self.participants.there.remove(&unit)),
        }
        self.participants.said.insert(key, true);
        true
    }

    fn answer(&mut self, command: &Command, done: bool, chance: Chance, now: Time) {
        let message = &command.message;
        let outcome = if done { "success" } else { "failure" };
        let (saga, step, _) = unit_of(message);
        let name = message.properties.header_str("saga-name").unwrap_or_default().to_owned();
        let plan = self.plan.sagas.iter().find(|plan| plan.name == name);
        if action_of(message) == "execute" && plan.is_some_and(|plan| plan.announces(&step)) {
            let key = message.properties.header_str("saga-key").unwrap_or_default();
            let event = Incoming {
                queue: Inbox::Events,
                exchange: "ev".into(),
                routing_key: format!("{name}.{step}.{outcome}"),
                redelivered: false,
                properties: Properties {
                    message_id: Some(format!("{saga} {step} {outcome}")),
                    ..Properties::default()
                },
                body: sagad::store::encode(&json!({ "key": key })),
            };
            return self.deliver(event, chance.of("answer"), now);
        }
        self.say(message, outcome, chance.of("answer"), now);
    }

    fn answers(&self, message: &Outgoing) -> Answers {
        let name = message.properties.header_str("saga-name").unwrap_or_default();
        let plan = self.plan.sagas.iter().find(|plan| plan.name == name);
        plan.map_or(Answers::Word, |plan| plan.answers(&unit_of(message).1))
    }

    /// Whether there is something to be read from an answer of it.
    fn can_be_misread(&self, message: &Outgoing) -> bool {
        matches!(self.answers(message), Answers::Ruled | Answers::Schema)
    }

    /// A participant says what came of a command: `success`, `failure`, `retry`, `pending`, or what can't be read.
    fn say(&mut self, message: &Outgoing, word: &'static str, chance: Chance, now: Time) {
        self.checks.said(id_of(message), word);
        let id = key_of(message);
        let of_a_step = action_of(message) == "execute";
        let (header, body) = match (self.answers(message), word) {
            (_, "pending") => (Some(word), Value::Null),
            (Answers::Plain, "success") => (None, json!({ "id": id })),
            (Answers::Plain, "failure") => (None, json!({ "error": "declined" })),
            (Answers::Ruled, "success") if of_a_step => (None, json!({ "id": id, "status": "done" })),
            (Answers::Ruled, "failure") if of_a_step => (None, json!({ "status": "no", "error": null })),
            (Answers::Ruled, "retry") if of_a_step => (None, json!({ "status": "busy" })),
            (Answers::Schema, "unreadable") => (Some("success"), json!({ "status": "done" })),
            (_, "unreadable") => (None, json!({ "id": id })),
            (_, "success") => (Some(word), json!({ "id": id })),
            (_, "retry") => (Some(word), json!({ "error": "busy" })),
            (_, _) => (Some(word), json!({ "error": "declined" })),
        };
        let answer = Incoming {
            queue: Inbox::Replies,
            exchange: String::new(),
            routing_key: self.names.queue(Inbox::Replies),
            redelivered: false,
            properties: Properties {
                correlation_id: message.properties.correlation_id.clone(),
                headers: header.into_iter().map(|word| ("saga-outcome".to_owned(), word.into())).collect(),
                ..Properties::default()
            },
            body: sagad::store::encode(&body),
        };
        self.deliver(answer, chance, now);
    }

    /// A command comes back by the dead-letter exchange.
    fn bury(&mut self, command: &Command, reason: &'static str, now: Time, chance: Chance) {
        let mut properties = command.message.properties.clone();
        properties.expiration = None;
        let time = Time(now.0 / 1000 * 1000).to_string();
        properties
            .headers
            .insert("x-death".into(), json!([{ "reason": reason, "queue": "q", "time": time, "count": 1 }]));
        if command.deliveries > 0 {
            properties.headers.insert("x-delivery-count".into(), json!(command.deliveries));
        }
        let letter = Incoming {
            queue: Inbox::Dead,
            exchange: self.names.dead_exchange(),
            routing_key: command.message.routing_key.clone(),
            redelivered: false,
            properties,
            body: command.message.body.clone(),
        };
        self.checks.seen.insert(reason);
        if !self.buried.insert(id_of(&command.message).to_owned()) {
            // The second copy of two: it can't be told from the same death told twice, docs/guarantees.md.
            self.participants.unclear.insert(unit_of(&command.message));
        }
        self.note(now, || format!("{} is dead: {reason}", described(&command.message)));
        self.deliver(letter, chance.of("dead"), now);
    }
}

fn id_of(message: &Outgoing) -> &str {
    message.properties.message_id.as_deref().unwrap_or_default()
}

fn key_of(message: &Outgoing) -> String {
    message.properties.header_str("idempotency-key").unwrap_or_default().to_owned()
}

/// A probe is a command of its own, with its own key, and asks about the execute.
fn action_of(message: &Outgoing) -> &str {
    message.properties.header_str("saga-action").unwrap_or_default()
}

pub(crate) fn unit_of(message: &Outgoing) -> Unit {
    let header = |name: &str| message.properties.header_str(name).unwrap_or_default().to_owned();
    let item = message.properties.headers.get("saga-item").and_then(Value::as_u64);
    (header("saga-id"), header("saga-step"), item)
}

fn described(message: &Outgoing) -> String {
    let (saga, step, item) = unit_of(message);
    let attempt = message.properties.headers.get("saga-attempt").and_then(Value::as_u64).unwrap_or_default();
    let item = item.map_or(String::new(), |item| format!("[{item}]"));
    format!("{} {step}{item} {} {attempt}", &saga[saga.len().saturating_sub(6)..], action_of(message))
}

/// A message for sagad, in a few words.
pub(crate) fn short(message: &Incoming) -> String {
    let properties = &message.properties;
    let id = properties.correlation_id.as_deref().or(properties.message_id.as_deref()).unwrap_or_default();
    let outcome = properties.header_str("saga-outcome").unwrap_or_default();
    let body: String = String::from_utf8_lossy(&message.body).chars().take(60).collect();
    format!("{} {} {id} {outcome} {body}", message.queue.as_str(), message.routing_key)
}

/// What nobody can read.
pub(crate) fn garbage(nth: usize, queue: Inbox) -> Incoming {
    Incoming {
        queue,
        exchange: String::new(),
        routing_key: "s0".into(),
        redelivered: false,
        properties: Properties {
            correlation_id: Some("garbage".into()),
            message_id: Some(format!("garbage {nth}")),
            ..Properties::default()
        },
        body: Bytes::from_static(b"{ garbage"),
    }
}

/// The clock of one daemon: the world's, and what it is wrong by.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) world: World,
    pub(crate) wrong_by: i64,
    pub(crate) chance: Chance,
    pub(crate) ids: Mutex<u64>,
}

impl Clock for Watch {
    fn now(&self) -> Time {
        Time(self.world.now().0 + self.wrong_by)
    }

    fn id(&self) -> Uuid {
        let mut ids = self.ids.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *ids += 1;
        let millis = self.now().0 as u64;
        let random = self.chance.of(*ids).within(0..u64::MAX >> 2);
        // The counter where a UUIDv7 has its first random bits: those of one clock sort as they are made.
        Uuid::from_u64_pair((millis << 16) | 0x7000 | (*ids & 0x0fff), random | (0b10 << 62))
    }
}
