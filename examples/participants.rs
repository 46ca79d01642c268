//! Sample participants: twelve small services that take the commands of the shipped sagas and answer them.
//!
//! ```text
//! cargo run --example participants -- --amqp amqp://guest:guest@127.0.0.1:5672/%2f
//! ```
//!
//! They are services like any other: they know RabbitMQ, their own database, and nothing of sagad but the headers of a command.
//! What is worth copying is [`handle`] (each command once, however often it comes), [`execute`] and [`compensate`] (an undo that
//! overtakes its command), and [`consume`] (answer first, acknowledge then).
//!
//! The data of a saga steers how they behave. Amounts and quantities above a service's limit are declined. And `MOOD-QUEUE`
//! anywhere in a command, in an order's id for example (`42-silent-payments`), puts that one service into a mood:
//!
//! | mood | what the service does with a command |
//! | --- | --- |
//! | `decline` | answers that it will not do it: a business failure |
//! | `flaky` | answers `retry` to the first attempt |
//! | `slow` | does it and answers after 2 seconds |
//! | `late` | does it and answers a second after the attempt timed out |
//! | `silent` | does it and never answers |
//! | `reject` | does nothing and rejects the message without requeueing it |
//! | `stuck` | does it, but answers every attempt to undo it with a failure |
#![allow(clippy::disallowed_methods, reason = "a service has a clock")]

use std::time::Duration;

use clap::Parser;
use futures_util::{TryStreamExt, future};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, BasicRejectOptions,
    ConfirmSelectOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{Sqlite, SqlitePool, Transaction};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;

/// Sample participants of the shipped sagas.
#[derive(Parser)]
struct Args {
    /// RabbitMQ.
    #[arg(
        long,
        env = "SAGAD__BROKER__URL",
        hide_env_values = true,
        default_value = "amqp://guest:guest@127.0.0.1:5672/%2f"
    )]
    amqp: String,
    /// SQLite file of these services.
    #[arg(long, default_value = "participants.db")]
    db: String,
    /// What the names of the queues start with.
    #[arg(long, default_value = "")]
    prefix: String,
}

