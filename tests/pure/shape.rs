//! Definitions at random: graphs of steps in any order of the file, with every word of the language that changes what is sent.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

/// A definition in the making.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    steps: Vec<StepShape>,
    deadline: Option<u32>,
    goes_on: bool,
}

#[derive(Clone, Debug)]
struct StepShape {
    /// Which of the steps before it, in the order of this list, it needs: one bit each.
    after: u8,
    /// Where it stands in the file.
    place: u16,
    undo: Undo,
    attempts: u8,
    undo_attempts: u8,
    timeout: u8,
    delay: bool,
    optional: bool,
    /// Its condition, if it has one.
    when: Option<bool>,
    /// Its command, its undo can't be rendered.
    broken: (bool, bool),
    kind: Kind,
    pivot: bool,
    /// How many elements it has and how many of them are under way at once, if it is done for each of a list.
    foreach: Option<(u8, u8)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Command,
    /// A command of which it is asked what became of it.
    Probe,
    /// One that is left to an operator if it times out.
    Suspend,
    Publish,
    /// For the signal `go`; a time-out or none.
    Wait(bool),
    Sleep,
    Saga,
}

#[derive(Clone, Copy, Debug)]
enum Undo {
    None,
    Default,
    /// One bit each: success, in doubt, failure.
    On(u8),
}

impl Shape {
    /// Any definition.
    pub(crate) fn any() -> impl Strategy<Value = Shape> {
        let broken = (prop::bool::weighted(0.03), prop::bool::weighted(0.05));
        Shape::of(
            broken,
            prop_oneof![1 => Just(Undo::None), 5 => Just(Undo::Default), 4 => (1u8..8).prop_map(Undo::On)],
        )
    }

    /// One of which each step that can be undone is undone unless it is known not to have been done.
    pub(crate) fn plain() -> impl Strategy<Value = Shape> {
        Shape::of((Just(false), Just(false)), prop_oneof![1 => Just(Undo::None), 9 => Just(Undo::Default)])
    }

    fn of(
        broken: impl Strategy<Value = (bool, bool)> + Clone,
        undo: impl Strategy<Value = Undo>,
    ) -> impl Strategy<Value = Shape> {
        let kind = prop_oneof![
            12 => Just(Kind::Command),
            3 => Just(Kind::Probe),
            1 => Just(Kind::Suspend),
            2 => Just(Kind::Publish),
            2 => any::<bool>().prop_map(Kind::Wait),
            1 => Just(Kind::Sleep),
            2 => Just(Kind::Saga),
        ];
        let form = (kind, prop::bool::weighted(0.08), prop::option::weighted(0.2, (0u8..4, 1u8..3)));
        let words =
            (prop::bool::weighted(0.1), prop::bool::weighted(0.15), prop::option::weighted(0.15, any::<bool>()));
        let step = (any::<u8>(), any::<u16>(), undo, 1u8..4, 1u8..4, 1u8..20, words, broken, form).prop_map(
            |(after, place, undo, attempts, undo_attempts, timeout, (delay, optional, when), broken, form)| StepShape {
                after,
                place,
                undo,
                attempts,
                undo_attempts,
                timeout,
                delay,
                optional,
                when,
                broken,
                kind: form.0,
                pivot: form.1,
                foreach: form.2,
            },
        );
        (vec(step, 1..7), prop::option::weighted(0.4, 1u32..60), prop::bool::weighted(0.3))
            .prop_map(|(steps, deadline, goes_on)| Shape { steps, deadline, goes_on })
    }

    /// What its saga is started with.
    pub(crate) fn input() -> Value {
        json!({ "yes": true, "no": false, "lists": [[], ["a"], ["a", "b"], ["a", "b", "c"]] })
    }

    /// The definition's text.
    pub(crate) fn toml(&self) -> String {
        let deadline = self.deadline.map_or(String::new(), |seconds| format!("timeout = '{seconds}s'\n"));
        let policy = if self.goes_on { "continue" } else { "suspend" };
        let mut places: Vec<usize> = (0..self.steps.len()).collect();
        places.sort_by_key(|step| (self.steps[*step].place, *step));
        let steps: String = places.into_iter().map(|step| self.step(step)).collect();
        format!(
            "name = 's'\n{deadline}on_compensation_failure = '{policy}'\n[defaults]\nexchange = 'e'\n\
             retry = {{ initial = '1s', factor = 2.0, max = '5s', jitter = 0.3 }}\n{steps}"
        )
    }

    fn step(&self, at: usize) -> String {
        let step = &self.steps[at];
        let needs = (0..at).filter(|earlier| step.after >> earlier & 1 == 1).collect::<Vec<_>>();
        let after: Vec<String> = needs.iter().map(|earlier| format!("'s{earlier}'")).collect();
        let kind = match step.kind {
            Kind::Command | Kind::Probe | Kind::Suspend => format!("command = 's{at}.do'"),
            Kind::Publish => format!("publish = 's{at}.done'"),
            Kind::Wait(_) => "wait = { signal = 'go' }".to_owned(),
            Kind::Sleep => "sleep = '2s'".to_owned(),
            Kind::Saga => "saga = 'child'".to_owned(),
        };
        let mut toml = format!("[[steps]]\nname = 's{at}'\n{kind}\nafter = [{}]\n", after.join(", "));
        let command = matches!(step.kind, Kind::Command | Kind::Probe | Kind::Suspend);
        let sends = command || step.kind == Kind::Publish;
        let mut line = |condition: bool, text: String| {
            if condition {
                toml += &(text + "\n");
            }
        };
        line(command, format!("timeout = '{}s'\nretry.attempts = {}", step.timeout, step.attempts));
        line(step.kind == Kind::Wait(true), "timeout = '9s'".into());
        line(
            step.kind == Kind::Probe,
            format!("on_timeout = 'probe'\nprobe = {{ command = 's{at}.status', timeout = '4s', retry.attempts = 2 }}"),
        );
        line(step.kind == Kind::Suspend, "on_timeout = 'suspend'".into());
        line(step.pivot, "pivot = true".into());
        if let Some((elements, at_once)) = step.foreach {
            line(true, format!("foreach = '{{{{ input.lists[{elements}] }}}}'\nmax_parallel = {at_once}"));
        }
        line(step.delay, "delay = '3s'".into());
        line(step.optional, "optional = true".into());
        line(step.when == Some(true), "when = 'input.yes'".into());
        line(step.when == Some(false), "when = 'input.no'".into());
        if let Some(first) = needs.first().filter(|_| sends) {
            let replies = if self.steps[*first].foreach.is_some() { "replies" } else { "reply" };
            line(true, format!("body.before = '{{{{ steps.s{first}.{replies} }}}}'"));
        }
        line(step.broken.0 && sends, "headers.x = '{{ input.nix }}'".into());
        if step.kind == Kind::Sleep {
            return toml;
        }
        if let Undo::None = step.undo {
            line(true, "compensate = false".into());
            return toml;
        }
        if step.kind != Kind::Saga {
            line(true, format!("compensate.command = 's{at}.undo'\ncompensate.timeout = '7s'"));
        }
        line(true, format!("compensate.retry.attempts = {}", step.undo_attempts));
        line(step.broken.1 && step.kind != Kind::Saga, "compensate.headers.x = '{{ input.nix }}'".into());
        if let Undo::On(bits) = step.undo {
            let words = ["'success'", "'in_doubt'", "'failure'"];
            let on: Vec<&str> = (0..3).filter(|bit| bits >> bit & 1 == 1).map(|bit| words[bit]).collect();
            line(true, format!("compensate.on = [{}]", on.join(", ")));
        }
        toml
    }
}
