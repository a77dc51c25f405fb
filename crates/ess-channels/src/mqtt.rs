//! The mqtt channel: messages of QoS 1 on one kept connection per partner, and receipts that come on a topic.
//!
//! Whoever sends first connects and logs in; from then on a task that belongs to the connection drives it, so that many
//! messages are under way at once and the broker is told that the hub is alive. It is aborted when the channel goes.

mod line;
mod packet;
mod words;

use std::sync::{Arc, Mutex, PoisonError};

use ess_core::id::{Digest, PartnerId};
use ess_core::limits::CLIENT_ID_BYTES_MAX;
use ess_core::message::Message;
use ess_core::partner::{AckBy, Format, MqttProtocol, MqttSettings, Partner, Settings};
use ess_core::receipt::{Failure, Receipt, Stage};
use ess_core::topic::{self, Topic, Values};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use crate::channel::ChannelError;
use crate::credential::Credential;
use crate::dialer::Dialer;
use crate::limits::{MQTT_KEEP_ALIVE, MQTT_PATIENCE, MQTT_WORDS_MAX};
use crate::progress::{Progress, one_line};
use crate::stream::Stream;
use crate::target::{MQTT, Security, Target};
use crate::watch::{Heard, Watch};
use crate::wire::io_words;
use line::{Ear, Line, Order, Session};
use packet::{Connect, Decoder, Encoded, Incoming, Publish, Terms};

/// Times that one message is given to a connection which ends before it was written.
const GIVES_MAX: u32 = 3;

/// Messages for one partner by its broker.
pub struct Mqtt {
    target: Target,
    dialer: Dialer,
    tls: Option<TlsConnector>,
    credential: Credential,
    partner: PartnerId,
    topic: Topic,
    settings: MqttSettings,
    client_id: String,
    /// Where receipts come from, if they come on a topic.
    ack_topic: Option<String>,
    /// The body may have lost the mark of a dry run.
    is_reshaped: bool,
    /// Guards the connection of now; held for a look or a change.
    line: Mutex<Option<Arc<Line>>>,
    /// Held by the one that connects.
    connecting: Semaphore,
    ear: watch::Sender<Ear>,
}

impl std::fmt::Debug for Mqtt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mqtt").field("host", &self.target.host).finish_non_exhaustive()
    }
}

impl Mqtt {
    pub(crate) fn open(
        partner: &Partner,
        url: &str,
        credential: Credential,
        dialer: &Dialer,
    ) -> Result<Mqtt, ChannelError> {
        let target = Target::parse(url, &MQTT)?;
        let tls = match (&credential, target.security) {
            (Credential::Mtls { .. }, Security::Plain) => {
                return Err(ChannelError::Url("a client certificate needs mqtts".to_owned()));
            }
            (Credential::Mtls { cert_pem, key_pem }, _) => Some(dialer.tls_with_certificate(cert_pem, key_pem, &[])?),
            (Credential::None | Credential::Password { .. }, Security::Plain) => None,
            (Credential::None | Credential::Password { .. }, _) => Some(dialer.tls(&[])),
            _ => return Err(ChannelError::Credential("mqtt logs in by user and password, or by mtls".to_owned())),
        };
        let settings = match &partner.settings {
            Settings::Mqtt(settings) => settings.clone(),
            _ => MqttSettings::default(),
        };
        let has_no_user = matches!(&credential, Credential::Password { user: None, .. });
        if has_no_user && settings.protocol == MqttProtocol::V311 {
            return Err(ChannelError::Credential("mqtt 3.1.1 has no password without a user".to_owned()));
        }
        let topic = Topic::of_path(target.path.strip_prefix('/').unwrap_or_default()).map_err(ChannelError::Url)?;
        let place = partner.ack.place.as_ref().filter(|_| partner.ack.by == AckBy::Topic);
        let ack_topic =
            place.map(|place| topic::filter(place, &partner.id)).transpose().map_err(ChannelError::Option)?;
        Ok(Mqtt {
            client_id: client_id(partner, url, &settings),
            target,
            dialer: dialer.clone(),
            tls,
            credential,
            partner: partner.id.clone(),
            topic,
            settings,
            ack_topic,
            is_reshaped: partner.adapter.is_some() || partner.format != Format::Json,
            line: Mutex::new(None),
            connecting: Semaphore::new(1),
            ear: watch::Sender::new(None),
        })
    }

