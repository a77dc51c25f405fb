//! No more attempts at once than `limits.in_flight`, and no faster than `limits.per_second`.

use std::time::Duration;

use ess_core::lane::Command;
use ess_core::time::Time;

use super::{Fact, Scene};

#[derive(Default)]
pub struct LimitsKept {
    under_way: u32,
    last_sent: Option<Time>,
    is_paused: bool,
}

impl LimitsKept {
    pub fn see(&mut self, fact: &Fact<'_>, scene: &Scene<'_>) -> Result<(), String> {
        match fact {
            Fact::Sent(attempt) => {
                self.under_way += 1;
                let last = self.last_sent.replace(scene.now);
                let limits = scene.policy.limits;
                if self.under_way > limits.in_flight {
                    return Err(format!("{} attempts are under way, {} are allowed", self.under_way, limits.in_flight));
                }
                if self.is_paused {
                    return Err(format!("event {} was sent to a paused partner", attempt.seq));
                }
                if limits.per_second > 0.0
                    && let Some(last) = last
                {
                    // Times are whole microseconds.
                    let spacing = Duration::from_secs_f64(1.0 / limits.per_second) - Duration::from_micros(1);
                    if scene.now.since(last) < spacing {
                        return Err(format!("two attempts {:?} apart", scene.now.since(last)));
                    }
                }
            }
            Fact::Answered { .. } => self.under_way -= 1,
            Fact::Commanded(Command::Pause) => self.is_paused = true,
            Fact::Commanded(Command::Resume) => self.is_paused = false,
            Fact::Commanded(Command::Policy(_)) => self.last_sent = None,
            Fact::Restarted => {
                self.under_way = 0;
                self.last_sent = None;
                self.is_paused = scene.lane.is_paused();
            }
            Fact::Stepped if self.under_way != scene.lane.in_flight() => {
                return Err(format!(
                    "{} attempts are under way, the lane counts {}",
                    self.under_way,
                    scene.lane.in_flight()
                ));
            }
            _ => {}
        }
        Ok(())
    }
}
