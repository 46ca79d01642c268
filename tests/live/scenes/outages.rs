//! Commands that the broker gets late, twice or never.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use lapin::options::QueueDeclareOptions;
use serde_json::json;

use super::{PATIENCE, Stage, saga};
use crate::daemon::{Daemon, Site};
use crate::postgres;
use crate::rabbitmq;

/// Where commands lie that nobody takes.
const FORGOTTEN: &str = r#"
[[topology.queues]]
name = "PREFIX-forgotten"
type = "classic"
bind = [{ exchange = "PREFIX-commands", routing_key = "forgotten.*" }]
"#;

fn step(command: &str, timeout: &str) -> String {
    format!(
        "[[steps]]\nname = \"one\"\ncommand = \"{command}\"\ntimeout = \"{timeout}\"\nretry.attempts = 1\n\
         compensate = {{ command = \"b.undo\" }}\n"
    )
}

async fn misses_the_broker(daemon: &mut Daemon) {
    daemon.until("it misses the broker", PATIENCE, |status, _| status == 503).await;
}

async fn start(daemon: &Daemon, definition: &str) -> String {
    let (status, body) = daemon.post("/v1/sagas", &json!({ "saga": definition, "input": {} })).await;
    assert_eq!(status, 201, "{body}");
    body["id"].as_str().expect("an id").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_not_sent_once_its_time_is_over() {
    let mut node = rabbitmq::private().await;
    let database = postgres::database().await;
    for database in [None, Some(database)] {
        let url = database.as_ref().map(|database| &*database.url);
        let site = Site::new(&node.url(), url).with_queues(&["a", "b"]);
        site.define("hasty", &saga("hasty", "", &step("a.one", "3s")));
        site.define("patient", &saga("patient", "", &step("b.one", "60s")));
        let mut daemon = site.start().await;
        node.sync().await;
        node.kill();
        misses_the_broker(&mut daemon).await;
        let begun = Instant::now();
        let patient = start(&daemon, "patient").await;
        let hasty = json!({ "saga": "hasty", "input": {} });
        let (_, saga) = daemon.try_post("/v1/sagas", &[("Prefer", "wait=20")], &hasty).await.expect("an answer");
        assert_eq!(saga["status"], "compensated", "it ends without the broker: {saga}");
        let step = &saga["steps"][0];
        assert_eq!((&step["status"], &step["error"]["reason"]), (&json!("failed"), &json!("expired")), "{saga}");
        assert_eq!(step["compensation"], json!(null), "known not to have run: {saga}");

        node.start().await;
        daemon.ready().await;
        let away = begun.elapsed();
        let mut stage = Stage::around(site, daemon, database).await;
        let late = stage.take("b").await;
        assert_eq!(late.text("saga-id"), patient);
        let lives =
            late.properties().expiration().as_ref().expect("it expires").as_str().parse().expect("milliseconds");
        assert!(Duration::from_millis(lives) + away < Duration::from_millis(60_100), "{lives} ms after {away:?}");
        late.succeed().await;
        stage.ends(&patient, "completed").await;
        let name = stage.site.name("a");
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let a =
            stage.channel.queue_declare(name.as_str().into(), passive, Default::default()).await.expect("it is there");
        assert_eq!(a.message_count(), 0, "the command whose time was over");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_command_that_may_be_there_twice_nothing_is_known_when_one_dies() {
    let mut node = rabbitmq::private().await;
    let site = Site::new(&node.url(), None).with_queues(&["b"]).with_config(FORGOTTEN);
    site.define("twice", &saga("twice", "", &step("forgotten.one", "20s")));
    let mut daemon = site.start().await;
    node.sync().await;
    node.kill();
    misses_the_broker(&mut daemon).await;
    let id = start(&daemon, "twice").await;
    // As if it had been killed between sending the command and hearing of it.
    daemon.kill();
    drop(daemon);
    node.start().await;
    let daemon = site.start().await;
    let mut stage = Stage::around(site, daemon, None).await;
    let undo = stage.take("b").await;
    assert!(undo.is_in_doubt() && undo.text("saga-id") == id);
    undo.succeed().await;
    let ended = stage.ends(&id, "compensated").await;
    assert_eq!(ended["error"]["reason"], "expired", "{ended}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_does_not_answer_holds_up_nobody_else() {
    const STUCK: &str = "[[topology.queues]]\nname = \"PREFIX-stuck\"\ntype = \"quorum\"\ndead_letter = false\n\
                         bind = [{ exchange = \"PREFIX-commands\", routing_key = \"stuck.*\" }]\n";
    let node = rabbitmq::private().await;
    let site = Site::new(&node.url(), None).with_queues(&["a", "b"]).with_config(STUCK);
    site.define("stuck", &saga("stuck", "", &step("stuck.one", "120s")));
    site.define("well", &saga("well", "", &step("a.one", "20s")));
    let mut stage = Stage::open(site).await;
    let queue = format!("'%2F_{}'", stage.site.name("stuck"));
    node.ctl(&["eval", &format!("ok = sys:suspend({queue}).")]).await;
    let mut stuck = Vec::new();
    for _ in 0..40 {
        stuck.push(stage.start("stuck", json!({})).await);
    }
    for _ in 0..3 {
        let begun = Instant::now();
        let well = stage.start("well", json!({})).await;
        stage.take("a").await.succeed().await;
        stage.ends(&well, "completed").await;
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    }
    let waiting = stage.saga(&stuck[0]).await;
    assert_eq!(waiting["status"], "running", "{waiting}");
    node.ctl(&["eval", &format!("ok = sys:resume({queue}).")]).await;
    let mut done = HashSet::new();
    while done.len() < stuck.len() {
        // Some come twice.
        done.insert(stage.take("stuck").await.succeed().await.text("saga-id"));
    }
    for id in stuck {
        stage.ends(&id, "completed").await;
    }
    assert!(!stage.daemon.log().contains("no link to the broker"), "the link was never cut");
}