    pub(crate) async fn send(&self, message: &Message, deadline: Instant) -> Receipt {
        let progress = Progress::begin(deadline);
        let mut given_at = None;
        let receipt = timeout_at(deadline, self.attempt(message, &progress, &mut given_at)).await;
        match receipt {
            Ok(Ok(receipt)) => receipt,
            Ok(Err(failure)) => Receipt::Failed(one_line(failure)),
            Err(_) => {
                if let (Some(since), Some(line)) = (given_at, self.current())
                    && !line.doubt(since)
                {
                    self.forget(&line);
                }
                Receipt::Failed(one_line(progress.timed_out()))
            }
        }
    }

    pub(crate) fn watch(&self) -> Watch {
        if self.ack_topic.is_some() { Watch::Listen } else { Watch::None }
    }

    pub(crate) async fn listen(&self, heard: &mpsc::Sender<Heard>) -> Failure {
        self.ear.send_replace(Some(heard.clone()));
        let progress = Progress::begin(Instant::now() + MQTT_PATIENCE);
        let line = timeout_at(progress.deadline(), self.line(&progress)).await;
        one_line(match line.unwrap_or_else(|_| Err(progress.timed_out())) {
            Ok(line) => line.end().await,
            Err(failure) => failure,
        })
    }

    async fn attempt(
        &self,
        message: &Message,
        progress: &Progress,
        given_at: &mut Option<Instant>,
    ) -> Result<Receipt, Failure> {
        let values = Values {
            partner: &self.partner,
            event: &message.event_id,
            subject: &message.subject,
            version: message.version,
        };
        let mut topic = self.topic.fill(&values);
        if message.test && self.is_reshaped && self.settings.protocol == MqttProtocol::V311 {
            // There is no header, and an adapter may have left the mark away.
            topic.insert_str(0, "test/");
        }
        let mut ended = None;
        for _ in 0..GIVES_MAX {
            let line = self.line(progress).await?;
            let encoded = match self.encode(message, &topic, &line.terms) {
                Ok(encoded) => encoded,
                Err(reason) => return Ok(Receipt::Refused { reason }),
            };
            progress.enter(Stage::Send);
            let (reply, answer) = oneshot::channel();
            *given_at = Some(Instant::now());
            if line.give(Order { message: encoded, reply }).await.is_err() {
                continue;
            }
            progress.enter(Stage::Await);
            match answer.await {
                Ok(Ok(puback)) => return Ok(words::receipt(puback, &topic)),
                Ok(Err(failure)) => {
                    return Err(Failure { reason: format!("{} before the PUBACK", failure.reason), ..failure });
                }
                // It was still in the queue when the connection ended, so the broker has not seen it.
                Err(_) => ended = Some(line.end().await),
            }
        }
        let reason = ended.map_or_else(|| "connection closed".to_owned(), |failure| failure.reason);
        Err(Failure { stage: Stage::Connect, reason: format!("{reason} before the message was sent") })
    }

    fn encode(&self, message: &Message, topic: &str, terms: &Terms) -> Result<Encoded, String> {
        let is_answerable = |topic: &&str| !topic.contains(['+', '#']);
        let response_topic = self.ack_topic.as_deref().filter(is_answerable);
        let correlation = self.ack_topic.as_ref().map(|_| words::correlation(&message.event_id, message.test));
        let publish = Publish {
            topic,
            // A dry run never takes the place of what the broker keeps.
            retain: self.settings.retain && !message.test,
            payload: &message.body,
            content_type: &message.content_type,
            response_topic,
            correlation: correlation.as_deref(),
            headers: &message.headers,
        };
        let encoded = packet::publish(self.settings.protocol, &publish).map_err(|malformed| malformed.0.to_owned())?;
        if let Some(ceiling) = terms.packet_bytes_max
            && encoded.bytes.len() as u64 > u64::from(ceiling)
        {
            let length = encoded.bytes.len();
            return Err(format!("the message takes {length} bytes, and the broker takes {ceiling} at most"));
        }
        if publish.retain && terms.has_retain == Some(false) {
            return Err("the broker keeps no messages; leave `retain` away".to_owned());
        }
        Ok(encoded)
    }

