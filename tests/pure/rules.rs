//! What sagad guarantees, each rule as a scenario of messages on the bare core.

use std::sync::Arc;
use std::time::Duration;

use sagad::core::answer::{self, RawAnswer};
use sagad::core::apply::apply;
use sagad::core::decide::Ignored;
use sagad::core::entry::{Entry, Resolution};
use sagad::core::id::Action;
use sagad::core::input::{Forbidden, Input, Order};
use sagad::core::saga::{Phase, Reason, Status};
use sagad::core::start::{InputError, as_priority, check_input, lock_of};
use serde_json::{Value, json};

use crate::play::{Play, definition, once, sequence, step, whole};

fn forbidden(result: Result<(), Forbidden>) -> String {
    match result.expect_err("it is allowed") {
        Forbidden::State(why) => why,
        Forbidden::NoSuchStep(name) | Forbidden::NoSuchSignal(name) => name,
    }
}

/// `a`, `b`, `c` one after the other, and `a` and `b` done.
fn two_done() -> Play {
    let mut play = Play::of(&sequence(&["a", "b", "c"]));
    play.success("a 1");
    play.success("b 1");
    play.sends(&["a 1", "b 1", "c 1"]);
    play
}

/// `a` is done and the undo of `b`, which nobody answered, has failed for good.
fn stuck() -> Play {
    let mut play = Play::of(&sequence(&["a", "b"]));
    play.success("a 1");
    play.timer();
    play.timer();
    play.timer();
    play.sends(&["a 1", "b 1", "b 2", "undo b 1"]);
    play.failure("undo b 1");
    play.timer();
    play.failure("undo b 2");
    play.sends(&["undo b 2"]);
    play.waits_for("b");
    play
}

// ---- forward -----------------------------------------------------------------------------------------------------

#[test]
fn steps_follow_each_other_and_the_saga_completes() {
    let mut play = Play::of(&(sequence(&["a", "b"]) + "[output]\nb = '{{ steps.b.reply.of }}'\n"));
    play.sends(&["a 1"]);
    play.success("a 1");
    play.sends(&["b 1"]);
    play.success("b 1");
    play.sends(&[]);
    play.is(Status::Completed);
    assert_eq!(play.output(), &json!({ "b": "b 1" }));
    assert_eq!(play.steps(), ["succeeded", "succeeded"]);
    assert_eq!(play.due(), None, "an ended saga wants nothing more");
}

#[test]
fn a_graph_runs_in_parallel_where_it_allows() {
    let graph =
        [step("a", "after = []"), step("b", "after = []"), step("c", "after = ['a', 'b']"), step("d", "after = ['a']")];
    let mut play = Play::of(&graph.concat());
    play.sends(&["a 1", "b 1"]);
    play.success("a 1");
    play.sends(&["d 1"]);
    play.success("b 1");
    play.sends(&["c 1"]);
    play.success("c 1");
    play.is(Status::Running);
    play.success("d 1");
    play.is(Status::Completed);
}

#[test]
fn steps_may_stand_in_the_file_in_any_order() {
    let graph = [step("c", "after = ['b']"), step("a", "after = []"), step("b", "after = ['a']")].concat();
    let mut play = Play::of(&graph);
    play.success("a 1");
    play.success("b 1");
    play.failure("c 1");
    play.success("undo b 1");
    play.success("undo a 1");
    play.sends(&["a 1", "b 1", "c 1", "undo b 1", "undo a 1"]);
    play.is(Status::Compensated);
}

#[test]
fn a_step_whose_condition_is_false_is_skipped_and_its_reply_is_null() {
    let graph = [step("a", "when = 'input.n > 1'"), step("b", "body.a = '{{ steps.a.reply.x.y }}'")].concat();
    let mut play = Play::of(&graph);
    play.sends(&["b 1"]);
    assert_eq!(play.command("b 1").body, json!({ "a": null }));
    assert_eq!(play.step("a"), "skipped");
    play.failure("b 1");
    play.sends(&[]);
    play.is(Status::Compensated);
    assert_eq!(play.steps(), ["skipped", "failed"]);
}

#[test]
fn a_delayed_step_waits_before_its_first_attempt_only() {
    let mut play = Play::of(&step("a", "delay = '1m'"));
    play.sends(&[]);
    assert_eq!(play.step("a"), "scheduled");
    play.after(59.9);
    play.sends(&[]);
    assert_eq!(play.ignored, Some(Ignored::NotDue));
    play.after(0.1);
    play.sends(&["a 1"]);
    play.retry("a 1");
    play.after(1.0);
    play.sends(&["a 2"]);
    // Nor does an operator's retry wait again.
    play.suspend();
    play.failure("a 2");
    play.retry_step("a").unwrap();
    play.sends(&["a 3"]);
}

#[test]
fn a_delayed_start_begins_when_it_is_due() {
    let mut play = Play::delayed(&sequence(&["a"]), json!({}), Duration::from_secs(60));
    play.is(Status::Pending);
    play.after(59.0);
    play.sends(&[]);
    play.after(1.0);
    play.sends(&["a 1"]);
    play.is(Status::Running);
    // Cancelled before it began, it sends nothing.
    let mut play = Play::delayed(&sequence(&["a"]), json!({}), Duration::from_secs(60));
    play.cancel();
    play.is(Status::Compensated);
    play.after(61.0);
    play.sends(&[]);
    assert_eq!(play.steps(), ["pending"]);
}

#[test]
fn a_transient_failure_is_tried_again_after_a_growing_wait() {
    let mut play = Play::of(&once("a", "").replace("retry.attempts = 1", "retry.attempts = 4"));
    for (attempt, wait) in [(1, 1.0), (2, 2.0), (3, 4.0)] {
        play.retry(&format!("a {attempt}"));
        assert_eq!(play.step("a"), "scheduled");
        play.after(wait - 0.001);
        assert_eq!(play.sent.len(), attempt);
        play.after(0.001);
        assert_eq!(play.sent.len(), attempt + 1);
    }
    play.retry("a 4");
    play.is(Status::Compensated);
    assert_eq!(play.error(), (Some("a"), Reason::Failure));
    // Every attempt was answered: nothing is in doubt.
    assert_eq!(play.step("a"), "failed");
    play.sends(&["a 1", "a 2", "a 3", "a 4"]);
}

#[test]
fn the_database_wakes_what_the_broker_may_have_lost_and_what_is_too_soon_for_it() {
    let slack = Duration::from_secs(7);
    for (wait, due) in [(99, 99), (100, 7_100), (101, 7_101)] {
        let mut play = Play::of(&step("a", &format!("retry.initial = '{wait}ms'")));
        play.retry("a 1");
        let expected = play.now.plus(Duration::from_millis(due));
        assert_eq!(play.saga.due(&play.definition, slack), Some(expected), "{wait} ms");
    }
    // A time-out is the database's alone.
    let play = Play::of(&sequence(&["a"]));
    assert_eq!(play.saga.due(&play.definition, slack), Some(play.now.plus(Duration::from_secs(10))));
}

#[test]
fn a_business_failure_is_never_tried_again() {
    let mut play = two_done();
    play.failure("c 1");
    play.sends(&["undo b 1"]);
    play.is(Status::Compensating);
    assert_eq!(play.error(), (Some("c"), Reason::Failure));
    assert_eq!(play.step("c"), "failed");
}

#[test]
fn pending_begins_the_time_out_anew() {
    let mut play = Play::of(&sequence(&["a"]));
    play.after(9.0);
    play.pending("a 1");
    play.after(9.9);
    assert_eq!(play.step("a"), "running");
    play.after(0.1);
    assert_eq!(play.step("a"), "scheduled");
    // Of an attempt that is not the latest it means nothing.
    play.after(1.0);
    play.pending("a 1");
    assert_eq!(play.ignored, Some(Ignored::Stale));
}

#[test]
fn an_optional_step_that_fails_is_recorded_and_the_saga_goes_on() {
    let graph =
        [step("a", "optional = true"), step("b", "body.a = '{{ steps.a.status }}/{{ steps.a.reply.x is none }}'")];
    let mut play = Play::of(&graph.concat());
    play.failure("a 1");
    play.sends(&["a 1", "b 1"]);
    assert_eq!(play.command("b 1").body, json!({ "a": "failed/true" }));
    play.success("b 1");
    play.is(Status::Completed);
    assert_eq!(play.steps(), ["failed", "succeeded"]);
    assert_eq!(play.saga.error, None);
}

