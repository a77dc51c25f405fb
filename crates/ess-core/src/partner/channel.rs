//! The channels: for each its word, its addresses, what its receipt can be, and which fields are its own.
//!
//! One row says all that a partner's document may hold for a channel; whatever does not fit it is refused by name.

use super::email::MailAddress;
use super::part::{Part, invalid};
use super::s3::check_bucket;
use super::words::FORMATS;
use super::{AckBy, Format};
use crate::limits::URL_BYTES_MAX;
use crate::nearest::nearest;
use crate::place::{AmqpPlace, KafkaTopic, NatsSubject};
use crate::problem::Problem;
use crate::topic::Topic;

/// Delivery technology.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChannelKind {
    /// HTTPS POST.
    Webhook,
    /// A drop by SFTP.
    Sftp,
    /// MQTT 3.1.1 and 5.
    Mqtt,
    /// HL7 v2 over MLLP.
    Mllp,
    /// The partner fetches its events itself.
    Pull,
    /// AMQP 0.9.1.
    Amqp,
    /// Kafka.
    Kafka,
    /// NATS JetStream.
    Nats,
    /// E-mail.
    Email,
    /// A drop in a directory of the hub's machine.
    File,
    /// A drop in an S3-compatible store.
    S3,
}

/// What a partner's document may hold for one channel.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) kind: ChannelKind,
    /// The contract's word.
    pub(super) word: &'static str,
    /// This build delivers by it.
    is_built: bool,
    /// What an address begins with; empty when there is none.
    schemes: &'static [&'static str],
    /// An address as it is written.
    example: &'static str,
    /// What its receipt can be; the first is the default.
    pub(super) acks: &'static [AckBy],
    /// How the hub can log in, by the fields of `auth`.
    pub(super) auths: &'static [&'static str],
    /// Fields of the document that only some channels have.
    pub(super) fields: &'static [&'static str],
}

const HTTP_AUTHS: &[&str] = &["bearer", "basic", "oauth2", "mtls"];
const BROKER_AUTHS: &[&str] = &["user", "password", "mtls"];

/// A row for each channel, in the contract's order.
pub(super) const RULES: [Rule; 11] = [
    Rule {
        kind: ChannelKind::Webhook,
        word: "webhook",
        is_built: true,
        schemes: &["https://", "http://"],
        example: "https://api.courtcal.com/update",
        acks: &[AckBy::Body, AckBy::Status, AckBy::Callback],
        auths: HTTP_AUTHS,
        fields: &["headers", "heartbeat"],
    },
    Rule {
        kind: ChannelKind::Sftp,
        word: "sftp",
        is_built: true,
        schemes: &["sftp://"],
        example: "sftp://user@sftp.clinic.example/inbox",
        acks: &[AckBy::Status, AckBy::File, AckBy::Callback],
        auths: &["user", "password", "key", "passphrase"],
        fields: &["host_key", "write", "clean"],
    },
    Rule {
        kind: ChannelKind::Mqtt,
        word: "mqtt",
        is_built: true,
        schemes: &["mqtts://", "mqtt://"],
        example: "mqtts://broker.example/rules/{subject}",
        acks: &[AckBy::Status, AckBy::Topic, AckBy::Callback],
        auths: BROKER_AUTHS,
        fields: &["headers", "retain", "protocol", "client_id"],
    },
    Rule {
        kind: ChannelKind::Mllp,
        word: "mllp",
        is_built: true,
        schemes: &["mllps://", "mllp://"],
        example: "mllps://hl7.clinic.example:2575",
        acks: &[AckBy::Body, AckBy::Callback],
        auths: &["mtls"],
        fields: &["codes"],
    },
    Rule {
        kind: ChannelKind::Pull,
        word: "pull",
        is_built: true,
        schemes: &[],
        example: "",
        acks: &[AckBy::Callback],
        auths: &[],
        fields: &[],
    },
    Rule {
        kind: ChannelKind::Amqp,
        word: "amqp",
        is_built: true,
        schemes: &["amqps://", "amqp://"],
        example: "amqps://broker.example/vhost/exchange/{subject}",
        acks: &[AckBy::Status, AckBy::Callback],
        auths: BROKER_AUTHS,
        fields: &["headers"],
    },
    Rule {
        kind: ChannelKind::Kafka,
        word: "kafka",
        is_built: cfg!(feature = "kafka"),
        schemes: &["kafkas://", "kafka://"],
        example: "kafkas://broker.example/rules",
        acks: &[AckBy::Status, AckBy::Callback],
        auths: BROKER_AUTHS,
        fields: &["headers", "sasl"],
    },
    Rule {
        kind: ChannelKind::Nats,
        word: "nats",
        is_built: true,
        schemes: &["natss://", "nats://"],
        example: "natss://broker.example/rules.{subject}",
        acks: &[AckBy::Status, AckBy::Callback],
        auths: BROKER_AUTHS,
        fields: &["headers"],
    },
    Rule {
        kind: ChannelKind::Email,
        word: "email",
        is_built: true,
        schemes: &["smtps://", "smtp://"],
        example: "smtps://mail.example?to=clerk@court.example",
        acks: &[AckBy::Callback, AckBy::Status],
        auths: &["user", "password"],
        fields: &["from", "tls"],
    },
    Rule {
        kind: ChannelKind::File,
        word: "file",
        is_built: true,
        schemes: &["file://"],
        example: "file:///mnt/court/inbox",
        acks: &[AckBy::Status, AckBy::File, AckBy::Callback],
        auths: &[],
        fields: &["clean"],
    },
    Rule {
        kind: ChannelKind::S3,
        word: "s3",
        is_built: true,
        schemes: &["s3://"],
        example: "s3://bucket/prefix",
        acks: &[AckBy::Status, AckBy::File, AckBy::Callback],
        auths: &["user", "password"],
        fields: &["endpoint", "region"],
    },
];

