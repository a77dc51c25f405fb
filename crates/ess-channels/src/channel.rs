//! The closed set of channels. Which one a partner has is decided when it is opened, never by what travels.

use ess_core::message::Message;
use ess_core::partner::{ChannelKind, Partner};
use ess_core::receipt::{Failure, Receipt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::amqp::Amqp;
use crate::credential::Credential;
use crate::dialer::Dialer;
use crate::email::Email;
use crate::file::FileDrop;
#[cfg(feature = "kafka")]
use crate::kafka::Kafka;
use crate::left::{Left, Search};
use crate::mllp::Mllp;
use crate::mqtt::Mqtt;
use crate::nats::Nats;
use crate::pull::Pull;
use crate::s3::S3Drop;
use crate::sftp::SftpDrop;
use crate::watch::{Awaited, Heard, Watch};
use crate::webhook::Webhook;

/// Why a channel or the dialer could not be set up. A partner's failure is not one of these, but a receipt.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The address cannot be used.
    #[error("the address cannot be used: {0}")]
    Url(String),
    /// A secret, certificate or key cannot be used.
    #[error("the login cannot be used: {0}")]
    Credential(String),
    /// The trusted certificates cannot be used.
    #[error("the trusted certificates cannot be used: {0}")]
    Roots(String),
    /// An option cannot be used.
    #[error("the option cannot be used: {0}")]
    Option(String),
}

/// A way to one partner, with connections of its own. Shared through an `Arc`.
#[derive(Debug)]
pub enum Channel {
    /// HTTP POST.
    Webhook(Box<Webhook>),
    /// A drop in a directory.
    File(FileDrop),
    /// HL7 v2 over MLLP.
    Mllp(Box<Mllp>),
    /// MQTT.
    Mqtt(Box<Mqtt>),
    /// NATS JetStream.
    Nats(Box<Nats>),
    /// AMQP 0.9.1.
    Amqp(Box<Amqp>),
    /// Kafka.
    #[cfg(feature = "kafka")]
    Kafka(Box<Kafka>),
    /// An object in a store.
    S3(Box<S3Drop>),
    /// A mail to the partner's people.
    Email(Box<Email>),
    /// A drop by SFTP.
    Sftp(Box<SftpDrop>),
    /// The partner fetches its events.
    Pull(Pull),
}

impl Channel {
    /// Sets the partner's channel up for `url`, its own or the one for its dry runs; nothing is dialled yet.
    ///
    /// # Errors
    ///
    /// The address or the login cannot be used.
    pub fn open(
        partner: &Partner,
        url: &str,
        credential: Credential,
        dialer: &Dialer,
    ) -> Result<Channel, ChannelError> {
        match partner.channel {
            ChannelKind::Webhook => {
                let connections_max = partner.limits.in_flight as usize;
                Webhook::open(url, &credential, dialer, connections_max).map(Box::new).map(Channel::Webhook)
            }
            ChannelKind::File => FileDrop::open(partner, url, dialer).map(Channel::File),
            ChannelKind::Mllp => Mllp::open(partner, url, &credential, dialer).map(Box::new).map(Channel::Mllp),
            ChannelKind::Mqtt => Mqtt::open(partner, url, credential, dialer).map(Box::new).map(Channel::Mqtt),
            ChannelKind::Sftp => SftpDrop::open(partner, url, credential, dialer).map(Box::new).map(Channel::Sftp),
            ChannelKind::Email => Email::open(partner, url, credential, dialer).map(Box::new).map(Channel::Email),
            ChannelKind::S3 => S3Drop::open(partner, url, credential, dialer).map(Box::new).map(Channel::S3),
            ChannelKind::Pull => Ok(Channel::Pull(Pull::default())),
            ChannelKind::Nats => Nats::open(partner, url, credential, dialer).map(Box::new).map(Channel::Nats),
            ChannelKind::Amqp => Amqp::open(partner, url, credential, dialer).map(Box::new).map(Channel::Amqp),
            #[cfg(feature = "kafka")]
            ChannelKind::Kafka => Kafka::open(partner, url, credential, dialer).map(Box::new).map(Channel::Kafka),
            // A document of such a channel is refused before it becomes a partner.
            #[cfg(not(feature = "kafka"))]
            ChannelKind::Kafka => Err(ChannelError::Option("kafka is not built into this hub".to_owned())),
        }
    }

