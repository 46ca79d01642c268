//! What is checked, in this order.

use super::report::{Level, Verdict};
use super::stage::Stage;
use super::{ConformanceError, delivery, undo, unreadable};

/// One thing to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    Answer,
    Readable,
    Persistent,
    SecondAttempt,
    Redelivery,
    AtOnce,
    UnknownHeaders,
    Properties,
    Compensation,
    CompensationTwice,
    InDoubt,
    CompensationRenewed,
    CommandAfterCompensation,
    CompensationFirst,
    OvertakenCommand,
    Tombstone,
    OneAnswer,
    UnreadableBody,
    Survival,
}

impl Check {
    /// What could make a participant fall over comes last, so that the rest is shown.
    pub(super) const ALL: [Check; 19] = [
        Check::Answer,
        Check::Readable,
        Check::Persistent,
        Check::SecondAttempt,
        Check::Redelivery,
        Check::AtOnce,
        Check::UnknownHeaders,
        Check::Properties,
        Check::Compensation,
        Check::CompensationTwice,
        Check::InDoubt,
        Check::CompensationRenewed,
        Check::CommandAfterCompensation,
        Check::CompensationFirst,
        Check::OvertakenCommand,
        Check::Tombstone,
        Check::OneAnswer,
        Check::UnreadableBody,
        Check::Survival,
    ];

    pub(super) fn id(self) -> &'static str {
        match self {
            Check::Answer => "answer",
            Check::Readable => "readable-answer",
            Check::Persistent => "persistent-answer",
            Check::SecondAttempt => "second-attempt",
            Check::Redelivery => "redelivery",
            Check::AtOnce => "attempts-at-once",
            Check::UnknownHeaders => "unknown-headers",
            Check::Properties => "properties",
            Check::Compensation => "compensation",
            Check::CompensationTwice => "compensation-twice",
            Check::InDoubt => "in-doubt",
            Check::CompensationRenewed => "compensation-renewed",
            Check::CommandAfterCompensation => "command-after-compensation",
            Check::CompensationFirst => "compensation-first",
            Check::OvertakenCommand => "overtaken-command",
            Check::Tombstone => "tombstone",
            Check::OneAnswer => "one-answer",
            Check::UnreadableBody => "unreadable-body",
            Check::Survival => "survival",
        }
    }

    pub(super) fn what(self) -> &'static str {
        match self {
            Check::Answer => "a command is answered to reply_to, with its correlation_id",
            Check::Readable => "an answer is JSON, its saga-outcome one of the four words",
            Check::Persistent => "an answer is persistent: it survives a restart of the broker",
            Check::SecondAttempt => "a command again, as attempt 2: one effect, the answer of the first time",
            Check::Redelivery => "the same message again: one effect, the answer of the first time",
            Check::AtOnce => "two attempts at once: one effect, one answer to both",
            Check::UnknownHeaders => "headers that it does not know change nothing",
            Check::Properties => "any priority, with expiration and without: changes nothing",
            Check::Compensation => "an undo of what was done succeeds",
            Check::CompensationTwice => "an undo again, as attempt 2 and redelivered, succeeds again",
            Check::InDoubt => "an undo with saga-in-doubt and without a reply succeeds",
            Check::CompensationRenewed => "an undo again, under another idempotency-key, succeeds again",
            Check::CommandAfterCompensation => "a command that was undone and comes again stays undone",
            Check::CompensationFirst => "an undo of what never came succeeds",
            Check::OvertakenCommand => "a command that its undo overtook can be told and undone",
            Check::Tombstone => "a command that its undo overtook is not done any more",
            Check::OneAnswer => "no command is answered twice, and not the same",
            Check::UnreadableBody => "a body that is no JSON is rejected, or answered with failure",
            Check::Survival => "after a body that is no JSON, the next command is answered",
        }
    }

    pub(super) fn level(self) -> Level {
        match self {
            Check::Persistent | Check::Tombstone => Level::Recommended,
            _ => Level::Required,
        }
    }

    /// Without it no other check says anything.
    pub(super) fn is_basic(self) -> bool {
        matches!(self, Check::Answer | Check::Readable)
    }

    pub(super) async fn play(self, stage: &mut Stage) -> Result<Verdict, ConformanceError> {
        match self {
            Check::Answer => delivery::answer(stage).await,
            Check::Readable => delivery::readable(stage).await,
            Check::Persistent => delivery::persistent(stage).await,
            Check::SecondAttempt => delivery::second_attempt(stage).await,
            Check::Redelivery => delivery::redelivery(stage).await,
            Check::AtOnce => delivery::at_once(stage).await,
            Check::UnknownHeaders => delivery::unknown_headers(stage).await,
            Check::Properties => delivery::properties(stage).await,
            Check::Compensation => undo::compensation(stage).await,
            Check::CompensationTwice => undo::twice(stage).await,
            Check::InDoubt => undo::in_doubt(stage).await,
            Check::CompensationRenewed => undo::renewed(stage).await,
            Check::CommandAfterCompensation => undo::command_after(stage).await,
            Check::CompensationFirst => undo::first(stage).await,
            Check::OvertakenCommand => undo::overtaken(stage).await,
            Check::Tombstone => undo::tombstone(stage).await,
            Check::OneAnswer => Ok(delivery::one_answer(stage)),
            Check::UnreadableBody => unreadable::body(stage).await,
            Check::Survival => unreadable::survival(stage).await,
        }
    }
}
