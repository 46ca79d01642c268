//! What stays done, and undos that never run.

use super::{fails_after, past_pivots, warning};
use crate::core::definition::{Definition, Execute};
use crate::core::diagnostic::Diagnostic;
use crate::core::id::StepIx;
use crate::core::parse::places::{Key, Places};

pub(super) fn warnings(definition: &Definition, places: &Places<'_>) -> Vec<Diagnostic> {
    let past = past_pivots(definition);
    let of_step = |at: StepIx| forgotten(definition, at, places).or_else(|| in_vain(definition, at, &past, places));
    (0..definition.steps.len()).filter_map(of_step).collect()
}

/// A step that stays done when a later one fails, without a word that this is meant.
fn forgotten(definition: &Definition, at: StepIx, places: &Places<'_>) -> Option<Diagnostic> {
    if places.has(&[Key::Step(at), Key::Name("compensate")]) {
        return None;
    }
    let step = &definition.steps[at];
    let (stays, help) = match step.execute {
        Execute::Command(_) => {
            ("what it did stays done", "add a `compensate`; or `compensate = false` if there is nothing to undo")
        }
        Execute::Publish(_) => (
            "what it published stays published",
            "publish it after everything that can fail; or add a `compensate` that takes it back, or `compensate = false`",
        ),
        // Nothing has been done; and a child saga undoes itself.
        Execute::Wait(_) | Execute::Sleep(_) | Execute::Saga(_) => return None,
    };
    let failing = &definition.steps[fails_after(definition, at)?].name;
    let message = format!("`{}` has no `compensate`: if `{failing}` fails, {stays}", step.name);
    Some(warning("no-compensation", places.find(&[Key::Step(at), Key::Name("name")]), message, help))
}

/// An undo of a step that is done only when there is no way back.
fn in_vain(definition: &Definition, at: StepIx, past: &[bool], places: &Places<'_>) -> Option<Diagnostic> {
    let step = &definition.steps[at];
    let place = [Key::Step(at), Key::Name("compensate")];
    if !past[at] || step.compensate.is_none() || !places.has(&place) {
        return None;
    }
    let pivot = definition.steps.iter().find(|pivot| pivot.pivot && pivot.later.contains(&at))?;
    let message = format!("`{}` is never undone: it runs after `{}`, the point of no return", step.name, pivot.name);
    let help = format!("remove it; or run `{}` before `{}`, or take the `pivot` away", step.name, pivot.name);
    Some(warning("undo-after-pivot", places.key(&place), message, help))
}
