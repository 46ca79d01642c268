//! What a picture says, whatever it is written in.

use std::collections::BTreeMap;
use std::time::Duration;

use humantime::format_duration;
use serde_json::Value;

use super::text::visible;
use crate::core::definition::{
    Awaited, Command, CompensateOn, Definition, Events, Execute, KeyReuse, LockMode, OnCompensationFailure, OnTimeout,
    Pattern, Priority, Reply, Step, Undo as DefinedUndo,
};
use crate::core::id::StepIx;
use crate::core::template::Template;

/// A definition, for a picture.
pub(super) struct Plan {
    pub(super) name: String,
    pub(super) description: Option<String>,
    /// What holds of the whole saga.
    pub(super) facts: Vec<String>,
    /// What starts it, besides an order to.
    pub(super) starts: Vec<String>,
    /// In the order of the file.
    pub(super) nodes: Vec<Node>,
    /// Which step comes right before which: without those that follow from others.
    pub(super) edges: Vec<(StepIx, StepIx)>,
}

/// A step.
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) name: String,
    /// Its command, or what else it does.
    pub(super) does: String,
    /// In small print.
    pub(super) notes: Vec<String>,
    pub(super) when: Option<String>,
    pub(super) optional: bool,
    pub(super) many: bool,
    pub(super) pivot: bool,
    /// It comes after a pivot: once it runs, nothing is undone any more.
    pub(super) committed: bool,
    pub(super) undo: Option<Undo>,
}

/// How a step is undone.
pub(super) struct Undo {
    pub(super) does: String,
    pub(super) notes: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Command,
    Publish,
    Wait,
    Saga,
    Sleep,
}

impl Plan {
    pub(super) fn new(definition: &Definition) -> Plan {
        let exchange = usual_exchange(definition);
        let mut nodes: Vec<Node> = definition.steps.iter().map(|step| Node::new(step, exchange)).collect();
        for step in definition.steps.iter().filter(|step| step.pivot) {
            step.later.iter().for_each(|&later| nodes[later].committed = true);
        }
        let starts = definition.starts.iter().map(|it| format!("event {} of {}", it.routing_key, it.exchange));
        Plan {
            name: visible(&definition.name),
            description: definition.description.as_deref().map(visible).filter(|text| !text.is_empty()),
            facts: facts(definition, exchange).iter().map(|fact| visible(fact)).collect(),
            starts: starts.map(|start| visible(&start)).collect(),
            nodes,
            edges: edges(&definition.steps),
        }
    }

    /// Whether something before the step is undone once something after it, or it itself, has been: whether the way back leads
    /// through it.
    pub(super) fn way_back(&self) -> Vec<bool> {
        let mut leads: Vec<bool> = self.nodes.iter().map(|node| node.undo.is_some() && !node.committed).collect();
        // Each step is settled before those that it comes after.
        for (at, step) in self.backwards() {
            if !self.nodes[step].committed && leads[step] {
                leads[at] = true;
            }
        }
        leads
    }

    /// All edges, those out of the last steps first.
    fn backwards(&self) -> Vec<(StepIx, StepIx)> {
        let depth = super::layers::depths(self.nodes.len(), &self.edges);
        let mut edges = self.edges.clone();
        edges.sort_by_key(|(from, to)| (std::cmp::Reverse(depth[*from]), *from, *to));
        edges
    }

    /// The steps that need none.
    pub(super) fn first(&self) -> Vec<StepIx> {
        let mut first = vec![true; self.nodes.len()];
        self.edges.iter().for_each(|(_, to)| first[*to] = false);
        (0..self.nodes.len()).filter(|&step| first[step]).collect()
    }

    /// The steps that none needs.
    pub(super) fn last(&self) -> Vec<StepIx> {
        let mut last = vec![true; self.nodes.len()];
        self.edges.iter().for_each(|(from, _)| last[*from] = false);
        (0..self.nodes.len()).filter(|&step| last[step]).collect()
    }
}

