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
    /// When the event was recorded.
    pub recorded_at: Time,
}

impl Offer {
    /// The order of sending between lines: urgent and retractions, routine, dry runs.
    #[must_use]
    pub fn class(&self) -> u8 {
        class(self.test, self.priority, self.kind)
    }

    /// The delivery as it stands before its first attempt.
    #[must_use]
    pub fn to_open(&self, partner: PartnerNo, partner_seq: Option<u64>) -> OpenDelivery {
        OpenDelivery {
            key: DeliveryKey { seq: self.seq, partner, round: 0 },
            subject: self.subject.clone(),
            priority: self.priority,
            kind: self.kind,
            test: self.test,
            recorded_at: self.recorded_at,
            state: OpenState::Pending,
            attempts: 0,
            resends: 0,
            due_at: None,
            first_failed_at: None,
            partner_seq,
            reason: None,
            mend: None,
            message_uuid: None,
            sent: None,
            fallback_at: None,
        }
    }
}

/// The most urgent class: it does not wait behind a backlog.
pub const URGENT: u8 = 0;

fn class(test: bool, priority: Priority, kind: Kind) -> u8 {
    match (test, priority, kind) {
        (true, _, _) => 2,
        (false, Priority::Urgent, _) | (false, _, Kind::Retraction) => URGENT,
        (false, Priority::Routine, _) => 1,
    }
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
    /// When the event was recorded.
    pub recorded_at: Time,
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
    /// What was sent last: absent while the partner can't have got anything.
    pub sent: Option<Sent>,
    /// When the fallback channel took it; its receipt is outstanding.
    pub fallback_at: Option<Time>,
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

    /// Only the partner's silence keeps it from its end.
    pub(super) fn waits_for_partner(&self) -> bool {
        matches!(self, Phase::Waiting | Phase::Ready | Phase::Retrying { .. })
    }

    /// The partner may have seen it, and may see it again.
    pub(super) fn is_under_way(&self) -> bool {
        matches!(self, Phase::Sending | Phase::Retrying { .. } | Phase::AwaitingAck { .. })
    }
}

/// What the fallback channel did about a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FallbackPhase {
    /// Nothing is under way.
    Idle,
    /// An attempt is under way.
    Sending,
    /// It took the message; the partner's word is outstanding.
    Taken { at: Time },
    /// It refused: no attempt will help.
    Refused,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) subject: Subject,
    pub(super) priority: Priority,
    pub(super) kind: Kind,
    pub(super) test: bool,
    pub(super) recorded_at: Time,
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
    /// Its line has nothing older in the backlog, so that it need not wait for the backlog.
    pub(super) is_ahead: bool,
    /// Taken back while an attempt was under way: that attempt is the last.
    pub(super) cancel: Option<String>,
    /// What the fallback channel did about it.
    pub(super) fallback: FallbackPhase,
    /// Its attempts by the fallback channel that failed.
    pub(super) fallback_failures: u32,
    /// Its place among the lane's fallbacks.
    pub(super) fallback_due: Option<Time>,
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
            recorded_at: offer.recorded_at,
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
            is_ahead: false,
            cancel: None,
            fallback: FallbackPhase::Idle,
            fallback_failures: 0,
            fallback_due: None,
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
            recorded_at: open.recorded_at,
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
            is_ahead: false,
            cancel: None,
            fallback: match open.fallback_at {
                Some(at) => FallbackPhase::Taken { at },
                None => FallbackPhase::Idle,
            },
            fallback_failures: 0,
            fallback_due: None,
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
            recorded_at: self.recorded_at,
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
            fallback_at: match self.fallback {
                FallbackPhase::Taken { at } => Some(at),
                _ => None,
            },
        }
    }

    /// Attempts made and under way, by both channels.
    pub(super) fn attempts_begun(&self) -> u32 {
        let under_way = [self.phase == Phase::Sending, self.fallback == FallbackPhase::Sending];
        self.attempts + under_way.into_iter().map(u32::from).sum::<u32>()
    }

    /// Whether the partner may have got it.
    pub(super) fn may_have_arrived(&self) -> bool {
        self.sent.is_some() || self.phase == Phase::Sending || self.fallback != FallbackPhase::Idle
    }

    pub(super) fn line_key(&self) -> (Subject, bool) {
        (self.subject.clone(), self.test)
    }

    pub(super) fn class(&self) -> u8 {
        class(self.test, self.priority, self.kind)
    }
}
