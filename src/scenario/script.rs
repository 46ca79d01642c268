//! What participants are scripted to answer.
//!
//! ```toml
//! replies.pay = { failure = { message = "declined" } }           # of every attempt
//! replies.pay = ["none", "retry", { success = { id = 7 } }]      # of one after the other
//! replies.pay = { execute = "none", compensate = ["retry"] }     # of its undo, too
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};
use toml::de::DeValue;

use super::{Reaction, Reactions, Script, What};
use crate::core::id::Action;
use crate::core::parse::reader::{Field, Reader, Table};
use crate::core::saga::Reason;

/// What a command can come to, in a word.
const WORDS: [(&str, Word); 10] = [
    ("success", Word::Success),
    ("failure", Word::Failure),
    ("retry", Word::Retry),
    ("none", Word::Nothing),
    ("silent", Word::Silence),
    ("rejected", Word::Back(Reason::Rejected)),
    ("expired", Word::Back(Reason::Expired)),
    ("delivery_limit", Word::Back(Reason::DeliveryLimit)),
    ("max_length", Word::Back(Reason::MaxLength)),
    ("unroutable", Word::Back(Reason::Unroutable)),
];
/// More are not sent.
const MOST_TIMES: i64 = 100;

#[derive(Clone, Copy)]
enum Word {
    Success,
    Failure,
    Retry,
    Nothing,
    Silence,
    Back(Reason),
}

impl<'t> Reader<'t> {
    /// What the participants of a step answer.
    pub(super) fn script(&mut self, field: &Field<'t>) -> Script {
        let mut script = Script::default();
        let DeValue::Table(entries) = field.value.get_ref() else {
            script.execute = self.reactions(field);
            return script;
        };
        let mut table = Table::new("the replies of a step", field.value.span(), entries);
        if let Some(field) = table.take("compensate") {
            script.compensate = self.reactions(&field);
        }
        if let Some(field) = table.take("probe") {
            script.probe = self.reactions(&field);
        }
        if let Some(field) = table.take("items") {
            script.items = self.items(&field);
        }
        match table.take("execute") {
            Some(field) => {
                script.execute = self.reactions(&field);
                self.finish(&table);
            }
            // The rest is the answer itself.
            None if table.has_others() => {
                script.execute = self.reaction(table).map_or_else(Reactions::default, Reactions::Each)
            }
            None => {}
        }
        script
    }

    fn items(&mut self, field: &Field<'t>) -> BTreeMap<u32, Script> {
        let example = "`items.0 = \"failure\"`: by the places of the elements, from 0";
        let DeValue::Table(entries) = field.value.get_ref() else {
            self.wrong_type(field, "a table", format!("write it like this: {example}"));
            return BTreeMap::new();
        };
        let mut items = BTreeMap::new();
        for (key, value) in entries {
            let field = Field { name: key.get_ref(), key: key.span(), value };
            match field.name.parse() {
                Ok(item) => drop(items.insert(item, self.script(&field))),
                Err(_) => {
                    let message = format!("`{}` is no place of an element", field.name);
                    self.error("invalid-value", field.key, message, format!("write it like this: {example}"));
                }
            }
        }
        items
    }

    fn reactions(&mut self, field: &Field<'t>) -> Reactions {
        let DeValue::Array(array) = field.value.get_ref() else {
            return self.reaction_at(field).map_or_else(Reactions::default, Reactions::Each);
        };
        let each = |value| self.reaction_at(&Field { value, ..field.clone() });
        Reactions::InTurn(array.iter().filter_map(each).collect())
    }

    fn reaction_at(&mut self, field: &Field<'t>) -> Option<Reaction> {
        match field.value.get_ref() {
            DeValue::String(_) => Some(Reaction::of(self.word(field, &WORDS)?.without_a_word())),
            DeValue::Table(entries) => self.reaction(Table::new("a reply", field.value.span(), entries)),
            _ => {
                let example =
                    "`\"none\"`, `{ failure = { message = \"declined\" } }`, or an array: one for each attempt";
                self.wrong_type(field, "a reply", format!("write it like this: {example}"));
                None
            }
        }
    }

