//! A partner's last day as a small plot, drawn here as SVG paths, with the same in words. Pure.

use std::fmt::Write as _;

use ess_core::time::Time;
use ess_hub::past::{Day, QUARTERS};

use super::plot::{HEIGHT, bars, line, share};
use super::words;

/// Units of the drawing for each quarter of an hour.
const STEP: u32 = 4;
/// Its width.
pub(crate) const WIDTH: u32 = STEP * QUARTERS as u32;
/// A span offline is at least so wide: a short one is seen, too.
const SPAN_WIDTH_MIN: f64 = 1.5;

/// The plot.
pub(crate) struct DayPlot {
    pub(crate) width: u32,
    pub(crate) acked: String,
    pub(crate) failed: String,
    pub(crate) offline: String,
    /// The same in words.
    pub(crate) words: String,
    /// What the top stands for.
    pub(crate) top: String,
    /// Clock times beneath it: where it begins, its middle, now.
    pub(crate) clocks: [String; 3],
}

/// A partner's last day, as of now.
pub(crate) fn plot(day: &Day, now: Time) -> DayPlot {
    let acked: Vec<u64> = day.quarters.iter().map(|quarter| u64::from(quarter.acked)).collect();
    let failed: Vec<u64> = day.quarters.iter().map(|quarter| u64::from(quarter.failed)).collect();
    let top = acked.iter().chain(&failed).copied().max().unwrap_or(0);
    let failed_all: u64 = failed.iter().sum();
    let failures: Vec<Option<f64>> = failed.iter().map(|count| (*count > 0).then(|| share(*count, top))).collect();
    let clock = |time: Option<Time>| {
        time.map_or_else(String::new, |time| words::to_second(time).get(11..16).unwrap_or_default().to_owned())
    };
    DayPlot {
        width: WIDTH,
        acked: bars(&acked, top),
        failed: if failed_all > 0 { line(&failures) } else { String::new() },
        offline: offline(day, now),
        words: said(day, acked.iter().sum(), failed_all),
        top: words::number(top),
        clocks: [
            clock(day.quarters.first().map(|quarter| quarter.at)),
            clock(day.quarters.get(QUARTERS / 2).map(|quarter| quarter.at)),
            clock(Some(now)),
        ],
    }
}

fn offline(day: &Day, now: Time) -> String {
    let Some(begin) = day.quarters.first().map(|quarter| quarter.at) else { return String::new() };
    let whole = now.since(begin).as_secs_f64().max(1.0);
    let width = f64::from(WIDTH);
    let mut path = String::new();
    for (from, to) in &day.offline {
        let x = |time: Time| time.since(begin).as_secs_f64() / whole * width;
        let (left, right) = (x(*from).min(width - SPAN_WIDTH_MIN), x(*to).min(width));
        // Writing to a string never fails.
        let _ = write!(path, "M{left:.1} 0h{:.1}v{HEIGHT}h-{0:.1}z", (right - left).max(SPAN_WIDTH_MIN));
    }
    path
}

fn said(day: &Day, acked: u64, failed: u64) -> String {
    let mut said = format!(
        "{} acknowledged, {} in the last 24 hours",
        words::number(acked),
        words::count(failed, "failed attempt", "failed attempts")
    );
    let offline = match day.offline.len() {
        0 => "; never offline.".to_owned(),
        1 => format!("; offline once, for {}.", words::span(day.offline_for())),
        times => format!("; offline {times} times, for {} in all.", words::span(day.offline_for())),
    };
    said.push_str(&offline);
    said
}

#[cfg(test)]
mod tests {
    use ess_hub::past::Quarter;

    use super::*;

    const QUARTER_US: i64 = 900_000_000;

    fn at(quarter: i64) -> Time {
        Time::from_micros(quarter * QUARTER_US)
    }

    fn day(offline: Vec<(Time, Time)>) -> Day {
        let quarters = (0..QUARTERS as i64).map(|number| Quarter { at: at(number), acked: 0, failed: 0 });
        Day { quarters: quarters.collect(), offline }
    }

    #[test]
    fn an_empty_day_is_said_as_such_and_drawn_as_nothing() {
        let plot = plot(&day(Vec::new()), at(96));
        assert_eq!((plot.acked.as_str(), plot.failed.as_str(), plot.offline.as_str()), ("", "", ""));
        assert_eq!(plot.words, "0 acknowledged, 0 failed attempts in the last 24 hours; never offline.");
        assert_eq!(plot.clocks[0], "00:00");
        assert_eq!(super::plot(&Day::default(), at(96)).offline, "", "a partner without a lane");
    }

    #[test]
    fn spans_offline_are_drawn_where_they_were_and_stay_inside() {
        let mut full = day(vec![(at(0), at(48)), (at(95), at(96)), (at(96), at(96))]);
        full.quarters[95].acked = u32::MAX;
        full.quarters[3].failed = 7;
        let plot = plot(&full, at(96));
        assert!(plot.offline.starts_with("M0.0 0h192.0v60"), "{}", plot.offline);
        assert!(plot.words.ends_with("offline 3 times, for 12 h 15 min in all."), "{}", plot.words);
        for path in [&plot.acked, &plot.failed, &plot.offline] {
            let numbers = path.split(|c: char| !c.is_ascii_digit() && c != '.').filter(|text| !text.is_empty());
            assert!(
                numbers.map(|text| text.parse::<f64>().unwrap()).all(|number| number <= f64::from(WIDTH)),
                "{path}"
            );
        }
    }
}
