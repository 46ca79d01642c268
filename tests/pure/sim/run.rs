//! One run: trouble first, then all is well and everything must come to its end; then the books are held against each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use sagad::broker::message::{Inbox, Incoming, Properties};
use sagad::core::apply::{Origin, replay};
use sagad::core::definition::Execute;
use sagad::core::entry::{Entry, Resolution};
use sagad::core::id::{SagaId, Spot};
use sagad::core::input::Order;
use sagad::core::saga::{Phase, Progress, Saga, Status, Unit};
use sagad::definitions::Pinned;
use sagad::intake::{Intake, Refusal, Start};
use sagad::store::Store;
use sagad::store::memory::MemoryStore;
use sagad::trial::laws;
use sagad::trial::stage::units;
use serde_json::{Map, Value, json};

use super::checks::is_for_signals;
use super::daemon::Daemon;
use super::mutants::{Mutant, misread, overslept};
use super::plan::{Misfortune, Plan, Way, What};
use super::store::Decks;
use super::world::{HEARTBEAT, Happening, SECRET, STARTER, World, garbage};

/// Once all is well, everything must have ended after so long. The longest that anything waits for are some attempts of 20 s, twice.
const PATIENCE: Duration = Duration::from_secs(900);

/// Between two looks of the operator.
const LOOK: Duration = Duration::from_secs(3);

/// What came of a run, or of many.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) breach: Option<(&'static str, String)>,
    pub(crate) trace: Vec<String>,
    pub(crate) mark: u64,
    pub(crate) transitions: u64,
    pub(crate) ends: BTreeMap<&'static str, u64>,
    pub(crate) seen: BTreeSet<&'static str>,
}

impl Outcome {
    /// With what came of others.
    pub(crate) fn add(&mut self, other: Outcome) {
        self.transitions += other.transitions;
        other.ends.into_iter().for_each(|(end, count)| *self.ends.entry(end).or_default() += count);
        self.seen.extend(other.seen);
    }
}

/// Runs a plan. The same plan gives the same run.
pub(crate) fn run(plan: Plan, mutant: Option<Mutant>, traced: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
    runtime.block_on(async {
        let world = World::new(plan, mutant, traced);
        let mut run = Run::new(&world);
        run.play().await;
        let mut state = world.lock();
        let ends = state.checks.sagas.values().fold(BTreeMap::new(), |mut ends, (saga, _)| {
            *ends.entry(saga.status().as_str()).or_default() += 1;
            ends
        });
        Outcome {
            breach: state.checks.first_breach(),
            trace: state.trace.take().unwrap_or_default(),
            mark: state.mark,
            transitions: state.checks.transitions,
            ends,
            seen: std::mem::take(&mut state.checks.seen),
        }
    })
}

struct Run {
    world: World,
    store: MemoryStore,
    daemons: Vec<Daemon>,
    /// Which saga each start was told that it has; `None`: it was refused.
    started: Arc<std::sync::Mutex<BTreeMap<usize, Option<SagaId>>>>,
    looks: u32,
    calm_at: sagad::core::time::Time,
}

impl Run {
    fn new(world: &World) -> Run {
        let clock = world.clone();
        let store = MemoryStore::new(SECRET, move || clock.now());
        let (decks, count) = (Decks::default(), world.lock().plan.daemons);
        let daemons =
            (0..count).map(|number| Daemon::new(number, world.clone(), store.clone(), Arc::clone(&decks))).collect();
        Run { world: world.clone(), store, daemons, started: Arc::default(), looks: 0, calm_at: world.now() }
    }

