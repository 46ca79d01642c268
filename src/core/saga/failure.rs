//! What went wrong.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What went wrong, as a participant, the broker or sagad put it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// Its class.
    pub reason: Reason,
    /// For a person.
    pub message: String,
    /// Whatever the participant added; null where nothing.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub details: Value,
}

impl Failure {
    /// A failure without details.
    pub fn new(reason: Reason, message: impl Into<String>) -> Failure {
        Failure { reason, message: message.into(), details: Value::Null }
    }
}

/// The classes of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The participant said so.
    Failure,
    /// No answer came in time.
    Timeout,
    /// The participant rejected the command without requeue.
    Rejected,
    /// The command died of old age in its queue.
    Expired,
    /// It was delivered too often.
    DeliveryLimit,
    /// Its queue was full.
    MaxLength,
    /// No queue took it.
    Unroutable,
    /// The answer breaks the step's reply rules.
    InvalidReply,
    /// A template or an expression could not be rendered.
    Template,
    /// The saga's own deadline.
    Deadline,
    /// An operator cancelled.
    Cancelled,
    /// A child saga failed.
    Child,
}

impl Reason {
    /// Whether it is what the broker says of a command that comes back.
    pub fn is_of_a_dead_letter(self) -> bool {
        use Reason::{DeliveryLimit, Expired, MaxLength, Rejected, Unroutable};
        matches!(self, Rejected | Expired | DeliveryLimit | MaxLength | Unroutable)
    }

    /// All of them.
    pub const ALL: [Reason; 12] = [
        Reason::Failure,
        Reason::Timeout,
        Reason::Rejected,
        Reason::Expired,
        Reason::DeliveryLimit,
        Reason::MaxLength,
        Reason::Unroutable,
        Reason::InvalidReply,
        Reason::Template,
        Reason::Deadline,
        Reason::Cancelled,
        Reason::Child,
    ];

    /// The word in messages and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Failure => "failure",
            Reason::Timeout => "timeout",
            Reason::Rejected => "rejected",
            Reason::Expired => "expired",
            Reason::DeliveryLimit => "delivery_limit",
            Reason::MaxLength => "max_length",
            Reason::Unroutable => "unroutable",
            Reason::InvalidReply => "invalid_reply",
            Reason::Template => "template",
            Reason::Deadline => "deadline",
            Reason::Cancelled => "cancelled",
            Reason::Child => "child",
        }
    }
}
