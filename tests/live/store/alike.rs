//! The store in memory and SQLite, told the same, whatever it is: they answer alike, and hold the same after each call.

use std::collections::BTreeSet;
use std::fmt::Debug;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use sagad::broker::message::{Inbox, Incoming};
use sagad::core::saga::Status;
use sagad::store::{DeadLetter, Filter, Freed, Hold, ItemsWrite, Source};
use uuid::{NoContext, Timestamp};

use super::*;

const HOUR: i64 = 3_600_000;
const SAGAS: u8 = 9;
/// The lease of a message that is sent twice.
const AGAIN: i64 = 99;
const TOKENS: [&str; 3] = ["a", "b", "c"];
const DEFINITIONS: [&str; 2] = ["order", "refund"];

/// A call. Sagas, tokens and definitions are numbers, taken as far as there are any.
#[derive(Clone, Debug)]
enum Call {
    Commit { writes: Vec<Write>, joined: Vec<(u8, u8, Status)>, confirmed: Vec<u8>, letter: Option<u8> },
    TakeDue(i64, i64),
    TakeOutbox(i64, i64, usize),
    KeepOutbox(Vec<(u8, u32)>, i64),
    ReleaseOutbox,
    Held { definition: u8, freed: Option<Vec<u8>>, limit: usize },
    Purge { definition: u8, before: i64, after: Option<u8>, limit: usize },
    KeepRevision(u8, u8),
    DropLetter(u8),
}

/// A transition; of a saga that does not exist it is a birth, and of one that does another transition.
#[derive(Clone, Debug)]
struct Write {
    saga: u8,
    /// By how much its version is not the one that is stored; or, with a birth, whether it is a transition instead.
    late: u8,
    status: Status,
    due: Option<i64>,
    hold: Option<Option<Option<u8>>>,
    claims: Vec<(ClaimKind, u8, Option<u8>)>,
    releases: bool,
    /// The leases of its messages.
    outbox: Vec<i64>,
    /// Messages that are not to be sent any more.
    settled: Vec<u8>,
    items: Vec<(u32, i32)>,
    key: Option<u8>,
    priority: u8,
}

fn call() -> impl Strategy<Value = Call> {
    let numbers = || vec(any::<u8>(), 0..4);
    prop_oneof![
        8 => (vec(write(), 0..5), vec((0..3u8, 0..SAGAS, status()), 0..3), numbers(), option::weighted(0.1, 0..3u8))
            .prop_map(|(writes, joined, confirmed, letter)| Call::Commit { writes, joined, confirmed, letter }),
        1 => (0..40i64, 0..80i64).prop_map(|(now, lease)| Call::TakeDue(now, lease)),
        2 => (-1..6i64, 0..9i64, 0..4usize).prop_map(|(now, lease, limit)| Call::TakeOutbox(now, lease, limit)),
        1 => (vec((any::<u8>(), 0..3u32), 0..4), 0..9i64).prop_map(|(rows, lease)| Call::KeepOutbox(rows, lease)),
        1 => Just(Call::ReleaseOutbox),
        3 => (0..2u8, option::of(vec(0..3u8, 0..3)), 0..4usize)
            .prop_map(|(definition, freed, limit)| Call::Held { definition, freed, limit }),
        2 => (0..2u8, 0..10i64, option::weighted(0.2, 0..SAGAS), 1..5usize)
            .prop_map(|(definition, before, after, limit)| Call::Purge { definition, before, after, limit }),
        1 => (0..2u8, 0..4u8).prop_map(|(definition, text)| Call::KeepRevision(definition, text)),
        1 => (0..3u8).prop_map(Call::DropLetter),
    ]
}

