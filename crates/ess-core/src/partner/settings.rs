//! What only some channels have, in a partner's document: a variant for each, read and written beside each other.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::ChannelKind;
use super::part::{Part, invalid};
use crate::duration;
use crate::problem::Problem;

/// What only the partner's channel has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settings {
    /// The channel has nothing of its own.
    None,
    /// Of `file`.
    File(FileSettings),
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
            _ => Settings::None,
        })
    }

    pub(super) fn write(&self, document: &mut Map<String, Value>) {
        match self {
            Settings::None => {}
            Settings::File(FileSettings { clean_after }) => write_clean(*clean_after, document),
        }
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
