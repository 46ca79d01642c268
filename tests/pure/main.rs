//! Tests that need no services.

mod definitions;
mod templates;
