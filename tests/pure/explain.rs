//! What an operator is told of a saga in each situation that it can be in.

use std::time::Duration;

use sagad::core::answer::{Outcome, RawAnswer};
use sagad::core::entry::Resolution;
use sagad::core::id::{Action, SagaId, Spot};
use sagad::core::input::Input;
use sagad::core::saga::Status;
use sagad::explain::{Explanation, Kind, explain, text};
use serde_json::json;

use crate::play::{Play, once, sequence, step, whole};

fn explained(play: &Play) -> Explanation {
    explain(&play.definition, &play.saga, play.now)
}

/// The whole note, with `ID` for the saga's id.
#[track_caller]
fn says(play: &Play, expected: &str) {
    let note = text(&explained(play)).replace(&play.saga.id.to_string(), "ID");
    assert_eq!(note.trim(), expected.trim(), "\n{note}");
}

/// A line of the note that begins like this says this.
#[track_caller]
fn tells(play: &Play, expected: &str) {
    let note = text(&explained(play)).replace(&play.saga.id.to_string(), "ID");
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words(&note).contains(&words(expected)), "{expected}\nis not in\n{note}");
}

/// What an operator can do: the command lines without the saga's id.
fn commands(play: &Play) -> Vec<String> {
    let line = |command: &str| command.replace(&format!(" {}", play.saga.id), "").replace(" --reason '…'", "");
    explained(play).choices.iter().map(|choice| line(&choice.command)).collect()
}

/// `a` is done, `b` is on its first attempt.
fn at_b() -> Play {
    let mut play = Play::of(&whole(&format!("timeout = '15m'\n{}", sequence(&["a", "b", "c"]))));
    play.success("a 1");
    play
}

#[test]
fn an_answer_is_awaited_and_each_way_to_go_on_is_told() {
    let mut play = at_b();
    play.now = play.now.plus(Duration::from_secs(3));
    says(
        &play,
        "
s ID
running since 2023-11-14T22:13:20.000Z (3s ago)

It goes forward: 1 of 3 steps done.

It waits for
  - b: the answer to attempt 1 of `b.do` on exchange `e`
      since 2023-11-14T22:13:20.000Z (3s ago), 1 more attempt
      if it succeeds: step `c` next
      if it fails: step `b` has failed; the saga compensates; step `a` is undone by `a.undo`
      if not by 2023-11-14T22:13:30.000Z (in 7s): attempt 2 of `b.do` follows 1s later

Note
  - its deadline is 2023-11-14T22:28:20.000Z: then what is in flight is in doubt, and all is undone

You can
  sagad resolve ID b succeeded --reason '…' --reply JSON
      you know that it was done
  sagad resolve ID b failed --reason '…'
      you know that it was not done: the saga compensates; step `a` is undone by `a.undo`
  sagad cancel ID --reason '…'
      the saga compensates; what is in flight, as in step `b`, is waited for; then step `a` is undone
  sagad suspend ID --reason '…'
      nothing more is sent until it is resumed
",
    );
    // The machine keeps to what was told.
    play.timer();
    assert_eq!(play.now.to_string(), "2023-11-14T22:13:30.000Z");
    let wait = explained(&play).waits.remove(0);
    let at = |at: Option<sagad::core::time::At>| at.map(|at| at.to_string());
    assert_eq!((wait.kind, wait.attempt, wait.attempts_left), (Kind::Backoff, Some(1), Some(1)));
    assert_eq!(at(wait.since).as_deref(), Some("2023-11-14T22:13:30.000Z"));
    assert_eq!(at(wait.until).as_deref(), Some("2023-11-14T22:13:31.000Z"));
    assert_eq!(wait.last_failure.as_deref(), Some("no answer within 10s (timeout)"));
    assert_eq!(wait.next[0].what, "attempt 2 of `b.do` is sent");
}

