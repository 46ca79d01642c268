//! The order of steps.

use std::ops::Range;
use std::sync::Arc;

use super::reader::Reader;
use crate::core::diagnostic::nearest;
use crate::core::id::StepIx;

/// What a step says about its place.
pub(super) enum After {
    /// Nothing: it comes after the step above.
    Default,
    /// The names of the steps that it needs, and where they are written.
    Named(Vec<(String, Range<usize>)>),
}

/// Which steps come before and after which.
pub(super) struct Graph {
    after: Vec<Vec<StepIx>>,
    /// For each step, all that come after it, directly or not, in ascending order.
    later: Vec<Vec<StepIx>>,
}

impl Graph {
    /// Builds the graph, in which what is wrong is left out.
    pub(super) fn new<'w>(
        reader: &mut Reader<'_>,
        names: &[Arc<str>],
        wanted: impl Iterator<Item = &'w After>,
    ) -> Graph {
        let wanted: Vec<&After> = wanted.collect();
        let mut after = Vec::with_capacity(names.len());
        for (step, wanted) in wanted.iter().enumerate() {
            after.push(match wanted {
                After::Default => step.checked_sub(1).into_iter().collect(),
                After::Named(earlier) => reader.named(names, step, earlier),
            });
        }
        let mut graph = Graph { later: reach(&after), after };
        graph.report_cycles(reader, names, &wanted);
        graph
    }

    /// The steps that `step` needs.
    pub(super) fn take_after(&mut self, step: StepIx) -> Vec<StepIx> {
        std::mem::take(&mut self.after[step])
    }

    /// The steps that come after `step`.
    pub(super) fn take_later(&mut self, step: StepIx) -> Vec<StepIx> {
        std::mem::take(&mut self.later[step])
    }

    /// Whether `earlier` has ended whenever `later` begins.
    pub(super) fn runs_before(&self, earlier: StepIx, later: StepIx) -> bool {
        self.later[earlier].binary_search(&later).is_ok()
    }

    fn report_cycles(&mut self, reader: &mut Reader<'_>, names: &[Arc<str>], wanted: &[&After]) {
        let mut reported = vec![false; names.len()];
        for step in 0..names.len() {
            if reported[step] || !self.runs_before(step, step) {
                continue;
            }
            // Each step of the way needs the next; the way stays among the steps that lead back.
            let mut way = vec![step];
            let mut at = step;
            while let Some(next) = self.next_towards(at, step, &way) {
                way.push(next);
                at = next;
                if next == step {
                    break;
                }
            }
            way.iter().for_each(|&step| reported[step] = true);
            let text: Vec<&str> = way.iter().map(|&step| &*names[step]).collect();
            let place = match wanted[step] {
                After::Named(named) => {
                    named.iter().find(|(name, _)| way.get(1).is_some_and(|&next| **name == *names[next]))
                }
                After::Default => None,
            };
            let place = place.or_else(|| named_in(&way, wanted)).map(|(_, span)| span.clone());
            let message = format!("these steps wait for each other: {}", text.join(" → "));
            let help = "take one of them out of an `after`, or say `after = []` where a step can start at once";
            reader.error("cycle", place.unwrap_or_default(), message, help);
        }
    }

    /// A step that `at` needs and that needs `home`, directly or not: `home` itself if possible, else one not on the way.
    fn next_towards(&self, at: StepIx, home: StepIx, way: &[StepIx]) -> Option<StepIx> {
        let needed = &self.after[at];
        if needed.contains(&home) {
            return Some(home);
        }
        needed.iter().copied().find(|&next| !way.contains(&next) && self.runs_before(home, next))
    }
}

fn named_in<'w>(way: &[StepIx], wanted: &[&'w After]) -> Option<&'w (String, Range<usize>)> {
    way.iter().find_map(|&step| match wanted[step] {
        After::Named(named) => named.first(),
        After::Default => None,
    })
}

fn reach(after: &[Vec<StepIx>]) -> Vec<Vec<StepIx>> {
    let mut next: Vec<Vec<StepIx>> = vec![Vec::new(); after.len()];
    for (step, earlier) in after.iter().enumerate() {
        earlier.iter().for_each(|&earlier| next[earlier].push(step));
    }
    let from = |step: StepIx| {
        let mut seen = vec![false; after.len()];
        let mut open = next[step].clone();
        while let Some(at) = open.pop() {
            if !std::mem::replace(&mut seen[at], true) {
                open.extend(&next[at]);
            }
        }
        seen.iter().enumerate().filter(|(_, seen)| **seen).map(|(at, _)| at).collect()
    };
    (0..after.len()).map(from).collect()
}

impl Reader<'_> {
    fn named(&mut self, names: &[Arc<str>], step: StepIx, earlier: &[(String, Range<usize>)]) -> Vec<StepIx> {
        let mut after = Vec::new();
        for (name, span) in earlier {
            match names.iter().position(|known| **known == **name) {
                Some(earlier) if !after.contains(&earlier) => after.push(earlier),
                Some(_) => {}
                None => {
                    let others = names.iter().enumerate().filter(|(at, name)| *at != step && !name.is_empty());
                    let others: Vec<&str> = others.map(|(_, name)| &**name).collect();
                    let help = match nearest(name, others.iter().copied()) {
                        Some(near) => format!("did you mean \"{near}\"?"),
                        None => format!("the other steps are {}", others.join(", ")),
                    };
                    self.error("unknown-step", span.clone(), format!("there is no step `{name}`"), help);
                }
            }
        }
        after.sort_unstable();
        after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_steps_are_all_that_depend_on_one() {
        // 0 -> {1, 2} -> 3, 4 alone
        let after = [vec![], vec![0], vec![0], vec![1, 2], vec![]];
        assert_eq!(reach(&after), [vec![1, 2, 3], vec![3], vec![3], vec![], vec![]]);
    }
}
