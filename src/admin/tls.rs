//! HTTPS: the certificate and its key, read once.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

use crate::config::Tls;

/// Why HTTPS can't be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read, or is no PEM of its kind.
    #[error("{}: {error}; `{key}` names a PEM file of {what}", .path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// The key of the configuration that names it.
        key: &'static str,
        /// What it should have.
        what: &'static str,
        /// What is wrong with it.
        error: pem::Error,
    },
    /// The two do not belong together, or are of a kind that is not supported.
    #[error("`http.tls.cert` and `http.tls.key` can't be used: {0}")]
    Unusable(#[from] rustls::Error),
}

/// What makes TLS of a connection.
pub(super) fn acceptor(config: &Tls) -> Result<TlsAcceptor, TlsError> {
    let certificates = CertificateDer::pem_file_iter(&config.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .and_then(|found| if found.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(found) })
        .map_err(|error| unreadable(&config.cert, "http.tls.cert", "a certificate and those that signed it", error))?;
    let key = PrivateKeyDer::from_pem_file(&config.key)
        .map_err(|error| unreadable(&config.key, "http.tls.key", "the certificate's private key", error))?;
    let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(server)))
}

fn unreadable(path: &Path, key: &'static str, what: &'static str, error: pem::Error) -> TlsError {
    TlsError::File { path: path.to_owned(), key, what, error }
}
