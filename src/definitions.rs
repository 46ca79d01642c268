//! The definitions: read from their folder, numbered by the store, shared with everyone who starts or steers sagas.
//!
//! ```text
//!   folder ──read_folder──> files ──parse, all of them──> every problem of every file, or
//!                                                         revisions (numbered by content) ──> current
//!   saga's (name, revision) ────────────────────────────> pinned: from memory, else parsed from the store's text
//! ```

mod folder;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

pub use self::folder::{File, Folder, read, read_scenarios};
use crate::broker::listening::Listener;
use crate::broker::topology::{Conflict, TopologyPlan};
use crate::clock::{self, Clock};
use crate::core::parse::parse;
use crate::core::time::Time;
pub use crate::pinned::Pinned;
use crate::store::{Store, StoreError};
use crate::subscriptions::{Subscriptions, bearings};

/// So long after a definition was changed there may be daemons that have it as it was, beside those that have it as it is.
const ROLLOUT: Duration = Duration::from_secs(3600);

/// What a reload changed, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Changes {
    /// New, or back again.
    pub added: Vec<String>,
    /// With another revision than before.
    pub changed: Vec<String>,
    /// No longer in the folder: sagas under way go on, none begins.
    pub removed: Vec<String>,
    /// As before.
    pub unchanged: Vec<String>,
}

/// Why definitions can't be loaded. Nothing changes then.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Something is wrong with at least one file.
    #[error("{} of the definitions' files can't be used", .0.files.iter().filter(|file| !file.diagnostics.is_empty()).count())]
    Files(Folder),
    /// The broker does not let them listen to what they want to hear.
    #[error("the definitions listen to what they can't hear:\n{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Unheard(Vec<Conflict>),
    /// The database did not keep a revision.
    #[error(transparent)]
    Store(#[from] StoreError),
}

type ByName = BTreeMap<Arc<str>, Arc<Pinned>>;
type ByRevision = BTreeMap<Arc<str>, BTreeMap<u32, Arc<Pinned>>>;

/// What other daemons have that this one has not loaded, as far as the store tells.
#[derive(Debug, Default)]
pub struct Elsewhere {
    subscriptions: Subscriptions,
    /// When the newest revision was first kept, of the definitions whose newest this daemon has not.
    newest: BTreeMap<String, Time>,
}

impl Elsewhere {
    /// What those revisions want to hear: the newest, that a saga begins; the others, only what sagas under way wait for.
    pub fn subscriptions(&self) -> &Subscriptions {
        &self.subscriptions
    }

    /// Whether a definition came up, or changed, so short a while ago that other daemons are likely to begin sagas with what this one has
    /// not got. Who keeps an old definition for longer is not on its way to the new one.
    pub fn begins(&self, definition: &str, now: Time) -> bool {
        self.newest.get(definition).is_some_and(|kept| now.since(*kept) < ROLLOUT)
    }
}

/// Revisions that this daemon has not loaded.
#[derive(Debug, Default)]
struct Others {
    revisions: Vec<(String, u32)>,
    elsewhere: Arc<Elsewhere>,
}

/// The definitions of a daemon.
#[derive(Debug)]
pub struct Definitions<S> {
    path: PathBuf,
    store: S,
    /// What the commands of definitions are held against; `None`: they are not.
    topology: Option<TopologyPlan>,
    /// Told which events of other services they listen to; `None`: nobody is.
    listener: Option<Listener>,
    current: ArcSwap<ByName>,
    /// What they, and the sagas under way, want to hear of other services.
    subscriptions: ArcSwap<Subscriptions>,
    /// What other daemons have.
    others: tokio::sync::Mutex<Others>,
    /// No other daemon can have this store.
    alone: bool,
    clock: Arc<dyn Clock>,
    /// Revisions that were loaded, and are no longer in the folder as they were.
    withdrawn: Mutex<BTreeSet<(String, u32)>>,
    /// Every revision that was asked for. Bounded by the number of revisions with sagas under way.
    pinned: ArcSwap<ByRevision>,
    /// Held while either is replaced.
    changing: Mutex<()>,
    /// One reload at a time.
    reloading: tokio::sync::Mutex<()>,
    /// Told after each.
    reloaded: tokio::sync::Notify,
}

impl<S: Store> Definitions<S> {
    /// No definitions yet: [`reload`](Definitions::reload) reads them.
    pub fn new(path: PathBuf, store: S) -> Definitions<S> {
        Definitions {
            path,
            store,
            topology: None,
            listener: None,
            current: ArcSwap::default(),
            subscriptions: ArcSwap::default(),
            others: tokio::sync::Mutex::default(),
            alone: false,
            clock: clock::system(),
            withdrawn: Mutex::default(),
            pinned: ArcSwap::default(),
            changing: Mutex::default(),
            reloading: tokio::sync::Mutex::default(),
            reloaded: tokio::sync::Notify::new(),
        }
    }

