//! Templates: types, numbers, errors, bounds.

use std::sync::Arc;

use proptest::prelude::*;
use sagad::core::id::SagaId;
use sagad::core::saga::{Failure, Reason, SagaError};
use sagad::core::template::{Body, Element, Expression, ReplyView, SagaScope, SagaView, Scope, StepView, Template};
use sagad::core::time::Time;
use serde_json::{Value, json};
use uuid::Uuid;

fn step(name: &str, status: &'static str, reply: ReplyView) -> StepView {
    StepView { name: name.into(), status, reply }
}

fn scope(input: Value) -> SagaScope {
    let reply = json!({ "id": "P-1", "amount": 12, "lines": [{ "sku": "a" }, { "sku": "b" }], "none": null });
    SagaScope {
        input: Arc::new(input),
        steps: [
            step("pay", "succeeded", ReplyView::Known(Arc::new(reply))),
            step("ship-it", "skipped", ReplyView::Null),
            step("later", "pending", ReplyView::Missing),
        ]
        .into(),
        saga: Some(SagaView {
            id: SagaId(Uuid::from_u128(7)),
            name: "order".into(),
            key: None,
            revision: 3,
            started_at: Some(Time(1_767_323_045_678)),
        }),
        error: None,
        element: None,
    }
}

fn render(template: &str, input: Value) -> Result<Value, String> {
    let template = Template::compile(template).map_err(|error| error.to_string())?;
    template.render(&Scope::Saga(scope(input))).map_err(|error| error.to_string())
}

#[track_caller]
fn yields(template: &str, input: Value, expected: Value) {
    assert_eq!(render(template, input), Ok(expected), "{template}");
}

#[track_caller]
fn fails(template: &str, input: Value, expected: &str) {
    match render(template, input) {
        Err(message) => assert!(message.contains(expected), "{template}\n   says {message}\n  lacks {expected}"),
        Ok(value) => panic!("{template} yields {value:?}, not an error about {expected}"),
    }
}

#[test]
fn one_whole_expression_keeps_the_type() {
    let input = json!({ "n": 1, "s": "x", "b": true, "z": null, "a": [1, { "k": [2] }], "o": { "y": 1, "x": 2 } });
    for (template, expected) in [
        ("{{ input.n }}", json!(1)),
        ("{{input.s}}", json!("x")),
        ("{{ input.b }}", json!(true)),
        ("{{ input.z }}", json!(null)),
        ("{{ input.a }}", json!([1, { "k": [2] }])),
        ("{{ input.a[1].k[0] }}", json!(2)),
        ("{{ input.a[-1]['k'] }}", json!([2])),
        ("{{ input.a.0 }}", json!(1)),
        ("{{- input.n -}}", json!(1)),
        ("{{ steps.pay.reply.lines[1].sku }}", json!("b")),
        ("{{ steps['pay'].status }}", json!("succeeded")),
        ("{{ input.n + 1 }}", json!(2)),
        ("{{ input.o | items | list }}", json!([["y", 1], ["x", 2]])),
        ("{{ {'b': input.n, 'a': [input.s]} }}", json!({ "b": 1, "a": ["x"] })),
        ("{{ input.s if input.b else none }}", json!("x")),
        ("{{ steps.pay.reply.lines | map(attribute='sku') | join('+') }}", json!("a+b")),
        ("{{ input.a | length > 1 and not input.z }}", json!(true)),
        (" {{ input.n }}", json!(" 1")),
        ("no template", json!("no template")),
    ] {
        yields(template, input.clone(), expected);
    }
    let Ok(Value::Object(fields)) = render("{{ input.o }}", input) else { panic!("not an object") };
    assert_eq!(fields.keys().collect::<Vec<_>>(), ["y", "x"]);
}

#[test]
fn text_shows_values_as_json() {
    let input = json!({ "n": 1.50, "z": null, "a": ["x", 1] });
    yields(
        "n={{ input.n }} z={{ input.z }} a={{ input.a }} {{ 'q' ~ 1 }}\n",
        input.clone(),
        json!("n=1.5 z=null a=[\"x\",1] q1\n"),
    );
    yields("{{ input.a ~ '' }}", input.clone(), json!("[\"x\",1]"));
    yields("<{{ '<b>' }}{{ input.a | tojson }}>", input, json!("<<b>[\"x\",1]>"));
}

#[test]
fn blocks_work() {
    let input = json!({ "items": [{ "sku": "a", "qty": 2 }, { "sku": "b", "qty": 0 }], "vip": true });
    let each = "{% for item in input.items if item.qty > 0 %}{{ loop.index }}/{{ loop.length }}:{{ item.sku }}{% else %}none{% endfor %}";
    yields(each, input.clone(), json!("1/1:a"));
    yields(each, json!({ "items": [] }), json!("none"));
    yields("{% if input.vip %}V{% set x = 1 %}{% else %}N{% endif %}", input.clone(), json!("V"));
    yields("{% set t = 'a' ~ 'b' %}{{ t }}{{ t | upper }}", input.clone(), json!("abAB"));
    yields("{% for k, v in {'x': 1}|items %}{{ k }}{{ v }}{% endfor %}", input.clone(), json!("x1"));
    yields("{% set input = 3 %}{{ input }}{# comment #}", input, json!("3"));
}

