//! What goes into the store and comes out of it.

use std::fmt;
use std::sync::Arc;

use ess_core::delivery::{DeliveryKey, State};
use ess_core::event::{Content, Event, Trace};
use ess_core::id::{Digest, PartnerNo, Seq, Version};
use ess_core::lane::{Health, Offer, OpenDelivery, Tried};
use ess_core::receipt::Evidence;
use ess_core::time::Time;
use uuid::Uuid;

use crate::audience::Audience;

/// An event to record.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// What the publisher sent.
    pub content: Content,
    /// The publish's trace headers.
    pub trace: Trace,
    /// Tells a repeat from a conflict.
    pub content_digest: Digest,
    /// The part of the message id that all its deliveries share.
    pub message_uuid: Uuid,
    /// When it came.
    pub recorded_at: Time,
    /// Whom it is for.
    pub audience: Arc<Audience>,
    /// Where several nodes share the store: how often the registry had been changed when the audience was chosen.
    pub registry: Option<u64>,
}

/// An event of the log and whom it is for.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The event.
    pub event: Arc<Event>,
    /// Whom it is for.
    pub audience: Arc<Audience>,
}

/// What became of a publish.
#[derive(Debug, Clone)]
pub enum Publication {
    /// It is in the log, durably.
    Recorded(Arc<Event>),
    /// The same content was recorded before.
    Duplicate {
        /// Then.
        first: Recorded,
    },
    /// Other content was recorded under this id.
    Conflict {
        /// That.
        first: Recorded,
    },
}

/// What to write down, by intent. Changes are committed in the order in which they were handed over.
#[derive(Debug, Clone)]
pub enum Change {
    /// The partner acknowledged. Lost at a crash: the delivery is sent once more.
    Acked(AckReceipt),
    /// An attempt failed and the delivery is still open. Lost at a crash: the attempt is made once more.
    AttemptFailed {
        /// The delivery as it stands.
        open: OpenDelivery,
        /// The attempt.
        tried: Tried,
    },
    /// The delivery has a record of its own. For replays: hand it over durably before it is sent.
    Opened(OpenDelivery),
    /// It ended without an ACK.
    Ended {
        /// The delivery as it stood.
        open: OpenDelivery,
        /// `Nack`, `Dead`, `Superseded` or `Cancelled`.
        state: State,
        /// When.
        at: Time,
        /// Why.
        reason: String,
        /// For a NACK: how it came.
        evidence: Option<Evidence>,
        /// The attempt that ended it.
        tried: Option<Tried>,
    },
    /// A dead letter is open again.
    Reopened(OpenDelivery),
    /// Everything up to the cursor has ended or has a record of its own.
    CursorMoved {
        /// Whose.
        partner: PartnerNo,
        /// The last such event.
        cursor: Seq,
        /// The partner's counter there.
        counted: u64,
    },
    /// The partner's health changed.
    HealthChanged {
        /// Whose.
        partner: PartnerNo,
        /// Its health.
        health: Health,
    },
}

/// An ACK for the ledger.
#[derive(Debug, Clone)]
pub struct AckReceipt {
    /// Which delivery.
    pub key: DeliveryKey,
    /// When it came.
    pub at: Time,
    /// Which attempt carried it.
    pub attempt: u32,
    /// How it is evidenced.
    pub evidence: Evidence,
    /// SHA-256 of the bytes sent.
    pub body_digest: Digest,
    /// The version sent.
    pub version: Version,
    /// The scripts that made them.
    pub scripts: Arc<[Digest]>,
    /// The partner's counter.
    pub partner_seq: Option<u64>,
    /// The delivery may have other rows (open or ended) that are to go; when it has none and was acknowledged before, the ACK is
    /// said twice and is left out.
    pub has_rows: bool,
}

/// A partner as it is stored.
#[derive(Clone)]
pub struct StoredPartner {
    /// Its number.
    pub no: PartnerNo,
    /// Its id.
    pub id: String,
    /// Its document, JSON text, secrets included.
    pub document: String,
    /// Its signing secrets with their ends, newest first.
    pub secrets: Vec<(String, Option<Time>)>,
    /// When it was added.
    pub added_at: Time,
    /// Since when it is paused.
    pub paused_since: Option<Time>,
    /// When it was removed.
    pub removed_at: Option<Time>,
}

