//! A saga's definition. One that exists is valid: only [`crate::core::parse`] makes them.

use std::sync::Arc;
use std::time::Duration;

use crate::core::id::{Action, StepIx};
use crate::core::saga::Status;
use crate::core::template::{Body, Expression, Template};

/// One revision of a definition.
#[derive(Debug)]
pub struct Definition {
    /// `^[a-z][a-z0-9_-]{0,63}$`, unique among the definitions.
    pub name: Arc<str>,
    /// What it is for.
    pub description: Option<String>,
    /// Yields the business key of a saga from its input.
    pub key: Option<Template>,
    /// When a key may be used again.
    pub key_reuse: KeyReuse,
    /// From the saga's start to its deadline, at which it compensates.
    pub timeout: Option<Duration>,
    /// AMQP priority of its commands, unless a step says otherwise.
    pub priority: Priority,
    /// So many of its sagas may be under way at once; more wait as `pending`.
    pub max_running: Option<u32>,
    /// One saga at a time for each value of a key.
    pub lock: Option<Lock>,
    /// How long it is kept once it has ended; `None`: as the configuration says.
    pub retention: Option<Duration>,
    /// Which lifecycle events it publishes.
    pub events: Events,
    /// What follows the last attempt of a compensation.
    pub on_compensation_failure: OnCompensationFailure,
    /// JSON Schema of the input.
    pub input: Option<Schema>,
    /// Events of other services that start it.
    pub starts: Vec<Trigger>,
    /// In the order of the file.
    pub steps: Vec<Step>,
    /// The result of a completed saga.
    pub output: Option<Body>,
}

impl Definition {
    /// The step's place, by its name.
    pub fn step_named(&self, name: &str) -> Option<StepIx> {
        self.steps.iter().position(|step| &*step.name == name)
    }

    /// Whether something else than its time can keep a saga from beginning.
    pub fn is_gated(&self) -> bool {
        self.max_running.is_some() || self.lock.is_some()
    }
}

/// One unit of a definition.
#[derive(Debug)]
pub struct Step {
    /// Unique in the definition.
    pub name: Arc<str>,
    /// The steps that must have ended well before this one begins.
    pub after: Vec<StepIx>,
    /// Every step that comes after this one, directly or not, in ascending order: compensation goes in reverse of it.
    pub later: Vec<StepIx>,
    /// False: the step is skipped.
    pub when: Option<Expression>,
    /// Wait before the first attempt.
    pub delay: Duration,
    /// Its failure is recorded and the saga goes on.
    pub optional: bool,
    /// The point of no return: once it succeeded the saga only goes forward.
    pub pivot: bool,
    /// Once for each element of a list, instead of once.
    pub foreach: Option<Foreach>,
    /// The forward action.
    pub execute: Execute,
    /// The undo; `None` where there is nothing to undo.
    pub compensate: Option<Compensate>,
}

impl Execute {
    /// The key of a definition that says it.
    pub fn kind(&self) -> &'static str {
        match self {
            Execute::Command(_) => "command",
            Execute::Publish(_) => "publish",
            Execute::Wait(_) => "wait",
            Execute::Saga(_) => "saga",
            Execute::Sleep(_) => "sleep",
        }
    }
}

impl Step {
    /// The command of one of its actions, if that is what the action is.
    pub fn sends(&self, action: Action) -> Option<&Command> {
        match action {
            Action::Execute => self.command(),
            Action::Compensate => self.undo_command(),
            Action::Probe => self.probe_command(),
        }
    }

    /// The command it sends, if that is what it does.
    pub fn command(&self) -> Option<&Command> {
        match &self.execute {
            Execute::Command(request) => Some(&request.command),
            _ => None,
        }
    }

    /// The command that undoes it, if that is what does.
    pub fn undo_command(&self) -> Option<&Command> {
        match &self.compensate.as_ref()?.undo {
            Undo::Command(command) => Some(command),
            Undo::Child { .. } => None,
        }
    }

