//! Which kind of body a request brings, by its content type. Understands UTF-8 only, and no compression.

use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use ess_core::problem::{Code, Problem};

/// The kinds of body that a publish may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Media {
    /// One event in the hub's own shape.
    Native,
    /// One event, structured mode.
    CloudEvent,
    /// One event, binary mode: attributes are headers.
    CloudEventBinary,
    /// Many events in an array.
    CloudEventBatch,
    /// Many events in the hub's own shape, a line each.
    Lines,
}

impl Media {
    /// The kind of a publish.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        need_plain(headers)?;
        let kind = media_type(headers)?;
        let media = match kind.as_deref() {
            Some("application/cloudevents+json") => Media::CloudEvent,
            Some("application/cloudevents-batch+json") => Media::CloudEventBatch,
            Some("application/x-ndjson" | "application/ndjson" | "application/jsonl") => Media::Lines,
            None | Some("application/json") if headers.contains_key("ce-specversion") => Media::CloudEventBinary,
            None | Some("application/json") => Media::Native,
            Some(other) => {
                return Err(unsupported(other).with_hint(
                    "use application/json, application/cloudevents+json, application/cloudevents-batch+json or application/x-ndjson",
                ));
            }
        };
        Ok(media)
    }

    /// Whether it brings many events.
    pub(crate) fn is_bulk(self) -> bool {
        matches!(self, Media::CloudEventBatch | Media::Lines)
    }
}

/// Refuses a body that says that it is not JSON.
pub(crate) fn need_json(headers: &HeaderMap) -> Result<(), Problem> {
    need_plain(headers)?;
    match media_type(headers)?.as_deref() {
        None | Some("application/json") => Ok(()),
        Some(other) => Err(unsupported(other).with_hint("send `Content-Type: application/json`")),
    }
}

fn need_plain(headers: &HeaderMap) -> Result<(), Problem> {
    match headers.get(CONTENT_ENCODING).map(|value| value.as_bytes()) {
        None | Some(b"identity") => Ok(()),
        Some(_) => Err(Problem::new(Code::UnsupportedMediaType, "compressed bodies are not taken")
            .with_hint("send the body without Content-Encoding")),
    }
}

/// The media type in lower case, without parameters.
fn media_type(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(None) };
    // The common case, without an allocation's worth of care.
    let Ok(text) = value.to_str() else { return Err(unsupported("that content type")) };
    let mut parts = text.split(';');
    let kind = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
    for parameter in parts {
        let (name, charset) = parameter.split_once('=').unwrap_or((parameter, ""));
        let charset = charset.trim().trim_matches('"');
        let is_utf8 = ["utf-8", "utf8", "us-ascii"].iter().any(|known| charset.eq_ignore_ascii_case(known));
        if name.trim().eq_ignore_ascii_case("charset") && !is_utf8 {
            return Err(unsupported(&format!("charset {charset}")).with_hint("send UTF-8"));
        }
    }
    Ok((!kind.is_empty()).then_some(kind))
}

fn unsupported(what: &str) -> Problem {
    let shown: String = what.chars().filter(|character| !character.is_control()).take(80).collect();
    Problem::new(Code::UnsupportedMediaType, format!("{shown} is not understood here"))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[track_caller]
    fn check(headers: &[(&'static str, &'static str)], expected: Option<Media>) {
        let headers =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect();
        assert_eq!(Media::of(&headers).ok(), expected, "{headers:?}");
    }

    #[test]
    fn the_content_type_tells_the_kind_of_publish() {
        check(&[], Some(Media::Native));
        check(&[("content-type", "application/json")], Some(Media::Native));
        check(&[("content-type", "Application/JSON; charset=UTF-8")], Some(Media::Native));
        check(&[("content-type", "application/json; charset=\"utf-8\"")], Some(Media::Native));
        check(&[("content-type", "application/cloudevents+json; charset=utf-8")], Some(Media::CloudEvent));
        check(&[("content-type", "application/cloudevents-batch+json")], Some(Media::CloudEventBatch));
        check(&[("content-type", "application/x-ndjson")], Some(Media::Lines));
        check(&[("content-type", "application/json"), ("ce-specversion", "1.0")], Some(Media::CloudEventBinary));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        check(&[("content-type", "text/xml")], None);
        check(&[("content-type", "application/json; charset=latin1")], None);
        check(&[("content-type", "application/json"), ("content-encoding", "gzip")], None);
        check(&[("content-type", "application/x-www-form-urlencoded")], None);
    }
}