#[test]
fn an_optional_step_in_doubt_is_undone_when_the_saga_is() {
    let graph = [once("a", "optional = true"), step("b", "")];
    let mut play = Play::of(&graph.concat());
    play.timer();
    play.sends(&["a 1", "b 1"]);
    play.failure("b 1");
    play.sends(&["undo a 1"]);
    assert!(play.command("undo a 1").in_doubt);
}

// ---- the start -----------------------------------------------------------------------------------------------------

#[test]
fn a_key_is_a_text_that_a_person_can_read_and_so_is_that_of_a_lock() {
    let toml = whole(&format!("key = '{{{{ input.k }}}}'\nlock.key = '{{{{ input.l }}}}'\n{}", sequence(&["a"])));
    let definition = definition(&toml);
    let keys = |k: &Value| {
        let input = Arc::new(json!({ "k": k, "l": k }));
        let (key, lock) = (check_input(&definition, &input), lock_of(&definition, &input));
        let what = |result: Result<Option<Arc<str>>, Vec<InputError>>| match result {
            Ok(key) => key.unwrap().to_string(),
            Err(errors) => errors[0].to_string(),
        };
        (what(key), what(lock))
    };
    for fits in ["x".to_owned(), "é".repeat(255)] {
        assert_eq!(keys(&json!(fits)), (fits.clone(), fits));
    }
    assert_eq!(keys(&json!(17)), ("17".to_owned(), "17".to_owned()));
    for (wrong, why) in [
        (json!(""), "is empty"),
        (json!("é".repeat(256)), "has 256 characters, 255 are allowed"),
        (json!("a\nb"), "has control characters in it"),
        (json!([1]), "must be a string or a number, it is [1]"),
    ] {
        assert_eq!(keys(&wrong), (format!("the key {why}"), format!("the lock's key {why}")));
    }
}

#[test]
fn a_priority_is_a_digit_however_it_is_written() {
    let toml = whole(&format!("priority = '{{{{ input.p }}}}'\n{}", sequence(&["a"])));
    for (priority, expected) in [(json!(0), 0), (json!(9), 9), (json!("7"), 7), (json!(" 7 "), 7)] {
        let play = Play::with(&toml, json!({ "p": priority }));
        assert_eq!((play.saga.priority, play.command("a 1").priority), (expected, expected));
    }
    for wrong in [json!(10), json!(-1), json!(1.5), json!("high"), json!(null), json!(true)] {
        let why = as_priority(&wrong).unwrap_err();
        assert_eq!(why, format!("a priority is a whole number from 0 to 9, this is {wrong}"));
    }
}

// ---- rule 2: at least once, one key for all attempts of one action ---------------------------------------------------

#[test]
fn every_attempt_asks_for_the_same_whatever_is_known_by_then_and_its_undo_says_what_that_was() {
    let graph = [
        once("a", "optional = true"),
        step("b", "body = { reply = '{{ steps.a.reply }}', status = '{{ steps.a.status }}' }"),
    ];
    let mut play = Play::of(&graph.concat());
    play.timer();
    let asked = json!({ "reply": null, "status": "in_doubt" });
    assert_eq!(play.command("b 1").body, asked);
    play.success("a 1");
    play.timer();
    play.timer();
    assert_eq!(play.command("b 2").body, asked);
    play.timer();
    assert_eq!(play.command("undo b 1").body["command"], asked);
}

#[test]
fn every_attempt_of_an_undo_asks_for_the_same_until_there_is_more_to_undo() {
    let body = "compensate.body = { own = '{{ steps.b.reply }}', other = '{{ steps.a.reply }}' }";
    let graph = [once("a", "optional = true"), once("b", body), step("c", "")];
    let mut play = Play::of(&graph.concat());
    play.timer();
    play.timer();
    assert_eq!(play.command("undo b 1").body, json!({ "own": null, "other": null }));
    play.success("a 1");
    play.timer();
    play.timer();
    assert_eq!(play.command("undo b 2").body, json!({ "own": null, "other": null }));
    play.success("b 1");
    assert_eq!(play.command("undo b 3").body, json!({ "own": { "of": "b 1" }, "other": { "of": "a 1" } }));
}

#[test]
fn a_body_that_can_be_rendered_again_is_not_kept() {
    let graph = [step("a", ""), step("b", "body.a = '{{ steps.a.reply }}'"), step("c", "body.n = '{{ input.n }}'")];
    let mut play = Play::of(&graph.concat());
    ["a 1", "b 1", "c 1"].into_iter().for_each(|command| play.success(command));
    play.is(Status::Completed);
    assert!(play.saga.steps.iter().all(|step| step.unit.execute.asked.is_none()));
}

#[test]
fn attempts_are_numbered_on_through_time_outs_and_operators() {
    let mut play = stuck();
    play.retry_step("b").unwrap();
    play.failure("undo b 3");
    play.timer();
    play.failure("undo b 4");
    play.resume();
    play.success("undo b 5");
    play.sends(&["undo b 3", "undo b 4", "undo b 5", "undo a 1"]);
    // An operator's new attempts are the same action: the same round, and so the same idempotency key.
    assert!(play.sent.iter().all(|command| command.round == 0));
}

#[test]
fn an_answer_to_an_attempt_that_was_never_sent_changes_nothing() {
    let mut play = Play::of(&sequence(&["a", "b"]));
    for name in ["a 0", "a 2", "b 1", "undo a 1"] {
        play.success(name);
        assert_eq!(play.ignored, Some(Ignored::UnknownAttempt), "{name}");
        play.comes_back(name, Reason::Rejected, true);
        assert_eq!(play.ignored, Some(Ignored::UnknownAttempt), "{name}");
    }
    let answer = RawAnswer::new(None, Value::Null);
    play.put(Input::Answer { spot: 9.into(), action: Action::Execute, attempt: 1, answer }).unwrap();
    assert_eq!(play.ignored, Some(Ignored::UnknownAttempt));
    play.sends(&["a 1"]);
}

#[test]
fn a_state_says_only_what_is_not_as_ever() {
    let play = Play::of(&sequence(&["a", "b"]));
    let state = serde_json::to_value(&play.saga.steps).unwrap();
    let keys = |it: &Value| it.as_object().unwrap().keys().cloned().collect::<Vec<String>>();
    assert_eq!(keys(&state[0]["unit"]), ["execute"]);
    assert_eq!(keys(&state[0]["unit"]["execute"]), ["attempt", "started_at", "progress"]);
    assert_eq!(keys(&state[1]["unit"]["execute"]), ["attempt", "progress"]);
    assert!(play.saga.fits(&play.definition) && !play.saga.fits(&definition(&sequence(&["a"]))));
}

// ---- rule 3: strictly in reverse -----------------------------------------------------------------------------------

#[test]
fn compensation_goes_in_reverse_one_after_the_other() {
    let mut play = two_done();
    play.failure("c 1");
    play.sends(&["undo b 1"]);
    play.success("undo b 1");
    play.sends(&["undo a 1"]);
    play.is(Status::Compensating);
    play.success("undo a 1");
    play.is(Status::Compensated);
    assert_eq!(play.steps(), ["compensated", "compensated", "failed"]);
}

#[test]
fn a_step_never_sent_is_never_compensated() {
    let graph = [step("a", ""), step("b", "delay = '1m'"), step("c", "")].concat();
    let mut play = Play::of(&graph);
    play.success("a 1");
    assert_eq!(play.step("b"), "scheduled");
    play.cancel();
    play.sends(&["a 1", "undo a 1"]);
    play.success("undo a 1");
    play.is(Status::Compensated);
    assert_eq!(play.steps(), ["compensated", "pending", "pending"]);
    play.after(100.0);
    play.sends(&[]);
}

