//! The driver's process: keeps a number of sagas in flight for a while and measures them.
//!
//! It publishes starts and learns of ends from the participants' process, over a pipe: no message, no polling. A saga has ended once the
//! broker has the answer to its last command; what its orchestrator does with that answer is paid for by the sagas behind it. This is the
//! same for sagad and for the null orchestrator. On its standard output it says `begin` and `end` when the measured time does, `drained`
//! when all sagas ended, and then one line of JSON.

use std::collections::HashMap;
use std::time::Duration;

use lapin::BasicProperties;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until};

use super::link::{Link, Message};
use super::participant::Seen;
use super::pipe;
use super::scenario::{NOTE, SAGA};
use super::{AMQP, Result, trouble};

/// What a driver's process is told.
#[derive(Debug, clap::Args)]
pub struct DriverArgs {
    /// RabbitMQ; not an argument, which every user of the machine could read
    #[arg(env = AMQP, hide_env_values = true)]
    amqp: String,
    /// Where starts are published
    #[arg(long)]
    exchange: String,
    /// What order numbers start with
    #[arg(long)]
    tag: String,
    /// Sagas in flight
    #[arg(long)]
    in_flight: usize,
    /// Milliseconds before the measured time
    #[arg(long)]
    warm_up_ms: u64,
    /// Milliseconds of measured time
    #[arg(long)]
    measure_ms: u64,
}

/// What the driver found out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// Sagas started, before, during and after the measured time.
    pub started: usize,
    /// Whether each of them ended.
    pub drained: bool,
    /// How long the measured time was.
    pub seconds: f64,
    /// From start to end, microseconds, of each saga that ended in the measured time.
    pub micros: Vec<u32>,
    /// What the participants saw.
    pub seen: Seen,
}

/// How long the last sagas may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts and measures.
///
/// # Errors
/// RabbitMQ or the participants went away.
pub async fn run(args: DriverArgs) -> Result<()> {
    let link = Link::open(&args.amqp, "driver").await?;
    let mut ends = Ends(pipe::stdin());
    let mut measured = Measured::default();
    let mut began: HashMap<String, Instant> = HashMap::new();
    let begin = Instant::now() + Duration::from_millis(args.warm_up_ms);
    let end = begin + Duration::from_millis(args.measure_ms);
    let (mut measuring, mut over) = (false, false);
    let mut free = args.in_flight;
    while !over || !began.is_empty() {
        if free > 0 && !over {
            let orders = (0..free).map(|n| format!("{}-{}", args.tag, measured.started + n));
            let orders: Vec<String> = orders.collect();
            measured.started += orders.len();
            let now = Instant::now();
            began.extend(orders.iter().map(|order| (order.clone(), now)));
            link.publish(orders.iter().map(|order| start(&args.exchange, order)).collect()).await?;
            free = 0;
        }
        tokio::select! {
            ended = ends.next() => {
                let now = Instant::now();
                for order in ended? {
                    let Some(began) = began.remove(&order) else { continue };
                    free += 1;
                    if measuring && !over {
                        measured.micros.push(u32::try_from((now - began).as_micros()).unwrap_or(u32::MAX));
                    }
                }
            }
            () = sleep_until(begin), if !measuring => {
                measuring = true;
                pipe::say("begin\n")?;
            }
            () = sleep_until(end), if measuring && !over => {
                over = true;
                measured.seconds = (Instant::now() - begin).as_secs_f64();
                pipe::say("end\n")?;
            }
            () = sleep_until(end + PATIENCE) => break,
        }
    }
    measured.drained = began.is_empty();
    pipe::say("drained\n")?;
    measured.seen = ends.last_words().await?;
    let measured = serde_json::to_string(&measured).map_err(|error| trouble(error.to_string()))?;
    pipe::say(&format!("{measured}\n"))
}

fn start(exchange: &str, order: &str) -> Message {
    Message {
        exchange: exchange.to_owned(),
        routing_key: SAGA.to_owned(),
        mandatory: false,
        properties: BasicProperties::default().with_content_type("application/json".into()).with_delivery_mode(2),
        body: format!(r#"{{"order_id":"{order}","customer_id":"customer-{order}","note":"{NOTE}"}}"#).into_bytes(),
    }
}

/// What the participants say: orders whose sagas ended.
struct Ends(UnboundedReceiver<String>);

impl Ends {
    /// As many as are known of, at least one.
    async fn next(&mut self) -> Result<Vec<String>> {
        let mut orders = Vec::new();
        match self.0.recv_many(&mut orders, 4096).await {
            0 => Err(trouble("the participants went away")),
            _ => Ok(orders),
        }
    }

    /// What they say before they go.
    async fn last_words(mut self) -> Result<Seen> {
        let mut last = String::new();
        while let Some(line) = self.0.recv().await {
            last = line;
        }
        serde_json::from_str(&last).map_err(|_| trouble(format!("the participants' last words are {last:?}")))
    }
}
