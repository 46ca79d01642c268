//! The shipped engine in a world that is drawn from a seed: several daemons, a broker, participants that are merely idempotent, and
//! everything that can go wrong with them. Time is virtual, the same seed gives the same run.
//!
//! ```text
//!   seed ─> plan: definitions, starts, operators, mishaps, faults ─> run ─> breach of a law, or none ─> shrink ─> the shortest way there
//! ```
//!
//! `SAGAD_SIM_SEEDS=100000 cargo test --release --test pure sim::holds` runs as many seeds as asked, from `SAGAD_SIM_FROM` on (a random one
//! by default); `SAGAD_SIM_SEED=17 cargo test --test pure sim::replay -- --nocapture` shows one.

mod chance;
mod checks;
mod daemon;
mod form;
mod mutants;
mod participants;
mod plan;
mod run;
mod sagas;
mod store;
mod world;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sagad::trial::laws;

use self::checks::LAWS;
use self::mutants::Mutant;
use self::plan::Plan;
use self::run::{Outcome, run};

/// Runs a plan; a panic is a breach as well.
fn tried(plan: &Plan, mutant: Option<Mutant>, traced: bool) -> Outcome {
    let outcome = catch_unwind(AssertUnwindSafe(|| run(plan.clone(), mutant, traced)));
    outcome.unwrap_or_else(|panic| {
        let why = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Outcome { breach: Some(("no-panic", why.unwrap_or("a panic").to_owned())), ..Outcome::default() }
    })
}

/// A smaller plan that breaks the same law.
fn shrunk(mut plan: Plan, law: &'static str, mutant: Option<Mutant>, patience: Duration) -> Plan {
    let began = Instant::now();
    'smaller: while began.elapsed() < patience {
        for smaller in plan.smaller() {
            if tried(&smaller, mutant, false).breach.is_some_and(|(broken, _)| broken == law) {
                plan = smaller;
                continue 'smaller;
            }
            if began.elapsed() > patience {
                break;
            }
        }
        break;
    }
    plan
}

/// What is to be known of a seed that failed.
fn story(seed: u64, mutant: Option<Mutant>) -> String {
    let plan = Plan::draw(seed);
    let Some((law, message)) = tried(&plan, mutant, false).breach else { return format!("seed {seed} is all right") };
    let small = shrunk(plan, law, mutant, Duration::from_secs(60));
    let outcome = tried(&small, mutant, true);
    let (_, last) = outcome.breach.unwrap_or((law, message));
    let last: String = last.chars().take(4_000).collect();
    format!("seed {seed} breaks `{law}`: {last}\n{small}\n{}", outcome.trace.join("\n"))
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

/// Another one each time.
fn rand_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) >> 16
}

