//! The mllp channel: an HL7 v2 message in its frame, and the acknowledgement that names it, over kept connections.
//!
//! ```text
//! <VT> message <FS><CR>  ->        <-  <VT> MSH … MSA|AA|our MSH-10 … <FS><CR>
//! ```
//!
//! Source: HL7 version 2.5.1, appendix C (minimal lower layer protocol). One message at a time is under way on a connection.
//! What stands between frames, and acknowledgements of other messages, are skipped; nothing read is without a ceiling, and
//! a connection that was left in the middle of an exchange is never used again.

use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use ess_core::message::Message;
use ess_core::msa::{self, AckCodes};
use ess_core::partner::{AckBy, Partner, Settings};
use ess_core::receipt::{Failure, Receipt, Said, Stage};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use crate::channel::ChannelError;
use crate::credential::Credential;
use crate::dialer::Dialer;
use crate::limits::{ANSWER_BODY_BYTES_MAX, ANSWER_BYTES_MAX, READ_BYTES_FIRST};
use crate::pool::Pool;
use crate::progress::{Progress, one_line};
use crate::stream::Stream;
use crate::target::{MLLP, Security, Target};
use crate::wire::io_words;

const VT: u8 = 0x0B;
const FS: u8 = 0x1C;
const CR: u8 = 0x0D;

/// Messages for one partner.
#[derive(Debug)]
pub struct Mllp {
    target: Target,
    dialer: Dialer,
    tls: Option<Tls>,
    codes: AckCodes,
    /// The partner's word comes by callback, so that an accept says only that the message was taken.
    is_word_later: bool,
    pool: Pool<Line>,
}

/// The TLS side, which has nothing to show.
struct Tls(TlsConnector);

/// A connection to a partner.
struct Line(Stream);

/// What was read of an exchange beside the acknowledgement that counts.
#[derive(Debug, Default)]
struct Skipped {
    /// Acknowledgements of other messages, and the last one's control id.
    others: u32,
    last_other: String,
    /// Codes that are waited past.
    waited: Option<String>,
    /// Why a frame was no acknowledgement.
    no_ack: Option<&'static str>,
}

/// Why an exchange failed.
struct Broken {
    /// Not one byte came back: a kept connection may just have gone stale.
    is_stale: bool,
    failure: Failure,
}

impl Mllp {
    pub(crate) fn open(
        partner: &Partner,
        url: &str,
        credential: &Credential,
        dialer: &Dialer,
    ) -> Result<Mllp, ChannelError> {
        let target = Target::parse(url, &MLLP)?;
        let tls = match (credential, target.security) {
            (Credential::None, Security::Plain) => None,
            (Credential::None, _) => Some(dialer.tls(&[])),
            (Credential::Mtls { .. }, Security::Plain) => {
                return Err(ChannelError::Url("a client certificate needs mllps".to_owned()));
            }
            (Credential::Mtls { cert_pem, key_pem }, _) => Some(dialer.tls_with_certificate(cert_pem, key_pem, &[])?),
            _ => return Err(ChannelError::Credential("mllp logs in by mtls only".to_owned())),
        };
        let codes = match &partner.settings {
            Settings::Mllp(settings) => settings.codes,
            _ => AckCodes::default(),
        };
        Ok(Mllp {
            target,
            dialer: dialer.clone(),
            tls: tls.map(Tls),
            codes,
            is_word_later: partner.ack.by == AckBy::Callback,
            pool: Pool::new(partner.limits.in_flight as usize, Line::is_open),
        })
    }

    pub(crate) async fn send(&self, message: &Message, deadline: Instant) -> Receipt {
        let Some(control_id) = msa::control_id(&message.body) else {
            let reason = "the message has no MSH-10, so no acknowledgement could name it; let the adapter leave field 10 \
                          of MSH away, or fill it";
            return Receipt::Refused { reason: reason.to_owned() };
        };
        let frame = framed(&message.body);
        let progress = Progress::begin(deadline);
        let mut skipped = Skipped::default();
        let attempt = self.attempt(&frame, &control_id, &progress, &mut skipped);
        let outcome = timeout_at(deadline, attempt).await.unwrap_or_else(|_| Err(progress.timed_out()));
        match outcome {
            Ok(Said::Ack) if self.is_word_later => Receipt::Taken,
            Ok(said) => Receipt::Said(said),
            Err(failure) => {
                let reason = skipped.add_to(failure.reason, &control_id);
                Receipt::Failed(one_line(Failure { reason, ..failure }))
            }
        }
    }

    pub(crate) fn sweep(&self) {
        self.pool.sweep();
    }

    /// One exchange: on a kept connection if there is one, once more on a fresh one if the kept one was stale.
    async fn attempt(
        &self,
        frame: &[u8],
        control_id: &str,
        progress: &Progress,
        skipped: &mut Skipped,
    ) -> Result<Said, Failure> {
        if let Some(line) = self.pool.take() {
            match self.exchange(line, frame, control_id, progress, skipped).await {
                Err(broken) if broken.is_stale => {}
                outcome => return outcome.map_err(|broken| broken.failure),
            }
        }
        let tls = self.tls.as_ref().map(|Tls(connector)| connector);
        // By itself: it is large, seldom needed, and every message would make room for it.
        let stream = Box::pin(self.dialer.dial(&self.target, tls, progress)).await?;
        let exchange = self.exchange(Line(stream), frame, control_id, progress, skipped);
        exchange.await.map_err(|broken| broken.failure)
    }

