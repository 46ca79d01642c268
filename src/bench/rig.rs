//! What a bench needs around it: a folder, a database, queues, a daemon; with names of its own, and removed at the end.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use lapin::options::{
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::database::{Database, StoreKind};
use super::scenario::{SAGA, STEPS};
use super::{AMQP, Options, Result, machine, participant, trouble};
use crate::broker::message::Inbox;
use crate::broker::names::Names;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, QueueType};
use crate::core::saga::Status;

/// How long sagad may take to start, and to finish what is in hand.
const PATIENCE: Duration = Duration::from_secs(60);

/// Everything around the measured processes.
pub(super) struct Rig {
    pub(super) amqp: String,
    /// What the names of sagad's, the commands' and the participants' queues and exchanges start with.
    pub(super) prefix: String,
    broker: Option<u32>,
    folder: Folder,
    database: Database,
    daemon: Child,
    http: u16,
    scratch: Channel,
    _connection: Connection,
}

/// CPU time so far, microseconds, of those that live longer than a round.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub(super) daemon: Option<u64>,
    pub(super) broker: Option<u64>,
    pub(super) database: Option<u64>,
}

impl Rig {
    pub(super) async fn build(config: &Config, options: &Options, store: StoreKind) -> Result<Rig> {
        let name = format!("sagad-bench-{}", &SystemClock.id().simple().to_string()[20..]);
        let amqp = config.broker.url.clone();
        let properties = ConnectionProperties::default().with_connection_name("sagad bench".into());
        let connection = Connection::connect(&amqp, properties).await.map_err(|error| {
            trouble(format!(
                "can't connect to the RabbitMQ of broker.url: {error}; start it, or set SAGAD__BROKER__URL"
            ))
        })?;
        let scratch = connection.create_channel().await?;
        let folder = Folder::make(&name)?;
        let database = Database::make(store, config, &folder.0, &name).await?;
        let http = free_port()?;
        let started = daemon(&folder.0, &name, http, options, [(AMQP, &amqp), ("SAGAD__STORE__URL", &database.url)]);
        let daemon = match started {
            Ok(daemon) => daemon,
            Err(error) => return database.remove().await.and(Err(error)),
        };
        let broker = broker_process(&amqp);
        let mut rig =
            Rig { amqp, prefix: name, broker, folder, database, daemon, http, scratch, _connection: connection };
        let ready = match rig.wait_until_ready().await {
            Ok(()) => rig.declare_null(options.queue_type).await,
            Err(error) => Err(error),
        };
        match ready {
            Ok(()) => Ok(rig),
            Err(error) => rig.remove().await.and(Err(error)),
        }
    }

    /// Where starts for sagad are published.
    pub(super) fn starts(&self) -> String {
        Names::new(self.prefix.clone()).start_exchange()
    }

    /// Queue, and exchange, of starts for the null orchestrator.
    pub(super) fn null_starts(&self) -> String {
        format!("{}-null.start", self.prefix)
    }

    /// Queue of answers to the null orchestrator.
    pub(super) fn null_replies(&self) -> String {
        format!("{}-null.replies", self.prefix)
    }

    /// Exchange of commands.
    pub(super) fn commands(&self) -> String {
        commands(&self.prefix)
    }

    pub(super) fn times(&self) -> Times {
        Times {
            daemon: self.daemon.id().and_then(machine::cpu_micros),
            broker: self.broker.and_then(machine::cpu_micros),
            database: self.database.cpu_micros(),
        }
    }

