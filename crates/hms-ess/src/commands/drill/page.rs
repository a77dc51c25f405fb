//! The report as one page that needs nothing else: no script, nothing fetched, light and dark, for print and for screen readers.

use std::time::Duration;

use askama::Template;

use super::report::{Line, Outcome, Report};
use crate::failure::{Failure, Result};
use crate::output;

/// The spans that ACKs are counted by.
const SPANS: [(u64, &str); 7] = [
    (100, "0.1 s"),
    (500, "0.5 s"),
    (1_000, "1 s"),
    (5_000, "5 s"),
    (15_000, "15 s"),
    (30_000, "30 s"),
    (60_000, "60 s"),
];
/// Height of the plot's tallest bar, and the room of one bar.
const TALLEST: u64 = 96;
const STEP: usize = 76;

#[derive(Template)]
#[template(path = "drill.html")]
struct Page<'a> {
    report: &'a Report,
    sentence: String,
    facts: Vec<(&'static str, String)>,
    rows: Vec<Row<'a>>,
    bars: Vec<Bar>,
    width: usize,
    plot_in_words: String,
}

struct Row<'a> {
    line: &'a Line,
    /// A shape beside the word, so that colour says nothing alone.
    mark: &'static str,
    tone: &'static str,
    took: String,
}

struct Bar {
    x: usize,
    y: u64,
    height: u64,
    label: &'static str,
    count: usize,
    is_missing: bool,
}

/// The page.
pub(crate) fn render(report: &Report) -> Result<String> {
    let rows = report.lines.iter().map(|line| {
        let (mark, tone) = match line.outcome {
            Outcome::Acked => ("✔", "good"),
            Outcome::Received => ("◐", "warn"),
            Outcome::Missed => ("✖", "bad"),
            Outcome::Skipped => ("–", "calm"),
        };
        Row { line, mark, tone, took: line.took.map(output::span).unwrap_or_default() }
    });
    let counts = counts(report);
    let bars = bars(&counts);
    let page = Page {
        sentence: report.sentence(),
        facts: facts(report),
        rows: rows.collect(),
        width: bars.len() * STEP + 8,
        plot_in_words: in_words(&counts),
        bars,
        report,
    };
    page.render().map_err(|error| Failure::refused(format!("could not write the report's page: {error}")))
}

fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let second = |time: ess_core::time::Time| {
        let text = time.to_string();
        text.split('.').next().unwrap_or_default().trim_end_matches('Z').replace('T', " ") + " UTC"
    };
    let span = |span: Option<Duration>| span.map_or_else(|| "none".to_owned(), output::span);
    let mut facts = vec![
        ("Began", second(report.begun_at)),
        ("Ended", second(report.ended_at)),
        ("Waited at most", ess_core::duration::format(report.wait)),
        ("Hub", report.hub.clone()),
        ("Sent", report.events.join(", ")),
        ("Partners asked", report.told().to_string()),
        ("Acknowledged", report.count(Outcome::Acked).to_string()),
        ("Received, no ACK", report.count(Outcome::Received).to_string()),
        ("Not received", report.count(Outcome::Missed).to_string()),
        ("Skipped", report.count(Outcome::Skipped).to_string()),
        ("Half acknowledged within", span(report.p50)),
        ("99 in 100 within", span(report.p99)),
        ("The slowest after", span(report.max)),
    ];
    if let Some(reason) = &report.reason {
        facts.insert(0, ("Reason", reason.clone()));
    }
    facts
}

/// ACKs by the span that they came within; the last two are later ones and none.
fn counts(report: &Report) -> Vec<(&'static str, usize)> {
    let mut counts: Vec<(&'static str, usize)> = SPANS.iter().map(|(_, label)| (*label, 0)).collect();
    counts.extend([("later", 0), ("no ACK", 0)]);
    for line in report.lines.iter().filter(|line| line.outcome != Outcome::Skipped) {
        let at = match line.took {
            None => SPANS.len() + 1,
            Some(took) => {
                let fits = |(ms, _): &(u64, &str)| took <= Duration::from_millis(*ms);
                SPANS.iter().position(fits).unwrap_or(SPANS.len())
            }
        };
        counts[at].1 += 1;
    }
    counts
}

fn bars(counts: &[(&'static str, usize)]) -> Vec<Bar> {
    let most = counts.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1) as u64;
    let made = counts.iter().enumerate().map(|(at, (label, count))| {
        let height = (*count as u64 * TALLEST / most).max(u64::from(*count > 0) * 2);
        let is_missing = at + 1 == counts.len();
        Bar { x: at * STEP + 8, y: TALLEST + 20 - height, height, label, count: *count, is_missing }
    });
    made.collect()
}

fn in_words(counts: &[(&'static str, usize)]) -> String {
    let told = counts.iter().enumerate().filter(|(_, (_, count))| *count > 0).map(|(at, (label, count))| match at {
        at if at < SPANS.len() => format!("{count} within {label}"),
        at if at == SPANS.len() => format!("{count} later"),
        _ => format!("{count} without"),
    });
    told.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn the_page_tells_every_partner_escapes_what_they_said_and_fetches_nothing() {
        let page = render(&report()).unwrap();
        for line in &report().lines {
            assert!(page.contains(&format!("<th scope=\"row\">{}</th>", line.partner)), "{}", line.partner);
        }
        assert!(page.contains("503 &#60;b&#62;Busy") && !page.contains("<b>Busy"), "{page}");
        assert!(page.contains("<html lang=\"en\">") && page.contains("<caption>") && page.contains("role=\"img\""));
        for fetched in ["<script", "<link", "src=", "@import", "url("] {
            assert!(!page.contains(fetched), "{fetched}");
        }
    }

    #[test]
    fn the_plot_is_told_in_words_too() {
        assert_eq!(in_words(&counts(&report())), "1 within 0.1 s, 1 within 5 s, 2 without");
    }
}
