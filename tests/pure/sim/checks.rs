//! What sagad guarantees, checked apart from whatever is going on: against what is committed, and what the broker and the participants saw.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use sagad::broker::message::{Incoming, Outgoing};
use sagad::core::answer::Outcome;
use sagad::core::apply::{Origin, apply, begin};
use sagad::core::definition::{Awaited, Command, Definition, Execute};
use sagad::core::entry::{Entry, Handling, Resolution};
use sagad::core::id::{Action, SagaId, Spot, Ticket};
use sagad::core::input::Input;
use sagad::core::saga::{ActionState, Addressee, Phase, Progress, Reason, Saga, Status};
use sagad::core::time::Time;
use sagad::definitions::Pinned;
use sagad::store::{SagaWrite, StoredSaga, read_saga};
use sagad::trial::laws;
use sagad::trial::stage::{Turn, units};
use sagad::wire::incoming::{Meaning, Signal, Target, read};
use sagad::wire::signature::Signer;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::form;
use super::participants::{Unit, unit_of};

/// The guarantees that are checked here, beside those of [`sagad::trial::laws`]; each is of docs/guarantees.md.
pub(crate) const LAWS: [&str; 24] = [
    "committed-before-sent",
    "acknowledged-after-commit",
    "acknowledged-once",
    "well-formed",
    "one-key",
    "answers-are-given",
    "first-decides",
    "on-time",
    "deadline",
    "pending",
    "attempts",
    "same-body",
    "undo-knows",
    "signals",
    "key",
    "lock",
    "max-running",
    "told",
    "nothing-lost",
    "once-begun",
    "effect",
    "at-rest",
    "dead-letters",
    "known-exchanges",
];

