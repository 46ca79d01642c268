//! Where a message goes that is published to an exchange, as far as the plan says.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Destination, ExchangePlan, QueuePlan, TopologyPlan};

/// What became of following a message.
#[derive(Default)]
struct Found<'a> {
    queues: Vec<&'a QueuePlan>,
    /// It went somewhere that the plan says nothing about.
    lost_sight: bool,
    visited: BTreeSet<&'a str>,
}

impl TopologyPlan {
    /// The queues of the plan that receive what is published to `exchange` with `routing_key`. `None` if the plan does not say: the
    /// exchange is not declared here, or its type routes by more than the routing key. A queue that someone else binds is not counted.
    pub fn receivers(&self, exchange: &str, routing_key: &str) -> Option<Vec<&QueuePlan>> {
        let mut found = Found::default();
        if exchange.is_empty() {
            found.queues.extend(self.queue(routing_key));
            found.lost_sight = true;
        } else {
            self.follow(exchange, routing_key, &mut found);
        }
        if found.queues.is_empty() && found.lost_sight { None } else { Some(found.queues) }
    }

    fn follow<'a>(&'a self, exchange: &str, routing_key: &str, found: &mut Found<'a>) {
        let Some(exchange) = self.exchanges.iter().find(|known| known.name == exchange) else {
            found.lost_sight = true;
            return;
        };
        if !found.visited.insert(&exchange.name) {
            return;
        }
        let mut taken = false;
        for binding in self.bindings.iter().filter(|binding| binding.source == exchange.name) {
            match exchange.takes(&binding.routing_key, routing_key) {
                Some(false) => continue,
                Some(true) => taken = true,
                None => {
                    found.lost_sight = true;
                    continue;
                }
            }
            match &binding.destination {
                Destination::Queue(queue) => match self.queue(queue) {
                    Some(queue) if !found.queues.contains(&queue) => found.queues.push(queue),
                    Some(_) => {}
                    None => found.lost_sight = true,
                },
                Destination::Exchange(next) => self.follow(next, routing_key, found),
            }
        }
        // RabbitMQ asks the alternate only when no binding matched, wherever those led.
        if let (false, Some(Value::String(alternate))) = (taken, exchange.arguments.get("alternate-exchange")) {
            self.follow(alternate, routing_key, found);
        }
    }

    fn queue(&self, name: &str) -> Option<&QueuePlan> {
        self.queues.iter().find(|queue| queue.name == name)
    }
}

impl ExchangePlan {
    /// Whether a binding with `pattern` takes `routing_key`; `None` if that is not all it depends on.
    fn takes(&self, pattern: &str, routing_key: &str) -> Option<bool> {
        let kind = match self.arguments.get("x-delayed-type") {
            Some(Value::String(delayed)) if self.kind == "x-delayed-message" => delayed,
            _ => &self.kind,
        };
        match kind.as_str() {
            "direct" => Some(pattern == routing_key),
            "fanout" => Some(true),
            "topic" => Some(topic_takes(pattern, routing_key)),
            _ => None,
        }
    }
}

/// Whether a binding with `pattern` to a topic exchange takes `routing_key`.
pub fn topic_takes(pattern: &str, routing_key: &str) -> bool {
    matches(&words(pattern), &words(routing_key))
}

/// Whether there is a routing key that both of these patterns take.
pub fn topics_meet(one: &str, other: &str) -> bool {
    let (one, other) = (words(one), words(other));
    // From the ends: whether what is left of the one and of the other can be the same.
    let mut meet = vec![vec![false; other.len() + 1]; one.len() + 1];
    for a in (0..=one.len()).rev() {
        for b in (0..=other.len()).rev() {
            let (first, second) = (one.get(a).copied(), other.get(b).copied());
            meet[a][b] = match (first, second) {
                (None, None) => true,
                (Some("#"), _) => meet[a + 1][b] || second.is_some() && meet[a][b + 1],
                (_, Some("#")) => meet[a][b + 1] || first.is_some() && meet[a + 1][b],
                (Some(first), Some(second)) => (first == second || first == "*" || second == "*") && meet[a + 1][b + 1],
                (None, Some(_)) | (Some(_), None) => false,
            };
        }
    }
    meet[0][0]
}

