//! What follows from an input: the rules of the saga.
//!
//! ```text
//!   input ─> take: what happened, as entries ─> advance: what is to be done next, as entries and commands
//! ```
//!
//! `take` settles attempts and actions, `advance` plans from the state alone: it can be called at any time, and whatever the
//! input was, the same state is followed by the same next steps. Every entry is applied before the next is thought of.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::core::answer::Answer;
use crate::core::apply::{apply, saga_error};
use crate::core::definition::{self, Definition, OnCompensationFailure, Priority};
use crate::core::entry::{Entry, Handling, Resolution};
use crate::core::id::{Action, StepIx, Ticket};
use crate::core::input::{Forbidden, Input, Order};
use crate::core::retry::backoff;
use crate::core::saga::{Failure, Phase, Progress, Reason, Saga, SagaError};
use crate::core::start::as_priority;
use crate::core::template::{ReplyView, SagaView, Scope, StepView, TemplateError};
use crate::core::time::Time;

/// What follows from an input.
#[derive(Debug)]
pub struct Decision {
    /// The saga after it.
    pub saga: Saga,
    /// What is to be journaled; empty: nothing changed.
    pub entries: Vec<Entry>,
    /// What is to be sent, once the entries are committed.
    pub commands: Vec<Command>,
    /// Why nothing changed, where that is worth counting.
    pub ignored: Option<Ignored>,
}

/// A command to send.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// Which sending of which command.
    pub ticket: Ticket,
    /// Where to.
    pub exchange: String,
    /// And under which routing key.
    pub routing_key: String,
    /// The body.
    pub body: Value,
    /// The definition's own headers.
    pub headers: Vec<(String, Value)>,
    /// 0 to 9.
    pub priority: u8,
    /// It dies in its queue after so long.
    pub expires: Option<Duration>,
    /// When the attempt times out.
    pub deadline: Time,
    /// How often the action began anew under another idempotency key.
    pub round: u32,
    /// A compensation of a step whose outcome nobody knows.
    pub in_doubt: bool,
}

/// Why an input changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// The saga knows of no such attempt. A participant can't know of one that was not committed, so the state is an old one.
    UnknownAttempt,
    /// The action is decided; this adds nothing.
    Settled,
    /// It is of an attempt that is not the latest.
    Stale,
    /// No timer is due.
    NotDue,
}

impl Ignored {
    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Ignored::UnknownAttempt => "unknown_attempt",
            Ignored::Settled => "settled",
            Ignored::Stale => "stale",
            Ignored::NotDue => "not_due",
        }
    }
}

/// Decides what follows from `input`.
///
/// # Errors
/// An operator's order that the saga's state forbids. No other input can fail.
pub fn decide(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Result<Decision, Forbidden> {
    let mut transition = Transition::new(definition, saga.clone(), now);
    transition.take(input)?;
    transition.advance();
    Ok(transition.into_decision())
}

/// A saga on its way from one state to the next.
pub(super) struct Transition<'a> {
    definition: &'a Definition,
    saga: Saga,
    now: Time,
    pub(super) entries: Vec<Entry>,
    commands: Vec<Command>,
    ignored: Option<Ignored>,
}

