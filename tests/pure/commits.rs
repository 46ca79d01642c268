//! What leaves sagad leaves after its commit: messages to the broker, and the word that an answer is dealt with. The whole corridor, before
//! a store whose commits wait for the test's word.

mod gated;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sagad::broker::message::{Delivery, Inbox, Incoming, Outgoing, Properties, Publication, Published, Receipt};
use sagad::broker::names::Names;
use sagad::broker::topology::TopologyPlan;
use sagad::clock;
use sagad::config::Config;
use sagad::core::decide::decide;
use sagad::core::entry::Entry;
use sagad::core::id::SagaId;
use sagad::core::parse::parse;
use sagad::core::saga::{Parent, Status};
use sagad::core::time::Time;
use sagad::daemon::corridor::{Closing, Ends, Plan, lay};
use sagad::definitions::{Definitions, Folder};
use sagad::health::Health;
use sagad::intake::{Refusal, Start, Started};
use sagad::store::memory::MemoryStore;
use sagad::store::{Source, Store};
use sagad::wire::signature::Signer;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uuid::Uuid;

use gated::{Gate, Gated, Word};

const SECRET: [u8; 32] = [7; 32];

const ORDER: &str = "\
name = 'order'
events = 'step'
[defaults]
exchange = 'shop.commands'
timeout = '60s'
[[steps]]
name = 'one'
command = 'a.one'
compensate = false
[[steps]]
name = 'two'
command = 'a.two'
compensate = false
";

/// Ends at once, unless it is to run; its key is then another's.
const KEYED: &str = "\
name = 'order'
key = '{{ input.key }}'
key_reuse = 'after_end'
[[steps]]
name = 'one'
exchange = 'shop.commands'
command = 'a.one'
compensate = false
when = 'input.runs'
";

/// How long what must come may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for what must come.
async fn soon<T>(what: &str, comes: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, comes).await.unwrap_or_else(|_| panic!("no {what} within {PATIENCE:?}"))
}

/// A corridor at work, and both its ends.
struct Scene {
    store: MemoryStore,
    definitions: Arc<Definitions<Gated>>,
    gate: Gate,
    ends: Ends,
    acks: mpsc::UnboundedReceiver<u64>,
    receipts: mpsc::UnboundedSender<u64>,
    parts: Vec<JoinHandle<()>>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.parts.iter().for_each(JoinHandle::abort);
    }
}

impl Scene {
    async fn open() -> Scene {
        Scene::of(ORDER).await
    }

    /// With this definition of an `order`.
    async fn of(toml: &str) -> Scene {
        Scene::among(toml, "").await
    }

    /// And these queues of participants.
    async fn among(toml: &str, topology: &str) -> Scene {
        let store = MemoryStore::new(SECRET, || Time(0));
        let (gated, gate) = Gated::before(store.clone());
        let config = Config::parse("test", topology).unwrap();
        let topology = TopologyPlan::new(&config.broker, &config.topology).unwrap();
        let definitions = Definitions::new(PathBuf::new(), gated.clone()).checked_against(topology);
        let (definition, _) = parse(toml, &mut |name| Err(format!("no {name} here"))).unwrap();
        let source = Source { toml: toml.to_owned(), schema: None };
        let mut folder = Folder { files: Vec::new(), definitions: [("order".into(), (definition, source))].into() };
        definitions.adopt(&mut folder).await.unwrap();
        let definitions = Arc::new(definitions);
        let plan = Plan {
            store: gated,
            alone: true,
            definitions: Arc::clone(&definitions),
            names: Names::new("shop"),
            signer: Signer::new(&SECRET),
            health: Health::new(),
            clock: clock::system(),
            sweep: Duration::from_secs(5),
            retention: None,
            max_message: 1 << 20,
            decide,
        };
        let (ends, parts) = lay(plan, &Closing::default());
        let parts = parts.into_iter().map(|(_, part)| tokio::spawn(part)).collect();
        let (receipts, acks) = mpsc::unbounded_channel();
        Scene { store, definitions, gate, ends, acks, receipts, parts }
    }

    fn start(&self) -> JoinHandle<Result<Started, Refusal>> {
        self.start_with(7, json!({}), None)
    }

