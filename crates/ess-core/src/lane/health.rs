//! Whether the partner answers: a circuit breaker with a slow start after recovery.

use std::time::Duration;

use crate::mutant::{self, Mutant};
use crate::partner::RetryPolicy;
use crate::retry;
use crate::time::Time;

/// Failed rounds in a row from which on a partner counts as offline.
const OFFLINE_AFTER: u32 = 3;

/// What is remembered of a partner's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Health {
    /// Since when it is offline.
    pub offline_since: Option<Time>,
    /// The first failure since the last success.
    pub first_failed_at: Option<Time>,
    /// Failed rounds in a row.
    pub failures: u32,
    /// Since when it counts as given up: offline longer than its policy's patience. What waits for it is a dead letter until it
    /// answers again.
    pub gave_up_at: Option<Time>,
}

#[derive(Debug)]
pub(super) struct Breaker {
    health: Health,
    last_failed_at: Time,
    not_before: Time,
    window: u32,
    window_max: u32,
}

impl Breaker {
    pub(super) fn new(window_max: u32) -> Self {
        Self {
            health: Health::default(),
            last_failed_at: Time::default(),
            not_before: Time::default(),
            window: window_max,
            window_max,
        }
    }

    pub(super) fn resume(&mut self, health: Health) {
        self.health = health;
        if self.is_offline() {
            self.window = 1;
        }
    }

    pub(super) fn is_offline(&self) -> bool {
        self.health.offline_since.is_some()
    }

    pub(super) fn offline_since(&self) -> Option<Time> {
        self.health.offline_since
    }

    /// How many attempts may be under way.
    pub(super) fn window(&self) -> u32 {
        self.window
    }

    pub(super) fn set_window(&mut self, window_max: u32) {
        self.window_max = window_max;
        self.window = if self.is_offline() { 1 } else { window_max };
    }

    /// No attempt before this time.
    pub(super) fn not_before(&self) -> Time {
        self.not_before
    }

    /// An operator says: try now.
    pub(super) fn forgive(&mut self) {
        self.not_before = Time::default();
    }

    /// An operator says: try now, and be patient anew. The new health, when that changes anything.
    pub(super) fn begin_anew(&mut self, now: Time) -> Option<Health> {
        self.forgive();
        self.health.first_failed_at?;
        self.health.first_failed_at = Some(now);
        self.health.gave_up_at = None;
        Some(self.health)
    }

    /// When the policy's patience with an offline partner ends, if it has not ended yet.
    pub(super) fn gives_up_at(&self, policy: &RetryPolicy) -> Option<Time> {
        let is_waiting = self.is_offline() && !self.has_given_up();
        let first_failed_at = self.health.first_failed_at.filter(|_| is_waiting)?;
        Some(first_failed_at.after(policy.give_up_after))
    }

    /// Whether the partner is given up until it answers again.
    pub(super) fn has_given_up(&self) -> bool {
        self.health.gave_up_at.is_some()
    }

    /// The patience ended.
    pub(super) fn give_up(&mut self, now: Time) -> Health {
        self.health.gave_up_at = Some(now);
        self.health
    }

    /// The first failure since the partner last answered.
    pub(super) fn first_failed_at(&self) -> Option<Time> {
        self.health.first_failed_at
    }

    /// A round of attempts failed; attempts that began before the last counted failure belong to its round. The new health, when
    /// it is worth a record.
    pub(super) fn on_failure(
        &mut self,
        policy: &RetryPolicy,
        began: Time,
        retry_after: Option<Duration>,
        now: Time,
        dice: f64,
    ) -> Option<Health> {
        if let Some(span) = retry_after {
            self.not_before = self.not_before.max(now.after(span));
        }
        if self.health.failures > 0 && began < self.last_failed_at {
            return None;
        }
        self.last_failed_at = now;
        self.health.failures = self.health.failures.saturating_add(1);
        self.health.first_failed_at.get_or_insert(now);
        if self.health.failures >= OFFLINE_AFTER {
            self.health.offline_since.get_or_insert(now);
            self.window = if mutant::is_active(Mutant::OfflineStorm) { self.window_max } else { 1 };
            let probe_at = now.after(retry::delay(policy, self.health.failures, dice));
            if !mutant::is_active(Mutant::ProbeWithoutGate) {
                self.not_before = self.not_before.max(probe_at);
            }
        }
        Some(self.health)
    }

    /// The partner answered. Its health as it was, when it changed.
    pub(super) fn on_success(&mut self) -> Option<Health> {
        if self.health == Health::default() {
            // Slow start: twice as many at once after each success, up to the configured number.
            self.window = self.window.saturating_mul(2).min(self.window_max);
            return None;
        }
        let was_offline = self.is_offline();
        let before = std::mem::take(&mut self.health);
        self.not_before = Time::default();
        self.window = if was_offline { 1 } else { self.window_max };
        Some(before)
    }
}
