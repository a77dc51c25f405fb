//! What may go by age: payloads, attempts, lines of the audit trail. It decides only; `now` is an argument and the store does it.
//!
//! Nothing goes while somebody may still need it: an open delivery, a dead letter that was not discarded, a legal hold. The Ack
//! Ledger never goes, nor does an event's own row: what went is its payload.

use std::time::Duration;

use crate::time::Time;

/// Of the store's one writer, retention takes one part in so many at most.
const WRITER_SHARE: u32 = 50;
/// The least that lies between two steps, so that what came meanwhile goes first.
const PAUSE_MIN: Duration = Duration::from_millis(2);

/// How long each thing is kept, from when it was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Payloads of events.
    pub events: Duration,
    /// Payloads of dry runs.
    pub tests: Duration,
    /// Attempts of deliveries that ended.
    pub attempts: Duration,
    /// Lines of the audit trail.
    pub audit: Duration,
}

/// What is known of an event when its time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// A dry run.
    pub test: bool,
    /// When it was recorded.
    pub recorded_at: Time,
    /// A legal hold covers it.
    pub is_held: bool,
    /// A delivery of it has not ended.
    pub is_open: bool,
    /// A delivery of it was given up and not discarded.
    pub has_dead_letter: bool,
}

/// Whether something may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes.
    Due,
    /// Its time has not come; nor has that of anything recorded later.
    Young,
    /// Its time has come, and somebody may still need it.
    Needed,
}

impl Keep {
    /// Whether an event's payload may go.
    #[must_use]
    pub fn judge_payload(&self, standing: &Standing, now: Time) -> Verdict {
        let span = if standing.test { self.tests } else { self.events };
        if now.since(standing.recorded_at) < span {
            return Verdict::Young;
        }
        standing.judge()
    }

    /// Whether an attempt of the event, made `at`, may go.
    #[must_use]
    pub fn judge_attempt(&self, standing: &Standing, at: Time, now: Time) -> Verdict {
        if now.since(at) < self.attempts { Verdict::Young } else { standing.judge() }
    }

    /// Whether an event recorded then can have attempts that may go: none is older than its event.
    #[must_use]
    pub fn has_old_attempts(&self, recorded_at: Time, now: Time) -> bool {
        now.since(recorded_at) >= self.attempts
    }

    /// Whether a line of the audit trail may go. Under any legal hold none does: it says who did what with what is held.
    #[must_use]
    pub fn judge_audit(&self, at: Time, has_holds: bool, now: Time) -> Verdict {
        match (now.since(at) < self.audit, has_holds) {
            (true, _) => Verdict::Young,
            (false, true) => Verdict::Needed,
            (false, false) => Verdict::Due,
        }
    }
}

impl Standing {
    fn judge(&self) -> Verdict {
        let is_needed = self.is_held || self.is_open || self.has_dead_letter;
        if is_needed { Verdict::Needed } else { Verdict::Due }
    }
}

/// How long to leave the writer alone after a step that took it for so long.
#[must_use]
pub fn pause_after(took: Duration) -> Duration {
    took.saturating_mul(WRITER_SHARE - 1).max(PAUSE_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const KEEP: Keep = Keep { events: Duration::from_secs(7 * 365 * 86_400), tests: DAY, attempts: DAY, audit: DAY };
    const RECORDED: Time = Time::from_micros(1_000_000);
    const STANDING: Standing =
        Standing { test: false, recorded_at: RECORDED, is_held: false, is_open: false, has_dead_letter: false };

    #[track_caller]
    fn check(standing: Standing, age: Duration, payload: Verdict, attempt: Verdict) {
        let now = RECORDED.after(age);
        assert_eq!(KEEP.judge_payload(&standing, now), payload, "payload");
        assert_eq!(KEEP.judge_attempt(&standing, RECORDED, now), attempt, "attempt");
    }

    #[test]
    fn each_thing_goes_at_its_age_and_not_a_microsecond_before() {
        let early = DAY - Duration::from_micros(1);
        check(STANDING, early, Verdict::Young, Verdict::Young);
        check(STANDING, DAY, Verdict::Young, Verdict::Due);
        check(STANDING, KEEP.events, Verdict::Due, Verdict::Due);
        let test = Standing { test: true, ..STANDING };
        check(test, early, Verdict::Young, Verdict::Young);
        check(test, DAY, Verdict::Due, Verdict::Due);
    }

    #[test]
    fn what_somebody_may_need_stays_however_old() {
        for needed in [
            Standing { is_held: true, ..STANDING },
            Standing { is_open: true, ..STANDING },
            Standing { has_dead_letter: true, ..STANDING },
        ] {
            check(needed, 10 * KEEP.events, Verdict::Needed, Verdict::Needed);
        }
    }

    #[test]
    fn a_clock_that_went_back_makes_nothing_old() {
        let now = Time::from_micros(0);
        assert_eq!(KEEP.judge_payload(&STANDING, now), Verdict::Young);
        assert_eq!(KEEP.judge_audit(RECORDED, false, now), Verdict::Young);
    }

    #[test]
    fn the_audit_trail_stays_whole_under_a_hold() {
        let now = RECORDED.after(DAY);
        assert_eq!(KEEP.judge_audit(RECORDED, false, now), Verdict::Due);
        assert_eq!(KEEP.judge_audit(RECORDED, true, now), Verdict::Needed);
    }

    #[test]
    fn an_event_that_is_young_has_no_old_attempts() {
        assert!(KEEP.has_old_attempts(RECORDED, RECORDED.after(DAY)));
        assert!(!KEEP.has_old_attempts(RECORDED, RECORDED.after(DAY / 2)));
    }

    #[test]
    fn the_writer_is_left_alone_for_most_of_the_time() {
        assert_eq!(pause_after(Duration::from_millis(1)), Duration::from_millis(49));
        assert_eq!(pause_after(Duration::ZERO), PAUSE_MIN);
    }
}
