//! A small pool of connections.
//!
//! Not sqlx's: that one asks the server for a sign of life each time a connection comes back, a round trip for each
//! transaction. Here a connection comes back only when all that it was asked was done; one that saw an error, or whose
//! caller gave up, is closed, and a transaction that was open on it is rolled back by that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::StoreError;

/// How long a caller waits for a connection: to become free, and to be made.
const PATIENCE: Duration = Duration::from_secs(4);

/// A connection that was idle for so long may have been dropped by something on the way, and nobody told.
const LONGEST_IDLE: Duration = Duration::from_secs(60);

/// Connections to one database, up to a bound; clones share them.
pub(super) struct Lanes<C: Connection> {
    options: Arc<C::Options>,
    places: Arc<Semaphore>,
    idle: Arc<Idle<C>>,
}

/// A connection that nobody else uses. Dropped, it is closed; so hand it back when all went well.
pub(super) struct Lane<C: Connection> {
    connection: C,
    idle: Arc<Idle<C>>,
    _place: OwnedSemaphorePermit,
}

/// The connections that nobody uses, the last used one on top: a quiet store warms only one.
struct Idle<C>(Mutex<Vec<(C, Instant)>>);

impl<C: Connection> Lanes<C> {
    /// Up to `bound` connections, made as they are needed.
    pub(super) fn new(options: C::Options, bound: usize) -> Lanes<C> {
        let (places, idle) = (Arc::new(Semaphore::new(bound)), Arc::new(Idle(Mutex::new(Vec::with_capacity(bound)))));
        Lanes { options: Arc::new(options), places, idle }
    }

    /// A connection.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: whatever keeps us from connecting, it is not the fault of what is to be stored.
    pub(super) async fn lane(&self) -> Result<Lane<C>, StoreError> {
        let busy = || StoreError::Unavailable(format!("no connection became free within {PATIENCE:?}"));
        let place = timeout(PATIENCE, self.places.clone().acquire_owned()).await.map_err(|_| busy())?;
        let place = place.map_err(|_| StoreError::Unavailable("it was closed".to_owned()))?;
        let connection = match self.idle.pop() {
            Some(connection) => connection,
            None => match timeout(PATIENCE, C::connect_with(&self.options)).await {
                Ok(Ok(connection)) => connection,
                Ok(Err(error)) => return Err(StoreError::Unavailable(error.to_string())),
                Err(_) => return Err(StoreError::Unavailable(format!("it did not let us in within {PATIENCE:?}"))),
            },
        };
        Ok(Lane { connection, idle: self.idle.clone(), _place: place })
    }

    /// A connection that is there already, for the first who wants one.
    pub(super) fn keep(&self, connection: C) {
        self.idle.lock().push((connection, Instant::now()));
    }

    /// Closes what is idle and lends no more.
    pub(super) async fn close(&self) {
        self.places.close();
        while let Some(connection) = self.idle.pop() {
            // It is going away either way.
            let _ = connection.close().await;
        }
    }
}

impl<C: Connection> Clone for Lanes<C> {
    fn clone(&self) -> Self {
        Lanes { options: self.options.clone(), places: self.places.clone(), idle: self.idle.clone() }
    }
}

impl<C: Connection> Lane<C> {
    /// To ask it something.
    pub(super) fn connection(&mut self) -> &mut C {
        &mut self.connection
    }

    /// For the next one.
    pub(super) fn hand_back(self) {
        self.idle.lock().push((self.connection, Instant::now()));
    }

    /// The connection broke. The idle ones were made before, so the same has very likely happened to them.
    pub(super) fn broke(self) {
        self.idle.lock().clear();
    }
}

impl<C> Idle<C> {
    fn pop(&self) -> Option<C> {
        let mut idle = self.lock();
        let (connection, since) = idle.pop()?;
        if since.elapsed() < LONGEST_IDLE {
            return Some(connection);
        }
        // It was on top: the others are idle for longer still.
        idle.clear();
        None
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(C, Instant)>> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
