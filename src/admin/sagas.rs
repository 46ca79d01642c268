//! Starting sagas and looking at them.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::Value;
use uuid::Uuid;

use super::body::{Json, Members, Query, non_empty};
use super::path::SagaPath;
use super::problem::{Answer, Kind, Problem};
use super::{Actor, Api, Page, view, wait};
use crate::core::definition::Definition;
use crate::core::id::SagaId;
use crate::core::saga::{Saga, Status};
use crate::core::time::Time;
use crate::definitions::Pinned;
use crate::intake::{Refusal, Start};
use crate::store::{Filter, Store, StoreError, StoredSaga, read_listed, read_saga};
use crate::wire::outgoing::trace_of;

/// Longest idempotency key, in bytes.
const LONGEST_KEY: usize = 255;

/// Longest delay of a start. What is later belongs into a calendar.
const LONGEST_DELAY: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// Sagas read from the database at a time, and the bytes of a page after which no more are: a page of large sagas ends early.
const CHUNK: usize = 50;
const PAGE_BYTES: usize = 8 << 20;

/// A saga and the revision that it is pinned to, if that can still be read.
pub(super) struct Shown {
    pub(super) saga: Saga,
    pinned: Option<Arc<Pinned>>,
}

impl Shown {
    /// The revision, if it can be read.
    pub(super) fn definition(&self) -> Option<&Definition> {
        self.pinned.as_ref().map(|pinned| &pinned.definition)
    }

    pub(super) fn view(&self) -> view::Saga<'_> {
        view::Saga::new(&self.saga, self.definition())
    }
}

impl<S: Store> Api<S> {
    /// A saga as it is now.
    pub(super) async fn saga(&self, id: SagaId) -> Result<Shown, Problem> {
        match self.store.load(&[id]).await?.pop() {
            Some(stored) => Ok(self.shown(&stored, read_saga(&stored)?).await),
            None => Err(Problem::unknown_saga(id)),
        }
    }

    async fn shown(&self, stored: &StoredSaga, saga: Saga) -> Shown {
        Shown { pinned: self.pinned(&stored.definition, stored.revision).await, saga }
    }

    /// A revision, if it can be read: without it, steps are shown without their names.
    async fn pinned(&self, name: &str, revision: u32) -> Option<Arc<Pinned>> {
        match self.definitions.pinned(name, revision).await {
            Ok(pinned) => pinned,
            Err(error) => {
                tracing::warn!(definition = name, revision, %error, "a saga is shown without its definition");
                None
            }
        }
    }
}

/// `POST /v1/sagas`
pub(super) async fn start<S: Store>(
    State(api): State<Arc<Api<S>>>,
    actor: Actor,
    headers: HeaderMap,
    body: Json,
) -> Answer {
    let idempotency_key = idempotency_key(&headers)?;
    let mut members = Members::of(body)?;
    let definition = members.required("saga", non_empty);
    let input = members.required("input", Ok);
    let priority = members.optional("priority", priority);
    let delay = members.optional("delay", delay);
    members.finish()?;
    let (Some(definition), Some(input)) = (definition, input) else {
        return Err(Problem::new(Kind::InvalidBody, "`saga` and `input` are needed"));
    };
    let id = SagaId(api.clock.id());
    let name = definition.clone();
    let start = Start {
        id,
        definition,
        input: Arc::new(input),
        priority,
        delay: delay.unwrap_or_default(),
        idempotency_key,
        trace: trace(&headers),
        actor: actor.0.to_string(),
        parent: None,
    };
    let patience = wait::preferred(&headers);
    let ended = api.intake.ended();
    let started = api.intake.start(start).await.map_err(|refusal| match refusal {
        // Whoever can't repeat it under an idempotency key can look whether this one is there.
        Refusal::Busy(_) => Problem::refused(refusal).with("saga_id", id.to_string().into()),
        _ => Problem::refused(refusal),
    })?;
    let location = HeaderValue::try_from(format!("/v1/sagas/{}", started.saga))
        .map_err(|error| Problem::new(Kind::Internal, error.to_string()))?;
    // From here on the saga exists: an answer without it says at least where it is.
    let shown = wait::end_of(&api, started.saga, patience.unwrap_or_default(), ended).await;
    let mut response = match shown {
        Ok(shown) if started.created => super::json(StatusCode::CREATED, &shown.view()),
        Ok(shown) => super::json(StatusCode::OK, &shown.view()),
        Err(problem) if problem.is(Kind::UnknownSaga) && !started.created => {
            let rest = serde_json::json!({ "id": started.saga, "saga": name, "status": started.status.as_str() });
            super::json(StatusCode::OK, &rest)
        }
        Err(problem) => return Err(problem.with_header(header::LOCATION, location)),
    };
    response.headers_mut().insert(header::LOCATION, location);
    if let Some(patience) = patience
        && let Ok(applied) = HeaderValue::try_from(format!("wait={}", patience.as_secs()))
    {
        response.headers_mut().insert(HeaderName::from_static("preference-applied"), applied);
    }
    Ok(response)
}

pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all("idempotency-key").iter();
    let (Some(value), rest) = (values.next(), values.next()) else { return Ok(None) };
    let wrong = |detail: &str| Problem::parameter("Idempotency-Key", detail);
    let key = std::str::from_utf8(value.as_bytes()).map_err(|_| wrong("must be UTF-8"))?;
    match key.len() {
        _ if rest.is_some() => Err(wrong("can be given once only")),
        0 => Err(wrong("must not be empty")),
        length if length > LONGEST_KEY => Err(wrong(&format!("may have {LONGEST_KEY} bytes at the most"))),
        _ => Ok(Some(key.to_owned())),
    }
}

fn priority(value: Value) -> Result<u8, String> {
    let priority = value.as_u64().filter(|priority| *priority <= 9);
    priority.and_then(|priority| u8::try_from(priority).ok()).ok_or_else(|| "must be a whole number from 0 to 9".into())
}

fn delay(value: Value) -> Result<Duration, String> {
    let wrong = || "must be a duration in a string, as in \"30s\" or \"1h 30m\"".to_owned();
    let Value::String(text) = value else { return Err(wrong()) };
    match humantime::parse_duration(&text) {
        Ok(delay) if delay <= LONGEST_DELAY => Ok(delay),
        Ok(_) => Err("is longer than ten years".into()),
        Err(error) => Err(format!("{}: {error}", wrong())),
    }
}

/// The caller's trace context, if it is one.
fn trace(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("traceparent")?.to_str().ok()?;
    trace_of(value).map(|_| value.to_owned())
}

/// A time with any offset from UTC; without one it is UTC.
fn time(text: String) -> Result<Time, String> {
    let wrong = || "must be a time as in 2026-01-02T03:04:05Z or 2026-01-02T04:04:05+01:00".to_owned();
    // Behind the date, whose parts have `-` between them. In a query, `+` is a space unless it is escaped.
    let sign = text.char_indices().skip(11).find(|(_, c)| matches!(c, '+' | '-' | ' '));
    let (local, offset) = match sign {
        Some((at, sign)) => (&text[..at], Some((sign == '-', &text[at + 1..]))),
        None => (text.as_str(), None),
    };
    let time = Time::parse(local).map_err(|_| wrong())?;
    let Some((is_west, offset)) = offset else { return Ok(time) };
    let two = |digits: &str| digits.parse::<i64>().ok().filter(|_| digits.len() == 2);
    let (hours, minutes) = offset.split_once(':').and_then(|(h, m)| two(h).zip(two(m))).ok_or_else(wrong)?;
    if local.ends_with(['Z', 'z']) || !(0..24).contains(&hours) || !(0..60).contains(&minutes) {
        return Err(wrong());
    }
    let east = (hours * 60 + minutes) * 60_000;
    Ok(Time(if is_west { time.0 + east } else { time.0 - east }))
}

/// `GET /v1/sagas`
pub(super) async fn list<S: Store>(State(api): State<Arc<Api<S>>>, mut query: Query) -> Answer {
    let status = |word: String| {
        Status::parse(&word).ok_or_else(|| {
            let known = Status::ALL.map(Status::as_str).join(", ");
            Problem::parameter("status", format!("must be one of {known}"))
        })
    };
    let limit = query.limit(50, 500)?;
    let mut filter = Filter {
        definition: query.one("saga", Ok)?,
        statuses: query.all("status").into_iter().map(status).collect::<Result<_, _>>()?,
        key: query.one("key", Ok)?,
        started_after: query.one("started_after", time)?,
        started_before: query.one("started_before", time)?,
        before: query.one("cursor", cursor)?.map(SagaId),
        limit: 0,
    };
    query.finish()?;
    let (mut items, mut bytes) = (Vec::new(), 0);
    let next_cursor = loop {
        let wanted = (limit - items.len()).min(CHUNK);
        // One more than is wanted says whether there is a next page.
        filter.limit = wanted + 1;
        let mut found = api.store.list(&filter).await?;
        let has_more = found.len() > wanted;
        found.truncate(wanted);
        let Some(last) = found.last().map(|stored| stored.id) else { break None };
        for stored in &found {
            bytes += stored.state.len() + stored.input.len();
            items.push(api.list_item(stored).await?);
        }
        if !has_more {
            break None;
        }
        if items.len() >= limit || bytes > PAGE_BYTES {
            break Some(last.to_string());
        }
        filter.before = Some(last);
    };
    Ok(super::json(StatusCode::OK, &Page { items, next_cursor }))
}

