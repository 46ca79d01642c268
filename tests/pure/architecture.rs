//! The rules that the source keeps, read off its text: what may name what, and where things are.
//!
//! A rule that is broken says in which line, and what to do instead. An exception has its reason beside it, and one that nobody
//! needs any more is an error too.

mod layers;
mod migrations;

use std::path::Path;
use std::{fmt, fs};

/// A file of Rust, without its comments and its own tests.
pub(super) struct Source {
    /// From the root of the repository, with `/`.
    pub(super) path: String,
    pub(super) first: String,
    /// Line number and text.
    pub(super) lines: Vec<(usize, String)>,
}

/// Where a rule is broken.
pub(super) struct Break {
    pub(super) path: String,
    pub(super) line: usize,
    pub(super) rule: String,
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.rule)
    }
}

impl Source {
    fn read(root: &Path, path: &Path) -> Source {
        let text = fs::read_to_string(path).unwrap();
        let own_tests = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
        let lines = (1..).zip(text[..own_tests].lines().map(str::to_owned));
        let is_code = |line: &str| !line.trim_start().starts_with("//");
        Source {
            path: path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/"),
            first: text.lines().next().unwrap_or_default().to_owned(),
            lines: lines.filter(|(_, line)| is_code(line)).collect(),
        }
    }

    /// The module below the crate's root that it is a part of.
    pub(super) fn module(&self) -> &str {
        let below = self.path.trim_start_matches("src/");
        below.split('/').next().unwrap().trim_end_matches(".rs")
    }

    fn breaks(&self, line: usize, rule: impl Into<String>) -> Break {
        Break { path: self.path.clone(), line, rule: rule.into() }
    }
}

/// Every file below `src/`, but those that are only tests.
pub(super) fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(Source::read(root, &path));
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    assert!(found.len() > 100, "{} files", found.len());
    found
}

/// Whether `line` has `word`, and not only as a part of a longer name.
pub(super) fn names(line: &str, word: &str) -> bool {
    let is_name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (line[..at].chars().next_back(), line[at + word.len()..].chars().next());
        let begins = is_name(word.chars().next()) && is_name(before);
        let goes_on = is_name(word.chars().next_back()) && is_name(after);
        !begins && !goes_on
    })
}

#[track_caller]
pub(super) fn none(breaks: &[Break]) {
    let told: Vec<String> = breaks.iter().map(Break::to_string).collect();
    assert!(told.is_empty(), "\n{}\n", told.join("\n"));
}

/// Where a word may stand though a rule forbids it, and why.
type Exception = (&'static str, &'static str);

/// Looks for `words`, except in the places where they belong, and those with a reason.
fn keep_out(words: &[&str], belongs: impl Fn(&Source) -> bool, exceptions: &[Exception], rule: &str) -> Vec<Break> {
    let (mut breaks, mut needed) = (Vec::new(), Vec::new());
    for source in sources().iter().filter(|source| !belongs(source)) {
        for (number, line) in &source.lines {
            let Some(word) = words.iter().find(|word| names(line, word)) else { continue };
            match exceptions.iter().find(|(place, _)| source.path.starts_with(place)) {
                Some((place, _)) => needed.push(*place),
                None => breaks.push(source.breaks(*number, format!("`{word}`: {rule}"))),
            }
        }
    }
    for (place, reason) in exceptions.iter().filter(|(place, _)| !needed.contains(place)) {
        let rule = format!("has an exception that it does not need ({reason}): take it out of the test");
        breaks.push(Break { path: (*place).to_owned(), line: 0, rule });
    }
    breaks
}

/// What would make a decision depend on more than its arguments.
const IMPURE: [&str; 32] = [
    "std::fs",
    "std::io",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "tokio",
    "async",
    ".await",
    "SystemTime",
    "Instant",
    "Clock",
    "rand",
    "getrandom",
    "now_v1",
    "now_v6",
    "now_v7",
    "new_v4",
    "new_v7",
    "HashMap",
    "HashSet",
    "RandomState",
    "thread_local",
    "tracing",
    "metrics::counter",
    "metrics::histogram",
    "metrics::gauge",
    "print!",
    "println!",
    "eprint!",
    "eprintln!",
    "dbg!",
];

#[test]
fn the_core_is_pure() {
    let exceptions = [("src/core/time.rs", "what the system calls a time is converted, and no clock is read")];
    let elsewhere = |source: &Source| source.module() != "core";
    none(&keep_out(
        &IMPURE,
        elsewhere,
        &exceptions,
        "a decision has no IO, clock, randomness, waiting, logging, nor an order that differs from run to run; \
         what it needs of these is an argument",
    ));
    none(&keep_out(&["SystemTime::now", "Instant::now"], elsewhere, &[], "the core reads no clock"));
}

