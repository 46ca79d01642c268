//! Colours and fonts. Written out twice, for light and dark, as not every program that shows SVG knows variables.

use std::fmt::Write;

/// Selector, property, in the light, in the dark.
const COLOURS: [(&str, &str, &str, &str); 23] = [
    ("paper", "fill", "#ffffff", "#10151b"),
    ("text", "fill", "#17202b", "#e8eef5"),
    ("small", "fill", "#4d5a68", "#a9b6c4"),
    ("ahead", "stroke", "#3c4856", "#b4c0cd"),
    ("ahead-tip", "fill", "#3c4856", "#b4c0cd"),
    ("back", "stroke", "#b8560c", "#f2a25c"),
    ("back-tip", "fill", "#b8560c", "#f2a25c"),
    ("tie", "stroke", "#b8560c", "#f2a25c"),
    ("card", "fill", "#f5f8fc", "#18212b"),
    ("command", "stroke", "#2460a7", "#74b3f3"),
    ("publish", "stroke", "#0d7566", "#52cdb9"),
    ("wait", "stroke", "#6a4bbc", "#b9a4f7"),
    ("saga", "stroke", "#97306f", "#ee9ccd"),
    ("sleep", "stroke", "#5a6673", "#a8b4c1"),
    ("edge", "stroke", "#3c4856", "#b4c0cd"),
    ("undoing", "stroke", "#b8560c", "#f2a25c"),
    ("card.undoing", "fill", "#fff7ee", "#2a2017"),
    ("card.edge", "fill", "#eaeff5", "#232d39"),
    ("condition", "fill", "#e7edf5", "#2a3644"),
    ("condition", "stroke", "#b3c0cf", "#4a5868"),
    ("pivot-line", "stroke", "#c2212e", "#ff8080"),
    ("card.pivot", "stroke", "#c2212e", "#ff8080"),
    ("pivot-text", "fill", "#b01a27", "#ff9a9a"),
];

const SHAPES: &str = "\
.sagad-graph text { font-family: system-ui, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif; white-space: pre }
.sagad-graph .title { font-size: 24px; font-weight: 700 }
.sagad-graph .name { font-size: 15px; font-weight: 600 }
.sagad-graph .description { font-weight: 400 }
.sagad-graph .code { font-size: 12.5px; font-family: ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace }
.sagad-graph .small { font-size: 11.5px }
.sagad-graph .card { stroke-width: 1.6 }
.sagad-graph .card.pivot { stroke-width: 3 }
.sagad-graph .optional { stroke-dasharray: 6 4 }
.sagad-graph .undoing { stroke-dasharray: 5 3 }
.sagad-graph .ahead { fill: none; stroke-width: 1.8 }
.sagad-graph .back { fill: none; stroke-width: 1.6; stroke-dasharray: 6 4 }
.sagad-graph .tie { fill: none; stroke-width: 1.4; stroke-dasharray: 1.5 4; stroke-linecap: round }
.sagad-graph .line { fill: none; stroke-width: 1.4 }
.sagad-graph .icon { fill: none; stroke-width: 1.5; stroke-linecap: round; stroke-linejoin: round; stroke-dasharray: none }
.sagad-graph .pivot-line { fill: none; stroke-width: 3 }
";

/// The style of a picture, and its arrows.
pub(super) fn write(svg: &mut String) {
    svg.push_str("<style>\n");
    svg.push_str(SHAPES);
    for (what, property, light, _) in COLOURS {
        let _ = writeln!(svg, "{} {{ {property}: {light} }}", selector(what));
    }
    svg.push_str("@media (prefers-color-scheme: dark) {\n");
    for (what, property, _, dark) in COLOURS {
        let _ = writeln!(svg, "{} {{ {property}: {dark} }}", selector(what));
    }
    svg.push_str("}\n</style>\n<defs>\n");
    for name in ["ahead", "back"] {
        let _ = writeln!(
            svg,
            "<marker id=\"sagad-{name}\" viewBox=\"0 0 10 10\" refX=\"9.5\" refY=\"5\" markerWidth=\"9\" markerHeight=\"9\" \
             markerUnits=\"userSpaceOnUse\" orient=\"auto\"><path class=\"{name}-tip\" d=\"M0 0.8 L10 5 L0 9.2 Z\"/></marker>"
        );
    }
    svg.push_str("</defs>\n");
}

fn selector(what: &str) -> String {
    if what == "text" { ".sagad-graph text".to_owned() } else { format!(".sagad-graph .{what}") }
}
