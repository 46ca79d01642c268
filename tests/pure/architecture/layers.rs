//! Who may use whom: arrows point down only.

use std::collections::BTreeSet;

use super::{Break, Source, none, sources};

/// The modules from the bottom up, each with those that it may use: none that is above it.
///
/// ```text
///   values     core, and what is told of definitions without running them
///   ends       broker, store: each knows messages and sagas, and neither the other's work
///   corridor   definitions, intake, wire ─> admission, timers, outbox ─> engine
///   outside    admin beside the engine, which it reaches through `intake` alone; daemon lays it all together; cli starts it
/// ```
const LAYERS: [(&str, &[&str]); 37] = [
    ("core", &[]),
    ("clock", &["core"]),
    ("json", &[]),
    ("metrics", &[]),
    ("health", &["metrics"]),
    ("config", &[]),
    ("telemetry", &["config"]),
    ("schema", &[]),
    ("report", &["core"]),
    ("diff", &["core"]),
    ("explain", &["core"]),
    ("graph", &["core"]),
    ("broker", &["clock", "config", "core", "health", "json"]),
    ("store", &["broker", "clock", "core"]),
    ("lint", &["broker", "core"]),
    ("routing", &["broker", "core"]),
    ("pinned", &["core", "store"]),
    ("subscriptions", &["broker", "core", "pinned"]),
    ("definitions", &["broker", "clock", "core", "lint", "pinned", "routing", "store", "subscriptions"]),
    ("intake", &["broker", "core", "store", "subscriptions"]),
    ("wire", &["broker", "core", "intake", "json", "store", "subscriptions"]),
    ("asyncapi", &["broker", "config", "core", "wire"]),
    ("admission", &["definitions", "intake", "store"]),
    ("timers", &["clock", "core", "intake", "store"]),
    ("outbox", &["broker", "clock", "core", "health", "metrics", "store"]),
    ("purge", &["clock", "core", "definitions", "metrics", "store"]),
    (
        "engine",
        &[
            "admission",
            "broker",
            "clock",
            "core",
            "definitions",
            "health",
            "intake",
            "metrics",
            "outbox",
            "store",
            "subscriptions",
            "timers",
            "wire",
        ],
    ),
    (
        "admin",
        &[
            "broker",
            "clock",
            "config",
            "core",
            "definitions",
            "explain",
            "graph",
            "health",
            "intake",
            "json",
            "metrics",
            "report",
            "schema",
            "store",
            "wire",
        ],
    ),
    (
        "daemon",
        &[
            "admin",
            "admission",
            "broker",
            "clock",
            "config",
            "core",
            "definitions",
            "engine",
            "health",
            "intake",
            "metrics",
            "outbox",
            "purge",
            "report",
            "store",
            "subscriptions",
            "timers",
            "wire",
        ],
    ),
    // Beside the daemon: what runs the core, a store or a broker without one.
    ("verify", &["clock", "core", "definitions", "engine", "store"]),
    ("trial", &["core", "store"]),
    ("scenario", &["broker", "core", "definitions", "report", "store", "trial", "wire"]),
    ("explore", &["core", "scenario", "store", "trial"]),
    ("conformance", &["broker", "clock", "config", "core", "wire"]),
    ("bench", &["broker", "clock", "config", "core"]),
    (
        "cli",
        &[
            "asyncapi",
            "bench",
            "broker",
            "config",
            "conformance",
            "core",
            "daemon",
            "definitions",
            "diff",
            "explain",
            "explore",
            "graph",
            "json",
            "report",
            "scenario",
            "schema",
            "store",
            "telemetry",
            "trial",
            "verify",
        ],
    ),
    ("main", &["cli"]),
];

/// The modules of ours that a line names, by their paths from the root of the library, or of the binary.
fn used(line: &str) -> Vec<String> {
    let mut used = Vec::new();
    for root in ["crate::", "sagad::"] {
        for (at, _) in line.match_indices(root) {
            let rest = &line[at + root.len()..];
            let name =
                |text: &str| -> String { text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
            match rest.strip_prefix('{') {
                Some(list) => {
                    let mut depth = 0;
                    let outermost = list.chars().filter(|c| {
                        depth += i32::from(*c == '{') - i32::from(*c == '}');
                        depth == 0
                    });
                    used.extend(outermost.collect::<String>().split(',').map(|part| name(part.trim())));
                }
                None => used.push(name(rest)),
            }
        }
    }
    used.retain(|name| !name.is_empty());
    used
}

/// Lists of imports that go over several lines, in one.
fn statements(source: &Source) -> Vec<(usize, String)> {
    let mut whole: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (number, line) in &source.lines {
        match whole.last_mut() {
            Some((_, last)) if open => last.push_str(line.trim()),
            _ => whole.push((*number, line.clone())),
        }
        let last = whole.last().map_or("", |(_, line)| line);
        let text = last.trim_start().trim_start_matches("pub ");
        open = text.starts_with("use ") && !text.trim_end().ends_with(';');
    }
    whole
}

#[test]
fn arrows_point_down_only() {
    let mut breaks = Vec::new();
    for (at, (module, uses)) in LAYERS.iter().enumerate() {
        for above in uses.iter().filter(|used| !LAYERS[..at].iter().any(|(lower, _)| lower == *used)) {
            let rule = format!("the table lets `{module}` use `{above}`, which is not below it");
            breaks.push(Break { path: "tests/pure/architecture/layers.rs".to_owned(), line: 0, rule });
        }
    }
    let mut seen = BTreeSet::new();
    for source in sources().iter().filter(|source| source.path != "src/lib.rs") {
        let module = source.module();
        seen.insert(module.to_owned());
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else {
            breaks.push(source.breaks(1, format!("`{module}` has no place in the table of layers: give it one")));
            continue;
        };
        for (number, line) in statements(source) {
            for used in used(&line).iter().filter(|used| *used != module && !allowed.contains(&used.as_str())) {
                let rule = match allowed {
                    [] => format!("`{module}` uses `{used}`, and may use nothing of ours"),
                    _ => format!("`{module}` uses `{used}`; it may use {}", allowed.join(", ")),
                };
                breaks.push(source.breaks(number, rule));
            }
        }
    }
    for (module, _) in LAYERS.iter().filter(|(module, _)| !seen.contains(*module)) {
        let rule = format!("there is no `{module}` any more: take it out of the table");
        breaks.push(Break { path: "tests/pure/architecture/layers.rs".to_owned(), line: 0, rule });
    }
    none(&breaks);
}

#[test]
fn imports_are_read_whatever_their_form() {
    assert_eq!(used("use crate::store::{Batch, Store};"), ["store"]);
    assert_eq!(used("use crate::{lint, routing::{a, b}, wire};"), ["lint", "routing", "wire"]);
    assert_eq!(used("let x: crate::core::id::SagaId = sagad::json::read();"), ["core", "json"]);
    assert!(used("use super::Engine;").is_empty());
}
