//! The Change Event: what a publisher sent, never changed.

use std::sync::Arc;

use serde_json::value::RawValue;
use uuid::Uuid;

use crate::id::{Digest, EventId, Seq, Subject, Version};
use crate::time::Time;

/// What a publisher sent, checked.
#[derive(Debug, Clone)]
pub struct Content {
    /// The publisher's name for the event.
    pub id: EventId,
    /// Schema version of the payload.
    pub version: Version,
    /// What the event is about: as given, or derived from the id.
    pub subject: Subject,
    /// The payload, byte for byte as it came (insignificant whitespace included).
    pub payload: Arc<RawValue>,
    /// Who says so.
    pub source: Option<String>,
    /// When it happened, RFC 3339 as given.
    pub time: Option<String>,
    /// From when on it holds, RFC 3339 as given.
    pub effective: Option<String>,
    /// Until when it holds, RFC 3339 as given.
    pub expires: Option<String>,
    /// Whether it overtakes routine events of other subjects.
    pub priority: Priority,
    /// Events that this one refers to.
    pub references: Vec<EventId>,
    /// A change, a correction or a retraction.
    pub kind: Kind,
    /// A dry run: marked on every channel, never counted.
    pub test: bool,
}

/// Whether an event overtakes routine events of other subjects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Priority {
    /// Sent before routine ones.
    Urgent,
    /// Sent in its turn.
    #[default]
    Routine,
}

/// What kind of word an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Kind {
    /// Something changed.
    #[default]
    Change,
    /// An earlier event was wrong.
    Correction,
    /// An earlier event is taken back.
    Retraction,
}

/// Trace headers of the publish, carried to every partner, log line and ledger entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// W3C Trace Context `traceparent`.
    pub traceparent: Option<String>,
    /// `x-hms-trace-id`.
    pub trace_id: Option<String>,
    /// `x-hms-docket-id`.
    pub docket_id: Option<String>,
}

/// An event as the Event Log holds it.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its place in the log.
    pub seq: Seq,
    /// When the hub recorded it.
    pub recorded_at: Time,
    /// What the publisher sent.
    pub content: Content,
    /// The publish's trace headers.
    pub trace: Trace,
    /// Hash of the content's canonical form: tells a repeat from a conflict.
    pub content_digest: Digest,
    /// The part of the message id that all its deliveries share.
    pub message_uuid: Uuid,
}