impl Node {
    fn new(step: &Step, exchange: Option<&str>) -> Node {
        let (kind, does, mut notes) = match &step.execute {
            Execute::Command(request) => {
                let mut notes = command_notes(&request.command, exchange);
                notes.extend(match &request.on_timeout {
                    OnTimeout::Compensate => None,
                    OnTimeout::Probe(probe) => Some(format!("timed out: asks {}", probe.routing_key)),
                    OnTimeout::Suspend => Some("timed out: suspends".to_owned()),
                });
                (Kind::Command, request.command.routing_key.clone(), notes)
            }
            Execute::Publish(event) => (
                Kind::Publish,
                event.routing_key.clone(),
                other_exchange(&event.exchange, exchange).into_iter().collect(),
            ),
            Execute::Wait(wait) => {
                let (does, note) = match &wait.until {
                    Awaited::Signal(name) => (format!("signal {name}"), None),
                    Awaited::Event(event) => (event.routing_key.clone(), Some(format!("event of {}", event.exchange))),
                };
                (Kind::Wait, does, note.into_iter().chain(wait.timeout.map(at_most)).collect())
            }
            Execute::Saga(child) => {
                (Kind::Saga, child.definition.to_string(), child.timeout.map(at_most).into_iter().collect())
            }
            Execute::Sleep(time) => (Kind::Sleep, format_duration(*time).to_string(), Vec::new()),
        };
        if let Some(foreach) = &step.foreach {
            let elements = bare(&foreach.elements);
            notes.insert(0, format!("for each of {elements}, {} at once", foreach.max_parallel));
        }
        if !step.delay.is_zero() {
            notes.push(format!("{} after it could begin", format_duration(step.delay)));
        }
        if step.optional {
            notes.push("optional: it may fail".to_owned());
        }
        Node {
            kind,
            name: visible(&step.name),
            does: visible(&does),
            notes: notes.iter().map(|note| visible(note)).collect(),
            when: step.when.as_ref().map(|when| visible(when.source())),
            optional: step.optional,
            many: step.foreach.is_some(),
            pivot: step.pivot,
            committed: false,
            undo: step.compensate.as_ref().map(|compensate| {
                let (does, mut notes) = match &compensate.undo {
                    DefinedUndo::Command(command) => (command.routing_key.clone(), command_notes(command, exchange)),
                    DefinedUndo::Child { timeout, .. } => {
                        ("its own steps".to_owned(), timeout.map(at_most).into_iter().collect())
                    }
                };
                notes.extend(condition(compensate.on));
                Undo { does: visible(&does), notes: notes.iter().map(|note| visible(note)).collect() }
            }),
        }
    }
}

impl Kind {
    /// The key of a definition that says it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Kind::Command => "command",
            Kind::Publish => "publish",
            Kind::Wait => "wait",
            Kind::Saga => "saga",
            Kind::Sleep => "sleep",
        }
    }
}

fn facts(definition: &Definition, exchange: Option<&str>) -> Vec<String> {
    let mut facts = Vec::new();
    if let Some(key) = &definition.key {
        let reuse = match definition.key_reuse {
            KeyReuse::Never => "",
            KeyReuse::AfterFailure => ", again after a failure",
            KeyReuse::AfterEnd => ", again after its end",
        };
        facts.push(format!("key {}{reuse}", bare(key)));
    }
    facts.extend(definition.timeout.map(|timeout| format!("deadline after {}", format_duration(timeout))));
    facts.extend(exchange.map(|exchange| format!("exchange {exchange}")));
    facts.extend(match &definition.priority {
        Priority::Fixed(0) => None,
        Priority::Fixed(priority) => Some(format!("priority {priority}")),
        Priority::Template(template) => Some(format!("priority {}", bare(template))),
    });
    facts.extend(definition.max_running.map(|most| format!("at most {most} under way")));
    facts.extend(definition.lock.as_ref().map(|lock| {
        let others = if lock.mode == LockMode::Queue { "others wait" } else { "others are refused" };
        format!("one at a time for {}, {others}", bare(&lock.key))
    }));
    facts.extend(definition.retention.map(|kept| format!("kept for {}", format_duration(kept))));
    facts.extend(match definition.events {
        Events::Saga => None,
        Events::None => Some("no lifecycle events".to_owned()),
        Events::Step => Some("lifecycle events of its steps too".to_owned()),
    });
    if definition.on_compensation_failure == OnCompensationFailure::Continue {
        facts.push("undoes the rest where an undo fails".to_owned());
    }
    facts
}

