//! What a run is made of, all of it drawn from its seed: definitions, what is asked of them and when, what goes wrong and how often.

use std::fmt;
use std::time::Duration;

use sagad::core::entry::Resolution;

use super::chance::Chance;
use super::sagas::SagaPlan;

/// A run in the making. Less of it is a run as well: see [`Plan::smaller`].
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) daemons: usize,
    /// Somebody listens in on the command of step `s0`, with a queue of their own.
    pub(crate) taps: bool,
    /// The last one is the child that others run.
    pub(crate) sagas: Vec<SagaPlan>,
    pub(crate) starts: Vec<StartPlan>,
    pub(crate) orders: Vec<OrderPlan>,
    pub(crate) mishaps: Vec<Mishap>,
    pub(crate) faults: Faults,
    /// How long things go wrong.
    pub(crate) trouble: Duration,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct StartPlan {
    /// Which definition.
    pub(crate) saga: usize,
    /// Two starts may ask for the same.
    pub(crate) key: u32,
    pub(crate) at: Duration,
    pub(crate) way: Way,
    pub(crate) delay: Duration,
}

/// How a start comes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Way {
    Http,
    Amqp,
    /// Over AMQP, by one who does not say which message is which.
    Nameless,
    /// By an event of another service.
    Event,
}

/// An operator's word to the saga of a start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OrderPlan {
    pub(crate) start: usize,
    pub(crate) at: Duration,
    pub(crate) what: What,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    Cancel,
    Suspend,
    Resume,
    Retry(usize),
    Resolve(usize, Resolution),
    Signal,
    /// To whichever saga has the key of the start, or will have it.
    SignalByKey,
    Event,
}

/// Something that happens to a whole daemon, or to all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mishap {
    pub(crate) at: Duration,
    pub(crate) lasts: Duration,
    pub(crate) what: Misfortune,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Misfortune {
    /// The process is killed, and started again after a while.
    Kill(usize),
    /// It stands still, and goes on as if nothing had been.
    Freeze(usize),
    /// Its connections to the broker break.
    Cut(usize),
    /// The store can't be reached by anybody.
    StoreAway,
    /// The broker can't be reached by anybody.
    BrokerAway,
    /// The definitions are loaded again by one daemon, one of them changed; by the others once it is over.
    Rollout(usize, usize),
    /// A daemon loads its definitions while one of them is not there.
    Lack(usize, usize),
}

impl Misfortune {
    /// In a word or two.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Misfortune::Kill(_) => "kill",
            Misfortune::Freeze(_) => "freeze",
            Misfortune::Cut(_) => "cut",
            Misfortune::StoreAway => "store away",
            Misfortune::BrokerAway => "broker away",
            Misfortune::Rollout(..) => "rollout",
            Misfortune::Lack(..) => "lack",
        }
    }
}

/// A struct of numbers that can be gone through as well.
macro_rules! each_by_name {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $field:ident,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default)]
        pub(crate) struct $name {
            $($(#[$doc])* pub(crate) $field: u32,)*
        }

        impl $name {
            /// Each by its name, to be drawn or left out.
            fn each(&mut self) -> Vec<(&'static str, &mut u32)> {
                vec![$((stringify!($field), &mut self.$field)),*]
            }
        }
    };
}

