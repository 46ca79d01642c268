//! Every code that `sagad check` knows: where it is, and what is not one.

use std::collections::BTreeSet;
use std::path::Path;

use sagad::broker::topology::TopologyPlan;
use sagad::config::Config;
use sagad::core::diagnostic::Severity;
use sagad::core::parse::parse;
use sagad::definitions::read;
use sagad::report::place;
use tempfile::TempDir;

const TOPOLOGY: &str = r#"
[[topology.exchanges]]
name = "d"
type = "topic"
[[topology.queues]]
name = "all"
bind = [{ exchange = "d", routing_key = "do.#" }]
"#;

/// What is found in a folder of these files: `file line:column-line:column code what-is-there`.
fn found(files: &[(&str, &[u8])]) -> Vec<String> {
    found_with(TOPOLOGY, files)
}

fn found_with(topology: &str, files: &[(&str, &[u8])]) -> Vec<String> {
    let folder = TempDir::new().unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    let config = Config::parse("sagad.toml", topology).unwrap();
    let plan = TopologyPlan::new(&config.broker, &config.topology).unwrap();
    let folder = read(&[folder.path().to_owned()], Some(&plan));
    let mut found = Vec::new();
    for file in &folder.files {
        for it in &file.diagnostics {
            assert!(!it.message.is_empty() && !it.help.is_empty(), "{it:?}");
            let (line, column) = place(&file.text, it.span.start);
            let name = file.path.file_stem().unwrap().to_string_lossy();
            let sign = if it.severity == Severity::Error { "!" } else { "" };
            found.push(format!("{name} {line}:{column} {sign}{} {}", it.code, &file.text[it.span.clone()]));
        }
    }
    found
}

/// What is found in a definition of these lines, of which the first is line 5.
fn of(lines: &str) -> Vec<String> {
    found(&[("a.toml", whole("a", lines).as_bytes())])
}

fn whole(name: &str, lines: &str) -> String {
    format!("name = '{name}'\nkey = '{{{{ input.id }}}}'\ntimeout = '1h'\ndefaults = {{ exchange = 'd' }}\n{lines}")
}

/// A step that can fail, and has an undo.
const LAST: &str = "[[steps]]\nname = 'last'\ncommand = 'do.last'\ncompensate.command = 'do.undo'\n";

