//! Every kind of step, one sentence of the language after the other: publish, wait, sleep, foreach, pivot, probe, reply rules.

use std::time::Duration;

use sagad::core::answer::{Outcome, RawAnswer};
use sagad::core::decide::{Effect, Ignored, decide};
use sagad::core::entry::{Entry, Resolution};
use sagad::core::id::{Action, Spot};
use sagad::core::input::{Bearing, Forbidden, Input, Order};
use sagad::core::saga::{Chunk, Elements, Progress, Reason, Saga, Status, StepStatus};
use serde_json::{Value, json};

use crate::play::{Play, answer, once, sequence, step};

const SECOND: Duration = Duration::from_secs(1);

fn signal(play: &mut Play, name: &str, id: Option<&str>, payload: Value) -> Result<(), Forbidden> {
    let (name, id) = (name.to_owned(), id.map(str::to_owned));
    play.put(Input::Signal { name, id, payload, actor: None })
}

fn event(play: &mut Play, step: usize, bearing: Bearing, id: Option<&str>, body: Value) {
    let id = id.map(str::to_owned);
    play.put(Input::Event { step, bearing, id, body, headers: json!({}) }).unwrap();
}

fn element(step: usize, item: u32) -> Spot {
    Spot { step, item: Some(item) }
}

/// Names and elements of the commands sent since this was asked before.
fn items(play: &mut Play) -> Vec<String> {
    play.fresh()
}

// ---- publish ----------------------------------------------------------------------------------------------------

const PUBLISH: &str = "[[steps]]\nname = 'tell'\npublish = 'order.placed'\nbody = { order = '{{ input.n }}' }\n";

#[test]
fn a_published_event_succeeds_when_the_broker_confirms_it() {
    let mut play = Play::of(&format!("{PUBLISH}{}", step("after", "")));
    let [Effect::Event(event)] = play.others() else { panic!("{:?}", play.others()) };
    assert_eq!(
        (event.exchange.as_str(), event.routing_key.as_str(), &event.body),
        ("e", "order.placed", &json!({ "order": 1 }))
    );
    assert_eq!(play.due(), None, "it stays in the outbox for as long as the broker is away");
    play.sends(&[]);
    answer(&mut play, 0, Action::Execute, 1, Some(Outcome::Success), Value::Null);
    assert_eq!(play.step("tell"), "succeeded");
    play.sends(&["after 1"]);
    play.success("after 1");
    play.is(Status::Completed);
}

#[test]
fn an_event_on_its_way_is_waited_for_and_at_the_deadline_in_doubt() {
    let toml = "timeout = '1m'\n".to_owned() + PUBLISH + "compensate.command = 'untell'\n";
    let mut play = Play::of(&crate::play::whole(&toml));
    play.order(Order::Cancel { reason: None }).unwrap();
    play.is(Status::Compensating);
    play.sends(&[]);
    answer(&mut play, 0, Action::Execute, 1, Some(Outcome::Success), Value::Null);
    play.sends(&["undo tell 1"]);

    let mut play = Play::of(&crate::play::whole(&toml));
    play.timer();
    assert_eq!(play.step("tell"), "compensating", "what may have gone out is undone");
    assert!(play.command("undo tell 1").in_doubt);
}

#[test]
fn an_event_may_be_given_a_time_and_tries_of_its_own() {
    let more = "timeout = '10s'\nretry.attempts = 2\ncompensate.command = 'untell'\n";
    let mut play = Play::of(&format!("{PUBLISH}{more}"));
    play.timer();
    assert_eq!(play.step("tell"), "scheduled");
    play.timer();
    play.timer();
    let failure = &play.saga.error.as_ref().unwrap().failure;
    assert_eq!((failure.reason, failure.message.as_str()), (Reason::Timeout, "no answer within 10s"));
    play.sends(&["undo tell 1"]);
}

// ---- sleep ------------------------------------------------------------------------------------------------------

#[test]
fn a_sleep_succeeds_when_its_time_has_passed_and_cancelling_wakes_nobody() {
    let toml = format!("{}[[steps]]\nname = 'nap'\nsleep = '24h'\n{}", step("a", ""), step("b", ""));
    let mut play = Play::of(&toml);
    play.success("a 1");
    assert_eq!(play.steps(), ["succeeded", "scheduled", "pending"]);
    let begun = play.now;
    play.fresh();
    play.timer();
    assert_eq!(play.now.since(begun), Duration::from_secs(24 * 3600));
    play.sends(&["b 1"]);

    let mut play = Play::of(&toml);
    play.success("a 1");
    play.fresh();
    play.order(Order::Cancel { reason: None }).unwrap();
    play.sends(&["undo a 1"]);
    assert_eq!(play.step("nap"), "pending");
}

// ---- wait -------------------------------------------------------------------------------------------------------

fn approval() -> String {
    format!(
        "{}[[steps]]\nname = 'approval'\nwait = {{ signal = 'approved' }}\n{}",
        step("a", ""),
        step("b", "body = { by = '{{ steps.approval.reply.by }}' }")
    )
}

#[test]
fn a_wait_ends_with_its_signal_whose_payload_is_its_reply() {
    let mut play = Play::of(&approval());
    play.success("a 1");
    assert_eq!(play.steps(), ["succeeded", "running", "pending"]);
    assert_eq!(play.due(), None, "a wait without a time-out of its own lasts as long as it takes");
    signal(&mut play, "approved", None, json!({ "by": "Ann" })).unwrap();
    assert_eq!(play.command("b 1").body, json!({ "by": "Ann" }));
}

