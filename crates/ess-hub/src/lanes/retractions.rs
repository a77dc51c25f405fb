//! Retractions on their way into the lanes: what a lane is to give up before it is offered one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ess_core::event::{Event, Kind};
use ess_core::id::EventId;
use ess_core::lane::{Lane, Offer};
use ess_core::time::Time;

use super::Retraction;

/// What retractions on their way through the store take back, so that no lane is offered one before it gave up what it takes back.
#[derive(Debug, Default)]
pub struct Retractions {
    /// Guards what is known by id and dry run; held to put in, look up, or take out.
    known: Mutex<HashMap<(EventId, bool), Arc<Retraction>>>,
}

impl Retractions {
    /// To be told before the retraction is recorded.
    pub fn expect(&self, id: &EventId, retraction: Arc<Retraction>) {
        let key = (id.clone(), retraction.offer.test);
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key, retraction);
    }

    /// It was not recorded, or everybody was told.
    pub fn forget(&self, event: &Event) {
        if event.content.kind == Kind::Retraction {
            self.forget_id(&event.content.id, event.content.test);
        }
    }

    /// It was not recorded.
    pub fn forget_id(&self, id: &EventId, test: bool) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&(id.clone(), test));
    }

    pub(super) fn of(&self, event: &Event) -> Option<Arc<Retraction>> {
        if event.content.kind != Kind::Retraction {
            return None;
        }
        let key = (event.content.id.clone(), event.content.test);
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }
}

/// What a lane is told of an event.
pub fn offer_of(event: &Event) -> Offer {
    let content = &event.content;
    Offer {
        seq: event.seq,
        subject: content.subject.clone(),
        priority: content.priority,
        kind: content.kind,
        test: content.test,
        recorded_at: event.recorded_at,
    }
}

pub(super) fn take_back_at(lane: &mut Lane, offer: &Offer, retraction: &Retraction, now: Time) {
    if !lane.take_back(&retraction.events, &retraction.reason, now) {
        lane.spare(offer, &retraction.spared, now);
    }
}
