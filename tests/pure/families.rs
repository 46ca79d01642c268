//! Sagas that run sagas: orders to children, their answers, and what they leave behind.

use std::time::Duration;

use sagad::core::answer::Outcome;
use sagad::core::decide::{Ask, ChildOrder, Effect, Ignored, end_of};
use sagad::core::entry::Resolution;
use sagad::core::id::{Action, SagaId, Ticket};
use sagad::core::input::{Input, Order};
use sagad::core::saga::{Parent, Progress, Reason, Status};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::play::{Play, answer, once, sequence, step};

const SECOND: Duration = Duration::from_secs(1);

/// How a child ends that failed, and has undone all that it did.
fn undone(why: &str) -> Value {
    json!({ "error": { "message": why, "details": { "status": "compensated" } } })
}

/// How a child ends that could not undo all that it did.
fn left_something() -> Value {
    json!({ "error": { "message": "no refund", "details": { "status": "failed" } } })
}

fn parent() -> String {
    format!(
        "{}[[steps]]\nname = 'ship'\nsaga = 'shipment'\ninput = {{ order = '{{{{ input.n }}}}' }}\n{}",
        step("a", ""),
        once("z", "")
    )
}

fn order(play: &Play) -> ChildOrder {
    let mut orders = play.others().iter().filter_map(|effect| match effect {
        Effect::Child(order) => Some(order.clone()),
        _ => None,
    });
    orders.next_back().expect("an order to a child")
}

#[test]
fn a_child_takes_its_order_and_answers_at_its_end() {
    let mut play = Play::of(&parent());
    play.success("a 1");
    let ChildOrder { ticket, child, ask } = order(&play);
    let Ask::Start { definition, input, step, depth, .. } = ask else { panic!("{ask:?}") };
    assert_eq!((&*definition, input, &*step, depth), ("shipment", json!({ "order": 1 }), "ship", 1));
    assert_eq!((ticket.spot, ticket.action, ticket.attempt), (1.into(), Action::Execute, 1));
    assert_eq!(child.0.get_version_num(), 7);
    assert!(play.due().is_some(), "that it takes the order is waited for");
    answer(&mut play, 1, Action::Execute, 1, Some(Outcome::Pending), Value::Null);
    assert_eq!(play.due(), None, "how long it then takes is its own affair");
    answer(&mut play, 1, Action::Execute, 1, Some(Outcome::Success), json!({ "parcel": 5 }));
    play.fresh();
    play.failure("z 1");
    // The completed child's own steps are undone.
    let undo = order(&play);
    assert_eq!((undo.child, &undo.ask, undo.ticket.action), (child, &Ask::Undo, Action::Compensate));
    play.sends(&[]);
    answer(&mut play, 1, Action::Compensate, 1, Some(Outcome::Pending), Value::Null);
    answer(&mut play, 1, Action::Compensate, 1, Some(Outcome::Success), Value::Null);
    play.sends(&["undo a 1"]);
}

#[test]
fn an_order_that_is_not_taken_is_given_again_to_the_same_child() {
    let mut play = Play::of(&parent());
    play.success("a 1");
    let first = order(&play);
    play.timer();
    play.timer();
    let second = order(&play);
    assert_eq!((first.child, second.ticket.attempt), (second.child, 2));
    // Whichever order it took.
    answer(&mut play, 1, Action::Execute, 1, Some(Outcome::Pending), Value::Null);
    assert_eq!(play.due(), None);
    answer(&mut play, 1, Action::Execute, 1, Some(Outcome::Failure), json!({ "error": "no truck" }));
    play.sends(&["a 1", "undo a 1"]);
    assert_eq!(play.step("ship"), "failed");
}

