//! What people who look ask for, and what they are told: the log without its payloads, texts in payloads, what Ops were told.

use ess_core::event::{Gone, Kind, Priority};
use ess_core::id::{PartnerNo, Seq};
use ess_core::partner::Glob;
use ess_core::search::Sought;
use ess_core::time::Time;

use crate::types::Recorded;

/// What of the Event Log is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogSearch {
    /// Everything, newest first.
    All,
    /// One subject, newest first.
    Subject(String),
    /// Ids that begin with this, in the order of ids.
    Id(String),
}

/// An event of the log, without its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Its place.
    pub seq: Seq,
    /// Its id.
    pub id: String,
    /// A dry run.
    pub test: bool,
    /// Its subject.
    pub subject: String,
    /// The schema version of its payload.
    pub version: u32,
    /// A change, a correction, a retraction.
    pub kind: Kind,
    /// Whether it overtakes others.
    pub priority: Priority,
    /// When it was recorded.
    pub recorded_at: Time,
    /// How many partners it is for.
    pub partners: usize,
    /// How its payload went; absent while it is there.
    pub gone: Option<Gone>,
}

/// A text that is looked for in payloads.
#[derive(Debug, Clone)]
pub struct TextSearch {
    /// The text.
    pub text: Sought,
    /// Only events of this subject.
    pub subject: Option<String>,
    /// Only events of these subjects; empty means all.
    pub within: Vec<Glob>,
}

/// Which way the log is walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From a place on to what was recorded after it.
    Newer,
    /// From a place on to what was recorded before it.
    Older,
}

/// What one step of a search found.
#[derive(Debug, Clone)]
pub struct TextPage {
    /// The events, in the order of the walk.
    pub items: Vec<Recorded>,
    /// The last event that was looked at; absent when the log has no more that way.
    pub reached: Option<Reached>,
}

/// What Ops were told, and when it was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTelling {
    /// From 1.
    pub number: u64,
    /// When it was told.
    pub at: Time,
    /// Whose trouble.
    pub partner: PartnerNo,
    /// The cause's word.
    pub cause: String,
    /// The target's name.
    pub target: String,
    /// It was over.
    pub is_end: bool,
    /// It was told as urgent.
    pub urgent: bool,
}

/// How far a search has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// The event's place.
    pub seq: Seq,
    /// When it was recorded.
    pub recorded_at: Time,
}
