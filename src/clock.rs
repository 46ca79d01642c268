//! What time it is, and ids made of it: the only ambient thing in the corridor, so it is handed in.
//!
//! Each daemon has one. Everyone else asks it, so that a run with a clock of one's own and a runtime whose time stands still while
//! nothing happens is the same run each time.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::SystemTime;

use uuid::Uuid;

use crate::core::time::Time;

/// A wall clock.
pub trait Clock: Debug + Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Time;

    /// A new UUIDv7: those of one clock sort in the order of their making.
    fn id(&self) -> Uuid;
}

/// The clock of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

#[allow(clippy::disallowed_methods, reason = "this is where it is handed in from")]
impl Clock for SystemClock {
    fn now(&self) -> Time {
        Time::from(SystemTime::now())
    }

    fn id(&self) -> Uuid {
        Uuid::now_v7()
    }
}

/// The clock of this machine, to hand in.
pub fn system() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}
