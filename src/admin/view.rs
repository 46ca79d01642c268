//! How sagas and their histories look from outside: docs/http.md, byte for byte.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::core::definition::Definition;
use crate::core::id::StepIx;
use crate::core::saga::{self, ActionState, Failure, Phase, Progress, StepState};
use crate::core::time::Time;

/// RFC 3339, UTC, milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct At(pub Time);

impl Serialize for At {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

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
    /// No saga has one yet; the member is there for those who read it.
    parent: Option<()>,
    created_at: At,
    started_at: Option<At>,
    updated_at: At,
    ended_at: Option<At>,
    deadline: Option<At>,
    steps: Vec<Step<'a>>,
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
            parent: None,
            created_at: At(saga.created_at),
            started_at: saga.started_at.map(At),
            updated_at: At(saga.updated_at),
            ended_at: saga.ended_at().map(At),
            deadline: saga.deadline.map(At),
            steps: saga.steps.iter().enumerate().map(|(at, step)| Step::new(named(at), step)).collect(),
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
    fn new(name: String, step: &'a StepState) -> Step<'a> {
        Step {
            name,
            kind: "command",
            status: step.status().as_str(),
            attempts: step.execute.attempt,
            started_at: step.execute.started_at.map(At),
            ended_at: step.execute.ended_at().map(At),
            reply: step.execute.reply().map(|reply| &**reply),
            error: Error::of(&step.execute),
            compensation: Compensation::of(&step.compensate),
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
    name_step(&mut fields, definition);
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
    if !fields.is_empty() {
        shown.insert("data".into(), fields.into());
    }
    Value::Object(shown)
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
