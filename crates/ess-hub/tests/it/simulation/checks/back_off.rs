//! No attempt comes sooner after the one before than the back-off (at its least jitter), `Retry-After`, or `ack.within` for a
//! re-send.
//!
//! While the partner is offline its probes decide instead (see `probes`), and the first answer lets everything that failed go.

use std::collections::BTreeMap;

use ess_core::lane::{Action, Outcome};
use ess_core::receipt::Verdict;
use ess_core::retry;
use ess_core::time::Time;

use super::{Fact, Scene};
use crate::simulation::kept::Place;

#[derive(Clone, Copy)]
struct Bound {
    not_before: Time,
    is_resend: bool,
}

#[derive(Default)]
pub struct BackOff {
    /// By the delivery and the attempts made.
    bounds: BTreeMap<(Place, u32), Bound>,
    failures: BTreeMap<Place, u32>,
}

impl BackOff {
    pub fn see(&mut self, fact: &Fact<'_>, scene: &Scene<'_>) -> Result<(), String> {
        match fact {
            Fact::Sent(attempt) => {
                let place = (attempt.seq, attempt.round);
                let Some(bound) = self.bounds.get(&(place, attempt.number - 1)) else { return Ok(()) };
                let is_probe = scene.lane.offline_since().is_some() && !bound.is_resend;
                if scene.now < bound.not_before && !is_probe {
                    let early = bound.not_before.since(scene.now);
                    return Err(format!("attempt {} of {place:?} came {early:?} too early", attempt.number));
                }
                // It was kept: what is blocked after it and goes out later is not measured by it again.
                self.bounds.remove(&(place, attempt.number - 1));
            }
            Fact::Answered { attempt, outcome: Outcome::Verdict(verdict) } => {
                self.on_verdict((attempt.seq, attempt.round), attempt.number, verdict, scene);
            }
            Fact::Asked(Action::Recovered { .. }) => self.bounds.retain(|_, bound| bound.is_resend),
            Fact::OpenedByOperator(place) => {
                self.failures.remove(place);
                self.bounds.retain(|(other, _), _| other != place);
            }
            Fact::Restarted => {
                let kept = &scene.store.durable;
                for (place, failures) in &mut self.failures {
                    let known = kept.open.get(place).map_or(0, |open| open.attempts.saturating_sub(open.resends));
                    *failures = known.min(*failures);
                }
                // An attempt that the hub forgot is made again; its bound is not known either.
                self.bounds.retain(|(place, made), _| kept.open.get(place).is_some_and(|open| open.attempts >= *made));
            }
            _ => {}
        }
        Ok(())
    }

    fn on_verdict(&mut self, place: Place, number: u32, verdict: &Verdict, scene: &Scene<'_>) {
        let policy = scene.policy;
        let bound = match verdict {
            Verdict::Retry { retry_after, .. } => {
                let failures = self.failures.entry(place).or_default();
                *failures += 1;
                let least = retry::delay(&policy.retry, *failures, 0.0);
                let wait = least.max(retry_after.unwrap_or_default());
                Bound { not_before: scene.now.after(wait), is_resend: false }
            }
            Verdict::Received | Verdict::Unacknowledged { .. } => {
                Bound { not_before: scene.now.after(policy.ack.within), is_resend: true }
            }
            _ => return,
        };
        self.bounds.insert((place, number), bound);
    }
}