    /// Knows the queues of `topology`: warns, with each reload, of commands that none of them receives.
    pub fn checked_against(self, topology: TopologyPlan) -> Definitions<S> {
        Definitions { topology: Some(topology), ..self }
    }

    /// Whether the declared queues that receive such a message are more than one: then what becomes of it in one of them says nothing of the
    /// others.
    pub fn reaches_several(&self, exchange: &str, routing_key: &str) -> bool {
        let receivers = self.topology.as_ref().and_then(|plan| plan.receivers(exchange, routing_key));
        receivers.is_some_and(|queues| queues.len() > 1)
    }

    /// No other daemon can have its store: what is not in the folder is nowhere.
    pub fn alone(self, alone: bool) -> Definitions<S> {
        Definitions { alone, ..self }
    }

    /// Asks `clock` how long ago something was changed.
    pub fn timed_by(self, clock: Arc<dyn Clock>) -> Definitions<S> {
        Definitions { clock, ..self }
    }

    /// Has `listener` listen, from each reload on, to the events that they want to hear.
    pub fn heard_by(self, listener: Listener) -> Definitions<S> {
        Definitions { listener: Some(listener), ..self }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the folder again; all of it takes effect, or nothing.
    ///
    /// # Errors
    /// Every problem of every file, every exchange that can't be listened to, or what the database says.
    pub async fn reload(&self) -> Result<(Changes, Folder), LoadError> {
        let _one_at_a_time = self.reloading.lock().await;
        let (path, topology) = (self.path.clone(), self.topology.clone());
        let read = tokio::task::spawn_blocking(move || read(&[path], topology.as_ref())).await;
        let mut folder = read.map_err(|why| StoreError::Refused(format!("reading the definitions failed: {why}")))?;
        if folder.has_errors() {
            return Err(LoadError::Files(folder));
        }
        let changes = self.adopt(&mut folder).await?;
        Ok((changes, folder))
    }

    /// Takes the definitions of a folder without errors out of it, instead of those there are; all of it takes effect, or nothing.
    ///
    /// # Errors
    /// Every exchange that can't be listened to, or what the database says.
    pub async fn adopt(&self, folder: &mut Folder) -> Result<Changes, LoadError> {
        let before = self.current.load_full();
        let mut now = ByName::new();
        let mut changes = Changes::default();
        for (name, (definition, source)) in std::mem::take(&mut folder.definitions) {
            let revision = self.store.keep_revision(&name, &source).await?;
            match before.get(&name) {
                Some(old) if old.revision == revision => {
                    changes.unchanged.push(name.to_string());
                    now.insert(name, old.clone());
                    continue;
                }
                Some(_) => changes.changed.push(name.to_string()),
                None => changes.added.push(name.to_string()),
            }
            let pinned = Arc::new(Pinned { revision, definition, source });
            self.keep_pinned(&name, &pinned);
            now.insert(name, pinned);
        }
        let old = self.old_in_use(&now).await?;
        let subscriptions = Subscriptions::new(now.values().cloned(), old);
        if let Some(listener) = &self.listener {
            listener.listen(subscriptions.heard()).await.map_err(LoadError::Unheard)?;
        }
        self.subscriptions.store(Arc::new(subscriptions));
        self.withdraw(&before, &now);
        changes.removed.extend(before.keys().filter(|name| !now.contains_key(*name)).map(ToString::to_string));
        self.current.store(Arc::new(now));
        self.reloaded.notify_one();
        Ok(changes)
    }

    /// Returns after the next reload, or at once after one that nobody has waited for; for one who waits.
    pub async fn reloaded(&self) {
        self.reloaded.notified().await;
    }

    /// The revision that starts use.
    pub fn current(&self, name: &str) -> Option<Arc<Pinned>> {
        self.current.load().get(name).cloned()
    }

    /// What they, and the sagas under way, want to hear of other services.
    pub fn subscriptions(&self) -> Arc<Subscriptions> {
        self.subscriptions.load_full()
    }

    /// What other daemons have: their sagas are anybody's, and what they would begin must come to them.
    ///
    /// # Errors
    /// What the database says.
    pub async fn elsewhere(&self) -> Result<Arc<Elsewhere>, StoreError> {
        let mut others = self.others.lock().await;
        if self.alone {
            return Ok(Arc::clone(&others.elsewhere));
        }
        let current = self.current.load_full();
        let mut revisions = self.store.all_revisions().await?;
        revisions.retain(|(name, revision)| current.get(&**name).is_none_or(|pinned| pinned.revision < *revision));
        if others.revisions != revisions {
            let elsewhere = Arc::new(self.read_elsewhere(&revisions).await?);
            *others = Others { revisions, elsewhere };
        }
        Ok(Arc::clone(&others.elsewhere))
    }

    async fn read_elsewhere(&self, revisions: &[(String, u32)]) -> Result<Elsewhere, StoreError> {
        let (mut newest, mut old) = (BTreeMap::new(), Vec::new());
        for (name, revision) in revisions {
            if let Some(pinned) = self.pinned(name, *revision).await? {
                // They ascend.
                old.extend(newest.insert(name, pinned));
            }
        }
        let mut kept = BTreeMap::new();
        for (name, pinned) in &newest {
            let this = |(revision, at): (u32, Time)| (revision == pinned.revision).then_some(at);
            let at = self.store.revisions(name).await?.into_iter().find_map(this);
            // Whoever had it and let go of it would be wrong to think that it is on its way.
            kept.extend(at.filter(|_| !self.withdrew(name, pinned.revision)).map(|at| ((*name).clone(), at)));
        }
        let (begun, others) = newest.into_iter().partition::<Vec<_>, _>(|(name, _)| kept.contains_key(*name));
        old.extend(others.into_iter().map(|(_, pinned)| pinned));
        let subscriptions = Subscriptions::new(begun.into_iter().map(|(_, pinned)| pinned), old);
        Ok(Elsewhere { subscriptions, newest: kept })
    }

    fn withdrew(&self, name: &str, revision: u32) -> bool {
        let withdrawn = self.withdrawn.lock().unwrap_or_else(PoisonError::into_inner);
        withdrawn.contains(&(name.to_owned(), revision))
    }

    fn withdraw(&self, before: &ByName, now: &ByName) {
        let mut withdrawn = self.withdrawn.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, pinned) in before {
            withdrawn.insert((name.to_string(), pinned.revision));
        }
        for (name, pinned) in now {
            withdrawn.remove(&(name.to_string(), pinned.revision));
        }
    }

