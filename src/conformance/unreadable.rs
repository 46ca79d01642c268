//! A command that nobody can read.

use std::time::Duration;

use bytes::Bytes;

use super::ConformanceError;
use super::report::Verdict;
use super::script::Sending;
use super::stage::{Heard, Stage};
use crate::broker::message::Outgoing;
use crate::core::answer::Answer;
use crate::core::saga::Reason;

/// Begins as JSON does.
const BROKEN: &[u8] = b"{\"broken\": ";

/// How long a message that is given back again and again goes round, before the broker throws it away.
const ROUNDS: Duration = Duration::from_secs(2);

const REJECT: &str = "reject what can't be read without requeue, or answer it with the header saga-outcome: failure";
const SURVIVE: &str = "catch what goes wrong with one message, and go on with the next";

pub(super) async fn body(stage: &mut Stage) -> Result<Verdict, ConformanceError> {
    let message = broken(stage)?;
    stage.send(&message).await?;
    let heard = stage.hear(&message).await?.heard;
    Ok(match &heard {
        Heard::Answer(Answer::Failure(_)) | Heard::Died(Reason::Rejected, _) => Verdict::passed(),
        Heard::Answer(_) => Verdict::failed(heard.to_string(), REJECT),
        Heard::Died(..) => Verdict::failed(format!("it was not rejected: it went back to its queue, until it died there ({heard})"), REJECT),
        Heard::Unreadable(why) => Verdict::failed(why.as_str(), REJECT),
        Heard::Silence(..) if stage.sees_dead_letters() => {
            Verdict::not_shown("neither an answer nor a dead letter came: sagad would have to wait for the time-out")
                .help("let the queue's dead letters go to sagad (`dead_letter = true`), and reject what can't be read without requeue")
        }
        Heard::Silence(..) => {
            Verdict::not_shown("no answer came, and sagad's exchange of dead letters is not there, or not ours to listen to")
                .help("start `sagad serve` once, so that it declares its exchanges")
        }
    })
}

pub(super) async fn survival(stage: &mut Stage) -> Result<Verdict, ConformanceError> {
    let message = broken(stage)?;
    stage.send(&message).await?;
    let case = stage.case()?;
    Ok(match stage.ask(case, Sending::execute(1)).await? {
        Heard::Answer(Answer::Success(_)) => Verdict::passed(),
        heard => Verdict::failed(format!("the next command: {heard}"), SURVIVE),
    })
}

/// A command with a body that is no JSON; it does not go round in its queue for ever.
fn broken(stage: &mut Stage) -> Result<Outgoing, ConformanceError> {
    let case = stage.case()?;
    let mut message = stage.message(case, Sending::execute(1))?;
    message.body = Bytes::from_static(BROKEN);
    message.properties.expiration = Some(ROUNDS.min(stage.timeout() / 2).as_millis().to_string());
    Ok(message)
}
