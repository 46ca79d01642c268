//! Everything that can happen to a saga, within bounds, on the shipped core; and what must be true of all of it. `sagad explore`.
//!
//! ```text
//!   state ─ choices (every outcome of everything in flight, time, operators) ─> core ─> next state ─ laws ─> seen before? ─┐
//!     ^───────────────────────────────────────────────── breadth first ──────────────────────────────────────────────────┘
//! ```
//!
//! Breadth first: the first breach of a law that is found is also the shortest way to one, and is told as a scenario.

mod choices;
mod fingerprint;
mod laws;
mod node;
mod witness;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use self::choices::Choice;
use self::node::Node;
use crate::core::definition::Definition;
use crate::core::saga::Status;
use crate::core::start::{InputError, check_input};
use crate::store::Source;
use crate::trial::laws::Breach;
use crate::trial::sample;
use crate::trial::stage::{self, Decide, Start};

/// How far it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bounds {
    /// Attempts of each action.
    pub attempts: u32,
    /// Late answers that are on their way at the same time.
    pub late: usize,
    /// States.
    pub states: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { attempts: 2, late: 1, states: 100_000 }
    }
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The definition.
    pub saga: Arc<str>,
    /// What the sagas were started with.
    pub input: Arc<Value>,
    /// How far it went.
    pub bounds: Bounds,
    /// Different states.
    pub states: usize,
    /// Ways from one to another.
    pub transitions: usize,
    /// The most things that happen in a row before a state is reached.
    pub depth: usize,
    /// In how many states nothing more can happen, by status.
    pub ends: BTreeMap<&'static str, usize>,
    /// Choices that were not followed, as there were as many late answers on their way as the bounds allow.
    pub cut: usize,
    /// States that were not looked at, as there were as many as the bounds allow, or too many commands at the end of their time at once.
    pub unseen: usize,
    /// The shortest way to a breach of a law.
    pub violation: Option<Violation>,
}

/// A law that does not hold.
#[derive(Debug, Serialize)]
pub struct Violation {
    /// Its name.
    pub law: &'static str,
    /// What is wrong.
    pub message: String,
    /// The way there, for `sagad test`.
    pub scenario: String,
    /// What happened, line by line.
    pub history: Vec<String>,
}

/// Goes through everything that can happen to a saga of the definition in `source` that is started with `input`.
///
/// # Errors
/// What is wrong with the input.
pub fn explore(source: &Source, input: Arc<Value>, bounds: Bounds, decide: Decide) -> Result<Report, Vec<InputError>> {
    let Some(mut definition) = stage::capped(source, bounds.attempts) else {
        return Err(vec![InputError { pointer: String::new(), detail: "the definition can't be read".to_owned() }]);
    };
    // When the deadline passes is one of the choices.
    let deadline = definition.timeout.take().is_some();
    let definition = &definition;
    let start = Start { input: input.clone(), ..Start::default() };
    let mut first = Node::start(definition, start.clone(), decide)?;
    first.fresh.clear();
    let mut report = Report {
        saga: definition.name.clone(),
        input,
        bounds,
        states: 1,
        transitions: 0,
        depth: 0,
        ends: BTreeMap::new(),
        cut: 0,
        unseen: 0,
        violation: None,
    };
    let mut seen = HashMap::from([(fingerprint::of(&first, bounds), 0)]);
    let mut graph = Graph { ways: vec![(0, None)], edges: Vec::new(), ends: Vec::new() };
    let violation =
        |way: &[Choice], breach| witness::violation(definition, source, &start, bounds, decide, way, breach);
    let mut level = vec![(0, first)];
    while !level.is_empty() {
        let mut next_level = Vec::new();
        for (at, node) in level {
            let (choices, left) = choices::of(&node, deadline, bounds);
            report.cut += left.late;
            report.unseen = report.unseen.saturating_add(left.fates);
            let status = node.stage.saga.status();
            if choices.is_empty() {
                *report.ends.entry(status.as_str()).or_default() += 1;
            }
            if choices.is_empty() || status.is_terminal() || status == Status::Suspended {
                graph.ends.push(at);
            }
            if let Some(breach) = laws::state(&node, choices.is_empty()) {
                report.violation = Some(violation(&graph.way(at), breach));
                return Ok(report);
            }
            for choice in choices {
                report.transitions += 1;
                let (after, breach) = laws::step(&node, &choice);
                if let Some(breach) = breach {
                    let way = [graph.way(at), vec![choice]].concat();
                    report.violation = Some(violation(&way, breach));
                    return Ok(report);
                }
                let fingerprint = fingerprint::of(&after, bounds);
                if let Some(known) = seen.get(&fingerprint) {
                    graph.edges.push((at, *known));
                } else if report.states == bounds.states {
                    report.unseen += 1;
                } else {
                    report.states += 1;
                    graph.ways.push((at, Some(choice)));
                    let new = graph.ways.len() - 1;
                    graph.edges.push((at, new));
                    seen.insert(fingerprint, new);
                    next_level.push((new, after));
                }
            }
        }
        report.depth += usize::from(!next_level.is_empty());
        level = next_level;
    }
    // What was not looked at may be the way out.
    if report.unseen == 0
        && let Some(stuck) = graph.without_end()
    {
        let message = "whatever happens from here on, the saga does not come to an end".to_owned();
        report.violation = Some(violation(&graph.way(stuck), Breach { law: "ends", message }));
    }
    Ok(report)
}

/// The states that were found, by their places.
struct Graph {
    /// How each was reached first: from which, and by what.
    ways: Vec<(usize, Option<Choice>)>,
    /// Every way from one to another.
    edges: Vec<(usize, usize)>,
    /// Those in which a saga may rest.
    ends: Vec<usize>,
}

impl Graph {
    /// What led to a state, from the start.
    fn way(&self, mut at: usize) -> Vec<Choice> {
        let mut way = Vec::new();
        while let (before, Some(choice)) = &self.ways[at] {
            way.push(choice.clone());
            at = *before;
        }
        way.reverse();
        way
    }

    /// The first state from which no end can be reached.
    fn without_end(&self) -> Option<usize> {
        let mut before: Vec<Vec<usize>> = vec![Vec::new(); self.ways.len()];
        for (from, to) in &self.edges {
            before[*to].push(*from);
        }
        let mut ends = vec![false; self.ways.len()];
        let mut next = self.ends.clone();
        while let Some(at) = next.pop() {
            if !std::mem::replace(&mut ends[at], true) {
                next.extend(&before[at]);
            }
        }
        ends.iter().position(|ends| !ends)
    }
}

/// Inputs to begin with where none is given: one with what the schema requires, and one with everything that it mentions.
///
/// # Errors
/// Why none that is made up will do.
pub fn inputs(definition: &Definition) -> Result<Vec<Arc<Value>>, Vec<InputError>> {
    let Some(schema) = &definition.input else { return Ok(vec![Arc::new(Value::Object(serde_json::Map::new()))]) };
    let required = Arc::new(sample::fitting(&schema.source, false));
    let all = Arc::new(sample::fitting(&schema.source, true));
    check_input(definition, &required)?;
    let differs = all != required && check_input(definition, &all).is_ok();
    Ok(if differs { vec![required, all] } else { vec![required] })
}
