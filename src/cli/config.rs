//! `sagad config`

use clap::Args;

use super::{Failure, Sources, print};

/// Show the effective configuration, with every default, as TOML; secrets are hidden
#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    sources: Sources,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Show {
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = self.sources.load()?;
        let text = match self.json {
            true => serde_json::to_string_pretty(&config).map(|json| json + "\n").map_err(|error| error.to_string()),
            false => config.to_toml().map_err(|error| error.to_string()),
        };
        print(&text.map_err(Failure::Failed)?)
    }
}
