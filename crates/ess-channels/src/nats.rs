//! The nats channel: messages to a JetStream stream over kept connections, and the stream's acknowledgement of each.
//!
//! ```text
//! INFO <- [TLS] -> CONNECT, SUB inbox.*, PING   <- PONG        once for a connection
//! HPUB subject inbox.N headers body ->          <- MSG inbox.N {"stream": …, "seq": …}
//! ```
//!
//! The message's id goes as `Nats-Msg-Id`, so that a stream stores the same message once whatever was lost on the way. A
//! connection has one message under way, and is never used again when it was left in the middle of that.

mod protocol;
mod words;

use bytes::BytesMut;
use ess_core::id::PartnerId;
use ess_core::message::Message;
use ess_core::partner::Partner;
use ess_core::place::NatsSubject;
use ess_core::receipt::{Failure, Receipt, Stage};
use ess_core::topic::Values;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::channel::ChannelError;
use crate::credential::Credential;
use crate::dialer::{Dialer, protect};
use crate::kept::Kept;
use crate::pool::Pool;
use crate::progress::{Progress, one_line};
use crate::stream::Stream;
use crate::target::{NATS, Target};
use protocol::{Login, Malformed, Op, Terms};

/// Messages for one partner by its NATS servers.
pub struct Nats {
    target: Target,
    dialer: Dialer,
    tls: Option<TlsConnector>,
    credential: Credential,
    partner: PartnerId,
    subject: NatsSubject,
    pool: Pool<Kept<Session>>,
}

/// What is remembered of a connection.
struct Session {
    inbox: String,
    /// Messages so far; each has an inbox of its own.
    sent: u64,
    info: Terms,
}

impl std::fmt::Debug for Nats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nats").field("host", &self.target.host).finish_non_exhaustive()
    }
}

impl Nats {
    pub(crate) fn open(
        partner: &Partner,
        url: &str,
        credential: Credential,
        dialer: &Dialer,
    ) -> Result<Nats, ChannelError> {
        let target = Target::parse(url, &NATS)?;
        let tls = dialer.broker_tls(&target, &credential, "natss")?;
        let subject = NatsSubject::of_path(&target.path).map_err(ChannelError::Url)?;
        Ok(Nats {
            target,
            dialer: dialer.clone(),
            tls,
            credential,
            partner: partner.id.clone(),
            subject,
            pool: Pool::new(partner.limits.in_flight as usize, Kept::is_open),
        })
    }

    pub(crate) async fn send(&self, message: &Message, deadline: Instant) -> Receipt {
        let progress = Progress::begin(deadline);
        let receipt = timeout_at(deadline, self.attempt(message, &progress)).await;
        match receipt.unwrap_or_else(|_| Err(progress.timed_out())) {
            Ok(Receipt::Failed(failure)) | Err(failure) => Receipt::Failed(one_line(failure)),
            Ok(receipt) => receipt,
        }
    }

    pub(crate) fn sweep(&self) {
        self.pool.sweep();
    }

    /// One exchange: on a kept connection if there is one, once more on a fresh one if the kept one was stale.
    async fn attempt(&self, message: &Message, progress: &Progress) -> Result<Receipt, Failure> {
        if let Some(mut line) = self.pool.take() {
            line.begin(0);
            match self.exchange(&mut line, message, progress).await {
                Err(_) if line.is_silent() => {}
                outcome => return self.keep(line, outcome),
            }
        }
        let mut line = self.connect(progress).await?;
        line.begin(0);
        let outcome = self.exchange(&mut line, message, progress).await;
        self.keep(line, outcome)
    }

    fn keep(&self, line: Kept<Session>, outcome: Result<Receipt, Failure>) -> Result<Receipt, Failure> {
        if outcome.is_ok() {
            self.pool.keep(line);
        }
        outcome
    }