    fn start_with(
        &self,
        id: u128,
        input: Value,
        idempotency_key: Option<&str>,
    ) -> JoinHandle<Result<Started, Refusal>> {
        let start = Start {
            id: SagaId(Uuid::from_u128(id)),
            definition: "order".to_owned(),
            input: Arc::new(input),
            priority: None,
            delay: Duration::ZERO,
            idempotency_key: idempotency_key.map(str::to_owned),
            trace: None,
            actor: "test".to_owned(),
            parent: None,
        };
        let intake = self.ends.intake.clone();
        tokio::spawn(async move { intake.start(start).await })
    }

    /// What a participant answers to a command; the delivery's tag.
    async fn answer(&self, command: &Outgoing) -> u64 {
        let properties =
            Properties { correlation_id: command.properties.correlation_id.clone(), ..Properties::default() };
        let message = Incoming {
            queue: Inbox::Replies,
            exchange: String::new(),
            routing_key: "shop.replies".to_owned(),
            redelivered: false,
            properties,
            body: "{\"did\":\"it\"}".into(),
        };
        let receipt = Receipt { tag: 17, acks: self.receipts.clone() };
        self.ends.deliveries.send(Delivery { message, receipt }).await.unwrap();
        17
    }

    /// The next message, which is confirmed.
    async fn sent(&mut self) -> Arc<Outgoing> {
        self.sent_and(|outbox, message| Published::Confirmed { outbox, message }).await
    }

    /// The next message, of which the broker says this.
    async fn sent_and(&mut self, said: impl Fn(Uuid, Arc<Outgoing>) -> Published) -> Arc<Outgoing> {
        let mut taken = Vec::new();
        soon("message", self.ends.publications.recv_many(&mut taken, 1)).await;
        let publication: Publication = taken.remove(0);
        self.ends.publications.done(&publication);
        let message = Arc::clone(&publication.message);
        let outbox = publication.outbox.expect("a row of the outbox");
        self.ends.published.send(vec![said(outbox, Arc::clone(&message))]).await.unwrap();
        message
    }

    /// A start over AMQP that nobody is told about.
    async fn deliver_start(&self, tag: u64, id: &str, input: &str) {
        let properties = Properties { message_id: Some(id.to_owned()), ..Properties::default() };
        let message = Incoming {
            queue: Inbox::Starts,
            exchange: "shop.start".to_owned(),
            routing_key: "order".to_owned(),
            redelivered: false,
            properties,
            body: input.to_owned().into(),
        };
        let receipt = Receipt { tag, acks: self.receipts.clone() };
        self.ends.deliveries.send(Delivery { message, receipt }).await.unwrap();
    }

    /// Nothing has left, and nothing will before the commit that is under way is over.
    async fn nothing_leaves(&mut self) {
        // All parts run on this thread: after so many turns of each of them nobody has anything left to do.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        let published = self.ends.publications.try_recv();
        assert!(published.is_none(), "it was sent too soon: {published:?}");
        assert!(self.acks.try_recv().is_err(), "it was acknowledged too soon");
    }

    /// Starts a saga and gives the command of its first step, all committed.
    async fn first_command(&mut self) -> (SagaId, Arc<Outgoing>) {
        let started = self.start();
        soon("commit", self.gate.next_with_sagas()).await;
        self.gate.say(Word::Commit);
        let command = self.sent().await;
        assert_eq!(self.sent().await.routing_key, "saga.order.started");
        (started.await.unwrap().unwrap().saga, command)
    }

    async fn succeeded(&self, saga: SagaId) -> usize {
        let journal = self.store.journal(saga, 1).await.unwrap();
        let entries = journal.iter().flat_map(|row| serde_json::from_slice::<Vec<Entry>>(&row.entries).unwrap());
        entries.filter(|entry| matches!(entry, Entry::Succeeded { .. })).count()
    }
}

#[tokio::test]
async fn a_command_is_sent_after_the_state_that_sends_it_is_committed() {
    let mut scene = Scene::open().await;
    let started = scene.start();
    let batch = soon("commit", scene.gate.next_with_sagas()).await;
    scene.nothing_leaves().await;
    assert!(!started.is_finished(), "whoever starts it was told too soon");
    assert!(scene.store.snapshot().sagas.is_empty());

    scene.gate.say(Word::Commit);
    let command = scene.sent().await;
    let id = started.await.unwrap().unwrap().saga;
    let there = scene.store.snapshot();
    assert_eq!((there.sagas[0].id, there.sagas[0].status), (id, Status::Running));
    assert_eq!(command.routing_key, "a.one");
    // Whatever it sends, its lifecycle events too, is written with the state, in the same transaction.
    assert_eq!(batch, [(id, vec!["a.one".to_owned(), "saga.order.started".to_owned()])]);
}

