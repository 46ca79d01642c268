//! Mistakes made on purpose, one at a time: the checks are worth something only if they find each.

use std::cell::RefCell;
use std::collections::BTreeMap;

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
}

impl Mutant {
    pub(crate) const ALL: [Mutant; 17] = [
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
    ];

    /// The laws by which it may be found.
    pub(crate) fn found_by(self) -> &'static [&'static str] {
        match self {
            Mutant::AcknowledgesBeforeCommit => &["acknowledged-after-commit"],
            // What is not sent again is either told by nobody, or waited for in vain.
            Mutant::ForgetsTheOutbox => &["told", "nothing-lost", "ends", "at-rest"],
            Mutant::IgnoresTheVersion => &["replay", "first-decides", "once", "attempts", "duplicate"],
            Mutant::IgnoresLateSuccesses => &["effect"],
            Mutant::UndoesInAnyOrder => &["reverse"],
            Mutant::LosesTimers => &["ends"],
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
        }
    }
}

/// What decides in a run.
pub(crate) fn decides(mutant: Option<Mutant>) -> Decide {
    match mutant {
        Some(Mutant::IgnoresLateSuccesses) => ignores_late_successes,
        Some(Mutant::UndoesInAnyOrder | Mutant::GivesUpEarly | Mutant::LetsCommandsLive) => misreads,
        Some(Mutant::ConfusesAttempts) => confuses_attempts,
        Some(Mutant::TrustsWakeUps) => trusts_wake_ups,
        Some(Mutant::AppliesDuplicates) => applies_duplicates,
        Some(Mutant::RendersAnew) => renders_anew,
        Some(Mutant::DropsSignals) => drops_signals,
        Some(Mutant::WaitsBeyondDeadlines) => waits_beyond_deadlines,
        Some(Mutant::WaitsForNobody) => waits_for_nobody,
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
            _ => return,
        }
    }
    MISREAD.with_borrow_mut(|misread| drop(misread.insert(name(&definition), definition)));
}

/// Of one edition of a definition.
fn name(definition: &Definition) -> String {
    format!("{} {:?}", definition.name, definition.description)
}

fn misreads(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Result<Decision, Forbidden> {
    MISREAD.with_borrow(|misread| decide(misread.get(&name(definition)).unwrap_or(definition), saga, input, now))
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
