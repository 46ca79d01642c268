//! What must be true of every saga at any time, whatever happens to it in whatever order.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use sagad::core::answer::Answer;
use sagad::core::definition::{CompensateOn, OnCompensationFailure, Step};
use sagad::core::entry::{Entry, Resolution};
use sagad::core::id::{Action, StepIx};
use sagad::core::input::{Input, Order};
use sagad::core::saga::{ActionState, Failure, Phase, Progress, Reason, StepState};
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
    let nth = |which: u16| usize::from(which) % play.sent.len().max(1);
    let name = |step: u8| play.definition.steps[usize::from(step) % play.definition.steps.len()].name.to_string();
    match *event {
        Event::Answer(which, word) => {
            let Some(ticket) = play.sent.get(nth(which)).map(|command| command.ticket) else { return };
            let (spot, action, attempt) = (ticket.spot, ticket.action, ticket.attempt);
            play.put(Input::Answer { spot, action, attempt, answer: raw(answer(word)) }).unwrap();
            let answered = play.sent.len();
            // A duplicate sends nothing more.
            play.put(Input::Answer { spot, action, attempt, answer: raw(answer(word)) }).unwrap();
            assert_eq!(play.sent.len(), answered, "a duplicate sent something");
        }
        Event::Back(which, reason, delivered_before) => {
            let Some(ticket) = play.sent.get(nth(which)).map(|command| command.ticket) else { return };
            let (spot, action, attempt) = (ticket.spot, ticket.action, ticket.attempt);
            let message = "it came back".to_owned();
            play.put(Input::Undelivered { spot, action, attempt, reason, message, delivered_before }).unwrap();
        }
        Event::Nonsense(step, undo, attempt) => {
            let action = if undo { Action::Compensate } else { Action::Execute };
            let (step, attempt) = (StepIx::from(step), u32::from(attempt));
            if play
                .sent
                .iter()
                .any(|it| (it.ticket.spot.step, it.ticket.action, it.ticket.attempt) == (step, action, attempt))
            {
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
        Event::Fault => play.put(Input::Fault { message: "a fault".into() }).unwrap(),
    }
}

/// A timer that is still due after it was heard would wake the saga for ever.
pub(crate) fn tick(play: &mut Play) {
    play.put(Input::Tick).unwrap();
    let due = play.due();
    assert!(due.is_none_or(|due| due > play.now), "a timer that does not go away: {:#?}", play.saga);
}

/// Whether what is known of the execute calls for an undo: said again, in other words than the core's.
fn owed(step: &Step, state: &StepState) -> bool {
    let Some(compensate) = &step.compensate else { return false };
    let CompensateOn { success, in_doubt, failure } = compensate.on;
    let ActionState { progress, unanswered, handled, .. } = &state.unit.execute;
    match progress {
        Progress::Succeeded { .. } => success,
        Progress::Failed { by: None, .. } if !unanswered.is_empty() => in_doubt,
        Progress::Failed { .. } => failure && *handled,
        _ => false,
    }
}

fn settled(play: &Play, step: StepIx) -> bool {
    let (definition, state) = (&play.definition.steps[step], &play.saga.steps[step]);
    match state.unit.compensate.progress {
        Progress::Succeeded { .. } | Progress::GivenUp { .. } => true,
        Progress::Failed { .. } => play.definition.on_compensation_failure == OnCompensationFailure::Continue,
        Progress::Running { .. } | Progress::Scheduled { .. } => false,
        Progress::Idle | Progress::Skipped { .. } => !state.unit.execute.under_way() && !owed(definition, state),
    }
}

fn went_well(play: &Play, step: StepIx) -> bool {
    match play.saga.steps[step].unit.execute.progress {
        Progress::Succeeded { .. } | Progress::Skipped { .. } => true,
        Progress::Failed { .. } => play.definition.steps[step].optional,
        _ => false,
    }
}

/// Checks the saga after an event; `seen` commands had been sent before it.
pub(crate) fn check(play: &Play, seen: usize) {
    let mut attempts: BTreeMap<(StepIx, Action), u32> = BTreeMap::new();
    for (nth, command) in play.sent.iter().enumerate() {
        let ticket = command.ticket;
        let attempt = attempts.entry((ticket.spot.step, ticket.action)).or_default();
        *attempt += 1;
        assert_eq!(ticket.attempt, *attempt, "attempts are numbered without a gap");
        if nth < seen {
            continue;
        }
        let step = &play.definition.steps[ticket.spot.step];
        match ticket.action {
            Action::Execute => {
                assert!(step.after.iter().all(|earlier| went_well(play, *earlier)), "`{}` came too soon", step.name);
            }
            Action::Probe => assert!(play.saga.steps[ticket.spot.step].unit.execute.attempt > 0),
            Action::Compensate => {
                let sent = play.sent[..nth].iter().any(|earlier| {
                    (earlier.ticket.spot.step, earlier.ticket.action) == (ticket.spot.step, Action::Execute)
                });
                assert!(sent, "`{}` was never sent and is undone", step.name);
                let undo = &play.saga.steps[ticket.spot.step].unit.compensate;
                // A retry of what was begun in order goes on, even if a late success has unsettled what comes after it.
                if undo.attempt == undo.void + 1 {
                    let unsettled = step.later.iter().find(|later| !settled(play, **later));
                    assert_eq!(unsettled, None, "`{}` is undone before what came after it", step.name);
                }
            }
        }
    }
    let mut compensates = false;
    for entry in play.journal.iter().flat_map(|(_, entries)| entries) {
        compensates |= matches!(entry, Entry::Compensating { .. });
        let forward = matches!(entry, Entry::Sent { action: Action::Execute, .. });
        assert!(!(compensates && forward), "forward after it began to compensate");
    }
    let steps = 0..play.definition.steps.len();
    let actions = || play.saga.steps.iter().flat_map(|step| [&step.unit.execute, &step.unit.compensate]);
    match play.saga.phase {
        Phase::Completed { .. } => assert!(steps.clone().all(|step| went_well(play, step))),
        Phase::Compensated { .. } | Phase::Failed { .. } => {
            assert!(steps.clone().all(|step| settled(play, step)), "it ended and owes something: {:#?}", play.saga);
        }
        Phase::Pending { .. } | Phase::Running | Phase::Compensating => {
            let waits = play.saga.suspended.is_some() || play.due().is_some();
            assert!(waits, "nothing will ever happen to it: {:#?}", play.saga);
        }
    }
    if play.saga.status().is_terminal() {
        assert!(actions().all(|action| !action.under_way()), "it ended with something under way: {:#?}", play.saga);
        assert_eq!(play.due(), None);
        assert_eq!(play.saga.suspended, None);
    }
}

/// From now on all is well: everything in flight succeeds, the operator sees to what is stuck.
fn heal(play: &mut Play) {
    for _ in 0..500 {
        if play.saga.status().is_terminal() {
            return;
        }
        let in_flight = play.sent.iter().map(|command| command.ticket).find(|ticket| {
            let state = play.saga.steps[ticket.spot.step].unit.action(ticket.action);
            state.in_flight() && state.attempt == ticket.attempt
        });
        let seen = play.sent.len();
        if let Some(ticket) = in_flight {
            let answer = answer(Word::Success);
            let (spot, action, attempt) = (ticket.spot, ticket.action, ticket.attempt);
            play.put(Input::Answer { spot, action, attempt, answer: raw(answer) }).unwrap();
        } else if play.saga.suspended.is_some() {
            play.resume();
            if let Some(spot) = play.saga.suspended.as_ref().and_then(|suspension| suspension.spot) {
                // It can't be rendered: no attempt will help.
                let name = play.definition.steps[spot.step].name.to_string();
                play.resolve(&name, Resolution::GivenUp).unwrap();
            }
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
        let mut play = Play::on(definition(&shape.toml()), json!({ "yes": true, "no": false }), delay);
        check(&play, 0);
        for event in &events {
            let seen = play.sent.len();
            happen(&mut play, event);
            check(&play, seen);
        }
        heal(&mut play);
    }
}