/// What is known of everything, and the first law that did not hold.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    breach: Option<(&'static str, String)>,
    pub(crate) sagas: BTreeMap<SagaId, (Saga, Arc<Pinned>)>,
    /// Those that have ended once. Taken up again, they let others go on beside them.
    ended: BTreeSet<SagaId>,
    /// Those that were undone once, whatever has come of late answers since.
    undone: BTreeSet<SagaId>,
    /// Lifecycle events by id.
    events: BTreeMap<String, Value>,
    /// How many of each subject and type follow from what was committed.
    owed: BTreeMap<(String, String), usize>,
    /// The idempotency keys of each action of each unit.
    keys: BTreeMap<(Unit, String), BTreeSet<String>>,
    /// What of it a saga has gone by.
    counted: BTreeSet<(String, &'static str)>,
    /// What participants, the broker and children said of which attempt.
    given: BTreeSet<(String, &'static str)>,
    /// What was asked under each idempotency key.
    bodies: BTreeMap<String, Value>,
    /// What was asked of each unit, forward.
    asked: BTreeMap<Unit, Value>,
    /// What each attempt of an undo has to say: whether it is in doubt, and the reply.
    undoes: BTreeMap<String, (bool, Value)>,
    /// Signals that were sent, each with its headers.
    pub(crate) signals: BTreeMap<String, Map<String, Value>>,
    /// Sagas and the ids of the signals that they received.
    received: BTreeSet<(SagaId, String)>,
    /// Units of which an operator said how they ended, who had asked nobody.
    pub(crate) by_hand: BTreeSet<(SagaId, Spot)>,
    /// Attempts that somebody was still at, and whose time began anew.
    extended: BTreeSet<String>,
    /// What was given back to the broker for a while.
    put_off: BTreeSet<String>,
    /// Answers to starts over AMQP, by correlation id.
    pub(crate) start_answers: BTreeMap<String, Value>,
    pub(crate) commits: u64,
    pub(crate) transitions: u64,
    /// Kinds of things that were seen, to know that they happen.
    pub(crate) seen: BTreeSet<&'static str>,
}

impl Checks {
    pub(crate) fn breach(&mut self, law: &'static str, message: String) {
        self.breach.get_or_insert((law, message));
    }

    pub(crate) fn first_breach(&self) -> Option<(&'static str, String)> {
        self.breach.clone()
    }

    /// A saga was committed; `stored` is how it is now.
    pub(crate) fn committed(&mut self, signer: &Signer, write: &SagaWrite, stored: &StoredSaga, pinned: &Arc<Pinned>) {
        self.transitions += 1;
        let entries: Vec<Entry> = match serde_json::from_slice(&write.entries) {
            Ok(entries) => entries,
            Err(error) => return self.breach("replay", format!("the journal can't be read: {error}")),
        };
        let after = match read_saga(stored) {
            Ok(after) => after,
            Err(error) => return self.breach("replay", error.to_string()),
        };
        let at = write.row.updated_at;
        let (before, entries) = match self.sagas.get(&write.id) {
            Some((before, _)) => (before.clone(), entries),
            None => {
                let origin = Origin {
                    id: write.id,
                    definition: after.definition.clone(),
                    revision: after.revision,
                    input: after.input.clone(),
                };
                let Some(first) = entries.first().and_then(|first| begin(origin, first, at)) else {
                    return self.breach("replay", "the journal does not begin with the start".to_owned());
                };
                // The fold of the law counts the transition.
                (Saga { version: 0, ..first }, entries[1..].to_vec())
            }
        };
        for what in entries.iter().filter_map(|entry| news_of(&pinned.definition, entry)) {
            let what = format!("saga.{}.{what}", pinned.definition.name);
            *self.owed.entry((write.id.to_string(), what)).or_default() += 1;
        }
        for (saga, entry) in steps(&before, &entries, at) {
            if let Some((law, message)) = self.of_entry(signer, &pinned.definition, &saga, entry, at) {
                self.breach(law, format!("{}: {message}", write.id));
            }
        }
        if let Some(why) = overlooked_deadline(&pinned.definition, &after, &entries, write.row.due, at) {
            self.breach("deadline", format!("{}: {why}", write.id));
        }
        let turn = Turn { at, entries, sent: Vec::new() };
        if turn.entries.is_empty() {
            // The start alone.
            if (Saga { version: 1, ..before }) != after {
                self.breach("replay", format!("{}: the journal tells something else than the state", write.id));
            }
        } else if let Some(breach) = laws::of_turn(&pinned.definition, &before, &after, &turn) {
            self.breach(breach.law, format!("{}: {}", write.id, breach.message));
        }
        if after.status().is_terminal() {
            self.ended.insert(write.id);
        }
        if after.status() == Status::Compensated {
            self.undone.insert(write.id);
        }
        self.sagas.insert(write.id, (after, Arc::clone(pinned)));
        if let Some((law, message)) = self.side_by_side(&pinned.definition) {
            self.breach(law, message);
        }
    }

    /// Whether a saga has ended once: its key is another's then, whatever is taken up again.
    pub(crate) fn has_ended(&self, saga: SagaId) -> bool {
        self.ended.contains(&saga)
    }

    /// Whether a saga was undone once.
    pub(crate) fn was_undone(&self, saga: SagaId) -> bool {
        self.undone.contains(&saga)
    }

    /// Of the sagas of a definition that are under way none has the lock of another, and there are no more than may be.
    fn side_by_side(&self, definition: &Definition) -> Option<(&'static str, String)> {
        let is_under_way = |saga: &&Saga| {
            let begun = matches!(saga.phase, Phase::Running | Phase::Compensating);
            begun && *saga.definition == *definition.name && !self.ended.contains(&saga.id)
        };
        let under_way: Vec<&Saga> = self.sagas.values().map(|(saga, _)| saga).filter(is_under_way).collect();
        let name = &definition.name;
        if definition.max_running.is_some_and(|most| under_way.len() > most as usize) {
            return Some(("max-running", format!("{} sagas of {name} are under way", under_way.len())));
        }
        let mut locks = BTreeSet::new();
        let mut locked = under_way.iter().filter_map(|saga| saga.lock.as_ref());
        locked
            .find(|lock| !locks.insert(*lock))
            .map(|lock| ("lock", format!("two sagas of {name} have the lock {lock}")))
    }

    fn of_entry(
        &mut self,
        signer: &Signer,
        definition: &Definition,
        saga: &Saga,
        entry: &Entry,
        at: Time,
    ) -> Option<(&'static str, String)> {
        // What an operator said in between makes it news again.
        let by_hand = |spot: Spot| self.by_hand.contains(&(saga.id, spot));
        if let Some((ticket, word)) = word_of(definition, saga.id, entry)
            && !by_hand(ticket.spot)
            && !self.counted.insert((signer.sign(ticket), word))
        {
            let Ticket { spot, action, attempt, .. } = ticket;
            return Some((
                "duplicate",
                format!("`{word}` of attempt {attempt} of {} {spot} counts twice", action.as_str()),
            ));
        }
        let action = |spot, action| saga.unit(spot).map(|unit| unit.action(action));
        let given = |spot: Spot, action, attempt, said: &'static str| {
            // An event does not say which attempt it answers, and a child is the same one whichever attempt asked it.
            let step = &definition.steps[spot.step];
            let announced = step.command().is_some_and(|command| command.reply.success.is_some());
            let child = matches!(step.execute, Execute::Saga(_));
            if child || announced && action == Action::Execute {
                return true;
            }
            let id = signer.sign(Ticket { saga: saga.id, spot, action, attempt });
            self.given.contains(&(id, said))
        };
        match entry {
            Entry::Sent { spot, action: which, attempt, deadline, .. } => {
                let state = action(*spot, *which)?;
                if matches!(state.progress, Progress::Scheduled { due } if due > at) {
                    return Some(("on-time", format!("attempt {attempt} of {spot} is sent before it is due")));
                }
                if let Some(breach) = sent_in_time(definition, saga, *spot, *which, *attempt, *deadline, at) {
                    return Some(breach);
                }
                if *which == Action::Compensate {
                    let (in_doubt, reply) = match &saga.unit(*spot)?.execute.progress {
                        Progress::Succeeded { reply, .. } => (false, Value::clone(reply)),
                        Progress::Failed { by: None, .. } => {
                            (saga.unit(*spot)?.execute.may_have_been_done(), Value::Null)
                        }
                        _ => (false, Value::Null),
                    };
                    let id = signer.sign(Ticket { saga: saga.id, spot: *spot, action: *which, attempt: *attempt });
                    self.undoes.insert(id, (in_doubt, reply));
                }
                let most = attempts(definition, *spot, *which)?;
                // Past its point of no return a saga does not give up.
                let endless = *which != Action::Compensate && saga.is_past_pivot(definition);
                (state.tries() >= most && !endless).then(|| {
                    ("attempts", format!("attempt {attempt} of {} {spot} is one more than {most}", which.as_str()))
                })
            }
            Entry::Scheduled { spot, action: which, due } => {
                let tries = action(*spot, *which)?.tries();
                let (least, most) = wait(definition, *spot, *which, tries)?;
                let waits = due.since(at);
                (waits < least || waits > most).then(|| {
                    ("on-time", format!("{spot} waits for {waits:?} after {tries} attempts, not {least:?} to {most:?}"))
                })
            }
            Entry::Extended { spot, action: which, attempt, deadline } => {
                let id = signer.sign(Ticket { saga: saga.id, spot: *spot, action: *which, attempt: *attempt });
                let (name, is_given) = (which.as_str(), given(*spot, *which, *attempt, "pending"));
                self.extended.insert(id);
                let until = in_time(definition, saga, *spot, *which, at);
                if until.is_some_and(|until| *deadline != Some(until)) {
                    let what = format!("attempt {attempt} of {name} {spot} is extended to {deadline:?}, not {until:?}");
                    return Some(("pending", what));
                }
                (!is_given).then(|| {
                    ("answers-are-given", format!("nobody answered `pending` to attempt {attempt} of {name} {spot}"))
                })
            }
            Entry::Exhausted { spot, action: which, failure } => {
                let tries = action(*spot, *which)?.tries();
                let most = attempts(definition, *spot, *which)?;
                let goes_on = *which == Action::Compensate
                    || saga.phase == Phase::Running && saga.deadline.is_none_or(|deadline| deadline > at);
                let early = tries < most && goes_on && failure.reason != Reason::Template;
                early.then(|| {
                    ("attempts", format!("{} {spot} is given up after {tries} of {most} attempts", which.as_str()))
                })
            }
            Entry::Received { to: Addressee::Signal(name), id: Some(id), .. } => {
                let id = id.strip_prefix(&format!("{name} ")).unwrap_or(id);
                self.received.insert((saga.id, id.to_owned()));
                None
            }
            Entry::AttemptFailed { spot, action: which, attempt, failure, handling } => {
                let state = action(*spot, *which)?;
                let early = match state.progress {
                    Progress::Running { deadline: Some(deadline) } => deadline > at,
                    Progress::Running { deadline: None } => true,
                    _ => false,
                };
                // A child is told at once when its parent turns round.
                let early = early && !matches!(definition.steps[spot.step].execute, Execute::Saga(_));
                let over = saga.deadline.is_some_and(|deadline| deadline <= at);
                let said = *handling == Handling::Answered || failure.reason.is_of_a_dead_letter();
                if early && !said && !(failure.reason == Reason::Deadline && over) {
                    let why = failure.reason.as_str();
                    return Some((
                        "on-time",
                        format!("attempt {attempt} of {spot} is given up before its time: {why}"),
                    ));
                }
                let answered = *handling == Handling::Answered;
                // An undo that is refused is tried again.
                let refused = *which == Action::Compensate && given(*spot, *which, *attempt, "failure");
                (answered && !refused && !given(*spot, *which, *attempt, "retry")).then(|| {
                    (
                        "answers-are-given",
                        format!("nobody answered `retry` to attempt {attempt} of {} {spot}", which.as_str()),
                    )
                })
            }
            Entry::Succeeded { spot, action: which, attempt, late, .. } => {
                let state = action(*spot, *which)?;
                self.seen.extend(late.then_some("late success"));
                let slept = matches!(state.progress, Progress::Scheduled { due } if due <= at);
                // A `foreach` sleeps once, before its elements.
                if matches!(definition.steps[spot.step].execute, Execute::Sleep(_)) && spot.item.is_none() && !slept {
                    return Some(("on-time", format!("{spot} wakes up before its time")));
                }
                if !late && is_decided(state) {
                    return Some((
                        "first-decides",
                        format!("attempt {attempt} of {spot} decides what is decided: {state:?}"),
                    ));
                }
                (*attempt > 0 && !given(*spot, *which, *attempt, "success")).then(|| {
                    (
                        "answers-are-given",
                        format!("nobody answered `success` to attempt {attempt} of {} {spot}", which.as_str()),
                    )
                })
            }
            Entry::Failed { spot, action: which, attempt, failure } => {
                let state = action(*spot, *which)?;
                // Done, whatever its answer looks like: word of an effect, as a late success is.
                let tells_of_an_effect = failure.reason == Reason::InvalidReply
                    && matches!(&state.progress, Progress::Failed { failure: known, by, .. }
                        if known.reason != Reason::InvalidReply && *by != Some(*attempt));
                if is_decided(state) && !tells_of_an_effect {
                    return Some((
                        "first-decides",
                        format!("attempt {attempt} of {spot} decides what is decided: {state:?}"),
                    ));
                }
                let said = match failure.reason {
                    Reason::Failure => "failure",
                    Reason::InvalidReply => {
                        self.seen.insert("unreadable answer");
                        "unreadable"
                    }
                    _ => return None,
                };
                (*attempt > 0 && !given(*spot, *which, *attempt, said)).then(|| {
                    (
                        "answers-are-given",
                        format!("nobody answered `{said}` to attempt {attempt} of {} {spot}", which.as_str()),
                    )
                })
            }
            Entry::Resolved { spot, .. } => {
                self.by_hand.insert((saga.id, *spot));
                None
            }
            Entry::CompensationRenewed { .. } => {
                self.seen.insert("renewed");
                None
            }
            _ => None,
        }
    }

    /// Somebody said something of an attempt.
    pub(crate) fn said(&mut self, id: &str, said: &'static str) {
        self.given.insert((id.to_owned(), said));
    }

    /// Whether somebody said that he did it, or did not.
    pub(crate) fn was_answered(&self, id: &str) -> bool {
        ["success", "failure", "retry", "unreadable"]
            .into_iter()
            .any(|said| self.given.contains(&(id.to_owned(), said)))
    }

    /// Something reaches the broker: what it says must have been committed.
    pub(crate) fn published(&mut self, signer: &Signer, message: &Outgoing) -> Option<(&'static str, String)> {
        let ticket = signer.read(message.properties.message_id.as_deref()?)?;
        let Ticket { saga, spot, action, attempt } = ticket;
        // One that was purged was committed as well.
        let state = self.sagas.get(&saga).map(|(saga, _)| saga.unit(spot).map(|unit| unit.action(action)));
        if state.is_none_or(|state| state.is_none_or(|state| state.attempt < attempt)) {
            return Some((
                "committed-before-sent",
                format!("attempt {attempt} of {} {spot} is sent, and not committed", action.as_str()),
            ));
        }
        let round = state.flatten().map_or(0, |state| state.round);
        let is_command = message.mandatory && !message.exchange.is_empty();
        if let Some((saga, pinned)) = self.sagas.get(&saga).filter(|_| is_command)
            && let Some(flaw) = form::flaw(saga, &pinned.definition, ticket, message)
        {
            return Some(("well-formed", format!("attempt {attempt} of {} {spot}: {flaw}", action.as_str())));
        }
        if let Some(breach) = self.says(message, action) {
            return Some(breach);
        }
        let key = message.properties.header_str("idempotency-key")?;
        let keys = self.keys.entry((unit_of(message), action.as_str().to_owned())).or_default();
        keys.insert(key.to_owned());
        (message.mandatory && keys.len() > round as usize + 1)
            .then(|| ("one-key", format!("{} {spot} goes under {keys:?}", action.as_str())))
    }

    /// What a command asks for must be what was asked for before, and what its undo knows of it is what is known.
    fn says(&mut self, message: &Outgoing, action: Action) -> Option<(&'static str, String)> {
        let id = message.properties.message_id.clone()?;
        if !message.mandatory || message.exchange.is_empty() || action == Action::Probe {
            return None;
        }
        let body: Value = serde_json::from_slice(&message.body).unwrap_or_default();
        let unit = unit_of(message);
        let key = message.properties.header_str("idempotency-key").unwrap_or_default().to_owned();
        let before = self.bodies.entry(key).or_insert_with(|| body.clone());
        if *before != body {
            return Some(("same-body", format!("{} {unit:?} asks {body}, and before {before}", action.as_str())));
        }
        if action == Action::Execute {
            self.asked.insert(unit, body);
            return None;
        }
        let (in_doubt, reply) = self.undoes.get(&id)?;
        let said = message.properties.headers.get("saga-in-doubt").cloned().unwrap_or(Value::Bool(false));
        if said != *in_doubt || body["reply"] != *reply {
            let what = format!("of {unit:?} its undo says {said} {body}, and known is {in_doubt} {reply}");
            return Some(("undo-knows", what));
        }
        let asked = self.asked.get(&unit)?;
        let told = body.get("command")?;
        (told != asked).then(|| ("undo-knows", format!("{unit:?} was asked {asked}, and its undo says {told}")))
    }

    /// Something goes to a queue for delays: whether it is a message that is given back to the broker for a while.
    pub(crate) fn put_off(&mut self, message: &Outgoing) -> bool {
        let has = |name: &str| message.properties.headers.contains_key(name);
        let is_put_off = has("saga-put-off");
        if is_put_off {
            self.seen.insert(if has("saga-put-off-key") { "too early" } else { "for another daemon" });
        }
        self.put_off.extend(message.properties.message_id.clone().filter(|_| is_put_off));
        is_put_off
    }

    /// Signals that no saga has taken, with their headers.
    pub(crate) fn signals_not_taken(&self) -> Vec<(String, Map<String, Value>)> {
        let taken: BTreeSet<&String> = self.received.iter().map(|(_, id)| id).collect();
        let signals = self.signals.iter().filter(|(id, _)| !taken.contains(id));
        signals.map(|(id, headers)| (id.clone(), headers.clone())).collect()
    }

    /// How many signals a saga has taken.
    pub(crate) fn signals_taken(&self, saga: SagaId) -> usize {
        self.received.iter().filter(|(to, _)| *to == saga).count()
    }

    /// A signal that a saga has taken, and that is among the dead letters.
    pub(crate) fn first_of_both(&self, kept: &BTreeSet<&str>) -> Option<String> {
        // A copy that was given back to the broker may have waited long enough, and another have come in time.
        let mut once = self.received.iter().map(|(_, id)| id).filter(|id| !self.put_off.contains(*id));
        once.find(|id| kept.contains(&***id)).cloned()
    }

    /// An answer or a dead command is acknowledged: what follows from it must have been committed.
    pub(crate) fn acknowledged(&self, signer: &Signer, message: &Incoming) -> Option<(&'static str, String)> {
        let (saga, spot, action, attempt) = match read(signer, message, usize::MAX, SagaId(Uuid::nil())) {
            Ok(Meaning::Signal(Signal { to: Target::Id(saga), id: Some(id), .. })) => {
                return self.waits_still(saga, &id);
            }
            Ok(Meaning::Saga(saga, Input::Answer { spot, action, attempt, answer })) => match answer.outcome {
                Some(Outcome::Pending) => return self.is_extended(signer, saga, spot, action, attempt),
                Some(Outcome::Success) if self.is_unheard(saga, spot, action, attempt) => {
                    let what = format!("the success of attempt {attempt} of {} {spot}", action.as_str());
                    let why = "is acknowledged, and nothing of it is committed";
                    return Some(("acknowledged-after-commit", format!("{saga}: {what} {why}")));
                }
                _ => (saga, spot, action, attempt),
            },
            Ok(Meaning::Saga(saga, Input::Undelivered { spot, action, attempt, .. })) => (saga, spot, action, attempt),
            _ => return None,
        };
        let (saga, _) = self.sagas.get(&saga)?;
        let state = saga.unit(spot)?.action(action);
        (state.in_flight() && state.attempt == attempt).then(|| {
            let what = super::world::short(message);
            ("acknowledged-after-commit", format!("{what} is acknowledged, and nothing of it is committed"))
        })
    }

    /// Whether nothing is known of an attempt that was answered with a success, however late.
    fn is_unheard(&self, saga: SagaId, spot: Spot, action: Action, attempt: u32) -> bool {
        let Some((saga, pinned)) = self.sagas.get(&saga) else { return false };
        let Some(unit) = saga.unit(spot) else { return false };
        let state = unit.action(action);
        // A question is answered by the command itself as well; and an operator knows better.
        let asks = action == Action::Probe || self.by_hand.contains(&(saga.id, spot));
        let child = matches!(pinned.definition.steps[spot.step].execute, Execute::Saga(_));
        let known = match &state.progress {
            Progress::Succeeded { .. } => true,
            // It has contradicted itself; or what is answered is not what the step wants, and one such word stands for all.
            Progress::Failed { by, failure, .. } => *by == Some(attempt) || failure.reason == Reason::InvalidReply,
            _ => false,
        };
        // Or an operator has asked for other attempts since.
        let known = known || state.held.contains(&attempt);
        !asks && !child && !known && !self.may_be_forgotten(saga) && attempt > state.void && attempt <= state.attempt
    }

    /// Whether it has ended, and what has ended is deleted: answers to it are kept as dead letters.
    fn may_be_forgotten(&self, saga: &Saga) -> bool {
        let Some((_, pinned)) = self.sagas.get(&saga.id) else { return true };
        let above = saga.parent.as_ref().and_then(|parent| self.sagas.get(&parent.saga));
        let with_it = above.is_some_and(|(above, _)| self.may_be_forgotten(above));
        saga.status().is_terminal() && (pinned.definition.retention.is_some() || with_it)
    }

    /// A participant is still at it: its time begins anew.
    fn is_extended(
        &self,
        signer: &Signer,
        saga: SagaId,
        spot: Spot,
        action: Action,
        attempt: u32,
    ) -> Option<(&'static str, String)> {
        let (saga, _) = self.sagas.get(&saga)?;
        let state = saga.unit(spot)?.action(action);
        let id = signer.sign(Ticket { saga: saga.id, spot, action, attempt });
        let awaited = state.in_flight() && state.attempt == attempt && attempt > state.void;
        (awaited && !self.extended.contains(&id)).then(|| {
            let what = format!("attempt {attempt} of {} {spot}", action.as_str());
            ("pending", format!("{}: somebody is at {what}, and its time does not begin anew", saga.id))
        })
    }

    /// A signal for a saga that waits for one is acknowledged.
    fn waits_still(&self, saga: SagaId, id: &str) -> Option<(&'static str, String)> {
        let (saga, pinned) = self.sagas.get(&saga)?;
        let waits = units(saga).any(|(spot, unit)| {
            is_for_signals(&pinned.definition.steps[spot.step].execute) && unit.execute.in_flight()
        });
        let is_known = self.received.contains(&(saga.id, id.to_owned())) || self.put_off.contains(id);
        (saga.phase == Phase::Running && waits && !is_known)
            .then(|| ("signals", format!("{id} for {} is acknowledged, and a step waits for it", saga.id)))
    }

    /// A lifecycle event.
    pub(crate) fn told(&mut self, message: &Outgoing) {
        let event: Value = serde_json::from_slice(&message.body).unwrap_or_default();
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let (id, subject) = (text("id"), text("subject"));
        let committed =
            Uuid::try_parse(&subject).ok().and_then(|saga| self.sagas.get(&SagaId(saga))).map(|(saga, _)| saga.entries);
        let seq = id.rsplit('-').next().and_then(|seq| seq.parse::<u64>().ok());
        if seq.is_none() || seq > committed {
            self.breach("committed-before-sent", format!("the event {id} tells what is not committed"));
        }
        if self.events.insert(id.clone(), event.clone()).is_some_and(|before| before != event) {
            self.breach("told", format!("the event {id} differs from itself"));
        }
    }

    /// What was told other than as often as it happened.
    pub(crate) fn untold(&self) -> Option<String> {
        let mut told: BTreeMap<(String, String), usize> = BTreeMap::new();
        for event in self.events.values() {
            let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
            *told.entry((text("subject"), text("type"))).or_default() += 1;
        }
        let mut all = self.owed.keys().chain(told.keys());
        let count = |of: &BTreeMap<(String, String), usize>, what| of.get(what).copied().unwrap_or(0);
        let what = all.find(|what| count(&self.owed, what) != count(&told, what))?;
        Some(format!("{what:?} happened {} times, and was told {} times", count(&self.owed, what), count(&told, what)))
    }

    /// An answer to a start.
    pub(crate) fn answered_start(&mut self, message: &Outgoing) {
        let id = message.properties.correlation_id.clone().unwrap_or_default();
        let body: Value = serde_json::from_slice(&message.body).unwrap_or_default();
        let saga = |body: &Value| body["saga_id"].as_str().map(str::to_owned);
        let before = self.start_answers.insert(id.clone(), body.clone());
        let begun = saga(&body).and_then(|id| Uuid::try_parse(&id).ok()).map(SagaId);
        if begun.is_some_and(|begun| !self.sagas.contains_key(&begun)) {
            self.breach("committed-before-sent", format!("{id} is told of {body}, which is not committed"));
        }
        if let Some((before, now)) =
            before.as_ref().and_then(saga).zip(saga(&body)).filter(|(before, now)| before != now)
        {
            self.breach("once-begun", format!("{id} is told of {now}, and was of {before}"));
        }
    }
}

