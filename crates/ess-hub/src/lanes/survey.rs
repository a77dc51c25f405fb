//! How all lanes stand, for people who look. Holds the loop up for as little as it can: what did not move is not looked at again.

use std::sync::Arc;

use ess_core::id::PartnerNo;
use ess_core::lane::WINDOW;
use tokio::sync::oneshot;

use super::{Lanes, Seat, Surveyed};
use crate::past::Day;

/// Deliveries that one survey of all lanes looks at, and the least of one lane.
const SURVEYED_MAX: usize = 65_536;
const LOOK_MIN: usize = 8;

impl Lanes {
    /// Looks anew only at lanes that moved since the last survey, and at a bounded number of deliveries in all.
    pub(super) fn survey(&mut self, reply: oneshot::Sender<Vec<Arc<Surveyed>>>) {
        let look = (SURVEYED_MAX / self.seats.len().max(1)).clamp(LOOK_MIN, WINDOW);
        let surveyed = self.seats.values_mut().map(|seat| {
            let Seat { lane, registered, last_error, surveyed, .. } = seat;
            let look_anew = || Surveyed {
                registered: registered.clone(),
                standing: lane.standing(look),
                last_error: last_error.clone(),
            };
            surveyed.get_or_insert_with(|| Arc::new(look_anew())).clone()
        });
        drop(reply.send(surveyed.collect()));
    }

    /// One partner's last day.
    pub(super) fn day(&self, no: PartnerNo, reply: oneshot::Sender<Day>) {
        let now = self.now();
        drop(reply.send(self.seats.get(&no).map(|seat| seat.past.day(now)).unwrap_or_default()));
    }
}
