//! Durations and retries.

use std::time::Duration;

use super::reader::{Field, Reader};
use crate::core::definition::Retry;

/// Longer than any saga should take, short enough that no sum of times overflows.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 60 * 60);
/// RabbitMQ counts the time of a message in milliseconds, in 32 bits; it closes the channel on more.
pub(super) const LONGEST_EXPIRY: Duration = Duration::from_millis(u32::MAX as u64);
/// The precision of sagad's clock.
const SHORTEST: Duration = Duration::from_millis(1);
/// More attempts than this are a loop.
const MOST_ATTEMPTS: i64 = 1000;

/// What an execute retries if nothing else is said.
pub(super) const RETRY: Retry =
    Retry { attempts: 3, initial: Duration::from_millis(500), factor: 2.0, max: Duration::from_secs(30), jitter: 0.2 };
/// Attempts of a compensation if its own retry does not say otherwise: giving up leaves something undone.
pub(super) const COMPENSATION_ATTEMPTS: u32 = 10;
/// How long an attempt may take if nothing else is said.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);

/// What a `retry` table says.
#[derive(Clone, Default)]
pub(super) struct RetryTable {
    attempts: Option<u32>,
    initial: Option<Duration>,
    factor: Option<f64>,
    max: Option<Duration>,
    jitter: Option<f64>,
}

impl<'t> Reader<'t> {
    /// A duration of a millisecond or more.
    pub(crate) fn duration(&mut self, field: &Field<'t>) -> Option<Duration> {
        let duration = self.duration_or_none(field)?;
        if duration < SHORTEST {
            self.invalid(
                field,
                "it must be a millisecond or more",
                format!("write for example `{} = \"30s\"`", field.name),
            );
            return None;
        }
        Some(duration)
    }

    /// A duration that may be zero.
    pub(crate) fn duration_or_none(&mut self, field: &Field<'t>) -> Option<Duration> {
        let name = field.name;
        let Some(text) = field.value.get_ref().as_str() else {
            let example = match field.value.get_ref().as_integer() {
                Some(_) => {
                    format!("write the unit, too: `{name} = \"{}s\"` for seconds", &self.text[field.value.span()])
                }
                None => format!("write for example `{name} = \"30s\"`, `\"500ms\"`, `\"15m\"`, `\"1h 30m\"`"),
            };
            self.wrong_type(field, "a duration like \"30s\"", example);
            return None;
        };
        let help = "a number with a unit: \"500ms\", \"30s\", \"15m\", \"1h 30m\", \"2days\"";
        match humantime::parse_duration(text) {
            Ok(duration) if duration <= LONGEST => Some(duration),
            Ok(_) => {
                self.error(
                    "invalid-duration",
                    field.value.span(),
                    format!("`{name}`: longer than ten years"),
                    "choose a shorter time",
                );
                None
            }
            Err(error) => {
                let message = format!("`{name}`: \"{text}\" is no duration: {error}");
                self.error("invalid-duration", field.value.span(), message, help);
                None
            }
        }
    }

    /// A `retry` table.
    pub(super) fn retry(&mut self, field: &Field<'t>) -> RetryTable {
        let example = "`retry = { attempts = 5 }` or `retry.attempts = 5`";
        let Some(mut table) = self.table(field, "retry", example) else { return RetryTable::default() };
        let attempts = table.take("attempts").and_then(|field| self.integer(&field, 1, MOST_ATTEMPTS));
        let retry = RetryTable {
            attempts: attempts.and_then(|attempts| u32::try_from(attempts).ok()),
            initial: table.take("initial").and_then(|field| self.duration(&field)),
            factor: table.take("factor").and_then(|field| self.number(&field, 1.0, 100.0)),
            max: table.take("max").and_then(|field| self.duration(&field)),
            jitter: table.take("jitter").and_then(|field| self.number(&field, 0.0, 1.0)),
        };
        self.finish(&table);
        retry
    }

    /// The retry that results for an action.
    pub(super) fn merged(&mut self, field: Option<&Field<'t>>, own: &RetryTable, default: Retry) -> Retry {
        let retry = own.over(default);
        if let Some(field) = field.filter(|_| retry.initial > retry.max) {
            let (initial, max) = (humantime::format_duration(retry.initial), humantime::format_duration(retry.max));
            let message = format!("`retry`: the first wait ({initial}) is longer than the longest ({max})");
            self.error("invalid-value", field.key.clone(), message, format!("raise `retry.max` to {initial} or more"));
        }
        retry
    }
}

impl RetryTable {
    /// These values, and `default`'s where there are none.
    pub(super) fn over(&self, default: Retry) -> Retry {
        Retry {
            attempts: self.attempts.unwrap_or(default.attempts),
            initial: self.initial.unwrap_or(default.initial),
            factor: self.factor.unwrap_or(default.factor),
            max: self.max.unwrap_or(default.max),
            jitter: self.jitter.unwrap_or(default.jitter),
        }
    }
}
