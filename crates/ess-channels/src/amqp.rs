//! The amqp channel: persistent messages by AMQP 0.9.1 over kept connections, and the broker's confirm of each.
//!
//! ```text
//! AMQP 0 0 9 1 ->  Start <-  StartOk ->  Tune <-  TuneOk, Open ->  OpenOk <-  then a channel with confirms on
//! Publish, header, body ->   <- Return (no queue takes it), then Ack; or Nack; or Close
//! ```
//!
//! A message that no queue takes comes back, since it is sent as mandatory: it is never dropped in silence. A connection
//! has one message under way, and is never used again when it was left in the middle of that.

mod frame;
mod words;

use std::time::Duration;

use bytes::BytesMut;
use ess_core::id::PartnerId;
use ess_core::message::Message;
use ess_core::partner::Partner;
use ess_core::place::AmqpPlace;
use ess_core::receipt::{Failure, Receipt, Stage};
use ess_core::topic::Values;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::channel::ChannelError;
use crate::credential::Credential;
use crate::dialer::Dialer;
use crate::kept::Kept;
use crate::limits::{AMQP_FRAME_BYTES_MAX, AMQP_HEARTBEAT};
use crate::pool::Pool;
use crate::progress::{Progress, one_line};
use crate::target::{AMQP, Target};
use frame::{Frame, Login, Malformed};
use words::Place;

/// The least that a broker must let a frame have (section 4.2.3).
const FRAME_BYTES_MIN: u32 = 4096;

/// Messages for one partner by its broker.
pub struct Amqp {
    target: Target,
    dialer: Dialer,
    tls: Option<TlsConnector>,
    credential: Credential,
    partner: PartnerId,
    place: AmqpPlace,
    pool: Pool<Kept<Session>>,
}

/// What is remembered of a connection.
struct Session {
    frame_bytes_max: u32,
    /// How often the broker is to hear of the hub while an answer is awaited.
    beat: Duration,
    /// Messages so far, which is the number of the last one's confirm.
    sent: u64,
}

impl std::fmt::Debug for Amqp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Amqp").field("host", &self.target.host).finish_non_exhaustive()
    }
}

