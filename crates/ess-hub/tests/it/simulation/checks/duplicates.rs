//! The partner sees an attempt of a delivery twice only when it was in flight, or its outcome not yet durable, as the hub died;
//! and nothing is sent that has ended or is under way already.

use std::collections::{BTreeMap, BTreeSet};

use ess_core::lane::Outcome;

use super::{Fact, Scene};
use crate::simulation::kept::Place;

#[derive(Default)]
pub struct Duplicates {
    in_flight: BTreeMap<Place, u32>,
    /// Attempts that reached the partner and came back.
    seen: BTreeSet<(Place, u32)>,
    /// Attempts that a crash left in doubt: each may be made once more.
    doubtful: BTreeSet<(Place, u32)>,
    /// Outcomes handed over since the last crash that were not durable when last looked at.
    pending: usize,
}

impl Duplicates {
    pub fn see(&mut self, fact: &Fact<'_>, scene: &Scene<'_>) -> Result<(), String> {
        match fact {
            Fact::Sent(attempt) => {
                let place = (attempt.seq, attempt.round);
                if let Some(number) = self.in_flight.insert(place, attempt.number) {
                    return Err(format!("{place:?} was sent while its attempt {number} was under way"));
                }
                if let Some(state) = scene.store.live.end_of(&place) {
                    return Err(format!("{place:?} was sent after it had ended as {state:?}"));
                }
                let key = (place, attempt.number);
                let may_repeat = self.doubtful.remove(&key);
                if self.seen.contains(&key) && !may_repeat {
                    return Err(format!("attempt {} of {place:?} was made twice without a crash", attempt.number));
                }
            }
            Fact::Answered { attempt, outcome } => {
                let place = (attempt.seq, attempt.round);
                self.in_flight.remove(&place);
                if matches!(outcome, Outcome::Verdict(_)) {
                    self.seen.insert((place, attempt.number));
                }
            }
            Fact::Stepped => self.pending = scene.store.pending(),
            Fact::Restarted => return self.on_restart(scene),
            _ => {}
        }
        Ok(())
    }

    fn on_restart(&mut self, scene: &Scene<'_>) -> Result<(), String> {
        let in_flight = std::mem::take(&mut self.in_flight);
        let bound = in_flight.len() + self.pending;
        self.seen.extend(in_flight);
        let kept = &scene.store.durable;
        let is_known = |(place, number): &(Place, u32)| {
            kept.end_of(place).is_some() || kept.open.get(place).is_some_and(|open| open.attempts >= *number)
        };
        let before = self.doubtful.len();
        self.doubtful.extend(self.seen.iter().filter(|key| !is_known(key)).copied());
        let more = self.doubtful.len() - before;
        if more > bound {
            return Err(format!("a crash put {more} attempts in doubt, but no more than {bound} were not durable"));
        }
        Ok(())
    }
}