#[test]
fn a_signal_that_comes_early_is_kept_for_its_step() {
    let mut play = Play::delayed(&approval(), json!({}), 5 * SECOND);
    signal(&mut play, "approved", None, json!({ "by": "Bob" })).unwrap();
    play.timer();
    play.success("a 1");
    assert_eq!(play.command("b 1").body, json!({ "by": "Bob" }));
    assert!(play.saga.letters.is_empty());
}

#[test]
fn a_signal_that_comes_twice_counts_once() {
    let two = "[[steps]]\nname = 'x'\nwait = { signal = 'go' }\n[[steps]]\nname = 'y'\nwait = { signal = 'go' }\n";
    let mut play = Play::of(two);
    signal(&mut play, "go", Some("m1"), Value::Null).unwrap();
    signal(&mut play, "go", Some("m1"), Value::Null).unwrap();
    assert_eq!(play.ignored, Some(Ignored::Duplicate));
    assert_eq!(play.steps(), ["succeeded", "running"]);
    signal(&mut play, "go", Some("m2"), Value::Null).unwrap();
    play.is(Status::Completed);
    // Without an id each one counts, and no more than there are steps that wait.
    let mut play = Play::delayed(two, json!({}), SECOND);
    for _ in 0..3 {
        signal(&mut play, "go", None, Value::Null).unwrap();
    }
    assert_eq!((play.saga.letters.len(), play.ignored), (2, Some(Ignored::Settled)));
    play.timer();
    play.is(Status::Completed);
}

#[test]
fn the_latest_signals_are_known_again() {
    let mut play = Play::of("[[steps]]\nname = 'w'\nforeach = '{{ range(80) | list }}'\nwait = { signal = 'go' }\n");
    for nth in 0..65 {
        signal(&mut play, "go", Some(&format!("m{nth}")), Value::Null).unwrap();
    }
    signal(&mut play, "go", Some("m1"), Value::Null).unwrap();
    assert_eq!(play.ignored, Some(Ignored::Duplicate));
    assert_eq!(play.saga.taken.len(), 64);
    signal(&mut play, "go", Some("m0"), Value::Null).unwrap();
    assert_eq!(play.ignored, None, "that is too long ago");
}

#[test]
fn a_signal_that_nobody_waits_for_is_refused() {
    let mut play = Play::of(&approval());
    assert_eq!(signal(&mut play, "aproved", None, Value::Null), Err(Forbidden::NoSuchSignal("aproved".into())));
    play.order(Order::Cancel { reason: None }).unwrap();
    assert!(matches!(signal(&mut play, "approved", None, Value::Null), Err(Forbidden::State(_))));
}

#[test]
fn a_wait_that_times_out_has_failed_and_left_nothing_to_undo() {
    let toml = format!(
        "{}[[steps]]\nname = 'w'\nwait = {{ signal = 'go' }}\ntimeout = '1m'\ncompensate.command = 'unwait'\n",
        step("a", "")
    );
    let mut play = Play::of(&toml);
    play.success("a 1");
    play.fresh();
    play.timer();
    assert_eq!(play.saga.error.as_ref().unwrap().failure.reason, Reason::Timeout);
    play.sends(&["undo a 1"]);
    assert_eq!(play.step("w"), "failed");
}

#[test]
fn what_came_for_a_wait_is_what_its_undo_is_told_of() {
    let wait = "[[steps]]\nname = 'w'\nwait = { signal = 'go' }\ncompensate.command = 'unwait'\n";
    let mut play = Play::of(&(wait.to_owned() + &step("b", "")));
    signal(&mut play, "go", None, json!({ "by": "Ann" })).unwrap();
    play.failure("b 1");
    assert_eq!(play.command("undo w 1").body, json!({ "command": null, "reply": { "by": "Ann" } }));
}

#[test]
fn a_saga_that_turns_round_waits_for_no_signal() {
    let toml = format!("{}[[steps]]\nname = 'w'\nafter = []\nwait = {{ signal = 'go' }}\n", once("a", ""));
    let mut play = Play::of(&toml);
    assert_eq!(play.step("w"), "running");
    play.failure("a 1");
    play.is(Status::Compensated);
}

#[test]
fn a_wait_for_an_event_takes_it_early_or_late_but_once() {
    let toml = format!(
        "key = '{{{{ input.n }}}}'\n{}[[steps]]\nname = 'w'\nwait = {{ exchange = 'x', routing_key = 'r.*', match = 'body.k' }}\n",
        step("a", "")
    );
    let toml = crate::play::whole(&toml);
    let mut play = Play::of(&toml);
    event(&mut play, 1, Bearing::Awaited, Some("1"), json!({ "k": "1" }));
    event(&mut play, 1, Bearing::Awaited, Some("1"), json!({ "k": "1" }));
    assert_eq!(play.ignored, Some(Ignored::Duplicate));
    play.success("a 1");
    play.is(Status::Completed);
    let Progress::Succeeded { reply, .. } = &play.saga.steps[1].unit.execute.progress else { panic!("not done") };
    assert_eq!(**reply, json!({ "k": "1" }));
}

