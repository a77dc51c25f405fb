//! What only some channels have, in a partner's document: a variant for each, read and written beside each other.

use serde_json::{Map, Value, json};

use super::ChannelKind;
use super::email::EmailSettings;
use super::part::{Part, invalid};
use super::s3::S3Settings;
use super::words::{WRITES, word_of};
use crate::limits::{HOST_KEY_BYTES_MAX, HOST_KEYS_MAX};
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

impl Settings {
    pub(super) fn read(part: &Part<'_>, channel: ChannelKind) -> Result<Self, Problem> {
        channel.check_fields(part)?;
        Ok(match channel {
            ChannelKind::Sftp => Settings::Sftp(SftpSettings {
                host_key: read_host_keys(part)?,
                write: part.word("write", Write::Rename, &WRITES)?,
            }),
            ChannelKind::Email => Settings::Email(EmailSettings::read(part)?),
            ChannelKind::S3 => Settings::S3(S3Settings::read(part)?),
            _ => Settings::None,
        })
    }

    pub(super) fn write(&self, document: &mut Map<String, Value>) {
        match self {
            Settings::None => {}
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
