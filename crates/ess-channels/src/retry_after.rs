//! `Retry-After` (RFC 9110 section 10.2.3): seconds or a date, as a span from now.
//!
//! It never reads a clock of its own: the partner's `Date` is the measure, or the clock passed in.

use std::time::Duration;

use http::HeaderMap;
use http::header::{DATE, RETRY_AFTER};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

use crate::limits::RETRY_AFTER_MAX;

/// Reads the field; `None` when it is absent or is neither form.
pub(crate) fn retry_after(headers: &HeaderMap, now: fn() -> Timestamp) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if value.bytes().all(|byte| byte.is_ascii_digit()) && !value.is_empty() {
        // More digits than a u64 holds is as good as for ever.
        let seconds = value.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    }
    let then = parse_date(value)?;
    let measure = headers
        .get(DATE)
        .and_then(|date| parse_date(date.to_str().ok()?))
        .unwrap_or_else(now);
    let wait = Duration::try_from(then.duration_since(measure)).unwrap_or(Duration::ZERO);
    Some(wait.min(RETRY_AFTER_MAX))
}

fn parse_date(text: &str) -> Option<Timestamp> {
    static PARSER: DateTimeParser = DateTimeParser::new();
    PARSER.parse_timestamp(text).ok()
}
