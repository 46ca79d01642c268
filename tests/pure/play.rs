//! One saga on the bare core: what happens is said in words, what is sent comes back in words.
//!
//! Commands are written `pay 1` (the first attempt of the execute of step `pay`) and `undo pay 2`.

use std::sync::Arc;
use std::time::Duration;

use sagad::core::answer::{Answer, Outcome, RawAnswer};
use sagad::core::apply::{Origin, replay};
use sagad::core::decide::{Command, Decision, Effect, Ignored, decide};
use sagad::core::definition::Definition;
use sagad::core::entry::{Entry, Resolution};
use sagad::core::id::{Action, SagaId, Spot, Ticket};
use sagad::core::input::{Forbidden, Input, Order};
use sagad::core::parse::parse;
use sagad::core::saga::{Failure, Parent, Phase, Reason, Saga, Status};
use sagad::core::start::{NewSaga, check_input, start};
use sagad::core::time::Time;
use sagad::store::{ItemsWrite, StoredItems, StoredSaga, changed_items, encode, read_saga};
use serde_json::{Value, json};
use uuid::Uuid;

/// When everything begins.
pub(crate) const START: Time = Time(1_700_000_000_000);

/// Before the steps of a definition that says nothing else: ten seconds an attempt, two attempts a second apart, both ways.
const PRELUDE: &str = "\
name = 's'
[defaults]
exchange = 'e'
timeout = '10s'
retry = { initial = '1s', factor = 2.0, max = '8s', jitter = 0.0 }
";

pub(crate) struct Play {
    pub(crate) definition: Definition,
    pub(crate) saga: Saga,
    /// The entries of each transition and its time.
    pub(crate) journal: Vec<(Time, Vec<Entry>)>,
    /// Every command that was ever sent.
    pub(crate) sent: Vec<Command>,
    /// Whatever else was sent.
    others: Vec<Effect>,
    /// Whatever somebody answers, with its round.
    pub(crate) asked: Vec<(Ticket, u32)>,
    /// Why the last input changed nothing.
    pub(crate) ignored: Option<Ignored>,
    pub(crate) now: Time,
    shown: usize,
}

/// Reads a definition; if it has no `name`, after the prelude.
#[track_caller]
pub(crate) fn definition(toml: &str) -> Definition {
    let whole = if toml.starts_with("name") { toml.to_owned() } else { format!("{PRELUDE}{toml}") };
    match parse(&whole, &mut |name| Err(format!("no {name} here"))) {
        Ok((definition, _)) => definition,
        Err(errors) => panic!("{errors:#?}\n{whole}"),
    }
}

/// Lines for the top of a definition and steps after them, with the prelude in between.
pub(crate) fn whole(toml: &str) -> String {
    let (top, steps) = toml.split_at(toml.find("[[steps]]").unwrap_or(toml.len()));
    let (name, defaults) = PRELUDE.split_at(PRELUDE.find("[defaults]").unwrap_or(0));
    format!("{name}{top}{defaults}{steps}")
}

/// A step with an undo and two attempts at both; `more` are further lines.
pub(crate) fn step(name: &str, more: &str) -> String {
    format!("{}retry.attempts = 2\n{more}\n", undoable(name))
}

/// The same with a single attempt at the execute.
pub(crate) fn once(name: &str, more: &str) -> String {
    format!("{}retry.attempts = 1\n{more}\n", undoable(name))
}

fn undoable(name: &str) -> String {
    format!(
        "[[steps]]\nname = '{name}'\ncommand = '{name}.do'\n\
         compensate.command = '{name}.undo'\ncompensate.retry.attempts = 2\n"
    )
}

/// Steps one after the other.
pub(crate) fn sequence(names: &[&str]) -> String {
    names.iter().map(|name| step(name, "")).collect()
}

/// The answer as a participant puts it that states its outcome.
pub(crate) fn raw(answer: Answer) -> RawAnswer {
    let error = |failure: Failure| json!({ "error": { "message": failure.message } });
    match answer {
        Answer::Success(reply) => RawAnswer::new(Some(Outcome::Success), reply),
        Answer::Failure(failure) => RawAnswer::new(Some(Outcome::Failure), error(failure)),
        Answer::Retry(failure) => RawAnswer::new(Some(Outcome::Retry), error(failure)),
        Answer::Pending => RawAnswer::new(Some(Outcome::Pending), Value::Null),
    }
}