/// Lines, and all that is wrong with them.
const OF_ONE: &[(&str, &[&str])] = &[
    // Undos.
    (
        "[[steps]]\nname = 'pay'\ncommand = 'do.pay'\n[[steps]]\nname = 'ship'\ncommand = 'do.ship'\n",
        &["a 6:8 no-compensation 'pay'"],
    ),
    (
        "[[steps]]\nname = 'tell'\npublish = 'done'\n[[steps]]\nname = 'ship'\ncommand = 'do.ship'\n",
        &["a 6:8 no-compensation 'tell'"],
    ),
    ("[[steps]]\nname = 'pay'\ncommand = 'do.pay'\n[[steps]]\nname = 'tell'\npublish = 'done'\n", &[]),
    (
        "[[steps]]\nname = 'pay'\ncommand = 'do.pay'\n[[steps]]\nname = 'ok'\nwait.signal = 'ok'\n",
        &["a 6:8 no-compensation 'pay'"],
    ),
    (
        "[[steps]]\nname = 'ok'\nwait.signal = 'ok'\n[[steps]]\nname = 'rest'\nsleep = '1s'\n[[steps]]\nname = 'pay'\ncommand = 'do.pay'\n",
        &[],
    ),
    (
        "[[steps]]\nname = 'pay'\ncommand = 'do.pay'\npivot = true\n[[steps]]\nname = 'ship'\ncommand = 'do.ship'\n[[steps]]\nname = 'last'\ncommand = 'do.last'\n",
        &[],
    ),
    (
        "[[steps]]\nname = 'pay'\ncommand = 'do.pay'\npivot = true\n[[steps]]\nname = 'ship'\ncommand = 'do.ship'\ncompensate.command = 'do.unship'\n",
        &["a 12:1 undo-after-pivot compensate"],
    ),
    // A pivot that may be skipped is no promise.
    (
        "[[steps]]\nname = 'pay'\ncommand = 'do.pay'\npivot = true\nwhen = 'input.a'\n[[steps]]\nname = 'ship'\ncommand = 'do.ship'\ncompensate.command = 'do.unship'\n",
        &[],
    ),
    // Times.
    (
        "[[steps]]\nname = 'pay'\ncommand = 'do.pay'\ntimeout = '30m'\nretry.attempts = 2\n",
        &["a 6:8 retry-budget 'pay'"],
    ),
    (
        "[[steps]]\nname = 'ok'\nwait.signal = 'ok'\n[[steps]]\nname = 'no'\nwait.signal = 'no'\ntimeout = '2h'\n",
        &["a 11:11 beyond-deadline '2h'"],
    ),
    (
        "[[steps]]\nname = 'a'\nsleep = '40m'\n[[steps]]\nname = 'b'\nsleep = '40m'\n[[steps]]\nname = 'c'\nsleep = '1m'\n",
        &["a 10:9 beyond-deadline '40m'"],
    ),
    ("[[steps]]\nname = 'a'\nsleep = '40m'\n[[steps]]\nname = 'b'\nsleep = '40m'\nafter = []\n", &[]),
    ("[[steps]]\nname = 'a'\nsleep = '40m'\npivot = true\n[[steps]]\nname = 'b'\nsleep = '40m'\n", &[]),
    ("[[steps]]\nname = 'a'\ncommand = 'do.a'\ndelay = '61m'\n", &["a 8:9 beyond-deadline '61m'"]),
    ("[[steps]]\nname = 'a'\ncommand = 'do.a'\ndelay = '11years'\n", &["a 8:9 !invalid-duration '11years'"]),
    (
        "[[steps]]\nname = 'a'\ncommand = 'do.a'\ntimeout = '50days'\n[[steps]]\nname = 'b'\ncommand = 'do.b'\ntimeout = '50days'\nexpires = false\n",
        &["a 8:11 !invalid-duration '50days'"],
    ),
    // Events.
    (
        "[[steps]]\nname = 'a'\nwait = { exchange = 'e', routing_key = 'x.*', match = 'body.id' }\n[[steps]]\nname = 'b'\nwait = { exchange = 'e', routing_key = '*.y', match = 'body.id' }\n",
        &["a 10:40 same-event '*.y'"],
    ),
    (
        "[[steps]]\nname = 'a'\nwait = { exchange = 'e', routing_key = 'x.*', match = 'body.id' }\n[[steps]]\nname = 'b'\nwait = { exchange = 'e', routing_key = 'x.y', match = 'body.other' }\n",
        &[],
    ),
    (
        "[[steps]]\nname = 'a'\ncommand = 'do.a'\nreply.success = { exchange = 'e', routing_key = 'x', match = 'body.id' }\nreply.failure = { exchange = 'e', routing_key = '#', match = 'body.id' }\n",
        &["a 9:49 same-event '#'"],
    ),
    (
        "[[steps]]\nname = 'a'\nwait.signal = 'ok'\n[[steps]]\nname = 'b'\nafter = []\nwait.signal = 'ok'\n",
        &["a 11:15 same-event 'ok'"],
    ),
    ("[[steps]]\nname = 'a'\nwait.signal = 'ok'\n[[steps]]\nname = 'b'\nwait.signal = 'ok'\n", &[]),
    // Where commands go.
    ("[[steps]]\nname = 'a'\ncommand = 'pay'\n", &["a 7:11 no-receiver 'pay'"]),
    (
        "[[steps]]\nname = 'a'\ncommand = 'do.pay'\non_timeout = 'probe'\nprobe.command = 'ask'\n",
        &["a 9:17 no-receiver 'ask'"],
    ),
    ("[[steps]]\nname = 'a'\ncommand = 'do.pay'\nexchange = 'other'\n", &["a 7:11 no-receiver 'do.pay'"]),
    ("[[steps]]\nname = 'a'\ncommand = 'do.pay'\nexchange = 'amq.topic'\n", &[]),
    ("[[steps]]\nname = 'a'\npublish = 'paid'\nexchange = 'other'\ncompensate = false\n", &[]),
    ("[[steps]]\nname = 'a'\npublish = 'paid'\nexchange = 'D'\ncompensate = false\n", &["a 8:12 no-receiver 'D'"]),
    ("[[steps]]\nname = 'a'\ncommand = 'do.pay'\npriority = 3\n", &["a 8:12 priority-without-effect 3"]),
    // Words that a status, or a reason, never is.
    (
        "[[steps]]\nname = 'a'\ncommand = 'do.a'\noptional = true\ncompensate.command = 'do.x'\ncompensate.body = \"{{ error.reason == 'timout' }}\"\n\
         [[steps]]\nname = 'b'\ncommand = 'do.b'\ncompensate = false\nwhen = \"steps.a.status in ['failed', 'indoubt'] or 'succeded' != steps.a.status\"\n",
        &["a 10:39 unknown-word 'timout'", "a 15:38 unknown-word 'indoubt'", "a 15:52 unknown-word 'succeded'"],
    ),
    (
        "[[steps]]\nname = 'a'\ncommand = 'do.a'\noptional = true\ncompensate.command = 'do.x'\ncompensate.body = \"{{ error.reason == 'timeout' }}\"\n\
         [[steps]]\nname = 'b'\ncommand = 'do.b'\ncompensate = false\nwhen = \"steps.a.status in ['failed', 'in_doubt'] or steps.a.reply.status == 'so-so'\"\n",
        &[],
    ),
    // What templates read of other steps.
    (
        "[[steps]]\nname = 'a'\npublish = 'x'\ncompensate = false\n[[steps]]\nname = 'b'\ncommand = 'do.b'\nbody = '{{ steps.a.reply }}'\n",
        &["a 12:12 no-reply steps.a.reply"],
    ),
    (
        "[[steps]]\nname = 'a'\nwhen = 'input.x'\ncommand = 'do.a'\ncompensate = false\n[[steps]]\nname = 'b'\ncommand = 'do.b'\ncompensate = { command = 'do.c', body = { a = '{{ steps.a.reply.id }}', b = '{{ steps.a.reply.id or 0 }}' } }\n",
        &["a 13:51 reply-may-be-null steps.a.reply.id"],
    ),
    (
        "[[steps]]\nname = 'a'\noptional = true\ncommand = 'do.a'\ncompensate = false\n[[steps]]\nname = 'b'\ncommand = 'do.b'\nbody = '{{ steps.a.reply.id }}'\ncompensate = { command = 'do.c', body = '{{ steps.a.reply.id }} {{ steps.b.reply.id }}' }\n",
        &["a 14:45 reply-may-be-null steps.a.reply.id"],
    ),
    // Both are skipped, or neither.
    (
        "[[steps]]\nname = 'a'\nwhen = 'input.x'\ncommand = 'do.a'\ncompensate = false\n[[steps]]\nname = 'b'\nwhen = 'input.x'\ncommand = 'do.b'\ncompensate = { command = 'do.c', body = '{{ steps.a.reply.id }}' }\n",
        &[],
    ),
];