/// The exchange of most commands, which need not say so each.
fn usual_exchange(definition: &Definition) -> Option<&str> {
    let mut uses: BTreeMap<&str, usize> = BTreeMap::new();
    for step in &definition.steps {
        let event = match &step.execute {
            Execute::Publish(event) => Some(&event.exchange),
            _ => None,
        };
        let commands = step.command().into_iter().chain(step.undo_command()).map(|command| &command.exchange);
        commands.chain(event).for_each(|exchange| *uses.entry(exchange).or_default() += 1);
    }
    uses.into_iter().max_by_key(|(_, uses)| *uses).map(|(exchange, _)| exchange)
}

fn other_exchange(own: &str, usual: Option<&str>) -> Option<String> {
    (Some(own) != usual).then(|| format!("exchange {}", if own.is_empty() { "(default)" } else { own }))
}

fn command_notes(command: &Command, exchange: Option<&str>) -> Vec<String> {
    let attempts = command.retry.attempts;
    let plural = if attempts == 1 { "" } else { "s" };
    let mut notes = vec![format!("{attempts} attempt{plural} of {}", format_duration(command.timeout))];
    notes.extend(other_exchange(&command.exchange, exchange));
    let Reply { success, failure, .. } = &command.reply;
    let event =
        |word: &str, pattern: &Pattern| format!("{word}: event {} of {}", pattern.routing_key, pattern.exchange);
    notes.extend(success.as_ref().map(|pattern| event("done", pattern)));
    notes.extend(failure.as_ref().map(|pattern| event("failed", pattern)));
    notes
}

fn at_most(time: Duration) -> String {
    format!("{} at the most", format_duration(time))
}

/// When an undo is sent, unless it is as usual.
fn condition(on: CompensateOn) -> Option<String> {
    if on == CompensateOn::default() {
        return None;
    }
    let outcomes = [(on.success, "success"), (on.in_doubt, "doubt"), (on.failure, "failure")];
    let outcomes: Vec<&str> = outcomes.into_iter().filter(|(is, _)| *is).map(|(_, outcome)| outcome).collect();
    Some(format!("after {}", outcomes.join(", ")))
}

/// A template without its braces, where it is one whole expression.
fn bare(template: &Template) -> String {
    let source = match template.source() {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let inner = source.trim().strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}"));
    inner.filter(|inner| !inner.contains("{{")).map_or(source.clone(), |inner| inner.trim().to_owned())
}

/// Each `after` that does not follow from another one.
fn edges(steps: &[Step]) -> Vec<(StepIx, StepIx)> {
    // Bit sets: a thousand steps may have half a million edges.
    let words = steps.len().div_ceil(64);
    let mut earlier = vec![vec![0_u64; words]; steps.len()];
    for (step, it) in steps.iter().enumerate() {
        it.later.iter().for_each(|&later| earlier[later][step / 64] |= 1 << (step % 64));
    }
    let mut edges = Vec::new();
    for (step, it) in steps.iter().enumerate() {
        let mut implied = vec![0; words];
        for &before in &it.after {
            implied.iter_mut().zip(&earlier[before]).for_each(|(all, some)| *all |= some);
        }
        let needed = it.after.iter().filter(|&&before| implied[before / 64] >> (before % 64) & 1 == 0);
        edges.extend(needed.map(|&before| (before, step)));
    }
    edges
}
