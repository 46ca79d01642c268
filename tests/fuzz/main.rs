//! Fuzzing without coverage, for a machine that has nothing but cargo: seeds, and mutations of them that are the same in each run.
//!
//! It finds what is near to what people write. What is far off is for `cargo fuzz`, which feeds the same targets and learns from what
//! they do; docs/fuzzing.md says how. `SAGAD_FUZZ_SECONDS` makes each target run for so long instead.
#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod mutations;
mod seeds;
mod targets;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use self::mutations::Mutator;

/// No input may take longer, on the slowest machine and without optimization.
const SLOW: Duration = Duration::from_secs(30);

/// Feeds a target with the seeds and so many mutations.
fn fuzz(name: &str, target: fn(&[u8]), seeds: Vec<Vec<u8>>, runs: u64) {
    assert!(!seeds.is_empty(), "{name} has no seeds");
    let seconds = std::env::var("SAGAD_FUZZ_SECONDS").ok().map(|text| text.parse().expect("a number of seconds"));
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let feeder = Feeder::new(name, target);
    seeds.iter().for_each(|seed| feeder.feed(seed));
    let mut mutator = Mutator::new(seeds);
    let mut run = 0;
    while until.map_or(run < runs, |until| Instant::now() < until) {
        feeder.feed(&mutator.next());
        run += 1;
    }
    println!("{name}: {run} mutations");
}

struct Feeder {
    target: fn(&[u8]),
    /// The input that is fed: nothing is left to say it where one exhausts the stack.
    path: PathBuf,
    current: File,
}

impl Feeder {
    fn new(name: &str, target: fn(&[u8])) -> Feeder {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}"));
        println!("the input in hand is always in {}", path.display());
        Feeder { target, current: File::create(&path).unwrap(), path }
    }

    fn feed(&self, input: &[u8]) {
        self.current.set_len(input.len() as u64).unwrap();
        self.current.write_all_at(input, 0).unwrap();
        let began = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.target)(input)));
        let took = began.elapsed();
        if outcome.is_ok() && took < SLOW {
            return;
        }
        let what = if outcome.is_ok() { format!("it took {took:?}") } else { "it failed, as said above".to_owned() };
        panic!("{what}; the input is in {}:\n{}", self.path.display(), String::from_utf8_lossy(input));
    }
}

#[test]
fn definitions() {
    fuzz("definition", targets::definition, seeds::definitions(), 5_000);
}

#[test]
fn templates() {
    fuzz("template", targets::template, seeds::templates(), 60_000);
}

#[test]
fn json() {
    fuzz("json", targets::json, seeds::json(), 200_000);
}

#[test]
fn messages() {
    fuzz("message", targets::message, seeds::messages(), 150_000);
}

/// Seeds that are refused at the door exercise nothing.
#[test]
fn seeds_are_what_they_should_be() {
    let definitions = seeds::definitions();
    let read = |seed: &Vec<u8>| {
        sagad::core::parse::parse(std::str::from_utf8(seed).unwrap(), &mut |_| Err(String::new())).is_ok()
    };
    assert!(definitions.iter().all(read) && definitions.len() >= 4);
    let compiles =
        |seed: &Vec<u8>| sagad::core::template::Template::compile(std::str::from_utf8(seed).unwrap()).is_ok();
    assert!(seeds::templates().iter().filter(|seed| compiles(seed)).count() >= 20);
    assert!(seeds::json().iter().filter(|seed| sagad::json::read(seed).is_ok()).count() >= 8);
    let properties = |seed: &Vec<u8>| {
        let text = seed[1..].split(|byte| *byte == 0).next().unwrap();
        serde_json::from_slice::<sagad::broker::message::Properties>(text).is_ok()
    };
    assert!(seeds::messages().iter().all(properties));
}
