//! `sagad explore`: everything that can happen to sagas of any definition, and that mistakes of the engine would be found.

use std::sync::Arc;

use proptest::prelude::*;
use sagad::core::apply::apply;
use sagad::core::decide::{Decision, decide};
use sagad::core::definition::Definition;
use sagad::core::entry::Entry;
use sagad::core::id::Action;
use sagad::core::input::{Forbidden, Input};
use sagad::core::saga::{Phase, Progress, Saga};
use sagad::core::time::Time;
use sagad::definitions::{self, File};
use sagad::explore::{Bounds, Report, Violation, explore};
use sagad::scenario;
use sagad::store::Source;
use sagad::trial::stage::{Decide, SHIPPED};
use serde_json::json;

const TWO: &str = "\
name = 'two'
timeout = '10m'
defaults = { exchange = 'e', timeout = '10s', retry = { attempts = 2 } }
[[steps]]
name = 'a'
command = 'a.do'
compensate.command = 'a.undo'
[[steps]]
name = 'b'
command = 'b.do'
compensate.command = 'b.undo'
";

fn explored(toml: &str, bounds: Bounds, decide: Decide) -> Report {
    let source = Source { toml: toml.to_owned(), schema: None };
    explore(&source, Arc::new(json!({ "items": [1, 2] })), bounds, decide).unwrap()
}

/// The way to the breach is a scenario that leads there, too.
#[track_caller]
fn breach(toml: &str, decide: Decide) -> Violation {
    let violation = explored(toml, Bounds::default(), decide).violation.expect("a mistake that is found");
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::write(folder.path().join("it.toml"), toml).unwrap();
    let definitions = definitions::read(&[folder.path().to_owned()], None);
    let text = violation.scenario.clone();
    let file = File { path: "it.test.toml".into(), text, diagnostics: Vec::new() };
    let outcomes = scenario::run(&file, &definitions, decide);
    let outcome = outcomes.unwrap_or_else(|wrong| panic!("{wrong:#?}\n{}", violation.scenario)).remove(0);
    let led_there = outcome.history.len() >= violation.history.len();
    assert!(led_there, "{:#?}\n{}\n{:#?}", violation.history, violation.scenario, outcome.history);
    assert_eq!(outcome.history[..violation.history.len()], violation.history[..], "{}", violation.scenario);
    violation
}

fn unchanged(saga: &Saga) -> Decision {
    Decision { saga: saga.clone(), entries: Vec::new(), effects: Vec::new(), ignored: None }
}

#[test]
fn all_that_can_happen_to_two_steps() {
    let report = explored(TWO, Bounds { late: 2, ..Bounds::default() }, SHIPPED);
    assert!(report.violation.is_none(), "{:#?}", report.violation);
    assert!(report.states > 500 && report.unseen == 0, "{report:?}");
    let ends: Vec<&str> = report.ends.keys().copied().collect();
    assert_eq!(ends, ["compensated", "completed", "suspended"]);
}

#[test]
fn the_shipped_sagas_keep_every_law() {
    let sagas = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("sagas");
    for (name, (definition, source)) in definitions::read(&[sagas], None).definitions {
        for input in sagad::explore::inputs(&definition).unwrap() {
            let bounds = Bounds { attempts: 1, late: 1, states: 3_000 };
            let report = explore(&source, input, bounds, SHIPPED).unwrap();
            assert!(report.violation.is_none(), "{name}: {:#?}", report.violation);
        }
    }
}

#[test]
fn attempts_without_end_are_not_states_without_end() {
    let toml = TWO.replace("compensate.command = 'a.undo'", "pivot = true\ncompensate = false");
    let report = explored(&toml, Bounds::default(), SHIPPED);
    assert!(report.violation.is_none(), "{:#?}", report.violation);
    assert!(report.unseen == 0 && report.depth < 50, "{report:?}");
}