    async fn play(&mut self) {
        let plan = self.world.lock().plan.clone();
        let mutant = self.world.lock().mutant;
        plan.sagas.iter().filter(|_| mutant.is_some()).for_each(|saga| misread(mutant, &saga.toml()));
        self.daemons.iter_mut().for_each(Daemon::start);
        let happens = |at, what| self.world.plan(at, what);
        plan.starts.iter().enumerate().for_each(|(nth, start)| happens(start.at, Happening::Start(nth)));
        plan.orders.iter().enumerate().for_each(|(nth, order)| happens(order.at, Happening::Order(nth)));
        plan.mishaps.iter().enumerate().for_each(|(nth, mishap)| happens(mishap.at, Happening::Mishap(nth)));
        if plan.faults.garbage > 0 {
            Inbox::ALL
                .into_iter()
                .enumerate()
                .for_each(|(nth, queue)| self.world.send(garbage(nth, queue), "garbage", nth));
        }
        happens(plan.trouble, Happening::Calm);
        loop {
            let doomed = std::mem::take(&mut self.world.lock().doomed);
            for daemon in doomed {
                self.daemons[daemon].kill();
                let again = self.world.lock().chance.of(("again", daemon)).millis(1..3_000);
                self.world.plan(again, Happening::Over(usize::MAX - daemon));
            }
            while let Some(what) = self.world.due() {
                if !self.happen(what) {
                    return self.close();
                }
            }
            if let Some(why) = overslept() {
                self.world.breach("on-time", why);
            }
            if self.world.lock().checks.first_breach().is_some() {
                return self.daemons.iter_mut().for_each(Daemon::kill);
            }
            if let Some(fallen) = self.daemons.iter().position(Daemon::fell) {
                self.world.breach("ends", format!("daemon {fallen} ended by itself"));
                continue;
            }
            let next = self.world.next().map(|next| next.since(self.world.now())).unwrap_or(PATIENCE);
            tokio::select! {
                biased;
                () = self.world.changed() => {}
                () = tokio::time::sleep(next) => {}
            }
        }
    }

    /// Carries out what happens; false once all is over.
    fn happen(&mut self, what: Happening) -> bool {
        match what {
            Happening::Reach(message) => self.world.reach(*message),
            Happening::Take(command) => self.world.take(*command),
            Happening::Finish(command) => self.world.finish(&command),
            Happening::Start(nth) => self.begin(nth),
            Happening::Order(nth) => self.order(nth),
            Happening::Mishap(nth) => self.mishap(nth),
            Happening::Over(nth) => self.over(nth),
            Happening::Silence(daemon) => self.world.disconnect(daemon),
            Happening::Calm => {
                self.world.trace(|| "from now on all is well".to_owned());
                let mut state = self.world.lock();
                (state.troubled, state.store_away, state.broker_away) = (false, false, false);
                state.lacking.clear();
                let refused = state.plan.faults.store_refuses > 0;
                drop(state);
                self.calm_at = self.world.now();
                for daemon in &mut self.daemons {
                    daemon.freeze(false);
                    if refused {
                        // Somebody has seen in the log what was set aside.
                        daemon.kill();
                    }
                    if daemon.is_dead() {
                        daemon.start();
                    }
                    daemon.reload();
                }
                self.world.plan(LOOK, Happening::Look);
            }
            Happening::Look => {
                let Some(left) = self.left() else { return false };
                if self.world.now().since(self.calm_at) > PATIENCE {
                    let all_ended =
                        self.world.lock().checks.sagas.values().all(|(saga, _)| saga.status().is_terminal());
                    self.world.breach(if all_ended { "at-rest" } else { "ends" }, left);
                    return true;
                }
                self.looks += 1;
                self.help();
                self.world.plan(LOOK, Happening::Look);
            }
        }
        true
    }

