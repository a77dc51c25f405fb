//! A partner's document: JSON (from YAML or the API) to a checked `Partner` and back.

use std::time::Duration;

use serde_json::{Value, json};

use super::ack::{read_ack, write_ack};
use super::auth::{read_auth, write_auth};
use super::channel::own_fields;
use super::part::{Part, expected, invalid, join, plain, shown};
use super::words::{ORDERS, REDRIVES, word_of};
use super::{
    AckBy, ChannelKind, Escalate, Fallback, Format, Glob, Limits, Order, Partner, Redrive, RetryPolicy, Settings, Tests,
};
use crate::duration;
use crate::id::{PartnerId, Subject, Version};
use crate::limits::{GLOBS_MAX, HEADER_BYTES_MAX, HEADERS_MAX, IN_FLIGHT_MAX, SCRIPT_BYTES_MAX};
use crate::problem::Problem;

/// Whether secrets that stand in the document itself are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrets {
    /// For the sealed store.
    Shown,
    /// For everyone else: `(sealed)`.
    Masked,
}

pub(super) const FIELDS: [&str; 17] = [
    "id",
    "channel",
    "url",
    "subscribe",
    "where",
    "accepts_version",
    "adapter",
    "format",
    "ack",
    "retry",
    "order",
    "limits",
    "timeout",
    "auth",
    "escalate",
    "zone",
    "fallback",
];
/// What a fallback has of its own, beside what belongs to its channel.
const FALLBACK_FIELDS: [&str; 6] = ["channel", "url", "ack", "auth", "headers", "timeout"];
/// Headers that the hub sets itself.
const OWN_HEADERS: [&str; 7] =
    ["host", "content-length", "content-type", "transfer-encoding", "connection", "authorization", "user-agent"];

impl Partner {
    /// Reads a partner's document, adapter as text.
    ///
    /// # Errors
    /// A field that is missing, unknown or out of bounds, which is named.
    pub fn from_json(document: &Value) -> Result<Self, Problem> {
        let mut known = FIELDS.to_vec();
        known.push("tests");
        known.extend(own_fields());
        let part = Part::of(document, "", &known)?;
        let id = PartnerId::parse(&part.need_text("id")?)?;
        let channel = ChannelKind::read(&part)?;
        let url = channel.read_url(&part)?;
        let ack = read_ack(&part, channel)?;
        let format = channel.read_format(&part)?;
        let filter = part.text("where")?;
        let adapter = part.text("adapter")?;
        for (name, script) in [("where", &filter), ("adapter", &adapter)] {
            if script.as_ref().is_some_and(|text| text.trim().is_empty() || text.len() > SCRIPT_BYTES_MAX) {
                return Err(invalid(name, &format!("expected a script of 1 to {SCRIPT_BYTES_MAX} bytes")));
            }
        }
        let timeout_default = if ack.by == AckBy::Body { ack.within } else { Duration::from_secs(30) };
        let timeout = part.span("timeout", timeout_default)?;
        if timeout.is_zero() || timeout > Duration::from_secs(600) {
            return Err(invalid("timeout", "expected 1ms to 10m"));
        }
        let zone = part.text("zone")?;
        if zone.as_ref().is_some_and(|zone| jiff::tz::TimeZone::get(zone).is_err()) {
            return Err(invalid("zone", "expected an IANA time zone such as America/Chicago"));
        }
        let shape = Shape { format, adapter: adapter.as_deref() };
        let fallback = part.get("fallback").map(|value| read_fallback(value, &id, &shape)).transpose()?;
        Ok(Self {
            id,
            channel,
            url,
            settings: Settings::read(&part, channel)?,
            subscribe: read_subscribe(&part)?,
            filter,
            accepts_version: read_versions(&part)?,
            adapter,
            format,
            retry: read_retry(&part)?,
            order: part.word("order", Order::Subject, &ORDERS)?,
            limits: read_limits(&part)?,
            timeout,
            headers: read_headers(&part)?,
            auth: part.get("auth").map(|auth| read_auth(auth, channel)).transpose()?,
            escalate: part.get("escalate").map(read_escalate).transpose()?,
            zone,
            fallback,
            tests: read_tests(&part, channel)?,
            heartbeat: read_heartbeat(&part)?,
            clean_after: read_clean(&part)?,
            ack,
        })
    }