#[test]
fn an_undo_waits_for_every_later_step_that_was_sent() {
    // a before b and c; c before d; e by itself.
    let graph = [
        step("a", "after = []"),
        step("b", "after = ['a']"),
        step("c", "after = ['a']"),
        step("d", "after = ['c']"),
        step("e", "after = []"),
    ];
    let mut play = Play::of(&graph.concat());
    for name in ["a 1", "b 1", "c 1", "e 1"] {
        play.success(name);
    }
    play.sends(&["a 1", "e 1", "b 1", "c 1", "d 1"]);
    play.failure("d 1");
    // Nothing comes after b, c and e any more; they are undone side by side. a waits for both b and c.
    play.sends(&["undo e 1", "undo c 1", "undo b 1"]);
    play.success("undo c 1");
    play.sends(&[]);
    play.success("undo b 1");
    play.sends(&["undo a 1"]);
    play.success("undo a 1");
    play.is(Status::Compensating);
    play.success("undo e 1");
    play.is(Status::Compensated);
}

#[test]
fn an_undo_waits_for_later_steps_in_flight_to_settle() {
    let graph = [step("a", ""), step("b", "after = ['a']"), step("c", "after = ['a']")].concat();
    let mut play = Play::of(&graph);
    play.success("a 1");
    play.failure("b 1");
    play.sends(&["a 1", "b 1", "c 1"]);
    play.is(Status::Compensating);
    play.success("c 1");
    play.sends(&["undo c 1"]);
    play.success("undo c 1");
    play.sends(&["undo a 1"]);
}

#[test]
fn steps_without_an_undo_do_not_hold_up_the_others() {
    let none = "[[steps]]\nname = 'b'\ncommand = 'b.do'\ncompensate = false\n";
    let mut play = Play::of(&[&step("a", ""), none, &step("c", "")].concat());
    play.success("a 1");
    play.success("b 1");
    play.failure("c 1");
    play.sends(&["a 1", "b 1", "c 1", "undo a 1"]);
    assert_eq!(play.steps(), ["compensating", "succeeded", "failed"]);
}

// ---- rule 4: in doubt, and late ------------------------------------------------------------------------------------

#[test]
fn what_timed_out_for_good_is_compensated_as_in_doubt() {
    let mut play = Play::of(&sequence(&["a"]));
    play.after(10.0);
    play.after(1.0);
    play.sends(&["a 1", "a 2"]);
    play.after(10.0);
    assert_eq!(play.error(), (Some("a"), Reason::Timeout));
    play.sends(&["undo a 1"]);
    let undo = play.command("undo a 1");
    assert!(undo.in_doubt);
    assert_eq!(undo.body, json!({ "command": { "n": 1 }, "reply": null }));
    assert_eq!((undo.expires, undo.priority), (None, 9));
    play.success("undo a 1");
    play.is(Status::Compensated);
}

#[test]
fn a_late_success_before_the_compensation_makes_it_a_normal_one() {
    // Its undo is held up by c, which comes after it and is in flight.
    let graph = [once("a", "optional = true"), step("b", ""), step("c", "after = ['a']")];
    let mut play = Play::of(&graph.concat());
    play.timer();
    assert_eq!(play.step("a"), "in_doubt");
    play.failure("b 1");
    play.is(Status::Compensating);
    play.success("a 1");
    assert_eq!(play.step("a"), "succeeded");
    play.failure("c 1");
    play.sends(&["a 1", "b 1", "c 1", "undo a 1"]);
    let undo = play.command("undo a 1");
    assert!(!undo.in_doubt);
    assert_eq!(undo.body["reply"], json!({ "of": "a 1" }));
    assert_eq!((undo.round, undo.ticket.attempt), (0, 1));
}

#[test]
fn a_late_success_after_the_compensation_was_sent_sends_it_once_more() {
    let mut play = Play::of(&sequence(&["a"]));
    play.timer();
    play.timer();
    play.timer();
    play.sends(&["a 1", "a 2", "undo a 1"]);
    play.success("a 1");
    play.sends(&["undo a 2"]);
    let again = play.command("undo a 2");
    assert_eq!((again.round, again.in_doubt), (1, false), "another round is another idempotency key");
    assert_eq!(again.body["reply"], json!({ "of": "a 1" }));
    // The answer to the first undo no longer counts: it may have come before what it should undo.
    play.success("undo a 1");
    assert_eq!(play.ignored, Some(Ignored::Stale));
    play.is(Status::Compensating);
    play.success("undo a 2");
    play.is(Status::Compensated);
}

#[test]
fn a_late_success_after_the_saga_ended_sends_the_compensation_once_more() {
    let mut play = Play::of(&sequence(&["a"]));
    play.timer();
    play.timer();
    play.timer();
    play.success("undo a 1");
    play.is(Status::Compensated);
    let error = play.saga.error.clone();
    let began = play.saga.steps[0].unit.compensate.started_at;
    assert!(began.is_some());
    play.sends(&["a 1", "a 2", "undo a 1"]);
    play.after(100_000.0);
    play.success("a 2");
    play.is(Status::Compensating);
    assert_eq!(play.saga.error, error, "the reason is still the first one");
    assert_eq!(play.saga.steps[0].unit.compensate.started_at, began, "nor does the undo begin anew");
    play.sends(&["undo a 2"]);
    assert_eq!(play.command("undo a 2").round, 1);
    // It is tried as often as the first one.
    play.retry("undo a 2");
    play.timer();
    play.sends(&["undo a 3"]);
    assert_eq!(play.command("undo a 3").round, 1);
    play.success("undo a 3");
    play.is(Status::Compensated);
    // The other attempt's success adds nothing.
    play.success("a 1");
    assert_eq!(play.ignored, Some(Ignored::Settled));
    play.success("a 2");
    play.sends(&[]);
}

#[test]
fn a_late_success_of_a_step_that_needed_no_undo_is_undone_after_the_end() {
    let mut play = Play::of(&sequence(&["a", "b"]));
    play.success("a 1");
    play.after(10.0);
    // The first attempt timed out; the second says no, which decides.
    play.after(1.0);
    play.failure("b 2");
    play.success("undo a 1");
    play.is(Status::Compensated);
    play.sends(&["a 1", "b 1", "b 2", "undo a 1"]);
    // Yet the first attempt was done.
    play.success("b 1");
    play.sends(&["undo b 1"]);
    assert_eq!(play.command("undo b 1").body["reply"], json!({ "of": "b 1" }));
    play.success("undo b 1");
    play.is(Status::Compensated);
    assert_eq!(play.steps(), ["compensated", "compensated"]);
}

#[test]
fn a_late_success_of_a_step_without_undo_changes_no_end() {
    let none = "[[steps]]\nname = 'a'\ncommand = 'a.do'\ncompensate = false\nretry.attempts = 1\n";
    let mut play = Play::of(none);
    play.timer();
    play.is(Status::Compensated);
    play.success("a 1");
    play.is(Status::Compensated);
    assert_eq!(play.step("a"), "succeeded");
    play.sends(&["a 1"]);
}

#[test]
fn a_late_failure_settles_the_doubt_if_nothing_was_sent_to_undo_it() {
    let graph = [once("a", "optional = true"), step("b", ""), step("c", "after = ['a']")];
    let mut play = Play::of(&graph.concat());
    play.timer();
    play.failure("b 1");
    assert_eq!(play.step("a"), "in_doubt");
    play.failure("a 1");
    assert_eq!(play.step("a"), "failed");
    play.failure("c 1");
    play.sends(&["a 1", "b 1", "c 1"]);
    play.is(Status::Compensated);
    // Once an undo is under way, it changes nothing.
    let mut play = Play::of(&sequence(&["a"]));
    play.timer();
    play.timer();
    play.timer();
    play.failure("a 1");
    assert_eq!(play.ignored, Some(Ignored::Settled));
    play.success("undo a 1");
    play.failure("a 2");
    assert_eq!(play.ignored, Some(Ignored::Settled));
    assert_eq!(play.step("a"), "compensated");
}

#[test]
fn a_late_success_during_back_off_settles_the_step() {
    let mut play = Play::of(&sequence(&["a", "b"]));
    play.after(10.0);
    assert_eq!(play.step("a"), "scheduled");
    play.success("a 1");
    play.sends(&["a 1", "b 1"]);
    play.after(5.0);
    play.sends(&[]);
}