    fn mishap(&mut self, nth: usize) {
        let mishap = self.world.lock().plan.mishaps[nth];
        if !self.world.lock().troubled {
            return;
        }
        self.world.trace(|| format!("{:?}", mishap.what));
        self.world.lock().checks.seen.insert(mishap.what.name());
        let count = self.daemons.len();
        match mishap.what {
            Misfortune::Kill(daemon) => self.daemons[daemon % count].kill(),
            Misfortune::Freeze(daemon) => {
                self.daemons[daemon % count].freeze(true);
                // The broker gives up on it: what it has in hand comes to others.
                if mishap.lasts > HEARTBEAT {
                    self.world.plan(HEARTBEAT, Happening::Silence(daemon % count));
                }
            }
            Misfortune::Cut(daemon) => self.world.disconnect(daemon % count),
            Misfortune::StoreAway => self.world.lock().store_away = true,
            Misfortune::BrokerAway => {
                self.world.lock().broker_away = true;
                (0..count).for_each(|daemon| self.world.disconnect(daemon));
            }
            Misfortune::Rollout(daemon, saga) => {
                let mut state = self.world.lock();
                state.plan.sagas[saga].edition += 1;
                let (mutant, toml) = (state.mutant, state.plan.sagas[saga].toml());
                drop(state);
                if mutant.is_some() {
                    misread(mutant, &toml);
                }
                self.daemons[daemon % count].reload();
            }
            Misfortune::Lack(daemon, saga) if count > 1 && self.was_loaded(saga) => {
                self.world.lock().lacking.push((daemon % count, saga));
                self.daemons[daemon % count].kill();
                self.daemons[daemon % count].start();
            }
            Misfortune::Lack(..) => {}
        }
        self.world.plan(mishap.lasts, Happening::Over(nth));
    }

    /// Whether a daemon has had a definition.
    fn was_loaded(&self, saga: usize) -> bool {
        let name = self.world.lock().plan.sagas[saga].name.clone();
        self.store.revision(&name, 1).now_or_never().and_then(Result::ok).flatten().is_some()
    }

    fn over(&mut self, nth: usize) {
        let count = self.daemons.len();
        let start = |daemon: &mut Daemon| {
            if daemon.is_dead() {
                daemon.start();
            }
        };
        if let Some(daemon) = usize::MAX.checked_sub(nth).filter(|daemon| *daemon < count) {
            return start(&mut self.daemons[daemon]);
        }
        let what = self.world.lock().plan.mishaps[nth].what;
        match what {
            Misfortune::Kill(daemon) => start(&mut self.daemons[daemon % count]),
            Misfortune::Freeze(daemon) => self.daemons[daemon % count].freeze(false),
            Misfortune::StoreAway => self.world.lock().store_away = false,
            Misfortune::BrokerAway => self.world.lock().broker_away = false,
            Misfortune::Cut(_) => {}
            Misfortune::Rollout(..) => self.daemons.iter().for_each(Daemon::reload),
            Misfortune::Lack(daemon, saga) => {
                let lack = (daemon % count, saga);
                let mut state = self.world.lock();
                let nth = state.lacking.iter().position(|it| *it == lack);
                nth.into_iter().for_each(|nth| _ = state.lacking.swap_remove(nth));
                drop(state);
                self.daemons[daemon % count].reload();
            }
        }
    }

    /// Some daemon that is up.
    fn intake(&self, label: usize) -> Option<Intake> {
        let up: Vec<Intake> = self.daemons.iter().filter_map(Daemon::intake).collect();
        let which = self.world.lock().chance.of(("ask", label)).below(up.len().max(1) as u64) as usize;
        up.into_iter().nth(which)
    }

