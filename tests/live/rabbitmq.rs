//! A RabbitMQ to test against.
//!
//! [`shared`] is one broker for all tests of this process: the one at `SAGAD_TEST_AMQP`, else [`own`], a node of our own. [`private`] is a node that
//! a test has to itself for as long as it holds it, to kill, starve and restart. Nodes of our own have their name, ports, data and home
//! to themselves, and are gone, data and all, when the process is, however it ends: a shell in between waits for that.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use sagad::broker::topology::TopologyPlan;
use sagad::config::{BrokerConfig, QueueType, Topology};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

/// A node boots in 5 s on an idle machine.
const BOOT: Duration = Duration::from_secs(90);

/// Where a test's broker is.
pub async fn shared() -> &'static str {
    static URL: OnceCell<String> = OnceCell::const_new();
    let url = || async {
        match std::env::var("SAGAD_TEST_AMQP") {
            Ok(url) => url,
            Err(_) => own().await.url(),
        }
    };
    URL.get_or_init(url).await
}

/// A node of our own that tests share, for those that want to look into it too.
pub async fn own() -> &'static Node {
    static NODE: OnceCell<Node> = OnceCell::const_new();
    NODE.get_or_init(Node::boot).await
}

/// A node that nobody else uses while this test holds it; it is up.
pub async fn private() -> MutexGuard<'static, Node> {
    static NODE: OnceCell<Mutex<Node>> = OnceCell::const_new();
    let mut node = NODE.get_or_init(|| async { Mutex::new(Node::boot().await) }).await.lock().await;
    // The test before this one may have ended in the middle.
    if !node.is_up() {
        node.kill();
        node.start().await;
    }
    if node.starved {
        node.feed().await;
    }
    node
}

/// Starts, kills and removes a node at the word of its standard input; the end of which, be it that the tests crashed, is the last word.
/// `RUNNING_UNDER_SYSTEMD` keeps RabbitMQ's script from staying between us and the Erlang machine.
const KEEPER: &str = r#"
trap '' INT TERM HUP
epmd -address 127.0.0.1 -port "$ERL_EPMD_PORT" >/dev/null 2>&1 &
epmd=$!
server=
while read -r word; do
    case $word in
    start) RUNNING_UNDER_SYSTEMD=true setsid "$SBIN/rabbitmq-server" >>"$DIR/out" 2>&1 </dev/null & server=$! ;;
    kill) [ -n "$server" ] && kill -s KILL -- "-$server" 2>/dev/null; wait "$server" 2>/dev/null; server=; echo killed ;;
    esac
done
[ -n "$server" ] && kill -s KILL -- "-$server" 2>/dev/null
kill -s KILL "$epmd"
wait
rm -rf "$DIR"
"#;

/// A RabbitMQ node of our own.
pub struct Node {
    control: Control,
    keeper: Child,
    orders: ChildStdin,
    starved: bool,
}