fn write() -> impl Strategy<Value = Write> {
    let kind = select(vec![ClaimKind::Key, ClaimKind::Start, ClaimKind::Lock, ClaimKind::Slot]);
    let claims = vec((kind, 0..3u8, option::weighted(0.3, 0..SAGAS)), 0..3);
    let hold = option::of(option::weighted(0.8, option::weighted(0.7, 0..3u8)));
    let first = (0..SAGAS, prop_oneof![9 => Just(0u8), 1 => 1..3u8], status(), option::of(0..40i64), hold);
    let second = (
        claims,
        any::<bool>(),
        vec(any::<u8>(), 0..2),
        vec(prop_oneof![30 => 0..5i64, 1 => Just(AGAIN)], 0..3),
        vec((0..2u32, -1..2i32), 0..3),
    );
    (first, second, option::of(0..3u8), 0..3u8).prop_map(
        |((saga, late, status, due, hold), (claims, releases, settled, outbox, items), key, priority)| Write {
            saga,
            late,
            status,
            due,
            hold,
            claims,
            releases,
            outbox,
            settled,
            items,
            key,
            priority,
        },
    )
}

fn status() -> impl Strategy<Value = Status> {
    select(Status::ALL.to_vec())
}

/// The id of something that was made `hours` before [`NOW`].
fn made(hours: u8, number: u64) -> Uuid {
    let at = NOW.0 - i64::from(hours) * HOUR;
    let when = Timestamp::from_unix(NoContext, (at / 1000).unsigned_abs(), 0);
    let (high, _) = Uuid::new_v7(when).as_u64_pair();
    Uuid::from_u64_pair(high & !0x0fff, (0b10 << 62) | number)
}

fn saga(number: u8) -> SagaId {
    SagaId(made(SAGAS - number, u64::from(number)))
}

fn definition(number: u8) -> &'static str {
    DEFINITIONS[usize::from(number) % DEFINITIONS.len()]
}

fn token(number: u8) -> &'static str {
    TOKENS[usize::from(number) % TOKENS.len()]
}

fn source(number: u8) -> Source {
    Source { toml: token(number).to_owned(), schema: (number > 2).then(String::new) }
}

fn letter(number: u8) -> DeadLetter {
    let message = Incoming {
        queue: Inbox::Dead,
        exchange: String::new(),
        routing_key: String::new(),
        redelivered: false,
        properties: Properties::default(),
        body: Bytes::new(),
    };
    DeadLetter { id: made(1, u64::from(number)), at: NOW, reason: token(number).to_owned(), message }
}

/// What was sent so far.
#[derive(Default)]
struct Sent(Vec<Uuid>);

impl Sent {
    fn row(&mut self, of: SagaId, lease: i64) -> OutboxRow {
        let number = self.0.len() as u64 + 100;
        let id = match lease {
            // Once more, which is refused as long as the first one is there.
            AGAIN if number > 100 => self.0[0],
            // Also some that are as old as the sagas.
            _ => made(if number.is_multiple_of(2) { 0 } else { 8 }, number),
        };
        self.0.push(id);
        OutboxRow { id, leased_until: Time(lease), ..message(of, b"") }
    }

    fn some(&self, number: u8) -> Uuid {
        self.0.get(usize::from(number) % self.0.len().max(1)).copied().unwrap_or_default()
    }
}

