//! A daemon of the run: the shipped corridor, with a simulated link to the broker at its ends. It can be killed at any await, and stand still.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use sagad::broker::handover::Ready;
use sagad::broker::message::{Outgoing, Publication, Published, Taken};
use sagad::broker::names::Names;
use sagad::broker::topology::TopologyPlan;
use sagad::clock::Clock;
use sagad::config::Config;
use sagad::core::parse::parse;
use sagad::daemon::corridor::{Closing, Ends, Plan as Corridor, lay};
use sagad::definitions::{Definitions, Folder};
use sagad::health::{Health, Part};
use sagad::intake::Intake;
use sagad::store::memory::MemoryStore;
use sagad::store::{Source, Store};
use sagad::wire::signature::Signer;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::chance::Chance;
use super::mutants::decides;
use super::plan::Faults;
use super::sagas::SagaPlan;
use super::store::{Decks, Line};
use super::world::{Fate, HEARTBEAT, SECRET, TAPPED, Watch, World};

/// A daemon, or the place where one was.
pub(crate) struct Daemon {
    number: usize,
    world: World,
    store: MemoryStore,
    decks: Decks,
    life: Option<Life>,
    /// How often it was started.
    lives: u64,
}

struct Life {
    task: JoinHandle<()>,
    /// There once it is up.
    intake: Arc<Mutex<Option<Intake>>>,
    definitions: Arc<Definitions<Line>>,
    pause: Arc<Pause>,
}

impl Daemon {
    pub(crate) fn new(number: usize, world: World, store: MemoryStore, decks: Decks) -> Daemon {
        Daemon { number, world, store, decks, life: None, lives: 0 }
    }

    /// The way in, if it is up.
    pub(crate) fn intake(&self) -> Option<Intake> {
        let life = self.life.as_ref()?;
        life.intake.lock().ok()?.clone()
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.life.as_ref().is_none_or(|life| life.task.is_finished())
    }

    /// Whether it ended by itself, which it must not.
    pub(crate) fn fell(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.task.is_finished())
    }

    pub(crate) fn kill(&mut self) {
        if let Some(life) = self.life.take() {
            life.task.abort();
            self.world.trace(|| format!("daemon {} is killed", self.number));
        }
        self.world.disconnect(self.number);
    }

    pub(crate) fn freeze(&self, frozen: bool) {
        if let Some(life) = &self.life {
            life.pause.set(frozen);
        }
    }

    /// Loads the definitions as the plan has them now.
    pub(crate) fn reload(&self) {
        if let Some(life) = &self.life {
            let (definitions, world, number) = (Arc::clone(&life.definitions), self.world.clone(), self.number);
            tokio::spawn(async move { drop(definitions.adopt(&mut folder(&world, number)).await) });
        }
    }

    pub(crate) fn start(&mut self) {
        self.lives += 1;
        let (number, world) = (self.number, self.world.clone());
        let (chance, wrong_by, alone, mutant) = {
            let state = world.lock();
            let chance = state.chance.of(("daemon", number)).of(self.lives);
            let skew = state.plan.faults.skew;
            let wrong_by = state.chance.of(("clock", number)).below(u64::from(2 * skew) + 1) as i64 - i64::from(skew);
            (chance, wrong_by, state.plan.daemons == 1, state.mutant)
        };
        let line = Line {
            store: self.store.clone(),
            world: world.clone(),
            daemon: number,
            chance: chance.of("store"),
            calls: Arc::new(AtomicU64::new(0)),
            decks: Arc::clone(&self.decks),
        };
        let clock = Arc::new(Watch { world: world.clone(), wrong_by, chance: chance.of("ids"), ids: Mutex::default() });
        let mut definitions = Definitions::new(PathBuf::new(), line.clone()).alone(alone);
        if world.lock().plan.taps {
            definitions = definitions.checked_against(tapped());
        }
        let definitions = Arc::new(definitions.timed_by(Arc::clone(&clock) as Arc<dyn Clock>));
        let (intake, pause) = (Arc::new(Mutex::new(None)), Arc::new(Pause::default()));
        let life = Life { task: tokio::spawn(std::future::ready(())), intake: Arc::clone(&intake), definitions, pause };
        let definitions = Arc::clone(&life.definitions);
        let body = async move {
            let retry = Duration::from_millis(300);
            while definitions.adopt(&mut folder(&world, number)).await.is_err() {
                tokio::time::sleep(retry).await;
            }
            // As the daemon does: on a store of its own nobody else can be publishing.
            while alone && line.release_outbox().await.is_err() {
                tokio::time::sleep(retry).await;
            }
            let health = Health::new();
            health.up(Part::Store);
            let corridor = Corridor {
                store: line,
                alone,
                definitions,
                names: Names::new("sagad"),
                signer: Signer::new(&SECRET),
                health: health.clone(),
                clock: Arc::clone(&clock) as Arc<dyn Clock>,
                sweep: Duration::from_secs(5),
                retention: None,
                max_message: 1 << 20,
                decide: decides(mutant),
            };
            let closing = Closing::default();
            let (ends, parts) = lay(corridor, &closing);
            let Ends { intake: way_in, deliveries, publications, published } = ends;
            if let Ok(mut place) = intake.lock() {
                *place = Some(way_in);
            }
            world.touch();
            let link = Link {
                daemon: number,
                world,
                clock,
                health,
                publications,
                published,
                flight: Vec::new(),
                chance: chance.of("link"),
                turns: 0,
            };
            let mut all = FuturesUnordered::new();
            all.push(Box::pin(link.run(deliveries)) as Pin<Box<dyn Future<Output = ()> + Send>>);
            parts.into_iter().for_each(|(_, part)| all.push(part));
            // None of them ends while nobody stops it.
            all.next().await;
        };
        let task = tokio::spawn(Pausable { pause: Arc::clone(&life.pause), inner: Box::pin(body) });
        self.life = Some(Life { task, ..life });
        self.world.trace(|| format!("daemon {number} is started"));
    }
}

