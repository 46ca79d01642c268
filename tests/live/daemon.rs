//! `sagad serve` as a process: started, asked, frozen, killed.
//!
//! A [`Site`] is what a daemon is started with (folder, configuration, definitions, names on the broker); a [`Daemon`] is one
//! process on it. Several may run on one site, and one after the other. Neither leaves anything behind, also if the tests are
//! killed.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use lapin::{Connection, ConnectionProperties};
use reqwest::{Client, StatusCode};
use sagad::broker::topology::TopologyPlan;
use sagad::config::Config;
use serde_json::Value;
use tempfile::TempDir;

/// How long a daemon may take to be ready; it needs a second on an idle machine.
const READY: Duration = Duration::from_secs(60);

/// Between two looks at something that tells nobody when it changes.
const LOOK: Duration = Duration::from_millis(10);

/// What daemons are started with.
pub(crate) struct Site {
    folder: TempDir,
    prefix: String,
    amqp: String,
    store: String,
    settings: String,
    topology: String,
    wrapper: Vec<String>,
}

impl Site {
    /// A site on the broker at `amqp`, with a prefix of its own and a store at `store`; `None`: a SQLite file in its folder.
    pub(crate) fn new(amqp: &str, store: Option<&str>) -> Site {
        let folder = tempfile::Builder::new().prefix("sagad-site-").tempdir().expect("a folder");
        fs::create_dir(folder.path().join("sagas")).expect("a folder for definitions");
        let store = match store {
            Some(url) => url.to_owned(),
            None => format!("sqlite://{}", folder.path().join("sagad.db").display()),
        };
        let prefix = format!("s{}", &uuid::Uuid::now_v7().simple().to_string()[20..]);
        Site {
            prefix,
            folder,
            amqp: amqp.to_owned(),
            store,
            settings: String::new(),
            topology: String::new(),
            wrapper: Vec::new(),
        }
    }

    /// The definition in `sagas/NAME.toml`: added or changed. What `PREFIX` stands for is put in.
    pub(crate) fn define(&self, name: &str, text: &str) {
        let path = self.folder.path().join("sagas").join(format!("{name}.toml"));
        fs::write(path, text.replace("PREFIX", &self.prefix)).expect("the definition is written");
    }

    /// An exchange of commands (topic) called `PREFIX-commands`, and for each of `queues` a classic queue `PREFIX-QUEUE` that gets
    /// everything with the routing key `QUEUE.*`.
    pub(crate) fn with_queues(mut self, queues: &[&str]) -> Site {
        self.topology.push_str("[[topology.exchanges]]\nname = \"PREFIX-commands\"\ntype = \"topic\"\n");
        for queue in queues {
            self.topology.push_str(&format!(
                "[[topology.queues]]\nname = \"PREFIX-{queue}\"\ntype = \"classic\"\n\
                 bind = [{{ exchange = \"PREFIX-commands\", routing_key = \"{queue}.*\" }}]\n"
            ));
        }
        self
    }

    /// More configuration: whole tables of TOML, with `PREFIX` for the prefix. `[store]`, `[broker]` and `[http]` are taken.
    pub(crate) fn with_config(mut self, tables: &str) -> Site {
        self.topology.push_str(tables);
        self
    }

    /// A setting of any table, by its variable: `SAGAD__DELAY__SWEEP`.
    pub(crate) fn with_setting(mut self, variable: &str, value: &str) -> Site {
        self.settings.push_str(&format!("{variable}={value}\n"));
        self
    }

    /// Runs the daemon by way of this program and these arguments.
    pub(crate) fn with_wrapper(mut self, wrapper: &[&str]) -> Site {
        self.wrapper = wrapper.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// `broker.prefix`.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A name of the participants' side: `PREFIX-NAME`.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// The broker's URL.
    pub(crate) fn amqp(&self) -> &str {
        &self.amqp
    }

    /// The store's URL.
    pub(crate) fn store(&self) -> &str {
        &self.store
    }

    /// Its folder, with `sagas/` and the daemons' logs in it.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration as text, with this port to listen on.
    fn config(&self, port: u16) -> String {
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let text = format!(
            "[store]\nurl = {}\n[broker]\nurl = {}\nprefix = {}\nqueue_type = \"classic\"\n\
             [http]\nlisten = \"127.0.0.1:{port}\"\n{}",
            quoted(&self.store),
            quoted(&self.amqp),
            quoted(&self.prefix),
            self.topology
        );
        text.replace("PREFIX", &self.prefix)
    }

    /// Starts a daemon and waits until it is ready.
    pub(crate) async fn start(&self) -> Daemon {
        let mut daemon = self.spawn();
        daemon.ready().await;
        daemon
    }

    /// Starts a daemon.
    pub(crate) fn spawn(&self) -> Daemon {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let nth = COUNT.fetch_add(1, Ordering::Relaxed);
        let port = free_port();
        let config = self.folder.path().join(format!("sagad-{nth}.toml"));
        fs::write(&config, self.config(port)).expect("the configuration is written");
        let log = self.folder.path().join(format!("sagad-{nth}.log"));
        let output = fs::File::create(&log).expect("a log");
        let binary = env!("CARGO_BIN_EXE_sagad");
        let mut command = match self.wrapper.split_first() {
            None => Command::new(binary),
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(binary);
                command
            }
        };
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SAGAD_") {
                command.env_remove(name);
            }
        }
        let settings = self.settings.lines().filter_map(|line| line.split_once('='));
        command
            .args(["serve", "--config"])
            .arg(&config)
            .envs(settings)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stderr(output.try_clone().expect("a second handle"))
            .stdout(output)
            // Out of reach of the terminal's Ctrl-C.
            .process_group(0);
        let child = command.spawn().expect("sagad starts");
        let watchdog = Watchdog::of(child.id());
        let client = Client::builder().no_proxy().timeout(Duration::from_secs(40)).build().expect("a client");
        Daemon { child, watchdog, log, port, client, ended: None }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let config = match Config::parse("sagad.toml", &self.config(7242)) {
            Ok(config) => config,
            Err(error) => return eprintln!("the queues below {} are left behind: {error}", self.prefix),
        };
        let Ok(plan) = TopologyPlan::new(&config.broker, &config.topology) else { return };
        let url = self.amqp.clone();
        // We are inside a runtime, which can't be waited for from inside.
        let deleted = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let delete = async {
                let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
                let channel = connection.create_channel().await?;
                for queue in plan.queues {
                    channel.queue_delete(queue.name.into(), QueueDeleteOptions::default()).await?;
                }
                for exchange in plan.exchanges {
                    channel.exchange_delete(exchange.name.into(), ExchangeDeleteOptions::default()).await?;
                }
                connection.close(200, "OK".into()).await
            };
            // A broker that was killed takes its queues along.
            runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), delete).await })
        });
        let _ = deleted.join();
    }
}

