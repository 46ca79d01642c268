//! Messages out, in batches, each batch settled before the next: confirmed, returned or refused.
//!
//! What is in flight lives outside the epoch, so that what a broken link left unconfirmed is published again in the next one, before
//! anything newer.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation, Connection, ErrorKind};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::End;
use super::connect::{REPLY_TIMEOUT, describe, open_channel};
use super::convert::{Encoded, outgoing};
use crate::broker::handover::Ready;
use crate::broker::message::{Outgoing, Publication, Published, Taken};
use crate::broker::publisher::Publications;
use crate::clock::Clock;

/// Messages published before their confirms are awaited. Enough that the round trip costs nothing, and a batch is still done in a few
/// milliseconds.
const BATCH: usize = 512;

/// How long a batch may take on a broker that is not blocked. Then one of the destinations may be why: a queue that has lost its leader
/// confirms nothing, and beyond some thirty messages, or at the first, RabbitMQ lets the whole channel wait for it.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is tried whether a slow destination confirms again, with one message.
const PROBE_EVERY: Duration = Duration::from_secs(15);

/// How long that one may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Exchanges remembered as bad; past it, it is cheaper to find out again.
const MAX_SUSPECTS: usize = 1000;

/// How often a channel may be found closed over one batch without a word from the broker.
const MAX_UNEXPLAINED: u32 = 3;

/// What has been handed over to publish, across epochs.
pub(super) struct Outbound {
    publications: Publications,
    published: mpsc::Sender<Vec<Published>>,
    taken: Vec<Publication>,
    /// The batch, in order.
    flight: Vec<Slot>,
    slow: Slow,
    clock: Arc<dyn Clock>,
}

/// Exchanges and routing keys whose messages are not confirmed, and when to try again.
type Slow = HashMap<(String, String), Instant>;

/// One message of the batch.
struct Slot {
    publication: Publication,
    fate: Option<Fate>,
    /// As it was sent for the first time in this epoch. If the broker has no queue for it a moment later, it had none then.
    at_first: Option<Arc<Outgoing>>,
}

/// Exchange and routing key.
fn destination(slot: &Slot) -> (String, String) {
    let message = &slot.publication.message;
    (message.exchange.clone(), message.routing_key.clone())
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq)]
enum Fate {
    Confirmed,
    Returned(String),
    Refused,
    /// Its time was over before it was sent again.
    Expired,
    /// It was not sent, and the outbox sees to it.
    Left,
    /// Its destination confirms nothing for now.
    Deferred,
}

/// Why a round of publishing did not settle all of its messages.
enum Trouble {
    /// The broker closed the channel over one of them.
    Channel {
        code: u16,
        text: String,
    },
    /// The channel was closed before, over nobody knows what.
    Stale,
    /// Some were not confirmed in time.
    Silence(Vec<usize>),
    Over(End),
}

impl Outbound {
    pub(super) fn new(
        publications: Publications,
        published: mpsc::Sender<Vec<Published>>,
        clock: Arc<dyn Clock>,
    ) -> Outbound {
        Outbound {
            publications,
            published,
            taken: Vec::with_capacity(BATCH),
            flight: Vec::with_capacity(BATCH),
            slow: Slow::new(),
            clock,
        }
    }

    /// Publishes until the link breaks, until what is waiting is published after `stop`, or until the batch is settled after `over`.
    pub(super) async fn run(
        &mut self,
        connection: &Connection,
        blocked: watch::Receiver<bool>,
        stop: &CancellationToken,
        over: &CancellationToken,
    ) -> End {
        self.flight.iter_mut().for_each(|slot| slot.at_first = None);
        let mut slow = std::mem::take(&mut self.slow);
        let end = self.publish(connection, blocked, &mut slow, stop, over).await;
        self.slow = slow;
        end
    }

