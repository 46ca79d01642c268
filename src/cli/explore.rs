//! `sagad explore`

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use sagad::core::start::InputError;
use sagad::definitions;
use sagad::explore::{self, Bounds, Report};
use sagad::trial::laws::LAWS;
use sagad::trial::stage::SHIPPED;
use serde_json::Value;

use super::{Failure, Sources, plural, print};

/// Go through everything that can happen to a saga: every combination of outcomes of every step, on the real engine
///
/// Each command succeeds, fails, is busy, comes back, is never handled, is done without an answer, or is handled late; each answer
/// may come twice; the deadline may pass and an operator may cancel at any time. Whatever happens, the laws that are printed must hold. If
/// one does not, the shortest way there is printed as a scenario for `sagad test`, and the exit code is 1.
#[derive(Debug, Args)]
pub(super) struct Explore {
    #[command(flatten)]
    sources: Sources,
    /// The definition's name
    name: String,
    /// A JSON file to start it with; may be said several times [default: made from the definition's schema]
    #[arg(long, value_name = "FILE")]
    input: Vec<PathBuf>,
    /// Attempts of each action, if the definition allows as many
    #[arg(long, default_value_t = Bounds::default().attempts, value_parser = clap::value_parser!(u32).range(1..=100))]
    attempts: u32,
    /// Late answers on their way at the same time
    #[arg(long, default_value_t = Bounds::default().late)]
    late: usize,
    /// States to look at
    #[arg(long, default_value_t = Bounds::default().states)]
    states: usize,
    /// Print JSON: an array with a report for each input
    #[arg(long)]
    json: bool,
}

impl Explore {
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = self.sources.load()?;
        let path = config.definitions.path;
        let folder = definitions::read(std::slice::from_ref(&path), None);
        let Some((definition, source)) = folder.definitions.get(self.name.as_str()) else {
            return Err(Failure::Misconfigured(folder.without(&self.name, &path)));
        };
        let inputs = match self.input.as_slice() {
            [] => explore::inputs(definition).map_err(|errors| unfit(&errors, "give one with --input FILE"))?,
            files => files.iter().map(|file| read(file)).collect::<Result<_, _>>()?,
        };
        let bounds = Bounds { attempts: self.attempts, late: self.late, states: self.states };
        let mut reports = Vec::new();
        for input in inputs {
            let began = Instant::now();
            let report = explore::explore(source, input, bounds, SHIPPED);
            let report = report.map_err(|errors| unfit(&errors, "mend the input"))?;
            if !self.json {
                print(&shown(&report, definition.steps.len(), began))?;
            }
            reports.push(report);
        }
        if self.json {
            let json = serde_json::to_string_pretty(&reports).map_err(|error| Failure::Failed(error.to_string()))?;
            print(&(json + "\n"))?;
        }
        match reports.iter().all(|report| report.violation.is_none() && !proves_nothing(report)) {
            true => Ok(()),
            false => Err(Failure::Reported),
        }
    }
}

/// Whether the bound came before any saga's end.
fn proves_nothing(report: &Report) -> bool {
    report.unseen > 0 && report.ends.is_empty()
}

fn read(file: &Path) -> Result<Arc<Value>, Failure> {
    let wrong = |why: String| Failure::Misconfigured(format!("{}: {why}", file.display()));
    let text = std::fs::read(file).map_err(|why| wrong(why.to_string()))?;
    sagad::json::read(&text).map(Arc::new).map_err(|why| wrong(why.to_string()))
}

fn unfit(errors: &[InputError], help: &str) -> Failure {
    let errors = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    Failure::Misconfigured(format!("the saga can't be started: {errors}; {help}"))
}

fn shown(report: &Report, steps: usize, began: Instant) -> String {
    let Bounds { attempts, late, .. } = report.bounds;
    let mut text = format!(
        "{}, started with {}\n  {}, up to {} of each action, up to {} on their way at a time\n",
        report.saga,
        report.input,
        plural(steps, "step"),
        plural(attempts as usize, "attempt"),
        plural(late, "late answer"),
    );
    let took = began.elapsed().as_secs_f64();
    let _ = writeln!(
        text,
        "  {}, {}, up to {} after the start; {took:.1} s",
        plural(report.states, "state"),
        plural(report.transitions, "transition"),
        plural(report.depth, "event"),
    );
    let ends: Vec<String> = report.ends.iter().map(|(status, count)| format!("{count} {status}")).collect();
    let _ = writeln!(text, "  ends: {}", ends.join(", "));
    if report.cut > 0 {
        let _ = writeln!(text, "  not followed: {} to one more late answer (--late)", plural(report.cut, "way"));
    }
    if report.unseen > 0 {
        let _ = writeln!(text, "  NOT COMPLETE: at least {} not looked at (--states)", plural(report.unseen, "state"));
    }
    match &report.violation {
        None if proves_nothing(report) => {
            let _ = writeln!(text, "  no saga came to its end, so nothing is proved: raise --states\n");
        }
        None => {
            let seen = if report.unseen > 0 { "all that were looked at" } else { "all of them" };
            let laws: Vec<&str> = LAWS.iter().map(|(law, _)| *law).collect();
            let _ = writeln!(text, "  in {seen} hold: {}\n", laws.join(", "));
        }
        Some(violation) => {
            let _ = writeln!(text, "\nThis does not hold: {}: {}\n", violation.law, violation.message);
            for line in &violation.history {
                let _ = writeln!(text, "  {line}");
            }
            let _ = writeln!(text, "\nAs a scenario for `sagad test`:\n\n{}", violation.scenario);
        }
    }
    text
}
