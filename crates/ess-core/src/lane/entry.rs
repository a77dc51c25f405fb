//! A delivery as its lane sees it.

use uuid::Uuid;

use super::Place;
use super::act::Sent;
use crate::delivery::DeliveryKey;
use crate::event::{Kind, Priority};
use crate::id::{PartnerNo, Seq, Subject};
use crate::time::Time;

/// An event of the log that is for this partner.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Its place in the log.
    pub seq: Seq,
    /// Its subject.
    pub subject: Subject,
    /// Whether it overtakes others.
    pub priority: Priority,
    /// A change, a correction, a retraction.
    pub kind: Kind,
    /// A dry run.
    pub test: bool,
}

/// A delivery with a record of its own in the store.
#[derive(Debug, Clone)]
pub struct OpenDelivery {
    /// Which.
    pub key: DeliveryKey,
    /// The event's subject.
    pub subject: Subject,
    /// Whether it overtakes others.
    pub priority: Priority,
    /// A change, a correction, a retraction.
    pub kind: Kind,
    /// A dry run.
    pub test: bool,
    /// Where it stands.
    pub state: OpenState,
    /// Attempts made.
    pub attempts: u32,
    /// Of these, sent again for want of an ACK.
    pub resends: u32,
    /// When the next attempt is due.
    pub due_at: Option<Time>,
    /// When it first failed.
    pub first_failed_at: Option<Time>,
    /// The partner's counter.
    pub partner_seq: Option<u64>,
    /// Why it is not done.
    pub reason: Option<String>,
    /// The command that mends it.
    pub mend: Option<String>,
    /// A replay's own message id.
    pub message_uuid: Option<Uuid>,
    /// What was sent last.
    pub sent: Option<Sent>,
}

/// Where an open delivery stands when it has a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenState {
    /// Waits for its turn.
    Pending,
    /// Another attempt is due.
    Retrying,
    /// Delivered, receipt outstanding; `due_at` is when it is sent again, absent when it won't be.
    AwaitingAck,
    /// No bridge or script result.
    Blocked,
}

/// Where a loaded delivery stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waits for its turn in its line.
    Waiting,
    /// In the ready set.
    Ready,
    /// An attempt is under way.
    Sending,
    /// Another attempt is due then (at once when the partner is offline and it is the probe's turn).
    Retrying { due: Time },
    /// Delivered; sent again then.
    AwaitingAck { due: Time },
    /// Delivered; only the partner's word ends it.
    Outstanding,
    /// No bridge or script result.
    Blocked,
}

impl Phase {
    /// Nothing but a word from outside moves it.
    pub(super) fn is_held(&self) -> bool {
        matches!(self, Phase::Blocked | Phase::Outstanding)
    }

    /// The partner may have seen it, and may see it again.
    pub(super) fn is_under_way(&self) -> bool {
        matches!(self, Phase::Sending | Phase::Retrying { .. } | Phase::AwaitingAck { .. })
    }
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) subject: Subject,
    pub(super) priority: Priority,
    pub(super) kind: Kind,
    pub(super) test: bool,
    pub(super) phase: Phase,
    pub(super) attempts: u32,
    pub(super) failures: u32,
    pub(super) resends: u32,
    pub(super) first_failed_at: Option<Time>,
    pub(super) partner_seq: Option<u64>,
    pub(super) message_uuid: Option<Uuid>,
    pub(super) sent: Option<Sent>,
    pub(super) reason: Option<String>,
    pub(super) mend: Option<String>,
    /// The store holds an explicit record: the cursor may pass.
    pub(super) is_recorded: bool,
    /// Its place among the lane's timers.
    pub(super) timer: Option<Time>,
}

impl Entry {
    pub(super) fn from_offer(offer: Offer, partner_seq: u64) -> Self {
        Self {
            subject: offer.subject,
            priority: offer.priority,
            kind: offer.kind,
            test: offer.test,
            phase: Phase::Waiting,
            attempts: 0,
            failures: 0,
            resends: 0,
            first_failed_at: None,
            partner_seq: Some(partner_seq),
            message_uuid: None,
            sent: None,
            reason: None,
            mend: None,
            is_recorded: false,
            timer: None,
        }
    }

    pub(super) fn from_open(open: OpenDelivery) -> Self {
        let phase = match (open.state, open.due_at) {
            (OpenState::Pending, _) => Phase::Waiting,
            (OpenState::Retrying, due) => Phase::Retrying { due: due.unwrap_or_default() },
            (OpenState::AwaitingAck, Some(due)) => Phase::AwaitingAck { due },
            (OpenState::AwaitingAck, None) => Phase::Outstanding,
            (OpenState::Blocked, _) => Phase::Blocked,
        };
        Self {
            subject: open.subject,
            priority: open.priority,
            kind: open.kind,
            test: open.test,
            phase,
            attempts: open.attempts,
            failures: open.attempts.saturating_sub(open.resends),
            resends: open.resends,
            first_failed_at: open.first_failed_at,
            partner_seq: open.partner_seq,
            message_uuid: open.message_uuid,
            sent: open.sent,
            reason: open.reason,
            mend: open.mend,
            is_recorded: true,
            timer: None,
        }
    }

    pub(super) fn to_open(&self, partner: PartnerNo, place: Place) -> OpenDelivery {
        let (state, due_at) = match self.phase {
            Phase::Waiting | Phase::Ready | Phase::Sending => (OpenState::Pending, None),
            Phase::Retrying { due } => (OpenState::Retrying, Some(due)),
            Phase::AwaitingAck { due } => (OpenState::AwaitingAck, Some(due)),
            Phase::Outstanding => (OpenState::AwaitingAck, None),
            Phase::Blocked => (OpenState::Blocked, None),
        };
        OpenDelivery {
            key: DeliveryKey { seq: place.0, partner, round: place.1 },
            subject: self.subject.clone(),
            priority: self.priority,
            kind: self.kind,
            test: self.test,
            state,
            attempts: self.attempts,
            resends: self.resends,
            due_at,
            first_failed_at: self.first_failed_at,
            partner_seq: self.partner_seq,
            reason: self.reason.clone(),
            mend: self.mend.clone(),
            message_uuid: self.message_uuid,
            sent: self.sent.clone(),
        }
    }

    pub(super) fn line_key(&self) -> (Subject, bool) {
        (self.subject.clone(), self.test)
    }

    /// The order of sending between lines: urgent and retractions, routine, dry runs.
    pub(super) fn class(&self) -> u8 {
        match (self.test, self.priority, self.kind) {
            (true, _, _) => 2,
            (false, Priority::Urgent, _) | (false, _, Kind::Retraction) => 0,
            (false, Priority::Routine, _) => 1,
        }
    }
}
