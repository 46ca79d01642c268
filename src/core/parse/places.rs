//! Where things are in a definition's text: for warnings, as a [`Definition`](crate::core::definition) itself has no places.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The places of everything in a definition's text; none if it is no TOML.
#[derive(Debug)]
pub struct Places<'t>(Option<Spanned<DeTable<'t>>>);

/// One step of a way into a definition.
#[derive(Clone, Copy, Debug)]
pub enum Key {
    /// A key of a table.
    Name(&'static str),
    /// One of the steps, by its place.
    Step(usize),
    /// One of the events that start it, by its place.
    Start(usize),
}

impl<'t> Places<'t> {
    /// Reads a text.
    pub fn new(text: &'t str) -> Places<'t> {
        Places(DeTable::parse(text).ok())
    }

    /// The bytes of the value at `path`, or of as much of the path as is written in the file: what a step inherits has no
    /// place of its own there.
    pub fn find(&self, path: &[Key]) -> Range<usize> {
        (0..=path.len()).rev().find_map(|length| self.value(&path[..length])).map_or(0..0, Spanned::span)
    }

    /// The bytes of the key at `path`, where the last part of it is one; else of the value.
    pub fn key(&self, path: &[Key]) -> Range<usize> {
        let Some((Key::Name(name), table)) = path.split_last() else { return self.find(path) };
        let table = match table {
            [] => self.0.as_ref().map(Spanned::get_ref),
            table => self.value(table).and_then(|table| table.get_ref().as_table()),
        };
        let key = table.and_then(|table| table.get_key_value(*name));
        key.map_or_else(|| self.find(path), |(key, _)| key.span())
    }

    /// Whether there is anything at `path`.
    pub fn has(&self, path: &[Key]) -> bool {
        self.value(path).is_some()
    }

    /// The string at `path`, if there is one.
    pub fn text(&self, path: &[Key]) -> Option<&str> {
        self.value(path)?.get_ref().as_str()
    }

    fn value(&self, path: &[Key]) -> Option<&Spanned<DeValue<'t>>> {
        let mut table = Some(self.0.as_ref()?.get_ref());
        let mut value = None;
        for key in path {
            let next = match *key {
                Key::Name(name) => table?.get(name)?,
                Key::Step(at) => table?.get("steps")?.get_ref().get(at)?,
                Key::Start(at) => table?.get("start")?.get_ref().get(at)?,
            };
            table = next.get_ref().as_table();
            value = Some(next);
        }
        value
    }
}
