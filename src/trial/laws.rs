//! What must be true of every saga, said in other words than the core's: the core decides, and this looks at what it did.

use super::ledger::Ledger;
use super::stage::{Turn, action_of, folded, sent, units};
use crate::core::apply::apply;
use crate::core::definition::{CompensateOn, Definition, Execute, OnCompensationFailure, Step};
use crate::core::entry::Entry;
use crate::core::id::{Action, StepIx, Ticket};
use crate::core::saga::{Phase, Progress, Reason, Saga, Status, StepState, Unit};

/// A law that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// The law's name.
    pub law: &'static str,
    /// What is wrong.
    pub message: String,
}

/// The laws, and what they say.
pub const LAWS: [(&str, &str); 13] = [
    ("ends", "a saga comes to an end, or waits for an operator, and then nothing of it is under way"),
    ("complete", "a saga completes once every step has succeeded, was skipped, or was optional"),
    ("in-order", "a step begins once every step that it comes after has ended well"),
    ("reverse", "a step is undone only when every step after it is"),
    ("right-set", "what is undone is what was done or is in doubt, no more and no less"),
    ("never-sent", "a step that was never sent is never undone"),
    ("no-way-forward", "a saga that compensates sends no further forward command"),
    ("pivot", "a saga that is past its point of no return does not turn round"),
    ("once", "each attempt is sent once, and no attempt while another is in flight"),
    ("duplicate", "an answer that comes again changes nothing"),
    ("effect", "what participants did is there if the saga completed, and gone if it was undone"),
    ("replay", "the journal tells the state"),
    ("template", "every template can be rendered"),
];

fn breach(law: &'static str, message: impl Into<String>) -> Option<Breach> {
    Some(Breach { law, message: message.into() })
}

/// Checks what followed from an input to `before`.
pub fn of_turn(definition: &Definition, before: &Saga, after: &Saga, turn: &Turn) -> Option<Breach> {
    if folded(before, turn) != *after {
        return breach("replay", "the journal tells something else than the state");
    }
    // Entry by entry: what is sent depends on what was true just then.
    let mut saga = before.clone();
    for entry in &turn.entries {
        // A pivot that was in flight when the saga turned round may still succeed.
        let turns = saga.phase == Phase::Running && matches!(entry, Entry::Compensating { .. });
        if turns && past_pivot(definition, &saga) {
            return breach("pivot", "the saga turns round after its point of no return");
        }
        if let Some(ticket) = sent(saga.id, entry)
            && let Some(breach) = sending(definition, &saga, ticket)
        {
            return Some(breach);
        }
        apply(&mut saga, entry, turn.at);
    }
    None
}

fn past_pivot(definition: &Definition, saga: &Saga) -> bool {
    let succeeded = |(_, unit): (_, &Unit)| matches!(unit.execute.progress, Progress::Succeeded { .. });
    let mut pivots = (0..definition.steps.len()).filter(|step| definition.steps[*step].pivot);
    pivots.any(|step| units(saga).filter(|(spot, _)| spot.step == step).all(succeeded))
}

fn sending(definition: &Definition, saga: &Saga, ticket: Ticket) -> Option<Breach> {
    let name = &definition.steps[ticket.spot.step].name;
    let action = action_of(saga, ticket)?;
    if ticket.attempt != action.attempt + 1 {
        return breach("once", format!("attempt {} of `{name}` follows attempt {}", ticket.attempt, action.attempt));
    }
    if action.in_flight() {
        return breach("once", format!("`{name}` is sent while an attempt of it is in flight"));
    }
    match ticket.action {
        Action::Execute if saga.phase != Phase::Running => {
            breach("no-way-forward", format!("`{name}` is sent though the saga compensates"))
        }
        Action::Execute if ticket.attempt == 1 => beginning(definition, saga, ticket),
        Action::Execute | Action::Probe => None,
        Action::Compensate => undoing(definition, saga, ticket),
    }
}

fn beginning(definition: &Definition, saga: &Saga, ticket: Ticket) -> Option<Breach> {
    let step = &definition.steps[ticket.spot.step];
    let open = step.after.iter().find(|before| !ended_well(&definition.steps[**before], &saga.steps[**before]))?;
    let before = &definition.steps[*open].name;
    breach("in-order", format!("`{}` begins before `{before}` has ended well", step.name))
}

/// Whether the steps after one may begin, as far as it goes.
fn ended_well(step: &Step, state: &StepState) -> bool {
    let begun = step.foreach.is_none()
        || state.elements.is_some()
        || !matches!(state.unit.execute.progress, Progress::Idle | Progress::Scheduled { .. });
    begun
        && state.units().all(|(_, unit)| match unit.execute.progress {
            Progress::Succeeded { .. } => true,
            Progress::Skipped { .. } => step.when.is_some(),
            Progress::Failed { .. } => step.optional,
            _ => false,
        })
}

