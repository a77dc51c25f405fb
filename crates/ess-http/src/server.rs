//! The accept loop: TLS, timeouts and ceilings before a request is anybody's business.
//!
//! A connection that is slow, silent or one too many costs a bounded time and a few kilobytes, and nothing of another's.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use ess_hub::Hub;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

/// What a server may spend.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Connections at once; more wait unaccepted.
    pub connections_max: usize,
    /// Connections at once from one address.
    pub connections_per_peer_max: usize,
    /// TLS handshake.
    pub handshake_timeout: Duration,
    /// From a connection's last request to the next one's complete head.
    pub header_timeout: Duration,
    /// How long requests in flight may go on after a stop.
    pub stop_within: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            connections_max: 12_000,
            connections_per_peer_max: 11_000,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(75),
            stop_within: Duration::from_secs(5),
        }
    }
}

/// Why a server ended.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The listener is broken.
    #[error("could not accept connections: {0}")]
    Accept(std::io::Error),
}

/// Serves the API until `shutdown`, then lets requests in flight end.
///
/// # Errors
/// The listener breaks.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    hub: Hub,
    options: ServerOptions,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServerError> {
    accept(listener, tls, crate::routes::router(hub), options, shutdown).await
}

/// Serves `/metrics` until `shutdown`.
///
/// # Errors
/// The listener breaks.
pub async fn serve_metrics(
    listener: TcpListener,
    hub: Hub,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServerError> {
    let options = ServerOptions { connections_max: 64, connections_per_peer_max: 64, ..ServerOptions::default() };
    accept(listener, None, crate::routes::metrics_router(hub), options, shutdown).await
}

async fn accept(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    router: Router,
    options: ServerOptions,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServerError> {
    let acceptor = tls.map(TlsAcceptor::from);
    let places = Arc::new(Semaphore::new(options.connections_max));
    let peers = Arc::new(Peers::default());
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        // Invariant: the semaphore is never closed.
        let place = places.clone().acquire_owned();
        let (place, accepted) = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            next = async { (place.await, listener.accept().await) } => next,
        };
        let (Ok(place), Ok((stream, peer))) = (place, accepted) else {
            // Out of file descriptors, as a rule: others will end and give theirs back.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Some(guest) = peers.enter(peer, options.connections_per_peer_max) else { continue };
        let connection = Connection { stream, place, guest, acceptor: acceptor.clone(), router: router.clone() };
        connections.spawn(connection.run(options.clone(), stopped.clone()));
    }
    drop(listener);
    // Connections without a request end at once, the others after it.
    let _ = stop.send(true);
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(options.stop_within, all).await.is_err() {
        tracing::warn!("some requests did not end in time");
    }
    Ok(())
}

struct Connection {
    stream: TcpStream,
    place: OwnedSemaphorePermit,
    guest: Guest,
    acceptor: Option<TlsAcceptor>,
    router: Router,
}

impl Connection {
    async fn run(self, options: ServerOptions, stopped: watch::Receiver<bool>) {
        let Self { stream, place, guest, acceptor, router } = self;
        // An answer is one write; waiting for more would only add delay.
        let _ = stream.set_nodelay(true);
        match acceptor {
            None => talk(stream, router, &options, stopped).await,
            Some(acceptor) => {
                // A client that breaks off or stays silent is no event worth a line.
                if let Ok(Ok(stream)) = tokio::time::timeout(options.handshake_timeout, acceptor.accept(stream)).await {
                    talk(stream, router, &options, stopped).await;
                }
            }
        }
        drop((place, guest));
    }
}

async fn talk<S>(stream: S, router: Router, options: &ServerOptions, mut stopped: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let router = router.clone();
        async move { router.oneshot(request.map(Body::new)).await.map_err(|never: Infallible| never) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout)
        .max_buf_size(64 * 1024)
        .pipeline_flush(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        // A connection that breaks is the client's affair.
        _ = connection.as_mut() => return,
        _ = stopped.wait_for(|stop| *stop) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

/// How many connections each address has.
#[derive(Default)]
struct Peers {
    /// Guards the counts; held for one change.
    counts: Mutex<HashMap<IpAddr, usize>>,
}

struct Guest {
    peers: Arc<Peers>,
    address: IpAddr,
}

impl Peers {
    fn enter(self: &Arc<Self>, peer: SocketAddr, max: usize) -> Option<Guest> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(peer.ip()).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Guest { peers: self.clone(), address: peer.ip() })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut counts = self.peers.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}
