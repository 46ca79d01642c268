//! How sagas come to begin: events that start them, and how many at once.

use toml::de::DeValue;

use super::reader::{Field, Reader, Table};
use super::references::Site;
use crate::core::definition::{Lock, LockMode, Trigger};

const LOCK_MODE: [(&str, LockMode); 2] = [("queue", LockMode::Queue), ("reject", LockMode::Reject)];

impl<'t> Reader<'t> {
    /// `[[start]]`.
    pub(super) fn starts(&mut self, field: &Field<'t>) -> Vec<Trigger> {
        let Some(array) = self.array(field, "tables", "`[[start]]` before each") else { return Vec::new() };
        let starts = array.iter().filter_map(|value| {
            let DeValue::Table(entries) = value.get_ref() else {
                let field = Field { value, ..field.clone() };
                let help = "write it like this: `[[start]]` with `exchange = \"…\"` and `routing_key = \"…\"` below";
                self.wrong_type(&field, "a table", help);
                return None;
            };
            let mut table = Table::new("a [[start]]", value.span(), entries);
            let exchange = self.required(&mut table, "exchange", "\"shop.events\"");
            let exchange = exchange.and_then(|field| self.exchange_name(&field));
            let routing_key = self.required(&mut table, "routing_key", "\"order.placed\"");
            let routing_key = routing_key.and_then(|field| self.routing_key(&field, "\"order.placed\""));
            let when = table.take("when").and_then(|field| self.expression(&field, Site::Message));
            let input = table.take("input").and_then(|field| self.body(field.value, Site::Message));
            self.finish(&table);
            Some(Trigger { exchange: exchange?, routing_key: routing_key?, when, input })
        });
        starts.collect()
    }

    /// `lock`.
    pub(super) fn lock(&mut self, field: &Field<'t>) -> Option<Lock> {
        let example = "`lock = { key = \"{{ input.customer_id }}\", mode = \"queue\" }`";
        let mut table = self.table(field, "a `lock`", example)?;
        let key = self.required(&mut table, "key", "\"{{ input.customer_id }}\"");
        let key = key.and_then(|field| self.template(&field, Site::Start));
        let mode = table.take("mode").and_then(|field| self.word(&field, &LOCK_MODE)).unwrap_or_default();
        self.finish(&table);
        Some(Lock { key: key?, mode })
    }
}
