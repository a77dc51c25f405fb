//! Counters for Prometheus, with labels from closed sets only.

use ess_core::escalation::Cause;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// How a publish ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PublishLabels {
    /// Which end.
    pub result: PublishResult,
}

/// How a publish ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum PublishResult {
    /// 202.
    Recorded,
    /// 200.
    Duplicate,
    /// 409.
    Conflict,
    /// 503.
    Unavailable,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AttemptLabels {
    /// Which end, by its word.
    pub outcome: &'static str,
    /// Which channel, by its word.
    pub channel: &'static str,
}

/// What retention removed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RemovedLabels {
    /// `payloads`, `attempts`, `audit` or `pages`.
    pub what: &'static str,
}

/// Why Ops are told.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CauseLabels {
    /// By its word.
    pub cause: &'static str,
}

/// How a message to Ops fared.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OpsLabels {
    /// The target's kind, by its word.
    pub target: &'static str,
    /// `sent` or `failed`.
    pub result: &'static str,
}

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Publishes by result.
    pub publishes: Family<PublishLabels, Counter>,
    /// Attempts by outcome.
    pub attempts: Family<AttemptLabels, Counter>,
    /// Deliveries that ended in an ACK.
    pub acked: Counter,
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
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("ess");
        let publishes = Family::default();
        let attempts = Family::default();
        let acked = Counter::default();
        let conversions = Counter::default();
        let removed = Family::default();
        let ack_seconds =
            Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0, 3600.0]);
        registry.register("event_publishes", "Publishes by result", publishes.clone());
        registry.register("delivery_attempts", "Attempts by outcome and channel", attempts.clone());
        registry.register("delivery_acks", "Deliveries that ended in an ACK", acked.clone());
        registry.register("bridge_conversions", "Bridge scripts run", conversions.clone());
        registry.register("delivery_ack_seconds", "From recording to the ACK", ack_seconds.clone());
        registry.register("retention_removed", "What went by age, and pages given back", removed.clone());
        let escalations_open = Family::<CauseLabels, Gauge>::default();
        // An alert on what is not there yet would be silent.
        for cause in Cause::ALL {
            escalations_open.get_or_create(&CauseLabels { cause: cause.word() }).set(0);
        }
        let escalation_messages = Family::default();
        registry.register("escalation_open", "Troubles of partners by cause", escalations_open.clone());
        registry.register("escalation_messages", "Messages to Ops by target and result", escalation_messages.clone());
        Self {
            registry,
            publishes,
            attempts,
            acked,
            conversions,
            ack_seconds,
            removed,
            escalations_open,
            escalation_messages,
        }
    }
}

impl Metrics {
    /// Prometheus text exposition.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }

    /// Counts a publish.
    pub fn count_publish(&self, result: PublishResult) {
        self.publishes.get_or_create(&PublishLabels { result }).inc();
    }
}