    async fn exchange(
        &self,
        line: &mut Kept<Session>,
        message: &Message,
        progress: &Progress,
    ) -> Result<Receipt, Failure> {
        progress.enter(Stage::Send);
        let values = Values {
            partner: &self.partner,
            event: &message.event_id,
            subject: &message.subject,
            version: message.version,
        };
        let subject = self.subject.fill(&values);
        line.state.sent += 1;
        let inbox = format!("{}.{}", line.state.inbox, line.state.sent);
        let published = protocol::publish(&subject, &inbox, message);
        let length = protocol::counted_bytes(&published);
        if let Some(ceiling) = line.state.info.payload_bytes_max
            && length as u64 > ceiling
        {
            let reason = format!("the message takes {length} bytes, and the server takes {ceiling} at most");
            return Ok(Receipt::Refused { reason });
        }
        line.write(&published, Stage::Send).await?;
        progress.enter(Stage::Await);
        loop {
            match answer(line, Stage::Await, "JetStream's acknowledgement").await? {
                Op::Message(reply) if reply.subject == inbox => return Ok(words::receipt(&reply, &subject)),
                Op::Error(said) => {
                    return match words::refusal(&said, &subject) {
                        // It may not be about this message, so what follows could not be told apart.
                        Receipt::Failed(failure) => Err(failure),
                        receipt => Ok(receipt),
                    };
                }
                _ => {}
            }
        }
    }

    /// Dials and logs in.
    async fn connect(&self, progress: &Progress) -> Result<Kept<Session>, Failure> {
        let refuse = |reason: &str| Failure { stage: Stage::Auth, reason: reason.to_owned() };
        let plain = None;
        let stream = self.dialer.dial(&self.target, plain, progress).await?;
        progress.enter(Stage::Auth);
        let inbox = format!("_INBOX.{}", self.dialer.nonce()?);
        let mut line = Kept::new(stream, BytesMut::new(), Session { inbox, sent: 0, info: Terms::default() });
        let Op::Info(info) = answer(&mut line, Stage::Auth, "the server's INFO").await? else {
            return Err(refuse("the server did not begin with INFO; is it NATS?"));
        };
        let lacks_headers = !info.has_headers;
        let line = match (&self.tls, info.needs_tls, info.has_tls) {
            (None, true, _) => return Err(refuse("the server wants TLS; write natss:// in the url")),
            (None, false, _) => line,
            (Some(_), _, false) => return Err(refuse("the server does not offer TLS on this port")),
            // What came before TLS could be anybody's.
            (Some(_), _, true) if !line.ahead.is_empty() => {
                return Err(refuse("the server said more than its INFO before TLS"));
            }
            (Some(tls), _, true) => self.protect(line, tls, progress).await?,
        };
        if lacks_headers {
            return Err(refuse("the server takes no headers; NATS 2.2 or later is needed"));
        }
        self.log_in(line, info, progress).await
    }

    async fn protect(
        &self,
        line: Kept<Session>,
        tls: &TlsConnector,
        progress: &Progress,
    ) -> Result<Kept<Session>, Failure> {
        let state = Session { inbox: line.state.inbox.clone(), sent: 0, info: Terms::default() };
        let stream = match line.into_stream() {
            Stream::Plain(socket) => protect(socket, &self.target, tls, progress).await?,
            stream => stream,
        };
        Ok(Kept::new(stream, BytesMut::new(), state))
    }

    async fn log_in(
        &self,
        mut line: Kept<Session>,
        info: Terms,
        progress: &Progress,
    ) -> Result<Kept<Session>, Failure> {
        progress.enter(Stage::Auth);
        line.state.info = info;
        let login = match &self.credential {
            Credential::Password { user: Some(user), password } => Login::User(user, password),
            Credential::Password { user: None, password } => Login::Token(password),
            _ => Login::None,
        };
        let connect = Zeroizing::new(protocol::log_in(login, &line.state.inbox));
        line.write(connect.as_bytes(), Stage::Auth).await?;
        loop {
            match answer(&mut line, Stage::Auth, "the answer to the log-in").await? {
                Op::Pong => return Ok(line),
                Op::Error(said) => return Err(Failure { stage: Stage::Auth, reason: words::login_words(&said) }),
                Op::Info(info) => line.state.info = info,
                _ => {}
            }
        }
    }
}

/// The next of what the server says; its pings are answered.
async fn answer(line: &mut Kept<Session>, stage: Stage, awaited: &str) -> Result<Op, Failure> {
    loop {
        let next = protocol::next(&mut line.ahead);
        match next.map_err(|Malformed(what)| Failure { stage, reason: what.to_owned() })? {
            Some(Op::Ping) => line.write(b"PONG\r\n", stage).await?,
            Some(op) => return Ok(op),
            None => line.read(stage, awaited).await?,
        }
    }
}
