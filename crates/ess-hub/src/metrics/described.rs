//! Every metric with its name, labels and meaning: what `/metrics` says of itself and what docs/metrics.md is written from.
//!
//! Each has an alert or a panel in `ops/`; a test holds both to this list.

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, and begins anew with the hub.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts in buckets.
    Histogram,
}

/// What is known of a metric before it has a value.
#[derive(Debug, Clone, Copy)]
pub struct Described {
    /// Without `ess_` before it and `_total` behind it.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it tells, without a stop.
    pub help: &'static str,
}

impl Described {
    const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, labels, help }
    }

    const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, kind: Kind::Gauge, labels, help }
    }

    const fn histogram(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Histogram, labels: &[], help }
    }

    /// As it stands in `/metrics` and in queries; a histogram adds `_bucket`, `_sum` and `_count`.
    #[must_use]
    pub fn full_name(&self) -> String {
        let end = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("ess_{}{end}", self.name)
    }
}

pub(crate) const HUB_READY: Described =
    Described::gauge("hub_ready", &[], "1 while the hub takes events, 0 while its store or disk keeps it from that");
pub(crate) const HUB_START: Described =
    Described::gauge("hub_start_timestamp_seconds", &[], "When this run of the hub began");
pub(crate) const CERTIFICATE_EXPIRY: Described = Described::gauge(
    "certificate_expiry_timestamp_seconds",
    &[],
    "When the certificate ends that the hub shows; absent over plain HTTP",
);
pub(crate) const NODES_LIVE: Described = Described::gauge(
    "node_live_count",
    &[],
    "Hubs on the same store that hold their leases, this one included, as it saw them last; absent where a hub has its store for itself",
);
pub(crate) const NODE_LEASE: Described = Described::gauge(
    "node_lease_held",
    &[],
    "1 while this hub holds its lease, 0 while it sends nothing for want of it; absent where a hub has its store for itself",
);
pub(crate) const NODE_PARTNERS: Described = Described::gauge(
    "node_partner_count",
    &[],
    "Partners that this hub serves; absent where a hub has its store for itself",
);
pub(crate) const NODE_TAKEOVERS: Described = Described::counter(
    "node_takeovers",
    &[],
    "Other hubs that this one gave up, as they were not heard of for too long; absent where a hub has its store for itself",
);
pub(crate) const PUBLISHES: Described = Described::counter("event_publishes", &["result"], "Publishes by result");
pub(crate) const EVENTS: Described = Described::gauge("event_log_count", &[], "Events in the log");
pub(crate) const ATTEMPTS: Described =
    Described::counter("delivery_attempts", &["outcome", "channel"], "Attempts by outcome and channel");
pub(crate) const ENDS: Described =
    Described::counter("delivery_ends", &["state", "channel"], "Deliveries that ended, by how and by channel");
pub(crate) const ACK_SECONDS: Described =
    Described::histogram("delivery_ack_seconds", "From the recording of an event to a partner's ACK");
pub(crate) const BACKLOG: Described =
    Described::gauge("delivery_backlog_count", &[], "Open deliveries of all partners, as far as their lanes hold them");
pub(crate) const OLDEST: Described = Described::gauge(
    "delivery_oldest_seconds",
    &[],
    "Age of the oldest un-ACKed delivery; those of paused partners are left out",
);
pub(crate) const DEAD_LETTERS: Described = Described::gauge(
    "dead_letter_count",
    &[],
    "Dead letters that were neither redriven nor discarded; those on record are counted up to 10,000",
);
pub(crate) const CONDITIONS: Described =
    Described::gauge("partner_condition_count", &["condition"], "Partners by how they stand");
pub(crate) const PARTNER_BACKLOG: Described = Described::gauge(
    "partner_backlog_count",
    &["partner"],
    "Open deliveries of a partner, counted up to 10,000; only the partners that need attention most",
);
pub(crate) const PARTNER_OLDEST: Described =
    Described::gauge("partner_oldest_seconds", &["partner"], "Age of the oldest un-ACKed delivery of a partner");
