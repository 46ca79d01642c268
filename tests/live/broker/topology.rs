//! Declaring, verifying, and what is told when the broker has something else.

use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use sagad::broker::amqp::BrokerMisconfigured;
use sagad::broker::listening::Heard;
use sagad::broker::message::Inbox;
use sagad::broker::names::Names;
use sagad::config::{BrokerConfig, Queue, QueueType, Topology, TopologyMode};

use super::{Link, binding, exchange, queue};
use crate::rabbitmq::{self, Client, Scope};

fn told(misconfigured: &BrokerMisconfigured) -> Vec<String> {
    match misconfigured {
        BrokerMisconfigured::Topology(conflicts) => conflicts.iter().map(ToString::to_string).collect(),
        other => panic!("{other}"),
    }
}

async fn declare_queue(client: &Client, name: &str, arguments: &[(&str, AMQPValue)]) {
    let mut table = FieldTable::default();
    for (key, value) in arguments {
        table.insert((*key).into(), value.clone());
    }
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    client.channel.queue_declare(name.into(), options, table).await.expect("declared");
}

async fn declare_exchange(client: &Client, name: &str, kind: ExchangeKind) {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    client.channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await.expect("declared");
}

#[tokio::test(flavor = "multi_thread")]
async fn declares_everything_and_again_the_same_and_verifies_it() {
    for own in [QueueType::Classic, QueueType::Quorum] {
        let scope = Scope::new(rabbitmq::shared().await);
        let commands = scope.name("commands");
        let unrouted = scope.name("unrouted");
        let [prio, limited] = ["prio", "limited"].map(|name| scope.name(name));
        let topology = |mode| {
            let mut main = exchange(&commands, "topic");
            main.alternate = Some(unrouted.clone());
            let mut rest = exchange(&unrouted, "fanout");
            rest.bind = vec![binding(&commands, "audit.#")];
            let mut classic = queue(&prio, QueueType::Classic);
            classic.max_priority = Some(9);
            classic.message_ttl = Some(std::time::Duration::from_secs(600));
            classic.bind = vec![binding(&commands, "pay.*")];
            let mut quorum = queue(&limited, QueueType::Quorum);
            quorum.delivery_limit = Some(5);
            quorum.max_length = Some(1000);
            quorum.overflow = Some("reject-publish".into());
            quorum.bind = vec![binding(&unrouted, "")];
            Topology { mode, exchanges: vec![main, rest], queues: vec![classic, quorum] }
        };
        let config = BrokerConfig { queue_type: own, ..scope.config() };
        for mode in [TopologyMode::Declare, TopologyMode::Declare, TopologyMode::Verify, TopologyMode::Skip] {
            let link = Link::start(config.clone(), &topology(mode));
            link.up().await;
            link.stop().await;
        }

        let client = scope.client().await;
        let names = Names::new(scope.prefix());
        client.publish(&commands, "pay.now", Default::default(), b"").await;
        client.wait_for(&prio, 1).await;
        client.publish(&commands, "ship.now", Default::default(), b"").await;
        client.wait_for(&limited, 1).await;
        client.publish(&commands, "audit.all.of.it", Default::default(), b"").await;
        client.wait_for(&limited, 2).await;
        client.publish(&names.start_exchange(), "no-such-definition", Default::default(), b"").await;
        client.wait_for(&names.queue(Inbox::Starts), 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_conflicts_are_told_at_once_one_for_each_object() {
    let scope = Scope::new(rabbitmq::shared().await);
    let client = scope.client().await;
    let [kind, prio, plain, fine, bound, odd] =
        ["kind", "prio", "plain", "fine", "bound", "odd"].map(|name| scope.name(name));
    let missing = scope.name("missing");
    declare_exchange(&client, &kind, ExchangeKind::Direct).await;
    declare_queue(&client, &prio, &[("x-max-priority", AMQPValue::LongInt(5))]).await;
    declare_queue(&client, &plain, &[]).await;
    // sagad's own may be in the way as well.
    declare_queue(&client, &Names::new(scope.prefix()).queue(Inbox::Replies), &[]).await;

    let with_priorities = Queue { max_priority: Some(9), dead_letter: false, ..queue(&prio, QueueType::Classic) };
    let with_binding = Queue { bind: vec![binding(&missing, "k")], ..queue(&bound, QueueType::Classic) };
    let topology = Topology {
        mode: TopologyMode::Declare,
        exchanges: vec![exchange(&kind, "topic"), exchange(&odd, "x-no-such-type")],
        queues: vec![
            with_priorities,
            queue(&plain, QueueType::Classic),
            queue(&fine, QueueType::Classic),
            with_binding,
        ],
    };
    let misconfigured = Link::start(scope.config(), &topology).misconfigured().await;
    let told = told(&misconfigured);
    let prefix = scope.prefix();
    let expected = [
        format!("exchange `{kind}`: `type` is direct, the configuration asks for topic;"),
        format!("exchange `{odd}`: the broker refuses it: unknown exchange type 'x-no-such-type'"),
        format!(
            "queue `{prefix}.replies`: `x-dead-letter-exchange` is none, the configuration asks for {prefix}.dead;"
        ),
        format!("queue `{prio}`: `x-max-priority` is 5, the configuration asks for 9;"),
        format!("queue `{plain}`: `x-dead-letter-exchange` is none, the configuration asks for {prefix}.dead;"),
        format!(
            "the binding of queue `{bound}` to exchange `{missing}` with routing key `k`: something it needs is missing: \
             no exchange '{missing}' in vhost '/'"
        ),
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(&expected) {
        assert!(told.starts_with(expected), "{told}\nshould begin with\n{expected}");
    }
    let lines = misconfigured.to_string();
    assert_eq!(lines.lines().count(), expected.len(), "one line for each object");
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_tells_all_that_is_missing_and_declares_nothing() {
    let scope = Scope::new(rabbitmq::shared().await);
    let there = scope.name("there");
    let missing = scope.name("missing");
    let elsewhere = scope.name("elsewhere");
    let client = scope.client().await;
    declare_queue(&client, &there, &[]).await;
    let bound = Queue { bind: vec![binding(&elsewhere, "k")], ..queue(&there, QueueType::Classic) };
    let topology = Topology {
        mode: TopologyMode::Verify,
        exchanges: vec![exchange(&missing, "topic")],
        queues: vec![bound, queue(&missing, QueueType::Quorum)],
    };
    let told = told(&Link::start(scope.config(), &topology).misconfigured().await);
    let prefix = scope.prefix();
    // sagad's own: 5 exchanges, 7 inboxes, 18 rungs; the configuration's: an exchange, a queue, and the source of a binding.
    assert_eq!(told.len(), 5 + 7 + 18 + 3, "{told:#?}");
    for object in
        [format!("exchange `{prefix}.start`"), format!("queue `{prefix}.delay.100`"), format!("queue `{missing}`")]
    {
        let why = format!("{object}: it does not exist, and topology.mode = \"verify\" declares nothing");
        assert!(told.iter().any(|told| told.starts_with(&why)), "{why} is missing in {told:#?}");
    }
    assert!(told.iter().any(|told| told.contains(&format!("no exchange '{elsewhere}'"))), "{told:#?}");
    assert_eq!(client.waiting(&missing).await, None, "verify declares nothing");
    assert_eq!(client.waiting(&format!("{prefix}.replies")).await, None, "verify declares nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn skip_believes_but_must_be_able_to_consume() {
    let scope = Scope::new(rabbitmq::shared().await);
    let topology = Topology { mode: TopologyMode::Skip, ..Topology::default() };
    let told = told(&Link::start(scope.config(), &topology).misconfigured().await);
    let replies = Names::new(scope.prefix()).queue(Inbox::Replies);
    assert_eq!(
        told,
        [format!(
            "queue `{replies}`: it does not exist, and topology.mode = \"skip\" declares nothing (no queue '{replies}' in vhost '/')"
        )]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_enter_is_told_so() {
    let scope = Scope::new(rabbitmq::shared().await);
    let url = scope.config().url;
    let (_, place) = url.rsplit_once('@').expect("a URL with a user");
    let place = place.split('/').next().expect("a host");
    for (url, part) in [
        (format!("amqp://guest:wrong@{place}/%2f"), "refuses the user `guest` or its password"),
        (format!("amqp://guest:guest@{place}/nowhere"), "into the virtual host `nowhere`"),
        (format!("amqp://guest:guest@{place}/"), "the usual one is /%2f"),
        ("mq.example".to_owned(), "broker.url can't be read"),
    ] {
        let config = BrokerConfig { url, ..scope.config() };
        let told = Link::start(config, &Topology::default()).misconfigured().await.to_string();
        assert!(told.contains(part), "{told}");
        assert!(!told.contains("wrong"), "a password is nobody's business: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_found_later_is_waited_out_without_publishing() {
    let scope = Scope::new(rabbitmq::shared().await);
    let client = scope.client().await;
    let orders = scope.name("orders");
    let topology = Topology {
        queues: vec![Queue { dead_letter: false, ..queue(&orders, QueueType::Classic) }],
        ..Topology::default()
    };
    let mut link = Link::start(scope.config(), &topology);
    link.up().await;

    // Someone else's deployment: another queue of that name, and an inbox deleted, which ends the epoch.
    let wakeups = Names::new(scope.prefix()).queue(Inbox::WakeUps);
    client.channel.queue_delete(orders.as_str().into(), Default::default()).await.expect("deleted");
    declare_queue(&client, &orders, &[("x-max-length", AMQPValue::LongInt(1))]).await;
    client.channel.queue_delete(wakeups.as_str().into(), Default::default()).await.expect("deleted");
    let why = link.health_becomes(|trouble| trouble.is_some_and(|why| why.contains("x-max-length"))).await;
    assert!(why.is_some_and(|why| why.contains(&format!("queue `{orders}`"))));
    link.publish(super::command("", &orders, 1));

    client.channel.queue_delete(orders.as_str().into(), Default::default()).await.expect("deleted");
    link.up().await;
    link.next().await;
    client.wait_for(&orders, 1).await;
    link.stop().await;
}

fn heard(pairs: &[(&str, &str)]) -> Heard {
    let by = || ["order".to_owned()].into();
    pairs.iter().map(|(exchange, key)| (((*exchange).to_owned(), (*key).to_owned()), by())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_others_are_heard_at_once_and_after_every_reconnect() {
    let scope = Scope::new(rabbitmq::shared().await);
    let client = scope.client().await;
    let [shop, stock] = ["shop", "stock"].map(|name| scope.name(name));
    declare_exchange(&client, &shop, ExchangeKind::Topic).await;
    // One that the configuration declares is there in time.
    let topology = Topology { exchanges: vec![exchange(&stock, "topic")], ..Topology::default() };
    let mut link = Link::start(scope.config(), &topology);
    link.listener.listen(heard(&[(&shop, "order.*")])).await.expect("nothing is refused yet");
    link.up().await;
    client.publish(&shop, "order.placed", Default::default(), b"1").await;
    let first = link.delivery().await;
    let message = &first.message;
    assert_eq!(
        (message.queue, message.exchange.as_str(), message.routing_key.as_str()),
        (Inbox::Events, shop.as_str(), "order.placed")
    );
    first.receipt.ack();

    let both = heard(&[(&shop, "order.*"), (&stock, "#.reserved")]);
    link.listener.listen(both.clone()).await.expect("bound while the link is up");
    client.publish(&stock, "goods.reserved", Default::default(), b"2").await;
    let second = link.delivery().await;
    assert_eq!(second.message.exchange, stock);
    second.receipt.ack();

    let missing = scope.name("missing");
    let mut wider = both.clone();
    wider.extend(heard(&[(&missing, "a"), (&missing, "b")]));
    let refused = link.listener.listen(wider).await.expect_err("the exchange does not exist");
    let told: Vec<String> = refused.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 1, "one for each object: {told:?}");
    let expected = format!("exchange `{missing}`: it does not exist, and `order` listens to it;");
    assert!(told[0].starts_with(&expected), "{told:?}");

    // The queue is gone with its bindings, which ends the epoch: the next one has them all again.
    let queue = Names::new(scope.prefix()).queue(Inbox::Events);
    client.channel.queue_delete(queue.as_str().into(), Default::default()).await.expect("deleted");
    link.down().await;
    link.up().await;
    client.publish(&stock, "reserved", Default::default(), b"3").await;
    client.publish(&shop, "order.placed.twice", Default::default(), b"unheard").await;
    client.publish(&shop, "order.shipped", Default::default(), b"4").await;
    for body in [b"3", b"4"] {
        let delivery = link.delivery().await;
        assert_eq!(&delivery.message.body[..], body);
        delivery.receipt.ack();
    }
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_wants_to_hear_an_exchange_that_is_missing_does_not_start() {
    for mode in [TopologyMode::Declare, TopologyMode::Verify] {
        let scope = Scope::new(rabbitmq::shared().await);
        let there = scope.name("there");
        declare_exchange(&scope.client().await, &there, ExchangeKind::Topic).await;
        let declared = Link::start(scope.config(), &Topology::default());
        declared.up().await;
        declared.stop().await;
        let topology = Topology { mode, ..Topology::default() };
        let link = Link::start(scope.config(), &topology);
        let [one, other] = ["one", "other"].map(|name| scope.name(name));
        let wanted = heard(&[(&one, "a"), (&one, "b"), (&other, "a"), (&there, "a")]);
        link.listener.listen(wanted).await.expect("nothing is refused yet");
        let told = told(&link.misconfigured().await);
        assert_eq!(told.len(), 2, "one for each object: {told:?}");
        for (told, exchange) in told.iter().zip([one, other]) {
            assert!(told.starts_with(&format!("exchange `{exchange}`: it does not exist")), "{told}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_needs_a_routing_key_only() {
    let scope = Scope::new(rabbitmq::shared().await);
    let mut link = Link::start(scope.config(), &Topology::default());
    link.up().await;
    let exchange = Names::new(scope.prefix()).signals_exchange();
    scope.client().await.publish(&exchange, "approved.by.all", Default::default(), b"{}").await;
    let delivery = link.delivery().await;
    assert_eq!((delivery.message.queue, delivery.message.routing_key.as_str()), (Inbox::Signals, "approved.by.all"));
    delivery.receipt.ack();
    link.stop().await;
}