    /// Sends the message once and reports what came back, by `deadline` at the latest.
    ///
    /// Dropping the future ends the attempt and closes its connection.
    pub async fn send(&self, message: &Message, deadline: Instant) -> Receipt {
        // What carries most messages lies in its caller's future, the others in a place of their own: an attempt takes the room of
        // the largest that lies in it, and many are under way at once.
        match self {
            Channel::Webhook(webhook) => webhook.send(message, deadline).await,
            Channel::File(file) => Box::pin(file.send(message, deadline)).await,
            Channel::Mllp(mllp) => Box::pin(mllp.send(message, deadline)).await,
            Channel::Mqtt(mqtt) => Box::pin(mqtt.send(message, deadline)).await,
            Channel::Nats(nats) => Box::pin(nats.send(message, deadline)).await,
            Channel::Amqp(amqp) => Box::pin(amqp.send(message, deadline)).await,
            #[cfg(feature = "kafka")]
            Channel::Kafka(kafka) => Box::pin(kafka.send(message, deadline)).await,
            Channel::Sftp(sftp) => Box::pin(sftp.send(message, deadline)).await,
            Channel::Email(email) => Box::pin(email.send(message, deadline)).await,
            Channel::S3(s3) => Box::pin(s3.send(message, deadline)).await,
            Channel::Pull(pull) => Box::pin(pull.send(message, deadline)).await,
        }
    }

    /// How words that come apart from an attempt reach this channel; the caller looks or listens accordingly.
    #[must_use]
    pub fn watch(&self) -> Watch {
        match self {
            Channel::Webhook(_)
            | Channel::Pull(_)
            | Channel::Email(_)
            | Channel::Mllp(_)
            | Channel::Nats(_)
            | Channel::Amqp(_) => Watch::None,
            #[cfg(feature = "kafka")]
            Channel::Kafka(_) => Watch::None,
            Channel::Mqtt(mqtt) => mqtt.watch(),
            Channel::File(file) => file.watch(),
            Channel::S3(s3) => s3.watch(),
            Channel::Sftp(sftp) => sftp.watch(),
        }
    }

    /// Looks once for the receipts of all that is awaited here, for channels of `Watch::Look`. What it found is found
    /// again until `settle` is called for it.
    ///
    /// # Errors
    ///
    /// The place could not be looked at by `deadline`.
    pub async fn look(&self, awaited: &[Awaited], deadline: Instant) -> Result<Vec<Heard>, Failure> {
        match self {
            Channel::Webhook(_)
            | Channel::Email(_)
            | Channel::Pull(_)
            | Channel::Mllp(_)
            | Channel::Mqtt(_)
            | Channel::Nats(_)
            | Channel::Amqp(_) => Ok(Vec::new()),
            #[cfg(feature = "kafka")]
            Channel::Kafka(_) => Ok(Vec::new()),
            Channel::File(file) => file.look(awaited, deadline).await,
            Channel::S3(s3) => s3.look(awaited, deadline).await,
            Channel::Sftp(sftp) => sftp.look(awaited, deadline).await,
        }
    }

