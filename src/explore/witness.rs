//! The way to a breach of a law, told as a scenario that `sagad test` plays.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::choices::{Choice, Fate, Word};
use super::node::{Node, Transition};
use super::{Bounds, Violation};
use crate::core::definition::{Awaited, Definition, Execute, Wait};
use crate::core::id::{Action, Spot, Ticket};
use crate::core::saga::Status;
use crate::core::time::Time;
use crate::scenario;
use crate::store::Source;
use crate::trial::laws::Breach;
use crate::trial::stage::{Decide, START, Start};
use crate::trial::story;

/// Goes the way once more and tells it.
pub(super) fn violation(
    definition: &Definition,
    source: &Source,
    start: &Start,
    bounds: Bounds,
    decide: Decide,
    way: &[Choice],
    breach: Breach,
) -> Violation {
    let Breach { law, message } = breach;
    let mut witness = Witness::default();
    let mut history = Vec::new();
    // It started before, so it starts again.
    if let Ok(mut node) = Node::start(definition, start.clone(), decide) {
        let mut note = |witness: &mut Witness, node: &mut Node<'_>| {
            for Transition { turn, .. } in node.fresh.drain(..) {
                witness.sent_at.extend(turn.sent.iter().map(|sent| (place(sent.ticket), turn.at)));
                history.extend(turn.entries.iter().map(|entry| story::tell(definition, turn.at, entry)));
            }
        };
        note(&mut witness, &mut node);
        for choice in way {
            node.follow(choice);
            witness.hear(definition, choice, node.stage.now);
            note(&mut witness, &mut node);
        }
    }
    let text = witness.scenario(definition, start, bounds.attempts, &format!("{law}: {message}"));
    // What became of it, to be changed into what should have.
    let ended = |status: &str| format!("{text}expect.status = \"{status}\"\n");
    let status = scenario::ending(&ended("completed"), source, decide).unwrap_or(Status::Completed);
    let scenario = ended(status.as_str());
    Violation { law, message, scenario, history }
}

/// An attempt.
type Place = (Spot, Action, u32);

fn place(ticket: Ticket) -> Place {
    // What is waited for has no attempts.
    (ticket.spot, ticket.action, ticket.attempt.max(1))
}

#[derive(Default)]
struct Witness {
    sent_at: BTreeMap<Place, Time>,
    /// What came of each attempt, as a scenario says it.
    reactions: BTreeMap<Place, String>,
    happens: Vec<String>,
    deadline: Option<Time>,
}

impl Witness {
    fn hear(&mut self, definition: &Definition, choice: &Choice, at: Time) {
        match choice {
            Choice::Answer(flight, word) => self.reacts(flight.ticket, said(*word), at),
            Choice::Back(flight, reason, _) => self.reacts(flight.ticket, reason.as_str(), at),
            Choice::Arrives(late) => self.reacts(late.ticket, if late.done { "success" } else { "failure" }, at),
            Choice::Time(fates) | Choice::Deadline(fates) => {
                if let Choice::Deadline(_) = choice {
                    self.deadline = Some(at);
                }
                for (flight, fate) in fates {
                    // One that is to be late says so when it comes.
                    let word = if *fate == Fate::Silent { "\"silent\"" } else { "\"none\"" };
                    self.reactions.insert(place(flight.ticket), word.to_owned());
                }
            }
            Choice::Early(ticket) => {
                let step = &definition.steps[ticket.spot.step];
                let what = match &step.execute {
                    Execute::Wait(Wait { until: Awaited::Signal(name), .. }) => format!("signal = \"{name}\""),
                    _ => format!("event = \"{}\"", step.name),
                };
                self.happens.push(format!("{{ after = \"{}\", {what} }}", passed(START, at)));
            }
            Choice::Cancel => self.happens.push(format!("{{ after = \"{}\", cancel = true }}", passed(START, at))),
        }
    }

    fn reacts(&mut self, ticket: Ticket, word: &str, at: Time) {
        let sent_at = self.sent_at.get(&place(ticket)).copied().unwrap_or(START);
        let reaction = match at.since(sent_at).is_zero() {
            true => format!("\"{word}\""),
            false => format!("{{ {word} = true, after = \"{}\" }}", passed(sent_at, at)),
        };
        self.reactions.insert(place(ticket), reaction);
    }

    fn scenario(&self, definition: &Definition, start: &Start, attempts: u32, name: &str) -> String {
        let mut text = format!("saga = \"{}\"\n\n[[scenario]]\nname  = {:?}\n", definition.name, name);
        let _ = writeln!(text, "input = {}", toml(&start.input));
        let _ = writeln!(text, "attempts = {attempts}");
        if let Some(deadline) = self.deadline {
            let _ = writeln!(text, "timeout = \"{}\"", passed(START, deadline));
        }
        let mut lists: BTreeMap<(Spot, Action), Vec<&str>> = BTreeMap::new();
        for ((spot, action, attempt), reaction) in &self.reactions {
            let list = lists.entry((*spot, *action)).or_default();
            // Nothing is known of those in between.
            list.resize(*attempt as usize, "\"none\"");
            list[*attempt as usize - 1] = reaction;
        }
        for ((spot, action), mut list) in lists {
            // What is in flight in the end is left there.
            let sent = self.sent_at.keys().filter(|(of, by, _)| (*of, *by) == (spot, action)).count();
            list.resize(sent.max(list.len()), "\"none\"");
            let name = &definition.steps[spot.step].name;
            let element = spot.item.map(|item| format!(".items.{item}")).unwrap_or_default();
            let _ = writeln!(text, "replies.{name}{element}.{} = [{}]", action.as_str(), list.join(", "));
        }
        if !self.happens.is_empty() {
            let _ = writeln!(text, "happens = [{}]", self.happens.join(", "));
        }
        text
    }
}

fn said(word: Word) -> &'static str {
    match word {
        Word::Success => "success",
        Word::Failure => "failure",
        Word::Retry => "retry",
        Word::Pending => "pending",
    }
}

fn passed(from: Time, to: Time) -> String {
    format!("{}ms", to.since(from).as_millis())
}

/// JSON as a TOML value. There is no null in TOML: it is left out.
fn toml(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(_, value)| !value.is_null());
            let fields: Vec<String> = fields.map(|(name, value)| format!("{name:?} = {}", toml(value))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().filter(|item| !item.is_null()).map(toml).collect();
            format!("[{}]", items.join(", "))
        }
        // A JSON string is a TOML string, but for the slash that JSON may escape and serde_json does not.
        other => other.to_string(),
    }
}
