//! Following a [`Path`]: in the JSON itself, exactly, without MiniJinja.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use minijinja::Value as Dynamic;
use serde_json::Value;

use super::path::{Document, ErrorField, Path, SagaField, Segment, did_you_mean};
use super::render::BUDGET;
use super::value::{Replies, dynamic, json_cost};
use super::{Element, ReplyView, SagaScope, SagaView, Scope, StepView, TemplateError};

/// What a path leads to.
pub(super) enum Found<'a> {
    /// Part of a shared document.
    Shared(Shared<'a>),
    /// The replies of a step's elements.
    Many(&'a Arc<[Option<Arc<Value>>]>),
    /// Made for the occasion.
    Made(Value),
    /// Nothing: an undefined value, and why in words.
    Absent(TemplateError),
}

/// Part of a shared document: what `below` leads to from `root`, or from an element of it.
pub(super) struct Shared<'a> {
    root: &'a Arc<Value>,
    element: Option<u32>,
    below: &'a [Segment],
    value: &'a Value,
}

impl<'a> Found<'a> {
    /// As JSON.
    ///
    /// # Errors
    /// There is nothing, or too much.
    pub(super) fn value(self) -> Result<Cow<'a, Value>, TemplateError> {
        match self {
            Found::Shared(shared) => Ok(Cow::Borrowed(shared.value)),
            Found::Many(replies) => {
                let mut cost = 0;
                replies.iter().flatten().for_each(|reply| json_cost(reply, &mut cost));
                if cost > BUDGET {
                    return Err(TemplateError::new("these replies together are too large for one message"));
                }
                let of = |reply: &Option<Arc<Value>>| reply.as_deref().map_or(Value::Null, Value::clone);
                Ok(Cow::Owned(replies.iter().map(of).collect()))
            }
            Found::Made(value) => Ok(Cow::Owned(value)),
            Found::Absent(error) => Err(error),
        }
    }

    /// For MiniJinja.
    ///
    /// # Errors
    /// There is nothing.
    pub(super) fn dynamic(self) -> Result<Dynamic, TemplateError> {
        match self {
            Found::Shared(Shared { root, element, below, value }) => {
                let element = element.map(|at| Segment::Index(at.into()));
                Ok(dynamic(root, || element.into_iter().chain(below.iter().cloned()).collect(), value))
            }
            Found::Many(replies) => Ok(Dynamic::from_object(Replies(Arc::clone(replies)))),
            Found::Made(value) => {
                let value = Arc::new(value);
                Ok(dynamic(&value, Vec::new, &value))
            }
            Found::Absent(error) => Err(error),
        }
    }
}

impl Path {
    /// Follows the path.
    ///
    /// # Errors
    /// What it begins with is not there yet, or not at all, in this scope.
    pub(super) fn find<'a>(&'a self, scope: &'a Scope) -> Result<Found<'a>, TemplateError> {
        match (scope, self) {
            (Scope::Saga(scope), _) => self.find_of_saga(scope),
            (Scope::Message { body, .. }, Path::Document { of: Document::Body, below }) => {
                Ok(self.descend(body, below))
            }
            (Scope::Message { headers, .. }, Path::Document { of: Document::Headers, below }) => {
                Ok(self.descend(headers, below))
            }
            (Scope::Message { .. }, _) => {
                let message = format!("there is no `{}` in a rule about a message", self.root());
                Err(TemplateError::new(message).help("it sees only `body` and `headers`"))
            }
        }
    }

