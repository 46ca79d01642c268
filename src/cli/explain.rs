//! `sagad explain`

use clap::Args;
use sagad::explain::{Explanation, text};
use uuid::Uuid;

use super::client::Daemon;
use super::{Failure, block_on, print};

/// Explain a saga: what it waits for and since when, what comes next and when, and what an operator can do
#[derive(Debug, Args)]
pub(super) struct Explain {
    #[command(flatten)]
    daemon: Daemon,
    /// The saga's id
    id: Uuid,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub(super) fn run(self) -> Result<(), Failure> {
        let client = self.daemon.client()?;
        let answer = block_on(client.get(&format!("/v1/sagas/{}/explanation", self.id)))??;
        if self.json {
            return print(&format!("{answer:#}\n"));
        }
        let explanation: Explanation = serde_json::from_value(answer).map_err(|error| {
            Failure::Failed(format!("the daemon is of another version, its answer can't be read: {error}"))
        })?;
        print(&text(&explanation))
    }
}