#[test]
fn every_problem_of_one_definition_has_its_place_and_its_code() {
    for (lines, expected) in OF_ONE {
        assert_eq!(of(lines), *expected, "\n{lines}");
    }
}

/// Whoever binds a queue to an exchange knows of it, and somebody else declares it.
#[test]
fn an_exchange_that_a_declared_queue_is_bound_to_is_known() {
    let topology = format!(
        "{TOPOLOGY}[[topology.queues]]\nname = \"theirs\"\nbind = [{{ exchange = \"partner\", routing_key = \"their.#\" }}]\n"
    );
    let of = |exchange: &str, command: &str| {
        let step = format!("[[steps]]\nname = 'a'\ncommand = '{command}'\nexchange = '{exchange}'\n");
        found_with(&topology, &[("a.toml", whole("a", &step).as_bytes())])
    };
    assert!(of("partner", "their.pay").is_empty());
    assert!(of("partner", "our.pay").is_empty(), "others may have bound queues to it");
    assert_eq!(of("partners", "their.pay"), ["a 7:11 no-receiver 'their.pay'"]);
}

#[test]
fn what_templates_read_is_held_against_the_schema_of_the_input() {
    const SCHEMA: &str = "input = { type = 'object', properties = { name = { type = 'string' }, n = { type = 'integer' }, \
                          tags = { type = 'array', items = { type = 'string' } }, some = { type = ['null', 'object'] }, \
                          either = { type = ['null', 'integer'] }, pair = { prefixItems = [{ type = 'object' }], items = { type = 'string' } }, \
                          open = { properties = { name = {} }, allOf = [{ properties = { nmae = {} } }] } } }\n";
    let cases: &[(&str, &[&str])] = &[
        ("body = '{{ input.nmae }}'", &["a 9:12 unknown-input input.nmae"]),
        ("body = '{{ input.elsewhere }}'", &[]),
        ("body = '{{ input.name.first }}'", &["a 9:12 !input-type input.name.first"]),
        ("body = '{{ input.tags.first }}'", &["a 9:12 input-type input.tags.first"]),
        ("body = '{{ input.tags[0].x }}'", &["a 9:12 !input-type input.tags[0].x"]),
        ("body = '{{ input.tags[-1] }} {{ input.some.thing }} {{ input.n + 1 }}'", &[]),
        ("body = '{{ input.either.x }}'", &["a 9:12 !input-type input.either.x"]),
        ("body = '{{ input.pair[0].x }} {{ input.open.nmae }}'", &[]),
        ("body = '{{ input.name * 2 }}'", &["a 9:12 input-type input.name"]),
        ("body = '{{ input.n * 2 - input.name }}'", &["a 9:26 input-type input.name"]),
        ("body = '{{ -input.name }}'", &["a 9:13 input-type input.name"]),
        ("body = '{{ input.name + 1 }}'", &["a 9:12 input-type input.name"]),
        ("body = '{{ input.name + input.name }} {{ input.name ~ 1 }} {{ input.name | int + 1 }}'", &[]),
        ("when = 'input.name > 0'", &["a 9:9 input-type input.name"]),
        ("when = 'input.name > input.name'", &[]),
        ("body = '{% if input.n > 3 %}{{ input.n % 2 }}{% endif %}'", &[]),
        ("foreach = '{{ input.name }}'", &["a 9:15 input-type input.name"]),
        ("foreach = '{{ input.tags }}'", &[]),
        (
            "reply.schema = { properties = { id = { type = 'string' } } }\ncompensate.command = 'do.b'\ncompensate.body = '{{ steps.a.reply.di }} {{ steps.a.reply.id.x }}'",
            &["a 11:23 unknown-reply steps.a.reply.di", "a 11:46 !reply-type steps.a.reply.id.x"],
        ),
        ("foreach = '{{ input.name | list }}'", &[]),
    ];
    for (line, expected) in cases {
        let lines = format!("{SCHEMA}[[steps]]\nname = 'a'\ncommand = 'do.a'\n{line}\n");
        assert_eq!(of(&lines), *expected, "\n{line}");
    }
}

