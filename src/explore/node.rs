//! A state of the world around one saga: the saga, what participants did, and what is still on its way.

use std::time::Duration;

use serde_json::{Map, json};

use super::choices::{Choice, Fate, Word};
use crate::core::answer::Outcome;
use crate::core::definition::Definition;
use crate::core::id::{Action, Ticket};
use crate::core::input::{Input, Order};
use crate::core::saga::Saga;
use crate::core::start::InputError;
use crate::core::time::Time;
use crate::trial::ledger::{Key, Ledger, Said, key};
use crate::trial::sample;
use crate::trial::stage::{Decide, Flight, Sent, Stage, Start, To, Turn, given_back};

/// A state.
#[derive(Clone)]
pub(super) struct Node<'d> {
    /// The saga and its clock.
    pub(super) stage: Stage<'d>,
    /// What participants did.
    pub(super) ledger: Ledger,
    /// Commands that are handled only after their attempt timed out, and answered then.
    pub(super) late: Vec<Late>,
    /// Answers that came: they may come again at any time.
    pub(super) heard: Vec<(Ticket, Word)>,
    /// The transitions since somebody looked.
    pub(super) fresh: Vec<Transition>,
}

/// What followed from one input.
#[derive(Clone)]
pub(super) struct Transition {
    pub(super) before: Saga,
    pub(super) after: Saga,
    pub(super) turn: Turn,
}

/// A command that somebody handles late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Late {
    pub(super) ticket: Ticket,
    pub(super) key: Key,
    /// Whether it will be done, or declined.
    pub(super) done: bool,
}

impl<'d> Node<'d> {
    pub(super) fn start(definition: &'d Definition, start: Start, decide: Decide) -> Result<Node<'d>, Vec<InputError>> {
        let (stage, turn) = Stage::start(definition, start, decide)?;
        let fresh = vec![Transition { before: stage.saga.clone(), after: stage.saga.clone(), turn }];
        let mut node = Node { stage, ledger: Ledger::default(), late: Vec::new(), heard: Vec::new(), fresh };
        node.settle(0);
        Ok(node)
    }

    /// Lets one thing happen; what follows is `fresh`.
    pub(super) fn follow(&mut self, choice: &Choice) {
        let seen = self.fresh.len();
        self.happen(choice);
        self.settle(seen);
    }

    /// What is not left to chance: a saga that is held gets its turn, a child takes its order.
    fn settle(&mut self, mut seen: usize) {
        while seen < self.fresh.len() {
            let sent: Vec<Sent> = self.fresh[seen].turn.sent.clone();
            seen += 1;
            if self.stage.is_held() {
                self.put(Input::Admit);
            }
            for Sent { ticket, to, .. } in sent {
                if to == To::Child && self.stage.awaits(ticket) {
                    self.put(self.input(ticket, Word::Pending));
                }
            }
        }
    }

    fn happen(&mut self, choice: &Choice) {
        match choice {
            Choice::Answer(flight, word) => self.answer(*flight, *word),
            Choice::Back(flight, reason, done) => {
                if *done {
                    self.ledger.handle(key(flight.ticket, flight.round));
                }
                self.pass();
                self.put(given_back(flight.ticket, *reason, *done));
            }
            Choice::Time(fates) => {
                self.meet(fates);
                let due = self.stage.due().unwrap_or(self.stage.now);
                self.wake(due);
            }
            Choice::Deadline(fates) => {
                self.meet(fates);
                self.pass();
                self.stage.saga.deadline = Some(self.stage.now);
                self.wake(self.stage.now);
            }
            Choice::Early(ticket) => {
                self.pass();
                self.put(self.input(*ticket, Word::Success));
            }
            Choice::Arrives(late) => {
                self.late.retain(|other| other != late);
                let word = self.word_of(late);
                self.hear(late.ticket, word);
            }
            Choice::Cancel => {
                self.pass();
                self.put(Input::Operator { actor: "operator".into(), order: Order::Cancel { reason: None } });
            }
        }
    }

    fn answer(&mut self, flight: Flight, word: Word) {
        if flight.ticket.action == Action::Probe || !self.stage.acts(flight.ticket) {
            return self.hear(flight.ticket, word);
        }
        let key = key(flight.ticket, flight.round);
        match word {
            Word::Success => drop(self.ledger.handle(key)),
            Word::Failure => drop(self.ledger.decline(key)),
            Word::Retry | Word::Pending => {}
        }
        self.hear(flight.ticket, word);
    }

    /// What becomes of commands whose time is up.
    fn meet(&mut self, fates: &[(Flight, Fate)]) {
        for (Flight { ticket, round, .. }, fate) in fates {
            let key = key(*ticket, *round);
            match fate {
                Fate::Lost => {}
                Fate::Silent => drop(self.ledger.handle(key)),
                Fate::LateSuccess => self.late.push(Late { ticket: *ticket, key, done: true }),
                Fate::LateFailure => self.late.push(Late { ticket: *ticket, key, done: false }),
            }
        }
        self.late.sort_unstable_by_key(|late| (late.key, late.ticket.attempt));
    }

    /// Handles a late command.
    fn word_of(&mut self, late: &Late) -> Word {
        let said = if late.done { self.ledger.handle(late.key) } else { self.ledger.decline(late.key) };
        match said {
            Said::Done => Word::Success,
            Said::Declined => Word::Failure,
        }
    }

    fn hear(&mut self, ticket: Ticket, word: Word) {
        self.heard.push((ticket, word));
        self.pass();
        self.put(self.input(ticket, word));
    }

    /// An answer in that word.
    pub(super) fn input(&self, ticket: Ticket, word: Word) -> Input {
        let (outcome, body) = match word {
            Word::Success => (Outcome::Success, sample::reply(self.stage.definition, ticket.spot.step)),
            Word::Failure => (Outcome::Failure, json!({ "error": "scripted" })),
            Word::Retry => (Outcome::Retry, json!({ "error": "scripted" })),
            Word::Pending => (Outcome::Pending, json!({})),
        };
        self.stage.answer(ticket, Some(outcome), body, Map::new())
    }

    /// No two things happen at the same moment, so that a scenario can tell their order.
    fn pass(&mut self) {
        self.stage.now = self.stage.now.plus(Duration::from_millis(1));
    }

    fn put(&mut self, input: Input) {
        let before = self.stage.saga.clone();
        // What the state forbids does not happen.
        if let Ok(turn) = self.stage.put(input) {
            self.fresh.push(Transition { before, after: self.stage.saga.clone(), turn });
        }
    }

    fn wake(&mut self, due: Time) {
        let before = self.stage.saga.clone();
        let turn = self.stage.wake(due);
        self.fresh.push(Transition { before, after: self.stage.saga.clone(), turn });
    }

    /// Forgets what will never make a difference: a late answer that would change nothing now changes nothing later.
    pub(super) fn tidy(&mut self) {
        let mut kept = std::mem::take(&mut self.late);
        kept.retain(|late| {
            let mut other = Node { late: Vec::new(), heard: Vec::new(), fresh: Vec::new(), ..self.clone() };
            let word = other.word_of(late);
            other.hear(late.ticket, word);
            other.fresh.iter().any(|transition| !transition.turn.entries.is_empty())
                || other.ledger.there() != self.ledger.there()
        });
        self.late = kept;
    }
}
