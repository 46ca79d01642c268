//! Why a saga is where it is: what it waits for and since when, what comes next and when, what an operator can do.
//!
//! ```text
//!                             ┌─> waits: what it waits for ─┐
//!   definition, saga, now ────┤        (sequel) ────────────┼─> Explanation ─> text: for a person
//!                             └─> choices: what is allowed ─┘
//! ```
//!
//! The rules of sagas are not in here. What would follow from a refusal, a time-out or an order is found by asking
//! [`decide`](crate::core::decide::decide) as if it had happened, so that it can't be at odds with what does happen.

mod ahead;
mod choices;
mod outcome;
mod sequel;
mod text;
mod waits;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::core::definition::Definition;
use crate::core::id::{Action, StepIx};
use crate::core::saga::{Addressee, Phase, Saga, Tally};
use crate::core::time::{At, Time};

pub use text::text;

/// What an operator has to know about one saga.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The saga's id.
    pub id: String,
    /// The definition's name.
    pub saga: String,
    /// The business key.
    pub key: Option<String>,
    /// The status.
    pub status: String,
    /// When all this was so.
    pub at: At,
    /// In one sentence.
    pub summary: String,
    /// Since when it is in this status, where that is known.
    pub since: Option<At>,
    /// What it waits for; of the elements of a step those that wait for the same are one.
    pub waits: Vec<Wait>,
    /// Whatever else matters.
    pub notes: Vec<String>,
    /// What an operator can do now.
    pub choices: Vec<Choice>,
}

/// One thing that a saga waits for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wait {
    /// Which kind of thing.
    pub kind: Kind,
    /// The step that waits; absent where the saga as a whole does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The elements of it that wait; the rest is about the one that waits for the shortest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<Items>,
    /// `execute`, `compensate` or `probe`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// For a person.
    pub what: String,
    /// The latest attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Attempts that may follow it; absent: without end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts_left: Option<u32>,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<At>,
    /// When it has waited long enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<At>,
    /// What went wrong before, for a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
    /// Other sagas that it waits for: children, or those that hold its lock.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sagas: Vec<Other>,
    /// What comes next.
    pub next: Vec<Next>,
}

/// The kinds of [`Wait`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The time that it was to begin at.
    Start,
    /// Its lock, or a place among the sagas that run at once.
    Turn,
    /// A participant's answer.
    Answer,
    /// The broker's confirm of an event.
    Confirm,
    /// A signal.
    Signal,
    /// An event of another service.
    Event,
    /// A child saga.
    Child,
    /// The end of a `sleep`.
    Sleep,
    /// The end of a `delay`.
    Delay,
    /// The end of a back-off.
    Backoff,
    /// That later steps are undone.
    Order,
    /// An operator.
    Operator,
}

/// Elements of a `foreach` step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Items {
    /// How many of them wait.
    pub count: u32,
    /// The first of these.
    pub first: Vec<u32>,
    /// How many elements the step has.
    pub of: u32,
    /// How many have not begun.
    pub not_begun: u32,
}

/// Another saga.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Other {
    /// Its id.
    pub id: String,
    /// Its status, where whoever asked found out.
    pub status: Option<String>,
}

/// Something that may come next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Next {
    /// If this happens: `success`, `failure`, or `time`.
    pub on: String,
    /// When, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<At>,
    /// What follows, for a person.
    pub what: String,
}

/// Something that an operator can do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// `cancel`, `suspend`, `resume`, `retry`, `resolve` or `signal`.
    pub order: String,
    /// The step, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// What follows, for a person.
    pub effect: String,
    /// The command line.
    pub command: String,
    /// The call of the HTTP API: `POST` to this path,
    pub path: String,
    /// with this body.
    pub body: serde_json::Value,
}

/// Elements named one by one.
const NAMED: usize = 3;

/// Explains a saga.
pub fn explain(definition: &Definition, saga: &Saga, now: Time) -> Explanation {
    let case = Case { definition, saga, now };
    Explanation {
        id: saga.id.to_string(),
        saga: saga.definition.to_string(),
        key: saga.key.as_deref().map(str::to_owned),
        status: saga.status().as_str().to_owned(),
        at: At(now),
        summary: case.summary(),
        since: case.since().map(At),
        waits: case.waits(),
        notes: case.notes(),
        choices: case.choices(),
    }
}

