//! How long commits took, in buckets, for whoever measures the store. Never holds a commit up: it is counted without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Where buckets end, in microseconds; what takes longer than the last is counted with all.
const ENDS_US: [u64; 12] = [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 2_500_000];

/// Counts commits by what they took.
#[derive(Debug, Default)]
pub(crate) struct CommitClock {
    buckets: [AtomicU64; ENDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// What commits took so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitTimes {
    /// Each bucket's end and its own count; the last one, without an end, is [`Duration::MAX`].
    pub buckets: Vec<(Duration, u64)>,
    /// All of them together.
    pub sum: Duration,
}

impl CommitClock {
    /// A commit took so long, its fsync included.
    pub(crate) fn note(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = ENDS_US.iter().position(|end| us <= *end).unwrap_or(ENDS_US.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// What was counted.
    pub(crate) fn times(&self) -> CommitTimes {
        let ends = ENDS_US.iter().map(|us| Duration::from_micros(*us)).chain([Duration::MAX]);
        let counts = self.buckets.iter().map(|count| count.load(Ordering::Relaxed));
        CommitTimes {
            buckets: ends.zip(counts).collect(),
            sum: Duration::from_micros(self.sum_us.load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_counted_in_the_first_bucket_that_holds_it() {
        let clock = CommitClock::default();
        for us in [1, 100, 101, 9_999_999] {
            clock.note(Duration::from_micros(us));
        }
        let times = clock.times();
        assert_eq!(times.buckets[0], (Duration::from_micros(100), 2));
        assert_eq!(times.buckets[1], (Duration::from_micros(250), 1));
        assert_eq!(times.buckets[ENDS_US.len()], (Duration::MAX, 1));
        assert_eq!(times.sum, Duration::from_micros(10_000_201));
    }
}
