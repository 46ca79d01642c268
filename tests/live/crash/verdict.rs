//! The verdict: waits for the end of everything, then holds all records against each other.
//!
//! That the database is one with its own journals, `sagad verify` says; what the participants saw of it, is looked at here.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use lapin::options::BasicGetOptions;
use lapin::{Connection, ConnectionProperties};
use sagad::core::entry::{Entry, Handling};
use sagad::core::id::{Action, SagaId};
use sagad::core::saga::{Saga, Status};
use sagad::core::time::Time;
use sagad::store::read_saga;
use sagad::store::sql::SqlStore;
use sagad::store::{Filter, Store};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection, SqliteConnection};

use super::load::Started;
use super::{STEPS, Trial};
use crate::daemon::Daemon;
use crate::participants::Command;
use crate::verify::open;

/// How long everything may take to come to its end once nothing breaks any more.
const PATIENCE: Duration = Duration::from_secs(90);

/// Between two looks at what tells nobody when it changes.
const LOOK: Duration = Duration::from_millis(50);

/// How long a daemon has to stop: its own grace and a little.
const STOP: Duration = Duration::from_secs(12);

/// What was found, for those who want more than that all is well.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) completed: usize,
    pub(super) compensated: usize,
    /// Compensations that a late success began anew.
    pub(super) renewed: usize,
    /// Attempts that timed out.
    pub(super) timed_out: usize,
    pub(super) dead_letters: usize,
}

/// Waits until all sagas have ended and nothing is on its way, stops the daemons, and checks every promise for every saga.
pub(super) async fn verify_everything(
    trial: &Trial,
    daemons: Vec<Daemon>,
    started: &Started,
    dead_letters: usize,
) -> Verdict {
    wait_for_quiet(trial).await;
    trial.is_well().await;
    stop(daemons).await;
    crate::verify::verify(trial.site.store(), trial.site.folder(), false).await.is_well();

    let store = open(trial.site.store()).await;
    let mut verdict = verify(trial, &store, started).await;
    let letters = store.dead_letters(None, 10_000).await.expect("the store can be read");
    verdict.dead_letters = letters.len();
    store.close().await;
    assert_eq!(letters.len(), dead_letters, "dead letters: {letters:#?}");
    assert_eq!(outbox_rows(trial.site.store()).await, 0, "rows are left in the outbox");
    println!("{verdict:?}, {} commands", trial.participants.ledger().commands().len());
    verdict
}

/// SIGTERM to all, and each ends in order.
pub(super) async fn stop(mut daemons: Vec<Daemon>) {
    for daemon in &mut daemons {
        if daemon.exited().is_none() {
            daemon.terminate();
        }
    }
    for daemon in &mut daemons {
        let status = daemon.wait(STOP).await;
        assert_eq!(status.code(), Some(0), "sagad stops in order");
    }
}

// ---- the end of everything --------------------------------------------------------------------------------------

/// Waits until every saga has ended, the outbox is empty, and no message is in any queue or anybody's hands.
async fn wait_for_quiet(trial: &Trial) {
    let deadline = Instant::now() + PATIENCE;
    let store = open(trial.site.store()).await;
    loop {
        // Messages are looked for between two looks at the database: one that is on its way while nothing is left to
        // send, and nothing came of it afterwards, would have been seen.
        let mut left = left_in_store(trial, &store).await;
        if left.is_none() {
            left = left_in_queues(trial).await;
        }
        if left.is_none() {
            left = left_in_store(trial, &store).await;
        }
        let Some(left) = left else { break };
        assert!(Instant::now() < deadline, "no end within {PATIENCE:?}: {left}");
        tokio::time::sleep(LOOK).await;
    }
    store.close().await;
}

async fn left_in_store(trial: &Trial, store: &SqlStore) -> Option<String> {
    let all = [Status::Pending, Status::Running, Status::Compensating, Status::Suspended];
    let filter = Filter { statuses: all.to_vec(), limit: 5, ..Filter::default() };
    let unfinished = store.list(&filter).await.expect("the store can be read");
    let unfinished: Vec<Saga> = unfinished.iter().map(|row| read_saga(row).expect("a state")).collect();
    if let Some(saga) = unfinished.iter().find(|saga| saga.suspended.is_some()) {
        panic!("a saga waits for an operator: {saga:#?}");
    }
    if !unfinished.is_empty() {
        return Some(format!("not ended: {unfinished:#?}"));
    }
    match outbox_rows(trial.site.store()).await {
        0 => None,
        rows => Some(format!("{rows} rows in the outbox")),
    }
}