impl ChannelKind {
    /// The contract's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        self.rule().word
    }

    pub(super) fn rule(self) -> &'static Rule {
        // Invariant: the table above has a row for every kind.
        RULES.iter().find(|rule| rule.kind == self).expect("every channel has a rule")
    }

    /// Reads the channel's word; one that this build has not is refused with those that it has.
    pub(super) fn read(part: &Part<'_>) -> Result<Self, Problem> {
        let Some(text) = part.text("channel")? else { return Ok(Self::Webhook) };
        let words: Vec<&str> = RULES.iter().map(|rule| rule.word).collect();
        let built: Vec<&str> = RULES.iter().filter(|rule| rule.is_built).map(|rule| rule.word).collect();
        let built = built.join(", ");
        match RULES.iter().find(|rule| rule.word == text) {
            Some(rule) if rule.is_built => Ok(rule.kind),
            Some(_) => Err(invalid("channel", &format!("{text} is not built into this hub"))
                .with_hint(format!("this build delivers by {built}"))),
            None => {
                let problem = invalid("channel", &format!("expected one of {}, found {text:?}", words.join(", ")));
                Err(match nearest(&text, &words) {
                    Some(meant) => problem.with_hint(format!("did you mean `{meant}`?")),
                    None => problem.with_hint(format!("this build delivers by {built}")),
                })
            }
        }
    }

    /// The partner's address, where its channel has one.
    pub(super) fn read_url(self, part: &Part<'_>) -> Result<Option<String>, Problem> {
        match (part.get("url"), self.rule().schemes) {
            (Some(_), []) => Err(invalid("url", &format!("a partner of `channel: {}` has no address", self.word()))
                .with_hint("leave `url` away: the partner comes to the hub")),
            (None, []) => Ok(None),
            _ => self.check_url(&part.need_text("url")?, "url").map(Some),
        }
    }

    /// An address that this channel can use. Who logs in stands in `auth`; only a user's name may stand in the address,
    /// where the protocol writes it so.
    pub(super) fn check_url(self, url: &str, field: &str) -> Result<String, Problem> {
        let rule = self.rule();
        let refuse =
            |why: String| Err(invalid(field, &why).with_hint(format!("write an address such as {}", rule.example)));
        if url.len() > URL_BYTES_MAX {
            return refuse("the address is too long".to_owned());
        }
        if url.chars().any(|c| c.is_control() || c == ' ') || url.contains('#') {
            return refuse("an address has no spaces, control characters or fragment".to_owned());
        }
        let Some(rest) = rule.schemes.iter().find_map(|scheme| url.strip_prefix(scheme)) else {
            return refuse(format!("expected {} for `channel: {}`", rule.schemes.join(" or "), rule.word));
        };
        if self == ChannelKind::File {
            return match rest.strip_prefix('/') {
                Some(path) if !path.split('/').any(|name| name == "..") => Ok(url.to_owned()),
                _ => refuse("expected file:/// with an absolute directory, without `..`".to_owned()),
            };
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (login, host) = rest[..end].rsplit_once('@').map_or((None, &rest[..end]), |(l, host)| (Some(l), host));
        let may_name_user = self == ChannelKind::Sftp && login.is_some_and(|login| !login.contains(':'));
        if host.is_empty() || host.starts_with(':') {
            return refuse("expected a host in the address".to_owned());
        }
        if login.is_some() && !may_name_user {
            return refuse("the address holds a login; use `auth` for it".to_owned());
        }
        if self == ChannelKind::Mllp && !matches!(&rest[end..], "" | "/") {
            return refuse("an address of mllp is a host and a port, without a path".to_owned());
        }
        let path = &rest[end..];
        let checked = match self {
            ChannelKind::Mqtt => check_topic(path),
            ChannelKind::Nats => NatsSubject::of_path(path).map(|_| ()),
            ChannelKind::Kafka => KafkaTopic::of_path(path).map(|_| ()),
            ChannelKind::Amqp => AmqpPlace::of_path(path).map(|_| ()),
            ChannelKind::S3 => check_bucket(rest).map_err(str::to_owned),
            ChannelKind::Email => MailAddress::parse(url).map(|_| ()),
            _ => Ok(()),
        };
        if let Err(why) = checked {
            return refuse(why);
        }
        let is_http = self == ChannelKind::Webhook;
        if is_http && url.parse::<http::Uri>().is_err() {
            return refuse("not an address".to_owned());
        }
        Ok(url.to_owned())
    }

    /// How the body is written. MLLP carries HL7 v2 and nothing else, so there it need not be said.
    pub(super) fn read_format(self, part: &Part<'_>) -> Result<Format, Problem> {
        let default = if self == ChannelKind::Mllp { Format::Hl7 } else { Format::Json };
        let format = part.word("format", default, &FORMATS)?;
        if self == ChannelKind::Mllp && format != Format::Hl7 {
            let why = format!("{} does not travel by mllp, which carries HL7 v2 messages", format.word());
            return Err(invalid("format", &why)
                .with_hint("write `format: hl7`, or leave it away, with an adapter that yields segments"));
        }
        Ok(format)
    }

    /// Refuses a field that belongs to other channels, and says to which.
    pub(super) fn check_fields(self, part: &Part<'_>) -> Result<(), Problem> {
        for name in part.map.keys().map(String::as_str) {
            let owners: Vec<&str> =
                RULES.iter().filter(|rule| rule.fields.contains(&name)).map(|rule| rule.word).collect();
            if !owners.is_empty() && !owners.contains(&self.word()) && part.get(name).is_some() {
                let why = format!("a partner of `channel: {}` has no such field", self.word());
                return Err(invalid(name, &why).with_hint(format!("it belongs to {}", owners.join(", "))));
            }
        }
        Ok(())
    }
}

/// The topic in an address of `mqtt`, with its leading slash.
fn check_topic(path: &str) -> Result<(), String> {
    if path.contains('?') {
        return Err("a `?` in a topic is written %3F".to_owned());
    }
    match path.strip_prefix('/') {
        Some(path) if !path.is_empty() => Topic::of_path(path).map(|_| ()),
        _ => Err("expected a topic after the host".to_owned()),
    }
}

/// Every field that some channel has for itself.
pub(super) fn own_fields() -> impl Iterator<Item = &'static str> {
    RULES.iter().flat_map(|rule| rule.fields.iter().copied())
}

/// An `https://` or `http://` address, without user information or fragment.
pub(super) fn checked_http_url(url: &str, field: &str) -> Result<String, Problem> {
    ChannelKind::Webhook.check_url(url, field)
}

#[cfg(test)]
mod tests;