/// The crates that the core rests on: all of them values and text.
const BELOW_THE_CORE: [&str; 13] = [
    "std",
    "crate",
    "self",
    "super",
    "humantime",
    "indexmap",
    "jsonschema",
    "minijinja",
    "serde",
    "serde_json",
    "thiserror",
    "toml",
    "uuid",
];

#[test]
fn the_core_rests_on_values_alone() {
    let mut breaks = Vec::new();
    for source in sources().iter().filter(|source| source.module() == "core") {
        for (number, line) in &source.lines {
            let used = line.trim_start().trim_start_matches("pub ").strip_prefix("use ").unwrap_or_default();
            let of = used.split("::").next().unwrap_or_default().trim_end_matches(';');
            // A path that begins with a type goes nowhere else.
            let is_crate = of.starts_with(|c: char| c.is_lowercase());
            if is_crate && !BELOW_THE_CORE.contains(&of) {
                breaks.push(source.breaks(*number, format!("`{of}` is nothing that the core may use")));
            }
        }
    }
    none(&breaks);
}

#[test]
fn lapin_is_the_brokers_alone() {
    let exceptions = [
        ("src/bench/", "it measures sagad from outside: what stands beside it must not run on its code"),
        ("src/telemetry.rs", "it names the library, to turn its log down"),
    ];
    let belongs = |source: &Source| source.path.starts_with("src/broker/amqp");
    none(&keep_out(&["lapin"], belongs, &exceptions, "AMQP is spoken in src/broker/amqp; use `broker::message`"));
}

#[test]
fn sqlx_is_the_stores_alone() {
    let exceptions = [
        ("src/bench/database.rs", "it makes a database for a run, and reads what the server says of its own time"),
        ("src/config/check.rs", "it names the library in the example of a log filter"),
    ];
    none(&keep_out(
        &["sqlx"],
        |source| source.module() == "store",
        &exceptions,
        "SQL is in src/store; use `trait Store`",
    ));
}

#[test]
fn http_is_the_apis_alone() {
    let words = ["axum", "hyper", "hyper_util", "hyper_rustls", "http_body_util", "tower_http", "reqwest"];
    let exceptions = [("src/cli/client.rs", "the command line calls the API")];
    none(&keep_out(&words, |source| source.module() == "admin", &exceptions, "HTTP is spoken in src/admin"));
}

#[test]
fn every_file_says_what_it_is() {
    let silent = sources().into_iter().filter(|source| !source.first.starts_with("//! "));
    let rule = "a file begins with `//!` and what it is";
    none(&silent.map(|source| source.breaks(1, rule)).collect::<Vec<_>>());
}

/// The names of headers, as the module that knows them has them.
fn headers() -> Vec<String> {
    let mut headers = Vec::new();
    for source in sources().iter().filter(|source| source.module() == "wire") {
        for (_, line) in source.lines.iter().filter(|(_, line)| line.trim_start().starts_with("pub const ")) {
            headers.extend(line.split_once("&str = ").map(|(_, value)| value.trim_end_matches(';').to_owned()));
        }
    }
    assert!(headers.len() > 10 && headers.iter().any(|header| header == "\"saga-id\""), "{headers:?}");
    headers.push("\"saga-resent\"".to_owned());
    headers
}

#[test]
fn header_names_are_known_to_the_wire_alone() {
    let exceptions = [
        ("src/broker/message.rs", "the broker marks what it sends again, whatever the message is"),
        ("src/broker/amqp/consume.rs", "where one of sagad's own queues gave a message up, it is given its queue back"),
        ("src/core/parse/body.rs", "definitions can't set these"),
        ("src/admin/sagas.rs", "HTTP has headers of the same names"),
        ("src/bench/", "it stands for programs of others, which know them from the documentation"),
    ];
    let headers = headers();
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    none(&keep_out(&headers, |source| source.module() == "wire", &exceptions, "use `wire::header`"));
}

#[test]
fn words_are_told_from_parts_of_words() {
    assert!(names("use tokio::sync;", "tokio") && names("(lapin::Error)", "lapin"));
    assert!(!names("use lapin_pool;", "lapin") && !names("operand", "rand") && !names("my_tokio", "tokio"));
    assert!(names("x.await?", ".await") && names("println!()", "println!") && !names("eprintln!()", "println!"));
}