#[test]
fn the_saga_and_its_error_are_in_scope() {
    yields("{{ saga.id }}", json!({}), json!("00000000-0000-0000-0000-000000000007"));
    yields("{{ saga.started_at }}", json!({}), json!("2026-01-02T03:04:05.678Z"));
    yields(
        "{{ saga }}",
        json!({}),
        json!({ "id": "00000000-0000-0000-0000-000000000007", "name": "order", "key": null, "revision": 3, "started_at": "2026-01-02T03:04:05.678Z" }),
    );
    fails("{{ error.reason }}", json!({}), "only in compensations");
    let error = SagaError { step: Some(0), failure: Failure::new(Reason::Rejected, "no stock") };
    let scope = Scope::Saga(SagaScope { error: Some((Some("pay".into()), Arc::new(error))), ..scope(json!({})) });
    let rendered =
        Template::compile("{{ error.step }}/{{ error.reason }}/{{ error.message | upper }}").unwrap().render(&scope);
    assert_eq!(rendered, Ok(json!("pay/rejected/NO STOCK")));
}

#[test]
fn null_replies_are_null_all_the_way_down() {
    yields("{{ steps['ship-it'].reply }}", json!({}), json!(null));
    yields("{{ steps['ship-it'].reply.a[0].b }}", json!({}), json!(null));
    yields("{{ steps['ship-it'].reply.a.b is none }}", json!({}), json!(true));
    yields("{{ steps['ship-it'].reply.a.b or 'nothing' }}", json!({}), json!("nothing"));
    fails("{{ steps.later.reply }}", json!({}), "step `later` has not run");
    fails("{{ steps.later.reply.id | default(1) }}", json!({}), "step `later` has not run");
    yields("{{ steps.later.status }}", json!({}), json!("pending"));
}

#[test]
fn unknown_names_are_errors_that_name_them() {
    let input = json!({ "order_id": 1, "z": null, "items": [1] });
    for (template, expected) in [
        ("{{ inptu.a }}", "unknown name `inptu`; did you mean `input`?"),
        ("{{ input.a == null }}", "unknown name `null`; JSON's null is `none` here"),
        ("{{ env('HOME') }}", "unknown function `env`"),
        ("{{ range }}", "unknown name `range`"),
        ("{{ input.ordr_id }}", "`input` has no `ordr_id`; did you mean `order_id`?"),
        ("x{{ input.nix }}", "`input` has no `nix`"),
        ("{{ input.nix + 1 }}", "`input` has no `nix`"),
        ("{{ input.nix == 1 }}", "`input` has no `nix`"),
        ("{{ input.z.a }}", "`input.z` is null, it has no `a`"),
        ("{{ input.items[4] }}", "`input.items` has 1 elements, so none at 4"),
        ("{{ steps.pay.reply.idd }}", "`steps.pay.reply` has no `idd`"),
        ("{{ steps.pya.reply }}", "there is no step `pya`; did you mean `pay`?"),
        ("{{ steps.pay }}", "write `steps.NAME.reply`"),
        ("{{ steps.pay.answers }}", "no `answers`"),
        ("{{ steps[input.z].reply }}", "`steps` needs the name of a step"),
        ("{{ steps.ship-it.reply }}", "a name with a dash as `steps['a-name'].reply`"),
        ("{{ {'$serde_json::private::Number': '1'} }}", "can't be a key"),
        ("{{ saga.nam }}", "did you mean `name`?"),
        ("{{ saga.id.x }}", "nothing is below `saga.id`"),
        ("{{ input.z | uper }}", "unknown filter `uper`; did you mean `upper`?"),
        ("{{ input.z is nan }}", "unknown test `nan`"),
        ("{{ input.z.upper() }}", "write `… | upper`"),
        ("{{ 1 if input.z }}", "give its `if` an `else`"),
        ("{{ input.order_id", "end of variable block"),
    ] {
        fails(template, input.clone(), expected);
    }
    yields("{{ input.nix | default(5) }}", input.clone(), json!(5));
    yields("{{ input.nix is defined }}", input, json!(false));
}

#[test]
fn expressions_judge() {
    let input = json!({ "n": 5, "s": "", "t": ["a"], "big": 9007199254740993i64 });
    for (source, expected) in [
        ("input.n > 3 and input.n < 10", true),
        ("1 < input.n <= 5", true),
        ("input.s", false),
        ("input.t", true),
        ("input.n", true),
        ("'a' in input.t and 'b' not in input.t", true),
        ("input.big == 9007199254740992", false),
        ("input.nix is undefined", true),
        ("steps.pay.reply.amount == 12", true),
    ] {
        let expression = Expression::compile(source).unwrap();
        assert_eq!(expression.holds(&Scope::Saga(scope(input.clone()))), Ok(expected), "{source}");
    }
    let braces = Expression::compile("{{ input.n }}").unwrap_err();
    assert!(braces.to_string().contains("without `{{`"));
    assert!(Expression::compile("input.nix > 1").unwrap().holds(&Scope::Saga(scope(input))).is_err());
}

