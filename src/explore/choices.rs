//! What can happen next.

use super::Bounds;
use super::node::{Late, Node};
use crate::core::definition::Execute;
use crate::core::id::{Action, Spot, Ticket};
use crate::core::saga::{Phase, Progress, Reason, Unit};
use crate::core::time::Time;
use crate::trial::ledger::{Said, key};
use crate::trial::stage::{Flight, To, units};

/// One thing that can happen.
#[derive(Clone, Debug)]
pub(super) enum Choice {
    /// A participant answers what is in flight.
    Answer(Flight, Word),
    /// The broker gives it back; somebody may have done it first.
    Back(Flight, Reason, bool),
    /// Time passes until the next timer; what is in flight then has met its fate.
    Time(Vec<(Flight, Fate)>),
    /// The saga's deadline passes.
    Deadline(Vec<(Flight, Fate)>),
    /// What a step will wait for comes before the step is reached.
    Early(Ticket),
    /// A command is handled, and answered, after its time-out.
    Arrives(Late),
    /// An operator cancels.
    Cancel,
}

/// What a participant answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Word {
    Success,
    Failure,
    Retry,
    Pending,
}

/// What became of a command that nobody answered in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nobody ever handled it.
    Lost,
    /// It was done, and no answer will ever come.
    Silent,
    /// It will be done and answered later.
    LateSuccess,
    /// It will be declined later.
    LateFailure,
}

/// What was left out for the bounds' sake.
#[derive(Default)]
pub(super) struct Left {
    /// Ways to one more late answer.
    pub(super) late: usize,
    /// Combinations of what became of commands whose time is up together.
    pub(super) fates: usize,
}

/// Combinations that are followed, of those in which commands meet their fates at the same moment: all, for ten of them.
const MOST_FATES: usize = 1 << 10;

/// Everything that can happen next, and how much was left out.
pub(super) fn of(node: &Node<'_>, deadline: bool, bounds: Bounds) -> (Vec<Choice>, Left) {
    let mut choices = Vec::new();
    let flights = node.stage.flights();
    let due = node.stage.due();
    if let Some(due) = due.filter(|due| *due <= node.stage.now) {
        // A timer of this very moment goes before whatever comes later.
        let expiring: Vec<Flight> = flights.iter().copied().filter(|flight| is_over(flight, due)).collect();
        let mut left = Left::default();
        return (fates(node, &expiring, bounds, &mut left).into_iter().map(Choice::Time).collect(), left);
    }
    for flight in &flights {
        answers(node, flight, bounds, &mut choices);
    }
    choices.extend(early(node));
    let mut left = Left::default();
    if let Some(due) = due {
        let expiring: Vec<Flight> = flights.iter().copied().filter(|flight| is_over(flight, due)).collect();
        choices.extend(fates(node, &expiring, bounds, &mut left).into_iter().map(Choice::Time));
    }
    if deadline && node.stage.saga.phase == Phase::Running && node.stage.saga.suspended.is_none() {
        let forward: Vec<Flight> = flights
            .iter()
            .copied()
            .filter(|flight| flight.ticket.action == Action::Execute && flight.to == To::Participant)
            .collect();
        choices.extend(fates(node, &forward, bounds, &mut left).into_iter().map(Choice::Deadline));
    }
    choices.extend(node.late.iter().copied().map(Choice::Arrives));
    if matches!(node.stage.saga.phase, Phase::Pending { .. } | Phase::Running) {
        choices.push(Choice::Cancel);
    }
    (choices, left)
}

