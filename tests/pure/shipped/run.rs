//! One run of one saga: what is to go wrong in it, and whether it ended as it should.

use std::collections::BTreeSet;

use sagad::core::apply::replay;
use sagad::core::definition::{Execute, OnCompensationFailure, OnTimeout};
use sagad::core::entry::Entry;
use sagad::core::id::{Action, StepIx};
use sagad::core::saga::{Reason, Status};
use sagad::core::time::Time;
use sagad::trial::stage::To;
use sagad::trial::story;

use crate::corridor::table::{Outcome, Table, origin};
use crate::corridor::{Answer, Manner, Notable, Order, Post, Queued, Step, World};

/// How an action fails, at each of its attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// The participant declines.
    Failure,
    /// Nobody takes the command.
    Nobody,
    /// It is done, and no answer comes.
    Silence,
    /// It is done and answered once everything is over.
    Late,
    /// The command comes back.
    Back(Reason),
}

impl How {
    pub(super) const ALL: [How; 9] = [
        How::Failure,
        How::Nobody,
        How::Silence,
        How::Late,
        How::Back(Reason::Rejected),
        How::Back(Reason::Expired),
        How::Back(Reason::DeliveryLimit),
        How::Back(Reason::MaxLength),
        How::Back(Reason::Unroutable),
    ];

    fn reason(self) -> Reason {
        match self {
            How::Failure => Reason::Failure,
            How::Nobody | How::Silence | How::Late => Reason::Timeout,
            How::Back(reason) => reason,
        }
    }
}

/// What happens more than once, or over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Twice {
    /// Every answer comes twice, at once.
    Answers,
    /// Every answer comes again after all is over.
    AnswersInTheEnd,
    /// The answers to compensations come twice.
    AnswersToUndos,
    /// Every command is delivered twice.
    Commands,
    /// The daemon is killed after every commit, before it has published what follows.
    Killed,
    /// It is killed after every commit and the publishing of what follows: the commands go out twice.
    KilledLater,
}

impl Twice {
    pub(super) const ALL: [Twice; 6] = [
        Twice::Answers,
        Twice::AnswersInTheEnd,
        Twice::AnswersToUndos,
        Twice::Commands,
        Twice::Killed,
        Twice::KilledLater,
    ];
}

/// What happens once, after so many commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interruption {
    Crash,
    Cancel,
    Deadline,
}

impl Interruption {
    pub(super) const ALL: [Interruption; 3] = [Interruption::Crash, Interruption::Cancel, Interruption::Deadline];
}

/// What is to go wrong.
#[derive(Clone, Debug, Default)]
pub(super) struct Script {
    pub(super) fails: Vec<((StepIx, Action), How)>,
    pub(super) twice: Option<Twice>,
    pub(super) interrupted: Option<(usize, Interruption)>,
}

impl Script {
    pub(super) fn with(&self, what: (StepIx, Action), how: How) -> Script {
        let mut script = self.clone();
        script.fails.push((what, how));
        script
    }

    pub(super) fn undo_fails(&self) -> bool {
        self.fails.iter().any(|((_, action), _)| *action == Action::Compensate)
    }

    fn how(&self, step: StepIx, action: Action) -> Option<How> {
        self.fails.iter().find(|(what, _)| *what == (step, action)).map(|(_, how)| *how)
    }

    fn is_twice(&self, twice: Twice) -> bool {
        self.twice == Some(twice)
    }
}

/// More steps than any run takes.
const MOST_STEPS: usize = 50_000;

/// A run that is over.
pub(super) struct Run<'t> {
    table: &'t Table,
    script: &'t Script,
    world: World,
    journal: Vec<(Time, Vec<Entry>)>,
    sent: Vec<Post>,
    seen: BTreeSet<&'static str>,
    /// Answers that came again.
    repeated: BTreeSet<Answer>,
    /// Whether what was to happen once has happened, or could not.
    interrupted: Option<bool>,
    /// What was committed last has not been followed by a crash yet.
    fresh: bool,
}

