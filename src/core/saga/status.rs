//! Statuses, in the words that users see.

use serde::{Deserialize, Serialize};

/// A step's status, as users see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the words explain themselves")]
pub enum StepStatus {
    Pending,
    Skipped,
    Scheduled,
    Running,
    Succeeded,
    Failed,
    InDoubt,
    Compensating,
    Compensated,
    CompensationFailed,
}

impl StepStatus {
    /// All of them.
    pub const ALL: [StepStatus; 10] = [
        StepStatus::Pending,
        StepStatus::Skipped,
        StepStatus::Scheduled,
        StepStatus::Running,
        StepStatus::Succeeded,
        StepStatus::Failed,
        StepStatus::InDoubt,
        StepStatus::Compensating,
        StepStatus::Compensated,
        StepStatus::CompensationFailed,
    ];

    /// The word in templates and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            StepStatus::Pending => "pending",
            StepStatus::Skipped => "skipped",
            StepStatus::Scheduled => "scheduled",
            StepStatus::Running => "running",
            StepStatus::Succeeded => "succeeded",
            StepStatus::Failed => "failed",
            StepStatus::InDoubt => "in_doubt",
            StepStatus::Compensating => "compensating",
            StepStatus::Compensated => "compensated",
            StepStatus::CompensationFailed => "compensation_failed",
        }
    }
}

impl StepStatus {
    /// Which of several statuses stands for them all: the highest.
    pub(super) fn concern(self) -> u8 {
        match self {
            StepStatus::Skipped => 0,
            StepStatus::Succeeded => 1,
            StepStatus::Pending => 2,
            StepStatus::Compensated => 3,
            StepStatus::Scheduled => 4,
            StepStatus::Failed => 5,
            StepStatus::Running => 6,
            StepStatus::InDoubt => 7,
            StepStatus::Compensating => 8,
            StepStatus::CompensationFailed => 9,
        }
    }
}

/// A saga's status, as users see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the words explain themselves")]
pub enum Status {
    Pending,
    Running,
    Compensating,
    Suspended,
    Completed,
    Compensated,
    Failed,
}

impl Status {
    /// All of them.
    pub const ALL: [Status; 7] = [
        Status::Pending,
        Status::Running,
        Status::Compensating,
        Status::Suspended,
        Status::Completed,
        Status::Compensated,
        Status::Failed,
    ];

    /// The word in columns, filters and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Pending => "pending",
            Status::Running => "running",
            Status::Compensating => "compensating",
            Status::Suspended => "suspended",
            Status::Completed => "completed",
            Status::Compensated => "compensated",
            Status::Failed => "failed",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// Whether a saga of this status has ended.
    pub fn is_terminal(self) -> bool {
        matches!(self, Status::Completed | Status::Compensated | Status::Failed)
    }
}