/// What can come of what is in flight, before its time is up.
fn answers(node: &Node<'_>, flight: &Flight, bounds: Bounds, choices: &mut Vec<Choice>) {
    let said = node.ledger.said(key(flight.ticket, flight.round));
    let mut answer = |word| choices.push(Choice::Answer(*flight, word));
    if flight.ticket.action == Action::Probe {
        // Who is asked knows.
        let done = node.ledger.there().contains(&flight.ticket.spot);
        answer(if done { Word::Success } else { Word::Failure });
        return answer(Word::Retry);
    }
    if said != Some(Said::Declined) {
        answer(Word::Success);
    }
    if matches!(flight.to, To::Listeners | To::Nobody) {
        return;
    }
    let undo = flight.ticket.action == Action::Compensate;
    if said != Some(Said::Done) || undo {
        answer(Word::Failure);
    }
    // An undo that fails is tried again as one that is busy is. Past the point of no return attempts have no end.
    if undo || flight.to == To::Child || flight.tries > bounds.attempts {
        return;
    }
    answer(Word::Retry);
    choices.push(Choice::Back(*flight, Reason::Unroutable, false));
    if said != Some(Said::Declined) {
        choices.push(Choice::Back(*flight, Reason::DeliveryLimit, true));
    }
}

/// Signals and events that come before their step is reached.
fn early(node: &Node<'_>) -> Vec<Choice> {
    let saga = &node.stage.saga;
    if !matches!(saga.phase, Phase::Pending { .. } | Phase::Running) || !saga.letters.is_empty() {
        return Vec::new();
    }
    let waits = |(spot, unit): (Spot, &Unit)| {
        let wait = matches!(node.stage.definition.steps[spot.step].execute, Execute::Wait(_));
        let ticket = Ticket { saga: saga.id, spot, action: Action::Execute, attempt: 0 };
        (wait && unit.execute.progress == Progress::Idle).then_some(Choice::Early(ticket))
    };
    units(saga).filter_map(waits).collect()
}

fn is_over(flight: &Flight, due: Time) -> bool {
    flight.deadline.is_some_and(|deadline| deadline <= due)
}

/// Every combination of fates, up to a bound: past it, what can be done without a word is.
fn fates(node: &Node<'_>, flights: &[Flight], bounds: Bounds, left: &mut Left) -> Vec<Vec<(Flight, Fate)>> {
    let mut all: Vec<Vec<(Flight, Fate)>> = vec![Vec::new()];
    for flight in flights {
        let said = node.ledger.said(key(flight.ticket, flight.round));
        // A child answers in the end; a question, and what never comes, is of no use later.
        let mut possible = if flight.to == To::Child { Vec::new() } else { vec![Fate::Lost] };
        if flight.ticket.action == Action::Probe || flight.to == To::Nobody || flight.tries > bounds.attempts {
            all.iter_mut().for_each(|so_far| so_far.push((*flight, Fate::Lost)));
            continue;
        }
        if said.is_none() && flight.to != To::Child {
            possible.push(Fate::Silent);
        }
        if said != Some(Said::Declined) {
            possible.push(Fate::LateSuccess);
        }
        // A late word that an undo failed changes nothing.
        if said != Some(Said::Done) && flight.ticket.action != Action::Compensate {
            possible.push(Fate::LateFailure);
        }
        if all.len() * possible.len() > MOST_FATES {
            left.fates = left.fates.saturating_add(all.len() * (possible.len() - 1));
            let silent = possible.contains(&Fate::Silent);
            possible = if silent { vec![Fate::Silent] } else { possible[..1].to_vec() };
        }
        let each = |so_far: &Vec<(Flight, Fate)>| {
            let late = so_far.iter().filter(|(_, fate)| fate.is_late()).count() + node.late.len();
            let (followed, cut): (Vec<Fate>, Vec<Fate>) =
                possible.iter().copied().partition(|fate| !fate.is_late() || late < bounds.late);
            left.late += cut.len();
            followed.into_iter().map(|fate| [so_far.as_slice(), &[(*flight, fate)]].concat()).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(each).collect();
    }
    all
}

impl Fate {
    fn is_late(self) -> bool {
        matches!(self, Fate::LateSuccess | Fate::LateFailure)
    }
}