#[test]
fn what_can_never_be_rendered_is_an_error() {
    const SCHEMA: &str = "input = { additionalProperties = false, properties = { id = {}, more = { additionalProperties = false }, \
                          to = { type = 'object', additionalProperties = false, properties = { zip = {} } }, \
                          any = { additionalProperties = false, patternProperties = { '^x-' = {} } }, \
                          one = { additionalProperties = false, properties = { x = {} }, oneOf = [{}] } } }\n";
    let cases: &[(&str, &[&str])] = &[
        ("body = '{{ input.elsewhere }}'", &["a 9:12 !unknown-input input.elsewhere"]),
        ("body = 'of {{- input.ids -}} ids'", &["a 9:16 !unknown-input input.ids"]),
        ("when = 'input.elsewhere'", &["a 9:9 !unknown-input input.elsewhere"]),
        ("body = '{{ input.to.city }}'", &["a 9:12 !unknown-input input.to.city"]),
        ("body = '{{ input.more.or.less }}'", &["a 9:12 !unknown-input input.more.or.less"]),
        // Other keys may be there, or it may be an array.
        ("body = '{{ input.any.thing }} {{ input.one.thing }} {{ input.more[0] }}'", &[]),
        ("body = '{{ input.one[0] }} {{ input.to[0] }}'", &["a 9:31 unknown-input input.to[0]"]),
        // It says what is to be done without it.
        ("body = \"{{ input.elsewhere | default('') }}\"", &["a 9:12 unknown-input input.elsewhere"]),
        (
            "body = '{% if input.elsewhere is defined %}{{ input.elsewhere }}{% endif %}'",
            &["a 9:15 unknown-input input.elsewhere", "a 9:47 unknown-input input.elsewhere"],
        ),
        (
            "body = '{% if input.to.city is defined %}{{ input.to.city.name }}{% endif %}'",
            &["a 9:15 unknown-input input.to.city", "a 9:45 unknown-input input.to.city.name"],
        ),
        ("body = '{{ input.to }} {{ input.id.whatever }}'", &[]),
    ];
    for (line, expected) in cases {
        let lines = format!("{SCHEMA}[[steps]]\nname = 'a'\ncommand = 'do.a'\n{line}\n");
        assert_eq!(of(&lines), *expected, "\n{line}");
    }
}

