//! Opening a store: migrations, and the lock on a SQLite file.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use sagad::store::{OpenError, Store};
use sqlx::{Connection, Executor, PgConnection, SqliteConnection};

use super::*;

over_both!(
    a_store_that_was_not_migrated_says_so,
    a_newer_store_says_so,
    a_changed_schema_says_so,
    migrating_again_is_nothing
);

const AS_IT_IS: Opening = Opening { migrate: false, exclusive: false };
const SERVING: Opening = Opening { migrate: true, exclusive: true };

async fn run(place: &Sql, sql: &str) {
    match place {
        Sql::Sqlite(_) => {
            let url = format!("{}?mode=rwc", place.url());
            SqliteConnection::connect(&url).await.expect("a file").execute(sql).await.expect(sql);
        }
        Sql::Postgres(database) => {
            PgConnection::connect(&database.url).await.expect("a server").execute(sql).await.expect(sql);
        }
    }
}

async fn a_store_that_was_not_migrated_says_so(place: &Sql) {
    run(place, "SELECT 1").await;
    let error = SqlStore::connect(&place.url(), AS_IT_IS).await.expect_err("no schema");
    assert!(matches!(error, OpenError::NotMigrated { found: 0, .. }), "{error:?}");
    assert!(error.to_string().contains("sagad migrate"), "{error}");
    SqlStore::migrate(&place.url()).await.expect("a migration");
    SqlStore::connect(&place.url(), AS_IT_IS).await.expect("a store").ping().await.expect("an answer");
}

async fn a_newer_store_says_so(place: &Sql) {
    SqlStore::migrate(&place.url()).await.expect("a migration");
    let applied = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                   SELECT 9999, 'of tomorrow', success, checksum, 0 FROM _sqlx_migrations LIMIT 1";
    run(place, applied).await;
    for migrate in [true, false] {
        let opening = Opening { migrate, ..AS_IT_IS };
        let error = SqlStore::connect(&place.url(), opening).await.expect_err("too new");
        assert!(matches!(error, OpenError::Newer { found: 9999, .. }), "{error:?}");
        assert!(error.to_string().contains("upgrade"), "{error}");
    }
}

async fn a_changed_schema_says_so(place: &Sql) {
    SqlStore::migrate(&place.url()).await.expect("a migration");
    run(place, "UPDATE _sqlx_migrations SET checksum = checksum || checksum").await;
    let error = SqlStore::connect(&place.url(), SERVING).await.expect_err("another schema");
    assert!(matches!(error, OpenError::Schema(_)), "{error:?}");
}

async fn migrating_again_is_nothing(place: &Sql) {
    SqlStore::migrate(&place.url()).await.expect("a migration");
    let store = place.open().await;
    let saga = id();
    put(&store, vec![birth(saga, "order")]).await;
    store.close().await;
    SqlStore::migrate(&place.url()).await.expect("nothing to do");
    assert_eq!(version(&place.open().await, saga).await, Some(1));
}

