//! `sagad graph`

use clap::{Args, ValueEnum};
use sagad::definitions;
use sagad::graph::{self, Format};

use super::{Failure, Sources, print};

/// Draw a definition: its steps, what undoes them, what runs in parallel and where there is no return
#[derive(Debug, Args)]
pub(super) struct Graph {
    #[command(flatten)]
    sources: Sources,
    /// Name of a definition below the configuration's definitions.path
    name: String,
    /// What to write
    #[arg(long, default_value = "svg")]
    format: Form,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Form {
    /// A picture, light or dark as its reader likes
    Svg,
    /// For Markdown
    Mermaid,
    /// For Graphviz
    Dot,
}

impl Graph {
    pub(super) fn run(self) -> Result<(), Failure> {
        let path = self.sources.load()?.definitions.path;
        let folder = definitions::read(std::slice::from_ref(&path), None);
        let Some((definition, _)) = folder.definitions.get(self.name.as_str()) else {
            return Err(Failure::Misconfigured(folder.without(&self.name, &path)));
        };
        let format = match self.format {
            Form::Svg => Format::Svg,
            Form::Mermaid => Format::Mermaid,
            Form::Dot => Format::Dot,
        };
        print(&graph::draw(definition, format))
    }
}
