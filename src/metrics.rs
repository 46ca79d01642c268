//! What sagad counts and measures, for Prometheus: the names in one place, and the recorder behind `/metrics`.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use metrics::{describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Counter; `saga`: the definition.
pub const SAGAS_STARTED: &str = "sagad_sagas_started_total";
/// Counter; `saga`, and `status`: how it ended.
pub const SAGAS_ENDED: &str = "sagad_sagas_ended_total";
/// Counter; `saga`.
pub const SAGAS_PURGED: &str = "sagad_sagas_purged_total";
/// Counter; `saga`.
pub const SAGAS_SUSPENDED: &str = "sagad_sagas_suspended_total";
/// Counter; `why`: a late, duplicate or stale answer that changes nothing.
pub const ANSWERS_IGNORED: &str = "sagad_answers_ignored_total";
/// Counter: events of other services that no saga under way is about.
pub const EVENTS_UNCLAIMED: &str = "sagad_events_unclaimed_total";
/// Counter: messages given back to the broker for a while, as nobody was there yet whom they are for.
pub const PUT_OFF: &str = "sagad_put_off_total";
/// Counter; `why`: messages kept because nobody could read or place them.
pub const DEAD_LETTERS: &str = "sagad_dead_letters_total";
/// Counter: items that the database refused for good and that were set aside.
pub const ITEMS_REFUSED: &str = "sagad_items_refused_total";
/// Counter: outbox rows that were left behind and found by the sweep.
pub const OUTBOX_RECOVERED: &str = "sagad_outbox_recovered_total";
/// Counter: messages that the broker confirmed.
pub const OUTBOX_PUBLISHED: &str = "sagad_outbox_published_total";
/// Counter: messages that no queue took.
pub const OUTBOX_RETURNED: &str = "sagad_outbox_returned_total";
/// Counter: writes that lost against another daemon's and were decided again.
pub const STALE_WRITES: &str = "sagad_stale_writes_total";
/// Counter: transactions that failed and were, or will be, tried again.
pub const COMMITS_FAILED: &str = "sagad_commits_failed_total";
/// Histogram, seconds: one transaction.
pub const COMMIT_SECONDS: &str = "sagad_commit_seconds";
/// Histogram: sagas in one transaction.
pub const BATCH_SAGAS: &str = "sagad_batch_sagas";
/// Histogram, seconds; `route`, `method`, `status`.
pub const HTTP_SECONDS: &str = "sagad_http_request_seconds";
/// Gauge: 1 while the database works, else 0.
pub const STORE_UP: &str = "sagad_store_up";
/// Gauge: 1 while RabbitMQ works and the topology is in place, else 0.
pub const BROKER_UP: &str = "sagad_broker_up";

/// From a fast commit to the patience of callers.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

const SAGAS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// Between two upkeeps; what the exporter's own listener does.
const UPKEEP: Duration = Duration::from_secs(5);

/// Reads out what was recorded.
#[derive(Clone, Debug)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Begins to record, for the rest of the process; a second call is given the first one's recorder.
    ///
    /// # Errors
    /// If something else in this process records already.
    pub fn install() -> Result<Metrics, BuildError> {
        static INSTALLED: OnceLock<Metrics> = OnceLock::new();
        static INSTALLING: Mutex<()> = Mutex::new(());
        // Two callers at once: the second waits, and is given the first one's.
        let _one_at_a_time = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(installed) = INSTALLED.get() {
            return Ok(installed.clone());
        }
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
            .set_buckets_for_metric(Matcher::Full(BATCH_SAGAS.to_owned()), &SAGAS)?;
        let handle = recorder.install_recorder()?;
        describe();
        Ok(INSTALLED.get_or_init(|| Metrics(handle)).clone())
    }

    /// Everything, in Prometheus' text format.
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Puts samples into their buckets every few seconds, for ever: they pile up while nobody scrapes.
    pub async fn upkeep(self) {
        let mut ticks = tokio::time::interval(UPKEEP);
        loop {
            ticks.tick().await;
            self.0.run_upkeep();
        }
    }
}

fn describe() {
    describe_counter!(SAGAS_STARTED, "Sagas accepted, by definition.");
    describe_counter!(SAGAS_ENDED, "Sagas ended, by definition and status.");
    describe_counter!(SAGAS_SUSPENDED, "Sagas that began to wait for an operator, by definition.");
    describe_counter!(SAGAS_PURGED, "Ended sagas deleted at the end of their retention, by definition.");
    describe_counter!(ANSWERS_IGNORED, "Answers that changed nothing, by why.");
    describe_counter!(PUT_OFF, "Messages that came before whom they are for, and were put off.");
    describe_counter!(DEAD_LETTERS, "Messages kept because nobody could read or place them, by why.");
    describe_counter!(ITEMS_REFUSED, "Items that the database refused for good; the log has them.");
    describe_counter!(OUTBOX_RECOVERED, "Outbox rows that were left behind and found by the sweep.");
    describe_counter!(OUTBOX_PUBLISHED, "Messages that the broker confirmed.");
    describe_counter!(OUTBOX_RETURNED, "Messages that no queue took.");
    describe_counter!(STALE_WRITES, "Writes that lost against another daemon's and were decided again.");
    describe_counter!(COMMITS_FAILED, "Transactions that failed; what was in them is tried again.");
    describe_histogram!(COMMIT_SECONDS, "Duration of a transaction.");
    describe_histogram!(BATCH_SAGAS, "Sagas in a transaction.");
    describe_histogram!(HTTP_SECONDS, "Duration of an HTTP request, by route, method and status.");
    describe_gauge!(STORE_UP, "1 while the database works, else 0.");
    describe_gauge!(BROKER_UP, "1 while RabbitMQ works and the topology is in place, else 0.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_can_be_scraped() {
        Metrics::install().unwrap();
        metrics::counter!(SAGAS_STARTED, "saga" => "a_name_of_this_test").increment(2);
        metrics::histogram!(BATCH_SAGAS).record(3.0);
        let text = Metrics::install().unwrap().render();
        assert!(text.contains("sagad_sagas_started_total{saga=\"a_name_of_this_test\"} 2"), "{text}");
        assert!(text.contains("# HELP sagad_sagas_started_total Sagas accepted, by definition."), "{text}");
        assert!(text.contains("sagad_batch_sagas_bucket{le=\"4\"}"), "{text}");
    }
}