impl Play {
    /// Starts a saga.
    #[track_caller]
    pub(crate) fn of(toml: &str) -> Play {
        Play::with(toml, json!({ "n": 1 }))
    }

    #[track_caller]
    pub(crate) fn with(toml: &str, input: Value) -> Play {
        Play::delayed(toml, input, Duration::ZERO)
    }

    #[track_caller]
    pub(crate) fn delayed(toml: &str, input: Value, delay: Duration) -> Play {
        Play::on(definition(toml), input, delay)
    }

    #[track_caller]
    pub(crate) fn on(definition: Definition, input: Value, delay: Duration) -> Play {
        Play::begun(definition, input, delay, None)
    }

    /// A saga that a step of another one runs.
    #[track_caller]
    pub(crate) fn below(toml: &str, input: Value, parent: Parent) -> Play {
        Play::begun(definition(toml), input, Duration::ZERO, Some(parent))
    }

    #[track_caller]
    fn begun(definition: Definition, input: Value, delay: Duration, parent: Option<Parent>) -> Play {
        let input = Arc::new(input);
        let key = check_input(&definition, &input).expect("an input that fits");
        let new = NewSaga {
            id: SagaId(Uuid::from_u128(7)),
            revision: 1,
            input,
            priority: None,
            delay,
            trace: None,
            actor: "test".into(),
            parent,
        };
        let decision = start(&definition, new, key, START).expect("a start");
        let mut play = Play {
            definition,
            saga: decision.saga.clone(),
            journal: Vec::new(),
            sent: Vec::new(),
            others: Vec::new(),
            asked: Vec::new(),
            ignored: None,
            now: START,
            shown: 0,
        };
        play.take(decision);
        play
    }

    /// When the saga next wants to be woken.
    pub(crate) fn due(&self) -> Option<Time> {
        self.saga.due(&self.definition, Duration::ZERO)
    }

    /// Puts an input in, and checks what must be true of every transition.
    #[track_caller]
    pub(crate) fn put(&mut self, input: Input) -> Result<(), Forbidden> {
        // As the store would give it back.
        let stored = as_stored(&self.saga);
        assert_eq!(stored, self.saga, "the state is not what was stored");
        let mut decision = decide(&self.definition, &stored, input.clone(), self.now)?;
        let again = decide(&self.definition, &self.saga, input, self.now)?;
        assert_eq!((&again.saga, &again.entries), (&decision.saga, &decision.entries), "the same decision twice");
        if decision.entries.is_empty() {
            assert_eq!(decision.saga, self.saga, "a change without an entry");
            assert!(decision.effects.is_empty());
            self.ignored = decision.ignored;
            return Ok(());
        }
        // The engine's part.
        decision.saga.version += 1;
        self.take(decision);
        Ok(())
    }

    #[track_caller]
    fn take(&mut self, decision: Decision) {
        let Decision { saga, entries, effects, ignored } = decision;
        let mut commands = Vec::new();
        for effect in effects {
            self.asked.extend(match &effect {
                Effect::Command(command) => Some((command.ticket, command.round)),
                Effect::Event(event) => Some((event.ticket, 0)),
                // A child that is told again to undo looks again; told again to begin, it is the same child.
                Effect::Child(order) if order.ticket.action == Action::Execute => Some((order.ticket, 0)),
                Effect::Child(order) => Some((order.ticket, order.ticket.attempt)),
                Effect::Answer(_) => None,
            });
            match effect {
                Effect::Command(command) => commands.push(command),
                other => self.others.push(other),
            }
        }
        let text = serde_json::to_string(&entries).unwrap();
        let told: Vec<Entry> = serde_json::from_str(&text).unwrap();
        assert_eq!(told, entries, "the journal is not what was written");
        let entries = told;
        self.journal.push((self.now, entries));
        let origin = Origin {
            id: saga.id,
            definition: saga.definition.clone(),
            revision: saga.revision,
            input: saga.input.clone(),
        };
        let replayed = replay(origin, self.journal.iter().cloned()).expect("a journal");
        assert_eq!(replayed, saga, "the journal tells something else than the state");
        for command in &commands {
            assert!(command.deadline > self.now, "{command:?} is late when it is sent");
            assert!(command.expires.is_none_or(|expires| !expires.is_zero()), "{command:?} is dead when it is sent");
        }
        self.saga = saga;
        self.ignored = ignored;
        // Whatever it is that it waits for, it can be told.
        let explanation = sagad::explain::explain(&self.definition, &self.saga, self.now);
        assert_eq!(
            explanation.waits.is_empty(),
            self.saga.status().is_terminal(),
            "{explanation:#?}\n{:#?}",
            self.saga
        );
        self.sent.extend(commands);
    }

