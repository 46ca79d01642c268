//! sagad runs sagas over RabbitMQ.
//!
//! Everything that can change a saga is one kind of thing, an *input*, and all inputs go the same way:
//!
//! ```text
//!   deliveries (AMQP) ┐                      ┌ saga states   ┐
//!   due timers        ├─> batch of inputs ─> load ─> decide ─> commit: one transaction ─> publish with confirms ─> ack
//!   operators (HTTP)  ┘                      (pure, per saga) state+journal+outbox         (the next commit deletes the
//!                                                                                           confirmed outbox rows)
//! ```

pub mod admin;
pub mod admission;
pub mod asyncapi;
pub mod bench;
pub mod broker;
pub mod clock;
pub mod config;
pub mod conformance;
pub mod core;
pub mod daemon;
pub mod definitions;
pub mod diff;
pub mod engine;
pub mod explain;
pub mod explore;
pub mod graph;
pub mod health;
pub mod intake;
pub mod json;
pub mod lint;
pub mod metrics;
pub mod outbox;
pub mod pinned;
pub mod purge;
pub mod report;
pub mod routing;
pub mod scenario;
pub mod schema;
pub mod store;
pub mod subscriptions;
pub mod telemetry;
pub mod timers;
pub mod trial;
pub mod verify;
pub mod wire;
