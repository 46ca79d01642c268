//! Deliveries and their acknowledgements, the ladder of delays, dead letters.

use std::time::{Duration, Instant};

use lapin::BasicProperties;
use lapin::options::{BasicGetOptions, BasicRejectOptions};
use lapin::types::{AMQPValue, FieldTable};
use sagad::broker::message::{Inbox, Outgoing, Properties};
use sagad::broker::names::Names;
use sagad::config::{BrokerConfig, Queue, QueueType, Topology};
use serde_json::json;

use super::{Link, command, queue};
use crate::rabbitmq::{self, Client, Scope};

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_is_handed_on_as_it_came() {
    let scope = Scope::new(rabbitmq::shared().await);
    let names = Names::new(scope.prefix());
    let mut link = Link::start(scope.config(), &Topology::default());
    link.up().await;
    let client = scope.client().await;
    let mut headers = FieldTable::default();
    headers.insert("saga-outcome".into(), AMQPValue::LongString("success".into()));
    headers.insert("raw".into(), AMQPValue::LongString(vec![0xff, b'x'].into()));
    let properties = BasicProperties::default()
        .with_correlation_id("c1".into())
        .with_message_id("m1".into())
        .with_timestamp(1_767_323_045)
        .with_headers(headers);
    let large = vec![b'x'; 3 << 20];
    client.publish("", &names.queue(Inbox::Replies), properties, &large).await;
    let answer = link.delivery().await;
    assert_eq!(answer.message.queue, Inbox::Replies);
    assert_eq!(answer.message.exchange, "");
    assert_eq!(answer.message.routing_key, names.queue(Inbox::Replies));
    assert!(!answer.message.redelivered);
    assert_eq!(answer.message.properties.correlation_id.as_deref(), Some("c1"));
    assert_eq!(answer.message.properties.timestamp.map(|time| time.0), Some(1_767_323_045_000));
    assert_eq!(answer.message.properties.header_str("saga-outcome"), Some("success"));
    assert_eq!(answer.message.properties.header_str("raw"), Some("\u{fffd}x"));
    assert_eq!(answer.message.body, large, "what is too large is for the engine to keep");
    answer.receipt.ack();

    client.publish(&names.start_exchange(), "order", BasicProperties::default(), b"{}").await;
    let start = link.delivery().await;
    assert_eq!((start.message.queue, start.message.routing_key.as_str()), (Inbox::Starts, "order"));
    start.receipt.ack();
    link.stop().await;
    assert_eq!(client.waiting(&names.queue(Inbox::Replies)).await, Some(0), "acknowledged before it stopped");
    assert_eq!(client.waiting(&names.queue(Inbox::Starts)).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_acknowledgements_leave_nothing_behind_in_whatever_order_they_come() {
    let node = rabbitmq::private().await;
    let scope = Scope::new(&node.url());
    let replies = Names::new(scope.prefix()).queue(Inbox::Replies);
    let mut link = Link::start(BrokerConfig { prefetch: 100, ..scope.config() }, &Topology::default());
    link.up().await;
    let client = scope.client().await;
    for number in 0..1000 {
        client.publish("", &replies, BasicProperties::default(), number.to_string().as_bytes()).await;
    }
    // Fifty at a time, each fifty backwards, and one of them held back while all others are finished.
    let mut held = None;
    for round in 0..20 {
        let mut fifty = Vec::new();
        for _ in 0..50 {
            fifty.push(link.delivery().await);
        }
        if round == 3 {
            held = fifty.pop();
        }
        fifty.into_iter().rev().for_each(|delivery| delivery.receipt.ack());
    }
    unacked(&node, &replies, 1).await;
    held.expect("held back").receipt.ack();
    unacked(&node, &replies, 0).await;
    link.stop().await;
    assert_eq!(client.waiting(&replies).await, Some(0));
}

/// Waits until a queue has so many unacknowledged messages, and no other.
async fn unacked(node: &rabbitmq::Node, queue: &str, count: u32) {
    let deadline = Instant::now() + super::PATIENCE;
    loop {
        let queues = node.list_queues(&["name", "messages", "messages_unacknowledged"]).await;
        let row = queues.into_iter().find(|row| row[0] == queue).expect("listed");
        if row[1..] == [count.to_string(), count.to_string()] {
            return;
        }
        assert!(Instant::now() < deadline, "{row:?}, not {count}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_acknowledged_comes_again_without_end() {
    let scope = Scope::new(rabbitmq::shared().await);
    let replies = Names::new(scope.prefix()).queue(Inbox::Replies);
    let config = BrokerConfig { queue_type: QueueType::Quorum, ..scope.config() };
    // A new RabbitMQ gives up a message after 20 deliveries, unless the queue says otherwise.
    for round in 0..25 {
        let mut link = Link::start(config.clone(), &Topology::default());
        link.up().await;
        if round == 0 {
            scope.client().await.publish("", &replies, BasicProperties::default(), b"answer").await;
        }
        let delivery = link.delivery().await;
        assert_eq!((delivery.message.queue, &delivery.message.body[..]), (Inbox::Replies, &b"answer"[..]));
        assert_eq!(delivery.message.redelivered, round > 0);
        link.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ladder_wakes_in_time() {
    for kind in [QueueType::Classic, QueueType::Quorum] {
        let scope = Scope::new(rabbitmq::shared().await);
        let names = Names::new(scope.prefix());
        let mut link = Link::start(BrokerConfig { queue_type: kind, ..scope.config() }, &Topology::default());
        link.up().await;
        let began = Instant::now();
        for (number, millis) in [800, 100, 400].into_iter().enumerate() {
            let rung = names.delay_queue(Duration::from_millis(millis)).expect("a rung");
            link.publish(command("", &rung, number));
        }
        for (number, millis) in [(1, 100), (2, 400), (0, 800)] {
            let wakeup = link.delivery().await;
            assert_eq!(wakeup.message.queue, Inbox::WakeUps);
            assert_eq!(wakeup.message.body, format!("{number}"));
            assert!(began.elapsed() >= Duration::from_millis(millis), "too early: {:?}", began.elapsed());
            assert!(began.elapsed() < Duration::from_millis(millis) + Duration::from_secs(5), "{:?}", began.elapsed());
            wakeup.receipt.ack();
        }
        link.stop().await;
    }
}

/// Rejects one message as a participant does that gives up.
async fn reject(client: &Client, queue: &str) {
    client.wait_for(queue, 1).await;
    let message =
        client.channel.basic_get(queue.into(), BasicGetOptions::default()).await.expect("got").expect("there");
    message.delivery.acker.reject(BasicRejectOptions { requeue: false }).await.expect("rejected");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_says_where_and_why_it_died() {
    for kind in [QueueType::Classic, QueueType::Quorum] {
        let scope = Scope::new(rabbitmq::shared().await);
        let payments = scope.name("payments");
        let topology = Topology { queues: vec![queue(&payments, kind)], ..Topology::default() };
        let mut link = Link::start(scope.config(), &topology);
        link.up().await;
        link.publish(command("", &payments, 1));
        reject(&scope.client().await, &payments).await;
        let dead = link.delivery().await;
        assert_eq!(dead.message.queue, Inbox::Dead);
        assert_eq!(dead.message.routing_key, payments, "the command's own key");
        assert_eq!(dead.message.properties.message_id.as_deref(), Some("m1"));
        let death = &dead.message.properties.headers["x-death"][0];
        assert_eq!(death["reason"], "rejected");
        assert_eq!(death["queue"], payments.as_str());
        assert_eq!(death["exchange"], "");
        assert_eq!(death["count"], 1);
        assert_eq!(death["routing-keys"], json!([payments]));
        dead.receipt.ack();

        let expiring = Properties { expiration: Some("50".into()), ..command("", &payments, 2).properties };
        link.publish(Outgoing { properties: expiring, ..command("", &payments, 2) });
        let dead = link.delivery().await;
        assert_eq!(dead.message.properties.headers["x-death"][0]["reason"], "expired");
        dead.receipt.ack();
        link.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_an_inbox_gives_up_is_still_an_answer() {
    let scope = Scope::new(rabbitmq::shared().await);
    let replies = Names::new(scope.prefix()).queue(Inbox::Replies);
    let link = Link::start(scope.config(), &Topology::default());
    link.up().await;
    link.stop().await;
    let client = scope.client().await;
    let properties = BasicProperties::default().with_correlation_id("c7".into());
    client.publish("", &replies, properties, b"{}").await;
    reject(&client, &replies).await;
    client.wait_for(&Names::new(scope.prefix()).queue(Inbox::Dead), 1).await;
    let mut link = Link::start(scope.config(), &Topology::default());
    let answer = link.delivery().await;
    assert_eq!(answer.message.queue, Inbox::Replies);
    assert_eq!(answer.message.properties.correlation_id.as_deref(), Some("c7"));
    answer.receipt.ack();
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_engine_slows_consuming_and_holds_no_more_than_the_prefetch() {
    let scope = Scope::new(rabbitmq::shared().await);
    let replies = Names::new(scope.prefix()).queue(Inbox::Replies);
    let mut link = Link::start(BrokerConfig { prefetch: 10, ..scope.config() }, &Topology::default());
    link.up().await;
    let client = scope.client().await;
    for _ in 0..50 {
        client.publish("", &replies, BasicProperties::default(), b"").await;
    }
    client.wait_for(&replies, 40).await;
    let first = link.delivery().await;
    first.receipt.ack();
    client.wait_for(&replies, 39).await;
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn priorities_reach_a_participants_queue() {
    let scope = Scope::new(rabbitmq::shared().await);
    let work = scope.name("work");
    let prio = Queue { max_priority: Some(9), ..queue(&work, QueueType::Classic) };
    let mut link = Link::start(scope.config(), &Topology { queues: vec![prio], ..Topology::default() });
    link.up().await;
    for priority in [0, 5, 9] {
        let message = command("", &work, usize::from(priority));
        let properties = Properties { priority: Some(priority), ..message.properties.clone() };
        link.publish(Outgoing { properties, ..message });
        link.next().await;
    }
    let client = scope.client().await;
    for priority in ["9", "5", "0"] {
        assert_eq!(client.take(&work).await.expect("there").data, priority.as_bytes());
    }
    link.stop().await;
}
