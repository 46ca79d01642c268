//! Messages as lapin has them, and as the rest of sagad does. What comes in is anybody's: no value of it may fail or panic here. What goes
//! out may be more than AMQP can carry, which is told before a byte is sent, as the broker would close the connection over it.

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, DecimalValue, FieldArray, FieldTable, LongString, ShortString};
use serde_json::{Map, Number, Value};

use crate::broker::message::{Inbox, Incoming, Outgoing, Properties};
use crate::core::number::exact_double;
use crate::core::time::Time;
use crate::json::harmless_key;

/// Headers nested deeper than this come in as a remark: they are kept as JSON, whose readers stop at 128.
const MAX_DEPTH: usize = 64;

/// What a content header frame has beside the properties: frame, class, weight, body size, flags, and the fixed-size properties.
const HEADER_OVERHEAD: usize = 64;

/// A delivery that came from `inbox`.
pub(super) fn incoming(inbox: Inbox, delivery: lapin::message::Delivery) -> Incoming {
    Incoming {
        queue: inbox,
        exchange: delivery.exchange.into(),
        routing_key: delivery.routing_key.into(),
        redelivered: delivery.redelivered,
        properties: properties(&delivery.properties),
        body: Bytes::from(delivery.data),
    }
}

/// A message's names and properties in lapin's types.
pub(super) struct Encoded {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) properties: BasicProperties,
}

/// Prepares a message for lapin.
///
/// # Errors
/// What AMQP can't carry: a name or property that is too long, or headers that do not fit into one frame of `frame_max` bytes.
pub(super) fn outgoing(message: &Outgoing, frame_max: u32) -> Result<Encoded, String> {
    let properties = basic_properties(&message.properties)?;
    let size = HEADER_OVERHEAD + properties_size(&properties);
    if size > frame_max as usize {
        return Err(format!("its headers have {size} bytes, the broker takes {frame_max} at most"));
    }
    Ok(Encoded {
        exchange: short("the exchange's name", &message.exchange)?,
        routing_key: short("the routing key", &message.routing_key)?,
        properties,
    })
}

/// A string of at most 255 bytes; `what` it is, for the error.
pub(super) fn short(what: &str, text: &str) -> Result<ShortString, String> {
    ShortString::try_new(text).map_err(|_| format!("{what} has {} bytes, AMQP allows 255", text.len()))
}

/// JSON as a table of AMQP: headers and arguments.
pub(super) fn table<'a>(entries: impl IntoIterator<Item = (&'a String, &'a Value)>) -> Result<FieldTable, String> {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(short("a header's name", name)?, amqp_value(value)?);
    }
    Ok(table)
}

fn amqp_value(value: &Value) -> Result<AMQPValue, String> {
    Ok(match value {
        Value::Null => AMQPValue::Void,
        Value::Bool(flag) => AMQPValue::Boolean(*flag),
        Value::Number(number) => amqp_number(number),
        Value::String(text) => AMQPValue::LongString(text.as_str().into()),
        Value::Array(items) => {
            AMQPValue::FieldArray(items.iter().map(amqp_value).collect::<Result<Vec<_>, _>>()?.into())
        }
        Value::Object(entries) => AMQPValue::FieldTable(table(entries)?),
    })
}

/// A number never changes its value on the way: what is no 64-bit integer, and has more digits than a double keeps, goes as its digits.
fn amqp_number(number: &Number) -> AMQPValue {
    if let Some(integer) = number.as_i64() {
        return AMQPValue::LongLongInt(integer);
    }
    let text = number.as_str();
    let fraction = text.contains(['.', 'e', 'E']);
    match exact_double(number).filter(|_| fraction) {
        Some(double) => AMQPValue::Double(double),
        None => AMQPValue::LongString(text.into()),
    }
}