/// An empty key has no words; any other has one more than it has dots.
fn words(key: &str) -> Vec<&str> {
    if key.is_empty() { Vec::new() } else { key.split('.').collect() }
}

/// `*` is one word, `#` any number of them.
///
/// Row by row over the words of the key, what of the pattern can be reached: no pattern takes more than words × patterns.
fn matches(pattern: &[&str], key: &[&str]) -> bool {
    let mut reached = vec![false; pattern.len() + 1];
    reached[0] = true;
    skip_hashes(pattern, &mut reached);
    for word in key {
        let mut next = vec![false; pattern.len() + 1];
        for (at, expected) in pattern.iter().enumerate().filter(|(at, _)| reached[*at]) {
            match *expected {
                "#" => next[at] = true,
                "*" => next[at + 1] = true,
                expected if expected == *word => next[at + 1] = true,
                _ => {}
            }
        }
        skip_hashes(pattern, &mut next);
        reached = next;
    }
    reached[pattern.len()]
}

fn skip_hashes(pattern: &[&str], reached: &mut [bool]) {
    for (at, expected) in pattern.iter().enumerate() {
        if *expected == "#" && reached[at] {
            reached[at + 1] = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Arguments, BindingPlan, arguments};
    use super::*;
    use crate::config::TopologyMode;

    fn exchange(name: &str, kind: &str, pairs: &[(&str, Value)]) -> ExchangePlan {
        ExchangePlan { name: name.into(), kind: kind.into(), arguments: arguments(pairs) }
    }

    fn binding(source: &str, routing_key: &str, destination: Destination) -> BindingPlan {
        BindingPlan { source: source.into(), destination, routing_key: routing_key.into(), arguments: Arguments::new() }
    }

    fn queue(name: &str) -> Destination {
        Destination::Queue(name.into())
    }

    fn plan(exchanges: Vec<ExchangePlan>, bindings: Vec<BindingPlan>) -> TopologyPlan {
        let queues = ["a", "b"].map(|name| QueuePlan { name: name.into(), arguments: Arguments::new() }).to_vec();
        TopologyPlan { mode: TopologyMode::Declare, exchanges, queues, bindings }
    }

    fn names(receivers: Option<Vec<&QueuePlan>>) -> Option<Vec<&str>> {
        receivers.map(|queues| queues.iter().map(|queue| queue.name.as_str()).collect())
    }

    #[test]
    fn topic_patterns_match_as_rabbitmq_documents_them() {
        let topic = |pattern: &str, key: &str| matches(&words(pattern), &words(key));
        for (pattern, key) in [
            ("a.b", "a.b"),
            ("*.b", "a.b"),
            ("a.*", "a.b"),
            ("#", ""),
            ("#", "a.b.c"),
            ("a.#", "a"),
            ("a.#", "a.b.c"),
            ("#.c", "c"),
            ("a.#.c", "a.c"),
            ("a.#.c", "a.b.b.c"),
            ("#.#", ""),
            ("*.#.*", "a.b"),
            ("", ""),
            ("a.*", "a."),
        ] {
            assert!(topic(pattern, key), "{pattern} should take {key}");
        }
        for (pattern, key) in
            [("a.b", "a"), ("*", ""), ("*", "a.b"), ("a.*", "a"), ("*.#.*", "a"), ("a.#.c", "a.b"), ("a*", "ab")]
        {
            assert!(!topic(pattern, key), "{pattern} should not take {key}");
        }
    }

    #[test]
    fn patterns_meet_where_one_key_is_for_both() {
        for (one, other) in
            [("a.b", "a.b"), ("a.*", "*.b"), ("#", ""), ("#", "a.*"), ("a.#", "a"), ("a.#.d", "*.c.#"), ("#", "#")]
        {
            assert!(topics_meet(one, other) && topics_meet(other, one), "{one} and {other} should meet");
        }
        for (one, other) in [("a.b", "a.c"), ("*", "a.b"), ("a.#", "b.#"), ("", "*"), ("a.#.c", "#.d"), ("*.*", "a")] {
            assert!(!topics_meet(one, other) && !topics_meet(other, one), "{one} and {other} should not meet");
        }
    }

    #[test]
    fn a_pattern_of_many_hashes_takes_no_time() {
        let pattern = vec!["#"; 120].join(".") + ".z";
        let key = vec!["a"; 120].join(".");
        assert!(!matches(&words(&pattern), &words(&key)));
    }

    #[test]
    fn direct_and_fanout_and_default_exchanges_route() {
        let plan = plan(
            vec![exchange("direct", "direct", &[]), exchange("fan", "fanout", &[])],
            vec![binding("direct", "pay", queue("a")), binding("fan", "", queue("a")), binding("fan", "", queue("b"))],
        );
        assert_eq!(names(plan.receivers("direct", "pay")), Some(vec!["a"]));
        assert_eq!(names(plan.receivers("direct", "payments")), Some(vec![]));
        assert_eq!(names(plan.receivers("fan", "anything")), Some(vec!["a", "b"]));
        assert_eq!(names(plan.receivers("", "b")), Some(vec!["b"]));
        assert_eq!(names(plan.receivers("", "someone-elses")), None);
        assert_eq!(names(plan.receivers("nowhere", "pay")), None);
    }

    #[test]
    fn exchanges_bound_to_exchanges_are_followed_round_loops_too() {
        let to = |name: &str| Destination::Exchange(name.into());
        let plan = plan(
            vec![exchange("one", "topic", &[]), exchange("two", "fanout", &[])],
            vec![binding("one", "pay.*", to("two")), binding("two", "", to("one")), binding("two", "", queue("b"))],
        );
        assert_eq!(names(plan.receivers("one", "pay.charge")), Some(vec!["b"]));
        assert_eq!(names(plan.receivers("one", "ship.out")), Some(vec![]));
    }

    #[test]
    fn the_alternate_takes_only_what_no_binding_takes() {
        let plan = plan(
            vec![
                exchange("main", "direct", &[("alternate-exchange", json!("rest"))]),
                exchange("rest", "fanout", &[]),
                exchange("lost", "direct", &[("alternate-exchange", json!("someone-elses"))]),
            ],
            vec![binding("main", "pay", queue("a")), binding("rest", "", queue("b"))],
        );
        assert_eq!(names(plan.receivers("main", "pay")), Some(vec!["a"]));
        assert_eq!(names(plan.receivers("main", "other")), Some(vec!["b"]));
        assert_eq!(names(plan.receivers("lost", "other")), None);
    }

    #[test]
    fn headers_and_unknown_types_are_not_guessed() {
        let plan = plan(
            vec![
                exchange("headers", "headers", &[]),
                exchange("hash", "x-consistent-hash", &[]),
                exchange("delayed", "x-delayed-message", &[("x-delayed-type", json!("topic"))]),
                exchange("bare", "headers", &[]),
            ],
            vec![
                binding("headers", "", queue("a")),
                binding("hash", "1", queue("a")),
                binding("delayed", "pay.#", queue("a")),
            ],
        );
        assert_eq!(names(plan.receivers("headers", "x")), None);
        assert_eq!(names(plan.receivers("hash", "x")), None);
        assert_eq!(names(plan.receivers("delayed", "pay.now")), Some(vec!["a"]));
        assert_eq!(names(plan.receivers("delayed", "x")), Some(vec![]));
        assert_eq!(names(plan.receivers("bare", "x")), Some(vec![]), "nothing is bound to it at all");
    }
}
