//! Pictures of a definition: what runs after what, what undoes it, where there is no return.
//!
//! ```text
//!   Definition ──plan──> what is said of each step, which step follows which ─┬─ layers ─ places ─ svg ──> SVG
//!                                                                             ├─ mermaid ───────────────> Mermaid
//!                                                                             └─ dot ───────────────────> Graphviz
//! ```
//!
//! Pure, and the same text for the same definition.

mod dot;
mod layers;
mod mermaid;
mod places;
mod plan;
mod svg;
mod text;

use self::plan::Plan;
use crate::core::definition::Definition;

/// What a picture is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A picture for browsers and walls.
    Svg,
    /// For Markdown, which GitHub and others draw.
    Mermaid,
    /// For Graphviz.
    Dot,
}

/// Draws a definition.
pub fn draw(definition: &Definition, format: Format) -> String {
    let plan = Plan::new(definition);
    match format {
        Format::Svg => svg::write(&plan),
        Format::Mermaid => mermaid::write(&plan),
        Format::Dot => dot::write(&plan),
    }
}
