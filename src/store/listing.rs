//! The list of sagas, newest first: fast however many there are, with any filter.
//!
//! A page is the newest of a few index ranges that are each in order already: all ids, one status, or one definition's
//! statuses. No range is read further than one page.

use std::ops::Range;

use uuid::Uuid;

use super::dialect::Dialect;
use super::sql::SAGA;
use super::statement::Statement;
use super::{Filter, codes, text};
use crate::core::saga::Status;
use crate::core::time::Time;

/// How far the time in an id may be from the time in `created_at`. Both are the clock's at the start of a saga, so they
/// differ by no more than it takes to accept one; ids give the index range, `created_at` decides.
const SLACK_MILLIS: i64 = 60_000;

/// Selects a page.
pub(super) fn statement(dialect: Dialect, filter: &Filter) -> Statement<'_> {
    let mut statement = Statement::new(dialect);
    let page = match &filter.key {
        Some(key) => page_of_key(&mut statement, filter, key),
        None => page_of_ranges(&mut statement, filter),
    };
    statement
        .push(&format!("SELECT {SAGA} FROM ({page}) AS page JOIN sagas ON sagas.id = page.id ORDER BY sagas.id DESC"));
    statement
}

/// Few sagas have the same key, so its index comes first, whatever the other conditions promise.
fn page_of_key<'a>(statement: &mut Statement<'a>, filter: &'a Filter, key: &'a str) -> String {
    let limit = statement.limit(filter.limit);
    let Bounds { least, below, exactly } = Bounds::of(statement, filter);
    let key = statement.text(text::key(key));
    let mut more = String::new();
    if let Some(definition) = &filter.definition {
        let definition = statement.string(definition);
        more += &format!(" AND definition = {definition}");
    }
    if !filter.statuses.is_empty() {
        let codes: Vec<String> = filter.statuses.iter().map(|status| codes::status(*status).to_string()).collect();
        more += &format!(" AND status IN ({})", codes.join(", "));
    }
    format!(
        "SELECT id FROM (SELECT * FROM sagas WHERE key = {key} LIMIT 1000000) AS sagas \
         WHERE id >= {least} AND id < {below}{exactly}{more} ORDER BY id DESC LIMIT {limit}"
    )
}

fn page_of_ranges<'a>(statement: &mut Statement<'a>, filter: &'a Filter) -> String {
    let limit = statement.limit(filter.limit);
    let Bounds { least, below, exactly } = Bounds::of(statement, filter);
    let range = |of: &str, order: &str| {
        format!(
            "SELECT id FROM sagas WHERE {of}id >= {least} AND id < {below}{exactly} ORDER BY {order}id DESC LIMIT {limit}"
        )
    };
    let dialect = statement.dialect;
    let definition = filter.definition.as_ref().map(|definition| statement.string(definition));
    let mut statuses = filter.statuses.clone();
    if statuses.is_empty() && definition.is_some() {
        statuses = Status::ALL.to_vec();
    }
    if statuses.is_empty() {
        return range("", "");
    }
    // Asked for twice, a status is still one range.
    statuses.sort_unstable();
    statuses.dedup();
    let of_status = |status: &Status| {
        let status = codes::status(*status).to_string();
        let range = match &definition {
            Some(definition) => {
                let definition = dialect.leads("definition", definition);
                range(&format!("{definition} AND status = {status} AND "), "definition DESC, status DESC, ")
            }
            None => range(&format!("{} AND ", dialect.leads("status", &status)), "status DESC, "),
        };
        format!("SELECT id FROM ({range}) AS part")
    };
    let ranges: Vec<String> = statuses.iter().map(of_status).collect();
    format!("SELECT id FROM ({}) AS parts ORDER BY id DESC LIMIT {limit}", ranges.join(" UNION ALL "))
}

/// The lowest id, the first that is too high, and what else bounds the time.
struct Bounds {
    least: String,
    below: String,
    exactly: String,
}

impl Bounds {
    fn of(statement: &mut Statement<'_>, filter: &Filter) -> Bounds {
        let ids = ids(filter);
        let mut exactly = String::new();
        if let Some(Time(after)) = filter.started_after {
            let after = statement.int(after);
            exactly += &format!(" AND created_at >= {after}");
        }
        if let Some(Time(before)) = filter.started_before {
            let before = statement.int(before);
            exactly += &format!(" AND created_at < {before}");
        }
        Bounds { least: statement.uuid(ids.start), below: statement.uuid(ids.end), exactly }
    }
}

/// The ids of what a filter may let through.
pub(super) fn ids(filter: &Filter) -> Range<Uuid> {
    let least = filter.started_after.map_or(Uuid::nil(), |after| first_id_at(after.0.saturating_sub(SLACK_MILLIS)));
    let below = filter.started_before.map_or(Uuid::max(), first_id_after);
    least..filter.before.map_or(Uuid::max(), |id| id.0).min(below)
}

/// An id above those of all sagas and messages that were made before `time`.
pub(super) fn first_id_after(time: Time) -> Uuid {
    first_id_at(time.0.saturating_add(SLACK_MILLIS))
}

/// The lowest UUIDv7 of a millisecond.
fn first_id_at(millis: i64) -> Uuid {
    const BITS: u32 = 48;
    let millis = u128::from(millis.clamp(0, (1 << BITS) - 1).unsigned_abs());
    Uuid::from_u128(millis << (u128::BITS - BITS))
}
