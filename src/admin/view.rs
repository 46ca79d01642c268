//! How sagas and their histories look from outside: docs/http.md, byte for byte.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::core::definition::Definition;
use crate::core::id::{Spot, StepIx};
use crate::core::saga::{self, ActionState, Failure, Phase, Progress, StepState, Unit};
use crate::core::time::Time;

pub use crate::core::time::At;

/// A saga with its steps.
#[derive(Debug, Serialize)]
pub struct Saga<'a> {
    id: String,
    saga: &'a str,
    revision: u32,
    key: Option<&'a str>,
    status: &'static str,
    priority: u8,
    input: &'a Value,
    output: Option<&'a Value>,
    error: Option<SagaError<'a>>,
    suspended: Option<Suspended<'a>>,
    parent: Option<Parent<'a>>,
    created_at: At,
    started_at: Option<At>,
    updated_at: At,
    ended_at: Option<At>,
    deadline: Option<At>,
    steps: Vec<Step<'a>>,
}

/// The step of another saga that runs this one.
#[derive(Debug, Serialize)]
struct Parent<'a> {
    id: String,
    step: &'a str,
}

#[derive(Debug, Serialize)]
struct SagaError<'a> {
    step: Option<String>,
    #[serde(flatten)]
    failure: Error<'a>,
}

/// What went wrong.
#[derive(Debug, Serialize)]
struct Error<'a> {
    reason: &'static str,
    message: &'a str,
    details: &'a Value,
}

#[derive(Debug, Serialize)]
struct Suspended<'a> {
    reason: &'a str,
    since: At,
}

#[derive(Debug, Serialize)]
struct Step<'a> {
    name: String,
    kind: &'static str,
    status: &'static str,
    attempts: u32,
    started_at: Option<At>,
    ended_at: Option<At>,
    reply: Option<&'a Value>,
    error: Option<Error<'a>>,
    compensation: Option<Compensation<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<Vec<Item<'a>>>,
}

/// One element of a `foreach` step.
#[derive(Debug, Serialize)]
struct Item<'a> {
    item: u32,
    status: &'static str,
    attempts: u32,
    started_at: Option<At>,
    ended_at: Option<At>,
    reply: Option<&'a Value>,
    error: Option<Error<'a>>,
    compensation: Option<Compensation<'a>>,
}

#[derive(Debug, Serialize)]
struct Compensation<'a> {
    status: &'static str,
    attempts: u32,
    ended_at: Option<At>,
    reply: Option<&'a Value>,
    error: Option<Error<'a>>,
}

