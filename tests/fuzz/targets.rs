//! What is fed with bytes of any kind, and what must hold whatever they are. It ends, it does not panic, and besides what is asserted here.
//!
//! `cargo fuzz` runs these with coverage, and `cargo test` over seeds and mutations of them.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use sagad::broker::message::{Inbox, Incoming, Properties};
use sagad::core::id::{Action, SagaId, Ticket};
use sagad::core::parse::parse;
use sagad::core::saga::{Failure, Reason, SagaError};
use sagad::core::template::{Element, Expression, ReplyView, SagaScope, SagaView, Scope, StepView, Template};
use sagad::core::time::Time;
use sagad::graph::{Format, draw};
use sagad::intake::Start;
use sagad::wire::incoming::{Meaning, asks_for_answer, read, undelivered};
use sagad::wire::signature::Signer;
use sagad::{json, lint, report};
use serde_json::{Value, json};
use uuid::Uuid;

/// The text that a template may yield at the most, with its quotes if it is in a body.
const LONGEST_TEXT: usize = 1024 * 1024 + 2;

/// A definition's file.
pub(crate) fn definition(data: &[u8]) {
    let Ok(toml) = std::str::from_utf8(data) else { return };
    let read = || parse(toml, &mut |name| Err(format!("no {name} here")));
    let (definition, diagnostics) = match read() {
        Ok((definition, mut warnings)) => {
            warnings.extend(lint::warnings(&definition, toml));
            (Some(definition), warnings)
        }
        Err(errors) => (None, errors),
    };
    assert!(definition.is_some() || !diagnostics.is_empty(), "refused without a reason");
    // Rendering looks into the text: each place must be one.
    for diagnostic in &diagnostics {
        assert!(diagnostic.span.start <= diagnostic.span.end && diagnostic.span.end <= toml.len(), "{diagnostic:?}");
        assert!(!diagnostic.message.is_empty() && !diagnostic.help.is_empty(), "{diagnostic:?}");
        report::render(Path::new("x.toml"), toml, diagnostic, false);
    }
    if let Some(definition) = definition {
        for format in [Format::Svg, Format::Mermaid, Format::Dot] {
            let drawn = draw(&definition, format);
            assert!(definition.steps.iter().all(|step| drawn.contains(&*step.name)), "{drawn}");
        }
    }
}

/// A template and an expression.
pub(crate) fn template(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let scope = scope();
    match Template::compile(source) {
        Ok(template) => {
            for reference in template.references() {
                assert!(source.get(reference.span.clone()).is_some(), "{reference:?} is not in the template");
            }
            if let Ok(value) = template.render(&scope) {
                let text = value.as_str().map_or(0, str::len);
                assert!(text <= LONGEST_TEXT, "{text} bytes");
                assert_eq!(template.render(&scope), Ok(value), "the same each time");
            }
        }
        Err(error) => assert!(!error.message.is_empty()),
    }
    if let Ok(expression) = Expression::compile(source) {
        let holds = expression.holds(&scope);
        assert_eq!(expression.holds(&scope), holds, "the same each time");
    }
}

fn scope() -> Scope {
    let reply = json!({ "id": "P-1", "amount": 12.50, "lines": [{ "sku": "a" }, { "sku": "b" }], "none": null });
    let input =
        json!({ "order_id": "A-1", "items": [{ "sku": "x", "quantity": 3 }], "total_amount": 20.25, "text": "ä漢" });
    let failure = Failure { reason: Reason::Failure, message: "declined".to_owned(), details: Value::Null };
    let (reply, lines) = (Arc::new(reply), Arc::new(json!([1, 2])));
    Scope::Saga(SagaScope {
        input: Arc::new(input),
        steps: [
            StepView { name: "pay".into(), status: "succeeded", reply: ReplyView::Known(Arc::clone(&reply)) },
            StepView {
                name: "reserve".into(),
                status: "succeeded",
                reply: ReplyView::Many([Some(reply), None].into()),
            },
            StepView { name: "ship".into(), status: "skipped", reply: ReplyView::Null },
            StepView { name: "later".into(), status: "pending", reply: ReplyView::Missing },
        ]
        .into(),
        saga: Some(SagaView {
            id: SagaId(Uuid::from_u128(7)),
            name: "order".into(),
            key: Some("A-1".into()),
            revision: 3,
            started_at: Some(Time(1_767_323_045_678)),
        }),
        error: Some((Some("pay".into()), Arc::new(SagaError { step: Some(0), failure }))),
        element: Some(Element { step: 2, list: lines, at: 1 }),
    })
}

/// JSON of a stranger.
pub(crate) fn json(data: &[u8]) {
    match json::read(data) {
        Ok(value) => {
            let text = serde_json::to_vec(&value).expect("what was read can be written");
            assert_eq!(json::read(&text), Ok(value), "{}", String::from_utf8_lossy(&text));
        }
        Err(error) => assert!(error.line >= 1 && !error.message.is_empty(), "{error:?}"),
    }
}

/// A message in any inbox: a byte for the inbox and for whose ids it carries, its properties as JSON up to a zero byte, and its body.
pub(crate) fn message(data: &[u8]) {
    let Some((&kind, rest)) = data.split_first() else { return };
    let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
    let (properties, body) = rest.split_at(end);
    let Ok(mut properties) = serde_json::from_slice::<Properties>(properties) else { return };
    let signer = Signer::new(&[7; 32]);
    let ticket = Ticket { saga: SagaId(Uuid::from_u128(9)), spot: 2.into(), action: Action::Execute, attempt: 3 };
    let signed = kind & 0x80 != 0;
    if signed {
        properties.message_id = Some(signer.sign(ticket));
        properties.correlation_id = properties.message_id.clone();
    }
    let message = Incoming {
        queue: Inbox::ALL[usize::from(kind & 0x7f) % Inbox::ALL.len()],
        exchange: String::new(),
        routing_key: "order".to_owned(),
        redelivered: false,
        properties,
        body: Bytes::copy_from_slice(body.get(1..).unwrap_or_default()),
    };
    let id = SagaId(Uuid::from_u128(11));
    match read(&signer, &message, 4096, id) {
        Ok(Meaning::Saga(saga, _)) if matches!(message.queue, Inbox::Replies | Inbox::Dead) => {
            assert!(signed && saga == ticket.saga, "an id that nobody gave out was taken: {message:?}");
        }
        Ok(Meaning::Order(order)) => assert!(signed && order.ticket == ticket, "an order of nobody: {order:?}"),
        Ok(Meaning::Start(Start { id: begun, .. }, _)) => assert_eq!(begun, id),
        Ok(_) => {}
        Err(unplaceable) => assert!(!unplaceable.class.is_empty() && !unplaceable.reason.is_empty()),
    }
    asks_for_answer(&message);
    let back = undelivered(&signer, &message.properties, Reason::Unroutable, "returned".to_owned());
    assert_eq!(back.is_some(), signed);
}
