//! The pure core: what a saga is and how it changes.
//!
//! ```text
//!   definition ─┐
//!   saga ───────┼─> decide ─> journal entries ──> apply ─> saga
//!   input, now ─┘        └──> commands to send
//! ```
//!
//! Nothing in here reads a clock, draws a random number, does IO, logs or waits: time is an argument, jitter is derived
//! from ids. So the code that runs in production is the code that simulations and tests run.

pub mod answer;
pub mod apply;
pub mod decide;
pub mod definition;
pub mod diagnostic;
pub mod entry;
pub mod id;
pub mod input;
pub mod number;
pub mod parse;
pub mod retry;
pub mod saga;
pub mod start;
pub mod template;
pub mod time;
