//! Whose turn it is: deliveries of a subject in their line, as the partner's `order` asks.

use super::entry::{self, Phase};
use super::{Ended, Lane, Line, Place};
use crate::delivery::State;
use crate::id::{Seq, Subject};
use crate::mutant::{self, Mutant};
use crate::partner::Order;
use crate::time::Time;

use super::act::{Action, Record};
use super::entry::{Offer, OpenDelivery};

impl Lane {
    pub(super) fn enter_offer(&mut self, offer: Offer, now: Time) {
        let Some(partner_seq) = self.supply.count(offer.seq) else {
            return; // Ended in an earlier run.
        };
        let place = (offer.seq, 0);
        if self.entries.contains_key(&place) {
            return;
        }
        self.make_room();
        let key = (offer.subject.clone(), offer.test);
        // What waits in the store is newer than what is loaded of its line; after a restart an older one may still come.
        let must_wait_in_store = self.policy.order == Order::Subject
            && self
                .lines
                .get(&key)
                .is_some_and(|line| (line.stored || self.is_crowding(line)) && line.places.last() < Some(&place));
        let entry = entry::Entry::from_offer(offer, partner_seq);
        if must_wait_in_store {
            // Behind a held line: an explicit record lets the cursor pass, and the line is read back when it moves.
            self.record(Record::Opened(entry.to_open(self.partner, place)));
            let line = self.lines.entry(key).or_default();
            line.stored = true;
            line.left_again = line.is_loading;
            return;
        }
        self.enter(place, entry, now);
    }

    /// Whether a line that can't move takes so much of the window that others would starve.
    pub(super) fn is_crowding(&self, line: &Line) -> bool {
        let head_is_held =
            line.places.first().and_then(|place| self.entries.get(place)).is_some_and(|entry| entry.phase.is_held());
        head_is_held || line.places.len() > self.room / 4
    }

    pub(super) fn enter(&mut self, place: Place, entry: entry::Entry, now: Time) {
        if self.entries.contains_key(&place) {
            return;
        }
        if let Some(reason) = self.taken_back.remove(&place) {
            let ended = Ended { state: State::Cancelled, reason, evidence: None, tried: None, at: now };
            self.record(Record::Ended { open: entry.to_open(self.partner, place), ended });
            return self.after_end(&entry, now);
        }
        if self.buries(place, &entry) {
            return self.bury(place, &entry, now);
        }
        if self.health.has_given_up() && !entry.is_recorded && !entry.test {
            self.actions.push_back(Action::WaitsAsDead { seq: place.0 });
        }
        let key = entry.line_key();
        let phase = entry.phase.clone();
        self.entries.insert(place, entry);
        if self.policy.order == Order::None {
            return self.settle(place, &phase, now);
        }
        self.lines.entry(key.clone()).or_default().places.insert(place);
        if self.policy.order == Order::Latest && !mutant::is_active(Mutant::OlderNotSuperseded) {
            self.supersede_before(&key, now);
        }
        if phase == Phase::Waiting {
            self.promote(&key, now);
        } else {
            self.settle(place, &phase, now);
        }
    }

    /// Puts a delivery where its phase belongs: the ready set, the timers, or nowhere.
    pub(super) fn settle(&mut self, place: Place, phase: &Phase, now: Time) {
        self.arm_fallback(place);
        match phase {
            Phase::Waiting => self.make_ready(place),
            Phase::Retrying { due } | Phase::AwaitingAck { due } => {
                if self.health.is_offline() && matches!(phase, Phase::Retrying { .. }) {
                    self.make_ready(place);
                } else {
                    self.set_timer(place, (*due).max(now));
                }
            }
            Phase::Ready | Phase::Sending | Phase::Blocked | Phase::Outstanding => {}
        }
    }

    pub(super) fn make_ready(&mut self, place: Place) {
        if let Some(entry) = self.entries.get_mut(&place) {
            if !matches!(entry.phase, Phase::Retrying { .. }) {
                entry.phase = Phase::Ready;
            }
            self.ready.insert((entry.class(), place));
        }
    }

