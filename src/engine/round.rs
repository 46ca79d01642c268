//! One round of the corridor: sagas in memory, what is decided about them, what is to be written.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::dead_letter;
use super::gate::{claims_of, may_take_over};
use super::work::{Broken, Work};
use crate::broker::message::Outgoing;
use crate::broker::names::Names;
use crate::clock::Clock;
use crate::core::answer::RawAnswer;
use crate::core::decide::{Decide, Ignored, end_of};
use crate::core::definition::Priority;
use crate::core::id::SagaId;
use crate::core::input::{Forbidden, Input};
use crate::core::saga::{Reason, Saga, Status};
use crate::core::start::{NewSaga, check_input, start};
use crate::core::time::Time;
use crate::definitions::{Definitions, Pinned};
use crate::intake::{Item, Refusal, Request, Settle, Start, Started};
use crate::store::{
    Batch, Birth, Claim, ClaimKind, DeadLetter, SagaWrite, Store, StoreError, StoredSaga, encode, read_listed,
    read_saga,
};
use crate::wire::signature::Signer;

/// What came of an item, valid once the saga it is about is committed.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Of a start; the saga whose commit it depends on.
    Start { about: Option<SagaId>, result: Result<Started, Refusal> },
    /// Of an order to a child that has had it, and has ended: what it answers.
    Ended { about: SagaId, answer: RawAnswer },
    /// Of something that happened to a saga.
    Saga { about: SagaId, result: Result<(), Refusal> },
    /// The cached state changes nothing for it, but that state may be an old one: to be decided again on the stored one.
    Undecided(SagaId),
    /// A message was kept as a dead letter, for this reason.
    Kept { reason: String },
    /// It is for no saga that there is.
    Nobody,
    /// It is for none yet: this copy of its message comes back in a while.
    PutOff(Box<Outgoing>),
}

impl Outcome {
    pub(super) fn about(&self) -> Option<SagaId> {
        match self {
            Outcome::Start { about, .. } => *about,
            Outcome::Saga { about, .. } | Outcome::Ended { about, .. } | Outcome::Undecided(about) => Some(*about),
            Outcome::Kept { .. } | Outcome::Nobody | Outcome::PutOff(_) => None,
        }
    }

    pub(super) fn is_undecided(&self) -> bool {
        matches!(self, Outcome::Undecided(_))
    }
}

/// Everything of one round.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) outcomes: Vec<Outcome>,
    lease: Time,
    sweep: Duration,
    now: Time,
    clock: Arc<dyn Clock>,
    decide: Decide,
    pub(super) sagas: BTreeMap<SagaId, Work>,
    /// Sagas that can't be read or decided.
    broken: BTreeMap<SagaId, Broken>,
    /// Which saga holds which claim, as far as that is known.
    pub(super) held: BTreeMap<Claim, (SagaId, Status)>,
    joined: Vec<(Claim, SagaId, Status)>,
    /// Whether the store was asked who has what starts claim.
    resolved: bool,
    dead_letters: Vec<DeadLetter>,
}

impl Round {
    pub(super) fn new(lease: Time, sweep: Duration, now: Time, clock: Arc<dyn Clock>, decide: Decide) -> Round {
        Round {
            outcomes: Vec::new(),
            lease,
            sweep,
            now,
            clock,
            decide,
            sagas: BTreeMap::new(),
            broken: BTreeMap::new(),
            held: BTreeMap::new(),
            joined: Vec::new(),
            resolved: false,
            dead_letters: Vec::new(),
        }
    }

    /// Finds out who holds what the starts of a batch claim. The first time round it is taken for granted that nobody does: the
    /// commit finds out, and only then the question costs a query.
    pub(super) async fn resolve_starts<S: Store>(
        &mut self,
        batch: &[Item],
        again: bool,
        store: &S,
        definitions: &Definitions<S>,
    ) -> Result<(), StoreError> {
        if !again {
            return Ok(());
        }
        self.resolved = true;
        let mut claims = Vec::new();
        let mut ids = Vec::new();
        for item in batch {
            let Request::Start(start) = &item.request else { continue };
            ids.push(start.id);
            if let Some(pinned) = definitions.current(&start.definition) {
                let key = check_input(&pinned.definition, &start.input).unwrap_or(None);
                claims.extend(claims_of(&pinned.definition, key.as_deref(), start).unwrap_or_default());
            }
        }
        claims.sort_unstable();
        claims.dedup();
        if !claims.is_empty() {
            for holder in store.holders(&claims).await? {
                self.held.insert(holder.claim, (holder.saga, holder.status));
            }
        }
        // A commit whose outcome was unknown may have taken effect.
        if !ids.is_empty() {
            for row in store.load(&ids).await? {
                self.add_stored(row, store, definitions).await?;
            }
        }
        Ok(())
    }