impl Node {
    /// A new node, up.
    async fn boot() -> Node {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let dir =
            tempfile::Builder::new().prefix("sagad-rabbitmq-").tempdir().expect("a directory for the node").keep();
        let sbin = sbin();
        let [port, distribution, epmd] = free_ports();
        let path = |name: &str| dir.join(name).display().to_string();
        let write =
            |name: &str, text: &str| std::fs::write(dir.join(name), text).expect("the node's directory can be written");
        // Disk alarms of a small machine are not what is tested, and the logs of hundreds of connections not what is read.
        write("rabbitmq.conf", "listeners.tcp.default = 127.0.0.1:PORT\ndisk_free_limit.absolute = 1MB\nlog.file.level = warning\nlog.console = false\n".replace("PORT", &port.to_string()).as_str());
        write("enabled_plugins", "[].");
        write("rabbitmq-env.conf", "");
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let environment = vec![
            ("RABBITMQ_NODENAME", format!("sagad-{}-{count}@localhost", std::process::id())),
            ("RABBITMQ_NODE_PORT", port.to_string()),
            ("RABBITMQ_DIST_PORT", distribution.to_string()),
            ("ERL_EPMD_PORT", epmd.to_string()),
            ("RABBITMQ_MNESIA_BASE", path("mnesia")),
            ("RABBITMQ_LOG_BASE", path("log")),
            ("RABBITMQ_PID_FILE", path("pid")),
            ("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins")),
            ("RABBITMQ_CONF_ENV_FILE", path("rabbitmq-env.conf")),
            // Schedulers that spin take the processor from everyone else; and nobody outside has business with its clustering.
            (
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}".to_owned(),
            ),
            ("HOME", dir.display().to_string()),
            ("DIR", dir.display().to_string()),
            ("SBIN", sbin.display().to_string()),
        ];
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(KEEPER)
            .envs(environment.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        // A group of its own, out of reach of the terminal's Ctrl-C.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut keeper = command.spawn().expect("sh starts");
        let orders = keeper.stdin.take().expect("piped");
        let control = Control { port, sbin, environment };
        let mut node = Node { control, keeper, orders, starved: false };
        node.start().await;
        node
    }

    /// Its URL.
    pub fn url(&self) -> String {
        self.control.url()
    }

    /// Starts it after a [`kill`](Node::kill), and waits until it serves.
    pub async fn start(&mut self) {
        self.order("start");
        let deadline = Instant::now() + BOOT;
        while !self.is_up() {
            assert!(Instant::now() < deadline, "RabbitMQ does not come up: {}", self.output());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Makes it remember its quorum queues: where they are, it writes down half a second after it declares them, and those that it was killed
    /// before are never available again.
    pub async fn sync(&self) {
        self.ctl(&["eval", "[ok = dets:sync(Table) || Table <- dets:all()]."]).await;
    }

    /// Makes it believe that it is out of memory: it blocks whoever publishes.
    pub async fn starve(&mut self) {
        self.starved = true;
        self.ctl(&["set_vm_memory_high_watermark", "0"]).await;
    }

    /// Gives it memory again.
    pub async fn feed(&mut self) {
        self.ctl(&["set_vm_memory_high_watermark", "0.6"]).await;
        self.starved = false;
    }

    /// Kills it as a power cut would.
    pub fn kill(&mut self) {
        self.order("kill");
        let mut answer = [0; "killed\n".len()];
        self.keeper.stdout.as_mut().expect("piped").read_exact(&mut answer).expect("the keeper answers");
    }

    /// Runs `rabbitmqctl` and gives what it prints. Takes about a second.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        self.control.ctl(arguments).await
    }

    /// `rabbitmqctl list_queues` of these columns, a row a queue.
    pub async fn list_queues(&self, columns: &[&str]) -> Vec<Vec<String>> {
        self.control.list_queues(columns).await
    }

    /// To look into it while somebody else may kill it.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Whether it speaks AMQP.
    fn is_up(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.control.port)) else { return false };
        let timeout = Some(Duration::from_secs(1));
        stream.set_read_timeout(timeout).expect("not zero");
        let mut byte = [0];
        stream.write_all(b"AMQP\x00\x00\x09\x01").is_ok() && stream.read_exact(&mut byte).is_ok()
    }

    fn order(&mut self, word: &str) {
        writeln!(self.orders, "{word}").expect("the keeper listens");
    }

    fn output(&self) -> String {
        let dir = self
            .control
            .environment
            .iter()
            .find(|(name, _)| *name == "DIR")
            .map(|(_, dir)| dir.clone())
            .unwrap_or_default();
        std::fs::read_to_string(PathBuf::from(dir).join("out")).unwrap_or_default()
    }
}

/// Where a node is, and how to look into it.
#[derive(Clone)]
pub struct Control {
    port: u16,
    sbin: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl Control {
    /// Its URL.
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// Runs `rabbitmqctl` and gives what it prints. Takes about a second.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        // It serves a moment before it is up in the eyes of rabbitmqctl.
        self.run(&["await_startup"]).await;
        self.run(arguments).await
    }

    async fn run(&self, arguments: &[&str]) -> String {
        let output = tokio::process::Command::new(self.sbin.join("rabbitmqctl"))
            .args(arguments)
            .envs(self.environment.iter().cloned())
            .output()
            .await
            .expect("rabbitmqctl starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "rabbitmqctl {arguments:?}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    /// `rabbitmqctl list_queues` of these columns, a row a queue.
    pub async fn list_queues(&self, columns: &[&str]) -> Vec<Vec<String>> {
        let arguments = [&["list_queues", "--quiet", "--no-table-headers"], columns].concat();
        self.ctl(&arguments).await.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
    }
}

/// RabbitMQ's own scripts: those on the PATH of a Debian insist on its user and service.
fn sbin() -> PathBuf {
    let versions =
        std::fs::read_dir("/usr/lib/rabbitmq/lib").map(|dir| dir.flatten().map(|entry| entry.path().join("sbin")));
    versions
        .ok()
        .and_then(|mut paths| paths.find(|path| path.join("rabbitmq-server").exists()))
        .expect("RabbitMQ is not installed (apt-get install rabbitmq-server)")
}

/// Ports that were free just now.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("bound").port())
}

/// What a test has on a broker: all names begin with its prefix, and are deleted with it.
pub struct Scope {
    url: String,
    prefix: String,
    names: std::sync::Mutex<Vec<String>>,
}

impl Scope {
    /// A prefix of its own on the broker at `url`, for sagad's names and [others](Scope::name).
    pub fn new(url: &str) -> Scope {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("t{}-{count}", std::process::id());
        let scope = Scope { url: url.to_owned(), prefix, names: std::sync::Mutex::default() };
        let plan = TopologyPlan::new(&scope.config(), &Topology::default()).expect("a right prefix");
        scope.remember(plan.exchanges.into_iter().map(|exchange| exchange.name));
        scope.remember(plan.queues.into_iter().map(|queue| queue.name));
        scope
    }

