//! The Change Event: what a publisher sent, never changed.

use std::sync::Arc;

use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::id::{Digest, EventId, Seq, Subject, Version};
use crate::json::{Fields, write_canonical};
use crate::limits::{EVENT_BYTES_MAX, REFERENCES_MAX, SOURCE_BYTES_MAX, TRACE_BYTES_MAX};
use crate::nearest::nearest;
use crate::problem::{Code, Problem};
use crate::time::Time;

const FIELDS: [&str; 11] =
    ["id", "version", "payload", "subject", "source", "time", "effective", "expires", "priority", "references", "kind"];

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

impl Priority {
    /// The contract's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Priority::Urgent => "urgent",
            Priority::Routine => "routine",
        }
    }

    /// Reads the contract's word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Priority::Urgent, Priority::Routine].into_iter().find(|priority| priority.word() == word)
    }
}

impl Kind {
    /// The contract's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Kind::Change => "change",
            Kind::Correction => "correction",
            Kind::Retraction => "retraction",
        }
    }

    /// Reads the contract's word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Kind::Change, Kind::Correction, Kind::Retraction].into_iter().find(|kind| kind.word() == word)
    }
}

/// Where a publish came from: its trace headers, which are carried to every partner, log line and ledger entry, and who it was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// W3C Trace Context `traceparent`.
    pub traceparent: Option<String>,
    /// `x-hms-trace-id`.
    pub trace_id: Option<String>,
    /// `x-hms-docket-id`.
    pub docket_id: Option<String>,
    /// Public name of the token that published it; kept on record, never sent.
    pub publisher: Option<String>,
}

impl Trace {
    /// Takes the headers as they came; what is too long or not printable is left out, as it can't be passed on.
    #[must_use]
    pub fn from_headers(traceparent: Option<&str>, trace_id: Option<&str>, docket_id: Option<&str>) -> Self {
        let keep = |value: Option<&str>| {
            value
                .filter(|text| !text.is_empty() && text.len() <= TRACE_BYTES_MAX)
                .filter(|text| text.bytes().all(|byte| (b' '..=b'~').contains(&byte)))
                .map(str::to_owned)
        };
        Self { traceparent: keep(traceparent), trace_id: keep(trace_id), docket_id: keep(docket_id), publisher: None }
    }
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
    /// The payload is not there any more, and why: it reads `null`.
    pub gone: Option<Gone>,
}

/// A payload that went, by age or by an admin's word. The event's digest stays, so that its receipts still prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// When it went.
    pub at: Time,
    /// By what.
    pub cause: GoneCause,
}

/// What took a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GoneCause {
    /// Its time was over.
    Expired,
    /// An admin redacted it.
    Redacted {
        /// The token's public name.
        by: String,
        /// Why.
        reason: String,
    },
}

impl Gone {
    /// In words: `redacted at 2026-11-23T16:00:00Z by tok_3f9a0c12: a minor is named`.
    #[must_use]
    pub fn told(&self) -> String {
        match &self.cause {
            GoneCause::Expired => format!("expired at {}", self.at),
            GoneCause::Redacted { by, reason } => format!("redacted at {} by {by}: {reason}", self.at),
        }
    }
}

