//! A row of the outbox on its way to the broker: whether it was sent, whether it may have been, and what of its time is left.
//!
//! A command that nobody ever gave to the broker has not run, and one that may be there twice can't be said not to have run because one
//! of the two died: the other may be in somebody's hands. So the outbox and the publisher agree on each row, once:
//!
//! ```text
//!   waiting ──(the publisher)──> sent ──> sent again, and marked as such
//!      └──────(the outbox: its time is over)──> called off: nobody sends it any more
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use crate::broker::message::{Outgoing, Publication, RESENT};
use crate::core::time::Time;

/// A second copy dies this much before the first does: were it the last, it could be taken after the first had died and counted as never
/// handled.
const EARLIER: Duration = Duration::from_millis(250);

/// What a message may lose on its way to the broker without that being worth a copy of its properties.
const TRIFLE: Duration = Duration::from_millis(20);

const WAITING: u8 = 0;
const SENT: u8 = 1;
const CALLED_OFF: u8 = 2;

/// How far the row is; shared by the outbox and the publisher.
#[derive(Debug)]
pub struct Handover {
    state: AtomicU8,
    sole_until: Time,
}

impl Handover {
    /// Not sent yet, and by nobody else before `sole_until`.
    pub fn new(sole_until: Time) -> Handover {
        Handover { state: AtomicU8::new(WAITING), sole_until }
    }

    /// Calls it off; false if the publisher was faster, or it was called off before.
    pub fn call_off(&self) -> bool {
        self.move_on(CALLED_OFF).is_ok()
    }

    /// It is sent now; false if it was called off.
    fn send(&self) -> bool {
        self.move_on(SENT).is_ok() || self.is_sent()
    }

    fn is_sent(&self) -> bool {
        self.state.load(Ordering::Acquire) == SENT
    }

    fn move_on(&self, to: u8) -> Result<(), u8> {
        self.state.compare_exchange(WAITING, to, Ordering::AcqRel, Ordering::Acquire).map(drop)
    }
}

impl Default for Handover {
    /// Nobody else sends it.
    fn default() -> Handover {
        Handover::new(Time(i64::MAX))
    }
}

/// What is to be done with a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// Send it.
    Send,
    /// Its time is over. It may have been sent before.
    Expired,
    /// Its time is over and it was not sent, or it was called off: the outbox sees to it.
    Left,
}

impl Publication {
    /// Makes it ready to be sent `now`: it lives for as long as is left of its time, and says so if the broker may have it already.
    pub fn ready(&mut self, now: Time) -> Ready {
        if self.outbox.is_none() {
            return Ready::Send;
        }
        let again = self.handover.is_sent() || now >= self.handover.sole_until;
        let lead = if again { EARLIER } else { Duration::ZERO };
        let left = self.message.expires_at().map(|at| at.since(now).saturating_sub(lead));
        if left == Some(Duration::ZERO) {
            return if self.handover.is_sent() { Ready::Expired } else { Ready::Left };
        }
        if !self.handover.send() {
            return Ready::Left;
        }
        let shorter = left.filter(|left| self.message.lifetime().is_some_and(|whole| *left + TRIFLE < whole));
        // Only what can come back needs to say it.
        let marked = again && self.message.mandatory;
        if shorter.is_some() || marked {
            self.message = Arc::new(late(&self.message, shorter, marked, now));
        }
        Ready::Send
    }
}

/// The message as it goes out late.
fn late(message: &Outgoing, shorter: Option<Duration>, marked: bool, now: Time) -> Outgoing {
    let mut message = message.clone();
    if let Some(left) = shorter {
        message.properties.expiration = Some(left.as_millis().to_string());
        // The two belong together.
        message.properties.timestamp = Some(now);
    }
    if marked {
        message.properties.headers.insert(RESENT.to_owned(), true.into());
    }
    message
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::Value;
    use uuid::Uuid;

    use super::*;
    use crate::broker::message::Properties;

    /// A command of time 1000 that may wait 10 s, in a row that nobody else sends before `sole_until`.
    fn row(sole_until: i64) -> Publication {
        let message = Outgoing {
            exchange: "x".into(),
            routing_key: "k".into(),
            mandatory: true,
            properties: Properties {
                expiration: Some("10000".into()),
                timestamp: Some(Time(1_000)),
                ..Properties::default()
            },
            body: Bytes::new(),
        };
        let handover = Arc::new(Handover::new(Time(sole_until)));
        Publication { outbox: Some(Uuid::nil()), message: Arc::new(message), told: None, handover }
    }

    fn lives(publication: &Publication) -> &str {
        publication.message.properties.expiration.as_deref().unwrap_or("for ever")
    }

    fn says_resent(publication: &Publication) -> bool {
        publication.message.properties.headers.get(RESENT) == Some(&Value::Bool(true))
    }

    #[test]
    fn what_is_sent_at_once_goes_as_it_is() {
        let mut row = row(6_000);
        let written = Arc::clone(&row.message);
        assert_eq!(row.ready(Time(1_010)), Ready::Send);
        assert!(Arc::ptr_eq(&row.message, &written));
    }

    #[test]
    fn what_is_sent_late_lives_for_what_is_left() {
        let mut row = row(i64::MAX);
        assert_eq!(row.ready(Time(8_000)), Ready::Send);
        assert_eq!((lives(&row), says_resent(&row)), ("3000", false));
        assert_eq!(row.message.expires_at(), Some(Time(11_000)), "the moment is the same");
    }

    #[test]
    fn a_second_copy_says_so_and_dies_before_the_first() {
        let mut row = row(i64::MAX);
        assert_eq!(row.ready(Time(1_000)), Ready::Send);
        assert_eq!(row.ready(Time(2_000)), Ready::Send);
        assert_eq!((lives(&row), says_resent(&row)), ("8750", true));
        assert_eq!(row.ready(Time(11_000)), Ready::Expired, "it may have been handled");
    }

    #[test]
    fn what_another_daemon_may_have_sent_says_so() {
        let mut row = row(6_000);
        assert_eq!(row.ready(Time(6_000)), Ready::Send);
        assert!(says_resent(&row));
    }

    #[test]
    fn what_was_never_sent_is_left_to_the_outbox_once_its_time_is_over() {
        let mut late = row(i64::MAX);
        assert_eq!(late.ready(Time(11_000)), Ready::Left);
        assert!(late.handover.call_off() && !late.handover.call_off());
        let mut called_off = row(i64::MAX);
        assert!(called_off.handover.call_off());
        assert_eq!(called_off.ready(Time(1_000)), Ready::Left, "whatever the clock says");
        let mut sent = row(i64::MAX);
        assert_eq!(sent.ready(Time(1_000)), Ready::Send);
        assert!(!sent.handover.call_off());
    }

    #[test]
    fn what_is_not_kept_goes_however_late() {
        let mut letter = Publication { outbox: None, ..row(0) };
        assert_eq!(letter.ready(Time(20_000)), Ready::Send);
        assert_eq!((lives(&letter), says_resent(&letter)), ("10000", false));
    }
}
