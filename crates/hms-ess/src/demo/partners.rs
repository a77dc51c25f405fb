//! Three partners that really listen on loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use bytes::Bytes;
use ess_core::signature::{SigningSecret, is_signed_v1};
use http::{HeaderMap, StatusCode};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{OnceCell, mpsc};

use crate::failure::{Failure, Result};

/// Something that a partner saw.
#[derive(Debug)]
pub(super) struct Seen {
    /// Who.
    pub(super) partner: &'static str,
    /// The body as it came.
    pub(super) body: String,
    /// Whether its signature fits.
    pub(super) is_signed: bool,
}

/// A partner's side of the wire.
pub(super) struct Actor {
    /// Its id.
    pub(super) id: &'static str,
    /// Its address.
    pub(super) address: SocketAddr,
    /// Its signing secret, once the hub has told it.
    pub(super) secret: Arc<OnceCell<SigningSecret>>,
    listener: Option<TcpListener>,
    delay: Duration,
    seen: mpsc::UnboundedSender<Seen>,
}

#[derive(Clone)]
struct Desk {
    id: &'static str,
    secret: Arc<OnceCell<SigningSecret>>,
    delay: Duration,
    seen: mpsc::UnboundedSender<Seen>,
}

impl Actor {
    /// A partner with an address; it answers once it is opened.
    pub(super) async fn new(id: &'static str, delay: Duration, seen: mpsc::UnboundedSender<Seen>) -> Result<Self> {
        let listener =
            TcpListener::bind("127.0.0.1:0").await.map_err(|error| Failure::io("could not listen", &error))?;
        let address = listener.local_addr().map_err(|error| Failure::io("could not listen", &error))?;
        Ok(Self { id, address, secret: Arc::default(), listener: Some(listener), delay, seen })
    }

    /// Closes its port: connections are refused.
    pub(super) fn close(&mut self) {
        self.listener = None;
    }

    /// Begins to answer.
    pub(super) fn open(&mut self) -> Result<()> {
        let listener = match self.listener.take() {
            Some(listener) => listener,
            None => self.listen_again().map_err(|error| Failure::io("a partner could not come back", &error))?,
        };
        let (secret, seen) = (self.secret.clone(), self.seen.clone());
        let desk = Desk { id: self.id, secret, delay: self.delay, seen };
        let router = Router::new().route("/court-calendar/update", post(update)).with_state(desk);
        // Ends with the program, as the demo's partners do.
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(())
    }

    fn listen_again(&self) -> std::io::Result<TcpListener> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(self.address)?;
        socket.listen(64)
    }
}

async fn update(State(desk): State<Desk>, headers: HeaderMap, body: Bytes) -> (StatusCode, String) {
    tokio::time::sleep(desk.delay).await;
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let timestamp = text("webhook-timestamp").parse().unwrap_or(0);
    let signatures = text("webhook-signature");
    let is_signed =
        desk.secret.get().is_some_and(|secret| is_signed_v1(secret, text("webhook-id"), timestamp, &body, signatures));
    let event: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let body = String::from_utf8_lossy(&body).into_owned();
    // The story may be over; the answer is given all the same.
    drop(desk.seen.send(Seen { partner: desk.id, body, is_signed }));
    (StatusCode::OK, serde_json::json!({"ack": event["id"]}).to_string())
}
