//! The names of sagad's own exchanges and queues: all below `broker.prefix`.

use std::time::Duration;

use crate::broker::message::Inbox;
use crate::core::saga::SHORTEST_BROKER_DELAY;

/// Rungs of the ladder of delay queues: 100 ms, 200 ms, … 3.6 h. What is longer goes round again.
const RUNGS: u32 = 18;

/// Makes the names.
#[derive(Clone, Debug)]
pub struct Names {
    prefix: String,
}

impl Names {
    /// Names below `prefix`.
    pub fn new(prefix: impl Into<String>) -> Names {
        Names { prefix: prefix.into() }
    }

    /// The queue of an inbox: `sagad.replies`, `sagad.start`, `sagad.heard`, ….
    pub fn queue(&self, inbox: Inbox) -> String {
        format!("{}.{}", self.prefix, inbox.as_str())
    }

    /// The inbox whose queue this is.
    pub fn inbox(&self, queue: &str) -> Option<Inbox> {
        Inbox::ALL.into_iter().find(|inbox| self.queue(*inbox) == queue)
    }

    /// Direct: inputs of starts, by the definition's name.
    pub fn start_exchange(&self) -> String {
        format!("{}.start", self.prefix)
    }

    /// Fanout, alternate of the start exchange: starts of definitions that do not exist.
    pub fn unknown_start_exchange(&self) -> String {
        format!("{}.start.unknown", self.prefix)
    }

    /// Topic: where queues dead-letter to.
    pub fn dead_exchange(&self) -> String {
        format!("{}.dead", self.prefix)
    }

    /// Topic: signals, by their names.
    pub fn signals_exchange(&self) -> String {
        format!("{}.signals", self.prefix)
    }

    /// Topic: lifecycle events.
    pub fn events_exchange(&self) -> String {
        format!("{}.events", self.prefix)
    }

    /// All of the above.
    pub fn exchanges(&self) -> [String; 5] {
        [
            self.start_exchange(),
            self.unknown_start_exchange(),
            self.dead_exchange(),
            self.signals_exchange(),
            self.events_exchange(),
        ]
    }

    /// The delay queues, shortest first.
    pub fn delay_queues(&self) -> impl Iterator<Item = (String, Duration)> + '_ {
        (0..RUNGS).map(|rung| {
            let ttl = SHORTEST_BROKER_DELAY * 2u32.pow(rung);
            (format!("{}.delay.{}", self.prefix, ttl.as_millis()), ttl)
        })
    }

    /// The delay queue with the longest delay that does not overshoot `wait`; `None` if even the shortest does.
    pub fn delay_queue(&self, wait: Duration) -> Option<String> {
        self.delay_queues().take_while(|(_, ttl)| *ttl <= wait).last().map(|(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_takes_the_longest_rung_that_does_not_overshoot() {
        let names = Names::new("shop");
        let rung = |millis| names.delay_queue(Duration::from_millis(millis));
        assert_eq!(rung(99), None);
        assert_eq!(rung(100).as_deref(), Some("shop.delay.100"));
        assert_eq!(rung(1599).as_deref(), Some("shop.delay.800"));
        assert_eq!(rung(u64::MAX).as_deref(), Some("shop.delay.13107200"));
    }
}