    /// The complete document, defaults included; `from_json` reads it back.
    #[must_use]
    pub fn to_json(&self, secrets: Secrets) -> Value {
        let mut document = json!({
            "id": self.id.as_str(),
            "channel": self.channel.word(),
            "subscribe": self.subscribe.iter().map(Glob::as_str).collect::<Vec<_>>(),
            "format": self.format.word(),
            "ack": write_ack(&self.ack),
            "retry": {
                "first": duration::format(self.retry.first),
                "factor": plain(self.retry.factor),
                "max": duration::format(self.retry.max),
                "jitter": plain(self.retry.jitter),
                "give_up_after": duration::format(self.retry.give_up_after),
                "redrive": word_of(&REDRIVES, self.retry.redrive),
            },
            "order": word_of(&ORDERS, self.order),
            "limits": {"in_flight": self.limits.in_flight, "per_second": plain(self.limits.per_second)},
            "timeout": duration::format(self.timeout),
            "tests": match &self.tests {
                Tests::Deliver => "deliver",
                Tests::Skip => "skip",
                Tests::To(url) => url,
            },
        });
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                document[name] = value;
            }
        };
        put("url", self.url.as_ref().map(|url| json!(url)));
        put("where", self.filter.as_ref().map(|filter| json!(filter)));
        put("adapter", self.adapter.as_ref().map(|adapter| json!(adapter)));
        put("clean", self.clean_after.map(|span| json!({"after": duration::format(span)})));
        put("heartbeat", self.heartbeat.map(|span| json!(duration::format(span))));
        put("zone", self.zone.as_ref().map(|zone| json!(zone)));
        put("auth", self.auth.as_ref().map(|auth| write_auth(auth, secrets)));
        put("accepts_version", write_versions(&self.accepts_version));
        put(
            "headers",
            (!self.headers.is_empty()).then(|| self.headers.iter().cloned().map(|(k, v)| (k, json!(v))).collect()),
        );
        let escalate = |escalate: &Escalate| json!({"after": duration::format(escalate.after), "to": escalate.to});
        put("escalate", self.escalate.as_ref().map(escalate));
        put("fallback", self.fallback.as_ref().map(|fallback| write_fallback(fallback, secrets)));
        if let Value::Object(document) = &mut document {
            self.settings.write(document);
        }
        document
    }

    /// The version that it pinned for this subject: the first fitting glob, most specific first; absent means as published.
    #[must_use]
    pub fn pinned_version(&self, subject: &Subject) -> Option<Version> {
        self.accepts_version.iter().find(|(glob, _)| glob.matches(subject.as_str())).map(|(_, version)| *version)
    }

    /// Whether it subscribed to this subject.
    #[must_use]
    pub fn wants(&self, subject: &Subject) -> bool {
        self.subscribe.iter().any(|glob| glob.matches(subject.as_str()))
    }
}

impl Glob {
    /// Takes a pattern.
    ///
    /// # Errors
    /// Empty or too long.
    pub fn parse(pattern: &str) -> Result<Self, String> {
        if pattern.is_empty() || pattern.len() > crate::limits::GLOB_BYTES_MAX {
            return Err(format!("expected a pattern of 1 to {} bytes", crate::limits::GLOB_BYTES_MAX));
        }
        Ok(Self(pattern.to_owned()))
    }
}

/// The fields that differ, a line each, such as `accepts_version: 1 -> 2`.
#[must_use]
pub fn differences(old: &Partner, new: &Partner) -> Vec<String> {
    let (before, after) = (old.to_json(Secrets::Masked), new.to_json(Secrets::Masked));
    let mut lines = Vec::new();
    compare("", &before, &after, &mut lines);
    if lines.is_empty() && old != new {
        lines.push("auth: (sealed) -> (another secret)".to_owned());
    }
    lines
}

fn compare(path: &str, before: &Value, after: &Value, lines: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
            names.sort();
            names.dedup();
            for name in names {
                let (old, new) = (old.get(name).unwrap_or(&Value::Null), new.get(name).unwrap_or(&Value::Null));
                compare(&join(path, name), old, new, lines);
            }
        }
        _ if before == after => {}
        _ => lines.push(format!("{path}: {} -> {}", shown(before), shown(after))),
    }
}

