//! How quickly each partner acknowledged of late: its last few ACKs, in memory only, one small ring for each.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ess_core::id::PartnerNo;
use ess_core::time::Time;

/// ACKs that are remembered for each partner: enough for a 99th percentile that means "the slowest of late".
const ACKS_MAX: usize = 64;
/// Partners that are remembered; beyond that all are forgotten and begin anew.
const PARTNERS_MAX: usize = 65_536;
/// The span that a rate is told for.
const RATE_SPAN: Duration = Duration::from_secs(60);

/// The pace of one partner.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pace {
    /// ACKs in the last minute; of more than the ring holds it is an estimate.
    pub per_minute: f64,
    /// Half of its last ACKs came within this span of the recording.
    pub p50: Option<Duration>,
    /// The slowest of 99 in 100 of them.
    pub p99: Option<Duration>,
}

/// The paces of all.
#[derive(Debug, Default)]
pub struct Paces {
    /// Guards the rings; held for one addition or one copy.
    rings: Mutex<HashMap<PartnerNo, VecDeque<Ack>>>,
}

#[derive(Debug, Clone, Copy)]
struct Ack {
    at: Time,
    took: Option<Duration>,
}

impl Paces {
    /// A partner acknowledged, so long after the event was recorded.
    pub fn note(&self, partner: PartnerNo, at: Time, took: Option<Duration>) {
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        if rings.len() >= PARTNERS_MAX && !rings.contains_key(&partner) {
            rings.clear();
        }
        let ring = rings.entry(partner).or_default();
        if ring.len() == ACKS_MAX {
            ring.pop_front();
        }
        ring.push_back(Ack { at, took });
    }

    /// How quickly it acknowledged of late.
    #[must_use]
    pub fn of(&self, partner: PartnerNo, now: Time) -> Pace {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        rings.get(&partner).map(|ring| pace(ring, now)).unwrap_or_default()
    }
}

fn pace(ring: &VecDeque<Ack>, now: Time) -> Pace {
    let recent = ring.iter().filter(|ack| now.since(ack.at) < RATE_SPAN).count();
    let is_all_recent = recent == ACKS_MAX;
    let span = ring.front().filter(|_| is_all_recent).map_or(RATE_SPAN, |oldest| now.since(oldest.at));
    let per_minute = recent as f64 * RATE_SPAN.as_secs_f64() / span.as_secs_f64().max(0.001);
    let mut took: Vec<Duration> = ring.iter().filter_map(|ack| ack.took).collect();
    took.sort_unstable();
    let quantile = |percent: usize| took.get((took.len() * percent).div_ceil(100).saturating_sub(1)).copied();
    Pace { per_minute, p50: quantile(50), p99: quantile(99) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_acks_of_a_partner_are_told_and_older_ones_forgotten() {
        let paces = Paces::default();
        let at = |second: i64| Time::from_micros(second * 1_000_000);
        for second in 0..100 {
            paces.note(PartnerNo(1), at(second), Some(Duration::from_millis(if second < 50 { 9_000 } else { 10 })));
        }
        let pace = paces.of(PartnerNo(1), at(100));
        assert_eq!((pace.p50, pace.p99), (Some(Duration::from_millis(10)), Some(Duration::from_secs(9))));
        assert_eq!(pace.per_minute, 59.0);
        assert_eq!(paces.of(PartnerNo(1), at(1_000)).per_minute, 0.0);
        assert_eq!(paces.of(PartnerNo(2), at(100)), Pace::default());
    }

    #[test]
    fn a_rate_beyond_the_ring_is_estimated_from_its_span() {
        let paces = Paces::default();
        for number in 0..1_000 {
            paces.note(PartnerNo(1), Time::from_micros(number * 10_000), None);
        }
        let pace = paces.of(PartnerNo(1), Time::from_micros(10_000_000));
        assert!((5_900.0..6_100.0).contains(&pace.per_minute), "{pace:?}");
        assert_eq!(pace.p50, None);
    }
}