impl<'a> Transition<'a> {
    pub(super) fn new(definition: &'a Definition, saga: Saga, now: Time) -> Transition<'a> {
        Transition { definition, saga, now, entries: Vec::new(), commands: Vec::new(), ignored: None }
    }

    pub(super) fn into_decision(self) -> Decision {
        Decision { saga: self.saga, entries: self.entries, commands: self.commands, ignored: self.ignored }
    }

    fn record(&mut self, entry: Entry) {
        apply(&mut self.saga, &entry, self.now);
        self.entries.push(entry);
    }

    // ---- take: what happened ------------------------------------------------------------------------------------

    fn take(&mut self, input: Input) -> Result<(), Forbidden> {
        match input {
            Input::Answer { step, action, attempt, answer } => {
                self.ignored = self.take_answer(step, action, attempt, answer);
            }
            Input::Undelivered { step, action, attempt, reason, message, delivered_before } => {
                let failure = Failure::new(reason, message);
                self.ignored = self.take_undelivered(step, action, attempt, failure, delivered_before);
            }
            Input::Tick => self.take_tick(),
            Input::Operator { actor, order } => self.take_order(actor, order)?,
            Input::Fault { message } => {
                if self.saga.suspended.is_none() && !self.saga.status().is_terminal() {
                    self.record(Entry::Suspended { reason: message, step: None, actor: None });
                }
            }
        }
        Ok(())
    }

    fn take_answer(&mut self, step: StepIx, action: Action, attempt: u32, answer: Answer) -> Option<Ignored> {
        let Some(state) = self.saga.steps.get(step).map(|state| state.action(action)) else {
            return Some(Ignored::UnknownAttempt);
        };
        if attempt == 0 || attempt > state.attempt {
            return Some(Ignored::UnknownAttempt);
        }
        if attempt <= state.void {
            return Some(Ignored::Stale);
        }
        let latest = attempt == state.attempt;
        match (&state.progress, answer) {
            (Progress::Idle | Progress::Scheduled { .. } | Progress::Running { .. }, Answer::Success(reply)) => {
                self.succeed(step, action, attempt, reply, false);
            }
            // The answer that decided a failure does not change its mind; one to another attempt tells of an effect.
            (Progress::Failed { by, .. }, Answer::Success(reply)) if *by != Some(attempt) => {
                self.succeed(step, action, attempt, reply, true);
            }
            (Progress::GivenUp { .. }, Answer::Success(reply)) => self.succeed(step, action, attempt, reply, true),
            (Progress::Idle | Progress::Scheduled { .. } | Progress::Running { .. }, Answer::Failure(failure))
                if action == Action::Execute =>
            {
                self.record(Entry::Failed { step, attempt, failure });
            }
            // Late, yet the first word about it: the doubt is over. Not once its undo is on its way, which serves either case.
            (Progress::Failed { .. }, Answer::Failure(failure))
                if action == Action::Execute && state.in_doubt() && self.saga.steps[step].compensate.is_untouched() =>
            {
                self.record(Entry::Failed { step, attempt, failure });
                self.take_up_again(step);
            }
            (Progress::Running { .. }, Answer::Failure(failure) | Answer::Retry(failure)) if latest => {
                self.fail_attempt(step, action, failure, Handling::Answered);
            }
            (Progress::Running { .. }, Answer::Pending) if latest => {
                let deadline = self.attempt_deadline(step, action);
                self.record(Entry::Extended { step, action, attempt, deadline });
            }
            (Progress::Idle | Progress::Scheduled { .. } | Progress::Running { .. }, _) => return Some(Ignored::Stale),
            _ => return Some(Ignored::Settled),
        }
        None
    }

    /// A success decides, also one that comes after the action was taken for failed: then what it did is undone.
    fn succeed(&mut self, step: StepIx, action: Action, attempt: u32, reply: Value, late: bool) {
        self.record(Entry::Succeeded { step, action, attempt, reply: Arc::new(reply), late });
        let waits_for_it = self.saga.suspended.as_ref().is_some_and(|suspension| suspension.step == Some(step));
        match action {
            Action::Compensate => {}
            Action::Execute => {
                let state = &self.saga.steps[step];
                if !state.needs_undo(&self.definition.steps[step]) {
                    return;
                }
                if !state.compensate.is_untouched() {
                    self.record(Entry::CompensationRenewed { step });
                }
                self.take_up_again(step);
            }
        }
        if waits_for_it {
            self.record(Entry::Resumed { actor: None, reason: None });
        }
    }

    /// A saga that has ended as undone may have this step to undo after all.
    fn take_up_again(&mut self, step: StepIx) {
        let owed = !self.is_settled(step);
        if owed && matches!(self.saga.phase, Phase::Compensated { .. } | Phase::Failed { .. }) {
            let error = saga_error(Reason::Timeout, "an answer came after the saga had ended");
            self.record(Entry::Compensating { error, actor: None });
        }
    }

    fn take_undelivered(
        &mut self,
        step: StepIx,
        action: Action,
        attempt: u32,
        failure: Failure,
        delivered_before: bool,
    ) -> Option<Ignored> {
        let Some(state) = self.saga.steps.get(step).map(|state| state.action(action)) else {
            return Some(Ignored::UnknownAttempt);
        };
        if attempt == 0 || attempt > state.attempt {
            return Some(Ignored::UnknownAttempt);
        }
        // Whatever the broker says of a command that a participant said to be at, that participant had it.
        let taken = state.pending && attempt == state.attempt;
        let handling = match failure.reason {
            _ if taken => Handling::Maybe,
            Reason::Unroutable => Handling::Never,
            Reason::Expired | Reason::MaxLength if !delivered_before => Handling::Never,
            _ => Handling::Maybe,
        };
        if state.in_flight() && attempt == state.attempt {
            self.fail_attempt(step, action, failure, handling);
        } else if handling == Handling::Never && state.unanswered.contains(&attempt) {
            self.record(Entry::NeverRan { step, action, attempt, failure });
            self.take_up_again(step);
        } else {
            return Some(Ignored::Settled);
        }
        None
    }

    fn take_tick(&mut self) {
        // The saga's own deadline first: where both are due, it is the reason.
        if self.saga.suspended.is_none() {
            self.keep_deadline();
        }
        for step in 0..self.saga.steps.len() {
            for action in [Action::Execute, Action::Compensate] {
                if let Progress::Running { deadline } = self.saga.steps[step].action(action).progress
                    && deadline <= self.now
                {
                    let timeout = humantime::format_duration(self.command(step, action).timeout);
                    let failure = Failure::new(Reason::Timeout, format!("no answer within {timeout}"));
                    self.fail_attempt(step, action, failure, Handling::Maybe);
                }
            }
        }
        if self.entries.is_empty() {
            self.ignored = Some(Ignored::NotDue);
        }
    }

    /// The latest attempt of an action that is in flight came to nothing: another one follows, or none.
    fn fail_attempt(&mut self, step: StepIx, action: Action, failure: Failure, handling: Handling) {
        let attempt = self.saga.steps[step].action(action).attempt;
        self.record(Entry::AttemptFailed { step, action, attempt, failure: failure.clone(), handling });
        let tries = self.saga.steps[step].action(action).tries();
        let retry = self.command(step, action).retry;
        // Once a saga compensates it makes no further forward attempt.
        let wanted = action == Action::Compensate || self.saga.phase == Phase::Running;
        if wanted && tries < retry.attempts {
            let ticket = Ticket { saga: self.saga.id, step, action, attempt };
            let due = self.now.plus(backoff(&retry, tries, ticket));
            self.record(Entry::Scheduled { step, action, due });
        } else {
            self.record(Entry::Exhausted { step, action, failure });
        }
    }

    fn keep_deadline(&mut self) {
        if self.saga.phase == Phase::Running && self.saga.deadline.is_some_and(|deadline| deadline <= self.now) {
            self.turn_round(saga_error(Reason::Deadline, "the saga's deadline has passed"), None);
        }
    }

    fn turn_round(&mut self, error: SagaError, actor: Option<String>) {
        let failure = error.failure.clone();
        self.record(Entry::Compensating { error, actor });
        if failure.reason != Reason::Deadline {
            return;
        }
        for step in 0..self.saga.steps.len() {
            if self.saga.steps[step].execute.in_flight() {
                self.fail_attempt(step, Action::Execute, failure.clone(), Handling::Maybe);
            }
        }
    }

    // ---- operators ----------------------------------------------------------------------------------------------

    fn take_order(&mut self, actor: String, order: Order) -> Result<(), Forbidden> {
        let status = self.saga.status();
        let forbidden = |why: &str| Forbidden::State(format!("the saga is {}: {why}", status.as_str()));
        if status.is_terminal() {
            return Err(forbidden("it has ended"));
        }
        match order {
            Order::Cancel { reason } => {
                if self.saga.phase == Phase::Compensating {
                    return Err(forbidden("it is already being undone; resume it, or retry or resolve its step"));
                }
                let message = reason.unwrap_or_else(|| format!("cancelled by {actor}"));
                self.turn_round(saga_error(Reason::Cancelled, message), Some(actor));
            }
            Order::Suspend { reason } => {
                if self.saga.suspended.is_some() {
                    return Err(forbidden("it waits for an operator already"));
                }
                let reason = reason.unwrap_or_else(|| format!("suspended by {actor}"));
                self.record(Entry::Suspended { reason, step: None, actor: Some(actor) });
            }
            Order::Resume { reason } => {
                if self.saga.suspended.is_none() {
                    return Err(forbidden("only a suspended one can be resumed"));
                }
                self.record(Entry::Resumed { actor: Some(actor.clone()), reason });
                for step in 0..self.saga.steps.len() {
                    if matches!(self.saga.steps[step].compensate.progress, Progress::Failed { .. })
                        && self.definition.on_compensation_failure == OnCompensationFailure::Suspend
                    {
                        let (action, actor) = (Action::Compensate, actor.clone());
                        self.record(Entry::Retried { step, action, actor, reason: None });
                    }
                }
            }
            Order::Retry { step, reason } => {
                let step = self.step_named(step)?;
                let state = &self.saga.steps[step];
                let action = match (&state.execute.progress, &state.compensate.progress) {
                    (_, Progress::Failed { .. }) => Action::Compensate,
                    (Progress::Failed { .. }, Progress::Idle) if self.saga.phase == Phase::Running => Action::Execute,
                    _ => return Err(forbidden("no action of this step has failed and could be tried again")),
                };
                // What came after an optional step has taken its failure for its end.
                if action == Action::Execute && self.has_gone_on(step) {
                    return Err(forbidden("its step is optional, and the steps after it have begun"));
                }
                self.record(Entry::Retried { step, action, actor: actor.clone(), reason });
                if self.saga.suspended.is_some() {
                    self.record(Entry::Resumed { actor: Some(actor), reason: None });
                }
            }
            Order::Resolve { step, outcome, reply, reason } => {
                let step = self.step_named(step)?;
                let state = &self.saga.steps[step];
                let possible = match outcome {
                    Resolution::Succeeded | Resolution::Failed => {
                        let open =
                            matches!(state.execute.progress, Progress::Failed { .. }) || state.execute.under_way();
                        state.execute.attempt > 0 && open && state.compensate.is_untouched()
                    }
                    Resolution::Compensated | Resolution::GivenUp => {
                        let settled =
                            matches!(state.compensate.progress, Progress::Succeeded { .. } | Progress::GivenUp { .. });
                        let owed = state.needs_undo(&self.definition.steps[step]) || !state.compensate.is_untouched();
                        self.saga.phase == Phase::Compensating && owed && !settled
                    }
                };
                if !possible {
                    let step = self.saga.steps[step].status().as_str();
                    return Err(forbidden(&format!(
                        "its step is {step}, which leaves nothing of this kind to resolve"
                    )));
                }
                let waits_for_it = self.saga.suspended.as_ref().is_some_and(|cause| cause.step == Some(step));
                let reply = Arc::new(reply);
                self.record(Entry::Resolved { step, outcome, reply, reason, actor: actor.clone() });
                if waits_for_it {
                    self.record(Entry::Resumed { actor: Some(actor), reason: None });
                }
            }
        }
        Ok(())
    }

    fn has_gone_on(&self, step: StepIx) -> bool {
        let mut later = self.definition.steps[step].later.iter();
        later.any(|later| self.saga.steps[*later].execute.progress != Progress::Idle)
    }

    fn step_named(&self, name: String) -> Result<StepIx, Forbidden> {
        self.definition.step_named(&name).ok_or(Forbidden::NoSuchStep(name))
    }

    // ---- advance: what is to be done next -----------------------------------------------------------------------

    /// Does all that the state asks for now. A suspended saga asks for nothing.
    pub(super) fn advance(&mut self) {
        if self.saga.suspended.is_some() {
            return;
        }
        if let Phase::Pending { due } = self.saga.phase
            && due <= self.now
        {
            let deadline = self.definition.timeout.map(|timeout| self.now.plus(timeout));
            self.record(Entry::Started { deadline });
        }
        if self.saga.phase == Phase::Running && !self.all_ended_well() {
            // A saga that is resumed, or answered, after its deadline sends nothing more.
            self.keep_deadline();
        }
        if self.saga.phase == Phase::Running {
            self.go_forward();
        }
        if self.saga.phase == Phase::Compensating {
            self.go_back();
        }
        if !self.entries.is_empty() {
            self.ignored = None;
        }
    }

    fn go_forward(&mut self) {
        loop {
            if let Some(error) = self.first_failure() {
                return self.turn_round(error, None);
            }
            let before = self.entries.len();
            for step in 0..self.saga.steps.len() {
                match self.saga.steps[step].execute.progress {
                    Progress::Idle if self.is_reached(step) => self.begin_step(step),
                    Progress::Scheduled { due } if due <= self.now => self.send(step, Action::Execute),
                    _ => {}
                }
            }
            // A skipped step may let one before it in the file begin; a template that fails ends the saga.
            if self.entries.len() == before {
                break;
            }
        }
        if self.all_ended_well() {
            self.complete();
        }
    }

    fn all_ended_well(&self) -> bool {
        (0..self.saga.steps.len()).all(|step| self.ended_well(step))
    }

    /// The failure that turns the saga round: of the step that failed first, where there are several.
    fn first_failure(&self) -> Option<SagaError> {
        let failed = self.saga.steps.iter().enumerate().filter_map(|(step, state)| match &state.execute.progress {
            Progress::Failed { at, failure, .. } if !self.definition.steps[step].optional => Some((*at, step, failure)),
            _ => None,
        });
        let (_, step, failure) = failed.min_by_key(|(at, step, _)| (*at, *step))?;
        Some(SagaError { step: Some(step), failure: failure.clone() })
    }

    fn is_reached(&self, step: StepIx) -> bool {
        self.definition.steps[step].after.iter().all(|earlier| self.ended_well(*earlier))
    }

    fn ended_well(&self, step: StepIx) -> bool {
        match self.saga.steps[step].execute.progress {
            Progress::Succeeded { .. } | Progress::Skipped { .. } => true,
            Progress::Failed { .. } => self.definition.steps[step].optional,
            _ => false,
        }
    }

    fn begin_step(&mut self, step: StepIx) {
        let definition = &self.definition.steps[step];
        // An operator's retry is sent at once: the step's condition held and its delay has passed.
        let fresh = self.saga.steps[step].execute.attempt == 0;
        if fresh && let Some(when) = &definition.when {
            match when.holds(&self.scope(Action::Execute)) {
                Ok(true) => {}
                Ok(false) => return self.record(Entry::Skipped { step }),
                Err(error) => return self.fail_template(step, Action::Execute, "when", &error),
            }
        }
        if fresh && !definition.delay.is_zero() {
            let due = self.now.plus(definition.delay);
            return self.record(Entry::Scheduled { step, action: Action::Execute, due });
        }
        self.send(step, Action::Execute);
    }

    fn complete(&mut self) {
        let output = match &self.definition.output {
            None => Ok(Value::Null),
            Some(output) => output.render(&self.scope(Action::Execute)),
        };
        // Everything is done and nothing is to be undone for the sake of a template: the saga says what is wrong with it.
        let (output, error) = match output {
            Ok(output) => (output, None),
            Err(error) => (Value::Null, Some(saga_error(Reason::Template, format!("[output]: {error}")))),
        };
        self.record(Entry::Completed { output: Arc::new(output), error });
    }

    fn go_back(&mut self) {
        self.withdraw();
        loop {
            let before = self.entries.len();
            let blocked = self.failed_compensation().is_some();
            for step in (0..self.saga.steps.len()).rev() {
                let state = &self.saga.steps[step].compensate;
                match state.progress {
                    // What an operator asked for again goes out, even if another compensation still waits for one.
                    Progress::Idle if (!blocked || state.spent > 0) && self.may_be_undone(step) => {
                        self.send(step, Action::Compensate);
                    }
                    Progress::Scheduled { due } if !blocked && due <= self.now => self.send(step, Action::Compensate),
                    _ => {}
                }
            }
            // A compensation that can't be rendered fails without having been sent, and others may follow it.
            if self.entries.len() == before {
                break;
            }
        }
        if let Some(suspended) = self.failed_compensation() {
            return self.record(suspended);
        }
        if (0..self.saga.steps.len()).all(|step| self.is_settled(step)) {
            let given_up = |progress: &Progress| matches!(progress, Progress::Failed { .. } | Progress::GivenUp { .. });
            let any_given_up = self.saga.steps.iter().any(|step| given_up(&step.compensate.progress));
            self.record(if any_given_up { Entry::GaveUp {} } else { Entry::Compensated {} });
        }
    }

    /// Calls off what waits for its delay, its back-off or an attempt that an operator asked for.
    fn withdraw(&mut self) {
        for step in 0..self.saga.steps.len() {
            let state = &self.saga.steps[step].execute;
            let waits = match state.progress {
                Progress::Scheduled { .. } => true,
                Progress::Idle => state.attempt > 0,
                _ => false,
            };
            if !waits {
                continue;
            }
            if state.attempt == 0 {
                self.record(Entry::Withdrawn { step });
            } else {
                let failure = state.last_failure.clone().unwrap_or_else(|| {
                    Failure::new(Reason::Cancelled, "no further attempt was made, because the saga compensates")
                });
                self.record(Entry::Exhausted { step, action: Action::Execute, failure });
            }
        }
    }

    /// The suspension for a compensation that has failed for good, unless the others are to go on.
    fn failed_compensation(&self) -> Option<Entry> {
        if self.definition.on_compensation_failure == OnCompensationFailure::Continue {
            return None;
        }
        let (step, failure) =
            self.saga.steps.iter().enumerate().find_map(|(step, state)| match &state.compensate.progress {
                Progress::Failed { failure, .. } => Some((step, failure)),
                _ => None,
            })?;
        let name = &self.definition.steps[step].name;
        let reason =
            format!("the compensation of step `{name}` failed: {} ({})", failure.message, failure.reason.as_str());
        Some(Entry::Suspended { reason, step: Some(step), actor: None })
    }

    /// Strictly in reverse: once everything after it is compensated, failed without effect, or never ran.
    fn may_be_undone(&self, step: StepIx) -> bool {
        let definition = &self.definition.steps[step];
        self.saga.steps[step].needs_undo(definition) && definition.later.iter().all(|later| self.is_settled(*later))
    }

    fn is_settled(&self, step: StepIx) -> bool {
        self.saga.steps[step].is_settled(&self.definition.steps[step], self.definition.on_compensation_failure)
    }

    // ---- sending ------------------------------------------------------------------------------------------------

    fn send(&mut self, step: StepIx, action: Action) {
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
    fn fail_template(&mut self, step: StepIx, action: Action, place: &str, error: &TemplateError) {
        let failure = Failure::new(Reason::Template, format!("{place}: {error}"));
        self.record(match action {
            Action::Execute => Entry::Failed { step, attempt: 0, failure },
            Action::Compensate => Entry::Exhausted { step, action, failure },
        });
    }

    /// When an attempt that is sent now times out. No execute is waited for beyond the saga's deadline.
    fn attempt_deadline(&self, step: StepIx, action: Action) -> Time {
        let deadline = self.now.plus(self.command(step, action).timeout);
        match self.saga.deadline {
            Some(end) if action == Action::Execute => deadline.min(end),
            _ => deadline,
        }
    }

    fn command(&self, step: StepIx, action: Action) -> &'a definition::Command {
        let step = &self.definition.steps[step];
        match (action, &step.compensate) {
            (Action::Compensate, Some(compensate)) => &compensate.command,
            _ => &step.execute,
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

    fn scope(&self, action: Action) -> Scope {
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
        Scope {
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
        }
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