impl Amqp {
    pub(crate) fn open(
        partner: &Partner,
        url: &str,
        credential: Credential,
        dialer: &Dialer,
    ) -> Result<Amqp, ChannelError> {
        let target = Target::parse(url, &AMQP)?;
        let tls = dialer.broker_tls(&target, &credential, "amqps")?;
        if matches!(&credential, Credential::Password { user: None, .. }) {
            return Err(ChannelError::Credential("a password needs a user there".to_owned()));
        }
        let place = AmqpPlace::of_path(&target.path).map_err(ChannelError::Url)?;
        Ok(Amqp {
            target,
            dialer: dialer.clone(),
            tls,
            credential,
            partner: partner.id.clone(),
            place,
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
            line.begin(message.body.len());
            match self.exchange(&mut line, message, progress).await {
                Err(_) if line.is_silent() => {}
                outcome => return self.keep(line, outcome),
            }
        }
        let mut line = self.connect(progress).await?;
        line.begin(message.body.len());
        let outcome = self.exchange(&mut line, message, progress).await;
        self.keep(line, outcome)
    }

    fn keep(&self, line: Kept<Session>, outcome: Result<Exchanged, Failure>) -> Result<Receipt, Failure> {
        match outcome? {
            Exchanged { receipt, is_usable: true } => {
                self.pool.keep(line);
                Ok(receipt)
            }
            Exchanged { receipt, .. } => Ok(receipt),
        }
    }

    async fn exchange(
        &self,
        line: &mut Kept<Session>,
        message: &Message,
        progress: &Progress,
    ) -> Result<Exchanged, Failure> {
        progress.enter(Stage::Send);
        let values = Values {
            partner: &self.partner,
            event: &message.event_id,
            subject: &message.subject,
            version: message.version,
        };
        let routing_key = self.place.routing_key(&values);
        let place = Place { exchange: &self.place.exchange, routing_key: &routing_key };
        let published = frame::publish(place.exchange, place.routing_key, message, line.state.frame_bytes_max);
        let published = match published {
            Ok(published) => published,
            Err(reason) => return Ok(Exchanged::usable(Receipt::Refused { reason })),
        };
        line.write(&published, Stage::Send).await?;
        line.state.sent += 1;
        progress.enter(Stage::Await);
        let mut returned = None;
        loop {
            match answer(line, Stage::Await, "the broker's confirm").await? {
                Frame::Return { code, text } => returned = Some(words::returned(code, &text, place)),
                Frame::Ack { tag, is_multiple } if is_for(line, tag, is_multiple) => {
                    return Ok(Exchanged::usable(returned.unwrap_or(Receipt::Confirmed)));
                }
                Frame::Nack { tag, is_multiple } if is_for(line, tag, is_multiple) => {
                    return Ok(Exchanged::usable(words::not_taken(place)));
                }
                Frame::Close { code, text, .. } => {
                    return Ok(Exchanged { receipt: words::closed(code, &text, place), is_usable: false });
                }
                Frame::Blocked { reason } => {
                    let said = ess_core::receipt::words(&reason);
                    let reason = format!("the broker takes no messages for now: {said}");
                    return Err(Failure { stage: Stage::Await, reason });
                }
                _ => {}
            }
        }
    }

    /// Dials, logs in, and opens a channel with confirms.
    async fn connect(&self, progress: &Progress) -> Result<Kept<Session>, Failure> {
        let stream = self.dialer.dial(&self.target, self.tls.as_ref(), progress).await?;
        progress.enter(Stage::Auth);
        let session = Session { frame_bytes_max: FRAME_BYTES_MIN, beat: AMQP_HEARTBEAT / 2, sent: 0 };
        let mut line = Kept::new(stream, BytesMut::new(), session);
        let login = match &self.credential {
            Credential::Password { user: Some(user), password } => Login::Plain(user, password),
            Credential::Mtls { .. } => Login::External,
            _ => Login::Anonymous,
        };
        let Frame::Start { mechanisms } = self.ask(&mut line, frame::PROTOCOL, "the broker's Start").await? else {
            return Err(unexpected("Start"));
        };
        if !mechanisms.split_ascii_whitespace().any(|offered| offered == login.mechanism()) {
            let offered = ess_core::receipt::words(&mechanisms);
            let reason = format!("the broker does not take {} logins; it offers {offered}", login.mechanism());
            return Err(Failure { stage: Stage::Auth, reason });
        }
        let start_ok = Zeroizing::new(frame::start_ok(&login));
        let Frame::Tune { frame_bytes_max, heartbeat_s } = self.ask(&mut line, &start_ok, "the broker's Tune").await?
        else {
            return Err(unexpected("Tune"));
        };
        // Zero is no ceiling, and no heartbeat.
        let frame_bytes_max = if frame_bytes_max == 0 { AMQP_FRAME_BYTES_MAX } else { frame_bytes_max };
        let frame_bytes_max = frame_bytes_max.clamp(FRAME_BYTES_MIN, AMQP_FRAME_BYTES_MAX);
        let wanted_s = u16::try_from(AMQP_HEARTBEAT.as_secs()).unwrap_or(u16::MAX);
        let heartbeat_s = if heartbeat_s == 0 { wanted_s } else { heartbeat_s.min(wanted_s) };
        line.state.frame_bytes_max = frame_bytes_max;
        line.state.beat = Duration::from_secs(u64::from(heartbeat_s)) / 2;
        let open = frame::tune_ok_and_open(frame_bytes_max, heartbeat_s, &self.place.vhost);
        for (written, wanted, name) in [
            (open, Frame::OpenOk, "OpenOk"),
            (frame::channel_open(), Frame::ChannelOpenOk, "channel"),
            (frame::confirm_select(), Frame::SelectOk, "SelectOk"),
        ] {
            if self.ask(&mut line, &written, &format!("the broker's {name}")).await? != wanted {
                return Err(unexpected(name));
            }
        }
        Ok(line)
    }

    /// Writes a step of the log-in and reads its answer.
    async fn ask(&self, line: &mut Kept<Session>, bytes: &[u8], awaited: &str) -> Result<Frame, Failure> {
        line.write(bytes, Stage::Auth).await?;
        loop {
            match answer(line, Stage::Auth, awaited).await? {
                Frame::Close { code, text, .. } => {
                    let reason = words::login_words(code, &text, &self.place.vhost);
                    return Err(Failure { stage: Stage::Auth, reason });
                }
                Frame::Secure => {
                    let reason = "the broker asks for more than a name and a password".to_owned();
                    return Err(Failure { stage: Stage::Auth, reason });
                }
                // It may say that it is blocked before it is asked for anything.
                Frame::Other | Frame::Blocked { .. } => {}
                frame => return Ok(frame),
            }
        }
    }
}

/// What an exchange came to.
struct Exchanged {
    receipt: Receipt,
    /// The connection can take another message.
    is_usable: bool,
}

impl Exchanged {
    fn usable(receipt: Receipt) -> Exchanged {
        Exchanged { receipt, is_usable: true }
    }
}

fn unexpected(awaited: &str) -> Failure {
    let reason = format!("the broker answered with something else than its {awaited}");
    Failure { stage: Stage::Auth, reason }
}

fn is_for(line: &Kept<Session>, tag: u64, is_multiple: bool) -> bool {
    // A multiple of zero is for all that is under way.
    tag == line.state.sent || (is_multiple && (tag == 0 || tag > line.state.sent))
}

/// The next frame; while none comes the broker is given signs of life, or it would take the hub for dead.
async fn answer(line: &mut Kept<Session>, stage: Stage, awaited: &str) -> Result<Frame, Failure> {
    loop {
        let next = frame::next(&mut line.ahead);
        if let Some(frame) = next.map_err(|Malformed(what)| Failure { stage, reason: what.to_owned() })? {
            return Ok(frame);
        }
        let beat = line.state.beat;
        // Reading loses nothing when it is given up.
        match timeout(beat, line.read(stage, awaited)).await {
            Ok(read) => read?,
            Err(_) => line.write(frame::HEARTBEAT, stage).await?,
        }
    }
}
