//! What was delivered and not acknowledged is sent again `resend` times at most, whatever else goes wrong meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use ess_core::lane::{Command, Outcome};
use ess_core::receipt::Verdict;

use super::{Fact, Scene};
use crate::simulation::kept::Place;

#[derive(Default)]
struct Count {
    attempts: u32,
    resends: u32,
    /// Attempts that a crash made the hub forget.
    forgotten: u32,
    is_unacknowledged: bool,
}

#[derive(Default)]
pub struct Resends {
    counts: BTreeMap<Place, Count>,
    in_flight: BTreeSet<Place>,
    most: u32,
}

impl Resends {
    pub fn see(&mut self, fact: &Fact<'_>, scene: &Scene<'_>) -> Result<(), String> {
        self.most = self.most.max(scene.policy.ack.resend);
        match fact {
            Fact::Sent(attempt) => {
                let place = (attempt.seq, attempt.round);
                self.in_flight.insert(place);
                let most = self.most;
                let count = self.counts.entry(place).or_default();
                count.attempts = attempt.number;
                count.resends += u32::from(std::mem::take(&mut count.is_unacknowledged));
                if count.resends > most + count.forgotten {
                    return Err(format!(
                        "{place:?} was sent again for want of an ACK {} times, not {most}",
                        count.resends
                    ));
                }
            }
            Fact::Answered { attempt, outcome } => {
                let place = (attempt.seq, attempt.round);
                self.in_flight.remove(&place);
                let waits = matches!(outcome, Outcome::Verdict(Verdict::Received | Verdict::Unacknowledged { .. }));
                self.counts.entry(place).or_default().is_unacknowledged = waits;
            }
            Fact::OpenedByOperator(place) => {
                self.counts.remove(place);
            }
            Fact::Commanded(Command::Policy(policy)) => self.most = self.most.max(policy.ack.resend),
            Fact::Restarted => {
                let kept = &scene.store.durable;
                let in_flight = std::mem::take(&mut self.in_flight);
                for (place, count) in &mut self.counts {
                    let known = kept.open.get(place).map_or(0, |open| open.attempts);
                    count.forgotten += u32::from(in_flight.contains(place) || known < count.attempts);
                }
            }
            _ => {}
        }
        Ok(())
    }
}
