//! Pictures of definitions: everything is in them, and nothing that is written in a definition gets out of its place.

use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;
use roxmltree::Document;
use sagad::core::definition::Definition;
use sagad::core::parse::parse;
use sagad::graph::{Format, draw};

use crate::shape::Shape;

fn definition(toml: &str) -> Definition {
    let parsed = parse(toml, &mut |_| Err("there is no file".to_owned()));
    parsed.map(|(definition, _)| definition).unwrap_or_else(|errors| panic!("{errors:#?}\n{toml}"))
}

fn shipped() -> Vec<Definition> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sagas");
    let read = sagad::definitions::read(&[folder], None);
    read.definitions.into_values().map(|(definition, _)| definition).collect()
}

/// Which step comes before which, directly or not, by the edges of a picture.
fn order(edges: impl Iterator<Item = (String, String)>) -> BTreeSet<(String, String)> {
    let mut order: BTreeSet<(String, String)> = edges.collect();
    loop {
        let reached = order
            .iter()
            .flat_map(|(a, b)| order.iter().filter(move |(c, _)| b == c).map(move |(_, d)| (a.clone(), d.clone())));
        let more: BTreeSet<_> = reached.chain(order.iter().cloned()).collect();
        if more.len() == order.len() {
            return order;
        }
        order = more;
    }
}

/// What the definition itself says of it, the start and the end included.
fn order_of(definition: &Definition) -> BTreeSet<(String, String)> {
    let name = |step: &usize| definition.steps[*step].name.to_string();
    let mut order = BTreeSet::from([("(start)".to_owned(), "(end)".to_owned())]);
    for step in &definition.steps {
        order.extend(step.later.iter().map(|later| (step.name.to_string(), name(later))));
        order.insert(("(start)".to_owned(), step.name.to_string()));
        order.insert((step.name.to_string(), "(end)".to_owned()));
    }
    order
}

fn attributes<'d>(document: &'d Document<'d>, name: &'d str) -> impl Iterator<Item = &'d str> {
    document.descendants().filter_map(move |node| node.attribute(name))
}

fn check(definition: &Definition) {
    let svg = draw(definition, Format::Svg);
    assert_eq!(svg, draw(definition, Format::Svg), "the same each time");
    let document = Document::parse(&svg).unwrap_or_else(|error| panic!("{error}\n{svg}"));
    let drawn: BTreeSet<&str> = attributes(&document, "data-step").collect();
    let mut steps: BTreeSet<&str> = definition.steps.iter().map(|step| &*step.name).collect();
    steps.extend(["(start)", "(end)"]);
    assert_eq!(drawn, steps);
    let undone: BTreeSet<&str> = attributes(&document, "data-undo-of").filter(|name| *name != "(start)").collect();
    let undos = definition.steps.iter().filter(|step| step.compensate.is_some());
    assert_eq!(undone, undos.map(|step| &*step.name).collect());
    let edges = document
        .descendants()
        .filter_map(|node| Some((node.attribute("data-from")?.to_owned(), node.attribute("data-to")?.to_owned())));
    assert_eq!(order(edges), order_of(definition));
    // Nothing is where it is no number.
    assert!(!svg.contains("NaN") && !svg.contains("inf "), "{svg}");

    let dot = draw(definition, Format::Dot);
    let edges = dot.lines().filter(|line| line.contains(" -> ") && !line.contains("(undo of"));
    let edges = edges.map(|line| {
        let names: Vec<&str> = line.split('"').collect();
        (names[1].to_owned(), names[3].to_owned())
    });
    assert_eq!(order(edges), order_of(definition), "{dot}");

    let mermaid = draw(definition, Format::Mermaid);
    let named = |id: &str| match id.strip_prefix('s').map(str::parse::<usize>) {
        Some(Ok(step)) => definition.steps[step].name.to_string(),
        _ => if id == "start" { "(start)" } else { "(end)" }.to_owned(),
    };
    let edges = mermaid.lines().filter_map(|line| line.trim().split_once(" --> "));
    let edges = edges.map(|(from, to)| (named(from), named(to.rsplit(' ').next().unwrap_or(to))));
    assert_eq!(order(edges), order_of(definition), "{mermaid}");
}

#[test]
fn the_shipped_sagas_are_drawn_whole() {
    let shipped = shipped();
    assert!(shipped.len() >= 3, "they are there");
    shipped.iter().for_each(check);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_definition_is_drawn_whole(shape in Shape::any()) {
        check(&definition(&shape.toml()));
    }
}

#[test]
fn what_people_write_stays_text() {
    let hostile = r#"</text><script>alert(1)</script>]]> " ' & \ --> %% #quot; {{ x }} `a`"#;
    let toml = format!(
        "name = 'x'\ndescription = '''{hostile}\u{202E}\nsecond line'''\n[[steps]]\nname = 'a'\nexchange = 'e'\n\
         command = '''</title><b>\"--> | ] ; end %%'''\nwhen = \"input.a < 1 and input.b == '<i>\\\"&'\"\n\
         compensate.command = '''\"]; x --> y'''\n"
    )
    .replace("{{ x }}", "x");
    let definition = definition(&toml);
    check(&definition);
    let svg = draw(&definition, Format::Svg);
    let document = Document::parse(&svg).unwrap();
    let text: String = document.descendants().filter_map(|node| node.text()).collect();
    assert!(text.contains("</text><script>alert(1)</script>"), "{text}");
    assert!(!document.descendants().any(|node| node.has_tag_name("script") || node.has_tag_name("b")));
    assert!(!svg.contains('\u{202E}'), "nothing turns the text around");

    let mermaid = draw(&definition, Format::Mermaid);
    let odd: Vec<&str> = mermaid.lines().filter(|line| line.contains(['<', '`']) && !line.contains("<br/>")).collect();
    assert_eq!(odd, Vec::<&str>::new());
    assert!(mermaid.lines().filter(|line| line.contains('"')).all(|line| line.matches('"').count() == 2), "{mermaid}");

    let dot = draw(&definition, Format::Dot);
    let unescaped = |line: &str| line.replace("\\\\", "").replace("\\\"", "").matches('"').count();
    assert!(dot.lines().all(|line| unescaped(line) % 2 == 0), "{dot}");
}

#[test]
fn a_thousand_steps_are_drawn_in_no_time() {
    let step = |at: usize| {
        let after: Vec<String> = (0..at).map(|before| format!("'s{before}'")).collect();
        format!("[[steps]]\nname = 's{at}'\ncommand = 'c'\nafter = [{}]\n", after.join(", "))
    };
    // Each needs all before it: half a million edges, of which all but 999 follow from others.
    let toml = format!("name = 'x'\n[defaults]\nexchange = 'e'\n{}", (0..1000).map(step).collect::<String>());
    let definition = definition(&toml);
    let svg = draw(&definition, Format::Svg);
    assert_eq!(svg.matches("data-from=").count(), 1001);
    // A thousand side by side.
    let step = |at: usize| format!("[[steps]]\nname = 's{at}'\ncommand = 'c'\nafter = []\n");
    let toml = format!("name = 'x'\n[defaults]\nexchange = 'e'\n{}", (0..1000).map(step).collect::<String>());
    assert_eq!(draw(&self::definition(&toml), Format::Svg).matches("data-from=").count(), 2000);
}
