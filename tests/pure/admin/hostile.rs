//! What is sent by mistake or in bad faith.

use proptest::prelude::*;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Answer, Rig, id};

/// Sends bytes and reads until the other side closes.
async fn raw(rig: &Rig, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    // The other side may hang up before it has read all.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn unknown_addresses_and_methods_are_problems() {
    let rig = Rig::new().await;
    for path in [
        "/",
        "/v1",
        "/v1/saga",
        "/v1/sagas/",
        "//v1/sagas",
        "/v1/../etc/passwd",
        "/v1/definitions/%2e%2e%2f%2e%2e",
        "/%00",
        "/%ff",
    ] {
        assert_eq!(rig.get(path).await.status, 404, "{path}");
    }
    for (method, path, allow) in [
        (Method::DELETE, "/v1/sagas".to_owned(), "GET,HEAD,POST"),
        (Method::PUT, format!("/v1/sagas/{}", id(1)), "GET,HEAD"),
        (Method::GET, format!("/v1/sagas/{}/cancel", id(1)), "POST"),
        (Method::POST, "/healthz".to_owned(), "GET,HEAD"),
        (Method::PATCH, format!("/v1/dead-letters/{}", id(1)), "GET,HEAD,DELETE"),
        (Method::from_bytes(b"BREW").unwrap(), "/v1/sagas".to_owned(), "GET,HEAD,POST"),
    ] {
        let answer = Answer::of(rig.request(method.clone(), &path)).await;
        assert_eq!(answer.problem(), (405, "method-not-allowed".into()), "{method} {path}");
        assert_eq!(answer.headers["allow"], allow, "{method} {path}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn ids_that_are_none_are_unknown() {
    let rig = Rig::new().await;
    let long = "a".repeat(10_000);
    for wrong in ["1", "%00", "%ff%fe", "..%2f..", "'%20OR%201=1--", "%F0%9F%92%A9", &long] {
        assert_eq!(rig.get(&format!("/v1/sagas/{wrong}")).await.problem(), (404, "unknown-saga".into()), "{wrong}");
        assert_eq!(rig.get(&format!("/v1/sagas/{wrong}/history")).await.problem(), (404, "unknown-saga".into()));
        let cancel = Answer::of(rig.request(Method::POST, &format!("/v1/sagas/{wrong}/cancel"))).await;
        assert_eq!(cancel.problem(), (404, "unknown-saga".into()));
        let letter = rig.get(&format!("/v1/dead-letters/{wrong}")).await;
        assert_eq!(letter.problem(), (404, "unknown-dead-letter".into()));
        let definition = rig.get(&format!("/v1/definitions/{wrong}")).await;
        assert_eq!(definition.problem(), (404, "unknown-definition".into()));
    }
    let step = Answer::of(rig.request(Method::POST, &format!("/v1/sagas/{}/steps/%ff/retry", id(1)))).await;
    assert_eq!(step.status, 404);
    assert!(rig.engine.lock().unwrap().orders.is_empty());
    rig.stop().await;
}

#[tokio::test]
async fn bodies_that_are_no_json_say_where() {
    let rig = Rig::new().await;
    let post = async |body: Vec<u8>| {
        let request = rig.request(Method::POST, "/v1/sagas").header("content-type", "application/json");
        Answer::of(request.body(body)).await
    };
    let answer = post(b"{\n  \"saga\": nope\n}".to_vec()).await;
    assert_eq!(answer.problem(), (400, "malformed-json".into()));
    assert_eq!((&answer.json()["line"], &answer.json()["column"]), (&json!(2), &json!(12)));
    for body in [
        b"\xff\xfe".to_vec(),
        b"{".to_vec(),
        b"{} {}".to_vec(),
        b"[".repeat(500_000),
        b"{\"a\":".repeat(100_000),
        b"{\"saga\":\"order\",\"input\":\"\\ud800\"}".to_vec(),
        b"{\"saga\":\"order\",\"input\":{\"$serde_json::private::Number\":\"1\"}}".to_vec(),
        b"{\"saga\":\"order\",\"input\":1e999999999}".to_vec(),
        b"\xef\xbb\xbf{}".to_vec(),
    ] {
        assert_eq!(
            post(body.clone()).await.problem(),
            (400, "malformed-json".into()),
            "{:?}",
            &body[..body.len().min(60)]
        );
    }
    assert!(rig.engine.lock().unwrap().starts.is_empty());
    rig.stop().await;
}

#[tokio::test]
async fn bodies_have_a_bound_declared_or_not() {
    let rig = Rig::configured("http.max_body = 1000").await;
    let body = |size: usize| format!("{{\"saga\":\"order\",\"input\":\"{}\"}}", "x".repeat(size - 27));
    assert_eq!(body(1000).len(), 1000);
    let post = async |body: reqwest::Body| {
        let request = rig.request(Method::POST, "/v1/sagas").header("content-type", "application/json");
        Answer::of(request.body(body)).await
    };
    assert_eq!(post(body(1000).into()).await.problem(), (404, "unknown-definition".into()), "what fits gets through");
    assert_eq!(post(body(1001).into()).await.problem(), (413, "body-too-large".into()));
    // Also clients that send all before they read anything get the answer.
    for size in [100_000, 5_000_000] {
        let head = format!(
            "POST /v1/sagas HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n\r\n"
        );
        let answer = raw(&rig, (head + &body(size)).as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{size}: {answer}");
    }
    let chunked = format!(
        "POST /v1/sagas HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n3e9\r\n{}\r\n0\r\n\r\n",
        body(1001)
    );
    let answer = raw(&rig, chunked.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("body-too-large"), "{answer}");
    let claimed = b"POST /v1/sagas HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 99999999999\r\n\r\n";
    let answer = raw(&rig, claimed).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "refused before any of it is sent: {answer}");
    assert_eq!(rig.engine.lock().unwrap().starts.len(), 1);
    rig.stop().await;
}

#[tokio::test]
async fn heads_have_a_bound() {
    let rig = Rig::new().await;
    let long = "a".repeat(10 << 20);
    let answer = raw(&rig, format!("GET /v1/sagas?key={long} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    let answer = raw(&rig, format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: {long}\r\n\r\n").as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    let key = "k".repeat(40_000);
    assert_eq!(rig.get(&format!("/v1/sagas?key={key}")).await.status, 200, "long, but bounded");
    assert_eq!(rig.get("/healthz").await.status, 200, "it lives");
    rig.stop().await;
}

#[tokio::test]
async fn idempotency_keys_have_bounds() {
    let rig = Rig::new().await;
    let with_key = async |key: reqwest::header::HeaderValue| {
        let request = rig.request(Method::POST, "/v1/sagas").json(&json!({ "saga": "order", "input": {} }));
        Answer::of(request.header("idempotency-key", key)).await
    };
    let value = |bytes: &[u8]| reqwest::header::HeaderValue::from_bytes(bytes).unwrap();
    for wrong in [value(b""), value(&[b'k'; 256]), value(b"\xff")] {
        let answer = with_key(wrong).await;
        assert_eq!(answer.problem(), (400, "invalid-parameter".into()));
        assert_eq!(answer.pointers(), ["Idempotency-Key"]);
    }
    assert!(rig.engine.lock().unwrap().starts.is_empty());
    with_key(value("schlüssel".as_bytes())).await;
    assert_eq!(rig.engine.lock().unwrap().starts[0].idempotency_key.as_deref(), Some("schlüssel"));
    rig.stop().await;
}

#[tokio::test]
async fn slow_heads_and_bodies_are_given_up_on() {
    let rig = Rig::configured("http.read_timeout = \"200ms\"").await;
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: lo").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    let body = b"POST /v1/sagas HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{";
    let answer = raw(&rig, body).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("slow-request"), "{answer}");
    rig.stop().await;
}

#[test]
fn every_error_is_a_problem_document() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let rig = runtime.block_on(Rig::new());
    let method = prop::sample::select(vec!["GET", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"]);
    let id = id(1).to_string();
    let segment = prop_oneof![
        prop::sample::select(vec![
            "v1",
            "sagas",
            "definitions",
            "dead-letters",
            "steps",
            "reload",
            "replay",
            "metrics",
            "history"
        ])
        .prop_map(str::to_owned),
        Just(id),
        "[a-z0-9.%~ é\\-]{0,8}",
    ];
    let path = prop::collection::vec(segment, 0..6);
    let query = "[a-z=&%0-9\\[\\]+]{0,30}";
    let content_type = prop::sample::select(vec!["application/json", "text/plain", "application/problem+json", "x"]);
    let body = prop_oneof![
        "[\\[\\]{}\":,a-z0-9]{0,40}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..64),
        Just(json!({ "saga": "order", "input": {} }).to_string().into_bytes()),
    ];
    let strategy = (method, path, query, content_type, body);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(300));
    let outcome = runner.run(&strategy, |(method, path, query, content_type, body)| {
        let url = format!("/{}?{query}", path.join("/"));
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        // `of` checks what an error must look like.
        let answer =
            runtime.block_on(Answer::of(rig.request(method, &url).header("content-type", content_type).body(body)));
        prop_assert!(!answer.status.is_server_error(), "{}", answer.text);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    runtime.block_on(rig.stop());
}