async fn left_in_queues(trial: &Trial) -> Option<String> {
    let queues = trial.node.list_queues(&["name", "messages_ready", "messages_unacknowledged"]).await;
    let ours = |queue: &&Vec<String>| {
        let name = &queue[0];
        name.starts_with(trial.site.prefix()) && *name != trial.site.name("events")
    };
    let left: Vec<&Vec<String>> =
        queues.iter().filter(ours).filter(|queue| queue[1..].iter().any(|count| count != "0")).collect();
    (!left.is_empty()).then(|| format!("queues (name, ready, unacknowledged): {left:?}"))
}

pub(super) async fn outbox_rows(url: &str) -> i64 {
    let query = "SELECT count(*) FROM outbox";
    let count = match url.starts_with("sqlite:") {
        true => {
            let mut connection = SqliteConnection::connect(url).await.expect("the file can be opened");
            let count = sqlx::query_scalar(query).fetch_one(&mut connection).await;
            let _ = connection.close().await;
            count
        }
        false => {
            let mut connection = PgConnection::connect(url).await.expect("the database can be reached");
            let count = sqlx::query_scalar(query).fetch_one(&mut connection).await;
            let _ = connection.close().await;
            count
        }
    };
    count.expect("the outbox can be counted")
}

// ---- every promise ----------------------------------------------------------------------------------------------

/// What of one saga is known.
struct Story<'a> {
    saga: Saga,
    journal: Vec<(Time, Vec<Entry>)>,
    commands: Vec<&'a Command>,
}

async fn verify(trial: &Trial, store: &SqlStore, started: &Started) -> Verdict {
    let commands = trial.participants.ledger().commands();
    let mut by_saga: HashMap<&str, Vec<&Command>> = HashMap::new();
    for command in &commands {
        by_saga.entry(&command.saga).or_default().push(command);
    }
    let mut keys: BTreeMap<String, String> = BTreeMap::new();
    let mut verdict = Verdict::default();
    let mut ends: HashMap<String, &'static str> = HashMap::new();
    let mut filter = Filter { limit: 200, ..Filter::default() };
    loop {
        let page = store.list(&filter).await.expect("the store can be read");
        let Some(last) = page.last() else { break };
        filter.before = Some(last.id);
        for row in &page {
            let saga = read_saga(row).expect("a state");
            let journal = journal(store, saga.id).await;
            let id = saga.id.to_string();
            let twice = keys.insert(saga.key.as_deref().expect("a key").to_owned(), id.clone());
            assert_eq!(twice, None, "two sagas with the key {:?}", saga.key);
            ends.insert(id.clone(), saga.status().as_str());
            let commands = by_saga.remove(&*id).unwrap_or_default();
            Story { saga, journal, commands }.verify(&mut verdict);
        }
    }
    assert!(by_saga.is_empty(), "commands of sagas that do not exist: {by_saga:#?}");

    let lost: Vec<_> = started.keys().filter(|key| !keys.contains_key(*key)).collect();
    assert!(lost.is_empty(), "accepted, and lost: {lost:?}");
    for (key, id) in &keys {
        let told = started.get(key).unwrap_or_else(|| panic!("nobody started saga {id} with the key {key}"));
        assert!(told.as_ref().is_none_or(|told| told == id), "the start of {key} was told of {told:?}, it is {id}");
    }
    verify_events(trial, &ends).await;
    verdict
}

async fn journal(store: &SqlStore, id: SagaId) -> Vec<(Time, Vec<Entry>)> {
    let rows = store.journal(id, 1).await.expect("the journal can be read");
    rows.iter().map(|row| (row.at, serde_json::from_slice(&row.entries).expect("entries"))).collect()
}

