//! The definition language as a JSON Schema, for editors: completion, descriptions, and what is wrong while it is written.
//!
//! The parser decides what a definition is; the tests hold the schema against it, key by key.

/// JSON Schema 2020-12 of a definition's file.
pub const DEFINITION: &str = include_str!("schema/definition.json");
