//! Logs: text on a terminal, JSON otherwise, always on standard error: standard output is for what commands print.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Directive;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::Telemetry;

/// The AMQP library logs returned messages, bodies and all, and every end of a connection as an error, also an orderly one. Bodies do
/// not belong into logs, and sagad says itself what becomes of its link and of what comes back.
const AMQP_LIBRARY: &str = "lapin";

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
    if log.contains(AMQP_LIBRARY) {
        return Ok(filter);
    }
    let quiet: Directive = format!("{AMQP_LIBRARY}=off").parse()?;
    Ok(filter.add_directive(quiet))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_amqp_library_is_heard_only_on_demand() {
        assert!(filter("trace").unwrap().to_string().contains("lapin=off"));
        let asked = filter("info,lapin=warn").unwrap().to_string();
        assert!(asked.contains("lapin=warn") && !asked.contains("=off"), "{asked}");
    }
}
