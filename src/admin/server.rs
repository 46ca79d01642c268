//! The listener: connections with bounds on how many, how slow and how large, and an orderly end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::tls::{self, TlsError};
use crate::config::Http;

/// Connections at a time; more wait to be accepted.
const CONNECTIONS: usize = 1024;

/// The largest head of a request, in bytes.
const LARGEST_HEAD: usize = 64 << 10;

/// After an error to accept (out of file descriptors, say), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the listener can't be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is in use, not ours, or forbidden.
    #[error("can't listen on {address} (http.listen): {error}")]
    Address {
        /// As configured.
        address: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// The certificate or its key.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A listener that serves HTTP.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    read_timeout: Duration,
    tls: Option<TlsAcceptor>,
}

impl Server {
    /// Listens as configured, so that what is wrong with it shows before anything is started.
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(config: &Http) -> Result<Server, BindError> {
        let tls = config.tls.as_ref().map(tls::acceptor).transpose()?;
        let failed = |error| BindError::Address { address: config.listen, error };
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Server { listener, address, read_timeout: config.read_timeout, tls })
    }

    /// Where it listens: the port is the system's choice where 0 is configured.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stopping` is cancelled, and then until every request in hand is answered.
    pub async fn serve(self, router: Router, stopping: CancellationToken) {
        let connections = self.accept(router, stopping).await;
        // Whoever comes now is refused at once instead of waiting in vain.
        drop(self);
        connections.wait().await;
    }

    /// Serves until `stopping` is cancelled or the future is dropped, and goes on listening: for what can be said before there
    /// is a database.
    pub async fn preview(&self, router: Router, stopping: CancellationToken) {
        self.accept(router, stopping).await.wait().await;
    }

    /// Accepts connections until `stopping` is cancelled; those that are left then, closing.
    async fn accept(&self, router: Router, stopping: CancellationToken) -> TaskTracker {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let connections = TaskTracker::new();
        loop {
            let place = tokio::select! {
                Ok(place) = Arc::clone(&places).acquire_owned() => place,
                () = stopping.cancelled() => break,
            };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stopping.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    // Answers are small and awaited.
                    let _ = stream.set_nodelay(true);
                    let (tls, router, patience, stopping) =
                        (self.tls.clone(), router.clone(), self.read_timeout, stopping.clone());
                    connections.spawn(async move {
                        match tls {
                            None => converse(stream, router, patience, stopping).await,
                            Some(tls) => match timeout(patience, tls.accept(stream)).await {
                                Ok(Ok(stream)) => converse(stream, router, patience, stopping).await,
                                Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                                Err(_) => tracing::debug!("a TLS handshake took too long"),
                            },
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "an HTTP connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        connections.close();
        connections
    }
}

/// One connection from its first request to its last. `patience` is for the head of a request, so also for how long a
/// connection may be idle.
async fn converse<I>(stream: I, router: Router, patience: Duration, stopping: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_buf_size(LARGEST_HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        // The client went away, was too slow or does not speak HTTP: nothing that an operator should act on.
        tracing::debug!(%error, "an HTTP connection broke");
    }
}