    async fn publish(
        &mut self,
        connection: &Connection,
        blocked: watch::Receiver<bool>,
        slow: &mut Slow,
        stop: &CancellationToken,
        over: &CancellationToken,
    ) -> End {
        let mut lane = match Lane::open(connection, blocked, slow, Arc::clone(&self.clock)).await {
            Ok(lane) => lane,
            Err(end) => return end,
        };
        while !over.is_cancelled() {
            if self.flight.is_empty() && !self.fill(stop, over).await {
                return End::Stopped;
            }
            if let Err(end) = lane.settle(&mut self.flight).await {
                return end;
            }
            self.report().await;
        }
        End::Stopped
    }

    /// Takes what is waiting; false once nothing is and nothing will be.
    async fn fill(&mut self, stop: &CancellationToken, over: &CancellationToken) -> bool {
        let taken = tokio::select! {
            biased;
            taken = self.publications.recv_many(&mut self.taken, BATCH) => taken,
            () = stop.cancelled() => 0,
            () = over.cancelled() => 0,
        };
        if taken == 0 && !stop.is_cancelled() && !over.is_cancelled() {
            // Nobody is left who could publish; acknowledging goes on until it is told to stop.
            tokio::select! {
                () = stop.cancelled() => {}
                () = over.cancelled() => {}
            }
        }
        self.flight.extend(self.taken.drain(..).map(|publication| Slot { publication, fate: None, at_first: None }));
        !self.flight.is_empty()
    }

    /// Tells what became of the batch, and makes room for the next.
    async fn report(&mut self) {
        let told = self.flight.iter().any(|slot| slot.publication.outbox.is_some());
        // The place is taken first: from here on nothing can interrupt.
        let permit = if told { self.published.reserve().await.ok() } else { None };
        let publications = &self.publications;
        let outcomes: Vec<Published> = self
            .flight
            .drain(..)
            .filter_map(|Slot { publication, fate, at_first }| {
                publications.done(&publication);
                tell(publication, at_first, fate?)
            })
            .collect();
        if let Some(permit) = permit {
            permit.send(outcomes);
        }
    }
}

/// Tells whoever waits for this message alone; what the outbox must know is left.
fn tell(publication: Publication, at_first: Option<Arc<Outgoing>>, fate: Fate) -> Option<Published> {
    let Publication { outbox, message, told, .. } = publication;
    let taken = match fate {
        Fate::Confirmed => Some(Taken::Yes),
        Fate::Returned(_) | Fate::Refused => Some(Taken::No),
        Fate::Expired | Fate::Left | Fate::Deferred => None,
    };
    if let (Some(taken), Some(told)) = (taken, told) {
        // Who waited may have given up.
        let _ = told.send(taken);
    }
    let outbox = outbox?;
    match fate {
        Fate::Confirmed => Some(Published::Confirmed { outbox, message }),
        Fate::Returned(text) => Some(Published::Returned { outbox, message: at_first.unwrap_or(message), text }),
        Fate::Refused => Some(Published::Refused { outbox, message }),
        Fate::Expired => Some(Published::Expired { outbox, message, never_sent: false }),
        Fate::Deferred => Some(Published::Deferred(outbox)),
        Fate::Left => None,
    }
}

/// The channel to publish on, and what has been learnt of the broker in this epoch.
struct Lane<'a> {
    connection: &'a Connection,
    channel: Channel,
    blocked: watch::Receiver<bool>,
    /// Exchanges over which the broker closed the channel. What goes to one of them is published after all else, so that it takes nothing with it if
    /// it does so again.
    suspects: HashSet<String>,
    /// Exchanges and routing keys whose messages are not confirmed, and when to try again.
    slow: &'a mut Slow,
    clock: Arc<dyn Clock>,
}

