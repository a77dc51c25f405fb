//! What those on duty look at: legal holds, redactions, troubles of partners and who is told of them.

use std::time::Duration;

use ess_core::id::{EventId, PartnerId};
use ess_core::partner::Glob;
use ess_core::time::Time;

use super::EventView;

/// A legal hold.
#[derive(Debug, Clone)]
pub struct HoldView {
    /// From 1.
    pub number: u64,
    /// What it covers.
    pub on: HeldThing,
    /// Since when.
    pub at: Time,
    /// The token's public name.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When, by whom and why it was lifted.
    pub lifted: Option<(Time, String, String)>,
}

/// What a legal hold covers.
#[derive(Debug, Clone)]
pub enum HeldThing {
    /// The event of this id, its dry run too.
    Event(EventId),
    /// Events of these subjects.
    Subject(Glob),
}

/// What a redaction did.
#[derive(Debug, Clone)]
pub struct RedactionReceipt {
    /// The event as it is now.
    pub event: EventView,
    /// The bytes are off the write-ahead log too; if not, somebody still reads from it (a back-up, as a rule) and they leave it
    /// when that is over, or at the next start.
    pub is_wiped: bool,
}

/// Trouble of a partner that Ops are told of.
#[derive(Debug, Clone)]
pub struct EscalationView {
    /// Whose.
    pub partner: PartnerId,
    /// By which cause.
    pub cause: &'static str,
    /// Since when.
    pub since: Time,
    /// An urgent event is concerned.
    pub urgent: bool,
    /// How many deliveries, as far as they were counted.
    pub deliveries: u64,
    /// The oldest event.
    pub oldest_event: Option<EventId>,
    /// What was said last.
    pub last_error: Option<String>,
    /// What to run.
    pub run: Vec<String>,
    /// Targets that were told.
    pub told: Vec<String>,
    /// Targets that are yet to be told, and not before when.
    pub waiting: Vec<(String, Time)>,
}

/// A target and how it fares.
#[derive(Debug, Clone)]
pub struct TargetView {
    /// Its configuration, secrets masked.
    pub document: serde_json::Value,
    /// Its name.
    pub name: String,
    /// Failures in a row.
    pub failures: u32,
    /// It is left alone until then.
    pub not_before: Option<Time>,
    /// When a message last got there, since the hub started.
    pub sent_at: Option<Time>,
    /// Why the last message did not get there, or why none can.
    pub last_error: Option<String>,
}

/// What a test message came to.
#[derive(Debug, Clone)]
pub struct TargetTest {
    /// It got there.
    pub sent: bool,
    /// What came back.
    pub reason: String,
    /// How long it took.
    pub took: Duration,
}

/// What a target was told, and took.
#[derive(Debug, Clone)]
pub struct TellingView {
    /// From 1.
    pub number: u64,
    /// When.
    pub at: Time,
    /// Whose trouble.
    pub partner: PartnerId,
    /// By which cause.
    pub cause: String,
    /// The target; absent for the hub's log.
    pub target: Option<String>,
    /// That it was over.
    pub is_end: bool,
    /// An urgent event was concerned.
    pub urgent: bool,
}

/// A signing secret of a partner, by nothing but its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecretView {
    /// When it stops signing; absent for the one that stays.
    pub ends_at: Option<Time>,
}
