//! Every ceiling of the channels in one place. Nothing that a partner sends may pass one of them.

use std::time::Duration;

/// Bytes of an answer's body that are read and kept; the rest is never read.
pub(crate) const ANSWER_BODY_BYTES_MAX: usize = 64 * 1024;

/// Bytes read before an answer's head is complete, interim (1xx) answers included.
pub(crate) const ANSWER_HEAD_BYTES_MAX: usize = 32 * 1024;

/// Bytes read for one answer in all; chunk framing and trailers count.
pub(crate) const ANSWER_BYTES_MAX: usize = 512 * 1024;

/// Header fields of one answer.
pub(crate) const ANSWER_FIELDS_MAX: usize = 64;

/// Room for the first read of an exchange: most answers fit. glibc keeps blocks of up to 1,032 bytes at hand.
pub(crate) const READ_BYTES_FIRST: usize = 1024;

/// Room for each further read.
pub(crate) const READ_BYTES: usize = 16 * 1024;

/// An idle connection older than this is closed.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(60);

/// Addresses of one name that are tried.
pub(crate) const ADDRESSES_MAX: usize = 8;

/// Name lookups under way for one address. One that is given up goes on in its thread until the system's resolver ends
/// it, so without a ceiling a partner with a dead name server would take all of the threads that look names up.
pub(crate) const LOOKUPS_MAX: usize = 4;

/// Bytes of a proxy's answer.
pub(crate) const PROXY_HEAD_BYTES_MAX: usize = 8 * 1024;

/// Length of a failure's reason in characters.
pub(crate) const REASON_CHARS_MAX: usize = 300;

/// Length of an address (URL) in bytes.
pub(crate) const URL_BYTES_MAX: usize = 2048;

/// TLS sessions remembered per channel.
pub(crate) const TLS_SESSIONS: usize = 8;

/// A token is renewed this long before it expires.
pub(crate) const TOKEN_SKEW: Duration = Duration::from_secs(30);

/// A token without `expires_in` is used for this long.
pub(crate) const TOKEN_LIFETIME_DEFAULT: Duration = Duration::from_secs(300);

/// No token is used for longer than this.
pub(crate) const TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// Length of a token.
pub(crate) const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// `Retry-After` beyond this is cut down to it.
pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Length of one line of a mail server's reply (RFC 5321: 512).
pub(crate) const SMTP_LINE_BYTES_MAX: usize = 2 * 1024;

/// Lines of one reply of a mail server.
pub(crate) const SMTP_LINES_MAX: usize = 100;

/// Threads that one partner's directory may hold. One that hangs, as on a share whose server is gone, goes on until the
/// system ends it.
pub(crate) const FILE_THREADS_MAX: usize = 4;

/// Threads that all partners beneath one directory of `--allow-dir` may hold together: many partners may lie on one share.
/// The runtime has 512 for all blocking work.
pub(crate) const ALLOWED_DIR_THREADS_MAX: usize = 32;

/// Files of a partner's directory that are judged in one step of its cleaning up.
pub(crate) const LEFT_MAX: usize = 256;

/// Half-written drops of earlier attempts that are looked for and removed.
pub(crate) const PARTS_MAX: u32 = 64;

/// Bytes of a packet that an MQTT broker sends; a longer message is read past.
pub(crate) const MQTT_PACKET_BYTES_MAX: usize = 128 * 1024;

/// Messages under way on one MQTT connection.
pub(crate) const MQTT_IN_FLIGHT_MAX: u16 = 1_000;

/// Receipts on an MQTT connection that wait for somebody who listens; they are not acknowledged to the broker meanwhile.
pub(crate) const MQTT_WORDS_MAX: usize = 64;

/// Time without a packet after which an MQTT connection is asked for a sign of life.
pub(crate) const MQTT_KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Time that a broker may take for a ping's answer, for taking bytes, or for the log-in of a listener.
pub(crate) const MQTT_PATIENCE: Duration = Duration::from_secs(20);

/// Bytes of an AMQP frame, in both directions.
pub(crate) const AMQP_FRAME_BYTES_MAX: u32 = 128 * 1024;

/// Time without a frame after which an AMQP connection counts as dead on either side, at half of which the other is given a
/// sign of life. An idle connection is closed before the broker misses one: it waits for two.
pub(crate) const AMQP_HEARTBEAT: Duration = IDLE_MAX;

/// Topics of a Kafka cluster whose whereabouts are remembered.
#[cfg(feature = "kafka")]
pub(crate) const KAFKA_TOPICS_MAX: usize = 1_000;

/// Brokers of a Kafka cluster that are dialled.
#[cfg(feature = "kafka")]
pub(crate) const KAFKA_BROKERS_MAX: usize = 1_000;

/// Brokers that are asked in one attempt where a topic is.
#[cfg(feature = "kafka")]
pub(crate) const KAFKA_ASKED_MAX: usize = 4;

/// A topic's whereabouts are asked for again after this time, so that new partitions are found.
#[cfg(feature = "kafka")]
pub(crate) const KAFKA_WHEREABOUTS_AGE: Duration = Duration::from_secs(5 * 60);

/// Messages to a Kafka cluster of which it is not known whether they arrived; beyond it the oldest is forgotten, and would
/// arrive once more if it did.
#[cfg(feature = "kafka")]
pub(crate) const KAFKA_DOUBTS_MAX: usize = 1_024;

/// Time that the replicas of a partition may take for a message.
#[cfg(feature = "kafka")]
pub(crate) const KAFKA_PATIENCE: Duration = Duration::from_secs(30);