each_by_name! {
    /// How often things go wrong, in thousandths, while there is trouble.
    Faults {
        /// A publish breaks the link before the broker has the message.
        unsent,
        /// A publish breaks the link after the broker has it.
        unconfirmed,
        /// A queue confirms nothing; the broker may have it.
        deferred,
        /// A queue is full, or has no leader.
        refused,
        returned,
        /// A message to sagad comes twice.
        twice,
        /// The longest a message to sagad is under way.
        slow,
        /// A wake-up is lost.
        lost_wake_up,
        /// A command is delivered twice.
        handled_twice,
        /// A participant: declines, is busy, ponders, answers late, does it and says nothing, dies over it, rejects it, is not there, contradicts
        /// itself, answers what its step can't read.
        decline,
        busy,
        ponder,
        late,
        silent,
        die,
        reject,
        absent,
        contradict,
        unreadable,
        /// The store: can't be reached, will not have it, or a commit takes effect and nobody is told.
        store_fails,
        store_refuses,
        commit_unknown,
        /// The daemon dies just after a commit, or before it has published, or before it has acknowledged.
        dies_committing,
        dies_publishing,
        dies_acknowledging,
        /// What nobody can read comes to sagad's queues.
        garbage,
        /// How far the daemons' clocks are apart, in milliseconds.
        skew,
    }
}

/// The longest that a message is under way while all is well, in milliseconds.
const NOT_SLOW: u32 = 20;

impl Faults {
    /// Of some seeds nothing goes wrong, of most a few kinds of things do, so that each is seen without the noise of all others.
    fn draw(chance: Chance) -> Faults {
        let mut faults = Faults::default();
        let most = chance.of("how many").pick(&[0, 150, 300, 600]);
        for (name, fault) in faults.each() {
            let chance = chance.of(name);
            if chance.of("at all").permille(most) {
                *fault = chance.of("how often").pick(&[10, 40, 120, 300]);
            }
        }
        // These end a process each time.
        for dies in [&mut faults.dies_committing, &mut faults.dies_publishing, &mut faults.dies_acknowledging] {
            *dies = (*dies).min(40) / 4;
        }
        faults.slow = match faults.slow {
            0 => NOT_SLOW,
            _ => chance.of("slow").pick(&[400, 3_000, 30_000, 150_000]),
        };
        faults.skew = if faults.skew > 0 { chance.of("skew").pick(&[50, 900, 2_000]) } else { 0 };
        faults
    }
}

/// What an operator can have found out.
const OUTCOMES: [Resolution; 4] =
    [Resolution::Succeeded, Resolution::Failed, Resolution::Compensated, Resolution::GivenUp];

impl Plan {
    /// The plan of a seed.
    pub(crate) fn draw(seed: u64) -> Plan {
        let chance = Chance::new(seed);
        let daemons = chance.of("daemons").weighted(&[(5, 1), (4, 2), (1, 3)]);
        let count = chance.of("sagas").weighted(&[(6, 1usize), (3, 2)]);
        let mut sagas: Vec<SagaPlan> =
            (0..count).map(|at| SagaPlan::draw(chance.of(("saga", at)), format!("s{at}"), false)).collect();
        sagas.push(SagaPlan::draw(chance.of("child"), "child".to_owned(), true));
        let trouble = chance.of("trouble").millis(2_000..60_000);
        let at =
            |label: &'static str, nth: usize| chance.of((label, nth)).of("at").millis(0..trouble.as_millis() as u64);
        let starts: Vec<StartPlan> = (0..chance.of("starts").within(1..6) as usize)
            .map(|nth| {
                let own = chance.of(("start", nth));
                StartPlan {
                    saga: own.of("saga").below(count as u64) as usize,
                    key: own.of("key").weighted(&[(3, nth as u32), (1, 0)]),
                    at: if own.of("early").permille(600) { own.of("soon").millis(0..200) } else { at("start", nth) },
                    way: own.of("way").weighted(&[(4, Way::Http), (4, Way::Amqp), (1, Way::Nameless), (1, Way::Event)]),
                    delay: if own.of("delay").permille(100) { Duration::from_secs(3) } else { Duration::ZERO },
                }
            })
            .collect();
        let orders = (0..chance.of("orders").pick(&[0, 0, 2, 5]))
            .map(|nth| {
                let own = chance.of(("order", nth));
                let step = own.of("step").below(6) as usize;
                let outcome = own.of("outcome").pick(&OUTCOMES);
                let what = [
                    What::Cancel,
                    What::Suspend,
                    What::Resume,
                    What::Retry(step),
                    What::Resolve(step, outcome),
                    What::Signal,
                    What::SignalByKey,
                    What::Event,
                ];
                OrderPlan {
                    start: own.of("start").below(starts.len() as u64) as usize,
                    at: at("order", nth),
                    what: own.pick(&what),
                }
            })
            .collect();
        let mishaps = (0..chance.of("mishaps").pick(&[0, 0, 1, 3, 6]))
            .map(|nth| {
                let own = chance.of(("mishap", nth));
                let daemon = own.of("daemon").below(daemons as u64) as usize;
                let what = own.of("what").weighted(&[
                    (4, Misfortune::Kill(daemon)),
                    (2, Misfortune::Freeze(daemon)),
                    (2, Misfortune::Cut(daemon)),
                    (1, Misfortune::StoreAway),
                    (1, Misfortune::BrokerAway),
                    (1, Misfortune::Rollout(daemon, own.of("saga").below(count as u64) as usize)),
                    // The child as well.
                    (1, Misfortune::Lack(daemon, own.of("saga").below(count as u64 + 1) as usize)),
                ]);
                Mishap {
                    at: at("mishap", nth),
                    lasts: own.of("lasts").millis(1..own.of("long").pick(&[3_000, 20_000, 60_000])),
                    what,
                }
            })
            .collect();
        let faults = Faults::draw(chance.of("faults"));
        let taps = chance.of("taps").permille(200);
        Plan { seed, daemons, taps, sagas, starts, orders, mishaps, faults, trouble }
    }

