//! A delivery: one event for one partner, from pending to its end.

use crate::id::{PartnerNo, Seq};

/// Which delivery: one event, one partner, the first sending or a replay.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DeliveryKey {
    /// The event.
    pub seq: Seq,
    /// The partner.
    pub partner: PartnerNo,
    /// 0 for the first sending, 1 and on for replays.
    pub round: u32,
}

/// Where a delivery stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State {
    /// Not yet tried.
    Pending,
    /// An attempt is under way.
    Sending,
    /// Delivered, receipt outstanding.
    AwaitingAck,
    /// Failed, another attempt is due.
    Retrying,
    /// No bridge or script result; goes out by itself when mended.
    Blocked,
    /// Acknowledged.
    Acked,
    /// Refused by the partner.
    Nack,
    /// Given up.
    Dead,
    /// A newer event of the subject took its place (`order: latest`).
    Superseded,
    /// Taken back by an operator, a removal or a retraction.
    Cancelled,
}

impl State {
    /// The word that `status()` prints.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            State::Pending | State::Sending => "pending",
            State::AwaitingAck => "awaiting_ack",
            State::Retrying => "retrying",
            State::Blocked => "blocked",
            State::Acked => "ack",
            State::Nack => "nack",
            State::Dead => "dead",
            State::Superseded => "superseded",
            State::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more happens by itself.
    #[must_use]
    pub fn is_end(self) -> bool {
        matches!(self, State::Acked | State::Nack | State::Dead | State::Superseded | State::Cancelled)
    }
}
