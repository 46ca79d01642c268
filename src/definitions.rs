//! The definitions: read from their folder, numbered by the store, shared with everyone who starts or steers sagas.
//!
//! ```text
//!   folder ──read_folder──> files ──parse, all of them──> every problem of every file, or
//!                                                         revisions (numbered by content) ──> current
//!   saga's (name, revision) ────────────────────────────> pinned: from memory, else parsed from the store's text
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::string::FromUtf8Error;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::broker::topology::TopologyPlan;
use crate::core::definition::Definition;
use crate::core::diagnostic::{Diagnostic, Severity};
use crate::core::parse::parse;
use crate::routing;
use crate::store::{Source, Store, StoreError};

/// One revision of a definition.
#[derive(Debug)]
pub struct Pinned {
    /// Its number, from 1.
    pub revision: u32,
    /// What it says.
    pub definition: Definition,
    /// Its text.
    pub source: Source,
}

/// A definition's file and what is wrong with it.
#[derive(Debug)]
pub struct File {
    /// Where it is.
    pub path: PathBuf,
    /// Its text; empty if it could not be read.
    pub text: String,
    /// Errors and warnings, in the order of the text.
    pub diagnostics: Vec<Diagnostic>,
}

/// All files of a folder, and the definitions of those without errors.
#[derive(Debug, Default)]
pub struct Folder {
    /// Every definition's file, sorted by path.
    pub files: Vec<File>,
    /// What parsed, with its text, by name.
    pub definitions: BTreeMap<Arc<str>, (Definition, Source)>,
}

impl Folder {
    /// Whether any file has an error.
    pub fn has_errors(&self) -> bool {
        let mut diagnostics = self.files.iter().flat_map(|file| &file.diagnostics);
        diagnostics.any(|diagnostic| diagnostic.severity == Severity::Error)
    }
}

/// Reads definitions: each path is a file or a folder, of which every `*.toml` below it but `*.test.toml` is read. With a
/// `topology`, they are also held against it.
pub fn read(paths: &[PathBuf], topology: Option<&TopologyPlan>) -> Folder {
    let mut found = Vec::new();
    let mut folder = Folder::default();
    for path in paths {
        if let Err(why) = collect(path, &mut found) {
            let help = "give the folder of your definitions as `definitions.path`, or the path of a definition";
            folder.files.push(unreadable(path, format!("can't be read: {why}"), help));
        }
    }
    found.sort();
    found.dedup();
    let mut first_of: BTreeMap<Arc<str>, PathBuf> = BTreeMap::new();
    for path in found {
        let text = match std::fs::read(&path).map(String::from_utf8) {
            Ok(Ok(text)) => text,
            Ok(Err(binary)) => {
                folder.files.push(not_text(&path, &binary));
                continue;
            }
            Err(why) => {
                folder.files.push(unreadable(
                    &path,
                    format!("can't be read: {why}"),
                    "let sagad read it, or remove it",
                ));
                continue;
            }
        };
        let mut schema = None;
        let parsed = parse(&text, &mut |name| {
            let text = read_beside(&path, name)?;
            schema = Some(text.clone());
            Ok(text)
        });
        let mut diagnostics = match parsed {
            Err(diagnostics) => diagnostics,
            Ok((definition, mut diagnostics)) => {
                let name = definition.name.clone();
                if let Some(topology) = topology {
                    diagnostics.extend(routing::warnings(&definition, &text, topology));
                }
                match first_of.get(&name) {
                    Some(first) => diagnostics.push(duplicate(&text, &name, first)),
                    None => {
                        first_of.insert(name.clone(), path.clone());
                        folder.definitions.insert(name, (definition, Source { toml: text.clone(), schema }));
                    }
                }
                diagnostics
            }
        };
        diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
        folder.files.push(File { path, text, diagnostics });
    }
    folder
}

fn collect(path: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if !std::fs::metadata(path)?.is_dir() {
        found.push(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            collect(&path, found)?;
        } else if name.ends_with(".toml") && !name.ends_with(".test.toml") && !name.starts_with('.') {
            found.push(path);
        }
    }
    Ok(())
}