/// A reply that is null has null below it; one that is not has what its schema says.
#[test]
fn what_no_reply_has_is_an_error_wherever_there_can_be_a_reply() {
    let lines = |more: &str, body: &str, on: &str| {
        format!(
            "[[steps]]\nname = 'a'\ncommand = 'do.a'\nreply.schema = {{ additionalProperties = false, properties.id = {{ type = 'string' }} }}\n{more}\n\
             compensate = {{ command = 'do.b', body = '{{{{ steps.a.reply.{body} }}}}'{on} }}\n\
             [[steps]]\nname = 'b'\ncommand = 'do.b'\nbody = '{{{{ steps.a.reply.{body} }}}}'\n"
        )
    };
    for more in ["", "optional = true", "when = 'input.x'"] {
        assert!(of(&lines(more, "id", "")).is_empty());
        let expected = ["a 10:45 !unknown-reply steps.a.reply.di", "a 14:12 !unknown-reply steps.a.reply.di"];
        assert_eq!(of(&lines(more, "di", "")), expected);
        let expected = ["a 10:45 !reply-type steps.a.reply.id.x", "a 14:12 !reply-type steps.a.reply.id.x"];
        assert_eq!(of(&lines(more, "id.x", "")), expected);
    }
    let doubt = ", on = ['in_doubt']";
    let expected = ["a 10:45 unknown-reply steps.a.reply.di", "a 14:12 !unknown-reply steps.a.reply.di"];
    assert_eq!(of(&lines("", "di", doubt)), expected, "in its undo there is never a reply");
}

#[test]
fn what_a_schema_says_of_a_value_is_told() {
    for (schema, expected) in [
        ("{ type = 'string' }", "`input.v` is a string: nothing is below it"),
        ("{ type = ['null', 'integer'] }", "`input.v` is null or an integer: nothing is below it"),
        ("{ type = ['array', 'number'] }", "`input.v` is an array or a number, which has no `x`"),
    ] {
        let lines = format!(
            "input.properties.v = {schema}\n[[steps]]\nname = 'a'\ncommand = 'do.a'\nbody = '{{{{ input.v.x }}}}'\n"
        );
        let found = match parse(&whole("a", &lines), &mut |_| Err(String::new())) {
            Ok((_, warnings)) => warnings,
            Err(errors) => errors,
        };
        let [found] = found.as_slice() else { panic!("{found:#?}") };
        assert_eq!(found.message, format!("by the schema of the input, {expected}"));
    }
}

