//! Every definition in `sagas/`, as the daemon would read them, put through whatever can happen to its steps: each kind of failure of
//! each of them, everything twice, a killed daemon after every commit, every deadline, an operator who cancels at every point. Nothing in
//! here knows of any saga: what is dropped into the folder is covered.

mod run;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use sagad::core::definition::{Definition, Execute};
use sagad::core::id::{Action, StepIx};
use sagad::core::saga::{Reason, Status};
use sagad::core::start::check_input;
use sagad::trial::stage::SHIPPED;
use sagad::{definitions, explore, scenario};
use serde_json::Value;

use self::run::{How, Interruption, Run, Script, Twice};
use crate::corridor::Notable;
use crate::corridor::table::{Clock, Table};

/// What was done, so that a test that does nothing is seen.
#[derive(Debug, Default)]
struct Tally {
    runs: usize,
    ends: BTreeMap<Status, usize>,
    seen: BTreeMap<&'static str, usize>,
}

impl Tally {
    fn count(&mut self, run: &Run<'_>) {
        self.runs += 1;
        *self.ends.entry(run.status()).or_default() += 1;
        for notable in run.seen() {
            *self.seen.entry(notable).or_default() += 1;
        }
    }

    fn add(&mut self, other: Tally) {
        self.runs += other.runs;
        other.ends.into_iter().for_each(|(status, count)| *self.ends.entry(status).or_default() += count);
        other.seen.into_iter().for_each(|(what, count)| *self.seen.entry(what).or_default() += count);
    }
}

/// The inputs that its scenarios have, or else those that can be made up.
fn inputs(definition: &Definition, scenarios: Vec<Arc<Value>>) -> Vec<Arc<Value>> {
    let all = match scenarios.is_empty() {
        true => explore::inputs(definition).unwrap_or_default(),
        false => scenarios,
    };
    let mut known = BTreeSet::new();
    let new = |input: &Arc<Value>| check_input(definition, input).is_ok() && known.insert(input.to_string());
    all.into_iter().filter(new).collect()
}

/// Each definition of a folder with its inputs.
fn definitions_of(folder: PathBuf) -> Vec<(&'static Definition, Vec<Arc<Value>>)> {
    let folder = [folder];
    let read = definitions::read(&folder, None);
    assert!(!read.has_errors(), "{:#?}", read.files);
    let names: Vec<&str> = read.definitions.keys().map(|name| &**name).collect();
    let find = |name: &str| read.definitions.get(name).map(|(definition, _)| definition);
    let mut inputs_of: BTreeMap<Arc<str>, Vec<Arc<Value>>> = BTreeMap::new();
    for file in definitions::read_scenarios(&folder) {
        let scenarios = scenario::read(&file.text, find, &names).expect("scenarios that can be read");
        let own = scenarios.scenarios.into_iter().map(|scenario| scenario.input);
        inputs_of.entry(scenarios.saga).or_default().extend(own);
    }
    let all = read.definitions.into_iter().map(|(name, (definition, _))| {
        let inputs = inputs(&definition, inputs_of.remove(&name).unwrap_or_default());
        assert!(!inputs.is_empty(), "nothing is known to start `{name}` with: write a scenario that does");
        (&*Box::leak(Box::new(definition)), inputs)
    });
    all.collect()
}

/// Whatever can become of an action, where it can go wrong.
fn failures(definition: &Definition, step: StepIx, action: Action) -> Vec<How> {
    let of = &definition.steps[step];
    match (&of.execute, action) {
        (Execute::Command(_), Action::Execute) => How::ALL.to_vec(),
        (Execute::Wait(wait), Action::Execute) if wait.timeout.is_some() => vec![How::Late],
        (Execute::Saga(_), Action::Execute) => vec![How::Failure],
        (Execute::Saga(_), Action::Compensate) if of.compensate.is_some() && of.undo_command().is_none() => {
            vec![How::Failure]
        }
        // An undo does not expire.
        (_, Action::Compensate) if of.compensate.is_some() => {
            How::ALL.into_iter().filter(|how| *how != How::Back(Reason::Expired)).collect()
        }
        _ => Vec::new(),
    }
}

/// One thing that goes wrong in each, or nothing.
fn scripts(definition: &Definition) -> Vec<Script> {
    let mut scripts = vec![Script::default()];
    for step in 0..definition.steps.len() {
        let forward = failures(definition, step, Action::Execute);
        scripts.extend(forward.iter().map(|how| Script::default().with((step, Action::Execute), *how)));
        let Some(first) = forward.first() else { continue };
        // What makes the saga compensate, and an undo that fails.
        for undone in (0..definition.steps.len()).filter(|undone| *undone != step) {
            for how in failures(definition, undone, Action::Compensate) {
                let turns = Script::default().with((step, Action::Execute), *first);
                scripts.push(turns.with((undone, Action::Compensate), how));
            }
        }
    }
    scripts
}