    /// Lets the head of a line go, if it waits for its turn only.
    pub(super) fn promote(&mut self, key: &(Subject, bool), now: Time) {
        let Some(line) = self.lines.get_mut(key) else { return };
        let head = match self.policy.order {
            Order::Subject if line.stored && line.places.is_empty() => {
                if std::mem::replace(&mut line.is_loading, true) {
                    return;
                }
                line.read = self.reads.begin();
                self.actions.push_back(Action::LoadLine { subject: key.0.clone(), test: key.1 });
                return;
            }
            // A replay of what is outstanding does not wait for that: it is the operator's answer to it.
            Order::Subject => line.places.iter().copied().find(|place| {
                let is_outstanding = self.entries.get(place).is_some_and(|entry| entry.phase == Phase::Outstanding);
                if mutant::is_active(Mutant::LineLetsTwoGo) {
                    return self.entries.get(place).is_some_and(|entry| entry.phase == Phase::Waiting);
                }
                let newer_rounds = (place.0, place.1 + 1)..=(place.0, u32::MAX);
                !is_outstanding || line.places.range(newer_rounds).next().is_none()
            }),
            // What was delivered and awaits its ACK does not hold up the newest.
            Order::Latest => line.places.last().copied().filter(|_| {
                !line
                    .places
                    .iter()
                    .any(|place| self.entries.get(place).is_some_and(|entry| entry.phase == Phase::Sending))
            }),
            Order::None => None,
        };
        let Some(head) = head else {
            if line.places.is_empty() && !line.stored {
                self.lines.remove(key);
            }
            return;
        };
        let others_under_way = self.policy.order == Order::Subject
            && !mutant::is_active(Mutant::LineLetsTwoGo)
            && line.places.iter().any(|place| {
                // A replay of an older event may enter in front of one that is under way already.
                *place != head && self.entries.get(place).is_some_and(|entry| entry.phase.is_under_way())
            });
        if others_under_way {
            return;
        }
        if self.policy.order == Order::Subject {
            let overtaken: Vec<Place> = line.places.iter().copied().filter(|place| *place > head).collect();
            for place in overtaken {
                self.back_to_waiting(place);
            }
        }
        let taken_to = self.supply.end().0;
        let may_go = |entry: &entry::Entry| head.0 <= taken_to || entry.is_ahead;
        if self.entries.get(&head).is_some_and(|entry| entry.phase == Phase::Waiting && may_go(entry)) {
            self.settle(head, &Phase::Waiting, now);
        }
    }

    /// Deliveries with records of their own waited for older ones of their line that the backlog might still hold.
    pub(super) fn release_up_to(&mut self, before: Seq, now: Time) {
        let (taken_to, _) = self.supply.end();
        let passed: Vec<(Subject, bool)> = self
            .entries
            .range((before, 0)..=(taken_to, u32::MAX))
            .filter(|(_, entry)| entry.is_recorded && entry.phase == Phase::Waiting)
            .map(|(_, entry)| entry.line_key())
            .collect();
        for key in passed {
            self.promote(&key, now);
        }
    }

    pub(super) fn back_to_waiting(&mut self, place: Place) {
        if let Some(entry) = self.entries.get_mut(&place)
            && entry.phase == Phase::Ready
        {
            entry.phase = Phase::Waiting;
            self.ready.remove(&(entry.class(), place));
        }
    }

    /// Under `order: latest`: everything undelivered before the newest of the line ends, and what was delivered is left to the
    /// partner's word: to send it again would take the newest back.
    pub(super) fn supersede_before(&mut self, key: &(Subject, bool), now: Time) {
        let Some(line) = self.lines.get(key) else { return };
        let Some(newest) = line.places.last().copied() else {
            return;
        };
        let is_awaiting = |place: &Place| {
            self.entries.get(place).is_some_and(|entry| matches!(entry.phase, Phase::AwaitingAck { .. }))
        };
        let awaiting: Vec<Place> = line.places.range(..newest).copied().filter(is_awaiting).collect();
        let overtaken: Vec<Place> = line
            .places
            .iter()
            .copied()
            .filter(|place| *place < newest)
            .filter(|place| {
                self.entries.get(place).is_some_and(|entry| {
                    !matches!(entry.phase, Phase::Sending | Phase::AwaitingAck { .. } | Phase::Outstanding)
                })
            })
            .collect();
        for place in awaiting {
            self.leave_outstanding(place);
        }
        for place in overtaken {
            let reason = format!("event {} of the subject took its place", newest.0);
            let ended = Ended { state: State::Superseded, reason, evidence: None, tried: None, at: now };
            self.end(place, ended);
        }
    }

