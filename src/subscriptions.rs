//! What definitions want to hear of other services: events that start a saga, that answer a command, that a step waits for. Pure.
//!
//! ```text
//!   event ─> exchange and topic pattern ─┬─> a start: `when`, then `input`
//!                                        └─> sagas under way: `match` yields the key of the one it belongs to
//! ```
//!
//! Which of its steps an event is about is for the saga's own revision to say: see [`bearings`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use crate::broker::listening::Heard;
use crate::broker::topology::topic_takes;
use crate::core::definition::{Awaited, Definition, Execute, Pattern, Reply, Trigger};
use crate::core::id::{Action, StepIx};
use crate::core::input::Bearing;
use crate::core::start::LONGEST_KEY;
use crate::core::template::Scope;
use crate::pinned::Pinned;

/// An event of another service.
#[derive(Clone, Debug)]
pub struct Event {
    /// The exchange it was published to.
    pub exchange: String,
    /// Its routing key.
    pub routing_key: String,
    /// Tells it from others: its `message_id`, or its header `idempotency-key`.
    pub id: Option<String>,
    /// W3C trace context of whoever published it.
    pub trace: Option<String>,
    /// Its body.
    pub body: Arc<Value>,
    /// Its headers, an object.
    pub headers: Arc<Value>,
}

/// What comes of an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Concern {
    /// A saga begins.
    Start {
        /// The definition's name.
        definition: Arc<str>,
        /// Its input.
        input: Value,
        /// The same for the same event and the same trigger, however often it comes.
        idempotency_key: Option<String>,
    },
    /// It belongs to the saga with this key, if there is one.
    Saga {
        /// The definition's name.
        definition: Arc<str>,
        /// The business key.
        key: String,
    },
    /// A saga of this definition begins, by a revision that another daemon has.
    Elsewhere(Arc<str>),
    /// It can't be found out what comes of it; for a person.
    Unclear(String),
}

/// Everything that a set of revisions listens to.
#[derive(Debug, Default)]
pub struct Subscriptions {
    by_exchange: BTreeMap<String, Vec<Interest>>,
}

/// One pattern of one revision.
#[derive(Debug)]
struct Interest {
    pinned: Arc<Pinned>,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// A start, by its place.
    Trigger(usize),
    /// The pattern of a step.
    Step(StepIx, Bearing),
}

impl Subscriptions {
    /// Of the revisions that sagas begin with, and of those that only sagas under way have.
    pub fn new(
        current: impl IntoIterator<Item = Arc<Pinned>>,
        old: impl IntoIterator<Item = Arc<Pinned>>,
    ) -> Subscriptions {
        let mut subscriptions = Subscriptions::default();
        for pinned in current {
            for (at, trigger) in pinned.definition.starts.iter().enumerate() {
                subscriptions.add(&trigger.exchange, &pinned, What::Trigger(at));
            }
            subscriptions.add_steps(&pinned);
        }
        old.into_iter().for_each(|pinned| subscriptions.add_steps(&pinned));
        subscriptions
    }

    fn add_steps(&mut self, pinned: &Arc<Pinned>) {
        for (step, bearing, pattern) in bearings(&pinned.definition) {
            self.add(&pattern.exchange, pinned, What::Step(step, bearing));
        }
    }

    fn add(&mut self, exchange: &str, pinned: &Arc<Pinned>, what: What) {
        let interests = self.by_exchange.entry(exchange.to_owned()).or_default();
        interests.push(Interest { pinned: Arc::clone(pinned), what });
    }

    /// What is to be listened to.
    pub fn heard(&self) -> Heard {
        let mut heard = Heard::new();
        for (exchange, interests) in &self.by_exchange {
            for interest in interests {
                let Some(routing_key) = interest.routing_key() else { continue };
                let by = heard.entry((exchange.clone(), routing_key.to_owned())).or_default();
                by.insert(interest.pinned.definition.name.to_string());
            }
        }
        heard
    }

