//! One connection from accept to close: handshake, requests one after the other, and a timer that ends what hangs.
//!
//! An idle connection that never sent a byte holds no HTTP state: ten thousand of them cost little.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Duration, Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

use crate::limits::HEAD_BYTES_MAX;
use crate::server::pulse::{Pulse, Watched};
use crate::server::{Served, ServerOptions};

/// How often the timer looks again while a request is being answered.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// What a connection needs to know.
pub(crate) struct Connection {
    pub(crate) served: Served,
    pub(crate) options: Arc<ServerOptions>,
    pub(crate) peer: SocketAddr,
    pub(crate) stopping: watch::Receiver<bool>,
}

impl Connection {
    /// Runs until the peer leaves, hangs too long, or the server stops.
    pub(crate) async fn drive(mut self, stream: TcpStream, acceptor: Option<TlsAcceptor>) {
        let Some(acceptor) = acceptor else { return self.wait_for_request(stream).await };
        // Boxed: a handshake's state is large and short-lived.
        let handshake = Box::pin(timeout(self.options.handshake_timeout, acceptor.accept(stream)));
        let shaken = tokio::select! {
            shaken = handshake => shaken,
            () = stopped(&mut self.stopping) => return,
        };
        match shaken {
            Ok(Ok(stream)) => self.wait_for_request(stream).await,
            Ok(Err(error)) => tracing::debug!(peer = %self.peer, %error, "a TLS handshake failed"),
            Err(_) => tracing::debug!(peer = %self.peer, "a TLS handshake took too long"),
        }
    }

    async fn wait_for_request<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(mut self, mut stream: S) {
        let mut first = [0u8; 1];
        let read = tokio::select! {
            read = timeout(self.options.idle_timeout, stream.read(&mut first)) => read,
            () = stopped(&mut self.stopping) => return,
        };
        if matches!(read, Ok(Ok(1))) {
            Box::pin(self.speak(stream, first[0])).await;
        }
    }

    async fn speak<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(mut self, stream: S, first: u8) {
        let pulse = Arc::new(Pulse::new());
        let watched = TokioIo::new(Watched::new(stream, first, pulse.clone()));
        let service = service_fn(|request| answer(&self.served, &pulse, self.peer, request));
        let connection = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            // No `pipeline_flush`: it holds an answer back as long as a part of the next request lies in the buffer.
            .header_read_timeout(None)
            .serve_connection(watched, service);
        let mut connection = pin!(connection);
        let mut timer = pin!(sleep_until(Instant::now() + self.options.head_timeout));
        let mut stopped = pin!(stopped(&mut self.stopping));
        let mut is_stopping = false;
        poll_fn(|ctx| {
            if let Poll::Ready(result) = connection.as_mut().poll(ctx) {
                if let Err(error) = result {
                    tracing::debug!(peer = %self.peer, %error, "a connection ended");
                }
                return Poll::Ready(());
            }
            if !is_stopping && stopped.as_mut().poll(ctx).is_ready() {
                is_stopping = true;
                connection.as_mut().graceful_shutdown();
                if connection.as_mut().poll(ctx).is_ready() {
                    return Poll::Ready(());
                }
            }
            // Only these can be due before the timer looks next: all else waits longer.
            if pulse.is_hurried()
                && let Some(due) = pulse.due(&self.options)
            {
                // Asked of the clock itself: a peer that floods uses up the task's budget, and the timer then never rings.
                if due <= Instant::now() {
                    pulse.expire();
                    drop(connection.as_mut().poll(ctx));
                    return Poll::Ready(());
                }
                if due < timer.deadline() {
                    timer.as_mut().reset(due);
                }
            }
            while timer.as_mut().poll(ctx).is_ready() {
                let now = Instant::now();
                match pulse.due(&self.options) {
                    Some(due) if due <= now => {
                        pulse.expire();
                        drop(connection.as_mut().poll(ctx));
                        return Poll::Ready(());
                    }
                    Some(due) => timer.as_mut().reset(due),
                    None => timer.as_mut().reset(now + LOOK_AGAIN.min(self.options.idle_timeout)),
                }
            }
            Poll::Pending
        })
        .await;
    }
}

async fn answer(
    served: &Served,
    pulse: &Pulse,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Result<axum::response::Response, Infallible> {
    pulse.begin_answer();
    let has_body = !request.body().is_end_stream();
    let mut response = match served {
        Served::Api(edge) => edge.answer(peer, request).await,
        Served::Metrics(metrics) => metrics.answer(request.method(), request.uri().path()).await,
    };
    let ends = response.headers().get(CONNECTION).is_some_and(|value| value == "close");
    pulse.end_answer(has_body && (ends || response.status().is_client_error()));
    // What comes next on a kept connection would meet a hub that is gone; a new one, behind a balancer, meets another hub.
    if served.hub().is_draining() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // A sender that is gone has stopped, too.
    drop(stopping.wait_for(|stopping| *stopping).await);
}
