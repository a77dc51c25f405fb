//! The channels against real sockets on loopback: partners that behave, and partners that do not.

mod conformance;
mod file;
mod guard;
mod hostile;
mod link;
mod mllp;
mod nats;
mod nats_server;
mod oauth;
mod partner;
mod tls;
mod webhook;
