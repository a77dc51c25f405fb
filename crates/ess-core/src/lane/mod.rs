//! One partner's lane: its line of deliveries, as a state machine without clock, dice or I/O.
//!
//! The owner calls `offer`, `on_report`, `on_ack`, `on_command`, `on_loaded` and `on_timeout` when something happened, then takes
//! every `Action` that `poll` yields; a call too many is harmless. Invariants, in every state:
//! * under `order: subject` at most one delivery of a subject is past its turn (sending, retrying, awaiting its ACK, blocked);
//! * no more attempts are under way than the window allows, and one at most while the partner is offline;
//! * what the lane lets go of has an explicit record, or lies past the cursor, so that a restart finds it again.

mod act;
mod entry;
mod fallback;
mod giving_up;
mod health;
mod lines;
mod outcome;
mod scan;
mod standing;
mod supply;
mod taking_back;
mod urgent;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

pub use act::{Action, Attempt, Command, Ended, Outcome, Record, Report, Sent, Tried};
use entry::Phase;
pub use entry::{Offer, OpenDelivery, OpenState, URGENT};
pub use health::Health;
pub use standing::{Speaker, Standing, Wait};

use crate::delivery::State;
use crate::id::{PartnerNo, Seq, Subject};
use crate::mutant::{self, Mutant};
use crate::partner::{AckPolicy, Limits, Order, Partner, RetryPolicy};
use crate::receipt::Evidence;
use crate::time::Time;

/// How many deliveries a lane holds in memory at most; the rest of its backlog stays in the store.
pub const WINDOW: usize = 1_024;

/// The least that a lane holds, so that it keeps its partner busy between two pages.
pub const WINDOW_MIN: usize = 64;

/// How many ended deliveries may lie past the stored cursor: what a restart has to look through.
const CURSOR_STRIDE: u32 = 256;

/// Which delivery of the lane: the event and the round.
type Place = (Seq, u32);

/// The part of a partner's configuration that its lane obeys.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Which deliveries may run side by side.
    pub order: Order,
    /// When to try again and when to give up.
    pub retry: RetryPolicy,
    /// How long a receipt may take, and how often to send again.
    pub ack: AckPolicy,
    /// Attempts at once and per second.
    pub limits: Limits,
    /// After which time without an ACK the fallback channel is tried as well.
    pub fallback_after: Option<Duration>,
}

impl Policy {
    /// What the partner's configuration asks for.
    #[must_use]
    pub fn of(partner: &Partner) -> Self {
        Self {
            order: partner.order,
            retry: partner.retry.clone(),
            ack: partner.ack.of_partner(&partner.id),
            limits: partner.limits,
            fallback_after: partner.fallback.as_ref().map(|fallback| fallback.after),
        }
    }
}

/// Deliveries of one subject, oldest first.
#[derive(Debug, Default)]
struct Line {
    places: BTreeSet<Place>,
    /// More of this line lies in the store as explicit records, older than whatever comes now.
    stored: bool,
    is_loading: bool,
    /// Which read is under way.
    read: u64,
    /// More was left in the store while the line was being read.
    left_again: bool,
}

/// One partner's lane.
#[derive(Debug)]
pub struct Lane {
    partner: PartnerNo,
    policy: Policy,
    paused: bool,
    entries: BTreeMap<Place, entry::Entry>,
    lines: HashMap<(Subject, bool), Line>,
    /// What could be sent now, in the order of sending: class, then age.
    ready: BTreeSet<(u8, Place)>,
    timers: BTreeSet<(Time, Place)>,
    in_flight: u32,
    /// How many deliveries it may hold.
    room: usize,
    health: health::Breaker,
    supply: supply::Supply,
    next_send_at: Time,
    open_scan: scan::OpenScan,
    reads: scan::Reads,
    /// Under `redrive: manual`: what waits for the given-up partner ends as it comes, up to here.
    bury_to: Seq,
    urgent: urgent::UrgentScan,
    fallbacks: fallback::Fallbacks,
    /// Taken back while they lay in the store: they end when they come.
    taken_back: BTreeMap<Place, String>,
    actions: VecDeque<Action>,
}