    /// What comes of an event; nothing, if nobody wants to hear it.
    pub fn concerns(&self, event: &Event) -> Vec<Concern> {
        let (mut concerns, mut keys) = (Vec::new(), BTreeSet::new());
        for interest in self.interests(event) {
            let definition = &interest.pinned.definition;
            match interest.what {
                What::Trigger(at) => {
                    concerns.extend(definition.starts.get(at).and_then(|it| started(definition, it, event)))
                }
                What::Step(step, bearing) => match key_of(definition, step, bearing, event) {
                    Ok(None) => {}
                    // Several steps, and several revisions, may want to hear the same.
                    Ok(Some(key)) if !keys.insert((Arc::clone(&definition.name), key.clone())) => {}
                    Ok(Some(key)) => concerns.push(Concern::Saga { definition: Arc::clone(&definition.name), key }),
                    Err(why) => concerns.push(Concern::Unclear(why)),
                },
            }
        }
        concerns
    }

    /// Those that an event is for. What another exchange passed on has the name of the one it was published to, which nobody may have
    /// asked for: then it can be for anyone.
    fn interests<'a>(&'a self, event: &'a Event) -> impl Iterator<Item = &'a Interest> {
        let (named, all) = match self.by_exchange.get(&event.exchange) {
            Some(interests) => (Some(interests), None),
            None => (None, Some(self.by_exchange.values())),
        };
        let interests = named.into_iter().chain(all.into_iter().flatten()).flatten();
        let takes = |pattern: &str| topic_takes(pattern, &event.routing_key);
        interests.filter(move |interest| interest.routing_key().is_some_and(takes))
    }
}

impl Interest {
    fn routing_key(&self) -> Option<&str> {
        let definition = &self.pinned.definition;
        match self.what {
            What::Trigger(at) => definition.starts.get(at).map(|trigger| trigger.routing_key.as_str()),
            What::Step(step, bearing) => pattern(definition, step, bearing).map(|pattern| pattern.routing_key.as_str()),
        }
    }
}

/// Everything that the steps of a definition want to hear, and what it is to them.
pub fn bearings(definition: &Definition) -> impl Iterator<Item = (StepIx, Bearing, &Pattern)> {
    const BEARINGS: [Bearing; 5] = [
        Bearing::Awaited,
        Bearing::Success(Action::Execute),
        Bearing::Failure(Action::Execute),
        Bearing::Success(Action::Compensate),
        Bearing::Failure(Action::Compensate),
    ];
    (0..definition.steps.len()).flat_map(move |step| {
        BEARINGS.into_iter().filter_map(move |bearing| Some((step, bearing, pattern(definition, step, bearing)?)))
    })
}

fn pattern(definition: &Definition, step: StepIx, bearing: Bearing) -> Option<&Pattern> {
    let step = definition.steps.get(step)?;
    let reply = |action| -> Option<&Reply> {
        match action {
            Action::Execute => step.command().map(|command| &command.reply),
            Action::Compensate => step.undo_command().map(|command| &command.reply),
            Action::Probe => step.probe_command().map(|command| &command.reply),
        }
    };
    match bearing {
        Bearing::Awaited => match &step.execute {
            Execute::Wait(wait) => match &wait.until {
                Awaited::Event(pattern) => Some(pattern),
                Awaited::Signal(_) => None,
            },
            _ => None,
        },
        Bearing::Success(action) => reply(action)?.success.as_ref(),
        Bearing::Failure(action) => reply(action)?.failure.as_ref(),
    }
}

/// The steps of a saga with this key that an event is about, and what it is to them.
pub fn bearing_on<'a>(
    definition: &'a Definition,
    key: &'a str,
    event: &'a Event,
) -> impl Iterator<Item = (StepIx, Bearing)> + 'a {
    let wanted = bearings(definition).filter(|(_, _, pattern)| topic_takes(&pattern.routing_key, &event.routing_key));
    let named = bearings(definition).any(|(_, _, pattern)| pattern.exchange == event.exchange);
    wanted.filter(move |(_, _, pattern)| !named || pattern.exchange == event.exchange).filter_map(
        move |(step, bearing, _)| {
            // What can't be found out was told where the event came in.
            let of = key_of(definition, step, bearing, event).ok().flatten()?;
            (of == key).then_some((step, bearing))
        },
    )
}

