//! `docs/guarantees.md` promises nothing that no test shows.

use std::fs;
use std::path::{Path, PathBuf};

/// A numbered promise.
struct Promise {
    line: usize,
    number: usize,
    /// The tests that it names.
    tests: Vec<String>,
}

/// The promises of a page, in order.
fn promises(page: &str) -> Vec<Promise> {
    let mut promises: Vec<Promise> = Vec::new();
    let mut within = false;
    for (line, text) in (1..).zip(page.lines()) {
        let number = text.split_once(". **").and_then(|(number, _)| number.parse().ok());
        if let Some(number) = number {
            promises.push(Promise { line, number, tests: Vec::new() });
            within = true;
        }
        within &= number.is_some() || text.starts_with("  ");
        if let Some(promise) = promises.last_mut().filter(|_| within) {
            let quoted = text.split('`').skip(1).step_by(2);
            promise.tests.extend(quoted.filter(|name| name.contains("::")).map(str::to_owned));
        }
    }
    promises
}

/// The databases, and memory, that the tests of a store run over: modules that a macro makes.
const STORES: [&str; 3] = ["sqlite", "postgres", "memory"];

/// Whether cargo knows a test of this name.
fn exists(name: &str) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut modules: Vec<&str> = name.split("::").collect();
    let Some(function) = modules.pop() else { return false };
    let over = modules.pop_if(|last| STORES.contains(last)).is_some();
    let beside_the_code = modules.pop_if(|last| *last == "tests").is_some();
    let folders: &[&str] = if beside_the_code { &["src"] } else { &["tests/pure", "tests/live"] };
    folders.iter().any(|folder| {
        let module: PathBuf = std::iter::once(*folder).chain(modules.iter().copied()).collect();
        let files = [root.join(&module).with_extension("rs"), root.join(&module).join("mod.rs")];
        let text = files.iter().find_map(|file| fs::read_to_string(file).ok()).unwrap_or_default();
        if over { is_listed(&text, function) } else { is_test(&text, function) }
    })
}

/// Whether a file has a function of this name with the attribute of a test.
fn is_test(text: &str, function: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_it = |line: &&str| line.contains(&format!("fn {function}("));
    let Some(at) = lines.iter().position(is_it) else { return false };
    let above = lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"));
    above.into_iter().any(|line| *line == "#[test]" || line.starts_with("#[tokio::test"))
}

/// Whether a file lists a function of this name to be run over each store.
fn is_listed(text: &str, function: &str) -> bool {
    let lists = text.split("over_all!(").skip(1).chain(text.split("over_both!(").skip(1));
    let listed = lists.filter_map(|rest| rest.split_once(");")).flat_map(|(list, _)| list.split([',', ';', ':']));
    let is_there = listed.map(str::trim).any(|name| name == function);
    is_there && text.contains(&format!("async fn {function}"))
}

#[test]
fn every_promise_has_a_test_and_every_test_is_there() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guarantees.md");
    let promises = promises(&fs::read_to_string(page).unwrap());
    let mut wrong = Vec::new();
    for (expected, promise) in (1..).zip(&promises) {
        let mut tell = |what: String| wrong.push(format!("docs/guarantees.md:{}: {what}", promise.line));
        let number = promise.number;
        if number != expected {
            tell(format!("promise {number} is the {expected}. of them"));
        }
        if promise.tests.is_empty() {
            tell(format!("promise {number} has no test: name one that fails if it is broken"));
        }
        for test in promise.tests.iter().filter(|test| !exists(test)) {
            tell(format!("promise {number} names `{test}`, and there is no such test"));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    assert!(promises.len() > 50, "only {} promises were found", promises.len());
}

#[test]
fn a_test_that_is_not_there_is_missed() {
    assert!(exists("rules::duplicates_change_nothing"));
    assert!(exists("wire::signature::tests::never_panics_on_what_others_made"));
    assert!(exists("store::purge::postgres::idempotency_keys_are_answered_for_ever"));
    let none = [
        "rules::duplicates_change",
        "rules::sequence",
        "duplicates_change_nothing",
        "scenes::duplicates_change_nothing",
        "store::purge::sqlite::ended",
        "store::purge::idempotency_keys_are_answered_for_ever",
    ];
    for name in none {
        assert!(!exists(name), "{name}");
    }
    let page = "1. **All.** More\n   `a::b`, `c`\n\nText `d::e`.\n2. **None.**\n";
    let found: Vec<(usize, Vec<String>)> = promises(page).into_iter().map(|it| (it.number, it.tests)).collect();
    assert_eq!(found, [(1, vec!["a::b".to_owned()]), (2, Vec::new())]);
}