impl<'t> Run<'t> {
    pub(super) fn of(table: &'t Table, script: &'t Script) -> Run<'t> {
        let (world, started) = World::start(table);
        let (journal, sent, seen, repeated) = (Vec::new(), Vec::new(), BTreeSet::new(), BTreeSet::new());
        let mut run = Run { table, script, world, journal, sent, seen, repeated, interrupted: None, fresh: false };
        run.note(&started);
        for _ in 0..MOST_STEPS {
            let Some(step) = run.next() else { return run };
            run.take(step);
        }
        panic!("it does not come to rest\n{}", run.story())
    }

    pub(super) fn commits(&self) -> usize {
        self.journal.len()
    }

    /// What was sent, in order.
    pub(super) fn sent(&self) -> Vec<Post> {
        self.sent.clone()
    }

    pub(super) fn status(&self) -> Status {
        self.world.saga.status()
    }

    pub(super) fn seen(&self) -> impl Iterator<Item = &'static str> {
        self.seen.iter().copied()
    }

    fn take(&mut self, step: Step) {
        let (world, outcome) = self.world.after(step, self.table, Order::Shipped);
        self.world = world;
        self.seen.extend(self.world.just.map(Notable::as_str));
        if let Some(outcome) = outcome {
            self.note(&outcome);
        }
        if step == Step::Crash {
            self.fresh = false;
            self.is_told_by_its_journal();
        }
        assert_eq!(self.world.broken, None, "{step:?}\n{}", self.story());
    }

    fn note(&mut self, outcome: &Outcome) {
        if outcome.after.is_some() {
            self.journal.push((outcome.at, outcome.entries.clone()));
            self.sent.extend(&outcome.rows);
            self.fresh = true;
        }
    }

    /// What happens next; `None`: nothing does.
    fn next(&mut self) -> Option<Step> {
        let (world, script) = (&self.world, self.script);
        if world.hand.is_some() {
            return Some(Step::Commit);
        }
        let before_publishing = self.fresh && script.is_twice(Twice::Killed);
        let after_publishing = self.fresh && script.is_twice(Twice::KilledLater) && !world.publishes();
        if (before_publishing || after_publishing) && world.can_crash() {
            return Some(Step::Crash);
        }
        if let Some(step) = self.interruption() {
            return Some(step);
        }
        let world = &self.world;
        if world.publishes() {
            return Some(Step::Publish);
        }
        if let Some(answer) = world.unacked.first().copied() {
            let again = match script.twice {
                Some(Twice::Answers | Twice::AnswersInTheEnd) => true,
                Some(Twice::AnswersToUndos) => answer.to.action == Action::Compensate,
                _ => false,
            };
            let again = again && self.repeated.insert(answer);
            return Some(if again { Step::Repeat(answer) } else { Step::Ack(answer) });
        }
        let in_the_end = script.is_twice(Twice::AnswersInTheEnd);
        if let Some(delivery) = world.ready.iter().find(|delivery| !(delivery.known && in_the_end)) {
            return Some(Step::Deliver(*delivery));
        }
        if world.is_held() {
            return Some(Step::Admit);
        }
        if let Some(step) = world.queues.iter().find_map(|queued| self.takes(*queued)) {
            return Some(step);
        }
        if world.is_timed() {
            return Some(Step::Time);
        }
        // What was kept until now.
        let late = world.queues.first().map(|queued| Step::Take(*queued, Manner::Do));
        late.or_else(|| world.ready.first().map(|delivery| Step::Deliver(*delivery)))
    }

    fn interruption(&mut self) -> Option<Step> {
        let (point, what) = self.script.interrupted?;
        if self.interrupted.is_some() || self.journal.len() <= point {
            return None;
        }
        let (step, possible) = match what {
            Interruption::Crash => (Step::Crash, self.world.can_crash()),
            Interruption::Cancel => (Step::Cancel, self.world.can_cancel(self.table)),
            Interruption::Deadline => (Step::Deadline, self.world.has_deadline(self.table)),
        };
        self.interrupted = Some(possible);
        possible.then_some(step)
    }

    /// What becomes of a command; `None`: nobody takes it now.
    fn takes(&self, queued: Queued) -> Option<Step> {
        let post = queued.post;
        let (step, action) = (post.spot.step, post.action);
        let twice = self.script.is_twice(Twice::Commands) && !queued.again && self.world.to(post) != To::Nobody;
        let usual = if twice { Manner::DoAndAgain } else { Manner::Do };
        let manner = match self.script.how(step, action).filter(|_| !self.is_healed(queued)) {
            None => usual,
            Some(How::Late) => return None,
            Some(How::Failure) => Manner::Decline,
            Some(How::Back(reason)) => Manner::Back(reason),
            // Of what is no longer awaited word comes.
            Some(How::Nobody) if self.world.awaits(post) => Manner::Lose,
            Some(How::Silence) if self.world.awaits(post) => Manner::Silence,
            Some(How::Nobody | How::Silence) => usual,
        };
        Some(Step::Take(queued, manner))
    }

    /// Past the point of no return there is no end of attempts: somewhere all is well again.
    fn is_healed(&self, queued: Queued) -> bool {
        let post = queued.post;
        let step = &self.table.definition.steps[post.spot.step];
        let attempts = step.command().map_or(0, |command| command.retry.attempts);
        post.action == Action::Execute && attempts > 0 && post.attempt > attempts
    }

    // ---- how it ended -------------------------------------------------------------------------------------------

    pub(super) fn ends_as_it_should(&self) {
        assert!(self.world.is_quiet(), "something is left\n{}", self.story());
        self.is_told_by_its_journal();
        let expected = self.expected();
        assert!(expected.contains(&self.status()), "expected: {expected:?}\n{}", self.story());
        self.says_why();
    }

    /// What is stored is what the journal leads to: bytes that were read back as what they were written for.
    fn is_told_by_its_journal(&self) {
        let saga = self.world.saga.saga();
        let told = replay(origin(saga), self.journal.iter().cloned()).expect("a journal");
        assert_eq!(told, *saga, "{}", self.story());
    }

    /// How it may end, by what its definition says of what went wrong.
    fn expected(&self) -> BTreeSet<Status> {
        use Status::{Compensated, Completed, Failed, Suspended};
        let (definition, saga) = (self.table.definition, self.world.saga.saga());
        let sent =
            |step: StepIx, action| saga.steps[step].units().any(|(_, unit)| unit.action(action).started_at.is_some());
        let turned = self.interrupted == Some(true)
            && self.script.interrupted.is_some_and(|(_, what)| what != Interruption::Crash);
        let undo =
            self.script.fails.iter().find(|((step, action), _)| *action == Action::Compensate && sent(*step, *action));
        if let Some((_, how)) = undo {
            // What an operator waits for and comes late, comes. A saga that has ended stays as it is.
            return BTreeSet::from([match definition.on_compensation_failure {
                OnCompensationFailure::Suspend if *how == How::Late => Compensated,
                OnCompensationFailure::Suspend => Suspended,
                OnCompensationFailure::Continue => Failed,
            }]);
        }
        if turned {
            return BTreeSet::from([Compensated]);
        }
        let failed =
            self.script.fails.iter().find(|((step, action), _)| *action == Action::Execute && sent(*step, *action));
        let Some(((step, _), how)) = failed else { return BTreeSet::from([Completed]) };
        let step = &definition.steps[*step];
        let timed_out = how.reason() == Reason::Timeout;
        let suspends = match &step.execute {
            Execute::Command(request) => Some(&request.on_timeout),
            _ => None,
        };
        // A pivot that succeeds after it was given up for failed turns nothing any more.
        let turned = |entry: &Entry| matches!(entry, Entry::Compensating { .. });
        let past =
            saga.is_past_pivot(definition) && !self.journal.iter().any(|(_, entries)| entries.iter().any(turned));
        match suspends {
            _ if step.optional => BTreeSet::from([Completed]),
            _ if past && *how == How::Failure => BTreeSet::from([Suspended]),
            _ if past => BTreeSet::from([Completed]),
            Some(OnTimeout::Suspend) if timed_out => BTreeSet::from([Suspended, Completed]),
            // Who is asked knows whether it was done.
            Some(OnTimeout::Probe(_)) if timed_out => match how {
                How::Silence => BTreeSet::from([Completed]),
                _ => BTreeSet::from([Compensated]),
            },
            _ => BTreeSet::from([Compensated]),
        }
    }

    /// The error tells what went wrong.
    fn says_why(&self) {
        let saga = self.world.saga.saga();
        let turned = self.script.interrupted.filter(|_| self.interrupted == Some(true)).map(|(_, what)| what);
        let expected: Vec<Reason> = match turned {
            Some(Interruption::Cancel) => vec![Reason::Cancelled],
            Some(Interruption::Deadline) => vec![Reason::Deadline],
            _ if self.status() != Status::Compensated => return,
            _ => {
                let forward = self.script.fails.iter().filter(|((_, action), _)| *action == Action::Execute);
                // Who is asked how it ended may say that it was not done.
                let asked = |step: StepIx| self.table.definition.steps[step].probe_command().map(|_| Reason::Failure);
                forward.flat_map(|((step, _), how)| [Some(how.reason()), asked(*step)]).flatten().collect()
            }
        };
        let reason = saga.error.as_ref().map(|error| error.failure.reason);
        let told = reason.is_some_and(|reason| reason == Reason::Child || expected.contains(&reason));
        assert!(told, "expected: {expected:?}\n{}", self.story());
    }

    fn story(&self) -> String {
        let definition = self.table.definition;
        let lines = self.journal.iter().flat_map(|(at, entries)| {
            entries.iter().map(move |entry| story::tell(definition, *at, entry)).collect::<Vec<_>>()
        });
        let lines: Vec<String> = lines.collect();
        format!("{}: {:?}\n{}\n{:#?}", definition.name, self.script, lines.join("\n"), self.world)
    }
}
