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
use ess_core::lane::{Action, Command, Lane, OpenState, Record, URGENT};
use ess_core::partner::AckBy;
use ess_core::time::Time;
use ess_store::Recorded;
use tokio::sync::{mpsc, oneshot};

use crate::announce::{tell_action, tell_record};
use crate::deliver::Delivery;
use crate::happenings::Happenings;
use crate::metrics::Limit;
use crate::past::Past;
use crate::records;
use crate::registry::Registered;

mod errands;
mod inboxes;
mod input;
mod retractions;
mod seats;
mod survey;
mod timers;

pub use input::{Input, LaneGlance, LaneReport, LanesHandle, Retraction, Surveyed, ToLane, Wish, Word};
use retractions::take_back_at;
pub use retractions::{Retractions, offer_of};
use timers::sleep_until;

/// Changes that may wait for the store before lanes stop sending: what a crash could repeat stays bounded.
const UNRECORDED_MAX: usize = 50_000;
/// The same while the store can't write at all: nothing is recorded meanwhile, and whoever starts the hub anew repeats it.
const UNRECORDED_FAILING_MAX: usize = 1_024;
/// Deliveries that all lanes together hold in memory, as far as each keeps its least.
const HELD_MAX: usize = 262_144;
/// Offers before the loop looks at its other inputs again.
const FAN_OUT_AT_ONCE: usize = 256;
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
    /// When it was sent something last, a heartbeat too.
    sent_at: Time,
    /// The highest counter that it was sent in this run.
    sent_to: u64,
    /// How it stood when it was last asked; gone as soon as something moves.
    surveyed: Option<Arc<Surveyed>>,
    past: Past,
    /// Tells this stay of the partner from earlier ones: what those set going is not this one's.
    stay: u64,
    /// Attempts under way.
    under_way: u32,
    /// Somebody waits until nothing is under way, to take the partner elsewhere.
    leaving: Option<oneshot::Sender<bool>>,
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
    retractions: Arc<Retractions>,
    draining: Vec<oneshot::Sender<()>>,
    is_draining: bool,
    /// Partners that were seated so far.
    stays: u64,
    /// This node's lease held when it was last looked at.
    had_lease: bool,
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
        retractions: Arc<Retractions>,
        seed: u64,
    ) -> (Self, LanesHandle) {
        let (sender, inputs) = mpsc::unbounded_channel();
        let handle = LanesHandle::new(sender);
        // A hub that is started again and again while its store can't write would send the same again and again.
        let is_stalled = !delivery.store.records();
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
            is_stalled,
            fanning: VecDeque::new(),
            fanned: 0,
            head: Seq(0),
            behind: Behind::default(),
            retractions,
            draining: Vec::new(),
            is_draining: false,
            stays: 0,
            had_lease: false,
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
        match input {
            Input::Lane(no, input) => {
                self.step(no, input, now);
                self.pump(no);
            }
            Input::Errand(no, stay, input) => {
                if self.is_staying(no, stay, &input) {
                    self.step(no, input, now);
                    self.pump(no);
                }
            }
            Input::Word(no, word, reply) => {
                let was_open = self.on_word(no, word, now);
                self.pump(no);
                // The word is recorded before the partner is answered: the caller makes it durable.
                self.flush();
                let _ = reply.send(was_open);
            }
            Input::UnblockAll => self.command_all(&Command::Unblock),
            Input::Beaten => self.under_way -= 1,
            Input::TakeBack(partners, retraction) => self.take_back(&partners, &retraction, now),
            Input::Seat(registered, start, left, head) => {
                let no = registered.no;
                self.seat(registered, *start, &left, head);
                self.pump(no);
            }
            Input::Reseat(registered) => {
                let no = registered.no;
                self.reseat(registered, now);
                self.pump(no);
            }
            Input::Unseat(no) => self.unseat(no),
            Input::Release(no, reply) => self.release(no, reply),
            Input::Inspect(no, reply) => self.inspect(no, reply),
            Input::Survey(reply) => self.survey(reply),
            Input::Day(no, reply) => self.day(no, reply),
            Input::InspectAll(reply) => self.inspect_all(reply),
            Input::Settle(reply) => {
                self.flush();
                let _ = reply.send(());
            }
            Input::Drain(reply) => {
                self.is_draining = true;
                // What waits for its partner to ask would wait for ever.
                self.seats.values().for_each(|seat| inboxes::close(&seat.registered));
                self.draining.push(reply);
            }
        }
    }

    /// Tells one lane.
    fn step(&mut self, no: PartnerNo, input: ToLane, now: Time) {
        let dice = self.roll();
        let Some(seat) = self.seats.get_mut(&no) else { return };
        let lane = &mut seat.lane;
        match input {
            ToLane::Report(report) => {
                if !report.tried.reason.is_empty() {
                    seat.last_error = Some(report.tried.reason.clone());
                }
                lane.on_report(*report, now, dice);
            }
            ToLane::FallbackReport(report) => lane.on_fallback_report(*report, now, dice),
            ToLane::Prepared(seq, round, sent) => lane.on_prepared(seq, round, sent),
            ToLane::Loaded(offers, scanned_to) => lane.on_loaded(offers, scanned_to, now),
            ToLane::UrgentLoaded(page) => lane.on_urgent_loaded(page.entries, page.scanned_to, page.has_more, now),
            ToLane::LineLoaded(subject, test, opened, more) => {
                lane.on_line_loaded(&subject, test, opened, more, now);
            }
            ToLane::OpenLoaded(opened, next) => lane.on_open_loaded(opened, next, now),
            ToLane::Opened(opened) => lane.on_opened(opened, now),
            ToLane::EndedInStore(place, subject, test) => lane.on_ended_in_store(place, &subject, test, now),
            ToLane::Cancel(open, reason) => {
                inboxes::recall_all(&seat.registered);
                lane.on_command(Command::Cancel { open, reason }, now);
            }
            ToLane::Redrive => lane.on_command(Command::Redrive, now),
        }
    }

    fn with_lane(&mut self, no: PartnerNo, step: impl FnOnce(&mut Lane)) {
        if let Some(seat) = self.seats.get_mut(&no) {
            step(&mut seat.lane);
        }
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
            self.offer(&event, part, partners.len() == part.len());
            room -= part.len();
            self.fanned += part.len();
            if part.len() == partners.len() {
                self.fanning.pop_front();
                self.fanned = 0;
            }
        }
    }

    fn offer(&mut self, event: &Arc<Event>, partners: &[PartnerNo], is_last_part: bool) {
        let now = self.now();
        if self.fanned == 0 {
            self.delivery.cells.keep(event);
            self.head = event.seq;
        }
        let offer = offer_of(event);
        let retraction = self.retractions.of(event);
        for no in partners {
            let is_urgent = offer.class() == URGENT;
            if self.behind.contains(*no) && !is_urgent {
                continue;
            }
            let Some(seat) = self.seats.get_mut(no) else { continue };
            seat.surveyed = None;
            let is_taken = seat.lane.offer(&offer, now);
            if let Some(retraction) = &retraction {
                inboxes::recall_all(&seat.registered);
                take_back_at(&mut seat.lane, &offer, retraction, now);
            }
            if is_taken || is_urgent {
                self.pump(*no);
            }
        }
        if is_last_part {
            self.retractions.forget(event);
        }
    }

    fn take_back(&mut self, partners: &[PartnerNo], retraction: &Retraction, now: Time) {
        for no in partners {
            inboxes::recall_waiting(self.seats.get(no));
            self.with_lane(*no, |lane| take_back_at(lane, &retraction.offer, retraction, now));
            self.pump(*no);
        }
    }

    /// Whether what an errand brings is for this stay of the partner; an attempt that came back is counted either way.
    fn is_staying(&mut self, no: PartnerNo, stay: u64, input: &ToLane) -> bool {
        let is_attempt = matches!(input, ToLane::Report(_) | ToLane::FallbackReport(_));
        if is_attempt {
            self.under_way -= 1;
        }
        let Some(seat) = self.seats.get_mut(&no).filter(|seat| seat.stay == stay) else { return false };
        if is_attempt {
            seat.under_way -= 1;
        }
        true
    }

    /// Takes what the lane asks for, and arms its timer.
    fn pump(&mut self, no: PartnerNo) {
        let now = self.now();
        let is_held = self.is_draining || self.is_stalled || !self.delivery.lease.holds();
        let Some(seat) = self.seats.get_mut(&no) else { return };
        let (is_held, stay) = (is_held || seat.leaving.is_some(), seat.stay);
        seat.surveyed = None;
        if self.behind.contains(no) {
            seat.lane.hear_of(self.head);
        }
        while let Some(action) = if is_held { seat.lane.take_action() } else { seat.lane.poll(now) } {
            seat.past.hear(&action, now);
            match action {
                Action::Send(attempt) => {
                    self.under_way += 1;
                    seat.under_way += 1;
                    seat.sent_at = now;
                    seat.sent_to = seat.sent_to.max(attempt.partner_seq.unwrap_or(0));
                    errands::spawn_attempt(&self.delivery, &self.handle, &seat.registered, stay, attempt);
                }
                Action::SendFallback(attempt) => {
                    self.under_way += 1;
                    seat.under_way += 1;
                    errands::spawn_fallback(&self.delivery, &self.handle, &seat.registered, stay, attempt);
                }
                Action::Record(record) => {
                    tell_record(&self.delivery, &self.happenings, &seat.registered, &record, now);
                    if let Record::Failed { open, .. } = &*record
                        && open.state == OpenState::AwaitingAck
                        && seat.registered.partner.ack.by == AckBy::File
                    {
                        self.delivery.watches.stir(no);
                    }
                    records::push(&mut self.records, no, *record);
                }
                Action::Load { after, limit } => {
                    errands::spawn_load(&self.delivery, &self.handle, (no, stay), after, limit)
                }
                Action::LoadUrgent { after, scanned_to, limit } => {
                    errands::spawn_load_urgent(&self.delivery, &self.handle, (no, stay), (after, scanned_to), limit);
                }
                Action::LoadLine { subject, test } => {
                    self.delivery.store.record(std::mem::take(&mut self.records));
                    errands::spawn_load_line(&self.delivery, &self.handle, (no, stay), subject, test);
                }
                Action::LoadOpen { after, limit } => {
                    self.delivery.store.record(std::mem::take(&mut self.records));
                    errands::spawn_load_open(&self.delivery, &self.handle, (no, stay), after, limit);
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
        if seat.leaving.is_some() && seat.under_way == 0 {
            self.let_go(no);
        }
    }

    fn flush(&mut self) {
        if !self.records.is_empty() {
            // As much room as was needed just now, so that the next ones are not moved as they become more.
            let room = Vec::with_capacity(self.records.len());
            self.delivery.store.record(std::mem::replace(&mut self.records, room));
        }
        let store = &self.delivery.store;
        let unrecorded_max = if store.records() { UNRECORDED_MAX } else { UNRECORDED_FAILING_MAX };
        if !self.is_stalled && store.unrecorded() > unrecorded_max {
            tracing::warn!("the store does not keep up or fails; nothing is sent until it has caught up");
            self.delivery.metrics.count_limit(Limit::Unrecorded);
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
