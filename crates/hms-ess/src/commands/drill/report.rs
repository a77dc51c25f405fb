//! What a drill found, from what the hub said. Pure: it reads no clock and asks nobody.

use std::collections::HashMap;
use std::time::Duration;

use ess_core::time::Time;
use serde_json::{Value, json};

use crate::commands::field;
use crate::output;

/// A partner that the drill is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Its id.
    pub(crate) partner: String,
    /// Its channel's name.
    pub(crate) channel: String,
    /// It takes no tests.
    pub(crate) is_skipped: bool,
    /// Tests go to another address than real events.
    pub(crate) test_address: bool,
}

impl Asked {
    /// From the hub's word on the partner.
    pub(crate) fn of(view: &Value) -> Self {
        let config = &view["config"];
        let tests = field(config, "tests");
        Self {
            partner: field(view, "id"),
            channel: field(config, "channel"),
            is_skipped: tests == "skip",
            test_address: !matches!(tests.as_str(), "" | "skip" | "deliver"),
        }
    }
}

/// All that is known when the wait is over.
pub(crate) struct Facts {
    /// The hub's URL.
    pub(crate) hub: String,
    /// Why the drill was held.
    pub(crate) reason: Option<String>,
    /// When it began.
    pub(crate) begun_at: Time,
    /// When the wait was over.
    pub(crate) ended_at: Time,
    /// How long was waited at most.
    pub(crate) wait: Duration,
    /// The hub's own exercise, no event of an operator.
    pub(crate) is_exercise: bool,
    /// The dry runs that were sent.
    pub(crate) events: Vec<String>,
    /// Who was meant.
    pub(crate) asked: Vec<Asked>,
    /// What became of each partner's delivery.
    pub(crate) deliveries: HashMap<String, Value>,
    /// Why partners that are offline by now are so.
    pub(crate) offline: HashMap<String, String>,
}

/// How it went with one partner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// It got nothing, as far as anybody knows.
    Missed,
    /// It got the message and did not acknowledge it.
    Received,
    /// It acknowledged.
    Acked,
    /// It takes no tests.
    Skipped,
}

/// One partner of the report.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Line {
    pub(crate) partner: String,
    pub(crate) channel: String,
    pub(crate) outcome: Outcome,
    /// The hub's word for the delivery.
    pub(crate) state: String,
    /// From the recording to the acknowledgement.
    pub(crate) took: Option<Duration>,
    pub(crate) attempts: u64,
    /// It went to the partner's address for tests.
    pub(crate) test_address: bool,
    pub(crate) why: String,
    pub(crate) what_to_do: String,
}

/// The whole report.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) hub: String,
    pub(crate) reason: Option<String>,
    pub(crate) begun_at: Time,
    pub(crate) ended_at: Time,
    pub(crate) wait: Duration,
    pub(crate) events: Vec<String>,
    /// Those who failed first, then the slowest, those who take no tests last.
    pub(crate) lines: Vec<Line>,
    pub(crate) p50: Option<Duration>,
    pub(crate) p99: Option<Duration>,
    pub(crate) max: Option<Duration>,
}