/// Whether a step waits for a signal.
pub(crate) fn is_for_signals(step: &Execute) -> bool {
    matches!(step, Execute::Wait(wait) if matches!(wait.until, Awaited::Signal(_)))
}

/// Which lifecycle events an entry is worth, of a definition that wants all of them.
fn news_of(definition: &Definition, entry: &Entry) -> Option<String> {
    let of_step = |spot: &Spot, what: &str| Some(format!("step.{}.{what}", definition.steps[spot.step].name));
    match entry {
        Entry::Started { .. } => Some("started".to_owned()),
        Entry::Completed { .. } => Some("completed".to_owned()),
        Entry::Compensating { .. } => Some("compensating".to_owned()),
        Entry::Compensated {} => Some("compensated".to_owned()),
        Entry::GaveUp {} => Some("failed".to_owned()),
        Entry::Suspended { .. } => Some("suspended".to_owned()),
        Entry::Resumed { .. } => Some("resumed".to_owned()),
        Entry::Succeeded { spot, action: Action::Compensate, .. }
        | Entry::Resolved { spot, outcome: Resolution::Compensated, .. } => of_step(spot, "compensated"),
        Entry::Succeeded { spot, .. }
        | Entry::Taken { spot, .. }
        | Entry::Resolved { spot, outcome: Resolution::Succeeded, .. } => of_step(spot, "succeeded"),
        Entry::Failed { spot, .. }
        | Entry::Exhausted { spot, action: Action::Execute, .. }
        | Entry::Resolved { spot, outcome: Resolution::Failed, .. } => of_step(spot, "failed"),
        _ => None,
    }
}

