//! What an operator can do: each order is put to the machine as if it had been given, and what it forbids is left out.

use serde_json::{Value, json};

use super::{Case, Choice};
use crate::core::decide::decide;
use crate::core::definition::{Awaited, Execute};
use crate::core::entry::Resolution;
use crate::core::id::StepIx;
use crate::core::input::{Input, Order};
use crate::core::saga::Progress;

/// Steps whose orders are told of.
const STEPS: usize = 5;

impl Case<'_> {
    pub(super) fn choices(&self) -> Vec<Choice> {
        if self.saga.status().is_terminal() {
            return Vec::new();
        }
        let mut choices = Vec::new();
        // What the saga waits for an operator for goes first.
        let cause = self.saga.suspended.as_ref().and_then(|suspension| suspension.spot).map(|spot| spot.step);
        let open = |step: &StepIx| Some(*step) != cause && self.is_open(*step);
        let of_steps = cause.into_iter().chain((0..self.saga.steps.len()).filter(open));
        for step in of_steps.take(STEPS) {
            choices.extend(self.retry(step));
            let outcomes = [Resolution::Succeeded, Resolution::Failed, Resolution::Compensated, Resolution::GivenUp];
            choices.extend(outcomes.into_iter().filter_map(|outcome| self.resolve(step, outcome)));
        }
        let reason = || Some("…".to_owned());
        let whole = [
            ("resume", Order::Resume { reason: reason() }, "it goes on"),
            ("cancel", Order::Cancel { reason: reason() }, "what was done is undone"),
            ("suspend", Order::Suspend { reason: reason() }, "nothing more is sent until it is resumed"),
        ];
        for (word, order, otherwise) in whole {
            if !self.allows(&order) {
                continue;
            }
            let effect = match word {
                "suspend" => None,
                _ => self.sequel(self.saga, by_operator(order), self.now),
            };
            choices.push(Choice {
                order: word.to_owned(),
                step: None,
                effect: effect.unwrap_or_else(|| otherwise.to_owned()),
                command: format!("sagad {word} {} --reason '…'", self.saga.id),
                path: format!("/v1/sagas/{}/{word}", self.saga.id),
                body: json!({ "reason": "…" }),
            });
        }
        choices.extend(self.signals());
        choices
    }

    fn retry(&self, step: StepIx) -> Option<Choice> {
        let name = self.name(step);
        let order = Order::Retry { step: name.to_owned(), item: None, reason: Some("…".to_owned()) };
        if !self.allows(&order) {
            return None;
        }
        let effect = self.sequel(self.saga, by_operator(order), self.now);
        Some(Choice {
            order: "retry".to_owned(),
            step: Some(name.to_owned()),
            effect: effect.unwrap_or_else(|| "what failed gets fresh attempts".to_owned()) + self.of_elements(step),
            command: format!("sagad retry {} {name} --reason '…'", self.saga.id),
            path: format!("/v1/sagas/{}/steps/{name}/retry", self.saga.id),
            body: json!({ "reason": "…" }),
        })
    }

    fn resolve(&self, step: StepIx, outcome: Resolution) -> Option<Choice> {
        let name = self.name(step);
        let (reply, reason) = (Value::Null, "…".to_owned());
        let order = Order::Resolve { step: name.to_owned(), item: None, outcome, reply, reason };
        if !self.allows(&order) {
            return None;
        }
        let sequel = || self.sequel(self.saga, by_operator(order), self.now);
        let (word, means, more) = match outcome {
            // What later steps make of a reply that nobody knows yet can't be foreseen.
            Resolution::Succeeded => ("succeeded", "you know that it was done", None),
            Resolution::Failed => ("failed", "you know that it was not done", sequel()),
            Resolution::Compensated => {
                ("compensated", "you know that it is undone, or have undone it by hand", sequel())
            }
            Resolution::GivenUp => ("given_up", "it will never be undone, and that is accepted", sequel()),
        };
        let reply = if outcome == Resolution::Succeeded { " --reply JSON" } else { "" };
        let mut body = json!({ "outcome": word, "reason": "…" });
        if outcome == Resolution::Succeeded {
            body["reply"] = json!({});
        }
        Some(Choice {
            order: "resolve".to_owned(),
            step: Some(name.to_owned()),
            effect: more.map_or_else(|| means.to_owned(), |more| format!("{means}: {more}")) + self.of_elements(step),
            command: format!("sagad resolve {} {name} {word} --reason '…'{reply}", self.saga.id),
            path: format!("/v1/sagas/{}/steps/{name}/resolve", self.saga.id),
            body,
        })
    }

    /// The signals that steps wait for now.
    fn signals(&self) -> Vec<Choice> {
        let mut names: Vec<(&str, StepIx)> = Vec::new();
        for (at, step) in self.definition.steps.iter().enumerate() {
            if let Execute::Wait(wait) = &step.execute
                && let Awaited::Signal(name) = &wait.until
                && matches!(self.saga.steps[at].unit.execute.progress, Progress::Running { .. })
                && names.iter().all(|(known, _)| *known != &**name)
            {
                names.push((name, at));
            }
        }
        let allowed = |name: &str| {
            let signal = Input::Signal { name: name.to_owned(), id: None, payload: Value::Null, actor: None };
            decide(self.definition, self.saga, signal, self.now).is_ok_and(|decision| !decision.entries.is_empty())
        };
        let choice = |(name, step): (&str, StepIx)| Choice {
            order: "signal".to_owned(),
            step: Some(self.name(step).to_owned()),
            effect: format!("step `{}` has what it waits for", self.name(step)),
            command: format!("sagad signal {} {} --payload JSON", self.saga.id, quoted(name)),
            path: format!("/v1/sagas/{}/signals/{}", self.saga.id, escaped(name)),
            body: json!({}),
        };
        names.into_iter().filter(|(name, _)| allowed(name)).take(STEPS).map(choice).collect()
    }

    fn of_elements(&self, step: StepIx) -> &'static str {
        match self.saga.steps[step].elements.is_some() {
            true => "; `--item N` for one element only",
            false => "",
        }
    }

    /// Whether anything of a step could be retried or resolved: what was never sent can't.
    fn is_open(&self, step: StepIx) -> bool {
        let tally = self.tally(step);
        tally.forward > 0 || tally.failed.is_some() || tally.unsettled > 0 || tally.undo_failed > 0
    }

    fn allows(&self, order: &Order) -> bool {
        decide(self.definition, self.saga, by_operator(order.clone()), self.now).is_ok()
    }
}

fn by_operator(order: Order) -> Input {
    Input::Operator { actor: "an operator".to_owned(), order }
}

/// As a shell takes it.
fn quoted(word: &str) -> String {
    match word.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// As a part of a path.
fn escaped(word: &str) -> String {
    url::form_urlencoded::byte_serialize(word.as_bytes()).collect::<String>().replace('+', "%20")
}
