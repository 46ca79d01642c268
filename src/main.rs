//! sagad
fn main() {}