    /// Before a delivery is looked at: to let go of its line's head afterwards would let it overtake.
    pub(super) fn make_room(&mut self) {
        if self.entries.len() >= self.room - self.room / 4 {
            self.evict_held();
        }
    }

    /// A bulk redrive is larger than the window: what has no room stays in the store, where its row is, until there is some.
    pub(super) fn leave_opened(&mut self, place: Place, open: OpenDelivery, now: Time) {
        if self.policy.order != Order::Subject {
            return self.open_scan.rewind(place);
        }
        let key = (open.subject.clone(), open.test);
        let line = self.lines.entry(key.clone()).or_default();
        let may_leave = |other: &Place| {
            *other > place
                && self.entries.get(other).is_some_and(|entry| matches!(entry.phase, Phase::Waiting | Phase::Ready))
        };
        // What lies in the store of a line is newer than what is loaded of it.
        if let Some(newest) = line.places.iter().rev().copied().find(may_leave) {
            line.stored = true;
            line.left_again = line.is_loading;
            if let Some(entry) = self.remove(newest)
                && !entry.is_recorded
            {
                self.record(Record::Opened(entry.to_open(self.partner, newest)));
            }
            return self.enter(place, entry::Entry::from_open(open), now);
        }
        line.stored = true;
        line.left_again = line.is_loading;
        self.promote(&key, now);
    }

    /// Nothing can be sent, though the store holds more: what is held takes the room. Then the held go first.
    pub(super) fn is_starved(&self) -> bool {
        let has_more = self.supply.has_more() || self.open_scan.after.is_some();
        has_more && self.in_flight == 0 && self.ready.is_empty() && self.entries.len() > self.room / 2
    }

    /// Lets go of deliveries that only a word from outside can move, so that they don't take the window from others. They have
    /// records; their lines stay held.
    pub(super) fn evict_held(&mut self) {
        let is_sending = |place: &Place| self.entries.get(place).is_some_and(|entry| entry.phase == Phase::Sending);
        // Another `order` may have left one under way behind a held one: its end is still to come here.
        let line_is_sending = |entry: &entry::Entry| {
            self.lines.get(&entry.line_key()).is_some_and(|line| line.places.iter().any(is_sending))
        };
        let held: Vec<Place> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.is_recorded && entry.phase.is_held() && !line_is_sending(entry))
            .map(|(place, _)| *place)
            .collect();
        self.open_scan.has_evicted |= !held.is_empty();
        for place in held {
            let Some(entry) = self.remove(place) else { continue };
            if self.policy.order != Order::Subject {
                continue;
            }
            let line = self.lines.entry(entry.line_key()).or_default();
            line.stored = true;
            line.left_again = line.is_loading;
            for follower in std::mem::take(&mut line.places) {
                let Some(entry) = self.remove(follower) else { continue };
                if !entry.is_recorded {
                    let open = entry.to_open(self.partner, follower);
                    self.record(Record::Opened(open));
                }
            }
        }
    }

    /// The partner's `order` changed: every loaded delivery takes its place under the new one. What is under way stays so.
    pub(super) fn line_up_anew(&mut self, now: Time) {
        let has_stored = self.lines.values().any(|line| line.stored);
        self.lines.clear();
        self.ready.clear();
        self.timers.clear();
        for (place, mut entry) in std::mem::take(&mut self.entries) {
            entry.timer = None;
            if entry.phase == Phase::Ready {
                entry.phase = Phase::Waiting;
            }
            self.enter(place, entry, now);
        }
        if has_stored {
            // Lines called for what they had in the store; without them it is read through.
            self.open_scan.begin();
        }
    }

    pub(super) fn remove(&mut self, place: Place) -> Option<entry::Entry> {
        let entry = self.entries.remove(&place)?;
        self.reads.passed(place);
        self.ready.remove(&(entry.class(), place));
        if let Some(due) = entry.timer {
            self.timers.remove(&(due, place));
        }
        if let Some(due) = entry.fallback_due {
            self.fallbacks.due.remove(&(due, place));
        }
        if let Some(line) = self.lines.get_mut(&entry.line_key()) {
            line.places.remove(&place);
        }
        Some(entry)
    }
}