#[tokio::test]
async fn an_answer_is_acknowledged_after_the_state_that_it_causes_is_committed() {
    let mut scene = Scene::open().await;
    let (id, one) = scene.first_command().await;
    let tag = scene.answer(&one).await;
    let batch = soon("commit", scene.gate.next_with_sagas()).await;
    scene.nothing_leaves().await;
    assert_eq!(scene.succeeded(id).await, 0);

    scene.gate.say(Word::Commit);
    assert_eq!(soon("acknowledgement", scene.acks.recv()).await, Some(tag));
    assert_eq!(scene.succeeded(id).await, 1);
    assert_eq!(scene.sent().await.routing_key, "a.two");
    assert_eq!(batch, [(id, vec!["a.two".to_owned(), "saga.order.step.one.succeeded".to_owned()])]);
}

#[tokio::test]
async fn what_can_not_be_committed_leaves_nothing_and_is_tried_again() {
    let mut scene = Scene::open().await;
    let (id, one) = scene.first_command().await;
    let tag = scene.answer(&one).await;
    for _ in 0..2 {
        soon("commit", scene.gate.next_with_sagas()).await;
        scene.gate.say(Word::Fail);
        scene.nothing_leaves().await;
    }
    soon("commit", scene.gate.next_with_sagas()).await;
    scene.gate.say(Word::Commit);
    assert_eq!(soon("acknowledgement", scene.acks.recv()).await, Some(tag));
    assert_eq!(scene.sent().await.routing_key, "a.two");
    assert_eq!(scene.succeeded(id).await, 1);
    assert!(scene.acks.try_recv().is_err(), "once is enough");
}

#[tokio::test]
async fn a_commit_of_which_nobody_was_told_has_its_effect_once() {
    let mut scene = Scene::open().await;
    let (id, one) = scene.first_command().await;
    let tag = scene.answer(&one).await;
    soon("commit", scene.gate.next_with_sagas()).await;
    scene.gate.say(Word::CommitAndFail);
    // It is tried again, finds the state as it left it, and sees that there is nothing left to do.
    scene.gate.always(Word::Commit);
    assert_eq!(soon("acknowledgement", scene.acks.recv()).await, Some(tag));
    assert_eq!(scene.succeeded(id).await, 1);
    let rows = scene.store.snapshot().outbox;
    let commands = rows.iter().filter(|row| row.message.routing_key == "a.two").count();
    assert_eq!(commands, 1, "the next step's command is there, once: {rows:?}");
}

#[tokio::test]
async fn a_start_that_is_known_is_answered_as_before_whoever_has_its_key_by_now() {
    let mut scene = Scene::of(KEYED).await;
    let ends = json!({ "key": "k", "runs": false });
    let first = scene.start_with(1, ends.clone(), Some("first"));
    soon("commit", scene.gate.next_with_sagas()).await;
    scene.gate.say(Word::Commit);
    let first = first.await.unwrap().unwrap();
    assert_eq!(first.status, Status::Completed);
    let next = scene.start_with(2, json!({ "key": "k", "runs": true }), Some("next"));
    scene.gate.always(Word::Commit);
    let next = soon("answer", next).await.unwrap().unwrap();
    assert_ne!(next.saga, first.saga, "the key was free");
    // Together with something for whoever has the key by now, so that this is known when the start is decided.
    let headers = json!({ "saga-name": "order", "saga-key": "k" });
    let signal = Incoming {
        queue: Inbox::Signals,
        exchange: "shop.signals".to_owned(),
        routing_key: "go".to_owned(),
        redelivered: false,
        properties: Properties { headers: headers.as_object().unwrap().clone(), ..Properties::default() },
        body: "{}".into(),
    };
    let receipt = Receipt { tag: 18, acks: scene.receipts.clone() };
    scene.ends.deliveries.send(Delivery { message: signal, receipt }).await.unwrap();
    let again = soon("answer", scene.start_with(3, ends, Some("first"))).await.unwrap().unwrap();
    assert_eq!((again.saga, again.created), (first.saga, false));
}

/// One step, in the middle of which it may be undone; only one saga at a time.
const LOCKED: &str = "\
name = 'order'
events = 'none'
lock = { key = '{{ input.lock }}', mode = 'reject' }
[[steps]]
name = 'one'
exchange = 'shop.commands'
command = 'a.one'
retry.attempts = 1
compensate.command = 'a.undo'
";

