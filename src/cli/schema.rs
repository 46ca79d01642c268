//! `sagad schema`

use clap::Args;
use sagad::schema;

use super::{Failure, print};

/// Print the JSON Schema of definitions, with which editors complete, explain and check them
///
/// A daemon serves it at /schema.json. In a definition's first line, `#:schema http://127.0.0.1:7242/schema.json`, or the path of a
/// file that this was written to, tells editors with Taplo (as Even Better TOML) about it.
#[derive(Debug, Args)]
pub(super) struct Schema {}

impl Schema {
    pub(super) fn run(self) -> Result<(), Failure> {
        print(schema::DEFINITION)
    }
}