    // ---- what is sent -------------------------------------------------------------------------------------------

    /// Whatever was sent that is no command.
    pub(crate) fn others(&self) -> &[Effect] {
        &self.others
    }

    /// What was sent since this was asked before, in the order sent.
    pub(crate) fn fresh(&mut self) -> Vec<String> {
        let fresh = self.sent[self.shown..].iter().map(|command| self.name_of(command)).collect();
        self.shown = self.sent.len();
        fresh
    }

    #[track_caller]
    pub(crate) fn sends(&mut self, expected: &[&str]) {
        assert_eq!(self.fresh(), expected);
    }

    pub(crate) fn name_of(&self, command: &Command) -> String {
        let Ticket { spot: Spot { step, item }, action, attempt, .. } = command.ticket;
        let action = match action {
            Action::Execute => "",
            Action::Compensate => "undo ",
            Action::Probe => "probe ",
        };
        let item = item.map(|item| format!("[{item}]")).unwrap_or_default();
        format!("{action}{}{item} {attempt}", self.definition.steps[step].name)
    }

    /// The command of that name.
    #[track_caller]
    pub(crate) fn command(&self, name: &str) -> &Command {
        self.sent.iter().find(|command| self.name_of(command) == name).expect(name)
    }

    // ---- what happens -------------------------------------------------------------------------------------------

    #[track_caller]
    fn ticket(&self, name: &str) -> (Spot, Action, u32) {
        let words: Vec<&str> = name.split(' ').collect();
        let (action, words) = match words.as_slice() {
            ["undo", rest @ ..] => (Action::Compensate, rest),
            rest => (Action::Execute, rest),
        };
        let step = self.definition.step_named(words[0]).expect(name);
        (step.into(), action, words[1].parse().unwrap())
    }

    #[track_caller]
    pub(crate) fn answers(&mut self, name: &str, answer: Answer) {
        let (spot, action, attempt) = self.ticket(name);
        self.put(Input::Answer { spot, action, attempt, answer: raw(answer) }).unwrap();
    }

    /// The participant did it; the reply says which attempt it was.
    #[track_caller]
    pub(crate) fn success(&mut self, name: &str) {
        self.answers(name, Answer::Success(json!({ "of": name })));
    }

    #[track_caller]
    pub(crate) fn failure(&mut self, name: &str) {
        self.answers(name, Answer::Failure(Failure::new(Reason::Failure, format!("{name} declined"))));
    }

    #[track_caller]
    pub(crate) fn retry(&mut self, name: &str) {
        self.answers(name, Answer::Retry(Failure::new(Reason::Failure, format!("{name} is busy"))));
    }

    #[track_caller]
    pub(crate) fn pending(&mut self, name: &str) {
        self.answers(name, Answer::Pending);
    }

    #[track_caller]
    pub(crate) fn comes_back(&mut self, name: &str, reason: Reason, delivered_before: bool) {
        self.is_given_back(name, reason, delivered_before, false);
    }

    /// One of two copies that the broker may have; nobody took this one.
    #[track_caller]
    pub(crate) fn copy_comes_back(&mut self, name: &str, reason: Reason) {
        self.is_given_back(name, reason, false, true);
    }

    #[track_caller]
    fn is_given_back(&mut self, name: &str, reason: Reason, delivered_before: bool, resent: bool) {
        let (spot, action, attempt) = self.ticket(name);
        let message = format!("{name} came back");
        self.put(Input::Undelivered { spot, action, attempt, reason, message, delivered_before, resent }).unwrap();
    }