/// Each saga's end was told, and what was told twice was told alike.
async fn verify_events(trial: &Trial, ends: &HashMap<String, &'static str>) {
    let connection = Connection::connect(trial.site.amqp(), ConnectionProperties::default()).await.expect("the broker");
    let channel = connection.create_channel().await.expect("a channel");
    let queue = trial.site.name("events");
    let mut events: HashMap<String, Value> = HashMap::new();
    let mut told: HashSet<(String, String)> = HashSet::new();
    let options = BasicGetOptions { no_ack: true };
    while let Some(message) = channel.basic_get(queue.as_str().into(), options).await.expect("got") {
        let event: Value = serde_json::from_slice(&message.delivery.data).expect("JSON");
        let text = |name: &str| event[name].as_str().unwrap_or_else(|| panic!("no {name} in {event}")).to_owned();
        let what = message.delivery.routing_key.to_string().rsplit('.').next().expect("a word").to_owned();
        told.insert((text("subject"), what));
        if let Some(before) = events.insert(text("id"), event.clone()) {
            assert_eq!(before, event, "the same event differs from itself");
        }
    }
    connection.close(200, "OK".into()).await.expect("closed");
    let untold = ends.iter().filter(|(id, end)| !told.contains(&((*id).clone(), (**end).to_owned())));
    let untold: Vec<_> = untold.collect();
    assert!(untold.is_empty(), "nobody was told of the end of {untold:?}");
}

