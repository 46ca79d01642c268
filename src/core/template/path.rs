//! Plain paths: `input.items[0].sku`.

use std::borrow::Cow;
use std::sync::Arc;

use minijinja::machinery::ast::Expr;

use super::TemplateError;
use crate::core::diagnostic::nearest;

/// The names that a template can begin with.
pub(super) const ROOTS: [&str; 8] = ["input", "steps", "saga", "error", "item", "index", "body", "headers"];

/// A path to something in a [`Scope`](super::Scope).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Path {
    Document {
        of: Document,
        below: Vec<Segment>,
    },
    /// The place of the element of a `foreach`.
    Index,
    Reply {
        step: Arc<str>,
        below: Vec<Segment>,
    },
    Replies {
        step: Arc<str>,
        below: Vec<Segment>,
    },
    Status {
        step: Arc<str>,
    },
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
            pub(super) const ALL: &[$name] = &[$($name::$variant),*];

            pub(super) fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),* }
            }
        }
    };
}

fields! {
    /// A name that stands for any JSON.
    Document { Input = "input", Item = "item", Body = "body", Headers = "headers" }
}
fields! {
    /// What `saga` has.
    SagaField { Id = "id", Name = "name", Key = "key", Revision = "revision", StartedAt = "started_at" }
}
fields! {
    /// What `error` has.
    ErrorField { Step = "step", Reason = "reason", Message = "message" }
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

    pub(super) fn word(&self) -> Cow<'_, str> {
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
    /// A name that no scope ever has; `steps` without a step or without `reply`, `replies` or `status`.
    pub(super) fn new(root: &str, segments: Vec<Segment>) -> Result<Path, TemplateError> {
        if let Some(&of) = Document::ALL.iter().find(|of| of.as_str() == root) {
            return Ok(Path::Document { of, below: segments });
        }
        let mut segments = segments.into_iter();
        match root {
            "index" => match segments.next() {
                None => Ok(Path::Index),
                Some(_) => Err(TemplateError::new("`index` is a number").help("nothing is below it: end with `index`")),
            },
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
            Some(Segment::Key(what)) if what == "replies" => {
                Ok(Path::Replies { step: step.into(), below: segments.collect() })
            }
            Some(Segment::Key(what)) if what == "status" => match segments.next() {
                None => Ok(Path::Status { step: step.into() }),
                Some(_) => Err(TemplateError::new(format!("`steps.{step}.status` is a string"))
                    .help("nothing is below it: end with `status`")),
            },
            Some(other) => {
                let other = other.word().into_owned();
                let message =
                    format!("a step has a `reply` (with `foreach`: `replies`) and a `status`, but no `{other}`");
                Err(TemplateError::new(message).help(HELP))
            }
            None => Err(TemplateError::new(format!("`steps.{step}` alone says too little")).help(HELP)),
        }
    }

    /// The names on the way, for static checks.
    pub(super) fn words(&self) -> Vec<String> {
        let fixed = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        match self {
            Path::Document { of, below } => words_of(fixed(&[of.as_str()]), below),
            Path::Index => fixed(&["index"]),
            Path::Reply { step, below } => words_of(fixed(&["steps", step, "reply"]), below),
            Path::Replies { step, below } => words_of(fixed(&["steps", step, "replies"]), below),
            Path::Status { step } => fixed(&["steps", step, "status"]),
            Path::Saga(None) => fixed(&["saga"]),
            Path::Saga(Some(field)) => fixed(&["saga", field.as_str()]),
            Path::Error(None) => fixed(&["error"]),
            Path::Error(Some(field)) => fixed(&["error", field.as_str()]),
        }
    }

    /// The segments below the document that it begins with.
    pub(super) fn below(&self) -> &[Segment] {
        match self {
            Path::Document { below, .. } | Path::Reply { below, .. } | Path::Replies { below, .. } => below,
            Path::Index | Path::Status { .. } | Path::Saga(_) | Path::Error(_) => &[],
        }
    }
}

/// That a name is in no scope.
pub(super) fn unknown_root(name: &str) -> TemplateError {
    let hint = match name {
        "null" | "nil" | "undefined" => Some("JSON's null is `none` here".to_owned()),
        _ => did_you_mean(name, ROOTS.into_iter()),
    };
    let scope = "there are `input`, `steps` and `saga`, in compensations `error`, with `foreach` `item` and `index`; and in \
                 rules about messages `body` and `headers`";
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

fn words_of(mut words: Vec<String>, below: &[Segment]) -> Vec<String> {
    words.extend(below.iter().map(|segment| segment.word().into_owned()));
    words
}
