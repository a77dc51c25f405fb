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
}

/// `msg_<32 hexadecimal digits>`, `test_msg_…` for a dry run: no dots, as Standard Webhooks asks.
#[must_use]
pub fn message_id(uuid: uuid::Uuid, test: bool) -> String {
    format!("{}msg_{}", if test { "test_" } else { "" }, uuid.simple())
}