/// One process.
pub(crate) struct Daemon {
    child: Child,
    watchdog: Watchdog,
    log: PathBuf,
    port: u16,
    client: Client,
    ended: Option<ExitStatus>,
}

impl Daemon {
    /// Its address: `http://127.0.0.1:PORT`.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `/readyz` says so.
    pub(crate) async fn ready(&mut self) {
        self.until("it is ready", READY, |status, _| status == StatusCode::OK).await;
    }

    /// Waits until `/readyz` answers as `expected`, and gives the answer's body.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        patience: Duration,
        expected: impl Fn(StatusCode, &Value) -> bool,
    ) -> Value {
        let deadline = Instant::now() + patience;
        let mut last = None;
        loop {
            if let Some(status) = self.exited() {
                panic!("waiting until {what}, but sagad ended: {status}");
            }
            if let Ok(answer) = self.try_get("/readyz").await {
                if expected(answer.0, &answer.1) {
                    return answer.1;
                }
                last = Some(answer);
            }
            assert!(Instant::now() < deadline, "waiting until {what} took too long; /readyz: {last:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// GET; status and JSON (a string, if it is not JSON).
    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.try_get(path).await.unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// GET; an error if nobody answers.
    pub(crate) async fn try_get(&self, path: &str) -> reqwest::Result<(StatusCode, Value)> {
        answer(self.client.get(self.url() + path).send().await?).await
    }

    /// POST; status and JSON.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        self.try_post(path, &[], body).await.unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    /// POST with these headers; an error if nobody answers.
    pub(crate) async fn try_post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> reqwest::Result<(StatusCode, Value)> {
        let mut request = self.client.post(self.url() + path).json(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(request.send().await?).await
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(&mut self) {
        if self.exited().is_none() {
            self.child.kill().expect("it is ours");
            self.ended = Some(self.child.wait().expect("it is ours"));
        }
    }

    /// SIGSTOP: it keeps its connections and does nothing.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal("TERM");
    }

    /// Any signal, by its name without `SIG`.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().expect("kill");
        assert!(status.success(), "SIG{name} for sagad");
    }

    /// Waits for its end.
    pub(crate) async fn wait(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            assert!(Instant::now() < deadline, "sagad did not end within {patience:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Its exit status, if it has ended.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("it is ours");
        }
        self.ended
    }

    /// All that it said on standard output and standard error.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        self.watchdog.release();
        let log = self.log();
        if std::thread::panicking() {
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(200)..];
            eprintln!("---- the last {} of {} lines of sagad's log ----\n{}", tail.len(), lines.len(), tail.join("\n"));
        } else {
            assert!(!log.contains("panicked"), "sagad panicked:\n{log}");
        }
    }
}

/// Kills a process if this one ends without having [released](Watchdog::release) it.
struct Watchdog(Child);

impl Watchdog {
    fn of(pid: u32) -> Watchdog {
        let child = Command::new("sh")
            .args(["-c", "trap '' INT TERM HUP; read -r released || kill -9 \"$0\"", &pid.to_string()])
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn();
        Watchdog(child.expect("sh"))
    }

    fn release(&mut self) {
        if let Some(mut stdin) = self.0.stdin.take() {
            let _ = stdin.write_all(b"released\n");
        }
        let _ = self.0.wait();
    }
}

async fn answer(response: reqwest::Response) -> reqwest::Result<(StatusCode, Value)> {
    let status = response.status();
    let text = response.text().await?;
    Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
}

/// A port for a daemon. Not one of those that the system gives to connections, which might take it before the daemon does.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 12_000 + ((std::process::id() * 251 + nth) % 18_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
