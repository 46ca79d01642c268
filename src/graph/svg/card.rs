//! Cards: the box of a step or an undo with its text.

use std::fmt::Write;

use super::super::plan::{Kind, Node, Plan, Undo};
use super::super::text::{Face, width, wrapped, xml};

/// Left of the text, where the icon is; right of it; above and below it.
const BEFORE: f64 = 44.0;
const AFTER: f64 = 26.0;
const INSIDE: f64 = 12.0;
/// The shortest and the longest lines.
const NARROWEST: f64 = 110.0;
const WIDEST: f64 = 260.0;
const WIDEST_UNDO: f64 = 210.0;
/// How far the cards of a stack stick out.
const STACK: f64 = 5.0;

/// What a card looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Step(Kind),
    Undo,
    Start,
    End,
    Undone,
}

/// A box with text in it.
pub(super) struct Card {
    shape: Shape,
    lines: Vec<(Face, String)>,
    /// The condition on top of it.
    when: Option<String>,
    when_lines: Vec<String>,
    optional: bool,
    many: bool,
    pivot: bool,
    pub(super) width: f64,
    /// Of the condition.
    pub(super) above: f64,
    /// Everything that it says, without what a card has no room for.
    pub(super) in_full: String,
}

impl Card {
    pub(super) fn of_step(node: &Node) -> Card {
        let mut lines = Vec::new();
        let mut add = |face, text: &str, most| {
            lines.extend(wrapped(text, face, WIDEST, most).into_iter().map(|line| (face, line)))
        };
        add(Face::Name, &node.name, 4);
        add(Face::Code, &node.does, 4);
        node.notes.iter().for_each(|note| add(Face::Small, note, 3));
        let said = [node.kind.word(), &node.does].into_iter().chain(node.notes.iter().map(String::as_str));
        let when = node.when.as_ref().map(|when| format!(", if {when}")).unwrap_or_default();
        let pivot = if node.pivot { ", point of no return" } else { "" };
        let in_full = format!("{}: {}{when}{pivot}", node.name, said.collect::<Vec<_>>().join(", "));
        Card {
            when: node.when.clone(),
            optional: node.optional,
            many: node.many,
            pivot: node.pivot,
            ..Card::new(Shape::Step(node.kind), lines, in_full)
        }
    }

    pub(super) fn of_undo(undo: &Undo) -> Card {
        let mut lines = Vec::new();
        let mut add = |face, text: &str, most| {
            lines.extend(wrapped(text, face, WIDEST_UNDO, most).into_iter().map(|line| (face, line)))
        };
        add(Face::Code, &undo.does, 4);
        undo.notes.iter().for_each(|note| add(Face::Small, note, 3));
        let said = std::iter::once(undo.does.as_str()).chain(undo.notes.iter().map(String::as_str));
        let in_full = format!("undo: {}", said.collect::<Vec<_>>().join(", "));
        Card::new(Shape::Undo, lines, in_full)
    }

    pub(super) fn start(plan: &Plan) -> Card {
        let mut lines = vec![(Face::Name, "start".to_owned())];
        for start in &plan.starts {
            lines.extend(
                wrapped(&format!("or {start}"), Face::Small, WIDEST, 3).into_iter().map(|line| (Face::Small, line)),
            );
        }
        Card::new(Shape::Start, lines, "start".to_owned())
    }

    pub(super) fn end(word: &str, shape: Shape) -> Card {
        Card::new(shape, vec![(Face::Name, word.to_owned())], word.to_owned())
    }

    fn new(shape: Shape, lines: Vec<(Face, String)>, in_full: String) -> Card {
        let text = lines.iter().map(|(face, line)| width(line, *face)).fold(NARROWEST, f64::max);
        let (when, when_lines) = (None, Vec::new());
        let (optional, many, pivot, above) = (false, false, false, 0.0);
        Card { shape, lines, when, when_lines, optional, many, pivot, width: BEFORE + text + AFTER, above, in_full }
    }

