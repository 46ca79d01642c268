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

/// The candidate that `word` is most likely a misspelling of, if any is close.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Half of a short word, a third of a long one: further off it is rather another word.
    let reach = (word.chars().count() / 3).clamp(1, 4);
    let scored = candidates.map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate));
    scored.filter(|&(distance, _)| distance <= reach).min_by_key(|&(distance, _)| distance).map(|(_, near)| near)
}
