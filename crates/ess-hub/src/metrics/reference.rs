//! Keeps docs/metrics.md, the rules and the dashboard in `ops/`, and what a scrape shows, in step with the list in the code.
//!
//! `HMS_ESS_WRITE=1 cargo test -p ess-hub metrics` writes docs/metrics.md anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::described::{COMMIT_SECONDS, Kind, METRICS};
use super::readings::Readings;
use super::{AttemptLabels, Metrics, OpsLabels, RemovedLabels};
use crate::scrape::PARTNER_SERIES_MAX;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every `ess_` name in a text, as queries write them: a histogram's series are the histogram's.
fn names_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("ess_")).map(|word| base(word).to_owned()).collect()
}

fn base(word: &str) -> &str {
    let histograms = METRICS.iter().filter(|metric| metric.kind == Kind::Histogram).map(|metric| metric.full_name());
    let ends = ["_bucket", "_sum", "_count"];
    for name in histograms {
        if let Some(end) = word.strip_prefix(name.as_str())
            && ends.contains(&end)
        {
            return &word[..name.len()];
        }
    }
    word
}

fn page(rules: &str, dashboard: &str) -> String {
    let mut page = format!(
        "# Metrics\n\n\
         What `/metrics` tells, on its own listener (`metrics_listen`, 127.0.0.1:9100 unless told otherwise).\n\
         This page is written from the code; a test holds it, the alerts and the dashboard to it.\n\n\
         Labels come from closed sets, so that no caller can make a series; only `partner` has as many values as there are \
         partners, and only the {PARTNER_SERIES_MAX} partners that need attention most have series of their own: those that \
         the dashboard lists first.\n\
         `ess_partner_unlisted_count` says how many more need attention.\n\
         A partner that is well has none.\n\n\
         | metric | kind | labels | meaning | watched by |\n|---|---|---|---|---|\n"
    );
    let alerts = rules.split("- alert: ").skip(1);
    let alerts: Vec<(&str, BTreeSet<String>)> =
        alerts.map(|rule| (rule.lines().next().unwrap_or_default().trim(), names_in(rule))).collect();
    let on_panel = names_in(dashboard);
    for metric in METRICS {
        let name = metric.full_name();
        let by = alerts.iter().filter(|(_, names)| names.contains(&name));
        let mut by: Vec<String> = by.map(|(alert, _)| format!("[{alert}](alerts/{alert}.md)")).collect();
        if on_panel.contains(&name) {
            by.push("dashboard".to_owned());
        }
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let kind = format!("{:?}", metric.kind).to_lowercase();
        writeln!(page, "| `{name}` | {kind} | {} | {} | {} |", labels.join(", "), metric.help, by.join(", ")).unwrap();
    }
    page
}

#[test]
fn the_reference_is_what_the_code_says() {
    let made = page(&read("ops/prometheus-rules.yml"), &read("ops/grafana-dashboard.json"));
    if std::env::var_os("HMS_ESS_WRITE").is_some() {
        std::fs::write(root().join("docs/metrics.md"), &made).unwrap();
    }
    assert_eq!(read("docs/metrics.md"), made, "write it anew: HMS_ESS_WRITE=1 cargo test -p ess-hub metrics");
}

#[test]
fn every_metric_is_watched_and_nothing_is_watched_that_is_not_there() {
    let watched: BTreeSet<String> = names_in(&read("ops/prometheus-rules.yml"))
        .union(&names_in(&read("ops/grafana-dashboard.json")))
        .cloned()
        .collect();
    let exported: BTreeSet<String> = METRICS.iter().map(super::described::Described::full_name).collect();
    let unwatched: Vec<_> = exported.difference(&watched).collect();
    assert!(unwatched.is_empty(), "neither an alert nor a panel: {unwatched:?}");
    let unknown: Vec<_> = watched.difference(&exported).collect();
    assert!(unknown.is_empty(), "watched, but the hub does not export it: {unknown:?}");
}

#[test]
fn a_scrape_shows_what_the_list_says_and_nothing_else() {
    let metrics = Metrics::default();
    metrics.count_end("ack", "webhook");
    metrics.attempts.get_or_create(&AttemptLabels { outcome: "acked", channel: "webhook" }).inc();
    metrics.removed.get_or_create(&RemovedLabels { what: "payloads" }).inc();
    metrics.escalation_messages.get_or_create(&OpsLabels { target: "log", result: "sent" }).inc();
    let mut readings = Readings::default();
    for metric in METRICS.iter().filter(|metric| metric.kind != Kind::Histogram) {
        let is_read = !metrics.text(Readings::default()).contains(&format!("# HELP ess_{} ", metric.name));
        match metric.labels {
            [] if is_read => readings.put(*metric, 1.0),
            [_] if is_read => readings.put_each(*metric, [("ONE".to_owned(), 1.0)]),
            _ => {}
        }
    }
    let buckets = vec![(Duration::from_millis(1), 2), (Duration::MAX, 1)];
    readings.put_commits(ess_store::CommitTimes { buckets, sum: Duration::from_millis(5) });
    let text = metrics.text(readings);
    let shown: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let kind = |kind: Kind| format!("{kind:?}").to_lowercase();
    let told: Vec<String> = METRICS.iter().map(|metric| format!("ess_{} {}", metric.name, kind(metric.kind))).collect();
    assert_eq!(shown, told.iter().map(String::as_str).collect(), "{text}");
    let name = COMMIT_SECONDS.full_name();
    for line in [format!("{name}_bucket{{le=\"0.001\"}} 2"), format!("{name}_bucket{{le=\"+Inf\"}} 3")] {
        assert!(text.contains(&line), "{line} is not in {text}");
    }
    assert!(text.contains(&format!("{name}_sum 0.005")) && text.contains(&format!("{name}_count 3")), "{text}");
}
