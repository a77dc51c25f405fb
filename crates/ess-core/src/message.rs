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
}