fn read_retry(part: &Part<'_>) -> Result<RetryPolicy, Problem> {
    let empty = json!({});
    let known = ["first", "factor", "max", "jitter", "give_up_after", "redrive"];
    let retry = Part::of(part.get("retry").unwrap_or(&empty), "retry", &known)?;
    let policy = RetryPolicy {
        first: retry.span("first", Duration::from_secs(5))?,
        factor: retry.number("factor", 2.0, 1.0..=100.0)?,
        max: retry.span("max", Duration::from_secs(3600))?,
        jitter: retry.number("jitter", 0.2, 0.0..=1.0)?,
        give_up_after: retry.span("give_up_after", Duration::from_secs(86_400))?,
        redrive: retry.word("redrive", Redrive::OnRecovery, &REDRIVES)?,
    };
    if policy.first < Duration::from_millis(10) {
        return Err(invalid("retry.first", "expected at least 10ms: a shorter wait is a storm"));
    }
    if policy.max < policy.first {
        return Err(invalid("retry.max", "expected at least retry.first"));
    }
    Ok(policy)
}

fn read_limits(part: &Part<'_>) -> Result<Limits, Problem> {
    let empty = json!({});
    let limits = Part::of(part.get("limits").unwrap_or(&empty), "limits", &["in_flight", "per_second"])?;
    Ok(Limits {
        in_flight: limits.count("in_flight", 16, 1..=IN_FLIGHT_MAX)?,
        per_second: limits.number("per_second", 0.0, 0.0..=100_000.0)?,
    })
}

fn read_subscribe(part: &Part<'_>) -> Result<Vec<Glob>, Problem> {
    let globs = part.texts("subscribe")?.unwrap_or_else(|| vec!["*".to_owned()]);
    if globs.is_empty() || globs.len() > GLOBS_MAX {
        return Err(invalid("subscribe", &format!("expected 1 to {GLOBS_MAX} patterns; to stop a partner, pause it")));
    }
    globs.iter().map(|glob| Glob::parse(glob).map_err(|wrong| invalid("subscribe", &wrong))).collect()
}

fn read_versions(part: &Part<'_>) -> Result<Vec<(Glob, Version)>, Problem> {
    let field = "accepts_version";
    let number = |value: &Value| crate::event::read_version(&value.to_string(), field);
    match part.get(field) {
        None => Ok(Vec::new()),
        Some(Value::Object(map)) => {
            if map.len() > GLOBS_MAX {
                return Err(invalid(field, &format!("expected at most {GLOBS_MAX} patterns")));
            }
            let mut versions = Vec::new();
            for (glob, value) in map {
                versions.push((Glob::parse(glob).map_err(|wrong| invalid(field, &wrong))?, number(value)?));
            }
            // A map has no order, so the pattern that says more goes first.
            versions.sort_by(|(a, _), (b, _)| {
                let literal = |glob: &Glob| glob.as_str().bytes().filter(|byte| *byte != b'*').count();
                (literal(b), a.as_str()).cmp(&(literal(a), b.as_str()))
            });
            Ok(versions)
        }
        Some(value) => Ok(vec![(Glob::trusted("*"), number(value)?)]),
    }
}

fn write_versions(versions: &[(Glob, Version)]) -> Option<Value> {
    match versions {
        [] => None,
        [(glob, version)] if glob.as_str() == "*" => Some(json!(version.0)),
        many => Some(many.iter().map(|(glob, version)| (glob.as_str().to_owned(), json!(version.0))).collect()),
    }
}

