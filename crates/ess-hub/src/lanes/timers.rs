//! What happens as time goes by: lanes' timers, and what is looked at every second.

use std::cmp::Reverse;

use ess_core::id::PartnerNo;

use super::{Lanes, UNRECORDED_MAX};

impl Lanes {
    pub(super) fn fire(&mut self) {
        let now = self.now();
        while let Some(Reverse((time, no))) = self.timers.peek().copied() {
            if time > now {
                break;
            }
            self.timers.pop();
            if let Some(seat) = self.seats.get_mut(&no)
                && seat.armed == Some(time)
            {
                seat.armed = None;
                seat.lane.on_timeout(now);
                self.pump(no);
            }
        }
    }

    pub(super) fn tick(&mut self) {
        for seat in self.seats.values() {
            if let Ok(channel) = &seat.registered.channel {
                channel.sweep();
            }
        }
        self.send_heartbeats();
        let has_caught_up = self.delivery.store.records() && self.delivery.store.unrecorded() < UNRECORDED_MAX / 2;
        let has_lease = self.delivery.lease.holds();
        let has_lease_again = has_lease && !self.had_lease;
        self.had_lease = has_lease;
        if self.is_stalled && has_caught_up {
            tracing::info!("the store writes again, and so the lanes send");
            self.is_stalled = false;
            self.pump_all();
        } else if has_lease_again {
            self.pump_all();
        }
    }

    pub(super) fn pump_all(&mut self) {
        let numbers: Vec<PartnerNo> = self.seats.keys().copied().collect();
        for no in numbers {
            self.pump(no);
        }
    }
}

/// Waits for the next timer of a lane; without one, for ever.
pub(super) async fn sleep_until(next: Option<tokio::time::Instant>) {
    match next {
        Some(next) => tokio::time::sleep_until(next).await,
        None => std::future::pending().await,
    }
}
