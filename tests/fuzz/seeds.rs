//! What fuzzing begins with: what is shipped, what is in it, and small samples of what is not.

use std::path::Path;

use serde_json::Value;

/// A definition with every kind of step, small enough to be mutated often in each place.
const KINDS: &str = r#"name = "all"
key = "{{ input.order_id }}"
lock = { key = "{{ input.customer }}", mode = "reject" }
max_running = 3
[defaults]
exchange = "e"
retry = { attempts = 2, initial = "1s", jitter = 0.5 }
[[start]]
exchange = "x"
routing_key = "a.#"
when = "body.n > 1"
input = { order_id = "{{ body.id }}" }
[[steps]]
name = "each"
command = "c"
foreach = "{{ input.items }}"
max_parallel = 2
body = ["{{ item.sku }}", "{{ index }}", 1.50]
compensate = { command = "u", on = "success" }
[[steps]]
name = "ask"
after = []
wait = { exchange = "x", routing_key = "b", match = "body.id" }
when = "input.n is defined"
timeout = "1h 30m"
[[steps]]
name = "pay"
after = ["each", "ask"]
command = "p"
on_timeout = "probe"
probe = { command = "q" }
reply = { success_when = "body.ok", retry_when = "headers.busy", schema = { type = "object" } }
compensate.command = "r"
compensate.body = { why = "{{ error.reason }}", id = "{{ steps.pay.reply.id }}" }
[[steps]]
name = "go"
command = "g"
pivot = true
reply.success = { exchange = "x", routing_key = "ok", match = "body.id" }
reply.failure = { exchange = "x", routing_key = "no", match = "body.id", error = "body.why" }
[[steps]]
name = "child"
saga = "other"
input = { all = "{{ steps.each.replies }}" }
[[steps]]
name = "night"
sleep = "8h"
[[steps]]
name = "tell"
publish = "t"
optional = true
[output]
id = "{{ steps.pay.reply.id }}"
"#;

const TEMPLATES: [&str; 22] = [
    "{{ input.order_id }}",
    "{{ input.items[0].sku }} of {{ input['items']|length }}",
    "{{ steps.pay.reply.lines|map(attribute='sku')|join(', ') }}",
    "{% for x in input['items'] %}{{ loop.index }}:{{ x.sku }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{% set t = input.total_amount * 2 %}{{ t + 1 }}",
    "{{ input.note | default('none') }}",
    "{{ steps.ship.reply.a.b.c }}",
    "{{ steps.reserve.replies[1] }}",
    "{{ item }} {{ index }}",
    "{{ error.step }}: {{ error.message }}",
    "{{ saga.id }}/{{ saga.key }}/{{ saga.started_at }}",
    "{{ 9007199254740993 * 3 // 2 % 7 }}",
    "{{ 'a' ~ 1.5 ~ none ~ true }}",
    "{{ range(3)|list|tojson }}",
    "{{ [1, 2, {'a': [3]}]|string|upper|replace('A', 'b') }}",
    "input.total_amount > 10 and steps.pay.status == 'succeeded'",
    "input.note is defined or not (input.text in ['a', 'b'])",
    "input['items']|selectattr('quantity', 'ge', 2)|list|length if true else 0",
    "steps.pay.reply.amount|round(1)|int == 12",
    "{{ input.text[::-1]|title }}",
    "{{ (1, 2)|zip([3, 4])|list }}",
    "{# a comment #}{{ '{{' }}{% raw %}{{ x }}{% endraw %}",
];

const JSON: [&str; 10] = [
    r#"{"order_id":"A-1","items":[{"sku":"x","quantity":3}],"total_amount":20.250}"#,
    "[1e308, -0.0, 340282366920938463463374607431768211457, 1E+2, 0.1e-300]",
    r#""\u00e4\ud834\udd1e\n\\\/\"""#,
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
    " { \"a\" : null , \"a\" : true } ",
    "null",
    "\"\"",
    "{}",
    "{\"$serde_json::private::Number\":\"1\"}",
    "1e401",
];

/// Properties and a body; a message's first byte is added for every inbox.
const MESSAGES: [(&str, &str); 8] = [
    (r#"{"correlation_id":"c","headers":{"saga-outcome":"success"}}"#, r#"{"payment_id":"P-1"}"#),
    (r#"{"correlation_id":"c","headers":{"saga-outcome":"retry"},"content_encoding":"utf-8"}"#, ""),
    (
        r#"{"message_id":"m","reply_to":"q","headers":{"idempotency-key":7,"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}"#,
        r#"{"order_id":"A-1"}"#,
    ),
    (
        r#"{"message_id":"m","headers":{"x-death":[{"reason":"expired","queue":"q","count":1,"time":"2026-01-02T03:04:05Z"}],"saga-deadline":"2026-01-02T03:04:05.678Z","x-delivery-count":2}}"#,
        "{}",
    ),
    (
        r#"{"headers":{"saga-id":"00000000-0000-0000-0000-000000000009","saga-name":"order","saga-key":"A-1","x-death":[{"reason":"maxlen"}]}}"#,
        r#"{"by":"bob"}"#,
    ),
    ("{}", r#"{"child":"00000000-0000-0000-0000-000000000009","ask":{"undo":{}}}"#),
    (
        "{}",
        r#"{"child":"00000000-0000-0000-0000-000000000009","ask":{"start":{"definition":"d","input":{},"step":"s","depth":1,"priority":3}}}"#,
    ),
    ("{}", r#"{"saga":"00000000-0000-0000-0000-000000000009"}"#),
];

fn bytes(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

pub(crate) fn definitions() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sagas");
    let shipped = sagad::definitions::read(&[folder], None).files;
    shipped.into_iter().map(|file| file.text.into_bytes()).chain(bytes(&[KINDS])).collect()
}

/// Those of the shipped definitions, too.
pub(crate) fn templates() -> Vec<Vec<u8>> {
    fn strings(value: &Value, found: &mut Vec<Vec<u8>>) {
        match value {
            Value::String(text) if text.contains("{{") => found.push(text.clone().into_bytes()),
            Value::Array(items) => items.iter().for_each(|item| strings(item, found)),
            Value::Object(members) => members.values().for_each(|member| strings(member, found)),
            _ => {}
        }
    }
    let mut found = bytes(&TEMPLATES);
    for definition in definitions() {
        let table: toml::Table = std::str::from_utf8(&definition).unwrap().parse().unwrap();
        strings(&serde_json::to_value(table).unwrap(), &mut found);
    }
    found
}

pub(crate) fn json() -> Vec<Vec<u8>> {
    bytes(&JSON)
}

/// To each inbox, with an id of sagad's and without.
pub(crate) fn messages() -> Vec<Vec<u8>> {
    let kinds = (0..7_u8).flat_map(|inbox| [inbox, inbox | 0x80]);
    let of =
        |kind: u8| MESSAGES.map(|(properties, body)| [&[kind], properties.as_bytes(), b"\0", body.as_bytes()].concat());
    kinds.flat_map(of).collect()
}