/// The transition that a [`Write`] stands for, by what is stored of the saga.
fn transition(write: &Write, stored: Option<u64>, sent: &mut Sent) -> SagaWrite {
    let id = saga(write.saga);
    let late = u64::from(write.late);
    let mut made = match stored {
        None if late == 0 => birth(id, definition(write.saga)),
        Some(_) if late == 2 => birth(id, definition(write.saga)),
        _ => change(id, stored.unwrap_or_default() + late),
    };
    made.row.status = write.status;
    made.row.ended_at = write.status.is_terminal().then_some(Time(NOW.0 - i64::from(SAGAS - write.saga) * HOUR + 1));
    // Each in a slot of its own, as the order within one is free.
    made.row.due = write.due.map(|due| Time((due * i64::from(SAGAS) + i64::from(write.saga)) * 1024));
    made.row.hold = write.hold.map(|hold| match hold {
        Some(lock) => Hold::On { lock: lock.map(|lock| token(lock).into()) },
        None => Hold::Off,
    });
    if let Some(birth) = &mut made.birth {
        birth.priority = write.priority;
        birth.key = write.key.map(|key| token(key).into());
        birth.parent = (!write.saga.is_multiple_of(3)).then(|| saga(write.saga - 1));
        birth.created_at = Time(NOW.0 - i64::from(SAGAS - write.saga) * HOUR);
    }
    let claim = |(kind, number, previous): &(ClaimKind, u8, Option<u8>)| {
        (of_definition(write.saga, *kind, *number), previous.map(saga))
    };
    made.claims = write.claims.iter().map(claim).collect();
    made.releases = write.releases;
    made.settled = write.settled.iter().map(|number| sent.some(*number)).collect();
    made.outbox = write.outbox.iter().map(|lease| sent.row(id, *lease)).collect();
    let items: BTreeSet<(u32, i32)> = write.items.iter().copied().collect();
    let version = made.row.version.to_string();
    made.items = items
        .into_iter()
        .map(|(step, chunk)| ItemsWrite { step, chunk, state: Bytes::from(version.clone()) })
        .collect();
    made
}

fn of_definition(number: u8, kind: ClaimKind, key: u8) -> Claim {
    Claim { definition: definition(number).into(), ..claim(kind, token(key)) }
}

/// A [`Call`] as a store takes it.
enum Made {
    Commit(Batch),
    Other(Call),
}

async fn make(call: &Call, store: &impl Store, sent: &mut Sent) -> Made {
    let Call::Commit { writes, joined, confirmed, letter: dead } = call else { return Made::Other(call.clone()) };
    let mut batch = Batch {
        confirmed: confirmed.iter().map(|number| sent.some(*number)).collect(),
        joined: (joined.iter())
            .map(|(key, of, status)| (of_definition(*of, ClaimKind::Start, *key), saga(*of), *status))
            .collect(),
        dead_letters: dead.iter().map(|number| letter(*number)).collect(),
        ..Batch::default()
    };
    let mut seen = BTreeSet::new();
    for write in writes.iter().filter(|write| seen.insert(write.saga)) {
        let stored = version(store, saga(write.saga)).await;
        batch.sagas.push(transition(write, stored, sent));
    }
    Made::Commit(batch)
}

/// What a store answers to a call, in an order of our own where it has a choice.
async fn answer(store: &impl Store, made: &Made, sent: &Sent) -> String {
    let call = match made {
        Made::Commit(batch) => {
            let committed = store.commit(batch).await.map(|mut committed| {
                committed.stale.sort();
                committed
            });
            return told(committed);
        }
        Made::Other(call) => call,
    };
    match call {
        Call::Commit { .. } => unreachable!("it was made above"),
        Call::TakeDue(now, lease) => {
            let scale = i64::from(SAGAS) * 1024;
            told(store.take_due(Time(now * scale), Time(lease * scale), 1000).await.map(sorted))
        }
        Call::TakeOutbox(now, lease, limit) => told(store.take_outbox(Time(*now), Time(*lease), *limit).await),
        Call::KeepOutbox(rows, lease) => {
            let rows: Vec<(Uuid, u32)> = rows.iter().map(|(row, handed)| (sent.some(*row), *handed)).collect();
            told(store.keep_outbox(&rows, Time(*lease)).await.map(sorted))
        }
        Call::ReleaseOutbox => told(store.release_outbox().await),
        Call::Held { definition: of, freed, limit } => {
            let keys: Vec<Arc<str>> = freed.iter().flatten().map(|key| token(*key).into()).collect();
            let freed = if freed.is_some() { Freed::Keys(&keys) } else { Freed::Any };
            told(store.held(definition(*of), freed, *limit).await)
        }
        Call::Purge { definition: of, before, after, limit } => {
            let before = Time(NOW.0 - before * HOUR);
            told(store.purge(definition(*of), before, after.map(saga), *limit).await)
        }
        Call::KeepRevision(of, text) => told(store.keep_revision(definition(*of), &source(*text)).await),
        Call::DropLetter(number) => told(store.delete_dead_letter(letter(*number).id).await),
    }
}

