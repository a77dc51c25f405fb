//! The store of one partner's deliveries as the real one keeps its promises: outcomes come in order, and a crash forgets the newest.
//!
//! It mirrors `ess-store/sqlite/{apply,lane}`; the slower simulation beside this one runs on the real store.

use std::collections::{BTreeMap, VecDeque};

use ess_core::delivery::State;
use ess_core::id::{Seq, Subject};
use ess_core::lane::{Health, Offer, OpenDelivery, Record, URGENT};

/// Which delivery: the event and the round.
pub type Place = (Seq, u32);

/// Something handed over to the store.
#[derive(Debug, Clone)]
pub enum Change {
    /// What the lane wants written.
    Lane(Record),
    /// A partner's word for a delivery that no lane holds.
    AckedInStore(Place),
    /// An operator's replay.
    Replayed(OpenDelivery),
    /// An operator's redrive.
    Reopened(OpenDelivery),
    /// An operator gave a dead letter up.
    Discarded(OpenDelivery),
}

/// The rows of one partner.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    pub open: BTreeMap<Place, OpenDelivery>,
    pub ended: BTreeMap<Place, (State, OpenDelivery)>,
    /// How many receipts the ledger has for each delivery.
    pub acked: BTreeMap<Place, u32>,
    pub cursor: Seq,
    pub counted: u64,
    pub health: Health,
}

impl Kept {
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Lane(Record::Opened(open) | Record::Failed { open, .. }) | Change::Replayed(open) => {
                self.open.insert(place_of(open), open.clone());
            }
            Change::Lane(Record::Acked { seq, round, has_rows, .. }) => self.ack((*seq, *round), *has_rows),
            Change::AckedInStore(place) => self.ack(*place, true),
            Change::Lane(Record::Ended { open, ended }) => {
                self.open.remove(&place_of(open));
                self.ended.insert(place_of(open), (ended.state, open.clone()));
            }
            Change::Lane(Record::Cursor { cursor, counted }) => (self.cursor, self.counted) = (*cursor, *counted),
            Change::Lane(Record::Health(health)) => self.health = *health,
            Change::Reopened(open) => {
                self.ended.remove(&place_of(open));
                self.open.insert(place_of(open), open.clone());
            }
            Change::Discarded(open) => {
                if let Some((state, _)) = self.ended.get_mut(&place_of(open)) {
                    *state = State::Cancelled;
                }
            }
        }
    }

    fn ack(&mut self, place: Place, has_rows: bool) {
        if has_rows {
            let had_rows = self.open.remove(&place).is_some() | self.ended.remove(&place).is_some();
            if !had_rows && self.acked.contains_key(&place) {
                return; // Said twice.
            }
        }
        *self.acked.entry(place).or_default() += 1;
    }

    /// How the delivery ended, if it did.
    pub fn end_of(&self, place: &Place) -> Option<State> {
        if self.acked.contains_key(place) {
            return Some(State::Acked);
        }
        self.ended.get(place).map(|(state, _)| *state)
    }

    /// First sendings past the cursor that the lane need not take from the log again.
    pub fn done_past_cursor(&self) -> Vec<Seq> {
        let past = |place: &&Place| place.1 == 0 && place.0 > self.cursor;
        let rows = self.open.keys().chain(self.ended.keys()).chain(self.acked.keys());
        rows.filter(past).map(|place| place.0).collect()
    }

    /// The oldest open deliveries of a line, and whether there are more.
    pub fn line(&self, subject: &Subject, test: bool, limit: usize) -> (Vec<OpenDelivery>, bool) {
        let of_line = |open: &&OpenDelivery| open.subject == *subject && open.test == test;
        let mut line: Vec<OpenDelivery> = self.open.values().filter(of_line).take(limit + 1).cloned().collect();
        let more = line.len() > limit;
        line.truncate(limit);
        (line, more)
    }

    /// Open deliveries after a place; the last place of the page while there may be more.
    pub fn open_after(&self, after: Place, limit: usize) -> (Vec<OpenDelivery>, Option<Place>) {
        use std::ops::Bound::{Excluded, Unbounded};
        let page: Vec<OpenDelivery> =
            self.open.range((Excluded(after), Unbounded)).take(limit).map(|(_, open)| open.clone()).collect();
        let next = if page.len() >= limit { page.last().map(place_of) } else { None };
        (page, next)
    }
}

pub fn place_of(open: &OpenDelivery) -> Place {
    (open.key.seq, open.key.round)
}

/// What befell a store, for another one to go through the same.
#[derive(Debug, Clone)]
pub enum Deed {
    /// Became durable.
    Durable(Box<Change>),
    /// The hub died; these rows are there when it comes back.
    Died(Kept),
}

/// Rows that are durable, and those that would be if nothing went wrong any more.
#[derive(Debug, Default)]
pub struct Store {
    pub durable: Kept,
    pub live: Kept,
    /// Everything that befell it, when that is asked for.
    pub history: Option<Vec<Deed>>,
    pending: VecDeque<Change>,
}

impl Store {
    /// Hands a change over.
    pub fn record(&mut self, change: Change) {
        self.live.apply(&change);
        self.pending.push_back(change);
    }

    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Makes the oldest `count` changes durable.
    pub fn commit(&mut self, count: usize) {
        for change in self.pending.drain(..count.min(self.pending.len())) {
            self.durable.apply(&change);
            if let Some(history) = &mut self.history {
                history.push(Deed::Durable(Box::new(change)));
            }
        }
    }

    /// Makes everything durable.
    pub fn commit_all(&mut self) {
        self.commit(usize::MAX);
    }

    /// The machine died: what was not durable never was.
    pub fn forget_pending(&mut self) {
        self.pending.clear();
        self.live = self.durable.clone();
        if let Some(history) = &mut self.history {
            history.push(Deed::Died(self.durable.clone()));
        }
    }
}

/// A page of the log: offers after `after`, and up to where it was looked at.
pub fn backlog(log: &[Offer], head: Seq, after: Seq, limit: usize) -> (Vec<Offer>, Seq) {
    let from = log.partition_point(|offer| offer.seq <= after);
    let page: Vec<Offer> = log[from..].iter().take(limit).cloned().collect();
    let scanned_to = if page.len() < limit { head } else { page.last().map_or(head, |offer| offer.seq) };
    (page, scanned_to.max(after))
}

/// A page of urgent offers past the backlog's beginning before which nothing of their subject lies in it, with how many offers lie
/// between; where the page ends, and whether there may be more.
pub fn urgent(log: &[Offer], after: Seq, scanned_to: Seq, limit: usize) -> (Vec<(Offer, u64)>, Seq, bool) {
    let backlog = &log[log.partition_point(|offer| offer.seq <= after)..];
    let is_urgent = |offer: &&Offer| offer.class() == URGENT && offer.seq > scanned_to;
    let looked_at: Vec<&Offer> = backlog.iter().filter(is_urgent).take(limit).collect();
    let to = looked_at.last().map_or(scanned_to, |offer| offer.seq);
    let has_more = looked_at.len() == limit;
    let mut offers = Vec::new();
    for offer in looked_at {
        let distance = backlog.partition_point(|other| other.seq <= offer.seq);
        let has_older = backlog[..distance - 1].iter().any(|other| other.subject == offer.subject && !other.test);
        if !has_older {
            offers.push((offer.clone(), distance as u64));
        }
    }
    (offers, to, has_more)
}
