//! What can be started, and reading it again.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::IntoResponse;
use serde::Serialize;
use serde_json::{Value, json};

use super::body::{Json, Members, Query};
use super::path::NamePath;
use super::problem::{Answer, Flaw, Kind, Problem};
use super::view::At;
use super::{Actor, Api, Page};
use crate::broker::topology::Conflict;
use crate::core::definition::{Command, Definition, Events, KeyReuse, OnCompensationFailure, Priority};
use crate::core::diagnostic::Severity;
use crate::definitions::{Folder, LoadError, Pinned};
use crate::graph::{Format, draw};
use crate::report::Finding;
use crate::store::Store;

/// What a definition says, without its bodies and templates: those are in its source.
#[derive(Serialize)]
struct Summary<'a> {
    name: &'a str,
    revision: u32,
    description: Option<&'a str>,
    keyed: bool,
    key_reuse: &'static str,
    timeout: Option<String>,
    /// Null where it is computed from the input.
    priority: Option<u8>,
    events: &'static str,
    on_compensation_failure: &'static str,
    input_schema: Option<&'a Value>,
    steps: Vec<StepSummary<'a>>,
}

#[derive(Serialize)]
struct StepSummary<'a> {
    name: &'a str,
    kind: &'static str,
    after: Vec<&'a str>,
    optional: bool,
    conditional: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<String>,
    execute: Option<CommandSummary<'a>>,
    compensate: Option<CommandSummary<'a>>,
}

#[derive(Serialize)]
struct CommandSummary<'a> {
    exchange: &'a str,
    command: &'a str,
    timeout: String,
    attempts: u32,
}

impl<'a> Summary<'a> {
    fn new(pinned: &'a Pinned) -> Summary<'a> {
        let Definition { steps, .. } = &pinned.definition;
        let definition = &pinned.definition;
        let step = |step: &'a crate::core::definition::Step| StepSummary {
            name: &step.name,
            kind: step.execute.kind(),
            after: step.after.iter().filter_map(|before| steps.get(*before)).map(|before| &*before.name).collect(),
            optional: step.optional,
            conditional: step.when.is_some(),
            delay: (!step.delay.is_zero()).then(|| humantime::format_duration(step.delay).to_string()),
            execute: step.command().map(CommandSummary::new),
            compensate: step.undo_command().map(CommandSummary::new),
        };
        Summary {
            name: &definition.name,
            revision: pinned.revision,
            description: definition.description.as_deref(),
            keyed: definition.key.is_some(),
            key_reuse: match definition.key_reuse {
                KeyReuse::Never => "never",
                KeyReuse::AfterFailure => "after_failure",
                KeyReuse::AfterEnd => "after_end",
            },
            timeout: definition.timeout.map(|timeout| humantime::format_duration(timeout).to_string()),
            priority: match definition.priority {
                Priority::Fixed(priority) => Some(priority),
                Priority::Template(_) => None,
            },
            events: match definition.events {
                Events::None => "none",
                Events::Saga => "saga",
                Events::Step => "step",
            },
            on_compensation_failure: match definition.on_compensation_failure {
                OnCompensationFailure::Suspend => "suspend",
                OnCompensationFailure::Continue => "continue",
            },
            input_schema: definition.input.as_ref().map(|schema| &schema.source),
            steps: steps.iter().map(step).collect(),
        }
    }
}

