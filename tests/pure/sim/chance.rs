//! Choices that are made again alike: each label leads to one of its own, so that no choice depends on the order of others, and a run
//! with less in it goes on as it did.

use std::ops::Range;
use std::time::Duration;

/// A source of choices.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Chance {
        Chance(mix(seed ^ 0x5161_6765_6420_7369))
    }

    /// The source for this label.
    pub(crate) fn of(self, label: impl Label) -> Chance {
        Chance(label.mark(self.0))
    }

    pub(crate) fn below(self, bound: u64) -> u64 {
        // The high bits of a product: no modulo bias worth the name.
        ((u128::from(mix(self.0)) * u128::from(bound)) >> 64) as u64
    }

    /// True with this probability, in thousandths.
    pub(crate) fn permille(self, probability: u32) -> bool {
        self.below(1000) < u64::from(probability)
    }

    pub(crate) fn within(self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }

    /// Milliseconds.
    pub(crate) fn millis(self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.within(range))
    }

    pub(crate) fn pick<T: Copy>(self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// By weight.
    pub(crate) fn weighted<T: Copy>(self, of: &[(u32, T)]) -> T {
        let total: u64 = of.iter().map(|(weight, _)| u64::from(*weight)).sum();
        let mut at = self.below(total.max(1));
        for (weight, choice) in of {
            match at.checked_sub(u64::from(*weight)) {
                None => return *choice,
                Some(rest) => at = rest,
            }
        }
        of[0].1
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What tells a choice from others.
pub(crate) trait Label {
    fn mark(&self, onto: u64) -> u64;
}

impl Label for u64 {
    fn mark(&self, onto: u64) -> u64 {
        mix(onto.rotate_left(23) ^ *self)
    }
}

impl Label for usize {
    fn mark(&self, onto: u64) -> u64 {
        (*self as u64).mark(onto)
    }
}

impl Label for u32 {
    fn mark(&self, onto: u64) -> u64 {
        u64::from(*self).mark(onto)
    }
}

impl Label for &str {
    fn mark(&self, onto: u64) -> u64 {
        // FNV-1a.
        let hash = self.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        hash.mark(onto)
    }
}

impl<A: Label, B: Label> Label for (A, B) {
    fn mark(&self, onto: u64) -> u64 {
        self.1.mark(self.0.mark(onto))
    }
}

impl<A: Label, B: Label, C: Label> Label for (A, B, C) {
    fn mark(&self, onto: u64) -> u64 {
        self.2.mark(self.1.mark(self.0.mark(onto)))
    }
}
