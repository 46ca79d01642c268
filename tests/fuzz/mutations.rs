//! Bytes made from other bytes, by a generator that is the same everywhere.

/// As many bytes as are fed at the most: the shipped definitions are smaller.
const LONGEST: usize = 16 * 1024;
/// What the languages here have special names or meanings for, and what parsers stumble over.
const WORDS: [&str; 64] = [
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "{{ input }}",
    "{{ steps.pay.reply.id }}",
    "{% for x in input.items %}",
    "{% endfor %}",
    "{% if ",
    "{% set x = ",
    " is defined",
    " and ",
    " or ",
    "not ",
    " in ",
    "|default('')",
    "|tojson",
    "|map(attribute='a')",
    "range(",
    "loop.index",
    "item",
    "index",
    "steps['a-b']",
    "[[steps]]\n",
    "[steps.compensate]\n",
    "after = []\n",
    "compensate = false\n",
    "foreach = ",
    "wait = { signal = 'a' }\n",
    "saga = 'x'\n",
    "sleep = '1h'\n",
    "publish = 'p'\n",
    "pivot = true\n",
    "reply.success = ",
    "match = 'body.a'",
    "'''",
    "\"\"\"",
    "\\u0000",
    "\\uD800",
    "\u{FEFF}",
    "\u{202E}",
    "𝄞",
    "e\u{301}",
    "0x",
    "1e400",
    "-0.0",
    "9007199254740993",
    "340282366920938463463374607431768211457",
    "99999999999999999999999999999d",
    "1h 30m",
    "2026-01-01T00:00:00Z",
    "null",
    "true",
    "[",
    "]",
    "{",
    "}",
    "\"",
    ",",
    ":",
    "\n",
    "\0",
    "$serde_json::private::Number",
];

/// Makes mutations of seeds.
pub(crate) struct Mutator {
    seeds: Vec<Vec<u8>>,
    state: u64,
}

impl Mutator {
    pub(crate) fn new(seeds: Vec<Vec<u8>>) -> Mutator {
        Mutator { seeds, state: 0x5a6a_d5a6 }
    }

    /// The next one: a seed with a few changes.
    pub(crate) fn next(&mut self) -> Vec<u8> {
        let seed = self.below(self.seeds.len());
        let mut bytes = self.seeds[seed].clone();
        for _ in 0..=self.below(4) {
            self.change(&mut bytes);
        }
        bytes.truncate(LONGEST);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len() + 1);
        let end = (at + 1 + self.below(12)).min(bytes.len());
        match self.below(8) {
            // A word, between others or instead of some bytes.
            0 | 1 => drop(bytes.splice(at..at, WORDS[self.below(WORDS.len())].bytes())),
            2 => drop(bytes.splice(at..end, WORDS[self.below(WORDS.len())].bytes())),
            3 => drop(bytes.drain(at..end)),
            // A piece of itself, or of another seed.
            4 => {
                let piece = bytes[at..end].to_vec();
                let times = 1 << self.below(9);
                drop(bytes.splice(at..at, piece.repeat(times)));
            }
            5 => {
                let from = self.below(self.seeds.len());
                let start = self.below(self.seeds[from].len() + 1);
                let stop = (start + self.below(80)).min(self.seeds[from].len());
                let piece = self.seeds[from][start..stop].to_vec();
                drop(bytes.splice(at..end, piece));
            }
            // A line twice, or gone.
            6 => {
                let line =
                    bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |length| at + length + 1);
                let piece = bytes[at..line].to_vec();
                let twice = if self.below(2) == 0 { piece.repeat(2) } else { Vec::new() };
                drop(bytes.splice(at..line, twice));
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = u8::try_from(self.below(256)).unwrap();
                }
            }
        }
    }

    /// SplitMix64.
    fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap()
    }
}
