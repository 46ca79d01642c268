//! Holds what is stored of every saga against its journal, and puts it right.
//!
//! ```text
//!   pages of whole sagas ──> history: the journal's rows, and what they lead to ─┐
//!                            row: state, items and columns ──────────────────────┼─> findings, and how to mend them
//!                            claims: key, lock and slots ────────────────────────┘
//!   then, once: counters, and what leads to sagas that are not there
//! ```
//! The journal is what happened; it is never changed, only added to: a saga that is mended has an entry that says so. What is read
//! together is of one moment, so that a daemon may run meanwhile. Only a few sagas are in memory at any time.

mod claims;
mod difference;
mod finding;
mod history;
mod row;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use uuid::Uuid;

use self::finding::stray;
pub use self::finding::{Finding, Remedy};
use crate::clock::{Clock, SystemClock};
use crate::core::apply::apply;
use crate::core::definition::Definition;
use crate::core::entry::Entry;
use crate::core::id::SagaId;
use crate::core::saga::Saga;
use crate::core::time::Time;
use crate::definitions::{Definitions, Pinned};
use crate::engine::row_of;
use crate::store::audit::{Audit, Mend, Page, Stray, StrayRow, WholeSaga};
use crate::store::{ClaimKind, SagaWrite, StoreError, changed_items, encode};

/// Sagas that are read together at the most.
const PAGE: usize = 1000;

/// Rows of sagas that are not there, in one look at the whole store.
const STRAYS: usize = 1000;

/// How often a saga is tried again that changes while it is being mended.
const ROUNDS: usize = 5;

/// Who mended it, in the journal.
const ACTOR: &str = "sagad verify";

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Put right what can be.
    pub repair: bool,
    /// `delay.sweep`: when a saga is due that the broker should wake.
    pub sweep: Duration,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// How many sagas were looked at.
    pub sagas: u64,
    /// What was found, all in all.
    pub found: u64,
    /// What of it was put right.
    pub repaired: u64,
    /// What is left.
    pub left: u64,
}

/// What is told on the way.
#[derive(Debug)]
pub enum News<'a> {
    /// So many sagas were looked at.
    Checked(u64),
    /// Something was found, and mended if it is to be.
    Found(&'a Finding),
}

/// What there is to say of one saga.
#[derive(Debug, Default)]
struct Checked {
    findings: Vec<Finding>,
    /// How to put right what can be.
    mend: Option<Mend>,
}

/// Looks through a whole store.
///
/// # Errors
/// What the database says. What was mended until then stays so.
pub async fn verify<A: Audit>(
    store: &A,
    options: Options,
    mut tell: impl FnMut(News<'_>),
) -> Result<Summary, StoreError> {
    let definitions = Arc::new(Definitions::new(PathBuf::new(), store.clone()));
    let mut walk = Walk { store, options, definitions, unknown: BTreeSet::new(), summary: Summary::default() };
    let fetch = |after| {
        let store = store.clone();
        // While one page is looked at, the next is read.
        tokio::spawn(async move { store.page(after, PAGE).await })
    };
    let gone = |error: tokio::task::JoinError| StoreError::Unavailable(error.to_string());
    let mut page = fetch(None).await.map_err(gone)??;
    loop {
        let next = page.next.map(|after| fetch(Some(after)));
        walk.page(page, &mut tell).await?;
        tell(News::Checked(walk.summary.sagas));
        match next {
            Some(next) => page = next.await.map_err(gone)??,
            None => break,
        }
    }
    walk.totals(&mut tell).await?;
    Ok(walk.summary)
}

/// On the way through a store.
struct Walk<'a, A: Audit> {
    store: &'a A,
    options: Options,
    definitions: Arc<Definitions<A>>,
    /// Revisions that are not to be had.
    unknown: BTreeSet<(String, u32)>,
    summary: Summary,
}

