//! What is not counted as it happens but read when somebody scrapes: put down whole, told from there.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ess_store::CommitTimes;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::described::{COMMIT_SECONDS, Described, Kind};

/// Values of one scrape.
#[derive(Debug, Default)]
pub(crate) struct Readings {
    series: Vec<(Described, Vec<Point>)>,
    commits: Option<CommitTimes>,
}

/// A value, with the value of its label; a metric without labels has an empty one.
#[derive(Debug)]
struct Point {
    label: String,
    value: f64,
}

impl Readings {
    /// The one value of a metric without labels.
    pub(crate) fn put(&mut self, metric: Described, value: f64) {
        self.series.push((metric, vec![Point { label: String::new(), value }]));
    }

    /// The values of a metric by its one label.
    pub(crate) fn put_each(&mut self, metric: Described, values: impl IntoIterator<Item = (String, f64)>) {
        let points = values.into_iter().map(|(label, value)| Point { label, value });
        self.series.push((metric, points.collect()));
    }

    /// What commits took.
    pub(crate) fn put_commits(&mut self, times: CommitTimes) {
        self.commits = Some(times);
    }
}

/// The newest readings, as the registry asks for them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Read {
    /// Guards the pointer; held for a clone or a swap.
    newest: Arc<Mutex<Arc<Readings>>>,
}

impl Read {
    /// Shows these from now on.
    pub(crate) fn show(&self, readings: Readings) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(readings);
    }
}

impl Collector for Read {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let readings = self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (metric, points) in readings.series.iter().filter(|(_, points)| !points.is_empty()) {
            let kind = if metric.kind == Kind::Counter { MetricType::Counter } else { MetricType::Gauge };
            let help = format!("{}.", metric.help);
            let mut family = encoder.encode_descriptor(metric.name, &help, None, kind)?;
            let Some(name) = metric.labels.first() else {
                encode_value(metric.kind, points[0].value, family)?;
                continue;
            };
            for Point { label, value } in points {
                let labels = [(*name, label.as_str())];
                encode_value(metric.kind, *value, family.encode_family(&labels)?)?;
            }
        }
        let Some(times) = &readings.commits else { return Ok(()) };
        let help = format!("{}.", COMMIT_SECONDS.help);
        let mut histogram = encoder.encode_descriptor(COMMIT_SECONDS.name, &help, None, MetricType::Histogram)?;
        let end = |end: Duration| if end == Duration::MAX { f64::INFINITY } else { end.as_secs_f64() };
        let buckets: Vec<(f64, u64)> = times.buckets.iter().map(|(until, count)| (end(*until), *count)).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        histogram.encode_histogram::<NoLabelSet>(times.sum.as_secs_f64(), count, &buckets, None)
    }
}

fn encode_value(
    kind: Kind,
    value: f64,
    encoder: prometheus_client::encoding::MetricEncoder<'_>,
) -> Result<(), fmt::Error> {
    match kind {
        Kind::Counter => ConstCounter::new(value).encode(encoder),
        Kind::Gauge | Kind::Histogram => ConstGauge::new(value).encode(encoder),
    }
}