/// Runs seeds on all cores, until one fails: how many transitions there were, how sagas ended, what was seen.
fn seeds(from: u64, count: u64, mutant: Option<Mutant>) -> Result<Outcome, u64> {
    let next = AtomicU64::new(0);
    let failed = AtomicU64::new(u64::MAX);
    let all = Mutex::new(Outcome::default());
    let work = || {
        let mut sum = Outcome::default();
        loop {
            let nth = next.fetch_add(1, Ordering::Relaxed);
            if nth >= count || failed.load(Ordering::Relaxed) != u64::MAX {
                break;
            }
            let outcome = tried(&Plan::draw(from.wrapping_add(nth)), mutant, false);
            if outcome.breach.is_some() {
                // The first by number, whichever thread was faster: so that it is the same each time.
                failed.fetch_min(nth, Ordering::Relaxed);
                break;
            }
            sum.add(outcome);
        }
        all.lock().unwrap().add(sum);
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    match failed.into_inner() {
        u64::MAX => Ok(all.into_inner().unwrap()),
        nth => Err(from.wrapping_add(nth)),
    }
}

/// What has to happen in some run of many.
const SEEN: [&str; 30] = [
    "late success",
    "renewed",
    "unreadable answer",
    "too early",
    "for another daemon",
    "unsent",
    "unconfirmed",
    "deferred",
    "returned",
    "refused",
    "refused by one",
    "twice",
    "lost wake-up",
    "expired",
    "maxlen",
    "rejected",
    "delivery_limit",
    "stale write",
    "store away",
    "store refuses",
    "commit unknown",
    "dies committing",
    "publishing",
    "acknowledging",
    "kill",
    "freeze",
    "cut",
    "broker away",
    "rollout",
    "lack",
];

#[test]
fn holds_whatever_goes_wrong() {
    let count = number("SAGAD_SIM_SEEDS").unwrap_or(2_500);
    let from = number("SAGAD_SIM_FROM").unwrap_or_else(rand_seed);
    println!("SAGAD_SIM_FROM={from} SAGAD_SIM_SEEDS={count}");
    let began = Instant::now();
    let sum = seeds(from, count, None).unwrap_or_else(|seed| panic!("{}", story(seed, None)));
    println!("{count} seeds in {:?}: {} transitions, {:?}", began.elapsed(), sum.transitions, sum.ends);
    // A simulation in which nothing happens proves nothing.
    let ends: BTreeSet<&str> = sum.ends.keys().copied().collect();
    assert!(count < 2_000 || ends == BTreeSet::from(["completed", "compensated", "failed"]), "{ends:?}");
    let seen: BTreeSet<&str> = SEEN.into_iter().collect();
    assert!(count < 2_000 || seen.is_subset(&sum.seen), "never seen: {:?}", seen.difference(&sum.seen));
}

/// Seeds that broke a promise once, each by the name of what it broke. What a seed draws changes with what can be drawn: what they found has
/// tests of its own in `rules`, `forms` and `families`, and a mistake of its own in [`Mutant`].
mod once {
    macro_rules! holds {
        ($($what:ident: $($seed:literal),*;)*) => {
            $(#[test]
            fn $what() {
                for seed in [$($seed),*] {
                    let outcome = super::tried(&super::Plan::draw(seed), None, false);
                    assert!(outcome.breach.is_none(), "{}", super::story(seed, None));
                }
            })*
        };
    }

    holds! {
        the_answer_to_a_start_was_given_up_where_its_queue_confirmed_nothing: 5;
        a_command_that_had_come_back_was_sent_after_all_when_a_daemon_died: 2_672;
        a_participant_that_had_declined_did_it_after_all: 5_322;
        of_two_copies_the_word_of_the_first_stood: 1_033_909;
        a_child_that_had_ended_did_not_answer_whoever_asked_it_again: 2_002_450;
        a_late_word_of_an_order_that_a_child_had_answered_was_waited_for: 8_259;
        what_could_not_be_read_was_undone_for_each_attempt_that_said_so: 10_408;
        a_further_attempt_asked_for_something_else_under_the_same_key: 10_607;
        a_start_was_answered_with_the_saga_of_another_in_its_batch: 30_027_580;
        a_late_hand_died_after_the_undo_and_nobody_cared: 30_011_777, 30_038_625;
        a_child_that_could_not_undo_itself_was_not_heard: 40_277_940;
        a_copy_that_nobody_took_was_taken_for_a_hand: 40_246_951;
        who_was_too_busy_spoke_for_whoever_had_another_copy: 50_237_211;
        a_failure_told_again_settled_what_became_of_a_later_attempt: 60_141_896;
        what_could_not_be_read_was_forgotten_when_an_operator_asked_again: 70_007_602, 70_027_422;
        two_starts_with_a_key_in_a_batch_were_decided_for_ever: 80_541_070;
        a_child_left_something_behind_when_its_parent_had_ended_as_undone: 100_001_998;
        an_older_word_of_a_child_stood_against_a_newer_one: 100_049_188;
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..20 {
        let (once, again) = (tried(&Plan::draw(seed), None, true), tried(&Plan::draw(seed), None, true));
        assert_eq!(once.mark, again.mark, "seed {seed}: {:?} {:?}", once.trace.len(), again.trace.len());
    }
}

#[test]
fn every_mistake_is_found() {
    for mutant in Mutant::ALL {
        let seed = match seeds(mutant.begins_at(), 3_000, Some(mutant)) {
            Err(seed) => seed,
            Ok(_) => panic!("{mutant:?} is not found"),
        };
        let (law, message) = tried(&Plan::draw(seed), Some(mutant), false).breach.unwrap();
        let known = |law: &&str| LAWS.contains(law) || laws::LAWS.iter().any(|(name, _)| name == law);
        assert!(mutant.found_by().iter().all(known), "{mutant:?} breaks a law that nobody knows");
        assert!(mutant.found_by().contains(&law), "{mutant:?} is found by `{law}`: {message}");
        println!("{mutant:?} is found by seed {seed}: {law}");
    }
}

#[test]
fn replay() {
    let Some(seed) = number("SAGAD_SIM_SEED") else { return };
    println!("{}", story(seed, None));
}
