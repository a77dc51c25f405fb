//! What an event, a partner, a delivery and an acknowledgement *are*.
//!
//! Nothing here does I/O, reads a clock, rolls dice or waits: time and dice are arguments, outcomes are values.

pub mod access;
pub mod bridge;
pub mod delivery;
pub mod event;
pub mod id;
pub mod message;
pub mod partner;
pub mod problem;
pub mod receipt;
pub mod script;
pub mod time;
