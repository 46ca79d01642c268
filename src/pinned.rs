//! One revision of a definition: what sagas are pinned to.

use crate::core::definition::Definition;
use crate::store::Source;

/// One revision of a definition.
#[derive(Debug)]
pub struct Pinned {
    /// Its number, from 1.
    pub revision: u32,
    /// What it says.
    pub definition: Definition,
    /// Its text.
    pub source: Source,
}