#[test]
fn a_success_from_any_attempt_counts() {
    let mut play = Play::of(&sequence(&["a", "b"]));
    play.after(10.0);
    play.after(1.0);
    play.sends(&["a 1", "a 2"]);
    play.success("a 1");
    play.sends(&["b 1"]);
    play.success("a 2");
    assert_eq!(play.ignored, Some(Ignored::Settled));
    assert_eq!(play.saga.steps[0].unit.execute.reply().unwrap()["of"], "a 1");
}

// ---- rule 5: the first answer decides ------------------------------------------------------------------------------

#[test]
fn duplicates_change_nothing() {
    let mut play = two_done();
    play.success("a 1");
    assert_eq!(play.ignored, Some(Ignored::Settled));
    play.failure("a 1");
    assert_eq!(play.ignored, Some(Ignored::Settled));
    play.retry("b 1");
    assert_eq!(play.ignored, Some(Ignored::Settled));
    play.pending("b 1");
    assert_eq!(play.ignored, Some(Ignored::Settled));
    play.failure("c 1");
    play.failure("c 1");
    assert_eq!(play.ignored, Some(Ignored::Settled));
    play.success("undo b 1");
    play.success("undo b 1");
    assert_eq!(play.ignored, Some(Ignored::Settled));
    play.sends(&["undo b 1", "undo a 1"]);
}

#[test]
fn an_attempt_that_contradicts_itself_is_taken_at_its_first_word() {
    let mut play = two_done();
    play.failure("c 1");
    play.success("c 1");
    assert_eq!(play.ignored, Some(Ignored::Settled));
    assert_eq!(play.step("c"), "failed");
    play.sends(&["undo b 1"]);

    let mut play = two_done();
    play.success("c 1");
    play.failure("c 1");
    assert_eq!(play.ignored, Some(Ignored::Settled));
    play.is(Status::Completed);
}

#[test]
fn a_retry_of_an_attempt_that_is_not_the_latest_is_ignored() {
    let mut play = Play::of(&sequence(&["a"]));
    play.after(10.0);
    play.after(1.0);
    play.retry("a 1");
    assert_eq!(play.ignored, Some(Ignored::Stale));
    assert_eq!(play.step("a"), "running");
    // So is a second one of the latest while its successor is awaited.
    play.retry("a 2");
    play.is(Status::Compensating);
}

#[test]
fn the_first_failure_of_any_attempt_decides() {
    let mut play = Play::of(&sequence(&["a", "b"]));
    play.success("a 1");
    play.after(10.0);
    play.after(1.0);
    play.sends(&["a 1", "b 1", "b 2"]);
    play.failure("b 1");
    play.sends(&["undo a 1"]);
    assert_eq!(play.step("b"), "failed");
    // The other one's success is an effect that has to go.
    play.success("b 2");
    play.sends(&["undo b 1"]);
}

#[test]
fn what_changes_nothing_is_counted_under_the_word_for_why() {
    for (why, word) in [
        (Ignored::UnknownAttempt, "unknown_attempt"),
        (Ignored::Settled, "settled"),
        (Ignored::Stale, "stale"),
        (Ignored::Duplicate, "duplicate"),
        (Ignored::Full, "full"),
        (Ignored::NotDue, "not_due"),
    ] {
        assert_eq!(why.as_str(), word);
    }
}

// ---- rule 6: no way forward once it compensates ---------------------------------------------------------------------

#[test]
fn nothing_forward_is_sent_once_it_compensates() {
    let graph = [
        step("a", "after = []"),
        step("b", "after = []"),
        step("c", "after = ['b']"),
        step("d", "after = []\ndelay = '1s'"),
        step("e", "after = []"),
    ];
    let mut play = Play::of(&graph.concat());
    play.retry("e 1");
    assert_eq!(play.step("e"), "scheduled");
    play.failure("a 1");
    assert_eq!(play.step("d"), "pending", "a delay is called off");
    assert_eq!(play.step("e"), "failed", "so is a back-off");
    play.after(5.0);
    play.retry("b 1");
    play.sends(&["a 1", "b 1", "e 1"]);
    play.is(Status::Compensated);
}

#[test]
fn what_is_in_flight_is_waited_for_until_it_times_out() {
    let graph = [step("a", "after = []"), step("b", "after = []"), step("c", "after = ['a', 'b']")].concat();
    let mut play = Play::of(&graph);
    play.failure("a 1");
    play.is(Status::Compensating);
    play.after(9.0);
    play.pending("b 1");
    play.after(9.0);
    play.is(Status::Compensating);
    play.sends(&["a 1", "b 1"]);
    play.after(1.0);
    play.sends(&["undo b 1"]);
    assert!(play.command("undo b 1").in_doubt);
}

#[test]
fn at_the_deadline_what_is_in_flight_is_in_doubt_at_once() {
    let mut play = with_deadline("15s", &sequence(&["a", "b"]));
    play.after(8.0);
    play.success("a 1");
    // The attempt's own time is cut short.
    assert_eq!(play.command("b 1").deadline.since(play.now), Duration::from_secs(7));
    play.after(7.0);
    assert_eq!(play.error(), (None, Reason::Deadline));
    play.sends(&["a 1", "b 1", "undo b 1"]);
    assert!(play.command("undo b 1").in_doubt);
    assert_eq!(play.saga.steps[1].unit.execute.failure().unwrap().reason, Reason::Deadline);
    // A compensation has all its time.
    assert_eq!(play.command("undo b 1").deadline.since(play.now), Duration::from_secs(10));
}

fn with_deadline(timeout: &str, steps: &str) -> Play {
    Play::of(&format!(
        "name = 's'\ntimeout = '{timeout}'\n[defaults]\nexchange = 'e'\ntimeout = '10s'\nretry = {{ initial = '1s', jitter = 0.0 }}\n{steps}"
    ))
}

#[test]
fn an_answer_after_the_deadline_sends_nothing_forward() {
    let mut play = with_deadline("5s", &sequence(&["a", "b"]));
    // The timer is late: the answer is there first.
    play.now = play.now.plus(Duration::from_millis(5_001));
    play.success("a 1");
    assert_eq!(play.error(), (None, Reason::Deadline));
    play.sends(&["a 1", "undo a 1"]);
    // But a saga that has all it needs is not undone for the sake of a timer.
    let mut play = with_deadline("5s", &sequence(&["a"]));
    play.now = play.now.plus(Duration::from_millis(5_001));
    play.success("a 1");
    play.is(Status::Completed);
}

#[test]
fn no_pending_reaches_beyond_the_deadline() {
    let graph = [step("a", "after = []"), step("b", "after = []")].concat();
    let mut play = with_deadline("15s", &graph);
    play.failure("a 1");
    play.after(9.0);
    play.pending("b 1");
    // It compensates for another reason; the deadline holds for what is in flight all the same.
    play.after(6.0);
    play.sends(&["a 1", "b 1", "undo b 1"]);
    assert!(play.command("undo b 1").in_doubt);
}

#[test]
fn the_deadline_waits_for_an_operator() {
    let mut play = with_deadline("15s", &sequence(&["a", "b"]));
    play.success("a 1");
    play.suspend();
    play.after(1_000.0);
    play.is(Status::Suspended);
    play.resume();
    assert_eq!(play.error(), (None, Reason::Deadline));
    play.sends(&["a 1", "b 1", "undo b 1"]);
}

// ---- rule 7: compensations that fail -------------------------------------------------------------------------------

#[test]
fn a_failing_compensation_is_retried_then_suspends() {
    let mut play = stuck();
    assert_eq!(play.step("b"), "compensation_failed");
    assert!(play.saga.suspended.as_ref().unwrap().reason.contains("`b`"), "{:?}", play.saga.suspended);
    assert_eq!(play.due(), None);
    play.after(1_000.0);
    play.sends(&[]);
}

#[test]
fn an_operators_retry_gives_fresh_attempts() {
    let mut play = stuck();
    play.retry_step("b").unwrap();
    play.sends(&["undo b 3"]);
    play.is(Status::Compensating);
    play.failure("undo b 3");
    play.timer();
    play.failure("undo b 4");
    play.waits_for("b");
    play.resume();
    play.sends(&["undo b 4", "undo b 5"]);
    play.success("undo b 5");
    play.success("undo a 1");
    play.is(Status::Compensated);
}

