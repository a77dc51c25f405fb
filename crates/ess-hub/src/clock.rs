//! The hub's clock: wall time at the start, steady from then on, so that a step of the system's clock neither fires nor stalls timers.

use std::time::{SystemTime, UNIX_EPOCH};

use ess_core::time::Time;
use tokio::time::Instant;

/// Tells the time, by the runtime's clock, so that a test that moves that one moves the hub's too.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    began: Time,
    steady: Instant,
}

impl Clock {
    /// A clock that agrees with the system's now.
    #[must_use]
    pub fn start() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let micros = i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX);
        Self { began: Time::from_micros(micros), steady: Instant::now() }
    }

    /// When it was started.
    #[must_use]
    pub fn began(&self) -> Time {
        self.began
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Time {
        self.began.after(self.steady.elapsed())
    }

    /// When `time` comes, on the runtime's clock.
    #[must_use]
    pub fn instant(&self, time: Time) -> Instant {
        Instant::now() + time.since(self.now())
    }
}
