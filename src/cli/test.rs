//! `sagad test`

use std::path::{Path, PathBuf};

use clap::Args;
use sagad::core::diagnostic::{Diagnostic, Severity};
use sagad::definitions::{self, File};
use sagad::report::{self, Finding};
use sagad::scenario::{self, Outcome};
use sagad::trial::stage::SHIPPED;
use serde_json::json;

use super::{Failure, Sources, print};

/// Play scenarios (*.test.toml): what sagas do when their participants do this and that, without a broker and in no time
///
/// Each scenario runs on the real engine with scripted participants and virtual time. Ends with 1 if one of them does not go as it
/// is expected to.
#[derive(Debug, Args)]
pub(super) struct Test {
    #[command(flatten)]
    sources: Sources,
    /// Files, and folders of files; the definitions are those below the same folders, or else below the configuration's
    /// definitions.path [default: definitions.path]
    paths: Vec<PathBuf>,
    /// Print JSON: { scenarios: [{ saga, scenario, file, line, passed, differences, history }], problems, passed, failed }
    #[arg(long)]
    json: bool,
    /// Tell what happened in scenarios that went well, too
    #[arg(long)]
    history: bool,
}

impl Test {
    pub(super) fn run(self) -> Result<(), Failure> {
        let configured = self.sources.load()?.definitions.path;
        let paths = if self.paths.is_empty() { vec![configured.clone()] } else { self.paths.clone() };
        let folders: Vec<PathBuf> = paths.iter().map(|path| folder_of(path)).collect();
        let mut folder = definitions::read(&folders, None);
        if folder.files.is_empty() {
            folder = definitions::read(&[configured], None);
        }
        let mut files = definitions::read_scenarios(&paths);
        if files.is_empty() {
            let searched: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            let message = format!(
                "there are no scenarios below {}: they are files that end in `.test.toml`",
                searched.join(", ")
            );
            return Err(Failure::Misconfigured(message));
        }
        let mut outcomes = Vec::new();
        for file in files.iter_mut().filter(|file| file.diagnostics.is_empty()) {
            match scenario::run(file, &folder, SHIPPED) {
                Ok(played) => outcomes.extend(played),
                Err(diagnostics) => file.diagnostics = diagnostics,
            }
        }
        // A definition with errors is why a scenario can't be played.
        files.extend(folder.files.into_iter().filter(|file| errors(file).next().is_some()));
        match self.json {
            true => print(&as_json(&files, &outcomes)?)?,
            false => print(&self.shown(&files, &outcomes))?,
        }
        let well = outcomes.iter().all(|outcome| outcome.passed) && files.iter().flat_map(errors).next().is_none();
        if well { Ok(()) } else { Err(Failure::Reported) }
    }

    fn shown(&self, files: &[File], outcomes: &[Outcome]) -> String {
        let colours = super::colours();
        let mut text = String::new();
        for file in files {
            for diagnostic in errors(file) {
                text += &report::render(&file.path, &file.text, diagnostic, colours);
                text += "\n\n";
            }
        }
        for outcome in outcomes {
            let Outcome { saga, scenario, file, line, passed, differences, history } = outcome;
            match passed {
                true => text += &format!("ok      {saga}: {scenario}\n"),
                false => text += &format!("FAILED  {saga}: {scenario}   ({file}:{line})\n"),
            }
            for difference in differences {
                text += &indented(difference, "        ");
            }
            if !passed || self.history {
                text += "        what happened:\n";
                text += &indented(&history.join("\n"), "        ");
            }
        }
        text + &summary(files, outcomes)
    }
}

/// Where the definitions are that a file of scenarios is about: beside it.
fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if path.is_file() && parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) if path.is_file() => parent.to_owned(),
        _ => path.to_owned(),
    }
}

fn indented(text: &str, by: &str) -> String {
    text.lines().map(|line| format!("{by}{line}\n")).collect()
}

fn errors(file: &File) -> impl Iterator<Item = &Diagnostic> {
    file.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error)
}

fn summary(files: &[File], outcomes: &[Outcome]) -> String {
    let failed = outcomes.iter().filter(|outcome| !outcome.passed).count();
    let scenarios = super::plural(outcomes.len(), "scenario");
    let wrong = match files.iter().flat_map(errors).count() {
        0 => String::new(),
        wrong => format!("; {} in files that can't be used", super::plural(wrong, "error")),
    };
    match failed {
        0 => format!("{scenarios}: {}{wrong}\n", if outcomes.is_empty() { "nothing was played" } else { "all passed" }),
        failed => format!("{scenarios}: {} passed, {failed} failed{wrong}\n", outcomes.len() - failed),
    }
}

fn as_json(files: &[File], outcomes: &[Outcome]) -> Result<String, Failure> {
    let problems = files.iter().flat_map(|file| errors(file).map(|it| Finding::new(&file.path, &file.text, it)));
    let passed = outcomes.iter().filter(|outcome| outcome.passed).count();
    let json = json!({
        "scenarios": outcomes,
        "problems": problems.collect::<Vec<_>>(),
        "passed": passed,
        "failed": outcomes.len() - passed,
    });
    serde_json::to_string_pretty(&json).map(|json| json + "\n").map_err(|error| Failure::Failed(error.to_string()))
}
