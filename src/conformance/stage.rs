//! The conversation with the participant: what is sent, what is heard of it.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::ConformanceError;
use super::report::Verdict;
use super::script::{Case, Script, Sending};
use crate::broker::amqp::caller::Caller;
use crate::broker::message::{Inbox, Incoming, Outgoing};
use crate::core::answer::{Answer, judge};
use crate::core::definition::Reply;
use crate::core::id::{Action, SagaId};
use crate::core::input::Input;
use crate::core::saga::Reason;
use crate::wire::incoming::{Meaning, Unplaceable, read};

/// A participant may say that it is still at it so often.
const MOST_PENDING: usize = 100;

/// Attempts at a command that is answered with `retry`, and the pause before each: those of a definition that says nothing.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);

/// Characters of an answer that are shown.
const SHOWN: usize = 160;

/// A saga, by its place on the stage.
pub(super) type CaseIx = usize;

/// What came of a command.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Heard {
    /// An answer.
    Answer(Answer),
    /// One that can't be read, and why.
    Unreadable(String),
    /// It is dead: rejected, expired, delivered too often.
    Died(Reason, String),
    /// Nothing, in all the time that it had; but, if so, an answer that belongs to no command.
    Silence(Duration, Option<String>),
}

/// An answer and how it came.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) heard: Heard,
    pub(super) persistent: bool,
}

/// The participant's vis-à-vis.
pub(super) struct Stage {
    caller: Caller,
    script: Script,
    timeout: Duration,
    max_message: usize,
    /// What came and was not asked for yet, with the id of its command.
    came: VecDeque<(String, Account)>,
    /// What came last of each command that was asked for, by its id.
    heard: HashMap<String, Heard>,
    /// What came and belongs to no command.
    strays: Vec<String>,
    /// Every saga so far, and what was sent to it last.
    cases: Vec<(Case, Option<Action>)>,
}

impl Stage {
    pub(super) fn new(caller: Caller, script: Script, timeout: Duration, max_message: usize) -> Stage {
        Stage {
            caller,
            script,
            timeout,
            max_message,
            came: VecDeque::new(),
            heard: HashMap::new(),
            strays: Vec::new(),
            cases: Vec::new(),
        }
    }

