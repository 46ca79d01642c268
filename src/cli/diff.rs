//! `sagad diff`

use std::path::{Path, PathBuf};

use clap::Args;
use sagad::core::definition::Definition;
use sagad::core::diagnostic::Severity;
use sagad::definitions;
use sagad::diff::{Applies, Change, Diff, Message};
use sagad::report;
use serde_json::Value;

use super::{Failure, print};

/// Compare two versions of a definition: what changed, for which sagas, and whom it can break
///
/// Sagas under way keep the revision they began with, so most changes are for new sagas alone. Defaults are in place before it is compared.
///
/// Ends with 0 if the two say the same, 1 if they differ, 2 if one of them can't be read.
#[derive(Debug, Args)]
pub(super) struct Compare {
    /// File of the definition as it was
    old: PathBuf,
    /// File of the definition as it is to be
    new: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Compare {
    pub(super) fn run(self) -> Result<(), Failure> {
        let diff = Diff::new(&read(&self.old)?, &read(&self.new)?);
        let text = if self.json {
            serde_json::to_string_pretty(&diff).map_err(|error| Failure::Failed(error.to_string()))? + "\n"
        } else {
            in_words(&diff)
        };
        print(&text)?;
        if diff.is_empty() { Ok(()) } else { Err(Failure::Reported) }
    }
}

fn read(path: &Path) -> Result<Definition, Failure> {
    let folder = definitions::read(&[path.to_owned()], None);
    let mut wrong = String::new();
    for file in &folder.files {
        let errors = file.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error);
        errors.for_each(|error| wrong += &format!("\n{}", report::render(&file.path, &file.text, error, false)));
    }
    if !wrong.is_empty() {
        return Err(Failure::Misconfigured(format!("{} can't be compared:{wrong}", path.display())));
    }
    let mut definitions = folder.definitions.into_values().map(|(definition, _)| definition);
    match (definitions.next(), definitions.next()) {
        (Some(one), None) => Ok(one),
        _ => Err(Failure::Misconfigured(format!("{} is not the file of one definition", path.display()))),
    }
}

fn in_words(diff: &Diff) -> String {
    if diff.is_empty() {
        return format!("{}: no difference\n", diff.saga);
    }
    let mut text = format!("{}\n", diff.saga);
    let sections = [
        (Applies::NewSagas, "For new sagas; those under way keep the revision they began with:"),
        (Applies::AtOnce, "At once, for sagas under way too:"),
    ];
    for (applies, title) in sections {
        let changes: Vec<&Change> = diff.changes.iter().filter(|change| change.applies == applies).collect();
        if !changes.is_empty() {
            text += &format!("\n{title}\n");
            changes.into_iter().for_each(|change| text += &line(change));
        }
    }
    if !diff.sent.is_empty() || !diff.no_longer_sent.is_empty() {
        text += "\nFor the teams of participants:\n";
        let message = |Message { exchange, routing_key }: &Message| format!("{routing_key} on exchange {exchange}");
        diff.sent.iter().for_each(|it| text += &format!("  + {}\n", message(it)));
        let gone = diff.no_longer_sent.iter();
        gone.for_each(|it| text += &format!("  - {}: only sagas under way send it\n", message(it)));
    }
    if diff.changes.iter().any(|change| change.breaks.is_some()) {
        text += "\n! can break something\n";
    }
    text
}

fn line(change: &Change) -> String {
    let mark = if change.breaks.is_some() { '!' } else { ' ' };
    let place = match (&change.step, &change.key) {
        (Some(step), Some(key)) => format!("{step}: {key}"),
        (Some(step), None) => format!("step {step}"),
        (None, key) => key.clone().unwrap_or_default(),
    };
    let what = match (&change.before, &change.after) {
        (Value::Null, after) => format!("added: {}", shown(after)),
        (before, Value::Null) => format!("removed: {}", shown(before)),
        (before, after) => format!("{} → {}", shown(before), shown(after)),
    };
    let why = change.breaks.as_ref().map(|why| format!("      {why}\n")).unwrap_or_default();
    format!("  {mark} {place} {what}\n{why}")
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
