//! `sagad verify`, as a process and as a part of this one; and the database behind its back.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sagad::store::Opening;
use sagad::store::sql::SqlStore;
use sagad::verify::{News, Options, Remedy, Summary};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection, SqliteConnection};
use uuid::Uuid;

/// What `sagad verify` said.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) code: i32,
    /// Its JSON.
    pub(crate) report: Value,
}

/// Runs `sagad verify --json` on a store.
pub(crate) async fn verify(store: &str, folder: &Path, repair: bool) -> Verdict {
    let mut command = command(store, folder);
    command.arg("--json").args(repair.then_some("--repair"));
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("ran").expect("sagad starts");
    let (text, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let report = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}\n{complaint}"));
    Verdict { code: output.status.code().expect("an end"), report }
}

pub(crate) fn command(store: &str, folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sagad"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SAGAD_") {
            command.env_remove(name);
        }
    }
    command.arg("verify").current_dir(folder).env("SAGAD__STORE__URL", store);
    command
}

impl Verdict {
    /// Nothing was found.
    #[track_caller]
    pub(crate) fn is_well(&self) {
        assert_eq!((self.code, &self.report["found"]), (0, &Value::from(0)), "{:#}", self.report);
    }

    /// Nothing but these columns is wrong, and all of them can be mended.
    #[track_caller]
    pub(crate) fn found_only(&self, columns: &str) {
        let mut found: Vec<String> = Vec::new();
        for finding in self.report["findings"].as_array().expect("findings") {
            let text = |name: &str| finding[name].as_str().expect("a text");
            assert_eq!(text("repair"), "possible", "{finding:#}");
            found.push(format!("{}.{}", text("table"), text("column")));
        }
        found.sort();
        assert_eq!((self.code, &*found.join(" ")), (1, columns), "{:#}", self.report);
    }
}

/// What was found in a store: lines of `TABLE.COLUMN REMEDY`, sorted and each once, and what they say.
pub(crate) struct Found {
    pub(crate) lines: Vec<String>,
    pub(crate) words: Vec<String>,
    pub(crate) summary: Summary,
}

/// Looks through a store, in this process.
pub(crate) async fn look(store: &SqlStore, repair: bool) -> Found {
    let (mut lines, mut words) = (Vec::new(), Vec::new());
    let options = Options { repair, sweep: Duration::from_secs(5) };
    let summary = sagad::verify::verify(store, options, |news| {
        if let News::Found(finding) = news {
            let remedy = match finding.remedy {
                Remedy::Possible => "possible",
                Remedy::Done => "done",
                Remedy::Impossible(_) => "impossible",
            };
            lines.push(format!("{}.{} {remedy}", finding.table, finding.column));
            words.push(finding.to_string());
        }
    });
    let summary = summary.await.expect("the store can be read");
    lines.sort();
    lines.dedup();
    Found { lines, words, summary }
}

/// Opens a store beside whoever has it.
pub(crate) async fn open(url: &str) -> SqlStore {
    SqlStore::connect(url, Opening { migrate: false, exclusive: false }).await.expect("the store can be opened")
}

impl Found {
    /// Nothing was found.
    #[track_caller]
    pub(crate) fn is_well(&self) {
        assert!(self.words.is_empty(), "{}", self.words.join("\n"));
    }
}

/// The database behind the daemon's back.
pub(crate) enum Backdoor {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Backdoor {
    pub(crate) async fn of(url: &str) -> Backdoor {
        match url.starts_with("sqlite:") {
            true => Backdoor::Sqlite(SqliteConnection::connect(url).await.expect("the file")),
            false => Backdoor::Postgres(PgConnection::connect(url).await.expect("the database")),
        }
    }

    /// Runs a statement in which `$1` is an id, if it says so; how many rows it changed.
    pub(crate) async fn run(&mut self, sql: &str, id: Uuid) -> u64 {
        let changed = match self {
            Backdoor::Sqlite(connection) if sql.contains("$1") => {
                sqlx::query(sql).bind(id).execute(connection).await.map(|done| done.rows_affected())
            }
            Backdoor::Sqlite(connection) => sqlx::query(sql).execute(connection).await.map(|done| done.rows_affected()),
            Backdoor::Postgres(connection) if sql.contains("$1") => {
                sqlx::query(sql).bind(id).execute(connection).await.map(|done| done.rows_affected())
            }
            Backdoor::Postgres(connection) => {
                sqlx::query(sql).execute(connection).await.map(|done| done.rows_affected())
            }
        };
        changed.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// A column of bytes of the row of a saga.
    pub(crate) async fn bytes(&mut self, sql: &str, id: Uuid) -> Vec<u8> {
        let bytes = match self {
            Backdoor::Sqlite(connection) => sqlx::query_scalar(sql).bind(id).fetch_one(connection).await,
            Backdoor::Postgres(connection) => sqlx::query_scalar(sql).bind(id).fetch_one(connection).await,
        };
        bytes.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    pub(crate) async fn set_bytes(&mut self, sql: &str, id: Uuid, bytes: &[u8]) {
        let done = match self {
            Backdoor::Sqlite(connection) => sqlx::query(sql).bind(id).bind(bytes).execute(connection).await.map(drop),
            Backdoor::Postgres(connection) => sqlx::query(sql).bind(id).bind(bytes).execute(connection).await.map(drop),
        };
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    pub(crate) async fn count(&mut self, sql: &str) -> i64 {
        let count = match self {
            Backdoor::Sqlite(connection) => sqlx::query_scalar(sql).fetch_one(connection).await,
            Backdoor::Postgres(connection) => sqlx::query_scalar(sql).fetch_one(connection).await,
        };
        count.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }
}
