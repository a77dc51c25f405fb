//! What the hub does, seen from outside.

mod scripts;
mod scripts_suite;
mod simulation;
