//! The laws, held against one state after the other.

use super::choices::Choice;
use super::node::{Node, Transition};
use crate::core::entry::Entry;
use crate::core::saga::{Failure, Reason};
use crate::trial::laws::{Breach, of_effects, of_state, of_turn};

/// Lets one thing happen, and checks what follows.
pub(super) fn step<'d>(before: &Node<'d>, choice: &Choice) -> (Node<'d>, Option<Breach>) {
    let mut after = before.clone();
    after.follow(choice);
    let transitions = std::mem::take(&mut after.fresh);
    let breach = transitions.iter().find_map(|Transition { before, after: then, turn }| {
        of_turn(after.stage.definition, before, then, turn)
            .or_else(|| turn.entries.iter().find_map(|entry| unrendered(&after, entry)))
    });
    after.tidy();
    (after, breach)
}

/// A template that can't be rendered is a mistake in the definition, even where the saga ends as it should.
fn unrendered(node: &Node<'_>, entry: &Entry) -> Option<Breach> {
    let of = |failure: &Failure| (failure.reason == Reason::Template).then(|| failure.message.clone());
    let message = match entry {
        Entry::Failed { spot, failure, .. } | Entry::Exhausted { spot, failure, .. } => {
            format!("`{}`: {}", node.stage.definition.steps[spot.step].name, of(failure)?)
        }
        Entry::Completed { error: Some(error), .. } => of(&error.failure)?,
        _ => return None,
    };
    Some(Breach { law: "template", message })
}

/// Checks a state; `over`: nothing more can happen.
pub(super) fn state(node: &Node<'_>, over: bool) -> Option<Breach> {
    let (definition, saga) = (node.stage.definition, &node.stage.saga);
    duplicate(node)
        .or_else(|| of_state(definition, saga, node.stage.due().is_some(), over))
        .or_else(|| over.then(|| of_effects(definition, saga, &node.ledger)).flatten())
}

/// An answer that comes again changes nothing, whenever it comes.
fn duplicate(node: &Node<'_>) -> Option<Breach> {
    node.heard.iter().find_map(|(ticket, word)| {
        let name = &node.stage.step(*ticket).name;
        let message =
            || format!("an answer to attempt {} of `{name}` that comes again changes something", ticket.attempt);
        node.stage.would_change(node.input(*ticket, *word)).then(|| Breach { law: "duplicate", message: message() })
    })
}