/// The key of the saga that an event belongs to; `None` if it belongs to nobody.
fn key_of(definition: &Definition, step: StepIx, bearing: Bearing, event: &Event) -> Result<Option<String>, String> {
    let Some(pattern) = pattern(definition, step, bearing) else { return Ok(None) };
    let place = || format!("`{}`, step `{}`", definition.name, definition.steps[step].name);
    match pattern.matches.value(&event.scope()) {
        // No saga has a longer one.
        Ok(Value::String(key)) => Ok(Some(key).filter(|key| key.chars().count() <= LONGEST_KEY)),
        // As where a key is made.
        Ok(Value::Number(key)) => Ok(Some(key.to_string())),
        Ok(Value::Null) => Ok(None),
        Ok(other) => Err(format!("{}: `match` must yield a string, it yields {other}", place())),
        Err(error) => Err(format!("{}: `match` can't be evaluated: {error}", place())),
    }
}

/// What a trigger makes of an event; `None` if its `when` is false.
fn started(definition: &Definition, trigger: &Trigger, event: &Event) -> Option<Concern> {
    let scope = event.scope();
    let Trigger { exchange, routing_key, when, input } = trigger;
    let unclear = |part: &str, error: &dyn std::fmt::Display| {
        let place = format!("`{}`, start by `{routing_key}` from exchange `{exchange}`", definition.name);
        Concern::Unclear(format!("{place}: `{part}` can't be evaluated: {error}"))
    };
    match when.as_ref().map_or(Ok(true), |when| when.holds(&scope)) {
        Ok(true) => {}
        Ok(false) => return None,
        Err(error) => return Some(unclear("when", &error)),
    }
    let input = match input.as_ref().map_or_else(|| Ok(Value::clone(&event.body)), |input| input.render(&scope)) {
        Ok(input) => input,
        Err(error) => return Some(unclear("input", &error)),
    };
    // Of this trigger alone: another service's ids are not those of whoever starts sagas otherwise.
    let idempotency_key = event.id.as_ref().map(|id| format!("{exchange} {routing_key} {id}"));
    Some(Concern::Start { definition: Arc::clone(&definition.name), input, idempotency_key })
}

