//! Deliveries that are not to go on: taken back by a retraction, or given up by an operator.

use super::act::{Ended, Record};
use super::entry::{Offer, OpenDelivery, Phase};
use super::{Lane, Place};
use crate::delivery::State;
use crate::time::Time;

impl Lane {
    /// Takes events back: what has not ended ends as cancelled, an attempt under way is the last one. False when the partner was
    /// never sent any of them, so that it need not hear of the retraction either.
    pub fn take_back(&mut self, events: &[Offer], reason: &str, now: Time) -> bool {
        let mut may_have_arrived = false;
        for event in events {
            let loaded: Vec<Place> =
                self.entries.range((event.seq, 0)..=(event.seq, u32::MAX)).map(|(place, _)| *place).collect();
            if loaded.is_empty() && self.supply.is_ahead(event.seq) {
                self.cancel(event.to_open(self.partner, None), reason.to_owned(), now);
                continue;
            }
            // Not loaded: it ended, or it waits in the store behind its line, perhaps after an attempt.
            may_have_arrived |= loaded.is_empty();
            if loaded.is_empty() {
                self.cancel_in_store(event, reason);
            }
            for place in loaded {
                may_have_arrived |= self.entries.get(&place).is_some_and(super::entry::Entry::may_have_arrived);
                self.cancel_loaded(place, reason.to_owned(), now);
            }
        }
        may_have_arrived
    }

    /// The partner need not get this event: it was never sent what it takes back.
    pub fn spare(&mut self, retraction: &Offer, reason: &str, now: Time) {
        let place = (retraction.seq, 0);
        let is_loaded = self.entries.contains_key(&place);
        if is_loaded || self.supply.is_ahead(retraction.seq) {
            self.cancel(retraction.to_open(self.partner, None), reason.to_owned(), now);
        }
    }

    /// Gives a delivery up for good, wherever it is.
    pub(super) fn cancel(&mut self, open: OpenDelivery, reason: String, now: Time) {
        let place = (open.key.seq, open.key.round);
        if self.entries.contains_key(&place) {
            return self.cancel_loaded(place, reason, now);
        }
        let key = (open.subject.clone(), open.test);
        self.supply.settle_ahead(place.0);
        // A page that was read before this record is written may still bring it.
        if self.is_reading() {
            self.taken_back.insert(place, reason.clone());
        }
        let ended = Ended { state: State::Cancelled, reason, evidence: None, tried: None, at: now };
        self.record(Record::Ended { open, ended });
        self.promote(&key, now);
        self.note_progress();
    }

    fn cancel_loaded(&mut self, place: Place, reason: String, now: Time) {
        let Some(entry) = self.entries.get_mut(&place) else { return };
        if entry.phase == Phase::Sending {
            // Its line waits for this attempt: what follows must not overtake it on the wire.
            entry.cancel = Some(reason);
            return;
        }
        self.end(place, Ended { state: State::Cancelled, reason, evidence: None, tried: None, at: now });
    }

    fn cancel_in_store(&mut self, event: &Offer, reason: &str) {
        let lies_in_store = self.open_scan.after.is_some()
            || self.open_scan.has_evicted
            || self.lines.get(&(event.subject.clone(), event.test)).is_some_and(|line| line.stored);
        if lies_in_store {
            self.taken_back.insert((event.seq, 0), reason.to_owned());
        }
    }

    fn is_reading(&self) -> bool {
        self.open_scan.is_loading || self.lines.values().any(|line| line.is_loading)
    }
}