    fn find_of_saga<'a>(&'a self, scope: &'a SagaScope) -> Result<Found<'a>, TemplateError> {
        match self {
            Path::Document { of: Document::Input, below } => Ok(self.descend(&scope.input, below)),
            Path::Document { of: Document::Item, below } => {
                let Element { list, at, .. } = self.element(scope)?;
                let item = list.get(usize::try_from(*at).unwrap_or(usize::MAX));
                let item = item.ok_or_else(|| TemplateError::new(format!("the list has no element {at}")))?;
                Ok(match descend(item, below) {
                    Ok(value) => Found::Shared(Shared { root: list, element: Some(*at), below, value }),
                    Err(stop) => self.absent(below, stop),
                })
            }
            Path::Document { .. } => {
                let message = format!("there is a `{}` only in rules about messages", self.root());
                Err(TemplateError::new(message).help("a saga has its `input` and the replies of its `steps`"))
            }
            Path::Index => Ok(Found::Made(self.element(scope)?.at.into())),
            Path::Reply { step, below } => self.reply(scope, step, below),
            Path::Replies { step, below } => self.replies(scope, step, below),
            Path::Status { step } => Ok(Found::Made(view(scope, step)?.1.status.into())),
            Path::Saga(field) => {
                let saga = scope.saga.as_ref();
                let saga =
                    saga.ok_or_else(|| TemplateError::new("there is no saga yet").help("use only `input` here"))?;
                Ok(Found::Made(match field {
                    Some(field) => field.of(saga),
                    None => SagaField::ALL.iter().map(|field| (field.as_str(), field.of(saga))).collect(),
                }))
            }
            Path::Error(field) => {
                let error = scope.error.as_ref();
                let error = error.ok_or_else(|| TemplateError::new("there is an `error` only in compensations"))?;
                let of = |field: ErrorField| match field {
                    ErrorField::Step => error.0.as_deref().map_or(Value::Null, Value::from),
                    ErrorField::Reason => error.1.failure.reason.as_str().into(),
                    ErrorField::Message => error.1.failure.message.as_str().into(),
                };
                Ok(Found::Made(match field {
                    Some(field) => of(*field),
                    None => ErrorField::ALL.iter().map(|field| (field.as_str(), of(*field))).collect(),
                }))
            }
        }
    }

    fn element<'a>(&self, scope: &'a SagaScope) -> Result<&'a Element, TemplateError> {
        scope.element.as_ref().ok_or_else(|| {
            TemplateError::new(format!("there is no `{}` here", self.root())).help("only steps with `foreach` have one")
        })
    }

    fn reply<'a>(&'a self, scope: &'a SagaScope, step: &str, below: &'a [Segment]) -> Result<Found<'a>, TemplateError> {
        let (at, view) = view(scope, step)?;
        match (&view.reply, &scope.element) {
            (ReplyView::Known(reply), _) => Ok(self.descend(reply, below)),
            (ReplyView::Many(replies), Some(element)) if element.step == at => {
                let place = usize::try_from(element.at).unwrap_or(usize::MAX);
                match replies.get(place).and_then(Option::as_ref) {
                    Some(reply) => Ok(self.descend(reply, below)),
                    None => Ok(Found::Made(Value::Null)),
                }
            }
            (ReplyView::Many(_), _) => {
                let step = StepName(step);
                Err(TemplateError::new(format!("`{step}` has a reply for each element"))
                    .help(format!("write `{step}.replies`")))
            }
            (ReplyView::Null, _) => Ok(Found::Made(Value::Null)),
            (ReplyView::Missing, _) => Err(not_run(step)),
        }
    }

    fn replies<'a>(
        &'a self,
        scope: &'a SagaScope,
        step: &str,
        below: &'a [Segment],
    ) -> Result<Found<'a>, TemplateError> {
        let replies = match &view(scope, step)?.1.reply {
            ReplyView::Many(replies) => replies,
            ReplyView::Known(_) => {
                let step = StepName(step);
                let message = format!("`{step}` has one reply: it has no `foreach`");
                return Err(TemplateError::new(message).help(format!("write `{step}.reply`")));
            }
            ReplyView::Null => return Ok(Found::Made(Value::Null)),
            ReplyView::Missing => return Err(not_run(step)),
        };
        let Some((first, below)) = below.split_first() else { return Ok(Found::Many(replies)) };
        let place = match first {
            Segment::Index(at) if *at < 0 => {
                usize::try_from(-*at).ok().and_then(|back| replies.len().checked_sub(back))
            }
            Segment::Index(at) => usize::try_from(*at).ok(),
            Segment::Key(_) => None,
        };
        match place.and_then(|at| replies.get(at)) {
            Some(Some(reply)) => Ok(match descend(reply, below) {
                Ok(value) => Found::Shared(Shared { root: reply, element: None, below, value }),
                Err(stop) => self.absent(below, stop),
            }),
            Some(None) => Ok(Found::Made(Value::Null)),
            None => {
                let (step, count, word) = (StepName(step), replies.len(), first.word());
                Ok(Found::Absent(TemplateError::new(format!("`{step}.replies` has {count} elements, and no `{word}`"))))
            }
        }
    }

    fn descend<'a>(&'a self, root: &'a Arc<Value>, below: &'a [Segment]) -> Found<'a> {
        match descend(root, below) {
            Ok(value) => Found::Shared(Shared { root, element: None, below, value }),
            Err(stop) => self.absent(below, stop),
        }
    }

    /// `below`: the end of the path in which it stopped.
    fn absent<'a>(&self, below: &[Segment], Stop { parent, at }: Stop<'_>) -> Found<'a> {
        let last = &below[at];
        let name = self.up_to(self.below().len() - below.len() + at);
        Found::Absent(match (parent, last) {
            (Value::Object(fields), Segment::Key(key)) => {
                let error = TemplateError::new(format!("`{name}` has no `{key}`"));
                error.help(did_you_mean(key, fields.keys().map(String::as_str)).unwrap_or_default())
            }
            (Value::Array(items), Segment::Index(index)) => {
                TemplateError::new(format!("`{name}` has {} elements, so none at {index}", items.len()))
            }
            (other, last) => TemplateError::new(format!("`{name}` is {}, it has no `{}`", kind(other), last.word())),
        })
    }

    /// What it begins with.
    fn root(&self) -> &'static str {
        match self {
            Path::Document { of, .. } => of.as_str(),
            Path::Index => "index",
            Path::Reply { .. } | Path::Replies { .. } | Path::Status { .. } => "steps",
            Path::Saga(_) => "saga",
            Path::Error(_) => "error",
        }
    }

    /// As written, without the segments from `at` on.
    fn up_to(&self, at: usize) -> String {
        let mut text = match self {
            Path::Reply { step, .. } => format!("{}.reply", StepName(step)),
            Path::Replies { step, .. } => format!("{}.replies", StepName(step)),
            _ => self.root().to_owned(),
        };
        for segment in &self.below()[..at] {
            match segment {
                Segment::Key(key) => text.extend([".", key]),
                Segment::Index(index) => text.push_str(&format!("[{index}]")),
            }
        }
        text
    }
}

