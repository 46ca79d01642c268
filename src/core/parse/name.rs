//! Names: of definitions and steps, of exchanges and routing keys.

use super::reader::{Field, Reader, Table};
use crate::core::template::is_template;

/// AMQP's short strings.
pub(super) const MAX_NAME: usize = 255;

impl<'t> Reader<'t> {
    /// A name of a definition or a step.
    pub(super) fn identifier(&mut self, field: &Field<'t>) -> Option<&'t str> {
        let name = self.string(field)?;
        let first = name.starts_with(|first: char| first.is_ascii_lowercase());
        let rest = name.chars().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '_' || it == '-');
        if first && rest && name.len() <= 64 {
            return Some(name);
        }
        let message = format!("`{name}` can't be a name");
        let help = match suggested(name) {
            Some(better) => {
                format!("write \"{better}\": a small letter, then small letters, digits, `_` and `-`, 64 in all")
            }
            None => "begin with a small letter and go on with small letters, digits, `_` and `-`, 64 in all".to_owned(),
        };
        self.error("invalid-name", field.value.span(), message, help);
        None
    }

    /// The name of an exchange.
    pub(super) fn exchange_name(&mut self, field: &Field<'t>) -> Option<String> {
        let text = self.string(field)?;
        if is_template(text) {
            let help = "write a fixed name; what depends on the saga goes into `headers` or `body`";
            self.invalid(field, "it can't be a template", help);
            return None;
        }
        if text.len() > MAX_NAME {
            self.invalid(
                field,
                format_args!("it has {} bytes, AMQP allows {MAX_NAME}", text.len()),
                "choose a shorter name",
            );
            return None;
        }
        if text.chars().any(char::is_control) {
            self.invalid(field, "it has control characters in it", "leave them out: nobody could see or type them");
            return None;
        }
        Some(text.to_owned())
    }

    /// A routing key, or the name of a signal, which is one.
    pub(super) fn routing_key(&mut self, field: &Field<'t>, example: &str) -> Option<String> {
        let name = self.exchange_name(field)?;
        if name.is_empty() {
            self.invalid(field, "it is empty", format!("write for example `{} = {example}`", field.name));
            return None;
        }
        Some(name)
    }

    /// The exchange of what a step sends: its own, or the default.
    pub(super) fn exchange(&mut self, table: &mut Table<'t>, default: Option<&String>) -> Option<String> {
        if let Some(field) = table.take("exchange") {
            return self.exchange_name(&field);
        }
        if default.is_none() {
            let message = format!("{} has no exchange, and there is no default", table.what);
            let help = "add `exchange = \"…\"` here, or once for all steps below `[defaults]`";
            self.error("no-exchange", table.span.clone(), message, help);
        }
        default.cloned()
    }
}

/// A name that would do, made from one that will not.
fn suggested(name: &str) -> Option<String> {
    let mut better = String::new();
    for it in name.trim().chars() {
        match it {
            'A'..='Z' => {
                if !better.is_empty() && !better.ends_with(['_', '-']) {
                    better.push('_');
                }
                better.push(it.to_ascii_lowercase());
            }
            'a'..='z' | '0'..='9' | '_' | '-' => better.push(it),
            ' ' | '.' => better.push('_'),
            _ => return None,
        }
    }
    (better.starts_with(|it: char| it.is_ascii_lowercase()) && better.len() <= 64).then_some(better)
}
