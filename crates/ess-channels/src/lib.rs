//! How messages travel: the guarded dialer and one file per channel.
//!
//! A channel sends bytes and reports what came back. It decides nothing about what a receipt means, keeps no queue,
//! starts no task but the one that drives an MQTT connection and ends with it, and opens no socket but through [`Dialer`]
//! and no file but where the operator allowed it.

mod amqp;
mod channel;
mod credential;
mod dialer;
mod dir_sync;
mod email;
mod file;
mod guard;
mod http1;
#[cfg(feature = "kafka")]
mod kafka;
mod kept;
mod left;
mod limits;
mod mail;
mod mllp;
mod mqtt;
mod nats;
mod oauth;
mod pool;
mod probe;
mod progress;
mod proxy;
mod pull;
mod s3;
mod sftp;
mod smtp;
mod stream;
mod target;
mod watch;
mod webhook;
mod wire;

pub use amqp::Amqp;
pub use channel::{Channel, ChannelError};
pub use credential::Credential;
pub use dialer::{Dialer, DialerOptions};
pub use email::Email;
pub use file::FileDrop;
#[cfg(feature = "kafka")]
pub use kafka::Kafka;
pub use left::{Left, Search};
pub use mail::{Attachment, Mail};
pub use mllp::Mllp;
pub use mqtt::Mqtt;
pub use nats::Nats;
pub use probe::Reach;
pub use proxy::ProxyOptions;
pub use pull::{Pull, Slot};
pub use s3::S3Drop;
pub use sftp::SftpDrop;
pub use smtp::{MailError, Mailer, MailerOptions};
pub use watch::{Awaited, Heard, Watch};
pub use webhook::Webhook;