#[test]
fn a_child_has_the_time_that_its_step_gives_it_and_no_less() {
    let toml = "timeout = '1m'\n[[steps]]\nname = 'ship'\nsaga = 'shipment'\ntimeout = '1h'\ncompensate.timeout = '2h'\n\
                [[steps]]\nname = 'z'\ncommand = 'z.do'\ncompensate = false\n";
    let hours = |n: u64| Duration::from_secs(n * 3600);
    let deadline = |play: &Play, action| match play.saga.unit(0.into()).unwrap().action(action).progress {
        Progress::Running { deadline } => deadline.map(|at| at.since(play.now)),
        ref other => panic!("{other:?}"),
    };
    let mut play = Play::of(&crate::play::whole(toml));
    answer(&mut play, 0, Action::Execute, 1, Some(Outcome::Pending), Value::Null);
    assert_eq!(deadline(&play, Action::Execute), Some(hours(1)), "the saga's own deadline reaches it in another way");
    answer(&mut play, 0, Action::Execute, 1, Some(Outcome::Success), Value::Null);
    play.failure("z 1");
    answer(&mut play, 0, Action::Compensate, 1, Some(Outcome::Pending), Value::Null);
    assert_eq!(deadline(&play, Action::Compensate), Some(hours(2)));
}

#[test]
fn sagas_below_sagas_end_somewhere() {
    let below = |depth| {
        let parent = Parent {
            saga: SagaId(Uuid::from_u128(99)),
            spot: 3.into(),
            step: "s".into(),
            attempt: 1,
            depth,
            undo: None,
        };
        Play::below("[[steps]]\nname = 'ship'\nsaga = 'shipment'\n", json!({}), parent)
    };
    let play = below(7);
    assert!(matches!(order(&play).ask, Ask::Start { depth: 8, .. }));
    let play = below(8);
    play.is(Status::Compensated);
    assert_eq!(play.error(), (Some("ship"), Reason::Child));
    assert!(!play.others().iter().any(|effect| matches!(effect, Effect::Child(_))));
}

#[test]
fn cancelling_reaches_a_child_that_is_under_way() {
    let mut play = Play::of(&parent());
    play.success("a 1");
    answer(&mut play, 1, Action::Execute, 1, Some(Outcome::Pending), Value::Null);
    play.fresh();
    play.order(Order::Cancel { reason: None }).unwrap();
    assert_eq!(order(&play).ask, Ask::Undo);
    play.sends(&[]);
    answer(&mut play, 1, Action::Compensate, 1, Some(Outcome::Success), Value::Null);
    play.sends(&["undo a 1"]);
}

/// A child, its parent's ticket, and what it tells its parent.
fn child(toml: &str) -> (Play, Ticket) {
    let saga = SagaId(Uuid::from_u128(99));
    let parent = Parent { saga, spot: 3.into(), step: "ship".into(), attempt: 1, depth: 1, undo: None };
    let play = Play::below(toml, json!({ "n": 1 }), parent);
    (play, Ticket { saga, spot: 3.into(), action: Action::Compensate, attempt: 1 })
}

fn told(play: &Play) -> Vec<(Action, u32, Outcome)> {
    let answers = play.others().iter().filter_map(|effect| match effect {
        Effect::Answer(answer) => Some((answer.ticket.action, answer.ticket.attempt, answer.answer.outcome.unwrap())),
        _ => None,
    });
    answers.collect()
}

#[test]
fn a_child_tells_its_parent_how_it_ends() {
    let (mut play, _) = child(&sequence(&["a"]));
    assert_eq!(told(&play), [(Action::Execute, 1, Outcome::Pending)]);
    play.success("a 1");
    assert_eq!(told(&play)[1..], [(Action::Execute, 1, Outcome::Success)]);
    let (mut play, _) = child(&sequence(&["a"]));
    play.failure("a 1");
    assert_eq!(told(&play)[1..], [(Action::Execute, 1, Outcome::Failure)]);
}

#[test]
fn a_child_that_has_ended_tells_whoever_asks_it_again_to_begin() {
    // An operator may have the step tried again long after the child's answer came.
    let (mut play, _) = child(&(sequence(&["a"]) + "[output]\nsum = 7\n"));
    assert_eq!(end_of(&play.definition, &play.saga), None, "it will answer");
    play.success("a 1");
    let answer = end_of(&play.definition, &play.saga).expect("its answer");
    assert_eq!((answer.outcome, answer.body), (Some(Outcome::Success), json!({ "sum": 7 })));
    let (mut play, _) = child(&sequence(&["a"]));
    play.failure("a 1");
    assert_eq!(end_of(&play.definition, &play.saga).expect("its answer").outcome, Some(Outcome::Failure));
    let mut alone = Play::of(&sequence(&["a"]));
    alone.success("a 1");
    assert_eq!(end_of(&alone.definition, &alone.saga), None, "nobody runs it");
}

