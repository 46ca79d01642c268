//! The shipped core in its corridor, through everything that can happen to small sagas: each guarantee is held against every state.
//!
//! Whatever the participants answer, and up to so many faults of every kind at every point, in every combination: the daemon is killed,
//! messages and answers come twice, late or never, participants are busy, undos are refused, commands come back, an operator cancels.
//!
//! That a saga comes to an end is said of the states in which nothing more can happen, not by `eventually`: the checker takes a way
//! that meets a known state for one that goes well, and so would miss some that don't. It is enough: the number of transitions is part
//! of a saga's state, every other step uses something up, so no state comes twice on any way; there are finitely many, so every way
//! ends in one where nothing can happen.

mod mistakes;
mod space;

use sagad::core::saga::Status;
use sagad::trial::stage::SHIPPED;
use stateright::{Checker, Model};

use self::space::{Fault, Space};
use crate::corridor::{Notable, Order};

/// Before the steps: one attempt forward, two back.
const DEFAULTS: &str =
    "defaults = { exchange = 'e', timeout = '10s', retry = { attempts = 1, initial = '1s', jitter = 0.0 } }\n";

fn step(name: &str, more: &str) -> String {
    format!(
        "[[steps]]\nname = '{name}'\ncommand = '{name}.do'\n\
         compensate = {{ command = '{name}.undo', retry.attempts = 2 }}\n{more}\n"
    )
}

fn saga(top: &str, steps: &[String]) -> String {
    format!("name = 's'\n{top}\n{DEFAULTS}{}", steps.concat())
}

fn sequence() -> String {
    saga("", &[step("a", ""), step("b", "")])
}

fn shipped(toml: &str) -> Space {
    Space::of(toml, SHIPPED, Order::Shipped)
}

/// Goes through all of it; every guarantee holds, everything that is to be seen is.
#[track_caller]
fn holds(space: Space, states: usize) {
    let checker = space.checker().spawn_bfs().join();
    checker.assert_properties();
    assert_eq!(checker.unique_state_count(), states, "another space than before: is it meant to be?");
}

const UNDONE_OR_NOT: &[Status] = &[Status::Completed, Status::Compensated];
const EVERY_END: &[Status] = &[Status::Completed, Status::Compensated, Status::Suspended];

/// What is to be seen wherever the daemon is killed and answers are late,
const KILLED_AND_LATE: &[Notable] = &[
    Notable::KilledBeforePublishing,
    Notable::KilledBeforeDeleting,
    Notable::KilledBeforeAcking,
    Notable::Late,
    Notable::TakenUpAgain,
];

/// and where answers come again.
const REPEATED: &[Notable] = &[
    Notable::KilledBeforePublishing,
    Notable::KilledBeforeDeleting,
    Notable::KilledBeforeAcking,
    Notable::Late,
    Notable::TakenUpAgain,
    Notable::RepeatedAfterTheEnd,
];

#[test]
fn one_step() {
    let toml = saga("", &[step("a", "")]);
    holds(Space { faults: 2, ends: UNDONE_OR_NOT, seen: REPEATED, ..shipped(&toml) }, 7_558);
}

#[test]
fn one_step_and_three_faults() {
    let toml = saga("", &[step("a", "")]);
    let of = &[Fault::Crash, Fault::Repeat, Fault::Late, Fault::Silence, Fault::Expiry];
    holds(Space { faults: 3, once: true, of, ends: UNDONE_OR_NOT, seen: REPEATED, ..shipped(&toml) }, 24_856);
}

#[test]
fn one_step_that_is_retried() {
    let toml = saga("", &[step("a", "retry.attempts = 2")]);
    let of = &[Fault::Crash, Fault::Again, Fault::Late, Fault::Busy, Fault::Silence, Fault::Cancel, Fault::Expiry];
    holds(Space { faults: 3, once: true, of, ends: UNDONE_OR_NOT, seen: KILLED_AND_LATE, ..shipped(&toml) }, 70_104);
}

#[test]
fn two_steps_in_sequence() {
    holds(Space { faults: 2, ends: EVERY_END, seen: REPEATED, ..shipped(&sequence()) }, 43_148);
}

#[test]
fn two_steps_in_parallel_and_one_after_both() {
    let steps = [step("a", "after = []"), step("b", "after = []"), step("c", "after = ['a', 'b']")];
    holds(Space { faults: 1, ends: UNDONE_OR_NOT, seen: KILLED_AND_LATE, ..shipped(&saga("", &steps)) }, 8_416);
}

#[test]
fn two_steps_in_parallel() {
    let steps = [step("a", "after = []"), step("b", "after = []")];
    let of = &[Fault::Crash, Fault::Late, Fault::Silence];
    holds(
        Space { faults: 2, once: true, of, ends: UNDONE_OR_NOT, seen: KILLED_AND_LATE, ..shipped(&saga("", &steps)) },
        85_901,
    );
}

#[test]
fn a_pivot_between_two_steps() {
    let pivot = "[[steps]]\nname = 'p'\ncommand = 'p.do'\npivot = true\ncompensate = false\n".to_owned();
    let steps = [step("a", ""), pivot, step("c", "")];
    let of = &[Fault::Crash, Fault::Late, Fault::Silence, Fault::Busy, Fault::Cancel];
    holds(Space { faults: 2, of, ends: EVERY_END, seen: KILLED_AND_LATE, ..shipped(&saga("", &steps)) }, 27_865);
}

#[test]
fn a_deadline_while_two_steps_are_under_way() {
    let toml = saga("timeout = '5s'", &[step("a", "after = []"), step("b", "after = []")]);
    let of = &[Fault::Late, Fault::Silence, Fault::Oversleep];
    let seen = &[Notable::DeadlinePassed, Notable::TakenUpAgain];
    holds(Space { faults: 2, of, ends: UNDONE_OR_NOT, seen, ..shipped(&toml) }, 33_122);
}
