//! Tests against real services: databases, RabbitMQ, processes.

mod postgres;
mod store;
