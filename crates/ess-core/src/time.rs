//! Points in time and their distance; never the clock itself.

use std::fmt;
use std::time::Duration;

/// A point in time: microseconds since 1970-01-01T00:00:00Z, as it is stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Time(i64);

impl Time {
    /// The time `micros` microseconds after the epoch.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the epoch.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// This time and `span` later; stays at the far end instead of overflowing.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)))
    }

    /// Reads RFC 3339, such as `2026-11-23T16:00:00Z`.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse_rfc3339(text: &str) -> Result<Self, String> {
        // Longer than any form of it; jiff takes more than RFC 3339 does, hence the look at the shape.
        let bytes = text.as_bytes();
        let has_shape = (20..=64).contains(&bytes.len())
            && bytes[4] == b'-'
            && bytes[7] == b'-'
            && matches!(bytes[10], b'T' | b't' | b' ')
            && bytes[13] == b':'
            && !text.contains('[');
        let parsed = if has_shape { text.parse::<jiff::Timestamp>().ok() } else { None };
        parsed
            .map(|timestamp| Self(timestamp.as_microsecond()))
            .ok_or_else(|| format!("expected an RFC 3339 time such as 2026-11-23T16:00:00Z, found {text:?}"))
    }

    /// How long ago `earlier` was; zero when it lies in the future.
    #[must_use]
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// RFC 3339 in UTC, with as many fractional digits as the value has (0, 3 or 6).
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(timestamp) => write!(f, "{timestamp}"),
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}
