//! Files and the environment, laid over one another. Every value keeps the place it was written at.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::{Map, Source, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{ConfigError, ConfigErrors};

/// The file that is read if it is there.
const DEFAULT_FILE: &str = "config/sagad.toml";

/// Variables with this prefix are configuration; `__` goes one table deeper.
pub(super) const PREFIX: &str = "SAGAD__";

/// Reads every layer and merges them.
///
/// # Errors
/// Everything that can't be read, in all layers.
pub(super) fn load(
    explicit: Option<&Path>,
    environment: &BTreeMap<String, String>,
) -> Result<Map<String, Value>, ConfigErrors> {
    let default = PathBuf::from(DEFAULT_FILE);
    let mut files = Vec::new();
    let mut errors = Vec::new();
    for (path, optional) in [(Some(default.as_path()), true), (explicit, false)] {
        let Some(path) = path else { continue };
        match std::fs::read_to_string(path) {
            Ok(text) => files.push((path.display().to_string(), text)),
            Err(error) if optional && error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                errors.push(ConfigError::new("", Some(path.display().to_string()), format!("can't be read: {error}")))
            }
        }
    }
    merge(&files, environment, errors)
}

/// Merges the texts of files, named, and the environment.
pub(super) fn merge(
    files: &[(String, String)],
    environment: &BTreeMap<String, String>,
    mut errors: Vec<ConfigError>,
) -> Result<Map<String, Value>, ConfigErrors> {
    let mut merged = config::Config::builder();
    for (name, text) in files {
        match parse(name, text) {
            Ok(layer) => merged = merged.add_source(layer),
            Err(found) => errors.extend(found),
        }
    }
    let merged = merged.add_source(variables(environment)).build().and_then(|config| config.collect());
    match merged {
        Ok(values) if errors.is_empty() => Ok(values),
        Ok(_) => Err(ConfigErrors(errors)),
        Err(error) => {
            errors.push(ConfigError::new("", None, error.to_string()));
            Err(ConfigErrors(errors))
        }
    }
}

/// One layer: its values by key.
#[derive(Clone, Debug)]
struct Layer(Map<String, Value>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

/// The variables below [`PREFIX`]: `SAGAD__STORE__URL` is `store.url`.
fn variables(environment: &BTreeMap<String, String>) -> Layer {
    let ours = environment.iter().filter_map(|(name, value)| Some((name, name.strip_prefix(PREFIX)?, value)));
    let entry = |(name, key, value): (&String, &str, &String)| {
        (key.to_lowercase().replace("__", "."), Value::new(Some(name), ValueKind::String(value.clone())))
    };
    Layer(ours.map(entry).collect())
}

fn parse(name: &str, text: &str) -> Result<Layer, Vec<ConfigError>> {
    let places = Places { name, text };
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(Layer(places.table(table.into_inner())));
    }
    let place = |error: &toml::de::Error| places.of(error.span().map_or(0, |span| span.start));
    Err(errors.iter().map(|error| ConfigError::new("", Some(place(error)), error.message())).collect())
}

/// Turns offsets into places a person can go to.
struct Places<'a> {
    name: &'a str,
    text: &'a str,
}

impl Places<'_> {
    /// `FILE:LINE:COLUMN`, both from 1, columns in characters.
    fn of(&self, offset: usize) -> String {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
        format!("{}:{line}:{column}", self.name)
    }

    fn table(&self, table: DeTable<'_>) -> Map<String, Value> {
        let entry = |(key, value): (Spanned<_>, Spanned<DeValue<'_>>)| {
            let place = self.of(key.span().start);
            let key: std::borrow::Cow<'_, str> = key.into_inner();
            (key.into_owned(), self.value(place, value.into_inner()))
        };
        table.into_iter().map(entry).collect()
    }

    fn value(&self, place: String, value: DeValue<'_>) -> Value {
        let kind = match value {
            DeValue::String(text) => ValueKind::String(text.into_owned()),
            DeValue::Boolean(flag) => ValueKind::Boolean(flag),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => ValueKind::I64(number),
                Err(_) => ValueKind::String(number.as_str().to_owned()),
            },
            DeValue::Float(number) => match number.as_str().parse() {
                Ok(number) => ValueKind::Float(number),
                Err(_) => ValueKind::String(number.as_str().to_owned()),
            },
            DeValue::Datetime(time) => ValueKind::String(time.to_string()),
            DeValue::Array(items) => ValueKind::Array(
                items.into_iter().map(|item| self.value(self.of(item.span().start), item.into_inner())).collect(),
            ),
            DeValue::Table(table) => ValueKind::Table(self.table(table)),
        };
        Value::new(Some(&place), kind)
    }
}
