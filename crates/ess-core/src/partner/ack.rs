//! What counts as a partner's receipt, in its document.

use std::time::Duration;

use serde_json::{Value, json};

use super::part::{Part, invalid};
use super::words::{ACK_BYS, word_of};
use super::{AckBy, AckPolicy, ChannelKind};
use crate::duration;
use crate::id::PartnerId;
use crate::limits::{PATTERN_BYTES_MAX, TOPIC_BYTES_MAX};
use crate::problem::Problem;
use crate::topic;

/// What a receipt file is called unless the partner says otherwise.
const PATTERN_DEFAULT: &str = "{id}.ack";
/// A receipt file is written by people or by a nightly run, so it may take longer than an answer.
const FILE_WITHIN_DEFAULT: Duration = Duration::from_secs(15 * 60);

/// A mail is read by people, who also sleep: it is not sent again before half a working day is over.
const MAIL_WITHIN_DEFAULT: Duration = Duration::from_secs(4 * 3_600);

/// What a partner fetched and did not acknowledge is offered again only when it asks again: it can't be flooded.
const PULL_RESEND_DEFAULT: u32 = 100;

pub(super) fn read_ack(part: &Part<'_>, channel: ChannelKind) -> Result<AckPolicy, Problem> {
    let empty = json!({});
    let ack = Part::of(part.get("ack").unwrap_or(&empty), "ack", &["by", "within", "resend", "pattern", "topic"])?;
    let allowed = channel.rule().acks;
    // A pattern or a topic says already where the receipt comes from.
    let default = match (ack.get("pattern"), ack.get("topic")) {
        (Some(_), None) => AckBy::File,
        (None, Some(_)) => AckBy::Topic,
        _ => allowed[0],
    };
    let by = ack.word("by", default, &ACK_BYS)?;
    if !allowed.contains(&by) {
        let words: Vec<&str> = allowed.iter().map(|by| word_of(&ACK_BYS, *by)).collect();
        let why = format!("{} cannot be acknowledged by {}", channel.word(), word_of(&ACK_BYS, by));
        return Err(invalid("ack.by", &why).with_hint(format!("a receipt comes by {} there", words.join(", "))));
    }
    let within_default = match (channel, by) {
        (_, AckBy::File) => FILE_WITHIN_DEFAULT,
        (ChannelKind::Email, AckBy::Callback) => MAIL_WITHIN_DEFAULT,
        _ => Duration::from_secs(30),
    };
    let policy = AckPolicy {
        by,
        within: ack.span("within", within_default)?,
        resend: ack.count("resend", if channel == ChannelKind::Pull { PULL_RESEND_DEFAULT } else { 3 }, 0..=100)?,
        place: read_place(&ack, by)?,
    };
    if policy.within.is_zero() {
        return Err(invalid("ack.within", "expected more than nothing"));
    }
    Ok(policy)
}

fn read_place(ack: &Part<'_>, by: AckBy) -> Result<Option<String>, Problem> {
    let (pattern, topic) = (ack.text("pattern")?, ack.text("topic")?);
    for (name, value, owner) in [("pattern", &pattern, AckBy::File), ("topic", &topic, AckBy::Topic)] {
        if value.is_some() && by != owner {
            let why = format!("it belongs to `by: {}`", word_of(&ACK_BYS, owner));
            return Err(invalid(&ack.path(name), &why));
        }
    }
    match by {
        AckBy::File => {
            let pattern = pattern.unwrap_or_else(|| PATTERN_DEFAULT.to_owned());
            check_pattern(&pattern).map_err(|why| {
                invalid("ack.pattern", why).with_hint("write a pattern such as {id}.ack or receipts/{name}.ack")
            })?;
            Ok(Some(pattern))
        }
        AckBy::Topic => {
            let topic = topic.ok_or_else(|| invalid("ack.topic", "`by: topic` needs the topic of the receipts"))?;
            if topic.is_empty() || topic.len() > TOPIC_BYTES_MAX || topic.contains('\0') {
                return Err(invalid("ack.topic", &format!("expected 1 to {TOPIC_BYTES_MAX} bytes")));
            }
            topic::filter(&topic, &PartnerId::trusted("P"))
                .map_err(|why| invalid("ack.topic", &why).with_hint("write a topic such as acks/{partner}"))?;
            Ok(Some(topic))
        }
        AckBy::Body | AckBy::Status | AckBy::Callback => Ok(None),
    }
}

/// A receipt's name stays beneath the drop's directory whatever the event is called.
fn check_pattern(pattern: &str) -> Result<(), &'static str> {
    if pattern.is_empty() || pattern.len() > PATTERN_BYTES_MAX {
        return Err("expected a pattern of 1 to 200 bytes");
    }
    if !pattern.contains("{id}") && !pattern.contains("{name}") {
        return Err("expected {id} (the event's id) or {name} (the drop's whole name) in it, so that receipts differ");
    }
    let rest = pattern.replace("{id}", "").replace("{name}", "").replace("{version}", "");
    if rest.contains(['{', '}']) {
        return Err("known in braces are {id}, {name} and {version}");
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-:@+=,/".contains(c);
    if !rest.chars().all(is_plain) {
        return Err("expected letters, digits, `. _ - : @ + = ,` and `/`");
    }
    if pattern.split('/').any(|name| matches!(name, "" | "." | "..")) {
        return Err("expected a place in the drop's directory or beneath it");
    }
    if pattern.ends_with(".part") {
        return Err("`.part` is what drops are called while they are written");
    }
    Ok(())
}

pub(super) fn write_ack(ack: &AckPolicy) -> Value {
    let mut document = json!({
        "by": word_of(&ACK_BYS, ack.by),
        "within": duration::format(ack.within),
        "resend": ack.resend,
    });
    if let Some(place) = &ack.place {
        let name = if ack.by == AckBy::Topic { "topic" } else { "pattern" };
        document[name] = json!(place);
    }
    document
}
