//! What is sent: commands as sagad itself makes them, of sagas that begin and end here.

use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use serde_json::{Value, json};

use super::Options;
use crate::broker::message::Outgoing;
use crate::broker::names::Names;
use crate::clock::{Clock, SystemClock};
use crate::config::BrokerConfig;
use crate::core::decide::{Command, Effect};
use crate::core::definition::Definition;
use crate::core::id::{Action, SagaId, Ticket};
use crate::core::parse::parse;
use crate::core::saga::{Failure, Reason, Saga, SagaError};
use crate::core::start::{NewSaga, start};
use crate::core::template::{Body, ReplyView, SagaScope, SagaView, Scope, StepView, Template};
use crate::core::time::Time;
use crate::wire::outgoing;
use crate::wire::signature::Signer;

/// The definition's name in the headers.
const NAME: &str = "conformance";

/// What undos have unless a definition says otherwise.
const UNDO_PRIORITY: u8 = 9;

/// What commands are made of.
pub(super) struct Script {
    names: Names,
    signer: Signer,
    definition: Definition,
    body: Body,
    undo_key: String,
    undo_body: Option<Body>,
    timeout: Duration,
}

/// One saga of one step, as far as a participant can see it.
pub(super) struct Case {
    saga: Saga,
    /// As the engine sends it first.
    command: Command,
}

/// Which command of a case.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sending<'a> {
    pub(super) action: Action,
    pub(super) attempt: u32,
    /// How often the undo began anew, under another idempotency key.
    pub(super) round: u32,
    /// What the execute was answered, if that is known.
    pub(super) reply: Option<&'a Value>,
}

impl Sending<'_> {
    /// The forward action.
    pub(super) fn execute(attempt: u32) -> Sending<'static> {
        Sending { action: Action::Execute, attempt, round: 0, reply: None }
    }

    /// The undo of what was answered with `reply`; `None`: nobody knows whether it was done.
    pub(super) fn compensate(attempt: u32, reply: Option<&Value>) -> Sending<'_> {
        Sending { action: Action::Compensate, attempt, round: 0, reply }
    }
}