impl Content {
    /// Reads a native event. `test` is the publish's own mark; `"test": true` in the body marks it as well.
    ///
    /// # Errors
    /// Not JSON (with the position); or a field that is missing, unknown, twice or out of bounds, which is named.
    pub fn from_json(body: &[u8], test: bool) -> Result<Self, Problem> {
        if body.len() > EVENT_BYTES_MAX {
            let detail = format!("the event has {} bytes; at most {EVENT_BYTES_MAX} are taken", body.len());
            return Err(Problem::new(Code::TooLarge, detail));
        }
        let fields = Fields::parse(body)?;
        for (name, _) in &fields.0 {
            if !FIELDS.contains(&name.as_str()) && name != "test" {
                let problem = Problem::new(Code::Invalid, format!("unknown field {name}")).with_field(name);
                return Err(match nearest(name, &FIELDS) {
                    Some(known) => problem.with_hint(format!("did you mean `{known}`?")),
                    None => problem.with_hint(format!("an event has {}, and `test`", FIELDS.join(", "))),
                });
            }
        }
        let field = |name: &str| fields.0.iter().find(|(known, _)| known == name).map(|(_, value)| *value);
        let need = |name: &str| {
            field(name).ok_or_else(|| {
                Problem::new(Code::Invalid, format!("field {name} is missing"))
                    .with_field(name)
                    .with_hint("an event needs id, version and payload")
            })
        };
        let text = |name: &str| optional_text(field(name), name);
        let id = EventId::parse(&read_text(need("id")?, "id")?)?;
        let subject = text("subject")?.map(|subject| Subject::parse(&subject)).transpose()?;
        let source = text("source")?;
        if source.as_ref().is_some_and(|source| source.is_empty() || source.len() > SOURCE_BYTES_MAX) {
            let detail = format!("source must be 1 to {SOURCE_BYTES_MAX} bytes");
            return Err(Problem::new(Code::Invalid, detail).with_field("source"));
        }
        let word = |name: &str, known: &str| {
            Problem::new(Code::Invalid, format!("{name} must be one of {known}")).with_field(name)
        };
        let priority = match text("priority")? {
            None => Priority::default(),
            Some(text) => Priority::from_word(&text).ok_or_else(|| word("priority", "urgent, routine"))?,
        };
        let kind = match text("kind")? {
            None => Kind::default(),
            Some(text) => Kind::from_word(&text).ok_or_else(|| word("kind", "change, correction, retraction"))?,
        };
        Ok(Self {
            subject: subject.unwrap_or_else(|| Subject::derived_from(&id)),
            version: read_version(need("version")?.get(), "version")?,
            payload: Arc::from(need("payload")?.to_owned()),
            source,
            time: checked_time(text("time")?, "time")?,
            effective: checked_time(text("effective")?, "effective")?,
            expires: checked_time(text("expires")?, "expires")?,
            priority,
            references: read_references(field("references"))?,
            kind,
            test: read_test(field("test"))? || test,
            id,
        })
    }

    /// SHA-256 over a canonical form of everything: the same content written another way has the same digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut payload = String::with_capacity(self.payload.get().len());
        write_canonical(self.payload.get(), &mut payload);
        let mut hash = Sha256::new();
        let mut add = |part: &str| {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        };
        add(self.id.as_str());
        add(&self.version.to_string());
        add(self.subject.as_str());
        for part in [&self.source, &self.time, &self.effective, &self.expires] {
            add(if part.is_some() { "+" } else { "-" });
            add(part.as_deref().unwrap_or_default());
        }
        add(self.priority.word());
        add(self.kind.word());
        for reference in &self.references {
            add(reference.as_str());
        }
        add(if self.test { "test" } else { "real" });
        add(&payload);
        Digest(hash.finalize().into())
    }
}

/// Reads a schema version: an integer token from 1 to 4294967295.
///
/// # Errors
/// Anything else; `field` is named.
pub fn read_version(token: &str, field: &str) -> Result<Version, Problem> {
    let token = token.trim();
    let is_plain = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_digit());
    match token.parse::<u32>() {
        Ok(number) if is_plain && number >= 1 => Ok(Version(number)),
        _ => {
            let shown: String = token.chars().take(40).collect();
            let detail = format!("{field} must be an integer from 1 to {}, not {shown}", u32::MAX);
            Err(Problem::new(Code::Invalid, detail).with_field(field))
        }
    }
}

/// Lines of a bulk body with their numbers from 1; blank ones are left out.
pub fn lines(body: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    body.split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .zip(1u32..)
        .map(|(line, number)| (number, line))
        .filter(|(_, line)| !line.is_empty())
}

fn read_text(value: &RawValue, field: &str) -> Result<String, Problem> {
    serde_json::from_str(value.get())
        .map_err(|_| Problem::new(Code::Invalid, format!("{field} must be a string")).with_field(field))
}

fn optional_text(value: Option<&RawValue>, field: &str) -> Result<Option<String>, Problem> {
    match value {
        None => Ok(None),
        Some(value) if value.get() == "null" => Ok(None),
        Some(value) => read_text(value, field).map(Some),
    }
}

/// Checks a time that the publisher wrote and keeps it as written.
pub(crate) fn checked_time(text: Option<String>, field: &str) -> Result<Option<String>, Problem> {
    if let Some(text) = &text {
        Time::parse_rfc3339(text)
            .map_err(|wrong| Problem::new(Code::Invalid, format!("{field}: {wrong}")).with_field(field))?;
    }
    Ok(text)
}

fn read_references(value: Option<&RawValue>) -> Result<Vec<EventId>, Problem> {
    let Some(value) = value else { return Ok(Vec::new()) };
    let refuse = |detail: String| Problem::new(Code::Invalid, detail).with_field("references");
    let ids: Vec<String> =
        serde_json::from_str(value.get()).map_err(|_| refuse("references must be a list of event ids".to_owned()))?;
    if ids.len() > REFERENCES_MAX {
        return Err(refuse(format!("at most {REFERENCES_MAX} references are taken, not {}", ids.len())));
    }
    ids.iter()
        .map(|id| EventId::parse(id).map_err(|problem| refuse(format!("references: {}", problem.detail))))
        .collect()
}

