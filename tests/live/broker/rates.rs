//! How fast the link is. Printed, and held against a floor that only a mistake falls below (a round trip for each message, say).

use std::time::Instant;

use sagad::broker::message::{Inbox, Published};
use sagad::broker::names::Names;
use sagad::config::{BrokerConfig, QueueType, Topology};

use super::{Link, command};
use crate::rabbitmq::{self, Scope};

#[tokio::test(flavor = "multi_thread")]
async fn publishing_and_consuming_go_in_bulk() {
    const COUNT: usize = 20_000;
    for kind in [QueueType::Classic, QueueType::Quorum] {
        let scope = Scope::new(rabbitmq::shared().await);
        let replies = Names::new(scope.prefix()).queue(Inbox::Replies);
        let mut link = Link::start(BrokerConfig { queue_type: kind, ..scope.config() }, &Topology::default());
        link.up().await;
        let message = |number| {
            let mut message = command("", &replies, number);
            message.body = vec![b'x'; 261].into();
            message
        };
        // Not consumed while it is published.
        link.stop.consuming.cancel();
        let messages: Vec<_> = (0..COUNT).map(message).collect();
        let began = Instant::now();
        for message in messages {
            link.publish(message);
        }
        for _ in 0..COUNT {
            assert!(matches!(link.next().await, Published::Confirmed { .. }));
        }
        let published = COUNT as f64 / began.elapsed().as_secs_f64();
        link.stop().await;

        let mut link = Link::start(BrokerConfig { queue_type: kind, ..scope.config() }, &Topology::default());
        link.delivery().await.receipt.ack();
        let began = Instant::now();
        for _ in 1..COUNT {
            link.delivery().await.receipt.ack();
        }
        let consumed = COUNT as f64 / began.elapsed().as_secs_f64();
        link.stop().await;
        assert_eq!(scope.client().await.waiting(&replies).await, Some(0), "all acknowledged");
        println!("{kind:?}: {published:.0} published and confirmed/s, {consumed:.0} consumed and acknowledged/s");
        assert!(published > 1_000.0 && consumed > 1_000.0, "{kind:?}: {published:.0}, {consumed:.0}");
    }
}
