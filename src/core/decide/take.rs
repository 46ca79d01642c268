//! What happened: answers, what the broker gave back, timers. They settle attempts and actions.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::advance::ALL;
use super::family::{child_status, left_something};
use super::{Ignored, Transition};
use crate::core::answer::{Answer, judge, judge_event};
use crate::core::apply::saga_error;
use crate::core::definition::Execute;
use crate::core::entry::{Entry, Handling};
use crate::core::id::{Action, Spot, StepIx, Ticket};
use crate::core::input::{Bearing, Forbidden, Input};
use crate::core::retry::backoff;
use crate::core::saga::{Addressee, Failure, Phase, Progress, Reason, Tally, Unit};

impl Transition<'_> {
    pub(super) fn take(&mut self, input: Input) -> Result<(), Forbidden> {
        match input {
            Input::Answer { spot, action, attempt, answer } => {
                let mut answer = judge(self.reply(spot.step, action), answer);
                if self.runs_child(spot.step)
                    && let Answer::Failure(failure) = &mut answer
                {
                    failure.reason = Reason::Child;
                }
                self.ignored = self.take_answer(spot, action, attempt, answer);
            }
            Input::Undelivered { spot, action, attempt, reason, message, delivered_before, resent } => {
                let failure = Failure::new(reason, message);
                let copy = match (delivered_before, resent) {
                    (true, _) => Handling::Maybe,
                    (false, true) => Handling::Resent,
                    (false, false) => Handling::Never,
                };
                self.ignored = self.take_undelivered(spot, action, attempt, failure, copy);
            }
            Input::Signal { name, id, payload, actor } => self.ignored = self.take_signal(&name, id, payload, actor)?,
            Input::Event { step, bearing, id, body, headers } => {
                self.ignored = self.take_event(step, bearing, id, body, headers);
            }
            Input::Admit => {
                if matches!(self.saga.phase, Phase::Pending { held: true, .. }) && self.saga.suspended.is_none() {
                    self.begin();
                }
            }
            Input::Undo { by } => self.ignored = self.take_undo(by),
            Input::Tick => self.take_tick(),
            Input::Operator { actor, order } => self.take_order(actor, order)?,
            Input::Fault { message } => {
                if self.saga.suspended.is_none() && !self.saga.status().is_terminal() {
                    self.record(Entry::Suspended { reason: message, spot: None, actor: None });
                }
            }
        }
        Ok(())
    }

    /// An event of another service: what a step waits for, or the answer to the latest attempt of its command.
    fn take_event(
        &mut self,
        step: StepIx,
        bearing: Bearing,
        id: Option<String>,
        body: Value,
        headers: Value,
    ) -> Option<Ignored> {
        let (action, success) = match bearing {
            // Whatever forbids it: nobody waits to be told, and the event is of no use to anybody any more.
            Bearing::Awaited => {
                return self.take_letter(Addressee::Step(step), id, body, None).unwrap_or(Some(Ignored::Settled));
            }
            Bearing::Success(action) => (action, true),
            Bearing::Failure(action) => (action, false),
        };
        let spot = Spot::from(step);
        let attempt = self.saga.unit(spot).map_or(0, |unit| unit.action(action).attempt);
        if attempt == 0 {
            // It can't tell of a command that was never sent.
            return Some(Ignored::Stale);
        }
        let answer = judge_event(self.reply(step, action), success, body, headers);
        // Nothing says which attempt it tells of. Where another word of the participant's decided, it is of an effect all the same.
        let failed = self.saga.unit(spot).and_then(|unit| match &unit.action(action).progress {
            Progress::Failed { failure, .. } => Some(failure.reason),
            _ => None,
        });
        match answer {
            Answer::Success(reply) if failed.is_some() => self.succeed(spot, action, attempt, reply, true),
            Answer::Failure(failure)
                if success && action == Action::Execute && failed.is_some_and(|why| why != Reason::InvalidReply) =>
            {
                self.record(Entry::Failed { spot, action, attempt, failure });
                self.owe_again(spot);
            }
            answer => return self.take_answer(spot, action, attempt, answer),
        }
        None
    }

    fn take_answer(&mut self, spot: Spot, action: Action, attempt: u32, answer: Answer) -> Option<Ignored> {
        let Some(unit) = self.saga.unit(spot) else { return Some(Ignored::UnknownAttempt) };
        let state = unit.action(action);
        if attempt == 0 || attempt > state.attempt {
            return Some(Ignored::UnknownAttempt);
        }
        if attempt <= state.void {
            return self.take_void(spot, action, answer);
        }
        // What was asked has been answered by the command itself.
        if action == Action::Probe && !unit.execute.in_doubt() {
            return Some(Ignored::Settled);
        }
        let open = matches!(state.progress, Progress::Idle | Progress::Scheduled { .. } | Progress::Running { .. });
        let forward = action != Action::Compensate;
        let undo_untouched = unit.compensate.is_untouched();
        // A child is the same one whichever attempt began it. But one that is asked again to undo answers anew.
        let child = self.runs_child(spot.step);
        let latest = attempt == state.attempt || child && action == Action::Execute;
        // It has the order, though the attempt was taken for lost. One that it has answered since is another's to ask again.
        let in_doubt = state.unanswered.contains(&attempt);
        let unanswered = child && in_doubt;
        // It has had its say: an operator has asked for other attempts since.
        let refused = matches!(&answer, Answer::Failure(failure) if child_status(failure).is_none());
        let counted = attempt <= state.spent && !in_doubt && (!child || refused);
        match (&state.progress, answer) {
            (_, Answer::Success(reply)) if open => self.succeed(spot, action, attempt, reply, false),
            // The answer that decided a failure does not change its mind; one to another attempt tells of an effect.
            (Progress::Failed { by, .. }, Answer::Success(reply)) if *by != Some(attempt) => {
                self.succeed(spot, action, attempt, reply, true);
            }
            (Progress::GivenUp { .. }, Answer::Success(reply)) => self.succeed(spot, action, attempt, reply, true),
            (_, Answer::Failure(_)) if (open || state.in_doubt()) && forward && counted => return Some(Ignored::Stale),
            // An answer that nobody can read says nothing of how it ended.
            (Progress::Running { .. }, Answer::Failure(failure))
                if action == Action::Probe && latest && failure.reason == Reason::InvalidReply =>
            {
                self.fail_attempt(spot, action, failure, Handling::Answered);
            }
            (_, Answer::Failure(failure)) if open && action == Action::Execute => {
                self.fail_execute(spot, attempt, failure);
            }
            (_, Answer::Failure(failure)) if open && forward => {
                self.record(Entry::Failed { spot, action, attempt, failure });
            }
            // Done, however late and whatever its answer looks like: what it did is undone, once more if need be.
            (Progress::Failed { by, failure: known, .. }, Answer::Failure(failure))
                if action == Action::Execute
                    && failure.reason == Reason::InvalidReply
                    && known.reason != Reason::InvalidReply
                    && *by != Some(attempt) =>
            {
                self.record(Entry::Failed { spot, action, attempt, failure });
                self.owe_again(spot);
            }
            // A child that was refused, or has undone what it did, has nothing to undo.
            (Progress::Failed { .. }, Answer::Failure(failure))
                if action == Action::Execute && state.in_doubt() && self.runs_child(spot.step) =>
            {
                self.fail_execute(spot, attempt, failure);
                self.take_up_again(spot);
                self.go_on_with(spot);
            }
            // One order was refused, and another had begun it: what it left behind is news.
            (Progress::Failed { by: Some(other), .. }, Answer::Failure(failure))
                if action == Action::Execute
                    && *other != attempt
                    && child
                    && left_something(&failure)
                    && !matches!(unit.compensate.progress, Progress::Succeeded { .. } | Progress::GivenUp { .. }) =>
            {
                self.leave_behind(spot, failure);
            }
            // Late, yet the first word about it: the doubt is over. Not once its undo is on its way, which serves either case.
            (Progress::Failed { .. }, Answer::Failure(failure)) if forward && state.in_doubt() && undo_untouched => {
                self.record(Entry::Failed { spot, action, attempt, failure });
                self.take_up_again(spot);
                self.go_on_with(spot);
            }
            (Progress::Running { .. }, Answer::Failure(failure) | Answer::Retry(failure)) if latest => {
                self.fail_attempt(spot, action, failure, Handling::Answered);
            }
            (Progress::Running { .. } | Progress::Scheduled { .. }, Answer::Pending)
                if latest && (state.in_flight() || unanswered) =>
            {
                let deadline = self.extended_deadline(spot, action);
                self.record(Entry::Extended { spot, action, attempt, deadline });
            }
            // A child that could not undo what it did says so of an order that was taken for lost: no older word of it is to be waited for.
            (Progress::Scheduled { .. }, Answer::Failure(failure) | Answer::Retry(failure)) if latest && unanswered => {
                let handling = Handling::Answered;
                self.record(Entry::AttemptFailed { spot, action, attempt, failure, handling });
            }
            _ if open => return Some(Ignored::Stale),
            _ => return Some(Ignored::Settled),
        }
        None
    }

    /// An answer of an earlier round. Whatever was known of a child then, that it could not undo itself is news.
    fn take_void(&mut self, spot: Spot, action: Action, answer: Answer) -> Option<Ignored> {
        let is_over = |unit: &Unit| {
            unit.compensate.is_fresh() && matches!(unit.execute.progress, Progress::Failed { by: Some(_), .. })
        };
        match answer {
            Answer::Failure(failure)
                if action == Action::Compensate
                    && self.runs_child(spot.step)
                    && left_something(&failure)
                    && self.saga.unit(spot).is_some_and(is_over) =>
            {
                self.leave_behind(spot, failure);
                None
            }
            _ => Some(Ignored::Stale),
        }
    }

    /// A child that was taken to have undone itself, or to have done nothing, left something behind.
    fn leave_behind(&mut self, spot: Spot, failure: Failure) {
        self.call_off_undo(spot);
        self.record(Entry::GivenUp { spot, failure });
        self.take_up_again(spot);
        self.go_on_with(spot);
    }

    /// A success decides, also one that comes after the action was taken for failed: then what it did is undone.
    fn succeed(&mut self, spot: Spot, action: Action, attempt: u32, reply: Value, late: bool) {
        self.record(Entry::Succeeded { spot, action, attempt, reply: Arc::new(reply), late });
        if action != Action::Compensate {
            self.owe_again(spot);
            if self.saga.phase == Phase::Running && self.runs_child(spot.step) {
                self.forget_what_was_left(spot);
            }
        }
        self.go_on_with(spot);
    }

    /// What turned out to have been done, or begun, is undone; where that was tried already, once more.
    fn owe_again(&mut self, spot: Spot) {
        if let Some(unit) = self.saga.unit(spot)
            && unit.needs_undo(&self.definition.steps[spot.step])
        {
            if !unit.compensate.is_fresh() {
                self.record(Entry::CompensationRenewed { spot });
                self.go_on_with(spot);
            }
            self.take_up_again(spot);
        }
    }

    /// A failure decides an execute. One of a child that could not undo all that it did leaves something behind.
    fn fail_execute(&mut self, spot: Spot, attempt: u32, failure: Failure) {
        // Once it has told that it undid everything, that it could not is an older word.
        let undone = |unit: &Unit| matches!(unit.compensate.progress, Progress::Succeeded { .. });
        let left = self.runs_child(spot.step) && left_something(&failure);
        let left = left && !self.saga.unit(spot).is_some_and(undone);
        self.record(Entry::Failed { spot, action: Action::Execute, attempt, failure: failure.clone() });
        self.call_off_undo(spot);
        if left {
            self.record(Entry::GivenUp { spot, failure });
        }
    }

    /// An undo that was asked for while nobody knew whether there was anything to undo, and there was not.
    fn call_off_undo(&mut self, spot: Spot) {
        let begun = |unit: &Unit| unit.compensate.under_way() || unit.compensate.failure().is_some();
        if self.saga.unit(spot).is_some_and(begun) {
            self.record(Entry::CompensationRenewed { spot });
        }
    }

    /// Nobody needs to find out any more what came by itself.
    fn go_on_with(&mut self, spot: Spot) {
        let failed = |unit: &Unit| matches!(unit.compensate.progress, Progress::Failed { .. });
        let stuck = self.saga.unit(spot).is_some_and(failed);
        if !stuck && self.saga.suspended.as_ref().is_some_and(|suspension| suspension.spot == Some(spot)) {
            self.record(Entry::Resumed { actor: None, reason: None });
        }
    }

    fn take_undelivered(
        &mut self,
        spot: Spot,
        action: Action,
        attempt: u32,
        failure: Failure,
        copy: Handling,
    ) -> Option<Ignored> {
        let Some(unit) = self.saga.unit(spot) else { return Some(Ignored::UnknownAttempt) };
        let state = unit.action(action);
        if attempt == 0 || attempt > state.attempt {
            return Some(Ignored::UnknownAttempt);
        }
        // Whatever the broker says of a command that a participant said to be at, that participant had it.
        let taken = state.pending && attempt == state.attempt;
        let handling = match failure.reason {
            _ if taken => Handling::Maybe,
            Reason::Unroutable | Reason::Expired | Reason::MaxLength => copy,
            _ => Handling::Maybe,
        };
        let untouched = unit.compensate.is_untouched();
        let news = match handling {
            // A child says what became of it, whoever had its order in hand.
            Handling::Maybe => untouched || !self.runs_child(spot.step),
            Handling::Resent => untouched && !state.unanswered.contains(&attempt),
            Handling::Never | Handling::Answered => false,
        };
        let news = news && action == Action::Execute && is_news_of_a_hand(unit, attempt);
        if state.in_flight() && attempt == state.attempt {
            self.fail_attempt(spot, action, failure, handling);
        } else if handling == Handling::Never && state.unanswered.contains(&attempt) && !state.held.contains(&attempt) {
            self.record(Entry::NeverRan { spot, action, attempt, failure });
            let step = &self.definition.steps[spot.step];
            // A child that there is not can't be told to undo anything. One that has answered is there.
            let silent = |unit: &Unit| matches!(unit.execute.progress, Progress::Failed { by: None, .. });
            let nobody = |unit: &Unit| silent(unit) && !unit.needs_undo(step);
            if action == Action::Execute && self.runs_child(spot.step) && self.saga.unit(spot).is_some_and(nobody) {
                self.call_off_undo(spot);
            }
            self.take_up_again(spot);
            self.go_on_with(spot);
        } else if news {
            // Somebody had it in hand, nobody knows how long. What he did may have come after the undo.
            self.record(Entry::AttemptFailed { spot, action, attempt, failure, handling });
            self.owe_again(spot);
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
        let now = self.now;
        let is_over = |progress: &Progress| matches!(progress, Progress::Running { deadline: Some(at) } if *at <= now);
        let over = |unit: &Unit| unit.actions().iter().any(|(_, state)| is_over(&state.progress));
        let worth = |tally: &Tally| tally.time_out.is_some_and(|at| at <= now);
        for step in 0..self.saga.steps.len() {
            if !worth(&self.tally(step)) {
                continue;
            }
            for spot in self.find(step, ALL, worth, over) {
                for action in [Action::Execute, Action::Compensate, Action::Probe] {
                    let state = self.saga.unit(spot).map(|unit| unit.action(action));
                    if state.is_some_and(|state| is_over(&state.progress)) {
                        self.time_out(spot, action);
                    }
                }
            }
        }
        if self.entries.is_empty() {
            self.ignored = Some(Ignored::NotDue);
        }
    }

    fn time_out(&mut self, spot: Spot, action: Action) {
        let after = |time: Duration| humantime::format_duration(time);
        if let Execute::Wait(wait) = &self.definition.steps[spot.step].execute
            && action == Action::Execute
        {
            let message = format!("what it waits for did not come within {}", after(wait.timeout.unwrap_or_default()));
            let failure = Failure::new(Reason::Timeout, message);
            return self.record(Entry::Failed { spot, action, attempt: 0, failure });
        }
        let message = match self.time_to_answer(spot, action) {
            Some(time) => format!("no answer within {}", after(time)),
            None => "no answer in time".to_owned(),
        };
        self.fail_attempt(spot, action, Failure::new(Reason::Timeout, message), Handling::Maybe);
    }

    /// The latest attempt of an action that is in flight came to nothing: another one follows, or none.
    pub(super) fn fail_attempt(&mut self, spot: Spot, action: Action, failure: Failure, handling: Handling) {
        let Some(state) = self.saga.unit(spot).map(|unit| unit.action(action)) else { return };
        let attempt = state.attempt;
        // A child that has taken its order goes on with it, whoever asks again.
        let taken = state.pending && self.runs_child(spot.step);
        self.record(Entry::AttemptFailed { spot, action, attempt, failure: failure.clone(), handling });
        let tries = self.saga.unit(spot).map_or(0, |unit| unit.action(action).tries());
        let retry = self.retry(spot.step, action);
        // Once a saga compensates it makes no further forward attempt; past the point of no return it never gives up.
        let forward = action != Action::Compensate;
        let wanted = !forward || self.saga.phase == Phase::Running;
        let enough = tries >= retry.attempts && !(forward && self.saga.is_past_pivot(self.definition));
        if wanted && !enough && !taken {
            let ticket = Ticket { saga: self.saga.id, spot, action, attempt };
            let due = self.now.plus(backoff(&retry, tries, ticket));
            self.record(Entry::Scheduled { spot, action, due });
        } else {
            self.record(Entry::Exhausted { spot, action, failure });
        }
    }

    pub(super) fn keep_deadline(&mut self) {
        if self.saga.end(self.definition).is_none_or(|end| end > self.now) {
            return;
        }
        let error = saga_error(Reason::Deadline, "the saga's deadline has passed");
        match self.saga.phase {
            Phase::Running => self.turn_round(error, None),
            // It has turned round before, and waited for what was in flight.
            Phase::Compensating => self.wait_no_longer(&error.failure, |_| true),
            _ => {}
        }
    }
}

/// Whether it is news that somebody had an attempt of an execute in hand, which is not the latest in flight, and that what he did may still
/// be there.
fn is_news_of_a_hand(unit: &Unit, attempt: u32) -> bool {
    let Unit { execute, probe, .. } = unit;
    let open = match &execute.progress {
        Progress::Scheduled { .. } | Progress::Running { .. } => true,
        Progress::Failed { failure, by: None, .. } => {
            // Of what the broker said, or nobody.
            let is_a_guess = matches!(
                failure.reason,
                Reason::Expired | Reason::MaxLength | Reason::Unroutable | Reason::Timeout | Reason::Deadline
            );
            // Whoever was asked said that it was not done by then.
            let is_of_then = matches!(probe.progress, Progress::Failed { by: Some(_), .. });
            // Who is too busy speaks for himself, and not for whoever has another copy.
            is_a_guess || is_of_then || execute.handled || execute.unanswered.contains(&attempt)
        }
        _ => false,
    };
    open && attempt > execute.void && !execute.held.contains(&attempt)
}