#[test]
fn an_event_is_of_the_step_that_it_is_addressed_to() {
    let wait = |name: &str| {
        format!(
            "[[steps]]\nname = '{name}'\nafter = []\nwait = {{ exchange = 'x', routing_key = 'r', match = 'body.k' }}\n"
        )
    };
    let toml = format!("key = '{{{{ input.n }}}}'\n{}{}", wait("v"), wait("w"));
    let mut play = Play::of(&crate::play::whole(&toml));
    event(&mut play, 1, Bearing::Awaited, None, json!({ "k": "1" }));
    assert_eq!(play.steps(), ["running", "succeeded"]);
}

#[test]
fn more_than_a_saga_keeps_is_told_from_what_adds_nothing() {
    let toml = "key = '{{ input.n }}'\n[[steps]]\nname = 'first'\nsleep = '1h'\n[[steps]]\nname = 'w'\n\
                foreach = '{{ [1, 2, 3] }}'\nwait = { exchange = 'x', routing_key = 'r', match = 'body.k' }\n\
                [[steps]]\nname = 'v'\nwait = { signal = 'go' }\n";
    let mut play = Play::of(&crate::play::whole(toml));
    let large = json!({ "k": "1", "text": "x".repeat(200_000) });
    event(&mut play, 1, Bearing::Awaited, None, large.clone());
    event(&mut play, 1, Bearing::Awaited, None, large.clone());
    assert_eq!((play.saga.letters.len(), play.ignored), (1, Some(Ignored::Full)), "it must be kept elsewhere");
    let refused = signal(&mut play, "go", None, large.clone());
    assert!(matches!(refused, Err(Forbidden::State(why)) if why.contains("too much is waiting")));
    // Once there is room again it is taken.
    play.timer();
    event(&mut play, 1, Bearing::Awaited, None, large);
    assert_eq!(play.saga.letters.len(), 0);
}

#[test]
fn what_a_saga_keeps_is_counted_to_the_byte_and_to_the_letter() {
    const MOST: usize = 256 * 1024;
    let toml = "key = '{{ input.n }}'\n[[steps]]\nname = 'first'\nsleep = '1h'\n[[steps]]\nname = 'w'\n\
                foreach = '{{ range(2000) | list }}'\nwait = { exchange = 'x', routing_key = 'r', match = 'body.k' }\n";
    let toml = crate::play::whole(toml);
    // As JSON they are in quotes.
    let text = |bytes: usize| json!("x".repeat(bytes - 2));
    let kept = |payloads: &[Value]| {
        let mut play = Play::of(&toml);
        for payload in payloads {
            event(&mut play, 1, Bearing::Awaited, None, payload.clone());
        }
        (play.saga.letters.len(), play.ignored)
    };
    assert_eq!(kept(&[text(1_000), text(MOST - 1_000)]), (2, None));
    assert_eq!(kept(&[text(1_000), text(MOST - 999)]), (1, Some(Ignored::Full)));
    assert_eq!(kept(&[text(MOST + 1)]), (1, None), "one is kept whatever its size");
    // As the engine does it, without the checks of every transition.
    let play = Play::of(&toml);
    let mut saga = play.saga.clone();
    for nth in 1..=1_001 {
        let (bearing, body, headers) = (Bearing::Awaited, json!(nth), json!({}));
        let input = Input::Event { step: 1, bearing, id: None, body, headers };
        let decision = decide(&play.definition, &saga, input, play.now).unwrap();
        assert_eq!(decision.ignored, (nth > 1_000).then_some(Ignored::Full), "letter {nth}");
        saga = decision.saga;
    }
}

// ---- events and rules as answers -----------------------------------------------------------------------------------

#[test]
fn events_of_another_service_answer_the_latest_attempt() {
    let toml = crate::play::whole(&format!(
        "key = '{{{{ input.n }}}}'\n{}\
         reply.success = {{ exchange = 'x', routing_key = 'ok', match = 'body.k' }}\n\
         reply.failure = {{ exchange = 'x', routing_key = 'no', match = 'body.k', error = 'body.why' }}\n",
        step("a", "")
    ));
    let mut play = Play::of(&toml);
    event(&mut play, 0, Bearing::Success(Action::Execute), None, json!({ "k": "1", "id": 4 }));
    play.is(Status::Completed);

    let mut play = Play::of(&toml);
    event(&mut play, 0, Bearing::Failure(Action::Execute), None, json!({ "why": "none left" }));
    assert_eq!(play.saga.error.as_ref().unwrap().failure.message, "none left");
    play.is(Status::Compensated);

    // It failed, whether or not it says why.
    let mut play = Play::of(&toml);
    event(&mut play, 0, Bearing::Failure(Action::Execute), None, json!({ "k": "1" }));
    let failure = &play.saga.error.as_ref().unwrap().failure;
    assert!(failure.message.starts_with("reply.failure.error: "), "{failure:?}");
    assert_eq!((failure.reason, &failure.details), (Reason::Failure, &json!({ "k": "1" })));
    event(&mut play, 0, Bearing::Failure(Action::Execute), None, json!({ "why": "none left" }));
    assert_eq!(play.ignored, Some(Ignored::Settled));

    // A success may tell of another attempt than the failure did, or of one that was handled twice: what was done is undone, once.
    for (reply, schema) in
        [(json!({ "k": "1", "id": 4 }), ""), (json!({ "k": "1" }), "reply.schema.required = ['id']\n")]
    {
        let mut play = Play::of(&format!("{toml}{schema}"));
        event(&mut play, 0, Bearing::Failure(Action::Execute), None, json!({ "why": "none left" }));
        play.is(Status::Compensated);
        play.sends(&["a 1"]);
        event(&mut play, 0, Bearing::Success(Action::Execute), None, reply.clone());
        play.is(Status::Compensating);
        play.sends(&["undo a 1"]);
        event(&mut play, 0, Bearing::Success(Action::Execute), None, reply);
        assert_eq!(play.ignored, Some(Ignored::Settled));
        play.success("undo a 1");
        play.is(Status::Compensated);
        play.sends(&[]);
    }

    // An event about a command that was never sent tells nothing.
    let mut play = Play::delayed(&toml, json!({ "n": 1 }), SECOND);
    event(&mut play, 0, Bearing::Success(Action::Execute), None, json!({}));
    assert_eq!(play.ignored, Some(Ignored::Stale));
}

