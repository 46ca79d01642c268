//! The journal of a saga: whether it is whole, and what it leads to.

use std::sync::Arc;

use super::{Findings, Remedy};
use crate::core::apply::{Origin, apply, begin};
use crate::core::entry::Entry;
use crate::core::saga::{Saga, Status};
use crate::store::{JournalRow, decode_value, encode, read_saga};

/// What a journal tells.
pub(super) struct History {
    /// The saga as it is.
    pub(super) saga: Saga,
    /// Its status before the last transition.
    pub(super) previous_status: Option<Status>,
    /// It has come to an end at least once; a late answer may have had it begin again to undo.
    pub(super) has_ended: bool,
}

/// Reads the journal; `None` if there is no telling what it leads to, and why is said.
pub(super) fn read(findings: &mut Findings<'_>) -> Option<History> {
    let stored = &findings.whole.stored;
    let input = match decode_value(&stored.input) {
        Ok(input) => Arc::new(input),
        Err(error) => {
            let help = "Restore the row from a backup: what the saga was started with is nowhere else.";
            let (stored, expected) = (format!("unreadable ({error})"), "JSON".to_owned());
            findings.add(("sagas", "input"), stored, expected, Remedy::Impossible(help.to_owned()));
            return None;
        }
    };
    let origin =
        Origin { id: stored.id, definition: stored.definition.as_str().into(), revision: stored.revision, input };
    let replayed = replay(origin, &findings.whole.journal);
    if let Ok(history) = &replayed
        && encode(&history.saga) == stored.state
        && history.saga.version >= stored.version
    {
        return replayed.ok();
    }
    // What the row says and its journal does not repeat, the state does.
    let own: Option<Saga> = serde_json::from_slice(&stored.state).ok();
    if let Some(own) = &own
        && (own.id, &*own.definition, own.revision) != (stored.id, &*stored.definition, stored.revision)
    {
        let help =
            "The journal does not say which of them is right: put it right by hand, or restore the row from a backup.";
        let what = format!("that of revision {} of `{}`", stored.revision, stored.definition);
        let expected =
            format!("that of revision {} of `{}`, saga {}, by its state", own.revision, own.definition, own.id);
        findings.add(("sagas", "definition"), what, expected, Remedy::Impossible(help.to_owned()));
        return None;
    }
    let damage = match replayed {
        // Rows that are missing at the end leave no gap.
        Ok(History { saga, .. })
            if stored.version > saga.version && own.is_none_or(|own| own.version != saga.version) =>
        {
            Damage {
                column: "version",
                stored: format!("{} in its last row", saga.version),
                expected: format!("{}, as in `sagas`", stored.version),
            }
        }
        Ok(history) => return Some(history),
        Err(damage) => damage,
    };
    beyond(findings, damage);
    None
}

/// What is wrong with a journal.
struct Damage {
    column: &'static str,
    stored: String,
    expected: String,
}

fn beyond(findings: &mut Findings<'_>, damage: Damage) {
    let help = match read_saga(&findings.whole.stored) {
        Ok(_) => {
            "Nothing was changed, and nothing else of this saga checked: its state can be read, and it goes on by that. \
             Its rows in `journal` are to be had from a backup only."
        }
        Err(_) => {
            "Nothing was changed. Its state can't be read either: restore the saga's rows in `sagas`, `journal` and `items` \
             from a backup."
        }
    };
    findings.add(("journal", damage.column), damage.stored, damage.expected, Remedy::Impossible(help.to_owned()));
}

fn replay(origin: Origin, rows: &[JournalRow]) -> Result<History, Damage> {
    let mut history: Option<History> = None;
    for (row, version) in rows.iter().zip(1..) {
        if row.version != version {
            let stored = match version {
                1 => format!("{} in its first row", row.version),
                _ => format!("{} after {}", row.version, version - 1),
            };
            return Err(Damage { column: "version", stored, expected: version.to_string() });
        }
        let next = history.as_ref().map_or(0, |history| history.saga.entries) + 1;
        if row.first_seq != next {
            let stored = format!("{} in row {version}", row.first_seq);
            return Err(Damage { column: "first_seq", stored, expected: next.to_string() });
        }
        let unreadable = |why: String| Damage {
            column: "entries",
            stored: format!("unreadable in row {version} ({why})"),
            expected: "what happened".to_owned(),
        };
        let entries: Vec<Entry> =
            serde_json::from_slice(&row.entries).map_err(|error| unreadable(error.to_string()))?;
        let mut entries = entries.iter();
        match &mut history {
            Some(history) => {
                history.previous_status = Some(history.saga.status());
                history.saga.version = version;
            }
            None => {
                let first = entries.next().and_then(|first| begin(origin.clone(), first, row.at));
                let saga = first.ok_or_else(|| unreadable("it does not begin with `accepted`".to_owned()))?;
                history = Some(History { saga, previous_status: None, has_ended: false });
            }
        }
        if let Some(History { saga, has_ended, .. }) = &mut history {
            for entry in entries {
                apply(saga, entry, row.at);
                *has_ended |= saga.ended_at().is_some();
            }
        }
    }
    history.ok_or(Damage { column: "version", stored: "nowhere".to_owned(), expected: "1 in its first row".to_owned() })
}
