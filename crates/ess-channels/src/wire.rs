//! One HTTP/1.1 connection, used for one exchange at a time by the attempt that holds it.
//!
//! There is no connection task: nothing is woken across tasks, and an idle connection holds no buffer. A connection
//! that was left in the middle of an exchange, or that holds bytes nobody asked for, is dropped and never used again.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use ess_core::receipt::{Failure, Stage};
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use crate::http1::{Head, Malformed, parse_head};
use crate::limits::{ANSWER_BODY_BYTES_MAX, ANSWER_BYTES_MAX, ANSWER_HEAD_BYTES_MAX, READ_BYTES, READ_BYTES_FIRST};
use crate::progress::Progress;
use crate::stream::Stream;

/// A connection to a partner.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: Stream,
}

/// A request, ready to be written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outgoing<'a> {
    /// Request line and fields, the empty line included.
    pub head: &'a [u8],
    /// Body.
    pub body: &'a [u8],
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub status: u16,
    pub retry_after: Option<Duration>,
    /// The body's first 64 KiB.
    pub body: Bytes,
    /// The connection can be used again.
    pub can_keep: bool,
}

/// Why there was no answer.
#[derive(Debug)]
pub(crate) struct Broken {
    /// Not one byte came back: a kept connection may just have gone stale.
    pub is_stale: bool,
    pub failure: Failure,
}

impl Wire {
    /// Takes a fresh connection into use.
    pub(crate) fn open(stream: Stream) -> Wire {
        Wire { stream }
    }

    /// Whether the partner has kept the connection open and silent, by all that is known here and now.
    pub(crate) fn is_open(&mut self) -> bool {
        let mut byte = [0];
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(&mut self.stream).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
    }

    /// Sends the request and reads the answer.
    pub(crate) async fn exchange(&mut self, request: Outgoing<'_>, progress: &Progress) -> Result<Reply, Broken> {
        let mut exchange = Exchange {
            stream: &mut self.stream,
            request,
            progress,
            written: 0,
            is_flushed: false,
            write_error: None,
            buffer: Vec::with_capacity(READ_BYTES_FIRST),
            read: 0,
        };
        progress.enter(Stage::Send);
        let head = exchange.head().await?;
        progress.enter(Stage::Read);
        exchange.body(head).await
    }
}

/// An exchange under way.
struct Exchange<'a> {
    stream: &'a mut Stream,
    request: Outgoing<'a>,
    progress: &'a Progress,
    written: usize,
    is_flushed: bool,
    /// Kept until it is clear whether the partner answered in spite of it.
    write_error: Option<io::Error>,
    /// Bytes read and not yet used.
    buffer: Vec<u8>,
    /// Bytes read in all.
    read: usize,
}

