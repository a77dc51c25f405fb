//! No delivery ends twice: a receipt is in the ledger once, and nothing that ended opens again but by an operator.
//!
//! Only the partner's own word may follow another end: an ACK closes a dead letter.

use std::collections::HashMap;

use ess_core::delivery::State;
use ess_core::lane::Record;

use super::{Fact, Scene};
use crate::simulation::kept::{Change, Place, place_of};

#[derive(Default)]
pub struct EndsOnce {
    ended: HashMap<Place, State>,
}

impl EndsOnce {
    pub fn see(&mut self, fact: &Fact<'_>, scene: &Scene<'_>) -> Result<(), String> {
        match fact {
            Fact::Recorded(change) => self.on_recorded(change, scene)?,
            Fact::OpenedByOperator(place) => {
                self.ended.remove(place);
            }
            Fact::Restarted => {
                let kept = &scene.store.durable;
                self.ended = kept.ended.iter().map(|(place, (state, _))| (*place, *state)).collect();
                self.ended.extend(kept.acked.keys().map(|place| (*place, State::Acked)));
            }
            _ => {}
        }
        Ok(())
    }

    fn on_recorded(&mut self, change: &Change, scene: &Scene<'_>) -> Result<(), String> {
        match change {
            Change::Lane(Record::Acked { seq, round, .. }) => {
                let place = (*seq, *round);
                let receipts = scene.store.live.acked.get(&place).copied().unwrap_or(0);
                if let Some(before) = self.ended.insert(place, State::Acked) {
                    return Err(format!("{place:?} was acknowledged by its lane after it had ended as {before:?}"));
                }
                if receipts > 1 {
                    return Err(format!("{place:?} has {receipts} receipts in the ledger"));
                }
            }
            Change::Lane(Record::Ended { open, ended }) => {
                let place = place_of(open);
                if let Some(before) = self.ended.insert(place, ended.state) {
                    return Err(format!("{place:?} ended as {:?} after it had ended as {before:?}", ended.state));
                }
            }
            Change::Lane(Record::Opened(open) | Record::Failed { open, .. }) => {
                let place = place_of(open);
                if let Some(before) = self.ended.get(&place) {
                    return Err(format!("{place:?} is open again after it had ended as {before:?}"));
                }
            }
            Change::AckedInStore(place) => {
                self.ended.insert(*place, State::Acked);
                let receipts = scene.store.live.acked.get(place).copied().unwrap_or(0);
                if receipts > 1 {
                    return Err(format!("{place:?} has {receipts} receipts in the ledger"));
                }
            }
            Change::Discarded(open) => {
                self.ended.insert(place_of(open), State::Cancelled);
            }
            _ => {}
        }
        Ok(())
    }
}