fn undoing(definition: &Definition, saga: &Saga, ticket: Ticket) -> Option<Breach> {
    let step = &definition.steps[ticket.spot.step];
    let name = &step.name;
    let unit = saga.unit(ticket.spot)?;
    // What a step waited for came: somebody did something, though nobody was sent a command.
    let came = matches!(step.execute, Execute::Wait(_)) && matches!(unit.execute.progress, Progress::Succeeded { .. });
    if unit.execute.attempt == 0 && !came {
        return breach("never-sent", format!("`{name}` was never sent, and is undone"));
    }
    // A retry of what was begun in order goes on, even if a late success has unsettled what comes after it.
    if unit.compensate.attempt > unit.compensate.void {
        return None;
    }
    if !owed(step, unit) {
        return breach("right-set", format!("`{name}` is undone, and does not have to be"));
    }
    let unsettled = step.later.iter().find(|later| !settled(definition, saga, **later))?;
    let later = &definition.steps[*unsettled].name;
    breach("reverse", format!("`{name}` is undone before `{later}`, which comes after it"))
}

/// Whether what is known of the execute calls for an undo.
fn owed(step: &Step, unit: &Unit) -> bool {
    let Some(compensate) = &step.compensate else { return false };
    let CompensateOn { success, in_doubt, failure } = compensate.on;
    match &unit.execute.progress {
        Progress::Succeeded { .. } => success,
        Progress::Failed { by: None, .. } if unit.execute.may_have_been_done() => in_doubt,
        // It was done; only the answer is of no use.
        Progress::Failed { failure: why, by: Some(_), .. } if why.reason == Reason::InvalidReply => success,
        Progress::Failed { .. } => failure && unit.execute.handled,
        _ => false,
    }
}

fn settled(definition: &Definition, saga: &Saga, step: StepIx) -> bool {
    let goes_on = definition.on_compensation_failure == OnCompensationFailure::Continue;
    units(saga).filter(|(spot, _)| spot.step == step).all(|(_, unit)| match unit.compensate.progress {
        Progress::Succeeded { .. } | Progress::GivenUp { .. } => true,
        Progress::Failed { .. } => goes_on,
        Progress::Running { .. } | Progress::Scheduled { .. } => false,
        Progress::Idle | Progress::Skipped { .. } => {
            !unit.execute.under_way() && !unit.probe.under_way() && !owed(&definition.steps[step], unit)
        }
    })
}

/// Checks a saga that may have ended; `wants_time`: it has a timer; `over`: nothing more can happen to it.
pub fn of_state(definition: &Definition, saga: &Saga, wants_time: bool, over: bool) -> Option<Breach> {
    let status = saga.status();
    if status.is_terminal() {
        if wants_time {
            return breach("ends", "the saga has ended, and still wants to be woken");
        }
        let busy = units(saga).find(|(_, unit)| unit.actions().iter().any(|(_, action)| action.under_way()));
        if let Some((spot, _)) = busy {
            let name = &definition.steps[spot.step].name;
            return breach("ends", format!("the saga has ended, and `{name}` is under way"));
        }
    } else if over && status != Status::Suspended {
        return breach("ends", format!("nothing more can happen, and the saga is {}", status.as_str()));
    }
    if let Phase::Completed { .. } = saga.phase {
        let mut steps = definition.steps.iter().zip(&saga.steps);
        let (step, _) = steps.find(|(step, state)| !ended_well(step, state))?;
        return breach("complete", format!("the saga has completed, and `{}` has not ended well", step.name));
    }
    if let Phase::Compensated { .. } = saga.phase {
        let given_up =
            |unit: &Unit| matches!(unit.compensate.progress, Progress::Failed { .. } | Progress::GivenUp { .. });
        if let Some((spot, _)) = units(saga).find(|(_, unit)| given_up(unit)) {
            let name = &definition.steps[spot.step].name;
            return breach("right-set", format!("the saga says that all is undone, and `{name}` was given up"));
        }
    }
    if matches!(saga.phase, Phase::Compensated { .. } | Phase::Failed { .. }) {
        let mut steps = 0..definition.steps.len();
        let forgotten = steps.find(|step| !settled(definition, saga, *step))?;
        let name = &definition.steps[forgotten].name;
        return breach("right-set", format!("the saga has ended, and `{name}` was not undone"));
    }
    None
}

/// Whether what the step does has an effect that can be seen.
fn acts(step: &Step) -> bool {
    matches!(step.execute, Execute::Command(_) | Execute::Saga(_))
}

/// Checks what participants did, once all is over: either all of it is done, or nothing that is to be undone is left.
pub fn of_effects(definition: &Definition, saga: &Saga, ledger: &Ledger) -> Option<Breach> {
    units(saga).find_map(|(spot, unit)| {
        let step = &definition.steps[spot.step];
        let name = &step.name;
        let there = ledger.there().contains(&spot);
        match saga.phase {
            Phase::Completed { .. } => {
                let done = matches!(unit.execute.progress, Progress::Succeeded { .. }) && acts(step);
                if done && !there {
                    return breach(
                        "effect",
                        format!("the saga has completed, and the effect of `{name}` is not there"),
                    );
                }
            }
            Phase::Compensated { .. } | Phase::Failed { .. } => {
                let undoable = step.compensate.as_ref().is_some_and(|it| it.on.success && it.on.in_doubt);
                let given_up = matches!(unit.compensate.progress, Progress::Failed { .. } | Progress::GivenUp { .. });
                if there && undoable && !given_up {
                    return breach("effect", format!("the saga was undone, and the effect of `{name}` is still there"));
                }
            }
            Phase::Pending { .. } | Phase::Running | Phase::Compensating => {}
        }
        None
    })
}
