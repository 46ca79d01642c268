//! Whether the commands of a definition reach a queue, as far as the declared topology says.

use std::ops::Range;

use crate::broker::topology::{QueuePlan, TopologyPlan};
use crate::core::definition::{Command, Definition, Execute, Priority, Step};
use crate::core::diagnostic::{Diagnostic, Severity, nearest};
use crate::core::parse::places::{Key, Places};

/// What is doubtful about where the commands of `definition` go; `text` is the file that it was read from.
///
/// A command that no declared queue receives, and a priority that no queue heeds. Exchanges that do not route by the routing key alone are
/// not judged; nor are those that the plan does not declare, if it declares none.
pub fn warnings(definition: &Definition, text: &str, plan: &TopologyPlan) -> Vec<Diagnostic> {
    let places = Places::new(text);
    let mut warnings = Vec::new();
    // The saga's own priority is for every execute that has none of its own: it is in vain if none of their queues heeds it.
    let mut inherited = Heeded::default();
    for (at, step) in definition.steps.iter().enumerate() {
        let own: &[Key] = &[Key::Step(at)];
        let probe: &[Key] = &[Key::Step(at), Key::Name("probe")];
        if let Execute::Publish(publish) = &step.execute {
            let near = misspelt(plan, &publish.exchange);
            warnings.extend(near.map(|near| {
                let message = format!("`[topology]` declares no exchange `{}`", publish.exchange);
                let span = places.find(&[Key::Step(at), Key::Name("exchange")]);
                warning("no-receiver", span, message, &format!("did you mean `{near}`?"))
            }));
        }
        let undo: &[Key] = &[Key::Step(at), Key::Name("compensate")];
        for (command, table) in [(step.command(), own), (step.probe_command(), probe), (step.undo_command(), undo)] {
            let Some(command) = command else { continue };
            let receivers = plan.receivers(&command.exchange, &command.routing_key);
            check(&mut warnings, &places, table, step, command, receivers.as_deref());
            if is_undeclared(plan, &command.exchange) {
                let Command { exchange, routing_key, .. } = command;
                let message = format!(
                    "`[topology]` declares no exchange `{exchange}`, so no queue of it receives `{routing_key}`"
                );
                let help = match misspelt(plan, exchange) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!(
                        "declare it in `[[topology.exchanges]]`, and a queue that is bound to it; if the participant of step `{}` \
                         declares them itself, this is no mistake",
                        step.name
                    ),
                };
                let span = places.find(&[table, &[Key::Name("command")]].concat());
                warnings.push(warning("no-receiver", span, message, &help));
            }
            if command.priority.is_none() && table.len() == own.len() {
                inherited.add(receivers.as_deref());
            }
        }
    }
    if inherited.in_vain && !inherited.anywhere && !matches!(definition.priority, Priority::Fixed(0)) {
        let span = places.find(&[Key::Name("priority")]);
        let message = "no queue that receives this saga's commands has priorities: its priority changes nothing";
        warnings.push(warning("priority-without-effect", span, message.to_owned(), PRIORITIES));
    }
    warnings.sort_by_key(|warning| warning.span.start);
    warnings
}

const PRIORITIES: &str =
    "declare the queue with `type = \"classic\"` and `max_priority = 9`, or leave the priority out";

fn check(
    warnings: &mut Vec<Diagnostic>,
    places: &Places<'_>,
    table: &[Key],
    step: &Step,
    command: &Command,
    receivers: Option<&[&QueuePlan]>,
) {
    let Some(receivers) = receivers else { return };
    let place = |key| places.find(&[table, &[Key::Name(key)]].concat());
    let Command { exchange, routing_key, .. } = command;
    if receivers.is_empty() {
        let message = format!("no declared queue receives `{routing_key}` from exchange `{exchange}`");
        let help = format!(
            "bind a queue of `[topology]` to it, with `bind = [{{ exchange = \"{exchange}\", routing_key = \"{routing_key}\" }}]`; \
             if the participant of step `{}` declares its queue itself, this is no mistake",
            step.name
        );
        warnings.push(warning("no-receiver", place("command"), message, &help));
    } else if command.priority.is_some() && !heeds_priority(receivers) {
        let queues: Vec<String> = receivers.iter().map(|queue| format!("`{}`", queue.name)).collect();
        let message = format!("queue {} has no priorities: this one changes nothing", queues.join(", "));
        warnings.push(warning("priority-without-effect", place("priority"), message, PRIORITIES));
    }
}

/// Whether the configuration declares other exchanges, and does not speak of this one. RabbitMQ has some that nobody needs to declare.
fn is_undeclared(plan: &TopologyPlan, exchange: &str) -> bool {
    let declared = plan.exchanges.iter().any(|declared| declared.name == exchange);
    // Somebody else declares what is only bound: a misspelt one stops the start.
    let known = declared || plan.bindings.iter().any(|binding| binding.source == exchange);
    !plan.configured_exchanges().is_empty() && !known && !exchange.is_empty() && !exchange.starts_with("amq.")
}

/// The exchange that is meant by one that is not declared.
fn misspelt<'p>(plan: &'p TopologyPlan, exchange: &str) -> Option<&'p str> {
    let declared = plan.configured_exchanges().iter().map(|declared| declared.name.as_str());
    is_undeclared(plan, exchange).then(|| nearest(exchange, declared)).flatten()
}

/// Whether the saga's own priority has an effect.
#[derive(Default)]
struct Heeded {
    anywhere: bool,
    in_vain: bool,
}

impl Heeded {
    fn add(&mut self, receivers: Option<&[&QueuePlan]>) {
        match receivers {
            Some([]) => {}
            Some(queues) if !heeds_priority(queues) => self.in_vain = true,
            // Of a queue that the plan does not know, nobody can say that it heeds no priority.
            _ => self.anywhere = true,
        }
    }
}

fn heeds_priority(queues: &[&QueuePlan]) -> bool {
    queues.iter().any(|queue| queue.max_priority().is_some())
}

fn warning(code: &'static str, span: Range<usize>, message: String, help: &str) -> Diagnostic {
    Diagnostic { severity: Severity::Warning, code, span, message, help: help.to_owned() }
}
