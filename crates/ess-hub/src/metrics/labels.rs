//! The labels of metrics: closed sets only, so that no caller can make a series.

use prometheus_client::encoding::EncodeLabelSet;

/// How a publish ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PublishLabels {
    /// Which end, by its word.
    pub result: &'static str,
}

/// How a publish ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

impl PublishResult {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Recorded, Self::Duplicate, Self::Conflict, Self::Unavailable];

    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Recorded => "recorded",
            Self::Duplicate => "duplicate",
            Self::Conflict => "conflict",
            Self::Unavailable => "unavailable",
        }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AttemptLabels {
    /// Which end, by its word.
    pub outcome: &'static str,
    /// Which channel, by its word.
    pub channel: &'static str,
}

/// How a delivery ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EndLabels {
    /// The state that it ended in, by its word.
    pub state: &'static str,
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

/// A ceiling that was reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LimitLabels {
    /// Which, by its word.
    pub limit: &'static str,
}

/// The ceilings that whoever runs the hub may meet. What is refused to one caller is counted by its code instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Connections at once, of all or of one address: one was turned away.
    Connections,
    /// Bodies on their way to the hub at once.
    Bodies,
    /// Refused tokens of one address in a minute.
    RefusedTokens,
    /// Open pages of the dashboard with live updates.
    DashboardStreams,
    /// Happenings that a reader of the stream may be behind: it missed some.
    StreamLag,
    /// Room for events: disk, database, or a store that can't write.
    Room,
    /// Outcomes that wait for the store: lanes stopped sending.
    Unrecorded,
}

impl Limit {
    /// Every one.
    pub const ALL: [Self; 7] = [
        Self::Connections,
        Self::Bodies,
        Self::RefusedTokens,
        Self::DashboardStreams,
        Self::StreamLag,
        Self::Room,
        Self::Unrecorded,
    ];

    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Bodies => "bodies",
            Self::RefusedTokens => "refused_tokens",
            Self::DashboardStreams => "dashboard_streams",
            Self::StreamLag => "stream_lag",
            Self::Room => "room",
            Self::Unrecorded => "unrecorded",
        }
    }
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusalLabels {
    /// The code of its problem.
    pub code: &'static str,
}

/// What became of spans.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SpanLabels {
    /// `sent`, `failed` or `dropped`.
    pub result: &'static str,
}