#[test]
fn calculations_are_exact_or_refused() {
    let input: Value = serde_json::from_str(
        r#"{ "i": 9007199254740993, "u": 18446744073709551615, "huge": 170141183460469231731687303715884105727,
             "vast": 999999999999999999999999999999999999999999, "fine": 0.1234567890123456789, "tenth": 0.10, "m": 1e400 }"#,
    )
    .unwrap();
    yields("{{ input.i + 1 }}", input.clone(), json!(9007199254740994i64));
    yields("{{ input.u * 2 }}", input.clone(), serde_json::from_str("36893488147419103230").unwrap());
    yields("{{ -input.i }}", input.clone(), json!(-9007199254740993i64));
    yields("{{ 7 // 2 }}{{ -7 // 2 }}{{ -7 % 3 }}{{ 2 ** 3 }}", input.clone(), json!("3-428"));
    yields("{{ input.tenth * 3 > 0.3 }}", input.clone(), json!(true));
    yields("{{ input.i / 3 }}", json!({ "i": 12 }), json!(4.0));
    yields("{{ [1, 2.5] | sum }}", input.clone(), json!(3.5));
    yields("{{ [input.i] | sum }}", input.clone(), json!(9007199254740993i64));
    yields("{{ input | length }}", input.clone(), json!(7));
    fails("{{ input.i + 0.5 }}", input.clone(), "too large to calculate with together with fractions");
    fails("{{ input.i / 2 }}", input.clone(), "too large");
    fails("{{ input.i | float }}", input.clone(), "too large");
    fails("{{ input.huge + 1 }}", input.clone(), "has no result");
    fails("{{ input.vast + 1 }}", input.clone(), "more digits than a calculation can keep");
    fails("{{ input.fine * 1 }}", input.clone(), "more digits");
    fails("{{ input.m > 1 }}", input.clone(), "more digits");
    fails("{{ input.i / 0 }}", json!({ "i": 1 }), "has no result");
    fails("{{ input.i // 0 }}", json!({ "i": 1 }), "has no result");
    fails("{{ input.i + 'x' }}", json!({ "i": 1 }), "`+` does not work on a number and a string");
    // Passing on is not calculating.
    for key in ["i", "u", "huge", "vast", "fine", "tenth", "m"] {
        yields(&format!("{{{{ input.{key} }}}}"), input.clone(), input[key].clone());
    }
    yields("{{ input if true else none }}", input.clone(), input);
}

#[test]
fn whole_numbers_and_fractions_are_divided_downwards() {
    // From the input: what is constant is worked out while the template is compiled.
    for (a, b, whole, rest) in [
        (json!(7), json!(2), json!(3), json!(1)),
        (json!(-7), json!(2), json!(-4), json!(1)),
        (json!(7), json!(-2), json!(-4), json!(-1)),
        (json!(-7), json!(-2), json!(3), json!(-1)),
        (json!(8), json!(3), json!(2), json!(2)),
        (json!(-8), json!(3), json!(-3), json!(1)),
        (json!(6), json!(3), json!(2), json!(0)),
        (json!(-6), json!(3), json!(-2), json!(0)),
        (json!(6), json!(-3), json!(-2), json!(0)),
        (json!(7.5), json!(2), json!(3.0), json!(1.5)),
        (json!(-7.5), json!(2), json!(-4.0), json!(0.5)),
        (json!(7.5), json!(-2), json!(-4.0), json!(-0.5)),
    ] {
        let input = json!({ "a": a, "b": b });
        yields("{{ input.a // input.b }}", input.clone(), whole);
        yields("{{ input.a % input.b }}", input, rest);
    }
    let input = json!({ "a": 7.5, "b": 2, "zero": 0.0 });
    yields("{{ input.a - input.b }}", input.clone(), json!(5.5));
    yields("{{ input.a * input.b }}", input.clone(), json!(15.0));
    yields("{{ input.a + input.b }}", input.clone(), json!(9.5));
    yields("{{ input.a / input.b }}", input.clone(), json!(3.75));
    yields("{{ input.a ** input.b }}", input.clone(), json!(56.25));
    yields("{{ -input.a }}", input.clone(), json!(-7.5));
    for operator in ["/", "//", "%"] {
        fails(&format!("{{{{ input.a {operator} input.zero }}}}"), input.clone(), "has no result");
    }
}

#[test]
fn texts_and_lists_are_joined_up_to_a_bound() {
    const MOST: usize = 1024 * 1024;
    yields("{{ input.a + input.b }}", json!({ "a": "ab", "b": "c" }), json!("abc"));
    yields("{{ input.a + input.b }}", json!({ "a": [1], "b": [2, 3] }), json!([1, 2, 3]));
    fails("{{ input.a + input.b }}", json!({ "a": [1], "b": "c" }), "`+` does not work on");
    let long = |length: usize| json!({ "a": "ab", "b": "x".repeat(length), "n": 2 });
    for template in [
        "{{ input.a + input.b }}",
        "{{ input.a ~ input.b }}",
        "{{ [input.a, input.b] | join }}",
        "{{ input.a }}{{ input.b }}",
    ] {
        let joined = render(template, long(MOST - 2)).unwrap();
        assert_eq!(joined.as_str().map(str::len), Some(MOST), "{template}");
        fails(template, long(MOST - 1), "the text would be longer than 1048576 bytes");
    }
    for template in ["{{ input.b * input.n }}", "{{ input.n * input.b }}"] {
        let repeated = render(template, long(MOST / 2)).unwrap();
        assert_eq!(repeated.as_str().map(str::len), Some(MOST), "{template}");
        fails(template, long(MOST / 2 + 1), "the text would be longer than 1048576 bytes");
    }
}

