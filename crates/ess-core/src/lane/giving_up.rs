//! When the patience with an offline partner ends.
//!
//! What waits for it is a dead letter from then on, by derivation: nothing is written for each delivery, the lane keeps what it has,
//! goes on probing, and sends everything in order once the partner answers. Under `redrive: manual` the deliveries end instead, as
//! they come into the lane, and only an operator opens them again.

use super::act::{Action, Ended, Record};
use super::entry::Entry;
use super::{Lane, Place};
use crate::delivery::State;
use crate::partner::Redrive;
use crate::time::Time;

impl Lane {
    pub(super) fn give_up_if_due(&mut self, now: Time) {
        let is_due = self.health.gives_up_at(&self.policy.retry).is_some_and(|due| due <= now);
        if !is_due {
            return;
        }
        let failing_since = self.health.first_failed_at().unwrap_or(now);
        let health = self.health.give_up(now);
        self.record(Record::Health(health));
        self.actions.push_back(Action::GaveUp { failing_since });
        if self.policy.retry.redrive == Redrive::Manual {
            return self.bury_if_given_up(now);
        }
        let waiting = self.entries.iter().filter(|(_, entry)| entry.phase.waits_for_partner() && !entry.test);
        let dead: Vec<Action> = waiting.map(|(place, _)| Action::WaitsAsDead { seq: place.0 }).collect();
        self.actions.extend(dead);
    }

    /// An operator's word: what waits is tried now, and the patience begins anew.
    pub(super) fn redrive(&mut self, now: Time) {
        if let Some(health) = self.health.begin_anew(now) {
            self.record(Record::Health(health));
        }
    }

    /// Under `redrive: manual`: whatever waits for the given-up partner ends, in memory now and in the store as it comes in.
    pub(super) fn bury_if_given_up(&mut self, now: Time) {
        if !self.health.has_given_up() || self.policy.retry.redrive != Redrive::Manual {
            return;
        }
        self.bury_to = self.supply.newest();
        let waiting = self.entries.iter().filter(|(_, entry)| entry.phase.waits_for_partner());
        let places: Vec<Place> = waiting.map(|(place, _)| *place).collect();
        for place in places {
            let ended = self.burial(now);
            self.end(place, ended);
        }
        self.open_scan.begin();
    }

    /// Whether a delivery that comes into the lane is given up with the others.
    pub(super) fn buries(&self, place: Place, entry: &Entry) -> bool {
        self.health.has_given_up()
            && self.policy.retry.redrive == Redrive::Manual
            && place.0 <= self.bury_to
            && entry.phase.waits_for_partner()
    }

    pub(super) fn bury(&mut self, place: Place, entry: &Entry, now: Time) {
        let ended = self.burial(now);
        self.record(Record::Ended { open: entry.to_open(self.partner, place), ended });
        self.after_end(entry, now);
    }

    fn burial(&self, now: Time) -> Ended {
        let since = self.health.first_failed_at().unwrap_or(now);
        let reason = format!("given up: the partner has been offline since {since}");
        Ended { state: State::Dead, reason, evidence: None, tried: None, at: now }
    }
}
