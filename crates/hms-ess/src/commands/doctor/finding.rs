//! Findings: one shape for all that the doctor says, and the pure decisions behind them.

use std::time::Duration;

use ess_core::duration;
use serde_json::{Value, json};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grade {
    /// All is well.
    Ok,
    /// Works, and somebody should look at it.
    Warn,
    /// Does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// What was looked at, such as `certificate`.
    pub(crate) check: &'static str,
    pub(crate) grade: Grade,
    /// What was found.
    pub(crate) what: String,
    pub(crate) why: Option<String>,
    pub(crate) what_to_do: Option<String>,
}

/// A certificate that ends sooner is worth a look; the hub renews its own a month before.
const CERTIFICATE_SOON: Duration = Duration::from_secs(14 * 86_400);
/// A token that ends sooner is worth a look.
const TOKEN_SOON: Duration = Duration::from_secs(14 * 86_400);
/// Clocks that differ by more are worth a look, and by more than this they break things: partners refuse signatures that are
/// five minutes old.
const SKEW_WARN_S: i64 = 5;
const SKEW_FAIL_S: i64 = 120;
/// Room that a hub should have beside what it needs at least.
const ROOM_FACTOR: u64 = 16;

impl Grade {
    /// As it is printed.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

impl Finding {
    /// All is well.
    pub(crate) fn ok(check: &'static str, what: impl Into<String>) -> Self {
        Self { check, grade: Grade::Ok, what: what.into(), why: None, what_to_do: None }
    }

    /// Worth a look.
    pub(crate) fn warn(
        check: &'static str,
        what: impl Into<String>,
        why: impl Into<String>,
        what_to_do: impl Into<String>,
    ) -> Self {
        let (why, what_to_do) = (Some(why.into()), Some(what_to_do.into()));
        Self { check, grade: Grade::Warn, what: what.into(), why, what_to_do }
    }

    /// Does not work.
    pub(crate) fn fail(
        check: &'static str,
        what: impl Into<String>,
        why: impl Into<String>,
        what_to_do: impl Into<String>,
    ) -> Self {
        Self { grade: Grade::Fail, ..Self::warn(check, what, why, what_to_do) }
    }

    /// The finding for programs.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "check": self.check,
            "grade": self.grade.word(),
            "what": self.what,
            "why": self.why,
            "what_to_do": self.what_to_do,
        })
    }
}

/// A certificate whose validity ends at this second of the epoch.
pub(crate) fn certificate(name: &str, ends_s: i64, now_s: i64, renews_itself: bool) -> Finding {
    let left = Duration::from_secs(u64::try_from(ends_s - now_s).unwrap_or(0));
    let what_to_do = if renews_itself {
        "the hub renews it by itself a month before its end, while it runs: start it, or send it SIGHUP"
    } else {
        "get a new one, put it and its key in the same files, and send the hub SIGHUP"
    };
    if ends_s <= now_s {
        let why = "no client trusts a certificate after its end";
        return Finding::fail("certificate", format!("{name} has expired"), why, what_to_do);
    }
    let what = format!("{name} is valid for {}", duration::spoken(left));
    if left < CERTIFICATE_SOON {
        return Finding::warn("certificate", what, "after its end nobody can reach the hub", what_to_do);
    }
    Finding::ok("certificate", what)
}

/// Clocks that differ by so many seconds; positive: the hub's is ahead.
pub(crate) fn clock(ahead_s: i64) -> Finding {
    let side = if ahead_s > 0 { "ahead of" } else { "behind" };
    let what = format!("the hub's clock is {} s {side} this machine's", ahead_s.abs());
    let why = "partners refuse signatures whose time is off by five minutes, and receipts bear the hub's time";
    let what_to_do = "let both follow a time server: `timedatectl` says whether they do";
    match ahead_s.abs() {
        // The header has whole seconds, and the answer was a moment on its way.
        0..=1 => Finding::ok("clock", "the hub's clock and this machine's agree"),
        2..=SKEW_WARN_S => Finding::ok("clock", what),
        skew if skew < SKEW_FAIL_S => Finding::warn("clock", what, why, what_to_do),
        _ => Finding::fail("clock", what, why, what_to_do),
    }
}

