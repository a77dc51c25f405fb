//! Quiet hours: `22:00-06:00 America/Chicago`. What is not urgent waits for their end.

use jiff::civil::{DateTime, Time as Clock};
use jiff::tz::{Disambiguation, TimeZone};
use jiff::{Timestamp, ToSpan as _, ZonedDateTime};

use crate::time::Time;

/// A span of each day in a time zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quiet {
    from: Clock,
    to: Clock,
    zone: TimeZone,
    text: String,
}

impl Quiet {
    /// Reads `HH:MM-HH:MM ZONE`; the zone is UTC when it is left away.
    ///
    /// # Errors
    /// Anything else, or a span of no length.
    pub fn parse(text: &str) -> Result<Self, String> {
        let refuse = || format!("expected hours such as \"22:00-06:00 America/Chicago\", found {text:?}");
        let (hours, zone) = text.trim().split_once(' ').unwrap_or((text.trim(), "UTC"));
        let (from, to) = hours.split_once('-').ok_or_else(refuse)?;
        let clock = |text: &str| {
            let (hour, minute) = text.split_once(':')?;
            let is_short = hour.len() <= 2 && minute.len() == 2;
            is_short.then_some(())?;
            Clock::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()
        };
        let (from, to) = (clock(from).ok_or_else(refuse)?, clock(to).ok_or_else(refuse)?);
        if from == to {
            return Err(format!("expected a span of less than a day, found {text:?}"));
        }
        let zone = TimeZone::get(zone.trim()).map_err(|_| format!("{zone:?} is no IANA time zone"))?;
        Ok(Self { from, to, zone, text: text.trim().to_owned() })
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// When these quiet hours end; `None` when it is not quiet at `now`.
    #[must_use]
    pub fn end(&self, now: Time) -> Option<Time> {
        let local = self.local(now)?;
        let clock = local.time();
        let (is_quiet, is_tomorrow) = if self.from < self.to {
            (self.from <= clock && clock < self.to, false)
        } else {
            (clock >= self.from || clock < self.to, clock >= self.from)
        };
        if !is_quiet {
            return None;
        }
        let day = if is_tomorrow { local.date().checked_add(1.day()).ok()? } else { local.date() };
        let end = DateTime::from_parts(day, self.to);
        // An hour that comes twice in autumn: its first end may have passed.
        for which in [Disambiguation::Compatible, Disambiguation::Later] {
            let end = self.zone.to_ambiguous_zoned_datetime(end).disambiguate(which).ok()?;
            let end = Time::from_micros(end.timestamp().as_microsecond());
            if end > now {
                return Some(end);
            }
        }
        None
    }

    fn local(&self, now: Time) -> Option<ZonedDateTime> {
        let now = Timestamp::from_microsecond(now.as_micros()).ok()?;
        Some(now.to_zoned_datetime(self.zone.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Time {
        Time::parse_rfc3339(text).unwrap()
    }

    #[track_caller]
    fn check(quiet: &str, now: &str, end: Option<&str>) {
        assert_eq!(Quiet::parse(quiet).unwrap().end(at(now)), end.map(at), "{quiet} at {now}");
    }

    #[test]
    fn a_night_goes_over_midnight_in_its_own_zone() {
        let night = "22:00-06:00 America/Chicago";
        check(night, "2026-11-24T03:59:59Z", None);
        check(night, "2026-11-24T04:00:00Z", Some("2026-11-24T12:00:00Z"));
        check(night, "2026-11-24T11:59:59Z", Some("2026-11-24T12:00:00Z"));
        check(night, "2026-11-24T12:00:00Z", None);
        check("12:00-13:30", "2026-11-24T13:00:00Z", Some("2026-11-24T13:30:00Z"));
    }

    #[test]
    fn the_hour_that_comes_twice_and_the_one_that_is_left_out_both_end() {
        // 2026-11-01, 02:00 CDT becomes 01:00 CST: 01:30 comes twice.
        check("22:00-01:30 America/Chicago", "2026-11-01T06:10:00Z", Some("2026-11-01T06:30:00Z"));
        check("22:00-01:30 America/Chicago", "2026-11-01T07:10:00Z", Some("2026-11-01T07:30:00Z"));
        // 2026-03-08, 02:00 CST becomes 03:00 CDT: there is no 02:30.
        check("22:00-02:30 America/Chicago", "2026-03-08T07:00:00Z", Some("2026-03-08T08:30:00Z"));
    }

    #[test]
    fn what_are_no_hours_is_refused() {
        for bad in ["", "22-6", "22:00-22:00", "25:00-06:00", "22:00-06:00 Moon/Base", "22:0-06:00", "22:00"] {
            assert!(Quiet::parse(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn quiet_hours_end_after_now_and_within_a_day_and_some(from in 0u16..1440, length in 1u16..1440, minute in 0i64..600_000) {
            let to = (from + length) % 1440;
            let text = format!("{:02}:{:02}-{:02}:{:02} Europe/Berlin", from / 60, from % 60, to / 60, to % 60);
            let quiet = Quiet::parse(&text).unwrap();
            let now = Time::from_micros(1_767_225_600_000_000 + minute * 60_000_000);
            if let Some(end) = quiet.end(now) {
                proptest::prop_assert!(end > now);
                proptest::prop_assert!(end.since(now) <= std::time::Duration::from_secs(26 * 3600));
            }
        }
    }
}
