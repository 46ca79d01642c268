//! Opening a store: connecting, migrations, and the lock that keeps a second daemon off a SQLite file.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Connection, PgConnection, SqliteConnection};
use tokio::time::timeout;

use super::StoreError;
use super::dialect::Dialect;
use super::lanes::Lanes;
use super::session::Database;
use super::sql::{Inner, SqlStore};

static SQLITE: Migrator = sqlx::migrate!("migrations/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("migrations/postgres");

/// Connections to a Postgres: as many batches and pages can be under way at once.
const POSTGRES_CONNECTIONS: usize = 8;

/// Connections to a SQLite file that only read.
const SQLITE_READERS: usize = 3;

/// How long a statement waits for a lock that another program has on a SQLite file.
const BUSY: Duration = Duration::from_secs(5);

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);

/// How a store is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Run the migrations that are missing; else a database without them is an error.
    pub migrate: bool,
    /// Be the only one on a SQLite file for as long as the store lives, as a daemon must. Any number may share a Postgres.
    pub exclusive: bool,
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL makes no sense.
    #[error("`store.url` is not right: {0}. It is `sqlite://FILE` or `postgres://user@host/database`.")]
    Url(String),
    /// Another daemon has it.
    #[error(
        "{} is in use: another sagad holds {}. Stop that one first, or give this one another `store.url`; \
         several sagad can share a Postgres, but not a SQLite file.", .file.display(), .lock.display()
    )]
    InUse {
        /// The database.
        file: PathBuf,
        /// Its lock file.
        lock: PathBuf,
    },
    /// The file, its folder or its lock can't be used.
    #[error("{}: {error}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// Its tables are missing or old.
    #[error(
        "the database has schema {found}, this sagad needs {needed}: run `sagad migrate`, or set `store.migrate_on_start`"
    )]
    NotMigrated {
        /// The last migration that was run; 0: none.
        found: i64,
        /// The last one there is.
        needed: i64,
    },
    /// A newer sagad was here.
    #[error("the database has schema {found}, made by a newer sagad; this one knows schema {known}: upgrade sagad")]
    Newer {
        /// The last migration that was run.
        found: i64,
        /// The last one that this binary knows.
        known: i64,
    },
    /// Its schema is not ours.
    #[error("the database's schema is not as this sagad made it: {0}")]
    Schema(String),
    /// What the database says. [`StoreError::Unavailable`] may go away by itself.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SqlStore {
    /// Opens the store at `url`.
    ///
    /// # Errors
    /// [`OpenError`]; nothing is left open or locked.
    pub async fn connect(url: &str, opening: Opening) -> Result<SqlStore, OpenError> {
        let (database, lock) = match Dialect::of(url)? {
            Dialect::Sqlite => sqlite(url, opening).await?,
            Dialect::Postgres => (postgres(url, opening).await?, None),
        };
        Ok(SqlStore(Arc::new(Inner { database, _lock: lock })))
    }

    /// Runs the migrations that are missing, alone on a SQLite file.
    ///
    /// # Errors
    /// As [`connect`](SqlStore::connect).
    pub async fn migrate(url: &str) -> Result<(), OpenError> {
        let store = SqlStore::connect(url, Opening { migrate: true, exclusive: true }).await?;
        store.close().await;
        Ok(())
    }
}

impl Dialect {
    fn of(url: &str) -> Result<Dialect, OpenError> {
        match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("sqlite") => Ok(Dialect::Sqlite),
            Some("postgres" | "postgresql") => Ok(Dialect::Postgres),
            // The rest of it may be a password.
            Some(other) => Err(OpenError::Url(format!("there is no store for `{other}:`"))),
            None => Err(OpenError::Url("it has no `:`".to_owned())),
        }
    }
}

async fn sqlite(url: &str, opening: Opening) -> Result<(Database, Option<File>), OpenError> {
    let options = SqliteConnectOptions::from_str(url).map_err(|error| OpenError::Url(error.to_string()))?;
    // Answered transitions survive a power cut: FULL syncs the log at each commit, once for a whole batch.
    let options = options
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY)
        // Many rows at once are sorted out in a temporary table, which would be a file of its own each time.
        .pragma("temp_store", "memory")
        // In KiB: a large batch is written once, at its end, not whenever the default of 2 MB is full.
        .pragma("cache_size", "-16384")
        .pragma("journal_size_limit", "67108864")
        .row_buffer_size(1024);
    if options.get_filename().to_string_lossy().starts_with("file:") {
        let mut keeper = connect::<SqliteConnection>(Dialect::Sqlite, &options).await?;
        if is_behind(&mut keeper, &SQLITE, opening).await? {
            SQLITE.run(&mut keeper).await.map_err(|error| migration(Dialect::Sqlite, error))?;
        }
        let only = Lanes::new(options, 1);
        let keeper = Some(Mutex::new(keeper));
        return Ok((Database::Sqlite { writer: only.clone(), readers: only, _keeper: keeper }, None));
    }
    // Readers see the last commit while the next is written.
    let options = options.journal_mode(SqliteJournalMode::Wal).create_if_missing(opening.migrate);
    let file = options.get_filename().to_path_buf();
    let lock = if opening.exclusive { Some(lock(&file)?) } else { None };
    let mut first = connect::<SqliteConnection>(Dialect::Sqlite, &options).await.map_err(|error| match error {
        StoreError::Unavailable(text) => StoreError::Unavailable(format!("{}: {text}", file.display())),
        other => other,
    })?;
    if is_behind(&mut first, &SQLITE, opening).await? {
        SQLITE.run(&mut first).await.map_err(|error| migration(Dialect::Sqlite, error))?;
    }
    let writer = Lanes::new(options.clone(), 1);
    writer.keep(first);
    let readers = Lanes::new(options.pragma("query_only", "1"), SQLITE_READERS);
    Ok((Database::Sqlite { writer, readers, _keeper: None }, lock))
}

