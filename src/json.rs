//! Reading JSON that strangers send.

use serde_json::Value;

/// Names that serde_json uses between its own parts to carry numbers of any size and raw text. An object of a stranger with
/// such a key would be taken for the number or the text: `{"$serde_json::private::Number":"1"}` reads as 1.
const RESERVED: &str = "$serde_json::private::";

/// The longest number, in characters. A number may have more digits than 64 bits have room for, and still comes out
/// as it went in; but schemas compute with numbers, and what that costs must have a bound.
const LONGEST_NUMBER: usize = 400;

/// The largest exponent, either way; those of double precision end at 308.
const LARGEST_EXPONENT: u32 = 400;

/// How deep a stranger's value may be nested. serde_json reads 128 levels, and what was read is stored and sent inside of other
/// values, which must be readable as well: a reply in a step in a saga's state, a part of it in the next body.
const DEEPEST: usize = 64;

/// Why bytes are not JSON, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} (line {line}, column {column})")]
pub struct Unreadable {
    /// For a person.
    pub message: String,
    /// From 1.
    pub line: usize,
    /// In bytes, from 1.
    pub column: usize,
}

/// Reads one JSON value. Numbers keep every digit.
///
/// # Errors
/// It is no JSON, nested more than 64 deep, or has a number or a key that sagad could not pass on unchanged.
pub fn read(bytes: &[u8]) -> Result<Value, Unreadable> {
    refuse_ambiguous(bytes)?;
    serde_json::from_slice(bytes).map_err(|error| {
        // serde_json appends the place to its message.
        let message = error.to_string();
        let end = message.rfind(" at line ").unwrap_or(message.len());
        Unreadable { message: message[..end].to_owned(), line: error.line(), column: error.column() }
    })
}

/// A key that can be written as JSON and read again: with `_` in front of one that could not.
pub fn harmless_key(key: &str) -> String {
    if key.starts_with(RESERVED) { format!("_{key}") } else { key.to_owned() }
}

/// Goes through strings and numbers of what may not even be JSON.
fn refuse_ambiguous(bytes: &[u8]) -> Result<(), Unreadable> {
    let (mut at, mut depth) = (0, 0usize);
    while let Some(&byte) = bytes.get(at) {
        let end = match byte {
            b'"' => string_end(bytes, at),
            b'-' | b'0'..=b'9' => number_end(bytes, at),
            b'[' | b'{' => {
                depth += 1;
                at + 1
            }
            _ => {
                depth -= usize::from(matches!(byte, b']' | b'}') && depth > 0);
                at += 1;
                continue;
            }
        };
        let token = &bytes[at..end];
        let complaint = match byte {
            b'"' if is_key(bytes, end) && is_reserved(token) => Some("a key can't begin with `$serde_json::private::`"),
            b'"' => None,
            b'[' | b'{' if depth > DEEPEST => Some("this is nested too deep: 64 levels are read"),
            b'[' | b'{' => None,
            _ if is_excessive(token) => Some("a number has too many digits or too large an exponent"),
            _ => None,
        };
        if let Some(message) = complaint {
            let before = &bytes[..at];
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            let column = at - before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1) + 1;
            return Err(Unreadable { message: message.to_owned(), line, column });
        }
        at = end;
    }
    Ok(())
}

/// Behind the closing quote of the string that begins at `start`.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn number_end(bytes: &[u8], start: usize) -> usize {
    let part_of_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    bytes[start..].iter().position(|byte| !part_of_number(byte)).map_or(bytes.len(), |length| start + length)
}

fn is_key(bytes: &[u8], end: usize) -> bool {
    bytes[end..].iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b':')
}

fn is_reserved(literal: &[u8]) -> bool {
    // Escapes can spell the name in many ways; without any it must be there as it is.
    if !literal.contains(&b'\\') {
        return literal[1..].starts_with(RESERVED.as_bytes());
    }
    serde_json::from_slice::<String>(literal).is_ok_and(|key| key.starts_with(RESERVED))
}

