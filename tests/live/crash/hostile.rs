//! Bytes that nobody asked for, on every queue of sagad's, while sagas run.

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use sagad::broker::message::Inbox;
use sagad::broker::names::Names;

use super::verdict::verify_everything;
use super::{Chance, Kind, Trial};
use crate::rabbitmq;

/// Messages for each queue.
const MESSAGES: u32 = 60;

/// Bodies that look like something, and some that look like nothing.
fn body(chance: Chance) -> Vec<u8> {
    match chance.of("body").below(8) {
        0 => Vec::new(),
        1 => b"{\"error\":".to_vec(),
        2 => b"\xff\xfe\x00\xc3\x28".to_vec(),
        3 => "[".repeat(5_000).into_bytes(),
        4 => b"{\"n\":1e999999}".to_vec(),
        5 => b"{\"$serde_json::private::Number\":\"x\"}".to_vec(),
        6 => vec![b'7'; 2 << 20],
        _ => (0..chance.of("length").below(300)).map(|at| chance.of(("byte", at)).below(256) as u8).collect(),
    }
}

/// Correlation ids that sagad never made; some look nearly as if it had.
fn properties(chance: Chance, forged: &str) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert("saga-outcome".into(), AMQPValue::LongString("success".into()));
    if chance.of("x-death").below(2) == 0 {
        headers.insert("x-death".into(), AMQPValue::LongLongInt(7));
    }
    if chance.of("key").below(3) == 0 {
        headers.insert("idempotency-key".into(), AMQPValue::Double(0.5));
    }
    let id = match chance.of("id").below(4) {
        0 => forged.to_owned(),
        1 => "\u{1F980}".repeat(20),
        2 => "x".repeat(255),
        _ => return BasicProperties::default().with_headers(headers),
    };
    let id = lapin::types::ShortString::from(id);
    BasicProperties::default().with_headers(headers).with_correlation_id(id.clone()).with_message_id(id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_bytes_stop_nothing_and_are_kept() {
    let trial = Trial::new(rabbitmq::own().await.control(), Kind::Sqlite).await;
    let load = trial.load(20);
    let daemon = trial.site.start().await;
    load.goes_to([&daemon]);

    // Of the right form, for no saga, and not signed by this store's secret.
    let forged = format!("{}.0.e1.{}", "0".repeat(32), "a".repeat(32));
    let names = Names::new(trial.site.prefix());
    let connection =
        Connection::connect(trial.site.amqp(), ConnectionProperties::default()).await.expect("a connection");
    let channel = connection.create_channel().await.expect("a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    let mut kept = 0;
    for inbox in Inbox::ALL {
        let queue = names.queue(inbox);
        for nth in 0..MESSAGES {
            let chance = trial.chance.of((inbox.as_str(), nth));
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let (body, properties) = (body(chance), properties(chance, &forged));
            let empty = body.is_empty();
            let confirm = channel.basic_publish("".into(), queue.as_str().into(), options, &body, properties).await;
            let confirm = confirm.expect("sent").await;
            assert!(matches!(confirm, Ok(lapin::Confirmation::Ack(None))), "{queue} does not take it: {confirm:?}");
            // An event that can be read, as an empty one can, and that no definition wants is not for sagad to keep.
            kept += usize::from(inbox != Inbox::Events || !empty);
        }
    }
    let so_far = load.accepted();
    while load.accepted() < so_far + 20 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let started = load.stop().await;
    // Nothing of it means anything to a saga, so all of it is kept, and nothing else is.
    verify_everything(&trial, vec![daemon], &started, kept).await;
}