#[test]
fn a_completed_child_is_undone_step_by_step_in_reverse() {
    let (mut play, by) = child(&sequence(&["a", "b"]));
    play.success("a 1");
    play.success("b 1");
    play.is(Status::Completed);
    play.fresh();
    play.put(Input::Undo { by }).unwrap();
    play.sends(&["undo b 1"]);
    play.put(Input::Undo { by }).unwrap();
    assert_eq!(play.ignored, Some(Ignored::Duplicate));
    play.success("undo b 1");
    play.success("undo a 1");
    play.is(Status::Compensated);
    let undone = [(Action::Compensate, 1, Outcome::Pending), (Action::Compensate, 1, Outcome::Success)];
    assert_eq!(told(&play)[2..], undone);
    // Asked again, it says so again.
    play.put(Input::Undo { by: Ticket { attempt: 2, ..by } }).unwrap();
    assert_eq!(told(&play).last(), Some(&(Action::Compensate, 2, Outcome::Success)));
}

#[test]
fn nobody_but_its_parent_undoes_a_child_and_none_past_its_pivot() {
    let (mut play, by) = child(&sequence(&["a"]));
    play.put(Input::Undo { by: Ticket { saga: SagaId(Uuid::from_u128(98)), ..by } }).unwrap();
    assert_eq!(play.ignored, Some(Ignored::UnknownAttempt));
    let (mut play, by) = child(&(step("a", "pivot = true") + &step("b", "")));
    play.success("a 1");
    play.put(Input::Undo { by }).unwrap();
    assert_eq!(told(&play).last(), Some(&(Action::Compensate, 1, Outcome::Failure)));
    play.is(Status::Running);
}

#[test]
fn a_child_that_left_something_behind_makes_its_parent_a_failure() {
    let mut play = Play::of(&parent());
    play.success("a 1");
    let body = json!({ "error": { "message": "no refund", "details": { "status": "failed" } } });
    answer(&mut play, 1, Action::Execute, 1, Some(Outcome::Failure), body);
    play.success("undo a 1");
    play.is(Status::Failed);
    assert_eq!(play.step("ship"), "compensation_failed");
    // And the child says so.
    let toml = "on_compensation_failure = 'continue'\n".to_owned() + &sequence(&["a", "b"]);
    let (mut play, _) = child(&crate::play::whole(&toml));
    play.success("a 1");
    play.failure("b 1");
    play.failure("undo a 1");
    play.timer();
    play.failure("undo a 2");
    play.is(Status::Failed);
    let Some(Effect::Answer(last)) = play.others().last() else { panic!("it says nothing") };
    assert_eq!(last.answer.body["error"]["details"]["status"], "failed");
}

#[test]
fn a_child_that_has_failed_is_tried_again_as_another_one() {
    let toml = format!("{}[[steps]]\nname = 'ship'\nsaga = 'shipment'\n", step("p", "pivot = true"));
    let mut play = Play::of(&toml);
    play.success("p 1");
    let first = order(&play);
    answer(&mut play, 1, Action::Execute, 1, Some(Outcome::Failure), undone("no truck"));
    play.waits_for("ship");
    play.now = play.now.plus(SECOND);
    play.resume();
    let second = order(&play);
    assert_eq!((second.ticket.attempt, second.child == first.child), (2, false));
    answer(&mut play, 1, Action::Execute, 1, Some(Outcome::Failure), undone("no truck"));
    assert_eq!(play.ignored, Some(Ignored::Stale), "the first one's word does not count any more");
    play.comes_back("ship 1", Reason::Rejected, true);
    assert_eq!(play.ignored, Some(Ignored::Settled), "nor does the broker's of it");
    answer(&mut play, 1, Action::Execute, 2, Some(Outcome::Success), Value::Null);
    play.is(Status::Completed);
}

