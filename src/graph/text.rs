//! Text whose width nobody knows: the fonts are the viewer's. So it is estimated by wide ones.

use unicode_width::UnicodeWidthChar;

/// How a text is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Face {
    Title,
    Name,
    /// What a machine reads: routing keys, expressions.
    Code,
    Small,
}

impl Face {
    /// The size of its letters, in pixels.
    pub(super) fn size(self) -> f64 {
        match self {
            Face::Title => 24.0,
            Face::Name => 15.0,
            Face::Code => 12.5,
            Face::Small => 11.5,
        }
    }

    /// From one line to the next.
    pub(super) fn leading(self) -> f64 {
        (self.size() * 1.4).ceil()
    }

    pub(super) fn class(self) -> &'static str {
        match self {
            Face::Title => "title",
            Face::Name => "name",
            Face::Code => "code",
            Face::Small => "small",
        }
    }

    /// The width of one letter, in its size: that of DejaVu, which is wider than what most systems have.
    fn advance(self, letter: char) -> f64 {
        if !letter.is_ascii() {
            // An emoji or an ideograph is a square; anything else may come from any font.
            return if letter.width() == Some(0) { 0.0 } else { 1.25 };
        }
        match (self, letter) {
            (Face::Code, _) => 0.62,
            (_, 'i' | 'j' | 'l' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | ' ') => 0.42,
            (_, 'm' | 'w' | 'M' | 'W' | '@' | '%' | '&') => 1.1,
            (_, 'A'..='Z' | '+' | '<' | '=' | '>' | '~' | '#' | '^') => 0.86,
            (Face::Title | Face::Name, _) => 0.72,
            (Face::Small, _) => 0.65,
        }
    }
}

/// A width that the text does not exceed, in pixels.
pub(super) fn width(text: &str, face: Face) -> f64 {
    text.chars().map(|letter| face.advance(letter)).sum::<f64>() * face.size()
}

/// Breaks a text into lines that are no wider than `most`, at spaces if possible, else behind punctuation, else anywhere. What
/// does not fit into so many `lines` is left out, which the last one shows.
pub(super) fn wrapped(text: &str, face: Face, most: f64, lines: usize) -> Vec<String> {
    let letters: Vec<char> = visible(text).chars().collect();
    let mut broken = Vec::new();
    let mut rest = &letters[..];
    while !rest.is_empty() {
        let (line, next) = rest.split_at(first_line(rest, face, most));
        broken.push(line.iter().collect::<String>().trim_end().to_owned());
        let spaces = next.iter().take_while(|letter| **letter == ' ').count();
        rest = &next[spaces..];
    }
    if broken.len() > lines {
        broken.truncate(lines);
        if let Some(last) = broken.last_mut() {
            while !last.is_empty() && width(last, face) + width("…", face) > most {
                last.pop();
            }
            last.push('…');
        }
    }
    broken
}

/// How many letters make the first line: at least one.
fn first_line(letters: &[char], face: Face, most: f64) -> usize {
    let mut wide = 0.0;
    let (mut at_space, mut at_mark) = (0, 0);
    for (at, letter) in letters.iter().enumerate() {
        wide += face.advance(*letter) * face.size();
        if *letter == ' ' {
            at_space = at;
        } else if wide > most {
            return [at_space, at_mark, at].into_iter().find(|end| *end > 0).unwrap_or(1);
        } else if matches!(letter, '_' | '-' | '.' | '/' | ',' | '(' | ')' | '[' | ']') {
            at_mark = at + 1;
        }
    }
    letters.len()
}

/// A text of one line in which everything is visible, and in which nothing turns the direction of what follows.
pub(super) fn visible(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let unseen = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFF}')
    };
    words.join(" ").chars().map(|letter| if unseen(letter) { '\u{FFFD}' } else { letter }).collect()
}

/// Text for an XML element or an attribute in double quotes.
pub(super) fn xml(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_no_wider_than_asked_and_lose_nothing() {
        let texts = [
            "one two three",
            "shop.commands.are.very_long-indeed",
            "漢字漢字漢字 漢字",
            "xxxxxxxxxxxxxxxxxxxx",
            "a  b",
            "",
        ];
        for text in texts {
            for most in [1.0, 30.0, 61.0, 200.0] {
                let lines = wrapped(text, Face::Name, most, usize::MAX);
                for line in &lines {
                    assert!(width(line, Face::Name) <= most || line.chars().count() == 1, "{line:?} in {most}");
                }
                let bare = |text: &str| text.chars().filter(|letter| *letter != ' ').collect::<String>();
                assert_eq!(bare(&lines.concat()), bare(text), "{text:?} in {most}");
            }
        }
    }

    #[test]
    fn lines_break_where_a_reader_would() {
        assert_eq!(wrapped("reserve the stock", Face::Small, 70.0, 9), ["reserve", "the stock"]);
        assert_eq!(wrapped("inventory.reserve", Face::Code, 100.0, 9), ["inventory.", "reserve"]);
        assert_eq!(wrapped("one two three four", Face::Small, 48.0, 2), ["one", "two…"]);
    }

    #[test]
    fn nothing_hides_in_a_text() {
        assert_eq!(visible(" a\n\tb\u{0}c\u{202E}d "), "a b\u{FFFD}c\u{FFFD}d");
        assert_eq!(xml("<a b=\"c\">&"), "&lt;a b=&quot;c&quot;&gt;&amp;");
    }
}
