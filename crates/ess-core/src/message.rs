//! The bytes of one try, ready for a channel.

use bytes::Bytes;

use crate::id::{Digest, EventId, Subject, Version};

/// What a channel sends: complete, signed, nothing left to decide.
#[derive(Debug, Clone)]
pub struct Message {
    /// `msg_<uuid>` (`test_msg_<uuid>` for a dry run): the same for all attempts of a delivery.
    pub id: String,
    /// The event's id, for file names, topics and receipts.
    pub event_id: EventId,
    /// The event's subject, for topics.
    pub subject: Subject,
    /// The version that the partner gets.
    pub version: Version,
    /// The file name extension of the format, such as `json`.
    pub extension: &'static str,
    /// Media type of the body.
    pub content_type: String,
    /// Header fields beside the content type: signature, marks, trace, the partner's own. Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The bytes.
    pub body: Bytes,
    /// SHA-256 of `body`.
    pub body_digest: Digest,
    /// A dry run.
    pub test: bool,
    /// An event that is sent again on an operator's word.
    pub replay: bool,
    /// The partner's gapless counter; absent for dry runs outside of its lane.
    pub partner_seq: Option<u64>,
    /// Which try it is, from 1.
    pub attempt: u32,
}

impl Message {
    /// What a drop of this message is called.
    #[must_use]
    pub fn file_name(&self) -> String {
        file_name(&self.event_id, self.version, self.extension, self.test)
    }
}

/// `<event id>.v<version>.<extension>`, with `test_` in front for a dry run. Ids hold letters, digits and `. _ : -` only,
/// so that the name is one name in every directory and never `.` or `..`.
#[must_use]
pub fn file_name(event: &EventId, version: Version, extension: &str, test: bool) -> String {
    format!("{}{event}.v{version}.{extension}", if test { "test_" } else { "" })
}

/// What the receipt of a drop is called, by the partner's pattern: `{id}` is the event's id, `{version}` the version and
/// `{name}` the drop's own name. A dry run's receipt carries `test_` like its drop.
#[must_use]
pub fn receipt_name(pattern: &str, event: &EventId, version: Version, extension: &str, test: bool) -> String {
    let name = file_name(event, version, extension, test);
    let is_marked = pattern.contains("{name}");
    let filled =
        pattern.replace("{name}", &name).replace("{id}", event.as_str()).replace("{version}", &version.to_string());
    if !test || is_marked {
        return filled;
    }
    match filled.rsplit_once('/') {
        Some((dir, last)) => format!("{dir}/test_{last}"),
        None => format!("test_{filled}"),
    }
}

/// What the name of a file in a partner's directory can mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The event.
    pub event: EventId,
    /// The version, where the name has it.
    pub version: Option<Version>,
    /// Of a dry run.
    pub test: bool,
}

/// Reads the name of a drop or of its half-written part. A name that begins with `test_` may be of a dry run, or of an event
/// that is called so.
#[must_use]
pub fn read_file_name(name: &str, extension: &str) -> Vec<Named> {
    let whole = match name.strip_suffix(".part").and_then(|rest| rest.rsplit_once('.')) {
        Some((whole, attempt)) if !attempt.is_empty() && attempt.bytes().all(|byte| byte.is_ascii_digit()) => whole,
        _ => name,
    };
    let read = |rest: &str, test: bool| {
        let (event, version) = rest.strip_suffix(extension)?.strip_suffix('.')?.rsplit_once(".v")?;
        let (event, version) =
            (EventId::parse(event).ok()?, Version(version.parse().ok().filter(|version| *version > 0)?));
        // No other spelling of the version is one of ours.
        let is_ours = file_name(&event, version, extension, test) == whole;
        is_ours.then_some(Named { event, version: Some(version), test })
    };
    let dry_run = whole.strip_prefix("test_").and_then(|rest| read(rest, true));
    read(whole, false).into_iter().chain(dry_run).collect()
}

