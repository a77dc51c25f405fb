//! How far an attempt has come, for the day it runs out of time.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use ess_core::receipt::{Failure, Stage};
use tokio::time::Instant;

use crate::limits::REASON_CHARS_MAX;

/// The step that an attempt is in, and its one deadline.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
    deadline: Instant,
    stage: AtomicU8,
}

impl Progress {
    /// An attempt that begins now.
    pub(crate) fn begin(deadline: Instant) -> Progress {
        Progress { started: Instant::now(), deadline, stage: AtomicU8::new(Stage::Resolve as u8) }
    }

    /// When the attempt ends at the latest.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Notes the step that begins.
    pub(crate) fn enter(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// Notes the step that begins where `before` ends; a later one stays.
    pub(crate) fn enter_if(&self, before: Stage, stage: Stage) {
        let _ = self.stage.compare_exchange(before as u8, stage as u8, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// What to report when the deadline has passed.
    pub(crate) fn timed_out(&self) -> Failure {
        let (stage, doing) = match self.stage.load(Ordering::Relaxed) {
            step if step == Stage::Connect as u8 => (Stage::Connect, "connecting"),
            step if step == Stage::Tls as u8 => (Stage::Tls, "waiting for the tls handshake"),
            step if step == Stage::Auth as u8 => (Stage::Auth, "logging in"),
            step if step == Stage::Send as u8 => (Stage::Send, "sending"),
            step if step == Stage::Await as u8 => (Stage::Await, "waiting for the answer"),
            step if step == Stage::Read as u8 => (Stage::Read, "reading the answer"),
            _ => (Stage::Resolve, "finding the address"),
        };
        let span = in_words(self.deadline.saturating_duration_since(self.started));
        Failure { stage, reason: format!("timed out after {span} while {doing}") }
    }
}

fn in_words(span: Duration) -> String {
    let millis = (span + Duration::from_micros(500)).as_millis();
    if millis >= 1000 && millis.is_multiple_of(1000) { format!("{}s", millis / 1000) } else { format!("{millis}ms") }
}

/// A reason is one line without control characters, of bounded length.
pub(crate) fn one_line(mut failure: Failure) -> Failure {
    failure.reason =
        failure.reason.chars().map(|c| if c.is_control() { ' ' } else { c }).take(REASON_CHARS_MAX).collect();
    failure
}
