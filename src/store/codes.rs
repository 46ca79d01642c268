//! How enums and numbers of the domain are stored. A code, once stored, keeps its meaning for ever.

use super::{ClaimKind, Hold};
use crate::broker::message::{Inbox, Properties};
use crate::core::saga::Status;

/// A status in its column.
pub(super) fn status(status: Status) -> i64 {
    match status {
        Status::Pending => 1,
        Status::Running => 2,
        Status::Compensating => 3,
        Status::Suspended => 4,
        Status::Completed => 5,
        Status::Compensated => 6,
        Status::Failed => 7,
    }
}

/// The status that a column holds.
pub(super) fn status_of(code: i64) -> Option<Status> {
    Status::ALL.into_iter().find(|known| status(*known) == code)
}

/// The kind of a claim in its column.
pub(super) fn claim_kind(kind: ClaimKind) -> i64 {
    match kind {
        ClaimKind::Key => 1,
        ClaimKind::Start => 2,
        ClaimKind::Lock => 3,
        ClaimKind::Slot => 4,
    }
}

/// The kind of a claim that a column holds.
pub(super) fn claim_kind_of(code: i64) -> Option<ClaimKind> {
    let all = [ClaimKind::Key, ClaimKind::Start, ClaimKind::Lock, ClaimKind::Slot];
    all.into_iter().find(|known| claim_kind(*known) == code)
}

/// Whether a saga is held, in the column of a write.
pub(super) fn hold(hold: &Hold) -> i64 {
    match hold {
        Hold::On { .. } => 1,
        Hold::Off => 0,
    }
}

/// The inbox whose word a column holds.
pub(super) fn inbox_of(word: &str) -> Option<Inbox> {
    Inbox::ALL.into_iter().find(|inbox| inbox.as_str() == word)
}

/// A counter in its column. None gets beyond 2⁶³.
pub(super) fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A message's properties in their column.
pub(super) fn json(properties: &Properties) -> String {
    // Serialising to memory fails only for maps with keys that are no strings, which properties do not have.
    serde_json::to_string(properties).unwrap_or_default()
}
