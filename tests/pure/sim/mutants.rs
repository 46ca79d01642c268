//! Mistakes made on purpose, one at a time: the checks are worth something only if they find each.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use sagad::core::answer::Outcome;
use sagad::core::apply::apply;
use sagad::core::decide::{Decide, Decision, Ignored, decide};
use sagad::core::definition::{Compensate, Definition, Execute, Undo};
use sagad::core::entry::{Entry, Handling};
use sagad::core::id::{Action, Spot};
use sagad::core::input::{Forbidden, Input, Order};
use sagad::core::parse::parse;
use sagad::core::saga::{Failure, Phase, Progress, Reason, Saga};
use sagad::core::time::Time;
use sagad::trial::stage::units;
use serde_json::Value;

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    AcknowledgesBeforeCommit,
    ForgetsTheOutbox,
    IgnoresTheVersion,
    IgnoresLateSuccesses,
    UndoesInAnyOrder,
    LosesTimers,
    ConfusesAttempts,
    SharesKeys,
    TrustsWakeUps,
    AppliesDuplicates,
    KeepsWhatIsSettled,
    RendersAnew,
    GivesUpEarly,
    DropsSignals,
    LetsCommandsLive,
    WaitsBeyondDeadlines,
    WaitsForNobody,
    FollowsTheNewest,
    IgnoresPending,
    ForgetsDeadlines,
    KeepsSuspensionsSecret,
    LeavesStepsOut,
    BeginsOutOfOrder,
    WaitsOnTheWayBack,
}

impl Mutant {
    pub(crate) const ALL: [Mutant; 24] = [
        Mutant::AcknowledgesBeforeCommit,
        Mutant::ForgetsTheOutbox,
        Mutant::IgnoresTheVersion,
        Mutant::IgnoresLateSuccesses,
        Mutant::UndoesInAnyOrder,
        Mutant::LosesTimers,
        Mutant::ConfusesAttempts,
        Mutant::SharesKeys,
        Mutant::TrustsWakeUps,
        Mutant::AppliesDuplicates,
        Mutant::KeepsWhatIsSettled,
        Mutant::RendersAnew,
        Mutant::GivesUpEarly,
        Mutant::DropsSignals,
        Mutant::LetsCommandsLive,
        Mutant::WaitsBeyondDeadlines,
        Mutant::WaitsForNobody,
        Mutant::FollowsTheNewest,
        Mutant::IgnoresPending,
        Mutant::ForgetsDeadlines,
        Mutant::KeepsSuspensionsSecret,
        Mutant::LeavesStepsOut,
        Mutant::BeginsOutOfOrder,
        Mutant::WaitsOnTheWayBack,
    ];

    /// The seed to begin with: what is seldom found is looked for where it is.
    pub(crate) fn begins_at(self) -> u64 {
        if self == Mutant::WaitsOnTheWayBack { 2_300 } else { 0 }
    }

    /// The laws by which it may be found.
    pub(crate) fn found_by(self) -> &'static [&'static str] {
        match self {
            Mutant::AcknowledgesBeforeCommit => &["acknowledged-after-commit"],
            // What is not sent again is either told by nobody, or waited for in vain.
            Mutant::ForgetsTheOutbox => &["told", "nothing-lost", "ends", "at-rest"],
            Mutant::IgnoresTheVersion => &["replay", "first-decides", "once", "attempts", "duplicate"],
            Mutant::IgnoresLateSuccesses => &["acknowledged-after-commit", "effect"],
            Mutant::UndoesInAnyOrder => &["reverse"],
            Mutant::LosesTimers => &["deadline", "ends"],
            Mutant::ConfusesAttempts => &["answers-are-given", "first-decides"],
            Mutant::SharesKeys => &["key", "lock", "max-running", "once-begun"],
            Mutant::TrustsWakeUps => &["on-time"],
            Mutant::AppliesDuplicates => &["first-decides", "duplicate"],
            // What came back is sent after all: done, though its saga has gone on without it, or found at rest.
            Mutant::KeepsWhatIsSettled => &["effect", "ends", "at-rest"],
            Mutant::RendersAnew => &["same-body", "undo-knows"],
            Mutant::GivesUpEarly => &["attempts"],
            Mutant::DropsSignals => &["signals"],
            Mutant::LetsCommandsLive => &["well-formed"],
            Mutant::WaitsBeyondDeadlines => &["deadline"],
            Mutant::WaitsForNobody => &["on-time"],
            Mutant::FollowsTheNewest => &["well-formed", "on-time"],
            Mutant::IgnoresPending => &["pending"],
            Mutant::ForgetsDeadlines => &["deadline", "on-time"],
            Mutant::KeepsSuspensionsSecret => &["told"],
            Mutant::LeavesStepsOut => &["complete"],
            Mutant::BeginsOutOfOrder => &["in-order"],
            Mutant::WaitsOnTheWayBack => &["on-time", "deadline"],
        }
    }
}

