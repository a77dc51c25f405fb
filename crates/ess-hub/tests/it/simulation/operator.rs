//! Operators' acts and partners' later words, done to a lane and its store as the hub does them.
//!
//! It mirrors `ess-hub/{acks,dead_letters,replay,partners}`; the slower simulation beside this one calls those themselves.

use std::time::Duration;

use ess_core::delivery::{DeliveryKey, State};
use ess_core::id::{PartnerNo, Seq};
use ess_core::lane::{Command, OpenDelivery};
use ess_core::receipt::Evidence;

use super::checks::Fact;
use super::kept::{Change, Place};
use super::partner::SaidWord;
use super::plan;
use super::site::{Doing, Site};

/// What an operator does to one partner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Pause,
    Resume,
    /// Another `order`, limits, or patience.
    Reconfigure,
    RemoveBridge,
    AddBridges,
    Replay,
    Redrive,
    Discard,
    Cancel,
}

impl Act {
    /// Done later when the hub is down just now.
    pub fn can_wait(self) -> bool {
        matches!(self, Act::Resume | Act::AddBridges)
    }
}

impl Site {
    pub fn act(&mut self, act: Act) {
        match act {
            Act::Pause => {
                self.is_paused = true;
                self.command(&Command::Pause);
                let back = self.dice.span(Duration::from_secs(60), Duration::from_secs(20_000));
                self.later(back, Doing::Act(Act::Resume));
            }
            Act::Resume => {
                self.is_paused = false;
                self.command(&Command::Resume);
            }
            Act::Reconfigure => {
                self.policy = plan::other_policy(&mut self.dice, &self.policy);
                self.command(&Command::Policy(self.policy.clone()));
                self.command(&Command::Unblock);
            }
            Act::RemoveBridge => {
                let subject = self.dice.below(plan::SUBJECTS);
                self.no_bridge.insert(format!("s{subject}"));
                let back = self.dice.span(Duration::from_secs(10), Duration::from_secs(40_000));
                self.later(back, Doing::Act(Act::AddBridges));
            }
            Act::AddBridges => {
                self.no_bridge.clear();
                self.command(&Command::Unblock);
            }
            Act::Replay => self.replay(),
            Act::Redrive => self.redrive(),
            Act::Discard => {
                for place in self.dead_letters() {
                    if let Some((_, open)) = self.store.live.ended.get(&place).cloned() {
                        self.record(Change::Discarded(open));
                    }
                }
                self.store.commit_all();
            }
            Act::Cancel => {
                if let Some(seq) = self.some_event() {
                    self.take_back(seq);
                }
            }
        }
    }

    fn command(&mut self, command: &Command) {
        self.note(|| format!("operator: {command:?}"));
        self.tell(&Fact::Commanded(command));
        self.lane.on_command(command.clone(), self.now.lane);
        self.pump();
    }

    /// A retraction came for it.
    fn take_back(&mut self, seq: Seq) {
        self.note(|| format!("operator: retract {seq}"));
        self.tell(&Fact::TakenBack(seq));
        let offer = self.offer(seq).clone();
        self.lane.take_back(&[offer], "retracted", self.now.lane);
        self.pump();
    }

    fn some_event(&mut self) -> Option<Seq> {
        let count = self.log.len() as u64;
        let newest = count.min(20);
        (count > 0).then(|| self.log[(count - 1 - self.dice.below(newest)) as usize].seq)
    }

    fn replay(&mut self) {
        let Some(seq) = self.some_event() else { return };
        if self.offer(seq).test {
            return;
        }
        let last = self.rounds(seq).last().map_or(0, |place| place.1);
        let open = self.open_delivery((seq, last + 1), 0);
        self.tell(&Fact::OpenedByOperator((seq, last + 1)));
        self.record(Change::Replayed(open.clone()));
        self.store.commit_all();
        self.note(|| format!("operator: replay {seq}"));
        self.lane.on_opened(vec![open], self.now.lane);
        self.pump();
    }

    fn redrive(&mut self) {
        self.command(&Command::Redrive);
        for place in self.dead_letters() {
            let attempts = self.store.live.ended.get(&place).map_or(0, |(_, open)| open.attempts);
            let open = self.open_delivery(place, attempts);
            self.note(|| format!("operator: redrive {place:?}"));
            self.tell(&Fact::OpenedByOperator(place));
            self.record(Change::Reopened(open.clone()));
            self.lane.on_opened(vec![open], self.now.lane);
            self.pump();
        }
        self.store.commit_all();
    }

    fn dead_letters(&self) -> Vec<Place> {
        let ended = self.store.durable.ended.iter();
        let is_dead = |state: State| matches!(state, State::Dead | State::Nack);
        // What is handed over and not yet durable may have ended it otherwise.
        let dead = ended.filter(|(place, (state, open))| {
            is_dead(*state) && !open.test && self.store.live.ended.get(place).is_some_and(|(state, _)| is_dead(*state))
        });
        dead.map(|(place, _)| *place).collect()
    }

    fn open_delivery(&self, place: Place, attempts: u32) -> OpenDelivery {
        let rank = self.log.partition_point(|offer| offer.seq <= place.0) as u64;
        OpenDelivery {
            key: DeliveryKey { seq: place.0, partner: PartnerNo(1), round: place.1 },
            attempts,
            resends: attempts,
            ..self.offer(place.0).to_open(PartnerNo(1), Some(rank))
        }
    }

    /// Every sending of the event that the store knows, oldest first.
    fn rounds(&self, seq: Seq) -> Vec<Place> {
        let kept = &self.store.live;
        let of_event = (seq, 0)..=(seq, u32::MAX);
        let mut places: Vec<Place> = vec![(seq, 0)];
        places.extend(kept.open.range(of_event.clone()).map(|(place, _)| *place));
        places.extend(kept.ended.range(of_event.clone()).map(|(place, _)| *place));
        places.extend(kept.acked.range(of_event).map(|(place, _)| *place));
        places.sort_unstable();
        places.dedup();
        places
    }

    /// `POST /v1/acks`: the newest sending that is not acknowledged takes the word.
    pub fn hear(&mut self, seq: Seq, word: SaidWord) {
        self.note(|| format!("the partner says {word:?} of {seq}"));
        if word == SaidWord::AckOfOtherBytes {
            return; // Refused at the door: 409.
        }
        let rounds = self.rounds(seq);
        let open = rounds.iter().rev().find(|place| self.store.live.end_of(place) != Some(State::Acked));
        let Some(place) = open.copied() else { return };
        let is_ack = word == SaidWord::Ack;
        self.tell(&Fact::Word { place, is_ack });
        let now = self.now.lane;
        if !is_ack {
            self.lane.on_nack(place.0, place.1, Evidence::Callback, "unknown county".to_owned(), now);
        } else if !self.lane.on_ack(place.0, place.1, Evidence::Callback, now) {
            self.pump();
            self.store.commit_all();
            if self.store.live.end_of(&place) != Some(State::Acked) {
                let offer = self.offer(seq).clone();
                self.record(Change::AckedInStore(place));
                self.lane.on_ended_in_store(place, &offer.subject, offer.test, now);
            }
        }
        self.pump();
    }
}