    /// The command that asks what became of it, if there is one.
    pub fn probe_command(&self) -> Option<&Command> {
        match &self.execute {
            Execute::Command(request) => match &request.on_timeout {
                OnTimeout::Probe(command) => Some(command),
                OnTimeout::Compensate | OnTimeout::Suspend => None,
            },
            _ => None,
        }
    }
}

/// What a step does.
#[derive(Debug)]
pub enum Execute {
    /// Sends a command; a participant answers.
    Command(Box<Request>),
    /// Publishes an event; nobody answers.
    Publish(Box<Event>),
    /// Waits for a signal or an event.
    Wait(Wait),
    /// Runs a saga of another definition.
    Saga(Child),
    /// Lets time pass.
    Sleep(Duration),
}

/// A command and what follows when no answer comes.
#[derive(Debug)]
pub struct Request {
    /// The command.
    pub command: Command,
    /// What follows when its last attempt timed out.
    pub on_timeout: OnTimeout,
}

/// How the answers to a command are read.
#[derive(Debug, Default)]
pub struct Reply {
    /// True: a success; false, where it is the only rule: a failure. Read with `body` and `headers` in scope.
    pub success_when: Option<Expression>,
    /// True: a transient failure; goes before `success_when`.
    pub retry_when: Option<Expression>,
    /// What a success must look like.
    pub schema: Option<Schema>,
    /// The event that is a success.
    pub success: Option<Pattern>,
    /// The event that is a failure.
    pub failure: Option<Pattern>,
    /// Yields the error, a string or `{ code, message, details }`, from a failure event's `body` and `headers`.
    pub error: Option<Expression>,
}

/// What follows when the last attempt of a command timed out.
#[derive(Debug, Default)]
pub enum OnTimeout {
    /// The step is in doubt: it is undone too.
    #[default]
    Compensate,
    /// The answer of this command decides.
    Probe(Box<Command>),
    /// The saga waits for an operator.
    Suspend,
}

/// Events of other services.
#[derive(Debug)]
pub struct Pattern {
    /// The exchange they are published to.
    pub exchange: String,
    /// Topic pattern of their routing keys.
    pub routing_key: String,
    /// Yields, from an event's `body` and `headers`, what must equal the saga's key.
    pub matches: Expression,
}

/// An event to publish.
#[derive(Debug)]
pub struct Event {
    /// The exchange it is published to.
    pub exchange: String,
    /// Its routing key, and its AMQP `type`.
    pub routing_key: String,
    /// The body; `None`: the saga's input.
    pub body: Option<Body>,
    /// Additional headers.
    pub headers: Vec<(String, Template)>,
    /// AMQP priority; `None`: the saga's.
    pub priority: Option<Priority>,
    /// How long the broker may take to confirm it; `None`: as long as it takes.
    pub timeout: Option<Duration>,
    /// Of events that were not confirmed in time.
    pub retry: Retry,
}

/// Something to wait for.
#[derive(Debug)]
pub struct Wait {
    /// What.
    pub until: Awaited,
    /// How long at the most; `None`: as long as the saga may take.
    pub timeout: Option<Duration>,
}

/// What a step waits for.
#[derive(Debug)]
pub enum Awaited {
    /// A signal of this name.
    Signal(Arc<str>),
    /// An event of another service.
    Event(Box<Pattern>),
}

/// A saga that a step runs.
#[derive(Debug)]
pub struct Child {
    /// Its definition.
    pub definition: Arc<str>,
    /// Its input; `None`: the parent's.
    pub input: Option<Body>,
    /// How long it may take; `None`: as long as its own definition and the parent allow.
    pub timeout: Option<Duration>,
}

/// A step for each element of a list.
#[derive(Debug)]
pub struct Foreach {
    /// Yields the list.
    pub elements: Template,
    /// So many elements are under way at once, at least 1.
    pub max_parallel: u32,
}

/// One saga at a time for each value of a key.
#[derive(Debug)]
pub struct Lock {
    /// Yields the key from the saga's input.
    pub key: Template,
    /// What becomes of another saga meanwhile.
    pub mode: LockMode,
}

/// What becomes of a start whose lock another saga holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LockMode {
    /// It waits as `pending`.
    #[default]
    Queue,
    /// It is refused.
    Reject,
}