impl<'a> Lane<'a> {
    async fn open(
        connection: &'a Connection,
        blocked: watch::Receiver<bool>,
        slow: &'a mut Slow,
        clock: Arc<dyn Clock>,
    ) -> Result<Lane<'a>, End> {
        let channel = confirming_channel(connection).await?;
        Ok(Lane { connection, channel, blocked, suspects: HashSet::new(), slow, clock })
    }

    /// Publishes until every message has its fate. Each round settles at least one message, finds a slow destination, or ends the epoch.
    async fn settle(&mut self, flight: &mut [Slot]) -> Result<(), End> {
        let mut unexplained = 0;
        loop {
            let (open, held): (Vec<usize>, Vec<usize>) = (0..flight.len())
                .filter(|at| flight[*at].fate.is_none())
                .partition(|at| self.slow.is_empty() || !self.slow.contains_key(&destination(&flight[*at])));
            if open.is_empty() {
                match held.first() {
                    None => return Ok(()),
                    Some(first) => self.probe(flight, *first, &held).await?,
                }
                continue;
            }
            let trusted = |at: &usize| !self.suspects.contains(&flight[*at].publication.message.exchange);
            let (good, bad): (Vec<usize>, Vec<usize>) = open.into_iter().partition(trusted);
            let round = if good.is_empty() { bad } else { good };
            match self.round(flight, &round, CONFIRM_TIMEOUT).await {
                Ok(()) => {}
                Err(Trouble::Silence(silent)) => self.suspect(flight, &silent).await?,
                Err(Trouble::Stale) if unexplained < MAX_UNEXPLAINED => {
                    unexplained += 1;
                    self.reopen().await?;
                }
                Err(Trouble::Stale) => return Err(End::Lost("the broker keeps closing the channel".to_owned())),
                Err(Trouble::Channel { code, text }) => {
                    self.reopen().await?;
                    self.blame(flight, &round, code, &text).await?;
                }
                Err(Trouble::Over(end)) => return Err(end),
            }
        }
    }

    /// These were not confirmed: any of their destinations may be why, as one queue that does not answer can hold up a channel. Each has to
    /// prove itself alone.
    async fn suspect(&mut self, flight: &[Slot], silent: &[usize]) -> Result<(), End> {
        if self.slow.len() > MAX_SUSPECTS {
            self.slow.clear();
        }
        let now = Instant::now();
        self.slow.extend(silent.iter().map(|at| (destination(&flight[*at]), now)));
        self.reopen().await
    }

    /// Tries whether the destination of the message at `first` confirms, if it is time to, and leaves what goes there to the outbox if not.
    async fn probe(&mut self, flight: &mut [Slot], first: usize, held: &[usize]) -> Result<(), End> {
        let at = destination(&flight[first]);
        let next = Instant::now() + PROBE_EVERY;
        if self.slow.get(&at).is_some_and(|due| *due <= Instant::now()) {
            self.slow.insert(at.clone(), next);
            match self.round(flight, &[first], PROBE_TIMEOUT).await {
                Err(Trouble::Over(end)) => return Err(end),
                Err(Trouble::Silence(_)) => {
                    let (exchange, routing_key) = &at;
                    tracing::warn!(
                        exchange,
                        routing_key,
                        "messages are not confirmed; they are set aside, others go on"
                    );
                    self.set_aside(flight, &at, held);
                    return self.reopen().await;
                }
                Ok(()) => {}
                // It answers, be it with an error, which is dealt with as ever.
                Err(Trouble::Stale | Trouble::Channel { .. }) => self.reopen().await?,
            }
            self.slow.remove(&at);
        } else {
            self.set_aside(flight, &at, held);
        }
        Ok(())
    }

    fn set_aside(&self, flight: &mut [Slot], to: &(String, String), held: &[usize]) {
        for at in held {
            let slot = &mut flight[*at];
            if slot.fate.is_none() && destination(slot) == *to {
                slot.fate = Some(Fate::Deferred);
            }
        }
    }

    async fn reopen(&mut self) -> Result<(), End> {
        self.channel = confirming_channel(self.connection).await?;
        Ok(())
    }

    /// Finds out whose fault it was that the channel was closed.
    async fn blame(&mut self, flight: &mut [Slot], round: &[usize], code: u16, text: &str) -> Result<(), End> {
        if code == 404 {
            let mut found = false;
            for at in round {
                let slot = &mut flight[*at];
                let exchange = &slot.publication.message.exchange;
                if slot.fate.is_none() && text.contains(&format!("no exchange '{exchange}' in vhost")) {
                    self.suspects.insert(exchange.clone());
                    slot.fate = Some(Fate::Returned(text.to_owned()));
                    found = true;
                }
            }
            if found {
                self.forget_some();
                return Ok(());
            }
        }
        // The text names nobody: a permission, a property, a name too long for the text. Alone, each answers for itself.
        for at in round {
            if flight[*at].fate.is_some() {
                continue;
            }
            match self.round(flight, &[*at], CONFIRM_TIMEOUT).await {
                Ok(()) => {}
                Err(Trouble::Silence(silent)) => self.suspect(flight, &silent).await?,
                Err(Trouble::Over(end)) => return Err(end),
                Err(Trouble::Stale) => self.reopen().await?,
                Err(Trouble::Channel { text, .. }) => {
                    self.suspects.insert(flight[*at].publication.message.exchange.clone());
                    flight[*at].fate = Some(Fate::Returned(text));
                    self.reopen().await?;
                }
            }
        }
        self.forget_some();
        Ok(())
    }

    fn forget_some(&mut self) {
        if self.suspects.len() > MAX_SUSPECTS {
            self.suspects.clear();
        }
    }

    /// Publishes the messages of `round` and waits for all their confirms. Sets the fate of those that have one, also when others do not.
    async fn round(&mut self, flight: &mut [Slot], round: &[usize], patience: Duration) -> Result<(), Trouble> {
        let frame_max = self.connection.configuration().frame_max();
        let now = self.clock.now();
        let mut sent = Vec::with_capacity(round.len());
        for at in round {
            let slot = &mut flight[*at];
            slot.fate = match slot.publication.ready(now) {
                Ready::Send => None,
                Ready::Expired => Some(Fate::Expired),
                Ready::Left => Some(Fate::Left),
            };
            if slot.fate.is_some() {
                continue;
            }
            slot.at_first.get_or_insert_with(|| Arc::clone(&slot.publication.message));
            match outgoing(&slot.publication.message, frame_max) {
                Ok(encoded) => {
                    let mut sending: Sending<'_> =
                        Box::pin(send(&self.channel, Arc::clone(&slot.publication.message), encoded));
                    // The first poll puts the frames in line, so that they are sent in order; the rest is awaited below.
                    let first = std::future::poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx))).await;
                    sent.push((*at, sending, first));
                }
                Err(text) => slot.fate = Some(Fate::Returned(text)),
            }
        }
        let mut answers = Answers::default();
        let mut silent = Vec::new();
        for (at, mut sending, first) in sent {
            let answer = match first {
                Poll::Ready(answer) => Some(answer),
                // They were sent together: who waits for one has waited for all.
                Poll::Pending if !silent.is_empty() => (&mut sending).now_or_never(),
                Poll::Pending => patiently(sending, &mut self.blocked, patience).await,
            };
            match answer {
                Some(answer) => answers.take(at, answer),
                None => silent.push(at),
            }
        }
        if !silent.is_empty() && answers.trouble.is_none() {
            answers.trouble = Some(Trouble::Silence(silent));
        }
        answers.settle(flight)
    }
}