impl<'a> CommandSummary<'a> {
    fn new(command: &'a Command) -> CommandSummary<'a> {
        CommandSummary {
            exchange: &command.exchange,
            command: &command.routing_key,
            timeout: humantime::format_duration(command.timeout).to_string(),
            attempts: command.retry.attempts,
        }
    }
}

/// `GET /v1/definitions`
pub(super) async fn list<S: Store>(State(api): State<Arc<Api<S>>>, query: Query) -> Answer {
    query.finish()?;
    let all = api.definitions.all();
    let items = all.iter().map(|pinned| Summary::new(pinned)).collect();
    Ok(super::json(StatusCode::OK, &Page { items, next_cursor: None }))
}

/// `GET /v1/definitions/{name}`: with its text and all revisions that were ever current.
pub(super) async fn show<S: Store>(State(api): State<Arc<Api<S>>>, NamePath(name): NamePath) -> Answer {
    let unknown = || Problem::new(Kind::UnknownDefinition, format!("there is no definition `{name}`"));
    let pinned = api.definitions.current(&name).ok_or_else(unknown)?;

    #[derive(Serialize)]
    struct Shown<'a> {
        #[serde(flatten)]
        summary: Summary<'a>,
        source: Source<'a>,
        revisions: Vec<Revision>,
    }
    #[derive(Serialize)]
    struct Source<'a> {
        toml: &'a str,
        schema: Option<&'a str>,
    }
    #[derive(Serialize)]
    struct Revision {
        revision: u32,
        since: At,
    }

    let kept = api.store.revisions(&name).await?;
    let revisions = kept.into_iter().map(|(revision, since)| Revision { revision, since: At(since) }).collect();
    let source = Source { toml: &pinned.source.toml, schema: pinned.source.schema.as_deref() };
    Ok(super::json(StatusCode::OK, &Shown { summary: Summary::new(&pinned), source, revisions }))
}

/// `GET /v1/definitions/{name}/graph.svg`
pub(super) async fn graph<S: Store>(State(api): State<Arc<Api<S>>>, NamePath(name): NamePath, query: Query) -> Answer {
    query.finish()?;
    let unknown = || Problem::new(Kind::UnknownDefinition, format!("there is no definition `{name}`"));
    let pinned = api.definitions.current(&name).ok_or_else(unknown)?;
    // Opened by itself, it can do nothing but be seen.
    let policy = "default-src 'none'; style-src 'unsafe-inline'";
    let headers = [(CONTENT_TYPE, "image/svg+xml"), (CONTENT_SECURITY_POLICY, policy)];
    Ok((StatusCode::OK, headers, draw(&pinned.definition, Format::Svg)).into_response())
}

/// `GET /schema.json`: open to all, as editors have no tokens, and the same everywhere.
pub(super) async fn schema() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/schema+json")], crate::schema::DEFINITION)
}

/// `POST /v1/definitions/reload`: what changed, or every error, and then nothing changed.
pub(super) async fn reload<S: Store>(State(api): State<Arc<Api<S>>>, actor: Actor, body: Json) -> Answer {
    Members::of(body)?.finish()?;
    match api.definitions.reload().await {
        Ok((changes, folder)) => {
            tracing::info!(actor = %actor.0, ?changes, "the definitions were reloaded");
            let mut answer = json!(changes);
            answer["warnings"] = json!(findings(&folder, Severity::Warning));
            Ok(super::json(StatusCode::OK, &answer))
        }
        Err(LoadError::Store(error)) => Err(error.into()),
        Err(LoadError::Unheard(conflicts)) => {
            let flaw = |conflict: &Conflict| Flaw { pointer: None, parameter: None, detail: conflict.to_string() };
            let detail = "the definitions listen to what they can't hear; what was loaded before stays in use";
            Err(Problem::new(Kind::InvalidDefinitions, detail).with_errors(conflicts.iter().map(flaw).collect()))
        }
        Err(LoadError::Files(folder)) => {
            let errors = findings(&folder, Severity::Error);
            let detail = format!("{} errors in the definitions; what was loaded before stays in use", errors.len());
            let flaw = |finding: &Finding<'_>| Flaw { pointer: None, parameter: None, detail: finding.to_string() };
            let flaws = errors.iter().map(flaw).collect();
            let problem = Problem::new(Kind::InvalidDefinitions, detail).with_errors(flaws);
            Err(problem.with("findings", json!(errors)))
        }
    }
}

fn findings(folder: &Folder, severity: Severity) -> Vec<Finding<'_>> {
    let all = folder.files.iter().flat_map(|file| file.diagnostics.iter().map(move |diagnostic| (file, diagnostic)));
    let of_severity = all.filter(|(_, diagnostic)| diagnostic.severity == severity);
    of_severity.map(|(file, diagnostic)| Finding::new(&file.path, &file.text, diagnostic)).collect()
}