#[test]
fn answers_are_judged_by_the_header_then_the_rules_then_the_body() {
    let rules = "reply.success_when = \"body.status == 'ok'\"\nreply.retry_when = 'body.code in [429, 503]'\n";
    let toml = step("a", rules);
    let judged = |outcome, body| {
        let mut play = Play::of(&toml);
        answer(&mut play, 0, Action::Execute, 1, outcome, body);
        play.step("a")
    };
    assert_eq!(judged(None, json!({ "status": "ok", "code": 1 })), "succeeded");
    assert_eq!(judged(None, json!({ "status": "no", "code": 1 })), "failed");
    assert_eq!(judged(None, json!({ "status": "ok", "code": 503 })), "scheduled");
    assert_eq!(judged(Some(Outcome::Success), json!({ "status": "no", "code": 503 })), "succeeded");
    // What the rules can't judge is no success; and what may have been done is undone.
    assert_eq!(judged(None, json!({ "x": 1 })), "compensating");
    let mut play = Play::of(&toml);
    answer(&mut play, 0, Action::Execute, 1, None, json!({ "x": 1 }));
    assert_eq!(play.saga.error.as_ref().unwrap().failure.details, json!({ "x": 1 }));
    // Either rule may stand alone.
    for (rule, body, expected) in [
        ("reply.success_when = \"body.status == 'ok'\"", json!({ "status": "no" }), "failed"),
        ("reply.success_when = \"body.status == 'ok'\"", json!({ "status": "ok", "error": 1 }), "succeeded"),
        ("reply.retry_when = 'body.code == 503'", json!({ "code": 503 }), "scheduled"),
        ("reply.retry_when = 'body.code == 503'", json!({ "code": 500 }), "succeeded"),
        ("reply.retry_when = 'body.code == 503'", json!({ "code": 500, "error": 1 }), "failed"),
    ] {
        let mut play = Play::of(&step("a", rule));
        answer(&mut play, 0, Action::Execute, 1, None, body);
        assert_eq!(play.step("a"), expected, "{rule}");
    }
}

#[test]
fn a_reply_that_breaks_its_schema_is_a_failure_and_what_was_done_is_undone() {
    let mut play = Play::of(&step("a", "reply.schema = { required = ['id'] }"));
    answer(&mut play, 0, Action::Execute, 1, None, json!({ "nothing": 1 }));
    let failure = &play.saga.error.as_ref().unwrap().failure;
    assert_eq!((failure.reason, &failure.details), (Reason::InvalidReply, &json!({ "nothing": 1 })));
    assert_eq!(play.step("a"), "compensating", "the participant said that it had done it");
    let mut play = Play::of(&step("a", "reply.schema = { required = ['id'] }"));
    answer(&mut play, 0, Action::Execute, 1, None, json!({ "id": 1 }));
    play.is(Status::Completed);
}

// ---- on_timeout ---------------------------------------------------------------------------------------------------

fn probed() -> String {
    once("a", "on_timeout = 'probe'\nprobe = { command = 'a.status', retry = { attempts = 2 } }")
}

#[test]
fn a_probe_decides_what_a_time_out_left_open() {
    let mut play = Play::of(&probed());
    play.timer();
    play.is(Status::Running);
    assert_eq!((play.step("a"), play.command("probe a 1").routing_key.as_str()), ("in_doubt", "a.status"));
    answer(&mut play, 0, Action::Probe, 1, None, json!({ "id": 7 }));
    play.is(Status::Completed);
    assert_eq!(play.saga.steps[0].unit.execute.reply().unwrap()["id"], 7);

    let mut play = Play::of(&probed());
    play.timer();
    answer(&mut play, 0, Action::Probe, 1, Some(Outcome::Failure), json!({ "error": "not done" }));
    play.is(Status::Compensated);
    assert_eq!(play.step("a"), "failed", "there is nothing to undo");
}

#[test]
fn a_probe_without_an_answer_leaves_the_step_in_doubt() {
    let mut play = Play::of(&probed());
    play.timer();
    play.timer();
    play.timer();
    assert!(play.fresh().contains(&"probe a 2".to_owned()));
    play.timer();
    assert!(play.command("undo a 1").in_doubt);
}