#[test]
fn a_bound_that_was_reached_is_told() {
    let report = explored(TWO, Bounds { states: 50, ..Bounds::default() }, SHIPPED);
    assert_eq!(report.states, 50);
    assert!(report.unseen > 0);
    assert!(explored(TWO, Bounds { late: 0, ..Bounds::default() }, SHIPPED).cut > 0);
}

#[test]
fn an_engine_that_drops_late_answers_leaves_something_behind() {
    fn mistaken(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Result<Decision, Forbidden> {
        if let Input::Answer { spot, action: Action::Execute, .. } = &input
            && saga.unit(*spot).is_some_and(|unit| matches!(unit.execute.progress, Progress::Failed { .. }))
        {
            return Ok(unchanged(saga));
        }
        decide(definition, saga, input, now)
    }
    let violation = breach(TWO, mistaken);
    assert_eq!(violation.law, "effect", "{violation:#?}");
}

#[test]
fn an_engine_that_undoes_twice_is_found() {
    fn mistaken(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Result<Decision, Forbidden> {
        let again = match &input {
            Input::Answer { spot, action: Action::Compensate, .. } => Some(*spot),
            _ => None,
        };
        let mut decision = decide(definition, saga, input, now)?;
        if let (Some(spot), true) = (again, decision.entries.is_empty()) {
            let entry = Entry::CompensationRenewed { spot };
            apply(&mut decision.saga, &entry, now);
            decision.entries.push(entry);
        }
        Ok(decision)
    }
    assert_eq!(breach(TWO, mistaken).law, "duplicate");
}

#[test]
fn an_engine_that_forgets_to_journal_is_found() {
    fn mistaken(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Result<Decision, Forbidden> {
        let mut decision = decide(definition, saga, input, now)?;
        decision.entries.retain(|entry| !matches!(entry, Entry::AttemptFailed { .. }));
        Ok(decision)
    }
    assert_eq!(breach(TWO, mistaken).law, "replay");
}

#[test]
fn an_engine_that_gets_stuck_is_found() {
    fn mistaken(definition: &Definition, saga: &Saga, input: Input, now: Time) -> Result<Decision, Forbidden> {
        if saga.phase == Phase::Compensating {
            return Ok(unchanged(saga));
        }
        decide(definition, saga, input, now)
    }
    let violation = explored(TWO, Bounds::default(), mistaken).violation.expect("a mistake that is found");
    assert_eq!(violation.law, "ends");
}

#[test]
fn a_template_that_fails_only_in_doubt_is_found() {
    let toml = TWO.to_owned() + "compensate.body.id = '{{ steps.b.reply.id + 1 }}'\n";
    let violation = breach(&toml, SHIPPED);
    assert_eq!(violation.law, "template", "{violation:#?}");
}

/// What one element comes to is not said of the others.
#[test]
fn the_elements_of_a_list_each_have_a_say_in_the_way() {
    let each = "\
name = 'list'
timeout = '10m'
defaults = { exchange = 'e', timeout = '10s', retry = { attempts = 2 } }
[[steps]]
name = 'each'
foreach = '{{ input.items }}'
command = 'each.do'
compensate = { command = 'each.undo', body.id = \"{{ 1 // 0 if item == 2 and steps.each.status == 'in_doubt' else item }}\" }
[[steps]]
name = 'b'
command = 'b.do'
";
    let violation = breach(each, SHIPPED);
    assert_eq!(violation.law, "template", "{violation:#?}");
    let said = |element: &str| violation.scenario.contains(&format!("\nreplies.each.items.{element}.execute = ["));
    assert!(said("0") && said("1"), "{}", violation.scenario);
}

#[test]
fn what_was_published_or_waited_for_may_have_an_undo() {
    let undo = |name: &str| format!("compensate.command = '{name}.undo'\n");
    let toml = format!(
        "name = 'paid'\ndefaults = {{ exchange = 'e', timeout = '10s', retry = {{ attempts = 1 }} }}\n\
         [[steps]]\nname = 'tell'\npublish = 'told'\n{}\
         [[steps]]\nname = 'paid'\nwait = {{ signal = 'paid' }}\ntimeout = '1m'\n{}\
         [[steps]]\nname = 'b'\ncommand = 'b.do'\n",
        undo("tell"),
        undo("paid")
    );
    let report = explored(&toml, Bounds { attempts: 1, late: 1, states: 5_000 }, SHIPPED);
    assert!(report.violation.is_none(), "{:#?}", report.violation);
    assert!(report.ends.contains_key("compensated"), "{:?}", report.ends);
}

#[test]
fn many_steps_at_the_same_time_are_bounded_too() {
    let steps =
        (0..24).map(|at| format!("[[steps]]\nname = 's{at}'\nafter = []\ncommand = 'c'\ncompensate.command = 'u'\n"));
    let toml = format!("name = 'wide'\ndefaults = {{ exchange = 'e' }}\n{}", steps.collect::<String>());
    let report = explored(&toml, Bounds { attempts: 1, late: 1, states: 1 }, SHIPPED);
    assert!(report.transitions < 2_000 && report.unseen > report.transitions, "{report:?}");
}

/// A step at random.
fn step(at: usize) -> impl Strategy<Value = String> {
    let kind = prop_oneof![
        6 => Just(format!("command = 's{at}.do'")),
        1 => Just(format!("wait = {{ signal = 's{at}' }}\ntimeout = '1m'")),
        1 => Just("sleep = '3s'".to_owned()),
        1 => Just(format!("publish = 's{at}.told'")),
        1 => Just("saga = 'other'\ntimeout = '1h'".to_owned()),
        1 => Just(format!("command = 's{at}.do'\nforeach = '{{{{ input.items }}}}'\nmax_parallel = 1")),
        1 => Just(format!("command = 's{at}.do'\non_timeout = 'probe'\nprobe = {{ command = 's{at}.status' }}")),
        1 => Just(format!("command = 's{at}.do'\non_timeout = 'suspend'")),
    ];
    let on = prop_oneof![4 => Just(""), 1 => Just("compensate.on = ['success', 'in_doubt', 'failure']")];
    (kind, 0..1usize << at.min(4), on, prop::bool::weighted(0.15), prop::bool::weighted(0.1)).prop_map(
        move |(kind, after, on, optional, pivot)| {
            let after: Vec<String> =
                (0..at).filter(|earlier| after >> earlier & 1 == 1).map(|it| format!("'s{it}'")).collect();
            let pivot = pivot && kind == format!("command = 's{at}.do'");
            let undo = if kind.starts_with("command") && !pivot {
                format!("compensate.command = 's{at}.undo'\n{on}")
            } else if kind.starts_with("saga") {
                String::new()
            } else {
                "compensate = false".to_owned()
            };
            let mut more = String::new();
            let plain = kind == format!("command = 's{at}.do'");
            if optional && !pivot && (plain || kind.starts_with("saga") || kind.starts_with("wait")) {
                more += "optional = true\n";
            }
            if pivot {
                more += "pivot = true\n";
            }
            format!("[[steps]]\nname = 's{at}'\nafter = [{}]\n{kind}\n{undo}\n{more}", after.join(", "))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_laws_hold_for_any_definition(steps in (step(0), step(1), step(2)), deadline: bool, goes_on: bool) {
        let policy = if goes_on { "continue" } else { "suspend" };
        let deadline = if deadline { "timeout = '5m'\n" } else { "" };
        let toml = format!(
            "name = 'any'\n{deadline}on_compensation_failure = '{policy}'\ndefaults = {{ exchange = 'e', timeout = '10s' }}\n{}{}{}",
            steps.0, steps.1, steps.2
        );
        let report = explored(&toml, Bounds { attempts: 1, late: 1, states: 1_000 }, SHIPPED);
        prop_assert!(report.violation.is_none(), "{}\n{:#?}", toml, report.violation);
    }
}
