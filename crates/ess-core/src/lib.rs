//! What an event, a partner, a delivery and an acknowledgement *are*.
//!
//! Nothing here does I/O, reads a clock, rolls dice or waits: time and dice are arguments, outcomes are values.

pub mod access;
pub mod ack_link;
pub mod bounce;
pub mod bridge;
pub mod cloudevents;
pub mod delivery;
pub mod duration;
pub mod envelope;
pub mod escalation;
pub mod event;
pub mod format;
pub mod id;
pub mod json;
pub mod lane;
pub mod ledger;
pub mod letter;
pub mod limits;
pub mod message;
pub mod msa;
pub mod mutant;
pub mod nearest;
pub mod partner;
pub mod partner_file;
pub mod place;
pub mod problem;
pub mod receipt;
pub mod retention;
pub mod retry;
pub mod schema;
pub mod script;
pub mod signature;
pub mod sigv4;
pub mod table;
pub mod time;
pub mod topic;