#[test]
fn an_answer_that_comes_while_it_is_asked_for_settles_it() {
    let mut play = Play::of(&probed());
    play.timer();
    play.success("a 1");
    play.is(Status::Completed);
    assert_eq!(play.due(), None, "the probe is not waited for any more");
    answer(&mut play, 0, Action::Probe, 1, Some(Outcome::Failure), Value::Null);
    play.is(Status::Completed);
    let mut play = Play::of(&probed());
    play.timer();
    play.failure("a 1");
    play.is(Status::Compensated);
    assert_eq!(play.step("a"), "failed");
}

#[test]
fn a_command_that_comes_back_unhandled_while_it_is_asked_for_settles_it() {
    // Otherwise the step has ended well, and the saga with it, while its probe is under way.
    let mut play = Play::of(&probed().replace("on_timeout", "optional = true\non_timeout"));
    play.timer();
    play.comes_back("a 1", Reason::Expired, false);
    play.is(Status::Completed);
    assert_eq!(play.due(), None, "the probe is not waited for any more");
    answer(&mut play, 0, Action::Probe, 1, Some(Outcome::Success), Value::Null);
    play.is(Status::Completed);
}

#[test]
fn one_attempt_that_nobody_handled_leaves_the_question_after_the_other() {
    let mut play = Play::of(&probed().replace("retry.attempts = 1", "retry.attempts = 2"));
    for _ in 0..3 {
        play.timer();
    }
    play.sends(&["a 1", "a 2", "probe a 1"]);
    play.comes_back("a 1", Reason::Expired, false);
    play.sends(&[]);
    answer(&mut play, 0, Action::Probe, 1, Some(Outcome::Success), Value::Null);
    play.is(Status::Completed);
}

#[test]
fn another_attempt_raises_the_question_anew() {
    let mut play = Play::of(&probed());
    play.timer();
    play.suspend();
    answer(&mut play, 0, Action::Probe, 1, Some(Outcome::Failure), Value::Null);
    play.retry_step("a").unwrap();
    play.timer();
    play.sends(&["a 1", "probe a 1", "a 2", "probe a 2"]);
    answer(&mut play, 0, Action::Probe, 1, Some(Outcome::Success), Value::Null);
    assert_eq!(play.ignored, Some(Ignored::Stale), "that was about the first one");
    // What an operator has found out is not asked for any more.
    play.resolve("a", Resolution::Succeeded).unwrap();
    play.is(Status::Completed);
    assert_eq!(play.due(), None);
}

#[test]
fn a_time_out_can_be_left_to_an_operator() {
    let toml = once("a", "on_timeout = 'suspend'");
    let timed_out = || {
        let mut play = Play::of(&toml);
        play.timer();
        play.waits_for("a");
        play.fresh();
        play
    };
    let mut play = timed_out();
    play.resolve("a", Resolution::Succeeded).unwrap();
    play.is(Status::Completed);
    let mut play = timed_out();
    play.resolve("a", Resolution::Failed).unwrap();
    play.is(Status::Compensated);
    let mut play = timed_out();
    play.resume();
    play.sends(&["a 2"]);
    let mut play = timed_out();
    play.order(Order::Cancel { reason: None }).unwrap();
    play.sends(&["undo a 1"]);
    let mut play = timed_out();
    play.success("a 1");
    play.is(Status::Completed);
    // A business failure is none of its business.
    let mut play = Play::of(&toml);
    play.failure("a 1");
    play.is(Status::Compensated);
}

// ---- pivot --------------------------------------------------------------------------------------------------------

fn pivoted() -> Play {
    let toml = "timeout = '1h'\n".to_owned() + &step("a", "") + &step("p", "pivot = true") + &step("b", "");
    let mut play = Play::of(&crate::play::whole(&toml));
    play.success("a 1");
    play.success("p 1");
    play.fresh();
    play
}

#[test]
fn past_the_pivot_a_transient_failure_is_retried_without_end() {
    let mut play = pivoted();
    for attempt in 1..30 {
        play.retry(&format!("b {attempt}"));
        assert_eq!(play.step("b"), "scheduled", "attempt {attempt}");
        play.timer();
    }
    for attempt in 30..40 {
        play.timer();
        assert_eq!(play.step("b"), "scheduled", "attempt {attempt} timed out");
        play.timer();
    }
    play.success("b 40");
    play.is(Status::Completed);
}

#[test]
fn of_attempts_without_end_a_bounded_number_is_remembered() {
    let mut play = pivoted();
    for attempt in 1..=70 {
        play.comes_back(&format!("b {attempt}"), Reason::Rejected, false);
        play.timer();
    }
    let state = &play.saga.unit(2.into()).unwrap().execute;
    assert_eq!(state.unanswered, std::iter::once(1).chain(8..=70).collect::<Vec<u32>>(), "the first and the last ones");
    assert_eq!(state.held, (1..=64).collect::<Vec<u32>>());
}

#[test]
fn past_the_pivot_a_business_failure_suspends_the_saga() {
    let mut play = pivoted();
    play.failure("b 1");
    play.waits_for("b");
    play.sends(&[]);
    play.resume();
    play.sends(&["b 2"]);
    play.failure("b 2");
    play.waits_for("b");
    play.resolve("b", Resolution::Succeeded).unwrap();
    play.is(Status::Completed);
    // What an earlier attempt did counts all the same.
    let mut play = pivoted();
    play.timer();
    play.timer();
    play.failure("b 2");
    play.waits_for("b");
    play.resume();
    play.sends(&["b 2", "b 3"]);
    play.success("b 1");
    play.is(Status::Completed);
}

