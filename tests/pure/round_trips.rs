//! Whatever is written is read as what it was, for any values: messages by those they are for, and what is stored by the store.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use sagad::broker::message::{Inbox, Incoming, Outgoing, Properties};
use sagad::broker::names::Names;
use sagad::core::answer::{Outcome, RawAnswer};
use sagad::core::decide::{Ask, ChildOrder, Command, Effect, ParentAnswer};
use sagad::core::definition::Events;
use sagad::core::entry::Entry;
use sagad::core::id::{Action, SagaId, Spot, Ticket};
use sagad::core::input::Input;
use sagad::core::saga::{Progress, Reason};
use sagad::core::time::Time;
use sagad::wire::incoming::{Meaning, Unplaceable, confirmed, read, replay, undelivered};
use sagad::wire::outgoing;
use sagad::wire::signature::Signer;
use sagad::wire::{children, header};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::play::{Play, definition, step};
use crate::shape::Shape;

const NOW: Time = Time(1_767_323_045_678);
const MAX_MESSAGE: usize = 1 << 20;

fn names() -> Names {
    Names::new("shop")
}

fn signer() -> Signer {
    Signer::new(&[7; 32])
}

/// Any JSON that a message may have.
fn any_json() -> impl Strategy<Value = Value> {
    let number = |text: String| serde_json::from_str::<Value>(&text).unwrap();
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        "-?[1-9][0-9]{20,38}".prop_map(number),
        "-?(0|[1-9][0-9]{0,8})[.][0-9]{1,12}(e-?[1-9])?".prop_map(number),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            btree_map(".{0,12}", inner, 0..5).prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

fn any_saga() -> impl Strategy<Value = SagaId> {
    any::<u128>().prop_map(|id| SagaId(Uuid::from_u128(id)))
}

fn any_ticket() -> impl Strategy<Value = Ticket> {
    let action = select(vec![Action::Execute, Action::Compensate, Action::Probe]);
    (any_saga(), any::<u16>(), any::<Option<u32>>(), action, any::<u32>()).prop_map(
        |(saga, step, item, action, attempt)| Ticket { saga, spot: Spot { step: step.into(), item }, action, attempt },
    )
}

fn any_properties() -> impl Strategy<Value = Properties> {
    let text = || any::<Option<String>>();
    let first = (text(), text(), any::<Option<u8>>(), any::<Option<u8>>(), text(), text(), text());
    let second = (text(), any::<Option<i64>>(), text(), text(), text(), btree_map(".{0,12}", any_json(), 0..5));
    (first, second).prop_map(|(first, second)| {
        let (content_type, content_encoding, delivery_mode, priority, correlation_id, reply_to, expiration) = first;
        let (message_id, timestamp, kind, user_id, app_id, headers) = second;
        Properties {
            content_type,
            content_encoding,
            delivery_mode,
            priority,
            correlation_id,
            reply_to,
            expiration,
            message_id,
            timestamp: timestamp.map(Time),
            kind,
            user_id,
            app_id,
            headers: headers.into_iter().collect(),
        }
    })
}

/// The message as the queue of `inbox` has it.
fn delivered(message: Outgoing, inbox: Inbox) -> Incoming {
    Incoming {
        queue: inbox,
        exchange: message.exchange,
        routing_key: message.routing_key,
        redelivered: false,
        properties: message.properties,
        body: message.body,
    }
}

fn meaning(message: &Incoming) -> Result<Meaning, Unplaceable> {
    read(&signer(), message, MAX_MESSAGE, SagaId(Uuid::from_u128(1)))
}

fn body(message: &Outgoing) -> Value {
    serde_json::from_slice(&message.body).unwrap()
}

/// That a message is about this attempt, and how.
#[track_caller]
fn is_about(meaning: Option<(SagaId, Input)>, ticket: Ticket) -> Input {
    let (saga, input) = meaning.expect("a meaning");
    let (spot, action, attempt) = match &input {
        Input::Answer { spot, action, attempt, .. } | Input::Undelivered { spot, action, attempt, .. } => {
            (*spot, *action, *attempt)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(Ticket { saga, spot, action, attempt }, ticket);
    input
}

fn of_saga(meaning: Result<Meaning, Unplaceable>) -> Option<(SagaId, Input)> {
    match meaning {
        Ok(Meaning::Saga(saga, input)) => Some((saga, input)),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_id_is_read_as_the_attempt_that_it_was_made_for(ticket in any_ticket()) {
        prop_assert_eq!(signer().read(&signer().sign(ticket)), Some(ticket));
    }

    #[test]
    fn an_order_to_a_child_is_taken_as_it_was_given(
        ticket in any_ticket(), child in any_saga(), input in any_json(), step: String, of: String, depth: u32,
        priority: u8, trace: Option<String>, undo: bool,
    ) {
        let start = Ask::Start { definition: of.into(), input, step: step.into(), depth, priority, trace };
        let given = ChildOrder { ticket, child, ask: if undo { Ask::Undo } else { start } };
        let message = children::order(&names(), &signer(), given.clone(), NOW);
        match meaning(&delivered(message, Inbox::Children)) {
            Ok(Meaning::Order(taken)) => prop_assert_eq!(taken, given),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn a_childs_answer_is_its_parents_answer(
        ticket in any_ticket(),
        outcome in option::of(select(vec![Outcome::Success, Outcome::Failure, Outcome::Retry, Outcome::Pending])),
        reply in any_json(),
    ) {
        let answer = ParentAnswer { ticket, answer: RawAnswer::new(outcome, reply.clone()) };
        let message = children::answer(&names(), &signer(), answer, NOW);
        let input = is_about(of_saga(meaning(&delivered(message, Inbox::Replies))), ticket);
        let Input::Answer { answer: read, .. } = input else { panic!("{input:?}") };
        prop_assert_eq!((read.outcome, read.body), (outcome, reply));
    }

    #[test]
    fn a_wake_up_wakes_whom_it_was_sent_to(saga in any_saga(), wait in 100u64..100_000_000) {
        let message = outgoing::wake_up(&names(), saga, Duration::from_millis(wait)).expect("a rung of the ladder");
        let (woken, input) = of_saga(meaning(&delivered(message, Inbox::WakeUps))).expect("a meaning");
        prop_assert_eq!(woken, saga);
        prop_assert!(matches!(input, Input::Tick), "{:?}", input);
    }

    #[test]
    fn the_answer_to_a_start_is_what_was_to_be_said(said in any_json(), to: String, under: Option<String>) {
        let message = outgoing::start_answer(to.clone(), under.clone(), &said);
        prop_assert_eq!((&*message.exchange, &message.routing_key), ("", &to));
        prop_assert_eq!(&message.properties.correlation_id, &under);
        prop_assert_eq!(body(&message), said);
    }

    #[test]
    fn properties_are_stored_as_they_are(properties in any_properties()) {
        let stored = serde_json::to_string(&properties).unwrap();
        prop_assert_eq!(serde_json::from_str::<Properties>(&stored).unwrap(), properties);
    }

    /// A message that is handed in again means what it meant.
    #[test]
    fn a_replay_is_read_as_the_message_was(
        mut properties in any_properties(), ticket in option::of(any_ticket()), payload in any_json(), mangled: bool,
        inbox in select(vec![Inbox::Replies, Inbox::Starts, Inbox::Signals, Inbox::Events]), exchange: String, key: String,
        to in option::of(any_saga()), outcome in option::of(select(vec!["success", "retry", "nonsense"])),
    ) {
        // What can be read, more often than chance has it.
        properties.content_encoding = None;
        properties.correlation_id = ticket.map(|ticket| signer().sign(ticket));
        let headers = [(header::SAGA_ID, to.map(|saga| saga.to_string())), (header::SAGA_OUTCOME, outcome.map(str::to_owned))];
        properties.headers.extend(headers.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))));
        let mut bytes = serde_json::to_vec(&payload).unwrap();
        bytes.truncate(if mangled { bytes.len() / 2 } else { bytes.len() });
        let letter =
            Incoming { queue: inbox, exchange, routing_key: key, redelivered: true, properties, body: bytes.into() };
        let again = replay(&names(), letter.clone());
        if inbox == Inbox::Events {
            prop_assert_eq!((&*again.exchange, &*again.routing_key), ("", "shop.heard"));
        }
        match (meaning(&letter), meaning(&delivered(again, inbox))) {
            (Ok(Meaning::Event(first)), Ok(Meaning::Event(second))) => {
                prop_assert_eq!((first.exchange, first.routing_key), (second.exchange, second.routing_key));
                prop_assert_eq!((first.id, first.trace, first.body), (second.id, second.trace, second.body));
            }
            (first, second) => prop_assert_eq!(format!("{first:?}"), format!("{second:?}")),
        }
    }
}

/// What happens next.
#[derive(Clone, Debug)]
enum Next {
    /// Who has a command answers it, a success or not; if nobody has one, time passes.
    Answer(bool, Value),
    /// Time passes.
    Time,
    /// A success of any attempt there ever was.
    Late(u16),
}

fn next() -> impl Strategy<Value = Next> {
    prop_oneof![
        5 => (prop::bool::weighted(0.7), any_json()).prop_map(|(well, reply)| Next::Answer(well, reply)),
        3 => Just(Next::Time),
        2 => any::<u16>().prop_map(Next::Late),
    ]
}

/// Plays a saga. After each transition `seen` looks at it.
fn play_on(play: &mut Play, happens: &[Next], seen: &mut impl FnMut(&Play)) {
    for next in happens {
        let in_flight = play.asked.iter().map(|(ticket, _)| *ticket).find(|ticket| {
            let state = play.saga.unit(ticket.spot).unwrap().action(ticket.action);
            state.in_flight() && state.attempt == ticket.attempt
        });
        let late = |nth: u16| play.asked.get(usize::from(nth) % play.asked.len().max(1)).map(|(ticket, _)| *ticket);
        let answer = match next {
            Next::Answer(well, reply) => in_flight.zip(Some((*well, reply.clone()))),
            Next::Late(nth) => late(*nth).zip(Some((true, json!({ "late": nth })))),
            Next::Time => None,
        };
        match (answer, play.due()) {
            (Some((Ticket { spot, action, attempt, .. }, (well, reply))), _) => {
                let outcome = if well { Outcome::Success } else { Outcome::Failure };
                let answer = RawAnswer::new(Some(outcome), reply);
                play.put(Input::Answer { spot, action, attempt, answer }).unwrap();
            }
            (None, Some(due)) => {
                play.now = due.max(play.now);
                play.put(Input::Tick).unwrap();
            }
            (None, None) => {}
        }
        seen(play);
    }
}

/// A command says all that its saga said of it, and whatever becomes of it is about its attempt.
#[track_caller]
fn command_says_itself(play: &Play, command: &Command, keys: &mut BTreeMap<String, (Spot, Action, u32)>) {
    let ticket = command.ticket;
    let message = outgoing::command(&names(), &signer(), &play.definition, &play.saga, command.clone(), play.now);
    let properties = &message.properties;
    assert_eq!(body(&message), command.body);
    assert_eq!((&message.exchange, &message.routing_key), (&command.exchange, &command.routing_key));
    // AMQP counts whole milliseconds.
    let millis = |lifetime: Duration| lifetime.as_millis();
    assert_eq!(message.lifetime().map(millis), command.expires.map(millis));
    assert_eq!(properties.priority, Some(command.priority));
    assert_eq!(properties.correlation_id, properties.message_id);
    assert_eq!(properties.correlation_id.as_deref().and_then(|id| signer().read(id)), Some(ticket));
    assert_eq!(Time::parse(properties.header_str(header::SAGA_DEADLINE).unwrap()).unwrap(), command.deadline);
    let key = properties.header_str(header::IDEMPOTENCY_KEY).unwrap().to_owned();
    let this = (ticket.spot, ticket.action, command.round);
    assert_eq!(*keys.entry(key.clone()).or_insert(this), this, "{key} is the key of one round of one action alone");

    let returned = undelivered(&signer(), properties, Reason::Unroutable, "nobody".to_owned());
    let input = is_about(returned, ticket);
    assert!(
        matches!(input, Input::Undelivered { reason: Reason::Unroutable, delivered_before: false, .. }),
        "{input:?}"
    );
    let words = [
        ("rejected", Reason::Rejected),
        ("expired", Reason::Expired),
        ("delivery_limit", Reason::DeliveryLimit),
        ("maxlen", Reason::MaxLength),
    ];
    for (word, expected) in words {
        let mut dead = delivered(message.clone(), Inbox::Dead);
        dead.properties.headers.insert("x-death".to_owned(), json!([{ "queue": "q", "reason": word, "count": 1 }]));
        let input = is_about(of_saga(meaning(&dead)), ticket);
        assert!(matches!(input, Input::Undelivered { reason, .. } if reason == expected), "{word}: {input:?}");
    }
    assert!(confirmed(&signer(), &message).is_none(), "a command that is out is not answered by that");
}

#[track_caller]
fn effect_says_itself(play: &Play, effect: &Effect) {
    let message = outgoing::effect(&names(), &signer(), &play.definition, &play.saga, effect.clone(), play.now);
    match effect {
        Effect::Command(_) => unreachable!("commands are kept apart"),
        Effect::Event(event) => {
            assert_eq!(body(&message), event.body);
            let input = is_about(confirmed(&signer(), &message), event.ticket);
            assert!(matches!(input, Input::Answer { .. }), "{input:?}");
        }
        Effect::Child(order) => match meaning(&delivered(message, Inbox::Children)) {
            Ok(Meaning::Order(taken)) => assert_eq!(&taken, order),
            other => panic!("{other:?}"),
        },
        Effect::Answer(answer) => {
            drop(is_about(of_saga(meaning(&delivered(message, Inbox::Replies))), answer.ticket));
        }
    }
}

/// The lifecycle events of the last transition are CloudEvents that say what they are about; made again, they are the same.
#[track_caller]
fn events_say_themselves(play: &Play, ids: &mut BTreeSet<String>) {
    let (at, entries) = play.journal.last().expect("a transition");
    let events = || outgoing::events(&names(), &play.definition, &play.saga, entries, *at);
    assert_eq!(events(), events());
    for message in events() {
        let event: Map<String, Value> = serde_json::from_slice(&message.body).unwrap();
        let text = |name: &str| event[name].as_str().unwrap_or_else(|| panic!("{name}: {event:?}"));
        assert_eq!((text("specversion"), text("source")), ("1.0", "/sagad"));
        assert_eq!((text("type"), text("datacontenttype")), (&*message.routing_key, "application/json"));
        assert_eq!(text("subject"), play.saga.id.to_string());
        assert_eq!(Time::parse(text("time")).unwrap(), *at);
        assert_eq!(event["data"]["saga"], *play.definition.name);
        assert_eq!(Some(text("id")), message.properties.message_id.as_deref());
        assert!(ids.insert(text("id").to_owned()), "two events are {}", text("id"));
        // It is nobody's answer.
        assert!(confirmed(&signer(), &message).is_none());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 2, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_saga_sends_is_read_as_it_was_meant(shape in Shape::any(), happens in vec(next(), 0..40)) {
        let mut definition = definition(&shape.toml());
        definition.events = Events::Step;
        let mut play = Play::on(definition, Shape::input(), Duration::ZERO);
        let (mut keys, mut ids, mut seen) = (BTreeMap::new(), BTreeSet::new(), (0, 0, 0));
        let mut look = |play: &Play| {
            if play.journal.len() > seen.2 {
                events_say_themselves(play, &mut ids);
            }
            play.sent[seen.0..].iter().for_each(|command| command_says_itself(play, command, &mut keys));
            play.others()[seen.1..].iter().for_each(|effect| effect_says_itself(play, effect));
            seen = (play.sent.len(), play.others().len(), play.journal.len());
        };
        look(&play);
        play_on(&mut play, &happens, &mut look);
    }

    /// `Play` gives each transition the state as the store has it back, and takes its entries from their text.
    #[test]
    fn states_and_journals_hold_whatever_is_answered(input in any_json(), happens in vec(next(), 1..12)) {
        let toml = [step("a", ""), step("b", "optional = true"), step("c", "")].concat();
        let mut play = Play::with(&toml, json!({ "n": input }));
        play_on(&mut play, &happens, &mut |play| {
            for (_, entries) in &play.journal {
                let text = serde_json::to_string(entries).unwrap();
                assert_eq!(&serde_json::from_str::<Vec<Entry>>(&text).unwrap(), entries);
            }
        });
        // What was said is there to be read, to the last digit.
        prop_assert_eq!(&*play.saga.input, &json!({ "n": input }));
        if let [Next::Answer(true, reply), ..] = &happens[..] {
            let progress = &play.saga.steps[0].unit.execute.progress;
            prop_assert!(matches!(progress, Progress::Succeeded { reply: kept, .. } if **kept == *reply), "{:?}", progress);
        }
    }
}
