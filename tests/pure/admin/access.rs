//! Who gets in.

use reqwest::Method;
use serde_json::json;

use super::{Answer, Rig, id, started};

const TOKENS: &str = r#"
[[http.tokens]]
name = "alice"
role = "operator"
secret = "alice-alice-alice"
[[http.tokens]]
name = "bob"
role = "viewer"
secret = "bob-bob-bob-bob-bob-bob"
"#;

#[tokio::test]
async fn tokens_open_what_their_roles_allow() {
    let rig = Rig::configured(TOKENS).await;
    rig.engine.lock().unwrap().answer_start = Some(Box::new(|start| started(start.id, true)));
    let call = async |method: Method, path: &str, authorization: Option<&str>| {
        let mut request = rig.request(method, path).json(&json!({ "saga": "order", "input": {} }));
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        Answer::of(request).await
    };
    for path in ["/healthz", "/readyz", "/schema.json"] {
        assert_eq!(call(Method::GET, path, None).await.status, 200, "{path}");
    }
    for path in ["/v1/sagas", "/metrics", "/v1/definitions", "/nowhere"] {
        for wrong in [
            None,
            Some("Bearer"),
            Some("Bearer "),
            Some("Bearer alice-alice-alic"),
            Some("Bearer alice-alice-alice-"),
            Some("Basic alice-alice-alice"),
            Some("alice-alice-alice"),
        ] {
            let answer = call(Method::GET, path, wrong).await;
            assert_eq!(answer.problem(), (401, "unauthenticated".into()), "{path} {wrong:?}");
            assert_eq!(answer.headers["www-authenticate"], "Bearer realm=\"sagad\"");
        }
    }
    let (alice, bob) = (Some("Bearer alice-alice-alice"), Some("bearer bob-bob-bob-bob-bob-bob"));
    assert_eq!(call(Method::GET, "/v1/sagas", bob).await.status, 200);
    assert_eq!(call(Method::GET, "/metrics", bob).await.status, 200);
    assert_eq!(call(Method::POST, "/v1/sagas", bob).await.problem(), (403, "forbidden".into()));
    let letter = format!("/v1/dead-letters/{}", id(1));
    assert_eq!(call(Method::DELETE, &letter, bob).await.problem(), (403, "forbidden".into()));
    assert!(rig.engine.lock().unwrap().starts.is_empty());
    // 404: the saga that the engine says it started is not on the shelf.
    assert_eq!(call(Method::POST, "/v1/sagas", alice).await.status, 404);
    assert_eq!(rig.engine.lock().unwrap().starts[0].actor, "alice", "the history names the token");
    assert_eq!(call(Method::DELETE, &letter, alice).await.problem(), (404, "unknown-dead-letter".into()));
    let twice = rig.request(Method::GET, "/v1/sagas").header("authorization", "Bearer alice-alice-alice");
    let twice = Answer::of(twice.header("authorization", "Bearer bob-bob-bob-bob-bob-bob")).await;
    assert_eq!(twice.status, 401, "which of the two?");
    rig.stop().await;
}

#[tokio::test]
async fn a_token_without_a_secret_lets_nobody_in() {
    let rig = Rig::configured("[[http.tokens]]\nname = \"eve\"\nrole = \"viewer\"\nsecret_env = \"NOT_THERE\"\n").await;
    assert_eq!(rig.get("/v1/sagas").await.problem(), (401, "unauthenticated".into()));
    for secret in ["", "NOT_THERE", "eve"] {
        let request = rig.request(Method::GET, "/v1/sagas").header("authorization", format!("Bearer {secret}"));
        assert_eq!(Answer::of(request).await.problem(), (401, "unauthenticated".into()), "{secret:?}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn pages_of_other_origins_cannot_steer() {
    let rig = Rig::new().await;
    let path = format!("/v1/sagas/{}/cancel", id(1));
    let own = format!("http://{}", rig.address);
    for (name, value) in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("origin", "http://127.0.0.1:1"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        let answer = Answer::of(rig.request(Method::POST, &path).header(name, value)).await;
        assert_eq!(answer.problem(), (403, "cross-site".into()), "{name}: {value}");
    }
    assert!(rig.engine.lock().unwrap().orders.is_empty());
    // A form or a script without permission can send these types only.
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""] {
        let request = rig.request(Method::POST, &path).header("content-type", content_type).body("{}");
        assert_eq!(Answer::of(request).await.problem(), (415, "unsupported-media-type".into()), "{content_type}");
    }
    assert!(rig.engine.lock().unwrap().orders.is_empty());
    let request = rig.request(Method::POST, &path).header("origin", &own).header("sec-fetch-site", "same-origin");
    assert_eq!(Answer::of(request).await.status, 404, "our own pages may: there is no such saga");
    assert_eq!(rig.engine.lock().unwrap().orders.len(), 1);
    rig.stop().await;
}

#[tokio::test]
async fn without_tokens_only_loopback_names_are_answered() {
    let rig = Rig::new().await;
    let answer = async |host: &str| Answer::of(rig.request(Method::GET, "/v1/sagas").header("host", host)).await;
    for host in
        ["localhost", "LOCALHOST:7242", "app.localhost:7242", "127.0.0.1", "127.1.2.3:80", "[::1]:7242", "[::1]"]
    {
        assert_eq!(answer(host).await.status, 200, "{host}");
    }
    for host in [
        "evil.example",
        "evil.example:7242",
        "localhost.evil.example",
        "10.0.0.1",
        "[2001:db8::1]:1",
        "127.0.0.1.nip.io",
        "",
    ] {
        assert_eq!(answer(host).await.problem(), (421, "unknown-host".into()), "{host}");
    }
    let health = Answer::of(rig.request(Method::GET, "/healthz").header("host", "10.0.0.1")).await;
    assert_eq!(health.status, 200, "probes use addresses");
    rig.stop().await;
    let rig = Rig::configured(TOKENS).await;
    let request = rig.request(Method::GET, "/v1/sagas").header("host", "sagad.example");
    assert_eq!(Answer::of(request.bearer_auth("alice-alice-alice")).await.status, 200, "tokens are proof enough");
    rig.stop().await;
}
