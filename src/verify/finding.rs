//! What is found, in words.

use std::fmt;

use serde::Serialize;

use crate::core::id::SagaId;
use crate::store::ClaimKind;
use crate::store::audit::{Stray, StrayRow};

/// Something that is not as it should be.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Of which saga; `None`: of the whole store.
    pub saga: Option<SagaId>,
    /// The definition's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub definition: Option<String>,
    /// Where.
    pub table: &'static str,
    /// And which column of it.
    pub column: &'static str,
    /// What is there.
    pub stored: String,
    /// What should be, by the journal.
    pub expected: String,
    /// Whether it can be put right.
    #[serde(flatten)]
    pub remedy: Remedy,
}

/// Whether something can be put right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "repair", content = "help")]
pub enum Remedy {
    /// `--repair` does it.
    Possible,
    /// It was.
    Done,
    /// It is beyond sagad; what to do instead.
    Impossible(String),
}

/// What was left of a saga that is not there.
pub(super) fn stray(stray: &Stray) -> Finding {
    let lead = |what: &str| format!("that of a saga that is not there, {what}");
    let impossible = |help: &str| Remedy::Impossible(help.to_owned());
    let (table, stored, remedy) = match &stray.what {
        StrayRow::Journal { rows } => (
            "journal",
            lead(&format!("in {rows} rows")),
            impossible(
                "It was not purged, so its row in `sagas` is lost: restore it from a backup. \
                 What the saga was started with is nowhere else.",
            ),
        ),
        StrayRow::Items { rows } => ("items", lead(&format!("in {rows} rows")), Remedy::Possible),
        StrayRow::Claim(claim) => {
            let what = match claim.kind {
                ClaimKind::Key => "the business key",
                ClaimKind::Start => "the idempotency key",
                ClaimKind::Lock => "the lock",
                ClaimKind::Slot => "the slot",
            };
            let stored = lead(&format!("for {what} {:?} of `{}`", claim.token, claim.definition));
            let remedy = match claim.kind {
                ClaimKind::Start => {
                    impossible("A start with this key can't be answered. Delete the row if it may begin a saga.")
                }
                _ => Remedy::Possible,
            };
            ("claims", stored, remedy)
        }
        StrayRow::Outbox(id) => (
            "outbox",
            lead(&format!("for the message {id}")),
            impossible(
                "A daemon sends it nevertheless, and keeps its answer as a dead letter. Delete the row if it must not.",
            ),
        ),
    };
    let expected = "that of a saga".to_owned();
    Finding { saga: Some(stray.saga), definition: None, table, column: "saga_id", stored, expected, remedy }
}

impl fmt::Display for Finding {
    /// One line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.saga, &self.definition) {
            (Some(saga), Some(definition)) => write!(f, "saga {saga} of `{definition}`: ")?,
            (Some(saga), None) => write!(f, "saga {saga}: ")?,
            (None, _) => {}
        }
        write!(f, "{}.{} is {}, and should be {}", self.table, self.column, self.stored, self.expected)?;
        match &self.remedy {
            Remedy::Possible => write!(f, ". --repair mends it."),
            Remedy::Done => write!(f, ". Mended."),
            Remedy::Impossible(help) => write!(f, ". This can't be mended. {help}"),
        }
    }
}
