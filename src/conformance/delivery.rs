//! A command and its answer, however often and in whatever dress it comes.

use serde_json::{Value, json};

use super::ConformanceError;
use super::report::Verdict;
use super::script::Sending;
use super::stage::{Account, Heard, Stage, no_success};
use crate::broker::message::Outgoing;
use crate::core::answer::Answer;

type Outcome = Result<Verdict, ConformanceError>;

const ECHO: &str = "publish the answer to the default exchange, with the command's `reply_to` as routing key and its `correlation_id` \
                    as correlation_id, unchanged";
const IDEMPOTENT: &str = "in one transaction with the effect, keep the answer under the `idempotency-key`; where there is one \
                          already, do nothing and send that";
const AGAIN: &str = "answer every delivery: the first answer may have been lost on its way";
const AT_ONCE: &str =
    "let a unique key on the `idempotency-key` decide who does it; the other waits, or answers `retry`";
const TOLERATE: &str = "read the headers that you know, and pass over the others";
const TAKE_ANY: &str = "take commands whatever their `priority` and `expiration`";
const ONE_ANSWER: &str = "answer once for each delivery, with what was kept of the first time";

pub(super) async fn answer(stage: &mut Stage) -> Outcome {
    let case = stage.case()?;
    Ok(match stage.ask(case, Sending::execute(1)).await? {
        Heard::Answer(_) | Heard::Unreadable(_) => Verdict::passed(),
        heard @ Heard::Silence(..) => Verdict::failed(heard.to_string(), ECHO),
        heard => Verdict::failed(
            heard.to_string(),
            "take the command that `--execute` names, with the body that `--body` has",
        ),
    })
}

pub(super) async fn readable(stage: &mut Stage) -> Outcome {
    let case = stage.case()?;
    Ok(match stage.ask(case, Sending::execute(1)).await? {
        Heard::Unreadable(why) => Verdict::failed(why, "answer in UTF-8 JSON, or with an empty body"),
        Heard::Answer(_) => Verdict::passed(),
        heard => Verdict::failed(heard.to_string(), "answer every command"),
    })
}

pub(super) async fn persistent(stage: &mut Stage) -> Outcome {
    let case = stage.case()?;
    let (_, account) = stage.ask_in(case, Sending::execute(1), |_| {}).await?;
    Ok(match account.heard {
        Heard::Answer(_) if account.persistent => Verdict::passed(),
        Heard::Answer(_) => Verdict::failed("its delivery_mode is not 2", "publish answers with `delivery_mode` 2"),
        heard => Verdict::not_shown(heard.to_string()),
    })
}

pub(super) async fn second_attempt(stage: &mut Stage) -> Outcome {
    let (case, reply) = match stage.executed().await? {
        Ok(executed) => executed,
        Err(verdict) => return Ok(verdict),
    };
    let second = stage.ask(case, Sending::execute(2)).await?;
    Ok(same(&reply, &second, IDEMPOTENT))
}

pub(super) async fn redelivery(stage: &mut Stage) -> Outcome {
    let case = stage.case()?;
    let (message, Account { heard: first, .. }) = stage.ask_in(case, Sending::execute(1), |_| {}).await?;
    let Heard::Answer(Answer::Success(reply)) = &first else { return Ok(no_success(&first)) };
    let second = stage.repeat(&message).await?;
    Ok(same(reply, &second, if matches!(second, Heard::Silence(..)) { AGAIN } else { IDEMPOTENT }))
}

pub(super) async fn at_once(stage: &mut Stage) -> Outcome {
    let case = stage.case()?;
    let messages = [stage.message(case, Sending::execute(1))?, stage.message(case, Sending::execute(2))?];
    for message in &messages {
        stage.send(message).await?;
    }
    let mut heard = Vec::new();
    for message in &messages {
        heard.push(stage.hear(message).await?.heard);
    }
    if heard.iter().any(|heard| matches!(heard, Heard::Answer(Answer::Retry(_)))) {
        // Who came second was told to come again.
        let third = stage.ask(case, Sending::execute(3)).await?;
        heard.retain(|heard| !matches!(heard, Heard::Answer(Answer::Retry(_))));
        heard.push(third);
    }
    let Some(Heard::Answer(Answer::Success(reply))) =
        heard.iter().find(|heard| matches!(heard, Heard::Answer(Answer::Success(_)))).cloned()
    else {
        return Ok(no_success(&heard[0]));
    };
    let other = heard.iter().find(|heard| **heard != Heard::Answer(Answer::Success(reply.clone())));
    Ok(same(&reply, other.unwrap_or(&heard[0]), AT_ONCE))
}

/// Whether what came the second time is what came the first time.
fn same(reply: &Value, second: &Heard, help: &'static str) -> Verdict {
    let says_nothing = match reply {
        Value::Null | Value::Bool(_) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Number(_) => false,
    };
    match second {
        Heard::Answer(Answer::Success(again)) if again == reply && says_nothing => {
            Verdict::not_shown(format!("both were answered with {reply}, which would be the same if it was done twice"))
                .help("answer with something that this effect alone has, an id or a number")
        }
        Heard::Answer(Answer::Success(again)) if again == reply => Verdict::passed(),
        second => {
            let first = Heard::Answer(Answer::Success(reply.clone()));
            Verdict::failed(format!("once: {first}; the other time: {second}"), help)
        }
    }
}

pub(super) async fn unknown_headers(stage: &mut Stage) -> Outcome {
    let case = stage.case()?;
    let unknown = json!({
        "x-of-tomorrow": "…",
        "x-tenant": 7,
        "x-flags": [true, null, { "deep": { "deeper": "still" } }],
    });
    let unknown = unknown.as_object().cloned().unwrap_or_default();
    let dress = |message: &mut Outgoing| message.properties.headers.extend(unknown.clone());
    Ok(succeeds(&stage.ask_in(case, Sending::execute(1), dress).await?.1.heard, TOLERATE))
}

pub(super) async fn properties(stage: &mut Stage) -> Outcome {
    for (priority, expires) in [(9, true), (4, false)] {
        let case = stage.case()?;
        let dress = |message: &mut Outgoing| {
            message.properties.priority = Some(priority);
            message.properties.expiration.take_if(|_| !expires);
        };
        let heard = stage.ask_in(case, Sending::execute(1), dress).await?.1.heard;
        if !matches!(heard, Heard::Answer(Answer::Success(_))) {
            return Ok(succeeds(&heard, TAKE_ANY));
        }
    }
    Ok(Verdict::passed())
}

/// For what differs from the first command in nothing that matters.
pub(super) fn succeeds(heard: &Heard, help: &'static str) -> Verdict {
    match heard {
        Heard::Answer(Answer::Success(_)) => Verdict::passed(),
        heard => Verdict::failed(heard.to_string(), help),
    }
}

pub(super) fn one_answer(stage: &mut Stage) -> Verdict {
    match stage.contradictions().first() {
        None => Verdict::passed(),
        Some((first, second)) => Verdict::failed(format!("once: {first}; then: {second}"), ONE_ANSWER),
    }
}
