//! One MQTT connection after its log-in: who drives it, and what it owes to those that sent.
//!
//! ```text
//! send ─▶ orders ─▶ drive ─▶ broker      PUBACK by packet id ─▶ the sender that waits
//!                     └──────▶ words of the receipt topic ─▶ whoever listens, then the PUBACK of ours
//! ```
//!
//! The driving task belongs to its `Line` and ends with it. When the connection ends, every sender that waits is told at
//! once; nothing is sent a second time here, that is for the lane to decide.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ess_core::id::EventId;
use ess_core::partner::MqttProtocol;
use ess_core::receipt::{AckWord, Evidence, Failure, Said, Stage, read_receipt};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::packet::{Decoder, Encoded, Incoming, PING, Terms, Word, puback};
use super::words::{disconnect_words, named};
use crate::limits::{MQTT_IN_FLIGHT_MAX, MQTT_KEEP_ALIVE, MQTT_PATIENCE, MQTT_WORDS_MAX};
use crate::stream::Stream;
use crate::watch::Heard;
use crate::wire::io_words;

/// Who listens to the receipts, if anybody.
pub(super) type Ear = Option<mpsc::Sender<Heard>>;

/// A connection that is logged in.
pub(super) struct Session {
    pub stream: Stream,
    pub protocol: MqttProtocol,
    pub decoder: Decoder,
    pub terms: Terms,
    /// Receipts that came during the log-in.
    pub words: Vec<Word>,
}

/// What the broker said of a message.
#[derive(Debug)]
pub(super) struct Puback {
    pub code: u8,
    pub reason: Option<String>,
}

/// A message for the broker, and who waits for its PUBACK.
pub(super) struct Order {
    pub message: Encoded,
    pub reply: oneshot::Sender<Result<Puback, Failure>>,
}

/// The use of a connection.
pub(super) struct Line {
    pub terms: Terms,
    orders: mpsc::Sender<Order>,
    /// Since when a sender waits that has given up.
    doubts: mpsc::Sender<Instant>,
    ended: Arc<OnceLock<Failure>>,
    began: Instant,
    /// When the broker last said anything, in milliseconds since the beginning.
    heard_ms: Arc<AtomicU64>,
    /// The driver; it is aborted when this is dropped.
    _driver: JoinSet<()>,
}

impl Line {
    /// Starts to drive the connection.
    pub(super) fn start(session: Session, ear: watch::Receiver<Ear>) -> Line {
        let (orders, ordered) = mpsc::channel(usize::from(MQTT_IN_FLIGHT_MAX));
        let (doubts, doubted) = mpsc::channel(1);
        let ended = Arc::new(OnceLock::new());
        let terms = session.terms.clone();
        let (began, heard_ms) = (Instant::now(), Arc::<AtomicU64>::default());
        let driver = Driver::new(session, ear, began, Arc::clone(&heard_ms));
        let mut drivers = JoinSet::new();
        drivers.spawn(driver.drive(ordered, doubted, Arc::clone(&ended)));
        Line { terms, orders, doubts, ended, began, heard_ms, _driver: drivers }
    }

    pub(super) fn is_open(&self) -> bool {
        !self.orders.is_closed()
    }

    /// Gives a message to the driver; it comes back when the connection has ended.
    pub(super) async fn give(&self, order: Order) -> Result<(), Order> {
        self.orders.send(order).await.map_err(|refused| refused.0)
    }

    /// Says that no answer came for a message that was given at `since`. False when nothing at all has come since: then the
    /// connection is not to be used again.
    pub(super) fn doubt(&self, since: Instant) -> bool {
        // One doubt is enough.
        let _ = self.doubts.try_send(since);
        let heard_at = self.began + Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        heard_at >= since
    }

    /// Waits for the connection's end.
    pub(super) async fn end(&self) -> Failure {
        self.orders.closed().await;
        self.ended.get().cloned().unwrap_or_else(|| failure("connection closed".to_owned()))
    }
}

struct Driver {
    session: Session,
    ear: watch::Receiver<Ear>,
    /// By packet id.
    under_way: HashMap<u16, oneshot::Sender<Result<Puback, Failure>>>,
    last_id: u16,
    in_flight_max: usize,
    sent_at: Instant,
    began: Instant,
    heard_ms: Arc<AtomicU64>,
    /// Since when a ping is unanswered.
    pinged_at: Option<Instant>,
    keep_alive: Duration,
}

