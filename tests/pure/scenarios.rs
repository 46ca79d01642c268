//! `sagad test`: what scenarios can say, what is wrong with them, and how it is told that something went otherwise.

use std::path::PathBuf;
use std::process::Command;

use sagad::definitions::{self, File};
use sagad::scenario::{self, Outcome};
use sagad::trial::stage::SHIPPED;
use serde_json::{Value, json};
use tempfile::TempDir;

const DEFINITION: &str = "\
name = 'two'
timeout = '10m'
defaults = { exchange = 'e', timeout = '10s', retry = { attempts = 2, initial = '1s', jitter = 0.0 } }
[[steps]]
name = 'a'
command = 'a.do'
compensate.command = 'a.undo'
[[steps]]
name = 'b'
command = 'b.do'
body.of = '{{ steps.a.reply.id }}'
compensate.command = 'b.undo'
";

/// Steps of every kind.
const KINDS: &str = "\
name = 'kinds'
key = '{{ input.id }}'
max_running = 1
defaults = { exchange = 'e', timeout = '10s', retry = { attempts = 1 } }
[[steps]]
name = 'each'
foreach = '{{ input.items }}'
command = 'each.do'
compensate.command = 'each.undo'
[[steps]]
name = 'approve'
wait = { signal = 'approved' }
[[steps]]
name = 'arrive'
wait = { exchange = 'e', routing_key = 'arrived', match = 'body.id' }
timeout = '1h'
compensate.command = 'arrive.undo'
[[steps]]
name = 'nap'
sleep = '5s'
[[steps]]
name = 'tell'
publish = 'told'
compensate = false
[[steps]]
name = 'ship'
saga = 'two'
[[steps]]
name = 'pay'
command = 'pay.do'
on_timeout = 'probe'
probe = { command = 'pay.status' }
body.by = '{{ steps.approve.reply.by }}'
compensate.command = 'pay.undo'
";

/// A folder with definitions and a file of scenarios.
struct Folder(TempDir);

