//! What happened: answers, what the broker gave back, timers. They settle attempts and actions.

use std::sync::Arc;

use serde_json::Value;

use super::{Ignored, Transition};
use crate::core::answer::Answer;
use crate::core::apply::saga_error;
use crate::core::entry::{Entry, Handling};
use crate::core::id::{Action, StepIx, Ticket};
use crate::core::input::{Forbidden, Input};
use crate::core::retry::backoff;
use crate::core::saga::{Failure, Phase, Progress, Reason, SagaError};

impl Transition<'_> {
    pub(super) fn take(&mut self, input: Input) -> Result<(), Forbidden> {
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

    pub(super) fn keep_deadline(&mut self) {
        if self.saga.phase == Phase::Running && self.saga.deadline.is_some_and(|deadline| deadline <= self.now) {
            self.turn_round(saga_error(Reason::Deadline, "the saga's deadline has passed"), None);
        }
    }

    pub(super) fn turn_round(&mut self, error: SagaError, actor: Option<String>) {
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
}
