//! What stands between the plan and the broker, for a person.

use std::fmt;

use crate::config::TopologyMode;

/// One object of the plan that is not, or can't be made, as the plan wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Which: "queue `payments`".
    pub object: String,
    /// What is wrong with it and what can be done.
    pub why: String,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.why)
    }
}

impl std::error::Error for Conflict {}

impl Conflict {
    /// What a broker's refusal of `object` means: AMQP's reply code and the broker's text.
    pub fn explain(object: impl Into<String>, code: u16, text: &str, mode: TopologyMode) -> Conflict {
        let why = match (code, Difference::parse(text)) {
            (406, Some(Difference { argument, current, asked })) => format!(
                "`{argument}` is {current}, the configuration asks for {asked}; RabbitMQ can't change it in place: \
                 change the configuration, or delete it there so that it is declared anew"
            ),
            (404, _) => match mode {
                TopologyMode::Declare => format!("something it needs is missing: {}", said(text)),
                TopologyMode::Verify | TopologyMode::Skip => format!(
                    "it does not exist, and topology.mode = \"{}\" declares nothing ({})",
                    if mode == TopologyMode::Verify { "verify" } else { "skip" },
                    said(text)
                ),
            },
            (403, _) => format!(
                "the broker does not allow it: {}; grant the user the permission, or let someone who has it declare it and set \
                 topology.mode = \"verify\"",
                said(text)
            ),
            _ => format!("the broker refuses it: {}", said(text)),
        };
        Conflict { object: object.into(), why }
    }
}

/// The broker's text without its code in capitals: "NOT_FOUND - no queue 'x'" is "no queue 'x'".
fn said(text: &str) -> &str {
    text.split_once(" - ").map_or(text, |(_, said)| said)
}

/// What the broker says of a 406.
struct Difference<'a> {
    argument: &'a str,
    current: &'a str,
    asked: &'a str,
}

impl<'a> Difference<'a> {
    /// Reads "inequivalent arg 'A' for queue 'Q' in vhost 'V': received X but current is Y". The text is cut off at 255 bytes, so it may end early.
    fn parse(text: &'a str) -> Option<Difference<'a>> {
        let (_, rest) = text.split_once("inequivalent arg '")?;
        let (argument, rest) = rest.split_once('\'')?;
        let (_, rest) = rest.split_once(": received ")?;
        let (asked, current) = rest.split_once(" but current is ")?;
        Some(Difference { argument, current: value(current), asked: value(asked) })
    }
}

/// The value in "none", "'direct'" or "the value '9' of type 'signedint'".
fn value(text: &str) -> &str {
    text.strip_prefix("the value ").unwrap_or(text).split("' of type").next().unwrap_or(text).trim_matches('\'')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explain(code: u16, text: &str, mode: TopologyMode) -> String {
        Conflict::explain("queue `q`", code, text, mode).to_string()
    }

    #[test]
    fn a_difference_says_which_argument_what_it_is_and_what_is_asked() {
        let told = explain(
            406,
            "PRECONDITION_FAILED - inequivalent arg 'x-max-priority' for queue 'q' in vhost '/': received the value '9' of type \
             'long' but current is the value '5' of type 'signedint'",
            TopologyMode::Declare,
        );
        assert!(told.starts_with("queue `q`: `x-max-priority` is 5, the configuration asks for 9;"), "{told}");
        let told = explain(
            406,
            "PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-exchange' for queue 'q' in vhost '/': received none but current \
             is the value 'old' of type 'longstr'",
            TopologyMode::Declare,
        );
        assert!(
            told.starts_with("queue `q`: `x-dead-letter-exchange` is old, the configuration asks for none;"),
            "{told}"
        );
        let told = explain(
            406,
            "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'q' in vhost '/': received 'topic' but current is 'direct'",
            TopologyMode::Declare,
        );
        assert!(told.contains("`type` is direct, the configuration asks for topic;"), "{told}");
    }

    #[test]
    fn what_is_missing_names_the_mode() {
        let told = explain(404, "NOT_FOUND - no queue 'q' in vhost '/'", TopologyMode::Verify);
        assert_eq!(
            told,
            "queue `q`: it does not exist, and topology.mode = \"verify\" declares nothing (no queue 'q' in vhost '/')"
        );
        let told = explain(404, "NOT_FOUND - no exchange 'x' in vhost '/'", TopologyMode::Declare);
        assert_eq!(told, "queue `q`: something it needs is missing: no exchange 'x' in vhost '/'");
    }

    #[test]
    fn a_text_that_is_cut_off_or_new_is_passed_on() {
        let cut =
            "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'qqqq' in vhost '/': received the va";
        let told = explain(406, cut, TopologyMode::Declare);
        assert!(told.ends_with(
            "the broker refuses it: inequivalent arg 'x-message-ttl' for queue 'qqqq' in vhost '/': received the va"
        ));
        assert_eq!(
            explain(503, "something new", TopologyMode::Declare),
            "queue `q`: the broker refuses it: something new"
        );
    }
}