impl Exchange<'_> {
    /// Reads to the end of the final answer's head, past interim ones; the buffer then holds what came after it.
    async fn head(&mut self) -> Result<Head, Broken> {
        let mut searched = 0;
        loop {
            match parse_head(&self.buffer, searched, Timestamp::now) {
                Err(malformed) => return Err(self.malformed(Stage::Await, malformed)),
                Ok(Some(head)) => {
                    self.buffer.drain(..head.bytes);
                    if !head.is_interim() {
                        return Ok(head);
                    }
                    searched = 0;
                    continue;
                }
                Ok(None) => searched = self.buffer.len(),
            }
            if self.read >= ANSWER_HEAD_BYTES_MAX {
                return Err(self.malformed(Stage::Await, Malformed("the answer's head is over 32 KiB")));
            }
            match self.fill(READ_BYTES).await {
                Ok(0) => return Err(self.closed(Stage::Await)),
                Ok(_) => {}
                Err(error) => return Err(self.broken(Stage::Await, &error)),
            }
        }
    }

    /// Reads the body to its end or its ceiling.
    async fn body(&mut self, mut head: Head) -> Result<Reply, Broken> {
        let mut body = Vec::new();
        let mut is_whole = true;
        while !head.framing.is_done() {
            let used = head.framing.decode(&self.buffer, &mut body, ANSWER_BODY_BYTES_MAX);
            let used = used.map_err(|malformed| self.malformed(Stage::Read, malformed))?;
            let is_used_up = used == self.buffer.len();
            self.buffer.drain(..used);
            if head.framing.is_done() {
                break;
            }
            let is_full = body.len() >= ANSWER_BODY_BYTES_MAX || self.read >= ANSWER_BYTES_MAX;
            if is_full || !is_used_up {
                is_whole = false;
                break;
            }
            match self.fill(READ_BYTES).await {
                Ok(0) if head.framing == crate::http1::Framing::UntilClose => break,
                Ok(0) => return Err(self.closed(Stage::Read)),
                Ok(_) => {}
                Err(error) => return Err(self.broken(Stage::Read, &error)),
            }
        }
        let is_settled = self.is_sent() && self.buffer.is_empty();
        Ok(Reply {
            status: head.status,
            retry_after: head.retry_after,
            body: Bytes::from(body),
            can_keep: head.is_kept_alive && is_whole && is_settled,
        })
    }

    /// Writes what can be written and waits for more to read; 0 when the partner has closed.
    async fn fill(&mut self, bytes: usize) -> io::Result<usize> {
        if self.buffer.len() == self.buffer.capacity() {
            self.buffer.reserve(bytes);
        }
        let read = std::future::poll_fn(|cx| {
            self.poll_write(cx);
            // The future holds nothing but the two borrows, so it can be made anew for each poll.
            pin!(self.stream.read_buf(&mut self.buffer)).poll(cx)
        })
        .await?;
        self.read += read;
        Ok(read)
    }

    /// A partner may answer and close before it has read all: a failed write is not the end.
    fn poll_write(&mut self, cx: &mut Context<'_>) {
        if self.is_flushed || self.write_error.is_some() {
            return;
        }
        let Outgoing { head, body } = self.request;
        while self.written < head.len() + body.len() {
            let stream = Pin::new(&mut *self.stream);
            let wrote = match head.get(self.written..) {
                Some(rest) if !rest.is_empty() => {
                    stream.poll_write_vectored(cx, &[io::IoSlice::new(rest), io::IoSlice::new(body)])
                }
                _ => stream.poll_write(cx, &body[self.written - head.len()..]),
            };
            match wrote {
                Poll::Pending => return,
                Poll::Ready(Ok(0)) => return self.write_error = Some(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(wrote)) => self.written += wrote,
                Poll::Ready(Err(error)) => return self.write_error = Some(error),
            }
        }
        match Pin::new(&mut *self.stream).poll_flush(cx) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => {
                self.is_flushed = true;
                self.progress.enter_if(Stage::Send, Stage::Await);
            }
            Poll::Ready(Err(error)) => self.write_error = Some(error),
        }
    }

    fn is_sent(&self) -> bool {
        self.is_flushed && self.write_error.is_none()
    }

    fn closed(&self, stage: Stage) -> Broken {
        let error = io::Error::from(io::ErrorKind::UnexpectedEof);
        self.broken(stage, self.write_error.as_ref().unwrap_or(&error))
    }

    fn broken(&self, stage: Stage, error: &io::Error) -> Broken {
        let is_sent = self.is_sent();
        let stage = if stage == Stage::Await && !is_sent { Stage::Send } else { stage };
        let when = match stage {
            Stage::Send => "before the message was sent",
            Stage::Read => "in the middle of the answer",
            _ if self.read == 0 => "before an answer",
            _ => "in the middle of the answer's head",
        };
        Broken { is_stale: self.read == 0, failure: Failure { stage, reason: format!("{} {when}", io_words(error)) } }
    }

    fn malformed(&self, stage: Stage, malformed: Malformed) -> Broken {
        Broken { is_stale: false, failure: Failure { stage, reason: malformed.0.to_owned() } }
    }
}

/// An I/O error in plain words, the same on every system.
pub(crate) fn io_words(error: &io::Error) -> String {
    use io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        ErrorKind::ConnectionReset => "connection reset".to_owned(),
        ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted | ErrorKind::UnexpectedEof | ErrorKind::WriteZero => {
            "connection closed".to_owned()
        }
        ErrorKind::HostUnreachable => "host unreachable".to_owned(),
        ErrorKind::NetworkUnreachable => "network unreachable".to_owned(),
        ErrorKind::TimedOut => "connection timed out".to_owned(),
        _ => error.to_string().to_lowercase(),
    }
}
