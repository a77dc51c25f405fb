//! A connected socket, plain or TLS, that counts what it reads.
//!
//! It never reads past its allowance, so that no partner can keep an attempt busy or fill its memory.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// How many more bytes may be read; shared by the stream and the attempt that uses it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Allowance(Arc<AtomicUsize>);

impl Allowance {
    /// Sets what may be read from now on.
    pub(crate) fn set(&self, bytes: usize) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    /// Whether nothing was read since `bytes` were allowed.
    pub(crate) fn is_untouched(&self, bytes: usize) -> bool {
        self.0.load(Ordering::Relaxed) == bytes
    }
}

/// A connection to a partner.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: Socket,
    allowance: Allowance,
}

#[derive(Debug)]
enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// A plain connection.
    pub(crate) fn plain(socket: TcpStream) -> Stream {
        Stream { socket: Socket::Plain(socket), allowance: Allowance::default() }
    }

    /// A TLS connection.
    pub(crate) fn tls(socket: TlsStream<TcpStream>) -> Stream {
        Stream { socket: Socket::Tls(Box::new(socket)), allowance: Allowance::default() }
    }

    /// The allowance, to be set before each request.
    pub(crate) fn allowance(&self) -> Allowance {
        self.allowance.clone()
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = match &mut self.socket {
            Socket::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Socket::Tls(socket) => Pin::new(socket).poll_read(cx, buf),
        };
        if let Poll::Ready(Ok(())) = read {
            let bytes = buf.filled().len() - before;
            let left = self.allowance.0.load(Ordering::Relaxed);
            if bytes > left {
                self.allowance.set(0);
                return Poll::Ready(Err(io::Error::other("the answer is too long")));
            }
            self.allowance.set(left - bytes);
        }
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            Socket::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Socket::Tls(socket) => Pin::new(socket).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Plain(_) => Poll::Ready(Ok(())),
            Socket::Tls(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Socket::Tls(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            Socket::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Socket::Tls(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