#[test]
fn a_late_answer_to_a_failed_compensation_is_taken() {
    let mut play = Play::of(&sequence(&["a", "b"]));
    play.success("a 1");
    play.failure("b 1");
    play.timer();
    play.timer();
    play.timer();
    play.sends(&["a 1", "b 1", "undo a 1", "undo a 2"]);
    play.waits_for("a");
    play.success("undo a 1");
    play.is(Status::Compensated);
}

#[test]
fn a_late_success_of_the_execute_frees_a_saga_that_waits_for_its_undo() {
    let mut play = stuck();
    play.success("b 1");
    play.is(Status::Compensating);
    play.sends(&["undo b 3"]);
    assert_eq!((play.command("undo b 3").round, play.command("undo b 3").in_doubt), (1, false));
}

#[test]
fn resolving_says_what_an_operator_found_out() {
    // The undo was done.
    let mut play = stuck();
    play.resolve("b", Resolution::Compensated).unwrap();
    play.sends(&["undo a 1"]);
    play.success("undo a 1");
    play.is(Status::Compensated);
    // It never will be.
    let mut play = stuck();
    play.resolve("b", Resolution::GivenUp).unwrap();
    play.sends(&["undo a 1"]);
    assert_eq!(play.step("b"), "compensation_failed");
    play.success("undo a 1");
    play.is(Status::Failed);
    // What comes after all is kept, and the end stays what it is.
    play.success("undo b 1");
    play.is(Status::Failed);
    assert_eq!(play.step("b"), "compensated");
}

#[test]
fn resolving_an_execute_decides_it() {
    let mut play = two_done();
    play.resolve("c", Resolution::Succeeded).unwrap();
    play.is(Status::Completed);
    assert_eq!(play.saga.steps[2].unit.execute.reply().unwrap()["of"], "the operator");

    let mut play = two_done();
    play.resolve("c", Resolution::Failed).unwrap();
    assert_eq!(play.error(), (Some("c"), Reason::Failure));
    play.sends(&["undo b 1"]);
    // The operator was wrong, or the answer overtook.
    play.success("c 1");
    play.sends(&["undo c 1"]);

    // While its next attempt is waited for, but not before the first one.
    let mut play = two_done();
    play.retry("c 1");
    play.resolve("c", Resolution::Succeeded).unwrap();
    play.is(Status::Completed);
    let mut play = Play::of(&step("a", "delay = '1m'"));
    assert!(forbidden(play.resolve("a", Resolution::Succeeded)).contains("scheduled"));

    // Whatever the participant had said before.
    let mut play = Play::of(&step("a", "compensate.on = ['failure']"));
    play.retry("a 1");
    play.resolve("a", Resolution::Failed).unwrap();
    play.is(Status::Compensated);
    play.sends(&["a 1"]);

    // In doubt, and held up by another: no longer in doubt.
    let graph = [once("a", "optional = true"), step("b", ""), step("c", "after = ['a']")];
    let mut play = Play::of(&graph.concat());
    play.timer();
    play.failure("b 1");
    play.resolve("a", Resolution::Failed).unwrap();
    play.failure("c 1");
    play.is(Status::Compensated);
    play.sends(&["a 1", "b 1", "c 1"]);
}

#[test]
fn operators_are_refused_what_the_state_forbids() {
    let mut play = two_done();
    assert!(forbidden(play.order(Order::Resume { reason: None })).contains("suspended"));
    assert!(forbidden(play.retry_step("c")).contains("no action of this step has failed"));
    assert_eq!(forbidden(play.retry_step("nix")), "nix");
    forbidden(play.resolve("a", Resolution::Succeeded));
    forbidden(play.resolve("a", Resolution::Compensated));
    forbidden(play.resolve("a", Resolution::GivenUp));
    play.suspend();
    assert!(forbidden(play.order(Order::Suspend { reason: None })).contains("already"));
    play.cancel();
    assert!(forbidden(play.order(Order::Cancel { reason: None })).contains("already"));
    forbidden(play.resolve("a", Resolution::Failed));
    play.success("c 1");
    for name in ["undo c 1", "undo b 1", "undo a 1"] {
        play.success(name);
    }
    play.is(Status::Compensated);
    for order in [Order::Cancel { reason: None }, Order::Suspend { reason: None }, Order::Resume { reason: None }] {
        assert!(forbidden(play.order(order)).contains("ended"));
    }
    forbidden(play.retry_step("a"));
    forbidden(play.resolve("a", Resolution::Compensated));
}

#[test]
fn of_several_failed_compensations_each_can_be_retried() {
    let graph = [step("a", "after = []"), step("b", "after = []"), step("c", "")].concat();
    let mut play = Play::of(&graph);
    play.success("a 1");
    play.success("b 1");
    play.failure("c 1");
    play.sends(&["a 1", "b 1", "c 1", "undo b 1", "undo a 1"]);
    for name in ["undo a 1", "undo b 1"] {
        play.failure(name);
    }
    play.timer();
    play.failure("undo a 2");
    play.waits_for("a");
    play.sends(&["undo b 2", "undo a 2"]);
    // What was in flight is heard, and it fails too.
    play.failure("undo b 2");
    play.waits_for("a");
    play.retry_step("b").unwrap();
    play.sends(&["undo b 3"]);
    play.waits_for("a");
    play.success("undo b 3");
    play.is(Status::Suspended);
    play.retry_step("a").unwrap();
    play.sends(&["undo a 3"]);
    play.success("undo a 3");
    play.is(Status::Compensated);
}

#[test]
fn what_an_operator_tries_again_goes_out_alone_while_another_compensation_waits_for_one() {
    let graph: String = ["a", "b", "c", "e"].iter().map(|name| step(name, "after = []")).collect();
    let mut play = Play::of(&(graph + &step("d", "after = ['a', 'b', 'c']")));
    for name in ["a 1", "b 1", "c 1"] {
        play.success(name);
    }
    play.failure("d 1");
    play.failure("undo a 1");
    play.failure("undo b 1");
    play.timer();
    play.failure("undo a 2");
    play.waits_for("a");
    play.failure("undo b 2");
    play.fresh();
    // The back-off of one passes, another is done after all.
    play.failure("undo c 1");
    play.success("e 1");
    play.after(5.0);
    play.retry_step("b").unwrap();
    play.sends(&["undo b 3"]);
    play.waits_for("a");
    play.retry_step("a").unwrap();
    play.sends(&["undo e 1", "undo c 2", "undo a 3"]);
}

#[test]
fn with_continue_the_others_go_on_and_the_saga_ends_as_failed() {
    let mut play = continues(&sequence(&["a", "b", "c"]));
    play.success("a 1");
    play.success("b 1");
    play.failure("c 1");
    play.failure("undo b 1");
    play.timer();
    play.failure("undo b 2");
    play.sends(&["a 1", "b 1", "c 1", "undo b 1", "undo b 2", "undo a 1"]);
    play.is(Status::Compensating);
    play.success("undo a 1");
    play.is(Status::Failed);
    assert_eq!(play.steps(), ["compensated", "compensation_failed", "failed"]);
}

fn continues(steps: &str) -> Play {
    Play::of(&format!(
        "name = 's'\non_compensation_failure = 'continue'\n[defaults]\nexchange = 'e'\ntimeout = '10s'\nretry = {{ initial = '1s', jitter = 0.0 }}\n{steps}"
    ))
}

#[test]
fn with_continue_an_undo_that_can_not_be_written_holds_up_nothing() {
    let broken = "compensate.body.x = '{{ input.nix }}'";
    for graph in [
        [step("a", ""), step("b", broken), step("c", "")].concat(),
        // The same, written in another order.
        [step("c", "after = ['b']"), step("b", &format!("after = ['a']\n{broken}")), step("a", "after = []")].concat(),
    ] {
        let mut play = continues(&graph);
        play.success("a 1");
        play.success("b 1");
        play.failure("c 1");
        play.sends(&["a 1", "b 1", "c 1", "undo a 1"]);
        play.success("undo a 1");
        play.is(Status::Failed);
        assert_eq!(play.step("b"), "compensation_failed");
    }
}

// ---- dead letters are answers --------------------------------------------------------------------------------------

