//! Comparing two versions of a definition.

use std::process::Command;

use proptest::prelude::*;
use sagad::core::definition::Definition;
use sagad::diff::{Applies, Diff};

use crate::play::definition;
use crate::shape::Shape;

const BASE: &str = r#"name = "order"
key = "{{ input.id }}"
max_running = 5
[defaults]
exchange = "shop"
[input]
required = ["id"]
[[start]]
exchange = "events"
routing_key = "placed"
[[steps]]
name = "pay"
command = "pay.do"
body = { id = "{{ input.id }}", amount = "{{ input.amount }}" }
compensate.command = "pay.undo"
[[steps]]
name = "ship"
command = "ship.do"
compensate = false
[output]
id = "{{ steps.pay.reply.id }}"
"#;

/// Each change as `step.key`, with `!` where it can break something and `now` where it is at once.
fn changes(old: &Definition, new: &Definition) -> Vec<String> {
    let shown = Diff::new(old, new).changes.into_iter().map(|change| {
        let parts: Vec<String> = change.step.into_iter().chain(change.key).collect();
        let mark = if change.breaks.is_some() { "!" } else { "" };
        let now = if change.applies == Applies::AtOnce { " now" } else { "" };
        format!("{}{mark}{now}", parts.join("."))
    });
    shown.collect()
}

#[track_caller]
fn changed(from: &str, to: &str) -> Vec<String> {
    assert!(BASE.contains(from), "{from:?} is not there");
    changes(&definition(BASE), &definition(&BASE.replace(from, to)))
}

#[test]
fn each_change_says_for_whom_it_is() {
    let none: [&str; 0] = [];
    assert_eq!(changed("name = \"pay\"", "name = \"pay\" # the same"), none);
    assert_eq!(changed("compensate = false\n", "compensate = false\ntimeout = '30s'\n"), none, "that is the default");
    assert_eq!(changed("max_running = 5", "max_running = 6"), ["max_running now"]);
    assert_eq!(changed("max_running = 5", "max_running = 5\nretention = '30d'"), ["retention now"]);
    assert_eq!(changed("routing_key = \"placed\"", "routing_key = \"order.placed\""), ["start! now"]);
    assert_eq!(changed("{{ input.id }}\"\nmax", "{{ input.number }}\"\nmax"), ["key!"]);
    assert_eq!(changed("required = [\"id\"]", "required = [\"id\", \"amount\"]"), ["input!"]);
    assert_eq!(changed("required = [\"id\"]", "required = []"), ["input"]);
    assert_eq!(changed("id = \"{{ steps.pay.reply.id }}\"", "ref = \"{{ steps.pay.reply.id }}\""), ["output!"]);
    assert_eq!(changed("[output]\n", "[output]\nmore = 1\n"), ["output"], "more harms nobody");
    assert_eq!(changed("amount = \"{{ input.amount }}\"", "amount = 1"), ["pay.body!"]);
    assert_eq!(
        changed("amount = \"{{ input.amount }}\" }", "amount = \"{{ input.amount }}\", more = 1 }"),
        ["pay.body"]
    );
    assert_eq!(changed("command = \"ship.do\"", "command = \"ship.do\"\nretry.attempts = 9"), ["ship.retry"]);
    assert_eq!(
        changed("command = \"ship.do\"", "saga = \"shipment\""),
        ["ship.does!", "ship.exchange!", "ship.timeout", "ship.retry", "ship.expires", "ship.on_timeout"]
    );
    assert_eq!(changed("compensate = false", "compensate = false\npivot = true"), ["ship.pivot!"]);
    assert_eq!(changed("name = \"ship\"", "name = \"ship\"\nafter = []"), ["ship.after"]);
    assert_eq!(
        changed("exchange = \"shop\"", "exchange = \"mall\""),
        ["pay.exchange!", "pay.compensate.exchange!", "ship.exchange!"]
    );
    assert_eq!(changed("name = \"order\"", "name = \"orders\""), ["name!"]);
    assert_eq!(changed("name = \"ship\"", "name = \"send\""), ["send", "ship!"], "one is new, the other is gone");
}

#[test]
fn participants_are_told_what_is_new_and_what_is_gone() {
    let (old, new) = (definition(BASE), definition(&BASE.replace("pay.undo", "pay.refund")));
    let diff = Diff::new(&old, &new);
    let keys = |messages: &[sagad::diff::Message]| messages.iter().map(|it| it.routing_key.clone()).collect::<Vec<_>>();
    assert_eq!((keys(&diff.sent), keys(&diff.no_longer_sent)), (vec!["pay.refund".into()], vec!["pay.undo".into()]));
}

proptest! {
    #[test]
    fn a_definition_does_not_differ_from_itself_and_two_differ_both_ways(one in Shape::any(), other in Shape::any()) {
        let (one, other) = (definition(&one.toml()), definition(&other.toml()));
        prop_assert!(Diff::new(&one, &one).is_empty());
        let (there, back) = (Diff::new(&one, &other), Diff::new(&other, &one));
        prop_assert_eq!(there.is_empty(), back.is_empty());
        prop_assert_eq!(there.changes.len(), back.changes.len());
        prop_assert_eq!((there.sent, there.no_longer_sent), (back.no_longer_sent, back.sent));
    }
}

#[test]
fn the_command_says_it_in_words_in_json_and_by_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let old = file("old.toml", BASE);
    let new = file("new.toml", &BASE.replace("max_running = 5", "max_running = 6").replace("pay.undo", "pay.refund"));
    let broken = file("broken.toml", "name = 1");
    let run = |arguments: &[&std::path::Path], json: bool| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sagad"));
        command.arg("diff").args(arguments).args(json.then_some("--json"));
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(run(&[&old, &old], false), (Some(0), "order: no difference\n".into(), String::new()));
    let (code, words, errors) = run(&[&old, &new], false);
    assert_eq!((code, errors.as_str()), (Some(1), ""));
    let expected = "order\n\nFor new sagas; those under way keep the revision they began with:\n    pay: compensate pay.undo → pay.refund\n\n\
                    At once, for sagas under way too:\n    max_running 5 → 6\n\n\
                    For the teams of participants:\n  + pay.refund on exchange shop\n  - pay.undo on exchange shop: only sagas under way send it\n";
    assert_eq!(words, expected);
    let (code, json, _) = run(&[&old, &new], true);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["changes"][0]["applies"]), (Some(1), &"at_once".into()));
    let (code, _, errors) = run(&[&old, &broken], false);
    assert_eq!(code, Some(2));
    assert!(errors.contains("broken.toml can't be compared"), "{errors}");
    assert_eq!(run(&[&old, &folder.path().join("none.toml")], false).0, Some(2));
}
