//! What things are called: sagas, steps, actions, attempts.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// A saga's id, a UUIDv7: ids sort by the time of their start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SagaId(pub Uuid);

impl SagaId {
    /// The child that a unit of `parent` runs, which began to at `began`, in milliseconds since 1970: the same however often that is
    /// worked out. A UUIDv7 as any other, with what would be random derived.
    pub fn child(parent: SagaId, spot: Spot, began: i64) -> SagaId {
        let (high, low) = parent.0.as_u64_pair();
        let unit = ((spot.step as u64) << 33) | spot.item.map_or(0, |item| (u64::from(item) << 1) | 1);
        let first = mix(high ^ mix(low ^ mix(unit)));
        let second = mix(first ^ low);
        let millis = (began as u64) & 0xffff_ffff_ffff;
        let high = (millis << 16) | 0x7000 | (first & 0x0fff);
        SagaId(Uuid::from_u64_pair(high, (second >> 2) | (0b10 << 62)))
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
pub(super) fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl fmt::Display for SagaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// A step's place in its definition, from 0.
pub type StepIx = usize;

/// A unit of a saga: a step, or one element of a `foreach` step. Written `3`, or `3.17` for element 17.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spot {
    /// The step.
    pub step: StepIx,
    /// The element, from 0; `None`: the step's own unit.
    pub item: Option<u32>,
}

impl From<StepIx> for Spot {
    fn from(step: StepIx) -> Spot {
        Spot { step, item: None }
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.item {
            None => write!(f, "{}", self.step),
            Some(item) => write!(f, "{}.{item}", self.step),
        }
    }
}

impl std::str::FromStr for Spot {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Spot, Self::Err> {
        Ok(match text.split_once('.') {
            None => Spot { step: text.parse()?, item: None },
            Some((step, item)) => Spot { step: step.parse()?, item: Some(item.parse()?) },
        })
    }
}

impl Serialize for Spot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Spot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Spot, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What a unit can be asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The forward action.
    Execute,
    /// Its undo.
    Compensate,
    /// The question how the forward action ended.
    Probe,
}

impl Action {
    /// The word in headers and histories.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Execute => "execute",
            Action::Compensate => "compensate",
            Action::Probe => "probe",
        }
    }
}

/// Which sending of which command: what an answer, a dead letter or a returned message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ticket {
    /// The saga.
    pub saga: SagaId,
    /// The unit, in the saga's revision of its definition.
    pub spot: Spot,
    /// What it was asked to do.
    pub action: Action,
    /// From 1, counted for each action of each unit.
    pub attempt: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_has_the_same_id_whenever_that_is_worked_out() {
        let parent = SagaId(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0007));
        let element = Spot { step: 5, item: Some(3) };
        let ids = [(Spot::from(0), 1_700_000_000_000), (5.into(), 1_700_000_000_000), (element, 1_700_000_000_001)]
            .map(|(spot, began)| SagaId::child(parent, spot, began).to_string());
        assert_eq!(
            ids,
            [
                "018bcfe5-6800-78c3-bab7-43cc8a3de1c2",
                "018bcfe5-6800-7b1c-9c36-d5b82ff3f85f",
                "018bcfe5-6801-70bf-ab68-2a51cb81ed5e"
            ]
        );
    }

    #[test]
    fn numbers_are_mixed_as_in_splitmix64() {
        // The first two that its generator yields from the seed 0.
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mix(0x9e37_79b9_7f4a_7c15), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn a_spot_is_read_as_it_is_written() {
        for (spot, text) in [(Spot::from(3), "3"), (Spot { step: 3, item: Some(17) }, "3.17")] {
            assert_eq!((spot.to_string(), text.parse()), (text.to_owned(), Ok(spot)));
        }
        assert!("3.".parse::<Spot>().is_err() && ".3".parse::<Spot>().is_err());
    }
}
