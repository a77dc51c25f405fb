//! The kafka channel: one record for each message, handed to the leader of its partition, and the cluster's confirm.
//!
//! ```text
//! ApiVersions ->  (SaslHandshake, SaslAuthenticate ->)  Metadata ->   at any broker: who leads which partition
//!                                   InitProducerId ->                 once: under which number messages are sent
//! Produce ->   <- appended, by all replicas that are in step; or another leads; or why not     at the leader
//! ```
//!
//! Every broker that the cluster names is dialled under the guard. A connection has one message under way. A message whose
//! confirm was lost is sent again as the same one, so that the broker keeps it once.

mod batch;
mod cluster;
mod login;
mod protocol;
mod senders;
mod words;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::BytesMut;
use ess_core::id::PartnerId;
use ess_core::message::Message;
use ess_core::partner::{KafkaSettings, Partner, Sasl, Settings};
use ess_core::place::KafkaTopic;
use ess_core::receipt::{Failure, Receipt, Stage};
use ess_core::topic::Values;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use crate::channel::ChannelError;
use crate::credential::Credential;
use crate::dialer::Dialer;
use crate::kept::Kept;
use crate::limits::KAFKA_PATIENCE;
use crate::progress::{Progress, one_line};
use crate::target::{KAFKA, Target};
use batch::Stamp;
use cluster::{Broker, Cluster, Partitions};
use protocol::{Answer, Api, Malformed};
use senders::{Place, Sender, Senders};
use words::Outcome;

/// Brokers that one attempt goes to in turn as the cluster sends it on.
const TURNS: usize = 3;

/// Messages for one partner by its cluster.
pub struct Kafka {
    cluster: Cluster,
    dialer: Dialer,
    tls: Option<TlsConnector>,
    credential: Credential,
    sasl: Sasl,
    partner: PartnerId,
    topic: KafkaTopic,
    senders: Senders,
    /// The cluster gives no numbers to senders, or not to this user.
    is_without_numbers: AtomicBool,
}

/// What is remembered of a connection.
struct Line {
    correlation: i32,
    produce_version: i16,
}

impl std::fmt::Debug for Kafka {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kafka").field("partner", &self.partner).finish_non_exhaustive()
    }
}

impl Kafka {
    pub(crate) fn open(
        partner: &Partner,
        url: &str,
        credential: Credential,
        dialer: &Dialer,
    ) -> Result<Kafka, ChannelError> {
        let target = Target::parse(url, &KAFKA)?;
        let tls = dialer.broker_tls(&target, &credential, "kafkas")?;
        if matches!(&credential, Credential::Password { user: None, .. }) {
            return Err(ChannelError::Credential("a password needs a user there".to_owned()));
        }
        let topic = KafkaTopic::of_path(&target.path).map_err(ChannelError::Url)?;
        let sasl = match &partner.settings {
            Settings::Kafka(KafkaSettings { sasl }) => *sasl,
            _ => Sasl::default(),
        };
        Ok(Kafka {
            cluster: Cluster::new(target, partner.limits.in_flight as usize),
            dialer: dialer.clone(),
            tls,
            credential,
            sasl,
            partner: partner.id.clone(),
            topic,
            senders: Senders::default(),
            is_without_numbers: AtomicBool::new(false),
        })
    }

    pub(crate) async fn send(&self, message: &Message, deadline: Instant) -> Receipt {
        let progress = Progress::begin(deadline);
        let receipt = timeout_at(deadline, self.attempt(message, &progress)).await;
        match receipt.unwrap_or_else(|_| Err(progress.timed_out())) {
            Err(failure) => Receipt::Failed(one_line(failure)),
            Ok(receipt) => receipt,
        }
    }

    pub(crate) fn sweep(&self) {
        self.cluster.sweep();
    }

