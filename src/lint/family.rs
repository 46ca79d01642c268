//! Definitions held against each other: sagas that run sagas.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{fails_after, inputs, warning};
use crate::core::definition::{Child, Definition, Execute, Step};
use crate::core::diagnostic::{Diagnostic, Severity, nearest};
use crate::core::id::StepIx;
use crate::core::parse::places::{Key, Places};

/// Definitions by name, each with its text.
pub type Family<'d> = BTreeMap<&'d str, (&'d Definition, &'d str)>;

/// What is wrong with `name` among the others, of which `names` are all, even those that can't be read; `None`: nobody knows all.
pub fn problems(name: &str, family: &Family<'_>, names: Option<&BTreeSet<&str>>) -> Vec<Diagnostic> {
    let Some((definition, text)) = family.get(name) else { return Vec::new() };
    let places = Places::new(text);
    let mut found = Vec::new();
    for (at, child) in children(definition) {
        let place = places.find(&[Key::Step(at), Key::Name("saga")]);
        if let Some(names) = names.filter(|names| !names.contains(&*child.definition)) {
            let help = match nearest(&child.definition, names.iter().copied()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => "add a definition of this name to the folder, or remove the step".to_owned(),
            };
            let message = format!("there is no definition `{}`", child.definition);
            found.push(Diagnostic { severity: Severity::Error, code: "unknown-saga", span: place, message, help });
            continue;
        }
        let schema = family.get(&*child.definition).and_then(|(other, _)| other.input.as_ref());
        found.extend(schema.and_then(|schema| match &child.input {
            Some(input) => {
                let place = places.find(&[Key::Step(at), Key::Name("input")]);
                inputs::refused(input, &child.definition, schema, place)
            }
            None => inputs::refused_from(definition, &child.definition, schema, place.clone()),
        }));
        found.extend(
            no_way_back(definition, at, child, family)
                .map(|(message, help)| warning("child-pivot", place.clone(), message, help)),
        );
    }
    found.extend(endless(name, family).map(|(at, message)| Diagnostic {
        severity: Severity::Error,
        code: "saga-cycle",
        span: places.find(&[Key::Step(at), Key::Name("saga")]),
        message,
        help: "take one of these steps out, or let a `when` end it: children are 8 deep at the most".to_owned(),
    }));
    found
}

fn children(definition: &Definition) -> impl Iterator<Item = (StepIx, &Child)> {
    definition.steps.iter().enumerate().filter_map(|(at, step)| match &step.execute {
        Execute::Saga(child) => Some((at, child)),
        _ => None,
    })
}

/// A child that may have passed its point of no return when it has to be undone.
fn no_way_back(definition: &Definition, at: StepIx, child: &Child, family: &Family<'_>) -> Option<(String, String)> {
    let step = &definition.steps[at];
    step.compensate.as_ref()?;
    let failing = &definition.steps[fails_after(definition, at)?].name;
    let (saga, pivot) = pivot_below(&child.definition, family)?;
    let (name, pivot) = (&step.name, &pivot.name);
    let message = format!(
        "`{saga}` can't be undone any more once its `{pivot}`, a point of no return, is done; but if `{failing}` fails after `{name}`, it has to be"
    );
    let help =
        format!("run `{name}` when nothing can fail any more; or make it a `pivot`, too, or say `compensate = false`");
    Some((message, help))
}

/// A point of no return of this saga, or of one that it runs.
fn pivot_below<'d>(name: &str, family: &Family<'d>) -> Option<(&'d str, &'d Step)> {
    let mut seen = BTreeSet::new();
    let mut open = vec![name];
    while let Some(name) = open.pop() {
        let Some((&name, (definition, _))) = family.get_key_value(name).filter(|(name, _)| seen.insert(**name)) else {
            continue;
        };
        if let Some(pivot) = definition.steps.iter().find(|step| step.pivot) {
            return Some((name, pivot));
        }
        let asked = children(definition).filter(|(at, _)| definition.steps[*at].compensate.is_some());
        open.extend(asked.map(|(_, child)| &*child.definition));
    }
    None
}

/// Sagas that run each other without anything that could end it; told of the one among them whose name comes first.
fn endless(name: &str, family: &Family<'_>) -> Option<(StepIx, String)> {
    let mut runs: BTreeMap<&str, &str> = BTreeMap::new();
    let mut open = VecDeque::from([name]);
    while let Some(at) = open.pop_front() {
        for next in surely_run(at, family) {
            if next == name {
                // `name` itself is where the way back from `at` ends: nothing is noted to run it.
                let back = std::iter::successors(Some(at), |by| runs.get(by).copied());
                let mut way: Vec<&str> = std::iter::once(name).chain(back).collect();
                way.reverse();
                return first_of(&way, family);
            }
            if !runs.contains_key(next) {
                runs.insert(next, at);
                open.push_back(next);
            }
        }
    }
    None
}

fn first_of(way: &[&str], family: &Family<'_>) -> Option<(StepIx, String)> {
    let (name, next) = (*way.first()?, *way.get(1)?);
    if way.iter().any(|other| *other < name) {
        return None;
    }
    let (definition, _) = family.get(name)?;
    let (step, _) = children(definition).find(|(_, child)| *child.definition == *next)?;
    Some((step, format!("these sagas run each other without end: {}", way.join(" → "))))
}

/// The sagas that this one runs whenever it completes.
fn surely_run<'d>(name: &str, family: &Family<'d>) -> impl Iterator<Item = &'d str> {
    let definition: Option<&'d Definition> = family.get(name).map(|(definition, _)| *definition);
    definition.into_iter().flat_map(|definition| {
        let sure = children(definition).filter(|(at, _)| {
            let step = &definition.steps[*at];
            step.when.is_none() && step.foreach.is_none() && !step.optional
        });
        sure.map(|(_, child)| &*child.definition)
    })
}
