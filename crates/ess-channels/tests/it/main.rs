//! The channels against real sockets on loopback: partners that behave, and partners that do not.

mod conformance;
mod file;
mod guard;
mod hostile;
mod link;
mod mllp;
mod mosquitto;
mod mqtt;
mod oauth;
mod partner;
mod sftp;
mod sshd;
mod tls;
mod webhook;
