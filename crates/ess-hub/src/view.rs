//! What the hub tells about itself: plain values, cut for those who ask. Their wire shapes live in `ess-http`.

mod duty;

pub use duty::{
    EscalationView, HeldThing, HoldView, RedactionReceipt, SecretView, TargetTest, TargetView, TellingView,
};

use std::sync::Arc;
use std::time::Duration;

use ess_core::access::Role;
use ess_core::delivery::State;
use ess_core::event::Event;
use ess_core::id::{Digest, EventId, PartnerId, Seq, Subject, Version};
use ess_core::partner::Partner;
use ess_core::receipt::Evidence;
use ess_core::time::Time;
use ess_store::StoredCheckpoint;
pub use ess_store::{Direction, LogLine, LogSearch, Reached, TextSearch};

/// One page of a list; `next` is the cursor of the following one.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Pass it back as `after`; absent on the last page.
    pub next: Option<String>,
}

/// The hub's word to the publisher.
#[derive(Debug, Clone)]
pub struct PublishReceipt {
    /// The event.
    pub id: EventId,
    /// Its place in the log.
    pub sequence: Seq,
    /// Its subject.
    pub subject: Subject,
    /// When it was recorded.
    pub recorded_at: Time,
    /// A dry run.
    pub test: bool,
    /// How many partners it is for.
    pub partners: u32,
    /// Those who can't get it yet.
    pub blocked: Vec<BlockedPartner>,
    /// The same event was recorded before; this is the first receipt.
    pub duplicate: bool,
}

/// A partner that can't get an event, why, and the command that mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockedPartner {
    /// The partner.
    pub partner: PartnerId,
    /// Why.
    pub reason: String,
    /// What to run.
    pub mend: String,
}

/// Who would get what.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The event.
    pub id: EventId,
    /// Its subject.
    pub subject: Subject,
    /// The published version.
    pub version: Version,
    /// A dry run.
    pub test: bool,
    /// Every partner that it is for.
    pub partners: Vec<PlanEntry>,
}

/// What one partner would get.
#[derive(Debug, Clone)]
pub struct PlanEntry {
    /// The partner.
    pub partner: PartnerId,
    /// The version that it pinned (or the published one).
    pub version: Version,
    /// The bridges on the way, by id.
    pub bridges: Vec<String>,
    /// The body that it would get, or why not.
    pub outcome: Result<String, BlockedPartner>,
}

/// A delivery with its attempts.
#[derive(Debug, Clone)]
pub struct DeliveryView {
    /// The event.
    pub event_id: EventId,
    /// Its place in the log.
    pub sequence: Seq,
    /// The partner.
    pub partner: PartnerId,
    /// 0 for the first sending, 1 and on for replays.
    pub round: u32,
    /// A dry run.
    pub test: bool,
    /// Where it stands.
    pub state: State,
    /// The partner is paused: an open delivery waits.
    pub paused: bool,
    /// The version sent, once known.
    pub version: Option<Version>,
    /// `webhook-id`.
    pub message_id: String,
    /// The partner's gapless counter.
    pub partner_seq: Option<u64>,
    /// How many attempts were made.
    pub attempts_made: u32,
    /// The attempts on record; a first-time success leaves only its receipt.
    pub attempts: Vec<AttemptView>,
    /// When the next attempt is due.
    pub due_at: Option<Time>,
    /// Why it failed, is blocked or ended.
    pub reason: Option<String>,
    /// The command that mends it.
    pub mend: Option<String>,
    /// When it ended.
    pub ended_at: Option<Time>,
    /// How the ACK is evidenced.
    pub evidence: Option<Evidence>,
    /// SHA-256 of the bytes sent.
    pub body_digest: Option<Digest>,
    /// SHA-256 of the scripts and tables that made them.
    pub scripts: Arc<[Digest]>,
    /// The event overtakes others.
    pub urgent: bool,
    /// When the event was recorded.
    pub recorded_at: Time,
}

/// One try.
#[derive(Debug, Clone)]
pub struct AttemptView {
    /// From 1.
    pub number: u32,
    /// When it began.
    pub at: Time,
    /// How long it took.
    pub took: Duration,
    /// HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// `acked`, `received`, `unacknowledged`, `nack`, `failed`, `refused`.
    pub outcome: &'static str,
    /// Why.
    pub reason: Option<String>,
}