    fn current(&self) -> Option<Arc<Line>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).clone().filter(|line| line.is_open())
    }

    fn forget(&self, line: &Arc<Line>) {
        let mut kept = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, line)) {
            *kept = None;
        }
    }

    /// The connection of now; one is made by one at a time when there is none.
    async fn line(&self, progress: &Progress) -> Result<Arc<Line>, Failure> {
        if let Some(line) = self.current() {
            return Ok(line);
        }
        progress.enter(Stage::Connect);
        let gone = || Failure { stage: Stage::Connect, reason: "the hub is stopping".to_owned() };
        let _permit = self.connecting.acquire().await.map_err(|_| gone())?;
        if let Some(line) = self.current() {
            return Ok(line);
        }
        let stream = self.dialer.dial(&self.target, self.tls.as_ref(), progress).await?;
        progress.enter(Stage::Auth);
        let session = self.log_in(stream).await?;
        let line = Arc::new(Line::start(session, self.ear.subscribe()));
        *self.line.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&line));
        Ok(line)
    }

    /// CONNECT, and the subscription to the receipts before anything is published, so that none is missed.
    async fn log_in(&self, stream: Stream) -> Result<Session, Failure> {
        let protocol = self.settings.protocol;
        let refuse = |reason: String| Failure { stage: Stage::Auth, reason };
        let (user, password) = match &self.credential {
            Credential::Password { user, password } => (user.as_deref(), Some(password.as_str())),
            _ => (None, None),
        };
        let connect = Connect {
            client_id: &self.client_id,
            resume: self.ack_topic.is_some(),
            keep_alive_s: u16::try_from(MQTT_KEEP_ALIVE.as_secs()).unwrap_or(u16::MAX),
            user,
            password,
        };
        let connect = packet::connect(protocol, &connect).map_err(|malformed| refuse(malformed.0.to_owned()))?;
        let mut session =
            Session { stream, protocol, decoder: Decoder::default(), terms: Terms::default(), words: Vec::new() };
        match ask(&mut session, &zeroize::Zeroizing::new(connect), "CONNACK").await? {
            Incoming::ConnAck { code: 0, terms } => session.terms = terms,
            Incoming::ConnAck { code, terms } => {
                return Err(refuse(words::connack_words(protocol, code, terms.reason)));
            }
            _ => return Err(refuse("the broker answered with something else than CONNACK".to_owned())),
        }
        if session.terms.qos_max == Some(0) {
            return Err(refuse("the broker does not take QoS 1, without which there is no receipt".to_owned()));
        }
        if let Some(filter) = &self.ack_topic {
            let subscribe = packet::subscribe(protocol, filter).map_err(|malformed| refuse(malformed.0.to_owned()))?;
            match ask(&mut session, &subscribe, "SUBACK").await? {
                Incoming::SubAck { code: 0 | 1, .. } => {}
                Incoming::SubAck { code, reason } => {
                    let said = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
                    let what = format!("the broker does not let the hub listen to {filter} (0x{code:02X}){said}");
                    return Err(refuse(what));
                }
                _ => return Err(refuse("the broker answered with something else than SUBACK".to_owned())),
            }
        }
        Ok(session)
    }
}

/// Writes a packet of the log-in and reads its answer; receipts that come before it are kept.
async fn ask(session: &mut Session, packet: &[u8], expected: &str) -> Result<Incoming, Failure> {
    let refuse = |reason: String| Failure { stage: Stage::Auth, reason };
    let closed = |error: &std::io::Error| refuse(format!("{} before the broker's {expected}", io_words(error)));
    session.stream.write_all(packet).await.map_err(|error| closed(&error))?;
    session.stream.flush().await.map_err(|error| closed(&error))?;
    let mut bytes = [0; 1024];
    loop {
        let next = session.decoder.next(session.protocol).map_err(|malformed| refuse(malformed.0.to_owned()))?;
        match next {
            Some(Incoming::Publish(word)) if session.words.len() < MQTT_WORDS_MAX => session.words.push(word),
            Some(Incoming::Publish(_)) => {}
            Some(Incoming::Disconnect { code, reason }) => return Err(refuse(words::disconnect_words(code, reason))),
            Some(answer) => return Ok(answer),
            None => match session.stream.read(&mut bytes).await {
                Ok(0) => {
                    let hint = if session.protocol == MqttProtocol::V5 && expected == "CONNACK" {
                        "; if it does not speak MQTT 5, set `protocol: 3.1.1`"
                    } else {
                        ""
                    };
                    return Err(refuse(format!("connection closed before the broker's {expected}{hint}")));
                }
                Ok(read) => session.decoder.put(&bytes[..read]),
                Err(error) => return Err(closed(&error)),
            },
        }
    }
}

/// How the hub calls itself: the same on all connections of this partner and address, and by default like no other's.
fn client_id(partner: &Partner, url: &str, settings: &MqttSettings) -> String {
    let is_own_address = partner.url.as_deref() == Some(url);
    let mut id = match &settings.client_id {
        Some(id) if is_own_address => return id.clone(),
        Some(id) => format!("{id}-test"),
        None => {
            let digest = Digest::of(url.as_bytes());
            format!("hms-ess-{}-{}", partner.id, &digest.to_string()[..8])
        }
    };
    id.truncate(CLIENT_ID_BYTES_MAX);
    id
}
