//! Tests against real services: databases, RabbitMQ, processes.
#![allow(clippy::disallowed_methods, reason = "real services live in real time")]

mod asyncapi;
mod bench;
mod broker;
mod conformance;
mod crash;
mod daemon;
mod http;
mod packages;
mod participants;
mod postgres;
#[allow(unreachable_pub, reason = "it is written as if it were a crate of its own")]
mod rabbitmq;
mod scenes;
mod store;
mod verify;