#[test]
fn past_the_pivot_there_is_no_deadline_and_no_cancelling() {
    let mut play = pivoted();
    assert!(matches!(play.order(Order::Cancel { reason: None }), Err(Forbidden::State(_))));
    play.now = play.now.plus(2 * Duration::from_secs(3600));
    play.put(Input::Tick).unwrap();
    play.is(Status::Running);
    play.success("b 1");
    play.is(Status::Completed);
}

#[test]
fn before_the_pivot_everything_is_undone() {
    let toml = step("a", "") + &once("p", "pivot = true") + &step("b", "");
    let mut play = Play::of(&toml);
    play.success("a 1");
    play.failure("p 1");
    play.success("undo a 1");
    play.is(Status::Compensated);
}

// ---- foreach ------------------------------------------------------------------------------------------------------

fn each(more: &str) -> String {
    step(
        "a",
        &format!(
            "foreach = '{{{{ input.list }}}}'\nbody = {{ it = '{{{{ item }}}}', at = '{{{{ index }}}}' }}\n{more}"
        ),
    )
}

fn bodies(play: &Play) -> Vec<Value> {
    play.sent.iter().map(|command| command.body.clone()).collect()
}

#[test]
fn a_step_is_done_once_for_each_element_so_many_at_a_time() {
    let toml = each("max_parallel = 2") + &step("b", "body = '{{ steps.a.replies }}'");
    let mut play = Play::with(&toml, json!({ "list": ["x", "y", "z"] }));
    assert_eq!(bodies(&play), [json!({ "it": "x", "at": 0 }), json!({ "it": "y", "at": 1 })]);
    answer(&mut play, element(0, 1), Action::Execute, 1, None, json!("Y"));
    assert_eq!(items(&mut play), ["a[0] 1", "a[1] 1", "a[2] 1"]);
    answer(&mut play, element(0, 0), Action::Execute, 1, None, json!("X"));
    assert_eq!(play.step("a"), "running");
    answer(&mut play, element(0, 2), Action::Execute, 1, None, json!("Z"));
    assert_eq!(play.command("b 1").body, json!(["X", "Y", "Z"]), "replies are in order");
}

#[test]
fn each_element_is_undone_on_its_own_and_only_those_that_were_begun() {
    let toml = each("max_parallel = 2");
    let mut play = Play::with(&toml, json!({ "list": [1, 2, 3, 4] }));
    answer(&mut play, element(0, 0), Action::Execute, 1, None, json!(1));
    play.fresh();
    answer(&mut play, element(0, 1), Action::Execute, 1, Some(Outcome::Failure), json!({ "error": "no" }));
    play.is(Status::Compensating);
    // What is in flight is waited for; what is done is undone meanwhile.
    assert_eq!(items(&mut play), ["undo a[0] 1"]);
    answer(&mut play, element(0, 2), Action::Execute, 1, None, json!(3));
    assert_eq!(items(&mut play), ["undo a[2] 1"]);
    let undo = play.sent.last().unwrap();
    assert_eq!(undo.body, json!({ "command": { "it": 3, "at": 2 }, "reply": 3 }));
    for item in [0, 2] {
        answer(&mut play, element(0, item), Action::Compensate, 1, None, Value::Null);
    }
    play.is(Status::Compensated);
    let error = play.saga.error.as_ref().unwrap();
    assert_eq!((error.step, error.failure.message.as_str()), (Some(0), "no"));
}

#[test]
fn one_element_speaks_for_all() {
    let mut play = Play::with(&each(""), json!({ "list": vec![0; 20] }));
    answer(&mut play, element(0, 19), Action::Execute, 1, None, Value::Null);
    assert_eq!(play.step("a"), "running", "the last one is done, the others are not");
    answer(&mut play, element(0, 17), Action::Execute, 1, Some(Outcome::Failure), json!({ "error": "no" }));
    assert_eq!((play.saga.status(), play.error()), (Status::Compensating, (Some("a"), Reason::Failure)));
}

#[test]
fn no_elements_are_done_at_once_and_what_is_no_list_fails() {
    let mut play = Play::with(&(each("") + &step("b", "body = '{{ steps.a.replies }}'")), json!({ "list": [] }));
    assert_eq!((play.step("a"), play.command("b 1").body.clone()), ("succeeded", json!([])));
    play.success("b 1");
    play.is(Status::Completed);
    let toml = each("when = 'input.list'") + &step("b", "body = '{{ steps.a.replies }}'");
    let play = Play::with(&toml, json!({ "list": [] }));
    assert_eq!((play.step("a"), play.command("b 1").body.clone()), ("skipped", json!([])));
    for (list, why) in [
        (json!({ "a": 1 }), "an object"),
        (json!("abc"), "a string"),
        (json!(null), "null"),
        (json!(true), "a boolean"),
        (json!(3), "a number"),
        (json!(vec![0; 10_001]), "10001 elements, at most 10000"),
    ] {
        let play = Play::with(&each(""), json!({ "list": list }));
        let failure = &play.saga.error.as_ref().unwrap().failure;
        assert_eq!(failure.reason, Reason::Template);
        assert!(failure.message.contains(why), "{} lacks {why}", failure.message);
        play.is(Status::Compensated);
    }
}