/// The definitions of the plan, as the folder of a daemon would give them.
fn folder(world: &World, daemon: usize) -> Folder {
    let (plan, lacking) = {
        let state = world.lock();
        (state.plan.clone(), state.lacking.clone())
    };
    let mut folder = Folder::default();
    let has = |(nth, _): &(usize, &SagaPlan)| !lacking.contains(&(daemon, *nth));
    for (_, saga) in plan.sagas.iter().enumerate().filter(has) {
        let toml = saga.toml();
        match parse(&toml, &mut |name| Err(format!("no {name} here"))) {
            Ok((definition, _)) => {
                let source = Source { toml, schema: None };
                folder.definitions.insert(definition.name.clone(), (definition, source));
            }
            Err(errors) => panic!("{errors:#?}\n{toml}"),
        }
    }
    folder
}

// ---- the link to the broker --------------------------------------------------------------------------------------

/// The link as [`sagad::broker::amqp`] is one: batches that are settled as a whole, epochs, what is in flight goes over to the next.
struct Link {
    daemon: usize,
    world: World,
    clock: Arc<Watch>,
    health: Health,
    publications: sagad::broker::publisher::Publications,
    published: mpsc::Sender<Vec<Published>>,
    flight: Vec<Slot>,
    chance: Chance,
    turns: u64,
}

struct Slot {
    publication: Publication,
    fate: Option<Told>,
    at_first: Option<Arc<Outgoing>>,
}

/// What is told of a message.
#[derive(Clone, Debug)]
enum Told {
    Confirmed,
    Returned,
    Refused,
    Expired,
    Left,
    Deferred,
}

