//! The table at the end: each figure beside what it should be, and beside that scaled to the pace of this machine.

use anyhow::Result;
use serde_json::json;

use super::Options;
use super::bare::Bare;

/// POSTs a second of the bare client on the machine for which the targets were set, and the processor time of each.
const BARE_RATE_THERE: f64 = 127_000.0;
const BARE_CPU_US_THERE: f64 = 8.6;

/// What a figure should be.
#[derive(Clone, Copy)]
pub(super) enum Target {
    /// Nothing was promised.
    None,
    /// At least so many; a slower machine may do fewer.
    RateAtLeast(f64),
    /// At most so long; a slower machine may take longer.
    TimeAtMost(f64),
    /// At least so much on any machine.
    AtLeast(f64),
    /// At most so much on any machine.
    AtMost(f64),
}

impl Target {
    fn text(self) -> String {
        match self {
            Self::None => String::new(),
            Self::RateAtLeast(target) | Self::AtLeast(target) => format!(">= {target}"),
            Self::TimeAtMost(target) | Self::AtMost(target) => format!("<= {target}"),
        }
    }

    /// How far the figure is from the target: 1 and more is met.
    fn ratio(self, value: f64, pace: Pace) -> Option<f64> {
        match self {
            Self::None => None,
            Self::RateAtLeast(target) => Some(value / (target * pace.rate)),
            Self::TimeAtMost(target) => Some(target / pace.cpu / value),
            Self::AtLeast(target) => Some(value / target),
            Self::AtMost(target) => Some(target / value),
        }
        .filter(|ratio| ratio.is_finite())
    }
}

/// This machine beside the one for which the targets were set, by the bare client: 1 is as fast.
#[derive(Clone, Copy)]
struct Pace {
    /// By POSTs a second: others that use the machine slow it down.
    rate: f64,
    /// By processor time: they hardly do.
    cpu: f64,
}

const SAME: Pace = Pace { rate: 1.0, cpu: 1.0 };

/// One figure.
struct Row {
    name: String,
    value: f64,
    unit: &'static str,
    target: Target,
}

/// All figures of one run.
pub(super) struct Report {
    pace: Pace,
    transport: &'static str,
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Report {
    /// A report without figures; the bare client's are over plain HTTP.
    pub(super) fn new(options: &Options, bare: Bare) -> Self {
        let transport = if options.tls { "TLS to partners" } else { "plain HTTP" };
        let pace = Pace { rate: bare.rate / BARE_RATE_THERE, cpu: BARE_CPU_US_THERE / bare.cpu_us };
        Self { pace, transport, rows: Vec::new(), notes: Vec::new() }
    }

    pub(super) fn push(&mut self, name: impl Into<String>, value: f64, unit: &'static str, target: Target) {
        self.rows.push(Row { name: name.into(), value, unit, target });
    }

    pub(super) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// Median and 99th percentile in milliseconds, each with its target.
    pub(super) fn push_latencies(&mut self, name: &str, latencies_us: &[f64], targets: [Target; 2]) {
        for (share, target) in [50, 99].into_iter().zip(targets) {
            self.push(format!("{name}, p{share}"), percentile(latencies_us, share) / 1e3, "ms", target);
        }
    }

    /// The table, ready for docs/performance.md.
    pub(super) fn text(&self) -> Result<String> {
        let mut text = format!(
            "{}, {}, revision {}. The bare client does {:.2} of the POST/s that it does where the targets were set, at {:.2} of \
             the speed of its processors.\n\n",
            machine()?,
            self.transport,
            revision()?,
            self.pace.rate,
            self.pace.cpu
        );
        text.push_str("| figure | value | target | met | met at this pace |\n|---|---|---|---|---|\n");
        for row in &self.rows {
            let digits = if row.value.abs() < 10.0 { 2 } else { usize::from(row.value.abs() < 1_000.0) };
            text.push_str(&format!(
                "| {} | {:.digits$} {} | {} | {} | {} |\n",
                row.name,
                row.value,
                row.unit,
                row.target.text(),
                mark(row.target.ratio(row.value, SAME)),
                mark(row.target.ratio(row.value, self.pace)),
            ));
        }
        for note in &self.notes {
            text.push_str(&format!("\nNote: {note}\n"));
        }
        Ok(text)
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Result<String> {
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "name": row.name, "value": row.value, "unit": row.unit, "target": row.target.text(),
                    "ratio": row.target.ratio(row.value, SAME), "ratio_at_this_pace": row.target.ratio(row.value, self.pace),
                })
            })
            .collect();
        let all = json!({
            "machine": machine()?, "transport": self.transport, "revision": revision()?, "pace_rate": self.pace.rate, "pace_cpu": self.pace.cpu,
            "rows": rows, "notes": self.notes,
        });
        Ok(serde_json::to_string_pretty(&all)?)
    }
}

fn mark(ratio: Option<f64>) -> String {
    match ratio {
        None => String::new(),
        Some(ratio) if ratio >= 1.0 => format!("yes ({ratio:.2}x)"),
        Some(ratio) => format!("NO ({ratio:.2}x)"),
    }
}

/// The value below which `share` of a hundred lie.
pub(super) fn percentile(values: &[f64], share: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() * share / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

fn machine() -> Result<String> {
    let cpus = std::thread::available_parallelism()?;
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, model)| model));
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: f64 = memory.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or_default();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Ok(format!("{cpus} x {}, {:.0} GiB, Linux {}", model.unwrap_or("unknown"), kib / 1_048_576.0, kernel.trim()))
}

fn revision() -> Result<String> {
    let revision = crate::shell::capture("git", &["describe", "--always", "--dirty"])?;
    Ok(revision.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_of_few_values_is_one_of_them() {
        assert_eq!(percentile(&[3.0, 1.0, 2.0], 50), 2.0);
        assert_eq!(percentile(&[3.0, 1.0, 2.0], 99), 3.0);
        assert!(percentile(&[], 99).is_nan());
    }

    #[test]
    fn a_slow_machine_may_be_slow_but_not_large() {
        let half = Pace { rate: 0.5, cpu: 0.25 };
        assert_eq!(Target::RateAtLeast(100.0).ratio(50.0, half), Some(1.0));
        assert_eq!(Target::TimeAtMost(10.0).ratio(40.0, half), Some(1.0));
        assert_eq!(Target::AtMost(10.0).ratio(20.0, half), Some(0.5));
    }
}
