//! Reading back open deliveries that lie in the store.

use super::act::Action;
use super::entry::Phase;
use super::{Lane, Place};
use crate::id::Seq;
use crate::partner::Order;
use crate::time::Time;

/// Reading back open deliveries that did not fit into the window.
#[derive(Debug, Default)]
pub(super) struct OpenScan {
    /// The last place looked at, while there is more to look at.
    pub(super) after: Option<Place>,
    pub(super) is_loading: bool,
    /// What was blocked goes out again.
    pub(super) unblocks: bool,
    /// Held deliveries were let go of, to be read back when bridges change.
    pub(super) has_evicted: bool,
    /// To be begun anew when the page under way has come.
    pub(super) begins_anew: bool,
}

impl OpenScan {
    /// Reads every open delivery of the store once more.
    pub(super) fn begin(&mut self) {
        self.begins_anew = self.is_loading;
        if !self.is_loading {
            self.after = Some((Seq(0), 0));
        }
    }

    /// A page came; `next` is its last place while there is more.
    pub(super) fn loaded(&mut self, next: Option<Place>) {
        self.is_loading = false;
        self.after = if std::mem::take(&mut self.begins_anew) { Some((Seq(0), 0)) } else { next };
    }
}

impl Lane {
    pub(super) fn unblock(&mut self, now: Time) {
        let blocked: Vec<Place> =
            self.entries.iter().filter(|(_, entry)| entry.phase == Phase::Blocked).map(|(place, _)| *place).collect();
        for place in blocked {
            let Some(entry) = self.entries.get_mut(&place) else {
                continue;
            };
            entry.phase = Phase::Waiting;
            entry.reason = None;
            entry.mend = None;
            let key = entry.line_key();
            if self.policy.order == Order::None {
                self.settle(place, &Phase::Waiting, now);
            } else {
                self.promote(&key, now);
            }
        }
        if self.open_scan.has_evicted || self.open_scan.after.is_some() {
            self.open_scan.begin();
            self.open_scan.unblocks = true;
            self.open_scan.has_evicted = false;
        }
    }

    pub(super) fn next_open_page(&mut self) -> Option<Action> {
        let after = self.open_scan.after?;
        if self.open_scan.is_loading || self.entries.len() > self.room / 2 {
            return None;
        }
        self.open_scan.is_loading = true;
        Some(Action::LoadOpen { after, limit: self.room - self.entries.len() })
    }
}

/// What Ops care for.
impl Lane {
    /// The oldest first sending that has not ended and the oldest urgent one, dry runs left out; as far as they are in memory: what
    /// is left in the store has records of its own.
    #[must_use]
    pub fn oldest(&self) -> [Option<Seq>; 2] {
        let mut real = self.entries.iter().filter(|(place, entry)| place.1 == 0 && !entry.test);
        let Some((first, entry)) = real.next() else { return [None, None] };
        let is_urgent = |entry: &super::entry::Entry| entry.priority == crate::event::Priority::Urgent;
        let urgent = if is_urgent(entry) { Some(first) } else { real.find(|(_, e)| is_urgent(e)).map(|(p, _)| p) };
        [Some(first.0), urgent.map(|place| place.0)]
    }
}