impl<A: Audit> Walk<'_, A> {
    async fn page(&mut self, page: Page, tell: &mut impl FnMut(News<'_>)) -> Result<(), StoreError> {
        self.summary.sagas += (page.sagas.len() + page.unreadable.len()) as u64;
        for whole in page.sagas {
            let findings = self.saga(whole).await?;
            self.tell(findings, tell);
        }
        let unreadable = page.unreadable.into_iter().map(|(saga, what)| Finding {
            saga: Some(saga),
            definition: None,
            table: "sagas",
            column: "*",
            stored: format!("something that there can't be ({what})"),
            expected: "what sagad has written".to_owned(),
            remedy: Remedy::Impossible("Restore the rows of this saga from a backup.".to_owned()),
        });
        self.tell(unreadable.collect(), tell);
        self.strays(page.strays, tell).await
    }

    fn tell(&mut self, findings: Vec<Finding>, tell: &mut impl FnMut(News<'_>)) {
        for finding in &findings {
            self.summary.found += 1;
            match finding.remedy {
                Remedy::Done => self.summary.repaired += 1,
                Remedy::Possible | Remedy::Impossible(_) => self.summary.left += 1,
            }
            tell(News::Found(finding));
        }
    }

    async fn pinned(&mut self, whole: &WholeSaga) -> Result<Option<Arc<Pinned>>, StoreError> {
        let (name, revision) = (&whole.stored.definition, whole.stored.revision);
        if let Some(pinned) = self.definitions.cached(name, revision) {
            return Ok(Some(pinned));
        }
        // A missing one may be that of very many sagas.
        if self.unknown.contains(&(name.clone(), revision)) {
            return Ok(None);
        }
        let pinned = self.definitions.pinned(name, revision).await?;
        if pinned.is_none() {
            self.unknown.insert((name.clone(), revision));
        }
        Ok(pinned)
    }

    /// Looks at a saga, and mends it if that is asked for.
    async fn saga(&mut self, mut whole: WholeSaga) -> Result<Vec<Finding>, StoreError> {
        let id = whole.stored.id;
        let mut mended = Vec::new();
        let mut rounds = 0;
        loop {
            let pinned = self.pinned(&whole).await?;
            let definition = pinned.as_ref().map(|pinned| &pinned.definition);
            let now = SystemClock.now();
            let mut checked = check(&whole, definition, now, self.options.sweep);
            if checked.mend.is_some() {
                self.without_claims_of_others(&mut checked).await?;
            }
            rounds += 1;
            let Some(mend) = checked.mend.filter(|_| self.options.repair && rounds <= ROUNDS) else {
                mended.extend(checked.findings);
                return Ok(mended);
            };
            if self.store.mend(&mend).await? {
                let possible = checked.findings.into_iter().filter(|finding| finding.remedy == Remedy::Possible);
                mended.extend(possible.map(|finding| Finding { remedy: Remedy::Done, ..finding }));
            }
            // As it is now: what was wrong may have kept something else from being seen.
            let before = SagaId(Uuid::from_u128(id.0.as_u128().saturating_sub(1)));
            let again = self.store.page(Some(before), 1).await?;
            match again.sagas.into_iter().find(|again| again.stored.id == id) {
                Some(again) => whole = again,
                None => return Ok(mended),
            }
        }
    }

    /// What another saga holds is not taken from it.
    async fn without_claims_of_others(&self, checked: &mut Checked) -> Result<(), StoreError> {
        let Some(mend) = &mut checked.mend else { return Ok(()) };
        let mut kept = Vec::new();
        for (claim, from) in std::mem::take(&mut mend.write.claims) {
            let others = match self.store.holders(std::slice::from_ref(&claim)).await {
                _ if from.is_some() => None,
                Ok(holders) => holders.first().map(|holder| {
                    let help = "Look at that one: if it is wrong too, `sagad verify --repair`, run once more, gives this one \
                                what is its own; if it is not, cancel one of the two.";
                    (holder.saga.to_string(), help)
                }),
                // Nobody knows how whoever holds it ended.
                Err(StoreError::Corrupt(_)) => {
                    let help = "Run `sagad verify --repair` once more, which takes it from that one first.";
                    Some(("a saga that is not there".to_owned(), help))
                }
                Err(error) => return Err(error),
            };
            let Some((holder, help)) = others else {
                kept.push((claim, from));
                continue;
            };
            let place = if claim.kind == ClaimKind::Lock { claims::LOCK } else { claims::KEY };
            for finding in checked.findings.iter_mut().filter(|finding| (finding.table, finding.column) == place) {
                finding.stored = format!("{} by {holder}", finding.stored);
                finding.remedy = Remedy::Impossible(help.to_owned());
            }
        }
        mend.write.claims = kept;
        if checked.findings.iter().all(|finding| finding.remedy != Remedy::Possible) {
            checked.mend = None;
        }
        Ok(())
    }

    async fn strays(&mut self, strays: Vec<Stray>, tell: &mut impl FnMut(News<'_>)) -> Result<(), StoreError> {
        let repair = self.options.repair;
        // Of a saga whose row is lost, its journal stands for everything.
        let told = strays.iter().filter(|stray| !stray.lost || matches!(stray.what, StrayRow::Journal { .. }));
        let mut findings: Vec<Finding> = told.map(stray).collect();
        let may_go: Vec<Stray> = strays.into_iter().filter(Stray::may_go).collect();
        if repair && !may_go.is_empty() {
            self.store.discard(&may_go).await?;
            for finding in findings.iter_mut().filter(|finding| finding.remedy == Remedy::Possible) {
                finding.remedy = Remedy::Done;
            }
        }
        self.tell(findings, tell);
        Ok(())
    }

    /// After the sagas: one that was mended may have another status now.
    async fn totals(&mut self, tell: &mut impl FnMut(News<'_>)) -> Result<(), StoreError> {
        let mut first = true;
        loop {
            let mut totals = self.store.totals(STRAYS).await?;
            let full = totals.strays.len() >= STRAYS;
            // What may not go was told the first time.
            totals.strays.retain(|stray| first || stray.may_go());
            first = false;
            if self.options.repair && !totals.miscounts.is_empty() {
                self.store.recount(&totals.miscounts).await?;
            }
            let counters = totals.miscounts.into_iter().map(|miscount| {
                let status =
                    miscount.status.map_or_else(|code| format!("status {code}"), |status| status.as_str().to_owned());
                Finding {
                    saga: None,
                    stored: format!("{} of {status} sagas of `{}`", miscount.counted, miscount.definition),
                    definition: Some(miscount.definition),
                    table: "counters",
                    column: "sagas",
                    expected: miscount.sagas.to_string(),
                    remedy: if self.options.repair { Remedy::Done } else { Remedy::Possible },
                }
            });
            self.tell(counters.collect(), tell);
            let again = full && self.options.repair && totals.strays.iter().any(Stray::may_go);
            self.strays(totals.strays, tell).await?;
            if !again {
                return Ok(());
            }
        }
    }
}

/// Looks at a saga.
fn check(whole: &WholeSaga, definition: Option<&Definition>, now: Time, sweep: Duration) -> Checked {
    let mut findings = Findings { whole, all: Vec::new() };
    let Some(history) = history::read(&mut findings) else { return findings.without_mend() };
    let Some(definition) = findings.definition(&history.saga, definition) else { return findings.without_mend() };
    let mut saga = history.saga;
    saga.sum_up(definition);
    row::check(&mut findings, &saga, history.previous_status, definition, now, sweep);
    let claims = claims::check(&mut findings, &saga, history.has_ended, definition);
    let columns: BTreeSet<String> = (findings.all.iter())
        .filter(|finding| finding.remedy == Remedy::Possible)
        .map(|finding| format!("{}.{}", finding.table, finding.column))
        .collect();
    if columns.is_empty() {
        return findings.without_mend();
    }
    let entry = Entry::Repaired { columns: columns.into_iter().collect(), actor: ACTOR.to_owned() };
    let previous_status = Some(saga.status());
    let at = now.max(saga.updated_at);
    apply(&mut saga, &entry, at);
    saga.version += 1;
    let write = SagaWrite {
        id: saga.id,
        expected: whole.stored.version,
        row: row_of(&saga, definition, sweep),
        birth: None,
        first_seq: saga.entries,
        entries: encode(&[entry]),
        outbox: Vec::new(),
        settled: Vec::new(),
        items: changed_items(&[], &saga),
        claims: claims.take,
        releases: false,
    };
    let mend = Mend {
        write,
        previous_status,
        key: saga.key.clone(),
        priority: saga.priority,
        created_at: saga.created_at,
        parent: saga.parent.as_ref().map(|parent| parent.saga),
        unclaims: claims.give_up,
    };
    Checked { findings: findings.all, mend: Some(mend) }
}

/// What was found of a saga so far.
struct Findings<'a> {
    whole: &'a WholeSaga,
    all: Vec<Finding>,
}

impl Findings<'_> {
    fn add(&mut self, place: (&'static str, &'static str), stored: String, expected: String, remedy: Remedy) {
        let (table, column) = place;
        let (saga, definition) = (Some(self.whole.stored.id), Some(self.whole.stored.definition.clone()));
        self.all.push(Finding { saga, definition, table, column, stored, expected, remedy });
    }

    /// Something that the journal tells better.
    fn mendable(&mut self, place: (&'static str, &'static str), stored: String, expected: String) {
        self.add(place, stored, expected, Remedy::Possible);
    }

    fn without_mend(self) -> Checked {
        Checked { findings: self.all, mend: None }
    }

    /// The definition that a saga is pinned to, if it is there and the saga can be one of it.
    fn definition<'d>(&mut self, saga: &Saga, definition: Option<&'d Definition>) -> Option<&'d Definition> {
        let what = format!("revision {} of `{}`", saga.revision, saga.definition);
        match definition {
            None => {
                let help = "Restore this row of `definitions` from a backup: without it nobody knows how the saga goes on, \
                            and nothing else of it was checked.";
                let expected = "what the saga was begun with".to_owned();
                let stored = format!("missing, or nothing that this sagad can read, for {what}");
                self.add(("definitions", "source"), stored, expected, Remedy::Impossible(help.to_owned()));
                None
            }
            Some(definition) if !saga.fits(definition) => {
                let help =
                    "The row of this saga, or that of its definition, was changed by hand: restore it from a backup.";
                let stored = format!("that of {what} with {} steps", definition.steps.len());
                let expected = format!("one with {}", saga.steps.len());
                self.add(("sagas", "revision"), stored, expected, Remedy::Impossible(help.to_owned()));
                None
            }
            Some(definition) => Some(definition),
        }
    }
}
