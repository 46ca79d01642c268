//! What must be true of every saga at any time, whatever happens to it in whatever order.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use sagad::core::answer::Answer;
use sagad::core::definition::{CompensateOn, Execute, OnCompensationFailure, Step};
use sagad::core::entry::{Entry, Resolution};
use sagad::core::id::{Action, Spot, StepIx, Ticket};
use sagad::core::input::{Input, Order};
use sagad::core::saga::{ActionState, Failure, Phase, Progress, Reason, Unit};
use serde_json::json;

use crate::play::{Play, START, definition, raw};
use crate::shape::Shape;

/// Something that happens. Which command or step it is about is a number that is taken as far as it goes.
#[derive(Clone, Debug)]
enum Event {
    Answer(u16, Word),
    Back(u16, Reason, bool),
    /// An answer to a command that does not exist.
    Nonsense(u8, bool, u8),
    Timer,
    Pass(u16),
    /// Another daemon's clock is behind.
    ClockBehind(u16),
    Cancel,
    Suspend,
    Resume,
    Retry(u8),
    Resolve(u8, Resolution),
    Signal(bool),
    Fault,
}

#[derive(Clone, Copy, Debug)]
enum Word {
    Success,
    Failure,
    Retry,
    Pending,
}

fn event() -> impl Strategy<Value = Event> {
    let word = prop_oneof![
        6 => Just(Word::Success),
        2 => Just(Word::Failure),
        2 => Just(Word::Retry),
        1 => Just(Word::Pending)
    ];
    let reason = prop::sample::select(vec![
        Reason::Rejected,
        Reason::Expired,
        Reason::DeliveryLimit,
        Reason::MaxLength,
        Reason::Unroutable,
    ]);
    let outcome = prop::sample::select(vec![
        Resolution::Succeeded,
        Resolution::Failed,
        Resolution::Compensated,
        Resolution::GivenUp,
    ]);
    prop_oneof![
        60 => (any::<u16>(), word).prop_map(|(which, word)| Event::Answer(which, word)),
        8 => (any::<u16>(), reason, any::<bool>()).prop_map(|(which, reason, before)| Event::Back(which, reason, before)),
        2 => (any::<u8>(), any::<bool>(), any::<u8>()).prop_map(|(step, undo, attempt)| Event::Nonsense(step, undo, attempt)),
        25 => Just(Event::Timer),
        8 => (0u16..40_000).prop_map(Event::Pass),
        2 => (0u16..2_000).prop_map(Event::ClockBehind),
        2 => Just(Event::Cancel),
        2 => Just(Event::Suspend),
        4 => Just(Event::Resume),
        3 => any::<u8>().prop_map(Event::Retry),
        3 => (any::<u8>(), outcome).prop_map(|(step, outcome)| Event::Resolve(step, outcome)),
        8 => any::<bool>().prop_map(Event::Signal),
        1 => Just(Event::Fault),
    ]
}

fn answer(word: Word) -> Answer {
    let failure = || Failure::new(Reason::Failure, "no");
    match word {
        Word::Success => Answer::Success(json!({ "ok": true })),
        Word::Failure => Answer::Failure(failure()),
        Word::Retry => Answer::Retry(failure()),
        Word::Pending => Answer::Pending,
    }
}

fn happen(play: &mut Play, event: &Event) {
    let nth = |which: u16| usize::from(which) % play.asked.len().max(1);
    let name = |step: u8| play.definition.steps[usize::from(step) % play.definition.steps.len()].name.to_string();
    match *event {
        Event::Answer(which, word) => {
            let Some((ticket, _)) = play.asked.get(nth(which)).copied() else { return };
            let (spot, action, attempt) = (ticket.spot, ticket.action, ticket.attempt);
            play.put(Input::Answer { spot, action, attempt, answer: raw(answer(word)) }).unwrap();
            let answered = play.asked.len();
            // A duplicate sends nothing more.
            play.put(Input::Answer { spot, action, attempt, answer: raw(answer(word)) }).unwrap();
            assert_eq!(play.asked.len(), answered, "a duplicate sent something");
        }
        Event::Back(which, reason, delivered_before) => {
            let Some((ticket, _)) = play.asked.get(nth(which)).copied() else { return };
            let (spot, action, attempt) = (ticket.spot, ticket.action, ticket.attempt);
            let message = "it came back".to_owned();
            play.put(Input::Undelivered { spot, action, attempt, reason, message, delivered_before, resent: false })
                .unwrap();
        }
        Event::Nonsense(step, undo, attempt) => {
            let action = if undo { Action::Compensate } else { Action::Execute };
            let (step, attempt) = (StepIx::from(step), u32::from(attempt));
            let is_it =
                |ticket: &Ticket| (ticket.spot, ticket.action, ticket.attempt) == (step.into(), action, attempt);
            if play.asked.iter().any(|(ticket, _)| is_it(ticket)) {
                return;
            }
            let before = play.saga.clone();
            play.put(Input::Answer { spot: step.into(), action, attempt, answer: raw(answer(Word::Success)) }).unwrap();
            assert_eq!(play.saga, before, "an answer to nothing changed something");
        }
        Event::Timer => {
            if let Some(due) = play.due() {
                play.now = due.max(play.now);
            }
            tick(play);
        }
        Event::Pass(millis) => {
            play.now = play.now.plus(Duration::from_millis(millis.into()));
            tick(play);
        }
        Event::ClockBehind(millis) => play.now.0 = (play.now.0 - i64::from(millis)).max(START.0),
        // Orders that the state forbids change nothing.
        Event::Cancel => drop(play.order(Order::Cancel { reason: None })),
        Event::Suspend => drop(play.order(Order::Suspend { reason: None })),
        Event::Resume => drop(play.order(Order::Resume { reason: None })),
        Event::Retry(step) => drop(play.retry_step(&name(step))),
        Event::Resolve(step, outcome) => drop(play.resolve(&name(step), outcome)),
        Event::Signal(known) => signal(play, known.then_some("same")),
        Event::Fault => play.put(Input::Fault { message: "a fault".into() }).unwrap(),
    }
}

