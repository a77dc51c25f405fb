//! The engine: publish, fan out, deliver, acknowledge. Knows no HTTP server, no environment.

mod access;
mod acks;
mod announce;
mod ask;
pub mod bridges;
mod cells;
mod clock;
mod dead_letters;
mod deliver;
mod filters;
mod happenings;
mod heartbeat;
mod hub;
mod lanes;
mod metrics;
mod notary;
mod partners;
mod prepare;
mod publish;
mod records;
mod registry;
mod replay;
mod rules;
mod schemas;
pub mod scripts;
mod snapshot;
mod tables;
mod tokens;
pub mod view;
mod watch;

pub use acks::Word;
pub use dead_letters::Letters;
pub use hub::{Hub, HubOptions};
pub use notary::NotaryOptions;
pub use registry::FindSecret;