#[test]
fn a_child_that_has_not_answered_stays_the_one_whatever_is_tried_again() {
    // It never took its order.
    let mut play = Play::of(&parent());
    play.success("a 1");
    let first = order(&play);
    for _ in 0..9 {
        play.timer();
        play.timer();
    }
    play.suspend();
    play.timer();
    play.retry_step("ship").unwrap();
    let again = order(&play);
    assert_eq!((again.child, again.ticket.attempt), (first.child, 11));
    // It could not be undone.
    let mut play = Play::of(&parent().replace("saga = 'shipment'", "saga = 'shipment'\ncompensate.retry.attempts = 1"));
    play.success("a 1");
    answer(&mut play, 1, Action::Execute, 1, Some(Outcome::Success), Value::Null);
    play.failure("z 1");
    play.timer();
    play.waits_for("ship");
    play.resume();
    assert_eq!((order(&play).child, order(&play).ticket.attempt), (first.child, 2));
    answer(&mut play, 1, Action::Compensate, 1, Some(Outcome::Success), Value::Null);
    assert_eq!(play.step("ship"), "compensated");
    answer(&mut play, 1, Action::Compensate, 2, Some(Outcome::Failure), Value::Null);
    assert_eq!(play.ignored, Some(Ignored::Settled));
}

#[test]
fn a_child_that_has_ended_well_after_all_is_not_begun_again() {
    let toml =
        format!("{}[[steps]]\nname = 'ship'\nsaga = 'shipment'\ncompensate = false\n", step("p", "pivot = true"));
    let mut play = Play::of(&toml);
    play.success("p 1");
    play.timer();
    play.timer();
    let left = json!({ "error": { "message": "no refund", "details": { "status": "failed" } } });
    answer(&mut play, 1, Action::Execute, 2, Some(Outcome::Failure), left);
    play.waits_for("ship");
    answer(&mut play, 1, Action::Execute, 1, Some(Outcome::Success), Value::Null);
    play.is(Status::Completed);
    assert_eq!((order(&play).ticket.attempt, play.step("ship")), (2, "succeeded"));
}

#[test]
fn a_child_that_has_answered_is_not_waited_for_whatever_comes_late() {
    // It would be waited for for ever: a child that has ended does not answer again.
    let mut play =
        Play::of(&(parent() + "[[steps]]\nname = 'y'\ncommand = 'y.do'\ncompensate = false\nretry.attempts = 1\n"));
    for done in ["a 1", "ship 1", "z 1"] {
        play.success(done);
    }
    play.failure("y 1");
    play.success("undo z 1");
    answer(&mut play, 1, Action::Compensate, 1, Some(Outcome::Failure), Value::Null);
    let due = play.due().expect("it is asked again");
    answer(&mut play, 1, Action::Compensate, 1, Some(Outcome::Pending), Value::Null);
    assert_eq!(play.due(), Some(due), "late word of the order that was answered");
    play.timer();
    assert_eq!(order(&play).ticket.attempt, 2);
    answer(&mut play, 1, Action::Compensate, 1, Some(Outcome::Pending), Value::Null);
    assert!(play.due().is_some(), "the second order has a time of its own");
    answer(&mut play, 1, Action::Compensate, 1, Some(Outcome::Failure), Value::Null);
    assert!(play.saga.unit(1.into()).unwrap().compensate.in_flight(), "late word of the first");
    answer(&mut play, 1, Action::Compensate, 2, Some(Outcome::Pending), Value::Null);
    assert_eq!(play.due(), None, "now it has the order");
}

#[test]
fn a_child_that_could_not_undo_itself_is_asked_again_even_if_its_order_was_taken_for_lost() {
    let mut play = Play::of(&parent());
    play.success("a 1");
    play.success("ship 1");
    play.failure("z 1");
    let lost = play.due().expect("the order has a time to be taken up in");
    play.timer();
    assert!(play.now >= lost, "it was not");
    answer(&mut play, 1, Action::Compensate, 1, Some(Outcome::Failure), json!({ "error": "it declined" }));
    let due = play.due().expect("it is asked again");
    answer(&mut play, 1, Action::Compensate, 1, Some(Outcome::Pending), Value::Null);
    assert_eq!(play.due(), Some(due), "an older word of the order that was answered");
    play.timer();
    assert_eq!(order(&play).ticket.attempt, 2);
}

