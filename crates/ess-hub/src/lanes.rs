//! Drives the lanes of the core: one loop, one closed set of inputs, one match over what a lane asks for.
//!
//! The loop never waits for anything but its next input or timer: attempts and reads run beside it and come back as inputs. What a
//! lane records is handed to the store in the order of the lane's own steps.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ess_core::event::Event;
use ess_core::id::{PartnerNo, Seq};
use ess_core::lane::{Action, Command, Lane, Offer, OpenDelivery, Policy, Report};
use ess_core::time::Time;
use ess_store::{LaneStart, Recorded};
use tokio::sync::{mpsc, oneshot};

use crate::announce::{tell_action, tell_record};
use crate::deliver::Delivery;
use crate::happenings::Happenings;
use crate::records;
use crate::registry::Registered;

mod errands;
mod input;

pub use input::{Input, LaneReport, LanesHandle, Surveyed, Wish, Word};

/// Changes that may wait for the store before lanes stop sending: what a crash could repeat stays bounded.
const UNRECORDED_MAX: usize = 50_000;
/// Deliveries that all lanes together hold in memory, as far as each keeps its least.
const HELD_MAX: usize = 262_144;
/// Offers before the loop looks at its other inputs again.
const FAN_OUT_AT_ONCE: usize = 256;
/// Deliveries that one survey of all lanes looks at, and the least of one lane.
const SURVEYED_MAX: usize = 65_536;
const LOOK_MIN: usize = 8;
/// How often idle connections are looked at, and a failing store is asked again.
const TICK: Duration = Duration::from_secs(1);

/// Lanes that read what comes from the store: nothing is offered to them, so that 10,000 paused partners cost a publish little.
#[derive(Default)]
struct Behind(Vec<bool>);

impl Behind {
    fn contains(&self, no: PartnerNo) -> bool {
        self.0.get(no.0 as usize).copied().unwrap_or(false)
    }

    /// Numbers are given one after the other, so the list is as long as there were partners.
    fn set(&mut self, no: PartnerNo, is_behind: bool) {
        let index = no.0 as usize;
        if self.0.len() <= index {
            self.0.resize(index + 1, false);
        }
        self.0[index] = is_behind;
    }
}

struct Seat {
    lane: Lane,
    registered: Arc<Registered>,
    /// The timer that stands in the heap for this lane.
    armed: Option<Time>,
    last_error: Option<String>,
}

/// The loop.
pub struct Lanes {
    delivery: Arc<Delivery>,
    happenings: Arc<Happenings>,
    handle: LanesHandle,
    inputs: mpsc::UnboundedReceiver<Input>,
    recorded: mpsc::UnboundedReceiver<Vec<Recorded>>,
    wishes: mpsc::UnboundedSender<Wish>,
    seats: HashMap<PartnerNo, Seat>,
    timers: BinaryHeap<Reverse<(Time, PartnerNo)>>,
    records: Vec<ess_store::Change>,
    under_way: usize,
    is_stalled: bool,
    /// Events on their way into the lanes, and how many partners of the first have it.
    fanning: VecDeque<Recorded>,
    fanned: usize,
    /// The newest event that went into the lanes.
    head: Seq,
    behind: Behind,
    draining: Vec<oneshot::Sender<()>>,
    is_draining: bool,
    dice: u64,
}

impl Lanes {
    /// A loop without partners; `seed` makes the jitter.
    #[must_use]
    pub fn new(
        delivery: Arc<Delivery>,
        happenings: Arc<Happenings>,
        recorded: mpsc::UnboundedReceiver<Vec<Recorded>>,
        wishes: mpsc::UnboundedSender<Wish>,
        seed: u64,
    ) -> (Self, LanesHandle) {
        let (sender, inputs) = mpsc::unbounded_channel();
        let handle = LanesHandle::new(sender);
        let lanes = Self {
            delivery,
            happenings,
            handle: handle.clone(),
            inputs,
            recorded,
            wishes,
            seats: HashMap::new(),
            timers: BinaryHeap::new(),
            records: Vec::new(),
            under_way: 0,
            is_stalled: false,
            fanning: VecDeque::new(),
            fanned: 0,
            head: Seq(0),
            behind: Behind::default(),
            draining: Vec::new(),
            is_draining: false,
            dice: seed | 1,
        };
        (lanes, handle)
    }

