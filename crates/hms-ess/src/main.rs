//! hms-ess
fn main() {}
