//! The default body that a partner receives.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::event::{Event, GoneCause, Kind, Priority};
use crate::id::{EventId, Version};

/// Marks that are not the publisher's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// The event is sent again on request.
    pub replay: bool,
}

#[derive(Serialize)]
struct Envelope<'a> {
    id: &'a str,
    version: u32,
    subject: &'a str,
    time: &'a str,
    sequence: u64,
    payload: &'a RawValue,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    test: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    replay: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    references: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    effective: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    expired: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    redacted: bool,
}

/// `{"id","version","subject","time","sequence","payload"}`, and what else the publisher said.
///
/// An event whose payload is gone says `"expired": true` or `"redacted": true`; it is shown, never sent.
/// `payload` is JSON text in `version`; it goes out byte for byte. `time` is the publisher's, else that of the recording.
#[must_use]
pub fn envelope(event: &Event, version: Version, payload: &str, marks: Marks) -> String {
    let content = &event.content;
    let recorded_at = event.recorded_at.to_string();
    let Ok(payload) = serde_json::from_str::<&RawValue>(payload) else { return "null".to_owned() };
    let envelope = Envelope {
        id: content.id.as_str(),
        version: version.0,
        subject: content.subject.as_str(),
        time: content.time.as_deref().unwrap_or(&recorded_at),
        sequence: event.seq.0,
        payload,
        test: content.test,
        replay: marks.replay,
        kind: (content.kind != Kind::Change).then(|| content.kind.word()),
        priority: (content.priority == Priority::Urgent).then(|| content.priority.word()),
        references: content.references.iter().map(EventId::as_str).collect(),
        source: content.source.as_deref(),
        effective: content.effective.as_deref(),
        expires: content.expires.as_deref(),
        expired: event.gone.as_ref().is_some_and(|gone| gone.cause == GoneCause::Expired),
        redacted: event.gone.as_ref().is_some_and(|gone| gone.cause != GoneCause::Expired),
    };
    // Invariant: strings, numbers and checked JSON always serialise.
    serde_json::to_string(&envelope).expect("an envelope serialises")
}