/// A timer that is still due after it was heard would wake the saga for ever.
pub(crate) fn tick(play: &mut Play) {
    play.put(Input::Tick).unwrap();
    let due = play.due();
    assert!(due.is_none_or(|due| due > play.now), "a timer that does not go away: {:#?}", play.saga);
}

/// A signal, whose sender may have given it an id that he gives to all.
pub(crate) fn signal(play: &mut Play, id: Option<&str>) {
    let (name, id) = ("go".to_owned(), id.map(str::to_owned));
    // A saga that waits for none refuses it.
    drop(play.put(Input::Signal { name, id, payload: json!({ "go": true }), actor: None }));
}

/// Whether what is known of the execute calls for an undo: said again, in other words than the core's.
fn owed(step: &Step, unit: &Unit) -> bool {
    let Some(compensate) = &step.compensate else { return false };
    let CompensateOn { success, in_doubt, failure } = compensate.on;
    let ActionState { progress, unanswered, held, handled, .. } = &unit.execute;
    match progress {
        Progress::Succeeded { .. } => success,
        Progress::Failed { by: None, .. } if !unanswered.is_empty() || !held.is_empty() => in_doubt,
        Progress::Failed { .. } => failure && *handled,
        _ => false,
    }
}

fn is_settled(play: &Play, step: &Step, unit: &Unit) -> bool {
    match unit.compensate.progress {
        Progress::Succeeded { .. } | Progress::GivenUp { .. } => true,
        Progress::Failed { .. } => play.definition.on_compensation_failure == OnCompensationFailure::Continue,
        Progress::Running { .. } | Progress::Scheduled { .. } => false,
        Progress::Idle | Progress::Skipped { .. } => {
            !unit.execute.under_way() && !unit.probe.under_way() && !owed(step, unit)
        }
    }
}

fn settled(play: &Play, step: StepIx) -> bool {
    play.saga.steps[step].units().all(|(_, unit)| is_settled(play, &play.definition.steps[step], unit))
}

fn went_well(play: &Play, step: StepIx) -> bool {
    play.saga.steps[step].units().all(|(_, unit)| match unit.execute.progress {
        Progress::Succeeded { .. } | Progress::Skipped { .. } => true,
        Progress::Failed { .. } => play.definition.steps[step].optional,
        _ => false,
    })
}

/// Checks the saga after an event; `seen` commands, events and orders to children had been sent before it.
pub(crate) fn check(play: &Play, seen: usize) {
    let mut attempts: BTreeMap<(Spot, Action), u32> = BTreeMap::new();
    for (nth, (ticket, _)) in play.asked.iter().enumerate() {
        let attempt = attempts.entry((ticket.spot, ticket.action)).or_default();
        *attempt += 1;
        assert_eq!(ticket.attempt, *attempt, "attempts are numbered without a gap");
        if nth < seen {
            continue;
        }
        let step = &play.definition.steps[ticket.spot.step];
        let unit = play.saga.unit(ticket.spot).expect("what is sent has a unit");
        match ticket.action {
            Action::Execute => {
                assert!(step.after.iter().all(|earlier| went_well(play, *earlier)), "`{}` came too soon", step.name);
            }
            Action::Probe => {
                assert!(unit.execute.may_have_been_done(), "`{}` is asked about", step.name);
            }
            Action::Compensate => {
                let sent = matches!(step.execute, Execute::Wait(_)) || {
                    let is_it = |earlier: &Ticket| (earlier.spot, earlier.action) == (ticket.spot, Action::Execute);
                    play.asked[..nth].iter().any(|(earlier, _)| is_it(earlier))
                };
                // What an operator says to be done is undone, whoever did it.
                let said = |entry: &Entry| match entry {
                    Entry::Resolved { spot, outcome: Resolution::Succeeded, .. } => *spot == ticket.spot,
                    _ => false,
                };
                let said = play.journal.iter().flat_map(|(_, entries)| entries).any(said);
                assert!(sent || said, "`{}` was never sent and is undone", step.name);
                // A retry of what was begun in order goes on, even if a late success has unsettled what comes after it.
                if unit.compensate.attempt == unit.compensate.void + 1 {
                    let unsettled = step.later.iter().find(|later| !settled(play, **later));
                    assert_eq!(unsettled, None, "`{}` is undone before what came after it", step.name);
                }
            }
        }
    }
    went_one_way(play);
    for (step, state) in play.definition.steps.iter().zip(&play.saga.steps) {
        let at_once = step.foreach.as_ref().map_or(1, |foreach| foreach.max_parallel);
        let forward = state.units().filter(|(_, unit)| unit.execute.under_way()).count();
        let back = state.units().filter(|(_, unit)| unit.compensate.under_way()).count();
        assert!(forward.max(back) <= at_once as usize, "too many elements of `{}` at once", step.name);
    }
    let steps = 0..play.definition.steps.len();
    let actions = || play.saga.steps.iter().flat_map(|step| step.units()).flat_map(|(_, unit)| unit.actions());
    match play.saga.phase {
        Phase::Completed { .. } => assert!(steps.clone().all(|step| went_well(play, step))),
        Phase::Compensated { .. } | Phase::Failed { .. } => {
            assert!(steps.clone().all(|step| settled(play, step)), "it ended and owes something: {:#?}", play.saga);
        }
        Phase::Pending { .. } | Phase::Running | Phase::Compensating => {
            let answers = actions().any(|(_, action)| action.in_flight());
            let waits = play.saga.suspended.is_some() || play.due().is_some() || answers;
            assert!(waits, "nothing will ever happen to it: {:#?}", play.saga);
        }
    }
    if play.saga.status().is_terminal() {
        assert!(
            actions().all(|(_, action)| !action.under_way()),
            "it ended with something under way: {:#?}",
            play.saga
        );
        assert_eq!(play.due(), None);
        assert_eq!(play.saga.suspended, None);
    }
}