#[test]
fn what_comes_back_is_a_transient_failure_of_its_attempt() {
    for reason in [Reason::Rejected, Reason::Expired, Reason::DeliveryLimit, Reason::MaxLength, Reason::Unroutable] {
        let mut play = Play::of(&sequence(&["a"]));
        play.comes_back("a 1", reason, false);
        assert_eq!(play.step("a"), "scheduled");
        play.timer();
        play.comes_back("a 2", reason, false);
        assert_eq!(play.error(), (Some("a"), reason), "after the last attempt it is a failure");
        play.fresh();
    }
}

#[test]
fn only_what_may_have_been_handled_is_in_doubt() {
    let cases = [
        (Reason::Unroutable, false, false),
        (Reason::Unroutable, true, true),
        (Reason::Expired, false, false),
        (Reason::Expired, true, true),
        (Reason::MaxLength, false, false),
        (Reason::MaxLength, true, true),
        (Reason::Rejected, false, true),
        (Reason::DeliveryLimit, true, true),
    ];
    for (reason, delivered_before, in_doubt) in cases {
        let mut play = Play::of(&sequence(&["a"]));
        play.comes_back("a 1", reason, delivered_before);
        play.timer();
        play.comes_back("a 2", Reason::Unroutable, false);
        let undo: &[&str] = if in_doubt { &["a 1", "a 2", "undo a 1"] } else { &["a 1", "a 2"] };
        play.sends(undo);
        assert_eq!(play.step("a"), if in_doubt { "compensating" } else { "failed" }, "{reason:?} {delivered_before}");
    }
}

#[test]
fn a_dead_letter_after_the_time_out_settles_the_doubt() {
    let graph = [once("a", "optional = true"), step("b", ""), step("c", "after = ['a']")];
    let mut play = Play::of(&graph.concat());
    play.timer();
    play.failure("b 1");
    assert_eq!(play.step("a"), "in_doubt");
    play.comes_back("a 1", Reason::Expired, false);
    assert_eq!(play.step("a"), "failed");
    play.failure("c 1");
    play.is(Status::Compensated);
    play.sends(&["a 1", "b 1", "c 1"]);
}

#[test]
fn what_was_in_somebodys_hands_stays_in_doubt_whatever_becomes_of_another_copy() {
    let graph = [once("a", "optional = true"), step("b", ""), step("c", "after = ['a']")];
    let mut play = Play::of(&graph.concat());
    play.timer();
    play.failure("b 1");
    play.comes_back("a 1", Reason::Rejected, true);
    play.comes_back("a 1", Reason::Expired, false);
    assert_eq!((play.ignored, play.step("a")), (Some(Ignored::Settled), "in_doubt"));
    play.failure("c 1");
    play.sends(&["a 1", "b 1", "c 1", "undo a 1"]);
}

#[test]
fn what_comes_back_from_somebodys_hands_after_the_undo_was_sent_is_undone_once_more() {
    // He may have done it between the undo and his death, and will never say so.
    for reason in [Reason::Expired, Reason::DeliveryLimit, Reason::Rejected] {
        let mut play = Play::of(&once("a", ""));
        play.timer();
        play.success("undo a 1");
        play.is(Status::Compensated);
        play.fresh();
        play.comes_back("a 1", reason, true);
        play.is(Status::Compensating);
        play.sends(&["undo a 2"]);
        let undo = play.command("undo a 2");
        assert_eq!((undo.in_doubt, undo.round), (true, 1), "under a new idempotency key");
        play.comes_back("a 1", reason, true);
        assert_eq!(play.ignored, Some(Ignored::Settled), "of one death");
        play.success("undo a 2");
        play.is(Status::Compensated);
        play.sends(&[]);
    }
    // Where nothing is undone in doubt, it is not.
    let mut play = Play::of(&once("a", "compensate.on = ['success']"));
    play.timer();
    play.comes_back("a 1", Reason::Rejected, true);
    play.is(Status::Compensated);
    play.sends(&["a 1"]);
}

#[test]
fn a_copy_that_nobody_took_says_nothing_of_the_hands_that_have_the_other() {
    let mut play = Play::of(&once("a", ""));
    play.copy_comes_back("a 1", Reason::Unroutable);
    play.success("undo a 1");
    play.is(Status::Compensated);
    play.sends(&["a 1", "undo a 1"]);
    play.copy_comes_back("a 1", Reason::Expired);
    assert_eq!(play.ignored, Some(Ignored::Settled), "it was in doubt already, and is undone");
    // Somebody did it after the undo, and died.
    play.comes_back("a 1", Reason::DeliveryLimit, true);
    play.sends(&["undo a 2"]);
    // Of what was thought never to have run it is news.
    let mut play = Play::of(&once("a", ""));
    play.comes_back("a 1", Reason::MaxLength, false);
    play.is(Status::Compensated);
    play.copy_comes_back("a 1", Reason::MaxLength);
    play.sends(&["a 1", "undo a 1"]);
}

#[test]
fn what_comes_back_from_somebodys_hands_after_a_probe_is_undone() {
    let mut play = Play::of(&once("a", "on_timeout = 'probe'\nprobe = { command = 'a.status' }"));
    play.timer();
    play.put(Input::Answer {
        spot: 0.into(),
        action: Action::Probe,
        attempt: 1,
        answer: RawAnswer::new(Some(answer::Outcome::Failure), json!({ "error": "not yet" })),
    })
    .unwrap();
    play.is(Status::Compensated);
    play.fresh();
    play.comes_back("a 1", Reason::DeliveryLimit, true);
    play.sends(&["undo a 1"]);
    assert!(play.command("undo a 1").in_doubt);
}

#[test]
fn a_failure_that_comes_twice_says_nothing_of_the_attempts_that_an_operator_asked_for() {
    let mut play = Play::of(&(step("p", "pivot = true") + &step("b", "")));
    play.success("p 1");
    play.failure("b 1");
    play.waits_for("b");
    play.retry_step("b").unwrap();
    play.fresh();
    play.failure("b 1");
    assert_eq!((play.ignored, play.step("b")), (Some(Ignored::Stale), "running"));
    play.success("b 2");
    play.is(Status::Completed);
    // Nor does it settle what became of those.
    let mut play = Play::of(&(once("p", "pivot = true") + &once("b", "optional = true")));
    play.success("p 1");
    play.suspend();
    play.timer();
    play.failure("b 1");
    play.retry_step("b").unwrap();
    play.fresh();
    play.failure("b 1");
    assert_eq!((play.ignored, play.step("b")), (Some(Ignored::Stale), "running"));
    // The first word of one that was thought lost counts.
    let mut play = Play::of(&once("b", "on_timeout = 'suspend'"));
    play.timer();
    play.retry_step("b").unwrap();
    play.failure("b 1");
    assert_eq!(play.step("b"), "failed");
}

#[test]
fn a_dead_letter_after_the_end_can_call_for_an_undo() {
    // Undone after a failure, not while in doubt: the first attempt was refused, the second was thought to be lost.
    let mut play = Play::of(&step("a", "compensate.on = ['failure']"));
    play.retry("a 1");
    play.timer();
    play.timer();
    play.is(Status::Compensated);
    assert_eq!(play.step("a"), "in_doubt");
    play.comes_back("a 2", Reason::Expired, false);
    play.sends(&["a 1", "a 2", "undo a 1"]);
    // Had nobody ever had it in hand, there would be nothing to undo.
    let mut play = Play::of(&once("a", "compensate.on = ['failure']"));
    play.timer();
    play.comes_back("a 1", Reason::Expired, false);
    play.is(Status::Compensated);
    assert_eq!(play.step("a"), "failed");
    play.sends(&["a 1"]);
}

