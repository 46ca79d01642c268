//! A SQLite file that can't be written: locked by another program, or with no room left.

use std::process::Command;
use std::time::Duration;

use sqlx::{Connection, Executor, SqliteConnection};

use super::verdict::verify_everything;
use super::{Kind, Trial};
use crate::daemon::Site;
use crate::rabbitmq;

/// An exclusive transaction of another program.
pub(super) struct Lock(SqliteConnection);

impl Lock {
    pub(super) async fn take(trial: &Trial) -> Lock {
        let mut connection = SqliteConnection::connect(trial.site.store()).await.expect("the file can be opened");
        connection.execute("PRAGMA busy_timeout = 20000; BEGIN EXCLUSIVE").await.expect("the lock");
        Lock(connection)
    }

    pub(super) async fn release(mut self) {
        self.0.execute("ROLLBACK").await.expect("released");
        self.0.close().await.expect("closed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_database_is_waited_for() {
    let trial = Trial::new(rabbitmq::own().await.control(), Kind::Sqlite).await;
    let load = trial.load(30);
    let mut daemon = trial.site.start().await;
    load.goes_to([&daemon]);
    while load.accepted() < 30 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let lock = Lock::take(&trial).await;
    let locked = daemon
        .until("it says that the database is locked", Duration::from_secs(20), |status, body| {
            status == 503 && body["checks"]["database"]["up"] == false
        })
        .await;
    let reason = locked["checks"]["database"]["reason"].as_str().expect("a reason");
    assert!(reason.contains("locked"), "{reason}");
    lock.release().await;
    daemon.ready().await;
    let started = load.stop().await;
    verify_everything(&trial, vec![daemon], &started, 0).await;
}

/// Blocks of 512 bytes (POSIX) that a file of the daemon may have: too few for what is to come.
const ROOM: &str = "1600";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_waited_for() {
    let node = rabbitmq::own().await.control();
    // As on a disk without room, writing fails past the limit; that signal would end the process.
    let script = format!("trap '' XFSZ; ulimit -S -f {ROOM}; exec \"$0\" \"$@\"");
    let site = Site::new(&node.url(), None).with_wrapper(&["sh", "-c", &script]);
    let trial = Trial::at(node, site, None);
    let load = trial.load(40);
    let mut daemon = trial.site.start().await;
    load.goes_to([&daemon]);
    let full = daemon
        .until("it says that the disk is full", Duration::from_secs(60), |status, body| {
            status == 503 && body["checks"]["database"]["up"] == false
        })
        .await;
    let reason = full["checks"]["database"]["reason"].as_str().expect("a reason");
    println!("{reason}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(daemon.exited(), None);

    let room = Command::new("prlimit").args(["--fsize=unlimited:", "--pid", &daemon.pid().to_string()]).status();
    assert!(room.expect("prlimit").success());
    daemon.ready().await;
    let started = load.stop().await;
    verify_everything(&trial, vec![daemon], &started, 0).await;
}
