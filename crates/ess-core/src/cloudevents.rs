//! CloudEvents 1.0, in and out (CNCF CloudEvents specification 1.0.2; JSON event format; HTTP protocol binding).
//!
//! The schema version of a payload has no attribute in the standard: it travels as the extension `hmsversion`. The other fields of
//! an event are `hmspriority`, `hmskind`, `hmsreferences` (ids separated by commas), `hmseffective`, `hmsexpires` and `hmstest`.

use std::sync::Arc;

use serde_json::value::RawValue;

use crate::event::{Content, Event, Kind, Priority};
use crate::id::{EventId, Version};
use crate::json::Fields;
use crate::limits::EVENT_BYTES_MAX;
use crate::problem::{Code, Problem};

/// Attributes that are understood and carried.
const CARRIED: [(&str, &str); 9] = [
    ("id", "id"),
    ("subject", "subject"),
    ("source", "source"),
    ("time", "time"),
    ("hmspriority", "priority"),
    ("hmskind", "kind"),
    ("hmseffective", "effective"),
    ("hmsexpires", "expires"),
    ("hmsreferences", "references"),
];

/// Reads one event of `application/cloudevents+json`.
///
/// # Errors
/// Not JSON, not CloudEvents 1.0, or a field that is missing or out of bounds, which is named.
pub fn from_structured(body: &[u8], test: bool) -> Result<Content, Problem> {
    if body.len() > EVENT_BYTES_MAX {
        let detail = format!("the event has {} bytes; at most {EVENT_BYTES_MAX} are taken", body.len());
        return Err(Problem::new(Code::TooLarge, detail));
    }
    let fields = Fields::parse(body)?;
    let mut attributes = Vec::new();
    let mut data = None;
    for (name, value) in fields.0 {
        match name.as_str() {
            "data" => data = Some(value.to_owned()),
            "data_base64" => return Err(no_binary_data()),
            // JSON event format, section 2.2: null is as good as absent; an attribute is a string, a number or a boolean.
            _ if value.get() == "null" => {}
            _ if value.get().starts_with(['{', '[']) && CARRIED.iter().any(|(known, _)| *known == name) => {
                let detail = format!("attribute {name} must be a string, a number or a boolean");
                return Err(Problem::new(Code::Invalid, detail).with_field(name));
            }
            _ => attributes.push((name, scalar(value.get()))),
        }
    }
    assemble(&attributes, data, test)
}

/// Reads `application/cloudevents-batch+json`: each event stands alone.
///
/// # Errors
/// The body is not a JSON array.
pub fn from_batch(body: &[u8], test: bool) -> Result<Vec<Result<Content, Problem>>, Problem> {
    let refuse = |what: String| Problem::new(Code::Malformed, what);
    let text = std::str::from_utf8(body).map_err(|_| refuse("not UTF-8".to_owned()))?;
    crate::json::check_nesting(text)?;
    let events: Vec<&RawValue> =
        serde_json::from_str(text).map_err(|error| refuse(format!("not a JSON array of events: {error}")))?;
    Ok(events.into_iter().map(|event| from_structured(event.get().as_bytes(), test)).collect())
}

/// Reads the binary mode: attributes as `ce-` headers (names in lower case), the payload as body.
///
/// # Errors
/// As for the structured mode; also a body that is not JSON.
pub fn from_binary(headers: &[(&str, &str)], body: &[u8], test: bool) -> Result<Content, Problem> {
    if body.len() > EVENT_BYTES_MAX {
        let detail = format!("the event has {} bytes; at most {EVENT_BYTES_MAX} are taken", body.len());
        return Err(Problem::new(Code::TooLarge, detail));
    }
    let attributes: Vec<(String, String)> = headers
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix("ce-")?.to_owned(), percent_decoded(value))))
        .collect();
    let text = std::str::from_utf8(body).map_err(|_| no_binary_data())?;
    crate::json::check_nesting(text)?;
    let data: Box<RawValue> = serde_json::from_str(text)
        .map_err(|error| Problem::new(Code::Malformed, format!("the body is the payload and must be JSON: {error}")))?;
    assemble(&attributes, Some(data), test)
}

