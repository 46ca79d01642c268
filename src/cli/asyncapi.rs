//! `sagad asyncapi`

use clap::Args;
use sagad::{asyncapi, definitions};

use super::{Failure, Sources, print};

/// Print an AsyncAPI 3.0 document of every command, answer and event of the definitions, for the teams of the participants
///
/// JSON, which YAML's tools read as well. The application that it describes is sagad: what it sends, participants get.
#[derive(Debug, Args)]
pub(super) struct AsyncApi {
    #[command(flatten)]
    sources: Sources,
    /// Names of definitions below the configuration's definitions.path [default: all]
    names: Vec<String>,
}

impl AsyncApi {
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = self.sources.load()?;
        let path = &config.definitions.path;
        let folder = definitions::read(std::slice::from_ref(path), None);
        let unknown = self.names.iter().find(|name| !folder.definitions.contains_key(name.as_str()));
        if let Some(name) = unknown {
            return Err(Failure::Misconfigured(folder.without(name, path)));
        }
        if self.names.is_empty() && folder.has_errors() {
            let path = path.display();
            return Err(Failure::Misconfigured(format!(
                "definitions below {path} have errors, which `sagad check` shows"
            )));
        }
        let wanted = |name: &str| self.names.is_empty() || self.names.iter().any(|wanted| wanted == name);
        let definitions = folder.definitions.iter().filter(|(name, _)| wanted(name)).map(|(_, (it, _))| it);
        let document = asyncapi::document(definitions, &config.broker, &config.topology);
        let json = serde_json::to_string_pretty(&document).map_err(|error| Failure::Failed(error.to_string()))?;
        print(&(json + "\n"))
    }
}