/// A data directory with so much room, below which publishes are refused.
pub(crate) fn space(dir: &str, free: u64, least: u64) -> Finding {
    let what = format!("{} free in {dir}", bytes(free));
    let what_to_do = "free some, move the data directory, or shorten `keep_events` and `keep_attempts`";
    if free < least {
        let why = format!("below {} the hub refuses publishes (`free_bytes_min`)", bytes(least));
        return Finding::fail("disk", what, why, what_to_do);
    }
    if free < least.saturating_mul(ROOM_FACTOR) {
        let why = format!("below {} the hub refuses publishes (`free_bytes_min`)", bytes(least));
        return Finding::warn("disk", what, why, what_to_do);
    }
    Finding::ok("disk", what)
}

/// A token that ends so soon; nothing to say of one that lives on.
pub(crate) fn token(name: &str, left: Duration) -> Option<Finding> {
    (left < TOKEN_SOON).then(|| {
        let what = format!("token {name} ends in {}", duration::spoken(left));
        let what_to_do = "make a new one with `hms-ess token create`, hand it over, then revoke this one";
        Finding::warn("token", what, "whoever bears it is refused after that", what_to_do)
    })
}

/// The date of an HTTP header (RFC 9110 section 5.6.7), `Thu, 26 Nov 2026 20:21:23 GMT`, as RFC 3339 writes it.
pub(crate) fn rfc3339(date: &str) -> Option<String> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = date.split_ascii_whitespace().collect();
    let [_, day, month, year, time, "GMT"] = words[..] else { return None };
    let month = MONTHS.iter().position(|known| *known == month)? + 1;
    Some(format!("{year}-{month:02}-{day}T{time}Z"))
}

/// A size for people.
pub(crate) fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes >> 10),
        1_048_576..10_737_418_240 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_graded_by_what_is_left_of_it() {
        let check = |days: i64, grade: Grade| {
            assert_eq!(certificate("hub.pem", 1_000_000 + days * 86_400, 1_000_000, true).grade, grade, "{days}");
        };
        check(300, Grade::Ok);
        check(13, Grade::Warn);
        check(0, Grade::Fail);
        check(-5, Grade::Fail);
    }

    #[test]
    fn a_clock_is_graded_by_how_far_it_is_off_to_either_side() {
        for (skew, grade) in [(0, Grade::Ok), (-1, Grade::Ok), (5, Grade::Ok), (-6, Grade::Warn), (400, Grade::Fail)] {
            assert_eq!(clock(skew).grade, grade, "{skew}");
        }
        assert!(clock(-30).what.contains("30 s behind"));
    }

    #[test]
    fn the_date_of_a_header_is_read_as_http_writes_it() {
        assert_eq!(rfc3339("Thu, 26 Nov 2026 20:21:23 GMT").as_deref(), Some("2026-11-26T20:21:23Z"));
        assert_eq!(rfc3339("yesterday"), None);
    }

    #[test]
    fn room_is_graded_by_what_the_hub_refuses_at() {
        let least = 64 << 20;
        for (free, grade) in [(10 << 20, Grade::Fail), (100 << 20, Grade::Warn), (100 << 30, Grade::Ok)] {
            assert_eq!(space("/data", free, least).grade, grade, "{free}");
        }
    }

    #[test]
    fn whatever_is_not_well_says_why_and_what_to_do() {
        let findings = [
            certificate("x", 0, 1, false),
            clock(60),
            clock(600),
            space("/data", 1, 2),
            token("tok_1", Duration::from_secs(60)).unwrap(),
        ];
        for finding in findings {
            assert!(finding.why.is_some() && finding.what_to_do.is_some(), "{finding:?}");
        }
        assert_eq!(token("tok_1", Duration::from_secs(90 * 86_400)), None);
    }
}