/// Nothing forward once it compensates, and no way back from its point of no return.
fn went_one_way(play: &Play) {
    let (mut compensates, mut no_return) = (false, false);
    for entry in play.journal.iter().flat_map(|(_, entries)| entries) {
        match entry {
            Entry::Compensating { .. } => {
                assert!(!no_return, "it turned round past its pivot");
                compensates = true;
            }
            Entry::Sent { action: Action::Execute | Action::Probe, .. } | Entry::Waiting { .. } => {
                assert!(!compensates, "forward after it began to compensate");
            }
            Entry::Succeeded { spot, action: Action::Execute | Action::Probe, .. }
            | Entry::Taken { spot, .. }
            | Entry::Resolved { spot, outcome: Resolution::Succeeded, .. } => {
                let step = &play.definition.steps[spot.step];
                no_return |= !compensates && step.pivot && step.foreach.is_none();
            }
            _ => {}
        }
    }
}

/// From now on all is well: everything in flight succeeds, the operator sees to what is stuck.
fn heal(play: &mut Play) {
    let mut stuck = None;
    for _ in 0..500 {
        if play.saga.status().is_terminal() {
            return;
        }
        let in_flight = play.asked.iter().map(|(ticket, _)| *ticket).find(|ticket| {
            let state = play.saga.unit(ticket.spot).unwrap().action(ticket.action);
            state.in_flight() && state.attempt == ticket.attempt
        });
        let waits = |step: usize| matches!(play.definition.steps[step].execute, Execute::Wait(_));
        let waiting = (0..play.saga.steps.len())
            .any(|step| waits(step) && play.saga.steps[step].units().any(|(_, unit)| unit.execute.in_flight()));
        let seen = play.asked.len();
        if let Some(ticket) = in_flight {
            let answer = raw(answer(Word::Success));
            let (spot, action, attempt) = (ticket.spot, ticket.action, ticket.attempt);
            play.put(Input::Answer { spot, action, attempt, answer }).unwrap();
        } else if let Some(suspended) = play.saga.suspended.clone() {
            // One that waits for its delay first is back later.
            let again = suspended.spot.is_some() && stuck.take() == suspended.spot;
            if !again {
                stuck = suspended.spot;
                play.resume();
            }
            if let Some(spot) = play.saga.suspended.as_ref().and_then(|suspension| suspension.spot) {
                // It can't be rendered: no attempt will help.
                stuck = None;
                let name = play.definition.steps[spot.step].name.to_string();
                let forward = play.saga.phase == Phase::Running;
                let outcome = if forward { Resolution::Succeeded } else { Resolution::GivenUp };
                play.resolve(&name, outcome).unwrap();
            }
        } else if waiting {
            signal(play, None);
        } else {
            play.now = play.due().expect("something to wait for").max(play.now);
            tick(play);
        }
        check(play, seen);
    }
    panic!("it does not end: {:#?}", play.saga);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2 * ProptestConfig::default().cases, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hold_whatever_happens(shape in Shape::any(), events in vec(event(), 0..60), delay in prop::option::weighted(0.1, 1u64..20)) {
        let delay = Duration::from_secs(delay.unwrap_or(0));
        let mut play = Play::on(definition(&shape.toml()), Shape::input(), delay);
        check(&play, 0);
        for event in &events {
            let seen = play.asked.len();
            happen(&mut play, event);
            check(&play, seen);
        }
        heal(&mut play);
    }
}
