//! The list of sagas, newest first: fast however many there are, with any filter.
//!
//! A page is the newest of a few index ranges that are each in order already: all ids, one status, or one definition's
//! statuses. No range is read further than one page.

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
    let limit = statement.limit(filter.limit);
    let condition = conditions(&mut statement, filter);
    let page = if let Some(key) = &filter.key {
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
        // Few sagas have the same key, so its index comes first, whatever the others promise.
        format!(
            "SELECT id FROM (SELECT * FROM sagas WHERE key = {key} LIMIT 1000000) AS sagas \
             WHERE {condition}{more} ORDER BY id DESC LIMIT {limit}"
        )
    } else {
        let definition = filter.definition.as_ref().map(|definition| {
            let definition = statement.string(definition);
            format!("definition = {definition} AND ")
        });
        let mut statuses = filter.statuses.clone();
        if statuses.is_empty() && definition.is_some() {
            statuses = Status::ALL.to_vec();
        }
        // Asked for twice, a status is still one range.
        statuses.sort_unstable();
        statuses.dedup();
        let definition = definition.unwrap_or_default();
        let range = |of: String| format!("SELECT id FROM sagas WHERE {of}{condition} ORDER BY id DESC LIMIT {limit}");
        if statuses.is_empty() {
            range(String::new())
        } else {
            let ranges: Vec<String> = (statuses.iter())
                .map(|status| range(format!("{definition}status = {} AND ", codes::status(*status))))
                .map(|range| format!("SELECT id FROM ({range}) AS part"))
                .collect();
            format!("SELECT id FROM ({}) AS parts ORDER BY id DESC LIMIT {limit}", ranges.join(" UNION ALL "))
        }
    };
    statement
        .push(&format!("SELECT {SAGA} FROM ({page}) AS page JOIN sagas ON sagas.id = page.id ORDER BY sagas.id DESC"));
    statement
}

/// What bounds the ids.
fn conditions(statement: &mut Statement<'_>, filter: &Filter) -> String {
    let mut least = Uuid::nil();
    let mut below = filter.before.map_or(Uuid::max(), |id| id.0);
    let mut exactly = String::new();
    if let Some(Time(after)) = filter.started_after {
        least = first_id_at(after.saturating_sub(SLACK_MILLIS));
        let after = statement.int(after);
        exactly += &format!(" AND created_at >= {after}");
    }
    if let Some(Time(before)) = filter.started_before {
        below = below.min(first_id_at(before.saturating_add(SLACK_MILLIS)));
        let before = statement.int(before);
        exactly += &format!(" AND created_at < {before}");
    }
    let (least, below) = (statement.uuid(least), statement.uuid(below));
    format!("id >= {least} AND id < {below}{exactly}")
}

/// The lowest UUIDv7 of a millisecond.
fn first_id_at(millis: i64) -> Uuid {
    const BITS: u32 = 48;
    let millis = u128::from(millis.clamp(0, (1 << BITS) - 1).unsigned_abs());
    Uuid::from_u128(millis << (u128::BITS - BITS))
}
