//! Takes turns between a channel and its plain client, and tells the medians.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ess_channels::Channel;
use ess_core::message::Message;

use crate::sshd::Sshd;
use crate::{message, plain, send};

/// Turns of each.
const ROUNDS: usize = 11;

/// The plain client of a protocol.
pub(crate) enum Plain<'a> {
    /// `mosquitto_pub -l`.
    MosquittoPub(SocketAddr),
    /// A loop over sockets in this process.
    MllpLoop(SocketAddr),
    /// `plain.py` with this word and address.
    Python(&'static str, String),
    /// `cp`, into a directory of its own within this one.
    Cp(PathBuf),
    /// `sftp -b`.
    Sftp(&'a Sshd),
}

impl Plain<'_> {
    fn name(&self) -> &'static str {
        match self {
            Plain::MosquittoPub(_) => "mosquitto_pub -l",
            Plain::MllpLoop(_) => "a bare loop",
            Plain::Python("amqp", _) => "pika",
            Plain::Python("nats", _) => "nats-py",
            Plain::Python("kafka", _) => "librdkafka",
            Plain::Python("mllp", _) => "hl7's MLLPClient",
            Plain::Python("smtp", _) => "smtplib",
            Plain::Python("s3", _) => "boto3",
            Plain::Python(..) => "Python's write, fsync, rename, fsync",
            Plain::Cp(_) => "cp",
            Plain::Sftp(_) => "sftp -b",
        }
    }

    async fn run(&self, numbers: Range<usize>, made: &Arc<Vec<Message>>, at_once: usize) -> Duration {
        match self {
            Plain::MosquittoPub(broker) => plain::mosquitto_pub(*broker, numbers.len()),
            Plain::MllpLoop(receiver) => plain::mllp(*receiver, made, at_once).await,
            Plain::Python(word, address) => plain::python(word, address, numbers, at_once),
            Plain::Cp(dir) => plain::cp(dir, numbers),
            Plain::Sftp(sshd) => plain::sftp(sshd, numbers, at_once),
        }
    }
}

/// So many messages by each, in turns, so that a busy moment of the machine is shared; then the medians.
pub(crate) async fn compare(name: &str, channel: Channel, messages: usize, at_once: usize, plain: Plain<'_>) {
    let channel = Arc::new(channel);
    let (mut plains, mut channels, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let numbers = round * messages..(round + 1) * messages;
        let made = Arc::new(numbers.clone().map(message).collect::<Vec<_>>());
        let plain_took = plain.run(numbers, &made, at_once).await;
        let began = Instant::now();
        send(&channel, &made, at_once).await;
        let took = began.elapsed();
        plains.push(messages as f64 / plain_took.as_secs_f64());
        channels.push(messages as f64 / took.as_secs_f64());
        ratios.push(plain_took.as_secs_f64() / took.as_secs_f64());
    }
    tell(&format!("{name}, {at_once} at once: {}", plain.name()), median(plains), "/s");
    tell(&format!("{name}, {at_once} at once: the channel"), median(channels), "/s");
    tell(&format!("{name}: the channel by {}", plain.name()), median(ratios), "x");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints a row.
pub(crate) fn tell(name: &str, value: f64, unit: &str) {
    println!("{name}\t{value:.3}\t{unit}");
}