impl<'a> Saga<'a> {
    /// `definition`: the revision that it is pinned to; without it, steps are named by their place.
    pub fn new(saga: &'a saga::Saga, definition: Option<&Definition>) -> Saga<'a> {
        let named = |step: StepIx| step_name(definition, step);
        let error =
            |error: &'a saga::SagaError| SagaError { step: error.step.map(named), failure: Error::new(&error.failure) };
        let output = match &saga.phase {
            Phase::Completed { output, .. } => Some(&**output),
            _ => None,
        };
        Saga {
            id: saga.id.to_string(),
            saga: &saga.definition,
            revision: saga.revision,
            key: saga.key.as_deref(),
            status: saga.status().as_str(),
            priority: saga.priority,
            input: &saga.input,
            output,
            error: saga.error.as_ref().map(error),
            suspended: saga
                .suspended
                .as_ref()
                .map(|suspended| Suspended { reason: &suspended.reason, since: At(suspended.since) }),
            parent: saga.parent.as_ref().map(|parent| Parent { id: parent.saga.to_string(), step: &parent.step }),
            created_at: At(saga.created_at),
            started_at: saga.started_at.map(At),
            updated_at: At(saga.updated_at),
            ended_at: saga.ended_at().map(At),
            deadline: saga.deadline.map(At),
            steps: saga
                .steps
                .iter()
                .enumerate()
                .map(|(at, state)| Step::new(named(at), state, at, definition))
                .collect(),
        }
    }
}

impl<'a> Error<'a> {
    fn new(failure: &'a Failure) -> Error<'a> {
        Error { reason: failure.reason.as_str(), message: &failure.message, details: &failure.details }
    }

    /// Of an action that failed, or whose last attempt did; one that ended well has none.
    fn of(action: &'a ActionState) -> Option<Error<'a>> {
        match action.progress {
            Progress::Succeeded { .. } | Progress::Skipped { .. } => None,
            _ => action.failure().map(Error::new),
        }
    }
}

impl<'a> Step<'a> {
    fn new(name: String, state: &'a StepState, at: StepIx, definition: Option<&Definition>) -> Step<'a> {
        let execute = &state.unit.execute;
        let step = definition.and_then(|definition| definition.steps.get(at));
        let status = match definition.zip(step) {
            Some((definition, step)) => state.status(step, definition.on_compensation_failure),
            None => state.unit.status(),
        };
        let units = || state.units().map(|(_, unit)| unit);
        // A list of sagas does not show them.
        let elements = state.elements.as_ref().filter(|elements| elements.is_restored());
        let items = elements.map(|elements| elements.units().map(Item::new).collect());
        Step {
            name,
            kind: step.map_or("command", |step| step.execute.kind()),
            status: status.as_str(),
            // Of a `foreach` step, the element with the most stands for all.
            attempts: units().map(|unit| unit.execute.attempt).max().unwrap_or(0),
            started_at: execute.started_at.map(At),
            ended_at: ended_at(state).map(At),
            reply: execute.reply().map(|reply| &**reply),
            error: units().find_map(|unit| Error::of(&unit.execute)),
            compensation: units().find_map(|unit| Compensation::of(&unit.compensate)),
            items,
        }
    }
}

/// When the last unit of a step came to an end, once they all have.
fn ended_at(state: &StepState) -> Option<Time> {
    let ends: Option<Vec<Time>> = state.units().map(|(_, unit)| unit.execute.ended_at()).collect();
    ends?.into_iter().max().or(state.unit.execute.started_at)
}

impl<'a> Item<'a> {
    fn new((item, unit): (u32, &'a Unit)) -> Item<'a> {
        Item {
            item,
            status: unit.status().as_str(),
            attempts: unit.execute.attempt,
            started_at: unit.execute.started_at.map(At),
            ended_at: unit.execute.ended_at().map(At),
            reply: unit.execute.reply().map(|reply| &**reply),
            error: Error::of(&unit.execute),
            compensation: Compensation::of(&unit.compensate),
        }
    }
}

impl<'a> Compensation<'a> {
    /// Nothing until it is under way or settled.
    fn of(action: &'a ActionState) -> Option<Compensation<'a>> {
        let status = match action.progress {
            Progress::Idle | Progress::Skipped { .. } => return None,
            Progress::Scheduled { .. } => "scheduled",
            Progress::Running { .. } => "running",
            Progress::Succeeded { .. } => "succeeded",
            Progress::Failed { .. } => "failed",
            Progress::GivenUp { .. } => "given_up",
        };
        Some(Compensation {
            status,
            attempts: action.attempt,
            ended_at: action.ended_at().map(At),
            reply: action.reply().map(|reply| &**reply),
            error: Error::of(action),
        })
    }
}

/// One entry of a history: `{ seq, at, type, step?, item?, action?, attempt?, actor?, data? }`.
///
/// `entry` is the stored form, `{ "sent": { "step": 0, … } }`: what every entry can have goes to the top with steps by
/// name, the rest is `data` with times readable.
pub fn history_entry(seq: u64, at: Time, entry: Value, definition: Option<&Definition>) -> Value {
    let mut shown = Map::new();
    shown.insert("seq".into(), seq.into());
    shown.insert("at".into(), at.to_string().into());
    let (kind, mut fields) = match entry {
        Value::Object(variant) => match variant.into_iter().next() {
            Some((kind, Value::Object(fields))) => (kind, fields),
            Some((kind, _)) => (kind, Map::new()),
            None => (String::new(), Map::new()),
        },
        Value::String(kind) => (kind, Map::new()),
        _ => (String::new(), Map::new()),
    };
    shown.insert("type".into(), kind.into());
    name_spot(&mut fields, definition);
    for member in ["step", "item", "action", "attempt", "actor"] {
        if let Some(value) = fields.shift_remove(member).filter(|value| !value.is_null()) {
            shown.insert(member.into(), value);
        }
    }
    for member in ["due", "deadline"] {
        if let Some(time) = fields.get_mut(member) {
            *time = time.as_i64().map_or(Value::Null, |millis| Time(millis).to_string().into());
        }
    }
    if let Some(Value::Object(error)) = fields.get_mut("error") {
        name_step(error, definition);
        // As a saga shows its own error.
        if let Some(Value::Object(failure)) = error.shift_remove("failure") {
            error.extend(failure);
        }
    }
    if let Some(Value::Object(to)) = fields.get_mut("to") {
        name_step(to, definition);
    }
    if !fields.is_empty() {
        shown.insert("data".into(), fields.into());
    }
    Value::Object(shown)
}

/// Replaces a unit's place by its step's name and its element.
fn name_spot(fields: &mut Map<String, Value>, definition: Option<&Definition>) {
    let spot = fields.shift_remove("spot");
    if let Some(spot) = spot.as_ref().and_then(Value::as_str).and_then(|spot| spot.parse::<Spot>().ok()) {
        fields.insert("step".into(), step_name(definition, spot.step).into());
        if let Some(item) = spot.item {
            fields.insert("item".into(), item.into());
        }
    }
}

/// Replaces a step's place by its name; what an entry counts under the same word stays.
fn name_step(fields: &mut Map<String, Value>, definition: Option<&Definition>) {
    if let Some(step) = fields.get_mut("step")
        && let Some(at) = step.as_u64().and_then(|at| usize::try_from(at).ok())
    {
        *step = step_name(definition, at).into();
    }
}

/// A step's name; of one whose definition can't be read any more, its place.
fn step_name(definition: Option<&Definition>, step: StepIx) -> String {
    match definition.and_then(|definition| definition.steps.get(step)) {
        Some(step) => step.name.to_string(),
        None => format!("#{step}"),
    }
}
