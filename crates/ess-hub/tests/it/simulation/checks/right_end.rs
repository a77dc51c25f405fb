//! Every end has its reason: an ACK was said, a NACK too, a dead letter was refused or given up after `give_up_after`, a superseded
//! one has a newer one of its subject, a cancelled one was taken back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ess_core::delivery::State;
use ess_core::id::Seq;
use ess_core::lane::{Ended, Health, OpenDelivery, Outcome, Record};
use ess_core::partner::Order;
use ess_core::receipt::Verdict;
use ess_core::time::Time;

use super::{Fact, Scene};
use crate::simulation::kept::{Change, Place, place_of};

#[derive(Default)]
pub struct RightEnd {
    acked: BTreeSet<Seq>,
    nacked: BTreeSet<Place>,
    refused: BTreeSet<Place>,
    cancelled: BTreeSet<Seq>,
    replayed: BTreeSet<Place>,
    failed_first: BTreeMap<Place, Time>,
}

impl RightEnd {
    pub fn see(&mut self, fact: &Fact<'_>, scene: &Scene<'_>) -> Result<(), String> {
        match fact {
            Fact::Answered { attempt, outcome: Outcome::Verdict(verdict) } => {
                let place = (attempt.seq, attempt.round);
                match verdict {
                    Verdict::Acked(_) => drop(self.acked.insert(place.0)),
                    Verdict::Nack { .. } => drop(self.nacked.insert(place)),
                    Verdict::Refused { .. } => drop(self.refused.insert(place)),
                    Verdict::Retry { .. } | Verdict::Gone { .. } => {
                        self.failed_first.entry(place).or_insert(scene.now);
                    }
                    Verdict::Received | Verdict::Unacknowledged { .. } => {}
                }
            }
            Fact::Word { place, is_ack: true } => drop(self.acked.insert(place.0)),
            Fact::Word { place, is_ack: false } => drop(self.nacked.insert(*place)),
            Fact::TakenBack(seq) => drop(self.cancelled.insert(*seq)),
            Fact::OpenedByOperator(place) => {
                self.replayed.insert(*place);
                self.refused.remove(place);
                self.nacked.remove(place);
                self.failed_first.remove(place);
            }
            Fact::Recorded(Change::Lane(Record::Acked { seq, .. })) if !self.acked.contains(seq) => {
                return Err(format!("event {seq} is acknowledged, and nobody said so"));
            }
            Fact::Recorded(Change::Lane(Record::Health(health))) => return gave_up_in_time(health, scene),
            Fact::Recorded(Change::Lane(Record::Ended { open, ended })) => return self.on_ended(open, ended, scene),
            _ => {}
        }
        Ok(())
    }

    fn on_ended(&self, open: &OpenDelivery, ended: &Ended, scene: &Scene<'_>) -> Result<(), String> {
        let place = place_of(open);
        let is_right = match ended.state {
            State::Nack => self.nacked.contains(&place),
            State::Cancelled => self.cancelled.contains(&place.0),
            State::Superseded => {
                let same_line =
                    |offer: &&ess_core::lane::Offer| offer.subject == open.subject && offer.test == open.test;
                let mut newer = scene.log.iter().rev().take_while(|offer| offer.seq >= place.0).filter(same_line);
                // A later replay of the same event is newer, too.
                let was_replayed = self.replayed.range((place.0, place.1 + 1)..=(place.0, u32::MAX)).next().is_some();
                scene.policy.order == Order::Latest && (was_replayed || newer.any(|offer| offer.seq > place.0))
            }
            State::Dead => {
                let waited = self.failed_first.get(&place).map_or(Duration::ZERO, |first| scene.now.since(*first));
                let is_given_up = scene.store.live.health.gave_up_at.is_some();
                self.refused.contains(&place) || is_given_up || waited >= scene.policy.retry.give_up_after
            }
            _ => false,
        };
        if is_right {
            Ok(())
        } else {
            Err(format!("{place:?} ended as {:?} without cause: {}", ended.state, ended.reason))
        }
    }
}

/// A partner is given up when it has failed for `give_up_after` without a break, not before.
fn gave_up_in_time(health: &Health, scene: &Scene<'_>) -> Result<(), String> {
    let (Some(at), Some(first)) = (health.gave_up_at, health.first_failed_at) else { return Ok(()) };
    if at == scene.now && at.since(first) < scene.policy.retry.give_up_after {
        return Err(format!("the partner is given up after {:?}", at.since(first)));
    }
    Ok(())
}
