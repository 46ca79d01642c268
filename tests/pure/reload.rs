//! The folder of definitions: what belongs to it, and what a reload changes.

use std::path::Path;
use std::sync::Arc;

use sagad::clock::system;
use sagad::core::diagnostic::Severity;
use sagad::core::time::Time;
use sagad::definitions::{Changes, Definitions, LoadError, Pinned, read};
use sagad::store::StoreError;
use sagad::subscriptions::{Concern, Event};
use tempfile::TempDir;

use crate::admin::shelf::Shelf;

fn definition(name: &str, description: &str) -> String {
    format!("name = '{name}'\ndescription = '{description}'\n[[steps]]\nname = 'a'\ncommand = 'c'\nexchange = 'e'\n")
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn changes(added: &[&str], changed: &[&str], removed: &[&str], unchanged: &[&str]) -> Changes {
    let all = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Changes { added: all(added), changed: all(changed), removed: all(removed), unchanged: all(unchanged) }
}

#[test]
fn the_folder_is_every_definition_below_it_but_hidden_ones_and_tests() {
    let folder = TempDir::new().unwrap();
    for (file, name) in [
        ("b.toml", "b"),
        ("a.toml", "a"),
        ("deep/er/c.toml", "c"),
        ("order.test.toml", "test"),
        (".#a.toml", "draft"),
        (".git/d.toml", "hidden"),
        ("e.toml.bak", "backup"),
        ("notes.md", "notes"),
    ] {
        write(folder.path(), file, &definition(name, ""));
    }
    // As Kubernetes mounts a ConfigMap; and a link that leads back.
    write(folder.path(), "..2026_01_02/f.toml", &definition("f", ""));
    std::os::unix::fs::symlink("..2026_01_02", folder.path().join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/f.toml", folder.path().join("f.toml")).unwrap();
    std::os::unix::fs::symlink("..", folder.path().join("deep/back")).unwrap();
    let found = read(&[folder.path().to_owned()], None);
    assert!(!found.has_errors(), "{:?}", found.files);
    assert_eq!(found.definitions.keys().map(|name| &**name).collect::<Vec<_>>(), ["a", "b", "c", "f"]);
    let files: Vec<_> = found.files.iter().map(|file| file.path.strip_prefix(folder.path()).unwrap()).collect();
    assert_eq!(files, ["a.toml", "b.toml", "deep/er/c.toml", "f.toml"].map(Path::new));
}

#[test]
fn every_problem_of_every_file_is_found() {
    let folder = TempDir::new().unwrap();
    write(folder.path(), "1.toml", "name = 'x'\n");
    write(folder.path(), "2.toml", &definition("x", ""));
    write(folder.path(), "3.toml", "name =");
    write(folder.path(), "4.toml", &definition("y", "").replace("command", "comand"));
    let found = read(&[folder.path().to_owned()], None);
    let codes = found.files.iter().map(|file| file.diagnostics.iter().map(|it| it.code).collect::<Vec<_>>());
    let expected = [vec!["missing-key"], vec!["duplicate-name"], vec!["syntax"], vec!["unknown-key"]];
    assert_eq!(codes.collect::<Vec<_>>(), expected);
    assert!(found.definitions.is_empty(), "a name that is taken twice belongs to nobody");
}

#[test]
fn likely_mistakes_are_warnings() {
    let step = |name: &str, more: &str| format!("[[steps]]\nname = '{name}'\ncommand = 'c'\n{more}\n");
    let undo = "compensate.command = 'u'";
    let warned = |top: &str, steps: &[String]| -> Vec<String> {
        let folder = TempDir::new().unwrap();
        let text = format!("name = 'x'\n{top}\n[defaults]\nexchange = 'e'\n{}", steps.concat());
        write(folder.path(), "x.toml", &text);
        let found = read(&[folder.path().to_owned()], None);
        let shown = found.files[0].diagnostics.iter().map(|it| {
            assert_eq!((it.severity, it.help.is_empty()), (Severity::Warning, false), "{it:?}");
            format!("{} {}", it.code, &text[it.span.clone()])
        });
        shown.collect()
    };
    let quick = "timeout = '1s'\nretry.attempts = 1";
    assert_eq!(warned("", &[step("a", ""), step("b", undo)]), ["no-compensation 'a'"]);
    assert!(warned("", &[step("a", undo), step("b", "")]).is_empty(), "nothing fails after the last step");
    assert!(warned("", &[step("a", "compensate = false"), step("b", "")]).is_empty());
    assert!(warned("", &[step("a", ""), step("b", "optional = true")]).is_empty());
    let parallel = [step("a", "after = []"), step("b", &format!("after = []\n{undo}"))];
    assert_eq!(warned("", &parallel), ["no-compensation 'a'"]);
    // 30 s, 0.5 s, 30 s, 1 s, 30 s
    assert_eq!(warned("timeout = '91s'", &[step("a", undo)]), ["retry-budget 'a'"]);
    assert!(warned("timeout = '92s'", &[step("a", undo)]).is_empty());
    assert_eq!(warned("timeout = '2s'", &[step("a", &format!("delay = '2s'\n{quick}"))]), ["retry-budget 'a'"]);
    let schema = "input = { properties = { order_id = {}, items = { items = { properties.sku = {} } }, any = {} }, required = ['extra', 'order_id', 'items', 'any'] }";
    let body = |template: &str| [step("a", &format!("body = '{{{{ {template} }}}}'"))];
    assert_eq!(warned(schema, &body("input.ordr_id")), ["unknown-input input.ordr_id"]);
    assert_eq!(warned(schema, &body("input.items[0].sk")), ["unknown-input input.items[0].sk"]);
    for template in
        ["input.order_id", "input.items[0].sku", "input.any.thing", "input.extra", "input.other", "input.items"]
    {
        assert!(warned(schema, &body(template)).is_empty(), "{template}");
    }
    let closed = schema.replace("input = {", "input = { additionalProperties = false,");
    assert_eq!(warned(&closed, &body("input.other | default(1)")), ["unknown-input input.other"]);
}

async fn reloaded(definitions: &Definitions<Shelf>) -> Changes {
    definitions.reload().await.map(|(changes, _)| changes).unwrap_or_else(|error| panic!("{error}: {error:?}"))
}

#[tokio::test]
async fn a_reload_takes_effect_as_a_whole_or_not_at_all() {
    let folder = TempDir::new().unwrap();
    let shelf = Shelf::default();
    let definitions = Definitions::new(folder.path().to_owned(), shelf.clone());
    write(folder.path(), "a.toml", &definition("a", "one"));
    write(folder.path(), "b.toml", &definition("b", "one"));
    assert_eq!(reloaded(&definitions).await, changes(&["a", "b"], &[], &[], &[]));
    write(folder.path(), "a.toml", &definition("a", "two"));
    assert_eq!(reloaded(&definitions).await, changes(&[], &["a"], &[], &["b"]));
    let revision = |name: &str| definitions.current(name).map(|pinned| pinned.revision);
    assert_eq!((revision("a"), revision("b"), revision("c")), (Some(2), Some(1), None));

    // A mistake anywhere, or no store: everything stays.
    write(folder.path(), "b.toml", "name = 'b'");
    write(folder.path(), "c.toml", &definition("c", ""));
    let Err(LoadError::Files(files)) = definitions.reload().await else { panic!("a broken file was loaded") };
    assert_eq!(files.files.iter().filter(|file| !file.diagnostics.is_empty()).count(), 1);
    write(folder.path(), "b.toml", &definition("b", "two"));
    shelf.edit(|content| content.trouble = Some("gone fishing".to_owned()));
    let Err(LoadError::Store(StoreError::Unavailable(_))) = definitions.reload().await else {
        panic!("no store, no error")
    };
    assert_eq!((revision("a"), revision("b"), revision("c")), (Some(2), Some(1), None));
    shelf.edit(|content| content.trouble = None);
    assert_eq!(reloaded(&definitions).await, changes(&["c"], &["b"], &[], &["a"]));

    // The old text is the old revision.
    write(folder.path(), "a.toml", &definition("a", "one"));
    std::fs::remove_file(folder.path().join("c.toml")).unwrap();
    assert_eq!(reloaded(&definitions).await, changes(&[], &["a"], &["c"], &["b"]));
    assert_eq!((revision("a"), revision("b"), revision("c")), (Some(1), Some(2), None));
    assert_eq!(definitions.all().len(), 2);
}

#[tokio::test]
async fn a_saga_keeps_its_revision_whatever_becomes_of_the_file() {
    let folder = TempDir::new().unwrap();
    let shelf = Shelf::default();
    let definitions = Definitions::new(folder.path().to_owned(), shelf.clone());
    write(folder.path(), "a.schema.json", r#"{ "required": ["old"] }"#);
    write(folder.path(), "a.toml", &format!("input = {{ file = 'a.schema.json' }}\n{}", definition("a", "one")));
    reloaded(&definitions).await;
    // The schema belongs to the revision.
    write(folder.path(), "a.schema.json", r#"{ "required": ["new"] }"#);
    assert_eq!(reloaded(&definitions).await, changes(&[], &["a"], &[], &[]));
    std::fs::remove_file(folder.path().join("a.toml")).unwrap();
    reloaded(&definitions).await;
    assert!(definitions.current("a").is_none());
    let required = |pinned: Arc<Pinned>| pinned.definition.input.as_ref().unwrap().source["required"][0].clone();
    assert_eq!(definitions.cached("a", 1).map(required), Some("old".into()));
    // A daemon that starts later has only the store.
    let later = Definitions::new(folder.path().to_owned(), shelf.clone());
    assert!(later.cached("a", 2).is_none());
    assert_eq!(later.pinned("a", 2).await.unwrap().map(required), Some("new".into()));
    assert_eq!(later.pinned("a", 1).await.unwrap().map(required), Some("old".into()));
    assert!(later.cached("a", 2).is_some());
    assert!(later.pinned("a", 3).await.unwrap().is_none());
    shelf.edit(|content| content.trouble = Some("gone fishing".to_owned()));
    assert!(later.pinned("a", 1).await.is_ok(), "what is in memory needs no store");
    assert!(later.pinned("a", 3).await.is_err());
}

#[tokio::test]
async fn what_other_daemons_begin_and_wait_for_is_known_from_the_store_while_it_is_new() {
    const HOUR: i64 = 3_600_000;
    let folders = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let shelf = Shelf::default();
    let [here, there] = folders.each_ref().map(|folder| Definitions::new(folder.path().to_owned(), shelf.clone()));
    let now = system().now();
    shelf.edit(|content| content.kept_at = Some(now));
    let listening = |what: &str| {
        format!("key = '{{{{ input.k }}}}'\n{}{what}", definition("a", ""))
            .replace("name = 'a'\ndescription", "name = 'a'\n\ndescription")
    };
    let start = "[[start]]\nexchange = 'x'\nrouting_key = 'placed'\n";
    let wait = "[[steps]]\nname = 'w'\nwait = { exchange = 'x', routing_key = 'paid', match = 'body.k' }\n";
    write(folders[0].path(), "a.toml", &listening(wait));
    write(folders[1].path(), "a.toml", &listening(wait));
    write(folders[1].path(), "b.toml", &definition("b", ""));
    reloaded(&here).await;
    reloaded(&there).await;
    write(folders[1].path(), "a.toml", &listening(start));
    reloaded(&there).await;

    let event = |routing_key: &str| Event {
        exchange: "x".into(),
        routing_key: routing_key.into(),
        id: None,
        trace: None,
        body: Arc::new(serde_json::json!({ "k": "1" })),
        headers: Arc::new(serde_json::json!({})),
    };
    let elsewhere = here.elsewhere().await.unwrap();
    let begun = elsewhere.subscriptions().concerns(&event("placed"));
    assert!(matches!(begun.as_slice(), [Concern::Start { definition, .. }] if &**definition == "a"), "{begun:?}");
    for (name, begins) in [("a", true), ("b", true), ("c", false)] {
        assert_eq!(elsewhere.begins(name, now), begins, "{name}");
        assert!(!elsewhere.begins(name, Time(now.0 + 2 * HOUR)), "who is behind for that long stays behind");
    }
    // The daemon with the newer one hears what sagas wait for that the other still begins.
    let waits = |definitions: &Definitions<Shelf>| definitions.subscriptions().concerns(&event("paid")).len();
    assert_eq!((waits(&here), waits(&there)), (1, 1));
    let later = Definitions::new(folders[1].path().to_owned(), shelf.clone());
    reloaded(&later).await;
    assert_eq!(waits(&later), 1);
    assert!(!there.elsewhere().await.unwrap().begins("a", now), "it is here");

    // Whoever takes back what it had begins no more of it; nor does one that nobody shares the database with.
    write(folders[1].path(), "a.toml", &listening(wait));
    reloaded(&there).await;
    let elsewhere = there.elsewhere().await.unwrap();
    assert!(!elsewhere.begins("a", now));
    assert_eq!(elsewhere.subscriptions().concerns(&event("placed")), []);
    let alone = Definitions::new(folders[0].path().to_owned(), shelf.clone()).alone(true);
    reloaded(&alone).await;
    assert!(!alone.elsewhere().await.unwrap().begins("a", now));

    // Long after the change nobody begins the old one any more.
    shelf.edit(|content| content.kept_at = Some(Time(now.0 - 2 * HOUR)));
    write(folders[1].path(), "a.toml", &listening(start));
    let later = Definitions::new(folders[1].path().to_owned(), shelf.clone());
    reloaded(&later).await;
    assert_eq!(waits(&later), 0);
}