    pub(super) fn sees_dead_letters(&self) -> bool {
        self.caller.sees_dead_letters()
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Another saga.
    pub(super) fn case(&mut self) -> Result<CaseIx, ConformanceError> {
        self.cases.push((self.script.case().map_err(ConformanceError::Usage)?, None));
        Ok(self.cases.len() - 1)
    }

    pub(super) fn message(&mut self, case: CaseIx, sending: Sending<'_>) -> Result<Outgoing, ConformanceError> {
        let (case, last) = &mut self.cases[case];
        *last = Some(sending.action);
        self.script.message(case, sending, self.caller.reply_to()).map_err(ConformanceError::Usage)
    }

    pub(super) async fn send(&mut self, message: &Outgoing) -> Result<(), ConformanceError> {
        Ok(self.caller.publish(message).await?)
    }

    /// What comes of a command that was sent: waits for it.
    pub(super) async fn hear(&mut self, message: &Outgoing) -> Result<Account, ConformanceError> {
        let id = message.properties.message_id.as_deref().unwrap_or_default();
        let mut deadline = Instant::now() + self.timeout;
        let mut pending = 0;
        let strays = self.strays.len();
        loop {
            if let Some(at) = self.came.iter().position(|(of, _)| of == id)
                && let Some((_, account)) = self.came.remove(at)
            {
                if account.heard == Heard::Answer(Answer::Pending) && pending < MOST_PENDING {
                    pending += 1;
                    deadline = Instant::now() + self.timeout;
                    continue;
                }
                self.heard.insert(id.to_owned(), account.heard.clone());
                return Ok(account);
            }
            match tokio::time::timeout_at(deadline, self.caller.next()).await {
                Ok(message) => self.take(message?),
                Err(_) => {
                    let stray = self.strays.get(strays..).and_then(|strays| strays.first().cloned());
                    return Ok(Account { heard: Heard::Silence(self.timeout, stray), persistent: false });
                }
            }
        }
    }

    fn take(&mut self, message: Incoming) {
        let id = match message.queue {
            Inbox::Dead => message.properties.message_id.clone(),
            _ => message.properties.correlation_id.clone(),
        };
        let Some(id) = id.filter(|id| self.script.signer().read(id).is_some()) else {
            // Whatever else dies on this broker is not ours.
            if message.queue != Inbox::Dead {
                self.strays.push(match &message.properties.correlation_id {
                    Some(id) => format!("an answer came with the correlation_id {id:?}"),
                    None => "an answer came without a correlation_id".to_owned(),
                });
            }
            return;
        };
        let persistent = message.properties.delivery_mode == Some(2);
        let heard = match read(self.script.signer(), &message, self.max_message, SagaId(Uuid::nil())) {
            Ok(Meaning::Saga(_, Input::Answer { answer, .. })) => Heard::Answer(judge(&Reply::default(), answer)),
            Ok(Meaning::Saga(_, Input::Undelivered { reason, message, .. })) => Heard::Died(reason, message),
            Ok(_) => return,
            Err(Unplaceable { reason, .. }) => Heard::Unreadable(reason),
        };
        self.came.push_back((id, Account { heard, persistent }));
    }

    /// Sends a command and hears it out.
    pub(super) async fn ask(&mut self, case: CaseIx, sending: Sending<'_>) -> Result<Heard, ConformanceError> {
        Ok(self.ask_in(case, sending, |_| {}).await?.1.heard)
    }

    /// Sends a command in another dress and hears it out: what is answered with `retry` is sent again. Also yields what was sent last.
    pub(super) async fn ask_in(
        &mut self,
        case: CaseIx,
        sending: Sending<'_>,
        dress: impl Fn(&mut Outgoing),
    ) -> Result<(Outgoing, Account), ConformanceError> {
        let mut sending = sending;
        let last = sending.attempt + ATTEMPTS - 1;
        loop {
            let mut message = self.message(case, sending)?;
            dress(&mut message);
            self.send(&message).await?;
            let account = self.hear(&message).await?;
            match account.heard {
                Heard::Answer(Answer::Retry(_)) if sending.attempt < last => {
                    tokio::time::sleep(PAUSE).await;
                    sending.attempt += 1;
                }
                _ => return Ok((message, account)),
            }
        }
    }

    /// What was sent before once more, as the broker delivers it again.
    pub(super) async fn repeat(&mut self, message: &Outgoing) -> Result<Heard, ConformanceError> {
        self.send(message).await?;
        Ok(self.hear(message).await?.heard)
    }

    /// A saga whose command was answered with success, and the reply; else the verdict of a check that begins like this.
    pub(super) async fn executed(&mut self) -> Result<Result<(CaseIx, Value), Verdict>, ConformanceError> {
        let case = self.case()?;
        let heard = self.ask(case, Sending::execute(1)).await?;
        Ok(match heard {
            Heard::Answer(Answer::Success(reply)) => Ok((case, reply)),
            heard => Err(no_success(&heard)),
        })
    }

    /// Answers that nobody asked for, each after the one that its command was given before.
    pub(super) fn contradictions(&mut self) -> Vec<(Heard, Heard)> {
        let transient = |heard: &Heard| matches!(heard, Heard::Answer(Answer::Retry(_) | Answer::Pending));
        let unasked = self.came.drain(..).filter(|(_, account)| !transient(&account.heard));
        let pairs = unasked.filter_map(|(id, account)| {
            let first = self.heard.get(&id).filter(|first| !transient(first) && **first != account.heard)?;
            Some((first.clone(), account.heard))
        });
        pairs.collect()
    }

    /// Undoes what the checks have done. A participant that no longer answers is left alone.
    pub(super) async fn clean_up(&mut self) -> Result<(), ConformanceError> {
        for case in 0..self.cases.len() {
            if self.cases[case].1 != Some(Action::Execute) {
                continue;
            }
            // Not one of the undos that its check may have sent: under a key of its own.
            let sending = Sending { round: 2, ..Sending::compensate(9, None) };
            if let Heard::Silence(..) | Heard::Died(Reason::Expired, _) = self.ask(case, sending).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    pub(super) async fn close(self) {
        self.caller.close().await;
    }
}

/// The verdict of a check that would have needed a success first.
pub(super) fn no_success(heard: &Heard) -> Verdict {
    match heard {
        Heard::Answer(_) => Verdict::not_shown(format!("it takes a command that succeeds, this was answered: {heard}"))
            .help("give a `--body` that the participant answers with success, each time anew: it may have `{{ saga.id }}` in it"),
        _ => Verdict::failed(heard.to_string(), "every command must be answered"),
    }
}

impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Heard::Answer(Answer::Success(reply)) => write!(f, "success {}", short(&reply.to_string())),
            Heard::Answer(Answer::Failure(failure)) => write!(f, "failure {:?}", short(&failure.message)),
            Heard::Answer(Answer::Retry(failure)) => write!(f, "retry {:?}", short(&failure.message)),
            Heard::Answer(Answer::Pending) => write!(f, "pending, and pending again"),
            Heard::Unreadable(why) => write!(f, "{why}"),
            Heard::Died(_, why) => write!(f, "it was dead-lettered: {why}"),
            Heard::Silence(timeout, stray) => {
                write!(f, "no answer within {}", humantime::format_duration(*timeout))?;
                stray.as_ref().map_or(Ok(()), |stray| write!(f, ", but {stray}"))
            }
        }
    }
}

fn short(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
