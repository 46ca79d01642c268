//! Whether templates read only what is there when they are rendered.

use std::collections::BTreeSet;
use std::ops::Range;

use serde_json::Value as Json;

use super::graph::Graph;
use super::reader::Reader;
use super::shapes::{Document, may_be_absent};
use super::step::Draft;
use crate::core::definition::Execute;
use crate::core::diagnostic::nearest;
use crate::core::id::StepIx;
use crate::core::saga::{Reason, StepStatus};

/// Something that a template of the file reads.
pub(super) struct Use {
    pub(super) site: Site,
    pub(super) path: Vec<String>,
    pub(super) span: Range<usize>,
    pub(super) wanted: Wanted,
    /// What it is compared with.
    pub(super) texts: Vec<(String, Range<usize>)>,
}

/// What a value has to be for what is done with it.
#[derive(Clone, Copy)]
pub(super) enum Wanted {
    Any,
    /// For this operator.
    Number(&'static str),
    /// To be gone through.
    List,
}

/// Where a template is: what it can read depends on it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Site {
    /// `key`, `lock` and the saga's `priority`: rendered before there is a saga.
    Start,
    /// Whether a step runs, and for which list: rendered once, before there are elements.
    Before(StepIx),
    /// The forward side of a step, its probe too.
    Execute(StepIx),
    /// Its undo.
    Compensate(StepIx),
    /// `[output]`.
    Output,
    /// A rule about a message, which may be of a saga or begin one.
    Message,
}

/// What the references of a definition are held against.
pub(super) struct Known<'d> {
    /// The schema of the input.
    pub(super) input: Option<&'d Json>,
    /// The steps.
    pub(super) steps: &'d [Draft],
    /// Their order.
    pub(super) graph: &'d Graph,
}

impl Reader<'_> {
    /// Checks every use against what there is where it is.
    pub(super) fn check_uses(&mut self, known: &Known<'_>) {
        let uses = std::mem::take(&mut self.uses);
        // What is looked at more closely somewhere is known to be optional.
        let looked_at: BTreeSet<Vec<String>> =
            uses.iter().filter(|it| !is_alone(self.text, &it.span)).map(|it| it.path.clone()).collect();
        for Use { site, path, span, wanted, texts } in uses {
            let root = path.first().map_or("", String::as_str);
            if let Some((message, help)) = out_of_scope(root, site, known) {
                self.error("out-of-scope", span, message, help);
                continue;
            }
            self.check_words(&path, texts);
            let alone = is_alone(self.text, &span);
            let may_do = |path: &[String]| !alone || looked_at.contains(path);
            match root {
                "input" => {
                    let Some(schema) = known.input else { continue };
                    let what = "the input".to_owned();
                    let document = Document { what, depth: 1, schema, unknown: "unknown-input", unfit: "input-type" };
                    if self.check_shape(&document, &path, span.clone(), wanted, may_do) {
                        self.check_presence(schema, &path, span, &looked_at);
                    }
                }
                "steps" => self.check_step(site, &path, span, wanted, known, may_do),
                _ => {}
            }
        }
    }

    /// That what has one of a few words is compared with another.
    fn check_words(&mut self, path: &[String], texts: Vec<(String, Range<usize>)>) {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let (what, words): (_, Vec<&str>) = match path[..] {
            ["steps", name, "status"] => {
                (format!("status of `{name}`"), StepStatus::ALL.map(StepStatus::as_str).into())
            }
            ["error", "reason"] => ("reason of an error".to_owned(), Reason::ALL.map(Reason::as_str).into()),
            _ => return,
        };
        for (text, span) in texts.into_iter().filter(|(text, _)| !words.contains(&text.as_str())) {
            let help = match nearest(&text, words.iter().copied()) {
                Some(near) => format!("did you mean '{near}'?"),
                None => format!("it is one of {}", words.join(", ")),
            };
            self.warning("unknown-word", span, format!("the {what} is never '{text}'"), help);
        }
    }

    /// That something is read as it is which an input may well lack.
    fn check_presence(
        &mut self,
        schema: &Json,
        path: &[String],
        span: Range<usize>,
        looked_at: &BTreeSet<Vec<String>>,
    ) {
        let Some(words) = may_be_absent(schema, path).filter(|_| is_alone(self.text, &span)) else { return };
        if looked_at.contains(path) || looked_at.contains(&path[..words]) {
            return;
        }
        let missing = path[..words].join(".");
        let message = format!("`{missing}` is not `required`: an input without it fails here");
        let help = format!("add it to `required`; or say what it is then: `{missing} | default(…)`");
        self.warning("optional-input", span, message, help);
    }

    fn check_step(
        &mut self,
        site: Site,
        path: &[String],
        span: Range<usize>,
        wanted: Wanted,
        known: &Known<'_>,
        may_do: impl Fn(&[String]) -> bool,
    ) {
        let name = path.get(1).map_or("", String::as_str);
        let Known { steps, graph, .. } = *known;
        let Some(read) = steps.iter().position(|step| *step.name == *name) else {
            let names = || steps.iter().map(|step| &*step.name);
            let help = match nearest(name, names()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the steps are {}", names().collect::<Vec<_>>().join(", ")),
            };
            return self.error("unknown-step", span, format!("there is no step `{name}`"), help);
        };
        let (reader, in_compensation) = match site {
            Site::Before(reader) | Site::Execute(reader) => (Some(reader), false),
            Site::Compensate(reader) => (Some(reader), true),
            Site::Output | Site::Start | Site::Message => (None, false),
        };
        if let Some(reader) = reader.filter(|&reader| reader != read && !graph.runs_before(read, reader)) {
            let own = &steps[reader].name;
            let message = format!("the step `{name}` does not run before `{own}`");
            let help = match graph.runs_before(reader, read) {
                true => format!("`{name}` runs after `{own}`: read only steps that run before"),
                false => format!("add \"{name}\" to `after` of `{own}`, so that it runs before"),
            };
            return self.error("not-before", span, message, help);
        }
        if reader == Some(read) && !in_compensation {
            let message = format!("the step `{name}` reads its own result before it has run");
            return self.error("self-reference", span, message, "read it in a later step or in its `compensate`");
        }
        if let ("reply", Some(schema)) = (path.get(2).map_or("", String::as_str), reply_schema(&steps[read])) {
            let what = format!("the reply of `{name}`");
            let document = Document { what, depth: 3, schema, unknown: "unknown-reply", unfit: "reply-type" };
            // Where the reply may be null, what is below it is null then, and an error all the same whenever there is a reply.
            let always_null = in_compensation && reader == Some(read) && !undoes_success(&steps[read]);
            self.check_shape(&document, path, span.clone(), wanted, |path| always_null || may_do(path));
        }
        match (path.get(2).map_or("", String::as_str), steps[read].many) {
            // In the undo of an element: its own reply.
            ("reply", true) if reader != Some(read) => {
                let message = format!("`{name}` runs once for each element, so it has no one reply");
                let help = "write `replies`: the list of them, in order, null where there is none";
                self.error("one-or-many", span, message, help);
            }
            ("replies", false) => {
                let message = format!("`{name}` has one reply: it has no `foreach`");
                self.error("one-or-many", span, message, "write `reply`");
            }
            ("reply" | "replies", _) => match steps[read].execute {
                Some(Execute::Publish(_) | Execute::Sleep(_)) => {
                    let message = format!("nobody answers `{name}`: its reply is always null");
                    self.warning("no-reply", span, message, "read the reply of another step, or remove this");
                }
                _ if in_compensation => self.check_undo(&steps[read], reader.map(|reader| &steps[reader]), span),
                _ => {}
            },
            _ => {}
        }
    }

    /// That an undo passes on the reply of another step, which may not have any.
    fn check_undo(&mut self, read: &Draft, reader: Option<&Draft>, span: Range<usize>) {
        let Some(reader) = reader.filter(|reader| reader.name != read.name && is_alone(self.text, &span)) else {
            return;
        };
        let name = &read.name;
        let why = match &read.when {
            // Either both ran or neither.
            Some(when) if reader.when.as_ref().is_none_or(|own| own.source() != when.source()) => "may be skipped",
            _ if read.optional => "may have failed",
            _ => return,
        };
        let message = format!("`{name}` {why}: then this is null in the undo of `{}`", reader.name);
        let expression = &self.text[span.clone()];
        let help = format!("say what it is then: `{{{{ {expression} or 'none' }}}}`; or read `input`");
        self.warning("reply-may-be-null", span, message, help);
    }
}

