//! Tells systemd how the hub stands (`Type=notify`), by one datagram and without its library. Elsewhere it does nothing.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::config::notify_socket;

/// Where the hub stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It listens.
    Ready,
    /// It stops.
    Stopping,
}

/// Tells the stage, if somebody asked to be told. What can't be told is logged: the hub runs all the same.
pub(crate) fn tell(stage: Stage) {
    let Some(path) = notify_socket() else { return };
    let word: &[u8] = match stage {
        Stage::Ready => b"READY=1",
        Stage::Stopping => b"STOPPING=1",
    };
    // sd_notify(3): a name that begins with @ is in the abstract namespace.
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let told = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(word, &address));
    if let Err(error) = told {
        tracing::warn!(%error, "could not tell systemd how the hub stands");
    }
}
