//! A Postgres for tests: the one at `SAGAD_TEST_POSTGRES` (the URL of an administrator), or one of our own.
//!
//! A server of our own runs below a small shell script that is the only one to know its process, and that ends it and removes
//! its files when its standard input is closed: so nothing is left behind, however the tests end.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use sqlx::{Connection, Executor, PgConnection};
use uuid::Uuid;

/// Arguments: folder, bin folder, port, the user to run as or nothing. Each line that it reads is an order, answered with a
/// line.
const KEEPER: &str = r#"
trap '' INT TERM HUP
dir=$1 bin=$2 port=$3 user=$4
run() { if [ -n "$user" ]; then exec setpriv --reuid="$user" --regid="$user" --clear-groups "$@"; else exec "$@"; fi; }
start() {
    (run "$bin/postgres" -D "$dir/data" -p "$port" -k "$dir" -c listen_addresses=127.0.0.1 >>"$dir/log" 2>&1) &
    pid=$!
}
kill_now() {
    # Its children hold on to its shared memory: a restart would be refused until the last one is gone.
    children=$(ps -o pid= --ppid "$pid")
    # All at once: a child that sees its parent go would still say so to its clients.
    kill -STOP "$pid" $children 2>/dev/null
    kill -9 "$pid" $children 2>/dev/null
    wait "$pid" 2>/dev/null
    for child in $children; do while kill -0 "$child" 2>/dev/null; do sleep 0.01; done; done
}
pid=
while read -r order; do
    case $order in
        start) start ;;
        kill) kill_now ;;
        freeze) kill -STOP "$pid" $(ps -o pid= --ppid "$pid") ;;
        thaw) kill -CONT "$pid" $(ps -o pid= --ppid "$pid") ;;
    esac
    echo "$order"
done
[ -n "$pid" ] && kill_now
rm -rf "$dir"
"#;

/// A database of its own for one test.
pub(crate) struct Database {
    pub(crate) url: String,
    name: String,
}

/// A new, empty database on the server that the tests share.
pub(crate) async fn database() -> Database {
    let url = match std::env::var("SAGAD_TEST_POSTGRES") {
        Ok(url) => url,
        Err(_) => {
            static SHARED: OnceLock<Cluster> = OnceLock::new();
            let start = || SHARED.get_or_init(Cluster::start).url("postgres");
            tokio::task::spawn_blocking(start).await.expect("a Postgres")
        }
    };
    let name = format!("sagad_test_{}", Uuid::now_v7().simple());
    let mut admin = PgConnection::connect(&url).await.expect("the test server");
    admin.execute(&*format!("CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0")).await.expect("a database");
    let (server, rest) = url.rsplit_once('/').expect("a URL with a database");
    let query = rest.find('?').map_or("", |at| &rest[at..]);
    Database { url: format!("{server}/{name}{query}"), name }
}

impl Drop for Database {
    fn drop(&mut self) {
        // A server of our own goes with everything that is in it.
        let Ok(url) = std::env::var("SAGAD_TEST_POSTGRES") else { return };
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let dropped = std::thread::spawn(move || {
            runtime().block_on(async { PgConnection::connect(&url).await?.execute(&*drop).await.map(|_| ()) })
        });
        if let Ok(Err(error)) = dropped.join() {
            eprintln!("database {} is left behind: {error}", self.name);
        }
    }
}

/// A server of our own, with `fsync` on as in earnest.
pub(crate) struct Cluster {
    keeper: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    bin: PathBuf,
    port: u16,
}

impl Cluster {
    /// Makes and starts one.
    pub(crate) fn start() -> Cluster {
        let bin = bin();
        let dir = tempfile::Builder::new().prefix("sagad-postgres-").tempdir().expect("a folder").keep();
        // Postgres does not run as root.
        let root = fs::metadata("/proc/self").expect("/proc").uid() == 0;
        let user = if root { "postgres" } else { "" };
        let run = |program: &str| {
            let path = bin.join(program);
            if !root {
                return Command::new(path);
            }
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(path);
            command
        };
        if root {
            let id = |flag| {
                let output = Command::new("id").args([flag, "postgres"]).output().expect("id");
                String::from_utf8_lossy(&output.stdout).trim().parse().expect("a user called postgres")
            };
            chown(&dir, Some(id("-u")), Some(id("-g"))).expect("chown");
        }
        let initdb = run("initdb")
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(dir.join("data"))
            .current_dir(&dir)
            .output()
            .expect("initdb");
        assert!(initdb.status.success(), "initdb: {}", String::from_utf8_lossy(&initdb.stderr));
        let port = free_port();
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "sh"])
            .args([&dir, &bin])
            .args([&port.to_string(), user])
            .current_dir(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh");
        let orders = keeper.stdin.take();
        let answers = BufReader::new(keeper.stdout.take().expect("a pipe"));
        let mut cluster = Cluster { keeper, orders, answers, bin, port };
        cluster.restart();
        cluster
    }

    /// The URL of one of its databases.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Starts the server and waits until it takes connections.
    pub(crate) fn restart(&mut self) {
        self.order("start");
        let begun = Instant::now();
        let ready = || {
            let mut command = Command::new(self.bin.join("pg_isready"));
            command.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]).status().is_ok_and(|s| s.success())
        };
        while !ready() {
            assert!(begun.elapsed() < Duration::from_secs(30), "Postgres does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// As the kernel does when it is out of memory.
    pub(crate) fn kill(&mut self) {
        self.order("kill");
    }

    /// It keeps its sockets and does nothing.
    pub(crate) fn freeze(&mut self) {
        self.order("freeze");
    }

    /// It goes on.
    pub(crate) fn thaw(&mut self) {
        self.order("thaw");
    }

    fn order(&mut self, order: &str) {
        let orders = self.orders.as_mut().expect("open until it is dropped");
        writeln!(orders, "{order}").expect("the keeper listens");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the keeper answers");
        assert_eq!(answer.trim(), order);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.keeper.wait();
    }
}

/// Where Postgres' programs are: the newest of Debian's places, or the path.
fn bin() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).max();
    if let Some(version) = newest {
        return Path::new("/usr/lib/postgresql").join(version.to_string()).join("bin");
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).find(|folder| folder.join("initdb").exists());
    found.expect("Postgres: install the package `postgresql`, or set SAGAD_TEST_POSTGRES to an administrator's URL")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}