impl Lane {
    /// An empty lane whose backlog begins after `cursor`, where the partner had been sent `counted` events.
    #[must_use]
    pub fn new(partner: PartnerNo, policy: Policy, cursor: Seq, counted: u64) -> Self {
        let window = policy.limits.in_flight.max(1);
        Self {
            partner,
            policy,
            paused: false,
            entries: BTreeMap::new(),
            lines: HashMap::new(),
            ready: BTreeSet::new(),
            timers: BTreeSet::new(),
            in_flight: 0,
            room: WINDOW,
            health: health::Breaker::new(window),
            supply: supply::Supply::new(cursor, counted),
            next_send_at: Time::default(),
            open_scan: scan::OpenScan::default(),
            reads: scan::Reads::default(),
            bury_to: Seq(0),
            urgent: urgent::UrgentScan::default(),
            fallbacks: fallback::Fallbacks::default(),
            taken_back: BTreeMap::new(),
            actions: VecDeque::new(),
        }
    }

    /// Takes what the store remembers of an earlier run: health, ends past the cursor, the log's head.
    pub fn resume(&mut self, health: Health, paused: bool, ended: impl IntoIterator<Item = Seq>, head: Seq) {
        self.health.resume(health);
        self.paused = paused;
        self.supply.resume(ended, head);
    }

    /// How many deliveries it may hold in memory, between `WINDOW_MIN` and `WINDOW`: lanes share what there is.
    pub fn set_room(&mut self, room: usize) {
        self.room = room.clamp(WINDOW_MIN, WINDOW);
    }

    /// A newly recorded event that is for this partner. Events come in the order of the log. False when it stays in the store
    /// for now, so that nothing changed.
    pub fn offer(&mut self, offer: &Offer, now: Time) -> bool {
        let is_taken = self.supply.takes(offer.seq, self.entries.len(), self.room);
        if is_taken {
            self.enter_offer(offer.clone(), now);
        } else if offer.class() == URGENT {
            self.urgent.is_wanted = true;
        }
        is_taken
    }

    /// Whether the next offer would be taken. One that does not keep up need not be offered anything, but must `hear_of` the
    /// log's head before it is polled.
    #[must_use]
    pub fn keeps_up(&self) -> bool {
        self.supply.keeps_up(self.entries.len(), self.room)
    }

    /// Something as new as this lies in the log, and may be for the partner.
    pub fn hear_of(&mut self, head: Seq) {
        self.supply.hear_of(head);
    }

    /// A page of the backlog, as `Action::Load` asked for: everything up to `scanned_to` was looked at.
    pub fn on_loaded(&mut self, offers: Vec<Offer>, scanned_to: Seq, now: Time) {
        let (before, _) = self.supply.end();
        for offer in offers {
            self.enter_offer(offer, now);
        }
        self.supply.loaded(scanned_to);
        self.release_up_to(before, now);
        self.note_progress();
    }

    /// Deliveries with records of their own: at the start, a line's stored part, a replay, a redrive.
    pub fn on_opened(&mut self, opened: Vec<OpenDelivery>, now: Time) {
        for open in opened {
            if open.state == OpenState::Retrying && mutant::is_active(Mutant::RecoveryForgetsOpen) {
                continue;
            }
            self.make_room();
            let place = (open.key.seq, open.key.round);
            let key = (open.subject.clone(), open.test);
            let is_behind_stored = self.policy.order == Order::Subject
                && self.lines.get(&key).is_some_and(|line| line.stored && line.places.last() < Some(&place));
            if is_behind_stored {
                self.promote(&key, now);
            } else if self.entries.len() >= self.room && !self.entries.contains_key(&place) {
                self.leave_opened(place, open, now);
            } else {
                self.enter(place, entry::Entry::from_open(open), now);
            }
        }
    }

    /// What an attempt under way carries, told before it is sent: an ACK may come before the answer does.
    pub fn on_prepared(&mut self, seq: Seq, round: u32, sent: Sent) {
        if let Some(entry) = self.entries.get_mut(&(seq, round)) {
            entry.sent = Some(sent);
        }
    }