/// A child that has not answered is told to undo whatever it did; perhaps there is none yet.
fn cancelled(undo_refused: bool) -> Play {
    let mut play = Play::of(&parent());
    play.success("a 1");
    play.order(Order::Cancel { reason: None }).unwrap();
    if undo_refused {
        let why = json!({ "error": "there is no saga yet" });
        answer(&mut play, 1, Action::Compensate, 1, Some(Outcome::Retry), why);
    }
    play.fresh();
    play
}

#[test]
fn a_child_that_was_refused_after_its_undo_was_asked_for_has_nothing_to_undo() {
    for undo_refused in [true, false] {
        let mut play = cancelled(undo_refused);
        answer(&mut play, 1, Action::Execute, 1, Some(Outcome::Failure), json!({ "error": "its key is in use" }));
        play.sends(&["undo a 1"]);
        assert_eq!(play.step("ship"), "failed");
    }
}

#[test]
fn a_child_that_left_something_behind_has_whatever_was_asked_of_it_by_then() {
    let once = parent().replace("saga = 'shipment'", "saga = 'shipment'\ncompensate.retry.attempts = 1");
    for (toml, undo_refused) in [(parent(), true), (parent(), false), (once, true)] {
        let mut play = Play::of(&toml);
        play.success("a 1");
        play.order(Order::Cancel { reason: None }).unwrap();
        if undo_refused {
            answer(&mut play, 1, Action::Compensate, 1, Some(Outcome::Failure), left_something());
        }
        answer(&mut play, 1, Action::Execute, 1, Some(Outcome::Failure), left_something());
        assert_eq!(play.step("ship"), "compensation_failed");
        play.success("undo a 1");
        play.is(Status::Failed);
        // What the undo comes to is no news.
        answer(&mut play, 1, Action::Compensate, 1, Some(Outcome::Failure), left_something());
        assert_eq!(play.ignored, Some(Ignored::Stale));
        play.is(Status::Failed);
    }
}

#[test]
fn a_child_that_left_something_behind_says_so_even_if_its_parent_has_ended() {
    let toml = "timeout = '5s'\n[[steps]]\nname = 'ship'\nsaga = 'shipment'\ncompensate = false\n";
    let mut play = Play::of(&crate::play::whole(toml));
    answer(&mut play, 0, Action::Execute, 1, Some(Outcome::Pending), Value::Null);
    play.timer();
    play.is(Status::Compensated);
    answer(&mut play, 0, Action::Execute, 1, Some(Outcome::Failure), left_something());
    play.is(Status::Failed);
    assert_eq!(play.step("ship"), "compensation_failed");
}

#[test]
fn once_a_child_has_told_that_it_is_undone_that_it_could_not_be_is_an_older_word() {
    let mut play = Play::of(&parent());
    play.success("a 1");
    play.order(Order::Cancel { reason: None }).unwrap();
    answer(&mut play, 1, Action::Compensate, 1, Some(Outcome::Success), Value::Null);
    play.success("undo a 1");
    play.is(Status::Compensated);
    answer(&mut play, 1, Action::Execute, 1, Some(Outcome::Failure), left_something());
    play.is(Status::Compensated);
    assert_eq!(play.step("ship"), "compensated");
}

#[test]
fn a_child_that_there_never_was_is_not_asked_to_undo_anything() {
    for undo_refused in [true, false] {
        let mut play = cancelled(undo_refused);
        play.comes_back("ship 1", Reason::Unroutable, false);
        play.sends(&["undo a 1"]);
        assert_eq!(play.step("ship"), "failed");
        play.success("undo a 1");
        play.is(Status::Compensated);
    }
}

#[test]
fn a_child_that_left_something_behind_past_the_pivot_is_tried_again_or_resolved() {
    let failed = || {
        let mut play = Play::of(&format!("{}[[steps]]\nname = 'ship'\nsaga = 'shipment'\n", step("p", "pivot = true")));
        play.success("p 1");
        answer(&mut play, 1, Action::Execute, 1, Some(Outcome::Failure), left_something());
        play.waits_for("ship");
        play
    };
    let mut play = failed();
    play.now = play.now.plus(SECOND);
    play.retry_step("ship").unwrap();
    assert_eq!((order(&play).ticket.attempt, play.step("ship")), (2, "running"));
    answer(&mut play, 1, Action::Execute, 2, Some(Outcome::Success), Value::Null);
    play.is(Status::Completed);
    assert_eq!(play.step("ship"), "succeeded");

    let mut play = failed();
    play.resolve("ship", Resolution::Succeeded).unwrap();
    play.is(Status::Completed);
    assert_eq!(play.step("ship"), "succeeded");
}