    /// Lets `seconds` pass and wakes it.
    #[track_caller]
    pub(crate) fn after(&mut self, seconds: f64) {
        self.now = self.now.plus(Duration::from_secs_f64(seconds));
        self.put(Input::Tick).unwrap();
    }

    /// Waits for its next timer.
    #[track_caller]
    pub(crate) fn timer(&mut self) {
        let due = self.saga.due(&self.definition, Duration::ZERO).expect("a timer");
        assert!(due > self.now, "a timer of the past: {:#?}", self.saga);
        self.now = due;
        self.put(Input::Tick).unwrap();
        assert_eq!(self.ignored, None, "the timer was for nothing");
    }

    pub(crate) fn order(&mut self, order: Order) -> Result<(), Forbidden> {
        self.put(Input::Operator { actor: "op".into(), order })
    }

    #[track_caller]
    pub(crate) fn cancel(&mut self) {
        self.order(Order::Cancel { reason: None }).unwrap();
    }

    #[track_caller]
    pub(crate) fn suspend(&mut self) {
        self.order(Order::Suspend { reason: None }).unwrap();
    }

    #[track_caller]
    pub(crate) fn resume(&mut self) {
        self.order(Order::Resume { reason: None }).unwrap();
    }

    pub(crate) fn retry_step(&mut self, step: &str) -> Result<(), Forbidden> {
        self.order(Order::Retry { step: step.into(), item: None, reason: None })
    }

    pub(crate) fn resolve(&mut self, step: &str, outcome: Resolution) -> Result<(), Forbidden> {
        let reply = json!({ "of": "the operator" });
        self.order(Order::Resolve { step: step.into(), item: None, outcome, reply, reason: "looked it up".into() })
    }

    // ---- where it is --------------------------------------------------------------------------------------------

    #[track_caller]
    pub(crate) fn is(&self, status: Status) {
        assert_eq!(self.saga.status(), status, "{:#?}", self.journal);
    }

    /// It is suspended for the failed compensation of this step.
    #[track_caller]
    pub(crate) fn waits_for(&self, step: &str) {
        self.is(Status::Suspended);
        assert_eq!(self.saga.suspended.as_ref().unwrap().spot, self.definition.step_named(step).map(Spot::from));
    }

    /// The status of each step, in the order of the definition.
    pub(crate) fn steps(&self) -> Vec<&'static str> {
        let steps = self.saga.steps.iter().zip(&self.definition.steps);
        steps.map(|(state, step)| state.status(step, self.definition.on_compensation_failure).as_str()).collect()
    }

    pub(crate) fn step(&self, name: &str) -> &'static str {
        self.steps()[self.definition.step_named(name).unwrap()]
    }

    /// The step and the class of what made it compensate.
    #[track_caller]
    pub(crate) fn error(&self) -> (Option<&str>, Reason) {
        let error = self.saga.error.as_ref().expect("an error");
        (error.step.map(|step| &*self.definition.steps[step].name), error.failure.reason)
    }

    #[track_caller]
    pub(crate) fn output(&self) -> &Value {
        match &self.saga.phase {
            Phase::Completed { output, .. } => output,
            other => panic!("it has not completed, it is {other:?}"),
        }
    }
}

/// The row that a saga is kept in.
pub(crate) fn row_of(saga: &Saga) -> StoredSaga {
    let items = changed_items(&[], saga).into_iter();
    let stored =
        |it: ItemsWrite| StoredItems { step: it.step, chunk: it.chunk, version: saga.version, state: it.state };
    StoredSaga {
        id: saga.id,
        version: saga.version,
        definition: saga.definition.to_string(),
        revision: saga.revision,
        state: encode(saga),
        input: encode(&*saga.input),
        items: items.map(stored).collect(),
    }
}

/// A saga that went to the store and came back.
pub(crate) fn as_stored(saga: &Saga) -> Saga {
    read_saga(&row_of(saga)).unwrap()
}

/// The answer to an attempt, as it comes from the broker.
pub(crate) fn answer(
    play: &mut Play,
    spot: impl Into<Spot>,
    action: Action,
    attempt: u32,
    outcome: Option<Outcome>,
    body: Value,
) {
    let answer = RawAnswer::new(outcome, body);
    play.put(Input::Answer { spot: spot.into(), action, attempt, answer }).unwrap();
}