#[test]
fn of_two_copies_of_a_command_the_one_that_was_handled_counts() {
    // The first was dropped by a full queue; the second, sent because the first was not confirmed, was in somebody's hands.
    let mut play = Play::of(&once("a", ""));
    play.comes_back("a 1", Reason::MaxLength, false);
    play.is(Status::Compensated);
    assert_eq!(play.step("a"), "failed");
    play.sends(&["a 1"]);
    play.comes_back("a 1", Reason::DeliveryLimit, true);
    play.sends(&["undo a 1"]);
    assert!(play.command("undo a 1").in_doubt);
    play.comes_back("a 1", Reason::DeliveryLimit, true);
    play.sends(&[]);
    play.success("undo a 1");
    play.is(Status::Compensated);
    // The same while another attempt is on its way, whose end leaves the first in doubt.
    let mut play = Play::of(&step("a", ""));
    play.comes_back("a 1", Reason::MaxLength, false);
    play.comes_back("a 1", Reason::Rejected, false);
    play.timer();
    play.sends(&["a 1", "a 2"]);
    play.comes_back("a 2", Reason::MaxLength, false);
    play.sends(&["undo a 1"]);
    // In whichever order they come.
    let mut play = Play::of(&once("a", ""));
    play.comes_back("a 1", Reason::Rejected, false);
    play.comes_back("a 1", Reason::Expired, false);
    play.sends(&["a 1", "undo a 1"]);
    assert_eq!(play.saga.unit(0.into()).unwrap().execute.unanswered, [1]);
    // Who was too busy spoke of the copy that he had.
    let mut play = Play::of(&once("a", ""));
    play.retry("a 1");
    play.is(Status::Compensated);
    play.comes_back("a 1", Reason::DeliveryLimit, true);
    play.sends(&["a 1", "undo a 1"]);
    // A participant's own word stands, and an operator's.
    let mut play = Play::of(&once("a", "on_timeout = 'suspend'"));
    play.timer();
    play.resolve("a", Resolution::Failed).unwrap();
    play.comes_back("a 1", Reason::Rejected, false);
    play.sends(&["a 1"]);
    let mut play = Play::of(&once("a", ""));
    play.failure("a 1");
    play.comes_back("a 1", Reason::Rejected, false);
    play.sends(&["a 1"]);
}

#[test]
fn a_rejected_compensation_is_tried_again() {
    let mut play = Play::of(&sequence(&["a", "b"]));
    play.success("a 1");
    play.failure("b 1");
    play.comes_back("undo a 1", Reason::Rejected, false);
    play.timer();
    play.sends(&["a 1", "b 1", "undo a 1", "undo a 2"]);
    // The first one's dead letter again changes nothing.
    play.comes_back("undo a 1", Reason::Rejected, false);
    assert_eq!(play.ignored, Some(Ignored::Settled));
    play.success("undo a 2");
    play.is(Status::Compensated);
}

// ---- compensate.on -------------------------------------------------------------------------------------------------

#[test]
fn each_outcome_is_undone_as_the_definition_says() {
    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Outcome {
        Success,
        InDoubt,
        Failure,
        /// No participant ever saw it.
        NeverRan,
    }
    use Outcome::*;
    for on in ["", "success", "in_doubt", "failure", "success in_doubt", "in_doubt failure", "success in_doubt failure"]
    {
        for outcome in [Success, InDoubt, Failure, NeverRan] {
            let words: Vec<String> = on.split_whitespace().map(|word| format!("'{word}'")).collect();
            let line = if on.is_empty() { String::new() } else { format!("compensate.on = [{}]", words.join(", ")) };
            let mut play = Play::of(&(step("a", &line) + &step("b", "after = []")));
            match outcome {
                Success => play.success("a 1"),
                InDoubt => play.comes_back("a 1", Reason::Rejected, true),
                Failure => play.retry("a 1"),
                NeverRan => play.comes_back("a 1", Reason::Unroutable, false),
            }
            // In back-off or done: the failure of another ends it there.
            play.failure("b 1");
            let expected = match outcome {
                NeverRan => false,
                Success => on.is_empty() || on.contains("success"),
                InDoubt => on.is_empty() || on.contains("in_doubt"),
                Failure => on.contains("failure"),
            };
            let undone = play.fresh().contains(&"undo a 1".to_owned());
            assert_eq!(undone, expected, "on [{on}] after {outcome:?}");
            if !undone {
                play.is(Status::Compensated);
            }
        }
    }
}

#[test]
fn a_business_failure_is_undone_only_where_the_step_says_so() {
    let mut play = Play::of(&step("a", "compensate.on = ['failure']"));
    play.failure("a 1");
    play.sends(&["a 1", "undo a 1"]);
    assert!(!play.command("undo a 1").in_doubt);
    let mut play = Play::of(&step("a", ""));
    play.failure("a 1");
    play.sends(&["a 1"]);
    play.is(Status::Compensated);
}

#[test]
fn an_undo_that_is_no_longer_wanted_can_be_resolved_too() {
    // Undone only while in doubt; the undo fails; then a late success says that there is nothing to undo.
    let mut play = Play::of(&step("a", "compensate.on = ['in_doubt']"));
    for _ in 0..3 {
        play.timer();
    }
    play.failure("undo a 1");
    play.timer();
    play.failure("undo a 2");
    play.waits_for("a");
    play.success("a 1");
    play.is(Status::Suspended);
    play.resolve("a", Resolution::GivenUp).unwrap();
    play.is(Status::Failed);
}

// ---- cancel, suspend, resume ----------------------------------------------------------------------------------------

#[test]
fn cancel_undoes_what_was_done_and_waits_for_what_is_in_flight() {
    let mut play = two_done();
    play.cancel();
    assert_eq!(play.error(), (None, Reason::Cancelled));
    play.sends(&[]);
    play.is(Status::Compensating);
    play.success("c 1");
    for name in ["undo c 1", "undo b 1", "undo a 1"] {
        play.sends(&[name]);
        play.success(name);
    }
    play.is(Status::Compensated);
}

#[test]
fn cancel_ends_a_back_off_a_delay_and_a_suspension() {
    let mut play = two_done();
    play.retry("c 1");
    play.cancel();
    assert_eq!(play.step("c"), "failed");
    play.sends(&["undo b 1"]);

    let mut play = two_done();
    play.suspend();
    play.cancel();
    play.is(Status::Compensating);
    play.failure("c 1");
    play.sends(&["undo b 1"]);
}

#[test]
fn a_suspended_saga_listens_but_sends_nothing() {
    let mut play = two_done();
    play.suspend();
    play.is(Status::Suspended);
    play.retry("c 1");
    play.after(60.0);
    play.sends(&[]);
    assert_eq!(play.due(), None);
    play.resume();
    play.sends(&["c 2"]);
    play.suspend();
    play.success("c 2");
    play.is(Status::Suspended);
    play.resume();
    play.is(Status::Completed);
}

#[test]
fn a_failed_step_of_a_suspended_saga_can_be_tried_again() {
    let mut play = two_done();
    play.suspend();
    play.failure("c 1");
    play.is(Status::Suspended);
    play.retry_step("c").unwrap();
    play.sends(&["c 2"]);
    play.is(Status::Running);
    play.success("c 2");
    play.is(Status::Completed);
}

#[test]
fn an_optional_step_that_failed_can_be_tried_again_until_the_saga_has_gone_on() {
    let mut play = Play::of(&(once("a", "optional = true") + &step("b", "body.a = '{{ steps.a.reply }}'")));
    play.suspend();
    play.failure("a 1");
    play.retry_step("a").unwrap();
    play.sends(&["a 1", "a 2"]);
    play.failure("a 2");
    play.sends(&["b 1"]);
    assert!(forbidden(play.retry_step("a")).contains("optional"));
}

#[test]
fn a_step_in_doubt_that_was_to_be_tried_again_is_undone_if_the_saga_turns_round_first() {
    let mut play = Play::of(&(once("a", "after = []") + &once("b", "after = []")));
    play.suspend();
    play.timer();
    // a has failed too: there is no way forward.
    play.retry_step("b").unwrap();
    play.sends(&["a 1", "b 1", "undo b 1", "undo a 1"]);
    assert!(play.command("undo b 1").in_doubt);
}

#[test]
fn a_pending_saga_can_be_suspended() {
    let mut play = Play::delayed(&sequence(&["a"]), json!({}), Duration::from_secs(10));
    play.suspend();
    play.after(20.0);
    play.sends(&[]);
    play.resume();
    play.sends(&["a 1"]);
    assert_eq!(play.saga.started_at, Some(play.now));
}

