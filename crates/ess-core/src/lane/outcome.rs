//! What an attempt's end, or the partner's word, does to a delivery and to the partner's health.

use super::act::{Action, Ended, Record, Tried};
use super::entry::{Entry, Phase};
use super::health::Health;
use super::{Lane, Place};
use crate::delivery::State;
use crate::mutant::{self, Mutant};
use crate::partner::{Order, Redrive};
use crate::receipt::{Evidence, Verdict};
use crate::retry;
use crate::time::Time;

impl Lane {
    /// What the partner's answer, or its silence, says of its health.
    pub(super) fn note_health(&mut self, verdict: &Verdict, tried: &Tried, now: Time, dice: f64) {
        match verdict {
            Verdict::Retry { retry_after, .. } => {
                let retry_after = retry_after.filter(|_| !mutant::is_active(Mutant::RetryAfterIgnored));
                self.health_failure(tried, retry_after, now, dice);
            }
            Verdict::Gone { .. } => {}
            // A partner that answers is not offline, whatever it says.
            Verdict::Acked(_)
            | Verdict::Received
            | Verdict::Unacknowledged { .. }
            | Verdict::Nack { .. }
            | Verdict::Refused { .. } => self.health_success(),
        }
    }

    pub(super) fn judge(&mut self, place: Place, verdict: Verdict, tried: Tried, now: Time, dice: f64) {
        let cancel = self.entries.get_mut(&place).and_then(|entry| entry.cancel.take());
        if let Some(reason) = cancel
            && !matches!(verdict, Verdict::Acked(_) | Verdict::Nack { .. })
        {
            let ended = Ended { state: State::Cancelled, reason, evidence: None, tried: Some(tried), at: now };
            return self.end(place, ended);
        }
        match verdict {
            Verdict::Acked(evidence) => {
                let attempt = self.entries.get(&place).map_or(1, |entry| entry.attempts);
                self.end_acked(place, evidence, attempt, now, Some(tried));
            }
            Verdict::Received => {
                let reason = format!("delivered; {}", self.policy.ack.awaited());
                self.await_ack(place, reason, tried, now);
            }
            Verdict::Unacknowledged { reason } => self.await_ack(place, reason, tried, now),
            Verdict::Nack { reason } => {
                let evidence = Some(Evidence::Body);
                self.end(place, Ended { state: State::Nack, reason, evidence, tried: Some(tried), at: now });
            }
            Verdict::Refused { reason } => {
                self.end(place, Ended { state: State::Dead, reason, evidence: None, tried: Some(tried), at: now });
            }
            Verdict::Gone { reason } => {
                self.paused = true;
                self.retry(place, reason.clone(), None, tried, now, dice);
                self.actions.push_back(Action::PausePartner { reason });
            }
            Verdict::Retry { reason, retry_after } => {
                let retry_after = retry_after.filter(|_| !mutant::is_active(Mutant::RetryAfterIgnored));
                self.retry(place, reason, retry_after, tried, now, dice);
            }
        }
    }

    pub(super) fn await_ack(&mut self, place: Place, reason: String, tried: Tried, now: Time) {
        let within = self.policy.ack.within;
        let resend = self.policy.ack.resend;
        let Some(entry) = self.entries.get_mut(&place) else {
            return;
        };
        let is_overtaken = self.policy.order == Order::Latest
            && self.lines.get(&entry.line_key()).is_some_and(|line| line.places.last() > Some(&place));
        entry.reason = Some(reason);
        // Sent once more for each of `resend`, then left to the partner's word and to Ops. An overtaken one is not sent
        // again: the partner has something newer.
        let is_used_up = entry.resends >= resend && !mutant::is_active(Mutant::ResendUnbounded);
        if is_used_up || is_overtaken {
            entry.phase = Phase::Outstanding;
            self.actions.push_back(Action::Outstanding { seq: place.0, round: place.1 });
        } else {
            let due = now.after(within);
            entry.phase = Phase::AwaitingAck { due };
            self.set_timer(place, due);
        }
        let Some(entry) = self.entries.get(&place) else { return };
        let line_key = entry.line_key();
        self.record_failed(place, tried);
        if self.policy.order == Order::Latest {
            self.promote(&line_key, now);
        }
    }

    /// What awaits its ACK is not sent again: only the partner's word ends it.
    pub(super) fn leave_outstanding(&mut self, place: Place) {
        let Some(entry) = self.entries.get_mut(&place) else { return };
        entry.phase = Phase::Outstanding;
        if let Some(due) = entry.timer.take() {
            self.timers.remove(&(due, place));
        }
        let open = entry.to_open(self.partner, place);
        self.record(Record::Opened(open));
        self.actions.push_back(Action::Outstanding { seq: place.0, round: place.1 });
    }