/// Past its point of no return a saga goes on, whatever its deadline.
fn goes_on(saga: &Saga, definition: &Definition) -> bool {
    saga.phase == Phase::Running && saga.is_past_pivot(definition)
}

/// When an attempt that is sent, or extended, `at` times out, as the definition has it; `None`: that is no command.
fn in_time(definition: &Definition, saga: &Saga, spot: Spot, action: Action, at: Time) -> Option<Time> {
    let own = at.plus(command(definition, spot, action)?.timeout);
    let end = saga.deadline.filter(|_| action != Action::Compensate && !goes_on(saga, definition));
    Some(end.map_or(own, |end| own.min(end)))
}

/// That a command is sent while there is time for it, and after what is to pass before it; and how long it then has.
fn sent_in_time(
    definition: &Definition,
    saga: &Saga,
    spot: Spot,
    action: Action,
    attempt: u32,
    deadline: Option<Time>,
    at: Time,
) -> Option<(&'static str, String)> {
    let what = format!("attempt {attempt} of {} {spot}", action.as_str());
    let over = saga.deadline.is_some_and(|end| end <= at) && !goes_on(saga, definition);
    if action != Action::Compensate && over {
        return Some(("deadline", format!("{what} is sent after the saga's deadline")));
    }
    if let Some(until) = in_time(definition, saga, spot, action, at)
        && deadline != Some(until)
    {
        return Some(("on-time", format!("{what} times out at {deadline:?}, and should at {until}")));
    }
    let step = &definition.steps[spot.step];
    let state = saga.unit(spot)?.action(action);
    let waits = action == Action::Execute && attempt == 1 && spot.item.is_none() && !step.delay.is_zero();
    // Or an operator has had it sent at once.
    let waited = matches!(state.progress, Progress::Scheduled { .. }) || state.started_at.is_some();
    (waits && !waited).then(|| ("on-time", format!("{what} is sent without its delay")))
}

