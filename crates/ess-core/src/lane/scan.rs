//! Reading back open deliveries that lie in the store.

use std::collections::BTreeMap;

use super::act::Action;
use super::entry::{Entry, OpenDelivery, OpenState, Phase};
use super::{Lane, Place};
use crate::id::{Seq, Subject};
use crate::mutant::{self, Mutant};
use crate::partner::Order;
use crate::time::Time;

/// Reading back open deliveries that did not fit into the window.
#[derive(Debug, Default)]
pub(super) struct OpenScan {
    /// The last place looked at, while there is more to look at.
    pub(super) after: Option<Place>,
    pub(super) is_loading: bool,
    /// Which read is under way.
    pub(super) read: u64,
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

    /// Reads this one, too: it was left in the store.
    pub(super) fn rewind(&mut self, to: Place) {
        self.begins_anew |= self.is_loading;
        let before = (Seq(to.0.0.saturating_sub(1)), u32::MAX);
        self.after = Some(self.after.map_or(before, |after| after.min(before)));
    }

    /// A page came; `next` is its last place while there is more.
    pub(super) fn loaded(&mut self, next: Option<Place>) {
        self.is_loading = false;
        self.after = if std::mem::take(&mut self.begins_anew) { Some((Seq(0), 0)) } else { next };
    }
}

/// Reads of rows under way, and what left the lane meanwhile: a page may show it as it was before, and it must not come back so.
#[derive(Debug, Default)]
pub(super) struct Reads {
    count: u64,
    under_way: u32,
    /// By delivery: how many reads had begun when it left.
    passed: BTreeMap<Place, u64>,
}

impl Reads {
    /// Which read this is.
    pub(super) fn begin(&mut self) -> u64 {
        self.under_way += 1;
        self.count += 1;
        self.count
    }

    /// It ended, or was let go of.
    pub(super) fn passed(&mut self, place: Place) {
        if self.under_way > 0 && !mutant::is_active(Mutant::StalePageTaken) {
            self.passed.insert(place, self.count);
        }
    }

    /// The page of a read came; without what it may show too old.
    pub(super) fn end(&mut self, read: u64, mut opened: Vec<OpenDelivery>) -> Vec<OpenDelivery> {
        let is_old = |place: &Place| self.passed.get(place).is_some_and(|begun| *begun >= read);
        opened.retain(|open| !is_old(&(open.key.seq, open.key.round)));
        self.under_way = self.under_way.saturating_sub(1);
        if self.under_way == 0 {
            self.passed.clear();
        }
        opened
    }
}

impl Lane {
    /// The answer to `Action::LoadLine`: the oldest stored deliveries of a subject, and whether there are more.
    pub fn on_line_loaded(&mut self, subject: &Subject, test: bool, opened: Vec<OpenDelivery>, more: bool, now: Time) {
        self.make_room();
        let key = (subject.clone(), test);
        let read = self.lines.get(&key).map_or(0, |line| line.read);
        let opened = self.reads.end(read, opened);
        if let Some(line) = self.lines.get_mut(&key) {
            line.stored = more || line.left_again;
            line.is_loading = false;
            line.left_again = false;
        }
        for mut open in opened {
            if open.state == OpenState::Blocked {
                // Read back because something changed: worth another look.
                open.state = OpenState::Pending;
            }
            self.enter((open.key.seq, open.key.round), Entry::from_open(open), now);
        }
        self.promote(&key, now);
    }

    /// At the start: the store holds an open delivery of this line that was not loaded; `LoadOpen` will ask for it.
    pub fn leave_in_store(&mut self, subject: &Subject, test: bool, after: (Seq, u32)) {
        if self.policy.order == Order::Subject {
            self.lines.entry((subject.clone(), test)).or_default().stored = true;
        }
        self.open_scan.after.get_or_insert(after);
    }

    /// The answer to `Action::LoadOpen`; `next` is the last place of the page while there is more.
    pub fn on_open_loaded(&mut self, opened: Vec<OpenDelivery>, next: Option<(Seq, u32)>, now: Time) {
        self.open_scan.loaded(next);
        let opened = self.reads.end(self.open_scan.read, opened);
        let unblocks = self.open_scan.unblocks;
        for mut open in opened {
            if unblocks && open.state == OpenState::Blocked {
                open.state = OpenState::Pending;
            }
            self.on_opened(vec![open], now);
        }
        if self.open_scan.after.is_none() {
            self.open_scan.unblocks = false;
        }
    }

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
        self.open_scan.read = self.reads.begin();
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