#[tokio::test]
async fn a_url_of_another_kind_is_refused_without_telling_passwords() {
    for url in ["mysql://user:secret@host/db", "secret", "sqlite://x.db?mode=secret"] {
        let error = SqlStore::connect(url, SERVING).await.expect_err("no store");
        assert!(matches!(error, OpenError::Url(_)), "{error:?}");
        assert!(!error.to_string().contains("user:secret"), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_is_away_may_come_back() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let url = format!("postgres://sagad:secret@{}/db", listener.local_addr().expect("an address"));
    drop(listener);
    let error = SqlStore::connect(&url, SERVING).await.expect_err("nobody there");
    assert!(matches!(error, OpenError::Store(StoreError::Unavailable(_))), "{error:?}");
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[tokio::test]
async fn a_missing_file_or_folder_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("none.db");
    let error = SqlStore::connect(&format!("sqlite://{}", file.display()), AS_IT_IS).await.expect_err("no file");
    assert!(error.to_string().contains("none.db"), "{error}");
    assert!(!file.exists(), "looking makes nothing");
    let below = folder.path().join("none").join("store.db");
    let error = SqlStore::connect(&format!("sqlite://{}", below.display()), SERVING).await.expect_err("no folder");
    assert!(error.to_string().contains("none"), "{error}");
}

#[tokio::test]
async fn in_memory_needs_no_lock_and_keeps_what_it_is_told() {
    let (one, other) =
        tokio::join!(SqlStore::connect("sqlite::memory:", SERVING), SqlStore::connect("sqlite://:memory:", SERVING));
    let (one, other) = (one.expect("a store"), other.expect("a store"));
    let saga = id();
    put(&one, vec![birth(saga, "order")]).await;
    assert_eq!((version(&one, saga).await, version(&other, saga).await), (Some(1), None));
}

#[tokio::test]
async fn a_second_daemon_on_a_file_is_refused() {
    let place = Sql::sqlite().await;
    let serving = SqlStore::connect(&place.url(), SERVING).await.expect("a store");
    let Sql::Sqlite(folder) = &place else { unreachable!("it is SQLite") };
    let link = folder.path().join("another name.db");
    std::os::unix::fs::symlink(folder.path().join("store.db"), &link).expect("a link");
    for url in [place.url(), format!("sqlite://{}", link.display().to_string().replace(' ', "%20"))] {
        for refused in [SqlStore::connect(&url, SERVING).await.map(drop), SqlStore::migrate(&url).await] {
            let error = refused.expect_err("in use");
            assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
            let text = error.to_string();
            assert!(text.contains("store.db is in use") && text.contains("store.db.lock"), "{text}");
        }
    }
    // Who only looks is let in, and the first one is not disturbed.
    SqlStore::connect(&place.url(), AS_IT_IS).await.expect("a store").ping().await.expect("an answer");
    put(&serving, vec![birth(id(), "order")]).await;
    // A clone is the same store; the lock goes with the last one.
    let clone = serving.clone();
    drop(serving);
    SqlStore::connect(&place.url(), SERVING).await.map(drop).expect_err("in use");
    drop(clone);
    SqlStore::connect(&place.url(), SERVING).await.expect("a store");
}

/// What another process says of a lock: it holds the lock until it is killed.
fn hold_lock(file: &Path) -> Child {
    let script = "exec 9>>\"$1\"; flock -n 9 && echo held; read -r _";
    let mut child = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sh");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    assert_eq!(line.trim(), "held");
    child
}

#[tokio::test]
async fn the_lock_of_a_killed_process_is_gone() {
    let place = Sql::sqlite().await;
    let Sql::Sqlite(folder) = &place else { unreachable!("it is SQLite") };
    let mut other = hold_lock(&folder.path().join("store.db.lock"));
    let error = SqlStore::connect(&place.url(), SERVING).await.map(drop).expect_err("in use");
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
    other.kill().expect("a kill");
    other.wait().expect("an end");
    SqlStore::connect(&place.url(), SERVING).await.expect("a store");
}

#[tokio::test]
async fn other_programs_read_while_it_writes() {
    let place = Sql::sqlite().await;
    let store = SqlStore::connect(&place.url(), SERVING).await.expect("a store");
    let mut reader = SqliteConnection::connect(&format!("{}?mode=ro", place.url())).await.expect("a reader");
    let count = "SELECT count(*) FROM sagas";
    for n in 1..=3 {
        put(&store, vec![birth(id(), "order")]).await;
        let seen: i64 = sqlx::query_scalar(count).fetch_one(&mut reader).await.expect("a count");
        assert_eq!(seen, n);
    }
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut reader).await.expect("a mode");
    assert_eq!(mode, "wal");
    // In the middle of a long read, writing goes on.
    let mut reading = reader.begin().await.expect("a transaction");
    let before: i64 = sqlx::query_scalar(count).fetch_one(&mut *reading).await.expect("a count");
    put(&store, vec![birth(id(), "order")]).await;
    let after: i64 = sqlx::query_scalar(count).fetch_one(&mut *reading).await.expect("a count");
    assert_eq!((before, after), (3, 3));
    reading.rollback().await.expect("an end");
}

#[tokio::test]
async fn a_file_that_another_program_locks_is_unavailable() {
    let place = Sql::sqlite().await;
    let store = SqlStore::connect(&place.url(), SERVING).await.expect("a store");
    let saga = id();
    put(&store, vec![birth(saga, "order")]).await;
    let mut other = SqliteConnection::connect(&place.url()).await.expect("a file");
    other.execute("BEGIN IMMEDIATE").await.expect("a lock");
    let error = store.commit(&sagas(vec![change(saga, 1)])).await.expect_err("locked");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    assert_eq!(version(&store, saga).await, Some(1), "reading goes on");
    other.execute("ROLLBACK").await.expect("no lock");
    put(&store, vec![change(saga, 1)]).await;
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let place = Sql::sqlite().await;
    let Sql::Sqlite(folder) = &place else { unreachable!("it is SQLite") };
    let mut file = std::fs::File::create(folder.path().join("store.db")).expect("a file");
    file.write_all(&[b'x'; 8192]).expect("a write");
    let error = SqlStore::connect(&place.url(), SERVING).await.map(drop).expect_err("no database");
    assert!(matches!(error, OpenError::Store(StoreError::Corrupt(_))), "{error:?}");
}