    /// Takes the receipt away whose word is durable, so that it does not count for a later replay.
    ///
    /// # Errors
    ///
    /// It could not be removed; it is only found again.
    pub async fn settle(&self, awaited: &Awaited, deadline: Instant) -> Result<(), Failure> {
        match self {
            Channel::Webhook(_)
            | Channel::Email(_)
            | Channel::Pull(_)
            | Channel::Mllp(_)
            | Channel::Mqtt(_)
            | Channel::Nats(_)
            | Channel::Amqp(_) => Ok(()),
            #[cfg(feature = "kafka")]
            Channel::Kafka(_) => Ok(()),
            Channel::File(file) => file.settle(awaited, deadline).await,
            Channel::S3(s3) => s3.settle(awaited, deadline).await,
            Channel::Sftp(sftp) => sftp.settle(awaited, deadline).await,
        }
    }

    /// Files of the hub's naming that lie in the partner's directory, the first ones by name; none where a channel has no
    /// directory.
    ///
    /// # Errors
    ///
    /// The directory could not be listed by `deadline`.
    pub async fn left(&self, search: Search, deadline: Instant) -> Result<Vec<Left>, Failure> {
        match self {
            Channel::File(file) => file.left(search, deadline).await,
            Channel::Sftp(sftp) => sftp.left(search, deadline).await,
            _ => Ok(Vec::new()),
        }
    }

    /// Takes files away that still are as old as the search wants; gives how many are gone.
    ///
    /// # Errors
    ///
    /// One could not be removed by `deadline`.
    pub async fn clean(&self, names: Vec<String>, search: Search, deadline: Instant) -> Result<usize, Failure> {
        match self {
            Channel::File(file) => file.clean(names, search, deadline).await,
            Channel::Sftp(sftp) => sftp.clean(&names, &search, deadline).await,
            _ => Ok(0),
        }
    }

    /// Listens for words and hands each on, for channels of `Watch::Listen`, until the connection ends; the caller
    /// listens again after a while. Words that come meanwhile wait in `heard`.
    pub async fn listen(&self, heard: &mpsc::Sender<Heard>) -> Failure {
        match self {
            Channel::Mqtt(mqtt) => mqtt.listen(heard).await,
            // None of the others has anything to listen to.
            Channel::Webhook(_)
            | Channel::File(_)
            | Channel::Email(_)
            | Channel::S3(_)
            | Channel::Sftp(_)
            | Channel::Pull(_)
            | Channel::Mllp(_)
            | Channel::Nats(_)
            | Channel::Amqp(_) => std::future::pending().await,
            #[cfg(feature = "kafka")]
            Channel::Kafka(_) => std::future::pending().await,
        }
    }

    /// Closes connections that have been idle for a minute. To be called every few seconds.
    pub fn sweep(&self) {
        match self {
            Channel::Webhook(webhook) => webhook.sweep(),
            Channel::S3(s3) => s3.sweep(),
            Channel::Mllp(mllp) => mllp.sweep(),
            Channel::Nats(nats) => nats.sweep(),
            Channel::Amqp(amqp) => amqp.sweep(),
            #[cfg(feature = "kafka")]
            Channel::Kafka(kafka) => kafka.sweep(),
            Channel::Sftp(sftp) => sftp.sweep(),
            // A broker keeps the connection of one that is silent by its own rules.
            Channel::File(_) | Channel::Pull(_) | Channel::Email(_) | Channel::Mqtt(_) => {}
        }
    }

    /// Whether people read what it sends, so that they need something to acknowledge by.
    #[must_use]
    pub fn is_read_by_people(&self) -> bool {
        matches!(self, Channel::Email(_))
    }

    /// The inbox that the partner fetches from, if it has one.
    #[must_use]
    pub fn pull(&self) -> Option<&Pull> {
        match self {
            Channel::Pull(pull) => Some(pull),
            Channel::Webhook(_)
            | Channel::File(_)
            | Channel::Email(_)
            | Channel::S3(_)
            | Channel::Sftp(_)
            | Channel::Mllp(_)
            | Channel::Mqtt(_)
            | Channel::Nats(_)
            | Channel::Amqp(_) => None,
            #[cfg(feature = "kafka")]
            Channel::Kafka(_) => None,
        }
    }
}
