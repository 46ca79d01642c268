//! Messages that no decent client sends, written by hand.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use sagad::broker::message::Inbox;
use sagad::broker::names::Names;
use sagad::config::Topology;
use sagad::health::Part;

use super::Link;
use crate::rabbitmq::{self, Scope};

/// The flags of the properties that are sent here, as AMQP numbers them.
const HEADERS: u16 = 1 << 13;
const MESSAGE_ID: u16 = 1 << 7;

/// A connection with one channel that confirms, made of bytes.
struct Raw(TcpStream);

impl Raw {
    fn open(url: &str) -> Raw {
        let place = url.rsplit('@').next().and_then(|rest| rest.split('/').next()).expect("a URL");
        let stream = TcpStream::connect(place).expect("the broker is up");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("not zero");
        let mut raw = Raw(stream);
        raw.0.write_all(b"AMQP\x00\x00\x09\x01").expect("sent");
        raw.expect(10, 10);
        raw.method(0, 10, 11, &[&[0; 4][..], &short(b"PLAIN"), &long(b"\0guest\0guest"), &short(b"en_US")].concat());
        let tune = raw.expect(10, 30);
        raw.method(0, 10, 31, &[&tune[..6], &[0, 0]].concat());
        raw.method(0, 10, 40, &[&short(b"/")[..], &[0, 0]].concat());
        raw.expect(10, 41);
        raw.method(1, 20, 10, &[0]);
        raw.expect(20, 11);
        raw.method(1, 85, 10, &[0]);
        raw.expect(85, 11);
        raw
    }

    /// Publishes with these properties, and waits for the confirm.
    fn publish(&mut self, exchange: &str, key: &[u8], flags: u16, properties: &[u8], body: &[u8]) {
        self.method(1, 60, 40, &[&[0, 0][..], &short(exchange.as_bytes()), &short(key), &[0]].concat());
        let size = (body.len() as u64).to_be_bytes();
        self.frame(2, 1, &[&[0, 60, 0, 0][..], &size, &flags.to_be_bytes(), properties].concat());
        self.frame(3, 1, body);
        self.expect(60, 80);
    }

    fn method(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) {
        self.frame(1, channel, &[&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat());
    }

    fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let size = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
        let frame = [&[kind][..], &channel.to_be_bytes(), &size, payload, &[0xce]].concat();
        self.0.write_all(&frame).expect("sent");
    }

    /// The arguments of the method that must come next.
    fn expect(&mut self, class: u16, method: u16) -> Vec<u8> {
        let mut head = [0; 7];
        self.0.read_exact(&mut head).expect("a frame");
        let mut payload = vec![0; u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize + 1];
        self.0.read_exact(&mut payload).expect("a whole frame");
        payload.pop();
        let text = String::from_utf8_lossy(&payload);
        assert_eq!(payload[..4], [&class.to_be_bytes()[..], &method.to_be_bytes()].concat(), "{text}");
        payload.split_off(4)
    }
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("short")][..], text].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).expect("not that long").to_be_bytes()[..], bytes].concat()
}

/// A table in a table in a table …
fn nested(depth: usize) -> Vec<u8> {
    let mut table = Vec::new();
    for _ in 0..depth {
        table = [&short(b"t")[..], b"F", &long(&table)].concat();
    }
    long(&table)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_lapin_can_not_read_stops_nothing() {
    let scope = Scope::new(rabbitmq::shared().await);
    let names = Names::new(scope.prefix());
    let replies = names.queue(Inbox::Replies);
    let mut link = Link::start(scope.config(), &Topology::default());
    link.up().await;
    let mut raw = Raw::open(&scope.config().url);

    raw.publish("", replies.as_bytes(), MESSAGE_ID, &short(b"id\xff"), b"bad id");
    let delivery = link.delivery().await;
    assert_eq!(delivery.message.properties.message_id.as_deref(), Some("id?"));
    delivery.receipt.ack();

    raw.publish(
        "",
        replies.as_bytes(),
        HEADERS,
        &long(&[&short(b"k\xfe")[..], b"S", &long(b"\xfd")].concat()),
        b"bad header",
    );
    let delivery = link.delivery().await;
    assert_eq!(delivery.message.properties.headers["k?"], "\u{fffd}");
    delivery.receipt.ack();

    raw.publish(&names.start_exchange(), b"caf\xe9", MESSAGE_ID, &short(b"good"), b"bad key");
    let delivery = link.delivery().await;
    assert_eq!((delivery.message.queue, delivery.message.routing_key.as_str()), (Inbox::Starts, "caf?"));
    delivery.receipt.ack();

    // Some 120 KB of headers, all of it depth. What is deeper than 32 comes as the bytes it is.
    raw.publish("", replies.as_bytes(), HEADERS, &nested(17_000), b"abyss");
    let delivery = link.delivery().await;
    assert_eq!(&delivery.message.body[..], b"abyss");
    let mut inner = &delivery.message.properties.headers["t"];
    let mut depth = 1;
    while let Some(next) = inner.get("t") {
        inner = next;
        depth += 1;
    }
    assert_eq!(depth, 32);
    assert!(inner.as_str().is_some_and(|bytes| bytes.len() > 100_000), "nothing of it is lost");
    delivery.receipt.ack();

    assert_eq!(link.health.trouble(Part::Broker), None);
    link.stop().await;
    let client = scope.client().await;
    assert_eq!(client.waiting(&replies).await, Some(0));
}