fn read_headers(part: &Part<'_>) -> Result<Vec<(String, String)>, Problem> {
    let Some(value) = part.get("headers") else { return Ok(Vec::new()) };
    let Value::Object(map) = value else { return Err(expected("headers", "a map", value)) };
    if map.len() > HEADERS_MAX {
        return Err(invalid("headers", &format!("expected at most {HEADERS_MAX}")));
    }
    let mut headers = Vec::new();
    for (name, value) in map {
        let path = join("headers", name);
        let lower = name.to_ascii_lowercase();
        let is_token = http::header::HeaderName::from_bytes(lower.as_bytes()).is_ok();
        let is_own =
            OWN_HEADERS.contains(&lower.as_str()) || lower.starts_with("webhook-") || lower.starts_with("x-hms-");
        if !is_token || is_own {
            return Err(invalid(&path, "not a header that a partner may set: it is malformed or the hub's own"));
        }
        let Value::String(text) = value else { return Err(expected(&path, "a text", value)) };
        if text.len() > HEADER_BYTES_MAX || http::HeaderValue::from_str(text).is_err() {
            return Err(invalid(&path, &format!("expected at most {HEADER_BYTES_MAX} printable bytes")));
        }
        headers.push((lower, text.clone()));
    }
    Ok(headers)
}

fn read_escalate(value: &Value) -> Result<Escalate, Problem> {
    let part = Part::of(value, "escalate", &["after", "to"])?;
    let to = part.texts("to")?.unwrap_or_default();
    Ok(Escalate { after: part.span("after", Duration::from_secs(900))?, to })
}

/// What the body looks like, by whatever channel it goes.
struct Shape<'a> {
    format: Format,
    adapter: Option<&'a str>,
}

/// A channel of its own, so with the fields of a partner that belong to one.
fn read_fallback(value: &Value, id: &PartnerId, shape: &Shape<'_>) -> Result<Fallback, Problem> {
    let mut known = FALLBACK_FIELDS.to_vec();
    known.push("after");
    known.extend(own_fields());
    let part = Part::of(value, "fallback", &known)?;
    let after = part.span("after", Duration::from_secs(600))?;
    let mut document = value.clone();
    if let Value::Object(fields) = &mut document {
        fields.remove("after");
        fields.insert("id".to_owned(), json!(id.as_str()));
        fields.insert("format".to_owned(), json!(shape.format.word()));
        fields.insert("adapter".to_owned(), json!(shape.adapter));
    }
    let within = |problem: Problem| {
        let field = problem.field.as_ref().map_or_else(|| "fallback".to_owned(), |field| format!("fallback.{field}"));
        problem.with_field(&field)
    };
    let partner = Partner::from_json(&document).map_err(within)?;
    if partner.channel == ChannelKind::Pull {
        return Err(invalid("fallback.channel", "a fallback brings the event to the partner; pull waits for it"));
    }
    Ok(Fallback { after, partner: Box::new(partner) })
}

fn write_fallback(fallback: &Fallback, secrets: Secrets) -> Value {
    let mut document = fallback.partner.to_json(secrets);
    if let Value::Object(fields) = &mut document {
        fields
            .retain(|name, _| FALLBACK_FIELDS.contains(&name.as_str()) || own_fields().any(|own| own == name.as_str()));
        fields.insert("after".to_owned(), json!(duration::format(fallback.after)));
    }
    document
}

/// `clean: {after: 30d}`.
fn read_clean(part: &Part<'_>) -> Result<Option<Duration>, Problem> {
    let Some(value) = part.get("clean") else { return Ok(None) };
    let clean = Part::of(value, "clean", &["after"])?;
    if clean.get("after").is_none() {
        return Err(invalid("clean.after", "it is missing").with_hint("write `clean: {after: 30d}`"));
    }
    let after = clean.span("after", Duration::ZERO)?;
    if after < Duration::from_secs(1) || after > Duration::from_secs(10 * 366 * 86_400) {
        return Err(invalid("clean.after", "expected 1s to 10y"));
    }
    Ok(Some(after))
}

fn read_heartbeat(part: &Part<'_>) -> Result<Option<Duration>, Problem> {
    if part.get("heartbeat").is_none() {
        return Ok(None);
    }
    let heartbeat = part.span("heartbeat", Duration::ZERO)?;
    if heartbeat < Duration::from_secs(1) || heartbeat > Duration::from_secs(7 * 86_400) {
        return Err(invalid("heartbeat", "expected 1s to 7d"));
    }
    Ok(Some(heartbeat))
}

