//! Reads TOML with the place of everything, and collects what is wrong instead of stopping at it.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::references::Use;
use crate::core::diagnostic::{Diagnostic, Severity, nearest};

/// A value with its place.
pub(crate) type Value<'t> = Spanned<DeValue<'t>>;

/// What all parts of the parser share.
pub(crate) struct Reader<'t> {
    /// The file.
    pub(crate) text: &'t str,
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// What its templates read.
    pub(super) uses: Vec<Use>,
    /// Where events are matched with the saga's key.
    pub(super) matches: Vec<Range<usize>>,
}

/// A key that is there.
#[derive(Clone)]
pub(crate) struct Field<'t> {
    pub(crate) name: &'t str,
    pub(crate) key: Range<usize>,
    pub(crate) value: &'t Value<'t>,
}

/// A table whose keys are all known.
pub(crate) struct Table<'t> {
    /// What it is, for a person: `a step`.
    pub(crate) what: &'static str,
    /// Its header, or what stands for it.
    pub(crate) span: Range<usize>,
    entries: &'t DeTable<'t>,
    known: Vec<&'static str>,
}

impl<'t> Reader<'t> {
    pub(crate) fn new(text: &'t str) -> Reader<'t> {
        Reader { text, diagnostics: Vec::new(), uses: Vec::new(), matches: Vec::new() }
    }

    pub(crate) fn error(
        &mut self,
        code: &'static str,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let (message, help) = (message.into(), help.into());
        self.diagnostics.push(Diagnostic { severity: Severity::Error, code, span, message, help });
    }

    pub(crate) fn warning(
        &mut self,
        code: &'static str,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let (message, help) = (message.into(), help.into());
        self.diagnostics.push(Diagnostic { severity: Severity::Warning, code, span, message, help });
    }

    /// That a value is of another type than `expected`; `example` shows how to write it.
    pub(crate) fn wrong_type(&mut self, field: &Field<'_>, expected: &str, example: impl Into<String>) {
        let found = described(field.value.get_ref());
        let message = format!("`{}`: expected {expected}, found {found}", field.name);
        self.error("wrong-type", field.value.span(), message, example);
    }

    /// That a value is of the right type and yet none that this key can have.
    pub(crate) fn invalid(&mut self, field: &Field<'_>, message: impl std::fmt::Display, help: impl Into<String>) {
        self.error("invalid-value", field.value.span(), format!("`{}`: {message}", field.name), help);
    }

    pub(crate) fn string(&mut self, field: &Field<'t>) -> Option<&'t str> {
        let text = field.value.get_ref().as_str();
        if text.is_none() {
            let source = &self.text[field.value.span()];
            let example = match field.value.get_ref() {
                DeValue::Table(_) | DeValue::Array(_) => format!("write `{} = \"…\"`", field.name),
                _ => format!("put it in quotes: `{} = \"{source}\"`", field.name),
            };
            self.wrong_type(field, "a string", example);
        }
        text
    }

    pub(crate) fn boolean(&mut self, field: &Field<'t>) -> Option<bool> {
        let value = field.value.get_ref().as_bool();
        if value.is_none() {
            self.wrong_type(field, "true or false", format!("write `{} = true` or `{0} = false`", field.name));
        }
        value
    }

    pub(crate) fn table(&mut self, field: &Field<'t>, what: &'static str, example: &str) -> Option<Table<'t>> {
        match field.value.get_ref() {
            DeValue::Table(entries) => Some(Table::new(what, field.key.clone(), entries)),
            _ => {
                self.wrong_type(field, "a table", format!("write it like this: {example}"));
                None
            }
        }
    }

    pub(crate) fn array(&mut self, field: &Field<'t>, of: &str, example: &str) -> Option<&'t DeArray<'t>> {
        let array = field.value.get_ref().as_array();
        if array.is_none() {
            self.wrong_type(field, &format!("an array of {of}"), format!("write it like this: {example}"));
        }
        array
    }

    /// One of a few words.
    pub(crate) fn word<T: Copy>(&mut self, field: &Field<'t>, words: &[(&'static str, T)]) -> Option<T> {
        let all = words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        let Some(text) = field.value.get_ref().as_str() else {
            self.wrong_type(field, &format!("one of {all}"), format!("choose one of {all}"));
            return None;
        };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let help = match nearest(text, words.iter().map(|(word, _)| *word)) {
            Some(near) => format!("did you mean \"{near}\"? It can be {all}"),
            None => format!("it can be {all}"),
        };
        self.invalid(field, format_args!("there is no \"{text}\" here"), help);
        None
    }

    /// An integer from `least` to `most`.
    pub(crate) fn integer(&mut self, field: &Field<'t>, least: i64, most: i64) -> Option<i64> {
        let expected = format!("an integer from {least} to {most}");
        let DeValue::Integer(number) = field.value.get_ref() else {
            self.wrong_type(field, &expected, format!("write `{} = {}`", field.name, least.max(1)));
            return None;
        };
        let number = i64::from_str_radix(number.as_str(), number.radix()).ok();
        let number = number.filter(|number| (least..=most).contains(number));
        if number.is_none() {
            let found = &self.text[field.value.span()];
            self.invalid(
                field,
                format_args!("expected {expected}, found {found}"),
                "choose a number within these bounds",
            );
        }
        number
    }

    /// A number from `least` to `most`.
    pub(crate) fn number(&mut self, field: &Field<'t>, least: f64, most: f64) -> Option<f64> {
        let expected = format!("a number from {least} to {most}");
        let number = match field.value.get_ref() {
            DeValue::Float(number) => number.as_str().parse().ok(),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok().map(|it| it as f64),
            _ => {
                self.wrong_type(field, &expected, format!("write `{} = {least:.1}`", field.name));
                return None;
            }
        };
        let number = number.filter(|number: &f64| (least..=most).contains(number));
        if number.is_none() {
            let found = &self.text[field.value.span()];
            self.invalid(
                field,
                format_args!("expected {expected}, found {found}"),
                "choose a number within these bounds",
            );
        }
        number
    }

    /// A key that must be there; `example` shows how to write it.
    pub(crate) fn required(&mut self, table: &mut Table<'t>, name: &'static str, example: &str) -> Option<Field<'t>> {
        let field = table.take(name);
        if field.is_none() {
            let message = format!("{} has no `{name}`", table.what);
            self.error("missing-key", table.span.clone(), message, format!("add `{name} = {example}`"));
        }
        field
    }

    /// Reports the keys of a table that nobody asked for.
    pub(crate) fn finish(&mut self, table: &Table<'t>) {
        for key in table.entries.keys() {
            let name = &**key.get_ref();
            if table.known.contains(&name) {
                continue;
            }
            let help = match nearest(name, table.known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("{} can have {}", table.what, table.known.join(", ")),
            };
            self.error("unknown-key", key.span(), format!("unknown key `{name}` in {}", table.what), help);
        }
    }
}

impl<'t> Table<'t> {
    pub(crate) fn new(what: &'static str, span: Range<usize>, entries: &'t DeTable<'t>) -> Table<'t> {
        Table { what, span, entries, known: Vec::new() }
    }

    /// A key, if it is there; either way it is known from now on.
    pub(crate) fn take(&mut self, name: &'static str) -> Option<Field<'t>> {
        self.known.push(name);
        let (key, value) = self.entries.get_key_value(name)?;
        Some(Field { name, key: key.span(), value })
    }

    /// Whether a key is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Whether there is a key that may be a misspelling of one of these.
    pub(crate) fn has_near(&self, names: &[&'static str]) -> bool {
        let unknown = self.entries.keys().map(|key| &**key.get_ref()).filter(|name| !self.known.contains(name));
        unknown.into_iter().any(|name| nearest(name, names.iter().copied()).is_some())
    }

    /// Whether there are keys that nobody has asked for.
    pub(crate) fn has_others(&self) -> bool {
        self.entries.keys().any(|key| !self.known.contains(&&**key.get_ref()))
    }

    /// Whether there are no keys at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// A value's type, for a person.
pub(crate) fn described(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(true) => "true",
        DeValue::Boolean(false) => "false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