fn is_excessive(number: &[u8]) -> bool {
    if number.len() > LONGEST_NUMBER {
        return true;
    }
    let Some(e) = number.iter().position(|byte| matches!(byte, b'e' | b'E')) else { return false };
    let digits = number[e + 1..].iter().filter(|byte| byte.is_ascii_digit());
    let exponent = digits.fold(0u32, |sum, digit| sum.saturating_mul(10).saturating_add(u32::from(digit - b'0')));
    exponent > LARGEST_EXPONENT
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_of_any_size_come_out_as_they_went_in() {
        for number in ["18446744073709551616", "-0.10", "1e+400", "3.141592653589793238462643383279502884"] {
            assert_eq!(read(number.as_bytes()).unwrap().to_string(), number);
        }
    }

    #[test]
    fn numbers_that_cost_too_much_are_refused() {
        let nines = "9".repeat(LONGEST_NUMBER + 1);
        for number in ["1e401", "1E-999999999", "[1, 1e+00000099999999999999999999]", nines.as_str()] {
            let error = read(number.as_bytes()).unwrap_err();
            assert!(error.message.contains("a number"), "{error}");
        }
        assert!(read(br#"["9e999999999", "\"9e999999999"]"#).is_ok(), "strings are not numbers");
    }

    #[test]
    fn keys_that_would_be_taken_for_something_else_are_refused() {
        for text in [
            r#"{"$serde_json::private::Number":"1"}"#,
            r#"{"$serde_json::private::Number" : "no number"}"#,
            r#"{"a":[{"\u0024serde_json::private::RawValue":"[1]"}]}"#,
            r#"{"a\"":1,"$serde_json::private::RawValue":"[1]"}"#,
        ] {
            assert!(read(text.as_bytes()).unwrap_err().message.contains("a key can't"), "{text}");
        }
        let harmless = br#"["$serde_json::private::Number", {"a": "$serde_json::private::Number"}]"#;
        assert_eq!(serde_json::to_string(&read(harmless).unwrap()).unwrap().len(), harmless.len() - 2);
    }

    #[test]
    fn complaints_have_a_place() {
        let place = |text: &str| read(text.as_bytes()).map_err(|error| (error.line, error.column)).unwrap_err();
        assert_eq!(place("{\n  \"a\": }"), (2, 8));
        assert_eq!(place("[\n\n 1,\n  1e999]"), (4, 3));
        assert_eq!(read(b"{\"a\" 1}").unwrap_err().to_string(), "expected `:` (line 1, column 6)");
    }

    #[test]
    fn nesting_has_a_bound() {
        let nested = |depth: usize| read(format!("{}1{}", "[".repeat(depth), "]".repeat(depth)).as_bytes());
        assert!(nested(DEEPEST).is_ok());
        assert!(nested(DEEPEST + 1).unwrap_err().message.contains("too deep"));
        assert!(nested(1_000_000).unwrap_err().message.contains("too deep"));
        assert!(read(format!("[{}1]", "[1],{\"a\":{}},".repeat(100)).as_bytes()).is_ok(), "broad is not deep");
    }

    #[test]
    fn harmless_keys_can_be_read_again() {
        for key in ["a", "", "$serde_json::private::Number", "$serde_json::private::RawValue"] {
            let written = serde_json::json!({ "nested": { harmless_key(key): "abc" } }).to_string();
            assert_eq!(read(written.as_bytes()).unwrap().to_string(), written);
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_read_changes(text in "[\\[\\]{}\",:0-9eE.+\\-a \\\\u$\\n]{0,40}") {
            let Ok(value) = read(text.as_bytes()) else { return Ok(()) };
            let again = serde_json::to_vec(&value).unwrap();
            prop_assert_eq!(read(&again).unwrap(), value);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = read(&bytes);
        }
    }
}
