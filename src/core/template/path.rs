//! Plain paths: `input.items[0].sku`. They are looked up in the JSON itself, exactly, without MiniJinja.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use minijinja::machinery::ast::Expr;
use serde_json::Value;

use super::{ReplyView, SagaView, Scope, TemplateError};
use crate::core::diagnostic::nearest;

/// The names that a template can begin with.
pub(super) const ROOTS: [&str; 4] = ["input", "steps", "saga", "error"];

/// A path to something in a [`Scope`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Path {
    Input(Vec<Segment>),
    Reply { step: Arc<str>, below: Vec<Segment> },
    Status { step: Arc<str> },
    Saga(Option<SagaField>),
    Error(Option<ErrorField>),
}

/// One step down into a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// Of an object.
    Key(String),
    /// Of an array; negative from its end.
    Index(i64),
}

macro_rules! fields {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum $name { $($variant),* }

        impl $name {
            const ALL: &[$name] = &[$($name::$variant),*];

            fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),* }
            }
        }
    };
}

fields! {
    /// What `saga` has.
    SagaField { Id = "id", Name = "name", Key = "key", Revision = "revision", StartedAt = "started_at" }
}
fields! {
    /// What `error` has.
    ErrorField { Step = "step", Reason = "reason", Message = "message" }
}

/// What a path leads to.
pub(super) enum Found<'a> {
    /// Part of a shared document: the document, and how many leading segments of the path it stands for.
    Shared(&'a Arc<Value>, &'a Value),
    /// Made for the occasion.
    Made(Value),
    /// Nothing: an undefined value, and why in words.
    Absent(TemplateError),
}

/// Reads a chain of constant accesses (`a.b[0]["c"]`) that begins with a name, and the name's place.
pub(super) fn chain<'e, 's>(expr: &'e Expr<'s>) -> Option<(&'s str, u32, Vec<Segment>)> {
    let mut segments = Vec::new();
    let mut at: &'e Expr<'s> = expr;
    loop {
        match at {
            Expr::Var(var) => {
                segments.reverse();
                return Some((var.id, var.span().start_offset, segments));
            }
            Expr::GetAttr(attr) => {
                segments.push(Segment::Key(attr.name.to_owned()));
                at = &attr.expr;
            }
            Expr::GetItem(item) => {
                segments.push(Segment::of_const(&item.subscript_expr.as_const()?)?);
                at = &item.expr;
            }
            _ => return None,
        }
    }
}

impl Segment {
    pub(super) fn of_const(key: &minijinja::Value) -> Option<Segment> {
        match key.as_str() {
            Some(key) => Some(Segment::Key(key.to_owned())),
            None if key.is_integer() => key.as_i64().map(Segment::Index),
            None => None,
        }
    }

    fn word(&self) -> Cow<'_, str> {
        match self {
            Segment::Key(key) => key.into(),
            Segment::Index(index) => index.to_string().into(),
        }
    }
}

impl Path {
    /// Makes sense of a chain of accesses.
    ///
    /// # Errors
    /// A name that no scope ever has; `steps` without a step or without `reply` or `status`.
    pub(super) fn new(root: &str, segments: Vec<Segment>) -> Result<Path, TemplateError> {
        let segments = segments.into_iter();
        match root {
            "input" => Ok(Path::Input(segments.collect())),
            "steps" => Path::step(segments),
            "saga" => Ok(Path::Saga(field(root, SagaField::ALL, SagaField::as_str, segments)?)),
            "error" => Ok(Path::Error(field(root, ErrorField::ALL, ErrorField::as_str, segments)?)),
            other => Err(unknown_root(other)),
        }
    }

    fn step(mut segments: impl Iterator<Item = Segment>) -> Result<Path, TemplateError> {
        const HELP: &str =
            "write `steps.NAME.reply` or `steps.NAME.status`; a name with a dash as `steps['a-name'].reply`";
        let Some(Segment::Key(step)) = segments.next() else {
            return Err(TemplateError::new("`steps` needs the name of a step").help(HELP));
        };
        match segments.next() {
            Some(Segment::Key(what)) if what == "reply" => {
                Ok(Path::Reply { step: step.into(), below: segments.collect() })
            }
            Some(Segment::Key(what)) if what == "status" => match segments.next() {
                None => Ok(Path::Status { step: step.into() }),
                Some(_) => Err(TemplateError::new(format!("`steps.{step}.status` is a string"))
                    .help("nothing is below it: end with `status`")),
            },
            Some(other) => {
                let other = other.word().into_owned();
                Err(TemplateError::new(format!("a step has a `reply` and a `status`, but no `{other}`")).help(HELP))
            }
            None => Err(TemplateError::new(format!("`steps.{step}` alone says too little")).help(HELP)),
        }
    }