#[test]
fn at_the_deadline_nothing_is_waited_for_whenever_the_saga_turned_round() {
    let toml = "timeout = '1m'\n".to_owned()
        + "[[steps]]\nname = 'b'\ncommand = 'b.do'\ncompensate.command = 'b.undo'\n"
        + "[[steps]]\nname = 'c'\nafter = ['b']\ncommand = 'c.do'\ncompensate = false\n"
        + "[[steps]]\nname = 'ship'\nafter = ['b']\nsaga = 'shipment'\ncompensate = false\n";
    let mut play = Play::of(&crate::play::whole(&toml));
    play.success("b 1");
    answer(&mut play, 2, Action::Execute, 1, Some(Outcome::Pending), Value::Null);
    play.failure("c 1");
    play.fresh();
    play.is(Status::Compensating);
    let deadline = play.saga.deadline.unwrap();
    assert_eq!(play.due(), Some(deadline), "the child is waited for until then");
    play.timer();
    play.sends(&["undo b 1"]);
    assert_eq!((play.now, play.step("ship")), (deadline, "in_doubt"));
    play.success("undo b 1");
    play.is(Status::Compensated);
}

#[test]
fn a_child_that_left_something_behind_before_the_pivot_is_not_replaced() {
    // It is optional, and something else is under way: the saga goes on.
    let toml = "[[steps]]\nname = 'ship'\nsaga = 'shipment'\noptional = true\n\
                [[steps]]\nname = 'x'\nafter = []\ncommand = 'x.do'\ncompensate.command = 'x.undo'\n";
    let mut play = Play::of(toml);
    answer(&mut play, 0, Action::Execute, 1, Some(Outcome::Failure), left_something());
    play.is(Status::Running);
    assert!(play.retry_step("ship").is_err(), "nobody would know any more what is left of the first one");
    play.failure("x 1");
    play.is(Status::Failed);
    assert_eq!(play.step("ship"), "compensation_failed");
}

#[test]
fn whoever_began_a_child_its_end_is_heard() {
    let second_order = || {
        let mut play = Play::of(&parent());
        play.success("a 1");
        play.timer();
        play.timer();
        assert_eq!(order(&play).ticket.attempt, 2);
        play
    };
    // The first order was refused, and the second begins it.
    let mut play = second_order();
    answer(&mut play, 1, Action::Execute, 1, Some(Outcome::Failure), json!({ "error": "it is not loaded" }));
    play.success("undo a 1");
    play.is(Status::Compensated);
    answer(&mut play, 1, Action::Execute, 2, Some(Outcome::Failure), left_something());
    play.is(Status::Failed);
    assert_eq!(play.step("ship"), "compensation_failed");
    // The second order began it, and the first comes back.
    let mut play = second_order();
    answer(&mut play, 1, Action::Execute, 2, Some(Outcome::Failure), left_something());
    play.comes_back("ship 1", Reason::Unroutable, false);
    play.success("undo a 1");
    play.is(Status::Failed);
}

#[test]
fn a_pivot_that_succeeds_on_the_way_back_lifts_no_deadline() {
    let toml = "timeout = '1m'\n[[steps]]\nname = 'c'\nafter = []\ncommand = 'c.do'\ncompensate = false\n".to_owned()
        + "[[steps]]\nname = 'p'\nafter = []\ncommand = 'p.do'\npivot = true\ncompensate.command = 'p.undo'\n"
        + "[[steps]]\nname = 'ship'\nafter = []\nsaga = 'shipment'\ncompensate = false\n";
    let mut play = Play::of(&crate::play::whole(&toml));
    answer(&mut play, 2, Action::Execute, 1, Some(Outcome::Pending), Value::Null);
    play.failure("c 1");
    play.success("p 1");
    play.success("undo p 1");
    play.is(Status::Compensating);
    assert_eq!(play.due(), play.saga.deadline);
    play.timer();
    play.is(Status::Compensated);
    assert_eq!(play.step("ship"), "in_doubt");
}

