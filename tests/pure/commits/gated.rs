//! A store in memory whose commits wait for a word.

use std::sync::{Arc, Mutex};

use sagad::core::id::SagaId;
use sagad::store::memory::MemoryStore;
use sagad::store::{Batch, Committed, OutboxRow, Store, StoreError};
use tokio::sync::mpsc;

/// What becomes of a commit.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Word {
    Commit,
    /// It does not take effect.
    Fail,
    /// It takes effect, and nobody hears of it.
    CommitAndFail,
}

/// Sagas of a batch, each with the routing keys of what it sends.
pub(crate) type Written = Vec<(SagaId, Vec<String>)>;

#[derive(Clone)]
pub(crate) struct Gated {
    store: MemoryStore,
    begun: mpsc::UnboundedSender<(Written, usize)>,
    words: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Word>>>,
    always: Arc<Mutex<Option<Word>>>,
}

/// The test's side.
pub(crate) struct Gate {
    begun: mpsc::UnboundedReceiver<(Written, usize)>,
    words: mpsc::UnboundedSender<Word>,
    always: Arc<Mutex<Option<Word>>>,
}

impl Gated {
    pub(crate) fn before(store: MemoryStore) -> (Gated, Gate) {
        let (begun, wait) = mpsc::unbounded_channel();
        let (say, words) = mpsc::unbounded_channel();
        let always = Arc::new(Mutex::new(None));
        let words = Arc::new(tokio::sync::Mutex::new(words));
        (Gated { store, begun, words, always: Arc::clone(&always) }, Gate { begun: wait, words: say, always })
    }
}

impl Gate {
    /// The next commit that writes sagas, which waits now. Those that do not are let through.
    pub(crate) async fn next_with_sagas(&mut self) -> Written {
        self.next_with_letters().await.0
    }

    /// The same, and how many dead letters it writes beside them.
    pub(crate) async fn next_with_letters(&mut self) -> (Written, usize) {
        self.begun.recv().await.expect("the store is there")
    }

    /// What becomes of the commit that waits.
    pub(crate) fn say(&self, word: Word) {
        self.words.send(word).expect("the store is there");
    }

    /// What becomes of all commits from now on.
    pub(crate) fn always(&self, word: Word) {
        *self.always.lock().unwrap() = Some(word);
    }
}

impl Gated {
    /// Whatever is only read is there at once.
    async fn open(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Store for Gated {
    async fn commit(&self, batch: &Batch) -> Result<Committed, StoreError> {
        if batch.sagas.is_empty() {
            return self.store.commit(batch).await;
        }
        let sent = |rows: &[OutboxRow]| rows.iter().map(|row| row.message.routing_key.clone()).collect();
        let written = batch.sagas.iter().map(|write| (write.id, sent(&write.outbox))).collect();
        self.begun.send((written, batch.dead_letters.len())).expect("the test listens");
        let always = *self.always.lock().unwrap();
        let word = match always {
            Some(word) => word,
            None => self.words.lock().await.recv().await.expect("the test has a word for each"),
        };
        let away = || Err(StoreError::Unavailable("as the test wants it".to_owned()));
        match word {
            Word::Commit => self.store.commit(batch).await,
            Word::Fail => away(),
            Word::CommitAndFail => {
                self.store.commit(batch).await?;
                away()
            }
        }
    }

    crate::behind::ask_the_store_behind! { after open }
}
