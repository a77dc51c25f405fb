//! Spans as people write them: `200ms`, `5s`, `15m`, `24h`, `7d`, `7y`.

use std::time::Duration;

use crate::limits::DURATION_MAX;

const UNITS: [(&str, u64); 6] =
    [("y", 365 * 86_400_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads a whole number with its unit: `ms`, `s`, `m`, `h`, `d` or `y` (365 days).
///
/// # Errors
/// Anything else, or more than a century.
pub fn parse(text: &str) -> Result<Duration, String> {
    let refuse = || format!("expected a duration such as 200ms, 5s, 15m, 24h or 7y, found {text:?}");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| refuse())?;
    let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(refuse)?;
    let span = number.checked_mul(*millis).map(Duration::from_millis).ok_or_else(refuse)?;
    if span > DURATION_MAX { Err(refuse()) } else { Ok(span) }
}

/// The shortest way to write a span that `parse` reads back; fractions of a millisecond are dropped.
#[must_use]
pub fn format(span: Duration) -> String {
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    // Days only from a week on: `24h` reads better than `1d`.
    let fitting =
        UNITS.iter().find(|(name, unit)| millis.is_multiple_of(*unit) && (*name != "d" || millis >= 7 * unit));
    fitting.map_or_else(|| format!("{millis}ms"), |(name, unit)| format!("{}{name}", millis / unit))
}

/// A span as one says it, in its two largest units: `15m 5s`, `2d 3h`.
#[must_use]
pub fn spoken(span: Duration) -> String {
    let seconds = span.as_secs();
    let units = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let Some(first) = units.iter().position(|(_, unit)| seconds >= *unit) else { return "0s".to_owned() };
    let (name, unit) = units[first];
    let whole = format!("{}{name}", seconds / unit);
    match units.get(first + 1) {
        Some((name, next)) if seconds % unit >= *next => format!("{whole} {}{name}", seconds % unit / next),
        _ => whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_units_of_the_contract_are_read() {
        for (text, seconds) in [("5s", 5.0), ("15m", 900.0), ("24h", 86_400.0), ("7y", 220_752_000.0), ("200ms", 0.2)] {
            let span = parse(text).unwrap();
            assert!((span.as_secs_f64() - seconds).abs() < 1e-9);
            assert_eq!(format(span), text);
        }
        for bad in ["", "5", "s", "-5s", "5 s", "5S", "1.5s", "99999999999999999999s", "101y"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_span_is_spoken_in_its_two_largest_units() {
        for (seconds, said) in [(0, "0s"), (59, "59s"), (60, "1m"), (905, "15m 5s"), (3_605, "1h"), (90_000, "1d 1h")] {
            assert_eq!(spoken(Duration::from_secs(seconds)), said);
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read_back(millis in 0u64..3_000_000_000_000) {
            let span = Duration::from_millis(millis);
            proptest::prop_assert_eq!(parse(&format(span)).unwrap(), span);
        }

        #[test]
        fn any_text_is_an_error_or_a_span(text in ".{0,30}") {
            let _ = parse(&text);
        }
    }
}
