//! Definitions as files.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::string::FromUtf8Error;
use std::sync::Arc;

use crate::broker::topology::TopologyPlan;
use crate::core::definition::Definition;
use crate::core::diagnostic::{Diagnostic, Severity, nearest};
use crate::core::parse::parse;
use crate::core::parse::places::{Key, Places};
use crate::lint::family;
use crate::store::Source;
use crate::{lint, routing};

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

    /// Why there is no definition of this name below `path`.
    pub fn without(&self, name: &str, path: &Path) -> String {
        let mut why = format!("there is no definition `{name}` below {}", path.display());
        let names = self.definitions.keys().map(|name| &**name);
        if let Some(near) = nearest(name, names.clone()) {
            why.push_str(&format!("; did you mean `{near}`?"));
        } else if names.len() > 0 {
            why.push_str(&format!("; there are {}", names.collect::<Vec<_>>().join(", ")));
        }
        if self.has_errors() {
            why.push_str("; some files have errors, which `sagad check` shows");
        }
        why
    }
}

/// Reads definitions: each path is a file or a folder, of which every `*.toml` below it but `*.test.toml` is read. They are held
/// against each other and, with a `topology`, against that.
pub fn read(paths: &[PathBuf], topology: Option<&TopologyPlan>) -> Folder {
    let mut folder = Folder::default();
    let mut found = BTreeSet::new();
    for path in paths {
        // As a shell spells out `sagas/*.toml`.
        let scenarios = path.file_name().and_then(|name| name.to_str()).is_some_and(is_scenarios);
        if scenarios && path.is_file() {
            continue;
        }
        if let Err(why) = collect(path, is_definition, &mut BTreeSet::new(), &mut found) {
            let help = "give the folder of your definitions as `definitions.path`, or the path of a definition";
            folder.files.push(unreadable(path, &why, help));
        }
    }
    let mut first_of = BTreeMap::new();
    for path in found {
        match text_of(path) {
            Ok((path, text)) => folder.add(path, text, topology, &mut first_of),
            Err(file) => folder.files.push(file),
        }
    }
    // Of files alone, nobody knows what else is in their folder; nor what one is called that can't be read at all.
    let named = |file: &File| Places::new(&file.text).text(&[Key::Name("name")]).is_some();
    let whole = paths.iter().all(|path| path.is_dir()) && folder.files.iter().all(named);
    folder.hold_against_each_other(&first_of, whole);
    folder
}

/// Reads scenarios: each path is a file or a folder, of which every `*.test.toml` below it is read. What can't be read says why.
pub fn read_scenarios(paths: &[PathBuf]) -> Vec<File> {
    let mut files = Vec::new();
    let mut found = BTreeSet::new();
    for path in paths {
        if let Err(why) = collect(path, is_scenarios, &mut BTreeSet::new(), &mut found) {
            files.push(unreadable(path, &why, "give the path of a file of scenarios, or of a folder with some"));
        }
    }
    files.extend(found.into_iter().map(|path| match text_of(path) {
        Ok((path, text)) => File { path, text, diagnostics: Vec::new() },
        Err(file) => file,
    }));
    files
}

fn is_definition(name: &str) -> bool {
    name.ends_with(".toml") && !is_scenarios(name)
}

fn is_scenarios(name: &str) -> bool {
    name.ends_with(".test.toml")
}

fn text_of(path: PathBuf) -> Result<(PathBuf, String), File> {
    match std::fs::read(&path).map(String::from_utf8) {
        Ok(Ok(text)) => Ok((path, text)),
        Ok(Err(binary)) => Err(not_text(&path, &binary)),
        Err(why) => Err(unreadable(&path, &why, "let sagad read it, or remove it")),
    }
}