    /// The names on the way, for static checks.
    pub(super) fn words(&self) -> Vec<String> {
        let fixed = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        match self {
            Path::Input(below) => words_of(fixed(&["input"]), below),
            Path::Reply { step, below } => words_of(fixed(&["steps", step, "reply"]), below),
            Path::Status { step } => fixed(&["steps", step, "status"]),
            Path::Saga(None) => fixed(&["saga"]),
            Path::Saga(Some(field)) => fixed(&["saga", field.as_str()]),
            Path::Error(None) => fixed(&["error"]),
            Path::Error(Some(field)) => fixed(&["error", field.as_str()]),
        }
    }

    /// Follows the path.
    ///
    /// # Errors
    /// What it begins with is not there yet, or not at all, in this scope.
    pub(super) fn find<'a>(&self, scope: &'a Scope) -> Result<Found<'a>, TemplateError> {
        match self {
            Path::Input(below) => Ok(descend(&scope.input, below).unwrap_or_else(|stop| self.absent(stop))),
            Path::Reply { step, below } => match &view(scope, step)?.reply {
                ReplyView::Known(reply) => Ok(descend(reply, below).unwrap_or_else(|stop| self.absent(stop))),
                ReplyView::Null => Ok(Found::Made(Value::Null)),
                ReplyView::Missing => Err(TemplateError::new(format!("step `{step}` has not run, so it has no reply"))),
            },
            Path::Status { step } => Ok(Found::Made(view(scope, step)?.status.into())),
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

    /// The segments below the document that [`Found::Shared`] names.
    pub(super) fn below(&self) -> &[Segment] {
        match self {
            Path::Input(below) | Path::Reply { below, .. } => below,
            Path::Status { .. } | Path::Saga(_) | Path::Error(_) => &[],
        }
    }

    fn absent<'a>(&self, Stop { parent, at }: Stop<'_>) -> Found<'a> {
        let last = &self.below()[at];
        let name = self.up_to(at);
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

    /// As written, without the segments from `at` on.
    fn up_to(&self, at: usize) -> String {
        let mut text = match self {
            Path::Reply { step, .. } => format!("{}.reply", StepName(step)),
            _ => "input".to_owned(),
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

fn descend<'a>(root: &'a Arc<Value>, below: &[Segment]) -> Result<Found<'a>, Stop<'a>> {
    let mut here: &Value = root;
    for (at, segment) in below.iter().enumerate() {
        here = down(here, segment).ok_or(Stop { parent: here, at })?;
    }
    Ok(Found::Shared(root, here))
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

fn view<'a>(scope: &'a Scope, step: &str) -> Result<&'a super::StepView, TemplateError> {
    scope.steps.iter().find(|view| &*view.name == step).ok_or_else(|| {
        let hint = did_you_mean(step, scope.steps.iter().map(|view| &*view.name));
        TemplateError::new(format!("there is no step `{step}`")).help(hint.unwrap_or_default())
    })
}

/// That a name is in no scope.
pub(super) fn unknown_root(name: &str) -> TemplateError {
    let hint = did_you_mean(name, ROOTS.into_iter());
    let scope = "there are `input`, `steps` and `saga`, and in compensations `error`";
    TemplateError::new(format!("unknown name `{name}`")).help(hint.unwrap_or_else(|| scope.to_owned()))
}

/// A hint at the candidate that was probably meant.
pub(super) fn did_you_mean<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<String> {
    nearest(word, candidates).map(|near| format!("did you mean `{near}`?"))
}

fn field<F: Copy>(
    root: &str,
    all: &'static [F],
    word: fn(F) -> &'static str,
    mut segments: impl Iterator<Item = Segment>,
) -> Result<Option<F>, TemplateError> {
    let Some(segment) = segments.next() else { return Ok(None) };
    let name = segment.word();
    let words = || all.iter().map(|&field| word(field));
    let Some(field) = all.iter().copied().find(|&field| word(field) == name) else {
        let hint = did_you_mean(&name, words());
        let all = || format!("it has {}", words().collect::<Vec<_>>().join(", "));
        return Err(TemplateError::new(format!("`{root}` has no `{name}`")).help(hint.unwrap_or_else(all)));
    };
    match segments.next() {
        None => Ok(Some(field)),
        Some(_) => Err(TemplateError::new(format!("nothing is below `{root}.{name}`")).help("end with it")),
    }
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

fn words_of(mut words: Vec<String>, below: &[Segment]) -> Vec<String> {
    words.extend(below.iter().map(|segment| segment.word().into_owned()));
    words
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
