//! Messages and what they mean: the only place that knows header names. Pure.
//!
//! ```text
//!   Incoming ──[incoming]──> an input for a saga, a start, a wake-up, or why it can't be placed
//!   decision ──[outgoing]──> commands, lifecycle events, wake-ups, answers to starts
//!                  └─ message ids are signed by [signature]: a participant can answer only what it was sent
//!   Incoming ──[put_off]──> the same later, if nobody is there yet whom it is for
//! ```

pub mod children;
pub mod incoming;
pub mod outgoing;
pub mod put_off;
pub mod signature;

/// The names of headers that sagad writes or reads.
pub mod header {
    #![allow(missing_docs, reason = "docs/participants.md explains them")]
    pub const SAGA_ID: &str = "saga-id";
    pub const SAGA_NAME: &str = "saga-name";
    pub const SAGA_KEY: &str = "saga-key";
    pub const SAGA_STEP: &str = "saga-step";
    pub const SAGA_ACTION: &str = "saga-action";
    pub const SAGA_ATTEMPT: &str = "saga-attempt";
    pub const SAGA_ITEM: &str = "saga-item";
    pub const SAGA_IN_DOUBT: &str = "saga-in-doubt";
    pub const SAGA_DEADLINE: &str = "saga-deadline";
    pub const SAGA_OUTCOME: &str = "saga-outcome";
    pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
    pub use crate::broker::message::RESENT as SAGA_RESENT;
    pub const TRACEPARENT: &str = "traceparent";
    /// Where a message came from that was put off, or an event that is handed in again.
    pub const EVENT_EXCHANGE: &str = "saga-event-exchange";
    pub const EVENT_ROUTING_KEY: &str = "saga-event-routing-key";
    /// How often a message was put off, which of sagad's queues it had come to, and whom alone it is for.
    pub const PUT_OFF: &str = "saga-put-off";
    pub const PUT_OFF_FROM: &str = "saga-put-off-from";
    pub const PUT_OFF_FOR: &str = "saga-put-off-for";
    pub const PUT_OFF_KEY: &str = "saga-put-off-key";
    /// RabbitMQ's record of dead-letterings, the latest first.
    pub const X_DEATH: &str = "x-death";
    /// How often a quorum queue delivered a message before.
    pub const X_DELIVERY_COUNT: &str = "x-delivery-count";
}
