//! Commands: rendered, and sent with the entry that says so.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Command, Transition};
use crate::core::definition::{self, Priority};
use crate::core::entry::Entry;
use crate::core::id::{Action, StepIx, Ticket};
use crate::core::saga::{Failure, Progress, Reason};
use crate::core::start::as_priority;
use crate::core::template::{ReplyView, SagaScope, SagaView, Scope, StepView, TemplateError};
use crate::core::time::Time;

impl<'a> Transition<'a> {
    pub(super) fn send(&mut self, step: StepIx, action: Action) {
        let state = self.saga.steps[step].action(action);
        let ticket = Ticket { saga: self.saga.id, step, action, attempt: state.attempt + 1 };
        let round = state.round;
        let in_doubt = action == Action::Compensate && self.saga.steps[step].execute.in_doubt();
        let scope = self.scope(action);
        let rendered = self.body(step, action, &scope).map_err(|error| ("body", error)).and_then(|body| {
            let headers = self.headers(step, action, &scope)?;
            let priority = self.priority(step, action, &scope).map_err(|error| ("priority", error))?;
            Ok((body, headers, priority))
        });
        let (body, headers, priority) = match rendered {
            Ok(rendered) => rendered,
            Err((place, error)) => return self.fail_template(step, action, place, &error),
        };
        let deadline = self.attempt_deadline(step, action);
        let command = self.command(step, action);
        let expires = (action == Action::Execute && command.expires).then(|| expiration(deadline.since(self.now)));
        let (exchange, routing_key) = (command.exchange.clone(), command.routing_key.clone());
        self.record(Entry::Sent { step, action, attempt: ticket.attempt, deadline });
        self.commands.push(Command {
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
        });
    }

    /// What can't be rendered now can't be rendered later either: no attempt is made.
    pub(super) fn fail_template(&mut self, step: StepIx, action: Action, place: &str, error: &TemplateError) {
        let failure = Failure::new(Reason::Template, format!("{place}: {error}"));
        self.record(match action {
            Action::Execute => Entry::Failed { step, attempt: 0, failure },
            Action::Compensate => Entry::Exhausted { step, action, failure },
        });
    }

    /// When an attempt that is sent now times out. No execute is waited for beyond the saga's deadline.
    pub(super) fn attempt_deadline(&self, step: StepIx, action: Action) -> Time {
        let deadline = self.now.plus(self.command(step, action).timeout);
        match self.saga.deadline {
            Some(end) if action == Action::Execute => deadline.min(end),
            _ => deadline,
        }
    }

    pub(super) fn command(&self, step: StepIx, action: Action) -> &'a definition::Command {
        let step = &self.definition.steps[step];
        match (action, step.undo_command()) {
            (Action::Compensate, Some(command)) => command,
            _ => match &step.execute {
                definition::Execute::Command(request) => &request.command,
                _ => unreachable!("only commands are sent"),
            },
        }
    }

    fn body(&self, step: StepIx, action: Action, scope: &Scope) -> Result<Value, TemplateError> {
        if let Some(body) = &self.command(step, action).body {
            return body.render(scope);
        }
        match action {
            Action::Execute => Ok(Value::clone(&self.saga.input)),
            Action::Compensate => {
                // What was sent is rendered again, not kept: it reads only what was settled before the step began.
                let sent = self.body(step, Action::Execute, &self.scope(Action::Execute))?;
                let reply = self.saga.steps[step].execute.reply().map_or(Value::Null, |reply| Value::clone(reply));
                Ok(json!({ "command": sent, "reply": reply }))
            }
        }
    }

    fn headers(
        &self,
        step: StepIx,
        action: Action,
        scope: &Scope,
    ) -> Result<Vec<(String, Value)>, (&'static str, TemplateError)> {
        let headers = self.command(step, action).headers.iter();
        let rendered = headers.map(|(name, template)| Ok((name.clone(), template.render(scope)?)));
        rendered.collect::<Result<_, _>>().map_err(|error| ("headers", error))
    }

    fn priority(&self, step: StepIx, action: Action, scope: &Scope) -> Result<u8, TemplateError> {
        match (&self.command(step, action).priority, action) {
            (Some(Priority::Fixed(priority)), _) => Ok(*priority),
            (Some(Priority::Template(template)), _) => {
                as_priority(&template.render(scope)?).map_err(TemplateError::new)
            }
            (None, Action::Execute) => Ok(self.saga.priority),
            (None, Action::Compensate) => Ok(HIGHEST_PRIORITY),
        }
    }

    pub(super) fn scope(&self, action: Action) -> Scope {
        let steps = self.definition.steps.iter().zip(&self.saga.steps).map(|(definition, state)| StepView {
            name: definition.name.clone(),
            status: state.status().as_str(),
            reply: match &state.execute.progress {
                Progress::Succeeded { reply, .. } => ReplyView::Known(reply.clone()),
                Progress::Skipped { .. } | Progress::Failed { .. } | Progress::GivenUp { .. } => ReplyView::Null,
                Progress::Idle | Progress::Scheduled { .. } | Progress::Running { .. } => ReplyView::Missing,
            },
        });
        let error = match (&self.saga.error, action) {
            (Some(error), Action::Compensate) => {
                let step = error.step.map(|step| self.definition.steps[step].name.clone());
                Some((step, Arc::new(error.clone())))
            }
            _ => None,
        };
        Scope::Saga(SagaScope {
            input: self.saga.input.clone(),
            steps: steps.collect(),
            saga: Some(SagaView {
                id: self.saga.id,
                name: self.definition.name.clone(),
                key: self.saga.key.clone(),
                revision: self.saga.revision,
                started_at: self.saga.started_at,
            }),
            error,
            element: None,
        })
    }
}

/// Compensations go first, unless the definition says otherwise.
const HIGHEST_PRIORITY: u8 = 9;

/// Just under an attempt's time-out, so that the broker's word that nobody took the command comes before the time-out does: half a
/// second before, or as much less as a short time-out asks for.
fn expiration(timeout: Duration) -> Duration {
    let margin = (timeout / 10).clamp(Duration::from_millis(100), Duration::from_millis(500)).min(timeout / 2);
    timeout.saturating_sub(margin)
}
