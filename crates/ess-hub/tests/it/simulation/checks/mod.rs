//! What must hold at every step of a simulated world: one file for each property, each with its own memory of what it saw.
//!
//! A check never asks the lane what it thinks: it compares what was sent, answered and written down.

mod back_off;
mod counter;
mod duplicates;
mod ends_once;
mod limits;
mod memory;
mod nothing_lost;
mod order;
mod probes;
mod resends;
mod right_end;
mod visible;

use ess_core::id::Seq;
use ess_core::lane::{Action, Attempt, Command, Lane, Offer, Outcome, Policy};
use ess_core::time::Time;

use super::kept::{Change, Place, Store};

/// Something that happened at one partner's lane.
#[derive(Debug, Clone, Copy)]
pub enum Fact<'a> {
    /// An event for the partner is in the log; it is the partner's `rank`-th.
    Published { offer: &'a Offer, rank: u64 },
    /// An operator replayed this, or redrove a dead letter.
    OpenedByOperator(Place),
    /// A retraction came for this event.
    TakenBack(Seq),
    /// An operator said this to the lane.
    Commanded(&'a Command),
    /// An attempt left.
    Sent(&'a Attempt),
    /// It ended so; the lane is told next.
    Answered { attempt: &'a Attempt, outcome: &'a Outcome },
    /// A partner's word came for this delivery.
    Word { place: Place, is_ack: bool },
    /// Handed over to the store.
    Recorded(&'a Change),
    /// The lane asked for something else.
    Asked(&'a Action),
    /// The hub died; what was not durable is gone, and a new lane goes on.
    Restarted,
    /// Everything that follows from one event has been done.
    Stepped,
    /// Nothing more will happen.
    Settled,
}

/// How things stand when a fact is told.
pub struct Scene<'a> {
    /// The lane's time.
    pub now: Time,
    pub policy: &'a Policy,
    pub store: &'a Store,
    pub lane: &'a Lane,
    /// The room that the lane was given.
    pub room: usize,
    /// The log, as far as it is for the partner.
    pub log: &'a [Offer],
}

impl Scene<'_> {
    pub fn offer(&self, place: Place) -> &Offer {
        let index = self.log.partition_point(|offer| offer.seq < place.0);
        &self.log[index]
    }
}

/// A property that does not hold.
#[derive(Debug, Clone)]
pub struct Broken {
    /// Which: the name of its file.
    pub check: &'static str,
    /// What was seen.
    pub why: String,
}

/// All of them, for one partner.
#[derive(Default)]
pub struct Checks {
    back_off: back_off::BackOff,
    counter: counter::Counter,
    duplicates: duplicates::Duplicates,
    ends_once: ends_once::EndsOnce,
    limits: limits::LimitsKept,
    memory: memory::Memory,
    nothing_lost: nothing_lost::NothingLost,
    order: order::InOrder,
    probes: probes::Probes,
    resends: resends::Resends,
    right_end: right_end::RightEnd,
    visible: visible::Visible,
}

impl Checks {
    /// Shows a fact to every check.
    pub fn see(&mut self, fact: &Fact<'_>, scene: &Scene<'_>) -> Result<(), Broken> {
        let broken = |check: &'static str| move |why: String| Broken { check, why };
        self.ends_once.see(fact, scene).map_err(broken("ends_once"))?;
        self.duplicates.see(fact, scene).map_err(broken("duplicates"))?;
        self.order.see(fact, scene).map_err(broken("order"))?;
        self.resends.see(fact, scene).map_err(broken("resends"))?;
        self.back_off.see(fact, scene).map_err(broken("back_off"))?;
        self.probes.see(fact, scene).map_err(broken("probes"))?;
        self.limits.see(fact, scene).map_err(broken("limits"))?;
        self.counter.see(fact, scene).map_err(broken("counter"))?;
        self.memory.see(fact, scene).map_err(broken("memory"))?;
        self.visible.see(fact, scene).map_err(broken("visible"))?;
        self.right_end.see(fact, scene).map_err(broken("right_end"))?;
        self.nothing_lost.see(fact, scene).map_err(broken("nothing_lost"))
    }
}
