//! What a participant's answer means.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::core::definition::Reply;
use crate::core::saga::{Failure, Reason};
use crate::core::start::schema_errors;
use crate::core::template::Scope;

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
    /// The header's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Success => "success",
            Outcome::Failure => "failure",
            Outcome::Retry => "retry",
            Outcome::Pending => "pending",
        }
    }

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

/// An answer as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct RawAnswer {
    /// What its header says of the outcome.
    pub outcome: Option<Outcome>,
    /// Its body.
    pub body: Value,
    /// All of its headers.
    pub headers: Value,
}

impl RawAnswer {
    /// One without headers.
    pub fn new(outcome: Option<Outcome>, body: Value) -> RawAnswer {
        RawAnswer { outcome, body, headers: Value::Null }
    }
}

/// Judges an answer: by the outcome that its header states, else by the rules of its command, else by its body, where a JSON
/// object with a non-null top-level `error` is a failure and anything else a success.
pub fn judge(rules: &Reply, answer: RawAnswer) -> Answer {
    let RawAnswer { outcome, body, headers } = answer;
    let stated = match outcome {
        Some(outcome) => Ok(outcome),
        None => by_rules(rules, &body, headers),
    };
    match stated {
        Ok(Outcome::Success) => success(rules, body),
        Ok(Outcome::Failure) => Answer::Failure(failure(body)),
        Ok(Outcome::Retry) => Answer::Retry(failure(body)),
        Ok(Outcome::Pending) => Answer::Pending,
        Err(error) => Answer::Failure(Failure { details: body, ..Failure::new(Reason::InvalidReply, error) }),
    }
}

/// The answer that an event of another service is.
pub fn judge_event(rules: &Reply, success_event: bool, body: Value, headers: Value) -> Answer {
    if success_event {
        return success(rules, body);
    }
    let error = match &rules.error {
        None => return Answer::Failure(failure(body)),
        Some(error) => error.value(&message(&body, headers)),
    };
    Answer::Failure(match error {
        Ok(error) => failure(json!({ "error": error })),
        // It failed, whether or not it says why.
        Err(error) => {
            Failure { details: body, ..Failure::new(Reason::Failure, format!("reply.failure.error: {error}")) }
        }
    })
}

/// What rules about a message see.
fn message(body: &Value, headers: Value) -> Scope {
    Scope::Message { body: Arc::new(body.clone()), headers: Arc::new(headers) }
}

fn by_rules(rules: &Reply, body: &Value, headers: Value) -> Result<Outcome, String> {
    let default = match body.get("error") {
        Some(error) if !error.is_null() => Outcome::Failure,
        _ => Outcome::Success,
    };
    if rules.retry_when.is_none() && rules.success_when.is_none() {
        return Ok(default);
    }
    let scope = message(body, headers);
    if let Some(rule) = &rules.retry_when
        && rule.holds(&scope).map_err(|error| format!("reply.retry_when: {error}"))?
    {
        return Ok(Outcome::Retry);
    }
    match &rules.success_when {
        None => Ok(default),
        Some(rule) => match rule.holds(&scope).map_err(|error| format!("reply.success_when: {error}"))? {
            true => Ok(Outcome::Success),
            false => Ok(Outcome::Failure),
        },
    }
}

/// A success, if it looks as the rules ask for.
fn success(rules: &Reply, body: Value) -> Answer {
    let wrong = match &rules.schema {
        Some(schema) => schema_errors(schema, &body),
        None => return Answer::Success(body),
    };
    match wrong.first() {
        None => Answer::Success(body),
        Some(_) => {
            let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
            let message = format!("the reply does not fit reply.schema: {}", wrong.join("; "));
            Answer::Failure(Failure { details: body, ..Failure::new(Reason::InvalidReply, message) })
        }
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
    use super::*;

    fn judge(outcome: Option<Outcome>, body: Value) -> Answer {
        super::judge(&Reply::default(), RawAnswer::new(outcome, body))
    }

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
