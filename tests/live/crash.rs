//! What must hold whatever breaks, and whenever.

use std::time::Duration;

use serde_json::json;

use crate::daemon::Site;
use crate::participants::{Participants, Reply};
use crate::rabbitmq;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn smoke() {
    let site = Site::new(rabbitmq::shared().await, None).with_queues(&["a"]);
    site.define(
        "order",
        r#"
name = "order"
key = "{{ input.n }}"
[defaults]
exchange = "PREFIX-commands"
timeout = "1s"
[[steps]]
name = "one"
command = "a.one"
compensate.command = "a.undo_one"
"#,
    );
    let daemon = site.start().await;
    let participants = Participants::start(site.amqp(), vec![site.name("a")], |_| Reply::success(json!({"x": 1})));
    let (status, body) = daemon
        .try_post("/v1/sagas", &[("prefer", "wait=10")], &json!({"saga": "order", "input": {"n": "7"}}))
        .await
        .unwrap();
    assert_eq!(status, 201, "{body}");
    assert_eq!(body["status"], "completed", "{body}");
    let commands = participants.ledger().wait("a command", Duration::from_secs(1), |c| c.len() == 1).await;
    assert_eq!(commands[0].saga_key.as_deref(), Some("7"));
}
