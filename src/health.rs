//! Whether sagad can do its work, and if not, why.

use std::sync::{Arc, Mutex};

/// What sagad depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The database.
    Store,
    /// RabbitMQ, with the topology in place.
    Broker,
}

/// Shared by those who find out and those who ask.
#[derive(Clone, Debug)]
pub struct Health {
    troubles: Arc<Mutex<[Option<String>; 2]>>,
}

impl Health {
    /// Nothing is known to work yet.
    pub fn new() -> Health {
        let starting = || Some("starting".to_owned());
        Health { troubles: Arc::new(Mutex::new([starting(), starting()])) }
    }

    /// `part` works.
    pub fn up(&self, part: Part) {
        self.set(part, None);
    }

    /// `part` does not work; `why` is for a person. True if this is news.
    pub fn down(&self, part: Part, why: impl Into<String>) -> bool {
        self.set(part, Some(why.into()))
    }

    /// Why `part` does not work; `None` if it does.
    pub fn trouble(&self, part: Part) -> Option<String> {
        self.lock()[part as usize].clone()
    }

    fn set(&self, part: Part, trouble: Option<String>) -> bool {
        metrics::gauge!(if part == Part::Store { crate::metrics::STORE_UP } else { crate::metrics::BROKER_UP })
            .set(if trouble.is_none() { 1.0 } else { 0.0 });
        let mut troubles = self.lock();
        let news = troubles[part as usize].is_some() != trouble.is_some();
        troubles[part as usize] = trouble;
        news
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, [Option<String>; 2]> {
        // Nothing panics while it holds the lock; if something did, the two strings would still be whole.
        self.troubles.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Default for Health {
    fn default() -> Health {
        Health::new()
    }
}
