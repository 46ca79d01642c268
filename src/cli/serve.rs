//! `sagad serve` and `sagad migrate`.

use clap::Args;
use sagad::store::sql::SqlStore;
use sagad::{daemon, telemetry};

use super::{Failure, Sources};

/// Run the daemon
#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    sources: Sources,
}

impl Serve {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let config = self.sources.load()?;
        config.can_serve()?;
        telemetry::init(&config.telemetry).map_err(|error| Failure::Misconfigured(error.to_string()))?;
        super::block_on(daemon::serve(config))?.map_err(|error| match error.is_misconfiguration() {
            true => Failure::Misconfigured(error.to_string()),
            false => Failure::Failed(error.to_string()),
        })
    }
}

/// Prepare the database for this version of sagad
#[derive(Debug, Args)]
pub(crate) struct Migrate {
    #[command(flatten)]
    sources: Sources,
}

impl Migrate {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let config = self.sources.load()?;
        super::block_on(SqlStore::migrate(&config.store.url))??;
        super::print("the database is up to date\n")
    }
}
