//! What partners' `where` predicates said since the hub began: a predicate that never matches is seen before it is missed.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use ess_core::id::PartnerNo;

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

/// Counts by partner.
#[derive(Debug, Default)]
pub struct Filters {
    /// Guards the counts; held for a look-up.
    counts: Mutex<HashMap<PartnerNo, FilterCounts>>,
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

    /// The counts of one partner.
    #[must_use]
    pub fn of(&self, no: PartnerNo) -> FilterCounts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).get(&no).copied().unwrap_or_default()
    }
}
