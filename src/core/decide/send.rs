//! Commands: rendered, and sent with the entry that says so.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::family::DEEPEST;
use super::{Ask, ChildOrder, Command, Effect, Event, Transition};
use crate::core::definition::{self, Execute, Priority, Reply, Retry, Undo};
use crate::core::entry::Entry;
use crate::core::id::{Action, SagaId, Spot, StepIx, Ticket};
use crate::core::saga::{Failure, Progress, Reason, Unit};
use crate::core::start::as_priority;
use crate::core::template::{Body, Scope, Template, TemplateError};
use crate::core::time::Time;

/// How long an order to a child may take to be taken up; how long it then takes is the child's affair.
const TAKEN_UP: Duration = Duration::from_secs(30);

/// How often an order is sent to a child that does not take it up.
const ORDERS: Retry =
    Retry { attempts: 10, initial: Duration::from_secs(1), factor: 2.0, max: Duration::from_secs(60), jitter: 0.2 };

impl<'a> Transition<'a> {
    /// Begins an action, or its next attempt.
    pub(super) fn send(&mut self, spot: Spot, action: Action) {
        match (action, &self.definition.steps[spot.step].execute) {
            (Action::Execute, Execute::Sleep(_)) => {
                let reply = Arc::new(Value::Null);
                self.record(Entry::Succeeded { spot, action, attempt: 0, reply, late: false });
            }
            (Action::Execute, Execute::Wait(wait)) => {
                let deadline = self.within_the_saga(wait.timeout.map(|timeout| self.now.plus(timeout)));
                self.record(Entry::Waiting { spot, deadline });
            }
            (Action::Execute, Execute::Publish(event)) => self.publish(spot, event),
            (Action::Execute, Execute::Saga(child)) => self.start_child(spot, child),
            (Action::Compensate, Execute::Saga(_)) => self.undo_child(spot),
            _ => self.send_command(spot, action),
        }
    }

    fn send_command(&mut self, spot: Spot, action: Action) {
        let Some(command) = self.command(spot.step, action) else { return };
        let Some(unit) = self.saga.unit(spot) else { return };
        let state = unit.action(action);
        let ticket = self.next(spot, action);
        let round = state.round;
        let in_doubt = action == Action::Compensate && unit.execute.in_doubt();
        let scope = self.scope(spot, action);
        let body = self.body(spot, action, &scope).map_err(|error| ("body", error));
        let rendered = body.and_then(|body| {
            let headers = headers(&command.headers, &scope)?;
            let priority = self.priority(command.priority.as_ref(), action, &scope)?;
            Ok((body, headers, priority))
        });
        let (body, headers, priority) = match rendered {
            Ok(rendered) => rendered,
            Err((place, error)) => return self.fail_template(spot, action, place, &error),
        };
        let deadline = self.now.plus(command.timeout);
        let deadline = match action {
            Action::Compensate => deadline,
            Action::Execute | Action::Probe => self.within_the_saga(Some(deadline)).unwrap_or(deadline),
        };
        let expires = (action == Action::Execute && command.expires).then(|| expiration(deadline.since(self.now)));
        self.record_sent(ticket, Some(deadline), &body);
        let (exchange, routing_key) = (command.exchange.clone(), command.routing_key.clone());
        self.effects.push(Effect::Command(Command {
            ticket,
            exchange,
            routing_key,
            body,
            headers,
            priority,
            expires,
            deadline,
            round,
            in_doubt,
        }));
    }

    /// Publishes an event. It stays in the outbox until the broker has it, so it has no time-out unless it says so.
    fn publish(&mut self, spot: Spot, event: &'a definition::Event) {
        let action = Action::Execute;
        let ticket = self.next(spot, action);
        let scope = self.scope(spot, action);
        let body = self.body(spot, action, &scope).map_err(|error| ("body", error));
        let rendered = body.and_then(|body| {
            let headers = headers(&event.headers, &scope)?;
            Ok((body, headers, self.priority(event.priority.as_ref(), action, &scope)?))
        });
        let (body, headers, priority) = match rendered {
            Ok(rendered) => rendered,
            Err((place, error)) => return self.fail_template(spot, action, place, &error),
        };
        let deadline = event.timeout.and_then(|timeout| self.within_the_saga(Some(self.now.plus(timeout))));
        self.record_sent(ticket, deadline, &body);
        let (exchange, routing_key) = (event.exchange.clone(), event.routing_key.clone());
        self.effects.push(Effect::Event(Event { ticket, exchange, routing_key, body, headers, priority }));
    }

