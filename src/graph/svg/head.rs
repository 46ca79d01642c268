//! What is around the picture: title and facts above it, the legend below.

use std::fmt::Write;

use super::super::plan::{Kind, Plan};
use super::super::text::{Face, width, wrapped, xml};
use super::card::{Shape, icon};
use super::{NO_RETURN, meaning};

/// Title, description and what holds of the whole saga.
pub(super) struct Head {
    lines: Vec<(Face, String)>,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Head {
    pub(super) fn new(plan: &Plan, most: f64) -> Head {
        let mut lines = Vec::new();
        let mut add =
            |face, text: &str| lines.extend(wrapped(text, face, most, 8).into_iter().map(|line| (face, line)));
        add(Face::Title, &plan.name);
        add(Face::Name, plan.description.as_deref().unwrap_or_default());
        add(Face::Small, &plan.facts.join("  ·  "));
        let wide = lines.iter().map(|(face, line)| width(line, *face)).fold(0.0, f64::max);
        let height = lines.iter().map(|(face, _)| face.leading()).sum::<f64>() + 30.0;
        Head { lines, width: wide, height }
    }

    pub(super) fn write(&self, svg: &mut String) {
        let mut y = 0.0;
        for (face, line) in &self.lines {
            y += face.leading();
            let plain = if *face == Face::Name { " description" } else { "" };
            let baseline = y - (face.leading() - face.size()) - 2.0;
            let _ = writeln!(
                svg,
                "<text class=\"{}{plain}\" x=\"0\" y=\"{baseline:.1}\">{}</text>",
                face.class(),
                xml(line)
            );
        }
    }
}

/// What the shapes and lines of this picture mean.
pub(super) struct Legend {
    /// Where each is, with its drawing and its word.
    items: Vec<(f64, f64, String, &'static str)>,
    pub(super) width: f64,
    pub(super) height: f64,
}

/// Room for a drawing, and for a line of the legend.
const SIGN: f64 = 42.0;
const LINE: f64 = 26.0;
const ABOVE: f64 = 40.0;

impl Legend {
    pub(super) fn new(plan: &Plan, most: f64) -> Legend {
        let mut signs: Vec<(String, &'static str)> = Vec::new();
        let mut kinds: Vec<Kind> = plan.nodes.iter().map(|node| node.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        for kind in kinds {
            let sign = format!(
                "<path class=\"icon {}\" transform=\"translate(6 -12)\" d=\"{}\"/>",
                kind.word(),
                icon(Shape::Step(kind))
            );
            signs.push((sign, meaning(kind)));
        }
        let any = |is: fn(&super::super::plan::Node) -> bool| plan.nodes.iter().any(is);
        let line = |class: &str| format!("<path class=\"{class}\" d=\"M2 -4 H28\"/>");
        let boxed = |class: &str| format!("<path class=\"{class}\" d=\"M3 -11 H27 V2 H3 Z\"/>");
        signs.push((line("ahead"), "then"));
        if any(|node| node.undo.is_some()) {
            signs.push((line("back"), "the way back: undone in reverse where a step fails"));
        }
        if any(|node| node.when.is_some()) {
            signs.push((boxed("condition"), "only if; else it is skipped"));
        }
        if any(|node| node.optional) {
            signs.push((boxed("card command optional"), "optional: its failure stops nothing"));
        }
        if any(|node| node.many) {
            let behind = "<path class=\"card command\" d=\"M8 -8 H32 V5 H8 Z\"/>";
            signs.push((format!("{behind}{}", boxed("card command")), "once for each element of a list"));
        }
        if any(|node| node.pivot) {
            signs.push((line("pivot-line"), NO_RETURN));
        }
        let (mut x, mut y, mut wide) = (0.0, ABOVE, 0.0_f64);
        let mut items = Vec::with_capacity(signs.len());
        for (sign, word) in signs {
            let room = SIGN + width(word, Face::Small);
            if x > 0.0 && x + room > most {
                (x, y) = (0.0, y + LINE);
            }
            items.push((x, y, sign, word));
            wide = wide.max(x + room);
            x += room + 26.0;
        }
        Legend { items, width: wide, height: y + 8.0 }
    }

    pub(super) fn write(&self, svg: &mut String) {
        for (x, y, sign, word) in &self.items {
            let _ = writeln!(
                svg,
                "<g transform=\"translate({x:.1} {y:.1})\">{sign}<text class=\"small\" x=\"{SIGN}\" y=\"0\">{word}</text></g>"
            );
        }
    }
}

/// The picture, for who can't see it.
pub(super) fn in_words(plan: &Plan) -> String {
    let mut words = plan.description.clone().map_or(String::new(), |text| format!("{text}. "));
    let mut before = vec![Vec::new(); plan.nodes.len()];
    plan.edges.iter().for_each(|(from, to)| before[*to].push(plan.nodes[*from].name.as_str()));
    for (node, before) in plan.nodes.iter().zip(before) {
        let after = if before.is_empty() { "at the start".to_owned() } else { format!("after {}", before.join(", ")) };
        let _ = write!(words, "{}, {after}: {} {}", node.name, node.kind.word(), node.does);
        if let Some(when) = &node.when {
            let _ = write!(words, ", if {when}");
        }
        if let Some(undo) = &node.undo {
            let _ = write!(words, ", undone by {}", undo.does);
        }
        words.push_str(if node.pivot { ", point of no return. " } else { ". " });
    }
    words.trim_end().to_owned()
}
