//! Definitions at random: graphs of steps in any order of the file, with every word of the language that changes what is sent.

use proptest::collection::vec;
use proptest::prelude::*;

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
        let words =
            (prop::bool::weighted(0.1), prop::bool::weighted(0.15), prop::option::weighted(0.15, any::<bool>()));
        let step = (any::<u8>(), any::<u16>(), undo, 1u8..4, 1u8..4, 1u8..20, words, broken).prop_map(
            |(after, place, undo, attempts, undo_attempts, timeout, (delay, optional, when), broken)| StepShape {
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
            },
        );
        (vec(step, 1..7), prop::option::weighted(0.4, 1u32..60), prop::bool::weighted(0.3))
            .prop_map(|(steps, deadline, goes_on)| Shape { steps, deadline, goes_on })
    }

    /// The definition's text. The saga's input is `{ "yes": true, "no": false }`.
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
        let mut toml = format!(
            "[[steps]]\nname = 's{at}'\ncommand = 's{at}.do'\nafter = [{}]\ntimeout = '{}s'\nretry.attempts = {}\n",
            after.join(", "),
            step.timeout,
            step.attempts
        );
        let mut line = |condition: bool, text: String| {
            if condition {
                toml += &(text + "\n");
            }
        };
        line(step.delay, "delay = '3s'".into());
        line(step.optional, "optional = true".into());
        line(step.when == Some(true), "when = 'input.yes'".into());
        line(step.when == Some(false), "when = 'input.no'".into());
        line(!needs.is_empty(), format!("body.before = '{{{{ steps.s{}.reply }}}}'", needs.first().unwrap_or(&0)));
        line(step.broken.0, "headers.x = '{{ input.nix }}'".into());
        if let Undo::None = step.undo {
            line(true, "compensate = false".into());
            return toml;
        }
        line(true, format!("compensate.command = 's{at}.undo'\ncompensate.timeout = '7s'"));
        line(true, format!("compensate.retry.attempts = {}", step.undo_attempts));
        line(step.broken.1, "compensate.headers.x = '{{ input.nix }}'".into());
        if let Undo::On(bits) = step.undo {
            let words = ["'success'", "'in_doubt'", "'failure'"];
            let on: Vec<&str> = (0..3).filter(|bit| bits >> bit & 1 == 1).map(|bit| words[bit]).collect();
            line(true, format!("compensate.on = [{}]", on.join(", ")));
        }
        toml
    }
}
