//! How long a server has said nothing while somebody waits for it: one that hangs takes what it is asked and never answers.
//!
//! Any answer to anybody ends the silence, so a slow statement beside others that are answered is none. Where nobody waits, nobody
//! knows, and there is none either; but it goes on with whoever asks soon after somebody gave up.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Who asks so soon after somebody gave up finds the same silence.
const GOES_ON_FOR: Duration = Duration::from_secs(5);

/// What is waited for, and since when nothing was heard.
#[derive(Debug)]
pub(crate) struct Silence {
    /// Guards both; held for a look or a change.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    waits: usize,
    /// The last answer, or the first question after a time without any.
    since: Instant,
    /// When somebody gave up last, if nothing was heard after that.
    given_up: Option<Instant>,
}

impl Default for Silence {
    fn default() -> Self {
        Self { state: Mutex::new(State { waits: 0, since: Instant::now(), given_up: None }) }
    }
}

impl Silence {
    /// Somebody waits from now on.
    pub(super) fn ask(&self) -> Asked<'_> {
        self.ask_at(Instant::now())
    }

    fn ask_at(&self, now: Instant) -> Asked<'_> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = state.given_up.is_some_and(|at| now.saturating_duration_since(at) < GOES_ON_FOR);
        if state.waits == 0 && !goes_on {
            state.since = now;
        }
        state.waits += 1;
        Asked(self)
    }

    /// Somebody has waited for long enough.
    pub(super) fn give_up(&self) {
        self.give_up_at(Instant::now());
    }

    /// How long it has lasted.
    pub(crate) fn lasts(&self) -> Duration {
        self.lasts_at(Instant::now())
    }

    fn lasts_at(&self, now: Instant) -> Duration {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.waits == 0 { Duration::ZERO } else { now.saturating_duration_since(state.since) }
    }

    fn hear_at(&self, now: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.since, state.given_up) = (now, None);
    }

    fn give_up_at(&self, now: Instant) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).given_up = Some(now);
    }
}

/// Somebody who waits; gone, nobody does.
pub(super) struct Asked<'a>(&'a Silence);

impl Asked<'_> {
    /// There is the answer.
    pub(super) fn heard(self) {
        self.0.hear_at(Instant::now());
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).waits -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lasts_while_somebody_waits_and_nobody_is_answered() {
        let (silence, start) = (Silence::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(silence.lasts_at(at(100)), Duration::ZERO, "nobody waits");
        let first = silence.ask_at(at(100));
        let second = silence.ask_at(at(103));
        assert_eq!(silence.lasts_at(at(105)), Duration::from_secs(5), "since the first question");
        silence.hear_at(at(106));
        assert_eq!(silence.lasts_at(at(109)), Duration::from_secs(3), "since the last answer");
        drop(second);
        assert_eq!(silence.lasts_at(at(110)), Duration::from_secs(4), "who gives up has heard nothing");
        drop(first);
        assert_eq!(silence.lasts_at(at(111)), Duration::ZERO);
        let third = silence.ask_at(at(200));
        assert_eq!(silence.lasts_at(at(201)), Duration::from_secs(1), "it begins anew");
        silence.give_up_at(at(210));
        drop(third);
        assert_eq!(silence.lasts_at(at(211)), Duration::ZERO, "somebody has to try");
        let fourth = silence.ask_at(at(212));
        assert_eq!(silence.lasts_at(at(213)), Duration::from_secs(13), "it goes on");
        silence.hear_at(at(214));
        drop(fourth);
        let _fifth = silence.ask_at(at(215));
        assert_eq!(silence.lasts_at(at(216)), Duration::from_secs(1), "it was over");
    }
}
