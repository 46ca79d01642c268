//! Templates and expressions: MiniJinja, kept to JSON.
//!
//! ```text
//!   source ─ MiniJinja's parser ─> compile ─┬─> paths and text: looked up in the JSON itself, exact and fast
//!                                           └─> anything else: programs for MiniJinja's virtual machine
//! ```
//!
//! Nothing here can run for long or grow large: expressions have no loops of their own, whatever they look up or compute is
//! charged to a budget by its size, and so is each turn of a `for`.

mod arithmetic;
mod builtins;
mod compile;
mod find;
mod path;
mod program;
mod render;
mod value;

use std::ops::Range;
use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::Value;

use self::compile::{Form, Term};
use crate::core::id::{SagaId, StepIx};
use crate::core::saga::SagaError;
use crate::core::time::Time;

/// The longest text that a template may yield, in bytes.
const MAX_TEXT: usize = 1024 * 1024;

/// A string with `{{ … }}` or `{% … %}` in it, compiled.
#[derive(Debug)]
pub struct Template {
    form: TemplateForm,
    references: Vec<Reference>,
}

#[derive(Debug)]
enum TemplateForm {
    /// No template in it.
    Literal(Value),
    Compiled {
        form: Form,
        source: Box<str>,
    },
}

/// A bare expression, compiled: `when`, `match`.
#[derive(Debug)]
pub struct Expression {
    term: Term,
    references: Vec<Reference>,
    source: Box<str>,
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

/// Something that a template reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// `["steps", "payment", "reply", "id"]`: as far as it does not depend on other values.
    pub path: Vec<String>,
    /// Where: bytes of the template's source.
    pub span: Range<usize>,
    /// The operator next to it that wants a number.
    pub operator: Option<&'static str>,
    /// The texts that it is compared with, each with its place.
    pub texts: Vec<(String, Range<usize>)>,
}

/// Why a template can't be compiled or rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}{help}", if help.is_empty() { "" } else { "; " })]
pub struct TemplateError {
    /// For a person.
    pub message: String,
    /// How to mend it; empty where nothing in particular helps.
    pub help: String,
    /// Where, if that is known: bytes of the template's source.
    pub span: Option<Range<usize>>,
}

impl TemplateError {
    /// An error without a place.
    pub fn new(message: impl Into<String>) -> TemplateError {
        TemplateError { message: message.into(), help: String::new(), span: None }
    }

    fn help(self, help: impl Into<String>) -> TemplateError {
        TemplateError { help: help.into(), ..self }
    }

    /// Unless it has a place already.
    fn at(self, span: Range<usize>) -> TemplateError {
        TemplateError { span: self.span.or(Some(span)), ..self }
    }
}

impl From<minijinja::Error> for TemplateError {
    fn from(error: minijinja::Error) -> TemplateError {
        TemplateError::new(error.detail().map_or_else(|| error.kind().to_string(), str::to_owned))
    }
}

impl From<TemplateError> for minijinja::Error {
    fn from(error: TemplateError) -> minijinja::Error {
        minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, error.to_string())
    }
}

/// What templates can see. Cheap to make and to clone: everything large is shared.
#[derive(Clone, Debug)]
pub enum Scope {
    /// A saga's templates.
    Saga(SagaScope),
    /// Rules about a message, which see nothing else: how to read an answer, whose event it is, what it starts.
    Message {
        /// `body`.
        body: Arc<Value>,
        /// `headers`, an object.
        headers: Arc<Value>,
    },
}

/// What the templates of a saga can see.
#[derive(Clone, Debug)]
pub struct SagaScope {
    /// The saga's input.
    pub input: Arc<Value>,
    /// The steps of the definition, in its order; empty while there is no saga yet.
    pub steps: Arc<[StepView]>,
    /// `saga`; `None` while there is no saga yet (`key`, `priority`, `lock`).
    pub saga: Option<SagaView>,
    /// `error`, in compensations: with the failing step's name.
    pub error: Option<(Option<Arc<str>>, Arc<SagaError>)>,
    /// `item` and `index`, for the elements of a `foreach`.
    pub element: Option<Element>,
}

/// One element of a `foreach` step.
#[derive(Clone, Debug)]
pub struct Element {
    /// The step: below `steps`, its `reply` is the one of this element.
    pub step: StepIx,
    /// The whole list.
    pub list: Arc<Value>,
    /// The element's place in it, from 0.
    pub at: u32,
}

impl Scope {
    /// While there is no saga yet: there is only its input.
    pub fn of_input(input: Arc<Value>) -> Scope {
        Scope::Saga(SagaScope { input, steps: Arc::new([]), saga: None, error: None, element: None })
    }
}