pub(crate) const PARTNER_OFFLINE: Described =
    Described::gauge("partner_offline_seconds", &["partner"], "How long a partner has been offline");
pub(crate) const PARTNER_UNLISTED: Described = Described::gauge(
    "partner_unlisted_count",
    &[],
    "Partners that need attention and have no series of their own, as there are too many",
);
pub(crate) const CONVERSIONS: Described = Described::counter("bridge_conversions", &[], "Bridge scripts run");
pub(crate) const EVALUATIONS: Described =
    Described::counter("script_evaluations", &[], "Scripts, filters and schema checks that were run");
pub(crate) const SCRIPT_ERRORS: Described = Described::counter("script_errors", &[], "Of these, those that failed");
pub(crate) const SCRIPT_KILLS: Described =
    Described::counter("script_kills", &[], "Evaluation processes that were lost over a script's bounds");
pub(crate) const SCRIPT_SECONDS: Described =
    Described::counter("script_time_seconds", &[], "Time that scripts took, waiting for their turn left out");
pub(crate) const SCRIPT_PROCESSES: Described =
    Described::gauge("script_process_count", &[], "Evaluation processes that live now");
pub(crate) const COMMIT_SECONDS: Described =
    Described::histogram("store_commit_seconds", "What a commit of the store took, its fsync included");
pub(crate) const STORE_BYTES: Described =
    Described::gauge("store_size_bytes", &[], "The database with its write-ahead log");
pub(crate) const STORE_FREE: Described =
    Described::gauge("store_free_bytes", &[], "Free space on the disk of the data directory");
pub(crate) const STORE_WRITABLE: Described = Described::gauge(
    "store_writable",
    &[],
    "1 while the store can write, 0 from a commit that failed until one succeeds",
);
pub(crate) const STORE_UNRECORDED: Described =
    Described::gauge("store_unrecorded_count", &[], "Outcomes that wait for a commit");
pub(crate) const LEDGER: Described = Described::gauge("ledger_receipt_count", &[], "Receipts in the Ack Ledger");
pub(crate) const ESCALATIONS: Described =
    Described::gauge("escalation_open", &["cause"], "Troubles of partners that are there now, by cause");
pub(crate) const ESCALATION_MESSAGES: Described =
    Described::counter("escalation_messages", &["target", "result"], "Messages to Ops by kind of target and result");
pub(crate) const REMOVED: Described =
    Described::counter("retention_removed", &["what"], "What went by age, and pages given back to the disk");
pub(crate) const LIMITS: Described =
    Described::counter("limit_reached", &["limit"], "How often a ceiling of the hub was reached, by which");
pub(crate) const REFUSALS: Described =
    Described::counter("request_refusals", &["code"], "Requests that were refused, by the code of the problem");
pub(crate) const SPANS: Described = Described::counter(
    "trace_spans",
    &["result"],
    "Spans for the collector: sent, failed, or dropped as too many waited",
);

/// All of them, in the order of the reference.
pub const METRICS: [Described; 38] = [
    HUB_READY,
    HUB_START,
    CERTIFICATE_EXPIRY,
    NODES_LIVE,
    NODE_LEASE,
    NODE_PARTNERS,
    NODE_TAKEOVERS,
    PUBLISHES,
    EVENTS,
    ATTEMPTS,
    ENDS,
    ACK_SECONDS,
    BACKLOG,
    OLDEST,
    DEAD_LETTERS,
    CONDITIONS,
    PARTNER_BACKLOG,
    PARTNER_OLDEST,
    PARTNER_OFFLINE,
    PARTNER_UNLISTED,
    CONVERSIONS,
    EVALUATIONS,
    SCRIPT_ERRORS,
    SCRIPT_KILLS,
    SCRIPT_SECONDS,
    SCRIPT_PROCESSES,
    COMMIT_SECONDS,
    STORE_BYTES,
    STORE_FREE,
    STORE_WRITABLE,
    STORE_UNRECORDED,
    LEDGER,
    ESCALATIONS,
    ESCALATION_MESSAGES,
    REMOVED,
    LIMITS,
    REFUSALS,
    SPANS,
];