/// One service: a queue, what it does, how it undoes it.
struct Service {
    queue: &'static str,
    execute: &'static str,
    compensate: &'static str,
    /// What its replies call the thing it made.
    id: &'static str,
    /// The largest number it accepts, under which name.
    limit: Option<(&'static str, f64)>,
}

const SERVICES: [Service; 12] = [
    service("orders", "order.create", "order.cancel", "order_ref", None),
    service("inventory", "inventory.reserve", "inventory.release", "reservation_id", Some(("quantity", 100.0))),
    service("payments", "payment.charge", "payment.refund", "payment_id", Some(("amount", 10_000.0))),
    service("shipments", "shipment.create", "shipment.cancel", "shipment_id", None),
    service("flights", "flight.book", "flight.cancel", "flight_booking_id", None),
    service("hotels", "hotel.book", "hotel.cancel", "hotel_booking_id", None),
    service("cars", "car.book", "car.cancel", "car_booking_id", None),
    service("travel-payments", "payment.charge", "payment.refund", "payment_id", Some(("amount", 10_000.0))),
    service("risk", "risk.check", "risk.release", "check_id", Some(("quantity", 100_000.0))),
    service("funds", "funds.reserve", "funds.release", "reservation_id", Some(("amount", 1_000_000.0))),
    service("trades", "trade.execute", "trade.reverse", "execution_id", None),
    service("settlements", "settlement.settle", "settlement.revert", "settlement_id", None),
];

const fn service(
    queue: &'static str,
    execute: &'static str,
    compensate: &'static str,
    id: &'static str,
    limit: Option<(&'static str, f64)>,
) -> Service {
    Service { queue, execute, compensate, id, limit }
}

/// A command as this service reads it.
struct Command {
    routing_key: String,
    /// The same for every attempt, and for every redelivery, of one action of one step of one saga.
    idempotency_key: String,
    saga: String,
    step: String,
    attempt: i64,
    /// When the attempt times out, RFC 3339.
    deadline: Option<String>,
    body: Value,
}

/// What goes back: the header `saga-outcome`, and the body.
struct Answer {
    outcome: String,
    body: Value,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let args = Args::parse();
    let db = open(&args.db).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        () = serve(&args, &db) => {}
        // Nothing to finish: what is not acknowledged is delivered again, what is half done is rolled back.
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

async fn open(file: &str) -> Result<SqlitePool, sqlx::Error> {
    let options =
        SqliteConnectOptions::new().filename(file).create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
    // SQLite has one writer; one connection makes the services take turns. With Postgres this is a pool of many.
    let db = SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
    for table in [
        "CREATE TABLE IF NOT EXISTS answered (idempotency_key TEXT PRIMARY KEY, outcome TEXT NOT NULL, body TEXT NOT NULL)",
        "CREATE TABLE IF NOT EXISTS work (id INTEGER PRIMARY KEY, service TEXT NOT NULL, saga TEXT NOT NULL, step TEXT NOT NULL, \
         state TEXT NOT NULL, details TEXT, UNIQUE (service, saga, step))",
    ] {
        sqlx::query(table).execute(&db).await?;
    }
    Ok(db)
}

/// Connects, consumes until something breaks, and begins anew: for ever.
async fn serve(args: &Args, db: &SqlitePool) {
    let mut told = String::new();
    loop {
        if let Err(error) = consume_all(args, db).await {
            let error = error.to_string();
            if error != told {
                println!("waiting for RabbitMQ and the queues that sagad declares: {error}");
                told = error;
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn consume_all(args: &Args, db: &SqlitePool) -> Result<(), Failure> {
    let properties = ConnectionProperties::default().with_connection_name("participants".into());
    let connection = Connection::connect(&args.amqp, properties).await?;
    // The first that breaks ends all: the next round begins with a new connection.
    future::try_join_all(SERVICES.iter().map(|service| consume(&connection, &args.prefix, service, db))).await?;
    Ok(())
}

/// How many commands of a queue are in hand at once.
const PREFETCH: u16 = 32;

async fn consume(connection: &Connection, prefix: &str, service: &Service, db: &SqlitePool) -> Result<(), Failure> {
    let channel = connection.create_channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let queue = format!("{prefix}{}", service.queue);
    let deliveries =
        channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default()).await?;
    let channel = Mutex::new(channel);
    deliveries
        .map_err(Failure::from)
        .try_for_each_concurrent(usize::from(PREFETCH), |delivery| take(&channel, service, db, delivery))
        .await?;
    Err("the broker ended a consumer".into())
}

/// One delivery, from its arrival to its acknowledgement.
async fn take(channel: &Mutex<Channel>, service: &Service, db: &SqlitePool, delivery: Delivery) -> Result<(), Failure> {
    let command = read(&delivery).filter(|command| service.knows(command));
    let mood = command.as_ref().and_then(|command| mood(service, command));
    let Some(command) = command.filter(|_| mood != Some("reject")) else {
        println!("{:<16}{:<20} rejected", service.queue, delivery.routing_key);
        // With the queue's dead-letter exchange, sagad learns of it; without one, the attempt times out.
        return Ok(delivery.reject(BasicRejectOptions { requeue: false }).await.map(drop)?);
    };
    let answer = match mood {
        Some("flaky") if command.attempt == 1 => Answer::new("retry", json!({ "message": "the database is busy" })),
        Some("decline") => {
            Answer::new("failure", json!({ "error": { "code": "declined", "message": "as was asked" } }))
        }
        Some("stuck") => Answer::new("failure", json!({ "error": { "code": "stuck", "message": "can't be undone" } })),
        _ => handle(db, service, &command).await?,
    };
    match mood {
        Some("slow") => tokio::time::sleep(Duration::from_secs(2)).await,
        Some("late") => tokio::time::sleep(until_too_late(&command)).await,
        _ => {}
    }
    let silent = mood == Some("silent");
    println!(
        "{:<16}{:<20} {} #{} -> {}",
        service.queue,
        command.routing_key,
        command.saga,
        command.attempt,
        if silent { "(silence)".to_owned() } else { format!("{} {}", answer.outcome, answer.body) }
    );
    if !silent {
        reply(channel, &delivery, &answer).await?;
    }
    // Last of all: a command whose answer did not get through is delivered again, and answered again.
    Ok(delivery.ack(BasicAckOptions::default()).await.map(drop)?)
}

/// Does a command once. A redelivery, or another attempt at what is done, gets the answer of the first.
async fn handle(db: &SqlitePool, service: &Service, command: &Command) -> Result<Answer, Failure> {
    let mut transaction = db.begin().await?;
    let answered: Option<(String, String)> =
        sqlx::query_as("SELECT outcome, body FROM answered WHERE idempotency_key = $1")
            .bind(&command.idempotency_key)
            .fetch_optional(&mut *transaction)
            .await?;
    if let Some((outcome, body)) = answered {
        return Ok(Answer { outcome, body: serde_json::from_str(&body)? });
    }
    let answer = if command.routing_key == service.compensate {
        compensate(&mut transaction, service, command).await?
    } else {
        execute(&mut transaction, service, command).await?
    };
    // In the same transaction as the effect: either both are there or neither.
    sqlx::query("INSERT INTO answered (idempotency_key, outcome, body) VALUES ($1, $2, $3)")
        .bind(&command.idempotency_key)
        .bind(&answer.outcome)
        .bind(answer.body.to_string())
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(answer)
}

/// The forward action: one row of `work`, which stands for a charge, a booking, a reservation.
async fn execute(db: &mut Transaction<'_, Sqlite>, service: &Service, command: &Command) -> Result<Answer, Failure> {
    if let Some((name, limit)) = service.limit
        && largest(&command.body, name) > limit
    {
        let message = format!("{} above {limit} is declined", name);
        return Ok(Answer::new("failure", json!({ "error": { "code": "limit", "message": message } })));
    }
    let id: Option<i64> = sqlx::query_scalar(
        "INSERT INTO work (service, saga, step, state, details) VALUES ($1, $2, $3, 'done', $4) ON CONFLICT DO NOTHING RETURNING id",
    )
    .bind(service.queue)
    .bind(&command.saga)
    .bind(&command.step)
    .bind(command.body.to_string())
    .fetch_optional(&mut **db)
    .await?;
    Ok(match id {
        Some(id) => Answer::new("success", json!({ service.id: format!("{}-{id}", service.queue) })),
        // The tombstone of `compensate`: this was undone before it was done, and so it stays undone.
        None => {
            Answer::new("failure", json!({ "error": { "code": "undone", "message": "it has been undone already" } }))
        }
    })
}

/// The undo. It may come before what it undoes: the command waits in the queue, or in another consumer, while its saga gives
/// up. Then the row that it leaves, a tombstone, makes the command fail when it comes. It answers success in any case, because
/// what was asked is so: nothing of this step is left, nor will be.
async fn compensate(db: &mut Transaction<'_, Sqlite>, service: &Service, command: &Command) -> Result<Answer, Failure> {
    sqlx::query(
        "INSERT INTO work (service, saga, step, state) VALUES ($1, $2, $3, 'undone') \
         ON CONFLICT (service, saga, step) DO UPDATE SET state = 'undone'",
    )
    .bind(service.queue)
    .bind(&command.saga)
    .bind(&command.step)
    .execute(&mut **db)
    .await?;
    Ok(Answer::new("success", json!({})))
}

/// Publishes the answer and waits until the broker has it.
async fn reply(channel: &Mutex<Channel>, delivery: &Delivery, answer: &Answer) -> Result<(), Failure> {
    let command = &delivery.properties;
    let Some(reply_to) = command.reply_to().clone() else { return Ok(()) };
    let mut headers = FieldTable::default();
    headers.insert("saga-outcome".into(), AMQPValue::LongString(answer.outcome.as_str().into()));
    let mut properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
        .with_headers(headers);
    if let Some(id) = command.correlation_id().clone() {
        properties = properties.with_correlation_id(id);
    }
    // One at a time on a channel, so that each gets its own confirm.
    let channel = channel.lock().await;
    let body = answer.body.to_string();
    let confirm = channel
        .basic_publish("".into(), reply_to, BasicPublishOptions::default(), body.as_bytes(), properties)
        .await?
        .await?;
    if confirm.is_nack() { Err("the broker did not take an answer".into()) } else { Ok(()) }
}

/// Reads a delivery; `None` if it is no command.
fn read(delivery: &Delivery) -> Option<Command> {
    let headers = delivery.properties.headers().as_ref()?.inner();
    let text = |name: &str| match headers.get(name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        _ => None,
    };
    Some(Command {
        routing_key: delivery.routing_key.to_string(),
        idempotency_key: text("idempotency-key")?,
        saga: text("saga-id")?,
        // Each element of a step with `foreach` is a piece of work of its own.
        step: match headers.get("saga-item") {
            Some(AMQPValue::LongLongInt(item)) => format!("{}/{item}", text("saga-step")?),
            _ => text("saga-step")?,
        },
        attempt: match headers.get("saga-attempt") {
            Some(AMQPValue::LongLongInt(number)) => *number,
            Some(AMQPValue::LongInt(number)) => i64::from(*number),
            _ => 1,
        },
        deadline: text("saga-deadline"),
        body: serde_json::from_slice(&delivery.data).ok()?,
    })
}

/// The mood that this command's data puts this service into.
fn mood(service: &Service, command: &Command) -> Option<&'static str> {
    let undo = command.routing_key == service.compensate;
    let moods: &[&str] = if undo { &["stuck"] } else { &["decline", "flaky", "slow", "late", "silent", "reject"] };
    let body = command.body.to_string();
    moods.iter().copied().find(|mood| body.contains(&format!("{mood}-{}", service.queue)))
}

/// The largest number called `name` in `body`, at any depth.
fn largest(body: &Value, name: &str) -> f64 {
    let below = |value: &Value| largest(value, name);
    match body {
        Value::Array(items) => items.iter().map(below).fold(0.0, f64::max),
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| if key == name { value.as_f64().unwrap_or(0.0) } else { below(value) })
            .fold(0.0, f64::max),
        _ => 0.0,
    }
}

/// From now until a second after the attempt timed out.
fn until_too_late(command: &Command) -> Duration {
    let deadline = command.deadline.as_deref().and_then(|text| humantime::parse_rfc3339(text).ok());
    let left = deadline.and_then(|deadline| deadline.duration_since(std::time::SystemTime::now()).ok());
    left.unwrap_or_default() + Duration::from_secs(1)
}

impl Service {
    fn knows(&self, command: &Command) -> bool {
        [self.execute, self.compensate].contains(&command.routing_key.as_str())
    }
}

impl Answer {
    fn new(outcome: &str, body: Value) -> Answer {
        Answer { outcome: outcome.to_owned(), body }
    }
}
