//! The HTTP side of the hub: the API with its OpenAPI document, its readable page, and the metrics listener.
//!
//! Knows the engine (`ess_hub`) only; never names the store or a channel. Everything that comes in is bounded: see `limits`.
//! Every route stands in `routes`.

mod ack_page;
mod api;
mod body;
mod caller;
mod dashboard;
mod docs;
mod document;
mod edge;
mod limits;
mod metrics;
mod openapi;
mod packet;
mod packet_page;
mod pieces;
mod query;
mod refusal;
mod routes;
mod server;
mod site;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ess_hub::Hub;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use server::ServerOptions;

/// Why a server ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The listener is of no more use.
    #[error("could not accept connections: {0}")]
    Accept(std::io::Error),
}

/// Serves the API on `listener`: over TLS when a configuration is given, else plain.
///
/// Runs until `shutdown` is ready, then takes no new connections, finishes the requests in flight within
/// `options.drain_timeout`, and returns when every connection has ended.
///
/// # Errors
/// The listener fails for good.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    hub: Hub,
    options: ServerOptions,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    let (stop, stopping) = watch::channel(false);
    let edge = edge::Edge::new(Arc::new(site::Site::new(hub, stopping, options.body_timeout, tls.is_some())));
    server::run(listener, tls, server::Served::Api(edge), options, stop, shutdown).await
}

/// Serves `/metrics` on a listener of its own, plain and without tokens: bind it to an address that only the operator reaches.
///
/// # Errors
/// The listener fails for good.
pub async fn serve_metrics(
    listener: TcpListener,
    hub: Hub,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    let options = ServerOptions {
        connections_max: 64,
        connections_per_peer_max: 64,
        drain_timeout: Duration::from_secs(1),
        ..ServerOptions::default()
    };
    let (stop, _) = watch::channel(false);
    server::run(listener, None, server::Served::Metrics(metrics::Metrics { hub }), options, stop, shutdown).await
}

/// The OpenAPI 3.1 document that `/openapi.json` serves.
#[must_use]
pub fn openapi() -> serde_json::Value {
    openapi::document()
}