impl Event {
    fn scope(&self) -> Scope {
        Scope::Message { body: Arc::clone(&self.body), headers: Arc::clone(&self.headers) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::parse::parse;
    use crate::store::Source;

    const STOCK: &str = r#"
name = "stock"
key = "{{ input.order }}"
[[start]]
exchange = "shop"
routing_key = "order.*"
when = "body.total > 0"
input = { order = "{{ body.order }}" }
[[steps]]
name = "reserve"
command = "a.reserve"
exchange = "commands"
compensate = false
reply.success = { exchange = "stock", routing_key = "stock.reserved", match = "body.order" }
reply.failure = { exchange = "stock", routing_key = "stock.refused", match = "body.order" }
[[steps]]
name = "paid"
wait = { exchange = "shop", routing_key = "order.paid", match = "headers.order" }
[[steps]]
name = "counted"
wait = { exchange = "stock", routing_key = "stock.#", match = "body.order" }
"#;

    fn pinned(revision: u32, text: &str) -> Arc<Pinned> {
        let (definition, _) = parse(text, &mut |_| Err("no schema".into())).expect("a definition");
        Arc::new(Pinned { revision, definition, source: Source { toml: text.to_owned(), schema: None } })
    }

    fn event(exchange: &str, routing_key: &str, body: Value) -> Event {
        Event {
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            id: Some("e-1".into()),
            trace: None,
            body: Arc::new(body),
            headers: Arc::new(json!({ "order": "A-1" })),
        }
    }

    fn saga(key: &str) -> Concern {
        Concern::Saga { definition: "stock".into(), key: key.into() }
    }

    #[test]
    fn an_event_starts_sagas_and_is_for_the_one_with_its_key() {
        let subscriptions = Subscriptions::new([pinned(1, STOCK)], []);
        let placed = subscriptions.concerns(&event("shop", "order.placed", json!({ "order": "A-1", "total": 2 })));
        let start = Concern::Start {
            definition: "stock".into(),
            input: json!({ "order": "A-1" }),
            idempotency_key: Some("shop order.* e-1".into()),
        };
        assert_eq!(placed, [start]);
        let paid = subscriptions.concerns(&event("shop", "order.paid", json!({ "total": 0 })));
        assert_eq!(paid, [saga("A-1")], "its `when` is false, yet somebody may wait for it");
        let reserved = subscriptions.concerns(&event("stock", "stock.reserved", json!({ "order": 7 })));
        assert_eq!(reserved, [saga("7")], "once, though two steps are about it");
        assert_eq!(subscriptions.concerns(&event("stock", "stock.reserved", json!({ "order": null }))), []);
        assert_eq!(subscriptions.concerns(&event("stock", "order.placed", json!({}))), [], "not of that exchange");
    }

    #[test]
    fn what_comes_by_way_of_another_exchange_is_known_by_its_routing_key() {
        let subscriptions = Subscriptions::new([pinned(1, STOCK)], []);
        let event = event("upstream", "stock.reserved", json!({ "order": "A-1" }));
        assert_eq!(subscriptions.concerns(&event), [saga("A-1")]);
        let about: Vec<_> = bearing_on(&pinned(1, STOCK).definition, "A-1", &event).collect();
        assert_eq!(about, [(0, Bearing::Success(Action::Execute)), (2, Bearing::Awaited)]);
    }

    #[test]
    fn an_event_bears_on_the_steps_that_name_it_and_match_the_key() {
        let definition = &pinned(1, STOCK).definition;
        let refused = event("stock", "stock.refused", json!({ "order": "A-1" }));
        let about = |key| bearing_on(definition, key, &refused).collect::<Vec<_>>();
        assert_eq!(about("A-1"), [(0, Bearing::Failure(Action::Execute)), (2, Bearing::Awaited)]);
        assert_eq!(about("A-2"), []);
        let paid = event("shop", "order.paid", json!({}));
        assert_eq!(bearing_on(definition, "A-1", &paid).collect::<Vec<_>>(), [(1, Bearing::Awaited)]);
    }

    #[test]
    fn what_can_not_be_found_out_says_where() {
        let subscriptions = Subscriptions::new([pinned(1, STOCK)], []);
        for (event, place) in [
            (event("shop", "order.placed", json!({})), "`stock`, start by `order.*` from exchange `shop`: `when`"),
            (
                event("shop", "order.placed", json!({ "total": 1 })),
                "`stock`, start by `order.*` from exchange `shop`: `input`",
            ),
            (event("stock", "stock.refused", json!([])), "`stock`, step `reserve`: `match` can't be evaluated"),
            (
                event("stock", "stock.refused", json!({ "order": [1] })),
                "`stock`, step `reserve`: `match` must yield a string",
            ),
        ] {
            let concerns = subscriptions.concerns(&event);
            assert!(matches!(&concerns[0], Concern::Unclear(why) if why.starts_with(place)), "{concerns:?}");
        }
    }

    #[test]
    fn old_revisions_start_nothing_and_are_heard_as_long_as_they_are_in_use() {
        let newer = "name = \"stock\"\n[[steps]]\nname = \"one\"\nsleep = \"1s\"\n";
        let subscriptions = Subscriptions::new([pinned(2, newer)], [pinned(1, STOCK)]);
        let heard = subscriptions.heard();
        let heard: Vec<(&str, &str)> = heard.keys().map(|(exchange, key)| (exchange.as_str(), key.as_str())).collect();
        assert_eq!(
            heard,
            [("shop", "order.paid"), ("stock", "stock.#"), ("stock", "stock.refused"), ("stock", "stock.reserved")]
        );
        assert_eq!(subscriptions.concerns(&event("shop", "order.placed", json!({ "order": "A-1", "total": 2 }))), []);
        assert_eq!(subscriptions.concerns(&event("shop", "order.paid", json!({}))), [saga("A-1")]);
    }
}