    /// How an attempt ended. `dice` is uniform in `[0, 1)`.
    pub fn on_report(&mut self, report: Report, now: Time, dice: f64) {
        let place = (report.attempt.seq, report.attempt.round);
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Outcome::Verdict(verdict) = &report.outcome {
            self.note_health(verdict, &report.tried, now, dice);
        }
        let Some(entry) = self.entries.get_mut(&place) else {
            return; // Acknowledged while the attempt was under way.
        };
        if entry.phase == Phase::Sending {
            entry.phase = Phase::Waiting;
        }
        let Report { attempt, outcome, sent, tried } = report;
        if sent.is_some() {
            entry.sent.clone_from(&sent);
        }
        match outcome {
            Outcome::Blocked { reason, mend } => self.block(place, reason, mend, now),
            Outcome::Recalled => self.recall(place, now),
            Outcome::Withdrawn { reason } => self.withdraw(place, reason, now),
            Outcome::Verdict(verdict) => {
                entry.attempts = entry.attempts.max(attempt.number);
                self.judge(place, verdict, tried, now, dice);
            }
        }
    }

    /// The partner's own word by another way (`POST /v1/acks`, a file, a topic). True when the delivery was open here.
    pub fn on_ack(&mut self, seq: Seq, round: u32, evidence: Evidence, now: Time) -> bool {
        let place = (seq, round);
        let Some(entry) = self.entries.get(&place) else {
            return false;
        };
        let attempt = entry.attempts_begun();
        self.health_success();
        self.end_acked(place, evidence, attempt.max(1), now, None);
        true
    }

    /// The partner's refusal by another way. True when the delivery was open here.
    pub fn on_nack(&mut self, seq: Seq, round: u32, evidence: Evidence, reason: String, now: Time) -> bool {
        let place = (seq, round);
        if !self.entries.contains_key(&place) {
            return false;
        }
        self.end(place, Ended { state: State::Nack, reason, evidence: Some(evidence), tried: None, at: now });
        true
    }

    /// A delivery of this line that was not loaded ended in the store. It may have been read back before.
    pub fn on_ended_in_store(&mut self, place: (Seq, u32), subject: &Subject, test: bool, now: Time) {
        self.remove(place);
        self.reads.passed(place);
        self.promote(&(subject.clone(), test), now);
    }

    /// An operator's word.
    pub fn on_command(&mut self, command: Command, now: Time) {
        match command {
            Command::Pause => self.paused = true,
            Command::Resume => {
                self.paused = false;
                self.health.forgive();
            }
            Command::Policy(policy) => {
                self.health.set_window(policy.limits.in_flight.max(1));
                let has_other_order = policy.order != self.policy.order;
                let has_other_fallback = policy.fallback_after != self.policy.fallback_after;
                self.policy = policy;
                if has_other_fallback {
                    self.arm_fallbacks_anew();
                }
                if has_other_order {
                    self.line_up_anew(now);
                }
            }
            Command::Unblock => self.unblock(now),
            Command::Redrive => self.redrive(now),
            Command::Cancel { open, reason } => self.cancel(*open, reason, now),
        }
    }

    /// Does what is due at `now`.
    pub fn on_timeout(&mut self, now: Time) {
        while let Some(&(due, place)) = self.timers.first() {
            if due > now {
                break;
            }
            self.timers.remove(&(due, place));
            self.on_due(place);
        }
        self.give_up_if_due(now);
        self.fall_back_if_due(now);
    }

