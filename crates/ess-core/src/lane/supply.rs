//! Where a lane's deliveries come from: straight from the publish while it keeps up, from the store's backlog when it does not.

use std::collections::BTreeSet;

use crate::id::Seq;
use crate::mutant::{self, Mutant};

#[derive(Debug)]
pub(super) struct Supply {
    /// Every event up to here that is for the partner was taken.
    taken_to: Seq,
    /// How many these were: the partner's gapless counter.
    counted: u64,
    /// The newest event that may be for the partner.
    newest: Seq,
    is_loading: bool,
    /// Deliveries past the cursor that ended in an earlier run.
    ended: BTreeSet<Seq>,
    since_noted: u32,
}

impl Supply {
    pub(super) fn new(cursor: Seq, counted: u64) -> Self {
        Self { taken_to: cursor, counted, newest: cursor, is_loading: false, ended: BTreeSet::new(), since_noted: 0 }
    }

    pub(super) fn resume(&mut self, ended: impl IntoIterator<Item = Seq>, head: Seq) {
        if mutant::is_active(Mutant::CounterForgotten) {
            self.counted = 0;
        }
        self.ended.extend(ended);
        self.newest = self.newest.max(head);
    }

    /// Whether a newly recorded event goes straight into the lane; otherwise it is read back from the store in its turn.
    pub(super) fn takes(&mut self, seq: Seq, loaded: usize, room: usize) -> bool {
        let keeps_up = self.keeps_up(loaded, room);
        self.hear_of(seq);
        keeps_up
    }

    /// Whether the next recorded event would go straight into the lane.
    pub(super) fn keeps_up(&self, loaded: usize, room: usize) -> bool {
        self.taken_to >= self.newest && !self.is_loading && loaded < room
    }

    /// Whether nothing is left in the store.
    pub(super) fn has_all(&self) -> bool {
        self.taken_to >= self.newest
    }

    /// Something as new as this lies in the log.
    pub(super) fn hear_of(&mut self, seq: Seq) {
        self.newest = self.newest.max(seq);
    }

    /// Counts an event of the partner; its counter, or `None` when it is known already.
    pub(super) fn count(&mut self, seq: Seq) -> Option<u64> {
        if seq <= self.taken_to {
            return None;
        }
        self.taken_to = seq;
        self.counted += 1;
        (!self.ended.remove(&seq)).then_some(self.counted)
    }

    /// A delivery of the backlog was dealt with ahead of its turn: it is counted when its turn comes, and no more.
    pub(super) fn settle_ahead(&mut self, seq: Seq) {
        if seq > self.taken_to {
            self.ended.insert(seq);
        }
    }

    /// Whether the event is still to be taken.
    pub(super) fn is_ahead(&self, seq: Seq) -> bool {
        seq > self.taken_to && !self.ended.contains(&seq)
    }

    /// Whether events lie in the store that the lane has not taken.
    pub(super) fn has_backlog(&self) -> bool {
        self.taken_to < self.newest
    }

    pub(super) fn loaded(&mut self, scanned_to: Seq) {
        self.is_loading = false;
        self.taken_to = self.taken_to.max(scanned_to);
    }

    /// The log holds more than was taken, and nobody reads it.
    pub(super) fn has_more(&self) -> bool {
        !self.is_loading && self.taken_to < self.newest
    }

    /// What to read next, if there is something and there is room.
    pub(super) fn wants(&mut self, loaded: usize, room: usize) -> Option<(Seq, usize)> {
        if self.is_loading || self.taken_to >= self.newest || loaded > room / 2 {
            return None;
        }
        self.is_loading = true;
        Some((self.taken_to, room - loaded))
    }

    /// The newest event that may be for the partner.
    pub(super) fn newest(&self) -> Seq {
        self.newest
    }

    /// Everything that was taken, and how many.
    pub(super) fn end(&self) -> (Seq, u64) {
        (self.taken_to, self.counted)
    }

    /// Counts a step; true after `stride` of them.
    pub(super) fn should_note(&mut self, stride: u32) -> bool {
        self.since_noted += 1;
        self.since_noted >= stride
    }

    pub(super) fn noted(&mut self) {
        self.since_noted = 0;
    }
}
