//! What only some channels have, in a partner's document: a variant for each, read and written beside each other.

use serde_json::{Map, Value, json};

use super::ChannelKind;
use super::email::EmailSettings;
use super::part::{Part, invalid};
use super::s3::S3Settings;
use super::words::{WRITES, word_of};
use crate::limits::{CLIENT_ID_BYTES_MAX, HOST_KEY_BYTES_MAX, HOST_KEYS_MAX};
use crate::msa::{ACK_CODES, AckCode, AckCodes, Meaning};
use crate::problem::Problem;

/// What only the partner's channel has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settings {
    /// The channel has nothing of its own.
    None,
    /// Of `email`.
    Email(EmailSettings),
    /// Of `s3`.
    S3(S3Settings),
    /// Of `sftp`.
    Sftp(SftpSettings),
    /// Of `mllp`.
    Mllp(MllpSettings),
    /// Of `mqtt`.
    Mqtt(MqttSettings),
    /// Of `kafka`.
    Kafka(KafkaSettings),
}

/// What `channel: sftp` has of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SftpSettings {
    /// Keys (`ssh-ed25519 AAAA…`) or fingerprints (`SHA256:…`) of the host; without one nothing is sent.
    pub host_key: Vec<String>,
    /// How a drop gets its name.
    pub write: Write,
}

/// How a drop gets its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// It is written beside and renamed, so that it is whole or not there.
    Rename,
    /// It is written once under its own name, for servers without a rename.
    Once,
}

/// What `channel: mqtt` has of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MqttSettings {
    /// Version of the protocol.
    pub protocol: MqttProtocol,
    /// The broker keeps the last message of each topic for those that subscribe later.
    pub retain: bool,
    /// How the hub calls itself there, where the broker wants a certain name.
    pub client_id: Option<String>,
}

/// Version of MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MqttProtocol {
    /// 5.
    #[default]
    V5,
    /// 3.1.1.
    V311,
}

/// What `channel: kafka` has of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KafkaSettings {
    /// How a user and a password are shown.
    pub sasl: Sasl,
}

/// How a user and a password are shown to a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sasl {
    /// As they are, protected by TLS alone.
    #[default]
    Plain,
    /// By a proof of the password, with SHA-256.
    ScramSha256,
    /// By a proof of the password, with SHA-512.
    ScramSha512,
}

/// What `channel: mllp` has of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MllpSettings {
    /// What the partner's codes mean, where it is not what the contract says.
    pub codes: AckCodes,
}

impl Settings {
    pub(super) fn read(part: &Part<'_>, channel: ChannelKind) -> Result<Self, Problem> {
        channel.check_fields(part)?;
        Ok(match channel {
            ChannelKind::Sftp => Settings::Sftp(SftpSettings {
                host_key: read_host_keys(part)?,
                write: part.word("write", Write::Rename, &WRITES)?,
            }),
            ChannelKind::Mllp => Settings::Mllp(MllpSettings { codes: read_codes(part)? }),
            ChannelKind::Mqtt => Settings::Mqtt(read_mqtt(part)?),
            ChannelKind::Kafka => Settings::Kafka(KafkaSettings { sasl: part.word("sasl", Sasl::Plain, &SASLS)? }),
            ChannelKind::Email => Settings::Email(EmailSettings::read(part)?),
            ChannelKind::S3 => Settings::S3(S3Settings::read(part)?),
            _ => Settings::None,
        })
    }

    pub(super) fn write(&self, document: &mut Map<String, Value>) {
        match self {
            Settings::None => {}
            Settings::Mllp(MllpSettings { codes }) => write_codes(codes, document),
            Settings::Mqtt(mqtt) => write_mqtt(mqtt, document),
            Settings::Kafka(KafkaSettings { sasl }) => {
                document.insert("sasl".to_owned(), json!(word_of(&SASLS, *sasl)));
            }
            Settings::S3(S3Settings { endpoint, region }) => {
                if let Some(endpoint) = endpoint {
                    document.insert("endpoint".to_owned(), json!(endpoint));
                }
                document.insert("region".to_owned(), json!(region));
            }
            Settings::Email(EmailSettings { from, is_plain }) => {
                if let Some(from) = from {
                    document.insert("from".to_owned(), json!(from));
                }
                if *is_plain {
                    document.insert("tls".to_owned(), json!("none"));
                }
            }
            Settings::Sftp(SftpSettings { host_key, write }) => {
                match host_key.as_slice() {
                    [] => {}
                    [one] => drop(document.insert("host_key".to_owned(), json!(one))),
                    many => drop(document.insert("host_key".to_owned(), json!(many))),
                }
                document.insert("write".to_owned(), json!(word_of(&WRITES, *write)));
            }
        }
    }
}