/// What is explained.
struct Case<'a> {
    definition: &'a Definition,
    saga: &'a Saga,
    now: Time,
}

impl Case<'_> {
    fn since(&self) -> Option<Time> {
        if let Some(suspension) = &self.saga.suspended {
            return Some(suspension.since);
        }
        match self.saga.phase {
            Phase::Pending { .. } => Some(self.saga.created_at),
            Phase::Running => self.saga.started_at,
            Phase::Compensating => None,
            Phase::Completed { at, .. } | Phase::Compensated { at } | Phase::Failed { at } => Some(at),
        }
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        notes.extend(self.point_of_no_return());
        notes.extend(self.deadline());
        notes.extend(self.kept());
        if let Some(parent) = &self.saga.parent {
            notes.push(format!("step `{}` of saga {} runs this one and waits for its end", parent.step, parent.saga));
        }
        if self.saga.status().is_terminal() {
            notes.extend(self.given_up());
        }
        notes
    }

    fn point_of_no_return(&self) -> Option<String> {
        let under_way = !self.saga.status().is_terminal() && self.saga.is_past_pivot(self.definition);
        under_way.then(|| {
            "it is past its point of no return: it only goes forward, what fails for the moment is tried without end, \
             and it can't be cancelled"
                .to_owned()
        })
    }

    fn deadline(&self) -> Option<String> {
        if self.saga.phase == Phase::Compensating {
            let deadline = self.saga.timers(self.definition).deadline?;
            return Some(format!("its deadline is {deadline}: what is still in flight forward is in doubt then"));
        }
        let deadline = self.saga.end(self.definition).filter(|_| self.saga.phase == Phase::Running)?;
        Some(match self.saga.suspended {
            None => format!("its deadline is {deadline}: then what is in flight is in doubt, and all is undone"),
            Some(_) if deadline <= self.now => {
                format!("its deadline, {deadline}, has passed: once it is resumed, all is undone")
            }
            Some(_) => format!("its deadline is {deadline}: if it is resumed after that, all is undone"),
        })
    }

    /// Signals and events that came early.
    fn kept(&self) -> Option<String> {
        let mut kept: BTreeMap<String, usize> = BTreeMap::new();
        if self.saga.status().is_terminal() {
            return None;
        }
        for letter in &self.saga.letters {
            let what = match &letter.to {
                Addressee::Signal(name) => format!("signal `{name}`"),
                Addressee::Step(step) => format!("event for step `{}`", self.name(*step)),
            };
            *kept.entry(what).or_default() += 1;
        }
        let kept: Vec<String> = kept.into_iter().map(|(what, count)| format!("{what} ({count})")).collect();
        (!kept.is_empty()).then(|| format!("came early, and kept until a step waits for it: {}", kept.join(", ")))
    }

    fn name(&self, step: StepIx) -> &str {
        self.definition.steps.get(step).map_or("?", |step| &step.name)
    }

    fn tally(&self, step: StepIx) -> Tally {
        tally(self.definition, self.saga, step)
    }
}

fn tally(definition: &Definition, saga: &Saga, step: StepIx) -> Tally {
    saga.steps[step].tally(&definition.steps[step], definition.on_compensation_failure)
}

/// Everything an action can be called by: the routing key or the name of what is sent.
fn sent_as(definition: &Definition, step: StepIx, action: Action) -> Option<&str> {
    use crate::core::definition::Execute;
    let step = &definition.steps[step];
    let command = step.sends(action);
    match (command, action, &step.execute) {
        (Some(command), ..) => Some(&command.routing_key),
        (None, Action::Execute, Execute::Publish(event)) => Some(&event.routing_key),
        (None, Action::Execute, Execute::Saga(child)) => Some(&child.definition),
        _ => None,
    }
}

/// `a`, `b` and `c`; of many the first, and how many more.
fn listed(names: &[&str]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    match (shown.as_slice(), names.len().saturating_sub(SHOWN)) {
        ([], _) => String::new(),
        ([only], 0) => only.clone(),
        ([most @ .., last], 0) => format!("{} and {last}", most.join(", ")),
        (shown, more) => format!("{} and {more} more", shown.join(", ")),
    }
}

/// `step` or `steps`.
fn steps(count: usize) -> &'static str {
    if count == 1 { "step" } else { "steps" }
}
