//! Tests that need no services.

mod admin;
mod definitions;
mod templates;