    /// Goes to the leader of the message's partition, and to the next one where the cluster sends it on.
    async fn attempt(&self, message: &Message, progress: &Progress) -> Result<Receipt, Failure> {
        let values = Values {
            partner: &self.partner,
            event: &message.event_id,
            subject: &message.subject,
            version: message.version,
        };
        let topic = match self.topic.fill(&values) {
            Ok(topic) => topic,
            Err(reason) => return Ok(Receipt::Refused { reason }),
        };
        let mut last: Option<(Arc<Broker>, Failure)> = None;
        let reason = format!("the cluster sends messages for topic {topic} from one broker to another");
        let mut failed = Failure { stage: Stage::Await, reason };
        for _ in 0..TURNS {
            let partitions = match self.cluster.partitions(&topic) {
                Some(partitions) => partitions,
                None => match self.find(&topic, progress).await? {
                    Found::Partitions(partitions) => partitions,
                    Found::Refused(reason) => return Ok(Receipt::Refused { reason }),
                },
            };
            let place = self.senders.place(&message.id).filter(|place| place.topic == topic);
            let place = place.unwrap_or_else(|| {
                let partition = batch::partition_of(message.subject.as_str().as_bytes(), partitions.count());
                Place { topic: topic.clone(), partition: i32::try_from(partition).unwrap_or_default() }
            });
            let Some(broker) = self.cluster.leader(&partitions, place.partition) else {
                self.cluster.forget(&topic);
                let reason = format!("partition {} of topic {topic} has no leader for now", place.partition);
                return Err(Failure { stage: Stage::Await, reason });
            };
            // Sent on to where it came from: the cluster has not made up its mind yet.
            if let Some((_, failure)) = last.take_if(|(before, _)| Arc::ptr_eq(before, &broker)) {
                self.cluster.forget(&topic);
                return Err(failure);
            }
            let outcome = match self.produce(&broker, message, &place, progress).await {
                Ok(outcome) => outcome,
                Err(failure) => {
                    self.cluster.forget(&topic);
                    last = Some((broker, failure));
                    continue;
                }
            };
            match outcome {
                Outcome::Appended => {
                    self.senders.arrived(&message.id);
                    return Ok(Receipt::Confirmed);
                }
                Outcome::Refused(reason) => {
                    self.senders.give_up(&message.id);
                    return Ok(Receipt::Refused { reason });
                }
                Outcome::Later(reason) => return Err(Failure { stage: Stage::Await, reason }),
                Outcome::Moved(reason) => {
                    self.cluster.forget(&topic);
                    last = Some((broker, Failure { stage: Stage::Await, reason }));
                }
                Outcome::Forgotten(reason) => {
                    self.senders.give_up(&message.id);
                    failed = Failure { stage: Stage::Await, reason };
                }
            }
        }
        Err(last.map_or(failed, |(_, failure)| failure))
    }

