//! A partner that is offline is probed by one attempt at a time, on the back-off schedule; never by a storm.
//!
//! A restart and an operator's `resume` or redrive may probe at once.

use ess_core::lane::{Command, Record};
use ess_core::retry;
use ess_core::time::Time;

use super::{Fact, Scene};
use crate::simulation::kept::Change;

#[derive(Default)]
pub struct Probes {
    not_before: Time,
    /// Failed rounds as they were told last.
    failures: u32,
}

impl Probes {
    pub fn see(&mut self, fact: &Fact<'_>, scene: &Scene<'_>) -> Result<(), String> {
        match fact {
            Fact::Sent(attempt) if scene.lane.offline_since().is_some() => {
                let under_way = scene.lane.in_flight();
                if under_way > 1 {
                    return Err(format!("{under_way} attempts are under way to a partner that is offline"));
                }
                if scene.now < self.not_before {
                    let early = self.not_before.since(scene.now);
                    return Err(format!("the probe by event {} came {early:?} too early", attempt.seq));
                }
            }
            Fact::Recorded(Change::Lane(Record::Health(health))) if health.failures != self.failures => {
                self.failures = health.failures;
                self.not_before = match health.offline_since {
                    Some(_) => scene.now.after(retry::delay(&scene.policy.retry, health.failures, 0.0)),
                    None => Time::default(),
                };
            }
            Fact::Commanded(Command::Resume | Command::Redrive) => self.not_before = Time::default(),
            Fact::Restarted => {
                self.not_before = Time::default();
                self.failures = scene.store.durable.health.failures;
            }
            _ => {}
        }
        Ok(())
    }
}
