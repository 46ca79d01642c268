//! The broker dies, comes back, throws everybody out, runs out of memory.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use lapin::BasicProperties;
use sagad::broker::message::{Inbox, Published};
use sagad::broker::names::Names;
use sagad::config::{BrokerConfig, QueueType, Topology};
use uuid::Uuid;

use super::{Link, PATIENCE, command, queue};
use crate::rabbitmq::{self, Scope};

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_is_waited_for() {
    let scope = Scope::new(rabbitmq::shared().await);
    // A port that nobody listens on, as it was free just now.
    let port =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr()).expect("a free port").port();
    let url = format!("amqp://guest:guest@127.0.0.1:{port}/%2f");
    let link = Link::start(BrokerConfig { url, ..scope.config() }, &Topology::default());
    let why = link.down().await;
    assert!(why.starts_with(&format!("can't connect to the broker at 127.0.0.1:{port}: ")), "{why}");
    assert!(why.contains("refused"), "{why}");
    assert!(!link.task.is_finished());
    link.publish(command("", "q", 1));
    link.stop.all.cancel();
    tokio::time::timeout(PATIENCE, link.task)
        .await
        .expect("ends")
        .expect("does not panic")
        .expect("is no misconfiguration");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_broker_is_killed_under_load() {
    let mut node = rabbitmq::private().await;
    let scope = Scope::new(&node.url());
    let work = scope.name("work");
    let replies = Names::new(scope.prefix()).queue(Inbox::Replies);
    let config = BrokerConfig { queue_type: QueueType::Quorum, ..scope.config() };
    let topology = Topology { queues: vec![queue(&work, QueueType::Quorum)], ..Topology::default() };
    let mut link = Link::start(config, &topology);
    link.up().await;
    scope.client().await.publish("", &replies, BasicProperties::default(), b"held").await;
    let held = link.delivery().await;
    node.sync().await;

    let publisher = link.publisher.clone();
    let key = work.clone();
    let load = tokio::spawn(async move {
        let mut sent = Vec::new();
        for number in 0..20_000 {
            let outbox = Uuid::now_v7();
            let message = std::sync::Arc::new(command("", &key, number));
            let publication = sagad::broker::message::Publication {
                outbox: Some(outbox),
                message,
                told: None,
                handover: Default::default(),
            };
            publisher.publish(publication).expect("the link runs");
            sent.push(outbox);
            if number % 100 == 99 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        sent
    });
    let mut confirmed = HashSet::new();
    let mut confirm = async |link: &mut Link, until: usize| {
        while confirmed.len() < until {
            match link.next().await {
                Published::Confirmed { outbox, .. } => assert!(confirmed.insert(outbox), "confirmed twice"),
                other => panic!("{other:?}"),
            }
        }
    };
    for so_far in [1_000, 6_000] {
        confirm(&mut link, so_far).await;
        node.kill();
        link.down().await;
        node.start().await;
    }
    // What was delivered before may be acknowledged now, which goes nowhere, and breaks nothing.
    held.receipt.ack();
    confirm(&mut link, 20_000).await;
    assert_eq!(confirmed, load.await.expect("does not panic").into_iter().collect());
    assert_eq!(link.publisher.in_hand(), 0);

    // What was held has come again, in each epoch once; only the receipt of the last counts.
    let deadline = Instant::now() + PATIENCE;
    while count(&node, &replies).await > 0 {
        assert!(Instant::now() < deadline, "what was held does not come again");
        while let Ok(again) = link.deliveries.try_recv() {
            assert!(again.message.redelivered);
            again.receipt.ack();
        }
    }
    link.stop().await;

    let client = scope.client().await;
    let arrived = client.drain(&work).await;
    let numbers: HashSet<&[u8]> = arrived.iter().map(|message| &message.data[..]).collect();
    assert_eq!(numbers.len(), 20_000, "none is lost");
    let duplicates = arrived.len() - numbers.len();
    println!("{duplicates} of 20000 messages came twice over two kills");
    assert!(duplicates <= 2 * 512, "{duplicates} duplicates: more than the batches that were in flight");
}

/// How many messages a queue has, taken or not.
async fn count(node: &rabbitmq::Node, queue: &str) -> u32 {
    let queues = node.list_queues(&["name", "messages"]).await;
    let row = queues.into_iter().find(|row| row[0] == queue).expect("listed");
    row[1].parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_connections_are_opened_again() {
    let node = rabbitmq::private().await;
    let scope = Scope::new(&node.url());
    let names = Names::new(scope.prefix());
    let mut link = Link::start(scope.config(), &Topology::default());
    link.up().await;
    for number in 0..3 {
        node.ctl(&["close_all_connections", "maintenance"]).await;
        let why = link.down_then_up().await;
        assert!(why.contains("CONNECTION_FORCED - maintenance"), "{why}");
        link.publish(command("", &names.queue(Inbox::Replies), number));
        let delivery = link.delivery().await;
        assert_eq!(delivery.message.body, number.to_string().as_bytes());
        delivery.receipt.ack();
    }
    link.stop().await;
    let connections = node.ctl(&["list_connections", "--quiet", "pid"]).await;
    assert_eq!(connections.lines().filter(|line| line.starts_with('<')).count(), 0, "{connections}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_inbox_is_declared_again() {
    let scope = Scope::new(rabbitmq::shared().await);
    let replies = Names::new(scope.prefix()).queue(Inbox::Replies);
    let mut link = Link::start(scope.config(), &Topology::default());
    link.up().await;
    let client = scope.client().await;
    client.channel.queue_delete(replies.as_str().into(), Default::default()).await.expect("deleted");
    let why = link.down_then_up().await;
    assert!(why.contains(&format!("no longer lets {replies} be consumed")), "{why}");
    client.publish("", &replies, BasicProperties::default(), b"back").await;
    assert_eq!(&link.delivery().await.message.body[..], b"back");
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_out_of_memory_blocks_publishing_and_nothing_else() {
    let mut node = rabbitmq::private().await;
    let scope = Scope::new(&node.url());
    let names = Names::new(scope.prefix());
    let work = scope.name("work");
    let topology = Topology { queues: vec![queue(&work, QueueType::Classic)], ..Topology::default() };
    // A heartbeat of a second: were the broker to miss ours while it does not read, it would show.
    let url = format!("{}?heartbeat=1", node.url());
    let mut link = Link::start(BrokerConfig { url, ..scope.config() }, &topology);
    link.up().await;
    // Something to consume while it is blocked: it wakes in seconds.
    link.publish(command("", &names.delay_queue(Duration::from_secs(7)).expect("a rung"), 1));
    assert!(matches!(link.next().await, Published::Confirmed { .. }));

    node.starve().await;
    let sent: Vec<Uuid> = (0..2000).map(|number| link.publish(command("", &work, number))).collect();
    let why = link.down().await;
    assert!(why.starts_with("the broker blocks publishers: "), "{why}");

    let wakeup = link.delivery().await;
    wakeup.receipt.ack();
    assert_eq!(count(&node, &names.queue(Inbox::WakeUps)).await, 0, "acknowledged while publishing is blocked");
    assert_eq!(link.down().await, why, "still the same epoch");
    assert!(link.told.is_empty() && link.published.try_recv().is_err());

    node.feed().await;
    link.up().await;
    for outbox in sent {
        assert!(matches!(link.next().await, Published::Confirmed { outbox: confirmed, .. } if confirmed == outbox));
    }
    let client = scope.client().await;
    assert_eq!(client.waiting(&work).await, Some(2000), "each once: the link was never cut");
    link.stop().await;
}

impl Link {
    /// Waits until it has been down and is up again, and gives why it was down.
    async fn down_then_up(&self) -> String {
        let why = self.down().await;
        self.up().await;
        why
    }
}
