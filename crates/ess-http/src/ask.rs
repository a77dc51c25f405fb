//! What handlers ask of a request: who sends it, its query, its body; each strict and bounded.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use ess_core::access::{Act, Principal};
use ess_core::id::{EventId, PartnerId};
use ess_core::limits::{ADMIN_BYTES_MAX, REASON_BYTES_MAX};
use ess_core::nearest::nearest;
use ess_core::problem::{Code, Problem};
use ess_hub::Hub;
use http::{HeaderMap, Request, header};
use http_body_util::BodyExt as _;

/// The longest pause in a body.
const BODY_PAUSE_MAX: Duration = Duration::from_secs(10);
/// The longest that a body may take in all.
const BODY_TIME_MAX: Duration = Duration::from_secs(120);
/// Items of a page when nothing is asked.
const LIMIT_DEFAULT: u32 = 100;
/// Items of a page at most.
const LIMIT_MAX: u32 = 1_000;

/// The bearer of the request's token.
pub(crate) fn caller(hub: &Hub, headers: &HeaderMap) -> Result<Principal, Problem> {
    let refuse = |detail: &str| {
        Problem::new(Code::Unauthenticated, detail)
            .with_hint("send `Authorization: Bearer <token>`; an admin makes tokens by `hms-ess token create --role R`")
    };
    let value = headers.get(header::AUTHORIZATION).ok_or_else(|| refuse("this route needs a token"))?;
    let text = value.to_str().unwrap_or_default();
    let token =
        text.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
    let token = token.ok_or_else(|| refuse("the Authorization header holds no bearer token"))?;
    hub.authenticate(token).ok_or_else(|| refuse("the token is unknown, expired or revoked"))
}

/// Refuses what the caller's role does not allow.
pub(crate) fn allow(caller: &Principal, act: &Act<'_>) -> Result<(), Problem> {
    if caller.role.permits(act) {
        return Ok(());
    }
    let detail = match act {
        Act::Publish(subject) => format!("this token may not publish events of {subject}"),
        Act::ReadPartner(partner) | Act::Acknowledge(partner) => format!("this token is not one of partner {partner}"),
        _ => format!("a token of role {} may not do this", caller.role.word()),
    };
    Err(Problem::new(Code::Forbidden, detail).with_hint("ask an admin for a token with the role that it takes"))
}

/// The caller, if the role allows the act.
pub(crate) fn authorize(hub: &Hub, headers: &HeaderMap, act: &Act<'_>) -> Result<Principal, Problem> {
    let caller = caller(hub, headers)?;
    allow(&caller, act)?;
    Ok(caller)
}

/// The operator's reason for the audit trail.
pub(crate) fn reason(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("x-hms-reason") else { return Ok(None) };
    let text = String::from_utf8_lossy(value.as_bytes()).trim().to_owned();
    if text.len() > REASON_BYTES_MAX {
        let detail = format!("X-HMS-Reason has more than {REASON_BYTES_MAX} bytes");
        return Err(Problem::new(Code::Invalid, detail).with_field("X-HMS-Reason"));
    }
    Ok((!text.is_empty()).then_some(text))
}

/// A query, taken field by field; what is left over was misspelt.
pub(crate) struct Query {
    pairs: Vec<(String, String)>,
    known: Vec<&'static str>,
}

impl Query {
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let text = request.uri().query().unwrap_or_default();
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        });
        Self { pairs: pairs.collect(), known: Vec::new() }
    }

    pub(crate) fn take(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        let at = self.pairs.iter().position(|(known, _)| known == name)?;
        Some(self.pairs.remove(at).1)
    }

    pub(crate) fn flag(&mut self, name: &'static str) -> Result<bool, Problem> {
        match self.take(name).as_deref() {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1" | "") => Ok(true),
            Some(_) => Err(invalid(name, "expected true or false")),
        }
    }

    pub(crate) fn number(&mut self, name: &'static str) -> Result<Option<u64>, Problem> {
        let text = self.take(name);
        text.map(|text| text.parse().map_err(|_| invalid(name, "expected a whole number"))).transpose()
    }

    pub(crate) fn limit(&mut self) -> Result<u32, Problem> {
        match self.number("limit")? {
            None => Ok(LIMIT_DEFAULT),
            Some(limit) => u32::try_from(limit)
                .ok()
                .filter(|limit| (1..=LIMIT_MAX).contains(limit))
                .ok_or_else(|| invalid("limit", &format!("expected 1 to {LIMIT_MAX}"))),
        }
    }

    pub(crate) fn span(&mut self, name: &'static str) -> Result<Option<Duration>, Problem> {
        let text = self.take(name);
        text.map(|text| ess_core::duration::parse(&text).map_err(|wrong| invalid(name, &wrong))).transpose()
    }

    /// Refuses what nobody asked for.
    pub(crate) fn finish(self) -> Result<(), Problem> {
        let Some((name, _)) = self.pairs.first() else { return Ok(()) };
        let problem = invalid(name, "unknown query parameter, or given twice");
        Err(match nearest(name, &self.known) {
            Some(meant) => problem.with_hint(format!("did you mean `{meant}`?")),
            None if self.known.is_empty() => problem.with_hint("this route takes none"),
            None => problem.with_hint(format!("known here: {}", self.known.join(", "))),
        })
    }
}