    fn begin(&self, nth: usize) {
        let (start, saga, id, known_by_key) = {
            let state = self.world.lock();
            let start = state.plan.starts[nth];
            let random = state.chance.of(("start id", nth)).of(self.world.now().0 as u64);
            let millis = self.world.now().0 as u64;
            let id = uuid::Uuid::from_u64_pair(
                (millis << 16) | 0x7000 | nth as u64,
                random.within(0..u64::MAX >> 2) | (0b10 << 62),
            );
            // One that is known by nothing begins a saga each time that it is delivered.
            let saga = &state.plan.sagas[start.saga];
            (start, saga.name.clone(), SagaId(id), saga.has_a_key() && !saga.reuses_keys() && !saga.forgets())
        };
        let input = json!({
            "start": nth, "key": format!("k{}", start.key), "lock": format!("l{}", start.key % 2),
            "yes": true, "no": false, "lists": [[], ["a"], ["a", "b"], ["a", "b", "c"]],
        });
        let body = sagad::store::encode(&input);
        if start.way == Way::Event {
            let properties = Properties { message_id: Some(format!("start {nth}")), ..Properties::default() };
            let (exchange, routing_key) = ("ev".to_owned(), format!("{saga}.begin"));
            let message =
                Incoming { queue: Inbox::Events, exchange, routing_key, redelivered: false, properties, body };
            return self.world.send(message, "start", nth);
        }
        if matches!(start.way, Way::Amqp | Way::Nameless) {
            let properties = Properties {
                message_id: (start.way == Way::Amqp || !known_by_key).then(|| format!("start {nth}")),
                reply_to: Some(STARTER.to_owned()),
                correlation_id: Some(format!("start {nth}")),
                ..Properties::default()
            };
            let (exchange, routing_key) = ("sagad.start".to_owned(), saga);
            let message =
                Incoming { queue: Inbox::Starts, exchange, routing_key, redelivered: false, properties, body };
            return self.world.send(message, "start", nth);
        }
        let again = move |world: &World| world.plan(Duration::from_millis(400), Happening::Start(nth));
        let Some(intake) = self.intake(nth) else { return again(&self.world) };
        let start = Start {
            id,
            definition: saga,
            input: Arc::new(input),
            priority: None,
            delay: start.delay,
            idempotency_key: Some(format!("start {nth}")),
            trace: None,
            actor: "http".into(),
            parent: None,
        };
        let (world, started) = (self.world.clone(), Arc::clone(&self.started));
        world.trace(|| format!("start {nth} over HTTP"));
        tokio::spawn(async move {
            let told = intake.start(start).await;
            world.trace(|| format!("start {nth}: {told:?}"));
            let told = match told {
                Ok(told) => Some(told.saga),
                Err(Refusal::Locked(_)) => None,
                // It is another daemon that has its definition.
                Err(Refusal::Busy(_) | Refusal::UnknownDefinition(_)) => return again(&world),
                Err(refusal) => return world.breach("nothing-lost", format!("start {nth} is refused: {refusal}")),
            };
            if let Ok(mut started) = started.lock() {
                started.insert(nth, told);
            }
            world.touch();
        });
    }

    /// The sagas of a start's definition and key, the latest last.
    fn sagas_of(&self, nth: usize) -> Vec<Saga> {
        let state = self.world.lock();
        let Some(start) = state.plan.starts.get(nth) else { return Vec::new() };
        let (name, key) = (&state.plan.sagas[start.saga].name, format!("k{}", start.key));
        let is_it = |saga: &&Saga| *saga.definition == **name && saga.input["key"] == *key;
        state.checks.sagas.values().map(|(saga, _)| saga).filter(is_it).cloned().collect()
    }

    fn order(&self, nth: usize) {
        let order = self.world.lock().plan.orders[nth];
        if let What::SignalByKey = order.what {
            return self.signal_by_key(order.start, nth);
        }
        let Some(saga) = self.sagas_of(order.start).pop() else { return };
        let reason = None;
        let order = match order.what {
            What::Cancel => Order::Cancel { reason },
            What::Suspend => Order::Suspend { reason },
            What::Resume => Order::Resume { reason },
            What::Retry(step) => Order::Retry { step: format!("s{step}"), item: None, reason },
            What::Resolve(step, outcome) => {
                let (step, reply, reason) = (format!("s{step}"), Value::Null, "asked around".to_owned());
                Order::Resolve { step, item: None, outcome, reply, reason }
            }
            What::Signal | What::SignalByKey => return self.signal(&saga, nth),
            What::Event => return self.event(&saga, nth),
        };
        self.give(saga.id, order, nth);
    }

    fn give(&self, saga: SagaId, order: Order, label: usize) {
        let Some(intake) = self.intake(label) else { return };
        let world = self.world.clone();
        world.trace(|| format!("an operator says to {saga}: {order:?}"));
        tokio::spawn(async move { drop(intake.order(saga, "ann", order).await) });
    }