    /// Runs until it was drained.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(256);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            let next = self.timers.peek().map(|Reverse((time, _))| self.delivery.clock.instant(*time));
            tokio::select! {
                count = self.inputs.recv_many(&mut batch, 256) => {
                    if count == 0 {
                        return;
                    }
                    for input in batch.drain(..) {
                        self.take(input);
                    }
                }
                Some(recorded) = self.recorded.recv() => self.fanning.extend(recorded),
                () = std::future::ready(()), if !self.fanning.is_empty() => {
                    self.fan_out_some();
                    tokio::task::yield_now().await;
                }
                () = sleep_until(next) => self.fire(),
                _ = tick.tick() => self.tick(),
            }
            self.flush();
            if self.is_drained() {
                break;
            }
        }
        for seat in self.seats.values_mut() {
            seat.lane.note_cursor();
            while let Some(action) = seat.lane.take_action() {
                if let Action::Record(record) = action {
                    records::push(&mut self.records, seat.registered.no, *record);
                }
            }
        }
        self.flush();
        for waiter in self.draining.drain(..) {
            let _ = waiter.send(());
        }
    }

    fn now(&self) -> Time {
        self.delivery.clock.now()
    }

    fn take(&mut self, input: Input) {
        // An operator's word holds for every event that was recorded before it.
        while !input.is_of_lanes_own() && !self.fanning.is_empty() {
            self.fan_out_some();
        }
        let now = self.now();
        let no = match input {
            Input::Report(no, report) => {
                self.under_way -= 1;
                self.on_report(no, *report, now);
                no
            }
            Input::Prepared(no, seq, round, sent) => {
                self.with_lane(no, |lane| lane.on_prepared(seq, round, sent));
                no
            }
            Input::Loaded(no, offers, scanned_to) => {
                self.with_lane(no, |lane| lane.on_loaded(offers, scanned_to, now));
                no
            }
            Input::LineLoaded(no, subject, test, opened, more) => {
                self.with_lane(no, |lane| lane.on_line_loaded(&subject, test, opened, more, now));
                no
            }
            Input::OpenLoaded(no, opened, next) => {
                self.with_lane(no, |lane| lane.on_open_loaded(opened, next, now));
                no
            }
            Input::Opened(no, opened) => {
                self.with_lane(no, |lane| lane.on_opened(opened, now));
                no
            }
            Input::Word(no, word, reply) => {
                let was_open = self.on_word(no, word, now);
                self.pump(no);
                // The word is recorded before the partner is answered: the caller makes it durable.
                self.flush();
                let _ = reply.send(was_open);
                return;
            }
            Input::EndedInStore(no, subject, test) => {
                self.with_lane(no, |lane| lane.on_ended_in_store(&subject, test, now));
                no
            }
            Input::UnblockAll => return self.command_all(&Command::Unblock),
            Input::CancelAll(seq, reason) => return self.command_all(&Command::Cancel { seq, reason }),
            Input::Seat(registered, start, left, head) => {
                let no = registered.no;
                self.seat(registered, *start, &left, head);
                no
            }
            Input::Reseat(registered) => {
                let no = registered.no;
                self.reseat(registered, now);
                no
            }
            Input::Unseat(no) => {
                self.seats.remove(&no);
                return;
            }
            Input::Inspect(no, reply) => return self.inspect(no, reply),
            Input::Survey(reply) => return self.survey(reply),
            Input::Drain(reply) => {
                self.is_draining = true;
                self.draining.push(reply);
                return;
            }
        };
        self.pump(no);
    }

    fn with_lane(&mut self, no: PartnerNo, step: impl FnOnce(&mut Lane)) {
        if let Some(seat) = self.seats.get_mut(&no) {
            step(&mut seat.lane);
        }
    }

    fn on_report(&mut self, no: PartnerNo, report: Report, now: Time) {
        let dice = self.roll();
        let Some(seat) = self.seats.get_mut(&no) else { return };
        if !report.tried.reason.is_empty() {
            seat.last_error = Some(report.tried.reason.clone());
        }
        seat.lane.on_report(report, now, dice);
    }

    fn on_word(&mut self, no: PartnerNo, word: Word, now: Time) -> bool {
        let Some(seat) = self.seats.get_mut(&no) else { return false };
        match word {
            Word::Ack { seq, round, evidence } => seat.lane.on_ack(seq, round, evidence, now),
            Word::Nack { seq, round, evidence, reason } => seat.lane.on_nack(seq, round, evidence, reason, now),
        }
    }

    fn command_all(&mut self, command: &Command) {
        let now = self.now();
        let numbers: Vec<PartnerNo> = self.seats.keys().copied().collect();
        for no in numbers {
            self.with_lane(no, |lane| lane.on_command(command.clone(), now));
            self.pump(no);
        }
    }

    /// Offers the next deliveries to their lanes, so many at a time that reports and answers come in between.
    fn fan_out_some(&mut self) {
        let mut room = FAN_OUT_AT_ONCE;
        while room > 0
            && let Some(Recorded { event, audience }) = self.fanning.front().cloned()
        {
            let partners = &audience.partners()[self.fanned..];
            let part = &partners[..partners.len().min(room)];
            self.offer(&event, part);
            room -= part.len();
            self.fanned += part.len();
            if part.len() == partners.len() {
                self.fanning.pop_front();
                self.fanned = 0;
            }
        }
    }

    fn offer(&mut self, event: &Arc<Event>, partners: &[PartnerNo]) {
        let now = self.now();
        if self.fanned == 0 {
            self.delivery.cells.keep(event);
            self.head = event.seq;
        }
        let content = &event.content;
        let offer = Offer {
            seq: event.seq,
            subject: content.subject.clone(),
            priority: content.priority,
            kind: content.kind,
            test: content.test,
        };
        for no in partners {
            if self.behind.contains(*no) {
                continue;
            }
            let Some(seat) = self.seats.get_mut(no) else { continue };
            if seat.lane.offer(&offer, now) {
                self.pump(*no);
            }
        }
    }

    fn seat(&mut self, registered: Arc<Registered>, start: LaneStart, left: &[OpenDelivery], head: Seq) {
        let now = self.now();
        let mut lane = Lane::new(registered.no, Policy::of(&registered.partner), start.cursor, start.counted);
        lane.resume(start.health, registered.paused_since.is_some(), start.ended, head);
        let last = start.open.last().map_or((Seq(0), 0), |open| (open.key.seq, open.key.round));
        lane.on_opened(start.open, now);
        for open in left {
            lane.leave_in_store(&open.subject, open.test, last);
        }
        // Bridges may have changed while the hub was down.
        lane.on_command(Command::Unblock, now);
        let no = registered.no;
        self.seats.insert(no, Seat { lane, registered, armed: None, last_error: None });
        let room = HELD_MAX / self.seats.len();
        for seat in self.seats.values_mut() {
            seat.lane.set_room(room);
        }
    }

    fn reseat(&mut self, registered: Arc<Registered>, now: Time) {
        let Some(seat) = self.seats.get_mut(&registered.no) else { return };
        let is_paused = registered.paused_since.is_some();
        let has_other_shape = seat.registered.partner != registered.partner;
        if has_other_shape {
            seat.lane.on_command(Command::Policy(Policy::of(&registered.partner)), now);
            seat.lane.on_command(Command::Unblock, now);
        }
        if is_paused != seat.lane.is_paused() {
            seat.lane.on_command(if is_paused { Command::Pause } else { Command::Resume }, now);
        }
        seat.registered = registered;
    }

    fn inspect(&mut self, no: PartnerNo, reply: oneshot::Sender<LaneReport>) {
        let report = self.seats.get(&no).map(|seat| LaneReport {
            in_flight: seat.lane.in_flight(),
            offline_since: seat.lane.offline_since(),
            last_error: seat.last_error.clone(),
        });
        drop(reply.send(report.unwrap_or_default()));
    }

    /// Looks at a bounded number of deliveries in all, so that the loop goes on within a millisecond or two.
    fn survey(&self, reply: oneshot::Sender<Vec<Surveyed>>) {
        let look = (SURVEYED_MAX / self.seats.len().max(1)).clamp(LOOK_MIN, ess_core::lane::WINDOW);
        let surveyed = self.seats.values().map(|seat| Surveyed {
            registered: seat.registered.clone(),
            standing: seat.lane.standing(look),
            last_error: seat.last_error.clone(),
        });
        drop(reply.send(surveyed.collect()));
    }

    fn fire(&mut self) {
        let now = self.now();
        while let Some(Reverse((time, no))) = self.timers.peek().copied() {
            if time > now {
                break;
            }
            self.timers.pop();
            if let Some(seat) = self.seats.get_mut(&no)
                && seat.armed == Some(time)
            {
                seat.armed = None;
                seat.lane.on_timeout(now);
                self.pump(no);
            }
        }
    }

    fn tick(&mut self) {
        for seat in self.seats.values() {
            if let Ok(channel) = &seat.registered.channel {
                channel.sweep();
            }
        }
        if self.is_stalled && self.delivery.store.unrecorded() < UNRECORDED_MAX / 2 {
            self.is_stalled = false;
            let numbers: Vec<PartnerNo> = self.seats.keys().copied().collect();
            for no in numbers {
                self.pump(no);
            }
        }
    }

    /// Takes what the lane asks for, and arms its timer.
    fn pump(&mut self, no: PartnerNo) {
        let now = self.now();
        let is_held = self.is_draining || self.is_stalled;
        let Some(seat) = self.seats.get_mut(&no) else { return };
        if self.behind.contains(no) {
            seat.lane.hear_of(self.head);
        }
        while let Some(action) = if is_held { seat.lane.take_action() } else { seat.lane.poll(now) } {
            match action {
                Action::Send(attempt) => {
                    self.under_way += 1;
                    errands::spawn_attempt(&self.delivery, &self.handle, &seat.registered, attempt);
                }
                Action::Record(record) => {
                    tell_record(&self.delivery, &self.happenings, &seat.registered, &record, now);
                    records::push(&mut self.records, no, *record);
                }
                Action::Load { after, limit } => errands::spawn_load(&self.delivery, &self.handle, no, after, limit),
                Action::LoadLine { subject, test } => {
                    self.delivery.store.record(std::mem::take(&mut self.records));
                    errands::spawn_load_line(&self.delivery, &self.handle, no, subject, test);
                }
                Action::LoadOpen { after, limit } => {
                    self.delivery.store.record(std::mem::take(&mut self.records));
                    errands::spawn_load_open(&self.delivery, &self.handle, no, after, limit);
                }
                other => {
                    tell_action(&self.delivery, &self.happenings, &seat.registered, &other, now);
                    if let Action::PausePartner { reason } = other {
                        // The lane is paused already; this makes it known and durable.
                        drop(self.wishes.send(Wish::Pause(no, reason)));
                    }
                }
            }
        }
        self.behind.set(no, !seat.lane.keeps_up());
        // A held lane has nothing to do in time: what holds it pumps it again.
        if !is_held
            && let Some(next) = seat.lane.next_timeout()
            && seat.armed.is_none_or(|armed| next < armed)
        {
            seat.armed = Some(next);
            self.timers.push(Reverse((next, no)));
        }
    }

    fn flush(&mut self) {
        if !self.records.is_empty() {
            self.delivery.store.record(std::mem::take(&mut self.records));
        }
        if !self.is_stalled && self.delivery.store.unrecorded() > UNRECORDED_MAX {
            tracing::warn!("the store does not keep up or fails; nothing is sent until it has caught up");
            self.is_stalled = true;
        }
    }

    fn is_drained(&self) -> bool {
        self.is_draining && self.under_way == 0
    }

    /// Uniform in [0, 1); xorshift is enough to spread retries.
    fn roll(&mut self) -> f64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        (self.dice >> 11) as f64 / (1u64 << 53) as f64
    }
}

async fn sleep_until(next: Option<tokio::time::Instant>) {
    match next {
        Some(next) => tokio::time::sleep_until(next).await,
        None => std::future::pending().await,
    }
}