/// How long is waited before an action's first attempt, or after its last one: the least and the most.
fn wait(definition: &Definition, spot: Spot, action: Action, tries: u32) -> Option<(Duration, Duration)> {
    let step = &definition.steps[spot.step];
    if tries == 0 {
        let nap = if let Execute::Sleep(nap) = step.execute { nap } else { Duration::ZERO };
        return Some((step.delay + nap, step.delay + nap));
    }
    let retry = command(definition, spot, action)?.retry;
    let factor = retry.factor.powi(i32::try_from(tries).ok()? - 1);
    let wait = retry.initial.mul_f64(factor).min(retry.max);
    let trifle = Duration::from_millis(1);
    Some((wait.mul_f64(1.0 - retry.jitter).saturating_sub(trifle), wait.mul_f64(1.0 + retry.jitter) + trifle))
}

/// How many attempts an action may take before somebody has to look; `None`: the step says nothing of it.
fn attempts(definition: &Definition, spot: Spot, action: Action) -> Option<u32> {
    Some(command(definition, spot, action)?.retry.attempts)
}

/// What an action sends.
fn command(definition: &Definition, spot: Spot, action: Action) -> Option<&Command> {
    let step = &definition.steps[spot.step];
    step.sends(action)
}

/// Whose word an entry goes by, where that can be told: an event does not say which attempt it answers, and a child may say more than one thing.
fn word_of(definition: &Definition, saga: SagaId, entry: &Entry) -> Option<(Ticket, &'static str)> {
    let (spot, action, attempt, word) = match entry {
        Entry::Succeeded { spot, action, attempt, .. } => (spot, action, attempt, "success"),
        Entry::Failed { spot, action, attempt, .. } => (spot, action, attempt, "failure"),
        Entry::AttemptFailed { spot, action, attempt, handling: Handling::Answered, .. } => {
            (spot, action, attempt, "retry")
        }
        _ => return None,
    };
    let step = &definition.steps[spot.step];
    let announced = step.command().is_some_and(|command| command.reply.success.is_some());
    let told = *attempt > 0 && !announced && !matches!(step.execute, Execute::Saga(_));
    told.then_some((Ticket { saga, spot: *spot, action: *action, attempt: *attempt }, word))
}