#[test]
fn the_last_attempt_leaves_the_step_in_doubt() {
    let mut play = at_b();
    play.retry("b 1");
    play.timer();
    tells(&play, "since 2023-11-14T22:13:21.000Z (now), no further attempt before: b 1 is busy (failure)");
    tells(
        &play,
        "if not by 2023-11-14T22:13:31.000Z (in 10s): step `b` is in doubt: it may or may not have been done; the saga \
         compensates; step `b` is undone by `b.undo`; then step `a` is undone",
    );
    play.pending("b 2");
    tells(&play, "`e`; the participant said that it is still at it");
}

#[test]
fn what_is_undone_later_waits_for_what_comes_first() {
    let mut play = at_b();
    play.retry("b 1");
    play.timer();
    play.timer();
    play.is(Status::Compensating);
    tells(&play, "What was done is being undone, because step `b` failed: no answer within 10s (timeout).");
    tells(&play, "- b: the answer to attempt 1 of `b.undo` on exchange `e`, which undoes it");
    tells(&play, "if it succeeds: step `a` is undone next if it fails: attempt 2 of `b.undo` follows 1s later");
    tells(&play, "- a: that step `b` is settled, before `a.undo` undoes it");
    play.success("undo b 1");
    tells(&play, "if it succeeds: the saga ends as compensated");
}

#[test]
fn a_saga_whose_undo_failed_says_what_can_be_done_about_it() {
    let mut play = at_b();
    play.retry("b 1");
    play.timer();
    play.timer();
    play.failure("undo b 1");
    play.timer();
    play.failure("undo b 2");
    says(
        &play,
        "
s ID
suspended since 2023-11-14T22:13:32.000Z (now)

It waits for an operator: the compensation of step `b` failed: undo b 2 declined (failure).

It waits for
  - a: that step `b` is settled, before `a.undo` undoes it

You can
  sagad retry ID b --reason '…'
      step `b` is undone by `b.undo`
  sagad resolve ID b compensated --reason '…'
      you know that it is undone, or have undone it by hand: step `a` is undone by `a.undo`
  sagad resolve ID b given_up --reason '…'
      it will never be undone, and that is accepted: step `a` is undone by `a.undo`
  sagad resolve ID a compensated --reason '…'
      you know that it is undone, or have undone it by hand
  sagad resolve ID a given_up --reason '…'
      it will never be undone, and that is accepted
  sagad resume ID --reason '…'
      step `b` is undone by `b.undo`
",
    );
    play.resolve("b", Resolution::GivenUp).unwrap();
    play.success("undo a 1");
    says(
        &play,
        "
s ID
failed since 2023-11-14T22:13:32.000Z (now)

It ended, and not all that had to be undone is, because step `b` failed: no answer within 10s (timeout).

Note
  - given up after 2 attempts: the compensation of step `b`: looked it up (failure)
",
    );
}

#[test]
fn every_choice_is_allowed_and_every_other_order_is_not() {
    let mut play = at_b();
    assert_eq!(
        commands(&play),
        ["sagad resolve b succeeded --reply JSON", "sagad resolve b failed", "sagad cancel", "sagad suspend"]
    );
    play.suspend();
    assert_eq!(
        commands(&play),
        ["sagad resolve b succeeded --reply JSON", "sagad resolve b failed", "sagad resume", "sagad cancel"]
    );
    tells(&play, "It waits for an operator: suspended by op.");
    tells(&play, "its deadline is 2023-11-14T22:28:20.000Z: if it is resumed after that, all is undone");
    play.cancel();
    play.is(Status::Compensating);
    let forbidden = ["sagad cancel", "sagad resume", "sagad retry b"];
    assert!(commands(&play).iter().all(|command| !forbidden.contains(&command.as_str())), "{:?}", commands(&play));
}

