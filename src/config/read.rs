//! Typed reading of the merged values: every problem is noted with its key and place, and reading goes on.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use config::{Map, Value, ValueKind};

use super::ConfigError;
use super::layers::PREFIX;

/// Collects what is wrong.
#[derive(Debug, Default)]
pub(super) struct Problems(pub(super) RefCell<Vec<ConfigError>>);

/// One table that is being read.
pub(super) struct Table<'p> {
    path: String,
    place: Option<String>,
    left: BTreeMap<String, Value>,
    /// The keys that were asked for: all that are known.
    known: Vec<&'static str>,
    problems: &'p Problems,
}

impl<'p> Table<'p> {
    pub(super) fn new(path: String, place: Option<String>, values: Map<String, Value>, problems: &'p Problems) -> Self {
        Table { path, place, left: values.into_iter().collect(), known: Vec::new(), problems }
    }

    /// The value of `key`, if it is there and `read` likes it.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.take(key)?;
        match read(&value) {
            Ok(read) => Some(read),
            Err(message) => {
                self.note(key, value.origin().map(str::to_owned), message);
                None
            }
        }
    }

    /// The value of `key`, or `default`.
    pub(super) fn or<T>(&mut self, key: &'static str, default: T, read: impl FnOnce(&Value) -> Result<T, String>) -> T {
        self.optional(key, read).unwrap_or(default)
    }

    /// The value of `key`, which must be there.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        if !self.left.contains_key(key) {
            self.note(key, self.place.clone(), "is missing".to_owned());
        }
        self.optional(key, read)
    }

    /// The table below `key`; empty if it is not there.
    pub(super) fn table(&mut self, key: &'static str) -> Table<'p> {
        let values = self.optional(key, |value| match &value.kind {
            ValueKind::Table(values) => Ok(values.clone()),
            _ => Err("must be a table".to_owned()),
        });
        Table::new(self.path_of(key), self.place.clone(), values.unwrap_or_default(), self.problems)
    }

    /// The tables of the list below `key`.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<Table<'p>> {
        let items = self.optional(key, |value| match &value.kind {
            ValueKind::Array(items) => Ok(items.clone()),
            _ => Err("must be a list of tables".to_owned()),
        });
        let path = self.path_of(key);
        let numbered = items.unwrap_or_default().into_iter().enumerate();
        let table = |(at, item): (usize, Value)| {
            let (path, place) = (format!("{path}[{at}]"), item.origin().map(str::to_owned));
            match item.kind {
                ValueKind::Table(values) => Some(Table::new(path, place, values, self.problems)),
                _ => {
                    let error = ConfigError::new(&path, place, "must be a table");
                    self.problems.0.borrow_mut().push(error);
                    None
                }
            }
        };
        numbered.filter_map(table).collect()
    }

    /// Where `key` was written; the table's own place once it was read.
    pub(super) fn place_of(&self, key: &str) -> Option<String> {
        self.left.get(key).and_then(Value::origin).map(str::to_owned).or_else(|| self.place.clone())
    }

    /// Notes a problem with `key`.
    pub(super) fn note(&self, key: &str, place: Option<String>, message: String) {
        self.problems.0.borrow_mut().push(self.problem(key, place, message));
    }

    /// A problem with `key`, for somebody else to note.
    pub(super) fn problem(&self, key: &str, place: Option<String>, message: String) -> ConfigError {
        ConfigError::new(self.path_of(key), place, message)
    }

    /// Every key that is left is unknown.
    pub(super) fn finish(self) {
        for (key, value) in &self.left {
            let nearest =
                self.known.iter().max_by(|a, b| strsim::jaro_winkler(a, key).total_cmp(&strsim::jaro_winkler(b, key)));
            let hint = match nearest {
                Some(near) if strsim::jaro_winkler(near, key) > 0.7 => format!("did you mean `{near}`?"),
                _ => format!("known are {}", self.known.join(", ")),
            };
            self.note(key, written_at(value), format!("unknown key; {hint}"));
        }
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.left.remove(key)
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

/// The place of a value; merged tables have none of their own, then that of the first value in them that has.
fn written_at(value: &Value) -> Option<String> {
    match (value.origin(), &value.kind) {
        (Some(origin), _) => Some(origin.to_owned()),
        (None, ValueKind::Table(values)) => values.values().filter_map(written_at).min(),
        (None, _) => None,
    }
}

/// A string.
pub(super) fn text(value: &Value) -> Result<String, String> {
    match &value.kind {
        ValueKind::String(text) => Ok(text.clone()),
        _ => Err("must be a string".to_owned()),
    }
}

/// True or false.
pub(super) fn boolean(value: &Value) -> Result<bool, String> {
    match (&value.kind, variable(value)) {
        (ValueKind::Boolean(flag), _) => Ok(*flag),
        (_, Some("true")) => Ok(true),
        (_, Some("false")) => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// An integer within `range`.
pub(super) fn integer<T>(range: RangeInclusive<T>) -> impl FnOnce(&Value) -> Result<T, String>
where
    T: TryFrom<i64> + PartialOrd + std::fmt::Display,
{
    move |value| {
        let number = match (&value.kind, variable(value)) {
            (ValueKind::I64(number), _) => Some(*number),
            (_, Some(text)) => text.parse().ok(),
            _ => None,
        };
        let number = number.and_then(|number| T::try_from(number).ok()).filter(|number| range.contains(number));
        number.ok_or_else(|| format!("must be an integer from {} to {}", range.start(), range.end()))
    }
}

/// A duration within `range`, as a string: `10s`, `1h 30m`.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl FnOnce(&Value) -> Result<Duration, String> {
    move |value| {
        let wrong = || "must be a duration in quotes, as in \"500ms\", \"10s\" or \"1h 30m\"".to_owned();
        let ValueKind::String(text) = &value.kind else { return Err(wrong()) };
        let read = humantime::parse_duration(text).map_err(|error| format!("{}: {error}", wrong()))?;
        if range.contains(&read) {
            return Ok(read);
        }
        let bound = humantime::format_duration;
        Err(format!("must be from {} to {}", bound(*range.start()), bound(*range.end())))
    }
}

/// One of some words.
pub(super) fn word<T: Copy>(words: &'static [(&'static str, T)]) -> impl FnOnce(&Value) -> Result<T, String> {
    move |value| {
        let found = match &value.kind {
            ValueKind::String(text) => words.iter().find(|(word, _)| word == text),
            _ => None,
        };
        let all = || words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ");
        found.map(|(_, meaning)| *meaning).ok_or_else(|| format!("must be {}", all()))
    }
}