#[test]
fn each_element_is_asked_about_on_its_own() {
    let more = "foreach = '{{ input.list }}'\non_timeout = 'probe'\nprobe.command = 'a.status'";
    let mut play = Play::with(&once("a", more), json!({ "list": [1, 2, 3] }));
    answer(&mut play, element(0, 1), Action::Execute, 1, None, Value::Null);
    play.fresh();
    play.timer();
    assert_eq!(items(&mut play), ["probe a[0] 1", "probe a[2] 1"]);
    answer(&mut play, element(0, 2), Action::Probe, 1, Some(Outcome::Success), Value::Null);
    play.is(Status::Running);
    answer(&mut play, element(0, 0), Action::Probe, 1, Some(Outcome::Success), Value::Null);
    play.is(Status::Completed);
}

#[test]
fn an_operator_sees_to_one_element_or_to_all() {
    let toml = each("compensate.retry.attempts = 1").replace("compensate.retry.attempts = 2\n", "");
    let mut play = Play::with(&toml, json!({ "list": [1, 2, 3] }));
    for item in 0..3 {
        let outcome = if item == 2 { Outcome::Failure } else { Outcome::Success };
        answer(&mut play, element(0, item), Action::Execute, 1, Some(outcome), json!({ "error": "no" }));
    }
    for item in 0..2 {
        answer(&mut play, element(0, item), Action::Compensate, 1, Some(Outcome::Failure), json!({ "error": "no" }));
    }
    play.is(Status::Suspended);
    play.fresh();
    let retry = |item| Order::Retry { step: "a".into(), item, reason: None };
    play.order(retry(Some(1))).unwrap();
    assert_eq!(items(&mut play), ["undo a[1] 2"]);
    play.order(retry(None)).unwrap();
    assert_eq!(items(&mut play), ["undo a[0] 2"]);
    let resolve = |item| Order::Resolve {
        step: "a".into(),
        item: Some(item),
        outcome: Resolution::Compensated,
        reply: Value::Null,
        reason: "looked it up".into(),
    };
    assert!(matches!(play.order(resolve(2)), Err(Forbidden::State(_))), "it was never done");
    play.order(resolve(0)).unwrap();
    let undo = |item| play.saga.unit(element(0, item)).unwrap().compensate.progress.clone();
    assert!(matches!((undo(0), undo(1)), (Progress::Succeeded { .. }, Progress::Running { .. })));
    answer(&mut play, element(0, 1), Action::Compensate, 2, None, Value::Null);
    play.is(Status::Compensated);
}

#[test]
fn the_state_alone_tells_how_far_the_elements_are() {
    let mut play = Play::with(&each(""), json!({ "list": [1, 2] }));
    answer(&mut play, element(0, 0), Action::Execute, 1, None, Value::Null);
    let mut saga = play.saga.clone();
    saga.sum_up(&play.definition);
    let alone: Saga = serde_json::from_value(serde_json::to_value(&saga).unwrap()).unwrap();
    assert!(!alone.steps[0].elements.as_ref().unwrap().is_restored());
    let status = alone.steps[0].status(&play.definition.steps[0], play.definition.on_compensation_failure);
    assert_eq!(status, StepStatus::Running);
}

#[test]
fn elements_are_put_together_again_only_where_all_are_there() {
    let list = std::sync::Arc::new(json!(vec![0; 20]));
    let elements = Elements::new(list.clone());
    assert!(elements.units().map(|(item, _)| item).eq(0..20));
    let chunks = |count: usize| -> Vec<Chunk> {
        let stored = elements.chunks()[..count].iter().map(|chunk| serde_json::to_value(&**chunk).unwrap());
        stored.map(|chunk| serde_json::from_value(chunk).unwrap()).collect()
    };
    assert_eq!(Elements::restore(20, list.clone(), chunks(2)), Some(elements.clone()));
    assert_eq!(Elements::restore(20, list.clone(), chunks(1)), None);
    assert_eq!(Elements::restore(21, list, chunks(2)), None);
}

#[test]
fn what_happens_to_one_of_thousands_costs_little() {
    let list: Vec<u32> = (0..2_000).collect();
    let mut play = Play::with(&each("max_parallel = 50"), json!({ "list": list }));
    // As the engine does it, without the checks of every transition.
    let definition = &play.definition;
    let mut saga = play.saga.clone();
    let mut entries = 0;
    for item in 0..2_000 {
        let input = Input::Answer {
            spot: element(0, item),
            action: Action::Execute,
            attempt: 1,
            answer: RawAnswer::new(None, json!(item)),
        };
        let before = saga.steps[0].elements.clone().unwrap();
        let decision = decide(definition, &saga, input, play.now).unwrap();
        let after = decision.saga.steps[0].elements.as_ref().unwrap();
        let changed = before.chunks().iter().zip(after.chunks()).filter(|(a, b)| !std::sync::Arc::ptr_eq(a, b)).count();
        assert!(changed <= 2, "{changed} chunks are written for one answer");
        assert_ne!(before, *after);
        assert!(serde_json::to_string(&decision.saga).unwrap().len() < 2_000, "the state grows with the elements");
        entries += decision.entries.len();
        saga = decision.saga;
    }
    assert_eq!(saga.status(), Status::Completed);
    assert_eq!(entries, 2_000 + 1_950 + 1, "an answer, the next command, and the end");
    play.saga = saga;
}

// ---- late, unreadable, suspended -----------------------------------------------------------------------------------

