//! `sagad check`

use std::path::PathBuf;

use clap::Args;
use sagad::broker::topology::TopologyPlan;
use sagad::config::{ConfigError, ConfigErrors};
use sagad::core::diagnostic::{Diagnostic, Severity};
use sagad::definitions::{self, File, Folder};
use sagad::report::{self, Finding};

use super::{Failure, Sources, colours, plural, print};

/// Check definitions: every error and every warning of every file, with its place and how to mend it
///
/// Ends with 1 if there is an error. Commands are held against the topology of the configuration: one that no declared queue
/// receives is a warning. The definitions of a folder are held against each other. docs/definitions.md lists every code.
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    sources: Sources,
    /// Files, and folders of files [default: the configuration's definitions.path]
    paths: Vec<PathBuf>,
    /// Print JSON: an array of { file, line, column, end_line, end_column, severity, code, message, help }
    #[arg(long)]
    json: bool,
    /// Treat warnings as errors
    #[arg(long)]
    deny_warnings: bool,
}

impl Check {
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = self.sources.load()?;
        let topology = TopologyPlan::new(&config.broker, &config.topology).map_err(in_topology)?;
        let paths = if self.paths.is_empty() { vec![config.definitions.path] } else { self.paths };
        let mut folder = definitions::read(&paths, Some(&topology));
        if folder.files.is_empty() {
            folder.files.extend(paths.into_iter().map(without_definitions));
        }
        let text = if self.json { json(&folder)? } else { shown(&folder) };
        print(&text)?;
        let denied = self.deny_warnings && count(&folder, Severity::Warning) > 0;
        if folder.has_errors() || denied { Err(Failure::Reported) } else { Ok(()) }
    }
}

fn in_topology(wrong: Vec<String>) -> Failure {
    let errors = wrong.into_iter().map(|message| ConfigError { key: "topology".to_owned(), place: None, message });
    Failure::Config(ConfigErrors(errors.collect()))
}

/// A wrong path that happens to be a folder must not look like a folder of flawless definitions.
fn without_definitions(path: PathBuf) -> File {
    let diagnostic = Diagnostic {
        severity: Severity::Warning,
        code: "no-definitions",
        span: 0..0,
        message: "there is no definition below this folder".to_owned(),
        help: "definitions are files that end in `.toml`, but not in `.test.toml`".to_owned(),
    };
    File { path, text: String::new(), diagnostics: vec![diagnostic] }
}

fn json(folder: &Folder) -> Result<String, Failure> {
    let findings: Vec<Finding<'_>> =
        each(folder).map(|(file, diagnostic)| Finding::new(&file.path, &file.text, diagnostic)).collect();
    let json = serde_json::to_string_pretty(&findings).map_err(|error| Failure::Failed(error.to_string()))?;
    Ok(json + "\n")
}

fn shown(folder: &Folder) -> String {
    let colours = colours();
    let shown = each(folder).map(|(file, diagnostic)| {
        let text = report::render(&file.path, &file.text, diagnostic, colours);
        format!("{text}\n\n")
    });
    shown.collect::<String>() + &summary(folder)
}

fn summary(folder: &Folder) -> String {
    let found = match (count(folder, Severity::Error), count(folder, Severity::Warning)) {
        (0, 0) => "no problem".to_owned(),
        (errors, 0) => plural(errors, "error"),
        (0, warnings) => plural(warnings, "warning"),
        (errors, warnings) => format!("{}, {}", plural(errors, "error"), plural(warnings, "warning")),
    };
    format!("{} checked: {found}\n", plural(folder.files.len(), "file"))
}

fn count(folder: &Folder, severity: Severity) -> usize {
    each(folder).filter(|(_, diagnostic)| diagnostic.severity == severity).count()
}

fn each(folder: &Folder) -> impl Iterator<Item = (&File, &Diagnostic)> {
    folder.files.iter().flat_map(|file| file.diagnostics.iter().map(move |diagnostic| (file, diagnostic)))
}