#[test]
fn lists_can_be_cut() {
    let input = json!({ "a": [1, 2, 3, 4, 5] });
    for (slice, expected) in [
        ("[1:]", json!([2, 3, 4, 5])),
        ("[:2]", json!([1, 2])),
        ("[1:4:2]", json!([2, 4])),
        ("[::3]", json!([1, 4])),
        ("[::-1]", json!([5, 4, 3, 2, 1])),
    ] {
        yields(&format!("{{{{ input.a{slice} }}}}"), input.clone(), expected);
    }
    for slice in ["[1::-1]", "[:3:-1]", "[::-2]", "[::0]"] {
        fails(&format!("{{{{ input.a{slice} }}}}"), input.clone(), "no slice can step like this");
    }
}

#[test]
fn nothing_runs_long_grows_large_or_looks_outside() {
    let input = json!({ "n": 1_000_000_000, "s": "xxxxxxxxxx", "many": vec![1; 2000] });
    let doubling = format!("{{% set a = input.s %}}{}{{{{ a | length }}}}", "{% set a = a ~ a %}".repeat(64));
    let sharing = format!("{{% set a = [1] %}}{}{{{{ a == a }}}}", "{% set a = [a, a] %}".repeat(64));
    let deep = format!("{{% set a = [1] %}}{}{{{{ a }}}}", "{% set a = [a] %}".repeat(500));
    let maps = format!("{{% set a = {{'k': 1}} %}}{}{{{{ a }}}}", "{% set a = {'k': a} %}".repeat(500));
    let nested = format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000));
    let counted = "{% for a in input.many %}{% for b in input.many %}{% for c in input.many %}x{% endfor %}{% endfor %}{% endfor %}";
    let hostile = [
        "{{ 'x' * 1000000000 }}",
        "{{ input.s * input.n }}",
        "{{ input.n * input.s }}",
        "{{ [1] * 1000000000 }}",
        "{{ range(1000000000) }}",
        "{{ range(1000000000) | list }}",
        "{{ range(100000) | map('string') | join(input.s * 1000) }}",
        "{{ (input.s * 1000) | replace('x', input.s * 1000) }}",
        "{{ (input.s * 90000) | replace('', input.s) }}",
        "{{ input.s | center(1000000000) }}",
        "{{ input.s | indent(1000000000) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ [1] | batch(1000000000) }}",
        "{{ input.s | xmlattr }}",
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% for a in range(100000) %}{{ input.s * 1000 }}{% endfor %}",
        "{% for a in range(100000) %}{{ input.many | sum }}{% endfor %}",
        "{% for a in input.many recursive %}{{ loop([1]) }}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% include '/etc/passwd' %}",
        "{% import 'x' as y %}",
        "{% extends 'x' %}",
        "{{ debug() }}",
        "{{ dict(a=1) }}",
        "{{ namespace() }}",
        "{{ self }}",
        "{{ 2 ** 1000000 }}",
        "{{ 10 ** input.n }}",
        "{{ input.many[::-9223372036854775808] }}",
        "{{ input.many[0:5:-1] }}",
        "{{ input.__class__ }}",
        "{% do input %}",
        "{% set x %}{% endset %}",
        "{% with a = 1 %}{% endwith %}",
        "{% filter upper %}{% endfilter %}",
        counted,
        &doubling,
        &sharing,
        &deep,
        &maps,
        &nested,
    ];
    let began = std::time::Instant::now();
    for template in hostile {
        let result = render(template, input.clone());
        assert!(result.is_err(), "{template:.80} yields {result:.80?}");
    }
    // Two seconds of work in a debug build; what has no bound would take days, even on a machine that is not overloaded.
    assert!(began.elapsed().as_secs() < 300, "{:?}", began.elapsed());
}

#[test]
fn references_are_all_that_is_read() {
    let read = |source: &str| -> Vec<String> {
        let template = Template::compile(source).unwrap();
        template
            .references()
            .iter()
            .map(|reference| format!("{} = {}", reference.path.join("."), &source[reference.span.clone()]))
            .collect()
    };
    assert_eq!(read("{{ steps.pay.reply.id }}"), ["steps.pay.reply.id = steps.pay.reply.id"]);
    assert_eq!(read("a {{ input.a[0]['b'] }} {{ saga }}"), ["input.a.0.b = input.a[0]['b']", "saga = saga"]);
    assert_eq!(
        read("{{ (input.a + steps['x-y'].status) | default(input.b[input.c].d) }}"),
        ["input.a = input.a", "steps.x-y.status = steps['x-y'].status", "input.b = input.b", "input.c = input.c"],
    );
    assert_eq!(
        read("{% for i in input.items %}{{ i.sku }}{{ error.reason }}{% endfor %}{% if input.z is none %}{% endif %}"),
        ["input.items = input.items", "error.reason = error.reason", "input.z = input.z"],
    );
    assert_eq!(read("{{ 1 if saga.key else {'k': [input.v][0]} }}"), ["saga.key = saga.key", "input.v = input.v"]);
    assert_eq!(read("{{ input.a[true] }}"), ["input.a = input.a"], "a truth is no place");
}

