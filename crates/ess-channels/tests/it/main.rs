//! The channels against real sockets on loopback: partners that behave, and partners that do not.

mod file;
mod guard;
mod hostile;
mod mllp;
mod oauth;
mod partner;
mod tls;
mod webhook;
