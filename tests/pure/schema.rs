//! The JSON Schema of definitions, held against the parser.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;

use jsonschema::{Draft, Validator};
use proptest::prelude::*;
use proptest::sample::Index;
use sagad::core::diagnostic::{Diagnostic, Severity};
use sagad::core::parse::parse;
use sagad::schema::DEFINITION;
use serde_json::Value as Json;
use toml::Value;

/// Every key of the language.
const WHOLE: &str = r#"
name = "whole"
description = "Everything"
key = "{{ input.order_id }}"
key_reuse = "after_failure"
timeout = "3days"
priority = 5
max_running = 500
lock = { key = "{{ input.customer_id }}", mode = "queue" }
retention = "30d"
events = "step"
on_compensation_failure = "continue"
[defaults]
exchange = "shop.commands"
timeout = "30s"
expires = true
retry = { attempts = 3, initial = "500ms", factor = 2.0, max = "30s", jitter = 0.2 }
[input]
type = "object"
required = ["order_id"]
properties.items = { type = "array" }
[[start]]
exchange = "shop.events"
routing_key = "order.placed"
when = "body.total > 0"
input = "{{ body }}"
[[steps]]
name = "reserve"
command = "stock.reserve"
foreach = "{{ input.items }}"
max_parallel = 8
after = []
delay = "1s"
headers = { tenant = "t", number = 1, flag = true }
body.sku = "{{ item.sku }}"
compensate.command = "stock.release"
compensate.reply.success_when = "body.ok"
[[steps]]
name = "approval"
wait = { signal = "approved" }
timeout = "2days"
when = "input.total > 1000"
[[steps]]
name = "paid"
wait = { exchange = "bank.events", routing_key = "paid.#", match = "body.order_id" }
compensate = false
[[steps]]
name = "charge"
command = "payment.charge"
exchange = "payments"
optional = true
priority = "{{ input.priority }}"
expires = false
timeout = "5s"
retry.attempts = 5
on_timeout = "probe"
probe = { command = "payment.status", reply = { retry_when = "body.busy" } }
reply = { success_when = "body.status == 'ok'", retry_when = "body.code in [429]", schema = { required = ["id"] } }
compensate = { command = "payment.refund", on = ["success", "in_doubt", "failure"], priority = 9, headers = {}, body = 1 }
[[steps]]
name = "commit"
command = "order.commit"
pivot = true
reply.success = { exchange = "order.events", routing_key = "order.committed", match = "body.order_id" }
reply.failure = { exchange = "order.events", routing_key = "order.refused", match = "body.order_id", error = "body.why" }
[[steps]]
name = "shipment"
saga = "shipment"
input = { order_id = "{{ input.order_id }}" }
timeout = "1h"
compensate = { on = "success", timeout = "1h", retry.attempts = 2 }
[[steps]]
name = "cool_off"
sleep = "24h"
[[steps]]
name = "announce"
publish = "order.fulfilled"
exchange = "shop.events"
[output]
id = "{{ steps.charge.reply.id }}"
"#;

fn read(toml: &str) -> Result<(), Vec<Diagnostic>> {
    parse(toml, &mut |_| Err("there is no file".to_owned())).map(|_| ())
}

fn schema() -> Json {
    serde_json::from_str(DEFINITION).unwrap()
}

fn validator() -> &'static Validator {
    static VALIDATOR: LazyLock<Validator> =
        LazyLock::new(|| jsonschema::options().with_draft(Draft::Draft202012).offline().build(&schema()).unwrap());
    &VALIDATOR
}