/// What wakes the driver.
enum Input {
    Read(std::io::Result<usize>),
    Ordered(usize),
    Doubted(Option<Instant>),
    Listened,
    Late,
}

impl Driver {
    fn new(session: Session, ear: watch::Receiver<Ear>, began: Instant, heard_ms: Arc<AtomicU64>) -> Driver {
        let terms = &session.terms;
        let wanted = terms.keep_alive_s.map_or(MQTT_KEEP_ALIVE, |s| Duration::from_secs(u64::from(s)));
        let keep_alive = if wanted.is_zero() { MQTT_KEEP_ALIVE } else { wanted.min(MQTT_KEEP_ALIVE) };
        let in_flight_max = terms.in_flight_max.unwrap_or(MQTT_IN_FLIGHT_MAX).clamp(1, MQTT_IN_FLIGHT_MAX);
        Driver {
            ear,
            under_way: HashMap::new(),
            last_id: 0,
            in_flight_max: usize::from(in_flight_max),
            sent_at: began,
            began,
            heard_ms,
            pinged_at: None,
            // Before the broker's patience ends, which is one and a half times this.
            keep_alive: keep_alive.mul_f32(0.8),
            session,
        }
    }

    async fn drive(
        mut self,
        mut orders: mpsc::Receiver<Order>,
        mut doubts: mpsc::Receiver<Instant>,
        ended: Arc<OnceLock<Failure>>,
    ) {
        let failure = match self.run(&mut orders, &mut doubts).await {
            Err(failure) => failure,
            Ok(()) => failure("the hub is stopping".to_owned()),
        };
        drop(ended.set(failure.clone()));
        // What is still in the queue was not sent: its senders see that by their dropped replies.
        orders.close();
        for (_, reply) in self.under_way.drain() {
            drop(reply.send(Err(failure.clone())));
        }
    }

    async fn run(
        &mut self,
        orders: &mut mpsc::Receiver<Order>,
        doubts: &mut mpsc::Receiver<Instant>,
    ) -> Result<(), Failure> {
        let mut bytes = [0; 1024];
        let mut batch = Vec::new();
        self.take_packets().await?;
        loop {
            let room = self.in_flight_max - self.under_way.len();
            let due = self.pinged_at.map_or(self.sent_at + self.keep_alive, |since| since + MQTT_PATIENCE);
            let input = tokio::select! {
                read = self.session.stream.read(&mut bytes) => Input::Read(read),
                count = orders.recv_many(&mut batch, room), if room > 0 => Input::Ordered(count),
                since = doubts.recv() => Input::Doubted(since),
                Ok(()) = self.ear.changed() => Input::Listened,
                () = sleep_until(due) => Input::Late,
            };
            match input {
                Input::Read(Ok(0)) => return Err(failure("connection closed by the broker".to_owned())),
                Input::Read(Err(error)) => return Err(failure(io_words(&error))),
                Input::Read(Ok(read)) => {
                    let since = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
                    self.heard_ms.store(since, Ordering::Relaxed);
                    self.session.decoder.put(&bytes[..read]);
                    self.take_packets().await?;
                }
                Input::Ordered(0) | Input::Doubted(None) => return Ok(()),
                Input::Ordered(_) => self.publish(batch.drain(..)).await?,
                Input::Doubted(Some(since)) => self.judge_doubt(since)?,
                Input::Listened => self.tell_words().await?,
                Input::Late if self.pinged_at.is_some() => {
                    return Err(failure("the broker no longer answers".to_owned()));
                }
                Input::Late => {
                    self.pinged_at = Some(Instant::now());
                    self.write(&PING).await?;
                }
            }
        }
    }

    async fn publish(&mut self, orders: impl Iterator<Item = Order>) -> Result<(), Failure> {
        let mut out = Vec::new();
        for Order { message, reply } in orders {
            if reply.is_closed() {
                continue;
            }
            let id = self.free_id();
            out.extend_from_slice(&message.with_id(id));
            self.under_way.insert(id, reply);
        }
        self.write(&out).await
    }

