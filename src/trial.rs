//! Sagas without a broker and without a store: the shipped core in a world that does as it is told.
//!
//! ```text
//!   scenario (a script says what happens)  ┐
//!                                          ├─> stage: one saga on the core ─> commands ─> ledger: participants
//!   explore (everything that can happen)   ┘     ^───────────── inputs <──────────────────────────┘
//! ```
//!
//! Time is virtual, ids are always the same: the same script gives the same history.

pub mod laws;
pub mod ledger;
pub mod sample;
pub mod stage;
pub mod story;
