//! The fallback channel: a delivery whose turn it is and that has no ACK after some time goes out by it as well, and the first ACK
//! from either channel ends it. It says nothing of the partner's health, and holds up nothing.

use std::collections::BTreeSet;

use super::act::{Action, Attempt, Ended, Outcome, Report};
use super::entry::{FallbackPhase, Phase};
use super::{Lane, Place};
use crate::delivery::State;
use crate::receipt::{Evidence, Verdict};
use crate::retry;
use crate::time::Time;

/// When which delivery goes out by the fallback channel.
#[derive(Debug, Default)]
pub(super) struct Fallbacks {
    pub(super) due: BTreeSet<(Time, Place)>,
    in_flight: u32,
}

impl Lane {
    /// How an attempt by the fallback channel ended.
    pub fn on_fallback_report(&mut self, report: Report, now: Time, dice: f64) {
        self.fallbacks.in_flight = self.fallbacks.in_flight.saturating_sub(1);
        let Report { attempt, outcome, sent, tried } = report;
        let place = (attempt.seq, attempt.round);
        let Some(entry) = self.entries.get_mut(&place) else {
            return; // The other channel was quicker.
        };
        entry.attempts = entry.attempts.max(attempt.number);
        if entry.sent.is_none() {
            entry.sent = sent;
        }
        let verdict = match outcome {
            Outcome::Verdict(verdict) => verdict,
            Outcome::Blocked { reason, .. } => Verdict::Refused { reason },
            // A fallback never waits for its partner to ask.
            Outcome::Recalled => Verdict::Refused { reason: "taken back".to_owned() },
            Outcome::Withdrawn { reason } => return self.withdraw(place, reason, now),
        };
        let phase = match verdict {
            Verdict::Acked(evidence) => return self.end_acked(place, evidence, attempt.number, now, Some(tried)),
            Verdict::Nack { reason } => {
                let evidence = Some(Evidence::Body);
                return self.end(place, Ended { state: State::Nack, reason, evidence, tried: Some(tried), at: now });
            }
            Verdict::Received | Verdict::Unacknowledged { .. } => FallbackPhase::Taken { at: now },
            Verdict::Refused { .. } | Verdict::Gone { .. } => FallbackPhase::Refused,
            Verdict::Retry { retry_after, .. } => {
                entry.fallback_failures = entry.fallback_failures.saturating_add(1);
                let backed_off = now.after(retry::delay(&self.policy.retry, entry.fallback_failures, dice));
                let due = retry_after.map_or(backed_off, |span| backed_off.max(now.after(span)));
                entry.fallback_due = Some(due);
                self.fallbacks.due.insert((due, place));
                FallbackPhase::Idle
            }
        };
        entry.fallback = phase;
        self.record_failed(place, tried);
    }

    /// The delivery's turn came: its fallback is due when it has been recorded for long enough.
    pub(super) fn arm_fallback(&mut self, place: Place) {
        let Some(after) = self.policy.fallback_after else { return };
        if let Some(entry) = self.entries.get_mut(&place)
            && !entry.test
            && entry.fallback == FallbackPhase::Idle
            && entry.fallback_due.is_none()
        {
            let due = entry.recorded_at.after(after);
            entry.fallback_due = Some(due);
            self.fallbacks.due.insert((due, place));
        }
    }

    /// The configuration changed: what has its turn is armed by the new one.
    pub(super) fn arm_fallbacks_anew(&mut self) {
        self.fallbacks.due.clear();
        let mut have_turn = Vec::new();
        for (place, entry) in &mut self.entries {
            entry.fallback_due = None;
            if !matches!(entry.phase, Phase::Waiting | Phase::Blocked) {
                have_turn.push(*place);
            }
        }
        for place in have_turn {
            self.arm_fallback(place);
        }
    }

    pub(super) fn next_fallback(&self) -> Option<Time> {
        let may_send = !self.paused && self.fallbacks.in_flight < self.policy.limits.in_flight.max(1);
        self.fallbacks.due.first().map(|(due, _)| *due).filter(|_| may_send)
    }

    pub(super) fn fall_back_if_due(&mut self, now: Time) {
        while self.next_fallback().is_some_and(|due| due <= now) {
            let Some((_, place)) = self.fallbacks.due.pop_first() else { return };
            let Some(entry) = self.entries.get_mut(&place) else { continue };
            entry.fallback_due = None;
            if matches!(entry.phase, Phase::Blocked | Phase::Waiting) || entry.cancel.is_some() {
                continue;
            }
            entry.fallback = FallbackPhase::Sending;
            self.fallbacks.in_flight += 1;
            self.actions.push_back(Action::SendFallback(Attempt {
                seq: place.0,
                round: place.1,
                number: entry.attempts_begun(),
                partner_seq: entry.partner_seq,
                message_uuid: entry.message_uuid,
                started: now,
            }));
        }
    }
}