fn wrong(validator: &Validator, value: &Value) -> Vec<String> {
    let json = serde_json::to_value(value).unwrap();
    validator.iter_errors(&json).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

#[test]
fn it_is_a_schema_of_the_draft_it_names() {
    let errors: Vec<String> =
        jsonschema::draft202012::meta::validator().iter_errors(&schema()).map(|it| it.to_string()).collect();
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(schema()["$schema"], "https://json-schema.org/draft/2020-12/schema");
}

#[test]
fn every_shipped_definition_is_right_and_names_the_schema() {
    let validator = validator();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sagas");
    let files = sagad::definitions::read(&[folder], None).files;
    assert!(files.len() >= 3, "they are there");
    for file in files {
        assert_eq!(
            wrong(validator, &file.text.parse::<toml::Table>().map(Value::Table).unwrap()),
            Vec::<String>::new()
        );
        assert!(file.text.starts_with("#:schema http://127.0.0.1:7242/schema.json\n"), "{}", file.path.display());
    }
}

/// The keys that the parser says a table can have, asked by one that no table has.
fn known(toml: &str) -> BTreeSet<String> {
    let errors = read(toml).expect_err("there is no such key");
    let unknown = errors.iter().find(|error| error.code == "unknown-key").unwrap_or_else(|| panic!("{errors:#?}"));
    let (_, keys) = unknown.help.split_once(" can have ").unwrap_or_else(|| panic!("{unknown:#?}"));
    keys.split(", ").map(str::to_owned).collect()
}

fn properties(schema: &Json, pointer: &str) -> BTreeSet<String> {
    let object = schema.pointer(pointer).and_then(|it| it["properties"].as_object());
    object.unwrap_or_else(|| panic!("no properties at {pointer}")).keys().cloned().collect()
}

#[test]
fn it_has_the_keys_of_the_parser_and_no_other() {
    let schema = schema();
    let step =
        |lines: &str| format!("name = 'x'\nkey = 'k'\n[defaults]\nexchange = 'e'\n[[steps]]\nname = 'a'\n{lines}\n");
    let top = |lines: &str| format!("name = 'x'\n{lines}\n[[steps]]\nname = 'a'\ncommand = 'c'\nexchange = 'e'\n");
    let command = |lines: &str| step(&format!("command = 'c'\n{lines}"));
    let odd = "qqqqqqqqqqqq = 1";
    let event = "exchange = 'e', routing_key = 'r', match = 'body.k'";
    let cases = [
        (top(odd), ""),
        (top(&format!("defaults = {{ {odd} }}")), "/properties/defaults"),
        (top(&format!("lock = {{ key = 'k', {odd} }}")), "/properties/lock"),
        (top(&format!("start = [{{ exchange = 'e', routing_key = 'r', {odd} }}]")), "/properties/start/items"),
        (top(&format!("defaults.retry = {{ {odd} }}")), "/$defs/retry"),
        (step(&format!("wait = {{ {event}, {odd} }}")), "/$defs/wait"),
        (command(&format!("compensate = {{ command = 'c', {odd} }}")), "/$defs/compensate"),
        (
            command(&format!("compensate = {{ command = 'c', reply = {{ {odd} }} }}")),
            "/$defs/compensate/properties/reply",
        ),
        (command(&format!("on_timeout = 'probe'\nprobe = {{ command = 'c', {odd} }}")), "/$defs/step/properties/probe"),
        (command(&format!("reply = {{ {odd} }}")), "/$defs/step/properties/reply"),
        (command(&format!("reply.success = {{ {event}, {odd} }}")), "/$defs/step/properties/reply/properties/success"),
        (
            command(&format!("reply.success = {{ {event} }}\nreply.failure = {{ {event}, {odd} }}")),
            "/$defs/step/properties/reply/properties/failure",
        ),
    ];
    for (toml, pointer) in cases {
        let mut keys = known(&toml);
        if pointer == "/$defs/compensate/properties/reply" {
            // Known, to be refused with a reason.
            keys.retain(|key| !["success", "failure"].contains(&&**key));
        }
        assert_eq!(keys, properties(&schema, pointer), "{pointer}");
    }
    let kinds = ["command = 'c'", "publish = 'p'", "wait = { signal = 's' }", "saga = 'x'", "sleep = '1h'"];
    let steps: BTreeSet<String> = kinds.iter().flat_map(|kind| known(&step(&format!("{kind}\n{odd}")))).collect();
    assert_eq!(steps, properties(&schema, "/$defs/step"));
}

#[test]
fn the_sample_has_every_key() {
    fn names(schema: &Json, found: &mut BTreeSet<String>) {
        match schema {
            Json::Object(members) => {
                if let Some(properties) = members.get("properties").and_then(Json::as_object) {
                    found.extend(properties.keys().cloned());
                }
                members.values().for_each(|member| names(member, found));
            }
            Json::Array(items) => items.iter().for_each(|item| names(item, found)),
            _ => {}
        }
    }
    let mut all = BTreeSet::new();
    names(&schema(), &mut all);
    all.remove("file");
    let mut used = BTreeSet::new();
    for place in places(&WHOLE.parse::<toml::Table>().map(Value::Table).unwrap()) {
        used.extend(place.into_iter().filter_map(|key| if let Key::Name(name) = key { Some(name) } else { None }));
    }
    assert_eq!(all.difference(&used).collect::<Vec<_>>(), Vec::<&String>::new());
    read(WHOLE).unwrap();
    assert_eq!(wrong(validator(), &WHOLE.parse::<toml::Table>().map(Value::Table).unwrap()), Vec::<String>::new());
}

#[derive(Clone, Debug)]
enum Key {
    Name(String),
    At(usize),
}

/// The way to every value.
fn places(value: &Value) -> Vec<Vec<Key>> {
    let inner: Vec<(Key, &Value)> = match value {
        Value::Table(table) => table.iter().map(|(name, value)| (Key::Name(name.clone()), value)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(at, value)| (Key::At(at), value)).collect(),
        _ => Vec::new(),
    };
    let mut ways = vec![Vec::new()];
    for (key, value) in inner {
        ways.extend(places(value).into_iter().map(|way| [vec![key.clone()], way].concat()));
    }
    ways
}

fn at<'v>(value: &'v mut Value, way: &[Key]) -> &'v mut Value {
    way.iter().fold(value, |value, key| match key {
        Key::Name(name) => &mut value[name.as_str()],
        Key::At(at) => &mut value[*at],
    })
}

