//! `sagad verify`

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::Args;
use sagad::store::sql::SqlStore;
use sagad::store::{Opening, Store, StoreError};
use sagad::verify::{self, News, Options, Summary};

use super::{Failure, Sources, plural, print};

/// Between two lines of progress.
const PACE: Duration = Duration::from_millis(200);

/// Hold what is stored of every saga against its journal, and put it right
///
/// Replays every journal and compares: the saga's state and elements, the columns of its row, the revision of its definition, its business
/// key, lock and slots, the counters, and whatever leads to a saga that is not there. Works on the database of the configuration, while daemons
/// run or not.
///
/// With --repair, what differs is written anew from the journal, and the saga's history says so. What only a backup can bring back is
/// said, and left as it is.
///
/// Ends with 0 if all is well or was repaired, 1 if something is left.
#[derive(Debug, Args)]
pub(super) struct Verify {
    #[command(flatten)]
    sources: Sources,
    /// Put right what can be
    #[arg(long)]
    repair: bool,
    /// Print JSON: { findings: [ { saga, definition, table, column, stored, expected, repair, help } ], sagas, found, repaired, left }
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = self.sources.load()?;
        let options = Options { repair: self.repair, sweep: config.delay.sweep };
        let summary = super::block_on(self.verify(&config.store.url, options))??;
        if summary.left > 0 { Err(Failure::Reported) } else { Ok(()) }
    }

    async fn verify(&self, url: &str, options: Options) -> Result<Summary, Failure> {
        let opening = Opening { migrate: false, exclusive: false };
        let store = SqlStore::connect(url, opening).await?;
        let failed = |error: StoreError| match error {
            StoreError::Unavailable(_) => Failure::Unreachable(error.to_string()),
            StoreError::Refused(_) | StoreError::Corrupt(_) => Failure::Failed(error.to_string()),
        };
        let known = store.counts().await.map_err(failed)?;
        let mut progress = Progress::new(known.iter().map(|(_, _, sagas)| sagas).sum());
        let mut findings = 0;
        let mut printed = if self.json { print("{\"findings\":[") } else { Ok(()) };
        let summary = verify::verify(&store, options, |news| match news {
            News::Checked(sagas) => progress.show(sagas),
            News::Found(finding) => {
                progress.clear();
                let text = match self.json {
                    true => {
                        let comma = if findings > 0 { "," } else { "" };
                        serde_json::to_string(finding).map(|json| format!("{comma}\n{json}")).unwrap_or_default()
                    }
                    false => format!("{finding}\n"),
                };
                findings += 1;
                if printed.is_ok() {
                    printed = print(&text);
                }
            }
        });
        let summary = summary.await;
        progress.clear();
        let summary = match summary {
            Ok(summary) => summary,
            Err(error) => {
                // What was begun is ended: whoever reads it learns why there is no more.
                if self.json && printed.is_ok() {
                    print(&format!("],\n\"error\":{}}}\n", serde_json::Value::from(error.to_string())))?;
                }
                return Err(failed(error));
            }
        };
        store.close().await;
        printed?;
        let Summary { sagas, found, repaired, left } = summary;
        print(&match self.json {
            true => format!("],\n\"sagas\":{sagas},\"found\":{found},\"repaired\":{repaired},\"left\":{left}}}\n"),
            false => summed_up(summary),
        })?;
        Ok(summary)
    }
}

fn summed_up(Summary { sagas, found, repaired, left }: Summary) -> String {
    let what = match (found, repaired, left) {
        (0, _, _) => "all is well".to_owned(),
        (_, 0, _) => plural(found as usize, "finding"),
        (_, _, 0) => format!("{}, all repaired", plural(found as usize, "finding")),
        _ => format!("{}, {repaired} repaired, {left} left", plural(found as usize, "finding")),
    };
    format!("checked {}: {what}\n", plural(sagas as usize, "saga"))
}

/// How far it is, on a terminal.
struct Progress {
    shown: bool,
    last: Option<Instant>,
    total: u64,
}

impl Progress {
    fn new(total: u64) -> Progress {
        let last = std::io::stderr().is_terminal().then(Instant::now);
        Progress { shown: false, last, total }
    }

    fn show(&mut self, sagas: u64) {
        if self.last.is_some_and(|last| last.elapsed() >= PACE) {
            self.last = Some(Instant::now());
            self.shown = true;
            let total = self.total.max(sagas);
            eprint!("\rchecked {sagas} of {total} sagas");
            // It is for a person to look at, no more.
            let _ = std::io::stderr().flush();
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            eprint!("\r\x1b[K");
        }
    }
}