#[test]
fn a_fault_of_sagads_own_suspends_and_can_be_resumed() {
    let mut play = two_done();
    play.put(Input::Fault { message: "a corrupt row".into() }).unwrap();
    play.is(Status::Suspended);
    play.put(Input::Fault { message: "again".into() }).unwrap();
    assert_eq!(play.saga.suspended.as_ref().unwrap().reason, "a corrupt row");
    play.success("c 1");
    play.resume();
    play.is(Status::Completed);
    let told = play.saga.entries;
    play.put(Input::Fault { message: "again".into() }).unwrap();
    assert_eq!((play.saga.status(), play.saga.entries), (Status::Completed, told));
    // Where nobody can read its row, nobody can know that it has ended.
    let mut saga = play.saga.clone();
    apply(&mut saga, &Entry::Suspended { reason: "again".into(), spot: None, actor: None }, play.now);
    assert_eq!((saga.status(), saga.suspended), (Status::Completed, None));
}

// ---- templates -----------------------------------------------------------------------------------------------------

#[test]
fn a_command_that_can_not_be_written_fails_its_step_without_a_try() {
    for line in [
        "body.x = '{{ input.nix }}'",
        "when = 'input.nix'",
        "headers.x = '{{ input.nix }}'",
        "priority = '{{ input.n + 50 }}'",
    ] {
        // Nobody had it in hand, so there is nothing to undo, not even where failures are undone.
        let line = format!("{line}\ncompensate.on = ['success', 'failure']");
        let mut play = Play::of(&(step("a", "") + &step("b", &line)));
        play.success("a 1");
        play.sends(&["a 1", "undo a 1"]);
        assert_eq!(play.error(), (Some("b"), Reason::Template), "{line}");
        assert_eq!(play.step("b"), "failed");
    }
}

#[test]
fn what_was_sent_before_it_could_no_longer_be_written_is_in_doubt() {
    let b = "headers.id = '{{ steps.a.reply.id }}'\ncompensate.body.of = 'b'";
    let mut play = Play::of(&(once("a", "optional = true") + &step("b", b)));
    // Without a reply of a's, its id is null; then a reply comes that has none.
    play.timer();
    play.timer();
    play.success("a 1");
    play.timer();
    assert_eq!(play.error(), (Some("b"), Reason::Template));
    play.sends(&["a 1", "b 1", "undo b 1"]);
    assert!(play.command("undo b 1").in_doubt);
}

#[test]
fn an_undo_that_can_not_be_written_suspends_at_once() {
    let mut play = Play::of(&(step("a", "compensate.body.x = '{{ input.nix }}'") + &step("b", "")));
    play.success("a 1");
    play.failure("b 1");
    play.waits_for("a");
    play.sends(&["a 1", "b 1"]);
    assert!(play.saga.suspended.as_ref().unwrap().reason.contains("`nix`"), "{:?}", play.saga.suspended);
    play.retry_step("a").unwrap();
    play.waits_for("a");
    play.resolve("a", Resolution::Compensated).unwrap();
    play.is(Status::Compensated);
}

#[test]
fn an_output_that_can_not_be_written_undoes_nothing() {
    let mut play = Play::of(&(sequence(&["a"]) + "[output]\nx = '{{ steps.a.reply.nix }}'\n"));
    play.success("a 1");
    play.is(Status::Completed);
    assert_eq!(play.output(), &Value::Null);
    assert_eq!(play.error(), (None, Reason::Template));
    play.sends(&["a 1"]);
}

#[test]
fn bodies_are_what_the_definition_says() {
    let steps = [
        step("a", "body.n = '{{ input.n }}'\nheaders.who = 'n{{ input.n }}'\npriority = '{{ input.n + 2 }}'"),
        step(
            "b",
            "compensate.body = { why = '{{ error.reason }} at {{ error.step }}: {{ error.message }}', of = '{{ steps.b.reply.of }}', a = '{{ steps.a.reply.of }}' }",
        ),
        step("c", ""),
    ];
    let mut play = Play::of(&steps.concat());
    let a = play.command("a 1");
    assert_eq!((&a.body, a.priority), (&json!({ "n": 1 }), 3));
    assert_eq!(a.headers, [("who".to_owned(), json!("n1"))]);
    assert_eq!((a.exchange.as_str(), a.routing_key.as_str()), ("e", "a.do"));
    assert_eq!(a.expires, Some(Duration::from_millis(9_500)), "just under the attempt's time-out");
    play.success("a 1");
    assert_eq!(play.command("b 1").body, json!({ "n": 1 }), "the saga's input");
    play.success("b 1");
    play.failure("c 1");
    let undo = play.command("undo b 1");
    assert_eq!(undo.body, json!({ "why": "failure at c: c 1 declined", "of": "b 1", "a": "a 1" }));
    assert_eq!(undo.routing_key, "b.undo");
    play.success("undo b 1");
    assert_eq!(play.command("undo a 1").body, json!({ "command": { "n": 1 }, "reply": { "of": "a 1" } }));
}

#[test]
fn the_replies_of_a_step_in_doubt_are_null_in_its_undo() {
    let mut play = Play::of(&step("a", "compensate.body.id = '{{ steps.a.reply.payment.id }}'"));
    for _ in 0..3 {
        play.timer();
    }
    assert_eq!(play.command("undo a 1").body, json!({ "id": null }));
}

#[test]
fn a_command_that_must_not_expire_does_not() {
    let play = Play::of(&step("a", "expires = false"));
    assert_eq!(play.command("a 1").expires, None);
}

#[test]
fn a_command_expires_before_its_attempt_times_out_and_not_before_it_can_be_taken() {
    for (timeout, expires) in [("10s", 9_500), ("3s", 2_700), ("500ms", 400), ("150ms", 75), ("10ms", 5)] {
        let play = Play::of(&step("a", &format!("timeout = '{timeout}'")));
        assert_eq!(play.command("a 1").expires, Some(Duration::from_millis(expires)), "{timeout}");
    }
}

// ---- the journal ---------------------------------------------------------------------------------------------------

#[test]
fn the_journal_tells_the_story() {
    // Of b, which never began, there is nothing to tell.
    let mut play = Play::of(&sequence(&["a", "b"]));
    play.pending("a 1");
    play.timer();
    play.timer();
    play.failure("a 2");
    let told: Vec<String> = play
        .journal
        .iter()
        .flat_map(|(_, entries)| entries)
        .map(|entry| serde_json::to_value(entry).unwrap().as_object().unwrap().keys().next().unwrap().clone())
        .collect();
    assert_eq!(
        told,
        [
            "accepted",
            "started",
            "sent",
            "extended",
            "attempt_failed",
            "scheduled",
            "sent",
            "failed",
            "compensating",
            "compensated"
        ]
    );
    assert_eq!(play.saga.entries, 10);
    assert_eq!(play.saga.version, play.journal.len() as u64);
    let Some(Entry::Accepted { steps: 2, .. }) = play.journal[0].1.first() else { panic!("no start") };
    assert!(matches!(play.saga.phase, Phase::Compensated { at } if at == play.now));
}

#[test]
fn a_command_that_somebody_was_at_did_not_die_unseen() {
    let mut play = Play::of(&once("a", ""));
    play.pending("a 1");
    // It was given back to its queue, and died there.
    play.comes_back("a 1", Reason::Expired, false);
    play.sends(&["a 1", "undo a 1"]);
    assert!(play.command("undo a 1").in_doubt);
}

#[test]
fn an_undo_that_is_to_be_tried_again_is_renewed_by_a_late_success() {
    let mut play = Play::of(&(once("a", "optional = true") + &once("b", "")));
    // Both are in doubt; the undo of the first fails, and an operator has it tried again, after that of the second.
    play.timer();
    play.timer();
    play.success("undo b 1");
    play.failure("undo a 1");
    play.timer();
    play.failure("undo a 2");
    play.waits_for("a");
    play.success("b 1");
    play.fresh();
    play.retry_step("a").unwrap();
    play.sends(&["undo b 2"]);
    play.success("a 1");
    play.sends(&[]);
    play.success("undo b 2");
    play.sends(&["undo a 3"]);
    assert_eq!(play.command("undo a 3").round, 1, "what was asked for before asked for something else");
    play.success("undo a 3");
    play.is(Status::Compensated);
}