    /// Plans with something less in them, the largest parts first.
    pub(crate) fn smaller(&self) -> Vec<Plan> {
        let mut smaller = Vec::new();
        let mut with = |change: &dyn Fn(&mut Plan)| {
            let mut plan = self.clone();
            change(&mut plan);
            smaller.push(plan);
        };
        if self.daemons > 1 {
            with(&|plan| plan.daemons -= 1);
        }
        if self.taps {
            with(&|plan| plan.taps = false);
        }
        for at in 0..self.starts.len() {
            if self.starts.len() > 1 {
                with(&|plan| {
                    plan.starts.remove(at);
                    plan.orders.retain(|order| order.start != at);
                    plan.orders.iter_mut().for_each(|order| order.start -= usize::from(order.start > at));
                });
            }
        }
        for at in 0..self.mishaps.len() {
            with(&|plan| _ = plan.mishaps.remove(at));
        }
        for at in 0..self.orders.len() {
            with(&|plan| _ = plan.orders.remove(at));
        }
        for (at, (name, fault)) in self.faults.clone().each().into_iter().enumerate() {
            let calm = if name == "slow" { NOT_SLOW } else { 0 };
            if *fault != calm {
                with(&|plan| *plan.faults.each()[at].1 = calm);
            }
        }
        for saga in 0..self.sagas.len() {
            for less in self.sagas[saga].smaller() {
                with(&|plan| plan.sagas[saga] = less.clone());
            }
        }
        smaller
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tapped = if self.taps { ", the first step's command is tapped" } else { "" };
        writeln!(f, "seed {}: {} daemons, trouble for {:?}{tapped}", self.seed, self.daemons, self.trouble)?;
        self.sagas.iter().try_for_each(|saga| writeln!(f, "{}", saga.toml()))?;
        self.starts.iter().try_for_each(|start| writeln!(f, "{start:?}"))?;
        self.orders.iter().try_for_each(|order| writeln!(f, "{order:?}"))?;
        self.mishaps.iter().try_for_each(|mishap| writeln!(f, "{mishap:?}"))?;
        let faults = format!("{:?}", self.faults);
        let real = faults.split(", ").filter(|fault| !fault.ends_with(": 0"));
        writeln!(f, "{}", real.collect::<Vec<_>>().join(", "))
    }
}