/// Queues of participants: one for the commands of `a`, or another one as well, that has everything.
fn queues(several: bool) -> String {
    let queue = |name: &str, key: &str| {
        let bind = format!("bind = [{{ exchange = 'shop.commands', routing_key = '{key}' }}]");
        format!("[[topology.queues]]\nname = '{name}'\n{bind}\n")
    };
    let exchange = "[[topology.exchanges]]\nname = 'shop.commands'\ntype = 'topic'\n".to_owned();
    exchange + &queue("a", "a.*") + &if several { queue("audit", "#") } else { String::new() }
}

#[tokio::test]
async fn what_one_queue_refuses_another_may_have() {
    let refused = |outbox, message| Published::Refused { outbox, message };
    let unsent = |outbox, message| Published::Expired { outbox, message, never_sent: true };
    type Said = fn(Uuid, Arc<Outgoing>) -> Published;
    let returned = |outbox, message| Published::Returned { outbox, message, text: "NO_ROUTE".to_owned() };
    let cases: [(bool, Said, bool); 4] =
        [(true, refused, true), (false, refused, false), (true, unsent, false), (true, returned, false)];
    for (several, said, is_in_doubt) in cases {
        let mut scene = Scene::among(LOCKED, &queues(several)).await;
        scene.gate.always(Word::Commit);
        scene.start_with(7, json!({ "lock": "one" }), None).await.unwrap().unwrap();
        assert_eq!(scene.sent_and(said).await.routing_key, "a.one");
        if is_in_doubt {
            let undo = scene.sent().await;
            assert_eq!(undo.routing_key, "a.undo");
            assert_eq!(undo.properties.headers.get("saga-in-doubt"), Some(&json!(true)));
        } else {
            let ended = async {
                while scene.store.snapshot().sagas[0].status != Status::Compensated {
                    tokio::task::yield_now().await;
                }
            };
            soon("end", ended).await;
            assert!(scene.ends.publications.try_recv().is_none(), "nothing was done, and nothing is undone");
        }
    }
}

#[tokio::test]
async fn a_start_is_refused_for_the_sake_of_one_that_is_committed() {
    let mut scene = Scene::of(LOCKED).await;
    // While a commit waits, two starts come, which are decided together.
    let other = scene.start_with(7, json!({ "lock": "other" }), None);
    soon("commit", scene.gate.next_with_sagas()).await;
    for tag in [1, 2] {
        scene.deliver_start(tag, &format!("start {tag}"), r#"{ "lock": "one" }"#).await;
    }
    scene.nothing_leaves().await;
    scene.gate.say(Word::Commit);
    other.await.unwrap().unwrap();
    let (batch, letters) = soon("commit", scene.gate.next_with_letters()).await;
    assert_eq!((batch.len(), letters), (1, 0), "the letter would be there, whatever becomes of the first");
    scene.gate.always(Word::Commit);
    scene.gate.say(Word::Commit);
    for tag in [1, 2] {
        assert_eq!(soon("acknowledgement", scene.acks.recv()).await, Some(tag));
    }
    assert_eq!(scene.store.snapshot().dead_letters.len(), 1);
}

#[tokio::test]
async fn an_order_to_a_child_that_is_there_is_not_refused() {
    let scene = Scene::open().await;
    scene.gate.always(Word::Commit);
    let order = |id: u128| {
        let above = SagaId(Uuid::from_u128(1));
        let parent = Parent { saga: above, spot: 0.into(), step: "ship".into(), attempt: 1, depth: 1, undo: None };
        let start = Start {
            id: SagaId(Uuid::from_u128(id)),
            definition: "order".to_owned(),
            input: Arc::new(json!({})),
            priority: None,
            delay: Duration::ZERO,
            idempotency_key: None,
            trace: None,
            actor: "saga".to_owned(),
            parent: Some(parent),
        };
        let intake = scene.ends.intake.clone();
        tokio::spawn(async move { intake.start(start).await })
    };
    let child = soon("answer", order(2)).await.unwrap().unwrap().saga;
    // Its definition is gone by now; a copy of its order comes.
    scene.definitions.adopt(&mut Folder { files: Vec::new(), definitions: Default::default() }).await.unwrap();
    assert_eq!(soon("answer", order(2)).await.unwrap().unwrap().saga, child);
    let refused = soon("answer", order(3)).await.unwrap();
    assert!(matches!(refused, Err(Refusal::UnknownDefinition(_))), "{refused:?}");
}