type Sending<'a> = Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send + 'a>>;

/// Publishes and awaits the confirm.
async fn send(channel: &Channel, message: Arc<Outgoing>, encoded: Encoded) -> lapin::Result<Confirmation> {
    let Encoded { exchange, routing_key, properties } = encoded;
    let options = BasicPublishOptions { mandatory: message.mandatory, immediate: false };
    channel.basic_publish(exchange, routing_key, options, &message.body, properties).await?.await
}

/// Awaits for so long as the broker may take; while it blocks us, for ever.
async fn patiently<F: Future + Unpin>(
    mut future: F,
    blocked: &mut watch::Receiver<bool>,
    patience: Duration,
) -> Option<F::Output> {
    loop {
        if let Ok(output) = tokio::time::timeout(patience, &mut future).await {
            return Some(output);
        }
        let changed = blocked.has_changed().unwrap_or(false);
        if !*blocked.borrow_and_update() && !changed {
            return None;
        }
    }
}

async fn confirming_channel(connection: &Connection) -> Result<Channel, End> {
    let channel = open_channel(connection).await?;
    match tokio::time::timeout(REPLY_TIMEOUT, channel.confirm_select(ConfirmSelectOptions::default())).await {
        Ok(Ok(())) => Ok(channel),
        Ok(Err(error)) => Err(End::Lost(describe(&error))),
        Err(_) => Err(End::Lost("the broker does not confirm that it will confirm".to_owned())),
    }
}

