//! What came out, for machines and for people.

use std::fmt;

use serde::Serialize;

use super::database::StoreKind;
use super::round::Measurement;
use super::scenario::{STEPS, Scenario};

/// All figures of a bench.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// One for each database and number in flight.
    pub runs: Vec<Run>,
}

/// The figures for one database and one number in flight, over all rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// The database.
    pub store: StoreKind,
    /// Sagas in flight.
    pub in_flight: usize,
    /// What they did.
    pub scenario: Scenario,
    /// Sagas that ended in a second with sagad.
    pub sagas_per_s: f64,
    /// And with the null orchestrator.
    pub null_sagas_per_s: f64,
    /// The one by the other: the figure to quote.
    pub ratio: f64,
    /// From start to end with sagad: half took no longer.
    pub p50_ms: f64,
    /// 99 of 100 took no longer.
    pub p99_ms: f64,
    /// CPU time of a saga with sagad.
    pub cpu_us_per_saga: Cpu,
    /// Every saga that was started ended as it should, and the participants saw each command once and in order: in all rounds of both.
    pub verified: bool,
    /// 95 of 100 took no longer.
    #[serde(skip)]
    pub p95_ms: f64,
    /// The null orchestrator's p50, p95, p99.
    #[serde(skip)]
    pub null_ms: [f64; 3],
    /// CPU time of a saga with the null orchestrator, which stands in the daemon's place. It says less than the ratio on an idle machine,
    /// and more on a busy one.
    #[serde(skip)]
    pub null_cpu: Cpu,
}

/// Microseconds of CPU time; `None` where a process is not on this machine or can't be seen.
#[derive(Clone, Debug, Serialize)]
pub struct Cpu {
    /// sagad.
    pub daemon: Option<f64>,
    /// RabbitMQ.
    pub broker: Option<f64>,
    /// The bench's own participants.
    pub participants: Option<f64>,
    /// Postgres; 0 with SQLite, whose work is the daemon's.
    pub database: Option<f64>,
}

impl Run {
    pub(super) fn new(
        store: StoreKind,
        in_flight: usize,
        scenario: Scenario,
        sagad: &[Measurement],
        null: &[Measurement],
    ) -> Run {
        let (sagas_per_s, null_sagas_per_s) = (rate(sagad), rate(null));
        let [p50_ms, p95_ms, p99_ms] = percentiles(sagad);
        Run {
            store,
            in_flight,
            scenario,
            sagas_per_s: round(sagas_per_s, 1),
            null_sagas_per_s: round(null_sagas_per_s, 1),
            ratio: round(sagas_per_s / null_sagas_per_s, 3),
            p50_ms,
            p99_ms,
            cpu_us_per_saga: Cpu::of(sagad),
            verified: sagad.iter().chain(null).all(|round| round.verified),
            p95_ms,
            null_ms: percentiles(null),
            null_cpu: Cpu::of(null),
        }
    }

    /// What sagad adds to the time of one step, milliseconds.
    pub fn step_overhead_ms(&self) -> f64 {
        (self.p50_ms - self.null_ms[0]) / STEPS as f64
    }
}

impl Cpu {
    fn of(rounds: &[Measurement]) -> Cpu {
        let ended: usize = rounds.iter().map(|round| round.measured.micros.len()).sum();
        let part = |part: usize| {
            let micros: Option<u64> = rounds.iter().map(|round| round.cpu[part]).sum();
            Some(round(micros? as f64 / ended.max(1) as f64, 1))
        };
        Cpu { daemon: part(0), broker: part(1), participants: part(2), database: part(3) }
    }
}

fn rate(rounds: &[Measurement]) -> f64 {
    let ended: usize = rounds.iter().map(|round| round.measured.micros.len()).sum();
    ended as f64 / rounds.iter().map(|round| round.measured.seconds).sum::<f64>()
}

/// p50, p95 and p99 of all rounds together, milliseconds.
fn percentiles(rounds: &[Measurement]) -> [f64; 3] {
    let mut micros: Vec<u32> = rounds.iter().flat_map(|round| round.measured.micros.iter().copied()).collect();
    micros.sort_unstable();
    [50, 95, 99].map(|percent| {
        let rank = (micros.len() * percent).div_ceil(100).saturating_sub(1);
        micros.get(rank).map_or(f64::NAN, |micros| round(f64::from(*micros) / 1000.0, 3))
    })
}

