//! What can wake the lanes' loop, and the handle by which others wake it.

use std::sync::Arc;

use ess_core::id::{PartnerNo, Seq, Subject};
use ess_core::lane::{Offer, OpenDelivery, Report, Sent, Standing};
use ess_core::receipt::Evidence;
use ess_core::time::Time;
use ess_store::{LaneStart, UrgentBacklog};
use tokio::sync::{mpsc, oneshot};

use crate::past::Day;
use crate::registry::Registered;

/// Everything that can wake the loop.
pub enum Input {
    /// Something for one partner's lane.
    Lane(PartnerNo, ToLane),
    /// What an errand of this stay brings to a lane.
    Errand(PartnerNo, u64, ToLane),
    /// A partner's word; answers whether the delivery was open here.
    Word(PartnerNo, Word, oneshot::Sender<bool>),
    /// Bridges changed: every lane tries again what was blocked.
    UnblockAll,
    /// A heartbeat was sent, or could not be.
    Beaten,
    /// These partners need not get any more what a retraction takes back.
    TakeBack(Vec<PartnerNo>, Arc<Retraction>),
    /// A partner joins, with what the store remembers.
    Seat(Arc<Registered>, Box<LaneStart>, Vec<OpenDelivery>, Seq),
    /// A partner's configuration, state or secrets changed.
    Reseat(Arc<Registered>),
    /// A partner leaves.
    Unseat(PartnerNo),
    /// A partner is to be served elsewhere: nothing more is sent, and as soon as nothing is under way it leaves, with everything
    /// handed to the store. Answers whether it was here.
    Release(PartnerNo, oneshot::Sender<bool>),
    /// How a lane fares.
    Inspect(PartnerNo, oneshot::Sender<LaneReport>),
    /// How all lanes stand.
    Survey(oneshot::Sender<Vec<Arc<Surveyed>>>),
    /// A partner's last day.
    Day(PartnerNo, oneshot::Sender<Day>),
    /// How all lanes fare.
    InspectAll(oneshot::Sender<Vec<(PartnerNo, LaneGlance)>>),
    /// Answers when everything before it was taken, and what lanes recorded was handed to the store.
    Settle(oneshot::Sender<()>),
    /// Send nothing more; answers when nothing is under way.
    Drain(oneshot::Sender<()>),
}

/// What one lane is told.
pub enum ToLane {
    /// An attempt ended.
    Report(Box<Report>),
    /// An attempt by the fallback channel ended.
    FallbackReport(Box<Report>),
    /// An attempt is about to be sent whose ACK may overtake its answer.
    Prepared(Seq, u32, Sent),
    /// A page of the backlog was read.
    Loaded(Vec<Offer>, Seq),
    /// What is urgent in the backlog was read.
    UrgentLoaded(UrgentBacklog),
    /// A line was read.
    LineLoaded(Subject, bool, Vec<OpenDelivery>, bool),
    /// A page of open deliveries was read.
    OpenLoaded(Vec<OpenDelivery>, Option<(Seq, u32)>),
    /// Replays and redriven dead letters.
    Opened(Vec<OpenDelivery>),
    /// A delivery that was not loaded ended in the store.
    EndedInStore((Seq, u32), Subject, bool),
    /// A delivery is given up for good.
    Cancel(Box<OpenDelivery>, String),
    /// What the partner's health holds back is tried now.
    Redrive,
}

impl Input {
    /// It answers what a lane asked for itself.
    pub(super) fn is_of_lanes_own(&self) -> bool {
        match self {
            Self::Lane(_, input) => {
                !matches!(input, ToLane::Opened(..) | ToLane::EndedInStore(..) | ToLane::Cancel(..) | ToLane::Redrive)
            }
            Self::Errand(..) => true,
            // Nobody's word: no event has to be there before it.
            Self::Beaten | Self::InspectAll(..) | Self::Day(..) => true,
            _ => false,
        }
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

/// How one lane stands, among all.
#[derive(Debug, Clone)]
pub struct Surveyed {
    /// Whose it is.
    pub registered: Arc<Registered>,
    /// How it stands.
    pub standing: Standing,
    /// The last failure.
    pub last_error: Option<String>,
}

/// What Ops care for, at a glance.
#[derive(Debug, Clone, Copy, Default)]
pub struct LaneGlance {
    /// The oldest delivery that has not ended, and the oldest urgent one, as far as they are in memory.
    pub oldest: [Option<Seq>; 2],
    /// Since when the partner is offline.
    pub offline_since: Option<Time>,
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

    /// The same for these, asked together.
    pub async fn inspect_each(&self, partners: &[PartnerNo]) -> Vec<(PartnerNo, LaneReport)> {
        let mut asked = Vec::with_capacity(partners.len());
        for no in partners {
            let (reply, answer) = oneshot::channel();
            self.tell(Input::Inspect(*no, reply));
            asked.push((*no, answer));
        }
        let mut reports = Vec::with_capacity(asked.len());
        for (no, answer) in asked {
            reports.push((no, answer.await.unwrap_or_default()));
        }
        reports
    }

    /// How all lanes stand, in no order.
    pub async fn survey(&self) -> Vec<Arc<Surveyed>> {
        let (reply, answer) = oneshot::channel();
        self.tell(Input::Survey(reply));
        answer.await.unwrap_or_default()
    }

    /// A partner's last day; empty when it is not here.
    pub async fn day(&self, no: PartnerNo) -> Day {
        let (reply, answer) = oneshot::channel();
        self.tell(Input::Day(no, reply));
        answer.await.unwrap_or_default()
    }

    /// How all lanes fare; `None` when the loop has ended.
    pub async fn inspect_all(&self) -> Option<Vec<(PartnerNo, LaneGlance)>> {
        let (reply, answer) = oneshot::channel();
        self.tell(Input::InspectAll(reply));
        answer.await.ok()
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