/// A JSON Schema file that a definition names, relative to its folder.
fn read_beside(definition: &Path, name: &str) -> Result<String, String> {
    let path = definition.parent().unwrap_or(Path::new("")).join(name);
    std::fs::read_to_string(&path).map_err(|why| format!("{} can't be read: {why}", path.display()))
}

fn unreadable(path: &Path, message: String, help: &str) -> File {
    let diagnostic =
        Diagnostic { severity: Severity::Error, code: "unreadable", span: 0..0, message, help: help.to_owned() };
    File { path: path.to_owned(), text: String::new(), diagnostics: vec![diagnostic] }
}

fn not_text(path: &Path, binary: &FromUtf8Error) -> File {
    let start = binary.utf8_error().valid_up_to();
    let diagnostic = Diagnostic {
        severity: Severity::Error,
        code: "not-utf-8",
        span: start..start + 1,
        message: "this is no UTF-8 text".to_owned(),
        help: "save the file in UTF-8".to_owned(),
    };
    // What comes before the first wrong byte is the same, and so is its place.
    let text = String::from_utf8_lossy(binary.as_bytes()).into_owned();
    File { path: path.to_owned(), text, diagnostics: vec![diagnostic] }
}

fn duplicate(text: &str, name: &str, first: &Path) -> Diagnostic {
    // The name's line; a definition that parsed has one.
    let start = text.find(name).unwrap_or(0);
    Diagnostic {
        severity: Severity::Error,
        code: "duplicate-name",
        span: start..start + name.len(),
        message: format!("the name `{name}` is taken by {}", first.display()),
        help: "names are unique in the folder: rename one of the two".to_owned(),
    }
}

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
    /// The database did not keep a revision.
    #[error(transparent)]
    Store(#[from] StoreError),
}

type ByName = BTreeMap<Arc<str>, Arc<Pinned>>;
type ByRevision = BTreeMap<(Arc<str>, u32), Arc<Pinned>>;

/// The definitions of a daemon.
#[derive(Debug)]
pub struct Definitions<S> {
    path: PathBuf,
    store: S,
    /// What the commands of definitions are held against; `None`: they are not.
    topology: Option<TopologyPlan>,
    current: ArcSwap<ByName>,
    /// Every revision that was asked for. Bounded by the number of revisions with sagas under way.
    pinned: ArcSwap<ByRevision>,
    /// Held while either is replaced.
    changing: Mutex<()>,
    /// One reload at a time.
    reloading: tokio::sync::Mutex<()>,
}

impl<S: Store> Definitions<S> {
    /// No definitions yet: [`reload`](Definitions::reload) reads them.
    pub fn new(path: PathBuf, store: S) -> Definitions<S> {
        Definitions {
            path,
            store,
            topology: None,
            current: ArcSwap::default(),
            pinned: ArcSwap::default(),
            changing: Mutex::default(),
            reloading: tokio::sync::Mutex::default(),
        }
    }

    /// Warns, with each reload, of commands that the queues of `topology` do not receive.
    pub fn checked_against(self, topology: TopologyPlan) -> Definitions<S> {
        Definitions { topology: Some(topology), ..self }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the folder again; all of it takes effect, or nothing.
    ///
    /// # Errors
    /// Every problem of every file, or what the database says.
    pub async fn reload(&self) -> Result<(Changes, Folder), LoadError> {
        let _one_at_a_time = self.reloading.lock().await;
        let (path, topology) = (self.path.clone(), self.topology.clone());
        let read = tokio::task::spawn_blocking(move || read(&[path], topology.as_ref())).await;
        let mut folder = read.map_err(|why| StoreError::Refused(format!("reading the definitions failed: {why}")))?;
        if folder.has_errors() {
            return Err(LoadError::Files(folder));
        }
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
        changes.removed.extend(before.keys().filter(|name| !now.contains_key(*name)).map(ToString::to_string));
        self.current.store(Arc::new(now));
        Ok((changes, folder))
    }

    /// The revision that starts use.
    pub fn current(&self, name: &str) -> Option<Arc<Pinned>> {
        self.current.load().get(name).cloned()
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
        self.pinned.load().get(&(Arc::from(name), revision)).cloned()
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
        all.insert((Arc::from(name), pinned.revision), pinned.clone());
        self.pinned.store(Arc::new(all));
    }
}