/// An event of another service that starts a saga.
#[derive(Debug)]
pub struct Trigger {
    /// The exchange it is published to.
    pub exchange: String,
    /// Topic pattern of its routing key.
    pub routing_key: String,
    /// False: it starts nothing. Read with `body` and `headers` in scope.
    pub when: Option<Expression>,
    /// Yields the saga's input from `body` and `headers`; `None`: the body.
    pub input: Option<Body>,
}

/// A command and how long and how often to try it.
#[derive(Debug)]
pub struct Command {
    /// The exchange it is published to.
    pub exchange: String,
    /// Its routing key, and its AMQP `type`.
    pub routing_key: String,
    /// The body; `None`: the default body of its action.
    pub body: Option<Body>,
    /// Additional headers.
    pub headers: Vec<(String, Template)>,
    /// From the sending of an attempt to its time-out.
    pub timeout: Duration,
    /// Of transient failures.
    pub retry: Retry,
    /// AMQP priority; `None`: the saga's for an execute, 9 for a compensation.
    pub priority: Option<Priority>,
    /// Whether a command that nobody took dies in its queue just before its attempt times out.
    pub expires: bool,
    /// How its answers are read.
    pub reply: Reply,
}

/// How a step is undone.
#[derive(Debug)]
pub struct Compensate {
    /// What does it.
    pub undo: Undo,
    /// The outcomes of the execute that need undoing.
    pub on: CompensateOn,
}

/// What undoes a step.
#[derive(Debug)]
pub enum Undo {
    /// A command; a participant answers.
    Command(Box<Command>),
    /// The saga that a `saga` step ran undoes its own steps.
    Child {
        /// How long that may take; `None`: as long as it takes.
        timeout: Option<Duration>,
        /// Of an undo that failed.
        retry: Retry,
    },
}

/// Which outcomes of an execute need undoing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompensateOn {
    /// The participant did it.
    pub success: bool,
    /// Nobody knows.
    pub in_doubt: bool,
    /// The participant said it failed, yet may have left something behind.
    pub failure: bool,
}

impl Default for CompensateOn {
    fn default() -> CompensateOn {
        CompensateOn { success: true, in_doubt: true, failure: false }
    }
}

/// Capped exponential back-off with jitter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry {
    /// Attempts in all, at least 1.
    pub attempts: u32,
    /// Wait before the second attempt.
    pub initial: Duration,
    /// Each wait is this many times the one before; at least 1.
    pub factor: f64,
    /// The longest wait, before jitter.
    pub max: Duration,
    /// Each wait is varied by up to this share, 0 to 1, either way.
    pub jitter: f64,
}

/// A priority from 0 to 9, fixed or computed from the input.
#[derive(Debug)]
pub enum Priority {
    /// As written.
    Fixed(u8),
    /// Rendered when the saga starts.
    Template(Template),
}

/// When a start with a key already in use begins a new saga instead of returning the old one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyReuse {
    /// One saga for each key, for ever.
    #[default]
    Never,
    /// Once the saga that holds the key is compensated or failed.
    AfterFailure,
    /// Once it has ended in any way.
    AfterEnd,
}

impl KeyReuse {
    /// Whether a start may take over the key of a saga of this status.
    pub fn frees(self, holder: Status) -> bool {
        match self {
            KeyReuse::Never => false,
            KeyReuse::AfterFailure => matches!(holder, Status::Compensated | Status::Failed),
            KeyReuse::AfterEnd => holder.is_terminal(),
        }
    }
}

/// Which lifecycle events a saga publishes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Events {
    /// None.
    None,
    /// Its status.
    #[default]
    Saga,
    /// Its status and its steps'.
    Step,
}

/// What follows the last attempt of a compensation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnCompensationFailure {
    /// The saga waits for an operator.
    #[default]
    Suspend,
    /// The other compensations go on and the saga ends as failed.
    Continue,
}

/// A compiled JSON Schema and its text.
#[derive(Debug)]
pub struct Schema {
    /// As written, for documents made from definitions.
    pub source: serde_json::Value,
    /// Compiled.
    pub validator: jsonschema::Validator,
}
