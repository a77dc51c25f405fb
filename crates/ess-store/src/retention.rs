//! What retention, legal holds and redaction put into the store and get from it.

use std::sync::Arc;
use std::time::Duration;

use ess_core::id::{PartnerNo, Seq};
use ess_core::retention::Keep;
use ess_core::time::Time;

/// One bounded step of retention.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// Which.
    pub step: Step,
    /// How long things are kept.
    pub keep: Keep,
    /// The time.
    pub now: Time,
    /// Where lanes are, as asked for before: cursors only move forward.
    pub cursors: Arc<[(PartnerNo, Seq)]>,
    /// Rows that it looks at, at most.
    pub rows_max: usize,
    /// After so long it stops where it is.
    pub time_max: Duration,
}

/// What a step looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Payloads that were needed when their time came, after this place.
    Later(Seq),
    /// Payloads that were not looked at yet, of events or of dry runs.
    Payloads {
        /// Of dry runs.
        test: bool,
    },
    /// Attempts after this place.
    Attempts(AttemptPlace),
    /// The oldest lines of the audit trail.
    Audit,
    /// Pages that nothing is in: the file gets shorter.
    FreePages,
}

/// A place among the attempts: event, partner, round, number, time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptPlace {
    /// The event.
    pub seq: Seq,
    /// The partner.
    pub partner: PartnerNo,
    /// 0 for the first sending.
    pub round: u32,
    /// From 1.
    pub number: u32,
    /// When it began.
    pub at: Time,
}

impl AttemptPlace {
    /// Before all of them.
    pub const START: AttemptPlace =
        AttemptPlace { seq: Seq(0), partner: PartnerNo(0), round: 0, number: 0, at: Time::from_micros(i64::MIN) };
}

/// What a step did.
#[derive(Debug, Clone, Default)]
pub struct Swept {
    /// Rows or payloads removed, or pages given back.
    pub removed: u64,
    /// Where to go on; `None` when there is nothing more.
    pub next: Option<Step>,
    /// How long it took the writer.
    pub took: Duration,
    /// Events whose payload went.
    pub expired: Vec<Seq>,
    /// The file gets shorter once the write-ahead log was moved.
    pub gives_back: bool,
}

/// What a legal hold covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HoldOn {
    /// The event of this id, its dry run too.
    Event(String),
    /// Events of these subjects, a glob.
    Subject(String),
}

/// A legal hold to place.
#[derive(Debug, Clone)]
pub struct NewHold {
    /// On what.
    pub on: HoldOn,
    /// When.
    pub at: Time,
    /// The token's public name.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// A legal hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// From 1.
    pub number: u64,
    /// On what.
    pub on: HoldOn,
    /// Since when.
    pub at: Time,
    /// The token's public name.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When, by whom and why it was lifted.
    pub lifted: Option<Lifted>,
}

/// The end of a legal hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifted {
    /// When.
    pub at: Time,
    /// The token's public name.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// A payload to take away.
#[derive(Debug, Clone)]
pub struct Redaction {
    /// The event.
    pub seq: Seq,
    /// When.
    pub at: Time,
    /// The token's public name.
    pub by: String,
    /// Why.
    pub reason: String,
}
