//! Events and signals that two steps want.

use super::warning;
use crate::broker::topology::topics_meet;
use crate::core::definition::{Awaited, Definition, Execute, Pattern};
use crate::core::diagnostic::Diagnostic;
use crate::core::id::StepIx;
use crate::core::parse::places::{Key, Places};

/// Something that a step listens to.
struct Listening<'d> {
    step: StepIx,
    to: To<'d>,
    place: Vec<Key>,
}

enum To<'d> {
    Signal(&'d str),
    Event(&'d Pattern),
}

pub(super) fn warnings(definition: &Definition, places: &Places<'_>) -> Vec<Diagnostic> {
    let all = listening(definition);
    let of_one = |(nth, second): (usize, &Listening<'_>)| {
        let first = all[..nth].iter().find(|first| disputed(definition, first, second))?;
        let (one, other) = (&definition.steps[first.step].name, &definition.steps[second.step].name);
        let (message, help) = match second.to {
            To::Signal(name) => (
                format!(
                    "`{one}` and `{other}` can wait for the signal `{name}` at the same time: the first that comes is for `{one}`"
                ),
                format!("give them signals of different names, or add \"{one}\" to `after` of `{other}`"),
            ),
            To::Event(_) if first.step == second.step => (
                format!("the same event can be a success and a failure of `{one}`"),
                "let them differ in `exchange`, `routing_key` or `match`".to_owned(),
            ),
            To::Event(_) => (
                format!("the same event can be for `{one}` and for `{other}`: it answers both"),
                "let them differ in `exchange`, `routing_key` or `match`".to_owned(),
            ),
        };
        Some(warning("same-event", places.find(&second.place), message, help))
    };
    all.iter().enumerate().filter_map(of_one).collect()
}

fn listening(definition: &Definition) -> Vec<Listening<'_>> {
    let mut all = Vec::new();
    for (step, it) in definition.steps.iter().enumerate() {
        let mut add = |to, keys: &[&'static str]| {
            let place = [Key::Step(step)].into_iter().chain(keys.iter().map(|key| Key::Name(key))).collect();
            all.push(Listening { step, to, place });
        };
        match &it.execute {
            Execute::Wait(wait) => match &wait.until {
                Awaited::Signal(name) => add(To::Signal(name), &["wait", "signal"]),
                Awaited::Event(pattern) => add(To::Event(pattern), &["wait", "routing_key"]),
            },
            Execute::Command(request) => {
                let reply = &request.command.reply;
                reply.success.iter().for_each(|it| add(To::Event(it), &["reply", "success", "routing_key"]));
                reply.failure.iter().for_each(|it| add(To::Event(it), &["reply", "failure", "routing_key"]));
            }
            Execute::Publish(_) | Execute::Saga(_) | Execute::Sleep(_) => {}
        }
    }
    all
}

/// Whether nobody can say which of the two one message is for.
fn disputed(definition: &Definition, first: &Listening<'_>, second: &Listening<'_>) -> bool {
    let ordered = |a: &Listening<'_>, b: &Listening<'_>| definition.steps[a.step].later.contains(&b.step);
    match (&first.to, &second.to) {
        // One after the other, each takes one.
        (To::Signal(a), To::Signal(b)) => a == b && !ordered(first, second) && !ordered(second, first),
        (To::Event(a), To::Event(b)) => {
            // Of two steps with conditions, one may run where the other does not.
            let apart = |step: StepIx| first.step != second.step && definition.steps[step].when.is_some();
            !(apart(first.step) && apart(second.step))
                && a.exchange == b.exchange
                && a.matches.source() == b.matches.source()
                && topics_meet(&a.routing_key, &b.routing_key)
        }
        _ => false,
    }
}
