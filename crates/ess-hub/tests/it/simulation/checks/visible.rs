//! Every delivery that is blocked or awaits its ACK is seen as such in the store, and Ops hears of a block, from the step on in
//! which it came about.

use std::collections::{BTreeMap, BTreeSet};

use ess_core::lane::{Action, OpenState, Outcome};
use ess_core::receipt::Verdict;

use super::{Fact, Scene};
use crate::simulation::kept::Place;

#[derive(Default)]
pub struct Visible {
    expected: BTreeMap<Place, OpenState>,
    /// Blocked in this step and not yet told.
    untold: BTreeSet<Place>,
}

impl Visible {
    pub fn see(&mut self, fact: &Fact<'_>, scene: &Scene<'_>) -> Result<(), String> {
        match fact {
            Fact::Sent(attempt) => {
                self.expected.remove(&(attempt.seq, attempt.round));
            }
            Fact::Answered { attempt, outcome } => {
                let place = (attempt.seq, attempt.round);
                let state = match outcome {
                    Outcome::Blocked { .. } => OpenState::Blocked,
                    Outcome::Verdict(Verdict::Received | Verdict::Unacknowledged { .. }) => OpenState::AwaitingAck,
                    Outcome::Verdict(_) | Outcome::Recalled | Outcome::Withdrawn { .. } => return Ok(()),
                };
                if scene.store.live.end_of(&place).is_none() {
                    self.expected.insert(place, state);
                    if state == OpenState::Blocked {
                        self.untold.insert(place);
                    }
                }
            }
            Fact::Asked(Action::BecameBlocked { seq, round }) => {
                self.untold.remove(&(*seq, *round));
            }
            Fact::OpenedByOperator(place) => {
                self.expected.remove(place);
            }
            Fact::Restarted => {
                let kept = &scene.store.durable;
                self.expected.retain(|place, state| kept.open.get(place).is_some_and(|open| open.state == *state));
                self.untold.clear();
            }
            Fact::Stepped => return self.look(scene),
            _ => {}
        }
        Ok(())
    }

    fn look(&mut self, scene: &Scene<'_>) -> Result<(), String> {
        let kept = &scene.store.live;
        self.expected.retain(|place, _| kept.end_of(place).is_none());
        self.untold.retain(|place| kept.end_of(place).is_none());
        for (place, state) in &self.expected {
            let seen = kept.open.get(place).map(|open| open.state);
            if seen != Some(*state) {
                return Err(format!("{place:?} is {state:?}, the store shows {seen:?}"));
            }
        }
        match self.untold.first() {
            Some(place) => Err(format!("{place:?} is blocked and Ops was not told")),
            None => Ok(()),
        }
    }
}
