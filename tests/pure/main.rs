//! Tests that need no services.
#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod admin;
mod architecture;
mod asyncapi;
mod behind;
mod check;
mod commits;
mod config;
mod corridor;
mod definitions;
mod diff;
mod explain;
mod explored;
mod families;
mod forms;
mod graph;
mod guarantees;
mod invariants;
mod kinds;
mod messages;
mod model;
mod play;
mod problems;
mod reload;
mod round_trips;
mod rules;
mod scenarios;
mod schema;
mod shape;
mod shipped;
mod sim;
mod templates;
mod world;