    /// Makes it as wide as the others.
    pub(super) fn stretch(&mut self, width: f64) {
        self.width = width;
        if let Some(when) = &self.when {
            self.when_lines = wrapped(&format!("if {when}"), Face::Code, width - 36.0, 4);
            self.above = self.when_lines.len() as f64 * Face::Code.leading() + 10.0;
        }
    }

    /// With all that belongs to it.
    pub(super) fn height(&self) -> f64 {
        self.above + self.body() + if self.many { 2.0 * STACK } else { 0.0 }
    }

    fn body(&self) -> f64 {
        self.lines.iter().map(|(face, _)| face.leading()).sum::<f64>() + 2.0 * INSIDE
    }

    /// Draws it with its upper left corner, that of its condition, here.
    pub(super) fn write(&self, svg: &mut String, x: f64, y: f64) {
        self.write_condition(svg, x, y);
        let y = y + self.above;
        let height = self.body();
        let mut class = self.class().to_owned();
        class.push_str(if self.optional { " optional" } else { "" });
        class.push_str(if self.pivot { " pivot" } else { "" });
        for behind in (1..=if self.many { 2 } else { 0 }).rev() {
            let by = f64::from(behind) * STACK;
            let _ = writeln!(svg, "<path class=\"card {class}\" d=\"{}\"/>", self.outline(x + by, y + by, height));
        }
        let _ = writeln!(svg, "<path class=\"card {class}\" d=\"{}\"/>", self.outline(x, y, height));
        if self.shape == Shape::Step(Kind::Saga) {
            let (left, right, bottom) = (x + 7.0, x + self.width - 7.0, y + height);
            let _ = writeln!(
                svg,
                "<path class=\"line {class}\" d=\"M{left:.1} {y:.1} V{bottom:.1} M{right:.1} {y:.1} V{bottom:.1}\"/>"
            );
        }
        let _ = writeln!(
            svg,
            "<path class=\"icon {class}\" transform=\"translate({:.1} {:.1})\" d=\"{}\"/>",
            x + 18.0,
            y + INSIDE + 2.0,
            icon(self.shape)
        );
        let mut baseline = y + INSIDE;
        for (face, line) in &self.lines {
            baseline += face.leading();
            let drop = face.leading() - face.size();
            let _ = writeln!(
                svg,
                "<text class=\"{}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                face.class(),
                x + BEFORE,
                baseline - drop,
                xml(line)
            );
        }
    }

    #[cfg(test)]
    pub(super) fn holds_its_text(&self) -> bool {
        let fits = |line: &str, face, inside: f64| width(line, face) <= self.width - inside + 0.01;
        self.lines.iter().all(|(face, line)| fits(line, *face, BEFORE + AFTER))
            && self.when_lines.iter().all(|line| fits(line, Face::Code, 36.0))
    }

    fn write_condition(&self, svg: &mut String, x: f64, y: f64) {
        if self.when_lines.is_empty() {
            return;
        }
        let (left, right, bottom) = (x + 10.0, x + self.width - 10.0, y + self.above);
        let _ = writeln!(
            svg,
            "<path class=\"condition\" d=\"M{left:.1} {bottom:.1} V{:.1} Q{left:.1} {y:.1} {:.1} {y:.1} H{:.1} Q{right:.1} {y:.1} {right:.1} {:.1} V{bottom:.1} Z\"/>",
            y + 8.0,
            left + 8.0,
            right - 8.0,
            y + 8.0
        );
        for (at, line) in self.when_lines.iter().enumerate() {
            let baseline = y + 5.0 + (at as f64 + 1.0) * Face::Code.leading() - 5.0;
            let _ =
                writeln!(svg, "<text class=\"code\" x=\"{:.1}\" y=\"{baseline:.1}\">{}</text>", x + 18.0, xml(line));
        }
    }

