//! What participants did: each does what a command asks for once for each idempotency key, and answers the same again. No more is
//! asked of them, and no effect may outlive its saga's undoing.

use std::collections::{BTreeMap, BTreeSet};

use crate::core::id::{Action, Spot, Ticket};

/// What a participant knows an action by: the idempotency key.
pub type Key = (Spot, Action, u32);

/// What a participant said of a key, and says again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Said {
    /// It is done.
    Done,
    /// It will not be done.
    Declined,
}

/// What all participants of a saga did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ledger {
    /// Of which units the effects are there.
    there: BTreeSet<Spot>,
    said: BTreeMap<Key, Said>,
}

/// The idempotency key of a command.
pub fn key(ticket: Ticket, round: u32) -> Key {
    (ticket.spot, ticket.action, round)
}

impl Ledger {
    /// A participant does what is asked, unless it has already answered.
    pub fn handle(&mut self, key: Key) -> Said {
        if let Some(said) = self.said.get(&key) {
            return *said;
        }
        match key.1 {
            Action::Execute => self.there.insert(key.0),
            Action::Compensate => self.there.remove(&key.0),
            // Asking changes nothing.
            Action::Probe => false,
        };
        self.said.insert(key, Said::Done);
        Said::Done
    }

    /// A participant will not do it, unless it has done it already.
    pub fn decline(&mut self, key: Key) -> Said {
        // An undo can be refused now and done later.
        match key.1 {
            Action::Execute => *self.said.entry(key).or_insert(Said::Declined),
            Action::Compensate | Action::Probe => self.said.get(&key).copied().unwrap_or(Said::Declined),
        }
    }

    /// What was said of a key.
    pub fn said(&self, key: Key) -> Option<Said> {
        self.said.get(&key).copied()
    }

    /// Forgets what was said of all that is not `wanted`.
    pub fn forget(&mut self, wanted: impl Fn(Key) -> bool) {
        self.said.retain(|key, _| wanted(*key));
    }

    /// Of which units the effects are there.
    pub fn there(&self) -> &BTreeSet<Spot> {
        &self.there
    }
}
