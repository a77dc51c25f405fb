//! What the hub counts and measures for Prometheus, with labels from closed sets and partners' ids only.
//!
//! The number of series is bounded: those of partners by a ceiling of their own, all others by their sets.

pub mod described;
mod labels;
pub(crate) mod readings;
#[cfg(test)]
mod reference;

use ess_core::escalation::Cause;
use ess_core::problem::Code;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use described::Described;
pub use labels::{
    AttemptLabels, CauseLabels, EndLabels, Limit, LimitLabels, OpsLabels, PublishLabels, PublishResult, RefusalLabels,
    RemovedLabels, SpanLabels,
};
use readings::{Read, Readings};

/// Where the buckets of `delivery_ack_seconds` end: from a local partner to one that is closed over a weekend.
const ACK_ENDS_S: [f64; 17] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0, 900.0, 3_600.0, 86_400.0, 259_200.0,
];

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    read: Read,
    /// Publishes by result.
    pub publishes: Family<PublishLabels, Counter>,
    /// Attempts by outcome.
    pub attempts: Family<AttemptLabels, Counter>,
    /// Deliveries by how they ended.
    pub ends: Family<EndLabels, Counter>,
    /// Scripts run by bridges: one per event, target version and step.
    pub conversions: Counter,
    /// From recording to the ACK.
    pub ack_seconds: Histogram,
    /// What went by age, and pages given back to the disk.
    pub removed: Family<RemovedLabels, Counter>,
    /// Troubles that are there now, by cause.
    pub escalations_open: Family<CauseLabels, Gauge>,
    /// Messages to Ops by kind of target and result.
    pub escalation_messages: Family<OpsLabels, Counter>,
    limits: Family<LimitLabels, Counter>,
    refusals: Family<RefusalLabels, Counter>,
    spans: Family<SpanLabels, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Registry::with_prefix("ess"),
            read: Read::default(),
            publishes: Family::default(),
            attempts: Family::default(),
            ends: Family::default(),
            conversions: Counter::default(),
            ack_seconds: Histogram::new(ACK_ENDS_S),
            removed: Family::default(),
            escalations_open: Family::default(),
            escalation_messages: Family::default(),
            limits: Family::default(),
            refusals: Family::default(),
            spans: Family::default(),
        };
        metrics.begin_at_zero();
        metrics.registered()
    }
}

impl Metrics {
    fn registered(mut self) -> Self {
        let Self { registry, read, publishes, attempts, ends, conversions, ack_seconds, removed, .. } = &mut self;
        register(registry, described::PUBLISHES, publishes.clone());
        register(registry, described::ATTEMPTS, attempts.clone());
        register(registry, described::ENDS, ends.clone());
        register(registry, described::CONVERSIONS, conversions.clone());
        register(registry, described::ACK_SECONDS, ack_seconds.clone());
        register(registry, described::REMOVED, removed.clone());
        registry.register_collector(Box::new(read.clone()));
        let Self { registry, escalations_open, escalation_messages, limits, refusals, spans, .. } = &mut self;
        register(registry, described::ESCALATIONS, escalations_open.clone());
        register(registry, described::ESCALATION_MESSAGES, escalation_messages.clone());
        register(registry, described::LIMITS, limits.clone());
        register(registry, described::REFUSALS, refusals.clone());
        register(registry, described::SPANS, spans.clone());
        self
    }

    /// An alert on what is not there yet would be silent, and the first of its kind would be no increase.
    fn begin_at_zero(&self) {
        for result in PublishResult::ALL {
            drop(self.publishes.get_or_create(&PublishLabels { result: result.word() }));
        }
        for cause in Cause::ALL {
            drop(self.escalations_open.get_or_create(&CauseLabels { cause: cause.word() }));
        }
        for limit in Limit::ALL {
            drop(self.limits.get_or_create(&LimitLabels { limit: limit.word() }));
        }
        for what in ["payloads", "attempts", "audit", "pages"] {
            drop(self.removed.get_or_create(&RemovedLabels { what }));
        }
        for result in ["sent", "failed", "dropped"] {
            drop(self.spans.get_or_create(&SpanLabels { result }));
        }
        for code in Code::ALL {
            drop(self.refusals.get_or_create(&RefusalLabels { code: code.word() }));
        }
    }

    /// Prometheus text exposition, with what was read for it.
    pub(crate) fn text(&self, readings: Readings) -> String {
        self.read.show(readings);
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }

    /// Counts a publish.
    pub fn count_publish(&self, result: PublishResult) {
        self.publishes.get_or_create(&PublishLabels { result: result.word() }).inc();
    }

    /// Counts the end of a delivery.
    pub fn count_end(&self, state: &'static str, channel: &'static str) {
        self.ends.get_or_create(&EndLabels { state, channel }).inc();
    }

    /// Counts that a ceiling was reached.
    pub fn count_limit(&self, limit: Limit) {
        self.limits.get_or_create(&LimitLabels { limit: limit.word() }).inc();
    }

    /// Counts spans that are `sent`, `failed` or `dropped`.
    pub fn count_spans(&self, result: &'static str, count: usize) {
        self.spans.get_or_create(&SpanLabels { result }).inc_by(count as u64);
    }

    /// Counts a refused request.
    pub fn count_refusal(&self, code: Code) {
        self.refusals.get_or_create(&RefusalLabels { code: code.word() }).inc();
    }
}

fn register(registry: &mut Registry, metric: Described, value: impl Metric) {
    registry.register(metric.name, metric.help, value);
}