#[test]
fn a_probe_and_a_suspension_after_a_time_out_are_foreseen() {
    let mut play = Play::of(&once("a", "on_timeout = 'probe'\nprobe = { command = 'a.status', timeout = '5s' }\n"));
    tells(
        &play,
        "(in 10s): step `a` is in doubt: it may or may not have been done; step `a` is asked about by `a.status`",
    );
    play.timer();
    tells(&play, "the answer to attempt 1 of `a.status` on exchange `e`, which asks what became of it");
    tells(&play, "if it fails: step `a` has failed; the saga compensates; the saga ends as compensated");
    let mut play = Play::of(&once("a", "on_timeout = 'suspend'\n"));
    tells(&play, "the saga is suspended for an operator: step `a` may or may not have been done");
    play.timer();
    tells(&play, "sagad retry ID a --reason '…' attempt 2 of `a.do` is sent");
    tells(&play, "sagad cancel ID --reason '…' the saga compensates; step `a` is undone by `a.undo`");
}

#[test]
fn time_that_passes_is_told_with_what_comes_after_it() {
    let mut play = Play::of(
        "[[steps]]\nname = 'n'\nsleep = '24h'\n\
         [[steps]]\nname = 'm'\ndelay = '5s'\ncommand = 'm.do'\n",
    );
    tells(&play, "- n: the end of its sleep since 2023-11-14T22:13:20.000Z (now)");
    tells(&play, "at 2023-11-15T22:13:20.000Z (in 1day): step `m` begins after a delay of 5s");
    play.timer();
    tells(&play, "- m: the end of its delay since 2023-11-15T22:13:20.000Z (now)");
    tells(&play, "at 2023-11-15T22:13:25.000Z (in 5s): step `m` begins with `m.do`");
    play.suspend();
    tells(&play, "at 2023-11-15T22:13:25.000Z (in 5s): it goes on once the saga is resumed");
}

#[test]
fn signals_and_events_are_named_and_those_that_came_early_too() {
    let mut play = Play::with(
        &whole(
            "key = '{{ input.k }}'\n[[steps]]\nname = 'a'\nwait = { signal = 'approved now' }\ntimeout = '1h'\n\
             [[steps]]\nname = 'b'\nwait = { exchange = 'shop', routing_key = 'order.*', match = 'body.id' }\n\
             [[steps]]\nname = 'c'\nwait = { signal = 'x' }\n",
        ),
        json!({ "k": "A1" }),
    );
    play.put(Input::Signal { name: "x".into(), id: None, payload: json!(1), actor: None }).unwrap();
    tells(&play, "- a: the signal `approved now` since 2023-11-14T22:13:20.000Z (now) then: step `b` next");
    tells(&play, "if not by 2023-11-14T23:13:20.000Z (in 1h): step `a` has failed; the saga compensates");
    tells(&play, "came early, and kept until a step waits for it: signal `x` (1)");
    let signal = explained(&play).choices.pop().unwrap();
    assert_eq!(signal.command, format!("sagad signal {} 'approved now' --payload JSON", play.saga.id));
    assert_eq!(signal.path, format!("/v1/sagas/{}/signals/approved%20now", play.saga.id));
    play.put(Input::Signal { name: "approved now".into(), id: None, payload: json!(1), actor: None }).unwrap();
    tells(&play, "s ID, key A1");
    tells(&play, "- b: an event `order.*` on exchange `shop` for the key `A1`");
}

#[test]
fn events_of_its_own_wait_for_the_broker_and_children_are_named() {
    let mut play = Play::of(
        "[[steps]]\nname = 'p'\npublish = 'order.done'\n\
         [[steps]]\nname = 'kid'\nsaga = 'shipment'\n",
    );
    tells(&play, "- p: the broker's confirm of the event `order.done` on exchange `e`");
    play.success("p 1");
    tells(&play, "- kid: that its child saga, a `shipment`, takes up the order to begin");
    let wait = explained(&play).waits.remove(0);
    let child = SagaId::child(play.saga.id, 1.into(), play.now.0);
    assert_eq!((wait.kind, wait.sagas[0].id.clone()), (Kind::Child, child.to_string()));
    play.pending("kid 1");
    tells(&play, "- kid: the end of its child saga, a `shipment`");
    assert_eq!(explained(&play).waits[0].attempts_left, None, "it is not asked again");
    play.cancel();
    tells(&play, "- kid: that its child saga, a `shipment`, takes up the order to undo what it did");
}