    fn free_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if !self.under_way.contains_key(&self.last_id) {
                return self.last_id;
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let stream = &mut self.session.stream;
        let written = timeout(MQTT_PATIENCE, async {
            stream.write_all(bytes).await?;
            stream.flush().await
        });
        self.sent_at = Instant::now();
        match written.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(failure(io_words(&error))),
            Err(_) => Err(failure("the broker takes no more bytes".to_owned())),
        }
    }

    /// A sender got no answer in its time. The connection is given up when nothing at all has come since, or when too many
    /// such messages hold packet ids.
    fn judge_doubt(&self, since: Instant) -> Result<(), Failure> {
        let given_up = self.under_way.values().filter(|reply| reply.is_closed()).count();
        let heard_at = self.began + Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        if heard_at < since || given_up * 2 > self.in_flight_max {
            return Err(failure("the broker no longer answers".to_owned()));
        }
        Ok(())
    }

    async fn take_packets(&mut self) -> Result<(), Failure> {
        while let Some(packet) =
            self.session.decoder.next(self.session.protocol).map_err(|malformed| failure(malformed.0.to_owned()))?
        {
            match packet {
                Incoming::PubAck { id, code, reason } => {
                    if let Some(reply) = self.under_way.remove(&id) {
                        drop(reply.send(Ok(Puback { code, reason })));
                    }
                }
                Incoming::Publish(word) if self.session.words.len() < MQTT_WORDS_MAX => self.session.words.push(word),
                // The broker keeps it and sends it again on the next connection.
                Incoming::Publish(_) => {}
                Incoming::Pong => self.pinged_at = None,
                Incoming::Disconnect { code, reason } => return Err(failure(disconnect_words(code, reason))),
                Incoming::ConnAck { .. } | Incoming::SubAck { .. } => {
                    return Err(failure("the broker sent a packet that nobody asked for".to_owned()));
                }
            }
        }
        self.tell_words().await
    }

    /// Hands the receipts on; what was handed on is acknowledged to the broker.
    async fn tell_words(&mut self) -> Result<(), Failure> {
        let ear = self.ear.borrow_and_update().clone();
        let Some(ear) = ear else { return Ok(()) };
        let mut acks = Vec::new();
        let mut told = 0;
        for word in &self.session.words {
            if let Some(heard) = read_word(word)
                && ear.send(heard).await.is_err()
            {
                break;
            }
            told += 1;
            acks.extend(word.id.map(puback).into_iter().flatten());
        }
        self.session.words.drain(..told);
        if self.session.words.is_empty() {
            self.session.words = Vec::new();
        }
        if acks.is_empty() { Ok(()) } else { self.write(&acks).await }
    }
}

/// What a message on the receipt topic says; nothing that counts is said in the log.
fn read_word(word: &Word) -> Option<Heard> {
    let ignore = |reason: &str| {
        tracing::warn!(reason, "a message on a receipt topic counts for nothing");
        None
    };
    if word.is_retained {
        return ignore("it was retained, so it may be of an earlier time");
    }
    if word.is_too_long {
        return ignore("it is over 128 KiB");
    }
    let named = word.correlation.as_deref().and_then(named);
    let (event, test, said) = match (AckWord::in_answer(&word.payload), named) {
        (Ok(AckWord::Ack { event, test, .. }), named) => (event.clone(), test || is_test(named, &event), Said::Ack),
        (Ok(AckWord::Nack { event, test, reason, retryable, .. }), named) => {
            let said = if retryable { Said::Retry { reason } } else { Said::Nack { reason } };
            (event.clone(), test || is_test(named, &event), said)
        }
        (Err(_), Some((event, test))) => match read_receipt(&word.payload, &event) {
            Ok(said) => (event, test, said),
            Err(reason) => return ignore(&reason),
        },
        (Err(problem), None) => return ignore(&problem.detail),
    };
    Some(Heard { event, test, said, evidence: Evidence::Topic })
}

fn is_test(named: Option<(EventId, bool)>, event: &EventId) -> bool {
    named.is_some_and(|(named, test)| test && named == *event)
}

fn failure(reason: String) -> Failure {
    Failure { stage: Stage::Await, reason }
}