/// All that a round's confirms said.
#[derive(Default)]
struct Answers {
    acked: Vec<usize>,
    nacked: Vec<usize>,
    /// lapin hands a returned message to whichever confirm comes next.
    returned: Vec<BasicReturnMessage>,
    trouble: Option<Trouble>,
}

impl Answers {
    fn take(&mut self, at: usize, answer: lapin::Result<Confirmation>) {
        match answer {
            Ok(Confirmation::Ack(returned)) => {
                self.acked.push(at);
                self.returned.extend(returned);
            }
            Ok(Confirmation::Nack(returned)) => {
                self.nacked.push(at);
                self.returned.extend(returned);
            }
            Ok(Confirmation::NotRequested) => {
                self.trouble = Some(Trouble::Over(End::Lost("the channel does not confirm".to_owned())));
            }
            Err(error) => self.note(&error),
        }
    }

    /// Of all errors of a round the one that says most is kept: once a channel is closed, most only say that it is.
    fn note(&mut self, error: &lapin::Error) {
        let trouble = match error.kind() {
            ErrorKind::ProtocolError(why) if error.is_amqp_soft_error() => {
                Trouble::Channel { code: why.get_id(), text: why.get_message().to_string() }
            }
            ErrorKind::InvalidChannelState(..) | ErrorKind::InvalidChannel(_) => Trouble::Stale,
            _ => Trouble::Over(End::Lost(describe(error))),
        };
        let says_more = match &self.trouble {
            None | Some(Trouble::Stale) => true,
            Some(Trouble::Channel { .. }) => matches!(trouble, Trouble::Over(_)),
            Some(Trouble::Over(_) | Trouble::Silence(_)) => false,
        };
        if says_more {
            self.trouble = Some(trouble);
        }
    }

    fn settle(self, flight: &mut [Slot]) -> Result<(), Trouble> {
        for at in &self.nacked {
            flight[*at].fate = Some(Fate::Refused);
        }
        // A return that waited for its confirm is lost with the channel. It can only be that of an acked message if other returns came.
        let sure = self.trouble.is_none() || self.returned.is_empty();
        for at in &self.acked {
            let slot = &mut flight[*at];
            if sure || !slot.publication.message.mandatory {
                slot.fate = Some(Fate::Confirmed);
            }
        }
        for returned in &self.returned {
            let text = format!("{} {}", returned.reply_code, returned.reply_text);
            for slot in flight.iter_mut().filter(|slot| is_returned(&slot.publication.message, returned)) {
                slot.fate = Some(Fate::Returned(text.clone()));
            }
        }
        self.trouble.map_or(Ok(()), Err)
    }
}

/// Whether `message` is the one that came back. Messages of one batch that are equal in all this have one fate.
fn is_returned(message: &Outgoing, returned: &BasicReturnMessage) -> bool {
    let id = returned.properties.message_id().as_ref().map(|id| id.as_str());
    message.mandatory
        && message.properties.message_id.as_deref() == id
        && message.routing_key == returned.routing_key.as_str()
        && message.exchange == returned.exchange.as_str()
        && (id.is_some() || message.body == returned.data)
}
