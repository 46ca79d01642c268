//! Sagas that run sagas, over the broker.

use serde_json::{Value, json};

use super::{Stage, saga, sites};

const PARENT: &str = r#"
[[steps]]
name = "ship"
saga = "shipment"
input = { order = "{{ input.order }}", weight = 3 }
[[steps]]
name = "last"
command = "b.last"
body = { parcel = "{{ steps.ship.reply.parcel }}" }
compensate = false
"#;

const CHILD: &str = r#"
[[steps]]
name = "pack"
command = "a.pack"
compensate = { command = "a.unpack" }
[output]
parcel = "{{ steps.pack.reply.parcel }}"
"#;

async fn stages() -> Vec<Stage> {
    let mut stages = Vec::new();
    for (site, database) in sites().await {
        site.define("order", &saga("order", "", PARENT));
        let head = "[input]\nrequired = [\"order\"]\nproperties.order.type = \"string\"";
        site.define("shipment", &saga("shipment", head, CHILD));
        stages.push(Stage::with(site, database).await);
    }
    stages
}

/// The child of a saga that has one.
async fn child(stage: &Stage, parent: &str) -> Value {
    let page = stage.look("/v1/sagas?saga=shipment", "the child", |page| {
        page["items"].as_array().is_some_and(|items| items.iter().any(|saga| saga["parent"]["id"] == parent))
    });
    let page = page.await;
    page["items"].as_array().expect("items").iter().find(|saga| saga["parent"]["id"] == parent).expect("it").clone()
}

fn id(saga: &Value) -> &str {
    saga["id"].as_str().expect("an id")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completed_child_is_its_step_done_and_is_undone_when_a_later_step_fails() {
    for mut stage in stages().await {
        let parent = stage.start("order", json!({ "order": "A-1" })).await;
        let pack = stage.take("a").await;
        assert_eq!(pack.body(), json!({ "order": "A-1", "weight": 3 }));
        let ship = child(&stage, &parent).await;
        assert_eq!(ship["parent"], json!({ "id": parent, "step": "ship" }));
        assert_eq!(stage.history(id(&ship)).await[0]["actor"], "saga");
        pack.answer(json!({ "parcel": 7 })).await;
        let last = stage.take("b").await;
        assert_eq!(last.body(), json!({ "parcel": 7 }));
        assert_eq!(stage.saga(id(&ship)).await["status"], "completed");
        last.fail().await;
        let undo = stage.take("a").await;
        assert_eq!((undo.routing_key(), undo.text("saga-id").as_str()), ("a.unpack", id(&ship)));
        undo.succeed().await;
        let ended = stage.ends(&parent, "compensated").await;
        assert_eq!((&ended["error"]["step"], &ended["steps"][0]["status"]), (&json!("last"), &json!("compensated")));
        stage.ends(id(&ship), "compensated").await;
        assert!(stage.letters(0).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_that_fails_fails_its_step() {
    for mut stage in stages().await {
        let parent = stage.start("order", json!({ "order": "A-1" })).await;
        stage.take("a").await.fail().await;
        let ended = stage.ends(&parent, "compensated").await;
        assert_eq!((&ended["error"]["step"], &ended["error"]["reason"]), (&json!("ship"), &json!("child")), "{ended}");
        let ship = child(&stage, &parent).await;
        assert_eq!(ship["status"], "compensated");
        stage.is_quiet("a");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_that_can_not_begin_fails_its_step_at_once() {
    for stage in stages().await {
        let wrong = stage.start("order", json!({ "order": 7 })).await;
        let ended = stage.ends(&wrong, "compensated").await;
        let message = ended["error"]["message"].as_str().expect("a message");
        assert!(message.contains("does not fit the definition") && message.contains("/order"), "{message}");
        assert!(stage.letters(0).await.is_empty(), "the parent knows: nothing is kept");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelling_a_parent_undoes_what_its_child_has_done() {
    for mut stage in stages().await {
        let parent = stage.start("order", json!({ "order": "A-1" })).await;
        let pack = stage.take("a").await;
        let ship = child(&stage, &parent).await;
        let (status, _) = stage.daemon.post(&format!("/v1/sagas/{parent}/cancel"), &json!({})).await;
        assert_eq!(status, 200);
        stage.until(id(&ship), "the turn", |saga| saga["status"] == "compensating").await;
        // What is in flight is waited for, across a crash.
        stage.daemon.kill();
        stage.daemon = stage.site.start().await;
        pack.answer(json!({ "parcel": 7 })).await;
        let undo = stage.take("a").await;
        assert_eq!(undo.routing_key(), "a.unpack");
        undo.succeed().await;
        stage.ends(&parent, "compensated").await;
        stage.ends(id(&ship), "compensated").await;
        stage.is_quiet("b");
    }
}

const FLEET: &str = r#"
[[steps]]
name    = "ships"
foreach = "{{ input.orders }}"
saga    = "shipment"
input   = { order = "{{ item }}" }
max_parallel = 3
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_element_of_a_list_has_a_child_of_its_own() {
    for (site, database) in sites().await {
        site.define("fleet", &saga("fleet", "", FLEET));
        site.define("shipment", &saga("shipment", "", CHILD));
        let mut stage = Stage::with(site, database).await;
        let parent = stage.start("fleet", json!({ "orders": ["A-1", "A-2", "A-3"] })).await;
        let mut children = Vec::new();
        for _ in 0..3 {
            let pack = stage.take("a").await;
            children.push(pack.text("saga-id"));
            match pack.body()["order"].as_str() {
                Some("A-2") => pack.fail().await,
                _ => pack.answer(json!({ "parcel": 7 })).await,
            };
        }
        let mut undone = Vec::new();
        for _ in 0..2 {
            let undo = stage.take("a").await;
            assert_eq!(undo.routing_key(), "a.unpack");
            undone.push(undo.text("saga-id"));
            undo.succeed().await;
        }
        let ended = stage.ends(&parent, "compensated").await;
        assert_eq!((&ended["error"]["step"], &ended["error"]["reason"]), (&json!("ships"), &json!("child")), "{ended}");
        for child in &children {
            stage.ends(child, "compensated").await;
        }
        children.retain(|child| !undone.contains(child));
        assert_eq!(children.len(), 1, "what failed has nothing to undo");
        stage.is_quiet("a");
        assert!(stage.letters(0).await.is_empty());
    }
}
