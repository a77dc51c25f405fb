//! The engine: publish, fan out, deliver, acknowledge. Knows no HTTP server, no files, no environment.

pub mod scripts;
mod stub;
pub mod view;
pub use stub::{Hub, Word};