impl Script {
    pub(super) fn new(broker: &BrokerConfig, options: &Options) -> Result<Script, String> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|error| format!("the system has no randomness for a secret: {error}"))?;
        let compile = |what, value: &Value| compile(value).map_err(|why| format!("{what}: {why}"));
        let script = Script {
            names: Names::new(broker.prefix.as_str()),
            signer: Signer::new(&secret),
            definition: definition(options)?,
            body: compile("the body", &options.body)?,
            undo_key: options.compensate.clone(),
            undo_body: options.compensate_body.as_ref().map(|body| compile("the undo's body", body)).transpose()?,
            timeout: options.timeout,
        };
        // Whatever can't be rendered is found before anything is sent.
        let case = script.case()?;
        script.message(&case, Sending::execute(1), "")?;
        script.message(&case, Sending::compensate(1, None), "")?;
        Ok(script)
    }

    pub(super) fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Another saga.
    pub(super) fn case(&self) -> Result<Case, String> {
        let (id, now) = (SagaId(SystemClock.id()), now());
        let key: Arc<str> = format!("{NAME}-{id}").into();
        let view = SagaView { id, name: NAME.into(), key: Some(key.clone()), revision: 1, started_at: Some(now) };
        let body = self.body.render(&Scope::Saga(self.scope(view, ReplyView::Missing, None)));
        let input = Arc::new(body.map_err(|error| format!("the body: {error}"))?);
        let (delay, actor) = (Duration::ZERO, NAME.to_owned());
        let new = NewSaga { id, revision: 1, input, priority: None, delay, trace: None, parent: None, actor };
        let mut begun =
            start(&self.definition, new, Some(key), now).map_err(|_| "the saga does not begin".to_owned())?;
        let Some(Effect::Command(command)) = begun.effects.pop() else {
            return Err("the saga sends no command".to_owned());
        };
        Ok(Case { saga: begun.saga, command })
    }

    /// A command as sagad sends it, but that an undo expires as well: nothing is left behind.
    pub(super) fn message(&self, case: &Case, sending: Sending<'_>, reply_to: &str) -> Result<Outgoing, String> {
        let Sending { action, attempt, round, reply } = sending;
        let now = now();
        let first = case.command.clone();
        let ticket = Ticket { action, attempt, ..first.ticket };
        let mut command = Command { ticket, deadline: now.plus(self.timeout), round, ..first };
        if action == Action::Compensate {
            command.routing_key = self.undo_key.clone();
            command.priority = UNDO_PRIORITY;
            command.in_doubt = reply.is_none();
            command.body = self.undo_body(case, command.body, reply)?;
        }
        let mut message = outgoing::command(&self.names, &self.signer, &self.definition, &case.saga, command, now);
        message.properties.reply_to = Some(reply_to.to_owned());
        Ok(message)
    }

    fn undo_body(&self, case: &Case, sent: Value, reply: Option<&Value>) -> Result<Value, String> {
        let Some(body) = &self.undo_body else {
            return Ok(json!({ "command": sent, "reply": reply }));
        };
        let saga = &case.saga;
        let view = SagaView {
            id: saga.id,
            name: saga.definition.clone(),
            key: saga.key.clone(),
            revision: saga.revision,
            started_at: saga.started_at,
        };
        let failure = Failure::new(Reason::Timeout, "a check of the participant");
        let error = SagaError { step: None, failure };
        let reply = reply.map_or(ReplyView::Null, |reply| ReplyView::Known(Arc::new(reply.clone())));
        let scope = SagaScope { input: saga.input.clone(), ..self.scope(view, reply, Some(error)) };
        body.render(&Scope::Saga(scope)).map_err(|error| format!("the undo's body: {error}"))
    }

    fn scope(&self, saga: SagaView, reply: ReplyView, error: Option<SagaError>) -> SagaScope {
        let steps = self.definition.steps.iter();
        SagaScope {
            input: Arc::new(Value::Null),
            steps: steps
                .map(|step| StepView { name: step.name.clone(), status: "running", reply: reply.clone() })
                .collect(),
            saga: Some(saga),
            error: error.map(|error| (None, Arc::new(error))),
            element: None,
        }
    }
}

fn now() -> Time {
    SystemClock.now()
}

/// A definition with the one step that is checked.
fn definition(options: &Options) -> Result<Definition, String> {
    // A JSON string is a TOML string too.
    let text = |text: &str| Value::from(text).to_string();
    let Options { exchange, execute, compensate, step, timeout, .. } = options;
    let toml = format!(
        "name = {}\n[[steps]]\nname = {}\nexchange = {}\ncommand = {}\ntimeout = \"{}ms\"\ncompensate.command = {}\n",
        text(NAME),
        text(step),
        text(exchange),
        text(execute),
        timeout.as_millis(),
        text(compensate),
    );
    let parsed = parse(&toml, &mut |_| Err("no files here".to_owned()));
    let (definition, _) = parsed.map_err(|wrong| {
        wrong.iter().map(|it| format!("{}: {}", &toml[it.span.clone()], it.message)).collect::<Vec<_>>().join("\n")
    })?;
    Ok(definition)
}

/// JSON whose strings may be templates.
fn compile(value: &Value) -> Result<Body, String> {
    Ok(match value {
        Value::String(text) => Body::Template(Template::compile(text).map_err(|error| error.to_string())?),
        Value::Array(items) => Body::Array(items.iter().map(compile).collect::<Result<_, _>>()?),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, field)| Ok((name.clone(), compile(field)?)));
            Body::Object(fields.collect::<Result<IndexMap<_, _>, String>>()?)
        }
        other => Body::Literal(other.clone()),
    })
}