/// Writes an event in the structured mode; `data` is JSON text in `version`.
#[must_use]
pub fn structured(event: &Event, version: Version, data: &str) -> String {
    let mut out = String::from("{\"specversion\":\"1.0\"");
    attributes(event, version, &mut |name, value| {
        out.push_str(",\"");
        out.push_str(name);
        out.push_str("\":");
        // Invariant: a string always serialises.
        out.push_str(&serde_json::to_string(value).expect("a string serialises"));
    });
    out.push_str(",\"datacontenttype\":\"application/json\",\"data\":");
    out.push_str(data);
    out.push('}');
    out
}

/// The attributes of the binary mode as header fields; the body is the payload, and its media type `datacontenttype`.
#[must_use]
pub fn binary(event: &Event, version: Version) -> Vec<(String, String)> {
    let mut headers = vec![("ce-specversion".to_owned(), "1.0".to_owned())];
    attributes(event, version, &mut |name, value| headers.push((format!("ce-{name}"), percent_encoded(value))));
    headers
}

fn attributes(event: &Event, version: Version, put: &mut dyn FnMut(&str, &str)) {
    let content = &event.content;
    put("id", content.id.as_str());
    put("source", content.source.as_deref().unwrap_or("urn:hms-ess"));
    put("type", &format!("hms.ess.{}", content.kind.word()));
    put("subject", content.subject.as_str());
    put("time", content.time.as_deref().unwrap_or(&event.recorded_at.to_string()));
    put("hmsversion", &version.to_string());
    put("hmssequence", &event.seq.to_string());
    if content.priority == Priority::Urgent {
        put("hmspriority", content.priority.word());
    }
    if content.kind != Kind::Change {
        put("hmskind", content.kind.word());
    }
    if content.test {
        put("hmstest", "true");
    }
    if !content.references.is_empty() {
        put("hmsreferences", &content.references.iter().map(EventId::as_str).collect::<Vec<_>>().join(","));
    }
    for (name, value) in [("hmseffective", &content.effective), ("hmsexpires", &content.expires)] {
        if let Some(value) = value {
            put(name, value);
        }
    }
}

