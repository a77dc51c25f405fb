//! An outside system: where it is, what it wants, in which version and shape, and with which patience.

mod ack;
mod auth;
mod channel;
mod document;
mod email;
mod keys;
mod part;
mod s3;
mod settings;
mod words;

pub(crate) use auth::{read_auth, write_auth};
pub use channel::ChannelKind;
pub use document::{Secrets, differences};
pub(crate) use email::is_mail_address;
pub use email::{EmailSettings, MailAddress};
pub use keys::{KEYS, Key, meaning};
pub(crate) use part::{Part, expected, invalid};
pub use s3::S3Settings;
pub use settings::{KafkaSettings, MllpSettings, MqttProtocol, MqttSettings, Sasl, Settings, SftpSettings, Write};

use std::net::IpAddr;
use std::time::Duration;

use crate::id::{PartnerId, Version};

/// A partner's configuration, checked; a file of four lines is a complete one.
#[derive(Debug, Clone, PartialEq)]
pub struct Partner {
    /// Its name.
    pub id: PartnerId,
    /// How events travel.
    pub channel: ChannelKind,
    /// Where to, as given. Absent for `pull` only.
    pub url: Option<String>,
    /// What only its channel has.
    pub settings: Settings,
    /// Globs over subjects; any one suffices.
    pub subscribe: Vec<Glob>,
    /// JSONata predicate over the payload.
    pub filter: Option<String>,
    /// Pinned schema versions: first matching glob wins; empty means as published.
    pub accepts_version: Vec<(Glob, Version)>,
    /// JSONata text that reshapes the bridged event.
    pub adapter: Option<String>,
    /// How the body is written.
    pub format: Format,
    /// What counts as the receipt.
    pub ack: AckPolicy,
    /// When to try again and when to give up.
    pub retry: RetryPolicy,
    /// Which deliveries may run side by side.
    pub order: Order,
    /// Ceilings that protect the partner.
    pub limits: Limits,
    /// One attempt, from name resolution to the answer's last byte.
    pub timeout: Duration,
    /// Fixed request headers.
    pub headers: Vec<(String, String)>,
    /// How the hub logs in.
    pub auth: Option<Auth>,
    /// Whom to tell, and after which time.
    pub escalate: Option<Escalate>,
    /// IANA time zone, bound as `$partner.zone`.
    pub zone: Option<String>,
    /// Another way to reach it.
    pub fallback: Option<Fallback>,
    /// What it wants of dry runs.
    pub tests: Tests,
    /// After which time without a message it is told that the hub is there, and how far its counter is.
    pub heartbeat: Option<Duration>,
    /// How old a drop becomes before the hub takes it away; none stay for ever.
    pub clean_after: Option<Duration>,
}

/// A pattern over subjects: `*` is any run of characters, all else is itself. At most 256 characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Glob(String);

impl Glob {
    /// A pattern that was checked before.
    #[must_use]
    pub fn trusted(pattern: &str) -> Self {
        Self(pattern.to_owned())
    }

    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Which of two patterns that fit is taken: the greater one. Literal characters count, and no `*` at all counts more.
    #[must_use]
    pub fn specificity(&self) -> usize {
        let literal = self.0.chars().filter(|character| *character != '*').count();
        // An exact subject is more specific than a glob with as many literal characters.
        literal * 2 + usize::from(!self.0.contains('*'))
    }

    /// Whether the whole text fits; linear in the text for each `*`, never exponential.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        let (mut at_pattern, mut at_text) = (0, 0);
        // Where the last `*` stood and how much of the text it swallows; on a mismatch it swallows one byte more.
        let mut star: Option<(usize, usize)> = None;
        while at_text < text.len() {
            if pattern.get(at_pattern) == Some(&b'*') {
                star = Some((at_pattern, at_text));
                at_pattern += 1;
            } else if pattern.get(at_pattern) == Some(&text[at_text]) {
                at_pattern += 1;
                at_text += 1;
            } else if let Some((star_at, swallowed)) = star {
                at_pattern = star_at + 1;
                at_text = swallowed + 1;
                star = Some((star_at, swallowed + 1));
            } else {
                return false;
            }
        }
        pattern[at_pattern..].iter().all(|byte| *byte == b'*')
    }
}

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Format {
    /// `application/json`.
    #[default]
    Json,
    /// `application/xml`.
    Xml,
    /// `text/csv`, RFC 4180.
    Csv,
    /// HL7 v2, ER7.
    Hl7,
    /// `application/x-www-form-urlencoded`.
    Form,
    /// `text/plain`.
    Text,
    /// `application/cloudevents+json`: CloudEvents 1.0, structured mode.
    CloudEvents,
    /// CloudEvents 1.0, binary mode: the attributes as `ce-` header fields.
    CloudEventsBinary,
}

/// What counts as the receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AckPolicy {
    /// Where the ACK comes from.
    pub by: AckBy,
    /// How long a receipt may take.
    pub within: Duration,
    /// How often a delivered but unacknowledged message is sent again.
    pub resend: u32,
    /// Where the receipt is looked for: the file's pattern for `by: file`, the topic for `by: topic`.
    pub place: Option<String>,
}

impl AckPolicy {
    /// Where a receipt that is outstanding will come from.
    #[must_use]
    pub fn awaited(&self) -> String {
        let place = self.place.as_deref().unwrap_or_default();
        match self.by {
            AckBy::File => format!("the ACK comes as the file {place}"),
            AckBy::Topic => format!("the ACK comes on the topic {place}"),
            AckBy::Body | AckBy::Status | AckBy::Callback => "the ACK comes by callback".to_owned(),
        }
    }