#[test]
fn what_an_input_may_lack_is_not_read_as_if_it_were_there() {
    const SCHEMA: &str =
        "input = { required = ['id'], properties = { id = {}, note = {}, to = { properties = { zip = {} } } } }\n";
    let cases: &[(&str, &[&str])] = &[
        ("body = '{{ input.note }}'", &["a 9:12 optional-input input.note"]),
        ("body = 'x {{ input.to.zip }}'", &["a 9:14 optional-input input.to.zip"]),
        ("when = 'input.note'", &["a 9:9 optional-input input.note"]),
        ("body = \"{{ input.note | default('') }} {{ input.id }} {{ input.more }}\"", &[]),
        ("body = '{% if input.note is defined %}{{ input.note }}{% endif %}'", &[]),
        ("when = 'input.to is defined'\nbody = '{{ input.to.zip }}'", &[]),
    ];
    for (line, expected) in cases {
        let lines = format!("{SCHEMA}[[steps]]\nname = 'a'\ncommand = 'do.a'\n{line}\n");
        assert_eq!(of(&lines), *expected, "\n{line}");
    }
}

#[test]
fn inputs_are_held_against_the_schema_of_the_saga_that_gets_them() {
    let start = |input: &str| {
        of(&format!(
            "input = {{ required = ['id'], properties = {{ id = {{}} }}, additionalProperties = false }}\n\
             [[start]]\nexchange = 'e'\nrouting_key = 'k'\ninput = {input}\n{LAST}"
        ))
    };
    assert_eq!(start("{ id = '{{ body.id }}' }"), [""; 0]);
    assert_eq!(start("'{{ body }}'"), [""; 0]);
    assert_eq!(start("{ di = '{{ body.id }}' }"), ["a 9:9 refused-input { di = '{{ body.id }}' }"]);
    assert_eq!(start("{ id = 1, x = 1 }"), ["a 9:9 refused-input { id = 1, x = 1 }"]);

    let child = "input = { required = ['sku'], properties = { sku = {} } }\n";
    let child = whole("child", &format!("{child}{LAST}")).replace("key = '{{ input.id }}'", "key = '{{ input.sku }}'");
    let parent = |lines: &str| {
        let lines = format!(
            "input.required = ['id']\ninput.properties.id = {{}}\n[[steps]]\nname = 'run'\nsaga = 'child'\n{lines}"
        );
        found(&[("a.toml", whole("a", &lines).as_bytes()), ("child.toml", child.as_bytes())])
    };
    assert_eq!(parent("input = { sku = '{{ input.id }}' }\n"), [""; 0]);
    assert_eq!(parent("input = '{{ input }}'\n"), [""; 0]);
    assert_eq!(parent("input = { id = '{{ input.id }}' }\n"), ["a 10:9 refused-input { id = '{{ input.id }}' }"]);
    assert_eq!(parent(""), ["a 9:8 refused-input 'child'"]);
}