fn basic_properties(from: &Properties) -> Result<BasicProperties, String> {
    let mut to = BasicProperties::default();
    macro_rules! strings {
        ($($field:ident: $with:ident),*) => {
            $(if let Some(text) = &from.$field {
                to = to.$with(short(concat!("the property ", stringify!($field)), text)?);
            })*
        };
    }
    strings!(
        content_type: with_content_type,
        content_encoding: with_content_encoding,
        correlation_id: with_correlation_id,
        reply_to: with_reply_to,
        expiration: with_expiration,
        message_id: with_message_id,
        kind: with_type,
        user_id: with_user_id,
        app_id: with_app_id
    );
    if let Some(mode) = from.delivery_mode {
        to = to.with_delivery_mode(mode);
    }
    if let Some(priority) = from.priority {
        to = to.with_priority(priority);
    }
    if let Some(seconds) = from.timestamp.and_then(|at| u64::try_from(at.0.div_euclid(1000)).ok()) {
        to = to.with_timestamp(seconds);
    }
    if !from.headers.is_empty() {
        to = to.with_headers(table(&from.headers)?);
    }
    Ok(to)
}

fn properties(from: &BasicProperties) -> Properties {
    let text = |field: &Option<ShortString>| field.as_ref().map(|text| text.as_str().to_owned());
    Properties {
        content_type: text(from.content_type()),
        content_encoding: text(from.content_encoding()),
        delivery_mode: *from.delivery_mode(),
        priority: *from.priority(),
        correlation_id: text(from.correlation_id()),
        reply_to: text(from.reply_to()),
        expiration: text(from.expiration()),
        message_id: text(from.message_id()),
        timestamp: from.timestamp().and_then(time),
        kind: text(from.kind()),
        user_id: text(from.user_id()),
        app_id: text(from.app_id()),
        headers: from.headers().as_ref().map_or_else(Map::new, |headers| object(headers, 0)),
    }
}

/// AMQP's seconds; `None` past the end of time.
fn time(seconds: u64) -> Option<Time> {
    i64::try_from(seconds).ok().and_then(|seconds| seconds.checked_mul(1000)).map(Time)
}

fn object(table: &FieldTable, depth: usize) -> Map<String, Value> {
    table.inner().iter().map(|(name, value)| (harmless_key(name.as_str()), json(value, depth + 1))).collect()
}