/// A change of a definition that may make it wrong.
#[derive(Clone, Debug)]
enum Mutation {
    Remove,
    Replace(&'static str),
    Insert(Index, &'static str),
}

const VALUES: [&str; 26] = [
    "'x'",
    "''",
    "'{{ input.x }}'",
    "'30s'",
    "'0s'",
    "'soon'",
    "'Big Name'",
    "0",
    "5",
    "-1",
    "2000000000",
    "5.5",
    "true",
    "false",
    "[]",
    "['x']",
    "['success']",
    "[{}]",
    "{}",
    "{ command = 'x' }",
    "{ signal = 's' }",
    "{ x = 1 }",
    "'probe'",
    "'success'",
    "'queue'",
    "'body.a'",
];

fn mutated(whole: &Value, place: Index, mutation: &Mutation, keys: &[String]) -> Value {
    let mut value = whole.clone();
    let places = places(whole);
    let new = |text: &str| format!("it = {text}").parse::<toml::Table>().unwrap()["it"].clone();
    match mutation {
        Mutation::Insert(key, text) => {
            let mut tables = places;
            tables.retain(|way| at(&mut value, way).is_table());
            let table = at(&mut value, &tables[place.index(tables.len())]);
            table.as_table_mut().unwrap().insert(keys[key.index(keys.len())].clone(), new(text));
        }
        Mutation::Replace(text) => *at(&mut value, &places[1 + place.index(places.len() - 1)]) = new(text),
        Mutation::Remove => {
            let way = &places[1 + place.index(places.len() - 1)];
            let (last, parent) = way.split_last().unwrap();
            match (at(&mut value, parent), last) {
                (Value::Table(table), Key::Name(name)) => drop(table.remove(name)),
                (Value::Array(items), Key::At(at)) => drop(items.remove(*at)),
                (other, key) => panic!("{key:?} of {other}"),
            }
        }
    }
    value
}

/// What no schema can find: it is about other places of the file, or what a text says.
const NOT_STRUCTURAL: [&str; 15] = [
    "template",
    "schema",
    "schema-file",
    "unknown-step",
    "cycle",
    "not-before",
    "one-or-many",
    "self-reference",
    "out-of-scope",
    "duplicate-name",
    "no-exchange",
    "no-key",
    "syntax",
    "reserved-header",
    "no-index",
];
const NOR_THESE: [&str; 4] = ["the first wait", "this is text, no list", "ten years", "a millisecond or more"];

fn structural(errors: &[Diagnostic]) -> bool {
    errors.iter().any(|error| {
        error.severity == Severity::Error
            && !NOT_STRUCTURAL.contains(&error.code)
            && !NOR_THESE.iter().any(|words| error.message.contains(words))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn it_accepts_what_the_parser_accepts_and_refuses_what_is_built_wrong(
        place in any::<Index>(),
        mutation in prop_oneof![
            1 => Just(Mutation::Remove),
            3 => prop::sample::select(&VALUES[..]).prop_map(Mutation::Replace),
            3 => (any::<Index>(), prop::sample::select(&VALUES[..])).prop_map(|(key, value)| Mutation::Insert(key, value)),
        ],
    ) {
        let whole = Value::Table(WHOLE.parse().unwrap());
        static KEYS: LazyLock<Vec<String>> = LazyLock::new(|| {
            let other = ["signal", "match", "success_when", "qqqqqqqq"].map(str::to_owned);
            properties(&schema(), "/$defs/step").into_iter().chain(properties(&schema(), "")).chain(other).collect()
        });
        let value = mutated(&whole, place, &mutation, &KEYS);
        let toml = toml::to_string(&value).unwrap();
        let wrong = wrong(validator(), &value);
        match read(&toml) {
            Ok(()) => prop_assert_eq!(wrong, Vec::<String>::new(), "only the schema refuses this:\n{}", toml),
            Err(errors) if structural(&errors) => {
                prop_assert!(!wrong.is_empty(), "only the parser refuses this: {:#?}\n{}", errors, toml);
            }
            Err(_) => {}
        }
    }
}
