//! Urgent deliveries that lie behind a backlog in the store: they overtake what is routine, of other subjects.
//!
//! The store names those before which nothing of their own subject lies in the backlog, so that order within a subject holds.

use super::act::{Action, Record};
use super::entry::{Entry, Offer};
use super::{Lane, Place};
use crate::id::Seq;
use crate::time::Time;

/// Urgent deliveries read at once.
const PAGE: usize = 64;

/// Reading urgent deliveries past the backlog.
#[derive(Debug, Default)]
pub(super) struct UrgentScan {
    /// Something urgent may lie in the backlog.
    pub(super) is_wanted: bool,
    is_loading: bool,
    /// What is urgent up to here was looked at.
    scanned_to: Seq,
    /// The partner's counter where the backlog of the page under way begins.
    counted: u64,
}

impl Lane {
    /// Something urgent may lie in the backlog: after a start, or when one was recorded that was not offered.
    pub fn want_urgent(&mut self) {
        self.urgent.is_wanted = true;
    }

    /// The answer to `Action::LoadUrgent`: offers with how many events of the partner lie between the backlog's beginning and
    /// them, themselves included; with where the page ends and whether there may be more.
    pub fn on_urgent_loaded(&mut self, offers: Vec<(Offer, u64)>, scanned_to: Seq, has_more: bool, now: Time) {
        self.urgent.is_loading = false;
        self.urgent.is_wanted |= has_more;
        self.urgent.scanned_to = scanned_to;
        for (offer, distance) in offers {
            let place = (offer.seq, 0);
            if let Some(entry) = self.entries.get_mut(&place) {
                // Read back from an earlier run; it waits for the backlog no longer.
                entry.is_ahead = true;
                let key = entry.line_key();
                self.promote(&key, now);
                continue;
            }
            let key = (offer.subject.clone(), offer.test);
            let has_older_in_store = self.lines.get(&key).is_some_and(|line| line.stored);
            if !self.supply.is_ahead(offer.seq) || has_older_in_store {
                continue;
            }
            self.enter_ahead(place, Entry::from_offer(offer, self.urgent.counted + distance), now);
        }
    }

    /// It gets a record of its own, so that the cursor stays with the backlog.
    fn enter_ahead(&mut self, place: Place, mut entry: Entry, now: Time) {
        self.supply.settle_ahead(place.0);
        entry.is_ahead = true;
        self.record(Record::Opened(entry.to_open(self.partner, place)));
        entry.is_recorded = true;
        self.enter(place, entry, now);
    }

    pub(super) fn next_urgent_page(&mut self) -> Option<Action> {
        let is_held = self.paused || self.urgent.is_loading || !self.urgent.is_wanted;
        if is_held || self.ahead() > PAGE / 2 {
            return None;
        }
        self.urgent.is_wanted = false;
        if !self.supply.has_backlog() {
            return None;
        }
        self.urgent.is_loading = true;
        let (after, counted) = self.supply.end();
        self.urgent.counted = counted;
        Some(Action::LoadUrgent { after, scanned_to: after.max(self.urgent.scanned_to), limit: PAGE })
    }

    /// How many that came ahead have not ended.
    fn ahead(&self) -> usize {
        let (taken_to, _) = self.supply.end();
        self.entries.range((taken_to, u32::MAX)..).filter(|(_, entry)| entry.is_ahead).count()
    }
}