#[test]
fn references_tell_what_is_done_with_them() {
    let operator = |source: &str| Template::compile(source).unwrap().references()[0].operator;
    for wants_a_number in ["-", "*", "/", "//", "%", "**"] {
        assert_eq!(operator(&format!("{{{{ input.a {wants_a_number} input.b }}}}")), Some(wants_a_number));
    }
    // Texts can be joined and compared, too.
    for beside_a_number in ["+", "<", "<=", ">", ">="] {
        assert_eq!(operator(&format!("{{{{ input.a {beside_a_number} 1 }}}}")), Some(beside_a_number));
        assert_eq!(operator(&format!("{{{{ input.a {beside_a_number} input.b }}}}")), None);
    }
    let texts = |source: &str| {
        let expression = Expression::compile(source).unwrap();
        let texts = expression.references()[0].texts.iter();
        texts.map(|(text, span)| format!("{text} = {}", &source[span.clone()])).collect::<Vec<_>>()
    };
    assert_eq!(texts("steps.pay.status == 'failed'"), ["failed = 'failed'"]);
    assert_eq!(texts("steps.pay.status in ['failed', 'skipped']"), ["failed = 'failed'", "skipped = 'skipped'"]);
    assert_eq!(
        texts("steps.pay.status in ('failed', input.b, 'skipped')"),
        ["failed = 'failed'", "skipped = 'skipped'"]
    );
}

#[test]
fn a_template_may_be_long_wide_and_deep_within_bounds() {
    let compiled = |source: &str| Template::compile(source).map(drop).map_err(|error| error.to_string());
    let long = |bytes: usize| format!("{{{{ input }}}}{}", "x".repeat(bytes - 11));
    assert_eq!(compiled(&long(64 * 1024)), Ok(()));
    assert_eq!(compiled(&long(64 * 1024 + 1)), Err("a template may be 65536 bytes long, this one has 65537".into()));
    // Many values are no deep expression.
    for value in ["input.a", "'text'", "17", "1.5", "{'k': 1}"] {
        let count = if value.contains(['.', '{']) && value != "1.5" { 120 } else { 1_000 };
        let list = vec![value; count].join(", ");
        assert_eq!(compiled(&format!("{{{{ [{list}] | length }}}}")), Ok(()), "{value}");
    }
    assert_eq!(compiled(&format!("{{{{ [{}] }}}}", vec!["input"; 1_000].join(", "))), Ok(()));
    let too_wide = "an expression may have 250 operators, and an `if` as many branches";
    let sum = |operators: usize| Expression::compile(&format!("1{}", " + input".repeat(operators))).map(drop);
    assert_eq!(sum(250), Ok(()));
    assert!(sum(251).unwrap_err().to_string().starts_with(too_wide));
    let branches = |count: usize| format!("{{% if input.a %}}{}{{% endif %}}", "{% elif input.b %}x".repeat(count));
    assert!(compiled(&branches(250)).unwrap_err().starts_with("blocks are nested"));
    assert!(compiled(&branches(251)).unwrap_err().starts_with(too_wide));
    let nested = |depth: usize| format!("{}x{}", "{% if input %}".repeat(depth), "{% endif %}".repeat(depth));
    assert_eq!(compiled(&nested(15)), Ok(()));
    assert_eq!(compiled(&nested(16)), Err("blocks are nested more than 16 deep".into()));
    assert_eq!(compiled(&nested(1).repeat(100)), Ok(()), "one after the other is not one in the other");
    fails("{% for a in input.b recursive %}{{ a }}{% endfor %}", json!({ "b": [] }), "no `for … recursive` block");
}

#[test]
fn filters_of_our_own_do_what_their_names_say() {
    let input = json!({ "s": "banana", "n": 12, "list": [1, "a", [2]], "deep": [{ "x": 1 }, { "x": 2 }] });
    yields("{{ input.n | string }}", input.clone(), json!("12"));
    yields("{{ input.list | string }}", input.clone(), json!("[1,\"a\",[2]]"));
    yields("{{ input.s | replace('an', 'o') }}", input.clone(), json!("booa"));
    yields("{{ input.list | join('-') }}", input.clone(), json!("1-a-[2]"));
    yields("{{ input.deep | sum(attribute='x', start=10) }}", input.clone(), json!(13));
    fails("{{ {input.list: 1} }}", input, "the key `[1,\"a\",[2]]` of an object is not a string");
}

#[test]
fn names_of_a_loop_tell_where_it_is() {
    let each = "{% for i in input.a %}{{ loop.index0 }}{{ loop.index }}{{ loop.first }}{{ loop.last }} {% endfor %}";
    yields(each, json!({ "a": [7, 8, 9] }), json!("01truefalse 12falsefalse 23falsetrue "));
}

#[test]
fn an_access_after_a_choice_is_of_what_was_chosen() {
    for (chosen, expected) in [(true, json!(1)), (false, json!(2))] {
        let input = json!({ "c": chosen, "o": { "k": 1, "l": [1] }, "k": 2, "l": [2], "z": null });
        yields("{{ (input.o if input.c else input)['k'] }}", input.clone(), expected.clone());
        yields("{{ (input.o if input.c else input).l[0] }}", input.clone(), expected.clone());
        yields("{{ ((input.c and input.o) or input).k }}", input.clone(), expected.clone());
        yields("{{ input['o' if input.c else 'z'] is none }}", input, json!(!chosen));
    }
}

