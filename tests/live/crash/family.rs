//! Daemons are killed while events start sagas, answer waits and are published, and while sagas run sagas.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lapin::BasicProperties;
use lapin::options::QueueBindOptions;
use lapin::types::FieldTable;
use serde_json::{Value, json};

use super::chance::Chance;
use super::verdict::{outbox_rows, stop};
use super::{QUEUES, listed};
use crate::daemon::{Daemon, Site};
use crate::participants::{Command, Participants, Reply};
use crate::postgres;
use crate::rabbitmq::{self, Client};
use crate::verify::{look, open};

const PARENT: &str = r#"
name = "parent"
key  = "{{ input.n }}"

[[start]]
exchange    = "PREFIX-shop"
routing_key = "order.placed"

[defaults]
exchange = "PREFIX-commands"
timeout  = "60s"

[[steps]]
name    = "book"
command = "classic.book"
compensate = { command = "classic.unbook", retry.attempts = 100 }

[[steps]]
name = "paid"
wait = { exchange = "PREFIX-shop", routing_key = "order.paid", match = "body.n" }

[[steps]]
name  = "leg"
saga  = "child"
input = { n = "{{ input.n }}" }

[[steps]]
name     = "tell"
publish  = "order.told"
exchange = "PREFIX-shop"

[[steps]]
name    = "bill"
command = "quorum.bill"
compensate = false
"#;

const CHILD: &str = r#"
name = "child"
key  = "{{ input.n }}"

[defaults]
exchange = "PREFIX-commands"
timeout  = "60s"

[[steps]]
name    = "pack"
command = "classic.pack"
compensate = { command = "classic.unpack", retry.attempts = 100 }

[[steps]]
name    = "fly"
command = "quorum.fly"
compensate = false
"#;

const SHOP: &str = "[[topology.exchanges]]\nname = \"PREFIX-shop\"\ntype = \"topic\"\n";

/// How often a daemon is killed, and how many orders are placed before each time.
const KILLS: u64 = 12;
const ORDERS: u64 = 6;

/// How long it may take until everything has ended, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// What becomes of an order.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plan {
    Good,
    /// Its child fails.
    ChildFails,
    /// It fails itself, once its child has completed.
    Fails,
}

fn plan(n: &str) -> Plan {
    match n.parse::<u64>().expect("a number") % 3 {
        0 => Plan::Good,
        1 => Plan::ChildFails,
        _ => Plan::Fails,
    }
}

fn script(command: &Command) -> Reply {
    let plan = plan(command.saga_key.as_deref().expect("all of them have one"));
    match (command.step.as_str(), plan) {
        ("fly", Plan::ChildFails) | ("bill", Plan::Fails) => Reply::failure("no"),
        _ => Reply::success(json!({})).twice(),
    }
}

/// Says something of an order, twice.
async fn tell(client: &Client, site: &Site, what: &str, n: &str) {
    for _ in 0..2 {
        let properties = BasicProperties::default().with_message_id(format!("{what}-{n}").into());
        client.publish(&site.name("shop"), what, properties, json!({ "n": n }).to_string().as_bytes()).await;
    }
}

async fn killed_at_random_moments(site: Site) {
    let site = site.with_config(QUEUES).with_config(SHOP);
    site.define("parent", PARENT);
    site.define("child", CHILD);
    let chance = Chance::new();
    let participants = Participants::start(site.amqp(), vec![site.name("classic"), site.name("quorum")], script);
    let client = Client::connect(site.amqp()).await;
    let mut daemon = site.start().await;
    let told = site.name("told");
    client.queue(&told).await;
    let bound = client.channel.queue_bind(
        told.as_str().into(),
        site.name("shop").as_str().into(),
        "order.told".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bound.await.expect("bound");

    for kill in 0..KILLS {
        for n in kill * ORDERS..(kill + 1) * ORDERS {
            tell(&client, &site, "order.placed", &n.to_string()).await;
        }
        // Those that are known are paid; some of them have been before.
        for parent in listed(&daemon, "saga=parent&status=running").await {
            tell(&client, &site, "order.paid", parent["key"].as_str().expect("a key")).await;
        }
        tokio::time::sleep(chance.of(("kill", kill)).millis(50..500)).await;
        daemon.kill();
        is_well(&site).await;
        daemon = site.start().await;
    }
    let parents = ended(&daemon, &client, &site).await;
    let children = listed(&daemon, "saga=child").await;
    is_right(&parents, &children, &participants.stop().await.commands());
    assert!(client.waiting(&told).await.is_some_and(|waiting| u64::from(waiting) >= KILLS * ORDERS * 2 / 3));
    let (_, letters) = daemon.get("/v1/dead-letters").await;
    assert_eq!(letters["items"], json!([]));
    // What the last one that was killed had leased is swept once the lease is over.
    let emptied = async {
        while outbox_rows(site.store()).await > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), emptied).await.expect("the outbox is emptied");
    stop(vec![daemon]).await;
    is_well(&site).await;
    assert_eq!(outbox_rows(site.store()).await, 0, "rows are left in the outbox");
}

async fn is_well(site: &Site) {
    let store = open(site.store()).await;
    look(&store, false).await.is_well();
    store.close().await;
}

/// Waits until all orders have come to their end, paying those that wait for it.
async fn ended(daemon: &Daemon, client: &Client, site: &Site) -> Vec<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let parents = listed(daemon, "saga=parent").await;
        let open: Vec<&Value> = parents.iter().filter(|saga| saga["ended_at"].is_null()).collect();
        if open.is_empty() && parents.len() as u64 >= KILLS * ORDERS {
            return parents;
        }
        assert!(Instant::now() < deadline, "{} orders, of which these have no end: {open:#?}", parents.len());
        for parent in open {
            tell(client, site, "order.paid", parent["key"].as_str().expect("a key")).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn is_right(parents: &[Value], children: &[Value], commands: &[Command]) {
    let text = |saga: &Value, name: &str| saga[name].as_str().expect("a text").to_owned();
    assert_eq!(parents.len() as u64, KILLS * ORDERS, "one saga for each event");
    assert_eq!(children.len(), parents.len(), "one child for each saga");
    let child_of: BTreeMap<String, &Value> =
        children.iter().map(|child| (child["parent"]["id"].as_str().expect("a parent").to_owned(), child)).collect();
    let done = |saga: &Value, step: &str, action: &str| {
        let id = text(saga, "id");
        let of = |command: &&Command| command.saga == id && command.step == step && command.action == action;
        commands.iter().filter(of).filter(|command| command.effect).count()
    };
    for parent in parents {
        let child = child_of[&text(parent, "id")];
        let good = plan(&text(parent, "key")) == Plan::Good;
        let status = if good { "completed" } else { "compensated" };
        assert_eq!((&parent["status"], &child["status"]), (&json!(status), &json!(status)), "{parent:#}\n{child:#}");
        for (saga, step) in [(parent, "book"), (child, "pack")] {
            let undone = usize::from(!good);
            assert_eq!(
                (done(saga, step, "execute"), done(saga, step, "compensate")),
                (1, undone),
                "{step} of {saga:#}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn families_and_events_on_sqlite_survive_the_killing_of_their_daemon() {
    killed_at_random_moments(Site::new(&rabbitmq::own().await.control().url(), None)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn families_and_events_on_postgres_survive_the_killing_of_their_daemon() {
    let database = postgres::database().await;
    killed_at_random_moments(Site::new(&rabbitmq::own().await.control().url(), Some(&database.url))).await;
}