    /// When `on_timeout` and `poll` want to be called next, if nothing else happens.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Time> {
        let timer = self.timers.first().map(|(due, _)| *due);
        let gives_up = self.health.gives_up_at(&self.policy.retry);
        let timer = timer.into_iter().chain(gives_up).chain(self.next_fallback()).min();
        let gate =
            (!self.ready.is_empty() && !self.paused && self.in_flight < self.health.window()).then(|| self.gate());
        match (timer, gate) {
            (Some(timer), Some(gate)) => Some(timer.min(gate)),
            (timer, gate) => timer.or(gate),
        }
    }

    /// The next thing to do; call until `None`.
    pub fn poll(&mut self, now: Time) -> Option<Action> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        if let Some(attempt) = self.next_attempt(now) {
            return Some(Action::Send(attempt));
        }
        if self.is_starved() {
            self.evict_held();
            if let Some(action) = self.actions.pop_front() {
                return Some(action);
            }
        }
        if let Some(action) = self.next_urgent_page() {
            return Some(action);
        }
        if let Some((after, limit)) = self.supply.wants(self.loaded_of_backlog(), self.room) {
            return Some(Action::Load { after, limit });
        }
        self.next_open_page()
    }

    /// What was decided already, without beginning anything new.
    pub fn take_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Writes down the cursor and the counter as they are now; for an orderly stop.
    pub fn note_cursor(&mut self) {
        let (cursor, counted) = self.cursor();
        self.record(Record::Cursor { cursor, counted });
        self.supply.noted();
    }

    /// The partner's counter up to which everything has ended or has a record of its own.
    #[must_use]
    pub fn counted(&self) -> u64 {
        self.cursor().1
    }

    /// Attempts under way.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Since when the partner counts as offline.
    #[must_use]
    pub fn offline_since(&self) -> Option<Time> {
        self.health.offline_since()
    }

    /// Whether an operator paused the partner.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Deliveries in memory, for tests and metrics.
    #[must_use]
    pub fn loaded(&self) -> usize {
        self.entries.len()
    }
}

/// The steps behind the calls above.
impl Lane {
    fn set_timer(&mut self, place: Place, due: Time) {
        if let Some(entry) = self.entries.get_mut(&place) {
            if let Some(earlier) = entry.timer.replace(due) {
                self.timers.remove(&(earlier, place));
            }
            self.timers.insert((due, place));
        }
    }

    fn gate(&self) -> Time {
        self.health.not_before().max(self.next_send_at)
    }

    fn next_attempt(&mut self, now: Time) -> Option<Attempt> {
        if self.paused || self.in_flight >= self.health.window() || self.gate() > now {
            return None;
        }
        let (_, place) = self.ready.pop_first()?;
        // Invariant: the ready set names loaded deliveries only.
        let entry = self.entries.get_mut(&place)?;
        entry.phase = Phase::Sending;
        self.in_flight += 1;
        if self.policy.limits.per_second > 0.0 && !mutant::is_active(Mutant::RateIgnored) {
            let spacing = std::time::Duration::from_secs_f64(1.0 / self.policy.limits.per_second);
            self.next_send_at = self.next_send_at.max(now).after(spacing);
        }
        Some(Attempt {
            seq: place.0,
            round: place.1,
            number: entry.attempts_begun(),
            partner_seq: entry.partner_seq,
            message_uuid: entry.message_uuid,
            started: now,
        })
    }

    /// What is loaded past the backlog's end waits for the backlog, so it must not keep the backlog out.
    fn loaded_of_backlog(&self) -> usize {
        let (taken_to, _) = self.supply.end();
        match self.entries.last_key_value() {
            Some((last, _)) if last.0 > taken_to => self.entries.range(..=(taken_to, u32::MAX)).count(),
            _ => self.entries.len(),
        }
    }

    fn on_due(&mut self, place: Place) {
        let Some(entry) = self.entries.get_mut(&place) else {
            return;
        };
        entry.timer = None;
        match entry.phase {
            Phase::AwaitingAck { .. } => {
                entry.resends += 1;
                self.make_ready(place);
            }
            Phase::Retrying { .. } => self.make_ready(place),
            _ => {}
        }
    }

    /// Everything up to here has ended or has a record of its own; with the partner's counter at that point.
    fn cursor(&self) -> (Seq, u64) {
        let first_unrecorded = self.entries.iter().find(|(place, entry)| place.1 == 0 && !entry.is_recorded);
        let first_unrecorded = first_unrecorded.filter(|_| !mutant::is_active(Mutant::CursorPassesOpen));
        match first_unrecorded {
            Some((place, entry)) => {
                (Seq(place.0.0.saturating_sub(1)), entry.partner_seq.unwrap_or(1).saturating_sub(1))
            }
            None => self.supply.end(),
        }
    }

    fn record(&mut self, record: Record) {
        self.actions.push_back(Action::Record(Box::new(record)));
    }

    fn note_progress(&mut self) {
        if self.supply.should_note(CURSOR_STRIDE) {
            self.note_cursor();
        }
    }
}

#[cfg(test)]
mod tests;