impl Folder {
    fn hold_against_each_other(&mut self, path_of: &BTreeMap<String, PathBuf>, whole: bool) {
        let names: BTreeSet<&str> = path_of.keys().map(String::as_str).collect();
        let each = self.definitions.iter();
        let family = each.map(|(name, (definition, source))| (&**name, (definition, &*source.toml))).collect();
        for (name, path) in path_of {
            let problems = family::problems(name, &family, whole.then_some(&names));
            if let Some(file) = self.files.iter_mut().find(|file| file.path == *path) {
                file.diagnostics.extend(problems);
                file.diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
            }
        }
    }

    /// `first_of`: which file has which name so far.
    fn add(
        &mut self,
        path: PathBuf,
        text: String,
        topology: Option<&TopologyPlan>,
        first_of: &mut BTreeMap<String, PathBuf>,
    ) {
        let mut schema = None;
        let parsed = parse(&text, &mut |name| {
            let text = std::fs::read_to_string(path.with_file_name(name)).map_err(|why| why.to_string())?;
            Ok(schema.insert(text).clone())
        });
        let (definition, mut diagnostics) = match parsed {
            Err(diagnostics) => (None, diagnostics),
            Ok((definition, mut diagnostics)) => {
                diagnostics.extend(lint::warnings(&definition, &text));
                diagnostics.extend(topology.into_iter().flat_map(|plan| routing::warnings(&definition, &text, plan)));
                (Some(definition), diagnostics)
            }
        };
        let places = Places::new(&text);
        let name = [Key::Name("name")];
        match places.text(&name).and_then(|name| first_of.get_key_value(name)) {
            Some((taken, first)) => diagnostics.push(duplicate(taken, places.find(&name), first)),
            None => {
                first_of.extend(places.text(&name).map(|name| (name.to_owned(), path.clone())));
                let source = Source { toml: text.clone(), schema };
                self.definitions.extend(definition.map(|it| (it.name.clone(), (it, source))));
            }
        }
        diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
        self.files.push(File { path, text, diagnostics });
    }
}

/// Finds the files at or below a path. Hidden files and folders are none of ours: editors keep their drafts there, and
/// a mounted Kubernetes ConfigMap its versions.
fn collect(
    path: &Path,
    wanted: fn(&str) -> bool,
    seen: &mut BTreeSet<PathBuf>,
    found: &mut BTreeSet<PathBuf>,
) -> io::Result<()> {
    if !std::fs::metadata(path)?.is_dir() {
        found.insert(path.to_owned());
        return Ok(());
    }
    // A link may lead back to where we came from.
    if !seen.insert(path.canonicalize()?) {
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() || wanted(&name) {
            collect(&path, wanted, seen, found)?;
        }
    }
    Ok(())
}

fn unreadable(path: &Path, why: &io::Error, help: &str) -> File {
    let diagnostic = Diagnostic {
        severity: Severity::Error,
        code: "unreadable",
        span: 0..0,
        message: format!("can't be read: {why}"),
        help: help.to_owned(),
    };
    File { path: path.to_owned(), text: String::new(), diagnostics: vec![diagnostic] }
}

fn not_text(path: &Path, binary: &FromUtf8Error) -> File {
    let start = binary.utf8_error().valid_up_to();
    let diagnostic = Diagnostic {
        severity: Severity::Error,
        code: "not-utf-8",
        span: start..start + char::REPLACEMENT_CHARACTER.len_utf8(),
        message: "this is no UTF-8 text".to_owned(),
        help: "save the file in UTF-8".to_owned(),
    };
    // What comes before the first wrong byte is the same, and so is its place.
    let text = String::from_utf8_lossy(binary.as_bytes()).into_owned();
    File { path: path.to_owned(), text, diagnostics: vec![diagnostic] }
}

fn duplicate(name: &str, place: Range<usize>, first: &Path) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        code: "duplicate-name",
        span: place,
        message: format!("the name `{name}` is taken by {}", first.display()),
        help: "names are unique in the folder: rename one of the two".to_owned(),
    }
}