    fn signal(&self, saga: &Saga, nth: usize) {
        let headers = Map::from_iter([("saga-id".to_owned(), saga.id.to_string().into())]);
        self.send_signal(headers, nth);
    }

    fn signal_by_key(&self, start: usize, nth: usize) {
        let state = self.world.lock();
        let start = state.plan.starts[start];
        let saga = &state.plan.sagas[start.saga];
        let (name, key) = (saga.name.clone().into(), format!("k{}", start.key).into());
        let has_a_key = saga.has_a_key();
        drop(state);
        if has_a_key {
            self.send_signal(Map::from_iter([("saga-name".to_owned(), name), ("saga-key".to_owned(), key)]), nth);
        }
    }

    fn send_signal(&self, headers: Map<String, Value>, nth: usize) {
        let id = format!("signal {nth}");
        self.world.lock().checks.signals.insert(id.clone(), headers.clone());
        let properties = Properties { message_id: Some(id), headers, ..Properties::default() };
        let body = sagad::store::encode(&json!({ "go": nth }));
        let (exchange, routing_key) = ("sagad.signals".to_owned(), "go".to_owned());
        let message = Incoming { queue: Inbox::Signals, exchange, routing_key, redelivered: false, properties, body };
        self.world.send(message, "signal", nth);
    }

    /// All events that any step of it waits for.
    fn event(&self, saga: &Saga, nth: usize) {
        let plan = self.world.lock().plan.clone();
        let Some(plan) = plan.sagas.iter().find(|plan| plan.name == *saga.definition) else { return };
        for (at, step) in plan.awaited().enumerate() {
            let message = Incoming {
                queue: Inbox::Events,
                exchange: "ev".into(),
                routing_key: format!("{}.{step}.happened", plan.name),
                redelivered: false,
                properties: Properties { message_id: Some(format!("event {nth}")), ..Properties::default() },
                body: sagad::store::encode(&json!({ "key": saga.key })),
            };
            self.world.send(message, "event", nth * 16 + at);
        }
    }

    // ---- healing -------------------------------------------------------------------------------------------------

    /// Sees to what is stuck, as an operator would.
    fn help(&self) {
        let sagas: Vec<(Saga, Arc<Pinned>)> = self.world.lock().checks.sagas.values().cloned().collect();
        for (nth, (saga, pinned)) in sagas.iter().enumerate().filter(|(_, (saga, _))| !saga.status().is_terminal()) {
            let label = 1_000 + self.looks as usize * 100 + nth;
            if let Some(suspension) = &saga.suspended {
                // It was tried again often enough.
                if let Some(spot) = suspension.spot.filter(|_| saga.phase == Phase::Running) {
                    let step = &pinned.definition.steps[spot.step].name;
                    self.world.lock().participants.forget_refusals(&saga.id.to_string(), step);
                }
                let stuck = suspension.spot.filter(|_| self.looks > 40);
                let order = match stuck {
                    None => Order::Resume { reason: None },
                    Some(spot) => {
                        let outcome =
                            if saga.phase == Phase::Running { Resolution::Succeeded } else { Resolution::GivenUp };
                        let step = pinned.definition.steps[spot.step].name.to_string();
                        let (item, reply, reason) = (spot.item, Value::Null, "enough".to_owned());
                        Order::Resolve { step, item, outcome, reply, reason }
                    }
                };
                self.give(saga.id, order, label);
            }
            let waits = |(spot, unit): (Spot, &Unit)| {
                matches!(pinned.definition.steps[spot.step].execute, Execute::Wait(_)) && unit.execute.in_flight()
            };
            if units(saga).any(waits) {
                self.signal(saga, label);
                self.event(saga, label);
            }
        }
    }

