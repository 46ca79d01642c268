//! Tests that need no services.

mod templates;