#[test]
fn on_the_way_back_the_deadline_counts_for_what_is_still_in_flight() {
    let toml = format!(
        "timeout = '15m'\n{}[[steps]]\nname = 'ship'\nsaga = 'shipment'\nafter = []\ncompensate = false\n",
        step("a", "")
    );
    let mut play = Play::of(&whole(&toml));
    let answer = RawAnswer::new(Some(Outcome::Pending), json!(null));
    play.put(Input::Answer { spot: 1.into(), action: Action::Execute, attempt: 1, answer }).unwrap();
    play.failure("a 1");
    tells(&play, "its deadline is 2023-11-14T22:28:20.000Z: what is still in flight forward is in doubt then");
}

#[test]
fn a_saga_that_has_not_begun_says_what_keeps_it() {
    let toml = whole("max_running = 3\nlock.key = '{{ input.n }}'\n[[steps]]\nname = 'a'\nsleep = '1s'\n");
    let mut play = Play::delayed(&toml, json!({ "n": "ann" }), Duration::from_secs(60));
    tells(&play, "- the time that it is to begin at since 2023-11-14T22:13:20.000Z (now)");
    tells(&play, "at 2023-11-14T22:14:20.000Z (in 1m): the saga begins once it is let in");
    play.timer();
    tells(&play, "- its lock `ann`, and one of the 3 places of `max_running` since 2023-11-14T22:14:20.000Z (now)");
    assert_eq!(commands(&play), ["sagad cancel", "sagad suspend"]);
}

#[test]
fn past_the_point_of_no_return_it_only_goes_forward() {
    let mut play = Play::of(&(step("a", "pivot = true\n") + &step("b", "")));
    play.success("a 1");
    tells(&play, "tried without end if it succeeds: the saga completes");
    tells(&play, "it is past its point of no return");
    assert!(!commands(&play).contains(&"sagad cancel".to_owned()));
    play.failure("b 1");
    tells(&play, "It waits for an operator: step `b` failed after the point of no return: b 1 declined (failure).");
    play.resolve("b", Resolution::Succeeded).unwrap();
    says(&play, "s ID\ncompleted since 2023-11-14T22:13:20.000Z (now)\n\nIt completed.");
}

#[test]
fn thousands_of_elements_are_told_of_as_one() {
    let items: Vec<u32> = (0..2000).collect();
    let toml = step("each", "foreach = '{{ input.items }}'\nmax_parallel = 10\n") + &step("last", "");
    let mut play = Play::with(&toml, json!({ "items": items }));
    tells(&play, "[10 of 2000 elements: 0, 1, 2, …, 1990 not begun]");
    tells(&play, "attempt 2 of `each.do` follows 1s later (one element)");
    tells(&play, "`--item N` for one element only");
    for item in 0..3 {
        let spot = Spot { step: 0, item: Some(item) };
        let answer = RawAnswer::new(Some(Outcome::Success), json!(1));
        play.put(Input::Answer { spot, action: Action::Execute, attempt: 1, answer }).unwrap();
    }
    play.cancel();
    tells(&play, "[10 of 2000 elements: 3, 4, 5, …]");
    tells(&play, "[3 of 2000 elements: 0, 1, 2]");
    let note = text(&explained(&play));
    assert!(note.lines().count() < 40, "{note}");
}

#[test]
fn an_explanation_is_the_same_after_a_journey_as_json() {
    let play = at_b();
    let explanation = explained(&play);
    let json = serde_json::to_string(&explanation).unwrap();
    assert_eq!(serde_json::from_str::<Explanation>(&json).unwrap(), explanation);
}
