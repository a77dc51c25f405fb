//! Telling Ops: which trouble a partner can have, when it is told to whom, and in which words.
//!
//! One message when trouble begins and one when it ends, per partner, cause and target, however many events are concerned. `Watch`
//! decides when; `words` says what; `wire` writes it as each target wants it. Nothing here sends, waits or reads a clock.

mod quiet;
mod target;
mod watch;
mod wire;
mod words;

pub use quiet::Quiet;
pub use target::{LOG, Severity, Target, TargetKind, read_targets};
pub use watch::{Open, Rules, Sighting, TargetRules, Telling, Told, Watch, WatchedTrouble};
pub use wire::{ALERT_AGAIN_EVERY, alertmanager, html, pagerduty, slack, webhook};
pub use words::{Commands, Note, commands};

use std::time::Duration;

use crate::id::EventId;
use crate::time::Time;

/// Why Ops are told: a closed set, the label of metrics and the key of what was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// A delivery lacks its ACK for longer than `escalate.after`.
    Unacked,
    /// Deliveries have no bridge or script result.
    Blocked,
    /// The partner does not answer.
    Offline,
    /// It did not answer for longer than `retry.give_up_after`.
    GaveUp,
    /// Deliveries were refused or given up.
    DeadLetter,
    /// The partner said that its address is gone (HTTP 410), and was paused.
    Paused,
    /// Deliveries were taken without a receipt, and are not sent again.
    Unacknowledged,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Cause; 7] = [
        Cause::Unacked,
        Cause::Blocked,
        Cause::Offline,
        Cause::GaveUp,
        Cause::DeadLetter,
        Cause::Paused,
        Cause::Unacknowledged,
    ];

    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Cause::Unacked => "unacked",
            Cause::Blocked => "blocked",
            Cause::Offline => "offline",
            Cause::GaveUp => "gave_up",
            Cause::DeadLetter => "dead_letter",
            Cause::Paused => "paused",
            Cause::Unacknowledged => "unacknowledged",
        }
    }

    /// The cause of this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.word() == word)
    }

    /// How long it must be seen before it counts. What is overdue may be on its way this very moment: after a redrive, or after a
    /// start that finds a backlog of yesterday.
    #[must_use]
    pub fn settle(self, after: Duration) -> Duration {
        match self {
            Cause::Unacked => after.min(Duration::from_secs(30)),
            _ => Duration::ZERO,
        }
    }
}

/// What is wrong with a partner now, by one cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Since when.
    pub since: Time,
    /// How many deliveries are concerned, as far as they were counted.
    pub count: u64,
    /// There may be more than were counted.
    pub has_more: bool,
    /// The oldest event that is concerned.
    pub oldest: Option<EventId>,
    /// What the partner or the hub said last.
    pub error: Option<String>,
    /// The command that mends it, where the hub knows a better one than the usual.
    pub mend: Option<String>,
    /// An event of priority urgent is concerned: told at any hour.
    pub urgent: bool,
}