#[test]
fn calculations_are_our_own_whatever_the_operator() {
    let input: Value = serde_json::from_str(r#"{ "i": 9007199254740993, "b": 10, "s": "x", "z": null }"#).unwrap();
    for operator in ["-", "*", "/", "//", "%", "**"] {
        fails(&format!("{{{{ input.i {operator} 0.5 }}}}"), input.clone(), "too large to calculate with");
    }
    yields("{{ input.b ** 3 }}", input.clone(), json!(1000));
    fails("{{ input.b ** 1000 }}", input.clone(), "10 ** 1000 has no result");
    fails("{{ -input.s }}", input.clone(), "`-` does not work on a number and a string");
    yields("{{ input.z ~ input.b }}", input.clone(), json!("null10"));
    // What goes wrong is told, not what was let pass.
    fails("{{ (input.nix | default(1)) + input.s }}", input.clone(), "`+` does not work on a number and a string");
}

#[test]
fn results_are_nested_within_bounds() {
    for (open, close, shown) in [("[", "]", "["), ("{'k': ", "}", "{\"k\":")] {
        let around = |inner: &str, times: usize| format!("{}{inner}{}", open.repeat(times), close.repeat(times));
        // The parser takes fewer brackets at a time.
        let nested = |depth: usize| {
            let (a, b, c) = (around("1", 32), around("a", 32), around("b", 32));
            let whole = around("c", depth - 96);
            render(&format!("{{% set a = {a} %}}{{% set b = {b} %}}{{% set c = {c} %}}{{{{ {whole} }}}}"), json!({}))
        };
        let text = format!("{}1{}", shown.repeat(128), close.repeat(128));
        assert_eq!(nested(128), Ok(json!(text)));
        assert_eq!(nested(129), Err("the result is nested more than 128 deep".to_owned()));
    }
}

#[test]
fn numbers_in_blocks_are_passed_on_as_they_are() {
    let input: Value = serde_json::from_str(r#"{ "vast": 999999999999999999999999999999999999999999 }"#).unwrap();
    yields("{% if true %}{{ input.vast }}{% endif %}", input.clone(), json!(input["vast"].to_string()));
}

fn number() -> impl Strategy<Value = String> {
    ("-?(0|[1-9][0-9]{0,40})", proptest::option::of("[.][0-9]{1,40}"), proptest::option::of("[eE][+-]?[0-9]{1,3}"))
        .prop_map(|(whole, fraction, exponent)| {
            [whole, fraction.unwrap_or_default(), exponent.unwrap_or_default()].concat()
        })
}

proptest! {
    #[test]
    fn any_number_passes_through_as_it_is(text in number()) {
        let input: Value = serde_json::from_str(&format!(r#"{{ "a": [{text}] }}"#)).unwrap();
        // serde_json writes `1E5` as `1e+5`.
        let text = input["a"][0].to_string();
        let exact = |value: Value| value.to_string();
        for template in ["{{ input.a[0] }}", "{{ input.a | default([]) | list and input.a[0] }}"] {
            // The second one is a calculation as far as MiniJinja is concerned: exact or refused.
            match render(template, input.clone()) {
                Ok(value) if template.len() < 20 => prop_assert_eq!(exact(value), text.clone()),
                Ok(value) => prop_assert_eq!(value.as_f64(), text.parse().ok()),
                Err(message) => prop_assert!(template.len() > 20 && message.contains("more digits"), "{}", message),
            }
        }
        prop_assert_eq!(render("{{ input.a }}", input.clone()).map(exact), Ok(format!("[{text}]")));
        prop_assert_eq!(render("n={{ input.a[0] }}", input.clone()), Ok(json!(format!("n={text}"))));
        prop_assert_eq!(render("{{ input.a or 1 }}", input).map(exact), Ok(format!("[{text}]")));
    }

    #[test]
    fn no_template_panics(source in r#"\{\{ (input|steps|saga|[a-z0-9.'"|()+*/~%<>=\[\]{}:, -]){0,30} \}\}"#) {
        let _ = render(&source, json!({ "a": [1, "b", null], "s": "text" }));
    }
}

/// What docs/definitions.md promises is there; a word too many or too few in its lists fails.
#[test]
fn the_documented_filters_and_tests_are_those_there_are() {
    let documentation = include_str!("../../docs/definitions.md");
    let listed = |begin: &str| -> String {
        let list = documentation.split(begin).nth(1).unwrap().split(".\n").next().unwrap();
        list.split('`').skip(1).step_by(2).collect::<Vec<_>>().join(", ")
    };
    fails("{{ input | qqqqqqqqqq }}", json!({}), &format!("there are {}", listed("- Filters: ")));
    fails("{{ input is qqqqqqqqqq }}", json!({}), &format!("there are {}", listed("- Tests, after `is`: ")));
}

#[test]
fn what_was_compiled_is_still_there_as_written() {
    assert_eq!(Template::compile("{{ input.a|int }}").unwrap().source(), json!("{{ input.a|int }}"));
    assert_eq!(Template::compile("plain").unwrap().source(), json!("plain"));
    assert_eq!(Expression::compile("input.a >  1").unwrap().source(), "input.a >  1");
    let template = |source| Body::Template(Template::compile(source).unwrap());
    let body =
        Body::Object([("a".into(), Body::Array(vec![template("{{ input }}"), Body::Literal(json!(1.50))]))].into());
    assert_eq!(body.source(), json!({"a": ["{{ input }}", 1.50]}));
}

/// In the compensation of the element `at` of the `foreach` step `each`, whose second element has no reply.
fn in_element(at: u32) -> Scope {
    let replies = [Some(Arc::new(json!({ "id": "R-0" }))), None, Some(Arc::new(json!({ "id": "R-2", "n": [1] })))];
    let each = step("each", "succeeded", ReplyView::Many(replies.into()));
    let list = Arc::new(json!([{ "sku": "a", "tags": ["x"] }, { "sku": "b" }, 7]));
    let scope = scope(json!({ "n": 1 }));
    let steps = scope.steps.iter().cloned().chain([each]).collect();
    Scope::Saga(SagaScope { element: Some(Element { step: 3, list, at }), steps, ..scope })
}

fn render_in(scope: &Scope, template: &str) -> Result<Value, String> {
    Template::compile(template).unwrap().render(scope).map_err(|error| error.to_string())
}

#[test]
fn an_element_of_a_foreach_has_its_item_its_index_and_its_reply() {
    for (at, template, expected) in [
        (0, "{{ item }}", json!({ "sku": "a", "tags": ["x"] })),
        (0, "{{ item.tags[0] }}{{ index }}", json!("x0")),
        (0, "{{ item.tags | first | upper }}", json!("X")),
        (1, "{{ index + 1 }}", json!(2)),
        (2, "{{ item }}", json!(7)),
        (0, "{{ steps.each.reply.id }}", json!("R-0")),
        (1, "{{ steps.each.reply.id }}", json!(null)),
        (1, "{{ steps.pay.reply.id }}", json!("P-1")),
        (1, "{% for item in [1, 2] %}{{ item }}{% endfor %}", json!("12")),
    ] {
        assert_eq!(render_in(&in_element(at), template), Ok(expected), "{template}");
    }
    // An element of another step is none of this one.
    let Scope::Saga(own) = in_element(0) else { unreachable!() };
    let element = own.element.as_ref().map(|it| Element { step: 0, ..it.clone() });
    let beside = Scope::Saga(SagaScope { element, ..own });
    for (scope, template, expected) in [
        (in_element(1), "{{ item.tags }}", "`item` has no `tags`"),
        (in_element(3), "{{ item }}", "the list has no element 3"),
        (
            Scope::Saga(scope(json!({}))),
            "{{ item.sku }}",
            "there is no `item` here; only steps with `foreach` have one",
        ),
        (Scope::Saga(scope(json!({}))), "{{ index + 1 }}", "there is no `index` here"),
        (beside, "{{ steps.each.reply.id }}", "`steps.each` has a reply for each element; write `steps.each.replies`"),
    ] {
        let message = render_in(&scope, template).unwrap_err();
        assert!(message.contains(expected), "{template}: {message}");
    }
}

#[test]
fn the_replies_of_a_foreach_are_a_list() {
    let scope = Scope::Saga(SagaScope {
        element: None,
        ..match in_element(0) {
            Scope::Saga(scope) => scope,
            Scope::Message { .. } => unreachable!(),
        }
    });
    for (template, expected) in [
        ("{{ steps.each.replies }}", json!([{ "id": "R-0" }, null, { "id": "R-2", "n": [1] }])),
        ("{{ steps.each.replies[2].n[0] }}", json!(1)),
        ("{{ steps.each.replies[-1].id }}", json!("R-2")),
        ("{{ steps.each.replies[1].id }}", json!(null)),
        ("{{ steps.each.replies | length }}", json!(3)),
        ("{{ steps.each.replies | select | map(attribute='id') | join(',') }}", json!("R-0,R-2")),
        (
            "{% for it in steps.each.replies %}{{ loop.index }}{{ it.id if it else '-' }}{% endfor %}",
            json!("1R-02-3R-2"),
        ),
        ("{{ steps['ship-it'].replies }}", json!(null)),
    ] {
        assert_eq!(render_in(&scope, template), Ok(expected), "{template}");
    }
    for (template, expected) in [
        ("{{ steps.each.reply.id }}", "`steps.each` has a reply for each element; write `steps.each.replies`"),
        ("{{ steps.pay.replies }}", "`steps.pay` has one reply: it has no `foreach`; write `steps.pay.reply`"),
        ("{{ steps.each.replies[3] }}", "`steps.each.replies` has 3 elements, and no `3`"),
        ("{{ steps.each.replies[0].nix }}", "`steps.each.replies[0]` has no `nix`"),
        ("{{ steps.later.replies }}", "has not run"),
    ] {
        let message = render_in(&scope, template).unwrap_err();
        assert!(message.contains(expected), "{template}: {message}");
    }
}

/// What is below the reply of a step that was skipped is null where the path says it; a computed key is looked up, and not found.
#[test]
fn below_a_reply_that_is_null_computed_keys_are_not_there() {
    let scope = Scope::Saga(scope(json!({ "k": "price" })));
    for (template, expected) in [
        ("{{ steps['ship-it'].reply.price }}", json!(null)),
        ("{{ steps['ship-it'].reply['price'].net or 0 }}", json!(0)),
        ("{{ steps['ship-it'].reply[input.k] | default(0) }}", json!(0)),
    ] {
        assert_eq!(render_in(&scope, template), Ok(expected), "{template}");
    }
    assert!(render_in(&scope, "{{ steps['ship-it'].reply[input.k] }}").is_err());
}

#[test]
fn replies_too_large_for_a_message_are_refused_and_yet_can_be_looked_at() {
    let large = Arc::new(json!({ "id": "R", "text": "x".repeat(1 << 20) }));
    let replies: Arc<[_]> = vec![Some(large); 100].into();
    let scope = scope(json!({}));
    let steps = [step("each", "succeeded", ReplyView::Many(replies))].into();
    let scope = Scope::Saga(SagaScope { steps, ..scope });
    let message = render_in(&scope, "{{ steps.each.replies }}").unwrap_err();
    assert!(message.contains("too large"), "{message}");
    assert_eq!(render_in(&scope, "{{ steps.each.replies[99].id }}"), Ok(json!("R")));
    // Counted in bytes, with some for each value: sixteen of a mebibyte are the most.
    let sized = |bytes: usize| {
        [
            json!("x".repeat(bytes - 16)),
            json!(["x".repeat(bytes - 32)]),
            json!({ "k".repeat(bytes - 32): null }),
            json!({ "k": "x".repeat(bytes - 33) }),
        ]
    };
    for (fits, too_large) in sized(1 << 20).into_iter().zip(sized((1 << 20) + 1)) {
        let of = |last: Value| {
            let replies = vec![Some(Arc::new(fits.clone())); 15].into_iter().chain([Some(Arc::new(last))]).collect();
            let steps = [step("each", "succeeded", ReplyView::Many(replies))].into();
            render_in(&Scope::Saga(SagaScope { steps, ..self::scope(json!({})) }), "{{ steps.each.replies }}")
        };
        assert_eq!(of(fits.clone()).map(|all| all.as_array().map(Vec::len)), Ok(Some(16)));
        assert!(of(too_large).is_err());
    }
}

#[test]
fn rules_about_messages_see_the_message_alone() {
    let scope = Scope::Message {
        body: Arc::new(json!({ "order_id": "O-1", "code": 503, "reason": { "code": "stock" } })),
        headers: Arc::new(json!({ "tenant": "t" })),
    };
    let value = |source: &str| Expression::compile(source).unwrap().value(&scope).map_err(|error| error.to_string());
    assert_eq!(value("body.order_id"), Ok(json!("O-1")));
    assert_eq!(value("body.reason"), Ok(json!({ "code": "stock" })));
    assert_eq!(value("headers.tenant ~ '/' ~ body.order_id"), Ok(json!("t/O-1")));
    assert_eq!(Expression::compile("body.code in [429, 503]").unwrap().holds(&scope), Ok(true));
    for (source, expected) in [
        ("input.order_id", "there is no `input` in a rule about a message; it sees only `body` and `headers`"),
        ("steps.pay.reply", "there is no `steps` in a rule about a message"),
        ("body.order", "`body` has no `order`"),
        ("headers.tenent == 't'", "did you mean `tenant`?"),
    ] {
        let message = value(source).unwrap_err();
        assert!(message.contains(expected), "{source}: {message}");
    }
    fails("{{ body.id }}", json!({}), "there is a `body` only in rules about messages");
}

#[test]
fn long_chains_are_refused_before_they_exhaust_the_stack() {
    let links = [
        " + 1",
        " - 1",
        " * 1",
        " // 1",
        " ** 1",
        " % 1",
        " ~ 1",
        " and 1",
        " or 1",
        " == 1",
        " < 1",
        "|string",
        ".a",
        "[0]",
        " is defined",
        " if 1 else 1",
        " in [1]",
        " not in [1]",
        "()",
        "|default(1)",
    ];
    let heads = ["not ", "-", "[", "{'a': ", "(", "range("];
    let chains = links.iter().map(|link| ("1".to_owned(), *link, ""));
    let chains = chains.chain(heads.iter().map(|head| (String::new(), *head, "1")));
    for (before, link, after) in chains {
        let mut refused = 0;
        for length in [60, 120, 249, 251, 5_000] {
            let expression = format!("{before}{}{after}", link.repeat(length));
            let compiled = Expression::compile(&expression).is_err();
            let template = Template::compile(&format!("{{{{ {expression} }}}}"));
            if let Ok(template) = &template {
                // Whatever comes of it, it ends.
                drop(template.render(&Scope::Saga(scope(json!({})))));
            }
            refused += usize::from(compiled && template.is_err());
        }
        assert!(refused >= 1, "{link:?}");
    }
    let branches = |count: usize| format!("{{% if input.a %}}{}{{% endif %}}", "{% elif input.b %}x".repeat(count));
    assert!(Template::compile(&branches(5_000)).is_err());
    Template::compile(&branches(249))
        .map(drop)
        .unwrap_or_else(|error| assert!(error.message.contains("16"), "{error}"));
}