/// Never shows the document, which may hold secrets.
impl fmt::Debug for StoredPartner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("StoredPartner");
        shown.field("no", &self.no).field("id", &self.id).field("added_at", &self.added_at);
        shown.field("paused_since", &self.paused_since).field("removed_at", &self.removed_at);
        shown.finish_non_exhaustive()
    }
}

/// A partner to store: new, or in place of the one with this number.
#[derive(Clone)]
pub struct NewPartner {
    /// The one to replace.
    pub no: Option<PartnerNo>,
    /// Its id.
    pub id: String,
    /// Its document, JSON text, secrets included.
    pub document: String,
    /// Its signing secrets with their ends, newest first.
    pub secrets: Vec<(String, Option<Time>)>,
    /// When it was added.
    pub added_at: Time,
}

/// Never shows the document, which may hold secrets.
impl fmt::Debug for NewPartner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("NewPartner");
        shown.field("no", &self.no).field("id", &self.id).field("added_at", &self.added_at);
        shown.finish_non_exhaustive()
    }
}

/// A token as it is stored: never its text.
#[derive(Clone)]
pub struct StoredToken {
    /// Its public name.
    pub id: String,
    /// Hash of its text.
    pub hash: [u8; 32],
    /// Its role's word.
    pub role: String,
    /// Subjects of a publisher.
    pub subjects: Vec<String>,
    /// The partner of a partner's token.
    pub partner: Option<String>,
    /// What it is for.
    pub note: String,
    /// When it was made.
    pub created_at: Time,
    /// When it ends.
    pub expires_at: Option<Time>,
    /// When it was revoked.
    pub revoked_at: Option<Time>,
}

/// Never shows the hash.
impl fmt::Debug for StoredToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("StoredToken");
        shown.field("id", &self.id).field("role", &self.role).field("subjects", &self.subjects);
        shown.field("partner", &self.partner).field("note", &self.note).field("created_at", &self.created_at);
        shown.field("expires_at", &self.expires_at).field("revoked_at", &self.revoked_at);
        shown.finish_non_exhaustive()
    }
}

/// Who did what, to be written with the change.
#[derive(Debug, Clone)]
pub struct Audit {
    /// When.
    pub at: Time,
    /// The token's public name.
    pub actor: String,
    /// What, such as `partner.add`.
    pub act: &'static str,
    /// On what.
    pub object: String,
    /// Why, if said.
    pub reason: Option<String>,
}

/// A line of the audit trail.
#[derive(Debug, Clone)]
pub struct AuditLine {
    /// From 1.
    pub number: u64,
    /// When.
    pub at: Time,
    /// The token's public name.
    pub actor: String,
    /// What.
    pub act: String,
    /// On what.
    pub object: String,
    /// Why, if said.
    pub reason: Option<String>,
}

/// What a rule is; each kind has its own ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleKind {
    /// From one version to another.
    Bridge,
    /// What payloads of a subject and version look like.
    Schema,
    /// What scripts look up.
    Table,
}

/// The rules by which payloads are turned and judged, each a JSON document.
#[derive(Debug, Default)]
pub struct StoredRules {
    /// From one version to another.
    pub bridges: Vec<String>,
    /// By subject and version.
    pub schemas: Vec<String>,
    /// What scripts look up.
    pub tables: Vec<String>,
}

/// A signed checkpoint of the ledger's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// Leaves of the tree then.
    pub size: u64,
    /// When it was signed.
    pub at: Time,
    /// The signed note.
    pub note: String,
}

/// What Ops were told of a partner's trouble and was not taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEscalation {
    /// Whose.
    pub partner: PartnerNo,
    /// The cause's word.
    pub cause: String,
    /// The target's name.
    pub target: String,
    /// When it was told.
    pub told_at: Time,
    /// Since when the trouble was there.
    pub since: Time,
    /// It was told as urgent.
    pub urgent: bool,
}

/// How a partner fares, as far as Ops care.
#[derive(Debug, Default)]
pub struct PartnerTroubles {
    /// Deliveries without a bridge or a script result.
    pub blocked: Option<FoundTrouble>,
    /// Dead letters.
    pub dead: Option<FoundTrouble>,
    /// Delivered without a receipt, and not sent again.
    pub outstanding: Option<FoundTrouble>,
    /// What is open, oldest first.
    pub open: Option<FoundTrouble>,
    /// The oldest urgent one that is open.
    pub open_urgent_since: Option<Time>,
    /// Since when it is offline.
    pub offline_since: Option<Time>,
    /// When it was given up.
    pub gave_up_at: Option<Time>,
}