    /// Asks a few brokers, until one answers, where the topic is.
    async fn find(&self, topic: &str, progress: &Progress) -> Result<Found, Failure> {
        let brokers = self.cluster.to_ask();
        let mut failed = Failure { stage: Stage::Connect, reason: String::new() };
        for (position, broker) in brokers.iter().enumerate() {
            // Each but the last gets half of the time that is left.
            let now = Instant::now();
            let left = progress.deadline().saturating_duration_since(now);
            let until = if position + 1 == brokers.len() { progress.deadline() } else { now + left / 2 };
            match timeout_at(until, self.ask_for(broker, topic, progress)).await {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(failure)) => failed = failure,
                Err(_) => failed = progress.timed_out(),
            }
            self.cluster.ask_another();
        }
        Err(failed)
    }

    async fn ask_for(&self, broker: &Broker, topic: &str, progress: &Progress) -> Result<Found, Failure> {
        let body = protocol::metadata(topic);
        let (bytes, correlation, _) = self.exchange(broker, |_| protocol::METADATA, &body, 0, progress).await?;
        let malformed = |Malformed(what)| Failure { stage: Stage::Await, reason: what.to_owned() };
        let metadata = Answer::to(correlation, &bytes).and_then(|answer| answer.metadata(topic)).map_err(malformed)?;
        if metadata.error == 17 {
            return Ok(Found::Refused(words::name(metadata.error, topic)));
        }
        if metadata.error != 0 {
            return Err(Failure { stage: Stage::Await, reason: words::name(metadata.error, topic) });
        }
        let learnt = self.cluster.learn(topic, &metadata);
        let partitions = learnt.map_err(|error| {
            let reason = format!("the cluster names a broker that cannot be dialled: {error}");
            Failure { stage: Stage::Await, reason }
        })?;
        Ok(Found::Partitions(partitions))
    }

    /// Hands the message to a broker that is said to lead its partition.
    async fn produce(
        &self,
        broker: &Broker,
        message: &Message,
        place: &Place,
        progress: &Progress,
    ) -> Result<Outcome, Failure> {
        let stamp = self.stamp(broker, message, place, progress).await?;
        let left = progress.deadline().saturating_duration_since(Instant::now()).min(KAFKA_PATIENCE);
        let timeout_ms = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
        let about_bytes = message.body.len() + 1024;
        let body = protocol::produce(&place.topic, place.partition, timeout_ms, about_bytes, |out| {
            batch::put_batch(out, message, stamp, jiff::Timestamp::now().as_millisecond());
        });
        let api = |version| Api { key: protocol::PRODUCE, version };
        let (bytes, correlation, version) = self.exchange(broker, api, &body, message.body.len(), progress).await?;
        let produced = Answer::to(correlation, &bytes).and_then(|answer| answer.produced(version));
        let malformed = |Malformed(what)| Failure { stage: Stage::Await, reason: what.to_owned() };
        Ok(words::outcome(&produced.map_err(malformed)?, &place.topic))
    }

    /// The number under which the message is sent, the same as at its last attempt if that may have arrived.
    async fn stamp(
        &self,
        broker: &Broker,
        message: &Message,
        place: &Place,
        progress: &Progress,
    ) -> Result<Stamp, Failure> {
        if let Some(stamp) = self.senders.begin(&message.id, place) {
            return Ok(stamp);
        }
        if self.is_without_numbers.load(Ordering::Relaxed) {
            return Ok(Stamp::NONE);
        }
        let body = protocol::init_producer_id();
        let (bytes, correlation, _) = self.exchange(broker, |_| protocol::INIT_PRODUCER_ID, &body, 0, progress).await?;
        let malformed = |Malformed(what)| Failure { stage: Stage::Await, reason: what.to_owned() };
        let given = Answer::to(correlation, &bytes).and_then(Answer::producer_id).map_err(malformed)?;
        let (error, producer, epoch) = given;
        match error {
            0 => {
                self.senders.add(Sender::new(producer, epoch));
                // Another attempt may have taken it meanwhile; this one then goes without.
                Ok(self.senders.begin(&message.id, place).unwrap_or(Stamp::NONE))
            }
            // Older brokers want a right for it that writing to the topic does not bring.
            29 | 31 | 35 => {
                self.is_without_numbers.store(true, Ordering::Relaxed);
                Ok(Stamp::NONE)
            }
            error => {
                let reason = format!("the broker gives no number to send under (error {error})");
                Err(Failure { stage: Stage::Await, reason })
            }
        }
    }

    /// One request and its answer: on a kept connection if there is one, once more on a fresh one if that was stale. The
    /// version that the connection produces in goes to `api`, and comes back.
    async fn exchange(
        &self,
        broker: &Broker,
        api: impl Fn(i16) -> Api,
        body: &[u8],
        echoed: usize,
        progress: &Progress,
    ) -> Result<(BytesMut, i32, i16), Failure> {
        if let Some(mut line) = broker.pool.take() {
            line.begin(echoed);
            match one(&mut line, &api, body, progress).await {
                Err(_) if line.is_silent() => {}
                answer => return keep(broker, line, answer?),
            }
        }
        let mut line = self.connect(broker, progress).await?;
        line.begin(echoed);
        let answer = one(&mut line, &api, body, progress).await?;
        keep(broker, line, answer)
    }
}

/// Where a topic is, or that it never will be.
enum Found {
    Partitions(Partitions),
    Refused(String),
}

fn keep(broker: &Broker, line: Kept<Line>, answer: BytesMut) -> Result<(BytesMut, i32, i16), Failure> {
    let (correlation, version) = (line.state.correlation, line.state.produce_version);
    broker.pool.keep(line);
    Ok((answer, correlation, version))
}

async fn one(
    line: &mut Kept<Line>,
    api: &impl Fn(i16) -> Api,
    body: &[u8],
    progress: &Progress,
) -> Result<BytesMut, Failure> {
    progress.enter(Stage::Send);
    exchange_on(line, api(line.state.produce_version), body, Stage::Await, progress).await
}

/// Writes a request and reads its answer.
async fn exchange_on(
    line: &mut Kept<Line>,
    api: Api,
    body: &[u8],
    stage: Stage,
    progress: &Progress,
) -> Result<BytesMut, Failure> {
    line.state.correlation = line.state.correlation.wrapping_add(1);
    let request = protocol::request(api, line.state.correlation, body);
    let is_message = stage == Stage::Await;
    line.write(&request, if is_message { Stage::Send } else { stage }).await?;
    progress.enter(stage);
    loop {
        let next = protocol::next(&mut line.ahead);
        if let Some(answer) = next.map_err(|Malformed(what)| Failure { stage, reason: what.to_owned() })? {
            return Ok(answer);
        }
        line.read(stage, "the broker's answer").await?;
    }
}