/// A partner and how it fares.
#[derive(Debug, Clone)]
pub struct PartnerView {
    /// Its configuration; secrets are references or `(sealed)`.
    pub partner: Arc<Partner>,
    /// When it was added.
    pub added_at: Time,
    /// Since when it is paused.
    pub paused_since: Option<Time>,
    /// Since when it is offline.
    pub offline_since: Option<Time>,
    /// Deliveries not yet ended (counted up to a bound of 1,000,000).
    pub backlog: u64,
    /// Attempts under way.
    pub in_flight: u32,
    /// The last failure.
    pub last_error: Option<String>,
    /// What its `where` said since the hub began; absent without one.
    pub filter: Option<FilterCounts>,
}

/// What a `where` predicate said of the events of the partner's subjects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FilterCounts {
    /// They went out.
    pub matched: u64,
    /// They did not.
    pub left_out: u64,
    /// The predicate failed; they went out.
    pub failed: u64,
}

/// What adding or replacing a partner did.
#[derive(Debug, Clone)]
pub struct PartnerChange {
    /// The partner as it is now.
    pub partner: PartnerView,
    /// Its signing secret, shown this once.
    pub secret: Option<String>,
    /// False when it was the same already.
    pub changed: bool,
}

/// What adding a schema did.
#[derive(Debug, Clone)]
pub struct SchemaChange {
    /// False when it was the same already.
    pub changed: bool,
    /// Bridges that need no script.
    pub offers: Vec<Offer>,
}

/// A bridge that changes the version label only: the older schema accepts the newer payloads as they are.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Which subjects.
    pub subject: String,
    /// The newer version.
    pub from: Version,
    /// The older one.
    pub to: Version,
    /// The command that adds it.
    pub command: String,
}

/// What adding a bridge did.
#[derive(Debug, Clone)]
pub struct BridgeChange {
    /// False when it was the same already.
    pub changed: bool,
    /// Shortest paths that give different payloads for an example.
    pub rivals: Vec<String>,
}

/// What a conversion that was tried gave.
#[derive(Debug, Clone)]
pub struct Tried {
    /// The payload, JSON.
    pub output: String,
    /// The paths of the scripts that gave nothing, when they were asked for.
    pub unresolved: Vec<TriedPath>,
}

/// A path of a script that gave nothing.
#[derive(Debug, Clone)]
pub struct TriedPath {
    /// The bridge; absent for a script that was tried by itself.
    pub bridge: Option<String>,
    /// The path as the script writes it.
    pub path: String,
    /// Line and column in the script, if it was found.
    pub place: Option<(u32, u32)>,
    /// How often it gave nothing.
    pub times: u32,
    /// How often it was looked at.
    pub of: u32,
}

/// What every bridge's examples gave.
#[derive(Debug, Clone)]
pub struct BridgeTests {
    /// One for each example.
    pub results: Vec<ExampleResult>,
    /// Shortest paths that give different payloads for an example.
    pub rivals: Vec<String>,
}

/// What one example gave.
#[derive(Debug, Clone)]
pub struct ExampleResult {
    /// The bridge.
    pub bridge: String,
    /// The example, from 1.
    pub example: usize,
    /// Why it failed; absent when it gave what it must.
    pub failure: Option<String>,
}

/// How far a partner's address was reached.
#[derive(Debug, Clone)]
pub struct Probed {
    /// What was found - `connected`, `protected`, `directory` or `nothing` - or why it can't be reached.
    pub reach: Result<&'static str, String>,
    /// How long it took.
    pub took: Duration,
}

/// What a test delivery brought.
#[derive(Debug, Clone)]
pub struct PartnerTest {
    /// The message as sent.
    pub message_id: String,
    /// HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// Whether the partner acknowledged.
    pub acked: bool,
    /// How long it took.
    pub took: Duration,
    /// What came back, in words.
    pub reason: String,
}

/// Which events to replay, to whom.
#[derive(Debug, Clone)]
pub struct ReplayRequest {
    /// The event.
    pub event: EventId,
    /// The partners; empty means everyone who was to get it.
    pub to: Vec<PartnerId>,
    /// Also when a newer acknowledged event of the subject has overtaken it.
    pub force: bool,
    /// Why, for the audit trail.
    pub reason: Option<String>,
}

