//! How the configuration is written out: durations as they are read, secrets hidden.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::Value;

const HIDDEN: &str = "***";

pub(super) fn duration<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&humantime::format_duration(*duration))
}

pub(super) fn optional_duration<S: Serializer>(duration: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    duration.map(|duration| humantime::format_duration(duration).to_string()).serialize(to)
}

pub(super) fn secret<T, S: Serializer>(_secret: &T, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(HIDDEN)
}

pub(super) fn url<S: Serializer>(url: &str, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&without_password(url))
}

/// A URL with its password hidden, in the authority as well as in the query, where Postgres takes one too.
pub fn without_password(url: &str) -> String {
    let Ok(mut parsed) = url::Url::parse(url) else { return HIDDEN.to_owned() };
    let hides = |name: &str| name.to_ascii_lowercase().contains("password");
    if !parsed.query_pairs().any(|(name, _)| hides(&name)) && parsed.password().is_none() {
        return url.to_owned();
    }
    // Refused only by URLs that can't have a password.
    if parsed.password().is_some() && parsed.set_password(Some(HIDDEN)).is_err() {
        return HIDDEN.to_owned();
    }
    if parsed.query().is_some() {
        let pairs: Vec<(String, String)> = parsed.query_pairs().into_owned().collect();
        let shown = pairs.iter().map(|(name, value)| (name, if hides(name) { HIDDEN } else { value }));
        parsed.query_pairs_mut().clear().extend_pairs(shown);
    }
    parsed.into()
}

/// As TOML's own values: its serializer does not know the form that JSON numbers of any size have.
pub(super) fn arguments<S: Serializer>(arguments: &BTreeMap<String, Value>, to: S) -> Result<S::Ok, S::Error> {
    let shown: BTreeMap<&String, toml::Value> =
        arguments.iter().filter_map(|(name, value)| Some((name, plain(value)?))).collect();
    shown.serialize(to)
}

fn plain(value: &Value) -> Option<toml::Value> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(flag) => (*flag).into(),
        Value::Number(number) => match number.as_i64() {
            Some(number) => number.into(),
            None => number.as_f64()?.into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => items.iter().filter_map(plain).collect::<Vec<_>>().into(),
        Value::Object(fields) => fields
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), plain(value)?)))
            .collect::<toml::Table>()
            .into(),
    })
}