    /// With the partner's name where the place of its receipts has it.
    #[must_use]
    pub fn of_partner(&self, partner: &PartnerId) -> AckPolicy {
        let place = self.place.as_deref().filter(|_| self.by == AckBy::Topic);
        let filled = place.and_then(|place| crate::topic::filter(place, partner).ok());
        AckPolicy { place: filled.or_else(|| self.place.clone()), ..self.clone() }
    }

    /// Whether the ACK comes apart from the attempt, so that it can overtake the attempt's end.
    #[must_use]
    pub fn comes_apart(&self) -> bool {
        matches!(self.by, AckBy::Callback | AckBy::File | AckBy::Topic)
    }
}

/// Where the ACK comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AckBy {
    /// `{"ack": id}` in the 2xx answer.
    Body,
    /// Any 2xx.
    Status,
    /// A later `POST /v1/acks`.
    Callback,
    /// A receipt file.
    File,
    /// A message on a topic.
    Topic,
}

/// When to try again and when to give up.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Wait after the first failure.
    pub first: Duration,
    /// Growth per failure, 1.0 to 100.0.
    pub factor: f64,
    /// Longest wait.
    pub max: Duration,
    /// Random part of a wait, 0.0 to 1.0: the wait is multiplied by 1 ± jitter.
    pub jitter: f64,
    /// From the first unbroken failure to the dead letter.
    pub give_up_after: Duration,
    /// What happens to dead letters when the partner recovers.
    pub redrive: Redrive,
}

/// What happens to dead letters when the partner recovers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Redrive {
    /// They are tried again, in order.
    OnRecovery,
    /// Only an operator redrives them.
    Manual,
}

/// Which deliveries of a partner may run side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    /// A newer event of a subject waits for the older one's end.
    Subject,
    /// Only the newest undelivered event of a subject goes out.
    Latest,
    /// No order.
    None,
}

/// Ceilings that protect the partner.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Attempts under way at once, 1 to 1,000.
    pub in_flight: u32,
    /// Attempts a second; 0.0 is without limit.
    pub per_second: f64,
}

/// How the hub logs in at the partner. Secrets stand as `env:NAME`, `file:PATH` or as text that is sealed in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// `Authorization: Bearer`.
    Bearer(SecretRef),
    /// `Authorization: Basic`.
    Basic {
        /// User name.
        user: String,
        /// Password.
        password: SecretRef,
    },
    /// OAuth 2.0 client credentials (RFC 6749 section 4.4).
    OAuth2 {
        /// Where tokens are had.
        token_url: String,
        /// Client id.
        client_id: String,
        /// Client secret.
        client_secret: SecretRef,
        /// Scope, if any.
        scope: Option<String>,
    },
    /// A user's name and password, for what is not HTTP.
    Password {
        /// User name; absent when it stands in the address.
        user: Option<String>,
        /// Password.
        password: SecretRef,
    },
    /// A private key (SSH).
    Key {
        /// User name; absent when it stands in the address.
        user: Option<String>,
        /// The key, PEM or OpenSSH form.
        key: SecretRef,
        /// What the key is locked with.
        passphrase: Option<SecretRef>,
    },
    /// TLS client certificate.
    Mtls {
        /// Certificate chain, PEM.
        cert: SecretRef,
        /// Private key, PEM.
        key: SecretRef,
    },
}

/// Where a secret is found.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretRef {
    /// Environment variable of the hub.
    Env(String),
    /// File on the hub's machine.
    File(String),
    /// The secret itself; sealed in the store and never shown again.
    Inline(String),
}

impl std::fmt::Debug for SecretRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SecretRef::Env(name) => write!(f, "env:{name}"),
            SecretRef::File(path) => write!(f, "file:{path}"),
            SecretRef::Inline(_) => f.write_str("(sealed)"),
        }
    }
}

/// Whom to tell, and after which time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Escalate {
    /// Age of an un-ACKed delivery at which Ops are told.
    pub after: Duration,
    /// Names of the configured targets.
    pub to: Vec<String>,
}

/// Another way to reach the partner.
#[derive(Debug, Clone, PartialEq)]
pub struct Fallback {
    /// After which time without an ACK.
    pub after: Duration,
    /// The same partner by the other channel: address, login and receipt are its own.
    pub partner: Box<Partner>,
}

/// What a partner wants of dry runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Tests {
    /// The same address as everything else.
    #[default]
    Deliver,
    /// Nothing.
    Skip,
    /// Another address.
    To(String),
}

/// Directories of the hub's machine that `file` partners may have; none unless the operator names them.
#[derive(Debug, Clone, Default)]
pub struct AllowDir(pub Vec<std::path::PathBuf>);

impl AllowDir {
    /// Whether the operator allowed this directory, or one above it, by `--allow-dir`. It judges the path as it is
    /// written; whoever opens it asks again for the path without links.
    #[must_use]
    pub fn allows(&self, path: &std::path::Path) -> bool {
        self.0.iter().any(|dir| path.starts_with(dir))
    }
}

/// Whether an address range is one that the hub dials only when told so.
#[derive(Debug, Clone, Default)]
pub struct AllowNet(pub Vec<ipnet::IpNet>);

impl AllowNet {
    /// Whether the operator allowed this address by `--allow-net`.
    #[must_use]
    pub fn allows(&self, address: IpAddr) -> bool {
        self.0.iter().any(|net| net.contains(&address))
    }
}