    async fn exchange(
        &self,
        mut line: Line,
        frame: &[u8],
        control_id: &str,
        progress: &Progress,
        skipped: &mut Skipped,
    ) -> Result<Said, Broken> {
        progress.enter(Stage::Send);
        line.write(frame).await?;
        progress.enter(Stage::Await);
        let mut buffer = Vec::with_capacity(READ_BYTES_FIRST);
        let mut read = 0;
        loop {
            while let Some(frame) = next_frame(&mut buffer) {
                if let Some(said) = self.judge(&buffer[frame.clone()], control_id, skipped) {
                    self.pool.keep(line);
                    return Ok(said);
                }
                buffer.drain(..=frame.end);
            }
            if buffer.len() > ANSWER_BODY_BYTES_MAX {
                return Err(broken(Stage::Read, "the acknowledgement is over 64 KiB".to_owned()));
            }
            if read >= ANSWER_BYTES_MAX {
                return Err(broken(Stage::Read, "512 KiB came without an acknowledgement of this message".to_owned()));
            }
            read += line.read(&mut buffer, read == 0).await?;
        }
    }

    /// What a frame says of this message, if it speaks of it and decides anything.
    fn judge(&self, answer: &[u8], control_id: &str, skipped: &mut Skipped) -> Option<Said> {
        match msa::read(&msa::text_of(answer), &self.codes) {
            Ok(ack) if ack.control_id == control_id => {
                if ack.said.is_none() {
                    skipped.waited = Some(ack.code.to_owned());
                }
                ack.said
            }
            Ok(ack) => {
                skipped.others = skipped.others.saturating_add(1);
                skipped.last_other = ack.control_id.to_owned();
                None
            }
            Err(why) => {
                skipped.no_ack = Some(why);
                None
            }
        }
    }
}

impl Line {
    /// Whether the partner has kept the connection open, by all that is known here and now. What came since the last
    /// message cannot speak of the next one: it is read away.
    fn is_open(&mut self) -> bool {
        let mut bytes = [0; 1024];
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..ANSWER_BODY_BYTES_MAX / bytes.len() {
            let mut room = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.0).poll_read(&mut cx, &mut room) {
                Poll::Pending => return true,
                Poll::Ready(Ok(())) if !room.filled().is_empty() => {}
                Poll::Ready(_) => return false,
            }
        }
        false
    }

    async fn write(&mut self, frame: &[u8]) -> Result<(), Broken> {
        let written = async {
            self.0.write_all(frame).await?;
            self.0.flush().await
        };
        written.await.map_err(|error| Broken {
            is_stale: true,
            failure: Failure {
                stage: Stage::Send,
                reason: format!("{} before the message was sent", io_words(&error)),
            },
        })
    }

    async fn read(&mut self, buffer: &mut Vec<u8>, is_first: bool) -> Result<usize, Broken> {
        let closed = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let outcome = match self.0.read_buf(buffer).await {
            Ok(0) => Err(closed()),
            outcome => outcome,
        };
        outcome.map_err(|error| {
            let reason = format!("{} before an acknowledgement of this message", io_words(&error));
            Broken { is_stale: is_first, failure: Failure { stage: Stage::Await, reason } }
        })
    }
}

impl Skipped {
    /// What happened, with what came instead.
    fn add_to(&self, reason: String, control_id: &str) -> String {
        if let Some(code) = &self.waited {
            return format!("{reason}; {code} came, and this partner's `codes` wait for another one");
        }
        if self.others > 0 {
            let (others, last) = (self.others, &self.last_other);
            return format!("{reason}; {others} for other messages came, the last for {last}; sent was {control_id}");
        }
        match self.no_ack {
            Some(why) => format!("{reason}; what came is no acknowledgement: {why}"),
            None => reason,
        }
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

fn broken(stage: Stage, reason: String) -> Broken {
    Broken { is_stale: false, failure: Failure { stage, reason } }
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(message.len() + 3);
    frame.push(VT);
    frame.extend_from_slice(message);
    frame.extend_from_slice(&[FS, CR]);
    frame
}

/// Where the first whole frame stands; its FS is the byte after it. One that was begun anew counts from there.
fn next_frame(buffer: &mut Vec<u8>) -> Option<Range<usize>> {
    let Some(begin) = buffer.iter().position(|byte| *byte == VT) else {
        // Line ends after a frame, a greeting: nothing that is waited for.
        buffer.clear();
        return None;
    };
    let end = begin + buffer[begin..].iter().position(|byte| *byte == FS)?;
    let begin = buffer[..end].iter().rposition(|byte| *byte == VT).unwrap_or(begin);
    Some(begin + 1..end)
}
