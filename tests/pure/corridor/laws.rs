//! What sagad guarantees, as far as the laws of the trial do not say it: of messages, and of what follows from answers.

use sagad::core::definition::Definition;
use sagad::core::entry::Entry;
use sagad::core::id::Action;
use sagad::core::saga::{Phase, Progress, Reason, Saga};
use sagad::trial::laws::{self, Breach, of_effects, of_state};
use sagad::trial::stage::action_of;

use super::state::World;
use super::table::{After, Table};
use super::{Answer, Heard, Post, Queued, Said};

/// A command is sent only after the state that sends it is committed.
pub(crate) const COMMITTED_FIRST: &str = "committed-first";
/// An answer is acknowledged only after what it causes is committed.
pub(crate) const ACKED_LAST: &str = "acked-last";
/// The effect of an answer happens once.
pub(crate) const COUNTS_ONCE: &str = "counts-once";
/// What is awaited was sent.
pub(crate) const AT_LEAST_ONCE: &str = "at-least-once";
/// Attempts of one action have one idempotency key.
pub(crate) const ONE_KEY: &str = "one-key";
/// The first answer decides.
pub(crate) const FIRST_ANSWER: &str = "first-answer";
/// A `retry` from an attempt that is not the latest is ignored.
pub(crate) const OLD_RETRY: &str = "old-retry";
/// At the saga's deadline what is in flight is in doubt at once.
pub(crate) const DEADLINE: &str = "deadline";
/// Of the trial: a saga comes to an end.
pub(crate) const ENDS: &str = "ends";
/// Of the trial: the journal tells the state.
pub(crate) const REPLAY: &str = "replay";

pub(crate) fn breach(law: &'static str, message: &str) -> Option<Breach> {
    Some(Breach { law, message: message.to_owned() })
}

/// Checks a start, of which the journal tells `told`.
pub(crate) fn of_start(after: &After<'_>, told: Option<&Saga>) -> Option<Breach> {
    (told != Some(after.saga)).then(|| breach(REPLAY, "the journal tells something else than the state"))?
}

/// Checks what something that was heard led to.
pub(crate) fn of_transition(definition: &Definition, before: &Saga, heard: Heard, after: &After<'_>) -> Option<Breach> {
    of_heard(definition, before, heard, after)
        .or_else(|| one_key(before, after))
        .or_else(|| laws::of_turn(definition, before, after.saga, after.turn))
}

fn one_key(before: &Saga, After { turn, .. }: &After<'_>) -> Option<Breach> {
    turn.sent.iter().find_map(|sent| {
        let command = sent.command.as_ref()?;
        let renewed =
            |entry: &&Entry| matches!(entry, Entry::CompensationRenewed { spot } if *spot == sent.ticket.spot);
        let renewals = turn.entries.iter().filter(renewed).count() as u32;
        let round = action_of(before, sent.ticket).map_or(0, |state| state.round);
        let expected = round + if sent.ticket.action == Action::Compensate { renewals } else { 0 };
        (command.round != expected).then(|| breach(ONE_KEY, "an attempt has a key of its own"))?
    })
}

fn of_heard(definition: &Definition, before: &Saga, heard: Heard, After { saga, turn }: &After<'_>) -> Option<Breach> {
    if let Heard::Answer(answer) = heard
        && definition.steps[answer.to.spot.step].command().is_some()
        && let Some(state) = action_of(before, answer.to.ticket(before.id))
    {
        let decided = matches!(state.progress, Progress::Succeeded { .. } | Progress::Failed { by: Some(_), .. });
        // A success after all tells of an effect.
        let tells = matches!(state.progress, Progress::Failed { .. }) && answer.said == Said::Done;
        // That an attempt never ran may come to be known later: of what was decided that changes nothing.
        let same = action_of(saga, answer.to.ticket(before.id)).is_some_and(|after| after.progress == state.progress);
        if decided && !tells && !(same && turn.sent.is_empty()) {
            return breach(FIRST_ANSWER, "an answer changes what another one decided");
        }
        if answer.said == Said::Busy && answer.to.attempt < state.attempt {
            return breach(OLD_RETRY, "a retry of an attempt that is not the latest changes something");
        }
    }
    if turn.entries.iter().any(is_deadline) && saga.phase != Phase::Running {
        let mut units = saga.steps.iter().flat_map(|step| step.units());
        if units.any(|(_, unit)| unit.execute.in_flight()) {
            return breach(DEADLINE, "something is in flight after the saga's deadline");
        }
    }
    None
}

/// Whether the saga turns round because its deadline has passed.
pub(crate) fn is_deadline(entry: &Entry) -> bool {
    matches!(entry, Entry::Compensating { error, .. } if error.failure.reason == Reason::Deadline)
}

impl World {
    /// Whether an answer says which attempt it is to: a signal or an event does not.
    pub(super) fn counts(&self, answer: Answer) -> bool {
        let step = &self.saga.stage.definition.steps[answer.to.spot.step];
        let command = step.sends(answer.to.action);
        command.is_some_and(|command| command.reply.success.is_none() && command.reply.failure.is_none())
    }

    /// The law that does not hold.
    pub(super) fn breach(&self, table: &Table) -> Option<Breach> {
        let saga = self.saga.saga();
        let knows = |Queued { post, .. }: &Queued| {
            let state = action_of(saga, post.ticket(saga.id));
            state.is_some_and(|state| state.attempt >= post.attempt && state.round >= post.round)
        };
        if !self.queues.iter().all(knows) {
            return breach(COMMITTED_FIRST, "a command is out that nobody has committed");
        }
        let again = |answer: &&Answer| self.counts(**answer) && table.would_change(&self.saga, Heard::Answer(**answer));
        if self.unacked.iter().any(|answer| again(&answer)) {
            return breach(COUNTS_ONCE, "an answer that comes again changes something");
        }
        let flights = self.saga.stage.flights();
        if flights.iter().map(Post::of).any(|post| self.acts(post) && self.is_forgotten(post)) {
            return breach(AT_LEAST_ONCE, "what is awaited was never sent, or its answer was lost");
        }
        if !self.is_quiet() {
            return None;
        }
        of_state(table.definition, saga, false, true).or_else(|| of_effects(table.definition, saga, &self.ledger))
    }

    /// Whether an answer is awaited that nothing leads to.
    fn is_forgotten(&self, post: Post) -> bool {
        let kept = self.outbox.iter().any(|row| row.post == post);
        let answered = self.ready.iter().any(|delivery| delivery.answer.to == post)
            || self.hand.is_some_and(|delivery| delivery.answer.to == post);
        !kept && !answered && !self.is_queued(post) && !self.unheard.contains(&post)
    }
}
