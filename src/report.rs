//! Problems of definitions' files, shown: with their lines to a person, as plain data to a program.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::Serialize;

use crate::core::diagnostic::{Diagnostic, Severity};

/// A problem as programs read it. Lines and columns count from 1, columns in characters; the end is the first place after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding<'a> {
    /// The file, as it was named.
    pub file: Cow<'a, str>,
    /// Line of the first character.
    pub line: usize,
    /// Its column.
    pub column: usize,
    /// Line of what follows the last character.
    pub end_line: usize,
    /// Its column.
    pub end_column: usize,
    /// `error` or `warning`.
    pub severity: &'static str,
    /// Stable, kebab-case.
    pub code: &'static str,
    /// What and why.
    pub message: &'a str,
    /// How to mend it; may be empty.
    pub help: &'a str,
}

impl<'a> Finding<'a> {
    /// The problem of a file with this text.
    pub fn new(path: &'a Path, text: &str, diagnostic: &'a Diagnostic) -> Finding<'a> {
        let (line, column) = place(text, diagnostic.span.start);
        let (end_line, end_column) = place(text, diagnostic.span.end.max(diagnostic.span.start));
        let severity = match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let Diagnostic { code, message, help, .. } = diagnostic;
        Finding { file: path.to_string_lossy(), line, column, end_line, end_column, severity, code, message, help }
    }
}

impl fmt::Display for Finding<'_> {
    /// One line, `FILE:LINE:COLUMN: …`, as editors and grep know it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

/// Line and column of a byte, from 1, columns in characters.
pub fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..boundary(text, offset)];
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

/// The nearest place at or before `offset` where a character of `text` begins.
fn boundary(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

/// Shows a problem with its lines, a mark below what it is about, and how to mend it; several lines, without a last line break.
pub fn render(path: &Path, text: &str, diagnostic: &Diagnostic, colours: bool) -> String {
    // The excerpt is made harmless by the renderer, the path is not.
    let path = path.to_string_lossy().replace(char::is_control, "\u{fffd}");
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(diagnostic.message.as_str()).id(diagnostic.code);
    let start = boundary(text, diagnostic.span.start);
    let span = start..boundary(text, diagnostic.span.end).max(start);
    let mut group: Group<'_> = if text.trim().is_empty() {
        // Nothing to show: the file is empty or could not be read.
        title.element(Origin::path(path.as_str()).line(1).char_column(1))
    } else {
        let mark = AnnotationKind::Primary.span(span);
        title.element(Snippet::source(text).path(path.as_str()).annotation(mark))
    };
    if !diagnostic.help.is_empty() {
        group = group.element(Level::HELP.message(diagnostic.help.as_str()));
    }
    let renderer = if colours { Renderer::styled() } else { Renderer::plain() };
    renderer.render(&[group])
}