fn read_test(value: Option<&RawValue>) -> Result<bool, Problem> {
    match value.map(RawValue::get) {
        None | Some("false" | "null") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(Problem::new(Code::Invalid, "test must be true or false").with_field("test")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Content, Problem> {
        Content::from_json(text.as_bytes(), false)
    }

    #[track_caller]
    fn check_refused(text: &str, code: Code, field: Option<&str>) {
        let problem = parse(text).expect_err(text);
        assert_eq!((problem.code, problem.field.as_deref()), (code, field), "{text}: {}", problem.detail);
    }

    #[test]
    fn the_missions_event_is_read() {
        let content =
            parse(r#"{"id":"RULE-COURT-DEADLINE-V3","version":3,"payload":{"deadline":"16:00","timezone":"local"}}"#)
                .unwrap();
        assert_eq!(content.subject.as_str(), "RULE-COURT-DEADLINE");
        assert_eq!(content.payload.get(), r#"{"deadline":"16:00","timezone":"local"}"#);
    }

    #[test]
    fn what_is_wrong_is_named() {
        check_refused("", Code::Malformed, None);
        check_refused("[]", Code::Malformed, None);
        check_refused(r#"{"id":"a","#, Code::Malformed, None);
        check_refused(r#"{"version":1,"payload":1}"#, Code::Invalid, Some("id"));
        check_refused(r#"{"id":"a","payload":1}"#, Code::Invalid, Some("version"));
        check_refused(r#"{"id":"a","version":1}"#, Code::Invalid, Some("payload"));
        check_refused(r#"{"id":"a b","version":1,"payload":1}"#, Code::Invalid, Some("id"));
        check_refused(r#"{"id":7,"version":1,"payload":1}"#, Code::Invalid, Some("id"));
        for version in ["0", "-1", "1.0", "1e0", "\"1\"", "4294967296", "null", "true"] {
            check_refused(&format!(r#"{{"id":"a","version":{version},"payload":1}}"#), Code::Invalid, Some("version"));
        }
        check_refused(r#"{"id":"a","version":1,"payload":1,"colour":1}"#, Code::Invalid, Some("colour"));
        check_refused(r#"{"id":"a","id":"b","version":1,"payload":1}"#, Code::Invalid, Some("id"));
        check_refused(r#"{"id":"a","version":1,"payload":1,"time":"yesterday"}"#, Code::Invalid, Some("time"));
        check_refused(r#"{"id":"a","version":1,"payload":1,"kind":"x"}"#, Code::Invalid, Some("kind"));
        check_refused(r#"{"id":"a","version":1,"payload":1,"references":["a b"]}"#, Code::Invalid, Some("references"));
    }

    #[test]
    fn a_misspelt_field_is_answered_with_the_nearest_one() {
        let problem = parse(r#"{"id":"a","version":1,"payload":1,"prority":"urgent"}"#).unwrap_err();
        assert_eq!(problem.hint.as_deref(), Some("did you mean `priority`?"));
    }

    #[test]
    fn the_same_content_written_another_way_has_the_same_digest() {
        let one = parse(r#"{"id":"a","version":1,"payload":{"x":1,"y":[2.50]}}"#).unwrap();
        let two = parse(r#" {"payload": {"y":[ 2.50 ], "x":1}, "version":1, "id":"a"} "#).unwrap();
        let three = parse(r#"{"id":"a","version":1,"payload":{"x":1,"y":[2.5]}}"#).unwrap();
        assert_eq!(one.digest(), two.digest());
        assert_ne!(one.digest(), three.digest());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_an_error_or_an_event(body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let _ = Content::from_json(&body, false);
            let _ = lines(&body).count();
        }

        #[test]
        fn broken_events_are_an_error_or_an_event(cut in 0usize..120, byte in proptest::prelude::any::<u8>()) {
            let mut body = br#"{"id":"R-V3","version":3,"payload":{"a":[1,"\ud834\udd1e",null]},"references":["x"],"time":"2026-01-01T00:00:00Z"}"#.to_vec();
            let at = cut % body.len();
            body[at] = byte;
            let _ = Content::from_json(&body, false);
            let _ = Content::from_json(&body[..at], false);
        }
    }
}