/// Everything that can be read of a store.
async fn seen(store: &impl Store) -> Vec<String> {
    let all: Vec<SagaId> = (0..SAGAS).map(saga).collect();
    let loaded = store.load(&all).await.map(|mut loaded| {
        loaded.sort_by_key(|saga| saga.id);
        loaded
    });
    let mut seen = vec![
        told(loaded),
        told(store.counts().await),
        told(store.next_due().await),
        told(store.held_definitions().await),
        told(store.revisions_in_use().await),
        told(store.all_revisions().await),
        told(store.dead_letters(None, 9).await),
    ];
    for id in all {
        seen.push(told(store.journal(id, 2).await));
    }
    for definition in DEFINITIONS {
        seen.push(told(store.slots(definition).await.map(sorted)));
        let kinds = [ClaimKind::Key, ClaimKind::Start, ClaimKind::Lock, ClaimKind::Slot];
        for kind in kinds {
            let of_kind = |token| Claim { definition: definition.into(), ..claim(kind, token) };
            // The first one twice.
            let claims: Vec<Claim> = TOKENS.into_iter().chain(["a"]).map(of_kind).collect();
            let holders = store.holders(&claims).await.map(|mut holders| {
                holders.sort_by_key(|holder| holder.claim.clone());
                holders
            });
            seen.push(told(holders));
        }
        let of = Some(definition.to_owned());
        let statuses = vec![Status::Running, Status::Failed];
        let filters = [
            Filter { definition: of.clone(), limit: 3, ..Filter::default() },
            Filter { definition: of, statuses, limit: 9, ..Filter::default() },
            Filter { key: Some("a".to_owned()), before: Some(saga(4)), limit: 9, ..Filter::default() },
            Filter { started_after: Some(Time(NOW.0 - 5 * HOUR)), limit: 9, ..Filter::default() },
            Filter { started_before: Some(Time(NOW.0 - 5 * HOUR)), limit: 9, ..Filter::default() },
        ];
        for filter in filters {
            seen.push(told(store.list(&filter).await));
        }
    }
    seen
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort();
    list
}

/// An answer; of an error its kind, as each store has words of its own.
fn told<T: Debug>(answer: Result<T, StoreError>) -> String {
    match answer {
        Ok(answer) => format!("{answer:?}"),
        Err(StoreError::Unavailable(_)) => "unavailable".to_owned(),
        Err(StoreError::Refused(_)) => "refused".to_owned(),
        Err(StoreError::Corrupt(_)) => "corrupt".to_owned(),
    }
}

async fn compare(calls: &[Call]) -> Result<(), TestCaseError> {
    let opening = Opening { migrate: true, exclusive: true };
    let sqlite = SqlStore::connect("sqlite::memory:", opening).await.expect("a store");
    let memory = MemoryStore::new([7; 32], || NOW);
    let mut sent = Sent::default();
    for (n, call) in calls.iter().enumerate() {
        let made = make(call, &memory, &mut sent).await;
        let (theirs, ours) = (answer(&sqlite, &made, &sent).await, answer(&memory, &made, &sent).await);
        prop_assert_eq!(&ours, &theirs, "the answer to call {}, {:?}", n, call);
        for (ours, theirs) in seen(&memory).await.into_iter().zip(seen(&sqlite).await) {
            prop_assert_eq!(ours, theirs, "what is read after call {}, {:?}", n, call);
        }
    }
    let (theirs, ours) = (whole_outbox(&sqlite).await, whole_outbox(&memory).await);
    prop_assert_eq!(told(Ok(&ours)), told(Ok(&theirs)));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn memory_and_sqlite_answer_alike(calls in vec(call(), 1..50)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(compare(&calls))?;
    }
}
