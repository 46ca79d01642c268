//! Verdicts, for machines and for people.

use std::fmt;

use serde::Serialize;

use super::check::Check;

/// What became of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The participant does it right, as far as can be seen from its answers.
    Passed,
    /// It does not.
    Failed,
    /// It can't be told.
    NotShown,
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Status::Passed => "passed",
            Status::Failed => "FAILED",
            Status::NotShown => "not shown",
        }
    }
}

/// How much depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Without it sagas end wrongly, or not at all.
    Required,
    /// sagad makes up for it, or it matters only now and then.
    Recommended,
}

/// What a check found.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub(super) status: Status,
    why: Option<String>,
    help: Option<&'static str>,
}

impl Verdict {
    pub(super) fn passed() -> Verdict {
        Verdict { status: Status::Passed, why: None, help: None }
    }

    /// Passed, and there is something to say about it.
    pub(super) fn passed_with(why: impl Into<String>) -> Verdict {
        Verdict { status: Status::Passed, why: Some(why.into()), help: None }
    }

    pub(super) fn failed(why: impl Into<String>, help: &'static str) -> Verdict {
        Verdict { status: Status::Failed, why: Some(why.into()), help: Some(help) }
    }

    pub(super) fn not_shown(why: impl Into<String>) -> Verdict {
        Verdict { status: Status::NotShown, why: Some(why.into()), help: None }
    }

    pub(super) fn help(self, help: &'static str) -> Verdict {
        Verdict { help: Some(help), ..self }
    }

    pub(super) fn of(self, check: Check) -> Finding {
        let Verdict { status, why, help } = self;
        Finding { check: check.id(), level: check.level(), verdict: status, what: check.what(), why, help }
    }
}

/// A check and its verdict.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Its id.
    pub check: &'static str,
    /// How much depends on it.
    pub level: Level,
    /// What became of it.
    pub verdict: Status,
    /// What it is about.
    pub what: &'static str,
    /// What was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<&'static str>,
}

/// All verdicts.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// No required check failed, and the participant was heard.
    pub conforms: bool,
    /// In the order they were made.
    pub checks: Vec<Finding>,
}

impl Report {
    pub(super) fn new(checks: Vec<Finding>) -> Report {
        let conforms = !checks.iter().any(|it| it.verdict == Status::Failed && it.level == Level::Required);
        Report { conforms, checks }
    }

    /// How many checks, of this level if one is given, came out like this.
    pub fn count(&self, status: Status, level: Option<Level>) -> usize {
        let counts = |it: &&Finding| it.verdict == status && level.is_none_or(|level| level == it.level);
        self.checks.iter().filter(counts).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<26} {:<10} WHAT", "CHECK", "VERDICT")?;
        for Finding { check, level, verdict, what, why, help } in &self.checks {
            let word = match (verdict, level) {
                (Status::Failed, Level::Recommended) => "advice",
                _ => verdict.word(),
            };
            writeln!(f, "{check:<26} {word:<10} {what}")?;
            for (title, text) in [("", why.as_deref()), ("what to do: ", *help)] {
                if let Some(text) = text {
                    writeln!(f, "{:<37} {title}{text}", "")?;
                }
            }
        }
        let (passed, failed) = (self.count(Status::Passed, None), self.count(Status::Failed, Some(Level::Required)));
        write!(f, "\n{passed} passed, {failed} failed")?;
        let advice = self.count(Status::Failed, Some(Level::Recommended));
        if advice > 0 {
            write!(f, ", {advice} recommended and not done")?;
        }
        let unknown = self.count(Status::NotShown, None);
        if unknown > 0 {
            write!(f, ", {unknown} not shown")?;
        }
        writeln!(f)
    }
}