    /// What is left to do, if anything is.
    fn left(&self) -> Option<String> {
        if let Some(left) = self.world.lock().under_way() {
            return Some(left);
        }
        let state = self.world.lock();
        if let Some((saga, pinned)) = state.checks.sagas.values().find(|(saga, _)| !saga.status().is_terminal()) {
            let due = saga.due(&pinned.definition, Duration::from_secs(5));
            return Some(format!("{} is {}, due {due:?}: {saga:#?}", saga.id, saga.status().as_str()));
        }
        let started = self.started.lock().map(|started| started.clone()).unwrap_or_default();
        let missing = (0..state.plan.starts.len()).find(|nth| {
            let over_http = started.contains_key(nth);
            let untold = state.plan.starts[*nth].way != Way::Event;
            untold && !over_http && !state.checks.start_answers.contains_key(&format!("start {nth}"))
        });
        if let Some(nth) = missing {
            return Some(format!("nobody was told of start {nth}"));
        }
        drop(state);
        let outbox = self.store.snapshot().outbox;
        outbox.first().map(|row| format!("{} rows are left in the outbox: {row:?}", outbox.len()))
    }

    // ---- the books -----------------------------------------------------------------------------------------------

    /// Everything is over: what was promised must be true.
    fn close(&mut self) {
        let fail = |law: &'static str, message: String| self.world.breach(law, message);
        let sagas: Vec<(Saga, Arc<Pinned>)> = self.world.lock().checks.sagas.values().cloned().collect();
        let plan = self.world.lock().plan.clone();
        let forgets = |saga: &Saga| plan.sagas.iter().any(|it| it.name == *saga.definition && it.forgets());
        for (saga, pinned) in &sagas {
            let stored = self.store.load(&[saga.id]).now_or_never().and_then(Result::ok).unwrap_or_default();
            let kept = !forgets(saga) && saga.parent.is_none();
            if stored.is_empty() && kept {
                fail("nothing-lost", format!("{} is gone", saga.id));
            }
            let due = saga.due(&pinned.definition, Duration::from_secs(5));
            if let Some(breach) = laws::of_state(&pinned.definition, saga, due.is_some(), true) {
                fail(breach.law, format!("{}: {}", saga.id, breach.message));
            }
            if kept && let Some(why) = self.misremembered(saga) {
                fail("replay", format!("{}: {why}", saga.id));
            }
            // An answer that came when its saga had been deleted is a dead letter; an operator sees it.
            if !stored.is_empty() {
                self.judge_effects(saga, pinned);
            }
        }
        let untold = self.world.lock().checks.untold();
        if let Some(untold) = untold {
            fail("told", untold);
        }
        self.judge_children(&sagas);
        self.judge_starts(&plan, &sagas);
        self.judge_letters(&plan);
        self.judge_signals(&plan, &sagas);
        self.daemons.iter_mut().for_each(Daemon::kill);
    }

    /// What the stored journal tells otherwise than the state.
    fn misremembered(&self, saga: &Saga) -> Option<String> {
        let rows = self.store.journal(saga.id, 0).now_or_never().and_then(Result::ok).unwrap_or_default();
        let mut next = 1;
        let mut transitions = Vec::new();
        for row in rows {
            let entries: Vec<Entry> = serde_json::from_slice(&row.entries).ok()?;
            if row.first_seq != next {
                return Some(format!("entry {next} of the journal is not there: then comes {}", row.first_seq));
            }
            next += entries.len() as u64;
            transitions.push((row.at, entries));
        }
        let origin = Origin {
            id: saga.id,
            definition: saga.definition.clone(),
            revision: saga.revision,
            input: saga.input.clone(),
        };
        let told = replay(origin, transitions);
        (told.as_ref() != Some(saga)).then(|| format!("the journal tells {told:#?}, and it is {saga:#?}"))
    }