/// CloudEvents HTTP binding, section 3.1.3.2: blank, quote, percent and what is no printable ASCII.
fn percent_encoded(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if matches!(byte, 0x21..=0x7e) && !matches!(byte, b'"' | b'%') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Builds the native form and reads that, so that one parser holds the rules.
fn assemble(attributes: &[(String, String)], data: Option<Box<RawValue>>, test: bool) -> Result<Content, Problem> {
    let attribute = |name: &str| attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    match attribute("specversion") {
        Some("1.0") => {}
        Some(other) => {
            let detail = format!("specversion must be 1.0, not {}", other.chars().take(20).collect::<String>());
            return Err(Problem::new(Code::Invalid, detail).with_field("specversion"));
        }
        None => return Err(missing("specversion", "a CloudEvent says `\"specversion\": \"1.0\"`")),
    }
    for required in ["id", "source", "type"] {
        if attribute(required).is_none_or(str::is_empty) {
            return Err(missing(required, "CloudEvents 1.0 requires id, source, specversion and type"));
        }
    }
    let version = attribute("hmsversion")
        .ok_or_else(|| missing("hmsversion", "say the payload's schema version, such as `\"hmsversion\": \"3\"`"))?;
    let data = data.ok_or_else(|| missing("data", "the payload is `data`"))?;
    let mut native = String::from("{");
    for (name, field) in CARRIED {
        let Some(value) = attribute(name) else { continue };
        let value = match field {
            "references" => serde_json::json!(value.split(',').map(str::trim).collect::<Vec<_>>()),
            _ => serde_json::json!(value),
        };
        native.push_str(&format!("\"{field}\":{value},"));
    }
    let is_test = test || attribute("hmstest") == Some("true");
    native.push_str("\"payload\":null,\"version\":1}");
    let mut content = Content::from_json(native.as_bytes(), is_test)?;
    content.version = crate::event::read_version(version, "hmsversion")?;
    content.payload = Arc::from(data);
    Ok(content)
}

fn scalar(json: &str) -> String {
    serde_json::from_str::<String>(json).unwrap_or_else(|_| json.to_owned())
}

/// HTTP protocol binding, section 3.1.3.2: header values are percent-encoded.
fn percent_decoded(value: &str) -> String {
    let bytes = value.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| value.get(at + 1..at + 3)).flatten();
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn missing(field: &str, hint: &str) -> Problem {
    Problem::new(Code::Invalid, format!("attribute {field} is missing")).with_field(field).with_hint(hint)
}

fn no_binary_data() -> Problem {
    Problem::new(Code::Invalid, "the payload must be JSON, not binary data").with_field("data_base64")
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = r#"{"specversion":"1.0","id":"R-V3","source":"/gov","type":"rule.changed","hmsversion":"3","hmskind":"correction","hmsreferences":"A,B","data":{"n":9007199254740993}}"#;

    #[test]
    fn a_null_attribute_is_absent_and_a_nested_one_refused() {
        let with = |more: &str| EVENT.replacen('{', &format!("{{{more},"), 1);
        let content = from_structured(with(r#""subject":null,"hmspriority":null"#).as_bytes(), false).unwrap();
        assert_eq!((content.subject.as_str(), content.priority), ("R", Priority::Routine));
        let problem = from_structured(with(r#""subject":{"a":1}"#).as_bytes(), false).unwrap_err();
        assert_eq!(problem.field.as_deref(), Some("subject"));
    }

    #[test]
    fn the_three_modes_mean_the_same() {
        let structured = from_structured(EVENT.as_bytes(), false).unwrap();
        assert_eq!((structured.version, structured.kind), (Version(3), Kind::Correction));
        assert_eq!(structured.references.len(), 2);
        assert_eq!(structured.payload.get(), r#"{"n":9007199254740993}"#);
        let headers = [
            ("ce-specversion", "1.0"),
            ("ce-id", "R-V3"),
            ("ce-source", "%2Fgov"),
            ("ce-type", "rule.changed"),
            ("ce-hmsversion", "3"),
            ("ce-hmskind", "correction"),
            ("ce-hmsreferences", "A,B"),
            ("content-type", "application/json"),
        ];
        let binary = from_binary(&headers, br#"{"n":9007199254740993}"#, false).unwrap();
        assert_eq!(binary.digest(), structured.digest());
        let batch = from_batch(format!("[{EVENT},{{}}]").as_bytes(), false).unwrap();
        assert_eq!(batch[0].as_ref().unwrap().digest(), structured.digest());
        assert_eq!(batch[1].as_ref().unwrap_err().field.as_deref(), Some("specversion"));
    }

    #[test]
    fn what_is_missing_is_named() {
        for name in ["id", "source", "type", "specversion", "hmsversion", "data"] {
            let text = EVENT.replace(&format!("\"{name}\""), "\"other\"");
            assert_eq!(from_structured(text.as_bytes(), false).unwrap_err().field.as_deref(), Some(name));
        }
    }

    #[test]
    fn the_binary_mode_is_read_back() {
        let body = br#"{"id":"R-V3","version":3,"payload":[1],"source":"a \u00e9\"%","priority":"urgent"}"#;
        let event = Event {
            seq: crate::id::Seq(1),
            recorded_at: crate::time::Time::from_micros(0),
            content: Content::from_json(body, false).unwrap(),
            trace: crate::event::Trace::default(),
            content_digest: crate::id::Digest([0; 32]),
            message_uuid: uuid::Uuid::nil(),
            gone: None,
        };
        let headers = binary(&event, Version(3));
        assert!(headers.contains(&("ce-source".to_owned(), "a%20%C3%A9%22%25".to_owned())));
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let content = from_binary(&headers, b"[1]", false).unwrap();
        assert_eq!((&content.source, content.version), (&event.content.source, Version(3)));
    }

    proptest::proptest! {
        #[test]
        fn any_headers_are_an_error_or_an_event(value in ".{0,40}", body in ".{0,60}") {
            let headers = [("ce-specversion", "1.0"), ("ce-id", value.as_str()), ("ce-source", value.as_str()), ("ce-type", "t"), ("ce-hmsversion", value.as_str()), ("ce-time", value.as_str())];
            let _ = from_binary(&headers, body.as_bytes(), false);
            let _ = from_structured(body.as_bytes(), false);
            let _ = from_batch(body.as_bytes(), false);
        }
    }
}
