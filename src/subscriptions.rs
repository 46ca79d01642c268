//! What definitions want to hear of other services: events that start a saga, that answer a command, that a step waits for. Pure.

use crate::broker::listening::Heard;
use crate::core::definition::{Awaited, Definition, Execute, Pattern};

/// Everything that `definitions` listen to.
pub fn heard<'a>(definitions: impl IntoIterator<Item = &'a Definition>) -> Heard {
    let mut heard = Heard::new();
    for definition in definitions {
        let triggers = definition.starts.iter().map(|trigger| (&trigger.exchange, &trigger.routing_key));
        let patterns = patterns(definition).map(|pattern| (&pattern.exchange, &pattern.routing_key));
        for (exchange, routing_key) in triggers.chain(patterns) {
            let by = heard.entry((exchange.clone(), routing_key.clone())).or_default();
            by.insert(definition.name.to_string());
        }
    }
    heard
}

/// The events that concern sagas under way.
fn patterns(definition: &Definition) -> impl Iterator<Item = &Pattern> {
    definition.steps.iter().flat_map(|step| {
        let (awaited, reply) = match &step.execute {
            Execute::Wait(wait) => match &wait.until {
                Awaited::Event(pattern) => (Some(&**pattern), None),
                Awaited::Signal(_) => (None, None),
            },
            Execute::Command(request) => (None, Some(&request.command.reply)),
            Execute::Publish(_) | Execute::Saga(_) | Execute::Sleep(_) => (None, None),
        };
        let answers = reply.into_iter().flat_map(|reply| reply.success.iter().chain(&reply.failure));
        awaited.into_iter().chain(answers)
    })
}
