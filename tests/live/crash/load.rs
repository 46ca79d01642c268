//! Sagas to run, and participants that are hard to work with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use reqwest::Client;
use sagad::core::time::Time;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Chance;
use crate::daemon::{Daemon, Site};
use crate::participants::{Command, Reply};

/// How many start over HTTP at a time; as many again, in turn, over AMQP.
const STARTERS: u32 = 4;

/// Between attempts to start a saga.
const PAUSE: Duration = Duration::from_millis(30);

/// Starts sagas without end. A start is repeated, with the same keys, until it is accepted: whatever a daemon or the broker did
/// with the attempts before, it is one saga.
pub(super) struct Load {
    stop: CancellationToken,
    starters: JoinSet<Vec<(String, Option<String>)>>,
    addresses: watch::Sender<Vec<String>>,
    accepted: Arc<AtomicU64>,
}

/// The keys of all sagas that were accepted, each with its id if that was told.
pub(super) type Started = BTreeMap<String, Option<String>>;

impl Load {
    /// Begins.
    pub(super) fn begin(site: &Site, per_second: u32) -> Load {
        let (stop, accepted, next) =
            (CancellationToken::new(), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let addresses = watch::Sender::new(Vec::new());
        let pace = Duration::from_secs(1) * 2 * STARTERS / per_second;
        let mut starters = JoinSet::new();
        for nth in 0..2 * STARTERS {
            let (stop, accepted, next) = (stop.clone(), accepted.clone(), next.clone());
            let mut way = match nth % 2 {
                0 => Way::Http { client: client(), addresses: addresses.subscribe() },
                _ => {
                    Way::Amqp { url: site.amqp().to_owned(), exchange: format!("{}.start", site.prefix()), link: None }
                }
            };
            starters.spawn(async move {
                let mut started = Vec::new();
                while !stop.is_cancelled() {
                    let key = format!("k{}", next.fetch_add(1, Ordering::Relaxed));
                    let id = way.start(&key).await;
                    accepted.fetch_add(1, Ordering::Relaxed);
                    started.push((key, id));
                    let _ = stop.run_until_cancelled(tokio::time::sleep(pace)).await;
                }
                started
            });
        }
        Load { stop, starters, addresses, accepted }
    }

    /// HTTP goes to these daemons from now on.
    pub(super) fn goes_to<'a>(&self, daemons: impl IntoIterator<Item = &'a Daemon>) {
        self.addresses.send_replace(daemons.into_iter().map(Daemon::url).collect());
    }

    /// How many were accepted so far.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Stops once everything begun is accepted.
    pub(super) async fn stop(self) -> Started {
        self.stop.cancel();
        let stopped = tokio::time::timeout(Duration::from_secs(60), self.starters.join_all()).await;
        stopped.expect("every start is accepted in the end").into_iter().flatten().collect()
    }
}

#[allow(clippy::large_enum_variant, reason = "there are eight of them")]
enum Way {
    Http { client: Client, addresses: watch::Receiver<Vec<String>> },
    Amqp { url: String, exchange: String, link: Option<(Connection, Channel)> },
}

impl Way {
    /// Starts a saga; its id, if it was told.
    async fn start(&mut self, key: &str) -> Option<String> {
        let mut tries = 0;
        loop {
            match self {
                Way::Http { client, addresses } => {
                    let urls = addresses.borrow().clone();
                    if !urls.is_empty() {
                        let answer = post(client, &urls[tries % urls.len()], key).await;
                        if let Ok(id) = answer {
                            return Some(id);
                        }
                    }
                }
                Way::Amqp { url, exchange, link } => {
                    // A connection that the node's death left hanging says nothing for ever.
                    let published = tokio::time::timeout(Duration::from_secs(10), publish(url, exchange, link, key));
                    match published.await {
                        Ok(Ok(())) => return None,
                        Ok(Err(_)) | Err(_) => *link = None,
                    }
                }
            }
            tries += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn client() -> Client {
    Client::builder().no_proxy().timeout(Duration::from_secs(15)).build().expect("a client")
}

fn input(key: &str) -> Value {
    json!({ "n": key })
}

/// Starts over HTTP. An error is for another attempt.
async fn post(client: &Client, url: &str, key: &str) -> Result<String, ()> {
    let body = json!({ "saga": "trial", "input": input(key) });
    let request = client.post(format!("{url}/v1/sagas")).header("idempotency-key", key).json(&body);
    let answer = request.send().await.map_err(drop)?;
    let status = answer.status();
    let body: Value = answer.json().await.map_err(drop)?;
    match status.as_u16() {
        200 | 201 => Ok(body["id"].as_str().expect("an id").to_owned()),
        503 => Err(()),
        _ => panic!("a start over HTTP was answered with {status}: {body}"),
    }
}

/// Starts over AMQP. An error is for another attempt.
async fn publish(
    url: &str,
    exchange: &str,
    link: &mut Option<(Connection, Channel)>,
    key: &str,
) -> Result<(), lapin::Error> {
    let (_, channel) = match link {
        Some(link) => link,
        None => {
            let connection = Connection::connect(url, ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            link.insert((connection, channel))
        }
    };
    let properties = BasicProperties::default().with_message_id(key.into()).with_delivery_mode(2);
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let body = input(key).to_string();
    let sent = channel.basic_publish(exchange.into(), "trial".into(), options, body.as_bytes(), properties).await?;
    // A start that no queue takes is as good as none: the daemon has not declared its queues yet.
    match sent.await? {
        lapin::Confirmation::Ack(None) => Ok(()),
        _ => Err(lapin::ErrorKind::InvalidChannel(0).into()),
    }
}

/// What participants do with a command, by chance: most do it at once, others later, twice, never, not now or not at all.
pub(super) fn chaos(chance: Chance) -> impl Fn(&Command) -> Reply + Send + Sync + 'static {
    move |command| {
        let done = Reply::success(json!({ "done": command.key }));
        let action = chance.of((&command.saga_key, &command.step, &command.action));
        // Whether a business failure is one does not depend on the attempt.
        if command.action == "execute" && action.of("business").below(100) < 6 {
            return Reply::failure("out of stock").after(action.of("delay").millis(0..30));
        }
        let attempt = action.of((command.attempt, command.redelivered));
        let soon = attempt.of("soon").millis(0..30);
        let late = attempt.of("late").millis(1_600..3_500);
        match attempt.of("what").below(100) {
            0..6 => Reply::retry("not now").after(soon),
            6..10 => done.after(late),
            10..14 if in_time(command) => Reply::silence(),
            14..17 => Reply::reject(),
            17..20 => Reply::pending().then(done.after(attempt.of("working").millis(500..2_000))),
            20..28 => done.twice().after(soon),
            28..30 => done.clone().after(soon).then(done.after(late)),
            30..32 if command.action == "compensate" => Reply::failure("no, not today").after(soon),
            _ => done.after(soon),
        }
    }
}

/// Whether the attempt has not timed out yet. A participant that does its work after that and tells nobody can't be undone by
/// anybody: there is no message left to wait for.
fn in_time(command: &Command) -> bool {
    let headers = command.properties.headers().as_ref().expect("headers");
    let deadline = match headers.inner().get("saga-deadline") {
        Some(lapin::types::AMQPValue::LongString(text)) => Time::parse(&text.to_string()).expect("a time"),
        other => panic!("saga-deadline is {other:?}"),
    };
    Time::from(SystemTime::now()).plus(Duration::from_millis(5)) < deadline
}
