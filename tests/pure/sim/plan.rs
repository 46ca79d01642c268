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
    /// The definitions are loaded again, one of them changed.
    Reload(usize),
}

/// How often things go wrong, in thousandths, while there is trouble.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// A publish breaks the link before the broker has the message.
    pub(crate) unsent: u32,
    /// A publish breaks the link after the broker has it.
    pub(crate) unconfirmed: u32,
    /// A queue confirms nothing; the broker may have it.
    pub(crate) deferred: u32,
    pub(crate) refused: u32,
    pub(crate) returned: u32,
    /// A message to sagad comes twice.
    pub(crate) twice: u32,
    /// The longest a message to sagad is under way.
    pub(crate) slow: u32,
    /// A wake-up is lost.
    pub(crate) lost_wake_up: u32,
    /// A command is delivered twice.
    pub(crate) handled_twice: u32,
    /// A participant: declines, is busy, ponders, answers late, does it and says nothing, dies over it, rejects it, is not there, contradicts itself.
    pub(crate) decline: u32,
    pub(crate) busy: u32,
    pub(crate) ponder: u32,
    pub(crate) late: u32,
    pub(crate) silent: u32,
    pub(crate) die: u32,
    pub(crate) reject: u32,
    pub(crate) absent: u32,
    pub(crate) contradict: u32,
    /// The store: can't be reached, or a commit takes effect and nobody is told.
    pub(crate) store_fails: u32,
    pub(crate) commit_unknown: u32,
    /// The daemon dies just after a commit, or before it has published, or before it has acknowledged.
    pub(crate) dies_committing: u32,
    pub(crate) dies_publishing: u32,
    pub(crate) dies_acknowledging: u32,
    /// What nobody can read comes to sagad's queues.
    pub(crate) garbage: u32,
    /// How far the daemons' clocks are apart, in milliseconds.
    pub(crate) skew: u32,
}

impl Faults {
    /// Each kind, to be left out.
    fn each(&mut self) -> [&mut u32; 25] {
        let Faults {
            unsent,
            unconfirmed,
            deferred,
            refused,
            returned,
            twice,
            slow,
            lost_wake_up,
            handled_twice,
            decline,
            busy,
            ponder,
            late,
            silent,
            die,
            reject,
            absent,
            contradict,
            store_fails,
            commit_unknown,
            dies_committing,
            dies_publishing,
            dies_acknowledging,
            garbage,
            skew,
        } = self;
        [
            unsent,
            unconfirmed,
            deferred,
            refused,
            returned,
            twice,
            slow,
            lost_wake_up,
            handled_twice,
            decline,
            busy,
            ponder,
            late,
            silent,
            die,
            reject,
            absent,
            contradict,
            store_fails,
            commit_unknown,
            dies_committing,
            dies_publishing,
            dies_acknowledging,
            garbage,
            skew,
        ]
    }

    /// Of some seeds nothing goes wrong, of most a few kinds of things do, so that each is seen without the noise of all others.
    fn draw(chance: Chance) -> Faults {
        let mut faults = Faults::default();
        let most = chance.of("how many").pick(&[0, 150, 300, 600]);
        for (at, fault) in faults.each().into_iter().enumerate() {
            let chance = chance.of(at);
            if chance.of("at all").permille(most) {
                *fault = chance.of("how often").pick(&[10, 40, 120, 300]);
            }
        }
        // These end a process each time.
        for dies in [&mut faults.dies_committing, &mut faults.dies_publishing, &mut faults.dies_acknowledging] {
            *dies = (*dies).min(40) / 4;
        }
        faults.slow = match faults.slow {
            0 => 20,
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
                    way: own.of("way").weighted(&[(4, Way::Http), (4, Way::Amqp), (1, Way::Event)]),
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
                    (1, Misfortune::Reload(own.of("saga").below(count as u64) as usize)),
                ]);
                Mishap {
                    at: at("mishap", nth),
                    lasts: own.of("lasts").millis(1..own.of("long").pick(&[3_000, 20_000, 60_000])),
                    what,
                }
            })
            .collect();
        let faults = Faults::draw(chance.of("faults"));
        Plan { seed, daemons, sagas, starts, orders, mishaps, faults, trouble }
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
        for at in 0..25 {
            let calm = if at == 6 { 20 } else { 0 };
            if *self.faults.clone().each()[at] != calm {
                with(&|plan| *plan.faults.each()[at] = calm);
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
        writeln!(f, "seed {}: {} daemons, trouble for {:?}", self.seed, self.daemons, self.trouble)?;
        self.sagas.iter().try_for_each(|saga| writeln!(f, "{}", saga.toml()))?;
        self.starts.iter().try_for_each(|start| writeln!(f, "{start:?}"))?;
        self.orders.iter().try_for_each(|order| writeln!(f, "{order:?}"))?;
        self.mishaps.iter().try_for_each(|mishap| writeln!(f, "{mishap:?}"))?;
        let faults = format!("{:?}", self.faults);
        let real = faults.split(", ").filter(|fault| !fault.ends_with(": 0"));
        writeln!(f, "{}", real.collect::<Vec<_>>().join(", "))
    }
}