    pub(super) fn knows(&self, id: SagaId) -> bool {
        self.sagas.contains_key(&id) || self.broken.contains_key(&id)
    }

    pub(super) fn add(&mut self, saga: Saga, pinned: Arc<Pinned>, input_size: usize, fresh: bool) {
        self.sagas.insert(saga.id, Work::known(saga, pinned, input_size, fresh));
    }

    /// A saga as the store has it. One that can't be read stops nobody but itself.
    pub(super) async fn add_stored<S: Store>(
        &mut self,
        row: StoredSaga,
        store: &S,
        definitions: &Definitions<S>,
    ) -> Result<(), StoreError> {
        let pinned = match definitions.cached(&row.definition, row.revision) {
            Some(pinned) => Some(pinned),
            None => definitions.pinned(&row.definition, row.revision).await?,
        };
        let (name, revision) = (&row.definition, row.revision);
        let (saga, why) = match (read_saga(&row), pinned) {
            (Ok(saga), Some(pinned)) if saga.fits(&pinned.definition) => {
                self.add(saga, pinned, row.input.len(), true);
                return Ok(());
            }
            // Written back as its row alone has it: without its definition, its elements can't be summed up anew.
            (Ok(_), Some(_)) => {
                (read_listed(&row).ok(), format!("its state does not fit revision {revision} of `{name}`"))
            }
            (Ok(_), None) => {
                let why = format!("revision {revision} of its definition `{name}` is not in the database");
                (read_listed(&row).ok(), why)
            }
            (Err(error), _) => (None, format!("its stored state can't be read: {error}")),
        };
        let journal = match store.journal(row.id, u64::MAX).await {
            Err(StoreError::Corrupt(_)) => Vec::new(),
            journal => journal?,
        };
        self.broken.insert(row.id, Broken::new(row, saga, why, journal.last()));
        Ok(())
    }

    /// Decides one item.
    pub(super) fn decide<S: Store>(
        &mut self,
        item: &Item,
        definitions: &Definitions<S>,
        names: &Names,
        signer: &Signer,
    ) -> Outcome {
        match &item.request {
            Request::Keep(letter) => {
                self.dead_letters.push(DeadLetter::clone(letter));
                Outcome::Kept { reason: letter.reason.clone() }
            }
            Request::Saga(id, input) => {
                let of_one_copy = self.of_one_copy(*id, input, item, definitions);
                self.decide_saga(*id, of_one_copy.as_ref().unwrap_or(input), item, names, signer)
            }
            Request::Keyed(keyed) => self.decide_keyed(keyed, item, names, signer),
            Request::Admit { saga, slot } => self.decide_admission(*saga, slot.as_deref(), item, names, signer),
            Request::Elsewhere(definition) => self.decide_elsewhere(definition, item, names),
            Request::Start(start) => {
                self.decide_start(start, definitions.current(&start.definition), item, names, signer)
            }
        }
    }

    /// A command that did not reach a consumer by one queue may have by another: RabbitMQ refuses, or buries, each copy for itself.
    fn of_one_copy<S: Store>(
        &self,
        id: SagaId,
        input: &Input,
        item: &Item,
        definitions: &Definitions<S>,
    ) -> Option<Input> {
        let Input::Undelivered { spot, action, attempt, reason, message, delivered_before, .. } = input else {
            return None;
        };
        let definition = &self.sagas.get(&id)?.pinned.definition;
        let command = definition.steps.get(spot.step)?.sends(*action)?;
        // Nor does any have what was not sent.
        let unsent = *reason == Reason::Expired && matches!(item.settle, Settle::Published(_));
        let nowhere = *reason == Reason::Unroutable || unsent;
        let several = !nowhere && definitions.reaches_several(&command.exchange, &command.routing_key);
        several.then(|| Input::Undelivered {
            spot: *spot,
            action: *action,
            attempt: *attempt,
            reason: *reason,
            message: message.clone(),
            delivered_before: *delivered_before,
            resent: true,
        })
    }

