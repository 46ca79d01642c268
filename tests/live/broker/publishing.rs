//! Confirmed, returned, refused: each message is told what became of it, whatever becomes of those around it.

use std::collections::HashMap;
use std::sync::Arc;

use lapin::options::QueueDeleteOptions;
use sagad::broker::message::{Outgoing, Properties, Publication, Published, Taken};
use sagad::config::{Queue, QueueType, Topology};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{Link, command, queue};
use crate::rabbitmq::{self, Scope};

async fn outcomes(link: &mut Link, count: usize) -> HashMap<Uuid, Published> {
    let mut outcomes = HashMap::new();
    for _ in 0..count {
        let outcome = link.next().await;
        let (Published::Confirmed { outbox, .. }
        | Published::Returned { outbox, .. }
        | Published::Expired { outbox, .. }
        | Published::Deferred(outbox)
        | Published::Refused { outbox, .. }) = &outcome;
        assert!(outcomes.insert(*outbox, outcome).is_none(), "told twice");
    }
    assert!(link.told.is_empty() && link.published.try_recv().is_err(), "told of something that was not published");
    outcomes
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_arrive_in_order_with_all_they_carry() {
    let scope = Scope::new(rabbitmq::shared().await);
    let client = scope.client().await;
    let inbox = scope.name("q");
    client.queue(&inbox).await;
    let mut link = Link::start(scope.config(), &Topology::default());
    let sent: Vec<Uuid> = (0..2000).map(|number| link.publish(command("", &inbox, number))).collect();
    for outbox in sent {
        assert!(
            matches!(link.next().await, Published::Confirmed { outbox: confirmed, .. } if confirmed == outbox),
            "in the order of sending"
        );
    }
    client.wait_for(&inbox, 2000).await;
    for number in 0..2000 {
        let message = client.take(&inbox).await.expect("there");
        assert_eq!(message.data, number.to_string().as_bytes());
        assert_eq!(message.properties.message_id().as_ref().map(|id| id.as_str()), Some(format!("m{number}").as_str()));
        assert_eq!(*message.properties.delivery_mode(), Some(2));
    }
    assert_eq!(link.publisher.in_hand(), 0);
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_no_queue_takes_comes_back_by_its_id_under_load() {
    let scope = Scope::new(rabbitmq::shared().await);
    let client = scope.client().await;
    let inbox = scope.name("q");
    client.queue(&inbox).await;
    let mut link = Link::start(scope.config(), &Topology::default());
    let nowhere = scope.name("nowhere");
    let lost = |number: usize| number % 7 == 3;
    let sent: Vec<Uuid> = (0..5000)
        .map(|number| link.publish(command("", if lost(number) { &nowhere } else { &inbox }, number)))
        .collect();
    let outcomes = outcomes(&mut link, sent.len()).await;
    for (number, outbox) in sent.iter().enumerate() {
        match &outcomes[outbox] {
            Published::Returned { message, text, .. } if lost(number) => {
                assert_eq!(message.body, number.to_string().as_bytes());
                assert_eq!(text, "312 NO_ROUTE");
            }
            Published::Confirmed { .. } if !lost(number) => {}
            other => panic!("{number}: {other:?}"),
        }
    }
    client.wait_for(&inbox, (0..5000).filter(|number| !lost(*number)).count() as u32).await;
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_exchange_in_the_middle_concerns_its_own_messages_only() {
    let scope = Scope::new(rabbitmq::shared().await);
    let client = scope.client().await;
    let inbox = scope.name("q");
    client.queue(&inbox).await;
    let mut link = Link::start(scope.config(), &Topology::default());
    link.up().await;
    let [one, two] = ["no-exchange", "nor-this"].map(|name| scope.name(name));
    let target = |number: usize| match number % 100 {
        50 => Some(&one),
        77 => Some(&two),
        _ => None,
    };
    let sent: Vec<Uuid> = (0..3000)
        .map(|number| match target(number) {
            Some(exchange) => link.publish(command(exchange, "k", number)),
            None => link.publish(command("", &inbox, number)),
        })
        .collect();
    let outcomes = outcomes(&mut link, sent.len()).await;
    for (number, outbox) in sent.iter().enumerate() {
        match (&outcomes[outbox], target(number)) {
            (Published::Returned { text, .. }, Some(exchange)) => {
                assert_eq!(*text, format!("NOT_FOUND - no exchange '{exchange}' in vhost '/'"));
            }
            (Published::Confirmed { .. }, None) => {}
            (other, _) => panic!("{number}: {other:?}"),
        }
    }
    assert_eq!(link.health.trouble(sagad::health::Part::Broker), None);

    let mut arrived = HashMap::<Vec<u8>, usize>::new();
    while let Some(message) = client.take(&inbox).await {
        *arrived.entry(message.data).or_default() += 1;
    }
    assert_eq!(arrived.len(), 3000 - 60, "none is lost");
    let twice = arrived.values().filter(|times| **times > 1).count();
    assert!(
        twice <= 2 * 100,
        "{twice} came twice: a channel is lost once for each missing exchange, not for each batch"
    );
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_the_broker_will_not_have_is_found_without_its_name() {
    let scope = Scope::new(rabbitmq::shared().await);
    let client = scope.client().await;
    let inbox = scope.name("q");
    client.queue(&inbox).await;
    let mut link = Link::start(scope.config(), &Topology::default());
    let forged =
        Properties { user_id: Some("someone-else".into()), message_id: Some("forged".into()), ..Properties::default() };
    let late = Properties { expiration: Some("soon".into()), message_id: Some("late".into()), ..Properties::default() };
    let bad = |properties: Properties| Outgoing { properties, ..command("", &inbox, 0) };
    let long = command("", &"k".repeat(256), 0);
    let sent = [
        link.publish(command("", &inbox, 1)),
        link.publish(bad(forged)),
        link.publish(command("", &inbox, 2)),
        link.publish(bad(late)),
        link.publish(long),
        link.publish(command("", &inbox, 3)),
    ];
    let outcomes = outcomes(&mut link, sent.len()).await;
    let returned = |at: usize| match &outcomes[&sent[at]] {
        Published::Returned { text, .. } => text.as_str(),
        other => panic!("{other:?}"),
    };
    assert!(returned(1).contains("user_id property set to 'someone-else'"), "{}", returned(1));
    assert!(returned(3).contains("invalid expiration 'soon'"), "{}", returned(3));
    assert_eq!(returned(4), "the routing key has 256 bytes, AMQP allows 255");
    for at in [0, 2, 5] {
        assert!(matches!(outcomes[&sent[at]], Published::Confirmed { .. }));
    }
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_what_is_too_much() {
    let scope = Scope::new(rabbitmq::shared().await);
    let full = scope.name("full");
    let limited = Queue {
        max_length: Some(10),
        overflow: Some("reject-publish".into()),
        dead_letter: false,
        ..queue(&full, QueueType::Classic)
    };
    let mut link = Link::start(scope.config(), &Topology { queues: vec![limited], ..Topology::default() });
    link.up().await;
    let sent: Vec<Uuid> = (0..50).map(|number| link.publish(command("", &full, number))).collect();
    let outcomes = outcomes(&mut link, sent.len()).await;
    let refused = outcomes.values().filter(|outcome| matches!(outcome, Published::Refused { .. })).count();
    let confirmed = outcomes.values().filter(|outcome| matches!(outcome, Published::Confirmed { .. })).count();
    assert_eq!(refused + confirmed, 50);
    let client = scope.client().await;
    assert_eq!(client.waiting(&full).await, Some(u32::try_from(confirmed).expect("few")));
    assert!(refused >= 30, "{refused}");
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_without_an_outbox_row_is_told_whether_the_broker_took_it() {
    let scope = Scope::new(rabbitmq::shared().await);
    let client = scope.client().await;
    let inbox = scope.name("q");
    client.queue(&inbox).await;
    let mut link = Link::start(scope.config(), &Topology::default());
    let publish = |message: Outgoing| {
        let (told, outcome) = oneshot::channel();
        let publication =
            Publication { outbox: None, message: Arc::new(message), told: Some(told), handover: Default::default() };
        link.publisher.publish(publication).expect("the link runs");
        outcome
    };
    assert_eq!(publish(command("", &inbox, 1)).await, Ok(Taken::Yes));
    let returned = publish(command("", &scope.name("nowhere"), 2));
    let missing = publish(command(&scope.name("no-exchange"), "k", 3));
    assert_eq!(returned.await, Ok(Taken::No), "no queue takes it");
    assert_eq!(missing.await, Ok(Taken::No), "there is no such exchange");
    assert!(link.published.try_recv().is_err(), "there is no row to be told of");
    client.wait_for(&inbox, 1).await;
    assert_eq!(link.publisher.in_hand(), 0);
    link.publish(command("", &inbox, 4));
    assert!(matches!(link.next().await, Published::Confirmed { .. }));
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_appears_later_is_used() {
    let scope = Scope::new(rabbitmq::shared().await);
    let client = scope.client().await;
    let late = scope.name("late");
    let mut link = Link::start(scope.config(), &Topology::default());
    link.publish(command(&late, "k", 1));
    assert!(matches!(link.next().await, Published::Returned { .. }));
    let options = lapin::options::ExchangeDeclareOptions { durable: true, ..Default::default() };
    client
        .channel
        .exchange_declare(late.as_str().into(), lapin::ExchangeKind::Fanout, options, Default::default())
        .await
        .expect("declared");
    link.publish(command(&late, "k", 2));
    match link.next().await {
        Published::Returned { text, .. } => assert_eq!(text, "312 NO_ROUTE", "the exchange is there, a queue is not"),
        other => panic!("{other:?}"),
    }
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_waiting_is_published_before_it_stops() {
    let scope = Scope::new(rabbitmq::shared().await);
    let client = scope.client().await;
    let inbox = scope.name("q");
    client.queue(&inbox).await;
    let link = Link::start(scope.config(), &Topology::default());
    link.up().await;
    let mut published = Vec::new();
    for number in 0..3000 {
        published.push(link.publish(command("", &inbox, number)));
    }
    link.stop().await;
    client.wait_for(&inbox, 3000).await;
    client.channel.queue_delete(inbox.as_str().into(), QueueDeleteOptions::default()).await.expect("deleted");
}
