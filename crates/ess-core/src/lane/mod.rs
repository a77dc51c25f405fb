//! One partner's lane: its line of deliveries, as a state machine without clock, dice or I/O.
//!
//! The owner calls `offer`, `on_report`, `on_ack`, `on_command`, `on_loaded` and `on_timeout` when something happened, then takes
//! every `Action` that `poll` yields; a call too many is harmless. Invariants, in every state:
//! * under `order: subject` at most one delivery of a subject is past its turn (sending, retrying, awaiting its ACK, blocked);
//! * no more attempts are under way than the window allows, and one at most while the partner is offline;
//! * what the lane lets go of has an explicit record, or lies past the cursor, so that a restart finds it again.

mod act;
mod entry;
mod health;
mod supply;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

pub use act::{Action, Attempt, Command, Ended, Outcome, Record, Report, Sent, Tried};
use entry::Phase;
pub use entry::{Offer, OpenDelivery, OpenState};
pub use health::Health;

use crate::delivery::State;
use crate::id::{PartnerNo, Seq, Subject};
use crate::partner::{AckPolicy, Limits, Order, Partner, RetryPolicy};
use crate::receipt::{Evidence, Verdict};
use crate::retry;
use crate::time::Time;

/// How many deliveries a lane holds in memory; the rest of its backlog stays in the store.
pub const WINDOW: usize = 1_024;

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
}

impl Policy {
    /// What the partner's configuration asks for.
    #[must_use]
    pub fn of(partner: &Partner) -> Self {
        Self { order: partner.order, retry: partner.retry.clone(), ack: partner.ack.clone(), limits: partner.limits }
    }
}

/// Deliveries of one subject, oldest first.
#[derive(Debug, Default)]
struct Line {
    places: BTreeSet<Place>,
    /// More of this line lies in the store as explicit records, older than whatever comes now.
    stored: bool,
    is_loading: bool,
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
    health: health::Breaker,
    supply: supply::Supply,
    next_send_at: Time,
    open_scan: OpenScan,
    actions: VecDeque<Action>,
}