impl Story<'_> {
    fn verify(&self, verdict: &mut Verdict) {
        let entries = || self.journal.iter().flat_map(|(_, entries)| entries);
        verdict.renewed += entries().filter(|entry| matches!(entry, Entry::CompensationRenewed { .. })).count();
        verdict.timed_out += entries()
            .filter(
                |entry| matches!(entry, Entry::AttemptFailed { failure, .. } if failure.reason.as_str() == "timeout"),
            )
            .count();
        self.went_forward_and_back_in_order();
        self.sent_what_was_committed();
        match self.saga.status() {
            Status::Completed => {
                verdict.completed += 1;
                self.did_everything();
            }
            Status::Compensated => {
                verdict.compensated += 1;
                self.left_nothing_undone();
            }
            other => self.fail(&format!("it ended as {}", other.as_str())),
        }
    }

    /// No step begins before the one above it succeeded; no compensation is sent before all after it are settled.
    fn went_forward_and_back_in_order(&self) {
        let mut steps = vec![Trace::default(); self.saga.steps.len()];
        for entry in self.journal.iter().flat_map(|(_, entries)| entries) {
            match entry {
                Entry::Sent { spot, action: Action::Execute, .. } => {
                    if !steps[..spot.step].iter().all(|earlier| earlier.succeeded) {
                        self.fail(&format!("step {spot} was sent before those above it had succeeded"));
                    }
                    if steps.iter().any(|step| step.compensating) {
                        self.fail(&format!("step {spot} was sent after a compensation"));
                    }
                    steps[spot.step].sent = true;
                    steps[spot.step].decided = false;
                }
                Entry::Sent { spot, action: Action::Compensate, .. } => {
                    if !steps[spot.step].sent {
                        self.fail(&format!("step {spot} was compensated, and never sent"));
                    }
                    if !steps[spot.step].compensating && !steps[spot.step + 1..].iter().all(Trace::is_settled) {
                        self.fail(&format!("step {spot} was compensated before those after it were settled"));
                    }
                    steps[spot.step].compensating = true;
                }
                Entry::Succeeded { spot, action: Action::Execute, .. } => {
                    steps[spot.step].succeeded = true;
                    steps[spot.step].decided = true;
                    steps[spot.step].in_doubt.clear();
                }
                Entry::Succeeded { spot, action: Action::Compensate, .. } => steps[spot.step].compensated = true,
                Entry::CompensationRenewed { spot } => {
                    steps[spot.step].compensated = false;
                    steps[spot.step].compensating = false;
                }
                Entry::Failed { spot, attempt, .. } => {
                    steps[spot.step].decided = true;
                    // A business failure has done nothing, whatever became of other attempts.
                    if *attempt > 0 {
                        steps[spot.step].in_doubt.clear();
                    }
                }
                Entry::AttemptFailed { spot, action: Action::Execute, attempt, handling: Handling::Maybe, .. } => {
                    steps[spot.step].in_doubt.insert(*attempt);
                }
                Entry::NeverRan { spot, action: Action::Execute, attempt, .. } => {
                    steps[spot.step].in_doubt.remove(attempt);
                }
                Entry::Exhausted { spot, action: Action::Execute, .. } => steps[spot.step].decided = true,
                _ => {}
            }
        }
    }

    /// Every command that came was in the journal first, each attempt was one message, and each action of a step went under one
    /// idempotency key, but for compensations that were renewed.
    fn sent_what_was_committed(&self) {
        let mut sent: HashSet<(&str, &str, i64)> = HashSet::new();
        let mut renewed: HashMap<&str, usize> = HashMap::new();
        for entry in self.journal.iter().flat_map(|(_, entries)| entries) {
            match entry {
                Entry::Sent { spot, action, attempt, .. } => {
                    let new = sent.insert((STEPS[spot.step], action.as_str(), i64::from(*attempt)));
                    assert!(new, "{}: attempt {attempt} to {} step {spot} twice", self.saga.id, action.as_str());
                }
                Entry::CompensationRenewed { spot } => *renewed.entry(STEPS[spot.step]).or_default() += 1,
                _ => {}
            }
        }
        let mut keys: HashMap<(&str, &str), BTreeSet<&str>> = HashMap::new();
        let mut messages: HashMap<(&str, &str, i64), String> = HashMap::new();
        for command in &self.commands {
            let attempt = (&*command.step, &*command.action, command.attempt);
            if !sent.contains(&attempt) {
                self.fail(&format!("{attempt:?} was sent, and the database knows nothing of it"));
            }
            let message = command.properties.message_id().as_ref().expect("a message id").to_string();
            if messages.entry(attempt).or_insert_with(|| message.clone()) != &message {
                self.fail(&format!("{attempt:?} came as two messages"));
            }
            keys.entry((&command.step, &command.action)).or_default().insert(&command.key);
        }
        for ((step, action), keys) in keys {
            let allowed = if action == "execute" { 1 } else { 1 + renewed.get(step).copied().unwrap_or(0) };
            if keys.len() > allowed {
                self.fail(&format!("{action} of step {step} went under {keys:?}"));
            }
        }
    }

    fn did_everything(&self) {
        for step in STEPS {
            let effects = self.effects(step);
            if effects.len() != 1 || effects[0].action != "execute" {
                self.fail(&format!("it completed, and the effects of step {step} are {effects:#?}"));
            }
        }
    }

    fn left_nothing_undone(&self) {
        for step in STEPS {
            if let Some(last) = self.effects(step).last()
                && last.action != "compensate"
            {
                self.fail(&format!("it was compensated, and this effect of step {step} is left: {last:#?}"));
            }
        }
    }

    fn effects(&self, step: &str) -> Vec<&Command> {
        self.commands.iter().copied().filter(|command| command.effect && command.step == step).collect()
    }

    fn fail(&self, why: &str) -> ! {
        let journal: Vec<String> =
            self.journal.iter().flat_map(|(at, entries)| entries.iter().map(move |e| format!("{at} {e:?}"))).collect();
        let commands: Vec<String> = self
            .commands
            .iter()
            .map(|c| {
                format!(
                    "{:?} {} {} {} {} effect: {} redelivered: {}",
                    c.at, c.step, c.action, c.attempt, c.key, c.effect, c.redelivered
                )
            })
            .collect();
        panic!(
            "saga {} ({:?}): {why}\njournal:\n{}\ncommands as they came:\n{}",
            self.saga.id,
            self.saga.key,
            journal.join("\n"),
            commands.join("\n")
        );
    }
}

/// How far a step is, in the course of its journal.
#[derive(Clone, Debug, Default)]
struct Trace {
    sent: bool,
    /// There is nothing in flight: it succeeded, failed or was given up.
    decided: bool,
    succeeded: bool,
    in_doubt: BTreeSet<u32>,
    compensating: bool,
    compensated: bool,
}

impl Trace {
    /// Compensated, failed without effect, known never to have run, or never sent.
    fn is_settled(&self) -> bool {
        self.compensated || !self.sent || (self.decided && !self.succeeded && self.in_doubt.is_empty())
    }
}