    /// A broker configuration for it: classic queues, which are quickly declared and deleted.
    pub fn config(&self) -> BrokerConfig {
        BrokerConfig {
            url: self.url.clone(),
            prefix: self.prefix.clone(),
            queue_type: QueueType::Classic,
            prefetch: 1024,
            max_message: 1 << 20,
        }
    }

    /// `broker.prefix`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The name of an exchange or queue of the test's own, deleted at the end.
    pub fn name(&self, name: &str) -> String {
        let name = format!("{}.{name}", self.prefix);
        self.remember([name.clone()]);
        name
    }

    /// A client beside sagad.
    pub async fn client(&self) -> Client {
        Client::connect(&self.url).await
    }

    fn remember(&self, names: impl IntoIterator<Item = String>) {
        self.names.lock().expect("no test panics here").extend(names);
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        let names = std::mem::take(self.names.get_mut().expect("no test panics here"));
        let url = self.url.clone();
        // Dropped in a runtime, which can't be waited for inside itself.
        let deleted = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let client = Connection::connect(&url, ConnectionProperties::default()).await?;
                let channel = client.create_channel().await?;
                for name in names {
                    channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await?;
                    channel.exchange_delete(name.as_str().into(), ExchangeDeleteOptions::default()).await?;
                }
                client.close(200, "OK".into()).await
            })
        });
        // A broker that the test left dead takes its queues along.
        drop(deleted.join());
    }
}

/// A plain AMQP client.
pub struct Client {
    pub connection: Connection,
    pub channel: Channel,
}

impl Client {
    pub async fn connect(url: &str) -> Client {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.expect("the broker is up");
        let channel = connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        Client { connection, channel }
    }

    /// A durable classic queue.
    pub async fn queue(&self, name: &str) {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(name.into(), options, FieldTable::default()).await.expect("declared");
    }

    /// Publishes and waits for the confirm.
    pub async fn publish(&self, exchange: &str, routing_key: &str, properties: BasicProperties, body: &[u8]) {
        let options = BasicPublishOptions::default();
        let confirm = self.channel.basic_publish(exchange.into(), routing_key.into(), options, body, properties).await;
        assert!(confirm.expect("sent").await.expect("confirmed").is_ack());
    }

    /// How many messages wait in a queue, `None` if there is no such queue. What a consumer has is not counted.
    pub async fn waiting(&self, queue: &str) -> Option<u32> {
        let probe = self.connection.create_channel().await.expect("a channel");
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        probe.queue_declare(queue.into(), options, FieldTable::default()).await.ok().map(|queue| queue.message_count())
    }

    /// Waits until exactly so many messages wait in a queue.
    pub async fn wait_for(&self, queue: &str, count: u32) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let waiting = self.waiting(queue).await;
            if waiting == Some(count) {
                return;
            }
            assert!(Instant::now() < deadline, "{queue} has {waiting:?} messages instead of {count}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Takes all messages off a queue.
    pub async fn drain(&self, queue: &str) -> Vec<lapin::message::Delivery> {
        let count = self.waiting(queue).await.expect("there is such a queue");
        let channel = self.connection.create_channel().await.expect("a channel");
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consumer =
            channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await.expect("consumed");
        let messages = consumer.take(count as usize).map(|message| message.expect("delivered")).collect().await;
        channel.close(200, "OK".into()).await.expect("closed");
        messages
    }

    /// Takes a message off a queue.
    pub async fn take(&self, queue: &str) -> Option<lapin::message::Delivery> {
        let options = BasicGetOptions { no_ack: true };
        self.channel.basic_get(queue.into(), options).await.expect("got").map(|message| message.delivery)
    }
}
