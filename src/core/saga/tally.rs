//! How far many units are, summed up.

use super::action::Progress;
use super::status::StepStatus;
use super::step::Unit;
use crate::core::definition::{OnCompensationFailure, Step};
use crate::core::time::Time;

/// How far some units of one step are: sums, so that those of parts add up to that of the whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Not begun.
    pub idle: u32,
    /// Their execute, or the question how it ended, is under way.
    pub forward: u32,
    /// They have not ended in a way that lets the saga go on.
    pub unfinished: u32,
    /// Their outcome is to be asked for.
    pub probes: u32,
    /// The first that failed for good: when, and which element.
    pub failed: Option<(Time, Option<u32>)>,
    /// Something is left to undo or to wait for.
    pub unsettled: u32,
    /// Their undo is under way.
    pub undoing: u32,
    /// Their undo is to be begun.
    pub owed: u32,
    /// Their undo has failed.
    pub undo_failed: u32,
    /// Their undo was given up, or nobody waits for it any more.
    pub given_up: u32,
    /// The status that stands for them all.
    status: Option<StepStatus>,
    /// The earliest time-out of an attempt.
    pub time_out: Option<Time>,
    /// The earliest end of a delay or a back-off.
    pub wait: Option<Time>,
}

impl Tally {
    /// Of one unit.
    pub fn of(item: Option<u32>, unit: &Unit, step: &Step, policy: OnCompensationFailure) -> Tally {
        let Unit { execute, compensate, probe } = unit;
        let count = |is: bool| u32::from(is);
        let probed = unit.may_be_probed(step);
        let (ended_well, failed) = match &execute.progress {
            Progress::Succeeded { .. } | Progress::Skipped { .. } => (true, None),
            Progress::Failed { .. } if probed => (false, None),
            Progress::Failed { .. } if step.optional => (true, None),
            Progress::Failed { at, .. } => (false, Some(*at)),
            _ => (false, None),
        };
        let time_out = |progress: &Progress| match progress {
            Progress::Running { deadline } => *deadline,
            _ => None,
        };
        let wait = |progress: &Progress| match progress {
            Progress::Scheduled { due } => Some(*due),
            _ => None,
        };
        let all = [&execute.progress, &compensate.progress, &probe.progress];
        Tally {
            idle: count(execute.progress == Progress::Idle),
            forward: count(execute.under_way() || probe.under_way()),
            unfinished: count(!ended_well),
            probes: count(probed && probe.progress == Progress::Idle),
            failed: failed.map(|at| (at, item)),
            unsettled: count(!unit.is_settled(step, policy)),
            undoing: count(compensate.under_way()),
            owed: count(unit.owes_undo(step)),
            undo_failed: count(matches!(compensate.progress, Progress::Failed { .. })),
            given_up: count(matches!(compensate.progress, Progress::Failed { .. } | Progress::GivenUp { .. })),
            status: Some(unit.status()),
            time_out: all.into_iter().filter_map(time_out).min(),
            wait: all.into_iter().filter_map(wait).min(),
        }
    }

    /// The status that users see: of several units that of the one that is furthest from its end, or worst off.
    pub fn status(&self) -> StepStatus {
        self.status.unwrap_or(StepStatus::Succeeded)
    }

    /// Of both.
    pub fn and(self, other: Tally) -> Tally {
        Tally {
            idle: self.idle + other.idle,
            forward: self.forward + other.forward,
            unfinished: self.unfinished + other.unfinished,
            probes: self.probes + other.probes,
            failed: earliest(self.failed, other.failed),
            unsettled: self.unsettled + other.unsettled,
            undoing: self.undoing + other.undoing,
            owed: self.owed + other.owed,
            undo_failed: self.undo_failed + other.undo_failed,
            given_up: self.given_up + other.given_up,
            status: [self.status, other.status].into_iter().flatten().max_by_key(|status| status.concern()),
            time_out: earliest(self.time_out, other.time_out),
            wait: earliest(self.wait, other.wait),
        }
    }
}

/// The smaller of those that are there.
pub fn earliest<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
