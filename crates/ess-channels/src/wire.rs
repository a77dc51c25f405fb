//! One HTTP/1.1 connection: hyper's connection future and its sender, polled together by the attempt that uses them.
//!
//! There is no connection task, so nothing is woken across tasks, and an idle connection costs its buffers only.
//! A connection that has been left in the middle of an exchange is dropped, never used again.

use std::error::Error;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use crate::limits::{ANSWER_BODY_BYTES_MAX, ANSWER_BYTES_MAX, ANSWER_HEAD_BYTES_MAX, READ_BUFFER_BYTES_MAX};
use crate::quiet::Quiet;
use crate::stream::{Allowance, Stream};

/// A connection and all that is needed to use it.
pub(crate) struct Wire {
    sender: SendRequest<Full<Bytes>>,
    connection: Connection<TokioIo<Stream>, Full<Bytes>>,
    quiet: Arc<Quiet>,
    waker: Waker,
    allowance: Allowance,
    /// hyper is done with it; its future may not be polled again.
    is_ended: bool,
    /// When it was last used.
    pub used_at: Instant,
}

/// Why an exchange ended without an answer.
#[derive(Debug)]
pub(crate) struct Broken {
    /// The partner closed before any byte of an answer: a kept connection had gone stale.
    pub is_stale: bool,
    /// One line.
    pub reason: String,
}

/// What was read of an answer's body.
pub(crate) struct Read {
    /// Its first 64 KiB.
    pub bytes: Bytes,
    /// That was all of it, so the connection can be used again.
    pub can_keep: bool,
}

impl Wire {
    /// Takes a fresh connection into use.
    pub(crate) async fn open(stream: Stream) -> Result<Wire, Broken> {
        let allowance = stream.allowance();
        let (sender, connection) = Builder::new()
            .max_buf_size(READ_BUFFER_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Broken {
                is_stale: false,
                reason: words(&error),
            })?;
        let quiet = Arc::new(Quiet::default());
        let waker = Waker::from(Arc::clone(&quiet));
        Ok(Wire {
            sender,
            connection,
            quiet,
            waker,
            allowance,
            is_ended: false,
            used_at: Instant::now(),
        })
    }

    /// Whether the partner has kept the connection open, by all that is known here and now.
    pub(crate) fn is_open(&mut self) -> bool {
        let mut cx = Context::from_waker(&self.waker);
        drive(&mut self.connection, &mut self.is_ended, &mut cx);
        !self.is_ended && self.sender.is_ready()
    }

    /// Sends the request and waits for the answer's head.
    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Broken> {
        self.allowance.set(ANSWER_HEAD_BYTES_MAX);
        let Wire {
            sender,
            connection,
            quiet,
            waker,
            is_ended,
            ..
        } = self;
        let mut answer = pin!(sender.send_request(request));
        let outcome = std::future::poll_fn(|cx| {
            quiet.poll(waker, cx, |cx| {
                drive(connection, is_ended, cx);
                answer.as_mut().poll(cx)
            })
        })
        .await;
        outcome.map_err(|error| Broken {
            is_stale: self.allowance.is_untouched(ANSWER_HEAD_BYTES_MAX),
            reason: words(&error),
        })
    }

    /// Reads at most the body's first 64 KiB.
    pub(crate) async fn read(&mut self, body: Incoming) -> Result<Read, Broken> {
        self.allowance.set(ANSWER_BYTES_MAX);
        let Wire {
            connection,
            quiet,
            waker,
            is_ended,
            ..
        } = self;
        let mut body = pin!(body);
        // Copied, so that hyper's read buffer is free for the next answer.
        let mut bytes = BytesMut::new();
        while !body.is_end_stream() {
            let frame = std::future::poll_fn(|cx| {
                quiet.poll(waker, cx, |cx| {
                    if let Poll::Ready(frame) = body.as_mut().poll_frame(cx) {
                        return Poll::Ready(frame);
                    }
                    drive(connection, is_ended, cx);
                    body.as_mut().poll_frame(cx)
                })
            })
            .await;
            let data = match frame {
                None => break,
                Some(Err(error)) => {
                    return Err(Broken {
                        is_stale: false,
                        reason: words(&error),
                    });
                }
                // Trailers say nothing that is asked for.
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            };
            let room = ANSWER_BODY_BYTES_MAX - bytes.len();
            bytes.extend_from_slice(&data[..data.len().min(room)]);
            let is_full = bytes.len() == ANSWER_BODY_BYTES_MAX;
            if is_full && !body.is_end_stream() {
                return Ok(Read {
                    bytes: bytes.freeze(),
                    can_keep: false,
                });
            }
        }
        Ok(Read {
            bytes: bytes.freeze(),
            can_keep: !*is_ended,
        })
    }

    /// Lays the connection to rest: it wakes nobody until it is used again.
    pub(crate) fn rest(&mut self) {
        self.quiet.rest();
        self.used_at = Instant::now();
    }
}

/// Lets hyper read and write. What goes wrong is reported by the exchange that is under way.
fn drive(connection: &mut Connection<TokioIo<Stream>, Full<Bytes>>, is_ended: &mut bool, cx: &mut Context<'_>) {
    if !*is_ended {
        *is_ended = Pin::new(connection).poll(cx).is_ready();
    }
}

/// The innermost cause, which says most.
pub(crate) fn words(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    if let Some(io) = cause.downcast_ref::<std::io::Error>() {
        return io_words(io);
    }
    cause.to_string()
}

/// An I/O error in plain words, the same on every system.
pub(crate) fn io_words(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        ErrorKind::ConnectionReset => "connection reset".to_owned(),
        ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted | ErrorKind::UnexpectedEof => {
            "connection closed".to_owned()
        }
        ErrorKind::HostUnreachable => "host unreachable".to_owned(),
        ErrorKind::NetworkUnreachable => "network unreachable".to_owned(),
        ErrorKind::TimedOut => "connection timed out".to_owned(),
        _ => error.to_string(),
    }
}