    /// Waits until sagad has nothing more to do; whether every saga ended as `end`.
    pub(super) async fn all_ended(&mut self, end: Status) -> Result<bool> {
        let unfinished = [Status::Pending, Status::Running, Status::Compensating];
        let wrong = [Status::Suspended, Status::Completed, Status::Compensated, Status::Failed];
        let wrong: Vec<Status> = wrong.into_iter().filter(|status| *status != end).collect();
        let waiting = async {
            while self.any(&unfinished).await? {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok::<(), super::BenchError>(())
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(outcome) => outcome?,
            Err(_) => return Ok(false),
        }
        Ok(!self.any(&wrong).await?)
    }

    /// Removes everything.
    pub(super) async fn remove(mut self) -> Result<()> {
        // Its store goes with it: there is nothing to finish.
        self.daemon.kill().await?;
        let names = Names::new(self.prefix.clone());
        let queues = Inbox::ALL.into_iter().map(|inbox| names.queue(inbox));
        let queues = queues.chain(names.delay_queues().map(|(name, _)| name));
        let queues = queues.chain((0..STEPS).map(|step| participant::queue(&self.prefix, step)));
        let queues = queues.chain([self.null_starts(), self.null_replies()]);
        for queue in queues.collect::<Vec<_>>() {
            self.scratch.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
        }
        for exchange in names.exchanges().into_iter().chain([self.commands(), self.null_starts()]) {
            self.scratch.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await?;
        }
        self.database.remove().await
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let ready = tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(status) = self.daemon.try_wait()? {
                    return Err(trouble(format!("sagad ended ({status}): {}", self.log())));
                }
                if get(self.http, "/readyz").await.is_ok_and(|(code, _)| code == 200) {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        match ready.await {
            Ok(outcome) => outcome,
            Err(_) => Err(trouble(format!("sagad is not ready after {} s: {}", PATIENCE.as_secs(), self.log()))),
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.0.join("sagad.log")).unwrap_or_default()
    }

    /// What the null orchestrator consumes, like sagad's own.
    async fn declare_null(&self, queue_type: QueueType) -> Result<()> {
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let (starts, replies) = (self.null_starts(), self.null_replies());
        self.scratch
            .exchange_declare(starts.as_str().into(), ExchangeKind::Direct, durable, FieldTable::default())
            .await?;
        for queue in [&starts, &replies] {
            let mut arguments = FieldTable::default();
            arguments.insert("x-queue-type".into(), AMQPValue::LongString(queue_type.as_str().into()));
            let dead = Names::new(self.prefix.clone()).dead_exchange();
            arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString(dead.into()));
            let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            self.scratch.queue_declare(queue.as_str().into(), durable, arguments).await?;
        }
        let (queue, exchange) = (starts.as_str().into(), starts.as_str().into());
        self.scratch
            .queue_bind(queue, exchange, SAGA.into(), QueueBindOptions::default(), FieldTable::default())
            .await?;
        Ok(())
    }

    /// Whether there is a saga with one of these statuses.
    async fn any(&self, statuses: &[Status]) -> Result<bool> {
        let query: String = statuses.iter().map(|status| format!("&status={}", status.as_str())).collect();
        let (code, body) = get(self.http, &format!("/v1/sagas?limit=1{query}")).await?;
        let items = serde_json::from_str::<serde_json::Value>(&body).ok();
        match items.as_ref().and_then(|page| page["items"].as_array()) {
            Some(items) if code == 200 => Ok(!items.is_empty()),
            _ => Err(trouble(format!("sagad can't list its sagas: {code} {body}"))),
        }
    }
}

/// A temporary folder that goes with its value.
struct Folder(PathBuf);

impl Folder {
    fn make(name: &str) -> Result<Folder> {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path)?;
        // Postgres, where it has a user of its own, must get through.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left is in the folder of temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Starts `sagad serve` in a folder where no other configuration is found.
fn daemon(folder: &Path, prefix: &str, http: u16, options: &Options, urls: [(&str, &str); 2]) -> Result<Child> {
    let sagas = folder.join("sagas");
    std::fs::create_dir(&sagas)?;
    std::fs::write(sagas.join("bench.toml"), options.scenario.definition(&commands(prefix)))?;
    std::fs::write(folder.join("sagad.toml"), daemon_config(prefix, http, options))?;
    let log = std::fs::File::create(folder.join("sagad.log"))?;
    let mut command = this_binary()?;
    command.args(["serve", "--config", "sagad.toml"]).current_dir(folder).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SAGAD__") {
            command.env_remove(name);
        }
    }
    // They may have passwords in them, and the folder is open to all.
    command.envs(urls).stdout(log.try_clone()?).stderr(log);
    Ok(command.spawn()?)
}

/// This same program, which dies with the value, and not by the terminal's Ctrl-C: that stops the bench, which removes what it made.
pub(super) fn this_binary() -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.kill_on_drop(true).process_group(0);
    Ok(command)
}

fn daemon_config(prefix: &str, http: u16, options: &Options) -> String {
    let (queue_type, commands) = (options.queue_type.as_str(), commands(prefix));
    let mut text = format!(
        "[definitions]\npath = \"sagas\"\nwatch = false\n[broker]\nprefix = \"{prefix}\"\nqueue_type = \"{queue_type}\"\n\
         [http]\nlisten = \"127.0.0.1:{http}\"\n[telemetry]\nlog = \"warn\"\n\
         [[topology.exchanges]]\nname = \"{commands}\"\ntype = \"topic\"\n",
    );
    for step in 0..STEPS {
        text.push_str(&format!(
            "[[topology.queues]]\nname = \"{}\"\ntype = \"{queue_type}\"\n\
             bind = [{{ exchange = \"{commands}\", routing_key = \"step{step}.*\" }}]\n",
            participant::queue(prefix, step)
        ));
    }
    text
}

/// The exchange of commands. Not below the prefix itself: what is there is sagad's own.
fn commands(prefix: &str) -> String {
    format!("{prefix}-commands")
}

/// The broker's process, if it runs on this machine.
fn broker_process(amqp: &str) -> Option<u32> {
    let uri: lapin::uri::AMQPUri = amqp.parse().ok()?;
    machine::listener(&uri.authority.host, uri.authority.port)
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A GET: status and body.
async fn get(port: u16, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let code = answer.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    match (code, answer.split_once("\r\n\r\n")) {
        (Some(code), Some((_, body))) => Ok((code, body.to_owned())),
        _ => Err(trouble(format!("sagad answered {path} with {answer:?}"))),
    }
}
