//! Text as it is stored. Postgres' `text` holds every character but NUL, and an index entry holds only so much of one.

use std::borrow::Cow;
use std::fmt::Write;

use sha2::{Digest, Sha256};

/// A noncharacter, so it stands in nearly no text: what follows says what it stands for.
const ESCAPE: char = '\u{10ffff}';

/// The longest key that is stored as it is, in bytes. Postgres' indexes take entries of up to 2,700 bytes, and a key of
/// nothing but NULs grows to five times its length.
const LONGEST_KEY: usize = 400;

/// `text` without NUL; different texts stay different.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    // The escape begins with a byte that hardly any other character has.
    if !text.bytes().any(|byte| byte == 0 || byte == 0xf4) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\0' => escaped.extend([ESCAPE, '0']),
            ESCAPE => escaped.extend([ESCAPE, '1']),
            c => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

/// [`escape`] of what may be owned already.
pub(super) fn escape_cow(text: Cow<'_, str>) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => escape(text),
        Cow::Owned(text) => match escape(&text) {
            Cow::Owned(escaped) => Cow::Owned(escaped),
            Cow::Borrowed(_) => Cow::Owned(text),
        },
    }
}

/// The text that [`escape`] was given.
pub(super) fn unescape(text: String) -> String {
    if !text.contains(ESCAPE) {
        return text;
    }
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ESCAPE => plain.push(if chars.next() == Some('0') { '\0' } else { ESCAPE }),
            c => plain.push(c),
        }
    }
    plain
}

/// A key that an index takes: a long one is cut, with a digest of the whole.
pub(super) fn key(key: &str) -> Cow<'_, str> {
    if key.len() <= LONGEST_KEY {
        return Cow::Borrowed(key);
    }
    let mut cut = key[..key.floor_char_boundary(LONGEST_KEY)].to_owned();
    // Longer than any key that is stored as it is, so it equals none.
    cut.push_str("... ");
    for byte in Sha256::digest(key) {
        // Writing to a string does not fail.
        let _ = write!(cut, "{byte:02x}");
    }
    Cow::Owned(cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_text_has_no_nul_and_comes_back() {
        for text in ["", "plain ünïcode 🦀", "\0", "a\0b\0", "\u{10ffff}", "\u{10ffff}0", "\0\u{10ffff}1\0"] {
            let escaped = escape(text);
            assert!(!escaped.contains('\0'), "{text:?}");
            assert_eq!(unescape(escaped.into_owned()), text);
        }
        assert_ne!(escape("\0"), escape("\u{10ffff}0"));
    }

    #[test]
    fn plain_text_is_not_copied() {
        assert!(matches!(escape("plain"), Cow::Borrowed(_)));
        assert!(matches!(key("plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn long_keys_are_cut_and_stay_different() {
        let long = "ü".repeat(5000);
        let longer = format!("{long}!");
        assert!(key(&long).len() < 500);
        assert_ne!(key(&long), key(&longer));
        assert_eq!(key(&"k".repeat(LONGEST_KEY)), "k".repeat(LONGEST_KEY));
        assert_ne!(key(&key(&long)), key(&long));
    }
}
