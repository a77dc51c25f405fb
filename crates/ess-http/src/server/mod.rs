//! Listens: accepts connections within the ceilings, and ends them in order when the hub stops.
//!
//! Every connection is a task that is owned here; when `run` returns, none is left.

mod connection;
mod places;
mod pulse;

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ess_hub::Hub;
use ess_hub::metrics::Limit;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::ServerError;
use crate::edge::Edge;
use crate::metrics::Metrics;
use connection::Connection;
use places::Places;

/// The server's ceilings and patience.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Connections at once; one more is told 503 (plain HTTP) or closed (TLS).
    pub connections_max: usize,
    /// Connections at once from one address.
    pub connections_per_peer_max: usize,
    /// For the TLS handshake.
    pub handshake_timeout: Duration,
    /// From the first byte of a request's head to its last.
    pub head_timeout: Duration,
    /// Between two pieces of a request's body.
    pub body_timeout: Duration,
    /// For a connection on which nothing moves, between two requests.
    pub idle_timeout: Duration,
    /// For requests in flight when the hub stops.
    pub drain_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            connections_max: 12_000,
            connections_per_peer_max: 11_000,
            handshake_timeout: Duration::from_secs(10),
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// What is served.
#[derive(Clone)]
pub(crate) enum Served {
    /// The API.
    Api(Edge),
    /// The metrics.
    Metrics(Metrics),
}

impl Served {
    fn hub(&self) -> &Hub {
        match self {
            Self::Api(edge) => edge.hub(),
            Self::Metrics(metrics) => &metrics.hub,
        }
    }
}

/// Serves until `shutdown` is ready and the requests in flight have ended, or their time is over.
pub(crate) async fn run(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    served: Served,
    options: ServerOptions,
    stop: watch::Sender<bool>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    let acceptor = tls.map(TlsAcceptor::from);
    let options = Arc::new(options);
    let places = Arc::new(Places::new(options.connections_max, options.connections_per_peer_max));
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    let ended = loop {
        tokio::select! {
            () = &mut shutdown => break Ok(()),
            Some(_) = connections.join_next() => {}
            accepted = accept(&listener) => match accepted {
                Ok((stream, peer)) => {
                    let Some(place) = places.take(peer.ip()) else {
                        turn_away(&stream, acceptor.is_some());
                        served.hub().count_limit(Limit::Connections);
                        continue;
                    };
                    let connection = Connection {
                        served: served.clone(),
                        options: options.clone(),
                        peer,
                        stopping: stop.subscribe(),
                    };
                    let acceptor = acceptor.clone();
                    connections.spawn(async move {
                        connection.drive(stream, acceptor).await;
                        drop(place);
                    });
                }
                Err(error) => break Err(ServerError::Accept(error)),
            },
        }
    };
    drop(listener);
    stop.send_replace(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(options.drain_timeout, drained).await.is_err() {
        tracing::warn!(connections = connections.len(), "closed connections whose requests did not end in time");
        connections.shutdown().await;
    }
    ended
}

/// The next connection. Waits out what is not the listener's fault: a peer that left, a machine without file descriptors.
async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, std::net::SocketAddr)> {
    let mut pause = Duration::from_millis(10);
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Answers are written whole: waiting to fill a packet only costs time.
                drop(stream.set_nodelay(true));
                return Ok((stream, peer));
            }
            Err(error) if has_peer_left(&error) => {}
            Err(error) if is_final(&error) => return Err(error),
            Err(error) => {
                tracing::error!(%error, "could not accept a connection; trying again in {pause:?}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }
}

fn has_peer_left(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn is_final(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// One more than there are places: a word where that is possible, and the end.
fn turn_away(stream: &TcpStream, is_tls: bool) {
    tracing::debug!("turned a connection away: all places are taken");
    if !is_tls {
        // Best effort: the buffer of a new connection is empty, so this is written or the peer is gone.
        drop(stream.try_write(
            b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        ));
    }
}