/// What decides in a run. Whoever is woken by a timer, and leaves it as it is, is noted: see [`overslept`].
pub(crate) fn decides(mutant: Option<Mutant>) -> Decide {
    DECIDES.set(mistaken(mutant));
    OVERSLEPT.take();
    watched
}

thread_local! {
    /// A run has a thread for itself.
    static DECIDES: Cell<Decide> = const { Cell::new(decide) };
    static OVERSLEPT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A saga that was woken by a timer which is still due.
pub(crate) fn overslept() -> Option<String> {
    OVERSLEPT.take()
}

fn watched(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Result<Decision, Forbidden> {
    let is_woken = matches!(input, Input::Tick);
    let decision = DECIDES.get()(definition, saga, input, now)?;
    let due = decision.saga.due(definition, Duration::ZERO).filter(|due| is_woken && *due <= now);
    if let Some(due) = due {
        OVERSLEPT.set(Some(format!("{} is woken at {now} for {due}, and does nothing about it", saga.id)));
    }
    Ok(decision)
}

fn mistaken(mutant: Option<Mutant>) -> Decide {
    match mutant {
        Some(Mutant::IgnoresLateSuccesses) => ignores_late_successes,
        Some(Mutant::UndoesInAnyOrder | Mutant::GivesUpEarly | Mutant::LetsCommandsLive | Mutant::BeginsOutOfOrder) => {
            misreads
        }
        Some(Mutant::FollowsTheNewest) => follows_the_newest,
        Some(Mutant::ConfusesAttempts) => confuses_attempts,
        Some(Mutant::TrustsWakeUps) => trusts_wake_ups,
        Some(Mutant::AppliesDuplicates) => applies_duplicates,
        Some(Mutant::RendersAnew) => renders_anew,
        Some(Mutant::DropsSignals) => drops_signals,
        Some(Mutant::WaitsBeyondDeadlines) => waits_beyond_deadlines,
        Some(Mutant::WaitsForNobody) => waits_for_nobody,
        Some(Mutant::IgnoresPending) => ignores_pending,
        Some(Mutant::ForgetsDeadlines) => forgets_deadlines,
        Some(Mutant::LeavesStepsOut) => leaves_steps_out,
        Some(Mutant::WaitsOnTheWayBack) => waits_on_the_way_back,
        _ => decide,
    }
}

fn ignores_late_successes(
    definition: &Definition,
    saga: &Saga,
    input: Input,
    now: Time,
) -> Result<Decision, Forbidden> {
    if let Input::Answer { spot, action: Action::Execute, .. } = &input
        && saga.unit(*spot).is_some_and(|unit| matches!(unit.execute.progress, Progress::Failed { .. }))
    {
        return Ok(Decision { saga: saga.clone(), entries: Vec::new(), effects: Vec::new(), ignored: None });
    }
    decide(definition, saga, input, now)
}

thread_local! {
    /// The definitions of the run, as a mistaken engine reads them.
    static MISREAD: RefCell<BTreeMap<String, Definition>> = const { RefCell::new(BTreeMap::new()) };
}

/// Has the definition of this text read as `mutant` reads it.
pub(crate) fn misread(mutant: Option<Mutant>, toml: &str) {
    let Ok((mut definition, _)) = parse(toml, &mut |name| Err(format!("no {name} here"))) else { return };
    for step in &mut definition.steps {
        match mutant {
            // As if no step came after another on the way back.
            Some(Mutant::UndoesInAnyOrder) => step.later.clear(),
            Some(Mutant::GivesUpEarly) => {
                if let Some(Compensate { undo: Undo::Command(command), .. }) = &mut step.compensate {
                    command.retry.attempts = command.retry.attempts.div_ceil(2);
                }
            }
            Some(Mutant::LetsCommandsLive) => {
                if let Execute::Command(command) = &mut step.execute {
                    command.command.expires = false;
                }
            }
            Some(Mutant::BeginsOutOfOrder) => step.after.clear(),
            Some(Mutant::FollowsTheNewest) => {}
            _ => return,
        }
    }
    let known_as = match mutant {
        Some(Mutant::FollowsTheNewest) => definition.name.to_string(),
        _ => name(&definition),
    };
    MISREAD.with_borrow_mut(|misread| drop(misread.insert(known_as, definition)));
}

/// Of one edition of a definition.
fn name(definition: &Definition) -> String {
    format!("{} {:?}", definition.name, definition.description)
}

fn misreads(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Result<Decision, Forbidden> {
    MISREAD.with_borrow(|misread| decide(misread.get(&name(definition)).unwrap_or(definition), saga, input, now))
}

fn follows_the_newest(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Result<Decision, Forbidden> {
    MISREAD.with_borrow(|misread| decide(misread.get(&*definition.name).unwrap_or(definition), saga, input, now))
}

fn confuses_attempts(definition: &Definition, saga: &Saga, mut input: Input, now: Time) -> Result<Decision, Forbidden> {
    if let Input::Answer { spot, action, attempt, .. } = &mut input
        && let Some(unit) = saga.unit(*spot)
    {
        *attempt = unit.action(*action).attempt;
    }
    decide(definition, saga, input, now)
}

fn trusts_wake_ups(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Result<Decision, Forbidden> {
    let mut due = saga.clone();
    if let Input::Tick = input {
        for (spot, _) in units(saga) {
            let Some(unit) = due.unit_mut(spot) else { continue };
            for action in [Action::Execute, Action::Compensate, Action::Probe] {
                match &mut unit.action_mut(action).progress {
                    Progress::Running { deadline: Some(at) } | Progress::Scheduled { due: at } => *at = now,
                    _ => {}
                }
            }
        }
    }
    Ok(journaled(saga, decide(definition, &due, input, now)?, now))
}

/// As if it had been decided on `saga`: nothing but what is journaled changes it.
fn journaled(saga: &Saga, decision: Decision, now: Time) -> Decision {
    let mut saga = saga.clone();
    decision.entries.iter().for_each(|entry| apply(&mut saga, entry, now));
    Decision { saga, ..decision }
}

fn applies_duplicates(definition: &Definition, known: &Saga, input: Input, now: Time) -> Result<Decision, Forbidden> {
    let mut saga = known.clone();
    if let Input::Answer { spot, action, answer, .. } = &input
        && answer.outcome == Some(Outcome::Success)
        && let Some(unit) = saga.unit_mut(*spot)
        && let Progress::Succeeded { .. } = unit.action(*action).progress
    {
        unit.action_mut(*action).progress = Progress::Running { deadline: None };
    }
    Ok(journaled(known, decide(definition, &saga, input, now)?, now))
}

fn renders_anew(definition: &Definition, known: &Saga, input: Input, now: Time) -> Result<Decision, Forbidden> {
    let mut saga = known.clone();
    let spots: Vec<Spot> = units(known).map(|(spot, _)| spot).collect();
    for spot in spots {
        if let Some(unit) = saga.unit_mut(spot) {
            (unit.execute.asked, unit.compensate.asked) = (None, None);
        }
    }
    Ok(journaled(known, decide(definition, &saga, input, now)?, now))
}

fn drops_signals(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Result<Decision, Forbidden> {
    match input {
        Input::Signal { .. } => Ok(Decision {
            saga: saga.clone(),
            entries: Vec::new(),
            effects: Vec::new(),
            ignored: Some(Ignored::Duplicate),
        }),
        input => decide(definition, saga, input, now),
    }
}

/// Turns round at the deadline as if an operator had cancelled: what is in flight is waited for.
fn waits_beyond_deadlines(
    definition: &Definition,
    saga: &Saga,
    input: Input,
    now: Time,
) -> Result<Decision, Forbidden> {
    let mut mistaken = saga.clone();
    let passed = saga.phase == Phase::Running && saga.deadline.is_some_and(|deadline| deadline <= now);
    if !passed || !matches!(input, Input::Tick) {
        return decide(definition, saga, input, now);
    }
    mistaken.deadline = None;
    let cancel = Input::Operator { actor: "nobody".into(), order: Order::Cancel { reason: None } };
    let mut decision = decide(definition, &mistaken, cancel, now)?;
    for entry in &mut decision.entries {
        if let Entry::Compensating { error, .. } = entry {
            error.failure.reason = Reason::Deadline;
        }
    }
    Ok(journaled(saga, decision, now))
}

/// Gives up what is in flight as soon as the saga turns round.
fn waits_for_nobody(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Result<Decision, Forbidden> {
    let mut decision = decide(definition, saga, input, now)?;
    if saga.phase != Phase::Running || decision.saga.phase != Phase::Compensating {
        return Ok(decision);
    }
    for (spot, unit) in units(&decision.saga.clone()) {
        if unit.execute.in_flight() {
            let (action, attempt) = (Action::Execute, unit.execute.attempt);
            let failure = Failure::new(Reason::Cancelled, "nobody waits for it");
            let failed = Entry::AttemptFailed { spot, action, attempt, failure, handling: Handling::Maybe };
            apply(&mut decision.saga, &failed, now);
            decision.entries.push(failed);
        }
    }
    Ok(decision)
}

fn ignores_pending(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Result<Decision, Forbidden> {
    match input {
        Input::Answer { answer, .. } if answer.outcome == Some(Outcome::Pending) => {
            Ok(Decision { saga: saga.clone(), entries: Vec::new(), effects: Vec::new(), ignored: Some(Ignored::Stale) })
        }
        input => decide(definition, saga, input, now),
    }
}

fn forgets_deadlines(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Result<Decision, Forbidden> {
    let timeless = Saga { deadline: None, ..saga.clone() };
    Ok(journaled(saga, decide(definition, &timeless, input, now)?, now))
}

/// Once it has turned round, it has all the time that there is.
fn waits_on_the_way_back(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Result<Decision, Forbidden> {
    match saga.phase {
        Phase::Compensating => forgets_deadlines(definition, saga, input, now),
        _ => decide(definition, saga, input, now),
    }
}

/// Takes the first success for the end.
fn leaves_steps_out(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Result<Decision, Forbidden> {
    let decision = decide(definition, saga, input, now)?;
    let of_a_step = |entry: &Entry| matches!(entry, Entry::Succeeded { action: Action::Execute, .. });
    let Some(first) = decision.entries.iter().position(of_a_step) else { return Ok(decision) };
    let mut entries = decision.entries[..=first].to_vec();
    let mut after = saga.clone();
    entries.iter().for_each(|entry| apply(&mut after, entry, now));
    if after.phase != Phase::Running || units(&after).any(|(_, unit)| unit.execute.under_way()) {
        return Ok(decision);
    }
    let over = Entry::Completed { output: Value::Null.into(), error: None };
    apply(&mut after, &over, now);
    entries.push(over);
    Ok(Decision { saga: after, entries, effects: Vec::new(), ignored: None })
}
