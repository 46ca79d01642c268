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
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

use super::chance::Chance;
use super::checks::Checks;
use super::mutants::Mutant;
use super::participants::{Command, Participants, action_of, id_of, unit_of};
use super::plan::Plan;

/// When every run begins: 2026-01-01T00:00:00Z.
pub(crate) const START: Time = Time(1_767_225_600_000);

/// The secret of every run's store.
pub(crate) const SECRET: [u8; 32] = [7; 32];

/// Where whoever starts a saga over AMQP waits for the answer.
pub(crate) const STARTER: &str = "starter";

/// How the routing keys of commands begin that somebody listens in on.
pub(crate) const TAPPED: &str = "s0.do.";

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
    pub(super) buried: BTreeSet<String>,
    /// Messages by id, to tell a second sending from the first.
    pub(super) sent: BTreeMap<String, u32>,
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
            // One queue refused it, and another has it.
            if is_command && self.is_tapped(message) && chance.of("there").permille(500) {
                self.checks.seen.insert("refused by one");
                self.route(message, chance, now);
            }
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
            let secret = self.mutant == Some(Mutant::KeepsSuspensionsSecret);
            if !(secret && message.routing_key.ends_with(".suspended")) {
                self.checks.told(message);
            }
        } else {
            self.checks.breach("known-exchanges", format!("something is published to {:?}", message.exchange));
        }
    }

    /// Whether more than one queue has it.
    pub(super) fn is_tapped(&self, message: &Outgoing) -> bool {
        self.plan.taps && message.routing_key.starts_with(TAPPED)
    }

    /// On its way to sagad, perhaps twice.
    pub(super) fn deliver(&mut self, message: Incoming, chance: Chance, now: Time) {
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
        if self.dropped.contains(id_of(message)) && action_of(message) == "execute" {
            self.participants.unclear.insert(unit_of(message));
        }
        if !twice && chance.of("full").permille(faults.absent / 2) {
            self.dropped.insert(id_of(message).to_owned());
            self.bury(&command, "maxlen", now, chance);
            return;
        }
        if self.is_tapped(message) && chance.of("tap").permille(faults.absent / 2) {
            self.bury(&command, "maxlen", now, chance.of("tap"));
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
