//! What can wake the lanes' loop, and the handle by which others wake it.

use std::sync::Arc;

use ess_core::id::{PartnerNo, Seq, Subject};
use ess_core::lane::{Offer, OpenDelivery, Report, Sent};
use ess_core::receipt::Evidence;
use ess_core::time::Time;
use ess_store::{LaneStart, UrgentBacklog};
use tokio::sync::{mpsc, oneshot};

use crate::registry::Registered;

/// Everything that can wake the loop.
pub enum Input {
    /// An attempt ended.
    Report(PartnerNo, Box<Report>),
    /// An attempt is about to be sent whose ACK may overtake its answer.
    Prepared(PartnerNo, Seq, u32, Sent),
    /// A page of the backlog was read.
    Loaded(PartnerNo, Vec<Offer>, Seq),
    /// A line was read.
    LineLoaded(PartnerNo, Subject, bool, Vec<OpenDelivery>, bool),
    /// A page of open deliveries was read.
    OpenLoaded(PartnerNo, Vec<OpenDelivery>, Option<(Seq, u32)>),
    /// Replays and redriven dead letters.
    Opened(PartnerNo, Vec<OpenDelivery>),
    /// A partner's word; answers whether the delivery was open here.
    Word(PartnerNo, Word, oneshot::Sender<bool>),
    /// A delivery that was not loaded ended in the store.
    EndedInStore(PartnerNo, Subject, bool),
    /// Bridges changed: every lane tries again what was blocked.
    UnblockAll,
    /// An attempt by the fallback channel ended.
    FallbackReport(PartnerNo, Box<Report>),
    /// A heartbeat was sent, or could not be.
    Beaten,
    /// What is urgent in the backlog was read.
    UrgentLoaded(PartnerNo, UrgentBacklog),
    /// These partners need not get any more what a retraction takes back.
    TakeBack(Vec<PartnerNo>, Arc<Retraction>),
    /// A delivery is given up for good.
    Cancel(PartnerNo, Box<OpenDelivery>, String),
    /// What the partner's health holds back is tried now.
    Redrive(PartnerNo),
    /// A partner joins, with what the store remembers.
    Seat(Arc<Registered>, Box<LaneStart>, Vec<OpenDelivery>, Seq),
    /// A partner's configuration, state or secrets changed.
    Reseat(Arc<Registered>),
    /// A partner leaves.
    Unseat(PartnerNo),
    /// How a lane fares.
    Inspect(PartnerNo, oneshot::Sender<LaneReport>),
    /// Answers when everything before it was taken, and what lanes recorded was handed to the store.
    Settle(oneshot::Sender<()>),
    /// Send nothing more; answers when nothing is under way.
    Drain(oneshot::Sender<()>),
}

impl Input {
    /// It answers what a lane asked for itself.
    pub(super) fn is_of_lanes_own(&self) -> bool {
        matches!(
            self,
            Self::Report(..)
                | Self::FallbackReport(..)
                | Self::Prepared(..)
                | Self::Loaded(..)
                | Self::UrgentLoaded(..)
                | Self::Beaten
                | Self::LineLoaded(..)
                | Self::OpenLoaded(..)
        )
    }
}

/// A retraction and what it takes back.
#[derive(Debug)]
pub struct Retraction {
    /// The retraction's own delivery; its number is 0 until it is recorded.
    pub offer: Offer,
    /// What it takes back.
    pub events: Vec<Offer>,
    /// Why those end.
    pub reason: String,
    /// Why the retraction is not sent to who never got them.
    pub spared: String,
}

/// A partner's word by another way than the answer.
#[derive(Debug, Clone)]
pub enum Word {
    /// It has it.
    Ack { seq: Seq, round: u32, evidence: Evidence },
    /// It refuses it.
    Nack { seq: Seq, round: u32, evidence: Evidence, reason: String },
}

/// How a lane fares.
#[derive(Debug, Clone, Default)]
pub struct LaneReport {
    /// Attempts under way.
    pub in_flight: u32,
    /// Since when the partner is offline.
    pub offline_since: Option<Time>,
    /// Its last failure.
    pub last_error: Option<String>,
}

/// What lanes ask of the registry.
#[derive(Debug)]
pub enum Wish {
    /// Pause this partner: its address is gone.
    Pause(PartnerNo, String),
}

/// The loop's ear.
#[derive(Clone)]
pub struct LanesHandle {
    inputs: mpsc::UnboundedSender<Input>,
}

impl LanesHandle {
    pub(super) fn new(inputs: mpsc::UnboundedSender<Input>) -> Self {
        Self { inputs }
    }

    /// Hands an input to the loop; dropped when the loop has ended, as nothing is sent any more then.
    pub fn tell(&self, input: Input) {
        drop(self.inputs.send(input));
    }

    /// How a partner's lane fares.
    pub async fn inspect(&self, no: PartnerNo) -> LaneReport {
        let (reply, answer) = oneshot::channel();
        self.tell(Input::Inspect(no, reply));
        answer.await.unwrap_or_default()
    }

    /// Passes a partner's word on; true when the delivery was open.
    pub async fn word(&self, no: PartnerNo, word: Word) -> bool {
        let (reply, answer) = oneshot::channel();
        self.tell(Input::Word(no, word, reply));
        answer.await.unwrap_or(false)
    }

    /// Waits until everything that was told before is done.
    pub async fn settle(&self) {
        let (reply, answer) = oneshot::channel();
        self.tell(Input::Settle(reply));
        drop(answer.await);
    }

    /// Stops sending and waits until nothing is under way.
    pub async fn drain(&self) {
        let (reply, answer) = oneshot::channel();
        self.tell(Input::Drain(reply));
        // The loop that is gone has nothing under way.
        drop(answer.await);
    }
}
