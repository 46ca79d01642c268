//! That the checker would find a mistake: each is made on purpose, in the core or in the corridor, and found by the guarantee that it
//! breaks.

use std::sync::OnceLock;

use sagad::core::answer::Outcome;
use sagad::core::apply::{apply, saga_error};
use sagad::core::decide::{Decision, Effect, decide};
use sagad::core::definition::Definition;
use sagad::core::entry::Entry;
use sagad::core::id::{Action, Spot};
use sagad::core::input::{Forbidden, Input, Order as Word};
use sagad::core::saga::{Failure, Phase, Progress, Reason, Saga};
use sagad::core::time::Time;
use sagad::trial::stage::{Decide, SHIPPED};
use stateright::{Checker, HasDiscoveries, Model};

use super::space::{Fault, Space};
use super::{saga, sequence, shipped, step};
use crate::corridor::Order;
use crate::play::definition;

type Decided = Result<Decision, Forbidden>;

const FAULTS: &[Fault] = &[Fault::Crash, Fault::Repeat, Fault::Late, Fault::Busy, Fault::Silence, Fault::Cancel];

/// Of all guarantees, the one that is found broken first is this one.
#[track_caller]
fn finds(toml: &str, decide: Decide, order: Order, guarantee: &'static str) {
    let space = Space { faults: 2, of: FAULTS, ..Space::of(toml, decide, order) };
    let checker = space.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let found = checker.discoveries();
    let way = |name: &str| found[name].clone().into_actions().len();
    let first = found.keys().copied().min_by_key(|name| (way(name), *name != guarantee));
    assert_eq!(first, Some(guarantee), "{:?}", found.keys());
}

#[track_caller]
fn decider(decide: Decide, guarantee: &'static str) {
    finds(&sequence(), decide, Order::Shipped, guarantee);
}

/// Has an entry follow from a decision, without what it would send.
fn follow(decision: &mut Decision, entry: Entry, now: Time) {
    apply(&mut decision.saga, &entry, now);
    decision.entries.push(entry);
}

fn unchanged(saga: &Saga) -> Decided {
    Ok(Decision { saga: saga.clone(), entries: Vec::new(), effects: Vec::new(), ignored: None })
}

fn sent(spot: Spot, action: Action, attempt: u32, now: Time) -> Entry {
    Entry::Sent { spot, action, attempt, deadline: Some(now.plus(std::time::Duration::from_secs(10))), body: None }
}

#[test]
fn the_shipped_core_breaks_none() {
    let space = Space { faults: 2, of: FAULTS, ..shipped(&sequence()) };
    let checker = space.checker().spawn_bfs().join();
    assert!(checker.discoveries().is_empty());
}

#[test]
fn an_acknowledgement_before_the_commit() {
    let guarantee = "an answer is acknowledged only after what it causes is committed";
    finds(&sequence(), SHIPPED, Order::AckFirst, guarantee);
}

#[test]
fn a_command_before_the_commit() {
    let guarantee = "a command is sent only after the state that sends it is committed";
    finds(&sequence(), SHIPPED, Order::PublishFirst, guarantee);
}

#[test]
fn commands_that_only_the_daemon_knows() {
    finds(&sequence(), SHIPPED, Order::NoOutbox, "commands are sent at least once");
}