/// Puts the sagas of a folder through all of it.
fn put_through(folder: PathBuf) -> Tally {
    let mut in_all = Tally::default();
    for (definition, inputs) in definitions_of(folder) {
        let mut tally = Tally::default();
        let mut known = BTreeSet::new();
        for input in inputs {
            let table = Table::new(definition, input, Clock::Exact, SHIPPED);
            let mut go = |script: &Script| {
                let run = Run::of(&table, script);
                run.ends_as_it_should();
                tally.count(&run);
                (run.commits(), run.sent())
            };
            let differs = known.insert(go(&Script::default()).1);
            for script in scripts(definition) {
                let (commits, _) = go(&script);
                // Where all goes well, inputs may differ in nothing but words.
                if !differs {
                    continue;
                }
                for twice in Twice::ALL {
                    go(&Script { twice: Some(twice), ..script.clone() });
                }
                // An undo that fails for good has many attempts, each like the one before.
                if !script.undo_fails() {
                    for (point, what) in (0..=commits).flat_map(|point| Interruption::ALL.map(|what| (point, what))) {
                        go(&Script { interrupted: Some((point, what)), ..script.clone() });
                    }
                }
            }
        }
        let undoable = definition.steps.iter().any(|step| step.compensate.is_some());
        assert!(tally.ends.contains_key(&Status::Completed), "`{}` never completed: {tally:?}", definition.name);
        let undone = tally.ends.contains_key(&Status::Compensated);
        assert!(undone || !undoable, "`{}` was never undone: {tally:?}", definition.name);
        in_all.add(tally);
    }
    in_all
}

/// Everything that there is to be seen.
const EVERYTHING: [Notable; 8] = [
    Notable::TakenUpAgain,
    Notable::KilledBeforePublishing,
    Notable::KilledBeforeDeleting,
    Notable::KilledBeforeAcking,
    Notable::RepeatedAfterTheEnd,
    Notable::Late,
    Notable::DeadlinePassed,
    Notable::Cancelled,
];

#[test]
fn they_end_as_they_should_whatever_happens() {
    let in_all = put_through(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("sagas"));
    for status in [Status::Completed, Status::Compensated, Status::Suspended] {
        assert!(in_all.ends.contains_key(&status), "none is {}: {in_all:?}", status.as_str());
    }
    for what in EVERYTHING {
        assert!(in_all.seen.contains_key(what.as_str()), "nothing of {what:?}: {in_all:?}");
    }
}

/// Of each kind of step, and of each word that says what is to follow from a failure.
const KINDS: &str = "\
name = 'kinds'
timeout = '1h'
max_running = 1
on_compensation_failure = 'continue'
defaults = { exchange = 'e', timeout = '10s', retry = { attempts = 2 } }
[[steps]]
name = 'each'
foreach = '{{ input.items }}'
max_parallel = 2
command = 'each.do'
compensate = { command = 'each.undo', retry.attempts = 2 }
[[steps]]
name = 'approve'
after = []
wait = { signal = 'approved' }
timeout = '10m'
[[steps]]
name = 'nap'
sleep = '5s'
[[steps]]
name = 'tell'
publish = 'told'
compensate = { command = 'tell.undo', retry.attempts = 2 }
[[steps]]
name = 'maybe'
command = 'maybe.do'
optional = true
compensate = { command = 'maybe.undo', retry.attempts = 2, on = ['success', 'in_doubt', 'failure'] }
[[steps]]
name = 'child'
after = ['each', 'maybe']
saga = 'pivot'
input = {}
[[steps]]
name = 'asked'
command = 'asked.do'
on_timeout = 'probe'
probe = { command = 'asked.status' }
compensate = { command = 'asked.undo', retry.attempts = 2 }
[[steps]]
name = 'looked_at'
command = 'looked_at.do'
on_timeout = 'suspend'
compensate = { command = 'looked_at.undo', retry.attempts = 2 }
";

const PIVOT: &str = "\
name = 'pivot'
defaults = { exchange = 'e', timeout = '10s', retry = { attempts = 2 } }
[[steps]]
name = 'before'
command = 'before.do'
compensate = { command = 'before.undo', retry.attempts = 2 }
[[steps]]
name = 'point'
command = 'point.do'
pivot = true
compensate = false
[[steps]]
name = 'beyond'
command = 'beyond.do'
compensate = false
";

#[test]
fn so_do_sagas_of_every_kind_of_step() {
    let folder = tempfile::TempDir::new().unwrap();
    for (name, text) in [("kinds.toml", KINDS), ("pivot.toml", PIVOT)] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let input = "input = { items = [1, 2, 3] }";
    let scenario =
        format!("saga = 'kinds'\n[[scenario]]\nname = 'three items'\n{input}\nexpect.status = 'completed'\n");
    std::fs::write(folder.path().join("kinds.test.toml"), scenario).unwrap();
    let in_all = put_through(folder.path().to_owned());
    for status in [Status::Completed, Status::Compensated, Status::Suspended, Status::Failed] {
        assert!(in_all.ends.contains_key(&status), "none is {}: {in_all:?}", status.as_str());
    }
}