/// Reads the name of a receipt by the partner's pattern, its directory included. A pattern in which the event's id cannot be
/// found again, as `{id}{version}`, gives nothing.
#[must_use]
pub fn read_receipt_name(pattern: &str, name: &str, extension: &str) -> Vec<Named> {
    let (Some(begin), Some(end)) = (pattern.find('{'), pattern.rfind('}')) else { return Vec::new() };
    let (before, words, behind) = (&pattern[..begin], &pattern[begin..=end], &pattern[end + 1..]);
    let inner = |name: &str| Some(name.strip_prefix(before)?.strip_suffix(behind)?.to_owned());
    if words == "{name}" {
        return inner(name).map(|drop| read_file_name(&drop, extension)).unwrap_or_default();
    }
    let read = |plain: String, test: bool| {
        let inner = inner(&plain)?;
        let (event, version) = match words.strip_prefix("{id}")?.strip_suffix("{version}") {
            None if words == "{id}" => (inner.as_str(), None),
            Some(between) if !between.is_empty() && !between.contains('{') => {
                let (event, version) = inner.rsplit_once(between)?;
                (event, Some(Version(version.parse().ok()?)))
            }
            _ => return None,
        };
        let event = EventId::parse(event).ok()?;
        let is_ours = receipt_name(pattern, &event, version.unwrap_or(Version(1)), extension, test) == name;
        is_ours.then_some(Named { event, version, test })
    };
    let (dir, last) = name.rsplit_once('/').map_or(("", name), |(dir, last)| (&name[..=dir.len()], last));
    let dry_run = last.strip_prefix("test_").and_then(|rest| read(format!("{dir}{rest}"), true));
    read(name.to_owned(), false).into_iter().chain(dry_run).collect()
}

/// `msg_<32 hexadecimal digits>`, `test_msg_…` for a dry run: no dots, as Standard Webhooks asks.
#[must_use]
pub fn message_id(uuid: uuid::Uuid, test: bool) -> String {
    format!("{}msg_{}", if test { "test_" } else { "" }, uuid.simple())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_and_its_receipt_are_called_after_the_event_and_a_dry_run_is_marked() {
        let event = EventId::trusted("RULE-X-V3");
        let receipt = |pattern: &str, test: bool| receipt_name(pattern, &event, Version(2), "xml", test);
        assert_eq!(file_name(&event, Version(2), "xml", false), "RULE-X-V3.v2.xml");
        assert_eq!(file_name(&event, Version(2), "xml", true), "test_RULE-X-V3.v2.xml");
        assert_eq!(receipt("{id}.ack", false), "RULE-X-V3.ack");
        assert_eq!(receipt("out/{id}-{version}.ack", true), "out/test_RULE-X-V3-2.ack");
        assert_eq!(receipt("{name}.ok", true), "test_RULE-X-V3.v2.xml.ok");
    }

    fn named(event: &str, version: u32, test: bool) -> Named {
        Named { event: EventId::trusted(event), version: (version > 0).then_some(Version(version)), test }
    }

    #[test]
    fn names_are_read_back_as_they_are_written() {
        let drop = |name: &str| read_file_name(name, "json");
        assert_eq!(drop("RULE-X-V3.v2.json"), [named("RULE-X-V3", 2, false)]);
        assert_eq!(drop("a.v1.v2.json.12.part"), [named("a.v1", 2, false)]);
        assert_eq!(drop("test_R.v2.json"), [named("test_R", 2, false), named("R", 2, true)]);
        for others in [
            "R.v2.xml",
            "R.v02.json",
            "R.v0.json",
            "R.json",
            "R.v2.json.part",
            "R.v2.json.x.part",
            ".v2.json",
            "R ä.v2.json",
        ] {
            assert_eq!(drop(others), [], "{others}");
        }
        let receipt = |pattern: &str, name: &str| read_receipt_name(pattern, name, "json");
        assert_eq!(receipt("{id}.ack", "R-1.ack"), [named("R-1", 0, false)]);
        assert_eq!(receipt("out/{id}-{version}.ack", "out/test_R-1-2.ack").last(), Some(&named("R-1", 2, true)));
        assert_eq!(receipt("out/{name}.ok", "out/test_R.v2.json.ok").last(), Some(&named("R", 2, true)));
        for (pattern, name) in [
            ("{id}.ack", "R.ok"),
            ("out/{id}.ack", "R.ack"),
            ("out/{id}.ack", "out/in/R.ack"),
            ("{id}{version}", "R2"),
            ("{version}-{id}", "2-R"),
            ("{id}-{version}", "R-x"),
        ] {
            assert_eq!(receipt(pattern, name), [], "{pattern} {name}");
        }
    }
}
