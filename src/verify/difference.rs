//! Where two JSON texts differ, in a few words.

use serde_json::Value;

/// Characters of a value that are shown.
const SHOWN: usize = 60;

/// The first place where what is stored differs from what should be: both, in words.
pub(super) fn difference(stored: &[u8], expected: &[u8]) -> (String, String) {
    let expected: Value = serde_json::from_slice(expected).unwrap_or_default();
    let stored: Value = match serde_json::from_slice(stored) {
        Ok(stored) => stored,
        Err(error) => return (format!("unreadable ({error})"), "what the journal says".to_owned()),
    };
    let mut place = String::new();
    match first(Some(&stored), Some(&expected), &mut place) {
        Some((stored, expected)) => {
            let place = if place.is_empty() { "/" } else { &place };
            (format!("{} at {place}", shown(stored)), shown(expected))
        }
        None => ("written otherwise".to_owned(), "what the journal says".to_owned()),
    }
}

type Pair<'a> = (Option<&'a Value>, Option<&'a Value>);

fn first<'a>(stored: Option<&'a Value>, expected: Option<&'a Value>, place: &mut String) -> Option<Pair<'a>> {
    let length = place.len();
    let mut below = |key: &str, stored, expected| {
        place.push('/');
        place.push_str(key);
        let found = first(stored, expected, place);
        if found.is_none() {
            place.truncate(length);
        }
        found
    };
    match (stored, expected) {
        (Some(Value::Object(one)), Some(Value::Object(other))) => {
            let keys = one.keys().chain(other.keys().filter(|key| !one.contains_key(*key)));
            keys.into_iter().find_map(|key| below(key, one.get(key), other.get(key)))
        }
        (Some(Value::Array(one)), Some(Value::Array(other))) => {
            (0..one.len().max(other.len())).find_map(|at| below(&at.to_string(), one.get(at), other.get(at)))
        }
        (one, other) if one == other => None,
        pair => Some(pair),
    }
}

fn shown(value: Option<&Value>) -> String {
    let Some(value) = value else { return "nothing".to_owned() };
    cut(&value.to_string())
}

/// The beginning of a long text.
pub(super) fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_place_is_told() {
        let tell = |stored: &str, expected: &str| difference(stored.as_bytes(), expected.as_bytes());
        let both = |one: &str, other: &str| (one.to_owned(), other.to_owned());
        assert_eq!(tell("{\"a\":[1,{\"b\":2}]}", "{\"a\":[1,{\"b\":3}]}"), both("2 at /a/1/b", "3"));
        assert_eq!(tell("{\"a\":1}", "{\"b\":null,\"a\":1}"), both("nothing at /b", "null"));
        assert_eq!(tell("[1,2]", "[1]"), both("2 at /1", "nothing"));
        assert_eq!(tell("7", "8"), both("7 at /", "8"));
        assert_eq!(tell("{ \"a\": 1 }", "{\"a\":1}").0, "written otherwise");
        assert!(tell("{\"a", "{}").0.starts_with("unreadable (EOF"));
        assert!(tell(&format!("\"{}\"", "ü".repeat(500)), "1").0.len() < 200);
    }
}