/// What a code of a partner can mean.
const MEANINGS: [(&str, Meaning); 4] =
    [("ack", Meaning::Ack), ("nack", Meaning::Nack), ("retry", Meaning::Retry), ("wait", Meaning::Wait)];

/// `codes: {AR: nack, AE: retry}`.
fn read_codes(part: &Part<'_>) -> Result<AckCodes, Problem> {
    let mut codes = AckCodes::default();
    let Some(value) = part.get("codes") else { return Ok(codes) };
    let part = Part::of(value, "codes", &ACK_CODES.map(|(word, _)| word))?;
    for (word, code) in ACK_CODES {
        if part.get(word).is_some() {
            codes = codes.with(code, part.word(word, Meaning::Ack, &MEANINGS)?);
        }
    }
    let can_end = |(_, code): &(&str, AckCode)| codes.chosen(*code) != Some(Meaning::Wait);
    if !ACK_CODES.iter().any(can_end) {
        return Err(invalid("codes", "every code waits for another one, so no message would ever end"));
    }
    Ok(codes)
}

fn write_codes(codes: &AckCodes, document: &mut Map<String, Value>) {
    let chosen: Map<String, Value> = ACK_CODES
        .iter()
        .filter_map(|(word, code)| Some(((*word).to_owned(), json!(word_of(&MEANINGS, codes.chosen(*code)?)))))
        .collect();
    if !chosen.is_empty() {
        document.insert("codes".to_owned(), Value::Object(chosen));
    }
}

const SASLS: [(&str, Sasl); 3] =
    [("plain", Sasl::Plain), ("scram-sha-256", Sasl::ScramSha256), ("scram-sha-512", Sasl::ScramSha512)];

const PROTOCOLS: [(&str, MqttProtocol); 2] = [("5", MqttProtocol::V5), ("3.1.1", MqttProtocol::V311)];

fn read_mqtt(part: &Part<'_>) -> Result<MqttSettings, Problem> {
    let protocol = match part.get("protocol") {
        // YAML takes a plain 5 for a number.
        Some(Value::Number(number)) if number.as_u64() == Some(5) => MqttProtocol::V5,
        _ => part.word("protocol", MqttProtocol::V5, &PROTOCOLS)?,
    };
    let client_id = part.text("client_id")?;
    if let Some(id) = &client_id
        && (id.is_empty() || id.len() > CLIENT_ID_BYTES_MAX || id.chars().any(char::is_control))
    {
        return Err(invalid("client_id", &format!("expected 1 to {CLIENT_ID_BYTES_MAX} bytes")));
    }
    Ok(MqttSettings { protocol, retain: part.truth("retain")?, client_id })
}

fn write_mqtt(mqtt: &MqttSettings, document: &mut Map<String, Value>) {
    document.insert("protocol".to_owned(), json!(word_of(&PROTOCOLS, mqtt.protocol)));
    document.insert("retain".to_owned(), json!(mqtt.retain));
    if let Some(client_id) = &mqtt.client_id {
        document.insert("client_id".to_owned(), json!(client_id));
    }
}

/// One pin, or several while the host's key changes.
fn read_host_keys(part: &Part<'_>) -> Result<Vec<String>, Problem> {
    let lines = match part.get("host_key") {
        None => return Ok(Vec::new()),
        Some(Value::Array(_)) => part.texts("host_key")?.unwrap_or_default(),
        Some(_) => vec![part.need_text("host_key")?],
    };
    let refuse = |why: &str| {
        invalid("host_key", why).with_hint(
            "write \"ssh-ed25519 AAAA…\", a line of known_hosts or \"SHA256:…\"; without it `hms-ess partner test` shows it",
        )
    };
    if lines.is_empty() || lines.len() > HOST_KEYS_MAX {
        return Err(refuse("expected one to eight keys"));
    }
    lines.iter().map(|line| pin_of(line).ok_or_else(|| refuse("not a host key"))).collect()
}

/// The key, or its fingerprint, without host and comment.
fn pin_of(line: &str) -> Option<String> {
    if line.len() > HOST_KEY_BYTES_MAX {
        return None;
    }
    let is_base64 = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte));
    let words: Vec<&str> = line.split_whitespace().collect();
    if let [fingerprint] = words.as_slice() {
        let digest = fingerprint.strip_prefix("SHA256:")?.trim_end_matches('=');
        return (digest.len() == 43 && is_base64(digest)).then(|| format!("SHA256:{digest}"));
    }
    words.windows(2).find_map(|pair| {
        let [kind, key] = pair else { return None };
        let is_key =
            (kind.starts_with("ssh-") || kind.starts_with("ecdsa-sha2-")) && key.starts_with("AAAA") && is_base64(key);
        is_key.then(|| format!("{kind} {key}"))
    })
}
