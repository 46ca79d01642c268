//! Orders of sagas to their children that can't be carried out, or were long ago: whoever gave one is told at once.

use serde_json::json;

use super::round::Outcome;
use crate::core::answer::{self, RawAnswer};
use crate::core::id::SagaId;
use crate::intake::Refusal;

/// What the step that gave `child` an order is told, unless the child, which has the order now, will tell it all.
pub(super) fn refused_order(child: SagaId, outcome: &Outcome) -> Option<RawAnswer> {
    let say = |said, code: &str, message: String| {
        let body = json!({ "error": { "code": code, "message": message } });
        Some(RawAnswer::new(Some(said), body))
    };
    match outcome {
        Outcome::Ended { answer, .. } => Some(answer.clone()),
        Outcome::Start { result: Ok(started), .. } if started.saga == child => None,
        Outcome::Start { result: Ok(started), .. } => {
            let message = format!("its key is in use by the saga {}", started.saga);
            say(answer::Outcome::Failure, "key_in_use", message)
        }
        // What is to be undone is known to have been ordered: that order may yet be in somebody else's hands.
        Outcome::Saga { result: Err(Refusal::UnknownSaga(_)), .. } => {
            say(answer::Outcome::Retry, "unknown_saga", format!("there is no saga {child} yet"))
        }
        Outcome::Start { result: Err(refusal), .. } | Outcome::Saga { result: Err(refusal), .. } => {
            say(answer::Outcome::Failure, refusal.code(), refusal.to_string())
        }
        _ => None,
    }
}
