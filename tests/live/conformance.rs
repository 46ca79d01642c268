//! `sagad conformance`: the samples pass, and each way to be wrong is found by the check that is there for it.

mod command;
mod found;
mod samples;
mod wrong;

use std::time::Duration;

use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use sagad::conformance::Options;
use serde_json::json;

use crate::rabbitmq::{Client, Scope};

/// How long an answer may take: what comes at all comes in that time on the slowest machine, and silence takes no longer to be found.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a participant gets its commands, as sagad would declare it: what it rejects goes to sagad's exchange of dead letters.
struct Place {
    scope: Scope,
    exchange: String,
    queue: String,
    client: Client,
}

impl Place {
    async fn new(url: &str) -> Place {
        let scope = Scope::new(url);
        let client = scope.client().await;
        let (exchange, queue) = (scope.name("commands"), scope.name("payments"));
        let dead = format!("{}.dead", scope.prefix());
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        for exchange in [&exchange, &dead] {
            let kind = ExchangeKind::Topic;
            let declared =
                client.channel.exchange_declare(exchange.as_str().into(), kind, durable, FieldTable::default());
            declared.await.expect("declared");
        }
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let mut arguments = FieldTable::default();
        arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString(dead.as_str().into()));
        client.channel.queue_declare(queue.as_str().into(), options, arguments).await.expect("declared");
        let (from, to) = (exchange.as_str().into(), queue.as_str().into());
        let bound = client.channel.queue_bind(to, from, "#".into(), QueueBindOptions::default(), FieldTable::default());
        bound.await.expect("bound");
        Place { scope, exchange, queue, client }
    }

    /// How it is checked: a charge, and its refund.
    fn options(&self) -> Options {
        Options {
            exchange: self.exchange.clone(),
            execute: "payment.charge".to_owned(),
            compensate: "payment.refund".to_owned(),
            body: json!({ "order_id": "{{ saga.id }}", "amount": 20 }),
            compensate_body: None,
            step: "charge".to_owned(),
            timeout: PATIENCE,
        }
    }
}
