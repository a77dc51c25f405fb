//! The last hour, minute by minute: what was recorded, acknowledged, failed, and how long an ACK took. In memory only.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ess_core::time::Time;

/// Minutes that are kept.
pub const MINUTES: usize = 60;
const MINUTE_US: i64 = 60_000_000;
/// Four buckets for each doubling from 64 µs on: a quantile is right within 19 %, and the last bucket begins after 9 days.
const BUCKETS: usize = 136;
const FIRST_OCTAVE: u32 = 6;

/// One minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Minute {
    /// When it began.
    pub at: Time,
    /// Events recorded.
    pub events: u64,
    /// Deliveries acknowledged.
    pub acked: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Half of its ACKs came within this span of the recording.
    pub p50: Option<Duration>,
    /// 99 of 100 of its ACKs came within this span.
    pub p99: Option<Duration>,
}

/// Counts by minute.
#[derive(Debug, Default)]
pub struct Flow {
    /// Guards the minutes; held for one addition.
    minutes: Mutex<VecDeque<Counted>>,
}

#[derive(Debug)]
struct Counted {
    number: i64,
    events: u64,
    acked: u64,
    failed: u64,
    took: [u32; BUCKETS],
}

impl Flow {
    /// An event was recorded.
    pub fn note_event(&self, now: Time) {
        self.note(now, |minute| minute.events += 1);
    }

    /// A delivery was acknowledged, so long after its event was recorded.
    pub fn note_ack(&self, now: Time, took: Option<Duration>) {
        self.note(now, |minute| {
            minute.acked += 1;
            if let Some(took) = took {
                let count = &mut minute.took[bucket(took)];
                *count = count.saturating_add(1);
            }
        });
    }

    /// An attempt failed.
    pub fn note_failure(&self, now: Time) {
        self.note(now, |minute| minute.failed += 1);
    }

    /// The last hour, oldest first; the last one is the minute that runs.
    #[must_use]
    pub fn hour(&self, now: Time) -> Vec<Minute> {
        let minutes = self.minutes.lock().unwrap_or_else(PoisonError::into_inner);
        let last = number_of(now);
        let first = last - (MINUTES as i64 - 1);
        let shown = (first..=last).map(|number| match minutes.iter().find(|minute| minute.number == number) {
            Some(minute) => minute.shown(),
            None => Minute { at: begin_of(number), events: 0, acked: 0, failed: 0, p50: None, p99: None },
        });
        shown.collect()
    }

    fn note(&self, now: Time, count: impl FnOnce(&mut Counted)) {
        let number = number_of(now);
        let mut minutes = self.minutes.lock().unwrap_or_else(PoisonError::into_inner);
        if minutes.back().is_none_or(|last| last.number < number) {
            if minutes.len() == MINUTES {
                minutes.pop_front();
            }
            minutes.push_back(Counted { number, events: 0, acked: 0, failed: 0, took: [0; BUCKETS] });
        }
        // A count that comes a moment late goes to the newest minute.
        if let Some(last) = minutes.back_mut() {
            count(last);
        }
    }
}

impl Counted {
    fn shown(&self) -> Minute {
        let Self { number, events, acked, failed, ref took } = *self;
        Minute { at: begin_of(number), events, acked, failed, p50: quantile(took, 50), p99: quantile(took, 99) }
    }
}

fn number_of(time: Time) -> i64 {
    time.as_micros().div_euclid(MINUTE_US)
}

fn begin_of(number: i64) -> Time {
    Time::from_micros(number * MINUTE_US)
}

fn bucket(took: Duration) -> usize {
    let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1 << FIRST_OCTAVE);
    let octave = us.ilog2();
    let quarter = (us >> (octave - 2)) & 3;
    let index = u64::from(octave - FIRST_OCTAVE) * 4 + quarter;
    usize::try_from(index).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

/// Where a bucket ends: a quantile is never told too small.
fn end_of(bucket: usize) -> Duration {
    let octave = bucket as u32 / 4 + FIRST_OCTAVE;
    let quarter = bucket as u64 % 4;
    Duration::from_micros((1 << octave) + (quarter + 1) * (1 << (octave - 2)))
}

fn quantile(took: &[u32; BUCKETS], percent: u64) -> Option<Duration> {
    let all: u64 = took.iter().map(|count| u64::from(*count)).sum();
    let wanted = (all * percent).div_ceil(100).max(1);
    let mut seen = 0;
    took.iter().enumerate().find_map(|(bucket, count)| {
        seen += u64::from(*count);
        (all > 0 && seen >= wanted).then(|| end_of(bucket))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_US: i64 = 3_600_000_000;

    #[test]
    fn the_last_hour_is_told_minute_by_minute_and_older_counts_are_let_go() {
        let flow = Flow::default();
        let at = |minute: i64| Time::from_micros(10 * HOUR_US + minute * MINUTE_US);
        for minute in 0..100 {
            flow.note_event(at(minute));
            flow.note_ack(at(minute), Some(Duration::from_millis(10)));
        }
        flow.note_failure(at(99));
        let hour = flow.hour(at(101));
        assert_eq!((hour.len(), hour[0].at, hour[59].at), (60, at(42), at(101)));
        assert_eq!((hour[0].events, hour[57].acked, hour[57].failed), (1, 1, 1));
        assert_eq!((hour[58].events, hour[59].p50), (0, None));
    }

    #[test]
    fn a_quantile_is_at_most_a_fifth_too_large_and_never_too_small() {
        for us in [1, 64, 65, 100, 1_000, 12_345, 999_999, 86_400_000_000] {
            let flow = Flow::default();
            let took = Duration::from_micros(us);
            flow.note_ack(Time::from_micros(HOUR_US), Some(took));
            let told = flow.hour(Time::from_micros(HOUR_US))[59].p99.unwrap();
            assert!(told >= took && (us < 64 || told <= took * 5 / 4), "{took:?} is told as {told:?}");
        }
        let flow = Flow::default();
        for _ in 0..99 {
            flow.note_ack(Time::from_micros(0), Some(Duration::from_millis(1)));
        }
        flow.note_ack(Time::from_micros(0), Some(Duration::from_secs(10)));
        let minute = flow.hour(Time::from_micros(0))[59];
        assert!(minute.p50.unwrap() < Duration::from_millis(2) && minute.p99.unwrap() < Duration::from_millis(2));
    }
}