    fn start_child(&mut self, spot: Spot, child: &'a definition::Child) {
        let action = Action::Execute;
        let depth = self.saga.parent.as_ref().map_or(0, |parent| parent.depth) + 1;
        if depth > DEEPEST {
            let message = format!("this saga is {DEEPEST} sagas below the first one, which is as deep as they may go");
            let failure = Failure::new(Reason::Child, message);
            return self.record(Entry::Failed { spot, action, attempt: 0, failure });
        }
        let scope = self.scope(spot, action);
        let input = match self.body(spot, action, &scope) {
            Ok(input) => input,
            Err(error) => return self.fail_template(spot, action, "input", &error),
        };
        let ask = Ask::Start {
            definition: child.definition.clone(),
            input,
            step: self.definition.steps[spot.step].name.clone(),
            depth,
            priority: self.saga.priority,
            trace: self.saga.trace.clone(),
        };
        self.order_child(spot, action, ask);
    }

    fn undo_child(&mut self, spot: Spot) {
        self.order_child(spot, Action::Compensate, Ask::Undo);
    }

    fn order_child(&mut self, spot: Spot, action: Action, ask: Ask) {
        let ticket = self.next(spot, action);
        let nothing = Value::Null;
        let asked = match &ask {
            Ask::Start { input, .. } => input,
            Ask::Undo => &nothing,
        };
        self.record_sent(ticket, Some(self.now.plus(TAKEN_UP)), asked);
        if let Some(child) = self.child_of(spot) {
            self.effects.push(Effect::Child(ChildOrder { ticket, child, ask }));
        }
    }

    /// The saga that a unit runs, once it has begun to.
    fn child_of(&self, spot: Spot) -> Option<SagaId> {
        let began = self.saga.unit(spot)?.execute.started_at?;
        Some(SagaId::child(self.saga.id, spot, began.0))
    }

    pub(super) fn runs_child(&self, step: StepIx) -> bool {
        self.definition.steps.get(step).is_some_and(|step| matches!(step.execute, Execute::Saga(_)))
    }

    /// Records that an attempt goes out, which asks for `body`.
    fn record_sent(&mut self, ticket: Ticket, deadline: Option<Time>, body: &Value) {
        let Ticket { spot, action, attempt, .. } = ticket;
        let before = self.saga.unit(spot).map_or(0, |unit| unit.action(action).void);
        let first = attempt == before + 1;
        let body = (first && !self.is_rendered_alike(spot.step, action)).then(|| Arc::new(body.clone()));
        self.record(Entry::Sent { spot, action, attempt, deadline, body });
    }

    /// Whether what an action asks for can be rendered again later, and is the same: it reads only what is settled for good. An optional step
    /// that failed may turn out to have succeeded.
    fn is_rendered_alike(&self, step: StepIx, action: Action) -> bool {
        let is_settled = |path: &[String]| {
            let [root, name, what, ..] = path else { return path.first().is_none_or(|root| root != "steps") };
            let read = self.definition.steps.iter().position(|step| *step.name == **name);
            let is_known =
                |unit: &Unit| matches!(unit.execute.progress, Progress::Succeeded { .. } | Progress::Skipped { .. });
            let ended = |read: StepIx| self.saga.steps[read].units().all(|(_, unit)| is_known(unit));
            root != "steps" || what != "status" && read.is_some_and(ended)
        };
        let body = self.own_body(step, action);
        body.is_none_or(|body| body.references().into_iter().all(|reference| is_settled(&reference.path)))
    }

