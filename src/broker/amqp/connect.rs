//! Connections: opening them in bounded time, watching them, closing them.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind, Event};
use tokio::sync::watch;

use super::{BrokerMisconfigured, End, sieve};
use crate::config::BrokerConfig;
use crate::health::{Health, Part};

/// For one connection, from the first packet to the last of the handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// For one answer of a broker that is alive; declaring a quorum queue in a cluster is the slowest.
pub(super) const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection gets to say good-bye. Without it the broker notices by itself.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Seconds between signs of life, unless the URL says otherwise: a peer that is gone is noticed after two of them.
const HEARTBEAT: u16 = 10;

/// How often a connection is looked at, should it have ended without an event.
const LOOK: Duration = Duration::from_secs(1);

/// AMQP's code for a virtual host that does not exist or is not ours.
const NOT_ALLOWED: u16 = 530;

/// Where the broker is.
#[derive(Clone, Debug)]
pub(super) struct Broker {
    uri: AMQPUri,
    /// Host and port, for a person; the URL has a password in it.
    pub(super) place: String,
    prefix: String,
}

impl Broker {
    pub(super) fn parse(config: &BrokerConfig) -> Result<Broker, String> {
        let mut uri: AMQPUri = config.url.parse().map_err(|why: String| {
            format!("{why}; it looks like amqp://user:password@host:5672/%2f, or amqps:// for TLS")
        })?;
        if let Some(host) = ipv6_host(&config.url) {
            // lapin takes such an address for no host at all, and that for localhost.
            uri.authority.host = host.to_owned();
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT);
        let tls = if uri.scheme == AMQPScheme::AMQPS { " with TLS" } else { "" };
        let place = format!("{}:{}{tls}", uri.authority.host, uri.authority.port);
        Ok(Broker { uri, place, prefix: config.prefix.clone() })
    }

    /// Opens a connection, named for what it is for.
    pub(super) async fn connect(&self, purpose: &str) -> Result<Connection, End> {
        let name = format!("{} {purpose}", self.prefix);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let connecting = sieve::connect(self.uri.clone(), properties, CONNECT_TIMEOUT);
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(self.refused(&error)),
            Err(_) => Err(End::Lost(format!(
                "no answer from the broker at {} within {} s",
                self.place,
                CONNECT_TIMEOUT.as_secs()
            ))),
        }
    }

    fn refused(&self, error: &lapin::Error) -> End {
        let place = &self.place;
        let user = &self.uri.authority.userinfo.username;
        let vhost = &self.uri.vhost;
        let hint = if vhost.is_empty() {
            "; a URL that ends in / means the virtual host with no name, the usual one is /%2f"
        } else {
            ""
        };
        match error.kind() {
            ErrorKind::ProtocolError(why) if *why.kind() == AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
                End::Misconfigured(BrokerMisconfigured::Refused(format!(
                    "the broker at {place} refuses the user `{user}` or its password (broker.url): {}",
                    why.get_message()
                )))
            }
            ErrorKind::ProtocolError(why) if why.get_id() == NOT_ALLOWED => {
                End::Misconfigured(BrokerMisconfigured::Refused(format!(
                    "the broker at {place} does not let the user `{user}` into the virtual host `{vhost}` (broker.url): {}{hint}",
                    why.get_message()
                )))
            }
            _ => End::Lost(format!("can't connect to the broker at {place}: {}", describe(error))),
        }
    }
}

/// The address in `amqp://user@[::1]:5672/`.
fn ipv6_host(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    host.strip_prefix('[')?.split_once(']').map(|(host, _)| host)
}

/// A channel, in bounded time.
pub(super) async fn open_channel(connection: &Connection) -> Result<Channel, End> {
    match tokio::time::timeout(REPLY_TIMEOUT, connection.create_channel()).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(End::Lost(describe(&error))),
        Err(_) => Err(End::Lost("the broker does not open a channel".to_owned())),
    }
}

/// Waits for the end of a connection and tells why it ended. Meanwhile tells `blocked` and `health` when the broker stops reading from it.
pub(super) fn watch(
    connection: &Connection,
    health: &Health,
    blocked: watch::Sender<bool>,
) -> impl Future<Output = String> + Send + 'static {
    let events = connection.events_listener();
    let status = connection.status().clone();
    let health = health.clone();
    async move {
        tokio::pin!(events);
        let mut look = tokio::time::interval(LOOK);
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                _ = look.tick() => None,
            };
            match event {
                Some(Event::ConnectionBlocked(reason)) => {
                    let why = format!("the broker blocks publishers: {reason}");
                    tracing::warn!("{why}");
                    health.down(Part::Broker, why);
                    let _ = blocked.send(true);
                }
                Some(Event::ConnectionUnblocked) => {
                    tracing::info!("the broker takes messages again");
                    health.up(Part::Broker);
                    let _ = blocked.send(false);
                }
                Some(Event::Error(error)) if !status.connected() => return describe(&error),
                _ if !status.connected() => return "the connection ended".to_owned(),
                _ => {}
            }
        }
    }
}

/// Says good-bye, so that what is not acknowledged is delivered elsewhere at once.
pub(super) async fn close(connection: Connection) {
    if connection.status().connected() {
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, connection.close(200, "OK".into())).await;
    }
}

/// An error of lapin's for a person: the broker's own words where there are some.
pub(super) fn describe(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(why) => format!("the broker says {} {}", why.get_id(), why.get_message()),
        ErrorKind::IOError(why) => why.to_string(),
        ErrorKind::MissingHeartbeatError => "the broker gives no sign of life".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::QueueType;

    fn parse(url: &str) -> Result<Broker, String> {
        let prefix = "shop".to_owned();
        Broker::parse(&BrokerConfig {
            url: url.into(),
            prefix,
            queue_type: QueueType::Quorum,
            prefetch: 1,
            max_message: 1,
        })
    }

    #[test]
    fn a_place_has_no_password() {
        let broker = parse("amqp://user:secret@mq.example:5673/shop").expect("a URL");
        assert_eq!(broker.place, "mq.example:5673");
        assert_eq!(parse("amqps://mq.example").expect("a URL").place, "mq.example:5671 with TLS");
    }

    #[test]
    fn an_ipv6_address_is_a_host() {
        assert_eq!(parse("amqp://guest:guest@[::1]:5673/%2f").expect("a URL").uri.authority.host, "::1");
        assert_eq!(parse("amqp://127.0.0.1/%2f").expect("a URL").uri.authority.host, "127.0.0.1");
        assert_eq!(parse("amqp://localhost/[x]").expect("a URL").uri.authority.host, "localhost");
    }

    #[test]
    fn heartbeats_are_on_unless_the_url_says_how_often() {
        assert_eq!(parse("amqp://localhost/%2f").expect("a URL").uri.query.heartbeat, Some(10));
        assert_eq!(parse("amqp://localhost/%2f?heartbeat=3").expect("a URL").uri.query.heartbeat, Some(3));
    }

    #[test]
    fn what_is_no_url_is_told_how_one_looks() {
        assert!(parse("localhost:5672").expect_err("no URL").contains("amqp://user:password@host:5672/%2f"));
        assert!(parse("http://localhost").expect_err("no URL").contains("amqp://"));
    }
}