    fn judge_effects(&self, saga: &Saga, pinned: &Pinned) {
        let state = self.world.lock();
        for (spot, unit) in units(saga) {
            let step = &pinned.definition.steps[spot.step];
            let id = (saga.id.to_string(), step.name.to_string(), spot.item.map(u64::from));
            let by_hand = state.checks.by_hand.contains(&(saga.id, spot));
            if step.command().is_none() || by_hand || state.participants.unclear.contains(&id) {
                continue;
            }
            let there = state.participants.there.contains(&id);
            let succeeded = matches!(unit.execute.progress, Progress::Succeeded { .. });
            let given_up = matches!(unit.compensate.progress, Progress::Failed { .. } | Progress::GivenUp { .. });
            let wrong = match saga.status() {
                Status::Completed => succeeded && !there,
                Status::Compensated | Status::Failed => there && step.compensate.is_some() && !given_up,
                _ => false,
            };
            if wrong {
                let what = if there { "is still there" } else { "is not there" };
                let message = format!(
                    "{} is {}, and the effect of {} {what}: {unit:#?}",
                    saga.id,
                    saga.status().as_str(),
                    step.name
                );
                drop(state);
                return self.world.breach("effect", message);
            }
        }
    }

    /// A saga that was undone leaves no child that was not.
    fn judge_children(&self, sagas: &[(Saga, Arc<Pinned>)]) {
        for (child, _) in sagas {
            let Some(parent) = &child.parent else { continue };
            let Some((above, pinned)) = sagas.iter().find(|(saga, _)| saga.id == parent.saga) else { continue };
            // What it is told once it has been deleted is a dead letter; an operator sees it.
            let stored = self.store.load(&[above.id]).now_or_never().and_then(Result::ok).unwrap_or_default();
            if stored.is_empty() {
                continue;
            }
            let step = &pinned.definition.steps[parent.spot.step];
            let Some(unit) = above.unit(parent.spot) else { continue };
            let given_up = matches!(unit.compensate.progress, Progress::Failed { .. } | Progress::GivenUp { .. });
            let by_hand = self.world.lock().checks.by_hand.contains(&(above.id, parent.spot));
            let undone = !by_hand && matches!(above.status(), Status::Compensated | Status::Failed);
            // One that was undone, and gave up what a late answer asked of it, has told its parent the former: docs/guarantees.md.
            let told = self.world.lock().checks.was_undone(child.id);
            if !by_hand && !told && above.status() == Status::Compensated && child.status() == Status::Failed {
                let what = format!("{} says that all is undone, and its child {} has failed", above.id, child.id);
                self.world.breach("effect", what);
            }
            if undone && step.compensate.is_some() && !given_up && child.status() == Status::Completed {
                self.world
                    .breach("effect", format!("{} was undone, and its child {} has completed", above.id, child.id));
            }
        }
    }

    fn judge_starts(&self, plan: &Plan, sagas: &[(Saga, Arc<Pinned>)]) {
        let started = self.started.lock().map(|started| started.clone()).unwrap_or_default();
        let answers = self.world.lock().checks.start_answers.clone();
        for (nth, start) in plan.starts.iter().enumerate() {
            let of_it = |saga: &&(Saga, _)| saga.0.input["start"] == nth;
            let begun: Vec<SagaId> = sagas.iter().filter(of_it).map(|(saga, _)| saga.id).collect();
            if begun.len() > 1 {
                self.world.breach("once-begun", format!("start {nth} has begun {begun:?}"));
            }
            let definition = &plan.sagas[start.saga];
            if start.way == Way::Event {
                if self.sagas_of(nth).is_empty() && !definition.refuses() {
                    self.world.breach("nothing-lost", format!("nothing came of the event of start {nth}"));
                }
                continue;
            }
            let told = match started.get(&nth) {
                Some(told) => *told,
                None => answers[&format!("start {nth}")]["saga_id"].as_str().and_then(|id| id.parse().ok()).map(SagaId),
            };
            let there = told.is_some_and(|told| sagas.iter().any(|(saga, _)| saga.id == told));
            let refused = told.is_none() && definition.refuses();
            if !there && !refused {
                self.world.breach("nothing-lost", format!("start {nth} was told of {told:?}, which is not there"));
            }
        }
    }

