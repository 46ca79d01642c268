//! The broker: what sagad needs of one, and RabbitMQ behind it.

pub mod amqp;
pub mod handover;
pub mod listening;
pub mod message;
pub mod names;
pub mod publisher;
pub mod topology;
