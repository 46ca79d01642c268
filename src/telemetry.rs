//! Logs: text on a terminal, JSON otherwise, always on standard error: standard output is for what commands print.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Directive;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::Telemetry;

/// lapin warns of each message that comes back, body and all: bodies do not belong into logs, and sagad counts and
/// journals what comes back anyway.
const RETURNED_MESSAGES: &str = "lapin::returned_messages";

/// Why logging can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `telemetry.log` is no filter.
    #[error("telemetry.log: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Something else in this process logs already.
    #[error("logging is set up already: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Begins to log, for the rest of the process.
///
/// # Errors
/// [`TelemetryError`].
pub fn init(config: &Telemetry) -> Result<(), TelemetryError> {
    let filter = filter(&config.log)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.finish().try_init()?;
    } else {
        builder.json().flatten_event(true).finish().try_init()?;
    }
    Ok(())
}

fn filter(log: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    let filter = EnvFilter::builder().parse(log)?;
    if log.contains(RETURNED_MESSAGES) {
        return Ok(filter);
    }
    let quiet: Directive = format!("{RETURNED_MESSAGES}=error").parse()?;
    Ok(filter.add_directive(quiet))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_of_returned_messages_are_logged_only_on_demand() {
        assert!(filter("trace").unwrap().to_string().contains("lapin::returned_messages=error"));
        let asked = filter("info,lapin::returned_messages=warn").unwrap().to_string();
        assert!(asked.contains("lapin::returned_messages=warn") && !asked.contains("=error"), "{asked}");
    }
}
