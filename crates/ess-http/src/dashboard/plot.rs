//! Small plots of the last hour, drawn here as SVG paths; each says in words what it shows. Pure.

use std::fmt::Write as _;
use std::time::Duration;

use ess_hub::flow::Minute;

use super::words;

/// Units of the drawing: four for each minute.
#[cfg(test)]
pub(crate) const WIDTH: u32 = 240;
/// Units from the ground to the top.
pub(crate) const HEIGHT: u32 = 60;
const STEP: u32 = 4;

/// One plot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plot {
    /// For the ids of its parts.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// What a glance is for.
    pub(crate) figure: String,
    pub(crate) unit: &'static str,
    /// The same in words.
    pub(crate) words: String,
    /// What the top of the drawing stands for.
    pub(crate) top: String,
    pub(crate) marks: Vec<Mark>,
}

/// One thing that is drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Its look.
    pub(crate) class: &'static str,
    /// What it is.
    pub(crate) label: String,
    pub(crate) path: String,
}

/// Events recorded in each minute.
pub(crate) fn events(hour: &[Minute]) -> Plot {
    let counts: Vec<u64> = hour.iter().map(|minute| minute.events).collect();
    let top = counts.iter().copied().max().unwrap_or(0);
    let now = last_whole(&counts);
    Plot {
        name: "events",
        title: "Events recorded",
        figure: words::number(now),
        unit: "in the last minute",
        words: format!(
            "{} in the last hour; at most {} in a minute.",
            words::number(counts.iter().sum()),
            words::number(top)
        ),
        top: words::number(top),
        marks: vec![Mark { class: "bars", label: "events".to_owned(), path: bars(&counts, top) }],
    }
}

/// Deliveries acknowledged and attempts failed in each minute.
pub(crate) fn deliveries(hour: &[Minute]) -> Plot {
    let acked: Vec<u64> = hour.iter().map(|minute| minute.acked).collect();
    let failed: Vec<u64> = hour.iter().map(|minute| minute.failed).collect();
    let top = acked.iter().chain(&failed).copied().max().unwrap_or(0);
    let (acked_all, failed_all) = (acked.iter().sum(), failed.iter().sum());
    let failures: Vec<Option<f64>> = failed.iter().map(|count| Some(share(*count, top))).collect();
    let mut marks = vec![Mark { class: "bars", label: "acknowledged".to_owned(), path: bars(&acked, top) }];
    if failed_all > 0 {
        marks.push(Mark { class: "line bad", label: "failed attempts".to_owned(), path: line(&failures) });
    }
    Plot {
        name: "deliveries",
        title: "Deliveries acknowledged",
        figure: words::number(last_whole(&acked)),
        unit: "in the last minute",
        words: format!(
            "{} acknowledged and {} in the last hour.",
            words::number(acked_all),
            words::count(failed_all, "failed attempt", "failed attempts")
        ),
        top: words::number(top),
        marks,
    }
}

/// From recording to the ACK, in each minute: half, and 99 of 100. The height is logarithmic.
pub(crate) fn spans(hour: &[Minute]) -> Plot {
    let us = |span: Option<Duration>| span.map(|span| span.as_secs_f64() * 1e6);
    let all: Vec<f64> = hour.iter().flat_map(|minute| [us(minute.p50), us(minute.p99)]).flatten().collect();
    let top = all.iter().copied().fold(0.0, f64::max);
    let ground = all.iter().copied().fold(f64::INFINITY, f64::min) / 2.0;
    let height = |span: Option<Duration>| us(span).map(|us| (us / ground).ln() / (top / ground).ln());
    let p50: Vec<Option<f64>> = hour.iter().map(|minute| height(minute.p50)).collect();
    let p99: Vec<Option<f64>> = hour.iter().map(|minute| height(minute.p99)).collect();
    let newest = hour.iter().rev().find_map(|minute| minute.p50.zip(minute.p99));
    let said = |span: Duration| words::span(span);
    let top_said = if all.is_empty() { "-".to_owned() } else { said(Duration::from_micros(top as u64)) };
    Plot {
        name: "spans",
        title: "Publish to ACK",
        figure: newest.map_or_else(|| "-".to_owned(), |(p50, _)| said(p50)),
        unit: "half of them, newest minute with any",
        words: match newest {
            Some((p50, p99)) => {
                format!(
                    "Newest: half within {}, 99 of 100 within {}. Slowest minute: {top_said}.",
                    said(p50),
                    said(p99)
                )
            }
            None => "No acknowledgement in the last hour.".to_owned(),
        },
        top: top_said,
        marks: vec![
            Mark { class: "line soft", label: "99 of 100".to_owned(), path: line(&p99) },
            Mark { class: "line", label: "half".to_owned(), path: line(&p50) },
        ],
    }
}

