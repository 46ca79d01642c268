//! Random choices that can be made again.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A source of choices; each label leads to one of its own, so that no choice depends on the order of others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chance(u64);

impl Chance {
    /// From `SAGAD_TEST_SEED`, or from the clock; printed, so that a failed test can be run again with it.
    pub(super) fn new() -> Chance {
        let seed = match std::env::var("SAGAD_TEST_SEED") {
            Ok(seed) => seed.parse().expect("SAGAD_TEST_SEED is a number"),
            Err(_) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
                u64::try_from(now.as_micros() % 1_000_000_007).expect("small")
            }
        };
        println!("SAGAD_TEST_SEED={seed}");
        Chance(seed)
    }

    /// The source for this label.
    pub(super) fn of(self, label: impl Hash) -> Chance {
        let mut hasher = DefaultHasher::new();
        (self.0, label).hash(&mut hasher);
        Chance(hasher.finish())
    }

    /// A number below `bound`.
    pub(super) fn below(self, bound: u64) -> u64 {
        self.0 % bound
    }

    /// A duration in this range of milliseconds.
    pub(super) fn millis(self, range: Range<u64>) -> Duration {
        Duration::from_millis(range.start + self.0 % (range.end - range.start))
    }
}
