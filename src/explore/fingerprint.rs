//! Which states are the same: those from which the same can happen.
//!
//! When something happened, or will, is no part of it, nor is what messages say, how many attempts a success took, and all about a step that is undone and of which nothing is on its way any more.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;

use super::Bounds;
use super::node::Node;
use crate::core::definition::Definition;
use crate::core::id::{Action, Spot, Ticket};
use crate::core::saga::{ActionState, Failure, Phase, Progress, Reason, Saga, Unit};
use crate::core::time::Time;
use crate::trial::stage::{START, action_of, units};

/// 128 bits of a state.
pub(super) fn of(node: &Node<'_>, bounds: Bounds) -> u128 {
    // More attempts than that there are only past the point of no return, and nothing but one more follows from any of them.
    let most = bounds.attempts.saturating_add(1);
    let on_its_way = |spot: Spot| node.late.iter().any(|late| late.ticket.spot == spot);
    let essence = essence(node.stage.definition, &node.stage.saga, most, on_its_way);
    let mut ledger = node.ledger.clone();
    // What was said of a command matters as long as somebody may still handle it.
    ledger.forget(|(spot, action, _)| {
        let unit = node.stage.saga.unit(spot);
        on_its_way(spot) || unit.is_some_and(|unit| unit.action(action).under_way())
    });
    // The units of lists are no part of a saga's JSON.
    let elements: Vec<_> = units(&essence).filter(|(spot, _)| spot.item.is_some()).collect();
    let saga = without_past(&serde_json::to_vec(&(&essence, elements)).unwrap_or_default(), node.stage.now);
    // Attempts are told apart by how far they are behind the latest.
    let late = node.late.iter().map(|late| (relative(&node.stage.saga, late.ticket, most), late.key, late.done));
    let late: Vec<_> = late.collect();
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, &saga, &late, &ledger).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

fn relative(saga: &Saga, ticket: Ticket, most: u32) -> (Ticket, u32) {
    let latest = action_of(saga, ticket).map_or(0, |action| action.attempt);
    (Ticket { attempt: 0, ..ticket }, latest.saturating_sub(ticket.attempt).min(most))
}

/// What of a saga's state decides what can happen to it.
fn essence(definition: &Definition, saga: &Saga, most: u32, on_its_way: impl Fn(Spot) -> bool) -> Saga {
    let mut saga = saga.clone();
    (saga.entries, saga.version) = (0, 0);
    (saga.created_at, saga.updated_at, saga.started_at) = (START, START, None);
    if saga.phase != Phase::Running {
        saga.deadline = None;
    }
    if let Some(error) = &mut saga.error {
        error.failure = Failure::new(Reason::Failure, "");
        error.step = error.step.map(|_| 0);
    }
    if let Some(suspension) = &mut saga.suspended {
        suspension.reason.clear();
    }
    let spots: Vec<Spot> = units(&saga).map(|(spot, _)| spot).collect();
    for spot in spots {
        let Some(unit) = saga.unit_mut(spot) else { continue };
        let alone = !on_its_way(spot);
        if alone && matches!(unit.compensate.progress, Progress::Succeeded { .. }) {
            let at = START;
            let at_all = unit.execute.attempt.min(1);
            *unit = Unit::default();
            unit.execute.attempt = at_all;
            unit.compensate.progress = Progress::Succeeded { at, reply: Value::Null.into() };
            continue;
        }
        let step = &definition.steps[spot.step];
        if !step.compensate.as_ref().is_some_and(|compensate| compensate.on.failure) {
            unit.execute.handled = false;
        }
        simplify(&mut unit.execute, Action::Execute, most, alone);
        simplify(&mut unit.compensate, Action::Compensate, most, alone);
        simplify(&mut unit.probe, Action::Probe, most, alone);
    }
    saga
}

fn simplify(state: &mut ActionState, action: Action, most: u32, alone: bool) {
    state.started_at = None;
    let plain = |failure: &mut Failure| {
        let reason = match failure.reason {
            Reason::Timeout => Reason::Timeout,
            // Another copy may yet come back.
            reason if reason.is_of_a_dead_letter() => Reason::Expired,
            _ => Reason::Failure,
        };
        *failure = Failure::new(reason, "");
    };
    state.last_failure = None;
    if action == Action::Compensate {
        // Only of an execute it matters whether anybody knows.
        state.unanswered.clear();
        state.held.clear();
        state.handled = false;
    }
    match &mut state.progress {
        Progress::Succeeded { .. } => (state.attempt, state.spent, state.void) = (0, 0, 0),
        Progress::Failed { failure, by, .. } => {
            plain(failure);
            if alone {
                (state.attempt, state.spent, state.void) = (1, 0, 0);
                *by = by.map(|_| 1);
                state.unanswered.truncate(1);
                state.held.truncate(1);
                state.unanswered.iter_mut().for_each(|attempt| *attempt = 1);
                state.held.iter_mut().for_each(|attempt| *attempt = 1);
            }
        }
        _ => {
            // Past the point of no return attempts have no end; only how far they are behind the latest counts.
            let old = state.tries().saturating_sub(most) + state.spent;
            (state.attempt, state.spent, state.void) = (state.attempt - old, 0, 0);
            state.unanswered.iter_mut().for_each(|attempt| *attempt = attempt.saturating_sub(old));
            state.unanswered.dedup();
            state.held.iter_mut().for_each(|attempt| *attempt = attempt.saturating_sub(old));
            state.held.dedup();
        }
    }
}

/// The state's JSON with 0 for each time that has passed, and 1 for each that is to come: which of several timers is next, where all else
/// is the same, is tried once. A number is a time if it lies in the years of a trial: replies and inputs of trials have no such numbers,
/// and the worst of one that has is that two states pass for one.
fn without_past(json: &[u8], now: Time) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    let mut end = 0;
    for (range, number) in numbers(json).filter(|(_, number)| (START.0..START.0 + TEN_YEARS).contains(number)) {
        out.extend_from_slice(&json[end..range.start]);
        out.push(if number > now.0 { b'1' } else { b'0' });
        end = range.end;
    }
    out.extend_from_slice(&json[end..]);
    out
}

const TEN_YEARS: i64 = 10 * 366 * 24 * 3600 * 1000;
/// Digits of a time in milliseconds in this century.
const DIGITS: usize = 13;

/// The numbers of as many digits as a time has, and where they are.
fn numbers(json: &[u8]) -> impl Iterator<Item = (std::ops::Range<usize>, i64)> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let start = at + json[at..].iter().position(u8::is_ascii_digit)?;
            let length = json[start..].iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(json.len() - start);
            at = start + length;
            if length == DIGITS
                && let Some(number) = std::str::from_utf8(&json[start..at]).ok().and_then(|text| text.parse().ok())
            {
                return Some((start..at, number));
            }
        }
    })
}