/// The body, at most `max` bytes; a longer one is refused unread where its length is known.
pub(crate) async fn body(request: Request<Body>, max: usize) -> Result<Bytes, Problem> {
    let too_large = || {
        let detail = format!("the body has more than {max} bytes");
        Problem::new(Code::TooLarge, detail)
    };
    let length =
        request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > max as u64) {
        return Err(too_large());
    }
    let mut body = request.into_body();
    let deadline = tokio::time::Instant::now() + BODY_TIME_MAX;
    let mut whole: Option<Bytes> = None;
    let mut joined: Vec<u8> = Vec::new();
    loop {
        let pause = (tokio::time::Instant::now() + BODY_PAUSE_MAX).min(deadline);
        let Ok(frame) = tokio::time::timeout_at(pause, body.frame()).await else {
            return Err(Problem::new(Code::RequestTimeout, "the body did not arrive in time")
                .with_hint("send it again; an event's id makes that safe"));
        };
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| Problem::new(Code::Malformed, "the body ended too early"))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.as_ref().map_or(0, Bytes::len) + joined.len() + data.len() > max {
            return Err(too_large());
        }
        // One frame is the rule: it is not copied.
        match whole.take() {
            None if joined.is_empty() => whole = Some(data),
            first => {
                joined.extend_from_slice(&first.unwrap_or_default());
                joined.extend_from_slice(&data);
            }
        }
    }
    Ok(whole.unwrap_or_else(|| joined.into()))
}

/// A JSON document of an administrative request; an empty body is an empty map.
pub(crate) async fn json(request: Request<Body>) -> Result<serde_json::Value, Problem> {
    let body = body(request, ADMIN_BYTES_MAX).await?;
    if body.trim_ascii().is_empty() {
        return Ok(serde_json::json!({}));
    }
    let text = std::str::from_utf8(&body).map_err(|_| Problem::new(Code::Malformed, "the body is not UTF-8"))?;
    ess_core::json::check_nesting(text)?;
    let value: serde_json::Value = serde_json::from_str(text).map_err(|error| {
        let position = (u32::try_from(error.line()).unwrap_or(1), u32::try_from(error.column()).unwrap_or(1));
        Problem::new(Code::Malformed, format!("the body is not JSON: {error}")).with_position(position.0, position.1)
    })?;
    if !value.is_object() {
        return Err(Problem::new(Code::Malformed, "the body must be a JSON object"));
    }
    Ok(value)
}

/// Reads a document into a struct that refuses unknown fields.
pub(crate) fn read<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Result<T, Problem> {
    serde_json::from_value(value).map_err(|error| {
        let said = error.to_string();
        // serde names the field between backticks.
        let field = said.split('`').nth(1).map(str::to_owned);
        let problem = Problem::new(Code::Invalid, said);
        match field {
            Some(field) => problem.with_field(field),
            None => problem,
        }
    })
}

/// An event's id in a path.
pub(crate) fn event_id(text: &str) -> Result<EventId, Problem> {
    EventId::parse(text)
}

/// A partner's id in a path.
pub(crate) fn partner_id(text: &str) -> Result<PartnerId, Problem> {
    PartnerId::parse(text)
}

pub(crate) fn invalid(field: &str, what: &str) -> Problem {
    Problem::new(Code::Invalid, format!("{field}: {what}")).with_field(field)
}

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match (bytes[at], hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (_, Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (b'+', None) => {
                out.push(b' ');
                at += 1;
            }
            (byte, None) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
