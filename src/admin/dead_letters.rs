//! Messages that nobody could read or place: look, try again, discard.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Serialize;

use super::body::{Json, Members, Query};
use super::path::LetterPath;
use super::problem::{Answer, Problem};
use super::sagas::cursor;
use super::view::At;
use super::{Actor, Api, Page};
use crate::broker::message::Properties;
use crate::health::Part;
use crate::store::{self, Store};
use crate::wire::incoming::replay as replayed;

/// How a dead letter is shown.
#[derive(Serialize)]
struct DeadLetter<'a> {
    id: String,
    at: At,
    reason: &'a str,
    queue: &'static str,
    exchange: &'a str,
    routing_key: &'a str,
    redelivered: bool,
    properties: &'a Properties,
    /// As text; what is no UTF-8 is replaced.
    body: std::borrow::Cow<'a, str>,
    /// Whether `body` is all there was, unchanged.
    body_is_text: bool,
    body_bytes: usize,
}

impl<'a> DeadLetter<'a> {
    fn new(letter: &'a store::DeadLetter) -> DeadLetter<'a> {
        let message = &letter.message;
        DeadLetter {
            id: letter.id.hyphenated().to_string(),
            at: At(letter.at),
            reason: &letter.reason,
            queue: message.queue.as_str(),
            exchange: &message.exchange,
            routing_key: &message.routing_key,
            redelivered: message.redelivered,
            properties: &message.properties,
            body: String::from_utf8_lossy(&message.body),
            body_is_text: std::str::from_utf8(&message.body).is_ok(),
            body_bytes: message.body.len(),
        }
    }
}

/// `GET /v1/dead-letters`
pub(super) async fn list<S: Store>(State(api): State<Arc<Api<S>>>, mut query: Query) -> Answer {
    let limit = query.limit(20, 100)?;
    let before = query.one("cursor", cursor)?;
    query.finish()?;
    // One more than is asked for says whether there is a next page.
    let mut letters = api.store.dead_letters(before, limit + 1).await?;
    let has_more = letters.len() > limit;
    letters.truncate(limit);
    let next_cursor = letters.last().filter(|_| has_more).map(|last| last.id.hyphenated().to_string());
    let items = letters.iter().map(DeadLetter::new).collect();
    Ok(super::json(StatusCode::OK, &Page { items, next_cursor }))
}

/// `GET /v1/dead-letters/{id}`
pub(super) async fn show<S: Store>(State(api): State<Arc<Api<S>>>, LetterPath(id): LetterPath) -> Answer {
    let letter = api.store.dead_letter(id).await?.ok_or_else(Problem::unknown_dead_letter)?;
    Ok(super::json(StatusCode::OK, &DeadLetter::new(&letter)))
}

/// `POST /v1/dead-letters/{id}/replay`: the message again, to where it was sent, and forgotten once the broker has it.
pub(super) async fn replay<S: Store>(
    State(api): State<Arc<Api<S>>>,
    actor: Actor,
    LetterPath(id): LetterPath,
    body: Json,
) -> Answer {
    Members::of(body)?.finish()?;
    let letter = api.store.dead_letter(id).await?.ok_or_else(Problem::unknown_dead_letter)?;
    // What is handed to the publisher while the broker is away is sent once it is back, whatever is answered here.
    if let Some(why) = api.health.trouble(Part::Broker) {
        return Err(Problem::unavailable(format!("the broker can't take the message now: {why}"), 5));
    }
    let message = replayed(&api.names, letter.message);
    if !api.intake.publish(message).await {
        return Err(Problem::unavailable(
            "no queue took the message, or the broker did not say so in time; the dead letter is kept",
            5,
        ));
    }
    api.store.delete_dead_letter(id).await?;
    // No journal has this.
    tracing::info!(actor = %actor.0, %id, "a dead letter was replayed");
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `DELETE /v1/dead-letters/{id}`
pub(super) async fn discard<S: Store>(
    State(api): State<Arc<Api<S>>>,
    actor: Actor,
    LetterPath(id): LetterPath,
) -> Answer {
    if !api.store.delete_dead_letter(id).await? {
        return Err(Problem::unknown_dead_letter());
    }
    tracing::info!(actor = %actor.0, %id, "a dead letter was discarded");
    Ok(StatusCode::NO_CONTENT.into_response())
}
