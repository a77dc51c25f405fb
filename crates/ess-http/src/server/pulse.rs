//! What a connection is doing and since when, so that one coarse timer can end the ones that hang.
//!
//! ```text
//!   Idle --first byte--> Head --request--> Answering --answered--> Idle
//!                          (or straight: Idle --request--> Answering)
//!   any --refused with its body unread--> Closing (reads and drops, so that the peer can read the answer)
//! ```

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Duration, Instant};

use crate::limits::LINGER;
use crate::server::ServerOptions;

const IDLE: u8 = 0;
const HEAD: u8 = 1;
const ANSWERING: u8 = 2;
const CLOSING: u8 = 3;

/// What is written to a peer whose request's head does not end.
const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/problem+json\r\nconnection: close\r\ncontent-length: 200\r\n\r\n\
{\"type\":\"https://hms-ess.invalid/errors/request_timeout\",\"title\":\"Request timeout\",\"status\":408,\"code\":\"request_timeout\",\
\"detail\":\"the head of the request did not arrive in time\",\"request_id\":\"-\"}    ";

/// What a connection is doing. Shared by its reader, its service and its timer, which all run in one task.
#[derive(Debug)]
pub(crate) struct Pulse {
    born: Instant,
    phase: AtomicU8,
    /// Milliseconds after `born` of the phase's begin or of its last movement.
    since_ms: AtomicU64,
    is_expired: AtomicBool,
    lingers: AtomicBool,
}

impl Pulse {
    /// A connection that just began and is idle.
    pub(crate) fn new() -> Self {
        Self {
            born: Instant::now(),
            phase: AtomicU8::new(IDLE),
            since_ms: AtomicU64::new(0),
            is_expired: AtomicBool::new(false),
            lingers: AtomicBool::new(false),
        }
    }

    /// A request's head is complete.
    pub(crate) fn begin_answer(&self) {
        self.phase.store(ANSWERING, Ordering::Relaxed);
    }

    /// The answer is ready to be written; `lingers` when the request's body may be unread.
    pub(crate) fn end_answer(&self, lingers: bool) {
        self.lingers.store(lingers, Ordering::Relaxed);
        self.enter(IDLE);
    }

    /// Whether a request's head has begun and not ended.
    fn is_in_head(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == HEAD
    }

    /// When the connection has to end unless something moves; `None` while a request is being answered.
    pub(crate) fn due(&self, options: &ServerOptions) -> Option<Instant> {
        let patience = match self.phase.load(Ordering::Relaxed) {
            IDLE => options.idle_timeout,
            HEAD => options.head_timeout,
            CLOSING => LINGER,
            _ => return None,
        };
        Some(self.born + Duration::from_millis(self.since_ms.load(Ordering::Relaxed)) + patience)
    }

    /// Whether what it is doing has less time than an idle connection.
    pub(crate) fn is_hurried(&self) -> bool {
        matches!(self.phase.load(Ordering::Relaxed), HEAD | CLOSING)
    }

    /// Its time is over: the reader says so to the peer, if it is in a head, and ends.
    pub(crate) fn expire(&self) {
        self.is_expired.store(true, Ordering::Relaxed);
    }

    fn enter(&self, phase: u8) {
        self.phase.store(phase, Ordering::Relaxed);
        self.note_movement();
    }

    fn note_movement(&self) {
        let since_ms = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since_ms.store(since_ms, Ordering::Relaxed);
    }
}

/// A stream that tells the pulse what moves. Begins with a byte that was read before.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    stream: S,
    first: Option<u8>,
    pulse: Arc<Pulse>,
}

impl<S> Watched<S> {
    /// Watches a stream whose first byte was read already.
    pub(crate) fn new(stream: S, first: u8, pulse: Arc<Pulse>) -> Self {
        Self { stream, first: Some(first), pulse }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, ctx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(byte) = self.first.take() {
            buffer.put_slice(&[byte]);
            self.pulse.enter(HEAD);
            // What came with it is taken too, so that a whole request is parsed at once.
            return match Pin::new(&mut self.stream).poll_read(ctx, buffer) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(())),
            };
        }
        if self.pulse.is_expired.load(Ordering::Relaxed) {
            if self.pulse.is_in_head() {
                drop(Pin::new(&mut self.stream).poll_write(ctx, TOO_SLOW));
                drop(Pin::new(&mut self.stream).poll_flush(ctx));
            }
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(ctx, buffer))?;
        if buffer.filled().len() > before && self.pulse.phase.load(Ordering::Relaxed) == IDLE {
            self.pulse.enter(HEAD);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, ctx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(ctx, bytes))?;
        if self.pulse.phase.load(Ordering::Relaxed) == IDLE {
            self.pulse.note_movement();
        }
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(ctx, slices))?;
        if self.pulse.phase.load(Ordering::Relaxed) == IDLE {
            self.pulse.note_movement();
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(ctx)
    }

    /// Closing a socket with unread bytes resets it, and the peer loses the answer: what still comes is read and dropped for a while.
    fn poll_shutdown(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.pulse.phase.load(Ordering::Relaxed) != CLOSING {
            ready!(Pin::new(&mut self.stream).poll_shutdown(ctx))?;
            if !self.pulse.lingers.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
            self.pulse.enter(CLOSING);
        }
        let mut dropped = [0u8; 16 * 1024];
        loop {
            let mut buffer = ReadBuf::new(&mut dropped);
            ready!(Pin::new(&mut self.stream).poll_read(ctx, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_slow_head_is_as_long_as_it_says() {
        let text = std::str::from_utf8(TOO_SLOW).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
        assert!(serde_json::from_str::<serde_json::Value>(body).unwrap()["status"] == 408);
    }
}
