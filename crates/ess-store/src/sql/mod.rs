//! What is asked of a database and written to it, for both of them: the statements, and what follows from their answers.
//!
//! The statements keep to what both understand. Where one needs its own way, it is in that one's folder.

pub(crate) mod apply;
pub(crate) mod browse;
mod changed_rows;
pub(crate) mod commit;
pub(crate) mod db;
pub(crate) mod deliveries;
pub(crate) mod events;
mod given_up;
pub(crate) mod holds;
pub(crate) mod lane;
pub(crate) mod ledger;
pub(crate) mod registry;
pub(crate) mod retention;
mod rows;
pub(crate) mod search;
pub(crate) mod tree;
pub(crate) mod trouble;

pub(crate) use commit::{Heads, Known, Place, Work, Written};