#[test]
fn sagas_that_run_sagas_are_held_against_each_other() {
    let runs = |name: &str, children: &[&str], more: &str| {
        let steps = children.iter().map(|child| format!("[[steps]]\nname = 'run_{child}'\nsaga = '{child}'\n{more}"));
        whole(name, &steps.collect::<String>())
    };
    let leaf = |more: &str| whole("leaf", &format!("[[steps]]\nname = 'pay'\ncommand = 'do.pay'\n{more}"));
    type Case<'c> = (&'c [(&'c str, String)], &'c [&'c str]);
    let cases: &[Case<'_>] = &[
        (&[("a.toml", runs("a", &["leaf"], "")), ("leaf.toml", leaf(""))], &[]),
        (&[("a.toml", runs("a", &["lef"], "")), ("leaf.toml", leaf(""))], &["a 7:8 !unknown-saga 'lef'"]),
        // One that is there, but wrong.
        (&[("a.toml", runs("a", &["leaf"], "")), ("leaf.toml", leaf("comand = 1"))], &["leaf 8:1 !unknown-key comand"]),
        // One that may be what can't be read.
        (
            &[("a.toml", runs("a", &["leaf"], "")), ("leaf.toml", "name = 'leaf'\n[[".to_owned())],
            &["leaf 2:3 !syntax "],
        ),
        (&[("a.toml", runs("a", &["a"], ""))], &["a 7:8 !saga-cycle 'a'"]),
        (&[("a.toml", runs("a", &["a"], "when = 'input.more'\n"))], &[]),
        (
            &[
                ("b.toml", runs("b", &["leaf", "c"], "")),
                ("c.toml", runs("c", &["d"], "")),
                ("d.toml", runs("d", &["b"], "")),
                ("leaf.toml", leaf("")),
            ],
            &["b 10:8 !saga-cycle 'c'"],
        ),
        (
            &[("a.toml", runs("a", &["leaf"], "") + LAST), ("leaf.toml", leaf("pivot = true"))],
            &["a 7:8 child-pivot 'leaf'"],
        ),
        (
            &[
                ("a.toml", runs("a", &["b"], "") + LAST),
                ("b.toml", runs("b", &["leaf"], "")),
                ("leaf.toml", leaf("pivot = true")),
            ],
            &["a 7:8 child-pivot 'b'"],
        ),
        (&[("a.toml", runs("a", &["leaf"], "")), ("leaf.toml", leaf("pivot = true"))], &[]),
        (&[("a.toml", runs("a", &["leaf"], "compensate = false\n") + LAST), ("leaf.toml", leaf("pivot = true"))], &[]),
    ];
    for (files, expected) in cases {
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, text)| (*name, text.as_bytes())).collect();
        assert_eq!(found(&files), *expected, "{}", String::from_utf8_lossy(files[0].1));
    }
}

#[test]
fn files_are_more_than_definitions() {
    let leaf = whole("leaf", LAST);
    assert_eq!(found(&[("a.toml", b"name = '\xff'")]), ["a 1:9 !not-utf-8 \u{fffd}"]);
    assert_eq!(found(&[("a.toml", leaf.as_bytes()), ("b.toml", leaf.as_bytes())]), ["b 1:8 !duplicate-name 'leaf'"]);
}

/// The codes that are quoted in `text`: in Rust after what makes a problem, in Markdown in the first column of a table.
fn codes<'t>(parts: impl Iterator<Item = &'t str>, quote: char) -> BTreeSet<&'t str> {
    let word = |part: &'t str| part.trim_start().strip_prefix(quote)?.split_once(quote).map(|(word, _)| word);
    parts.filter_map(word).collect()
}

#[test]
fn every_code_is_documented_and_every_documented_code_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut emitted = BTreeSet::new();
    let sources = ["src/core/parse.rs", "src/core/parse", "src/lint.rs", "src/lint", "src/routing.rs"];
    let more = ["src/definitions/folder.rs", "src/cli/check.rs"];
    for source in sources.iter().chain(&more).map(|source| root.join(source)) {
        let files = match source.is_dir() {
            true => std::fs::read_dir(&source).unwrap().map(|entry| entry.unwrap().path()).collect(),
            false => vec![source],
        };
        for file in files {
            let text = std::fs::read_to_string(file).unwrap();
            for makes in ["error(", "warning(", "code:", "unknown:", "unfit:"] {
                emitted.extend(codes(text.split(makes).skip(1), '"').iter().map(ToString::to_string));
            }
        }
    }
    let text = std::fs::read_to_string(root.join("docs/definitions.md")).unwrap();
    let (_, problems) = text.split_once("\n## Problems\n").unwrap();
    let (problems, _) = problems.split_once("\n## ").unwrap_or((problems, ""));
    let first_columns = problems.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let documented: BTreeSet<String> =
        first_columns.flat_map(|codes| codes.split("`, `")).map(|code| code.trim_end_matches('`').to_owned()).collect();
    assert_eq!(emitted, documented);
    assert!(documented.len() > 35, "{documented:?}");
}

#[test]
fn the_examples_of_the_documentation_are_right() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/definitions.md")).unwrap();
    let examples: Vec<&str> =
        text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect();
    assert!(examples.len() > 5);
    for example in examples {
        let definition = match example.starts_with("name ") {
            true => example.to_owned(),
            false => {
                format!("name = 'x'\nkey = '{{{{ input.id }}}}'\n[defaults]\nexchange = 'shop.commands'\n{example}")
            }
        };
        let shipment = "name = 'shipment'\n[[steps]]\nname = 'send'\ncommand = 'send'\nexchange = 'shop.commands'\n";
        let found = found_with("", &[("a.toml", definition.as_bytes()), ("shipment.toml", shipment.as_bytes())]);
        assert_eq!(found, [""; 0], "{definition}");
    }
}