fn round(number: f64, digits: i32) -> f64 {
    let factor = 10f64.powi(digits);
    (number * factor).round() / factor
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<9} {:>9} {:<9} {:<5} {:>8} {:>8} {:>8} {:>8} {:>8}   CPU US A SAGA: ITSELF, BROKER, PARTICIPANTS, DATABASE",
            "STORE", "IN FLIGHT", "SCENARIO", "", "SAGAS/S", "STEPS/S", "P50 MS", "P95 MS", "P99 MS"
        )?;
        for run in &self.runs {
            let steps = run.scenario.commands().len() as f64;
            let mut line = |who: &str, sagas_per_s: f64, [p50, p95, p99]: [f64; 3], cpu: &Cpu| {
                let steps_per_s = sagas_per_s * steps;
                writeln!(f, "{who:<36} {sagas_per_s:>7.0} {steps_per_s:>8.0} {p50:>8.2} {p95:>8.2} {p99:>8.2}   {cpu}")
            };
            let (store, scenario) = (run.store.as_str(), run.scenario.as_str());
            let sagad = format!("{store:<9} {:>9} {scenario:<9} sagad", run.in_flight);
            line(&sagad, run.sagas_per_s, [run.p50_ms, run.p95_ms, run.p99_ms], &run.cpu_us_per_saga)?;
            line(&format!("{:<29} null", ""), run.null_sagas_per_s, run.null_ms, &run.null_cpu)?;
            let verdict =
                if run.verified { "verified" } else { "NOT VERIFIED: sagas were lost, repeated or ended wrongly" };
            writeln!(f, "{:<29} ratio {:.2}, {:.2} ms more a step, {verdict}", "", run.ratio, run.step_overhead_ms())?;
        }
        Ok(())
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = |part: Option<f64>| part.map_or("?".to_owned(), |micros| format!("{micros:.0}"));
        let parts = [self.daemon, self.broker, self.participants, self.database].map(micros);
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::super::driver::Measured;
    use super::*;

    fn measurement(micros: Vec<u32>, seconds: f64, verified: bool) -> Measurement {
        let cpu = [Some(2_000), Some(4_000), None, Some(0)];
        Measurement { measured: Measured { micros, seconds, ..Measured::default() }, cpu, verified }
    }

    #[test]
    fn a_run_sums_its_rounds_up() {
        let sagad = [
            measurement((1..=60).map(|n| n * 1000).collect(), 1.0, true),
            measurement((61..=100).map(|n| n * 1000).collect(), 1.0, true),
        ];
        let null = [measurement(vec![500; 300], 2.0, true)];
        let run = Run::new(StoreKind::Sqlite, 512, Scenario::Success, &sagad, &null);
        assert_eq!((run.sagas_per_s, run.null_sagas_per_s, run.ratio), (50.0, 150.0, 0.333));
        assert_eq!((run.p50_ms, run.p95_ms, run.p99_ms), (50.0, 95.0, 99.0));
        assert_eq!((run.cpu_us_per_saga.daemon, run.cpu_us_per_saga.participants), (Some(40.0), None));
        assert!(run.verified);
    }

    #[test]
    fn one_wrong_round_spoils_the_run() {
        let sagad = [measurement(vec![1], 1.0, true)];
        let null = [measurement(vec![1], 1.0, true), measurement(vec![1], 1.0, false)];
        assert!(!Run::new(StoreKind::Postgres, 1, Scenario::Failure, &sagad, &null).verified);
    }

    #[test]
    fn the_json_has_exactly_the_promised_keys() {
        let one = [measurement(vec![1000], 1.0, true)];
        let report = Report { runs: vec![Run::new(StoreKind::Sqlite, 1, Scenario::Success, &one, &one)] };
        let text = serde_json::to_string(&report).expect("serialises");
        assert_eq!(
            text,
            r#"{"runs":[{"store":"sqlite","in_flight":1,"scenario":"success","sagas_per_s":1.0,"null_sagas_per_s":1.0,"ratio":1.0,"p50_ms":1.0,"p99_ms":1.0,"cpu_us_per_saga":{"daemon":2000.0,"broker":4000.0,"participants":null,"database":0.0},"verified":true}]}"#
        );
    }
}