    pub(super) fn decide_saga(
        &mut self,
        id: SagaId,
        input: &Input,
        item: &Item,
        names: &Names,
        signer: &Signer,
    ) -> Outcome {
        let about = id;
        let Some(work) = self.sagas.get_mut(&id) else { return self.missing(id, item) };
        work.ticked |= item.is_tick();
        let untouched = work.entries.is_empty();
        let decided = catch_unwind(AssertUnwindSafe(|| {
            (self.decide)(&work.pinned.definition, &work.saga, input.clone(), self.now)
        }));
        match decided {
            Ok(Ok(decision)) if decision.entries.is_empty() => {
                // Nothing is dropped on the word of a cache: another daemon may have moved the saga on. Nor is anything kept as a
                // dead letter on what is not committed yet: the letter would be, even if another daemon's change came first.
                let to_keep = decision.ignored.is_some_and(|ignored| is_to_keep(ignored).is_some());
                if !untouched && to_keep || untouched && !work.fresh {
                    return Outcome::Undecided(id);
                }
                if let Some(ignored) = decision.ignored {
                    self.ignore(item, ignored);
                }
                Outcome::Saga { about, result: Ok(()) }
            }
            Ok(Ok(decision)) => {
                if let Settle::Published(row) = item.settle {
                    work.settles(row);
                }
                work.take(decision, names, signer, &*self.clock, self.lease, self.now);
                Outcome::Saga { about, result: Ok(()) }
            }
            // Nor is an operator refused on what may be an old state.
            Ok(Err(_)) if !untouched && matches!(input, Input::Signal { .. }) => Outcome::Undecided(id),
            Ok(Err(_)) if untouched && !work.fresh => Outcome::Undecided(id),
            Ok(Err(forbidden)) => {
                if matches!(input, Input::Signal { .. }) {
                    self.keep(item, "unwanted_signal", &forbidden.to_string());
                }
                Outcome::Saga { about, result: Err(forbidden.into()) }
            }
            Err(panic) => {
                let why = panic.downcast_ref::<String>().map(String::as_str);
                let why = why.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
                let message = format!("sagad failed to decide what follows, which is a bug of sagad's: {why}");
                tracing::error!(saga = %id, %message, ?input, "the saga is suspended");
                work.suspend(message.clone(), self.now);
                self.keep(item, "undecidable", &message);
                Outcome::Saga { about, result: Err(Forbidden::State(message).into()) }
            }
        }
    }

    /// Of a saga that is not there, or that can't be read.
    pub(super) fn missing(&mut self, id: SagaId, item: &Item) -> Outcome {
        let (about, refusal) = match self.broken.get(&id) {
            Some(Broken { why, .. }) => (id, Forbidden::State(format!("the saga can't go on: {why}")).into()),
            None => (id, Refusal::UnknownSaga(id)),
        };
        if !item.is_tick() {
            let class = if self.broken.contains_key(&id) { "broken_saga" } else { "unknown_saga" };
            self.keep(item, class, &refusal.to_string());
        }
        Outcome::Saga { about, result: Err(refusal) }
    }

    fn ignore(&mut self, item: &Item, ignored: Ignored) {
        metrics::counter!(crate::metrics::ANSWERS_IGNORED, "why" => ignored.as_str()).increment(1);
        if let Some(why) = is_to_keep(ignored) {
            self.keep(item, ignored.as_str(), why);
        }
    }

    /// Keeps the message that an item came with, if it came with one.
    pub(super) fn keep(&mut self, item: &Item, class: &'static str, reason: &str) {
        if let Some(message) = item.message() {
            self.dead_letters.push(dead_letter(&*self.clock, message, class, reason.to_owned()));
        }
    }