    /// What is kept as a dead letter is what nobody could read or place.
    fn judge_letters(&self, plan: &Plan) {
        // All of them: one whose acknowledgement is lost is kept each time that it comes.
        let letters = self.store.snapshot().dead_letters;
        let is_garbage = |properties: &Properties| properties.correlation_id.as_deref() == Some("garbage");
        let garbage = letters.iter().filter(|letter| is_garbage(&letter.message.properties)).count();
        let sent = if plan.faults.garbage > 0 { Inbox::ALL.len() } else { 0 };
        if garbage < sent {
            let others: Vec<&str> = letters.iter().map(|letter| letter.reason.as_str()).take(3).collect();
            let many = letters.len();
            let message = format!("{sent} messages could not be read, and {garbage} were kept of {many}: {others:?}");
            self.world.breach("dead-letters", message);
        }
        let forgets = plan.sagas.iter().any(|saga| saga.forgets());
        let refuses = plan.sagas.iter().any(|saga| saga.refuses());
        let unexpected = letters.iter().find(|letter| match letter.message.queue {
            _ if is_garbage(&letter.message.properties) => false,
            // A saga that has ended, or that waits for none, has no use for one.
            Inbox::Signals => false,
            // One that was refused for the sake of another.
            Inbox::Starts => !refuses,
            Inbox::Events => !(refuses && letter.message.routing_key.ends_with(".begin")),
            // It was deleted in between.
            Inbox::Replies | Inbox::Dead | Inbox::Children => !forgets,
            Inbox::WakeUps => true,
        });
        if let Some(letter) = unexpected {
            self.world.breach("dead-letters", format!("{letter:?}"));
        }
    }

    /// A signal is taken, kept as a dead letter, or one too many.
    fn judge_signals(&self, plan: &Plan, sagas: &[(Saga, Arc<Pinned>)]) {
        let letters = self.store.snapshot().dead_letters;
        let kept: BTreeSet<&str> =
            letters.iter().filter_map(|letter| letter.message.properties.message_id.as_deref()).collect();
        let not_taken = self.world.lock().checks.signals_not_taken();
        let lost = not_taken.into_iter().find(|(id, headers)| {
            let is_for = |saga: &Saga| {
                let by_id = headers.get("saga-id").is_some_and(|id| *id == *saga.id.to_string());
                let word = |name: &str| headers.get(name).and_then(Value::as_str);
                by_id || word("saga-name") == Some(&saga.definition) && word("saga-key") == saga.key.as_deref()
            };
            let mut needless = sagas.iter().filter(|(saga, _)| is_for(saga)).map(|(saga, pinned)| {
                let waits = |(spot, _): &(Spot, &Unit)| is_for_signals(&pinned.definition.steps[spot.step].execute);
                let is_over = |(_, unit): (Spot, &Unit)| {
                    matches!(unit.execute.progress, Progress::Succeeded { .. } | Progress::Skipped { .. })
                };
                // What waits already is enough.
                let taken = self.world.lock().checks.signals_taken(saga.id);
                // Whatever was skipped, or ended by an operator's word, takes none.
                let by_hand = |spot: Spot| self.world.lock().checks.by_hand.contains(&(saga.id, spot));
                let takes = |(spot, unit): &(Spot, &Unit)| {
                    !matches!(unit.execute.progress, Progress::Skipped { .. }) && !by_hand(*spot)
                };
                let wanted = units(saga).filter(waits).filter(takes).count();
                units(saga).filter(waits).all(is_over) || wanted <= taken
            });
            !kept.contains(&**id) && !needless.any(|needless| needless)
        });
        let twice = self.world.lock().checks.first_of_both(&kept);
        if let Some(id) = twice.filter(|_| !plan.sagas.iter().any(|saga| saga.forgets() || saga.reuses_keys())) {
            self.world.breach("signals", format!("{id} is taken, and kept as a dead letter"));
        }
        if let Some((id, headers)) = lost {
            self.world.breach("signals", format!("{id} for {headers:?} is neither taken nor kept, and was of use"));
        }
    }
}