/// What is still in flight though the deadline has been seen to pass, or though nobody will see it pass.
fn overlooked_deadline(
    definition: &Definition,
    saga: &Saga,
    entries: &[Entry],
    due: Option<Time>,
    at: Time,
) -> Option<String> {
    let deadline = saga.deadline.filter(|_| !goes_on(saga, definition) && saga.suspended.is_none())?;
    let spot = in_flight(saga)?;
    // Whoever looked at the time has seen the deadline as well.
    let has_looked = |entry: &Entry| match entry {
        Entry::Compensating { error, .. } => error.failure.reason == Reason::Deadline,
        Entry::AttemptFailed { failure, .. } => failure.reason == Reason::Timeout && deadline <= at,
        _ => false,
    };
    if entries.iter().any(has_looked) {
        return Some(format!("{spot} is in flight after the deadline, and not in doubt"));
    }
    let is_set = due.is_some_and(|due| due <= deadline.max(at));
    (!is_set).then(|| format!("{spot} is in flight until {deadline}, and nobody looks before {due:?}"))
}

/// A unit whose execute is in flight.
fn in_flight(saga: &Saga) -> Option<Spot> {
    units(saga).find(|(_, unit)| unit.execute.in_flight()).map(|(spot, _)| spot)
}

fn is_decided(state: &ActionState) -> bool {
    matches!(
        state.progress,
        Progress::Succeeded { .. } | Progress::Failed { by: Some(_), .. } | Progress::GivenUp { .. }
    )
}

/// The entries of a transition, each with the saga as it was just before it.
fn steps<'a>(before: &Saga, entries: &'a [Entry], at: Time) -> Vec<(Saga, &'a Entry)> {
    let mut saga = before.clone();
    let step = |entry: &'a Entry| {
        let was = saga.clone();
        apply(&mut saga, entry, at);
        (was, entry)
    };
    entries.iter().map(step).collect()
}