fn json(value: &AMQPValue, depth: usize) -> Value {
    if depth > MAX_DEPTH {
        return Value::String(format!("(left out: nested deeper than {MAX_DEPTH})"));
    }
    match value {
        AMQPValue::Boolean(flag) => Value::Bool(*flag),
        AMQPValue::ShortShortInt(number) => Value::from(*number),
        AMQPValue::ShortShortUInt(number) => Value::from(*number),
        AMQPValue::ShortInt(number) => Value::from(*number),
        AMQPValue::ShortUInt(number) => Value::from(*number),
        AMQPValue::LongInt(number) => Value::from(*number),
        AMQPValue::LongUInt(number) => Value::from(*number),
        AMQPValue::LongLongInt(number) => Value::from(*number),
        // By its shortest digits, which read back as the same number: 0.1 stays 0.1.
        AMQPValue::Float(number) => digits(format!("{number:?}")),
        AMQPValue::Double(number) => digits(format!("{number:?}")),
        AMQPValue::DecimalValue(decimal) => digits(decimal_digits(decimal)),
        AMQPValue::ShortString(text) => Value::String(text.as_str().to_owned()),
        AMQPValue::LongString(text) => Value::String(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        AMQPValue::ByteArray(bytes) => Value::String(String::from_utf8_lossy(bytes.as_slice()).into_owned()),
        AMQPValue::Timestamp(seconds) => {
            Value::String(time(*seconds).map_or_else(|| seconds.to_string(), |time| time.to_string()))
        }
        AMQPValue::FieldArray(items) => {
            Value::Array(items.as_slice().iter().map(|item| json(item, depth + 1)).collect())
        }
        AMQPValue::FieldTable(table) => Value::Object(object(table, depth)),
        AMQPValue::Void => Value::Null,
    }
}

/// A JSON number of these digits; NaN and the infinities, which JSON has no numbers for, as their names.
fn digits(text: String) -> Value {
    text.parse::<Number>().map_or(Value::String(text), Value::Number)
}

fn decimal_digits(decimal: &DecimalValue) -> String {
    let scale = usize::from(decimal.scale);
    let mut digits = format!("{:0>width$}", decimal.value, width = scale + 1);
    if scale > 0 {
        digits.insert(digits.len() - scale, '.');
    }
    digits
}

/// Bytes on the wire.
fn properties_size(properties: &BasicProperties) -> usize {
    let short = |field: &Option<ShortString>| field.as_ref().map_or(0, |text| 1 + text.as_str().len());
    short(properties.content_type())
        + short(properties.content_encoding())
        + short(properties.correlation_id())
        + short(properties.reply_to())
        + short(properties.expiration())
        + short(properties.message_id())
        + short(properties.kind())
        + short(properties.user_id())
        + short(properties.app_id())
        + properties.headers().as_ref().map_or(0, table_size)
}

fn table_size(table: &FieldTable) -> usize {
    4 + table.inner().iter().map(|(name, value)| 1 + name.as_str().len() + value_size(value)).sum::<usize>()
}

/// With its type's byte; only what [`amqp_value`] makes.
fn value_size(value: &AMQPValue) -> usize {
    1 + match value {
        AMQPValue::LongString(text) => 4 + LongString::len(text),
        AMQPValue::FieldArray(items) => 4 + FieldArray::as_slice(items).iter().map(value_size).sum::<usize>(),
        AMQPValue::FieldTable(table) => table_size(table),
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn header(value: AMQPValue) -> Value {
        let mut headers = FieldTable::default();
        headers.insert("h".into(), value);
        properties(&BasicProperties::default().with_headers(headers)).headers["h"].clone()
    }

    #[test]
    fn headers_that_serde_json_would_mistake_are_kept_readable() {
        let mut table = FieldTable::default();
        table.insert("$serde_json::private::Number".into(), AMQPValue::LongString("no number".into()));
        let header = header(AMQPValue::FieldTable(table));
        assert_eq!(header, json!({ "_$serde_json::private::Number": "no number" }));
        assert_eq!(serde_json::from_str::<Value>(&header.to_string()).unwrap(), header);
    }

    #[test]
    fn every_type_of_field_becomes_json() {
        assert_eq!(header(AMQPValue::Boolean(true)), json!(true));
        assert_eq!(header(AMQPValue::ShortShortInt(-128)), json!(-128));
        assert_eq!(header(AMQPValue::ShortShortUInt(255)), json!(255));
        assert_eq!(header(AMQPValue::ShortInt(-32768)), json!(-32768));
        assert_eq!(header(AMQPValue::ShortUInt(65535)), json!(65535));
        assert_eq!(header(AMQPValue::LongInt(i32::MIN)), json!(i32::MIN));
        assert_eq!(header(AMQPValue::LongUInt(u32::MAX)), json!(u32::MAX));
        assert_eq!(header(AMQPValue::LongLongInt(i64::MIN)), json!(i64::MIN));
        assert_eq!(header(AMQPValue::Float(0.1)).to_string(), "0.1");
        assert_eq!(header(AMQPValue::Double(1e300)).as_f64(), Some(1e300));
        assert_eq!(header(AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 12345 })).to_string(), "123.45");
        assert_eq!(header(AMQPValue::DecimalValue(DecimalValue { scale: 3, value: 7 })).to_string(), "0.007");
        assert_eq!(header(AMQPValue::DecimalValue(DecimalValue { scale: 0, value: 7 })).to_string(), "7");
        assert_eq!(header(AMQPValue::ShortString("s".into())), json!("s"));
        assert_eq!(header(AMQPValue::LongString("long".into())), json!("long"));
        assert_eq!(header(AMQPValue::ByteArray(b"bytes"[..].into())), json!("bytes"));
        assert_eq!(header(AMQPValue::Timestamp(1_767_323_045)), json!("2026-01-02T03:04:05.000Z"));
        assert_eq!(header(AMQPValue::Void), Value::Null);
        assert_eq!(
            header(AMQPValue::FieldArray(vec![AMQPValue::Void, AMQPValue::Boolean(false)].into())),
            json!([null, false])
        );
    }

    #[test]
    fn what_json_has_no_word_for_comes_as_text() {
        assert_eq!(header(AMQPValue::Float(f32::NAN)), json!("NaN"));
        assert_eq!(header(AMQPValue::Double(f64::NEG_INFINITY)), json!("-inf"));
        assert_eq!(header(AMQPValue::Timestamp(u64::MAX)), json!(u64::MAX.to_string()));
        assert_eq!(header(AMQPValue::LongString(vec![b'a', 0xff, b'b'].into())), json!("a\u{fffd}b"));
        assert_eq!(header(AMQPValue::ByteArray(vec![0xc3].into())), json!("\u{fffd}"));
        let decimal = header(AMQPValue::DecimalValue(DecimalValue { scale: 255, value: u32::MAX }));
        assert!(decimal.is_number(), "{decimal}");
    }

    #[test]
    fn x_death_can_be_read() {
        let death: BTreeMap<ShortString, AMQPValue> = [
            ("count".into(), AMQPValue::LongLongInt(2)),
            ("exchange".into(), AMQPValue::LongString("shop.commands".into())),
            ("queue".into(), AMQPValue::LongString("payments".into())),
            ("reason".into(), AMQPValue::LongString("rejected".into())),
            ("routing-keys".into(), AMQPValue::FieldArray(vec![AMQPValue::LongString("pay".into())].into())),
            ("time".into(), AMQPValue::Timestamp(1_767_323_045)),
        ]
        .into();
        let deaths = header(AMQPValue::FieldArray(vec![AMQPValue::FieldTable(death.into())].into()));
        assert_eq!(
            deaths,
            json!([{
                "count": 2, "exchange": "shop.commands", "queue": "payments", "reason": "rejected",
                "routing-keys": ["pay"], "time": "2026-01-02T03:04:05.000Z"
            }])
        );
    }

    #[test]
    fn headers_nested_without_end_are_cut_where_json_readers_still_follow() {
        let mut value = AMQPValue::Void;
        for _ in 0..2_000 {
            value = AMQPValue::FieldArray(vec![value].into());
        }
        let text = header(value).to_string();
        assert!(text.contains("left out"), "{text}");
        serde_json::from_str::<Value>(&text).expect("readable");
    }

    #[test]
    fn properties_come_back_as_they_went() {
        let properties = Properties {
            content_type: Some("application/json".into()),
            content_encoding: Some("utf-8".into()),
            delivery_mode: Some(2),
            priority: Some(9),
            correlation_id: Some("c".into()),
            reply_to: Some("sagad.replies".into()),
            expiration: Some("29900".into()),
            message_id: Some("m".into()),
            timestamp: Some(Time(1_767_323_045_000)),
            kind: Some("payment.charge".into()),
            user_id: Some("guest".into()),
            app_id: Some("sagad".into()),
            headers:
                json!({ "saga-attempt": 1, "saga-in-doubt": true, "none": null, "nested": { "list": [1, "two", 2.5] } })
                    .as_object()
                    .cloned()
                    .unwrap_or_default(),
        };
        let there = basic_properties(&properties).expect("carried");
        assert_eq!(super::properties(&there), properties);
        assert_eq!(super::properties(&BasicProperties::default()), Properties::default());
    }

    #[test]
    fn times_go_as_whole_seconds_and_not_before_1970() {
        let at = |millis| {
            let properties = Properties { timestamp: Some(Time(millis)), ..Properties::default() };
            *basic_properties(&properties).expect("carried").timestamp()
        };
        assert_eq!(at(1_999), Some(1));
        assert_eq!(at(-1), None);
    }

    #[test]
    fn a_number_keeps_its_value_or_its_digits() {
        let sent = |text: &str| amqp_value(&serde_json::from_str(text).expect("json")).expect("carried");
        assert_eq!(sent("9223372036854775807"), AMQPValue::LongLongInt(i64::MAX));
        assert_eq!(sent("9223372036854775808"), AMQPValue::LongString("9223372036854775808".into()));
        assert_eq!(sent("2.5"), AMQPValue::Double(2.5));
        assert_eq!(sent("0.10"), AMQPValue::Double(0.1));
        let long = "0.1000000000000000055511151231257827";
        assert_eq!(sent(long), AMQPValue::LongString(long.into()), "the double 0.1 is written with fewer digits");
        assert_eq!(sent("1e999"), AMQPValue::LongString("1e+999".into()));
    }

    fn message(properties: Properties, routing_key: &str) -> Outgoing {
        Outgoing {
            exchange: "x".into(),
            routing_key: routing_key.into(),
            mandatory: true,
            properties,
            body: Bytes::new(),
        }
    }

    #[test]
    fn what_amqp_cannot_carry_is_told_before_it_is_sent() {
        let refused = |properties, routing_key: &str| outgoing(&message(properties, routing_key), 131_072).err();
        assert_eq!(refused(Properties::default(), &"k".repeat(255)), None);
        assert_eq!(
            refused(Properties::default(), &"k".repeat(256)).as_deref(),
            Some("the routing key has 256 bytes, AMQP allows 255")
        );
        let long = Properties { reply_to: Some("r".repeat(300)), ..Properties::default() };
        assert_eq!(refused(long, "k").as_deref(), Some("the property reply_to has 300 bytes, AMQP allows 255"));
        let headers = [("h".to_owned(), json!("v".repeat(131_072)))].into_iter().collect();
        let large = refused(Properties { headers, ..Properties::default() }, "k").expect("refused");
        assert!(large.contains("the broker takes 131072 at most"), "{large}");
    }

    fn any_value() -> impl Strategy<Value = AMQPValue> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(AMQPValue::Boolean),
            any::<i8>().prop_map(AMQPValue::ShortShortInt),
            any::<u32>().prop_map(AMQPValue::LongUInt),
            any::<i64>().prop_map(AMQPValue::LongLongInt),
            any::<f32>().prop_map(AMQPValue::Float),
            any::<f64>().prop_map(AMQPValue::Double),
            (any::<u8>(), any::<u32>())
                .prop_map(|(scale, value)| AMQPValue::DecimalValue(DecimalValue { scale, value })),
            any::<Vec<u8>>().prop_map(|bytes| AMQPValue::LongString(bytes.into())),
            any::<Vec<u8>>().prop_map(|bytes| AMQPValue::ByteArray(bytes.into())),
            any::<u64>().prop_map(AMQPValue::Timestamp),
            Just(AMQPValue::Void),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(|items| AMQPValue::FieldArray(items.into())),
                prop::collection::btree_map(".{0,20}", inner, 0..6).prop_map(|entries| {
                    let entries: BTreeMap<ShortString, AMQPValue> =
                        entries.into_iter().map(|(name, value)| (name.as_str().into(), value)).collect();
                    AMQPValue::FieldTable(entries.into())
                }),
            ]
        })
    }

    /// What sagad sends in headers: text, whole numbers of 64 bits, and lists and tables of them.
    fn any_header() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("\\PC{0,60}", inner, 0..4)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    fn any_properties() -> impl Strategy<Value = Properties> {
        let text = || prop::option::of("\\PC{0,60}");
        let headers = prop::collection::btree_map("\\PC{0,60}", any_header(), 0..5);
        let second = 0..i64::MAX / 1000;
        let first = (text(), text(), any::<Option<u8>>(), any::<Option<u8>>(), text(), text(), text());
        (first, (text(), prop::option::of(second), text(), text(), text(), headers)).prop_map(|(first, second)| {
            let (content_type, content_encoding, delivery_mode, priority, correlation_id, reply_to, expiration) = first;
            let (message_id, timestamp, kind, user_id, app_id, headers) = second;
            Properties {
                content_type,
                content_encoding,
                delivery_mode,
                priority,
                correlation_id,
                reply_to,
                expiration,
                message_id,
                timestamp: timestamp.map(|seconds| Time(seconds * 1000)),
                kind,
                user_id,
                app_id,
                headers: headers.into_iter().collect(),
            }
        })
    }

    proptest! {
        #[test]
        fn any_properties_come_back_as_they_went(sent in any_properties()) {
            prop_assert_eq!(super::properties(&basic_properties(&sent).expect("carried")), sent);
        }

        /// A dead letter is stored as JSON and may be published again: what came once comes the same way ever after.
        #[test]
        fn any_header_survives_storage_and_replay(value in any_value()) {
            let came = header(value);
            let stored: Value = serde_json::from_str(&came.to_string()).expect("readable JSON");
            prop_assert_eq!(&stored, &came);
            let again = header(amqp_value(&stored).expect("carried"));
            prop_assert_eq!(again.to_string().parse::<Value>().expect("json"), again.clone());
            prop_assert_eq!(header(amqp_value(&again).expect("carried")), again);
        }
    }
}
