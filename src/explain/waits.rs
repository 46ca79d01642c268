//! What a saga waits for, unit by unit; of the elements of a step those that wait for the same are told of as one.

use serde_json::json;

use super::outcome::in_words;
use super::{Case, Items, Kind, NAMED, Next, Other, Wait, listed, steps};
use crate::core::answer::{Outcome, RawAnswer};
use crate::core::decide::terms;
use crate::core::definition::{Awaited, Execute};
use crate::core::id::{Action, SagaId, Spot, StepIx, Ticket};
use crate::core::input::Input;
use crate::core::retry::backoff;
use crate::core::saga::{ActionState, Phase, Progress, Unit};
use crate::core::time::{At, Time};

impl Case<'_> {
    pub(super) fn waits(&self) -> Vec<Wait> {
        if self.saga.status().is_terminal() {
            return Vec::new();
        }
        let mut waits: Vec<Wait> = self.operator().into_iter().chain(self.beginning()).collect();
        for step in 0..self.saga.steps.len() {
            for action in [Action::Execute, Action::Probe, Action::Compensate] {
                waits.extend(self.group(step, action, |progress| matches!(progress, Progress::Running { .. })));
                waits.extend(self.group(step, action, |progress| matches!(progress, Progress::Scheduled { .. })));
            }
        }
        // In the order in which they will be undone.
        waits.extend((0..self.saga.steps.len()).rev().filter_map(|step| self.turn_back(step)));
        waits
    }

    fn operator(&self) -> Option<Wait> {
        let suspension = self.saga.suspended.as_ref()?;
        let mut wait = Wait::new(Kind::Operator, format!("an operator, because {}", suspension.reason));
        wait.since = Some(At(suspension.since));
        wait.step = suspension.spot.map(|spot| self.name(spot.step).to_owned());
        Some(wait)
    }

    fn beginning(&self) -> Option<Wait> {
        let Phase::Pending { due, held } = self.saga.phase else { return None };
        let mut wait = match (held, &self.saga.lock, self.definition.max_running) {
            (false, ..) => Wait::new(Kind::Start, "the time that it is to begin at".to_owned()),
            (true, Some(lock), None) => Wait::new(Kind::Turn, format!("its lock `{lock}`, which another saga holds")),
            (true, Some(lock), Some(most)) => {
                Wait::new(Kind::Turn, format!("its lock `{lock}`, and one of the {most} places of `max_running`"))
            }
            (true, None, most) => {
                let most = most.unwrap_or_default();
                Wait::new(Kind::Turn, format!("one of the {most} places that `max_running` allows"))
            }
        };
        wait.since = Some(At(self.saga.created_at.max(if held { due } else { self.saga.created_at })));
        if held {
            let what = format!("it begins, with priority {}; higher ones and older ones go first", self.saga.priority);
            wait.next.push(Next { on: "success".to_owned(), at: None, what });
        } else {
            wait.until = Some(At(due));
            wait.next.extend(self.in_time(self.sequel(self.saga, Input::Tick, due.max(self.now)), due));
        }
        Some(wait)
    }

    /// The units of a step of which an action is at the same point, as one.
    fn group(&self, step: StepIx, action: Action, wanted: impl Fn(&Progress) -> bool) -> Option<Wait> {
        let state = &self.saga.steps[step];
        let units = || state.units().filter(|(_, unit)| wanted(&unit.action(action).progress));
        let (item, unit) = units().min_by_key(|(_, unit)| end(unit.action(action)).unwrap_or(Time(i64::MAX)))?;
        let spot = Spot { step, item };
        let mut wait = match unit.action(action).progress {
            Progress::Scheduled { due } => self.scheduled(spot, action, unit, due),
            _ => self.running(spot, action, unit),
        };
        wait.step = Some(self.name(step).to_owned());
        wait.action = Some(action.as_str().to_owned());
        wait.last_failure = unit.action(action).last_failure.as_ref().map(in_words);
        let goes_forward = action == Action::Execute && self.saga.phase == Phase::Running;
        wait.items = state.elements.as_ref().map(|elements| Items {
            count: units().count() as u32,
            first: units().filter_map(|(item, _)| item).take(NAMED).collect(),
            of: elements.count,
            not_begun: if goes_forward { self.tally(step).idle } else { 0 },
        });
        if wait.kind == Kind::Child {
            let children = units().take(NAMED).filter_map(|(item, unit)| self.child(Spot { step, item }, unit));
            wait.sagas = children.map(|id| Other { id: id.to_string(), status: None }).collect();
        }
        Some(wait)
    }

    /// A delay or a back-off.
    fn scheduled(&self, spot: Spot, action: Action, unit: &Unit, due: Time) -> Wait {
        let state = unit.action(action);
        let definition = &self.definition.steps[spot.step];
        let (_, retry) = terms(self.definition, self.saga, spot, action);
        let mut wait = match (state.attempt, &definition.execute) {
            (0, Execute::Sleep(sleep)) => {
                let mut wait = Wait::new(Kind::Sleep, "the end of its sleep".to_owned());
                wait.since = Some(At(before(due, definition.delay.saturating_add(*sleep))));
                wait
            }
            (0, _) => {
                let mut wait = Wait::new(Kind::Delay, "the end of its delay".to_owned());
                wait.since = Some(At(before(due, definition.delay)));
                wait
            }
            (attempt, _) => {
                let what = self.called(spot.step, action);
                let what = format!("the back-off before attempt {} of {what}", attempt + 1);
                let mut wait = Wait::new(Kind::Backoff, what);
                let ticket = Ticket { saga: self.saga.id, spot, action, attempt };
                wait.since = Some(At(before(due, backoff(&retry, state.tries().max(1), ticket))));
                wait.attempt = Some(attempt);
                wait.attempts_left = self.attempts_left(action, state, retry.attempts);
                wait
            }
        };
        wait.until = Some(At(due));
        let saga = self.alone(spot, due);
        let then = match self.saga.suspended {
            Some(_) => Some("it goes on once the saga is resumed".to_owned()),
            None => self.sequel(&saga, Input::Tick, due.max(self.now)),
        };
        wait.next.extend(self.in_time(then, due));
        wait
    }

    /// Something is out, or awaited.
    fn running(&self, spot: Spot, action: Action, unit: &Unit) -> Wait {
        let state = unit.action(action);
        let (time, retry) = terms(self.definition, self.saga, spot, action);
        let (kind, what) = self.awaited(spot, action, unit);
        let mut wait = Wait::new(kind, what);
        let deadline = end(state);
        // The latest attempt's own time, where its end does not come from somewhere else.
        let sent = match (deadline, time) {
            (Some(deadline), Some(time)) if Some(deadline) != self.saga.deadline && kind == Kind::Answer => {
                Some(before(deadline, time))
            }
            _ => state.started_at,
        };
        wait.since = sent.or(state.started_at).map(At);
        wait.until = deadline.map(At);
        // A child that has taken its order is not asked again.
        if kind == Kind::Answer || kind == Kind::Child && !state.pending {
            wait.attempt = Some(state.attempt);
            wait.attempts_left = self.attempts_left(action, state, retry.attempts);
        }
        wait.next.push(Next { on: "success".to_owned(), at: None, what: self.ahead(spot, action) });
        if matches!(kind, Kind::Answer | Kind::Child) {
            let answer = RawAnswer::new(Some(Outcome::Failure), json!({ "error": "as the answer says" }));
            let input = Input::Answer { spot, action, attempt: state.attempt, answer };
            let what = self.sequel(self.saga, input, self.now);
            wait.next.extend(what.map(|what| Next { on: "failure".to_owned(), at: None, what }));
        }
        if let Some(deadline) = deadline {
            let saga = self.alone(spot, deadline);
            wait.next.extend(self.in_time(self.sequel(&saga, Input::Tick, deadline.max(self.now)), deadline));
        }
        wait
    }

    fn awaited(&self, spot: Spot, action: Action, unit: &Unit) -> (Kind, String) {
        let definition = &self.definition.steps[spot.step];
        let state = unit.action(action);
        let command = definition.sends(action);
        if let Some(command) = command {
            let attempt = state.attempt;
            let to = format!("attempt {attempt} of `{}` on exchange `{}`", command.routing_key, command.exchange);
            let why = match action {
                Action::Execute => "",
                Action::Compensate => ", which undoes it",
                Action::Probe => ", which asks what became of it",
            };
            let still = if state.pending { "; the participant said that it is still at it" } else { "" };
            let events = [&command.reply.success, &command.reply.failure].into_iter().flatten();
            let events: Vec<&str> = events.map(|pattern| &*pattern.routing_key).collect();
            return match events.is_empty() {
                true => (Kind::Answer, format!("the answer to {to}{why}{still}")),
                false => (Kind::Answer, format!("an event {} after {to}{why}{still}", listed(&events))),
            };
        }
        match (&definition.execute, action) {
            (Execute::Publish(event), _) => {
                let (event, exchange) = (&event.routing_key, &event.exchange);
                (Kind::Confirm, format!("the broker's confirm of the event `{event}` on exchange `{exchange}`"))
            }
            (Execute::Wait(wait), _) => match &wait.until {
                Awaited::Signal(name) => (Kind::Signal, format!("the signal `{name}`")),
                Awaited::Event(event) => {
                    let of = self.saga.key.as_deref().map_or(String::new(), |key| format!(" for the key `{key}`"));
                    (Kind::Event, format!("an event `{}` on exchange `{}`{of}", event.routing_key, event.exchange))
                }
            },
            (Execute::Saga(child), Action::Execute) => {
                let child = &child.definition;
                let what = match state.pending {
                    true => format!("the end of its child saga, a `{child}`"),
                    false => format!("that its child saga, a `{child}`, takes up the order to begin"),
                };
                (Kind::Child, what)
            }
            (Execute::Saga(child), _) => {
                let child = &child.definition;
                let what = match state.pending {
                    true => format!("that its child saga, a `{child}`, is undone"),
                    false => format!("that its child saga, a `{child}`, takes up the order to undo what it did"),
                };
                (Kind::Child, what)
            }
            (Execute::Command(_) | Execute::Sleep(_), _) => (Kind::Answer, "an answer".to_owned()),
        }
    }

    /// A step that is to be undone, and what has to be undone before.
    fn turn_back(&self, step: StepIx) -> Option<Wait> {
        if self.saga.phase != Phase::Compensating || self.tally(step).owed == 0 {
            return None;
        }
        let later = self.definition.steps[step].later.iter();
        let before: Vec<&str> =
            later.filter(|later| self.tally(**later).unsettled > 0).map(|later| self.name(*later)).collect();
        let undo = self.called(step, Action::Compensate);
        let what = if !before.is_empty() {
            format!("that {} {} settled, before {undo} undoes it", steps(before.len()), is(&before))
        } else if self.saga.suspended.is_some() {
            format!("that the saga goes on: then {undo} undoes it")
        } else if self.tally(step).undoing > 0 {
            format!("its turn: {undo} undoes `max_parallel` of its elements at once")
        } else {
            format!("its turn: {undo} undoes it")
        };
        let mut wait = Wait::new(Kind::Order, what);
        wait.step = Some(self.name(step).to_owned());
        wait.action = Some(Action::Compensate.as_str().to_owned());
        let state = &self.saga.steps[step];
        let owed = || state.units().filter(|(_, unit)| unit.owes_undo(&self.definition.steps[step]));
        wait.items = state.elements.as_ref().map(|elements| Items {
            count: owed().count() as u32,
            first: owed().filter_map(|(item, _)| item).take(NAMED).collect(),
            of: elements.count,
            not_begun: 0,
        });
        Some(wait)
    }

    /// Attempts that may follow the latest one.
    fn attempts_left(&self, action: Action, state: &ActionState, attempts: u32) -> Option<u32> {
        let forward = action != Action::Compensate;
        if forward && self.saga.phase != Phase::Running {
            return Some(0);
        }
        let endless = forward && self.saga.is_past_pivot(self.definition);
        (!endless).then(|| attempts.saturating_sub(state.tries()))
    }

    fn child(&self, spot: Spot, unit: &Unit) -> Option<SagaId> {
        let began = unit.execute.started_at?;
        Some(SagaId::child(self.saga.id, spot, began.0))
    }

    fn in_time(&self, what: Option<String>, at: Time) -> Option<Next> {
        what.map(|what| Next { on: "time".to_owned(), at: Some(At(at)), what })
    }
}

impl Wait {
    fn new(kind: Kind, what: String) -> Wait {
        Wait {
            kind,
            step: None,
            items: None,
            action: None,
            what,
            attempt: None,
            attempts_left: None,
            since: None,
            until: None,
            last_failure: None,
            sagas: Vec::new(),
            next: Vec::new(),
        }
    }
}

/// When an action has been waited for, or has waited, long enough.
fn end(state: &ActionState) -> Option<Time> {
    match state.progress {
        Progress::Running { deadline } => deadline,
        Progress::Scheduled { due } => Some(due),
        _ => None,
    }
}

fn before(time: Time, duration: std::time::Duration) -> Time {
    Time(time.0.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
}

fn is(names: &[&str]) -> String {
    format!("{} {}", listed(names), if names.len() == 1 { "is" } else { "are" })
}
