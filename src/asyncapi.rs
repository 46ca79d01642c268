//! `sagad asyncapi`: every message of some definitions as an AsyncAPI 3.0 document, for the teams of the participants. Pure.
//!
//! AsyncAPI describes one application, and that is sagad: what the document says to `send`, participants get; what it says to
//! `receive`, others publish.
//!
//! ```text
//!   definition ─┬─ [commands] commands, undos, probes; their answers ─┐
//!               ├─ [events]   starts, signals, events of others       ├─> [document] channels, operations, messages
//!               └─ [lifecycle] what sagad tells of its sagas          ┘        with [headers] and [payload]
//! ```

mod commands;
mod document;
mod events;
mod headers;
mod lifecycle;
mod payload;

use serde_json::Value;

use crate::broker::names::Names;
use crate::config::{BrokerConfig, Topology};
use crate::core::definition::Definition;
use document::Document;
use payload::Payloads;

/// The document of these definitions, with the names that this configuration gives.
pub fn document<'d>(
    definitions: impl IntoIterator<Item = &'d Definition>,
    broker: &BrokerConfig,
    topology: &Topology,
) -> Value {
    let names = Names::new(broker.prefix.as_str());
    let mut document = Document::new(topology);
    for definition in definitions {
        let payloads = Payloads::new(definition, &mut document);
        events::starts(&mut document, &names, definition, &payloads);
        for step in &definition.steps {
            commands::of_step(&mut document, &names, definition, step, &payloads);
            events::of_step(&mut document, &names, definition, step, &payloads);
        }
        lifecycle::of_saga(&mut document, &names, definition, &payloads);
    }
    document.finish(broker)
}