/// What a replay set going.
#[derive(Debug, Clone)]
pub struct ReplayReceipt {
    /// The event.
    pub id: EventId,
    /// Partners with the new round.
    pub replayed: Vec<(PartnerId, u32)>,
}

/// A token without its secret.
#[derive(Debug, Clone)]
pub struct TokenView {
    /// Its public name.
    pub id: String,
    /// What it may do.
    pub role: Role,
    /// What it is for, in the creator's words.
    pub note: String,
    /// When it was made.
    pub created_at: Time,
    /// When it ends.
    pub expires_at: Option<Time>,
    /// When it was revoked.
    pub revoked_at: Option<Time>,
}

/// One line of the Ack Ledger.
#[derive(Debug, Clone)]
pub struct LedgerView {
    /// Its place, from 0.
    pub index: u64,
    /// The event.
    pub event_id: EventId,
    /// Its place in the log.
    pub sequence: Seq,
    /// Who said it.
    pub partner: PartnerId,
    /// 0 for the first sending.
    pub round: u32,
    /// `ack` or `nack`.
    pub word: &'static str,
    /// When it came.
    pub at: Time,
    /// Which attempt.
    pub attempt: u32,
    /// How it is evidenced.
    pub evidence: Option<Evidence>,
    /// SHA-256 of the bytes sent.
    pub body_digest: Digest,
    /// Head of the hash chain after this entry's record.
    pub chain: Digest,
}

/// The ledger's head.
#[derive(Debug, Clone)]
pub struct LedgerHead {
    /// Number of entries.
    pub size: u64,
    /// Head of the hash chain.
    pub chain: Digest,
}

/// A signed checkpoint of the ledger.
#[derive(Debug, Clone)]
pub struct CheckpointView {
    /// Receipts that it covers.
    pub size: u64,
    /// When it was signed.
    pub at: Time,
    /// The signed note (C2SP tlog-checkpoint).
    pub note: String,
}

impl CheckpointView {
    pub(crate) fn of(stored: StoredCheckpoint) -> Self {
        Self { size: stored.size, at: stored.at, note: stored.note }
    }
}

/// A place that checkpoints are brought to, and how it fares.
#[derive(Debug, Clone)]
pub struct PlaceView {
    /// `directory`, `file` or `url`.
    pub to: &'static str,
    /// Receipts of the last checkpoint that it took since the hub began.
    pub size: Option<u64>,
    /// Since when it takes none.
    pub failing_since: Option<Time>,
    /// Why.
    pub error: Option<String>,
}

/// The proof that one checkpoint continues another (RFC 9162 section 2.1.4).
#[derive(Debug, Clone)]
pub struct ConsistencyView {
    /// Receipts of the older one.
    pub from: u64,
    /// Receipts of the newer one.
    pub to: u64,
    /// The hashes.
    pub path: Vec<Digest>,
}

/// One act in the audit trail.
#[derive(Debug, Clone)]
pub struct AuditView {
    /// From 1.
    pub number: u64,
    /// When.
    pub at: Time,
    /// Which token.
    pub actor: String,
    /// What, such as `partner.add`.
    pub act: String,
    /// On what.
    pub object: String,
    /// Why, if said.
    pub reason: Option<String>,
}

/// Something that happened in the hub, for `GET /v1/stream`.
#[derive(Debug, Clone)]
pub struct Happening {
    /// Number of the happening since the hub started.
    pub number: u64,
    /// When.
    pub at: Time,
    /// `delivery.acked`, `delivery.dead`, `delivery.blocked`, `delivery.retrying`, `partner.offline`, `partner.recovered`, `event.recorded`.
    pub kind: &'static str,
    /// The event, if it is about one.
    pub event_id: Option<EventId>,
    /// The partner, if it is about one.
    pub partner: Option<PartnerId>,
    /// In words.
    pub detail: String,
}

/// An event with its place.
#[derive(Debug, Clone)]
pub struct EventView {
    /// The event.
    pub event: Arc<Event>,
    /// How many partners it was for.
    pub partners: u32,
}
