//! Mermaid: a flowchart for Markdown.

use std::fmt::Write;

use super::plan::{Kind, Node, Plan};

/// Writes it.
pub(super) fn write(plan: &Plan) -> String {
    let mut text = format!("---\ntitle: {}\n---\nflowchart TB\n", quoted(&format!("Saga {}", plan.name)));
    if let Some(description) = &plan.description {
        // Nothing ends such a line but its end.
        let _ = writeln!(text, "    accDescr: {}", label(&[description]));
    }
    let start: Vec<&str> = std::iter::once("start").chain(plan.starts.iter().map(String::as_str)).collect();
    // Writing to a string can't fail.
    let _ = writeln!(text, "    start([\"{}\"]):::edge", label(&start));
    for (at, node) in plan.nodes.iter().enumerate() {
        let _ = writeln!(text, "    s{at}{}:::{}", shaped(node), class(node));
        if let Some(undo) = &node.undo {
            let notes = undo.notes.iter().map(String::as_str);
            let lines: Vec<&str> = std::iter::once(undo.does.as_str()).chain(notes).collect();
            let _ = writeln!(text, "    u{at}[\"{}\"]:::undo\n    s{at} -.-|undo| u{at}", label(&lines));
        }
    }
    text.push_str("    done([\"completed\"]):::edge\n");
    plan.first().iter().for_each(|step| text.push_str(&format!("    start --> s{step}\n")));
    for (from, to) in &plan.edges {
        let word = if plan.nodes[*from].pivot { "|point of no return| " } else { "" };
        let _ = writeln!(text, "    s{from} --> {word}s{to}");
    }
    plan.last().iter().for_each(|step| text.push_str(&format!("    s{step} --> done\n")));
    text.push_str(CLASSES);
    text
}

/// Mid-tones, which stand out from light and from dark.
const CLASSES: &str = "    classDef edge stroke-width:1px
    classDef command stroke:#3a7bc8
    classDef publish stroke:#149482
    classDef wait stroke:#8566d6
    classDef saga stroke:#b9458c
    classDef sleep stroke:#7a8795
    classDef undo stroke:#d0701c,stroke-dasharray:5 3
    classDef optional stroke-dasharray:6 4
    classDef pivot stroke:#d63a46,stroke-width:3px
";

fn shaped(node: &Node) -> String {
    let when = node.when.as_ref().map(|when| format!("if {when}"));
    let many = if node.many { "⧉ " } else { "" };
    let name = format!("{many}{}", node.name);
    let does = format!("{} {}", node.kind.word(), node.does);
    let mut lines: Vec<&str> = when.iter().map(String::as_str).collect();
    lines.extend([name.as_str(), &does]);
    lines.extend(node.notes.iter().map(String::as_str));
    let text = label(&lines);
    match node.kind {
        Kind::Command => format!("[\"{text}\"]"),
        Kind::Publish => format!(">\"{text}\"]"),
        Kind::Wait => format!("{{{{\"{text}\"}}}}"),
        Kind::Saga => format!("[[\"{text}\"]]"),
        Kind::Sleep => format!("([\"{text}\"])"),
    }
}

fn class(node: &Node) -> &'static str {
    match (node.pivot, node.optional) {
        (true, _) => "pivot",
        (_, true) => "optional",
        _ => node.kind.word(),
    }
}

/// Lines of a label: letters and digits as they are, and everything that Mermaid, Markdown or HTML might read by its number.
fn label(lines: &[&str]) -> String {
    let escaped = |line: &&str| {
        let mut text = String::new();
        for letter in line.chars() {
            match letter {
                ' ' | '.' | ',' | '_' | ':' | '-' | '(' | ')' | '/' | '⧉' => text.push(letter),
                letter if letter.is_alphanumeric() => text.push(letter),
                letter => {
                    let _ = write!(text, "#{};", u32::from(letter));
                }
            }
        }
        text
    };
    lines.iter().map(escaped).collect::<Vec<_>>().join("<br/>")
}

/// A string for YAML. Names of sagas have nothing to escape.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace(['"', '\\'], "'"))
}