/// The minute that runs is not over: the one before it, unless this one has more already.
fn last_whole(counts: &[u64]) -> u64 {
    counts.iter().rev().take(2).copied().max().unwrap_or(0)
}

/// A count as a share of the highest one.
pub(super) fn share(count: u64, top: u64) -> f64 {
    if top == 0 { 0.0 } else { count as f64 / top as f64 }
}

/// A bar for each count that is not nothing.
pub(super) fn bars(counts: &[u64], top: u64) -> String {
    let mut path = String::new();
    for (index, count) in (0u32..).zip(counts).filter(|(_, count)| **count > 0) {
        // One event in a busy hour is still seen.
        let height = (share(*count, top) * f64::from(HEIGHT)).max(1.5);
        // Writing to a string never fails.
        let _ = write!(path, "M{} {HEIGHT}v-{height:.1}h3v{height:.1}z", index * STEP);
    }
    path
}

/// A line through the middle of the minutes; it breaks where there is nothing, and a lone minute is a short stroke.
pub(super) fn line(heights: &[Option<f64>]) -> String {
    let mut path = String::new();
    let mut is_drawing = false;
    for (index, height) in (0u32..).zip(heights) {
        let Some(height) = height.filter(|height| height.is_finite()) else {
            is_drawing = false;
            continue;
        };
        let y = f64::from(HEIGHT) * (1.0 - height.clamp(0.0, 1.0));
        let x = index * STEP;
        let _ = match is_drawing {
            true => write!(path, "L{} {y:.1}", x + 2),
            false => write!(path, "M{x} {y:.1}h2"),
        };
        is_drawing = true;
    }
    path
}

#[cfg(test)]
mod tests {
    use ess_core::time::Time;

    use super::*;

    fn hour(filled: &[(usize, u64, u64)]) -> Vec<Minute> {
        let empty = Minute { at: Time::from_micros(0), events: 0, acked: 0, failed: 0, p50: None, p99: None };
        let mut hour = vec![empty; 60];
        for (index, acked, ms) in filled {
            let span = Some(Duration::from_millis(*ms));
            hour[*index] =
                Minute { events: 1, acked: *acked, failed: 0, p50: span, p99: span.map(|span| span * 3), ..empty };
        }
        hour
    }

    #[test]
    fn an_empty_hour_is_drawn_as_nothing_and_said_as_such() {
        let plot = spans(&hour(&[]));
        assert_eq!((plot.figure.as_str(), plot.marks[0].path.as_str()), ("-", ""));
        assert_eq!(plot.words, "No acknowledgement in the last hour.");
        assert_eq!(events(&hour(&[])).figure, "0");
    }

    #[test]
    fn every_number_in_a_drawing_is_finite_and_inside() {
        for filled in [vec![(59, 1, 5)], vec![(0, 1, 5), (1, 100, 5), (59, 7, 50_000)], vec![(3, u64::MAX / 64, 1)]] {
            let hour = hour(&filled);
            for plot in [events(&hour), deliveries(&hour), spans(&hour)] {
                for mark in plot.marks {
                    assert!(!mark.path.contains("NaN") && !mark.path.contains("inf"), "{}", mark.path);
                    let numbers = mark.path.split(|c: char| !c.is_ascii_digit() && c != '.').filter(|n| !n.is_empty());
                    assert!(numbers.map(|n| n.parse::<f64>().unwrap()).all(|n| n <= f64::from(WIDTH)), "{}", mark.path);
                }
            }
        }
    }

    #[test]
    fn the_minute_that_runs_counts_once_it_is_ahead() {
        assert_eq!(deliveries(&hour(&[(58, 40, 5), (59, 3, 5)])).figure, "40");
        assert_eq!(deliveries(&hour(&[(58, 3, 5), (59, 40, 5)])).figure, "40");
    }
}
