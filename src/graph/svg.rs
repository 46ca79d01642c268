//! SVG, for a browser and for a wall: forward from top to bottom, and beside it, dashed, the way back.
//!
//! Each step is a unit: its card, and to the right of it the card of its undo. Units of a row stand side by side. Lines run down
//! through their units and bend only between rows, so that none crosses a card.

mod card;
mod head;
mod style;

use std::fmt::Write;

use self::card::{Card, Shape};
use super::layers::{Layers, Vertex};
use super::places::{Reach, places};
use super::plan::{Kind, Plan};
use super::text::{Face, width, xml};

/// Around everything.
const MARGIN: f64 = 36.0;
/// Between a card and its undo, between units, and between a line and the one back.
const BESIDE: f64 = 30.0;
const APART: f64 = 34.0;
const RAILS_APART: f64 = 16.0;
/// Between rows: at least, and for each pixel that a line goes aside.
const BELOW: f64 = 46.0;
const BELOW_SLANT: f64 = 0.07;
const MOST_BELOW: f64 = 150.0;
/// Room for the line of no return.
const PIVOT: f64 = 44.0;
const NO_RETURN: &str = "point of no return";

/// Draws it.
pub(super) fn write(plan: &Plan) -> String {
    let picture = Picture::new(plan);
    let head = head::Head::new(plan, picture.width.max(560.0));
    let legend = head::Legend::new(plan, picture.width.max(560.0));
    let wide = [picture.width, head.width, legend.width].into_iter().fold(0.0, f64::max);
    let (width, height) = (wide + 2.0 * MARGIN, head.height + picture.height + legend.height + 2.0 * MARGIN);
    let mut svg = String::new();
    let name = xml(&plan.name);
    // Writing to a string can't fail.
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"sagad-graph\" role=\"img\" aria-labelledby=\"sagad-{name}-title sagad-{name}-desc\" \
         width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\">\n\
         <title id=\"sagad-{name}-title\">Saga {name}</title>\n<desc id=\"sagad-{name}-desc\">{}</desc>\n",
        xml(&head::in_words(plan))
    );
    style::write(&mut svg);
    let _ = writeln!(svg, "<rect class=\"paper\" width=\"{width:.0}\" height=\"{height:.0}\"/>");
    let mut at = |part: &dyn Fn(&mut String), x: f64, y: f64| {
        let _ = writeln!(svg, "<g transform=\"translate({x:.1} {y:.1})\">");
        part(&mut svg);
        svg.push_str("</g>\n");
    };
    at(&|svg| head.write(svg), MARGIN, MARGIN);
    at(&|svg| picture.write(svg), MARGIN + (wide - picture.width) / 2.0, MARGIN + head.height);
    at(&|svg| legend.write(svg), MARGIN, MARGIN + head.height + picture.height);
    svg.push_str("</svg>\n");
    svg
}

/// A unit: what stands in a row for one node.
struct Unit {
    card: Card,
    undo: Option<Card>,
}

/// Everything with its place.
struct Picture<'p> {
    plan: &'p Plan,
    layers: Layers,
    /// By node: the steps, the start, the end.
    units: Vec<Unit>,
    /// By vertex, the line down, and whether a line leads back from it.
    x: Vec<f64>,
    back: Vec<bool>,
    /// By row.
    top: Vec<f64>,
    bottom: Vec<f64>,
    card_width: f64,
    undo_width: f64,
    width: f64,
    height: f64,
}