    /// Begins a saga, or finds the one that has what it claims.
    fn decide_start(
        &mut self,
        asked: &Start,
        pinned: Option<Arc<Pinned>>,
        item: &Item,
        names: &Names,
        signer: &Signer,
    ) -> Outcome {
        let id = asked.id;
        let refuse = |round: &mut Round, refusal: Refusal| {
            // A child may have begun by another copy of its order, whatever has become of its definition since.
            if asked.parent.is_some() && !round.resolved {
                return Outcome::Undecided(id);
            }
            round.keep(item, refusal.code(), &refusal.to_string());
            Outcome::Start { about: None, result: Err(refusal) }
        };
        if let Some(Broken { why, .. }) = self.broken.get(&id) {
            return Outcome::Start { about: None, result: Err(Forbidden::State(why.clone()).into()) };
        }
        if let Some(work) = self.sagas.get(&id) {
            if let Some(answer) = end_of(&work.pinned.definition, &work.saga) {
                return Outcome::Ended { about: id, answer };
            }
            let started = Started { saga: id, status: work.saga.status(), created: true };
            return Outcome::Start { about: Some(id), result: Ok(started) };
        }
        let Some(pinned) = pinned else {
            return refuse(self, Refusal::UnknownDefinition(asked.definition.clone()));
        };
        let key = match check_input(&pinned.definition, &asked.input) {
            Ok(key) => key,
            Err(errors) => return refuse(self, Refusal::Invalid(errors)),
        };
        let wanted = match claims_of(&pinned.definition, key.as_deref(), asked) {
            Ok(wanted) => wanted,
            Err(errors) => return refuse(self, Refusal::Invalid(errors)),
        };
        let mut claims = Vec::new();
        for claim in wanted {
            match self.held.get(&claim).copied() {
                None => claims.push((claim, None)),
                Some((holder, status)) if may_take_over(&pinned.definition, &claim, status) => {
                    // One that began and ended in this very round has yet to be committed, and the claim with it.
                    if self.sagas.get(&holder).is_some_and(Work::has_claims) {
                        return Outcome::Undecided(holder);
                    }
                    claims.push((claim, Some(holder)));
                }
                Some((holder, _)) if claim.kind == ClaimKind::Lock => {
                    if !item.is_answered() {
                        // The letter would be committed even if the one that it goes by comes to nothing.
                        if self.sagas.get(&holder).is_some_and(Work::has_claims) {
                            return Outcome::Undecided(holder);
                        }
                        self.keep(item, "locked", &Refusal::Locked(claim.token.clone()).to_string());
                    }
                    let about = self.sagas.contains_key(&holder).then_some(holder);
                    return Outcome::Start { about, result: Err(Refusal::Locked(claim.token)) };
                }
                Some((holder, status)) => {
                    // Whoever asks again with the same idempotency key is answered alike, whatever becomes of the business key.
                    let starts = claims.into_iter().filter(|(claim, _)| claim.kind == ClaimKind::Start);
                    let joined: Vec<_> = starts.map(|(claim, _)| (claim, holder, status)).collect();
                    if !joined.is_empty() && !self.resolved {
                        // It may have been answered before, with a saga that had the business key until now.
                        return Outcome::Undecided(holder);
                    }
                    self.joined.extend(joined);
                    let about = self.sagas.contains_key(&holder).then_some(holder);
                    let started = Started { saga: holder, status, created: false };
                    return Outcome::Start { about, result: Ok(started) };
                }
            }
        }
        let new = NewSaga {
            id,
            revision: pinned.revision,
            input: asked.input.clone(),
            // A saga's child has its priority, unless its own definition says one.
            priority: asked.priority.filter(|_| asked.parent.is_none() || is_silent(&pinned.definition.priority)),
            delay: asked.delay,
            trace: asked.trace.clone(),
            actor: asked.actor.clone(),
            parent: asked.parent.clone(),
        };
        let decision = match start(&pinned.definition, new, key.clone(), self.now) {
            Ok(decision) => decision,
            Err(errors) => return refuse(self, Refusal::Invalid(errors)),
        };
        let status = decision.saga.status();
        for (claim, _) in &claims {
            self.held.insert(claim.clone(), (id, status));
        }
        let birth = Birth {
            definition: pinned.definition.name.clone(),
            revision: pinned.revision,
            key,
            priority: decision.saga.priority,
            input: encode(&*asked.input),
            created_at: self.now,
            parent: asked.parent.as_ref().map(|parent| parent.saga),
        };
        let mut work = Work::born(decision.saga.clone(), pinned, birth, claims);
        work.take(decision, names, signer, &*self.clock, self.lease, self.now);
        self.sagas.insert(id, work);
        Outcome::Start { about: Some(id), result: Ok(Started { saga: id, status, created: true }) }
    }

    /// What this round writes.
    pub(super) fn batch(&mut self, confirmed: &[Uuid]) -> Batch {
        let sweep = self.sweep;
        let mut sagas: Vec<SagaWrite> = Vec::new();
        for work in self.sagas.values_mut().filter(|work| !work.entries.is_empty()) {
            sagas.push(work.write(sweep));
        }
        for broken in self.broken.values() {
            if let Some(write) = broken.quarantine(self.now) {
                let (saga, why) = (write.id, &broken.why);
                tracing::error!(%saga, %why, "the saga is suspended; it stops nobody but itself; see `sagad verify`");
                sagas.push(write);
            }
        }
        Batch {
            sagas,
            confirmed: confirmed.to_vec(),
            dead_letters: std::mem::take(&mut self.dead_letters),
            joined: std::mem::take(&mut self.joined),
        }
    }

    /// The sagas of the round, each with the time it waits for if it needs a wake-up.
    pub(super) fn into_sagas(self) -> impl Iterator<Item = (Work, Option<Time>)> {
        self.sagas.into_values().map(|work| {
            let waits = work.waits();
            (work, waits)
        })
    }
}

/// Why what was ignored must not be forgotten, if so.
fn is_to_keep(ignored: Ignored) -> Option<&'static str> {
    match ignored {
        Ignored::UnknownAttempt => Some("the saga knows of no such attempt; was its database restored from a backup?"),
        Ignored::Full => {
            Some("too much is waiting for steps of the saga that are not reached; hand it in again once they are")
        }
        Ignored::Settled | Ignored::Stale | Ignored::Duplicate | Ignored::NotDue => None,
    }
}

fn is_silent(priority: &Priority) -> bool {
    matches!(priority, Priority::Fixed(0))
}
