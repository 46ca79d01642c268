//! Definitions: what they say when they are right, and where and how they are wrong.

use std::time::Duration;

use sagad::core::definition::{
    Command, CompensateOn, Definition, Events, KeyReuse, OnCompensationFailure, Priority, Retry, Step,
};
use sagad::core::diagnostic::{Diagnostic, Severity};
use sagad::core::parse::parse;
use sagad::core::saga::Status;
use sagad::report::place;
use serde_json::json;

fn no_file(name: &str) -> Result<String, String> {
    Err(format!("no {name} here"))
}

fn read(toml: &str) -> Result<Definition, Vec<Diagnostic>> {
    parse(toml, &mut no_file).map(|(definition, _)| definition)
}

#[track_caller]
pub(crate) fn good(toml: &str) -> Definition {
    read(toml).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

/// The command that undoes a step, and when.
#[track_caller]
pub(crate) fn undo_of(step: &Step) -> (&Command, CompensateOn) {
    (step.undo_command().unwrap(), step.compensate.as_ref().unwrap().on)
}

/// `line:column-line:column code` of everything that is wrong.
pub(crate) fn places(toml: &str) -> Vec<String> {
    let errors = read(toml).expect_err("nothing is wrong");
    let shown = errors.iter().map(|error| {
        assert_eq!(error.severity, Severity::Error);
        assert!(!error.help.is_empty(), "{error:?} has no help");
        let ((line, column), (end_line, end_column)) = (place(toml, error.span.start), place(toml, error.span.end));
        format!("{line}:{column}-{end_line}:{end_column} {}", error.code)
    });
    shown.collect()
}

const STEP: &str = "[[steps]]\nname = 'a'\ncommand = 'a.do'\nexchange = 'e'\n";

/// What is wrong with a definition that has these lines before its only step, which begins in line 10.
fn top(lines: &str) -> String {
    let toml = format!("name = 'x'\n{lines}");
    format!("{toml}{}{STEP}", "\n".repeat(9 - toml.matches('\n').count()))
}

/// The same with these lines in the step; the first is line 7.
fn step(lines: &str) -> String {
    format!("name = 'x'\n\n{STEP}{lines}")
}

#[test]
fn every_mistake_has_its_place_and_its_code() {
    let cases: &[(String, &[&str])] = &[
        // TOML itself.
        ("name = \n".into(), &["1:8-1:8 syntax"]),
        ("name = x\nname = 'y'\nname = 'z'\n".into(), &["1:8-1:9 syntax", "2:1-2:5 syntax", "3:1-3:5 syntax"]),
        (format!("name = 'x'\ndescription = {}", "[".repeat(10_000)), &["2:95-2:96 syntax", "2:10015-2:10015 syntax"]),
        (top("name = 'y'\n"), &["2:1-2:5 syntax"]),
        // Keys.
        (top("descripton = 'é'\n"), &["2:1-2:11 unknown-key"]),
        (step("comand = 'x'\n"), &["7:1-7:7 unknown-key"]),
        (step("retry = { atempts = 3 }\n"), &["7:11-7:18 unknown-key"]),
        (step("compensate.command = 'x'\ncompensate.optional = true\n"), &["8:12-8:20 unknown-key"]),
        (top("[defaults]\nexchang = 'e'\n"), &["3:1-3:8 unknown-key"]),
        ("".into(), &["1:1-1:1 missing-key", "1:1-1:1 missing-key"]),
        ("name = 'x'\nsteps = []\n".into(), &["2:1-2:6 invalid-value"]),
        ("name = 'x'\n[[steps]]\n".into(), &["2:1-2:10 missing-key", "2:1-2:10 missing-key"]),
        (step("[steps.compensate]\nbody = {}\n"), &["7:8-7:18 missing-key"]),
        // Types.
        (step("timeout = 30\n"), &["7:11-7:13 wrong-type"]),
        (step("after = 'b'\n"), &["7:9-7:12 wrong-type"]),
        (step("retry = 5\n"), &["7:9-7:10 wrong-type"]),
        (step("compensate = true\n"), &["7:14-7:18 wrong-type"]),
        (step("compensate = 'x.undo'\n"), &["7:14-7:22 wrong-type"]),
        (step("when = true\n"), &["7:8-7:12 wrong-type"]),
        (step("optional = 'yes'\n"), &["7:12-7:17 wrong-type"]),
        (step("headers = { a = 1.5 }\n"), &["7:17-7:20 wrong-type"]),
        (step("headers = 'a'\n"), &["7:11-7:14 wrong-type"]),
        (step("priority = '5'\n"), &["7:12-7:15 wrong-type"]),
        (top("events = 1\n"), &["2:10-2:11 wrong-type"]),
        (top("key = 7\n"), &["2:7-2:8 wrong-type"]),
        (top("input = 'x'\n"), &["2:9-2:12 wrong-type"]),
        ("name = 'x'\nsteps = [1]\n".into(), &["2:10-2:11 wrong-type"]),
        (
            "name = 1\n[defaults]\nexchange = 'e'\n[[steps]]\nname = 2\ncommand = 3\n".into(),
            &["1:8-1:9 wrong-type", "5:8-5:9 wrong-type", "6:11-6:12 wrong-type"],
        ),
        // Where a step lacks an exchange, its undo lacks the same.
        (
            "name = 'x'\n[[steps]]\nname = 'a'\ncommand = 'x'\ncompensate.command = 'y'\n".into(),
            &["2:1-2:10 no-exchange"],
        ),
        (
            "name = 'x'\n[[steps]]\nname = 'a'\ncommand = 'x'\ncompensate = { command = 'y', exchange = 7 }\n".into(),
            &["2:1-2:10 no-exchange", "5:42-5:43 wrong-type"],
        ),
        // Names.
        (top("description = 'é'\n").replace("'x'", "'Order'"), &["1:8-1:15 invalid-name"]),
        (step("[[steps]]\nname = 'b c'\ncommand = 'x'\nexchange = 'e'\n"), &["8:8-8:13 invalid-name"]),
        (step("[[steps]]\nname = 'a'\ncommand = 'x'\nexchange = 'e'\n"), &["8:8-8:11 duplicate-name"]),
        (step("headers = { '' = 'x' }\n"), &["7:13-7:15 invalid-name"]),
        (step(&format!("headers = {{ {} = 'x' }}\n", "h".repeat(256))), &["7:13-7:269 invalid-name"]),
        // Values.
        (step("timeout = '30 sec onds'\n"), &["7:11-7:24 invalid-duration"]),
        (step("timeout = '30'\n"), &["7:11-7:15 invalid-duration"]),
        (step("timeout = '4000days'\n"), &["7:11-7:21 invalid-duration"]),
        (step("timeout = '3651days'\n"), &["7:11-7:21 invalid-duration"]),
        (step("timeout = '4294967296ms'\n"), &["7:11-7:25 invalid-duration"]),
        (step("timeout = '0s'\n"), &["7:11-7:15 invalid-value"]),
        (step("retry.attempts = 0\n"), &["7:18-7:19 invalid-value"]),
        (step("retry.attempts = 1001\n"), &["7:18-7:22 invalid-value"]),
        (step("retry = { factor = 0.5, jitter = 2 }\n"), &["7:20-7:23 invalid-value", "7:34-7:35 invalid-value"]),
        (step("retry = { initial = '1m' }\n"), &["7:1-7:6 invalid-value"]),
        (step("priority = 10\n"), &["7:12-7:14 invalid-value"]),
        (step("[steps.compensate]\ncommand = 'x'\non = ['sucess', 'failure']\n"), &["9:7-9:15 invalid-value"]),
        (step("[steps.compensate]\ncommand = 'x'\non = []\n"), &["9:6-9:8 invalid-value"]),
        (top("key_reuse = 'always'\n"), &["2:13-2:21 invalid-value"]),
        (top("on_compensation_failure = 'stop'\n"), &["2:27-2:33 invalid-value"]),
        (step("body.at = 2026-01-02T03:04:05Z\n"), &["7:11-7:31 invalid-value"]),
        (step("body.n = nan\n"), &["7:10-7:13 invalid-value"]),
        (step("[steps.compensate]\ncommand = ''\n"), &["8:11-8:13 invalid-value"]),
        (step("[steps.compensate]\ncommand = '{{ input.c }}'\n"), &["8:11-8:26 invalid-value"]),
        (step(&format!("compensate.command = '{}'\n", "k".repeat(256))), &["7:22-7:280 invalid-value"]),
        (format!("name = 'x'\n{}", "[[steps]]\nname = 'a'\n".repeat(1_001)), &["2:3-2:8 invalid-value"]),
        (
            step("[steps.headers]\nsaga-id = 'x'\ntraceparent = 'y'\n"),
            &["8:1-8:8 reserved-header", "9:1-9:12 reserved-header"],
        ),
        // The graph.
        (step("after = ['b']\n"), &["7:10-7:13 unknown-step"]),
        (step("after = ['a']\n"), &["7:10-7:13 cycle"]),
        (
            step(
                "after = ['c']\n[[steps]]\nname = 'b'\ncommand = 'x'\nexchange = 'e'\n[[steps]]\nname = 'c'\ncommand = 'x'\nexchange = 'e'\n",
            ),
            &["7:10-7:13 cycle"],
        ),
        // Two that share steps: the second is none that anybody wrote down, so it is where the first is.
        (
            step(
                "after = ['c']\n[[steps]]\nname = 'b'\ncommand = 'x'\nexchange = 'e'\n[[steps]]\nname = 'c'\ncommand = 'x'\nexchange = 'e'\nafter = ['a', 'b']\n",
            ),
            &["7:10-7:13 cycle", "7:10-7:13 cycle"],
        ),
        // Of several that it waits for, the one that leads back.
        (
            step(
                "after = ['b', 'c']\n[[steps]]\nname = 'b'\ncommand = 'x'\nexchange = 'e'\nafter = []\n[[steps]]\nname = 'c'\ncommand = 'x'\nexchange = 'e'\nafter = ['a']\n",
            ),
            &["7:15-7:18 cycle"],
        ),
        // Templates.
        (step("body.a = '{{ input.a'\n"), &["7:20-7:21 template"]),
        (step("when = ''\n"), &["7:8-7:10 template"]),
        (step("body.a = \"{{ 'x }}\"\n"), &["7:19-7:19 template"]),
        (step("body.a = 'äö {{ input.a | uper }}'\n"), &["7:27-7:31 template"]),
        (step("body.a = '{{ imput.a }}'\n"), &["7:14-7:21 template"]),
        (step("body.list = [{ deep = '{{ saga.nam }}' }]\n"), &["7:27-7:35 template"]),
        (step("body.a = \"\"\"\nx\n{{ nope }}\"\"\"\n"), &["9:4-9:8 template"]),
        (step("body.a = \"\\t{{ nope }}\"\n"), &["7:10-7:24 template"]),
        (step("when = '{{ input.a }}'\n"), &["7:9-7:22 template"]),
        (step("when = 'input.a >'\n"), &["7:17-7:18 template"]),
        // References.
        (step("body.a = '{{ steps.b.reply }}'\n"), &["7:14-7:27 unknown-step"]),
        (step("body.a = '{{ steps.a.reply.id }}'\n"), &["7:14-7:30 self-reference"]),
        (step("when = 'steps.a.status == 1'\n"), &["7:9-7:23 self-reference"]),
        (
            step("body.a = '{{ steps.b.reply }}'\n[[steps]]\nname = 'b'\ncommand = 'x'\nexchange = 'e'\n"),
            &["7:14-7:27 not-before"],
        ),
        (
            step(
                "[[steps]]\nname = 'b'\ncommand = 'x'\nexchange = 'e'\nafter = []\nheaders.a = '{{ steps.a.reply }}'\n",
            ),
            &["12:17-12:30 not-before"],
        ),
        (
            step(
                "[steps.compensate]\ncommand = 'x'\nbody = '{{ steps.b.reply }}'\n[[steps]]\nname = 'b'\ncommand = 'x'\nexchange = 'e'\n",
            ),
            &["9:12-9:25 not-before"],
        ),
        (step("body.a = '{{ error.reason }}'\n"), &["7:14-7:26 out-of-scope"]),
        (top("key = '{{ saga.id }}'\n"), &["2:11-2:18 out-of-scope"]),
        (top("priority = '{{ steps.a.reply.p }}'\n"), &["2:16-2:31 out-of-scope"]),
        (
            step("[output]\na = '{{ error.message }}'\nb = '{{ steps.z.reply }}'\n"),
            &["8:9-8:22 out-of-scope", "9:9-9:22 unknown-step"],
        ),
        // Schemas.
        (top("[input]\ntype = 'objet'\nproperties.a = { minimum = 'x' }\n"), &["3:8-3:15 schema", "4:28-4:31 schema"]),
        (top("[input]\nproperties.a = { '$ref' = 'https://example.com/a.json' }\n"), &["2:2-2:7 schema"]),
        (top("[input]\nallOf = [{}, { type = 'objet' }]\n"), &["3:23-3:30 schema"]),
        (top("input = { file = 'a.json' }\n"), &["2:18-2:26 schema-file"]),
        (top("input = { file = 'a.json', type = 'object' }\n"), &["2:1-2:6 invalid-value"]),
    ];
    for (toml, expected) in cases {
        assert_eq!(places(toml), *expected, "\n{toml}\n{:#?}", read(toml).unwrap_err());
    }
}

#[test]
fn messages_say_what_is_meant() {
    let message = |toml: &str| {
        let errors = read(toml).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:#?}");
        format!("{} | {}", errors[0].message, errors[0].help)
    };
    for (toml, expected) in [
        (
            step("timeout = 30\n"),
            "`timeout`: expected a duration like \"30s\", found an integer | write the unit, too: `timeout = \"30s\"` for seconds",
        ),
        (step("compensat = false\n"), "unknown key `compensat` in a step | did you mean `compensate`?"),
        (
            top("events = 'steps'\n"),
            "`events`: there is no \"steps\" here | did you mean \"step\"? It can be \"none\", \"saga\", \"step\"",
        ),
        (step("name = 'A b'\n").replacen("name = 'a'\n", "", 1), "`A b` can't be a name | write \"a_b\""),
        (
            step("after = ['aa']\n[[steps]]\nname = 'ab'\ncommand = 'x'\nexchange = 'e'\n"),
            "there is no step `aa` | did you mean \"ab\"?",
        ),
        (
            step(
                "after = ['b']\n[[steps]]\nname = 'b'\nafter = ['c']\ncommand = 'x'\nexchange = 'e'\n[[steps]]\nname = 'c'\ncommand = 'x'\nexchange = 'e'\nafter = ['a']\n",
            ),
            "these steps wait for each other: a → b → c → a",
        ),
        (
            step("body = '{{ steps.b.reply }}'\n[[steps]]\nname = 'b'\nafter = []\ncommand = 'x'\nexchange = 'e'\n"),
            "the step `b` does not run before `a` | add \"b\" to `after` of `a`",
        ),
        // Not by way of a step that leads nowhere.
        (
            step(
                "after = ['b']\n[[steps]]\nname = 'z'\ncommand = 'x'\nexchange = 'e'\nafter = []\n[[steps]]\nname = 'b'\nafter = ['z', 'c']\ncommand = 'x'\nexchange = 'e'\n[[steps]]\nname = 'c'\ncommand = 'x'\nexchange = 'e'\nafter = ['a']\n",
            ),
            "these steps wait for each other: a → b → c → a",
        ),
        (step("").replace("'a'", "'OrderItem'"), "`OrderItem` can't be a name | write \"order_item\""),
        (step("").replace("'a'", "'order-Item'"), "`order-Item` can't be a name | write \"order-item\""),
        (step("").replace("'a'", "'9A'"), "`9A` can't be a name | begin with a small letter"),
        (step("").replace("'a'", &format!("'{}'", "A".repeat(33))), "can't be a name | begin with a small letter"),
        (step("[[steps]]\nname = 'a'\ncommand = 'x'\nexchange = 'e'\n"), "are called `a`, the other one in line 4"),
        (
            step("").replace("'a.do'", "['a.do']"),
            "`command`: expected a string, found an array | write `command = \"…\"`",
        ),
        (step("").replace("'a.do'", "5"), "found an integer | put it in quotes: `command = \"5\"`"),
        (
            step("foreach = '{{ item.list }}'\n"),
            "`item` is not there yet: this is read once, before the list is gone through | leave elements out in `foreach`",
        ),
        (step("when = 'item.a'\n"), "there is an `item` only in steps with `foreach` | add a `foreach`"),
        // TOML itself.
        (top("name = 'y'\n"), "| each key can be there once"),
        (top("description = x\n"), "| put the value in quotes"),
        (top("description\n"), "| each line is `key = value`"),
    ] {
        let found = message(&toml);
        assert!(found.contains(expected), "{found}\nlacks\n{expected}");
    }
}

#[test]
fn what_is_nested_too_deep_is_told() {
    let errors = read(&format!("name = 'x'\ndescription = {}", "[".repeat(10_000))).unwrap_err();
    assert_eq!(errors[0].help, "nothing needs to be nested this deep: take some levels out");
}

#[test]
fn everything_is_merged_from_the_step_the_defaults_and_the_built_in() {
    let definition = good(
        r#"
        name = "x"
        [defaults]
        exchange = "d"
        timeout = "7s"
        retry = { attempts = 4, initial = "1s", jitter = 0 }
        expires = false
        [[steps]]
        name = "plain"
        command = "a"
        compensate.command = "b"
        [[steps]]
        name = "own"
        command = "a"
        exchange = "e"
        timeout = "1s"
        expires = true
        priority = "{{ input.p }}"
        retry = { attempts = 9, factor = 3 }
        [steps.compensate]
        command = "b"
        timeout = "2s"
        retry.max = "1h"
        priority = 3
        on = "failure"
        [[steps]]
        name = "none"
        command = "a"
        compensate = false
        "#,
    );
    let plain = &definition.steps[0];
    let command = plain.command().unwrap();
    let second = Duration::from_secs(1);
    let retry = Retry { attempts: 4, initial: second, factor: 2.0, max: 30 * second, jitter: 0.0 };
    assert_eq!((command.exchange.as_str(), command.timeout, command.retry), ("d", 7 * second, retry));
    assert!(!command.expires && command.priority.is_none() && command.body.is_none());
    let (undo, on) = undo_of(plain);
    assert_eq!((undo.exchange.as_str(), undo.timeout), ("d", 7 * second));
    assert_eq!(undo.retry, Retry { attempts: 10, ..retry });
    assert_eq!(on, CompensateOn::default());
    let own = &definition.steps[1];
    let command = own.command().unwrap();
    assert_eq!((command.timeout, command.retry), (second, Retry { attempts: 9, factor: 3.0, ..retry }));
    assert!(command.expires && matches!(command.priority, Some(Priority::Template(_))));
    let (undo, on) = undo_of(own);
    assert_eq!((undo.exchange.as_str(), undo.timeout), ("e", 2 * second));
    assert_eq!(undo.retry, Retry { attempts: 10, max: 3600 * second, ..retry });
    assert!(matches!(undo.priority, Some(Priority::Fixed(3))));
    assert_eq!(on, CompensateOn { success: false, in_doubt: false, failure: true });
    assert!(definition.steps[2].compensate.is_none());
    let definition = good(&step(""));
    let built_in = definition.steps[0].command().unwrap();
    let retry = Retry { attempts: 3, initial: Duration::from_millis(500), factor: 2.0, max: 30 * second, jitter: 0.2 };
    assert_eq!((built_in.timeout, built_in.retry, built_in.expires), (30 * second, retry, true));
}

#[test]
fn bounds_are_among_what_is_allowed() {
    let header = "h".repeat(255);
    let key = "k".repeat(255);
    let name = "n".repeat(64);
    let definition = good(
        &step(&format!("headers = {{ {header} = 'x' }}\ncompensate.command = '{key}'\n"))
            .replace("name = 'a'", &format!("name = '{name}'")),
    );
    assert_eq!((definition.steps[0].name.len(), undo_of(&definition.steps[0]).0.routing_key.len()), (64, 255));
    let millis = |n: u64| Duration::from_millis(n);
    let timeout = |lines: &str| good(&step(lines)).steps[0].command().unwrap().timeout;
    assert_eq!(timeout("timeout = '1ms'\n"), millis(1));
    assert_eq!(timeout("timeout = '4294967295ms'\n"), millis(4_294_967_295));
    assert_eq!(timeout("timeout = '3650days'\nexpires = false\n"), millis(3_650 * 24 * 3_600_000));
    let retry = good(&step("retry = { initial = '30s', max = '30s' }\n")).steps[0].command().unwrap().retry;
    assert_eq!((retry.initial, retry.max), (millis(30_000), millis(30_000)));
    let steps = (0..1_000).map(|nth| format!("[[steps]]\nname = 's{nth}'\nsleep = '1s'\n"));
    assert_eq!(good(&format!("name = 'x'\n{}", steps.collect::<String>())).steps.len(), 1_000);
}

#[test]
fn a_key_is_free_again_as_its_definition_says() {
    use Status::{Compensated, Completed, Failed};
    for (reuse, ends) in [
        (KeyReuse::Never, &[][..]),
        (KeyReuse::AfterFailure, &[Compensated, Failed]),
        (KeyReuse::AfterEnd, &[Completed, Compensated, Failed]),
    ] {
        let frees: Vec<Status> = Status::ALL.into_iter().filter(|status| reuse.frees(*status)).collect();
        assert_eq!(frees, ends, "{reuse:?}");
    }
}

#[test]
fn steps_form_a_graph() {
    let step = |name: &str, after: &str| format!("[[steps]]\nname = '{name}'\ncommand = 'c'\n{after}\n");
    let steps = [
        step("a", ""),
        step("b", ""),
        step("c", "after = ['a']"),
        step("d", "after = ['c', 'b', 'c']"),
        step("e", "after = []"),
        step("f", "after = ['g']"),
        step("g", "after = ['e']"),
    ];
    let definition = good(&format!("name = 'x'\n[defaults]\nexchange = 'e'\n{}", steps.concat()));
    let shape: Vec<_> =
        definition.steps.iter().map(|step| (&*step.name, step.after.clone(), step.later.clone())).collect();
    let expected = [
        ("a", vec![], vec![1, 2, 3]),
        ("b", vec![0], vec![3]),
        ("c", vec![0], vec![3]),
        ("d", vec![1, 2], vec![]),
        ("e", vec![], vec![5, 6]),
        ("f", vec![6], vec![]),
        ("g", vec![4], vec![5]),
    ];
    assert_eq!(shape, expected);
    assert_eq!(definition.step_named("c"), Some(2));
}

/// The example of the README and of the documentation, as far as it goes today.
#[test]
fn a_whole_definition_is_read() {
    let definition = good(
        r#"
name        = "order"
description = "Create, reserve, charge and ship one order"
key         = "{{ input.order_id }}"
key_reuse   = "after_failure"
timeout     = "15m"
priority    = 5
retention   = "30d"
events      = "step"
on_compensation_failure = "continue"

[defaults]
exchange = "shop.commands"
timeout  = "30s"
retry    = { attempts = 3, initial = "500ms", factor = 2.0, max = "30s", jitter = 0.2 }

[input]
type     = "object"
required = ["order_id", "customer_id", "items", "total_amount"]
properties.total_amount = { type = "number", exclusiveMinimum = 0 }

[[steps]]
name       = "create_order"
command    = "order.create"
body       = { order_id = "{{ input.order_id }}", items = "{{ input.items }}", fixed = [1, 2.50, true, 0x1F] }
headers    = { tenant = "{{ input.customer_id }}", version = 2, test = false }
compensate = { command = "order.cancel", body = { order_id = "{{ input.order_id }}" } }

[[steps]]
name    = "process_payment"
command = "payment.charge"
when    = "input.total_amount > 0 and steps.create_order.status == 'succeeded'"
delay   = "2s"
body.order_id = "{{ input.order_id }}"
body.amount   = "{{ input.total_amount }}"
retry.attempts = 5
compensate.command = "payment.refund"
compensate.body.payment_id = "{{ steps.process_payment.reply.payment_id }}"
compensate.body.because = "{{ error.reason }} in {{ error.step or 'no step' }}"

[output]
payment_id = "{{ steps.process_payment.reply.payment_id }}"
"#,
    );
    assert_eq!((&*definition.name, definition.timeout), ("order", Some(Duration::from_secs(900))));
    assert_eq!(definition.retention, Some(Duration::from_secs(30 * 24 * 3600)));
    assert_eq!((definition.key_reuse, definition.events), (KeyReuse::AfterFailure, Events::Step));
    assert_eq!(definition.on_compensation_failure, OnCompensationFailure::Continue);
    assert!(
        matches!(definition.priority, Priority::Fixed(5)) && definition.key.is_some() && definition.output.is_some()
    );
    let schema = definition.input.as_ref().unwrap();
    let valid = json!({ "order_id": "1", "customer_id": "2", "items": [], "total_amount": 0.1 });
    assert!(schema.validator.is_valid(&valid));
    assert!(
        !schema.validator.is_valid(&json!({ "order_id": "1", "customer_id": "2", "items": [], "total_amount": 0 }))
    );
    assert_eq!(schema.source["properties"]["total_amount"]["exclusiveMinimum"], json!(0));
    let [create, pay] = definition.steps.as_slice() else { panic!("not two steps") };
    assert_eq!((create.command().unwrap().headers.len(), pay.delay), (3, Duration::from_secs(2)));
    assert_eq!(pay.command().unwrap().retry.attempts, 5);
}

#[test]
fn a_schema_may_be_in_a_file() {
    let toml = top("input = { file = 'order.schema.json' }\n");
    let mut asked = Vec::new();
    let (definition, _) = parse(&toml, &mut |name| {
        asked.push(name.to_owned());
        Ok(r#"{ "type": "object", "properties": { "n": { "const": 12345678901234567890123 } } }"#.to_owned())
    })
    .unwrap();
    assert_eq!(asked, ["order.schema.json"]);
    let schema = definition.input.unwrap();
    let exact = |n: &str| serde_json::from_str(&format!(r#"{{ "n": {n} }}"#)).unwrap();
    assert!(schema.validator.is_valid(&exact("12345678901234567890123")));
    assert!(!schema.validator.is_valid(&exact("12345678901234567890124")));
    for (text, expected) in [("{", "is not JSON"), (r#"{ "type": 5 }"#, "is not a JSON Schema")] {
        let errors = parse(&toml, &mut |_| Ok(text.to_owned())).unwrap_err();
        assert!(errors[0].message.contains(expected), "{errors:?}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(
        lines in proptest::collection::vec("(name|after|retry|body|when|\\[\\[steps\\]\\]|\\[input\\]|compensate|command|x|type) ?=? ?('a'|\\['a'\\]|5|\\{ a = '\\{\\{ steps.a.reply \\}\\}' \\}|false|\"é)?", 0..12),
    ) {
        let toml = lines.join("\n");
        if let Err(errors) = read(&toml) {
            for error in errors {
                proptest::prop_assert!(toml.get(error.span.clone()).is_some(), "{:?}", error);
            }
        }
    }
}
