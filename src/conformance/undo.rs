//! Undos: once, twice, before their command and after it.

use super::ConformanceError;
use super::delivery::succeeds;
use super::report::Verdict;
use super::script::Sending;
use super::stage::{Account, Heard, Stage, no_success};
use crate::core::answer::Answer;

type Outcome = Result<Verdict, ConformanceError>;

const UNDO: &str =
    "take the undo that `--compensate` names, and answer it with success once nothing is left of the command";
const AGAIN: &str = "let an undo of what is undone already succeed: one that fails is asked for again and again, and then for an operator";
const BY_MEMORY: &str =
    "undo by what was kept when the command was done, under `saga-id` and `saga-step`; the reply may be null";
const NOTHING_THERE: &str =
    "let an undo of what is not there succeed: the command may still wait in the queue, or be lost";
const STAYS_UNDONE: &str =
    "keep the answer of the command under its `idempotency-key` beyond its undo, and send that, or a failure";
const TOMBSTONE: &str =
    "let an undo leave a row even where there is nothing to undo, and the command that finds it fail";

pub(super) async fn compensation(stage: &mut Stage) -> Outcome {
    let (case, reply) = match stage.executed().await? {
        Ok(executed) => executed,
        Err(verdict) => return Ok(verdict),
    };
    Ok(succeeds(&stage.ask(case, Sending::compensate(1, Some(&reply))).await?, UNDO))
}

pub(super) async fn twice(stage: &mut Stage) -> Outcome {
    let (case, reply) = match stage.executed().await? {
        Ok(executed) => executed,
        Err(verdict) => return Ok(verdict),
    };
    let (message, first) = stage.ask_in(case, Sending::compensate(1, Some(&reply)), |_| {}).await?;
    if !matches!(first.heard, Heard::Answer(Answer::Success(_))) {
        return Ok(not_undone(&first.heard));
    }
    let again = stage.repeat(&message).await?;
    if !matches!(again, Heard::Answer(Answer::Success(_))) {
        return Ok(succeeds(&again, AGAIN));
    }
    Ok(succeeds(&stage.ask(case, Sending::compensate(2, Some(&reply))).await?, AGAIN))
}

pub(super) async fn in_doubt(stage: &mut Stage) -> Outcome {
    let (case, _) = match stage.executed().await? {
        Ok(executed) => executed,
        Err(verdict) => return Ok(verdict),
    };
    Ok(succeeds(&stage.ask(case, Sending::compensate(1, None)).await?, BY_MEMORY))
}

/// What follows a success that came after the undo was sent.
pub(super) async fn renewed(stage: &mut Stage) -> Outcome {
    let (case, reply) = match stage.executed().await? {
        Ok(executed) => executed,
        Err(verdict) => return Ok(verdict),
    };
    let heard = stage.ask(case, Sending::compensate(1, None)).await?;
    if !matches!(heard, Heard::Answer(Answer::Success(_))) {
        return Ok(not_undone(&heard));
    }
    let again = Sending { round: 1, ..Sending::compensate(2, Some(&reply)) };
    Ok(succeeds(&stage.ask(case, again).await?, AGAIN))
}

pub(super) async fn command_after(stage: &mut Stage) -> Outcome {
    let case = stage.case()?;
    let (command, Account { heard: first, .. }) = stage.ask_in(case, Sending::execute(1), |_| {}).await?;
    let Heard::Answer(Answer::Success(reply)) = &first else { return Ok(no_success(&first)) };
    let undone = stage.ask(case, Sending::compensate(1, Some(reply))).await?;
    if !matches!(undone, Heard::Answer(Answer::Success(_))) {
        return Ok(not_undone(&undone));
    }
    let again = stage.repeat(&command).await?;
    Ok(match &again {
        _ if again == first => Verdict::passed(),
        Heard::Answer(Answer::Failure(_)) | Heard::Died(..) => Verdict::passed(),
        Heard::Answer(Answer::Success(_)) => {
            Verdict::failed(format!("before its undo: {first}; after it: {again}"), STAYS_UNDONE)
        }
        other => Verdict::not_shown(other.to_string()),
    })
}

pub(super) async fn first(stage: &mut Stage) -> Outcome {
    let case = stage.case()?;
    Ok(succeeds(&stage.ask(case, Sending::compensate(1, None)).await?, NOTHING_THERE))
}

/// An undo, and then its command: what the command was answered, and how sagad would go on.
async fn overtake(stage: &mut Stage) -> Result<Result<(usize, Heard), Verdict>, ConformanceError> {
    let case = stage.case()?;
    let undone = stage.ask(case, Sending::compensate(1, None)).await?;
    if !matches!(undone, Heard::Answer(Answer::Success(_))) {
        return Ok(Err(not_undone(&undone)));
    }
    Ok(Ok((case, stage.ask(case, Sending::execute(1)).await?)))
}

pub(super) async fn overtaken(stage: &mut Stage) -> Outcome {
    let (case, heard) = match overtake(stage).await? {
        Ok(overtaken) => overtaken,
        Err(verdict) => return Ok(verdict),
    };
    Ok(match heard {
        Heard::Answer(Answer::Success(reply)) => {
            // Now sagad knows that it was done after all.
            let again = Sending { round: 1, ..Sending::compensate(2, Some(&reply)) };
            match stage.ask(case, again).await? {
                Heard::Answer(Answer::Success(_)) => {
                    Verdict::passed_with("it was done, answered with success, and undone when asked again")
                }
                heard => Verdict::failed(format!("it was done after its undo, and asked to undo it: {heard}"), AGAIN),
            }
        }
        Heard::Answer(_) | Heard::Died(..) => Verdict::passed(),
        heard => Verdict::failed(
            format!("{heard}: nobody will ever know whether it was done"),
            "answer every command, also one that came too late: with failure if it was not done",
        ),
    })
}

pub(super) async fn tombstone(stage: &mut Stage) -> Outcome {
    Ok(match overtake(stage).await? {
        Err(verdict) => verdict,
        Ok((_, heard @ Heard::Answer(Answer::Success(_)))) => {
            Verdict::failed(format!("{heard}: sagad undoes it once more, but until then it is done"), TOMBSTONE)
        }
        Ok((_, Heard::Answer(_) | Heard::Died(..))) => Verdict::passed(),
        Ok((_, heard)) => Verdict::not_shown(heard.to_string()),
    })
}

/// The verdict of a check that would have needed an undo first.
fn not_undone(heard: &Heard) -> Verdict {
    match heard {
        Heard::Answer(_) => Verdict::not_shown(format!("it takes an undo that succeeds, this was answered: {heard}")),
        _ => Verdict::failed(heard.to_string(), "every undo must be answered"),
    }
}
