//! The steps of a saga, and the units that they are made of: one, or one for each element of a `foreach`.

use serde::{Deserialize, Serialize};

use super::action::{ActionState, Progress};
use super::elements::{Elements, Search};
use super::failure::Reason;
use super::status::StepStatus;
use super::tally::Tally;
use crate::core::definition::{CompensateOn, OnCompensationFailure, Step};
use crate::core::id::Action;

/// One step of one saga.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepState {
    /// The step's own unit. Of a `foreach` step it only says how far it is on the way to its elements.
    pub unit: Unit,
    /// The elements of a `foreach` step, once it has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elements: Option<Elements>,
}

/// What is done once, and undone on its own: a step, or a step for one element of a list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Unit {
    /// Forward.
    pub execute: ActionState,
    /// Its undo.
    #[serde(default, skip_serializing_if = "ActionState::is_untouched")]
    pub compensate: ActionState,
    /// Asks how the execute ended when no answer came.
    #[serde(default, skip_serializing_if = "ActionState::is_untouched")]
    pub probe: ActionState,
}

impl Unit {
    /// One of its actions.
    pub fn action(&self, action: Action) -> &ActionState {
        match action {
            Action::Execute => &self.execute,
            Action::Compensate => &self.compensate,
            Action::Probe => &self.probe,
        }
    }

    /// One of its actions, to change it.
    pub fn action_mut(&mut self, action: Action) -> &mut ActionState {
        match action {
            Action::Execute => &mut self.execute,
            Action::Compensate => &mut self.compensate,
            Action::Probe => &mut self.probe,
        }
    }

    /// All of its actions.
    pub fn actions(&self) -> [(Action, &ActionState); 3] {
        [(Action::Execute, &self.execute), (Action::Compensate, &self.compensate), (Action::Probe, &self.probe)]
    }

    /// Whether the outcome of the execute has to be undone.
    pub fn needs_undo(&self, step: &Step) -> bool {
        let Some(compensate) = &step.compensate else { return false };
        let CompensateOn { success, in_doubt, failure } = compensate.on;
        match &self.execute.progress {
            Progress::Succeeded { .. } => success,
            Progress::Failed { .. } if self.execute.in_doubt() => in_doubt,
            // The participant did what it was asked; only its answer is of no use.
            Progress::Failed { failure: why, by: Some(_), .. } if why.reason == Reason::InvalidReply => success,
            Progress::Failed { .. } => failure && self.execute.handled,
            _ => false,
        }
    }

    /// Whether an undo of it is to be begun.
    pub fn owes_undo(&self, step: &Step) -> bool {
        self.compensate.progress == Progress::Idle && self.needs_undo(step) && !self.probe.under_way()
    }

    /// Whether nothing of it is left to undo or to wait for: what was before it may be undone.
    pub fn is_settled(&self, step: &Step, policy: OnCompensationFailure) -> bool {
        match self.compensate.progress {
            Progress::Succeeded { .. } | Progress::GivenUp { .. } => true,
            Progress::Failed { .. } => policy == OnCompensationFailure::Continue,
            Progress::Running { .. } | Progress::Scheduled { .. } => false,
            Progress::Idle | Progress::Skipped { .. } => {
                !self.execute.under_way() && !self.probe.under_way() && !self.needs_undo(step)
            }
        }
    }

    /// Whether what the last attempt left open is still to be asked for.
    pub fn may_be_probed(&self, step: &Step) -> bool {
        let asks = step.probe_command().is_some() && !matches!(self.probe.progress, Progress::Failed { .. });
        asks && self.execute.timed_out()
    }

    /// The status, as users see it.
    pub fn status(&self) -> StepStatus {
        match self.compensate.progress {
            Progress::Scheduled { .. } | Progress::Running { .. } => return StepStatus::Compensating,
            Progress::Succeeded { .. } => return StepStatus::Compensated,
            Progress::Failed { .. } | Progress::GivenUp { .. } => return StepStatus::CompensationFailed,
            Progress::Idle | Progress::Skipped { .. } => {}
        }
        match self.execute.progress {
            Progress::Idle => StepStatus::Pending,
            Progress::Scheduled { .. } => StepStatus::Scheduled,
            Progress::Running { .. } => StepStatus::Running,
            Progress::Succeeded { .. } => StepStatus::Succeeded,
            Progress::Skipped { .. } => StepStatus::Skipped,
            Progress::Failed { .. } if self.execute.in_doubt() => StepStatus::InDoubt,
            Progress::Failed { .. } | Progress::GivenUp { .. } => StepStatus::Failed,
        }
    }
}

impl StepState {
    /// The unit of an element, or the step's own.
    pub fn unit(&self, item: Option<u32>) -> Option<&Unit> {
        match (item, &self.elements) {
            (None, _) => Some(&self.unit),
            (Some(item), Some(elements)) => elements.unit(item),
            (Some(_), None) => None,
        }
    }

    /// The unit of an element, or the step's own, to change it.
    pub fn unit_mut(&mut self, item: Option<u32>) -> Option<&mut Unit> {
        match (item, &mut self.elements) {
            (None, _) => Some(&mut self.unit),
            (Some(item), Some(elements)) => elements.unit_mut(item),
            (Some(_), None) => None,
        }
    }

    /// What is done in this step: its elements once there are any, else its own unit.
    pub fn units(&self) -> impl DoubleEndedIterator<Item = (Option<u32>, &Unit)> {
        let own = self.elements.is_none().then_some((None, &self.unit));
        let elements = self.elements.iter().flat_map(Elements::units);
        own.into_iter().chain(elements.map(|(item, unit)| (Some(item), unit)))
    }

    /// How far all of its units are. What is known of elements that did not change is not worked out again.
    pub fn tally(&self, step: &Step, policy: OnCompensationFailure) -> Tally {
        match &self.elements {
            None => Tally::of(None, &self.unit, step, policy),
            Some(elements) => elements.tally(step, policy),
        }
    }

    /// The items of the units for which `wanted` holds. Chunks of elements that are not `worth` a look, by their tally, are passed
    /// over.
    pub fn find(
        &self,
        step: &Step,
        policy: OnCompensationFailure,
        search: Search,
        worth: impl Fn(&Tally) -> bool,
        wanted: impl Fn(&Unit) -> bool,
    ) -> Vec<Option<u32>> {
        match &self.elements {
            None if wanted(&self.unit) => vec![None],
            None => Vec::new(),
            Some(elements) => elements.find(step, policy, search, worth, wanted),
        }
    }

    /// The status, as users see it; of a `foreach` step that of the element that is furthest from its end, or worst off.
    pub fn status(&self, step: &Step, policy: OnCompensationFailure) -> StepStatus {
        match &self.elements {
            Some(elements) if !elements.is_restored() => elements.status.unwrap_or(StepStatus::Pending),
            _ => self.tally(step, policy).status(),
        }
    }
}