#[test]
fn a_child_whose_order_was_refused_is_the_same_one_when_it_is_tried_again() {
    let mut play = Play::of(&format!("{}[[steps]]\nname = 'ship'\nsaga = 'shipment'\n", step("p", "pivot = true")));
    play.success("p 1");
    let first = order(&play);
    let refusal = json!({ "error": { "code": "unknown_definition", "message": "it is not loaded" } });
    answer(&mut play, 1, Action::Execute, 1, Some(Outcome::Failure), refusal.clone());
    play.waits_for("ship");
    play.now = play.now.plus(SECOND);
    play.resume();
    let second = order(&play);
    assert_eq!((second.ticket.attempt, second.child), (2, first.child), "another order may have begun it");
    answer(&mut play, 1, Action::Execute, 1, Some(Outcome::Failure), refusal);
    assert_eq!(play.ignored, Some(Ignored::Stale), "the first refusal, told again");
    answer(&mut play, 1, Action::Execute, 2, Some(Outcome::Success), Value::Null);
    play.is(Status::Completed);
}

#[test]
fn a_child_that_could_not_undo_itself_says_so_even_if_its_undo_was_called_off() {
    let mut play = Play::of(&parent());
    play.success("a 1");
    play.timer();
    play.timer();
    play.order(Order::Cancel { reason: None }).unwrap();
    // The first order has begun it, the second is refused.
    answer(&mut play, 1, Action::Execute, 2, Some(Outcome::Failure), json!({ "error": "it is not loaded" }));
    play.success("undo a 1");
    play.is(Status::Compensated);
    answer(&mut play, 1, Action::Compensate, 1, Some(Outcome::Failure), left_something());
    play.is(Status::Failed);
    assert_eq!(play.step("ship"), "compensation_failed");
    answer(&mut play, 1, Action::Compensate, 1, Some(Outcome::Failure), left_something());
    assert_eq!(play.ignored, Some(Ignored::Stale));
}

#[test]
fn a_child_that_was_begun_by_another_copy_of_its_order_is_undone() {
    let mut play = Play::of(&parent());
    play.success("a 1");
    play.comes_back("ship 1", Reason::Unroutable, false);
    play.order(Order::Cancel { reason: None }).unwrap();
    play.success("undo a 1");
    play.is(Status::Compensated);
    play.fresh();
    answer(&mut play, 1, Action::Execute, 1, Some(Outcome::Success), Value::Null);
    play.is(Status::Compensating);
    assert_eq!(order(&play).ask, Ask::Undo);
    answer(&mut play, 1, Action::Compensate, 1, Some(Outcome::Success), Value::Null);
    play.is(Status::Compensated);
}

#[test]
fn as_long_as_one_order_may_have_begun_it_a_child_is_asked_to_undo() {
    let mut play = Play::of(&parent());
    play.success("a 1");
    play.timer();
    play.timer();
    play.order(Order::Cancel { reason: None }).unwrap();
    play.comes_back("ship 1", Reason::Unroutable, false);
    assert_eq!(play.step("ship"), "compensating", "the second order may have begun it");
    assert_eq!((order(&play).ask, order(&play).ticket.attempt), (Ask::Undo, 1), "and is asked already");
    play.comes_back("ship 2", Reason::Unroutable, false);
    play.success("undo a 1");
    play.is(Status::Compensated);
}

#[test]
fn an_old_word_of_an_undo_does_not_stand_for_the_one_that_is_owed() {
    let mut play = Play::of(&parent());
    play.success("a 1");
    play.order(Order::Cancel { reason: None }).unwrap();
    play.suspend();
    answer(&mut play, 1, Action::Execute, 1, Some(Outcome::Success), Value::Null);
    answer(&mut play, 1, Action::Compensate, 1, Some(Outcome::Failure), left_something());
    assert_eq!(play.ignored, Some(Ignored::Stale));
    play.resume();
    assert_eq!((order(&play).ask, order(&play).ticket.attempt), (Ask::Undo, 2));
}
