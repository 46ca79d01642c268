//! HTTPS.

use std::path::Path;
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use sagad::admin::{BindError, Server, starting};
use sagad::config::Config;
use sagad::health::Health;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_util::sync::CancellationToken;

fn config(folder: &Path) -> Config {
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let toml = format!(
        "http.listen = \"127.0.0.1:0\"\nhttp.read_timeout = \"300ms\"\nhttp.tls.cert = {:?}\nhttp.tls.key = {:?}",
        cert.to_str().unwrap(),
        key.to_str().unwrap()
    );
    Config::parse("test", &toml).unwrap()
}

fn write(folder: &Path) -> CertifiedKey<rcgen::KeyPair> {
    let made = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    made
}

#[tokio::test]
async fn https_is_served_with_the_configured_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let made = write(folder.path());
    let server = Server::bind(&config(folder.path()).http).await.unwrap();
    let (address, stopping) = (server.address(), CancellationToken::new());
    let serving = tokio::spawn(server.serve(starting(Health::new()), stopping.clone()));

    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(client)).connect(name, stream).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");

    // Whoever speaks plain HTTP, or nothing at all, gets nothing, and is not waited for.
    for bytes in [&b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"[..], b""] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
    }
    stopping.cancel();
    serving.await.unwrap();
}

#[tokio::test]
async fn wrong_certificates_are_told_before_anything_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let message = async || match Server::bind(&config(folder.path()).http).await {
        Err(error @ BindError::Tls(_)) => error.to_string(),
        other => panic!("not an error of TLS: {:?}", other.map(|server| server.address())),
    };
    assert!(message().await.contains("cert.pem"), "{}", message().await);
    let made = write(folder.path());
    std::fs::write(folder.path().join("key.pem"), "no key").unwrap();
    assert!(message().await.contains("`http.tls.key`"), "{}", message().await);
    std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.path().join("cert.pem"), "").unwrap();
    assert!(message().await.contains("`http.tls.cert`"), "{}", message().await);
    let other = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.path().join("cert.pem"), other.cert.pem()).unwrap();
    assert!(message().await.contains("can't be used"), "{}", message().await);
}

#[tokio::test]
async fn commands_speak_https_with_daemons_they_trust() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let server = Server::bind(&config(folder.path()).http).await.unwrap();
    let (address, stopping) = (server.address(), CancellationToken::new());
    let serving = tokio::spawn(server.serve(starting(Health::new()), stopping.clone()));
    let other = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.path().join("other.pem"), other.cert.pem()).unwrap();
    let explain = async |certificates: &str| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sagad"));
        command.args(["explain", "00000000-0000-0000-0000-000000000007"]);
        command.args(["--url", &format!("https://localhost:{}", address.port())]);
        command.env("SSL_CERT_FILE", folder.path().join(certificates)).env_remove("SAGAD_TOKEN");
        let output = command.output().await.unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, error) = explain("cert.pem").await;
    assert!(code == Some(1) && error.contains("sagad is starting"), "{code:?}: {error}");
    let (code, error) = explain("other.pem").await;
    assert!(code == Some(3) && error.contains("certificate") && error.contains("SSL_CERT_FILE"), "{code:?}: {error}");
    stopping.cancel();
    serving.await.unwrap();
}