/// Reading back open deliveries that did not fit into the window.
#[derive(Debug, Default)]
struct OpenScan {
    /// The last place looked at, while there is more to look at.
    after: Option<Place>,
    is_loading: bool,
    /// What was blocked goes out again.
    unblocks: bool,
    /// Held deliveries were let go of, to be read back when bridges change.
    has_evicted: bool,
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
            health: health::Breaker::new(window),
            supply: supply::Supply::new(cursor, counted),
            next_send_at: Time::default(),
            open_scan: OpenScan::default(),
            actions: VecDeque::new(),
        }
    }

    /// Takes what the store remembers of an earlier run: health, ends past the cursor, the log's head.
    pub fn resume(&mut self, health: Health, paused: bool, ended: impl IntoIterator<Item = Seq>, head: Seq) {
        self.health.resume(health);
        self.paused = paused;
        self.supply.resume(ended, head);
    }

    /// A newly recorded event that is for this partner. Events come in the order of the log.
    pub fn offer(&mut self, offer: Offer, now: Time) {
        if self.supply.takes(offer.seq, self.entries.len()) {
            self.enter_offer(offer, now);
        }
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
            let place = (open.key.seq, open.key.round);
            let key = (open.subject.clone(), open.test);
            let is_behind_stored = self.policy.order == Order::Subject
                && self.lines.get(&key).is_some_and(|line| line.stored && line.places.last() < Some(&place));
            if is_behind_stored {
                self.promote(&key, now);
            } else {
                self.enter(place, entry::Entry::from_open(open), now);
            }
        }
    }

    /// The answer to `Action::LoadLine`: the oldest stored deliveries of a subject, and whether there are more.
    pub fn on_line_loaded(&mut self, subject: &Subject, test: bool, opened: Vec<OpenDelivery>, more: bool, now: Time) {
        let key = (subject.clone(), test);
        if let Some(line) = self.lines.get_mut(&key) {
            line.stored = more || line.left_again;
            line.is_loading = false;
            line.left_again = false;
        }
        for mut open in opened {
            if open.state == OpenState::Blocked {
                // Read back because something changed: worth another look.
                open.state = OpenState::Pending;
            }
            self.enter((open.key.seq, open.key.round), entry::Entry::from_open(open), now);
        }
        self.promote(&key, now);
    }

    /// At the start: the store holds an open delivery of this line that was not loaded; `LoadOpen` will ask for it.
    pub fn leave_in_store(&mut self, subject: &Subject, test: bool, after: (Seq, u32)) {
        if self.policy.order == Order::Subject {
            self.lines.entry((subject.clone(), test)).or_default().stored = true;
        }
        self.open_scan.after.get_or_insert(after);
    }

    /// The answer to `Action::LoadOpen`; `next` is the last place of the page while there is more.
    pub fn on_open_loaded(&mut self, opened: Vec<OpenDelivery>, next: Option<(Seq, u32)>, now: Time) {
        self.open_scan.is_loading = false;
        self.open_scan.after = next;
        let unblocks = self.open_scan.unblocks;
        for mut open in opened {
            if unblocks && open.state == OpenState::Blocked {
                open.state = OpenState::Pending;
            }
            self.on_opened(vec![open], now);
        }
        if next.is_none() {
            self.open_scan.unblocks = false;
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
        let Some(entry) = self.entries.get_mut(&place) else {
            return; // Acknowledged or cancelled while the attempt was under way.
        };
        if entry.phase == Phase::Sending {
            entry.phase = Phase::Waiting;
        }
        let Report { attempt, outcome, sent, tried } = report;
        if sent.is_some() {
            entry.sent.clone_from(&sent);
        }
        match outcome {
            Outcome::Blocked { reason, mend } => self.block(place, reason, mend),
            Outcome::Verdict(verdict) => {
                entry.attempts = attempt.number;
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
        let attempt = entry.attempts + u32::from(entry.phase == Phase::Sending);
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

    /// A delivery of this line that was not loaded ended in the store.
    pub fn on_ended_in_store(&mut self, subject: &Subject, test: bool, now: Time) {
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
                self.policy = policy;
            }
            Command::Unblock => self.unblock(now),
            Command::Cancel { seq, reason } => self.cancel(seq, &reason, now),
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
    }

    /// When `on_timeout` and `poll` want to be called next, if nothing else happens.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Time> {
        let timer = self.timers.first().map(|(due, _)| *due);
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
        if let Some((after, limit)) = self.supply.wants(self.entries.len()) {
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
        self.actions.push_back(Action::Record(Record::Cursor { cursor, counted }));
        self.supply.noted();
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
    fn enter_offer(&mut self, offer: Offer, now: Time) {
        let Some(partner_seq) = self.supply.count(offer.seq) else {
            return; // Ended in an earlier run.
        };
        let place = (offer.seq, 0);
        if self.entries.contains_key(&place) {
            return;
        }
        let key = (offer.subject.clone(), offer.test);
        // What waits in the store is newer than what is loaded of its line; after a restart an older one may still come.
        let must_wait_in_store = self.policy.order == Order::Subject
            && self
                .lines
                .get(&key)
                .is_some_and(|line| (line.stored || self.is_crowding(line)) && line.places.last() < Some(&place));
        let entry = entry::Entry::from_offer(offer, partner_seq);
        if must_wait_in_store {
            // Behind a held line: an explicit record lets the cursor pass, and the line is read back when it moves.
            self.actions.push_back(Action::Record(Record::Opened(entry.to_open(self.partner, place))));
            let line = self.lines.entry(key).or_default();
            line.stored = true;
            line.left_again = line.is_loading;
            return;
        }
        self.enter(place, entry, now);
    }

    /// Whether a line that can't move takes so much of the window that others would starve.
    fn is_crowding(&self, line: &Line) -> bool {
        let head_is_held =
            line.places.first().and_then(|place| self.entries.get(place)).is_some_and(|entry| entry.phase.is_held());
        head_is_held || line.places.len() > WINDOW / 4
    }

    fn enter(&mut self, place: Place, entry: entry::Entry, now: Time) {
        if self.entries.contains_key(&place) {
            return;
        }
        if self.entries.len() >= WINDOW - WINDOW / 4 {
            self.evict_held();
        }
        let key = entry.line_key();
        let phase = entry.phase.clone();
        self.entries.insert(place, entry);
        if self.policy.order == Order::None {
            return self.settle(place, &phase, now);
        }
        self.lines.entry(key.clone()).or_default().places.insert(place);
        if self.policy.order == Order::Latest {
            self.supersede_before(&key, now);
        }
        if phase == Phase::Waiting {
            self.promote(&key, now);
        } else {
            self.settle(place, &phase, now);
        }
    }

    /// Puts a delivery where its phase belongs: the ready set, the timers, or nowhere.
    fn settle(&mut self, place: Place, phase: &Phase, now: Time) {
        match phase {
            Phase::Waiting => self.make_ready(place),
            Phase::Retrying { due } | Phase::AwaitingAck { due } => {
                if self.health.is_offline() && matches!(phase, Phase::Retrying { .. }) {
                    self.make_ready(place);
                } else {
                    self.set_timer(place, (*due).max(now));
                }
            }
            Phase::Ready | Phase::Sending | Phase::Blocked | Phase::Outstanding => {}
        }
    }

    fn set_timer(&mut self, place: Place, due: Time) {
        if let Some(entry) = self.entries.get_mut(&place) {
            if let Some(earlier) = entry.timer.replace(due) {
                self.timers.remove(&(earlier, place));
            }
            self.timers.insert((due, place));
        }
    }

    fn make_ready(&mut self, place: Place) {
        if let Some(entry) = self.entries.get_mut(&place) {
            if !matches!(entry.phase, Phase::Retrying { .. }) {
                entry.phase = Phase::Ready;
            }
            self.ready.insert((entry.class(), place));
        }
    }

    /// Lets the head of a line go, if it waits for its turn only.
    fn promote(&mut self, key: &(Subject, bool), now: Time) {
        let Some(line) = self.lines.get_mut(key) else { return };
        let head = match self.policy.order {
            Order::Subject if line.stored && line.places.is_empty() => {
                if std::mem::replace(&mut line.is_loading, true) {
                    return;
                }
                self.actions.push_back(Action::LoadLine { subject: key.0.clone(), test: key.1 });
                return;
            }
            Order::Subject => line.places.first().copied(),
            // What was delivered and awaits its ACK does not hold up the newest.
            Order::Latest => line.places.last().copied().filter(|_| {
                !line
                    .places
                    .iter()
                    .any(|place| self.entries.get(place).is_some_and(|entry| entry.phase == Phase::Sending))
            }),
            Order::None => None,
        };
        let Some(head) = head else {
            if line.places.is_empty() && !line.stored {
                self.lines.remove(key);
            }
            return;
        };
        let others_under_way = self.policy.order == Order::Subject
            && line.places.iter().skip(1).any(|place| {
                // A replay of an older event may enter in front of one that is under way already.
                self.entries.get(place).is_some_and(|entry| entry.phase.is_under_way())
            });
        if others_under_way {
            return;
        }
        if self.policy.order == Order::Subject {
            let overtaken: Vec<Place> = line.places.iter().skip(1).copied().collect();
            for place in overtaken {
                self.back_to_waiting(place);
            }
        }
        let may_go = head.0 <= self.supply.end().0;
        if may_go && self.entries.get(&head).is_some_and(|entry| entry.phase == Phase::Waiting) {
            self.settle(head, &Phase::Waiting, now);
        }
    }

    /// Deliveries with records of their own waited for older ones of their line that the backlog might still hold.
    fn release_up_to(&mut self, before: Seq, now: Time) {
        let (taken_to, _) = self.supply.end();
        let passed: Vec<(Subject, bool)> = self
            .entries
            .range((before, 0)..=(taken_to, u32::MAX))
            .filter(|(_, entry)| entry.is_recorded && entry.phase == Phase::Waiting)
            .map(|(_, entry)| entry.line_key())
            .collect();
        for key in passed {
            self.promote(&key, now);
        }
    }

    fn back_to_waiting(&mut self, place: Place) {
        if let Some(entry) = self.entries.get_mut(&place)
            && entry.phase == Phase::Ready
        {
            entry.phase = Phase::Waiting;
            self.ready.remove(&(entry.class(), place));
        }
    }

    /// Under `order: latest`: everything undelivered before the newest of the line ends.
    fn supersede_before(&mut self, key: &(Subject, bool), now: Time) {
        let Some(line) = self.lines.get(key) else { return };
        let Some(newest) = line.places.last().copied() else {
            return;
        };
        let overtaken: Vec<Place> = line
            .places
            .iter()
            .copied()
            .filter(|place| *place < newest)
            .filter(|place| {
                self.entries.get(place).is_some_and(|entry| {
                    !matches!(entry.phase, Phase::Sending | Phase::AwaitingAck { .. } | Phase::Outstanding)
                })
            })
            .collect();
        for place in overtaken {
            let reason = format!("event {} of the subject took its place", newest.0);
            let ended = Ended { state: State::Superseded, reason, evidence: None, tried: None, at: now };
            self.end(place, ended);
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
        if self.policy.limits.per_second > 0.0 {
            let spacing = std::time::Duration::from_secs_f64(1.0 / self.policy.limits.per_second);
            self.next_send_at = self.next_send_at.max(now).after(spacing);
        }
        Some(Attempt {
            seq: place.0,
            round: place.1,
            number: entry.attempts + 1,
            partner_seq: entry.partner_seq,
            message_uuid: entry.message_uuid,
            started: now,
        })
    }

    fn judge(&mut self, place: Place, verdict: Verdict, tried: Tried, now: Time, dice: f64) {
        match verdict {
            Verdict::Acked(evidence) => {
                self.health_success();
                let attempt = self.entries.get(&place).map_or(1, |entry| entry.attempts);
                self.end_acked(place, evidence, attempt, now, Some(tried));
            }
            Verdict::Received => {
                self.health_success();
                self.await_ack(place, "delivered; the ACK comes by callback".to_owned(), tried, now);
            }
            Verdict::Unacknowledged { reason } => {
                // A partner that answers is not offline, whatever it says.
                self.health_success();
                self.await_ack(place, reason, tried, now);
            }
            Verdict::Nack { reason } => {
                self.health_success();
                let evidence = Some(Evidence::Body);
                self.end(place, Ended { state: State::Nack, reason, evidence, tried: Some(tried), at: now });
            }
            Verdict::Refused { reason } => {
                self.health_success();
                self.end(place, Ended { state: State::Dead, reason, evidence: None, tried: Some(tried), at: now });
            }
            Verdict::Gone { reason } => {
                self.paused = true;
                self.retry(place, reason.clone(), None, tried, now, dice);
                self.actions.push_back(Action::PausePartner { reason });
            }
            Verdict::Retry { reason, retry_after } => {
                self.health_failure(&tried, retry_after, now, dice);
                self.retry(place, reason, retry_after, tried, now, dice);
            }
        }
    }

    fn await_ack(&mut self, place: Place, reason: String, tried: Tried, now: Time) {
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
        if entry.resends >= resend || is_overtaken {
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

    fn retry(
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
        if now.since(first_failed_at) >= self.policy.retry.give_up_after {
            let reason = format!("given up after {} attempts: {reason}", entry.attempts);
            return self.end(place, Ended { state: State::Dead, reason, evidence: None, tried: Some(tried), at: now });
        }
        let backed_off = now.after(retry::delay(&self.policy.retry, entry.failures, dice));
        let due = retry_after.map_or(backed_off, |span| backed_off.max(now.after(span)));
        let due = due.max(self.health.not_before());
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

    fn block(&mut self, place: Place, reason: String, mend: String) {
        let Some(entry) = self.entries.get_mut(&place) else {
            return;
        };
        entry.phase = Phase::Blocked;
        entry.reason = Some(reason);
        entry.mend = Some(mend);
        entry.is_recorded = true;
        let open = entry.to_open(self.partner, place);
        self.actions.push_back(Action::Record(Record::Opened(open)));
        self.actions.push_back(Action::BecameBlocked { seq: place.0, round: place.1 });
        self.note_progress();
    }

    fn unblock(&mut self, now: Time) {
        let blocked: Vec<Place> =
            self.entries.iter().filter(|(_, entry)| entry.phase == Phase::Blocked).map(|(place, _)| *place).collect();
        for place in blocked {
            let Some(entry) = self.entries.get_mut(&place) else {
                continue;
            };
            entry.phase = Phase::Waiting;
            entry.reason = None;
            entry.mend = None;
            let key = entry.line_key();
            if self.policy.order == Order::None {
                self.settle(place, &Phase::Waiting, now);
            } else {
                self.promote(&key, now);
            }
        }
        if self.open_scan.has_evicted || self.open_scan.after.is_some() {
            self.open_scan =
                OpenScan { after: Some((Seq(0), 0)), is_loading: false, unblocks: true, has_evicted: false };
        }
    }

    fn next_open_page(&mut self) -> Option<Action> {
        let after = self.open_scan.after?;
        if self.open_scan.is_loading || self.entries.len() > WINDOW / 2 {
            return None;
        }
        self.open_scan.is_loading = true;
        Some(Action::LoadOpen { after, limit: WINDOW - self.entries.len() })
    }

    /// Lets go of deliveries that only a word from outside can move, so that they don't take the window from others. They have
    /// records; their lines stay held.
    fn evict_held(&mut self) {
        let held: Vec<Place> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.is_recorded && entry.phase.is_held())
            .map(|(place, _)| *place)
            .collect();
        self.open_scan.has_evicted |= !held.is_empty();
        for place in held {
            let Some(entry) = self.remove(place) else { continue };
            if self.policy.order != Order::Subject {
                continue;
            }
            let line = self.lines.entry(entry.line_key()).or_default();
            line.stored = true;
            for follower in std::mem::take(&mut line.places) {
                let Some(entry) = self.remove(follower) else { continue };
                if !entry.is_recorded {
                    let open = entry.to_open(self.partner, follower);
                    self.actions.push_back(Action::Record(Record::Opened(open)));
                }
            }
        }
    }

    fn cancel(&mut self, seq: Seq, reason: &str, now: Time) {
        let places: Vec<Place> = self.entries.range((seq, 0)..=(seq, u32::MAX)).map(|(place, _)| *place).collect();
        for place in places {
            let reason = reason.to_owned();
            self.end(place, Ended { state: State::Cancelled, reason, evidence: None, tried: None, at: now });
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

    fn end_acked(&mut self, place: Place, evidence: Evidence, attempt: u32, now: Time, tried: Option<Tried>) {
        let Some(entry) = self.remove(place) else { return };
        self.actions.push_back(Action::Record(Record::Acked {
            seq: place.0,
            round: place.1,
            attempt,
            evidence,
            partner_seq: entry.partner_seq,
            sent: entry.sent.clone(),
            has_rows: entry.is_recorded,
            tried,
            at: now,
        }));
        self.after_end(&entry, now);
    }

    fn end(&mut self, place: Place, ended: Ended) {
        let now = ended.at;
        let Some(entry) = self.remove(place) else { return };
        self.actions.push_back(Action::Record(Record::Ended { open: entry.to_open(self.partner, place), ended }));
        self.after_end(&entry, now);
    }

    fn remove(&mut self, place: Place) -> Option<entry::Entry> {
        let entry = self.entries.remove(&place)?;
        self.ready.remove(&(entry.class(), place));
        if let Some(due) = entry.timer {
            self.timers.remove(&(due, place));
        }
        if let Some(line) = self.lines.get_mut(&entry.line_key()) {
            line.places.remove(&place);
        }
        Some(entry)
    }

    fn after_end(&mut self, entry: &entry::Entry, now: Time) {
        if self.policy.order != Order::None {
            self.promote(&entry.line_key(), now);
        }
        self.note_progress();
    }

    fn record_failed(&mut self, place: Place, tried: Tried) {
        if let Some(entry) = self.entries.get_mut(&place) {
            entry.is_recorded = true;
            let open = entry.to_open(self.partner, place);
            self.actions.push_back(Action::Record(Record::Failed { open, tried }));
        }
        self.note_progress();
    }

    fn health_success(&mut self) {
        if let Some((health, was_offline)) = self.health.on_success() {
            self.actions.push_back(Action::Record(Record::Health(health)));
            if was_offline {
                self.actions.push_back(Action::Recovered);
            }
        }
    }

    fn health_failure(&mut self, tried: &Tried, retry_after: Option<std::time::Duration>, now: Time, dice: f64) {
        let was_offline = self.health.is_offline();
        let Some(health) = self.health.on_failure(&self.policy.retry, tried.at, retry_after, now, dice) else {
            return;
        };
        self.actions.push_back(Action::Record(Record::Health(health)));
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

    /// Everything up to here has ended or has a record of its own; with the partner's counter at that point.
    fn cursor(&self) -> (Seq, u64) {
        let first_unrecorded = self.entries.iter().find(|(place, entry)| place.1 == 0 && !entry.is_recorded);
        match first_unrecorded {
            Some((place, entry)) => {
                (Seq(place.0.0.saturating_sub(1)), entry.partner_seq.unwrap_or(1).saturating_sub(1))
            }
            None => self.supply.end(),
        }
    }

    fn note_progress(&mut self) {
        if self.supply.should_note(CURSOR_STRIDE) {
            self.note_cursor();
        }
    }
}

#[cfg(test)]
mod tests;
