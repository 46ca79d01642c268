//! The way to the publisher, and how much it has in hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use crate::broker::message::Publication;

/// Bytes in the publisher's hands past which the outbox should keep its rows to itself: enough to keep a fast broker busy for a second, and
/// little enough not to matter when the broker is away for a day.
const ROOM: usize = 64 << 20;

/// What a message costs beside its body: properties, headers, names, the queue it waits in.
const OVERHEAD: usize = 1024;

/// Hands messages to the publisher; clone it freely.
#[derive(Clone, Debug)]
pub struct Publisher {
    queue: mpsc::UnboundedSender<Publication>,
    in_hand: Arc<AtomicUsize>,
}

/// The publisher's end.
#[derive(Debug)]
pub struct Publications {
    queue: mpsc::UnboundedReceiver<Publication>,
    in_hand: Arc<AtomicUsize>,
}

/// A way to a publisher, and its end.
pub fn channel() -> (Publisher, Publications) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let in_hand = Arc::new(AtomicUsize::new(0));
    (Publisher { queue: sender, in_hand: Arc::clone(&in_hand) }, Publications { queue: receiver, in_hand })
}

impl Publisher {
    /// Hands over a message. Never waits: who can leave messages elsewhere asks [`has_room`](Publisher::has_room) first.
    ///
    /// # Errors
    /// The publication, if the publisher is gone.
    pub fn publish(&self, publication: Publication) -> Result<(), Publication> {
        let weight = weight(&publication);
        self.in_hand.fetch_add(weight, Ordering::Relaxed);
        self.queue.send(publication).map_err(|refused| {
            self.in_hand.fetch_sub(weight, Ordering::Relaxed);
            refused.0
        })
    }

    /// Whether the publisher should be given more: false while the broker is away or slower than we are. What is left in the outbox
    /// then is found by its sweep.
    pub fn has_room(&self) -> bool {
        self.in_hand() < ROOM
    }

    /// Bytes handed over that the broker has not confirmed yet.
    pub fn in_hand(&self) -> usize {
        self.in_hand.load(Ordering::Relaxed)
    }
}

impl Publications {
    /// Takes what is waiting, at most `limit`, and waits for the first if nothing is. Returns how many; 0 once every [`Publisher`] is gone.
    pub async fn recv_many(&mut self, into: &mut Vec<Publication>, limit: usize) -> usize {
        self.queue.recv_many(into, limit).await
    }

    /// Takes one if one is waiting.
    pub fn try_recv(&mut self) -> Option<Publication> {
        self.queue.try_recv().ok()
    }

    /// Makes room: the publisher is done with `publication`.
    pub fn done(&self, publication: &Publication) {
        self.in_hand.fetch_sub(weight(publication), Ordering::Relaxed);
    }
}

fn weight(publication: &Publication) -> usize {
    publication.message.body.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::broker::message::{Outgoing, Properties};

    fn publication(size: usize) -> Publication {
        let message = Outgoing {
            exchange: String::new(),
            routing_key: "q".into(),
            mandatory: false,
            properties: Properties::default(),
            body: Bytes::from(vec![0; size]),
        };
        Publication { outbox: None, message: Arc::new(message), told: None, handover: Default::default() }
    }

    #[test]
    fn room_is_counted_in_bytes_and_given_back() {
        let (publisher, mut publications) = channel();
        publisher.publish(publication(ROOM / 2)).expect("open");
        assert!(publisher.has_room());
        publisher.publish(publication(ROOM / 2)).expect("open");
        assert!(!publisher.has_room());
        let first = publications.try_recv().expect("waiting");
        assert!(!publisher.has_room(), "taken is not yet confirmed");
        publications.done(&first);
        assert!(publisher.has_room());
    }

    #[test]
    fn a_publisher_that_is_gone_gives_the_message_back_and_counts_nothing() {
        let (publisher, publications) = channel();
        drop(publications);
        publisher.publish(publication(3)).expect_err("closed");
        assert_eq!(publisher.in_hand(), 0);
    }
}