    /// The revisions, other than the `current` ones, that sagas under way have or that daemons may still begin some with, and that want to
    /// hear anything.
    async fn old_in_use(&self, current: &ByName) -> Result<Vec<Arc<Pinned>>, StoreError> {
        let is_current = |name: &str, revision| current.get(name).is_some_and(|pinned| pinned.revision == revision);
        let mut old = Vec::new();
        // Asking for those in use takes its time where there are many sagas, and there may be no others.
        if self.store.all_revisions().await?.iter().all(|(name, revision)| is_current(name, *revision)) {
            return Ok(old);
        }
        let mut wanted: BTreeSet<(String, u32)> = self.store.revisions_in_use().await?.into_iter().collect();
        let now = self.clock.now();
        for name in current.keys() {
            let kept = self.store.revisions(name).await?;
            let replaced = kept.windows(2).filter(|pair| now.since(pair[1].1) < ROLLOUT);
            wanted.extend(replaced.map(|pair| (name.to_string(), pair[0].0)));
        }
        for (name, revision) in wanted {
            if is_current(&name, revision) {
                continue;
            }
            if let Some(pinned) = self.pinned(&name, revision).await?
                && bearings(&pinned.definition).next().is_some()
            {
                old.push(pinned);
            }
        }
        Ok(old)
    }

    /// All that can be started, by name.
    pub fn all(&self) -> Vec<Arc<Pinned>> {
        self.current.load().values().cloned().collect()
    }

    /// A revision, if it is in memory.
    pub fn cached(&self, name: &str, revision: u32) -> Option<Arc<Pinned>> {
        if let Some(current) = self.current.load().get(name)
            && current.revision == revision
        {
            return Some(current.clone());
        }
        self.pinned.load().get(name)?.get(&revision).cloned()
    }

    /// A revision, from memory or from the store; `None` if nobody knows it or it can't be parsed any more.
    ///
    /// # Errors
    /// What the database says.
    pub async fn pinned(&self, name: &str, revision: u32) -> Result<Option<Arc<Pinned>>, StoreError> {
        if let Some(pinned) = self.cached(name, revision) {
            return Ok(Some(pinned));
        }
        let Some(source) = self.store.revision(name, revision).await? else { return Ok(None) };
        let missing = || "the schema was not kept with the definition".to_owned();
        let parsed = parse(&source.toml, &mut |_| source.schema.clone().ok_or_else(missing));
        let definition = match parsed {
            Ok((definition, _)) => definition,
            Err(errors) => {
                tracing::error!(name, revision, ?errors, "a stored definition can't be read by this version of sagad");
                return Ok(None);
            }
        };
        let pinned = Arc::new(Pinned { revision, definition, source });
        self.keep_pinned(name, &pinned);
        Ok(Some(pinned))
    }

    fn keep_pinned(&self, name: &str, pinned: &Arc<Pinned>) {
        // Nothing panics while it holds the lock.
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = ByRevision::clone(&self.pinned.load());
        all.entry(Arc::from(name)).or_default().insert(pinned.revision, pinned.clone());
        self.pinned.store(Arc::new(all));
    }
}
