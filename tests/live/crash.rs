//! What must hold whatever breaks, and whenever: nothing is lost, nothing is stuck, nothing is done twice, and whatever was
//! done by a saga that did not complete is undone.
//!
//! ```text
//!   load ──starts──> sagad <──commands, answers──> participants ──> ledger ─┐
//!                      │                                                    ├─> verdict
//!                      └──────────────> database ───────────────────────────┘
//! ```
//! While a [load](load) of sagas runs over participants that answer late, twice, wrongly or never, a test kills, freezes, fills
//! up or locks something. Then [the verdict](verdict) waits until everything has come to an end, and holds what the
//! participants did against what the database says. Random choices follow from a seed, which is printed; set `SAGAD_TEST_SEED`
//! to have the same ones again.

mod broker;
mod chance;
mod daemons;
mod database;
mod disk;
mod duplicates;
mod family;
mod hostile;
mod load;
mod stops;
mod verdict;

use serde_json::Value;

use crate::crash::chance::Chance;
use crate::crash::load::Load;
use crate::daemon::{Daemon, Site};
use crate::participants::Participants;
use crate::postgres;
use crate::rabbitmq::Control;
use crate::verify::{look, open};

/// Four steps, one after the other, with time-outs of a second and a half. Compensations are tried until the end of the test.
const DEFINITION: &str = r#"
name = "trial"
key  = "{{ input.n }}"

[defaults]
exchange = "PREFIX-commands"
timeout  = "1500ms"
retry    = { attempts = 3, initial = "100ms", factor = 2.0, max = "400ms", jitter = 0.2 }

[[steps]]
name    = "one"
command = "classic.one"
compensate = { command = "classic.undo_one", retry.attempts = 100 }

[[steps]]
name    = "two"
command = "quorum.two"
compensate = { command = "quorum.undo_two", retry.attempts = 100 }

[[steps]]
name    = "three"
command = "classic.three"
compensate = { command = "classic.undo_three", retry.attempts = 100 }

[[steps]]
name    = "four"
command = "quorum.four"
compensate = { command = "quorum.undo_four", retry.attempts = 100 }

[output]
four = "{{ steps.four.reply.done }}"
"#;

/// The steps of [`DEFINITION`], in their order.
const STEPS: [&str; 4] = ["one", "two", "three", "four"];

/// The participants' queues, one of each type, and one for sagad's events.
const QUEUES: &str = r#"
[[topology.exchanges]]
name = "PREFIX-commands"
type = "topic"

[[topology.queues]]
name = "PREFIX-classic"
type = "classic"
bind = [{ exchange = "PREFIX-commands", routing_key = "classic.*" }]

[[topology.queues]]
name = "PREFIX-quorum"
bind = [{ exchange = "PREFIX-commands", routing_key = "quorum.*" }]

[[topology.queues]]
name = "PREFIX-events"
type = "classic"
bind = [{ exchange = "PREFIX.events", routing_key = "saga.#" }]
"#;

/// A database of either kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sqlite,
    Postgres,
}

/// A place for daemons with participants at work, and a record of all that they do.
struct Trial {
    node: Control,
    site: Site,
    chance: Chance,
    participants: Participants,
    _database: Option<postgres::Database>,
}

impl Trial {
    /// On this broker, over a database of its own.
    async fn new(node: Control, kind: Kind) -> Trial {
        let database = match kind {
            Kind::Sqlite => None,
            Kind::Postgres => Some(postgres::database().await),
        };
        let site = Site::new(&node.url(), database.as_ref().map(|database| &*database.url));
        Trial::at(node, site, database)
    }

    /// On this broker and site.
    fn at(node: Control, site: Site, database: Option<postgres::Database>) -> Trial {
        let site = site.with_config(QUEUES);
        site.define("trial", DEFINITION);
        let chance = Chance::new();
        let queues = vec![site.name("classic"), site.name("quorum")];
        let script = load::chaos(chance.of("participants"));
        let participants = Participants::start(site.amqp(), queues, script);
        Trial { node, site, chance, participants, _database: database }
    }

    /// What is stored is what the journals say, whatever else is going on.
    async fn is_well(&self) {
        let store = open(self.site.store()).await;
        look(&store, false).await.is_well();
        store.close().await;
    }

    /// So many starts a second, over HTTP (to whichever daemon is told of later) and AMQP.
    fn load(&self, per_second: u32) -> Load {
        Load::begin(&self.site, per_second)
    }
}

/// Every saga of a definition is in the answer of the API's list, page by page.
async fn listed(daemon: &Daemon, query: &str) -> Vec<Value> {
    let mut found: Vec<Value> = Vec::new();
    let mut cursor = String::new();
    loop {
        let (status, page) = daemon.get(&format!("/v1/sagas?limit=500&{query}{cursor}")).await;
        assert_eq!(status, 200, "{page}");
        found.extend(page["items"].as_array().expect("a list").iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
}
