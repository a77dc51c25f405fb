//! What partners' `where` predicates said since the hub began: a predicate that never matches is seen before it is missed.
//!
//! A publisher waits for predicates, so one that is stopped again and again is left aside for a while. Its events go out.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ess_core::id::PartnerNo;
use ess_core::time::Time;

use crate::view::FilterCounts;

/// What a predicate said of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The event is for the partner.
    Matched,
    /// It is not.
    LeftOut,
    /// The predicate failed; the event is for the partner: too much is better than a missed rule.
    Failed,
}

/// How long a publisher waits for a predicate.
pub const LOOK_MAX: Duration = Duration::from_secs(1);
/// A predicate that failed after this long was stopped, or had its process killed.
pub const STOPPED_AFTER: Duration = Duration::from_millis(20);
/// Stops after which a predicate is left aside.
const STOPS_MAX: u32 = 3;
/// For how long.
const ASIDE_FOR: Duration = Duration::from_secs(30);
/// Predicates that were stopped of late; the history begins anew beyond.
const STOPPED_MAX: usize = 1_024;

/// Counts by partner, and the predicates that cost too much.
#[derive(Debug, Default)]
pub struct Filters {
    /// Guards the counts; held for a look-up.
    counts: Mutex<HashMap<PartnerNo, FilterCounts>>,
    /// Guards how often each predicate was stopped, and the last time; held for a look-up.
    stopped: Mutex<HashMap<String, (u32, Time)>>,
}

impl Filters {
    /// Counts what the partners' shared predicate said.
    pub fn count(&self, partners: &[PartnerNo], look: Look) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for no in partners {
            let counts = counts.entry(*no).or_default();
            match look {
                Look::Matched => counts.matched += 1,
                Look::LeftOut => counts.left_out += 1,
                Look::Failed => counts.failed += 1,
            }
        }
    }

    /// Whether a predicate is left aside now.
    #[must_use]
    pub fn is_aside(&self, filter: &str, now: Time) -> bool {
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        match stopped.get(filter) {
            Some((_, last)) if now.since(*last) >= ASIDE_FOR => {
                stopped.remove(filter);
                false
            }
            Some((stops, _)) => *stops >= STOPS_MAX,
            None => false,
        }
    }

    /// Notes that a predicate was stopped.
    pub fn note_stop(&self, filter: &str, now: Time) {
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        if stopped.len() >= STOPPED_MAX && !stopped.contains_key(filter) {
            stopped.clear();
        }
        let (stops, last) = stopped.entry(filter.to_owned()).or_insert((0, now));
        (*stops, *last) = (*stops + 1, now);
    }

    /// The counts of one partner.
    #[must_use]
    pub fn of(&self, no: PartnerNo) -> FilterCounts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).get(&no).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_predicate_that_is_stopped_again_and_again_is_left_aside_for_a_while() {
        let (filters, now) = (Filters::default(), Time::from_micros(0));
        for _ in 0..STOPS_MAX {
            assert!(!filters.is_aside("endless", now));
            filters.note_stop("endless", now);
        }
        assert!(filters.is_aside("endless", now));
        assert!(!filters.is_aside("another", now));
        assert!(!filters.is_aside("endless", now.after(ASIDE_FOR)));
        filters.note_stop("endless", now.after(ASIDE_FOR));
        assert!(!filters.is_aside("endless", now.after(ASIDE_FOR)));
    }
}
