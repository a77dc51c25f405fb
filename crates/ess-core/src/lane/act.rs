//! What goes into a lane and what comes out of it, as values.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::Policy;
use super::entry::OpenDelivery;
use super::health::Health;
use crate::delivery::State;
use crate::id::{Digest, Seq, Subject, Version};
use crate::receipt::{Evidence, Verdict};
use crate::time::Time;

/// What a lane asks its owner to do.
#[derive(Debug, Clone)]
pub enum Action {
    /// Make this attempt and answer with `on_report`.
    Send(Attempt),
    /// Make this attempt by the fallback channel and answer with `on_fallback_report`.
    SendFallback(Attempt),
    /// Read urgent deliveries of the backlog after this event and answer with `on_urgent_loaded`.
    LoadUrgent {
        /// The backlog begins after this event.
        after: Seq,
        /// What is urgent up to here was looked at.
        scanned_to: Seq,
        /// How many there is room for.
        limit: usize,
    },
    /// Write this down; nothing waits for it.
    Record(Box<Record>),
    /// Read the backlog after this event and answer with `on_loaded`.
    Load {
        /// Everything up to here was looked at.
        after: Seq,
        /// How many deliveries there is room for.
        limit: usize,
    },
    /// Read the oldest open deliveries of this line and answer with `on_line_loaded`.
    LoadLine {
        /// The subject.
        subject: Subject,
        /// Dry runs have lines of their own.
        test: bool,
    },
    /// Read open deliveries after this place and answer with `on_open_loaded`.
    LoadOpen {
        /// The last place looked at.
        after: (Seq, u32),
        /// How many there is room for.
        limit: usize,
    },
    /// Tell Ops: the delivery is blocked.
    BecameBlocked {
        /// The event.
        seq: Seq,
        /// The round.
        round: u32,
    },
    /// Tell Ops: delivered, no receipt, and no attempt will follow.
    Outstanding {
        /// The event.
        seq: Seq,
        /// The round.
        round: u32,
    },
    /// The partner keeps failing: one probe at a time from now on.
    WentOffline,
    /// Offline longer than the policy's patience: what waits for the partner is a dead letter until it answers.
    GaveUp {
        /// The first failure since it last answered.
        failing_since: Time,
    },
    /// A delivery became a dead letter because its partner is given up; the lane keeps it for the recovery.
    WaitsAsDead {
        /// The event.
        seq: Seq,
    },
    /// The partner answers again.
    Recovered {
        /// How it fared until now.
        before: Health,
    },
    /// HTTP 410: pause the partner and tell Ops.
    PausePartner {
        /// Why.
        reason: String,
    },
}

/// What is to be written down.
#[derive(Debug, Clone)]
pub enum Record {
    /// The delivery has an explicit record from now on: blocked, or waiting behind a held line.
    Opened(OpenDelivery),
    /// An attempt did not end the delivery.
    Failed {
        /// The delivery as it stands.
        open: OpenDelivery,
        /// The attempt.
        tried: Tried,
    },
    /// The partner acknowledged.
    Acked {
        /// The event.
        seq: Seq,
        /// The round.
        round: u32,
        /// The attempt that carried it.
        attempt: u32,
        /// How it is evidenced.
        evidence: Evidence,
        /// The partner's counter.
        partner_seq: Option<u64>,
        /// What was sent.
        sent: Option<Sent>,
        /// The store holds rows of the delivery that are to go.
        has_rows: bool,
        /// The attempt, when the ACK came with it.
        tried: Option<Tried>,
        /// When the word came.
        at: Time,
    },
    /// The delivery ended without an ACK.
    Ended {
        /// The delivery as it stood.
        open: OpenDelivery,
        /// How it ended.
        ended: Ended,
    },
    /// Everything up to the cursor has ended or has an explicit record.
    Cursor {
        /// The last such event.
        cursor: Seq,
        /// The partner's counter there.
        counted: u64,
    },
    /// The partner's health changed.
    Health(Health),
}

/// How a delivery ended without an ACK.
#[derive(Debug, Clone)]
pub struct Ended {
    /// `Nack`, `Dead`, `Superseded` or `Cancelled`.
    pub state: State,
    /// Why.
    pub reason: String,
    /// For a NACK: how it came.
    pub evidence: Option<Evidence>,
    /// The attempt that ended it, if one did.
    pub tried: Option<Tried>,
    /// When.
    pub at: Time,
}

/// One attempt to make.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// The event.
    pub seq: Seq,
    /// 0 for the first sending, 1 and on for replays.
    pub round: u32,
    /// From 1.
    pub number: u32,
    /// The partner's gapless counter.
    pub partner_seq: Option<u64>,
    /// A replay's own message id; the first sending takes the event's.
    pub message_uuid: Option<Uuid>,
    /// When it began.
    pub started: Time,
}

/// How an attempt ended.
#[derive(Debug, Clone)]
pub struct Report {
    /// Which.
    pub attempt: Attempt,
    /// How.
    pub outcome: Outcome,
    /// What was sent, if anything was.
    pub sent: Option<Sent>,
    /// For the record.
    pub tried: Tried,
}

/// An attempt's end: a verdict, or nothing could be sent.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The receipt's meaning.
    Verdict(Verdict),
    /// No bridge or no script result.
    Blocked {
        /// Why.
        reason: String,
        /// The command that mends it.
        mend: String,
    },
    /// Nothing was sent, and nobody is to blame: what waited for its partner to fetch it was taken back. It waits for its turn again.
    Recalled,
    /// There is nothing to send any more: the payload is gone. The delivery ends as cancelled.
    Withdrawn {
        /// Why.
        reason: String,
    },
}

/// The identity of the bytes that went out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The version.
    pub version: Version,
    /// SHA-256 of the body.
    pub body_digest: Digest,
    /// The scripts that made it, in order.
    pub scripts: Arc<[Digest]>,
}

/// One attempt, as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// From 1.
    pub number: u32,
    /// When it began.
    pub at: Time,
    /// How long it took.
    pub took: Duration,
    /// HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// `acked`, `received`, `unacknowledged`, `nack`, `failed`, `refused`, `gone`.
    pub outcome: &'static str,
    /// Why, bounded.
    pub reason: String,
}

/// An operator's word to a lane.
#[derive(Debug, Clone)]
pub enum Command {
    /// Send nothing until resumed.
    Pause,
    /// Go on, at once.
    Resume,
    /// The configuration changed.
    Policy(Policy),
    /// Bridges or scripts changed: what was blocked is tried again.
    Unblock,
    /// What is held back by the partner's health is tried now, with new patience.
    Redrive,
    /// This delivery is given up for good.
    Cancel {
        /// As the store knows it.
        open: Box<OpenDelivery>,
        /// Why.
        reason: String,
    },
}