impl Folder {
    fn of(scenarios: &str) -> Folder {
        let folder = Folder(TempDir::new().unwrap());
        for (name, text) in [("two.toml", DEFINITION), ("kinds.toml", KINDS), ("two.test.toml", scenarios)] {
            std::fs::write(folder.path(name), text).unwrap();
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `sagad test ARGS` in this folder: exit code, standard output, standard error.
    fn test(&self, args: &[&str]) -> (i32, String, String) {
        let mut sagad = Command::new(env!("CARGO_BIN_EXE_sagad"));
        let output = sagad.arg("test").args(args).current_dir(self.0.path()).env_clear().output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn json(&self) -> (i32, Value) {
        let (code, out, err) = self.test(&["--json", "."]);
        assert_eq!(err, "");
        (code, serde_json::from_str(&out).unwrap())
    }
}

/// Plays the scenarios of a text; they can be read.
#[track_caller]
fn played(scenarios: &str) -> Vec<Outcome> {
    let folder = Folder::of(scenarios);
    let definitions = definitions::read(&[folder.0.path().to_owned()], None);
    assert!(!definitions.has_errors(), "{:?}", definitions.files);
    let file = File { path: "two.test.toml".into(), text: scenarios.to_owned(), diagnostics: Vec::new() };
    scenario::run(&file, &definitions, SHIPPED).unwrap()
}

/// All of them go as they are expected to.
#[track_caller]
fn pass(scenarios: &str) {
    for outcome in played(scenarios) {
        assert!(outcome.passed, "{}\n{}", outcome.differences.join("\n"), outcome.history.join("\n"));
    }
}

/// The only one goes otherwise in one respect.
#[track_caller]
fn differs(scenario: &str) -> String {
    let [outcome] = &played(&format!("saga = 'two'\n[[scenario]]\nname = 'it'\n{scenario}"))[..] else {
        panic!("not one scenario")
    };
    assert_eq!(outcome.differences.len(), 1, "{:?}", outcome.differences);
    outcome.differences[0].clone()
}

/// Code, line and column, message and help of what is wrong.
#[track_caller]
fn wrong(scenarios: &str) -> Vec<(String, (u64, u64), String, String)> {
    let (code, json) = Folder::of(scenarios).json();
    assert_eq!(code, 1);
    let text = |problem: &Value, key: &str| problem[key].as_str().unwrap().to_owned();
    let problems = json["problems"].as_array().unwrap().iter();
    let place = |problem: &Value| (problem["line"].as_u64().unwrap(), problem["column"].as_u64().unwrap());
    problems.map(|it| (text(it, "code"), place(it), text(it, "message"), text(it, "help"))).collect()
}

#[test]
fn the_shipped_sagas_do_what_their_scenarios_say() {
    let sagas = [PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("sagas")];
    let folder = definitions::read(&sagas, None);
    let mut played = 0;
    for file in definitions::read_scenarios(&sagas) {
        for outcome in scenario::run(&file, &folder, SHIPPED).unwrap() {
            assert!(outcome.passed, "{outcome:#?}");
            played += 1;
        }
    }
    assert!(played > 20, "only {played}");
}

#[test]
fn participants_do_what_is_scripted() {
    pass(
        "saga = 'two'\n\
         replies.a = { success = { id = 7 } }\n\
         [[scenario]]\n\
         name = 'all is well'\n\
         expect = { status = 'completed', commands = ['a.do', { command = 'b.do', body = { of = 7 } }], effects = ['a', 'b'] }\n\
         [[scenario]]\n\
         name = 'one for each attempt'\n\
         replies.b = ['retry', 'failure']\n\
         expect = { status = 'compensated', attempts = { b = 2 }, error = { step = 'b', reason = 'failure' }, effects = [] }\n\
         [[scenario]]\n\
         name = 'after the last of a list it succeeds'\n\
         replies.b = ['none']\n\
         expect = { status = 'completed', attempts = { b = 2 }, ended_within = '11s' }\n\
         [[scenario]]\n\
         name = 'undos are scripted too'\n\
         replies = { b = 'failure', a = { compensate = ['retry', { success = {}, after = '2s' }] } }\n\
         expect = { status = 'compensated', attempts = { a = { execute = 1, compensate = 2 } }, effects = [] }\n\
         [[scenario]]\n\
         name = 'late, and more than once'\n\
         replies.b = ['none', { success = {}, after = '1m', times = 3 }]\n\
         expect = { status = 'compensated', attempts = { b = { compensate = 2 } }, effects = [], events = [\n\
           'saga.two.started', 'saga.two.compensating', 'saga.two.compensated', 'saga.two.compensating', 'saga.two.compensated'] }\n\
         [[scenario]]\n\
         name = 'in its own words'\n\
         replies.b = { answer = { error = 'no' } }\n\
         expect = { status = 'compensated', error = { message = 'no' } }\n\
         [[scenario]]\n\
         name = 'the deadline of the scenario'\n\
         timeout = '3s'\n\
         replies.b = 'none'\n\
         expect = { status = 'compensated', error = { reason = 'deadline' } }\n\
         [[scenario]]\n\
         name = 'an operator steers'\n\
         replies.b = { failure = 'no', after = '5s' }\n\
         happens = [{ after = '1s', suspend = 'wait' }, { resume = true }]\n\
         expect = { status = 'compensated', steps = { a = 'compensated', b = 'failed' } }\n",
    );
}

#[test]
fn every_kind_of_step_can_be_played() {
    pass(
        "saga = 'kinds'\n\
         input = { id = 'k', items = ['x', 'y'] }\n\
         [[scenario]]\n\
         name = 'whatever is waited for comes'\n\
         held = '1m'\n\
         expect = { status = 'completed', published = ['told'], ended_within = '1m 5s', \
           commands = [{ command = 'each.do', after = '1m' }, 'each.do', 'pay.do'] }\n\
         [[scenario]]\n\
         name = 'signal and event come early'\n\
         happens = [{ after = '0s', signal = 'approved', payload = { by = 'ann' } }, { after = '1s', event = 'arrive' }]\n\
         expect = { status = 'completed', commands = ['each.do', 'each.do', { command = 'pay.do', body = { by = 'ann' } }] }\n\
         [[scenario]]\n\
         name = 'the event never comes'\n\
         replies.arrive = 'none'\n\
         expect = { status = 'compensated', error = { step = 'arrive', reason = 'timeout' }, effects = [] }\n\
         [[scenario]]\n\
         name = 'one element fails'\n\
         replies.each = { items.1 = 'failure' }\n\
         expect = { status = 'compensated', commands = ['each.do', 'each.do', 'each.undo'], effects = [] }\n\
         [[scenario]]\n\
         name = 'the child fails'\n\
         replies.ship = { failure = 'no ship', after = '1h' }\n\
         expect = { status = 'compensated', error = { step = 'ship', message = 'no ship' } }\n\
         [[scenario]]\n\
         name = 'the child is undone'\n\
         replies.pay = 'failure'\n\
         expect = { status = 'compensated', steps = { ship = 'compensated', arrive = 'compensated' }, effects = [] }\n\
         [[scenario]]\n\
         name = 'whoever is asked knows that it was done'\n\
         replies.pay = { execute = 'silent', probe = 'success' }\n\
         expect = { status = 'completed', commands = ['each.do', 'each.do', 'pay.do', 'pay.status'] }\n",
    );
}

#[test]
fn what_goes_otherwise_is_shown_beside_what_was_expected() {
    let commands = differs("replies.b = 'failure'\nexpect.commands = ['a.do', 'a.undo']");
    assert_eq!(commands, "commands\n    expected  sent\n    a.do      a.do\n  > a.undo    b.do\n    -         a.undo");
    assert_eq!(differs("expect.status = 'failed'"), "status\n    expected  failed\n    is        completed");
    let body =
        differs("replies.a = { success = { id = 1 } }\nexpect.commands = ['a.do', { command = 'b.do', body.of = 2 }]");
    assert_eq!(body, "commands[1] (b.do) body.of\n    expected  2\n    is        1");
    assert!(differs("happens = [{ cancel = true }]\nexpect.status = 'completed'").contains("it has ended"));
    assert!(differs("expect.ended_within = '1s'\nreplies.b = { success = {}, after = '2s' }").contains("+2.000s"));
    assert!(differs("expect.suspended = 'b'").contains("not suspended"));
    assert!(differs("expect.effects = ['a']").contains("a, b"));
}

/// Beyond 2^53 not every integer is a double.
#[test]
fn numbers_are_compared_by_their_digits() {
    let scenario = |is: &str, expected: &str| {
        format!(
            "replies.a = {{ success = {{ id = {is} }} }}\n\
             expect.commands = ['a.do', {{ command = 'b.do', body.of = {expected} }}]\n"
        )
    };
    let body = differs(&scenario("9007199254740993", "9007199254740992"));
    assert_eq!(body, "commands[1] (b.do) body.of\n    expected  9007199254740992\n    is        9007199254740993");
    for (is, expected) in [("9007199254740993", "9007199254740993"), ("1", "1.0"), ("2.50", "2.5")] {
        pass(&format!("saga = 'two'\n[[scenario]]\nname = 'it'\n{}", scenario(is, expected)));
    }
}

#[test]
fn the_command_tells_what_happened() {
    let folder = Folder::of("saga = 'two'\n[[scenario]]\nname = 'wrong'\nexpect.status = 'failed'\n");
    let (code, out, err) = folder.test(&["two.test.toml"]);
    assert_eq!((code, err.as_str()), (1, ""));
    for part in
        ["FAILED  two: wrong   (two.test.toml:3)", "sends b.do (b, attempt 1)", "1 scenario: 0 passed, 1 failed"]
    {
        assert!(out.contains(part), "{out}");
    }
    let (code, json) = folder.json();
    assert_eq!(code, 1);
    assert_eq!((&json["passed"], &json["failed"]), (&json!(0), &json!(1)));
    assert_eq!(json["scenarios"][0]["line"], 3);
    let folder = Folder::of("saga = 'two'\n[[scenario]]\nname = 'right'\nexpect.status = 'completed'\n");
    let (code, out, _) = folder.test(&["."]);
    assert_eq!((code, out.as_str()), (0, "ok      two: right\n1 scenario: all passed\n"));
    assert!(folder.test(&[".", "--history"]).1.contains("completed"));
}

#[test]
fn scenarios_may_be_in_a_folder_of_their_own() {
    let folder = Folder::of("");
    for name in ["sagas", "scenarios"] {
        std::fs::create_dir(folder.path(name)).unwrap();
    }
    std::fs::rename(folder.path("two.toml"), folder.path("sagas/two.toml")).unwrap();
    let scenarios = "saga = 'two'\n[[scenario]]\nname = 'right'\nexpect.status = 'completed'\n";
    std::fs::write(folder.path("scenarios/two.test.toml"), scenarios).unwrap();
    let (code, out, err) = folder.test(&["scenarios"]);
    assert_eq!((code, out.as_str()), (0, "ok      two: right\n1 scenario: all passed\n"), "{err}");
}

#[test]
fn nothing_to_play_is_wrong_usage() {
    let folder = Folder::of("");
    std::fs::remove_file(folder.path("two.test.toml")).unwrap();
    let (code, _, err) = folder.test(&["."]);
    assert_eq!(code, 2);
    assert!(err.contains("there are no scenarios below ."), "{err}");
}

#[test]
fn what_is_wrong_with_a_file_has_a_place_and_a_remedy() {
    let found = wrong(
        "saga = 'two'\n[[scenario]]\nname = 'it'\nimput = {}\nreplies.aa = 'failure'\nreplies.b = 'failed'\n\
         happens = [{ cancel = true, suspend = true }]\nexpect.statos = 'completed'\n",
    );
    let found: Vec<(&str, (u64, u64), &str)> =
        found.iter().map(|(code, place, _, help)| (code.as_str(), *place, help.as_str())).collect();
    assert_eq!(found[0], ("unknown-key", (4, 1), "did you mean `input`?"));
    assert_eq!((found[1].0, found[1].1), ("unknown-step", (5, 9)));
    assert_eq!((found[2].0, found[2].1), ("invalid-value", (6, 13)));
    assert_eq!((found[3].0, found[3].1), ("invalid-value", (7, 12)));
    assert_eq!(found[4], ("unknown-key", (8, 8), "did you mean `status`?"));
    assert_eq!(found.len(), 5);
    let (code, place, message, help) = wrong("saga = 'tow'\n[[scenario]]\n").remove(0);
    assert_eq!((code.as_str(), place, help.as_str()), ("unknown-saga", (1, 8), "did you mean \"two\"?"));
    assert_eq!(message, "there is no definition `tow`");
    let (code, ..) = wrong("saga = 'two'\n[[scenario]]\nname = 'it'\n").remove(0);
    assert_eq!(code, "missing-key", "a scenario that expects nothing");
    let (code, place, message, _) = wrong("saga = 'two'\n[[scenario]]\nname = 'it'\nexpect = {}\n").remove(0);
    assert_eq!((code.as_str(), place, message.as_str()), ("invalid-value", (4, 1), "this scenario expects nothing"));
}
