//! What is wrong with a definition, and where.

use std::ops::Range;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The definition can't be used.
    Error,
    /// It can, but probably does not mean what it says.
    Warning,
}

/// One problem of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Stable, kebab-case: `unknown-key`, `unknown-step`.
    pub code: &'static str,
    /// Where: bytes of the file's text.
    pub span: Range<usize>,
    /// What and why.
    pub message: String,
    /// How to mend it; empty where the message says it all.
    pub help: String,
}
