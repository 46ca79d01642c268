//! Daemons are killed and frozen.

use std::time::Duration;

use super::verdict::verify_everything;
use super::{Kind, Trial};
use crate::rabbitmq;

/// How often a daemon is killed.
const KILLS: u32 = 20;

async fn killed_at_random_moments(kind: Kind) {
    let trial = Trial::new(rabbitmq::own().await.control(), kind).await;
    let load = trial.load(40);
    let mut daemon = trial.site.start().await;
    load.goes_to([&daemon]);
    for kill in 0..KILLS {
        let chance = trial.chance.of(("kill", kill));
        // Mostly at work, sometimes while it starts.
        let after = if chance.of("early").below(5) == 0 { 0..150 } else { 150..700 };
        if after.start > 0 {
            daemon.ready().await;
        }
        tokio::time::sleep(chance.of("after").millis(after)).await;
        daemon.kill();
        trial.is_well().await;
        daemon = trial.site.spawn();
        load.goes_to([&daemon]);
    }
    daemon.ready().await;
    let started = load.stop().await;
    let verdict = verify_everything(&trial, vec![daemon], &started, 0).await;
    assert!(started.len() > 100, "this was no load: {}", started.len());
    assert!(verdict.completed > 0 && verdict.compensated > 0, "{verdict:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_a_daemon_on_sqlite_is_killed() {
    killed_at_random_moments(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_a_daemon_on_postgres_is_killed() {
    killed_at_random_moments(Kind::Postgres).await;
}

/// Longer than any lease, any time-out of a step or a statement, and an idle transaction may last.
const FROZEN: Duration = Duration::from_secs(22);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_daemons_one_may_be_killed_and_one_frozen() {
    let trial = Trial::new(rabbitmq::own().await.control(), Kind::Postgres).await;
    let load = trial.load(20);
    let (mut first, second) = (trial.site.start().await, trial.site.start().await);
    load.goes_to([&first, &second]);
    let pause = |label| tokio::time::sleep(trial.chance.of(label).millis(300..1_000));

    for (round, killed) in [("a", "killed a"), ("b", "killed b"), ("c", "killed c")] {
        pause(round).await;
        first.kill();
        trial.is_well().await;
        pause(killed).await;
        first = trial.site.start().await;
        load.goes_to([&first, &second]);
    }
    // Shorter than its leases, longer than the time-outs of steps: it wakes up with old states in its hands.
    for round in ["d", "e"] {
        pause(round).await;
        second.freeze();
        trial.is_well().await;
        tokio::time::sleep(trial.chance.of((round, "frozen")).millis(1_500..4_000)).await;
        second.thaw();
    }
    pause("long").await;
    second.freeze();
    load.goes_to([&first]);
    tokio::time::sleep(FROZEN).await;
    second.thaw();
    load.goes_to([&first, &second]);
    pause("end").await;

    let started = load.stop().await;
    verify_everything(&trial, vec![first, second], &started, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_daemon_on_the_same_sqlite_file_refuses_to_start() {
    let trial = Trial::new(rabbitmq::own().await.control(), Kind::Sqlite).await;
    let first = trial.site.start().await;
    let mut second = trial.site.spawn();
    let status = second.wait(Duration::from_secs(20)).await;
    assert_eq!(status.code(), Some(2), "{}", second.log());
    let log = second.log();
    for word in ["sagad.db", "another sagad", "store.url"] {
        assert!(log.contains(word), "{word} is not in: {log}");
    }
    // The first one noticed nothing.
    let load = trial.load(20);
    load.goes_to([&first]);
    while load.accepted() < 5 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let started = load.stop().await;
    verify_everything(&trial, vec![first], &started, 0).await;
}