impl Link {
    async fn run(mut self, deliveries: mpsc::Sender<sagad::broker::message::Delivery>) {
        loop {
            let away = self.world.lock().broker_away;
            if !away {
                self.epoch(&deliveries).await;
            }
            self.health.down(Part::Broker, "its connections broke");
            self.world.disconnect(self.daemon);
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    }

    async fn epoch(&mut self, deliveries: &mpsc::Sender<sagad::broker::message::Delivery>) {
        let (acks, mut acknowledged) = mpsc::unbounded_channel();
        let epoch = self.world.connect(self.daemon, deliveries.clone(), acks);
        self.health.up(Part::Broker);
        self.world.trace(|| format!("daemon {} is connected", self.daemon));
        self.flight.iter_mut().for_each(|slot| slot.at_first = None);
        let mut heartbeat = self.world.now();
        loop {
            // One that stood still for too long finds its connections closed.
            let still = self.world.now().since(heartbeat) > HEARTBEAT;
            if still || !self.world.is_connected(self.daemon, epoch) || self.world.lock().broker_away {
                return;
            }
            if !self.flight.is_empty() {
                if self.dies("publishing", |faults| faults.dies_publishing) {
                    return std::future::pending().await;
                }
                if !self.settle().await {
                    return;
                }
                self.report().await;
                continue;
            }
            let mut taken = Vec::new();
            tokio::select! {
                biased;
                tag = acknowledged.recv() => {
                    let Some(tag) = tag else { return };
                    if self.dies("acknowledging", |faults| faults.dies_acknowledging) {
                        return std::future::pending().await;
                    }
                    self.world.ack(self.daemon, epoch, tag);
                }
                count = self.publications.recv_many(&mut taken, 32) => {
                    if count == 0 {
                        return std::future::pending().await;
                    }
                }
                () = tokio::time::sleep(Duration::from_secs(5)) => {}
            }
            heartbeat = self.world.now();
            self.flight.extend(taken.into_iter().map(|publication| Slot { publication, fate: None, at_first: None }));
        }
    }

    /// Publishes what has no fate; false if the link broke.
    async fn settle(&mut self) -> bool {
        let now = self.clock.now();
        for slot in &mut self.flight {
            if slot.fate.is_some() {
                continue;
            }
            slot.fate = match slot.publication.ready(now) {
                Ready::Expired => Some(Told::Expired),
                Ready::Left => Some(Told::Left),
                Ready::Send => {
                    slot.at_first.get_or_insert_with(|| Arc::clone(&slot.publication.message));
                    match self.world.publish(self.daemon, &slot.publication.message) {
                        Fate::Confirmed => Some(Told::Confirmed),
                        Fate::Returned => Some(Told::Returned),
                        Fate::Refused => Some(Told::Refused),
                        Fate::Deferred => Some(Told::Deferred),
                        Fate::Broken => return false,
                    }
                }
            };
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
        true
    }

    async fn report(&mut self) {
        let Ok(permit) = self.published.reserve().await else { return };
        let publications = &self.publications;
        let told = self.flight.drain(..).filter_map(|Slot { publication, fate, at_first }| {
            publications.done(&publication);
            let Publication { outbox, message, told, .. } = publication;
            let taken = match fate {
                Some(Told::Confirmed) => Some(Taken::Yes),
                Some(Told::Returned | Told::Refused) => Some(Taken::No),
                _ => None,
            };
            if let (Some(taken), Some(told)) = (taken, told) {
                let _ = told.send(taken);
            }
            let outbox = outbox?;
            match fate? {
                Told::Confirmed => Some(Published::Confirmed { outbox, message }),
                Told::Returned => {
                    Some(Published::Returned { outbox, message: at_first.unwrap_or(message), text: "NO_ROUTE".into() })
                }
                Told::Refused => Some(Published::Refused { outbox, message }),
                Told::Expired => Some(Published::Expired { outbox, message, never_sent: false }),
                Told::Deferred => Some(Published::Deferred(outbox)),
                Told::Left => None,
            }
        });
        permit.send(told.collect());
    }

    /// Whether the process ends before it has done what it is about to do.
    fn dies(&mut self, what: &'static str, often: impl Fn(&Faults) -> u32) -> bool {
        self.turns += 1;
        let mut state = self.world.lock();
        let dies = state.troubled && self.chance.of((what, self.turns)).permille(often(&state.plan.faults));
        if dies {
            state.checks.seen.insert(what);
            state.doomed.insert(self.daemon);
            drop(state);
            self.world.touch();
        }
        dies
    }
}

// ---- standing still ----------------------------------------------------------------------------------------------

/// Holds a process still.
#[derive(Debug, Default)]
struct Pause {
    frozen: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Pause {
    fn set(&self, frozen: bool) {
        self.frozen.store(frozen, Ordering::Relaxed);
        if let Ok(mut waker) = self.waker.lock()
            && let Some(waker) = waker.take()
        {
            waker.wake();
        }
    }
}

/// A process that can be held still.
struct Pausable {
    pause: Arc<Pause>,
    inner: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Future for Pausable {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if let Ok(mut waker) = self.pause.waker.lock() {
            *waker = Some(context.waker().clone());
        }
        match self.pause.frozen.load(Ordering::Relaxed) {
            true => Poll::Pending,
            false => self.inner.as_mut().poll(context),
        }
    }
}

/// The queues of participants, of whom somebody listens in.
fn tapped() -> TopologyPlan {
    static PLAN: OnceLock<TopologyPlan> = OnceLock::new();
    let plan = || {
        let queue = |name: &str, key: &str| {
            format!("[[topology.queues]]\nname = '{name}'\nbind = [{{ exchange = 'e', routing_key = '{key}' }}]\n")
        };
        let exchange = "[[topology.exchanges]]\nname = 'e'\ntype = 'topic'\n";
        let toml = format!("{exchange}{}{}", queue("q", "#"), queue("tap", &format!("{TAPPED}*")));
        let config = Config::parse("sim", &toml).unwrap_or_else(|errors| panic!("{errors}"));
        TopologyPlan::new(&config.broker, &config.topology).unwrap_or_else(|errors| panic!("{errors:?}"))
    };
    PLAN.get_or_init(plan).clone()
}