    fn class(&self) -> &'static str {
        match self.shape {
            Shape::Step(kind) => kind.word(),
            Shape::Undo | Shape::Undone => "undoing",
            Shape::Start | Shape::End => "edge",
        }
    }

    fn outline(&self, x: f64, y: f64, height: f64) -> String {
        outline(self.shape, x, y, self.width, height)
    }
}

/// Each kind has a shape of its own: colours are not for everyone.
fn outline(shape: Shape, x: f64, y: f64, width: f64, height: f64) -> String {
    let (right, bottom, middle) = (x + width, y + height, y + height / 2.0);
    match shape {
        // Pointed: it goes out.
        Shape::Step(Kind::Publish) => {
            let edge = right - 16.0;
            format!("M{x:.1} {y:.1} H{edge:.1} L{right:.1} {middle:.1} L{edge:.1} {bottom:.1} H{x:.1} Z")
        }
        // Notched: something comes in.
        Shape::Step(Kind::Wait) => {
            let notch = x + 13.0;
            format!("M{x:.1} {y:.1} H{right:.1} V{bottom:.1} H{x:.1} L{notch:.1} {middle:.1} Z")
        }
        Shape::Step(Kind::Saga) => format!("M{x:.1} {y:.1} H{right:.1} V{bottom:.1} H{x:.1} Z"),
        Shape::Step(Kind::Sleep) | Shape::Start | Shape::End | Shape::Undone => rounded(x, y, width, height, 20.0),
        Shape::Step(Kind::Command) | Shape::Undo => rounded(x, y, width, height, 7.0),
    }
}

fn rounded(x: f64, y: f64, width: f64, height: f64, radius: f64) -> String {
    let r = radius.min(height / 2.0);
    let (h, v) = (width - 2.0 * r, height - 2.0 * r);
    format!(
        "M{:.1} {y:.1} h{h:.1} a{r} {r} 0 0 1 {r} {r} v{v:.1} a{r} {r} 0 0 1 -{r} {r} h-{h:.1} a{r} {r} 0 0 1 -{r} -{r} v-{v:.1} a{r} {r} 0 0 1 {r} -{r} Z",
        x + r
    )
}

/// 16 pixels square.
pub(super) fn icon(shape: Shape) -> &'static str {
    match shape {
        // An envelope.
        Shape::Step(Kind::Command) => "M1 3 H15 V13 H1 Z M1 3.5 L8 9 L15 3.5",
        // A source of waves.
        Shape::Step(Kind::Publish) => {
            "M8 7 a1 1 0 1 0 .01 0 Z M4.8 11.2 a4.5 4.5 0 0 1 0 -6.4 M11.2 4.8 a4.5 4.5 0 0 1 0 6.4 M2.6 13.4 a7.6 7.6 0 0 1 0 -10.8 M13.4 2.6 a7.6 7.6 0 0 1 0 10.8"
        }
        // A bell.
        Shape::Step(Kind::Wait) => {
            "M2.5 12 H13.5 C12 10.5 12 9 12 7 A4 4 0 0 0 4 7 C4 9 4 10.5 2.5 12 Z M6.5 14.5 H9.5 M8 3 V1"
        }
        // A box in a box.
        Shape::Step(Kind::Saga) => "M1 1 H15 V15 H1 Z M4 4 H12 V7 H4 Z M4 9.5 H12 V12.5 H4 Z",
        // A clock.
        Shape::Step(Kind::Sleep) => "M8 1 a7 7 0 1 0 .01 0 Z M8 4 V8 L11 10",
        // An arrow that turns back.
        Shape::Undo => "M5.5 2 L2 5.5 L5.5 9 M2 5.5 H10 A4 4 0 0 1 10 13.5 H6",
        Shape::Start => "M4 2 L13 8 L4 14 Z",
        Shape::End => "M1.5 8.5 L6 13 L14.5 3.5",
        Shape::Undone => "M5.5 2 L2 5.5 L5.5 9 M2 5.5 H10 A4 4 0 0 1 10 13.5 H6",
    }
}