/// Deliveries of one kind.
#[derive(Debug, Clone)]
pub struct FoundTrouble {
    /// How many, as far as they were counted.
    pub count: u64,
    /// There may be more.
    pub has_more: bool,
    /// The event of the oldest.
    pub oldest: String,
    /// Since when the oldest is so.
    pub since: Time,
    /// Why, of the one that has a reason and is newest.
    pub reason: Option<String>,
    /// The command that mends it.
    pub mend: Option<String>,
    /// One of them is urgent.
    pub urgent: bool,
}

/// What the store holds when it is opened.
#[derive(Debug, Default)]
pub struct Start {
    /// Partners, removed ones too.
    pub partners: Vec<StoredPartner>,
    /// Bridges, schemas and lookup tables.
    pub rules: StoredRules,
    /// Tokens.
    pub tokens: Vec<StoredToken>,
    /// The last recorded event.
    pub head: Seq,
    /// What Ops were told and was not taken back.
    pub escalations: Vec<StoredEscalation>,
    /// How often the registry was changed, where several nodes may do it.
    pub registry: u64,
}

/// What a lane needs to go on where it was.
#[derive(Debug, Default)]
pub struct LaneStart {
    /// Everything up to here has ended or has a record of its own.
    pub cursor: Seq,
    /// The partner's counter there.
    pub counted: u64,
    /// Deliveries past the cursor that have ended or have a record of their own.
    pub ended: Vec<Seq>,
    /// The first open deliveries with records of their own.
    pub open: Vec<OpenDelivery>,
    /// The partner's health.
    pub health: Health,
}

/// A page of a partner's backlog.
#[derive(Debug, Default)]
pub struct Backlog {
    /// Events that are for the partner.
    pub entries: Vec<Offer>,
    /// Everything up to here was looked at.
    pub scanned_to: Seq,
}

/// A page of what is urgent in a partner's backlog.
#[derive(Debug)]
pub struct UrgentBacklog {
    /// Each with how many events of the partner lie between the backlog's beginning and it, itself included.
    pub entries: Vec<(Offer, u64)>,
    /// Everything urgent up to here was looked at.
    pub scanned_to: Seq,
    /// There may be more.
    pub has_more: bool,
}

/// A delivery as the store knows it.
#[derive(Debug, Clone)]
pub struct StoredDelivery {
    /// Which.
    pub key: DeliveryKey,
    /// Where it stands.
    pub state: State,
    /// Attempts made.
    pub attempts_made: u32,
    /// When the next one is due.
    pub due_at: Option<Time>,
    /// Why it is not done, or how it ended.
    pub reason: Option<String>,
    /// The command that mends it.
    pub mend: Option<String>,
    /// When it ended.
    pub ended_at: Option<Time>,
    /// How the ACK is evidenced.
    pub evidence: Option<Evidence>,
    /// SHA-256 of the bytes sent.
    pub body_digest: Option<Digest>,
    /// The version sent.
    pub version: Option<Version>,
    /// The scripts that made it.
    pub scripts: Arc<[Digest]>,
    /// The partner's counter.
    pub partner_seq: Option<u64>,
    /// A replay's own message id.
    pub message_uuid: Option<Uuid>,
    /// It is dead only because its partner is given up: its lane still has it.
    pub waits: bool,
    /// The attempts on record.
    pub attempts: Vec<StoredAttempt>,
}

/// An attempt on record.
#[derive(Debug, Clone)]
pub struct StoredAttempt {
    /// From 1.
    pub number: u32,
    /// When it began.
    pub at: Time,
    /// How long it took.
    pub took: std::time::Duration,
    /// HTTP status.
    pub status: Option<u16>,
    /// Its word.
    pub outcome: String,
    /// Why.
    pub reason: String,
}

/// One receipt with its place in the ledger.
#[derive(Debug, Clone)]
pub struct LedgerEntry {
    /// From 0.
    pub index: u64,
    /// The event.
    pub seq: Seq,
    /// The receipt.
    pub entry: crate::ledger::Entry,
    /// The chain after its row.
    pub chain: Digest,
}
