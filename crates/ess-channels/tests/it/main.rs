//! The channels against real sockets on loopback: partners that behave, and partners that do not.

mod partner;
mod webhook;