impl Report {
    /// Sums it up.
    pub(crate) fn of(facts: Facts) -> Self {
        let Facts { hub, reason, begun_at, ended_at, wait, is_exercise, events, asked, deliveries, offline } = facts;
        let made = asked.into_iter().map(|one| {
            let delivery = deliveries.get(&one.partner).unwrap_or(&Value::Null);
            let offline = offline.get(&one.partner).map(String::as_str);
            line(one, delivery, offline, is_exercise)
        });
        let mut lines: Vec<Line> = made.collect();
        lines.sort_by(|a, b| {
            (a.outcome, std::cmp::Reverse(a.took), &a.partner).cmp(&(b.outcome, std::cmp::Reverse(b.took), &b.partner))
        });
        let mut spans: Vec<Duration> = lines.iter().filter_map(|line| line.took).collect();
        spans.sort_unstable();
        let quantile = |percent: usize| spans.get((spans.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        let (p50, p99, max) = (quantile(50), quantile(99), spans.last().copied());
        Self { hub, reason, begun_at, ended_at, wait, events, lines, p50, p99, max }
    }

    /// How many partners ended so.
    pub(crate) fn count(&self, outcome: Outcome) -> usize {
        self.lines.iter().filter(|line| line.outcome == outcome).count()
    }

    /// How many were sent it.
    pub(crate) fn told(&self) -> usize {
        self.lines.len() - self.count(Outcome::Skipped)
    }

    /// Whether everybody who was sent it acknowledged.
    pub(crate) fn is_complete(&self) -> bool {
        self.count(Outcome::Acked) == self.told()
    }

    /// The report in one sentence.
    pub(crate) fn sentence(&self) -> String {
        let (acked, told, skipped) = (self.count(Outcome::Acked), self.told(), self.count(Outcome::Skipped));
        let partners = if told == 1 { "partner" } else { "partners" };
        let pace = match (self.p50, self.p99, self.max) {
            (Some(p50), Some(p99), Some(max)) => {
                let [p50, p99, max] = [p50, p99, max].map(output::span);
                format!("; half within {p50}, 99 in 100 within {p99}, the slowest after {max}")
            }
            _ => String::new(),
        };
        let left_out = match skipped {
            0 => String::new(),
            1 => "; 1 takes no tests and was left out".to_owned(),
            skipped => format!("; {skipped} take no tests and were left out"),
        };
        format!(
            "{acked} of {told} {partners} acknowledged within {}{pace}{left_out}",
            ess_core::duration::format(self.wait)
        )
    }

    /// What tells this drill from others in a file's name.
    pub(crate) fn stamp(&self) -> String {
        let text = self.begun_at.to_string();
        let second = text.split('.').next().unwrap_or_default().trim_end_matches('Z');
        second.chars().filter(char::is_ascii_alphanumeric).chain(['Z']).collect()
    }

    /// The report for programs.
    pub(crate) fn to_json(&self) -> Value {
        let ms = |span: Option<Duration>| span.map(|span| (span.as_secs_f64() * 1e4).round() / 10.0);
        let lines = self.lines.iter().map(|line| {
            json!({
                "partner": line.partner,
                "channel": line.channel,
                "result": line.word(),
                "received": matches!(line.outcome, Outcome::Received | Outcome::Acked),
                "acknowledged": line.outcome == Outcome::Acked,
                "state": line.state,
                "took_ms": ms(line.took),
                "attempts": line.attempts,
                "test_address": line.test_address,
                "why": line.why,
                "what_to_do": line.what_to_do,
            })
        });
        json!({
            "complete": self.is_complete(),
            "hub": self.hub,
            "reason": self.reason,
            "begun_at": self.begun_at.to_string(),
            "ended_at": self.ended_at.to_string(),
            "wait": ess_core::duration::format(self.wait),
            "events": self.events,
            "asked": self.told(),
            "acknowledged": self.count(Outcome::Acked),
            "received_only": self.count(Outcome::Received),
            "missed": self.count(Outcome::Missed),
            "skipped": self.count(Outcome::Skipped),
            "p50_ms": ms(self.p50),
            "p99_ms": ms(self.p99),
            "max_ms": ms(self.max),
            "partners": lines.collect::<Vec<_>>(),
        })
    }
}

impl Line {
    /// The result in a word or two.
    pub(crate) fn word(&self) -> &'static str {
        match self.outcome {
            Outcome::Missed => "not received",
            Outcome::Received => "no ACK",
            Outcome::Acked => "ack",
            Outcome::Skipped => "skipped",
        }
    }
}

fn line(asked: Asked, delivery: &Value, offline: Option<&str>, is_exercise: bool) -> Line {
    let Asked { partner, channel, is_skipped, test_address } = asked;
    let state = if is_skipped { "skipped".to_owned() } else { field(delivery, "state") };
    let attempts = delivery["attempts"].as_array().map(Vec::as_slice).unwrap_or_default();
    // A partner that answered got the message, whatever it answered.
    let has_answered = |attempt: &Value| {
        attempt["status"].is_number()
            || matches!(attempt["outcome"].as_str(), Some("received" | "unacknowledged" | "nack"))
    };
    let outcome = match state.as_str() {
        "skipped" => Outcome::Skipped,
        "ack" => Outcome::Acked,
        "awaiting_ack" | "nack" => Outcome::Received,
        _ if attempts.iter().any(has_answered) => Outcome::Received,
        _ => Outcome::Missed,
    };
    let time = |name: &str| Time::parse_rfc3339(delivery[name].as_str()?).ok();
    let took = match (outcome, time("recorded_at"), time("ended_at")) {
        (Outcome::Acked, Some(recorded), Some(ended)) => Some(ended.since(recorded)),
        _ => None,
    };
    let (why, what_to_do) = match (state.as_str(), offline) {
        // One probe at a time goes to a partner that keeps failing: its own message may not have been tried.
        ("pending", Some(error)) => (format!("it keeps failing: {error}"), mend(&partner)),
        _ => told(&state, &partner, delivery, is_exercise),
    };
    let attempts = delivery["attempts_made"].as_u64().unwrap_or_default();
    Line { partner, channel, outcome, state, took, attempts, test_address, why, what_to_do }
}

/// Why it is not acknowledged, and what to do.
fn told(state: &str, partner: &str, delivery: &Value, is_exercise: bool) -> (String, String) {
    let reason = field(delivery, "reason");
    let or = |word: &str| if reason.is_empty() { word.to_owned() } else { reason.clone() };
    match state {
        "ack" => (String::new(), String::new()),
        "skipped" => (
            "its file says `tests: skip`".to_owned(),
            "ask it to take tests: `tests: deliver`, or an address for tests".to_owned(),
        ),
        "blocked" if is_exercise => (
            or("no bridge or script makes its message"),
            "drill with a real event instead: hms-ess drill --event FILE".to_owned(),
        ),
        "blocked" => (or("no bridge or script makes its message"), field(delivery, "mend")),
        "paused" => ("it is paused: nothing is sent to it".to_owned(), format!("hms-ess partner resume {partner}")),
        "awaiting_ack" => (
            or("it got the message and sent no ACK yet"),
            "it must answer {\"ack\": id}; if it never will, set `ack: {by: status}` in its file".to_owned(),
        ),
        "nack" => (or("it refused the message"), "ask the partner what it refuses in a test".to_owned()),
        "pending" => (
            "its turn did not come within the wait".to_owned(),
            "hms-ess top; then drill again with a longer --wait".to_owned(),
        ),
        "retrying" | "dead" => (or("it could not be delivered"), mend(partner)),
        other => (or(other), format!("hms-ess partner show {partner}")),
    }
}

fn mend(partner: &str) -> String {
    format!("hms-ess doctor; when it is mended, hms-ess drill --to {partner}")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn asked(partner: &str, tests: &str) -> Asked {
        Asked::of(&json!({"id": partner, "config": {"channel": "webhook", "tests": tests}}))
    }

    pub(crate) fn report() -> Report {
        let delivery = |state: &str, ended: &str, reason: Option<&str>, status: Option<u16>| {
            json!({"state": state, "recorded_at": "2026-11-26T20:00:00Z", "ended_at": ended, "attempts_made": 1,
                "reason": reason, "attempts": [{"status": status, "outcome": "failed"}]})
        };
        let deliveries = HashMap::from([
            ("A".to_owned(), delivery("ack", "2026-11-26T20:00:00.040Z", None, Some(200))),
            ("B".to_owned(), delivery("ack", "2026-11-26T20:00:02Z", None, Some(200))),
            ("C".to_owned(), delivery("retrying", "", Some("connection refused by 127.0.0.1:9"), None)),
            ("D".to_owned(), delivery("retrying", "", Some("503 <b>Busy</b>"), Some(503))),
        ]);
        Report::of(Facts {
            hub: "https://hub.example.gov".to_owned(),
            reason: Some("autumn exercise".to_owned()),
            begun_at: Time::parse_rfc3339("2026-11-26T20:00:00Z").unwrap(),
            ended_at: Time::parse_rfc3339("2026-11-26T20:01:00Z").unwrap(),
            wait: Duration::from_secs(60),
            is_exercise: true,
            events: vec!["HMS-ESS-DRILL-1-V1".to_owned()],
            asked: vec![
                asked("A", "deliver"),
                asked("B", "https://test.example/"),
                asked("C", "deliver"),
                asked("D", "deliver"),
                asked("E", "skip"),
            ],
            deliveries,
            offline: HashMap::new(),
        })
    }

    #[test]
    fn those_who_failed_come_first_then_the_slowest_then_those_who_take_no_tests() {
        let report = report();
        let told: Vec<(&str, &str)> = report.lines.iter().map(|line| (line.partner.as_str(), line.word())).collect();
        assert_eq!(told, [("C", "not received"), ("D", "no ACK"), ("B", "ack"), ("A", "ack"), ("E", "skipped")]);
        assert!(report.lines[2].test_address && !report.lines[3].test_address);
        assert!(!report.is_complete());
        assert_eq!(
            report.sentence(),
            "2 of 4 partners acknowledged within 1m; half within 40 ms, 99 in 100 within 2.0 s, the slowest after 2.0 s; 1 takes no tests and was left out"
        );
        assert_eq!(report.stamp(), "20261126T200000Z");
    }

    #[test]
    fn everyone_who_failed_is_told_why_and_what_to_do() {
        for line in report().lines.iter().filter(|line| line.outcome != Outcome::Acked) {
            assert!(!line.why.is_empty() && !line.what_to_do.is_empty(), "{line:?}");
        }
    }
}
