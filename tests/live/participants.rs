//! Participants in the process of the tests, which record every command and every effect.
//!
//! They are *merely idempotent*: an `idempotency-key` that had its effect has it no second time, and is answered as the first time.
//! Nothing else keeps order for them; a command that comes after its compensation has its effect.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::select_all;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, BasicRejectOptions,
    ConfirmSelectOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Commands in hand at the most, for each queue.
const PREFETCH: u16 = 1000;

/// Answers published together at the most.
const BATCH: usize = 256;

/// Between attempts to get a connection.
const PAUSE: Duration = Duration::from_millis(50);

/// A command as it came.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    /// `saga-id`
    pub(crate) saga: String,
    /// `saga-key`
    pub(crate) saga_key: Option<String>,
    /// `saga-step`
    pub(crate) step: String,
    /// `saga-action`
    pub(crate) action: String,
    /// `saga-attempt`
    pub(crate) attempt: i64,
    /// `idempotency-key`
    pub(crate) key: String,
    /// Its routing key.
    pub(crate) routing_key: String,
    /// Everything else.
    pub(crate) properties: BasicProperties,
    /// The broker's flag.
    pub(crate) redelivered: bool,
    /// When it came.
    pub(crate) at: Instant,
    /// Whether it had its effect now: false if it never has one, or had it before.
    pub(crate) effect: bool,
}

/// What a participant does with a command.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    answers: Vec<Answer>,
    effect: bool,
    reject: bool,
}

#[derive(Clone, Debug)]
struct Answer {
    after: Duration,
    /// `saga-outcome`
    outcome: Option<&'static str>,
    body: Vec<u8>,
}

impl Reply {
    fn of(outcome: Option<&'static str>, body: &Value) -> Reply {
        let answer = Answer { after: Duration::ZERO, outcome, body: body.to_string().into_bytes() };
        Reply { answers: vec![answer], effect: false, reject: false }
    }

    /// It does it, and says so by a body without `error`.
    pub(crate) fn success(body: Value) -> Reply {
        Reply { effect: true, ..Reply::of(None, &body) }
    }

    /// It does nothing, for a business reason.
    pub(crate) fn failure(message: &str) -> Reply {
        Reply::of(None, &json!({ "error": message }))
    }

    /// It does nothing now.
    pub(crate) fn retry(message: &str) -> Reply {
        Reply::of(Some("retry"), &json!({ "error": message }))
    }

    /// It is still at it.
    pub(crate) fn pending() -> Reply {
        Reply::of(Some("pending"), &Value::Null)
    }

    /// It does nothing and rejects the command without requeue.
    pub(crate) fn reject() -> Reply {
        Reply { answers: Vec::new(), effect: false, reject: true }
    }

    /// It does it, and nobody ever hears of it.
    pub(crate) fn silence() -> Reply {
        Reply { answers: Vec::new(), effect: true, reject: false }
    }

    /// Answers so much later. What it does, it does at once.
    pub(crate) fn after(mut self, delay: Duration) -> Reply {
        self.answers.iter_mut().for_each(|answer| answer.after += delay);
        self
    }

    /// Answers twice.
    pub(crate) fn twice(mut self) -> Reply {
        self.answers.extend_from_within(..);
        self
    }

    /// And then does this.
    pub(crate) fn then(mut self, next: Reply) -> Reply {
        self.answers.extend(next.answers);
        Reply { answers: self.answers, effect: self.effect || next.effect, reject: self.reject || next.reject }
    }
}

/// Participants at work, until they are dropped.
pub(crate) struct Participants {
    ledger: Ledger,
    _task: AbortOnDropHandle<()>,
    stop: CancellationToken,
}

impl Participants {
    /// Consumes `queues`, as soon as they exist, and does what `script` says. Whatever happens to the broker, they come back.
    pub(crate) fn start(
        amqp: &str,
        queues: Vec<String>,
        script: impl Fn(&Command) -> Reply + Send + Sync + 'static,
    ) -> Participants {
        Participants::resume(amqp, queues, Ledger::default(), script)
    }

    /// As [`start`](Participants::start), with what others before them recorded and did.
    pub(crate) fn resume(
        amqp: &str,
        queues: Vec<String>,
        ledger: Ledger,
        script: impl Fn(&Command) -> Reply + Send + Sync + 'static,
    ) -> Participants {
        let (amqp, stop) = (amqp.to_owned(), CancellationToken::new());
        let (book, stopped) = (ledger.clone(), stop.clone());
        let task = tokio::spawn(async move {
            while !stopped.is_cancelled() {
                // Whatever broke, and be it that the broker is away: again from the start.
                let _ = stopped.run_until_cancelled(epoch(&amqp, &queues, &book, &script)).await;
                let _ = stopped.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
            }
        });
        Participants { ledger, _task: AbortOnDropHandle::new(task), stop }
    }

    /// What came and what was done.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Stops them; what they have in hand goes back to its queue.
    pub(crate) async fn stop(self) -> Ledger {
        self.stop.cancel();
        let _ = self._task.await;
        self.ledger
    }
}

/// What participants record; clone it freely.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    book: Arc<Mutex<Book>>,
    length: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Book {
    commands: Vec<Command>,
    /// What the command that had the effect was answered, by idempotency key.
    effects: HashMap<String, Vec<u8>>,
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger { book: Arc::default(), length: watch::Sender::new(0) }
    }
}

impl Ledger {
    /// Every command so far, in the order of their coming.
    pub(crate) fn commands(&self) -> Vec<Command> {
        self.lock().commands.clone()
    }