fn read_tests(part: &Part<'_>, channel: ChannelKind) -> Result<Tests, Problem> {
    match part.text("tests")?.as_deref() {
        None | Some("deliver") => Ok(Tests::Deliver),
        Some("skip") => Ok(Tests::Skip),
        Some(url) if url.contains("://") => channel.check_url(url, "tests").map(Tests::To),
        Some(other) => Err(invalid("tests", &format!("expected deliver, skip or an address, found {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(document: Value) -> Result<Partner, Problem> {
        Partner::from_json(&document)
    }

    #[test]
    fn the_missions_four_lines_are_a_complete_partner() {
        let partner = read(json!({"id": "COURT-CAL", "url": "https://api.courtcal.com/update", "accepts_version": 1, "channel": "webhook"})).unwrap();
        assert_eq!(partner.pinned_version(&Subject::trusted("ANY")), Some(Version(1)));
        assert_eq!((partner.ack.by, partner.ack.within, partner.ack.resend), (AckBy::Body, Duration::from_secs(30), 3));
        assert_eq!(partner.retry.give_up_after, Duration::from_secs(86_400));
        assert_eq!(Partner::from_json(&partner.to_json(Secrets::Shown)).unwrap(), partner);
    }

    #[test]
    fn a_full_document_is_read_back_as_it_was() {
        let partner = read(json!({
            "id": "P", "url": "https://p.example/x?y=1", "subscribe": ["RULE-*"], "where": "payload.county = \"Cook\"",
            "accepts_version": {"RULE-COURT-*": 1, "*": 2}, "adapter": "payload", "format": "form",
            "ack": {"by": "callback", "within": "2s", "resend": 0},
            "retry": {"first": "1s", "factor": 1.5, "max": "10m", "jitter": 0, "give_up_after": "7d", "redrive": "manual"},
            "order": "latest", "limits": {"in_flight": 2, "per_second": 0.5}, "timeout": "10s",
            "headers": {"X-Agency": "AOC"}, "auth": {"basic": {"user": "u", "password": "secret"}},
            "escalate": {"after": "15m", "to": ["ops-email"]}, "zone": "America/Chicago", "tests": "skip",
            "fallback": {"channel": "email", "url": "smtps://x.example?to=clerk@x.example", "after": "10m"},
        })).unwrap();
        assert_eq!(partner.pinned_version(&Subject::trusted("RULE-COURT-X")), Some(Version(1)));
        assert_eq!(partner.pinned_version(&Subject::trusted("OTHER")), Some(Version(2)));
        assert_eq!(Partner::from_json(&partner.to_json(Secrets::Shown)).unwrap(), partner);
        assert!(!partner.to_json(Secrets::Masked).to_string().contains("secret"));
    }

    #[track_caller]
    fn check_refused(change: (&str, Value), field: &str) {
        let mut document = json!({"id": "P", "url": "https://p.example"});
        document[change.0] = change.1;
        assert_eq!(read(document).expect_err(field).field.as_deref(), Some(field));
    }

    #[test]
    fn what_is_wrong_is_named() {
        check_refused(("id", json!("a b")), "id");
        check_refused(("url", json!("ftp://x")), "url");
        check_refused(("url", json!("https://user:pw@x")), "url");
        check_refused(("accepts_version", json!("one")), "accepts_version");
        check_refused(("accepts_version", json!(0)), "accepts_version");
        check_refused(("ack", json!({"by": "telepathy"})), "ack.by");
        check_refused(("ack", json!({"wihtin": "3s"})), "ack.wihtin");
        check_refused(("retry", json!({"factor": 0.5})), "retry.factor");
        check_refused(("limits", json!({"in_flight": 0})), "limits.in_flight");
        check_refused(("headers", json!({"Host": "x"})), "headers.Host");
        check_refused(("zone", json!("Moon/Base")), "zone");
        check_refused(("chanel", json!("webhook")), "chanel");
        check_refused(("auth", json!({"bearer": "x", "basic": {}})), "auth");
    }

    #[test]
    fn differences_are_told_field_by_field() {
        let old = read(json!({"id": "P", "url": "https://p.example", "accepts_version": 1})).unwrap();
        let new = read(json!({"id": "P", "url": "https://p.example", "accepts_version": 2, "retry": {"first": "1s"}}))
            .unwrap();
        assert_eq!(differences(&old, &new), ["accepts_version: 1 -> 2", "retry.first: 5s -> 1s"]);
        assert!(differences(&old, &old).is_empty());
    }
}
