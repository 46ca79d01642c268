//! DOT, for Graphviz.

use std::fmt::Write;

use super::plan::{Kind, Node, Plan};

/// Writes it.
pub(super) fn write(plan: &Plan) -> String {
    let mut head = vec![plan.name.as_str()];
    head.extend(plan.description.as_deref());
    head.extend(plan.facts.iter().map(String::as_str));
    let mut text = format!(
        "digraph {} {{\n  graph [label={}, labelloc=t, rankdir=TB, fontname=\"sans-serif\"]\n  \
         node [fontname=\"sans-serif\", fontsize=11]\n  edge [fontname=\"sans-serif\", fontsize=10]\n",
        quoted(&[&plan.name]),
        quoted(&head)
    );
    let mut start = vec!["start"];
    start.extend(plan.starts.iter().map(String::as_str));
    // Writing to a string can't fail.
    let _ = writeln!(
        text,
        "  \"(start)\" [label={}, shape=oval]\n  \"(end)\" [label=\"completed\", shape=oval]",
        quoted(&start)
    );
    for node in &plan.nodes {
        write_step(&mut text, node);
    }
    for step in plan.first() {
        let _ = writeln!(text, "  \"(start)\" -> {}", quoted(&[&plan.nodes[step].name]));
    }
    for (from, to) in &plan.edges {
        let (from, to) = (&plan.nodes[*from], &plan.nodes[*to]);
        let label = if from.pivot { " [label=\"point of no return\", color=\"#c2212e\"]" } else { "" };
        let _ = writeln!(text, "  {} -> {}{label}", quoted(&[&from.name]), quoted(&[&to.name]));
    }
    for step in plan.last() {
        let _ = writeln!(text, "  {} -> \"(end)\"", quoted(&[&plan.nodes[step].name]));
    }
    text.push_str("}\n");
    text
}

fn write_step(text: &mut String, node: &Node) {
    let (shape, colour) = match node.kind {
        Kind::Command => ("box", "#2460a7"),
        Kind::Publish => ("cds", "#0d7566"),
        Kind::Wait => ("hexagon", "#6a4bbc"),
        Kind::Saga => ("component", "#97306f"),
        Kind::Sleep => ("ellipse", "#5a6673"),
    };
    let when = node.when.as_ref().map(|when| format!("if {when}"));
    let does = format!("{} {}", node.kind.word(), node.does);
    let mut lines: Vec<&str> = when.iter().map(String::as_str).collect();
    lines.extend([node.name.as_str(), &does]);
    lines.extend(node.notes.iter().map(String::as_str));
    let style = if node.optional { ", style=dashed" } else { "" };
    let sides = if node.many { ", peripheries=2" } else { "" };
    let (colour, width) = if node.pivot { ("#c2212e", ", penwidth=3") } else { (colour, "") };
    let name = quoted(&[&node.name]);
    let _ =
        writeln!(text, "  {name} [label={}, shape={shape}, color=\"{colour}\"{style}{sides}{width}]", quoted(&lines));
    if let Some(undo) = &node.undo {
        let mut lines = vec![undo.does.as_str()];
        lines.extend(undo.notes.iter().map(String::as_str));
        let undoing = quoted(&[&format!("(undo of {})", node.name)]);
        let _ = writeln!(
            text,
            "  {undoing} [label={}, shape=box, style=dashed, color=\"#b8560c\"]\n  {name} -> {undoing} [style=dotted, arrowhead=none, color=\"#b8560c\"]\n  \
             {{ rank=same; {name}; {undoing} }}",
            quoted(&lines)
        );
    }
}

/// A string of several lines.
fn quoted(lines: &[&str]) -> String {
    let escaped = |line: &&str| line.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", lines.iter().map(escaped).collect::<Vec<_>>().join("\\n"))
}