/// Where a descent ended early: the value that was reached, and the segment that it lacks.
struct Stop<'a> {
    parent: &'a Value,
    at: usize,
}

fn descend<'a>(root: &'a Value, below: &[Segment]) -> Result<&'a Value, Stop<'a>> {
    let mut here: &Value = root;
    for (at, segment) in below.iter().enumerate() {
        here = down(here, segment).ok_or(Stop { parent: here, at })?;
    }
    Ok(here)
}

/// One step down.
pub(super) fn down<'a>(value: &'a Value, segment: &Segment) -> Option<&'a Value> {
    match (value, segment) {
        (Value::Object(fields), Segment::Key(key)) => fields.get(key),
        (Value::Array(items), Segment::Index(index)) => {
            let index = if *index < 0 {
                items.len().checked_sub(usize::try_from(-*index).ok()?)?
            } else {
                usize::try_from(*index).ok()?
            };
            items.get(index)
        }
        _ => None,
    }
}

fn view<'a>(scope: &'a SagaScope, step: &str) -> Result<(usize, &'a StepView), TemplateError> {
    scope.steps.iter().enumerate().find(|(_, view)| &*view.name == step).ok_or_else(|| {
        let hint = did_you_mean(step, scope.steps.iter().map(|view| &*view.name));
        TemplateError::new(format!("there is no step `{step}`")).help(hint.unwrap_or_default())
    })
}

fn not_run(step: &str) -> TemplateError {
    TemplateError::new(format!("step `{step}` has not run, so it has no reply"))
}

impl SagaField {
    fn of(self, saga: &SagaView) -> Value {
        match self {
            SagaField::Id => saga.id.to_string().into(),
            SagaField::Name => (&*saga.name).into(),
            SagaField::Key => saga.key.as_deref().map_or(Value::Null, Value::from),
            SagaField::Revision => saga.revision.into(),
            SagaField::StartedAt => saga.started_at.map_or(Value::Null, |at| at.to_string().into()),
        }
    }
}

/// A step as templates write it: names with a dash need brackets.
struct StepName<'a>(&'a str);

impl fmt::Display for StepName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.contains('-') {
            true => write!(f, "steps['{}']", self.0),
            false => write!(f, "steps.{}", self.0),
        }
    }
}

/// What a value is, for a person.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