impl<'p> Picture<'p> {
    fn new(plan: &'p Plan) -> Picture<'p> {
        let steps = plan.nodes.len();
        let (start, end) = (steps, steps + 1);
        let mut edges = plan.edges.clone();
        edges.extend(plan.first().into_iter().map(|step| (start, step)));
        edges.extend(plan.last().into_iter().map(|step| (step, end)));
        let layers = Layers::new(steps + 2, &edges);

        let leads = plan.way_back();
        let returns = plan.first().into_iter().any(|step| leads[step]);
        let mut units: Vec<Unit> = plan
            .nodes
            .iter()
            .map(|node| Unit { card: Card::of_step(node), undo: node.undo.as_ref().map(Card::of_undo) })
            .collect();
        units.push(Unit { card: Card::start(plan), undo: returns.then(|| Card::end("compensated", Shape::Undone)) });
        units.push(Unit { card: Card::end("completed", Shape::End), undo: None });
        let widest = |cards: &mut dyn Iterator<Item = &Card>| cards.map(|card| card.width).fold(0.0, f64::max);
        let card_width = widest(&mut units.iter().map(|unit| &unit.card));
        let mut undo_width = widest(&mut units.iter().filter_map(|unit| unit.undo.as_ref()));
        if plan.nodes.iter().any(|node| node.pivot) {
            undo_width = undo_width.max(width(NO_RETURN, Face::Name));
        }
        for unit in &mut units {
            unit.card.stretch(card_width);
            unit.undo.iter_mut().for_each(|undo| undo.stretch(undo_width));
        }

        let mut back = vec![false; layers.vertices.len()];
        back[..steps].copy_from_slice(&leads);
        for vertex in (steps + 2..back.len()).rev() {
            back[vertex] = layers.below[vertex].iter().any(|below| back[*below]);
        }
        let beside = if undo_width > 0.0 { BESIDE + undo_width } else { 0.0 };
        let reach = |vertex| match vertex {
            Vertex::Node(_) => Reach { left: card_width / 2.0, right: card_width / 2.0 + beside },
            Vertex::Rail(_) => Reach { left: 0.0, right: RAILS_APART },
        };
        let mut x = places(&layers, reach, APART);
        let sides = |side: fn(f64, Reach) -> f64| {
            x.iter().zip(&layers.vertices).map(move |(x, vertex)| side(*x, reach(*vertex)))
        };
        let left = sides(|x, reach| x - reach.left).fold(f64::INFINITY, f64::min);
        let right = sides(|x, reach| x + reach.right).fold(f64::NEG_INFINITY, f64::max);
        x.iter_mut().for_each(|x| *x -= left);

        let mut picture = Picture {
            plan,
            units,
            x,
            back,
            top: Vec::new(),
            bottom: Vec::new(),
            card_width,
            undo_width,
            width: right - left,
            height: 0.0,
            layers,
        };
        picture.stack_rows();
        picture
    }

    fn stack_rows(&mut self) {
        let mut slant = vec![0.0_f64; self.layers.rows.len()];
        for (from, to) in &self.layers.segments {
            let row = self.layers.row[*from];
            slant[row] = slant[row].max((self.x[*from] - self.x[*to]).abs());
        }
        let mut y = 0.0;
        for (row, vertices) in self.layers.rows.iter().enumerate() {
            let nodes = || vertices.iter().filter_map(|vertex| self.node_at(*vertex));
            let tallest = nodes().map(|node| self.units[node].height()).fold(0.0, f64::max);
            let pivot = nodes().any(|node| self.plan.nodes.get(node).is_some_and(|node| node.pivot));
            self.top.push(y);
            self.bottom.push(y + tallest + if pivot { PIVOT } else { 0.0 });
            self.height = self.bottom[row];
            y = self.bottom[row] + (BELOW + slant[row] * BELOW_SLANT).min(MOST_BELOW);
        }
    }

    fn node_at(&self, vertex: usize) -> Option<usize> {
        match self.layers.vertices[vertex] {
            Vertex::Node(node) => Some(node),
            Vertex::Rail(_) => None,
        }
    }

    /// Where the line back runs beside the line of `vertex`.
    fn back_x(&self, vertex: usize) -> f64 {
        match self.layers.vertices[vertex] {
            Vertex::Node(_) => self.x[vertex] + self.card_width / 2.0 + BESIDE + self.undo_width / 2.0,
            Vertex::Rail(_) => self.x[vertex] + RAILS_APART,
        }
    }

    fn write(&self, svg: &mut String) {
        // Cards over lines.
        for &(from, to) in &self.layers.segments {
            if self.back[to] {
                self.write_back(svg, from, to);
            }
        }
        for &(from, to) in &self.layers.segments {
            self.write_forward(svg, from, to);
        }
        for vertex in 0..self.layers.vertices.len() {
            if let Some(node) = self.node_at(vertex) {
                self.write_unit(svg, vertex, node);
            }
        }
    }

    fn write_forward(&self, svg: &mut String, from: usize, to: usize) {
        let row = self.layers.row[from];
        let begin = match self.node_at(from) {
            Some(node) => self.top[row] + self.units[node].card.height(),
            None => self.top[row],
        };
        let way = bend((self.x[from], begin), self.bottom[row], self.top[row + 1], self.x[to]);
        let end = self.node_at(to);
        let names = end.map_or(String::new(), |to| {
            let (Vertex::Node(from) | Vertex::Rail(from)) = self.layers.vertices[from];
            format!(" data-from=\"{}\" data-to=\"{}\"", xml(self.name(from)), xml(self.name(to)))
        });
        let arrow = if end.is_some() { " marker-end=\"url(#sagad-ahead)\"" } else { "" };
        let _ = writeln!(svg, "<path class=\"ahead\"{names}{arrow} d=\"{way}\"/>");
    }

    fn write_back(&self, svg: &mut String, from: usize, to: usize) {
        let row = self.layers.row[from];
        let undoing = |vertex| self.node_at(vertex).map(|node| &self.units[node]).filter(|unit| unit.undo.is_some());
        let begin = self.top[row + 1] + undoing(to).map_or(0.0, |unit| unit.card.above);
        let end = self.top[row] + undoing(from).map_or(0.0, Unit::undo_end);
        let way = bend((self.back_x(to), begin), self.top[row + 1], self.bottom[row], self.back_x(from));
        let arrow = if undoing(from).is_some() { " marker-end=\"url(#sagad-back)\"" } else { "" };
        // A line of no length would turn the arrow.
        let on = if end < self.bottom[row] { format!(" V{end:.1}") } else { String::new() };
        let _ = writeln!(svg, "<path class=\"back\"{arrow} d=\"{way}{on}\"/>");
    }

    fn write_unit(&self, svg: &mut String, vertex: usize, node: usize) {
        let Unit { card, undo } = &self.units[node];
        let (x, y) = (self.x[vertex] - self.card_width / 2.0, self.top[self.layers.row[vertex]]);
        let _ = writeln!(
            svg,
            "<g class=\"unit\" data-step=\"{}\"><title>{}</title>",
            xml(self.name(node)),
            xml(&card.in_full)
        );
        if undo.is_some() && node < self.plan.nodes.len() {
            let middle = y + card.above + 22.0;
            let (left, right) = (x + self.card_width, x + self.card_width + BESIDE);
            let _ = writeln!(svg, "<path class=\"tie\" d=\"M{left:.1} {middle:.1} H{right:.1}\"/>");
        }
        card.write(svg, x, y);
        svg.push_str("</g>\n");
        if let Some(undo) = undo {
            let _ = writeln!(
                svg,
                "<g class=\"undo\" data-undo-of=\"{}\"><title>{}</title>",
                xml(self.name(node)),
                xml(&undo.in_full)
            );
            undo.write(svg, x + self.card_width + BESIDE, y + card.above);
            svg.push_str("</g>\n");
        }
        if self.plan.nodes.get(node).is_some_and(|node| node.pivot) {
            self.write_pivot(svg, vertex, x);
        }
    }

    /// The line of no return: across the picture where everything below it comes after this step.
    fn write_pivot(&self, svg: &mut String, vertex: usize, x: f64) {
        let row = self.layers.row[vertex];
        let below = self.layers.rows[row + 1..].iter().flatten().filter_map(|vertex| self.node_at(*vertex));
        let all = below.into_iter().all(|node| self.plan.nodes.get(node).is_none_or(|node| node.committed));
        let beside = x + self.card_width + BESIDE;
        let (left, right) = if all { (0.0, self.width) } else { (x, beside + self.undo_width) };
        let y = self.bottom[row] - 12.0;
        let _ = writeln!(
            svg,
            "<path class=\"pivot-line\" d=\"M{left:.1} {y:.1} H{right:.1}\"/>\n<text class=\"name pivot-text\" x=\"{beside:.1}\" y=\"{:.1}\">{NO_RETURN}</text>",
            y - 8.0
        );
    }

    fn name(&self, node: usize) -> &str {
        match node.checked_sub(self.plan.nodes.len()) {
            None => &self.plan.nodes[node].name,
            // No step has such a name.
            Some(0) => "(start)",
            Some(_) => "(end)",
        }
    }
}

impl Unit {
    fn height(&self) -> f64 {
        self.undo_end().max(self.card.height())
    }