    pub(super) fn retry(
        &mut self,
        place: Place,
        reason: String,
        retry_after: Option<std::time::Duration>,
        tried: Tried,
        now: Time,
        dice: f64,
    ) {
        let Some(entry) = self.entries.get_mut(&place) else {
            return;
        };
        entry.failures += 1;
        let first_failed_at = *entry.first_failed_at.get_or_insert(now);
        let line_key = entry.line_key();
        let is_overdue = now.since(first_failed_at) >= self.policy.retry.give_up_after;
        let gives_up = match self.policy.retry.redrive {
            // An offline partner is given up as a whole; what fails at one that answers others is given up by itself.
            Redrive::OnRecovery => is_overdue && !self.health.is_offline(),
            Redrive::Manual => is_overdue || self.health.has_given_up(),
        };
        if gives_up {
            let reason = format!("given up after {} attempts: {reason}", entry.attempts);
            self.end(place, Ended { state: State::Dead, reason, evidence: None, tried: Some(tried), at: now });
            return self.bury_if_given_up(now);
        }
        let backed_off = now.after(retry::delay(&self.policy.retry, entry.failures, dice));
        let due = retry_after.map_or(backed_off, |span| backed_off.max(now.after(span)));
        let due = due.max(self.health.not_before());
        let due = if mutant::is_active(Mutant::BackOffIgnored) { now } else { due };
        entry.reason = Some(reason);
        entry.phase = Phase::Retrying { due };
        self.record_failed(place, tried);
        if self.policy.order == Order::Latest {
            self.supersede_before(&line_key, now);
            self.promote(&line_key, now);
        }
        if self.entries.contains_key(&place) {
            self.settle(place, &Phase::Retrying { due }, now);
        }
    }

    /// An attempt that did not take place: no attempt is counted, and a delivery that was cancelled meanwhile ends.
    pub(super) fn recall(&mut self, place: Place, now: Time) {
        let Some(entry) = self.entries.get_mut(&place) else { return };
        if let Some(reason) = entry.cancel.take() {
            let ended = Ended { state: State::Cancelled, reason, evidence: None, tried: None, at: now };
            return self.end(place, ended);
        }
        self.settle(place, &Phase::Waiting, now);
    }

    pub(super) fn block(&mut self, place: Place, reason: String, mend: String, now: Time) {
        let Some(entry) = self.entries.get_mut(&place) else {
            return;
        };
        if let Some(reason) = entry.cancel.take() {
            let ended = Ended { state: State::Cancelled, reason, evidence: None, tried: None, at: now };
            return self.end(place, ended);
        }
        entry.phase = Phase::Blocked;
        entry.reason = Some(reason);
        entry.mend = Some(mend);
        entry.is_recorded = true;
        let open = entry.to_open(self.partner, place);
        if !mutant::is_active(Mutant::BlockedNotRecorded) {
            self.record(Record::Opened(open));
        }
        self.actions.push_back(Action::BecameBlocked { seq: place.0, round: place.1 });
        self.note_progress();
    }

    /// There is nothing to send any more.
    pub(super) fn withdraw(&mut self, place: Place, reason: String, now: Time) {
        self.end(place, Ended { state: State::Cancelled, reason, evidence: None, tried: None, at: now });
    }

    pub(super) fn end_acked(
        &mut self,
        place: Place,
        evidence: Evidence,
        attempt: u32,
        now: Time,
        tried: Option<Tried>,
    ) {
        let Some(entry) = self.remove(place) else { return };
        let is_late = tried.is_none();
        let acked = Record::Acked {
            seq: place.0,
            round: place.1,
            attempt,
            evidence,
            partner_seq: entry.partner_seq,
            sent: entry.sent.clone(),
            has_rows: entry.is_recorded,
            tried,
            at: now,
        };
        if mutant::is_active(Mutant::LateAckEndsTwice) && is_late {
            self.record(acked.clone());
        }
        self.record(acked);
        self.after_end(&entry, now);
    }

    pub(super) fn end(&mut self, place: Place, ended: Ended) {
        let now = ended.at;
        let Some(entry) = self.remove(place) else { return };
        self.record(Record::Ended { open: entry.to_open(self.partner, place), ended });
        self.after_end(&entry, now);
    }

    pub(super) fn after_end(&mut self, entry: &Entry, now: Time) {
        if self.policy.order != Order::None {
            self.promote(&entry.line_key(), now);
        }
        self.note_progress();
    }

    pub(super) fn record_failed(&mut self, place: Place, tried: Tried) {
        if let Some(entry) = self.entries.get_mut(&place) {
            entry.is_recorded = true;
            let open = entry.to_open(self.partner, place);
            self.record(Record::Failed { open, tried });
        }
        self.note_progress();
    }

    pub(super) fn health_success(&mut self) {
        if let Some(before) = self.health.on_success() {
            self.record(Record::Health(Health::default()));
            if before.offline_since.is_some() {
                self.actions.push_back(Action::Recovered { before });
            }
        }
    }

    pub(super) fn health_failure(
        &mut self,
        tried: &Tried,
        retry_after: Option<std::time::Duration>,
        now: Time,
        dice: f64,
    ) {
        let was_offline = self.health.is_offline();
        let Some(health) = self.health.on_failure(&self.policy.retry, tried.at, retry_after, now, dice) else {
            return;
        };
        self.record(Record::Health(health));
        if self.health.is_offline() && !was_offline {
            self.actions.push_back(Action::WentOffline);
            // From here on the probe decides when, not each delivery's own timer.
            let waiting: Vec<(Time, Place)> = self
                .timers
                .iter()
                .copied()
                .filter(|(_, place)| {
                    self.entries.get(place).is_some_and(|entry| matches!(entry.phase, Phase::Retrying { .. }))
                })
                .collect();
            for (due, place) in waiting {
                self.timers.remove(&(due, place));
                if let Some(entry) = self.entries.get_mut(&place) {
                    entry.timer = None;
                }
                self.make_ready(place);
            }
        }
    }
}
