//! A database for one bench: made beside the configured one, or from nothing, and removed at the end.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Executor};
use tokio::process::{Child, Command};

use super::machine;
use super::{Result, trouble};
use crate::config::Config;

/// The databases that sagad runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// A file.
    Sqlite,
    /// A server.
    Postgres,
}

impl StoreKind {
    /// The word on the command line and in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            StoreKind::Sqlite => "sqlite",
            StoreKind::Postgres => "postgres",
        }
    }

    /// The kind that a URL of the configuration is for.
    pub fn of(url: &str) -> StoreKind {
        if url.starts_with("postgres") { StoreKind::Postgres } else { StoreKind::Sqlite }
    }
}

/// A database, empty.
pub(super) struct Database {
    pub(super) url: String,
    origin: Origin,
}

enum Origin {
    File(PathBuf),
    /// A database on a server that was there.
    Made {
        server: PgConnectOptions,
        name: String,
    },
    /// A server of its own.
    Cluster(Child),
}

impl Database {
    /// Makes one called `name`. SQLite: a file beside the configured one, because the disk matters, or in `folder`. Postgres: a database on
    /// the configured server, or a server in `folder` with its default settings.
    pub(super) async fn make(kind: StoreKind, config: &Config, folder: &Path, name: &str) -> Result<Database> {
        let configured = (StoreKind::of(&config.store.url) == kind).then_some(config.store.url.as_str());
        match (kind, configured) {
            (StoreKind::Sqlite, configured) => Ok(file(configured, folder, name)),
            (StoreKind::Postgres, Some(url)) => on_server(url, name).await,
            (StoreKind::Postgres, None) => cluster(folder).await,
        }
    }

    /// CPU time of the server so far, microseconds: 0 for SQLite, which is part of the daemon; `None` if it can't be seen.
    pub(super) fn cpu_micros(&self) -> Option<u64> {
        match &self.origin {
            Origin::File(_) => Some(0),
            Origin::Made { server, .. } => {
                machine::listener(server.get_host(), server.get_port()).and_then(machine::cpu_micros)
            }
            Origin::Cluster(server) => server.id().and_then(machine::cpu_micros),
        }
    }

    /// Removes it.
    pub(super) async fn remove(self) -> Result<()> {
        match self.origin {
            Origin::File(file) => {
                for suffix in ["", "-wal", "-shm", "-journal", ".lock"] {
                    let mut path = file.clone().into_os_string();
                    path.push(suffix);
                    // Some are not there.
                    let _ = std::fs::remove_file(path);
                }
                Ok(())
            }
            Origin::Made { server, name } => {
                let drop = format!("DROP DATABASE IF EXISTS \"{name}\" WITH (FORCE)");
                let dropped = async { PgConnection::connect_with(&server).await?.execute(drop.as_str()).await };
                dropped.await.map(|_| ()).map_err(|error| trouble(format!("can't drop the database {name}: {error}")))
            }
            Origin::Cluster(mut server) => {
                if let Some(pid) = server.id() {
                    // A fast shutdown, so that it removes its shared memory.
                    Command::new("kill").args(["-INT", &pid.to_string()]).status().await?;
                }
                server.wait().await?;
                Ok(())
            }
        }
    }
}

fn file(configured: Option<&str>, folder: &Path, name: &str) -> Database {
    let beside = configured.and_then(|url| {
        let path = url.trim_start_matches("sqlite:").trim_start_matches("//").split('?').next()?;
        let parent = Path::new(path).parent()?;
        std::path::absolute(if parent.as_os_str().is_empty() { Path::new(".") } else { parent }).ok()
    });
    let path = beside.filter(|parent| parent.is_dir()).unwrap_or_else(|| folder.to_owned()).join(format!("{name}.db"));
    Database { url: format!("sqlite://{}", path.display()), origin: Origin::File(path) }
}

async fn on_server(url: &str, name: &str) -> Result<Database> {
    let server = PgConnectOptions::from_str(url).map_err(|error| trouble(format!("store.url: {error}")))?;
    let create = format!("CREATE DATABASE \"{name}\"");
    let created = async { PgConnection::connect_with(&server).await?.execute(create.as_str()).await };
    created.await.map_err(|error| trouble(format!("can't create the database {name}: {error}")))?;
    let url = server.clone().database(name).to_url_lossy().to_string();
    Ok(Database { url, origin: Origin::Made { server, name: name.to_owned() } })
}

/// A Postgres server in `folder` that listens on a socket in there and on no port.
async fn cluster(folder: &Path) -> Result<Database> {
    let data = folder.join("postgres");
    std::fs::create_dir(&data)?;
    let owner = owner(&data)?;
    let run = |program: &str| {
        let mut command = match &owner {
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", user, "--regid", user, "--init-groups", "--"]).arg(binary(program));
                command
            }
            None => Command::new(binary(program)),
        };
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir(&data)
            .process_group(0)
            .kill_on_drop(true);
        command
    };
    let missing = |error: std::io::Error| {
        trouble(format!(
            "Postgres can't be started: {error}; install it (apt-get install postgresql) or set store.url to a server"
        ))
    };
    let cluster = data.join("data");
    let made = run("initdb").args(["--auth=trust", "--username=sagad", "--encoding=UTF8", "-D"]).arg(&cluster).status();
    if !made.await.map_err(missing)?.success() {
        return Err(trouble(format!("initdb failed in {}", data.display())));
    }
    let mut server = run("postgres");
    server.arg("-D").arg(&cluster).arg("-k").arg(&data).args(["-c", "listen_addresses="]);
    let server = server.spawn().map_err(missing)?;
    let options = PgConnectOptions::new_without_pgpass().username("sagad").database("postgres").socket(&data);
    let started = tokio::time::timeout(Duration::from_secs(30), async {
        while PgConnection::connect_with(&options).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    started.await.map_err(|_| trouble("Postgres did not start within 30 s"))?;
    let socket = data.display().to_string().replace('/', "%2F");
    Ok(Database { url: format!("postgres://sagad@{socket}/postgres"), origin: Origin::Cluster(server) })
}

/// Postgres refuses to run as root: then it runs as the user that its package made, who gets the folder.
fn owner(folder: &Path) -> Result<Option<String>> {
    use std::os::unix::fs::{MetadataExt, chown};
    if std::fs::metadata(folder)?.uid() != 0 {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd")?;
    let ids = users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.first() == Some(&"postgres"))
            .then(|| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?)))?
    });
    let Some((user, group)) = ids else {
        return Err(trouble(
            "Postgres does not run as root, and there is no user postgres: install it, or set store.url",
        ));
    };
    chown(folder, Some(user), Some(group))?;
    Ok(Some("postgres".to_owned()))
}

/// Debian keeps Postgres' programs off the PATH, a folder for each version.
fn binary(program: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|version| {
            Some((version.file_name().to_str()?.parse::<u32>().ok()?, version.path().join("bin").join(program)))
        })
        .filter(|(_, path)| path.exists())
        .max();
    newest.map_or_else(|| PathBuf::from(program), |(_, path)| path)
}