    /// From the unit's upper edge to the lower one of its undo, which begins where the card does, below the condition.
    fn undo_end(&self) -> f64 {
        self.undo.as_ref().map_or(0.0, |undo| self.card.above + undo.height())
    }
}

/// From a point straight to where the rows part, from there to `x` in the next row.
fn bend((from, begin): (f64, f64), part: f64, next: f64, x: f64) -> String {
    if (from - x).abs() < 0.5 {
        return format!("M{x:.1} {begin:.1} V{next:.1}");
    }
    let middle = (part + next) / 2.0;
    format!("M{from:.1} {begin:.1} V{part:.1} C{from:.1} {middle:.1} {x:.1} {middle:.1} {x:.1} {next:.1}")
}

/// What a kind means, for who sees it first.
fn meaning(kind: Kind) -> &'static str {
    match kind {
        Kind::Command => "a command; a participant answers",
        Kind::Publish => "an event; nobody answers",
        Kind::Wait => "waits for a signal or an event",
        Kind::Saga => "runs another saga",
        Kind::Sleep => "lets time pass",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::parse::parse;

    /// A definition whose steps have these `after`s, all with an undo and some with a condition.
    fn definition(after: &[Vec<usize>]) -> String {
        let mut toml = "name = 'drawn'\n[defaults]\nexchange = 'e'\n".to_owned();
        for (step, after) in after.iter().enumerate() {
            let after: Vec<String> = after.iter().map(|step| format!("'s{step}'")).collect();
            let long = "word_".repeat(step % 12);
            let _ =
                write!(toml, "[[steps]]\nname = 's{step}'\ncommand = 'do.{long}'\nafter = [{}]\n", after.join(", "));
            if step % 3 > 0 {
                let _ = writeln!(toml, "compensate.command = 'undo.{long}'");
            }
            if step % 4 == 0 {
                let _ = writeln!(toml, "when = 'input.{long}x > 1 and input.y'");
            }
        }
        toml
    }

    /// Everything that takes room in a picture: left, top, right, bottom.
    fn boxes(picture: &Picture<'_>) -> Vec<[f64; 4]> {
        let nodes = (0..picture.layers.vertices.len()).filter_map(|vertex| Some((vertex, picture.node_at(vertex)?)));
        let boxes = nodes.flat_map(|(vertex, node)| {
            let unit = &picture.units[node];
            let (x, y) = (picture.x[vertex] - picture.card_width / 2.0, picture.top[picture.layers.row[vertex]]);
            let card = [x, y, x + picture.card_width, y + unit.card.height()];
            let left = card[2] + BESIDE;
            let undo =
                unit.undo.as_ref().map(|_| [left, y + unit.card.above, left + picture.undo_width, y + unit.undo_end()]);
            std::iter::once(card).chain(undo)
        });
        boxes.collect()
    }

    #[test]
    fn nothing_overlaps_and_lines_run_only_between_cards() {
        // Steps that need up to three of the twelve before them, by a generator of no great quality.
        let mut state = 11_usize;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let after: Vec<Vec<usize>> = (0..90_usize)
            .map(|step| {
                let mut after: Vec<usize> = (0..random(4)).map(|_| step.saturating_sub(1 + random(12))).collect();
                after.retain(|before| *before < step);
                after
            })
            .collect();
        let (definition, _) = parse(&definition(&after), &mut |_| Err(String::new())).expect("it is right");
        let plan = Plan::new(&definition);
        let picture = Picture::new(&plan);
        let boxes = boxes(&picture);
        assert!(boxes.len() > 130, "steps and undos");
        for (at, a) in boxes.iter().enumerate() {
            assert!(
                a[0] >= -0.1 && a[1] >= -0.1 && a[2] <= picture.width + 0.1 && a[3] <= picture.height + 0.1,
                "{a:?} is cut"
            );
            for b in &boxes[at + 1..] {
                assert!(a[2] <= b[0] || b[2] <= a[0] || a[3] <= b[1] || b[3] <= a[1], "{a:?} overlaps {b:?}");
            }
        }
        for (vertex, of) in picture.layers.vertices.iter().enumerate() {
            let Vertex::Rail(_) = of else { continue };
            let row = picture.layers.row[vertex];
            for x in [picture.x[vertex], picture.back_x(vertex)] {
                let crossed = boxes
                    .iter()
                    .find(|it| it[0] < x && x < it[2] && it[1] >= picture.top[row] && it[3] <= picture.bottom[row]);
                assert_eq!(crossed, None, "a line at {x} in row {row}");
            }
        }
        let cards = picture.units.iter().flat_map(|unit| std::iter::once(&unit.card).chain(&unit.undo));
        cards.for_each(|card| assert!(card.holds_its_text(), "{}", card.in_full));
    }
}
