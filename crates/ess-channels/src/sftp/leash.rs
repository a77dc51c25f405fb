//! A stream that can be cut from outside. The SSH library moves the stream into a task of its own, so that dropping an
//! attempt would leave the connection open for as long as the server likes.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stream::Stream;

/// Cuts its stream when it is dropped.
#[derive(Debug)]
pub(super) struct Leash(Arc<Shared>);

/// The stream at the other end.
pub(super) struct Leashed {
    stream: Stream,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    is_cut: AtomicBool,
    /// Guards who is to be woken when the stream is cut; held for a swap.
    reader: Mutex<Option<Waker>>,
}

/// Puts a stream on a leash.
pub(super) fn leash(stream: Stream) -> (Leash, Leashed) {
    let shared = Arc::new(Shared::default());
    (Leash(Arc::clone(&shared)), Leashed { stream, shared })
}

impl Drop for Leash {
    fn drop(&mut self) {
        self.0.is_cut.store(true, Ordering::Release);
        let reader = self.0.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl Leashed {
    /// Notes who waits, then looks: in this order no cut is missed.
    fn check(&self, cx: &Context<'_>) -> io::Result<()> {
        let mut reader = self.shared.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if !reader.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *reader = Some(cx.waker().clone());
        }
        drop(reader);
        if self.shared.is_cut.load(Ordering::Acquire) { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Leashed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Leashed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