#[test]
fn a_late_success_that_breaks_its_schema_is_undone_once_more() {
    let mut play = Play::of(&once("a", "reply.schema = { required = ['id'] }"));
    play.timer();
    play.success("undo a 1");
    play.is(Status::Compensated);
    play.fresh();
    answer(&mut play, 0, Action::Execute, 1, None, json!({ "no": "id" }));
    play.is(Status::Compensating);
    play.sends(&["undo a 2"]);
    play.success("undo a 2");
    play.is(Status::Compensated);
}

#[test]
fn what_was_done_and_can_not_be_read_is_undone_once_however_many_attempts_say_so() {
    let toml = step("a", "reply.schema = { required = ['id'] }");
    let mut play = Play::of(&toml);
    play.timer();
    play.timer();
    answer(&mut play, 0, Action::Execute, 2, None, json!({ "no": "id" }));
    play.success("undo a 1");
    play.is(Status::Compensated);
    play.fresh();
    answer(&mut play, 0, Action::Execute, 1, None, json!({ "no": "id" }));
    assert_eq!(play.ignored, Some(Ignored::Settled));
    play.is(Status::Compensated);
    play.sends(&[]);
}

#[test]
fn what_was_done_and_can_not_be_read_stays_done_if_an_operator_asks_for_other_attempts() {
    let mut play = Play::of(&once("a", "reply.schema = { required = ['id'] }"));
    play.suspend();
    answer(&mut play, 0, Action::Execute, 1, None, json!({ "no": "id" }));
    play.retry_step("a").unwrap();
    play.sends(&["a 1", "a 2"]);
    answer(&mut play, 0, Action::Execute, 1, None, json!({ "no": "id" }));
    assert_eq!((play.ignored, play.step("a")), (Some(Ignored::Stale), "running"), "it has had its say");
    play.comes_back("a 2", Reason::Unroutable, false);
    play.sends(&["undo a 1"]);
    assert!(play.command("undo a 1").in_doubt);
}

#[test]
fn a_probe_that_nobody_can_read_leaves_the_step_in_doubt() {
    let toml = once(
        "a",
        "on_timeout = 'probe'\nprobe = { command = 'a.status', retry = { attempts = 1 }, reply.schema = { required = ['id'] } }",
    );
    let mut play = Play::of(&toml);
    play.timer();
    answer(&mut play, 0, Action::Probe, 1, None, json!({ "no": "id" }));
    assert!(play.command("undo a 1").in_doubt);
}

#[test]
fn a_signal_that_comes_in_time_counts_even_if_the_saga_is_suspended() {
    let toml = format!("[[steps]]\nname = 'w'\nwait = {{ signal = 'go' }}\ntimeout = '1m'\n{}", step("a", ""));
    let mut play = Play::of(&toml);
    play.order(Order::Suspend { reason: None }).unwrap();
    signal(&mut play, "go", None, Value::Null).unwrap();
    play.now = play.now.plus(Duration::from_secs(120));
    play.put(Input::Tick).unwrap();
    assert_eq!(play.step("w"), "succeeded");
    play.sends(&[]);
    play.resume();
    play.sends(&["a 1"]);
}

#[test]
fn past_the_pivot_a_wait_that_was_in_vain_takes_its_signal_later() {
    let toml =
        format!("{}[[steps]]\nname = 'w'\nwait = {{ signal = 'go' }}\ntimeout = '1m'\n", step("p", "pivot = true"));
    let mut play = Play::of(&toml);
    play.success("p 1");
    play.timer();
    play.waits_for("w");
    signal(&mut play, "go", None, Value::Null).unwrap();
    play.resume();
    play.is(Status::Completed);
}

#[test]
fn what_is_begun_again_does_not_wait_for_its_delay_again() {
    // A wait has no attempts that would tell that it had begun.
    let wait = "[[steps]]\nname = 'w'\nwait = { signal = 'go' }\ndelay = '10s'\ntimeout = '1m'\n";
    let mut play = Play::of(&(step("p", "pivot = true") + wait));
    play.success("p 1");
    assert_eq!(play.step("w"), "scheduled");
    play.timer();
    play.timer();
    play.waits_for("w");
    play.resume();
    assert_eq!(play.step("w"), "running");
}

// ---- lock and max_running -------------------------------------------------------------------------------------------

#[test]
fn a_gated_saga_is_held_until_it_is_let_in() {
    let toml =
        crate::play::whole(&format!("max_running = 1\nlock = {{ key = '{{{{ input.n }}}}' }}\n{}", sequence(&["a"])));
    let mut play = Play::of(&toml);
    play.is(Status::Pending);
    assert_eq!((play.saga.lock.as_deref(), play.due()), (Some("1"), None));
    play.put(Input::Tick).unwrap();
    play.sends(&[]);
    play.suspend();
    play.put(Input::Admit).unwrap();
    play.is(Status::Suspended);
    play.resume();
    play.put(Input::Admit).unwrap();
    play.sends(&["a 1"]);
    let told = play.saga.entries;
    play.put(Input::Admit).unwrap();
    assert_eq!(play.saga.entries, told, "it begins once");
    let mut play = Play::of(&toml);
    play.order(Order::Cancel { reason: None }).unwrap();
    play.is(Status::Compensated);
    assert!(!play.journal.iter().flat_map(|(_, entries)| entries).any(|entry| matches!(entry, Entry::Sent { .. })));
}