    /// Records a command, and has its effect unless it had it before.
    fn take(&self, mut command: Command, script: &impl Fn(&Command) -> Reply) -> Reply {
        let mut reply = script(&command);
        {
            let mut book = self.lock();
            let done = book.effects.get(&command.key).cloned();
            match done {
                Some(body) => {
                    // Done is done, whatever it says this time.
                    for answer in reply.answers.iter_mut().filter(|answer| answer.outcome != Some("pending")) {
                        (answer.outcome, answer.body) = (None, body.clone());
                    }
                }
                None if reply.effect => {
                    command.effect = true;
                    let body = reply.answers.last().map_or_else(|| b"{}".to_vec(), |answer| answer.body.clone());
                    book.effects.insert(command.key.clone(), body);
                }
                None => {}
            }
            book.commands.push(command);
        }
        self.length.send_modify(|length| *length += 1);
        reply
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("no script panics")
    }
}

/// One connection's worth of work.
async fn epoch(
    amqp: &str,
    queues: &[String],
    ledger: &Ledger,
    script: &impl Fn(&Command) -> Reply,
) -> lapin::Result<()> {
    let connection = Connection::connect(amqp, ConnectionProperties::default()).await?;
    let (answers, outbox) = mpsc::unbounded_channel();
    let mut streams = Vec::new();
    for queue in queues {
        let channel = connection.create_channel().await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let consumer = channel.basic_consume(
            queue.as_str().into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        streams.push(consumer.await?);
    }
    let mut deliveries = select_all(streams);
    let publisher = publish(connection.create_channel().await?, outbox);
    tokio::pin!(publisher);
    let mut waiting = JoinSet::new();
    loop {
        let delivery = tokio::select! {
            ended = &mut publisher => return ended,
            delivery = deliveries.next() => match delivery {
                Some(delivery) => delivery?,
                None => return Ok(()),
            },
        };
        let command = read(&delivery);
        let reply_to = command.properties.reply_to().clone();
        let correlation_id = command.properties.correlation_id().clone();
        let reply = ledger.take(command, script);
        if reply.reject {
            delivery.acker.reject(BasicRejectOptions { requeue: false }).await?;
            continue;
        }
        let (Some(reply_to), Some(correlation_id)) = (reply_to, correlation_id) else {
            delivery.acker.ack(BasicAckOptions::default()).await?;
            continue;
        };
        let answers = answers.clone();
        waiting.spawn(async move {
            let begun = tokio::time::Instant::now();
            let mut replies = reply.answers;
            replies.sort_by_key(|answer| answer.after);
            let mut receipt = Some(delivery);
            let last = replies.len().saturating_sub(1);
            if replies.is_empty() {
                let _ = answers.send(Post { answer: None, receipt });
                return;
            }
            for (nth, answer) in replies.into_iter().enumerate() {
                tokio::time::sleep_until(begun + answer.after).await;
                // The command is acknowledged once the broker has the last answer: none is lost.
                let receipt = if nth == last { receipt.take() } else { None };
                let answer = Some((answer, reply_to.to_string(), correlation_id.to_string()));
                let _ = answers.send(Post { answer, receipt });
            }
        });
        while waiting.try_join_next().is_some() {}
    }
}

/// An answer to publish (to a queue, with a correlation id) and a command to acknowledge after that.
struct Post {
    answer: Option<(Answer, String, String)>,
    receipt: Option<Delivery>,
}

async fn publish(channel: lapin::Channel, mut outbox: mpsc::UnboundedReceiver<Post>) -> lapin::Result<()> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut posts = Vec::new();
    while outbox.recv_many(&mut posts, BATCH).await > 0 {
        let mut confirms = Vec::new();
        for Post { answer, .. } in &posts {
            let Some((Answer { outcome, body, .. }, reply_to, correlation_id)) = answer else { continue };
            let mut properties = BasicProperties::default()
                .with_content_type("application/json".into())
                .with_correlation_id(correlation_id.as_str().into())
                .with_delivery_mode(2);
            if let Some(outcome) = outcome {
                let mut headers = FieldTable::default();
                headers.insert("saga-outcome".into(), AMQPValue::LongString((*outcome).into()));
                properties = properties.with_headers(headers);
            }
            let options = BasicPublishOptions::default();
            confirms.push(channel.basic_publish("".into(), reply_to.as_str().into(), options, body, properties).await?);
        }
        for confirm in confirms {
            confirm.await?;
        }
        for receipt in posts.drain(..).filter_map(|post| post.receipt) {
            receipt.ack(BasicAckOptions::default()).await?;
        }
    }
    Ok(())
}

fn read(delivery: &Delivery) -> Command {
    let properties = delivery.properties.clone();
    let header = |name: &str| properties.headers().as_ref().and_then(|headers| headers.inner().get(name));
    let text = |name: &str| match header(name) {
        Some(AMQPValue::LongString(text)) => Some(text.to_string()),
        _ => None,
    };
    let attempt = match header("saga-attempt") {
        Some(AMQPValue::LongLongInt(attempt)) => *attempt,
        Some(AMQPValue::LongInt(attempt)) => i64::from(*attempt),
        other => panic!("saga-attempt is {other:?}"),
    };
    let command = |name: &str| text(name).unwrap_or_else(|| panic!("a command without {name}"));
    Command {
        saga: command("saga-id"),
        saga_key: text("saga-key"),
        step: command("saga-step"),
        action: command("saga-action"),
        attempt,
        key: command("idempotency-key"),
        routing_key: delivery.routing_key.to_string(),
        redelivered: delivery.redelivered,
        at: Instant::now(),
        effect: false,
        properties,
    }
}