/// A table of anything, as JSON.
pub(super) fn arguments(value: &Value) -> Result<BTreeMap<String, serde_json::Value>, String> {
    match json(value) {
        serde_json::Value::Object(fields) => Ok(fields.into_iter().collect()),
        _ => Err("must be a table".to_owned()),
    }
}

fn json(value: &Value) -> serde_json::Value {
    match &value.kind {
        ValueKind::Nil => serde_json::Value::Null,
        ValueKind::Boolean(flag) => (*flag).into(),
        ValueKind::I64(number) => (*number).into(),
        ValueKind::U64(number) => (*number).into(),
        ValueKind::I128(number) => number.to_string().into(),
        ValueKind::U128(number) => number.to_string().into(),
        ValueKind::Float(number) => (*number).into(),
        ValueKind::String(text) => text.as_str().into(),
        ValueKind::Array(items) => items.iter().map(json).collect(),
        ValueKind::Table(fields) => fields.iter().map(|(key, value)| (key.clone(), json(value))).collect(),
    }
}

/// The text of a value from the environment, where everything is text.
fn variable(value: &Value) -> Option<&str> {
    match (&value.kind, value.origin()) {
        (ValueKind::String(text), Some(origin)) if origin.starts_with(PREFIX) => Some(text),
        _ => None,
    }
}
