//! Templates and expressions: MiniJinja, kept to JSON.

use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::Value;

use crate::core::id::SagaId;
use crate::core::saga::SagaError;
use crate::core::time::Time;

/// A string with `{{ … }}` or `{% … %}` in it, compiled.
#[derive(Debug)]
pub struct Template {
    source: String,
}

/// A bare expression, compiled: `when`.
#[derive(Debug)]
pub struct Expression {
    source: String,
}

/// A JSON value with templates in it.
#[derive(Debug)]
pub enum Body {
    /// No template in it.
    Literal(Value),
    /// A string that is a template.
    Template(Template),
    /// An array.
    Array(Vec<Body>),
    /// An object, in the order written.
    Object(IndexMap<String, Body>),
}

/// Why a template can't be compiled or rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TemplateError {
    /// For a person.
    pub message: String,
}

/// What templates can see. Cheap to make: everything large is shared.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The saga's input.
    pub input: Arc<Value>,
    /// The steps of the definition, in its order; empty while there is no saga yet.
    pub steps: Arc<[StepView]>,
    /// `saga`; `None` while there is no saga yet (`key`, `priority`).
    pub saga: Option<SagaView>,
    /// `error`, in compensations: with the failing step's name.
    pub error: Option<(Option<Arc<str>>, Arc<SagaError>)>,
}

/// `saga` in templates.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "CONTRACT section 2 lists them")]
pub struct SagaView {
    pub id: SagaId,
    pub name: Arc<str>,
    pub key: Option<Arc<str>>,
    pub revision: u32,
    pub started_at: Option<Time>,
}

/// `steps.NAME` in templates.
#[derive(Clone, Debug)]
pub struct StepView {
    /// Its name.
    pub name: Arc<str>,
    /// Its status, as users see it.
    pub status: &'static str,
    /// Its reply.
    pub reply: ReplyView,
}

/// `steps.NAME.reply` in templates.
#[derive(Clone, Debug)]
pub enum ReplyView {
    /// It answered.
    Known(Arc<Value>),
    /// It has none and never will: null, and so is whatever is below it.
    Null,
    /// It has not answered yet: an error to ask for it.
    Missing,
}

impl Template {
    /// Compiles.
    ///
    /// # Errors
    /// A syntax error, for a person.
    pub fn compile(source: &str) -> Result<Template, TemplateError> {
        Ok(Template { source: source.to_owned() })
    }

    /// Renders: a string that is one whole `{{ expression }}` keeps the value's JSON type.
    ///
    /// # Errors
    /// An unknown name, a wrong type, too much work; for a person.
    pub fn render(&self, _scope: &Scope) -> Result<Value, TemplateError> {
        Ok(Value::String(self.source.clone()))
    }
}

impl Expression {
    /// Compiles.
    ///
    /// # Errors
    /// A syntax error, for a person.
    pub fn compile(source: &str) -> Result<Expression, TemplateError> {
        Ok(Expression { source: source.to_owned() })
    }

    /// Whether it is true of `scope`.
    ///
    /// # Errors
    /// An unknown name, a wrong type, too much work; for a person.
    pub fn holds(&self, _scope: &Scope) -> Result<bool, TemplateError> {
        Ok(!self.source.is_empty())
    }
}

impl Body {
    /// Renders every template in it.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn render(&self, _scope: &Scope) -> Result<Value, TemplateError> {
        Ok(Value::Null)
    }
}
