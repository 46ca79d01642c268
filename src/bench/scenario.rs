//! What the sagas of a run do: four steps, and what may happen to them. Known to the definition that sagad gets, to the null
//! orchestrator, and to the participants, who hold every command they see against it.

use crate::core::id::Action;

/// Steps of every scenario.
pub(super) const STEPS: usize = 4;

/// The back-off of the scenario `retry`, milliseconds.
pub(super) const BACKOFF_MS: u64 = 10;

/// What happens to the sagas of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scenario {
    /// Four steps, one after the other, all succeed: 8 messages.
    Success,
    /// The last of the four fails, the other three are compensated: 14 messages.
    Failure,
    /// Three steps at once, then the fourth: 8 messages.
    Parallel,
    /// The second step asks for a retry once: 10 messages.
    Retry,
}

/// One command of a saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Command {
    pub step: usize,
    pub action: Action,
    pub attempt: u32,
}

/// What participants answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Success,
    Failure,
    Retry,
}

impl Outcome {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Outcome::Success => "success",
            Outcome::Failure => "failure",
            Outcome::Retry => "retry",
        }
    }
}

impl Command {
    pub(super) fn execute(step: usize) -> Command {
        Command { step, action: Action::Execute, attempt: 1 }
    }

    fn compensate(step: usize) -> Command {
        Command { step, action: Action::Compensate, attempt: 1 }
    }

    fn retry(step: usize) -> Command {
        Command { attempt: 2, ..Command::execute(step) }
    }
}

impl Scenario {
    /// The word on the command line and in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Scenario::Success => "success",
            Scenario::Failure => "failure",
            Scenario::Parallel => "parallel",
            Scenario::Retry => "retry",
        }
    }

    /// Every command of one saga: in this order, but for the first three of `Parallel`, which come in any.
    pub(super) fn commands(self) -> Vec<Command> {
        let forward = (0..STEPS).map(Command::execute);
        match self {
            Scenario::Success | Scenario::Parallel => forward.collect(),
            Scenario::Failure => forward.chain((0..STEPS - 1).rev().map(Command::compensate)).collect(),
            Scenario::Retry => {
                forward.flat_map(|c| [Some(c), (c.step == 1).then(|| Command::retry(1))]).flatten().collect()
            }
        }
    }

    /// Where a command stands in [`commands`](Scenario::commands); `None` if no saga of this scenario sends it.
    pub(super) fn position(self, command: Command) -> Option<usize> {
        self.commands().iter().position(|expected| *expected == command)
    }

    /// How many commands must have come before the one at `position` does.
    pub(super) fn needs(self, position: usize) -> usize {
        if self == Scenario::Parallel && position < STEPS - 1 { 0 } else { position }
    }

    /// How the participant answers.
    pub(super) fn outcome(self, command: Command) -> Outcome {
        match self {
            Scenario::Failure if command == Command::execute(STEPS - 1) => Outcome::Failure,
            Scenario::Retry if command == Command::execute(1) => Outcome::Retry,
            _ => Outcome::Success,
        }
    }

    /// How its sagas end.
    pub(super) fn end(self) -> crate::core::saga::Status {
        match self {
            Scenario::Failure => crate::core::saga::Status::Compensated,
            _ => crate::core::saga::Status::Completed,
        }
    }

    /// The definition for sagad: what an order saga looks like, with a business key, templates, and replies that undoing needs.
    pub(super) fn definition(self, exchange: &str) -> String {
        let mut text = format!(
            "name = \"{SAGA}\"\nkey = \"{{{{ input.order_id }}}}\"\nevents = \"none\"\n\n[defaults]\nexchange = \"{exchange}\"\n\
             timeout = \"5m\"\nretry = {{ attempts = 3, initial = \"{BACKOFF_MS}ms\", factor = 1.0, jitter = 0 }}\n"
        );
        for step in 0..STEPS {
            let after = match (self, step) {
                (Scenario::Parallel, 3) => "after = [\"step_0\", \"step_1\", \"step_2\"]\n",
                (Scenario::Parallel, _) => "after = []\n",
                _ => "",
            };
            text.push_str(&format!(
                "\n[[steps]]\nname = \"step_{step}\"\ncommand = \"{execute}\"\n{after}\
                 body = {{ order_id = \"{{{{ input.order_id }}}}\", customer_id = \"{{{{ input.customer_id }}}}\", \
                 note = \"{{{{ input.note }}}}\" }}\n\
                 compensate = {{ command = \"{compensate}\", body = {{ order_id = \"{{{{ input.order_id }}}}\", \
                 reference = \"{{{{ steps.step_{step}.reply.reference }}}}\", note = \"{{{{ input.note }}}}\" }} }}\n",
                execute = routing_key(step, Action::Execute),
                compensate = routing_key(step, Action::Compensate),
            ));
        }
        text
    }
}

/// The definition's name.
pub(super) const SAGA: &str = "bench";

/// The routing key of a command.
pub(super) fn routing_key(step: usize, action: Action) -> String {
    format!("step{step}.{}", action.as_str())
}

/// Reads a routing key.
pub(super) fn parse_routing_key(key: &str) -> Option<(usize, Action)> {
    let (step, action) = key.strip_prefix("step")?.split_once('.')?;
    let action = [Action::Execute, Action::Compensate].into_iter().find(|known| known.as_str() == action)?;
    Some((step.parse().ok().filter(|step| *step < STEPS)?, action))
}

/// Fills bodies to what an ordinary command has, some 260 bytes.
pub(super) const NOTE: &str = "Leave it with the neighbour on the third floor if nobody opens, ring twice, mind the dog; the invoice \
                               goes to the company's address as always, not with the parcel.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saga_sends_what_its_scenario_says() {
        let moves = |scenario: Scenario| -> Vec<String> {
            let word = |c: &Command| format!("{}{}{}", &c.action.as_str()[..1], c.step, c.attempt);
            scenario.commands().iter().map(word).collect()
        };
        assert_eq!(moves(Scenario::Success), ["e01", "e11", "e21", "e31"]);
        assert_eq!(moves(Scenario::Failure), ["e01", "e11", "e21", "e31", "c21", "c11", "c01"]);
        assert_eq!(moves(Scenario::Retry), ["e01", "e11", "e12", "e21", "e31"]);
    }

    #[test]
    fn routing_keys_are_read_back() {
        assert_eq!(parse_routing_key(&routing_key(3, Action::Compensate)), Some((3, Action::Compensate)));
        assert_eq!(parse_routing_key("step4.execute"), None);
        assert_eq!(parse_routing_key("order.create"), None);
    }
}