/// What a step's successes look like.
fn reply_schema(step: &Draft) -> Option<&Json> {
    match step.execute.as_ref()? {
        Execute::Command(request) => request.command.reply.schema.as_ref().map(|schema| &schema.source),
        _ => None,
    }
}

/// Whether the undo of a step is for successes too; else there is no reply in it.
fn undoes_success(step: &Draft) -> bool {
    step.compensate.as_ref().is_none_or(|compensate| compensate.on.success)
}

/// Whether what stands there is all of its `{{ … }}`, or of its expression.
pub(super) fn is_alone(text: &str, span: &Range<usize>) -> bool {
    let (before, after) = (text[..span.start].trim_end(), text[span.end..].trim_start());
    let between = |open: &[&str], close: &[&str]| {
        open.iter().any(|open| before.ends_with(open)) && close.iter().any(|close| after.starts_with(close))
    };
    between(&["{{", "{{-"], &["}}", "-}}"]) || between(&["\""], &["\""]) || between(&["'"], &["'"])
}

/// Why a name is not there at `site`, if it is not, and what to do.
fn out_of_scope(root: &str, site: Site, known: &Known<'_>) -> Option<(String, &'static str)> {
    match (root, site) {
        ("body" | "headers", Site::Message) => None,
        (_, Site::Message) => {
            Some((format!("`{root}` is not there: this rule is about a message"), "use only `body` and `headers` here"))
        }
        ("input", _) | ("error", Site::Compensate(_)) => None,
        ("body" | "headers", _) => {
            let help = "read the reply of a step as `steps.NAME.reply`, what the saga was started with as `input`";
            Some((format!("there is a `{root}` only in rules about messages"), help))
        }
        ("error", _) => {
            let message = "there is an `error` only in compensations".to_owned();
            Some((message, "use it in a `compensate`, or remove it"))
        }
        ("item" | "index", Site::Execute(step) | Site::Compensate(step)) if known.steps[step].many => None,
        ("item" | "index", Site::Before(step)) if known.steps[step].many => {
            let help = "leave elements out in `foreach` itself: \"{{ input.items | selectattr('wanted') }}\"";
            Some((format!("`{root}` is not there yet: this is read once, before the list is gone through"), help))
        }
        ("item" | "index", _) => {
            Some((format!("there is an `{root}` only in steps with `foreach`"), "add a `foreach`, or read `input`"))
        }
        (_, Site::Start) => {
            let message = format!("`{root}` is not there yet: this is rendered before the saga begins");
            Some((message, "use only `input` here"))
        }
        _ => None,
    }
}