/// Locks `FILE.lock`. The lock file stays: if it were removed, two daemons could hold two different ones.
fn lock(file: &Path) -> Result<File, OpenError> {
    // Whichever name the file is known by, there is one lock.
    let real = file.canonicalize().or_else(|_| {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        folder.canonicalize().map(|folder| folder.join(file.file_name().unwrap_or_default()))
    });
    let real = real.map_err(|error| OpenError::File { path: file.to_path_buf(), error })?;
    let mut path = real.clone().into_os_string();
    path.push(".lock");
    let path = PathBuf::from(path);
    let failed = |error| OpenError::File { path: path.clone(), error };
    let lock = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { file: real, lock: path }),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

async fn postgres(url: &str, opening: Opening) -> Result<Database, OpenError> {
    let options = PgConnectOptions::from_str(url).map_err(|error| OpenError::Url(error.to_string()))?;
    let options = match options.get_application_name() {
        Some(_) => options,
        None => options.application_name("sagad"),
    };
    // Without the time-outs below: a migration may take long.
    let mut first = connect::<PgConnection>(Dialect::Postgres, &options).await?;
    let encoding: String = sqlx::query_scalar("SHOW server_encoding")
        .fetch_one(&mut first)
        .await
        .map_err(|error| Dialect::Postgres.error(error))?;
    if encoding != "UTF8" {
        let fault = format!("its encoding is {encoding}; sagad needs a database made with ENCODING 'UTF8'");
        return Err(OpenError::Schema(fault));
    }
    if is_behind(&mut first, &POSTGRES, opening).await? {
        POSTGRES.run(&mut first).await.map_err(|error| migration(Dialect::Postgres, error))?;
    }
    // It is done for, whether it says goodbye or not.
    let _ = first.close().await;
    let options = options.options([
        // A server that is stuck says so before we stop waiting for it; see `session::PATIENCE`.
        ("statement_timeout", "10s"),
        // A daemon that is stopped in the middle of a transaction must not hold up the others for ever.
        ("idle_in_transaction_session_timeout", "20s"),
        // Every statement has one good plan, whatever the statistics say: from its arguments, in their order, through an
        // index. To plan it anew for each batch would cost more than to run it, and another order of locks could end in a
        // deadlock.
        ("plan_cache_mode", "force_generic_plan"),
        ("enable_seqscan", "off"),
        ("enable_bitmapscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        ("enable_hashagg", "off"),
        // What is "off" counts as very dear where there is no other way, and what is dear would be compiled first.
        ("jit", "off"),
    ]);
    Ok(Database::Postgres(Lanes::new(options, POSTGRES_CONNECTIONS)))
}

async fn connect<C: Connection>(dialect: Dialect, options: &C::Options) -> Result<C, StoreError> {
    match timeout(CONNECT, C::connect_with(options)).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(dialect.error(error)),
        Err(_) => Err(StoreError::Unavailable(format!("it did not let us in within {CONNECT:?}"))),
    }
}

/// Whether migrations have to be run, and may be.
async fn is_behind<C: Migrate>(connection: &mut C, migrator: &Migrator, opening: Opening) -> Result<bool, OpenError> {
    let applied = match connection.list_applied_migrations().await {
        Ok(applied) => applied,
        // The table of migrations is made by the first one that is run.
        Err(MigrateError::Execute(sqlx::Error::Database(error))) if is_missing_table(error.as_ref()) => Vec::new(),
        Err(error) => return Err(OpenError::Schema(error.to_string())),
    };
    let found = applied.last().map_or(0, |migration| migration.version);
    let needed = migrator.iter().map(|migration| migration.version).max().unwrap_or(0);
    if found > needed {
        return Err(OpenError::Newer { found, known: needed });
    }
    if found < needed && !opening.migrate {
        return Err(OpenError::NotMigrated { found, needed });
    }
    let changed = applied
        .iter()
        .find(|known| !migrator.iter().any(|ours| ours.version == known.version && ours.checksum == known.checksum));
    match changed {
        Some(migration) => Err(OpenError::Schema(format!("migration {} is not the one it ran", migration.version))),
        None => Ok(found < needed),
    }
}

fn is_missing_table(error: &dyn sqlx::error::DatabaseError) -> bool {
    // SQLite has no code for it.
    error.code().as_deref() == Some("42P01") || error.message().starts_with("no such table")
}

fn migration(dialect: Dialect, error: MigrateError) -> OpenError {
    match error {
        MigrateError::Execute(error) => OpenError::Store(dialect.error(error)),
        MigrateError::ExecuteMigration(error, version) => match dialect.error(error) {
            StoreError::Refused(text) => OpenError::Schema(format!("migration {version}: {text}")),
            other => OpenError::Store(other),
        },
        other => OpenError::Schema(other.to_string()),
    }
}