/// `saga` in templates.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "docs/definitions.md lists them")]
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

/// `steps.NAME.reply` and `steps.NAME.replies` in templates.
#[derive(Clone, Debug)]
pub enum ReplyView {
    /// It answered.
    Known(Arc<Value>),
    /// The replies of a `foreach` step's elements, in order; `None`, which is null, where there is none and never will be.
    Many(Arc<[Option<Arc<Value>>]>),
    /// It has none and never will: null, and so is whatever is below it.
    Null,
    /// It has not answered yet: an error to ask for it.
    Missing,
}

impl Template {
    /// Compiles.
    ///
    /// # Errors
    /// A syntax error, or a name that is never in scope; for a person.
    pub fn compile(source: &str) -> Result<Template, TemplateError> {
        if !is_template(source) {
            return Ok(Template::literal(source.into()));
        }
        let (form, references) = compile::template(source)?;
        Ok(Template { form: TemplateForm::Compiled { form, source: source.into() }, references })
    }

    /// One that always yields `value`.
    pub fn literal(value: Value) -> Template {
        Template { form: TemplateForm::Literal(value), references: Vec::new() }
    }

    /// All that it reads.
    pub fn references(&self) -> &[Reference] {
        &self.references
    }

    /// Whether it is one whole `{{ expression }}`, which keeps the type of its value.
    pub fn is_whole(&self) -> bool {
        matches!(self.form, TemplateForm::Compiled { form: Form::Whole(_), .. })
    }

    /// Renders: a string that is one whole `{{ expression }}` keeps the value's JSON type.
    ///
    /// # Errors
    /// An unknown name, a wrong type, too much work; for a person.
    pub fn render(&self, scope: &Scope) -> Result<Value, TemplateError> {
        match &self.form {
            TemplateForm::Literal(value) => Ok(value.clone()),
            TemplateForm::Compiled { form, .. } => render::form(form, scope),
        }
    }

    /// As written.
    pub fn source(&self) -> Value {
        match &self.form {
            TemplateForm::Literal(value) => value.clone(),
            TemplateForm::Compiled { source, .. } => Value::from(&**source),
        }
    }
}

/// Whether there is anything in a string to render.
pub fn is_template(text: &str) -> bool {
    ["{{", "{%", "{#"].iter().any(|open| text.contains(open))
}

impl Expression {
    /// Compiles.
    ///
    /// # Errors
    /// A syntax error, or a name that is never in scope; for a person.
    pub fn compile(source: &str) -> Result<Expression, TemplateError> {
        let (term, references) = compile::expression(source)?;
        Ok(Expression { term, references, source: source.into() })
    }

    /// As written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// All that it reads.
    pub fn references(&self) -> &[Reference] {
        &self.references
    }

    /// Whether it is true of `scope`: not false, null, zero or empty.
    ///
    /// # Errors
    /// An unknown name, a wrong type, too much work; for a person.
    pub fn holds(&self, scope: &Scope) -> Result<bool, TemplateError> {
        render::holds(&self.term, scope)
    }

    /// What it yields.
    ///
    /// # Errors
    /// An unknown name, a wrong type, too much work; for a person.
    pub fn value(&self, scope: &Scope) -> Result<Value, TemplateError> {
        render::whole(&self.term, scope)
    }
}

impl Body {
    /// Renders every template in it.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn render(&self, scope: &Scope) -> Result<Value, TemplateError> {
        match self {
            Body::Literal(value) => Ok(value.clone()),
            Body::Template(template) => template.render(scope),
            Body::Array(items) => {
                items.iter().map(|item| item.render(scope)).collect::<Result<_, _>>().map(Value::Array)
            }
            Body::Object(fields) => {
                let fields = fields.iter().map(|(name, field)| Ok((name.clone(), field.render(scope)?)));
                fields.collect::<Result<_, _>>().map(Value::Object)
            }
        }
    }

    /// As written.
    pub fn source(&self) -> Value {
        match self {
            Body::Literal(value) => value.clone(),
            Body::Template(template) => template.source(),
            Body::Array(items) => items.iter().map(Body::source).collect(),
            Body::Object(fields) => {
                Value::Object(fields.iter().map(|(name, field)| (name.clone(), field.source())).collect())
            }
        }
    }

    /// All that it reads; spans are those of the single templates.
    pub fn references(&self) -> Vec<&Reference> {
        match self {
            Body::Literal(_) => Vec::new(),
            Body::Template(template) => template.references().iter().collect(),
            Body::Array(items) => items.iter().flat_map(Body::references).collect(),
            Body::Object(fields) => fields.values().flat_map(Body::references).collect(),
        }
    }
}
