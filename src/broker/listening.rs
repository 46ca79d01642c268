//! Which events of other services are listened to: asked for by whoever loads definitions, bound by the link.
//!
//! ```text
//!   Listener ──wanted──> Listening ──(the link binds)──> bound, or refused ──> Listener
//! ```
//!
//! While the link is down nothing can be refused: what is wanted then is bound before anything is consumed again, and the link does not come
//! up without it, so that no event is missed. What is no longer wanted stays bound: another daemon may want it yet, and nothing comes of an
//! event that nobody waits for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::watch;

use crate::broker::topology::Conflict;

/// Events by exchange and topic pattern, and the definitions that listen to them.
pub type Heard = BTreeMap<(String, String), BTreeSet<String>>;

/// What became of what was wanted; `None` while the link is down.
type Answer = Option<(Arc<Heard>, Vec<Conflict>)>;

/// Asks for events.
#[derive(Debug)]
pub struct Listener {
    wanted: watch::Sender<Arc<Heard>>,
    answer: watch::Receiver<Answer>,
}

/// The link's end.
#[derive(Debug)]
pub struct Listening {
    wanted: watch::Receiver<Arc<Heard>>,
    answer: watch::Sender<Answer>,
}

/// A way to ask for events, and its end. Nothing is wanted yet.
pub fn channel() -> (Listener, Listening) {
    let (wanted, asked) = watch::channel(Arc::default());
    let (answer, answered) = watch::channel(None);
    (Listener { wanted, answer: answered }, Listening { wanted: asked, answer })
}

impl Listener {
    /// Listens to these events instead of those before. One call at a time.
    ///
    /// # Errors
    /// What the broker does not let be bound; those before are listened to as ever.
    pub async fn listen(&self, heard: Heard) -> Result<(), Vec<Conflict>> {
        let heard = Arc::new(heard);
        let before = self.wanted.send_replace(Arc::clone(&heard));
        let mut answer = self.answer.clone();
        let settled = answer
            .wait_for(|answer| answer.as_ref().is_none_or(|(of, _)| Arc::ptr_eq(of, &heard)))
            .await
            .map(|answer| answer.as_ref().map_or_else(Vec::new, |(_, refused)| refused.clone()));
        match settled {
            Ok(refused) if !refused.is_empty() => {
                self.wanted.send_replace(before);
                Err(refused)
            }
            // Bound; or the link is down, or gone for good.
            _ => Ok(()),
        }
    }
}

impl Listening {
    /// What is wanted now.
    pub fn wanted(&mut self) -> Arc<Heard> {
        Arc::clone(&self.wanted.borrow_and_update())
    }

    /// Waits until something else is wanted than was last seen; for ever once nobody can want anything.
    pub async fn changed(&mut self) {
        if self.wanted.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// All of `heard` is bound, but for what was refused.
    pub fn bound(&self, heard: Arc<Heard>, refused: Vec<Conflict>) {
        self.answer.send_replace(Some((heard, refused)));
    }

    /// The link is down.
    pub fn down(&self) {
        self.answer.send_replace(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(exchange: &str) -> Heard {
        Heard::from([((exchange.to_owned(), "#".to_owned()), BTreeSet::from(["order".to_owned()]))])
    }

    #[tokio::test]
    async fn while_the_link_is_down_all_is_wanted_and_nothing_refused() {
        let (listener, mut listening) = channel();
        assert_eq!(listener.listen(heard("a")).await, Ok(()));
        assert_eq!(*listening.wanted(), heard("a"));
    }

    #[tokio::test]
    async fn what_is_refused_is_not_wanted_after_all() {
        let (listener, mut listening) = channel();
        listener.listen(heard("a")).await.expect("the link is down");
        let first = listening.wanted();
        listening.bound(first, Vec::new());
        let conflict = Conflict { object: "exchange `b`".into(), why: "it does not exist".into() };
        let link = async {
            listening.changed().await;
            let wanted = listening.wanted();
            assert_eq!(*wanted, heard("b"));
            listening.bound(wanted, vec![conflict.clone()]);
        };
        let (told, ()) = tokio::join!(listener.listen(heard("b")), link);
        assert_eq!(told, Err(vec![conflict]));
        assert_eq!(*listening.wanted(), heard("a"));
    }

    #[tokio::test]
    async fn a_link_that_goes_down_meanwhile_refuses_nothing() {
        let (listener, mut listening) = channel();
        let first = listening.wanted();
        listening.bound(first, Vec::new());
        let link = async {
            listening.changed().await;
            listening.down();
        };
        let (told, ()) = tokio::join!(listener.listen(heard("b")), link);
        assert_eq!(told, Ok(()));
        assert_eq!(*listening.wanted(), heard("b"));
        drop(listening);
        assert_eq!(listener.listen(heard("c")).await, Ok(()), "a link that is gone refuses nothing either");
    }
}