    /// The body that the definition gives an action.
    fn own_body(&self, step: StepIx, action: Action) -> Option<&'a Body> {
        match (action, &self.definition.steps[step].execute) {
            (Action::Execute, Execute::Publish(event)) => event.body.as_ref(),
            (Action::Execute, Execute::Saga(child)) => child.input.as_ref(),
            _ => self.command(step, action).and_then(|command| command.body.as_ref()),
        }
    }

    /// The next attempt of an action.
    fn next(&self, spot: Spot, action: Action) -> Ticket {
        let attempt = self.saga.unit(spot).map_or(0, |unit| unit.action(action).attempt) + 1;
        Ticket { saga: self.saga.id, spot, action, attempt }
    }

    /// What can't be rendered now can't be rendered later either: no attempt is made.
    pub(super) fn fail_template(&mut self, spot: Spot, action: Action, place: &str, error: &TemplateError) {
        let failure = Failure::new(Reason::Template, format!("{place}: {error}"));
        self.record(match action {
            Action::Execute => Entry::Failed { spot, action, attempt: 0, failure },
            Action::Compensate | Action::Probe => Entry::Exhausted { spot, action, failure },
        });
    }

    /// Nothing forward is waited for beyond the saga's deadline, unless it is past its point of no return.
    fn within_the_saga(&self, deadline: Option<Time>) -> Option<Time> {
        match self.saga.end(self.definition) {
            Some(end) => Some(deadline.map_or(end, |deadline| deadline.min(end))),
            None => deadline,
        }
    }

    /// When an attempt whose participant is still at it times out.
    pub(super) fn extended_deadline(&self, spot: Spot, action: Action) -> Option<Time> {
        let deadline = self.time_to_answer(spot, action).map(|time| self.now.plus(time));
        match action {
            // A child has a time-out of its own, and the deadline of this saga reaches it.
            _ if self.runs_child(spot.step) => deadline,
            Action::Compensate => deadline,
            Action::Execute | Action::Probe => self.within_the_saga(deadline),
        }
    }

    /// How long an attempt may take.
    pub(super) fn time_to_answer(&self, spot: Spot, action: Action) -> Option<Duration> {
        let step = &self.definition.steps[spot.step];
        match (action, &step.execute, step.compensate.as_ref().map(|compensate| &compensate.undo)) {
            (Action::Execute, Execute::Saga(child), _) => child.timeout,
            (Action::Execute, Execute::Publish(event), _) => event.timeout,
            (Action::Compensate, _, Some(Undo::Child { timeout, .. })) => *timeout,
            _ => self.command(spot.step, action).map(|command| command.timeout),
        }
    }

    pub(super) fn retry(&self, step: StepIx, action: Action) -> Retry {
        let definition = &self.definition.steps[step];
        match (action, &definition.execute, definition.compensate.as_ref().map(|compensate| &compensate.undo)) {
            (Action::Compensate, _, Some(Undo::Child { retry, .. })) => *retry,
            (Action::Execute, Execute::Publish(event), _) => event.retry,
            _ => self.command(step, action).map_or(ORDERS, |command| command.retry),
        }
    }

    pub(super) fn reply(&self, step: StepIx, action: Action) -> &'a Reply {
        static PLAIN: Reply =
            Reply { success_when: None, retry_when: None, schema: None, success: None, failure: None, error: None };
        self.command(step, action).map_or(&PLAIN, |command| &command.reply)
    }

    fn command(&self, step: StepIx, action: Action) -> Option<&'a definition::Command> {
        // An input may speak of a step that there is not.
        let step = self.definition.steps.get(step)?;
        step.sends(action)
    }

    /// The body of a command or an event, or the input of a child.
    fn body(&self, spot: Spot, action: Action, scope: &Scope) -> Result<Value, TemplateError> {
        let unit = self.saga.unit(spot);
        if let Some(asked) = unit.and_then(|unit| unit.action(action).asked.as_ref()) {
            return Ok(Value::clone(asked));
        }
        if let Some(body) = self.own_body(spot.step, action) {
            return body.render(scope);
        }
        match action {
            Action::Execute => Ok(Value::clone(&self.saga.input)),
            Action::Probe => self.body(spot, Action::Execute, scope),
            Action::Compensate => {
                // What was sent is rendered again, unless it was kept.
                let sent = match self.definition.steps[spot.step].execute {
                    Execute::Wait(_) | Execute::Sleep(_) => Value::Null,
                    _ => self.body(spot, Action::Execute, &self.scope(spot, Action::Execute))?,
                };
                let reply = unit.and_then(|unit| unit.execute.reply());
                Ok(json!({ "command": sent, "reply": reply.map_or(Value::Null, |reply| Value::clone(reply)) }))
            }
        }
    }

    fn priority(
        &self,
        own: Option<&Priority>,
        action: Action,
        scope: &Scope,
    ) -> Result<u8, (&'static str, TemplateError)> {
        match (own, action) {
            (Some(Priority::Fixed(priority)), _) => Ok(*priority),
            (Some(Priority::Template(template)), _) => {
                let rendered = template.render(scope);
                rendered
                    .and_then(|value| as_priority(&value).map_err(TemplateError::new))
                    .map_err(|error| ("priority", error))
            }
            (None, Action::Execute | Action::Probe) => Ok(self.saga.priority),
            (None, Action::Compensate) => Ok(HIGHEST_PRIORITY),
        }
    }
}

fn headers(
    templates: &[(String, Template)],
    scope: &Scope,
) -> Result<Vec<(String, Value)>, (&'static str, TemplateError)> {
    let rendered = templates.iter().map(|(name, template)| Ok((name.clone(), template.render(scope)?)));
    rendered.collect::<Result<_, _>>().map_err(|error| ("headers", error))
}

/// Compensations go first, unless the definition says otherwise.
const HIGHEST_PRIORITY: u8 = 9;

/// Just under an attempt's time-out, so that the broker's word that nobody took the command comes before the time-out does: half a
/// second before, or as much less as a short time-out asks for.
fn expiration(timeout: Duration) -> Duration {
    let margin = (timeout / 10).clamp(Duration::from_millis(100), Duration::from_millis(500)).min(timeout / 2);
    timeout.saturating_sub(margin)
}