#[test]
fn a_late_success_that_is_dropped() {
    fn mistaken(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Decided {
        if let Input::Answer { spot, action: Action::Execute, .. } = &input
            && saga.unit(*spot).is_some_and(|unit| matches!(unit.execute.progress, Progress::Failed { .. }))
        {
            return unchanged(saga);
        }
        decide(definition, saga, input, now)
    }
    decider(mistaken, "no effect outlives its compensation");
}

#[test]
fn an_answer_that_counts_twice() {
    fn mistaken(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Decided {
        let again = match &input {
            Input::Answer { spot, action: Action::Execute, .. } => Some(*spot),
            _ => None,
        };
        let mut decision = decide(definition, saga, input, now)?;
        if let (Some(spot), true) = (again, decision.entries.is_empty()) {
            follow(&mut decision, Entry::CompensationRenewed { spot }, now);
        }
        Ok(decision)
    }
    decider(mistaken, "the effect of an answer happens once");
}

#[test]
fn a_saga_that_does_not_go_on() {
    fn mistaken(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Decided {
        match saga.phase {
            Phase::Compensating => unchanged(saga),
            _ => decide(definition, saga, input, now),
        }
    }
    // Nothing that is heard changes it any more: not the timer either, which is due for ever.
    decider(mistaken, "no saga is lost or stuck");
}

#[test]
fn a_journal_that_does_not_tell_all() {
    fn mistaken(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Decided {
        let mut decision = decide(definition, saga, input, now)?;
        decision.entries.retain(|entry| !matches!(entry, Entry::AttemptFailed { .. }));
        Ok(decision)
    }
    decider(mistaken, "the journal tells the state");
}

/// Decides by another definition once the saga compensates.
fn as_if(other: &OnceLock<Definition>, toml: &str, saga: &Saga, input: Input, now: Time) -> Decided {
    decide(other.get_or_init(|| definition(toml)), saga, input, now)
}

#[test]
fn undos_in_any_order() {
    fn mistaken(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Decided {
        static OTHER: OnceLock<Definition> = OnceLock::new();
        let decision = decide(definition, saga, input.clone(), now)?;
        match decision.saga.phase {
            Phase::Running => Ok(decision),
            _ => as_if(&OTHER, &sequence().replace("name = 'b'", "name = 'b'\nafter = []"), saga, input, now),
        }
    }
    decider(mistaken, "compensation goes in reverse");
}

#[test]
fn an_undo_of_what_was_never_sent() {
    fn mistaken(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Decided {
        let mut decision = decide(definition, saga, input, now)?;
        let idle = |spot: &Spot| decision.saga.unit(*spot).is_some_and(|unit| unit.execute.attempt == 0);
        if decision.saga.phase != Phase::Running
            && let Some(spot) = (0..definition.steps.len()).map(Spot::from).find(idle)
            && decision.saga.unit(spot).is_some_and(|unit| unit.compensate.is_untouched())
        {
            follow(&mut decision, sent(spot, Action::Compensate, 1, now), now);
        }
        Ok(decision)
    }
    decider(mistaken, "what was never sent is never compensated");
}

#[test]
fn an_undo_that_is_forgotten() {
    fn mistaken(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Decided {
        static OTHER: OnceLock<Definition> = OnceLock::new();
        let decision = decide(definition, saga, input.clone(), now)?;
        let other = sequence().replace("compensate = { command = 'a.undo', retry.attempts = 2 }", "compensate = false");
        match decision.saga.phase {
            Phase::Running => Ok(decision),
            _ => as_if(&OTHER, &other, saga, input, now),
        }
    }
    decider(mistaken, "what was done or is in doubt is compensated, and nothing else");
}

#[test]
fn an_answer_that_overrules_the_first() {
    fn mistaken(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Decided {
        let mut decision = decide(definition, saga, input.clone(), now)?;
        if let Input::Answer { spot, action: Action::Execute, attempt, answer } = input
            && answer.outcome == Some(Outcome::Retry)
            && saga.unit(spot).is_some_and(|unit| matches!(unit.execute.progress, Progress::Succeeded { .. }))
        {
            let failure = Failure::new(Reason::Failure, "it thought better of it");
            follow(&mut decision, Entry::Failed { spot, action: Action::Execute, attempt, failure }, now);
        }
        Ok(decision)
    }
    // The second copy of a command, to which another answer comes.
    decider(mistaken, "the first answer decides");
}

#[test]
fn an_old_retry_that_counts() {
    fn mistaken(definition: &Definition, saga: &Saga, mut input: Input, now: Time) -> Decided {
        if let Input::Answer { spot, action, attempt, answer } = &mut input
            && answer.outcome == Some(Outcome::Retry)
            && let Some(unit) = saga.unit(*spot)
        {
            *attempt = unit.action(*action).attempt;
        }
        decide(definition, saga, input, now)
    }
    let toml = saga("", &[step("a", "retry.attempts = 2")]);
    finds(&toml, mistaken, Order::Shipped, "a retry from an old attempt is ignored");
}

#[test]
fn a_way_forward_after_it_turned_round() {
    fn mistaken(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Decided {
        let mut decision = decide(definition, saga, input, now)?;
        let spot = Spot::from(1);
        if saga.phase == Phase::Running
            && decision.saga.phase == Phase::Compensating
            && decision.saga.unit(spot).is_some_and(|unit| unit.execute.attempt == 0)
        {
            follow(&mut decision, sent(spot, Action::Execute, 1, now), now);
        }
        Ok(decision)
    }
    decider(mistaken, "once it compensates nothing goes forward");
}

#[test]
fn two_attempts_at_a_time() {
    fn mistaken(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Decided {
        let mut decision = decide(definition, saga, input, now)?;
        let spot = Spot::from(1);
        if decision.saga.unit(spot).is_some_and(|unit| unit.execute.in_flight() && unit.execute.attempt == 1) {
            follow(&mut decision, sent(spot, Action::Execute, 2, now), now);
        }
        Ok(decision)
    }
    decider(mistaken, "one attempt at a time");
}

#[test]
fn a_key_for_each_attempt() {
    fn mistaken(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Decided {
        let mut decision = decide(definition, saga, input, now)?;
        for effect in &mut decision.effects {
            if let Effect::Command(command) = effect {
                command.round = command.ticket.attempt - 1;
            }
        }
        Ok(decision)
    }
    let toml = saga("", &[step("a", "retry.attempts = 2")]);
    finds(&toml, mistaken, Order::Shipped, "attempts of one action share a key");
}

#[test]
fn a_way_back_after_the_pivot() {
    fn mistaken(_: &Definition, saga: &Saga, input: Input, now: Time) -> Decided {
        static OTHER: OnceLock<Definition> = OnceLock::new();
        as_if(&OTHER, &with_pivot().replace("pivot = true", ""), saga, input, now)
    }
    let toml = with_pivot();
    finds(&toml, mistaken, Order::Shipped, "past its pivot it does not turn round");
}

fn with_pivot() -> String {
    sequence().replace("compensate = { command = 'a.undo', retry.attempts = 2 }", "pivot = true\ncompensate = false")
}

#[test]
fn a_deadline_that_waits_for_answers() {
    fn mistaken(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Decided {
        let passed = saga.phase == Phase::Running && saga.deadline.is_some_and(|deadline| deadline <= now);
        if !(passed && matches!(input, Input::Tick)) {
            return decide(definition, saga, input, now);
        }
        let cancel = Input::Operator { actor: "nobody".into(), order: Word::Cancel { reason: None } };
        let mut decision = decide(definition, saga, cancel, now)?;
        let late = saga_error(Reason::Deadline, "the saga's deadline has passed");
        if let Some(Entry::Compensating { error, .. }) = decision.entries.first_mut() {
            *error = late.clone();
        }
        decision.saga.error = Some(late);
        Ok(decision)
    }
    let toml = saga("timeout = '5s'", &[step("a", ""), step("b", "")]);
    finds(&toml, mistaken, Order::Shipped, "at the deadline what is in flight is in doubt");
}
