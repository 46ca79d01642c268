//! What a participant's answer means.

use serde_json::Value;

use crate::core::saga::{Failure, Reason};

/// An answer, judged.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Done; the reply.
    Success(Value),
    /// A business failure: never tried again.
    Failure(Failure),
    /// A transient failure.
    Retry(Failure),
    /// Still at it.
    Pending,
}

/// The header `saga-outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words of the header")]
pub enum Outcome {
    Success,
    Failure,
    Retry,
    Pending,
}

impl Outcome {
    /// Reads the header's value.
    pub fn parse(word: &str) -> Option<Outcome> {
        match word {
            "success" => Some(Outcome::Success),
            "failure" => Some(Outcome::Failure),
            "retry" => Some(Outcome::Retry),
            "pending" => Some(Outcome::Pending),
            _ => None,
        }
    }
}

/// Judges an answer: by the outcome that its header states, else by its body, where a JSON object with a non-null
/// top-level `error` is a failure and anything else a success.
pub fn judge(outcome: Option<Outcome>, body: Value) -> Answer {
    let stated = outcome.unwrap_or(match body.get("error") {
        Some(error) if !error.is_null() => Outcome::Failure,
        _ => Outcome::Success,
    });
    match stated {
        Outcome::Success => Answer::Success(body),
        Outcome::Failure => Answer::Failure(failure(body)),
        Outcome::Retry => Answer::Retry(failure(body)),
        Outcome::Pending => Answer::Pending,
    }
}

/// Reads `error`, a string or `{ code, message, details }`; a body of another shape is kept whole as the details.
fn failure(body: Value) -> Failure {
    let error = body.get("error").filter(|error| !error.is_null());
    let message_of = |error: &Value| error.get("message").and_then(Value::as_str).map(str::to_owned);
    let (message, details) = match error {
        Some(Value::String(message)) => (message.clone(), Value::Null),
        Some(error @ Value::Object(fields)) => {
            let code = fields.get("code").map(|code| code.as_str().map_or_else(|| code.to_string(), str::to_owned));
            let message = message_of(error).or(code).unwrap_or_else(|| "the participant gave no message".into());
            (message, error.clone())
        }
        Some(other) => (other.to_string(), other.clone()),
        None => {
            let message = message_of(&body).unwrap_or_else(|| "the participant gave no message".into());
            (message, body)
        }
    };
    Failure { reason: Reason::Failure, message, details }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_without_a_header_is_judged_by_its_error() {
        assert_eq!(judge(None, json!({ "id": 1 })), Answer::Success(json!({ "id": 1 })));
        assert_eq!(judge(None, json!({ "error": null })), Answer::Success(json!({ "error": null })));
        assert_eq!(judge(None, json!([{ "error": "x" }])), Answer::Success(json!([{ "error": "x" }])));
        let Answer::Failure(failure) = judge(None, json!({ "error": "declined" })) else { panic!("not a failure") };
        assert_eq!((failure.message.as_str(), failure.details), ("declined", Value::Null));
    }

    #[test]
    fn the_header_goes_before_the_body() {
        let body = json!({ "error": { "code": "E1", "details": { "left": 3 } } });
        assert_eq!(judge(Some(Outcome::Success), body.clone()), Answer::Success(body.clone()));
        let Answer::Retry(failure) = judge(Some(Outcome::Retry), body) else { panic!("not a retry") };
        assert_eq!(failure.message, "E1");
        assert_eq!(failure.details, json!({ "code": "E1", "details": { "left": 3 } }));
        assert_eq!(judge(Some(Outcome::Pending), Value::Null), Answer::Pending);
    }
}
