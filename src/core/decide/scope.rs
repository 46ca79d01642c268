//! What the templates of a saga see.

use std::sync::Arc;

use super::Transition;
use crate::core::id::{Action, Spot};
use crate::core::saga::{Progress, StepState, Unit};
use crate::core::template::{Element, ReplyView, SagaScope, SagaView, Scope, StepView};

impl Transition<'_> {
    /// For an action of a unit.
    pub(super) fn scope(&self, spot: Spot, action: Action) -> Scope {
        let element = spot.item.zip(self.saga.steps[spot.step].elements.as_ref());
        let element = element.map(|(at, elements)| Element { step: spot.step, list: elements.list().clone(), at });
        self.scope_with(action, element)
    }

    /// For what belongs to no step.
    pub(super) fn scope_of_saga(&self, action: Action) -> Scope {
        self.scope_with(action, None)
    }

    fn scope_with(&self, action: Action, element: Option<Element>) -> Scope {
        let steps = self.definition.steps.iter().enumerate().map(|(at, definition)| StepView {
            name: definition.name.clone(),
            status: self.tally(at).status().as_str(),
            reply: self.reply_view(&self.saga.steps[at], definition.foreach.is_some()),
        });
        let error = match (&self.saga.error, action) {
            (Some(error), Action::Compensate) => {
                let step = error.step.map(|step| self.definition.steps[step].name.clone());
                Some((step, Arc::new(error.clone())))
            }
            _ => None,
        };
        Scope::Saga(SagaScope {
            input: self.saga.input.clone(),
            steps: steps.collect(),
            saga: Some(SagaView {
                id: self.saga.id,
                name: self.definition.name.clone(),
                key: self.saga.key.clone(),
                revision: self.saga.revision,
                started_at: self.saga.started_at,
            }),
            error,
            element,
        })
    }

    fn reply_view(&self, state: &StepState, foreach: bool) -> ReplyView {
        let own = match &state.unit.execute.progress {
            Progress::Succeeded { reply, .. } => return ReplyView::Known(reply.clone()),
            Progress::Skipped { .. } | Progress::Failed { .. } | Progress::GivenUp { .. } => ReplyView::Null,
            Progress::Idle | Progress::Scheduled { .. } | Progress::Running { .. } => ReplyView::Missing,
        };
        match &state.elements {
            Some(elements) => {
                let reply = |unit: &Unit| unit.execute.reply().cloned();
                ReplyView::Many(elements.units().map(|(_, unit)| reply(unit)).collect())
            }
            None if foreach && matches!(own, ReplyView::Null) => ReplyView::Many(Arc::new([])),
            None => own,
        }
    }
}
