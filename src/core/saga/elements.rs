//! The elements of a `foreach` step: thousands of units, kept and written in chunks, so that what happens to one costs the same
//! however many there are.

use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::status::StepStatus;
use super::step::Unit;
use super::tally::Tally;
use crate::core::definition::{OnCompensationFailure, Step};

/// Units in one chunk: a chunk is what is written when one of them changes.
pub const CHUNK: usize = 16;

/// The most elements of one step.
pub const MOST_ELEMENTS: usize = 10_000;

/// The elements of a `foreach` step. In a saga's encoded state only their number is, and their status; the rest is stored apart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Elements {
    /// How many.
    pub count: u32,
    /// The status of the step when the saga was last written: for those who read its row alone.
    #[serde(default)]
    pub(super) status: Option<StepStatus>,
    /// What the list held when the step began.
    #[serde(skip)]
    list: Arc<Value>,
    #[serde(skip)]
    chunks: Vec<Arc<Chunk>>,
}

/// Where to begin to look, and how many to find at the most.
#[derive(Clone, Copy, Debug)]
pub enum Search {
    /// From the first element on.
    First(usize),
    /// From the last one back.
    Last(usize),
}

impl PartialEq for Elements {
    fn eq(&self, other: &Elements) -> bool {
        (self.count, &self.list, &self.chunks) == (other.count, &other.list, &other.chunks)
    }
}

/// Some units in a row.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Chunk {
    units: Vec<Unit>,
    /// What is known of them, until one changes.
    #[serde(skip)]
    tally: OnceLock<Tally>,
}

impl Clone for Chunk {
    fn clone(&self) -> Chunk {
        // Only what is about to be changed is cloned.
        Chunk { units: self.units.clone(), tally: OnceLock::new() }
    }
}

impl PartialEq for Chunk {
    fn eq(&self, other: &Chunk) -> bool {
        self.units == other.units
    }
}

impl Chunk {
    fn untouched(length: usize) -> Chunk {
        Chunk { units: vec![Unit::default(); length], tally: OnceLock::new() }
    }
}

fn length(list: &Value) -> usize {
    list.as_array().map_or(0, Vec::len)
}

/// How many units each chunk has.
fn lengths(list: &Value) -> impl Iterator<Item = usize> {
    let length = length(list);
    (0..length).step_by(CHUNK).map(move |first| CHUNK.min(length - first))
}

impl Elements {
    /// Untouched units for the elements of `list`; none if it is no array.
    pub fn new(list: Arc<Value>) -> Elements {
        let chunks: Vec<_> = lengths(&list).map(Chunk::untouched).map(Arc::new).collect();
        Elements { count: length(&list) as u32, status: None, list, chunks }
    }

    /// Puts together what was stored apart; `None` if that is not `count` elements.
    pub fn restore(count: u32, list: Arc<Value>, chunks: Vec<Chunk>) -> Option<Elements> {
        let whole = length(&list) == count as usize && chunks.iter().map(|chunk| chunk.units.len()).eq(lengths(&list));
        whole.then(|| Elements { count, status: None, list, chunks: chunks.into_iter().map(Arc::new).collect() })
    }

    /// Whether they are here, and not only their number.
    pub fn is_restored(&self) -> bool {
        self.chunks.len() == (self.count as usize).div_ceil(CHUNK)
    }

    /// What the list held: an array.
    pub fn list(&self) -> &Arc<Value> {
        &self.list
    }

    /// As they are stored.
    pub fn chunks(&self) -> &[Arc<Chunk>] {
        &self.chunks
    }

    /// One of them.
    pub fn unit(&self, item: u32) -> Option<&Unit> {
        let item = item as usize;
        self.chunks.get(item / CHUNK)?.units.get(item % CHUNK)
    }

    /// One of them, to change it.
    pub fn unit_mut(&mut self, item: u32) -> Option<&mut Unit> {
        let item = item as usize;
        let chunk = Arc::make_mut(self.chunks.get_mut(item / CHUNK)?);
        chunk.tally.take();
        chunk.units.get_mut(item % CHUNK)
    }

    /// All of them, in order.
    pub fn units(&self) -> impl DoubleEndedIterator<Item = (u32, &Unit)> {
        self.chunks.iter().enumerate().flat_map(|(at, chunk)| {
            chunk.units.iter().enumerate().map(move |(nth, unit)| ((at * CHUNK + nth) as u32, unit))
        })
    }

    /// How far all of them are.
    pub(super) fn tally(&self, step: &Step, policy: OnCompensationFailure) -> Tally {
        let tallies = (0..self.chunks.len()).map(|at| self.chunk_tally(at, step, policy));
        tallies.fold(Tally::default(), Tally::and)
    }

    /// The first, or the last, `limit` for which `wanted` holds, in the chunks that are `worth` a look.
    pub(super) fn find(
        &self,
        step: &Step,
        policy: OnCompensationFailure,
        search: Search,
        worth: impl Fn(&Tally) -> bool,
        wanted: impl Fn(&Unit) -> bool,
    ) -> Vec<Option<u32>> {
        let look = |at: usize| {
            let worth = worth(&self.chunk_tally(at, step, policy));
            let units = if worth { self.chunks[at].units.as_slice() } else { &[] };
            let found = units.iter().enumerate().filter(|(_, unit)| wanted(unit));
            found.map(move |(nth, _)| Some((at * CHUNK + nth) as u32))
        };
        match search {
            Search::First(limit) => (0..self.chunks.len()).flat_map(look).take(limit).collect(),
            Search::Last(limit) => (0..self.chunks.len()).rev().flat_map(|at| look(at).rev()).take(limit).collect(),
        }
    }

    fn chunk_tally(&self, at: usize, step: &Step, policy: OnCompensationFailure) -> Tally {
        let chunk = &self.chunks[at];
        *chunk.tally.get_or_init(|| {
            let units = chunk.units.iter().enumerate();
            let tallies = units.map(|(nth, unit)| Tally::of(Some((at * CHUNK + nth) as u32), unit, step, policy));
            tallies.fold(Tally::default(), Tally::and)
        })
    }
}