    fn reaction(&mut self, mut table: Table<'t>) -> Option<Reaction> {
        let after = table.take("after").and_then(|field| self.duration_or_none(&field));
        let times = table.take("times").and_then(|field| self.integer(&field, 1, MOST_TIMES));
        let pending = table.take("pending").map(|field| self.durations(&field)).unwrap_or_default();
        let headers = table.take("headers").and_then(|field| self.json(field.value));
        let answer = table.take("answer");
        let mut said: Vec<(Field<'t>, Option<Word>)> = Vec::new();
        for (name, word) in WORDS {
            said.extend(table.take(name).map(|field| (field, Some(word))));
        }
        said.extend(answer.map(|field| (field, None)));
        let one = said.pop();
        self.finish(&table);
        let (Some((field, word)), true) = (one, said.is_empty()) else {
            let words = WORDS.map(|(word, _)| word).join(", ");
            let message = format!("a reply is one of {words} and answer");
            self.error(
                "invalid-value",
                table.span.clone(),
                message,
                "write for example `{ success = { id = 7 }, after = \"2s\" }`",
            );
            return None;
        };
        let value = self.json(field.value)?;
        let what = match word {
            None => {
                let headers = match headers {
                    Some(Value::Object(headers)) => headers,
                    _ => Map::new(),
                };
                What::Answer { body: value, headers }
            }
            Some(Word::Success) => What::Success((value != Value::Bool(true)).then_some(value)),
            Some(Word::Failure) => What::Failure(error_body(value)),
            Some(Word::Retry) => What::Retry(error_body(value)),
            Some(word) if value == Value::Bool(true) => word.without_a_word(),
            Some(_) => {
                self.wrong_type(&field, "true", format!("write `{} = true`, or \"{0}\" for the whole", field.name));
                return None;
            }
        };
        Some(Reaction { what, after, pending, times: times.map_or(1, |times| times as u32) })
    }

    fn durations(&mut self, field: &Field<'t>) -> Vec<Duration> {
        let Some(array) = self.array(field, "durations", "`pending = [\"10s\", \"20s\"]`") else { return Vec::new() };
        array.iter().filter_map(|value| self.duration_or_none(&Field { value, ..field.clone() })).collect()
    }
}

/// `"declined"` and `{ message = "declined" }` are the `error` of an answer; what has an `error` is one already.
fn error_body(value: Value) -> Value {
    match value {
        Value::Bool(true) => json!({ "error": "scripted" }),
        value if value.get("error").is_some() => value,
        value => json!({ "error": value }),
    }
}

impl Word {
    fn without_a_word(self) -> What {
        match self {
            Word::Success => What::Success(None),
            Word::Failure => What::Failure(error_body(Value::Bool(true))),
            Word::Retry => What::Retry(error_body(Value::Bool(true))),
            Word::Nothing => What::Nothing,
            Word::Silence => What::Silence,
            Word::Back(reason) => What::Back(reason),
        }
    }
}

impl Reaction {
    /// At once and once.
    pub fn of(what: What) -> Reaction {
        Reaction { what, after: None, pending: Vec::new(), times: 1 }
    }
}

impl Script {
    /// What comes of an attempt of one of its actions.
    pub fn reaction(&self, action: Action, attempt: u32) -> Option<Reaction> {
        let reactions = match action {
            Action::Execute => &self.execute,
            Action::Compensate => &self.compensate,
            Action::Probe => &self.probe,
        };
        match reactions {
            Reactions::Each(reaction) => Some(reaction.clone()),
            // What is waited for has no attempts.
            Reactions::InTurn(all) => all.get(attempt.saturating_sub(1) as usize).cloned(),
        }
    }
}
