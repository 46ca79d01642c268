//! What a step can be and what it can have: each kind with its keys, and why others are refused.

use std::time::Duration;

use sagad::core::definition::{Awaited, Definition, Execute, Lock, LockMode, OnTimeout, Priority, Retry, Step, Undo};
use sagad::core::parse::parse;
use sagad::core::template::{Expression, Scope};
use serde_json::{Value, json};

use crate::definitions::{good, places};

/// A definition with a key and these lines, of which the first is line 4.
fn with(lines: &str) -> String {
    format!("name = 'x'\nkey = '{{{{ input.id }}}}'\ndefaults = {{ exchange = 'd', timeout = '7s' }}\n{lines}")
}

/// A step of these lines, of which the first is line 6.
fn step(lines: &str) -> String {
    with(&format!("[[steps]]\nname = 'a'\n{lines}"))
}

#[track_caller]
fn only(lines: &str) -> Step {
    let mut definition: Definition = good(&step(lines));
    assert_eq!(definition.steps.len(), 1);
    definition.steps.remove(0)
}

/// What an expression yields for a message with this body.
fn of_body(expression: &Expression, body: Value) -> Value {
    let scope = Scope::Message { body: body.into(), headers: json!({}).into() };
    expression.value(&scope).unwrap()
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn an_event_is_published_and_needs_no_answer() {
    let step =
        only("publish = 'order.placed'\nexchange = 'e'\nbody.id = '{{ input.id }}'\nheaders.t = 'x'\npriority = 3\n");
    let Execute::Publish(event) = &step.execute else { panic!("{step:?}") };
    assert_eq!((event.exchange.as_str(), event.routing_key.as_str()), ("e", "order.placed"));
    assert!(event.body.is_some() && event.headers.len() == 1);
    assert!(matches!(event.priority, Some(Priority::Fixed(3))) && step.compensate.is_none());
    let step = only("publish = 'order.placed'\ncompensate.command = 'order.forget'\n");
    let Execute::Publish(event) = &step.execute else { panic!("{step:?}") };
    assert_eq!(event.exchange, "d");
    assert_eq!(step.undo_command().unwrap().exchange, "d");
}

#[test]
fn a_wait_is_for_a_signal_or_an_event_and_as_long_as_it_says_itself() {
    let step = only("wait = { signal = 'approved.by-the.boss' }\n");
    let Execute::Wait(wait) = &step.execute else { panic!("{step:?}") };
    assert!(matches!(&wait.until, Awaited::Signal(name) if &**name == "approved.by-the.boss"));
    assert_eq!(wait.timeout, None, "the time-out of attempts is not for people");
    let event = "wait = { exchange = 'e', routing_key = 'order.*', match = 'body.order_id' }\ntimeout = '1h'\n";
    let step = only(&format!("{event}compensate.command = 'x'\n"));
    let Execute::Wait(wait) = &step.execute else { panic!("{step:?}") };
    let Awaited::Event(pattern) = &wait.until else { panic!("{step:?}") };
    assert_eq!((pattern.exchange.as_str(), pattern.routing_key.as_str(), wait.timeout), ("e", "order.*", Some(HOUR)));
    assert_eq!(of_body(&pattern.matches, json!({ "order_id": "7" })), "7");
    assert_eq!(step.undo_command().unwrap().routing_key, "x");
}

#[test]
fn a_child_saga_undoes_itself_unless_told_not_to() {
    let step = only("saga = 'shipment'\ninput.id = '{{ input.id }}'\ntimeout = '1h'\n");
    let Execute::Saga(child) = &step.execute else { panic!("{step:?}") };
    assert_eq!((&*child.definition, child.timeout, child.input.is_some()), ("shipment", Some(HOUR), true));
    let undo = &step.compensate.as_ref().unwrap().undo;
    assert!(matches!(undo, Undo::Child { timeout: None, retry: Retry { attempts: 10, .. } }), "{undo:?}");
    let Execute::Saga(child) = only("saga = 'shipment'\n").execute else { panic!() };
    assert!(child.timeout.is_none() && child.input.is_none());

    let step = only("saga = 'shipment'\ncompensate = { on = 'success', timeout = '1h', retry.attempts = 3 }\n");
    let compensate = step.compensate.as_ref().unwrap();
    let Undo::Child { timeout, retry } = &compensate.undo else { panic!("{step:?}") };
    assert_eq!((*timeout, retry.attempts, compensate.on.in_doubt), (Some(HOUR), 3, false));
    assert!(step.undo_command().is_none());
    assert!(only("saga = 'shipment'\ncompensate = false\n").compensate.is_none());
}

#[test]
fn each_kind_has_its_word() {
    for (lines, word) in [
        ("command = 'x'\n", "command"),
        ("publish = 'x'\n", "publish"),
        ("wait.signal = 'x'\n", "wait"),
        ("saga = 'x'\n", "saga"),
        ("sleep = '1s'\n", "sleep"),
    ] {
        assert_eq!(only(lines).execute.kind(), word);
    }
}

#[test]
fn a_sleep_sleeps() {
    assert!(matches!(only("sleep = '1h'\n").execute, Execute::Sleep(HOUR)));
    assert!(only("sleep = '1h'\npivot = true\ncompensate = false\n").pivot);
}

#[test]
fn a_step_may_be_for_each_element_of_a_list() {
    let definition = good(&with(
        "[[steps]]\nname = 'a'\ncommand = 'x'\nforeach = '{{ input.items }}'\nmax_parallel = 3\nbody = '{{ item.sku }} {{ index }}'\n\
         compensate = { command = 'y', body.id = '{{ steps.a.reply.id }}', body.sku = '{{ item.sku }}' }\n\
         [[steps]]\nname = 'b'\nsaga = 's'\nforeach = '{{ steps.a.replies }}'\ninput = '{{ item }}'\n\
         [output]\nids = '{{ steps.a.replies }}'\n",
    ));
    let parallel: Vec<u32> = definition.steps.iter().map(|step| step.foreach.as_ref().unwrap().max_parallel).collect();
    assert_eq!(parallel, [3, 100]);
}

#[test]
fn answers_are_read_as_the_definition_says() {
    let step = only(
        "command = 'x'\n[steps.reply]\nsuccess_when = \"body.status == 'ok'\"\nretry_when = 'body.code in [429]'\n\
         schema = { required = ['id'] }\n[steps.compensate]\ncommand = 'y'\nreply.success_when = 'body.done'\n",
    );
    let reply = &step.command().unwrap().reply;
    assert_eq!(of_body(reply.success_when.as_ref().unwrap(), json!({ "status": "ok" })), true);
    assert_eq!(of_body(reply.retry_when.as_ref().unwrap(), json!({ "code": 429 })), true);
    assert!(!reply.schema.as_ref().unwrap().validator.is_valid(&json!({})));
    assert!(step.undo_command().unwrap().reply.success_when.is_some());

    let step = only(
        "command = 'x'\n[steps.reply]\nsuccess = { exchange = 'e', routing_key = 's.ok', match = 'body.id' }\n\
         failure = { exchange = 'e', routing_key = 's.no', match = 'body.id', error = 'body.reason' }\n",
    );
    let reply = &step.command().unwrap().reply;
    assert_eq!(reply.success.as_ref().unwrap().routing_key, "s.ok");
    assert_eq!(reply.failure.as_ref().unwrap().routing_key, "s.no");
    assert_eq!(of_body(reply.error.as_ref().unwrap(), json!({ "reason": "none" })), "none");
}

#[test]
fn what_follows_a_time_out_can_be_chosen() {
    let on_timeout = |lines: &str| match only(&format!("command = 'x'\n{lines}")).execute {
        Execute::Command(request) => request.on_timeout,
        other => panic!("{other:?}"),
    };
    assert!(matches!(on_timeout(""), OnTimeout::Compensate));
    assert!(matches!(on_timeout("on_timeout = 'compensate'\n"), OnTimeout::Compensate));
    assert!(matches!(on_timeout("on_timeout = 'suspend'\n"), OnTimeout::Suspend));
    let probe = on_timeout(
        "exchange = 'e'\non_timeout = 'probe'\nprobe = { command = 'x.status', timeout = '1h', reply.retry_when = 'body.busy' }\n",
    );
    let OnTimeout::Probe(probe) = probe else { panic!("{probe:?}") };
    assert_eq!((probe.exchange.as_str(), probe.routing_key.as_str(), probe.timeout), ("e", "x.status", HOUR));
    assert!(probe.reply.retry_when.is_some() && !probe.expires && probe.retry.attempts == 3);
}

#[test]
fn a_saga_may_be_started_by_events_and_held_back() {
    let definition = good(&with(
        "max_running = 500\nlock = { key = '{{ input.customer }}', mode = 'reject' }\nretention = '30d'\n\
         [[start]]\nexchange = 'e'\nrouting_key = 'order.placed'\nwhen = 'body.total > 0'\ninput = { id = '{{ body.order_id }}' }\n\
         [[start]]\nexchange = 'e'\nrouting_key = 'order.#'\n[[steps]]\nname = 'a'\nsleep = '1s'\n",
    ));
    assert_eq!(definition.max_running, Some(500));
    assert!(matches!(definition.lock, Some(Lock { mode: LockMode::Reject, .. })));
    let [first, second] = definition.starts.as_slice() else { panic!("{:?}", definition.starts) };
    assert_eq!((first.exchange.as_str(), second.routing_key.as_str()), ("e", "order.#"));
    assert!(first.when.is_some() && first.input.is_some() && second.when.is_none() && second.input.is_none());
    let definition = good(&with("lock.key = '{{ input.customer }}'\n[[steps]]\nname = 'a'\nsleep = '1s'\n"));
    assert!(matches!(definition.lock, Some(Lock { mode: LockMode::Queue, .. })));
}

#[test]
fn every_mistake_has_its_place_and_its_code() {
    const EVENT: &str = "{ exchange = 'e', routing_key = 'k', match = 'body.id' }";
    let cases: &[(String, &[&str])] = &[
        // What a step does.
        (step(""), &["4:1-4:10 missing-key"]),
        (step("comand = 'x'\nbody = {}\n"), &["6:1-6:7 unknown-key"]),
        (step("command = 'x'\nsleep = '1s'\n"), &["7:1-7:6 two-kinds"]),
        (
            step("retry.attempts = 3\nwait.signal = 's'\nsleep = '1s'\npublish = 'x'\n"),
            &["8:1-8:6 two-kinds", "9:1-9:8 two-kinds"],
        ),
        (step("wait = 'approved'\n"), &["6:8-6:18 wrong-type"]),
        (step("wait = {}\n"), &["6:1-6:5 missing-key"]),
        (step("wait = { signal = '' }\n"), &["6:19-6:21 invalid-value"]),
        (step("wait = { signl = 'x' }\n"), &["6:1-6:5 missing-key", "6:10-6:15 unknown-key"]),
        (step("wait = { signal = 's', exchange = 'e' }\n"), &["6:24-6:32 two-kinds"]),
        (step("wait = { exchange = 'e' }\n"), &["6:1-6:5 missing-key", "6:1-6:5 missing-key"]),
        (step("wait = { exchange = 'e', routing_key = 'k', match = '{{ body.id }}' }\n"), &["6:54-6:67 template"]),
        (step("sleep = '0s'\n"), &["6:9-6:13 invalid-value"]),
        (step("sleep = 5\n"), &["6:9-6:10 wrong-type"]),
        (step("saga = 'Shipment'\n"), &["6:8-6:18 invalid-name"]),
        (step("publish = ''\n"), &["6:11-6:13 invalid-value"]),
        ("name = 'x'\n[[steps]]\nname = 'a'\npublish = 'p'\n".into(), &["2:1-2:10 no-exchange"]),
        (
            "name = 'x'\n[[steps]]\nname = 'a'\nwait.signal = 'p'\ncompensate.command = 'x'\n".into(),
            &["5:1-5:11 no-exchange"],
        ),
        // Keys that a kind can't have.
        (step("sleep = '1s'\nbody = {}\nreply = {}\n"), &["7:1-7:5 misplaced-key", "8:1-8:6 misplaced-key"]),
        (step("sleep = '1s'\ncompensate.command = 'x'\n"), &["7:1-7:11 misplaced-key"]),
        (
            step("wait.signal = 's'\nbody.a = 3\non_timeout = 'suspend'\n"),
            &["7:1-7:5 misplaced-key", "8:1-8:11 misplaced-key"],
        ),
        (step("publish = 'p'\nreply = {}\n"), &["7:1-7:6 misplaced-key"]),
        (step("saga = 's'\nbody = {}\nheaders = {}\n"), &["7:1-7:5 misplaced-key", "8:1-8:8 misplaced-key"]),
        (step("saga = 's'\ncompensate = { command = 'x' }\n"), &["7:16-7:23 misplaced-key"]),
        (step("command = 'x'\ninput = {}\n"), &["7:1-7:6 misplaced-key"]),
        (step("command = 'x'\nmax_parallel = 3\n"), &["7:1-7:13 misplaced-key"]),
        // Elements.
        (step("command = 'x'\nforeach = 'items'\n"), &["7:11-7:18 invalid-value"]),
        (step("command = 'x'\nforeach = 'x {{ input.a }}'\n"), &["7:11-7:28 invalid-value"]),
        (step("command = 'x'\nforeach = ['a']\n"), &["7:11-7:16 wrong-type"]),
        (step("command = 'x'\nforeach = '{{ input.a }}'\nmax_parallel = 1001\n"), &["8:16-8:20 invalid-value"]),
        (step("command = 'x'\nbody = '{{ item.a }}'\n"), &["7:12-7:18 out-of-scope"]),
        (step("command = 'x'\nwhen = 'index == 0'\nforeach = '{{ input.a }}'\n"), &["7:9-7:14 out-of-scope"]),
        (step("command = 'x'\nforeach = '{{ item.a }}'\n"), &["7:15-7:21 out-of-scope"]),
        (
            step("command = 'x'\nforeach = '{{ input.a }}'\n[output]\na = '{{ steps.a.reply }}'\nb = '{{ item }}'\n"),
            &["9:9-9:22 one-or-many", "10:9-10:13 out-of-scope"],
        ),
        (step("command = 'x'\n[output]\na = '{{ steps.a.replies }}'\n"), &["8:9-8:24 one-or-many"]),
        (
            step(&format!("command = 'x'\nforeach = '{{{{ input.a }}}}'\nreply.success = {EVENT}\n")),
            &["8:7-8:14 misplaced-key"],
        ),
        // Answers.
        (step("command = 'x'\nreply = 'ok'\n"), &["7:9-7:13 wrong-type"]),
        (step("command = 'x'\nreply.sucess_when = 'body.ok'\n"), &["7:7-7:18 unknown-key"]),
        (step("command = 'x'\nreply.success_when = 'input.ok'\n"), &["7:23-7:31 out-of-scope"]),
        (step("command = 'x'\nbody = '{{ body.ok }}'\n"), &["7:12-7:19 out-of-scope"]),
        (step("command = 'x'\nreply.schema = true\n"), &["7:16-7:20 wrong-type"]),
        (step("command = 'x'\nreply.schema = { type = 'objet' }\n"), &["7:25-7:32 schema"]),
        (step(&format!("command = 'x'\nreply.failure = {EVENT}\n")), &["7:7-7:14 missing-key"]),
        (
            step(&format!("command = 'x'\nreply.success = {EVENT}\nreply.success_when = 'body.ok'\n")),
            &["8:7-8:19 misplaced-key"],
        ),
        (
            step(&format!("command = 'x'\ncompensate = {{ command = 'y', reply.success = {EVENT} }}\n")),
            &["7:37-7:44 misplaced-key"],
        ),
        (step("command = 'x'\nreply.success = { exchange = 'e', match = 'body' }\n"), &["7:7-7:14 missing-key"]),
        (
            step(&format!("command = 'x'\nreply.success = {EVENT}\n")).replace("key = '{{ input.id }}'", ""),
            &["7:54-7:59 no-key"],
        ),
        (step(&format!("wait = {EVENT}\n")).replace("key = '{{ input.id }}'", ""), &["6:45-6:50 no-key"]),
        // Time-outs.
        (step("command = 'x'\non_timeout = 'prob'\n"), &["7:14-7:20 invalid-value"]),
        (step("command = 'x'\non_timeout = 'probe'\n"), &["7:1-7:11 missing-key"]),
        (step("command = 'x'\nprobe.command = 'y'\n"), &["7:1-7:6 misplaced-key"]),
        (step("command = 'x'\non_timeout = 'probe'\nprobe = {}\n"), &["8:1-8:6 missing-key"]),
        (
            step("command = 'x'\non_timeout = 'probe'\nprobe = { command = 'y', body = '{{ steps.a.reply }}' }\n"),
            &["8:37-8:50 self-reference"],
        ),
        // Before a saga begins.
        (with("max_running = 0\n[[steps]]\nname = 'a'\nsleep = '1s'\n"), &["4:15-4:16 invalid-value"]),
        (with("lock = 'x'\n[[steps]]\nname = 'a'\nsleep = '1s'\n"), &["4:8-4:11 wrong-type"]),
        (
            with("lock.mode = 'wait'\n[[steps]]\nname = 'a'\nsleep = '1s'\n"),
            &["4:1-4:5 missing-key", "4:13-4:19 invalid-value"],
        ),
        (with("lock.key = '{{ saga.id }}'\n[[steps]]\nname = 'a'\nsleep = '1s'\n"), &["4:16-4:23 out-of-scope"]),
        (
            with("start = [{ exchange = 'e', routing_key = 'k' }, 5]\n[[steps]]\nname = 'a'\nsleep = '1s'\n"),
            &["4:49-4:50 wrong-type"],
        ),
        (with("start = 'x'\n[[steps]]\nname = 'a'\nsleep = '1s'\n"), &["4:9-4:12 wrong-type"]),
        (with("[[start]]\nexchange = 'e'\n[[steps]]\nname = 'a'\nsleep = '1s'\n"), &["4:1-4:10 missing-key"]),
        (
            with(
                "[[start]]\nexchange = 'e'\nrouting_key = 'k'\ninput = '{{ input }}'\n[[steps]]\nname = 'a'\nsleep = '1s'\n",
            ),
            &["7:13-7:18 out-of-scope"],
        ),
    ];
    for (toml, expected) in cases {
        assert_eq!(places(toml), *expected, "\n{toml}");
    }
}

#[test]
fn what_is_refused_is_refused_with_a_reason() {
    for (lines, expected) in [
        ("sleep = '1s'\nbody = {}\n", "a `sleep` step can't have a `body`: it sends nothing | remove it"),
        ("wait.signal = 's'\nbody = {}\n", "a `wait` step can't have a `body`: it sends nothing"),
        ("saga = 's'\nbody = {}\n", "a `saga` step can't have a `body`: what a saga gets is its `input`"),
        (
            "command = 'x'\nsleep = '1s'\n",
            "a step does one thing, and this one has a `command` already | make a step of its own of `sleep`",
        ),
        ("", "this step says nothing to do | add one of `command"),
        ("command = 'x'\nprobe.command = 'y'\n", "this probe is never sent"),
    ] {
        let errors = parse(&step(lines), &mut |_| Err(String::new())).expect_err(lines);
        let [error] = errors.as_slice() else { panic!("{errors:#?}") };
        let shown = format!("{} | {}", error.message, error.help);
        assert!(shown.contains(expected), "{shown}\nlacks\n{expected}");
    }
}

#[test]
fn what_does_nothing_for_a_kind_is_said_and_passed_over() {
    for (lines, expected) in [
        ("sleep = '1s'\ntimeout = '1s'\n", "`timeout` does nothing for a `sleep` step"),
        ("sleep = '1s'\noptional = true\n", "`optional` does nothing for a `sleep` step"),
        ("wait.signal = 's'\nretry = {}\n", "`retry` does nothing for a `wait` step: nothing can be tried again"),
        ("saga = 's'\npriority = 1\n", "`priority` does nothing for a `saga` step"),
    ] {
        let (_, warnings) = parse(&step(lines), &mut |_| Err(String::new())).expect(lines);
        let [warning] = warnings.as_slice() else { panic!("{warnings:#?}") };
        assert_eq!(warning.code, "no-effect");
        assert!(warning.message.contains(expected), "{}", warning.message);
    }
}
