//! What only some channels have, in a partner's document: a variant for each, read and written beside each other.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::ChannelKind;
use super::part::{Part, invalid};
use super::words::word_of;
use crate::duration;
use crate::limits::CLIENT_ID_BYTES_MAX;
use crate::msa::{ACK_CODES, AckCode, AckCodes, Meaning};
use crate::problem::Problem;

/// What only the partner's channel has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settings {
    /// The channel has nothing of its own.
    None,
    /// Of `file`.
    File(FileSettings),
    /// Of `mllp`.
    Mllp(MllpSettings),
    /// Of `mqtt`.
    Mqtt(MqttSettings),
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

/// What `channel: mllp` has of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MllpSettings {
    /// What the partner's codes mean, where it is not what the contract says.
    pub codes: AckCodes,
}

/// What `channel: file` has of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSettings {
    /// Drops that were acknowledged are removed when they are this old; never, when absent.
    pub clean_after: Option<Duration>,
}

impl Settings {
    pub(super) fn read(part: &Part<'_>, channel: ChannelKind) -> Result<Self, Problem> {
        channel.check_fields(part)?;
        Ok(match channel {
            ChannelKind::File => Settings::File(FileSettings { clean_after: read_clean(part)? }),
            ChannelKind::Mllp => Settings::Mllp(MllpSettings { codes: read_codes(part)? }),
            ChannelKind::Mqtt => Settings::Mqtt(read_mqtt(part)?),
            _ => Settings::None,
        })
    }

    pub(super) fn write(&self, document: &mut Map<String, Value>) {
        match self {
            Settings::None => {}
            Settings::File(FileSettings { clean_after }) => write_clean(*clean_after, document),
            Settings::Mqtt(mqtt) => write_mqtt(mqtt, document),
            Settings::Mllp(MllpSettings { codes }) => write_codes(codes, document),
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

/// `clean: {after: 30d}`.
fn read_clean(part: &Part<'_>) -> Result<Option<Duration>, Problem> {
    let Some(value) = part.get("clean") else { return Ok(None) };
    let clean = Part::of(value, "clean", &["after"])?;
    clean.need_text("after")?;
    let after = clean.span("after", Duration::ZERO)?;
    if after < Duration::from_secs(60) {
        return Err(invalid("clean.after", "expected at least 1m: the partner must have time to take the drop away"));
    }
    Ok(Some(after))
}

fn write_clean(after: Option<Duration>, document: &mut Map<String, Value>) {
    if let Some(after) = after {
        document.insert("clean".to_owned(), json!({"after": duration::format(after)}));
    }
}
