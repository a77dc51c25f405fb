//! A connection to a broker that is kept between messages, with what came ahead of being asked for.
//!
//! One message at a time is under way on it, and one that was left in the middle of an exchange is never used again: an
//! attempt owns the connection while it lasts, so that dropping the attempt closes it.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use ess_core::receipt::{Failure, Stage};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};

use crate::limits::{ANSWER_BODY_BYTES_MAX, ANSWER_BYTES_MAX};
use crate::stream::Stream;
use crate::wire::io_words;

/// A connection, and what its protocol remembers of it.
pub(crate) struct Kept<S> {
    stream: Stream,
    /// Bytes that were read and not yet taken apart.
    pub ahead: BytesMut,
    /// What the protocol remembers.
    pub state: S,
    /// Bytes read since the exchange began.
    read: usize,
    /// How many of them there may be.
    read_max: usize,
}

impl<S> Kept<S> {
    /// A connection that was just made; what its log-in read ahead goes on being read.
    pub(crate) fn new(stream: Stream, ahead: BytesMut, state: S) -> Kept<S> {
        Kept { stream, ahead, state, read: 0, read_max: ANSWER_BYTES_MAX }
    }

    /// Notes that a message's exchange begins, in which so many bytes of it may come back.
    pub(crate) fn begin(&mut self, echoed: usize) {
        self.read = 0;
        self.read_max = ANSWER_BYTES_MAX.saturating_add(echoed).saturating_add(echoed / 64);
    }

    /// Whether not one byte came since the exchange began: a kept connection may just have gone stale.
    pub(crate) fn is_silent(&self) -> bool {
        self.read == 0
    }

    /// Whether the broker has kept the connection open, by all that is known here and now. What it said meanwhile, such as
    /// a ping, stays to be answered.
    pub(crate) fn is_open(&mut self) -> bool {
        let mut bytes = [0; 1024];
        let mut cx = Context::from_waker(Waker::noop());
        while self.ahead.len() < ANSWER_BODY_BYTES_MAX {
            let mut room = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.stream).poll_read(&mut cx, &mut room) {
                Poll::Pending => return true,
                Poll::Ready(Ok(())) if !room.filled().is_empty() => self.ahead.extend_from_slice(room.filled()),
                Poll::Ready(_) => return false,
            }
        }
        false
    }

    /// Writes all of it.
    pub(crate) async fn write(&mut self, bytes: &[u8], stage: Stage) -> Result<(), Failure> {
        let written = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        written.await.map_err(|error| Failure { stage, reason: format!("{} while writing", io_words(&error)) })
    }

    /// Reads more into `ahead`; the end of the connection is a failure that says what was waited for.
    pub(crate) async fn read(&mut self, stage: Stage, awaited: &str) -> Result<(), Failure> {
        let refuse = |what: String| Failure { stage, reason: format!("{what} before {awaited}") };
        if self.read >= self.read_max {
            return Err(refuse("too many bytes came".to_owned()));
        }
        match self.stream.read_buf(&mut self.ahead).await {
            Ok(0) => Err(refuse("connection closed".to_owned())),
            Ok(read) => {
                self.read += read;
                Ok(())
            }
            Err(error) => Err(refuse(io_words(&error))),
        }
    }

    /// The stream, for a protocol that begins plain and goes on with TLS.
    pub(crate) fn into_stream(self) -> Stream {
        self.stream
    }
}
