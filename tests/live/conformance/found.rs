//! Each flaw is found by the checks that are there for it, and by no other.

use futures_util::future::join_all;
use sagad::conformance::{self, Report, Status};

use super::Place;
use super::wrong::{self, Flaw};
use crate::rabbitmq;

async fn checked(flaw: Flaw) -> Report {
    let url = rabbitmq::shared().await;
    let place = Place::new(url).await;
    let _participant = wrong::start(url, &place.queue, flaw).await;
    let mut options = place.options();
    if matches!(
        flaw,
        Flaw::SilentOnRedelivery | Flaw::SilentTombstone | Flaw::UndoMustFindOrDie | Flaw::DiesOfUnreadable
    ) {
        // Each silence takes this long to be found.
        options.timeout /= 2;
    }
    let report = conformance::run(&place.scope.config(), &options).await.expect("verdicts");
    if !matches!(flaw, Flaw::DiesOfUnreadable) {
        assert_eq!(place.client.waiting(&place.queue).await, Some(0), "{flaw:?}: something is left behind");
    }
    report
}

fn with(report: &Report, status: Status) -> Vec<&'static str> {
    report.checks.iter().filter(|it| it.verdict == status).map(|it| it.check).collect()
}

/// Checks participants, side by side, with what must be found to fail, whether that is no more than advice, and words of the explanation.
async fn finds(cases: &[(Flaw, &[&str], bool, &str)]) {
    let reports = join_all(cases.iter().map(|(flaw, ..)| checked(*flaw))).await;
    for ((flaw, failing, conforms, words), report) in cases.iter().zip(&reports) {
        assert_eq!(with(report, Status::Failed), *failing, "{flaw:?}:\n{report}");
        assert_eq!(report.conforms, *conforms, "{flaw:?}:\n{report}");
        let first = report.checks.iter().find(|it| it.verdict == Status::Failed);
        if let Some(first) = first {
            let why = first.why.as_deref().unwrap_or_default();
            assert!(why.contains(words), "{flaw:?}: {why}");
            assert!(first.help.is_some(), "{flaw:?}: no word of what to do");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_participant_passes_whatever_it_may_do() {
    for flaw in [Flaw::Nothing, Flaw::Hesitates, Flaw::AnswersUnreadable] {
        let report = checked(flaw).await;
        assert_eq!(with(&report, Status::Passed).len(), report.checks.len(), "{flaw:?}:\n{report}");
        assert!(report.conforms);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_sagad_could_not_place_or_read_are_found() {
    finds(&[
        (Flaw::NoCorrelationId, &["answer"], false, "an answer came without a correlation_id"),
        (Flaw::OwnCorrelationId, &["answer"], false, "an answer came with the correlation_id \"payment-1\""),
        (Flaw::OwnReplyQueue, &["answer"], false, "no answer within 10s"),
        (Flaw::RejectsAll, &["answer"], false, "rejected by the consumer"),
        (Flaw::NoJson, &["readable-answer"], false, "the body can't be read as JSON"),
        (Flaw::OwnOutcome, &["readable-answer"], false, "the header saga-outcome is \"ok\""),
        (Flaw::NotPersistent, &["persistent-answer"], true, "delivery_mode"),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn effects_that_come_twice_are_found() {
    finds(&[
        (
            Flaw::NotIdempotent,
            &["second-attempt", "redelivery", "attempts-at-once", "command-after-compensation", "tombstone"],
            false,
            "the other time: success",
        ),
        (Flaw::SilentOnRedelivery, &["redelivery", "compensation-twice"], false, "no answer within"),
        (Flaw::ForgetsUndone, &["command-after-compensation", "tombstone"], false, "after it: success"),
        (Flaw::ChangesItsMind, &["redelivery", "one-answer"], false, "rather not"),
        (Flaw::StrictHeaders, &["unknown-headers"], false, "rejected"),
        (Flaw::StrictProperties, &["properties"], false, "rejected"),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn undos_that_fail_are_found() {
    finds(&[
        (Flaw::UndoMustFind, &["compensation-first"], false, "no such payment"),
        (
            Flaw::UndoMustFindOrDie,
            &["compensation-first", "overtaken-command", "tombstone"],
            false,
            "nobody took it from queue",
        ),
        (Flaw::UndoOnce, &["compensation-renewed"], false, "no such payment"),
        (Flaw::UndoNeedsReply, &["in-doubt", "compensation-first"], false, "no such payment"),
        (Flaw::NoTombstone, &["tombstone"], true, "sagad undoes it once more"),
        (Flaw::NoTombstoneNoUndo, &["overtaken-command", "tombstone"], false, "asked to undo it: failure"),
        (Flaw::SilentTombstone, &["overtaken-command"], false, "nobody will ever know"),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_unreadable_body_does_is_found() {
    finds(&[
        (Flaw::DiesOfUnreadable, &["unreadable-body", "survival"], false, "it went back to its queue"),
        (Flaw::RequeuesUnreadable, &["unreadable-body"], false, "it went back to its queue"),
        (Flaw::AcceptsUnreadable, &["unreadable-body"], false, "success {}"),
    ])
    .await;
}
