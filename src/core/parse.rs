//! TOML to [`Definition`]: parse, don't validate.

use crate::core::definition::Definition;
use crate::core::diagnostic::Diagnostic;

/// Reads a definition. All that is wrong is found at once; warnings come with the definition.
///
/// `schema_file` yields the text of a JSON Schema file named by `input = { file = … }`, relative to the definition's
/// folder, or why it can't.
///
/// # Errors
/// Every error, and every warning besides.
pub fn parse(
    _toml: &str,
    _schema_file: &mut dyn FnMut(&str) -> Result<String, String>,
) -> Result<(Definition, Vec<Diagnostic>), Vec<Diagnostic>> {
    Err(Vec::new())
}