impl<S: Store> Api<S> {
    /// A saga in a list. One that can't be read is listed with what its row says, so that it hides none of the others.
    async fn list_item(&self, stored: &StoredSaga) -> Result<Box<serde_json::value::RawValue>, Problem> {
        let raw =
            |result: serde_json::Result<_>| result.map_err(|error| Problem::new(Kind::Internal, error.to_string()));
        match read_listed(stored) {
            Ok(saga) => raw(serde_json::value::to_raw_value(&self.shown(stored, saga).await.view())),
            Err(error) => {
                tracing::error!(saga = %stored.id, %error, "a saga can't be shown");
                raw(serde_json::value::to_raw_value(&serde_json::json!({
                    "id": stored.id.to_string(),
                    "saga": stored.definition,
                    "revision": stored.revision,
                    "status": null,
                    "error": { "step": null, "reason": "unreadable", "message": error.to_string(), "details": null },
                })))
            }
        }
    }
}

/// A cursor is the last id of the page before; callers need not know.
pub(super) fn cursor(text: String) -> Result<Uuid, String> {
    Uuid::try_parse(&text).map_err(|_| "must be the next_cursor of the page before".to_owned())
}

/// `GET /v1/sagas/{id}`
pub(super) async fn show<S: Store>(State(api): State<Arc<Api<S>>>, SagaPath(id): SagaPath) -> Answer {
    Ok(super::json(StatusCode::OK, &api.saga(id).await?.view()))
}

/// `GET /v1/sagas/{id}/history`
pub(super) async fn history<S: Store>(
    State(api): State<Arc<Api<S>>>,
    SagaPath(id): SagaPath,
    mut query: Query,
) -> Answer {
    let limit = query.limit(1000, 10_000)?;
    let from = query.one("cursor", |text| {
        text.parse::<u64>().map_err(|_| "must be the next_cursor of the page before".to_owned())
    })?;
    query.finish()?;
    let from = from.unwrap_or(1).max(1);
    let Some(stored) = api.store.load(&[id]).await?.pop() else { return Err(Problem::unknown_saga(id)) };
    let pinned = api.pinned(&stored.definition, stored.revision).await;
    let definition = pinned.as_ref().map(|pinned| &pinned.definition);
    let mut items = Vec::new();
    let mut next_cursor = None;
    'rows: for row in api.store.journal(id, from).await? {
        let entries: Vec<Value> = serde_json::from_slice(&row.entries)
            .map_err(|error| StoreError::Corrupt(format!("journal, saga {id}, entry {}: {error}", row.first_seq)))?;
        for (seq, entry) in (row.first_seq..).zip(entries) {
            if seq < from {
                continue;
            }
            if items.len() == limit {
                next_cursor = Some(seq.to_string());
                break 'rows;
            }
            items.push(view::history_entry(seq, row.at, entry, definition));
        }
    }
    Ok(super::json(StatusCode::OK, &Page { items, next_cursor }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_may_have_an_offset() {
        let read = |text: &str| time(text.to_owned()).map(|time| time.to_string()).ok();
        for same in [
            "2026-01-02T03:04:05.678Z",
            "2026-01-02T03:04:05.678",
            "2026-01-02T03:04:05.678000+00:00",
            "2026-01-02T04:34:05.678+01:30",
            "2026-01-02T04:34:05.678 01:30",
            "2026-01-01T22:04:05.678-05:00",
        ] {
            assert_eq!(read(same).as_deref(), Some("2026-01-02T03:04:05.678Z"), "{same}");
        }
        for wrong in [
            "",
            "yesterday",
            "2026-01-02",
            "2026-01-02T03:04:05Z+01:00",
            "2026-01-02T03:04:05+1:00",
            "2026-01-02T03:04:05+24:00",
            "2026-01-02T03:04:05+",
            "2026-01-02T03:04:05+01",
            "ÄÖÜäöüÄÖÜäöü+01:00",
            "2026-13-02T03:04:05Z",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
